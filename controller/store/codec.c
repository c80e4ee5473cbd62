/* SPDX-License-Identifier: Apache-2.0 */
#include "controller/store/codec.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

#define VERSION 1
#define PAIR	5 /* tag and value */

#define SETTING(tag, name)                                    \
	{                                                     \
		tag, #name, offsetof(struct log_config, name) \
	}

const struct store_setting store_settings[] = {
	SETTING(1, link_local_across_nodes),
	SETTING(2, unregistered),
	SETTING(3, fast_leave),
	SETTING(4, querier),
	SETTING(5, querier_guard),
	SETTING(6, require_router_alert),
	SETTING(7, query_interval_ms),
	SETTING(8, query_response_interval_ms),
	SETTING(9, robustness),
	SETTING(10, last_member_query_interval_ms),
	SETTING(11, max_groups_per_port),
	SETTING(12, max_sources_per_group),
	SETTING(13, max_hosts_per_group),
	SETTING(14, max_reports_per_second),
	SETTING(16, router_ports_across_nodes),
	SETTING(17, proxy),
	SETTING(18, igmp_version),
	SETTING(19, mld_version),
	SETTING(20, membership_interval_ms),
	SETTING(21, last_member_query_count),
	SETTING(22, startup_query_interval_ms),
	SETTING(23, startup_query_count),
	SETTING(24, accept_global_mld_source),
};
const size_t store_n_settings = ARRAY_SIZE(store_settings);

static_assert(sizeof(struct log_config) == ARRAY_SIZE(store_settings) * sizeof(uint32_t),
	      "a setting that is not in this table would be lost by a restart");

uint32_t *store_setting_of(struct log_config *config, const struct store_setting *setting)
{
	return (uint32_t *)((char *)config + setting->offset);
}

static uint32_t value_of(const struct log_config *config, const struct store_setting *setting)
{
	return *(const uint32_t *)((const char *)config + setting->offset);
}

size_t store_encoded_size(const struct log_change *change)
{
	size_t size = 1;

	if (change->deleted)
		return 0;
	if (change->kind == LOG_NODE)
		return size + sizeof(change->vtep);
	if (change->kind != LOG_CONFIG)
		return size + 1 + change->filter.n_sources * sizeof(struct addr);
	for (size_t i = 0; i < store_n_settings; i++)
		size += value_of(change->config, &store_settings[i]) ? PAIR : 0;
	return size;
}

static void encode_config(const struct log_config *config, uint8_t *p)
{
	for (size_t i = 0; i < store_n_settings; i++) {
		uint32_t v = value_of(config, &store_settings[i]), be = htobe32(v);

		if (!v)
			continue;
		*p++ = store_settings[i].tag;
		memcpy(p, &be, sizeof(be));
		p += sizeof(be);
	}
}

void store_encode(const struct log_change *change, uint8_t *ret_data)
{
	uint8_t *p = ret_data;

	if (change->deleted)
		return;
	*p++ = VERSION;
	if (change->kind == LOG_NODE) {
		memcpy(p, &change->vtep, sizeof(change->vtep));
	} else if (change->kind == LOG_CONFIG) {
		encode_config(change->config, p);
	} else {
		*p++ = (uint8_t)change->filter.mode;
		if (change->filter.n_sources)
			memcpy(p, change->filter.sources,
			       change->filter.n_sources * sizeof(struct addr));
	}
}

static int decode_filter(const uint8_t *data, size_t len, struct filter *ret_filter)
{
	_cleanup_free_ struct addr *sources = NULL;
	size_t n = len ? (len - 1) / sizeof(*sources) : 0;

	if (len != 1 + n * sizeof(*sources) || data[0] > FILTER_EXCLUDE)
		return -EBADMSG;
	if (n) {
		sources = malloc(n * sizeof(*sources));
		if (!sources)
			return -ENOMEM;
		memcpy(sources, data + 1, n * sizeof(*sources));
	}
	for (size_t i = 1; i < n; i++) {
		if (addr_cmp(&sources[i - 1], &sources[i]) >= 0)
			return -EBADMSG;
	}
	return filter_init(ret_filter, data[0], sources, n);
}

static const struct store_setting *setting_find(uint8_t tag)
{
	for (size_t i = 0; i < store_n_settings; i++) {
		if (store_settings[i].tag == tag)
			return &store_settings[i];
	}
	return NULL;
}

static int decode_config(const uint8_t *data, size_t len, struct log_config *ret_config)
{
	struct log_config config = { 0 };
	uint8_t last = 0;
	uint32_t be;

	if (len % PAIR)
		return -EBADMSG;
	for (; len; data += PAIR, len -= PAIR) {
		const struct store_setting *setting = setting_find(data[0]);

		memcpy(&be, data + 1, sizeof(be));
		if (data[0] <= last || !be)
			return -EBADMSG;
		if (!setting)
			return -ENOTSUP;
		*store_setting_of(&config, setting) = be32toh(be);
		last = data[0];
	}
	*ret_config = config;
	return 0;
}

int store_decode(const uint8_t *data, size_t len, struct log_change *change,
		 struct log_config *config)
{
	int r;

	if (change->deleted)
		return len ? -EBADMSG : 0;
	if (!len || !data[0])
		return -EBADMSG;
	if (data[0] > VERSION)
		return -ENOTSUP;
	data++;
	len--;
	switch (change->kind) {
	case LOG_NODE:
		if (len != sizeof(change->vtep))
			return -EBADMSG;
		memcpy(&change->vtep, data, sizeof(change->vtep));
		return 0;
	case LOG_MEMBER:
	case LOG_STATIC:
		return decode_filter(data, len, &change->filter);
	case LOG_CONFIG:
		r = decode_config(data, len, config);
		if (r == 0)
			change->config = config;
		return r;
	}
	return -EBADMSG;
}
