/* SPDX-License-Identifier: Apache-2.0 */
#include "controller/config_segments.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "controller/plan/report.h"
#include "mcmesh/v1/node.pb-c.h"

/* RFC 9776 section 4.1: what the codes of queries can say. */
#define QUERY_INTERVAL_MS_MAX	 31744000
#define RESPONSE_INTERVAL_MS_MAX 3174400
#define ROBUSTNESS_MAX		 7
#define INTERVAL_MS_MIN		 100
#define LIMIT_MAX		 16777216
/* RFC 9776 section 8: what a file that names only one of two is checked against. */
#define QUERY_INTERVAL_MS    125000
#define RESPONSE_INTERVAL_MS 10000
/* Robustness times the query interval and two response intervals, at most. */
#define MEMBERSHIP_INTERVAL_MS_MAX \
	(ROBUSTNESS_MAX * QUERY_INTERVAL_MS_MAX + 2 * RESPONSE_INTERVAL_MS_MAX)
#define QUERY_COUNT_MAX 255

#define ON  MCMESH__V1__SEGMENT_CONFIG__SWITCH__ON
#define OFF MCMESH__V1__SEGMENT_CONFIG__SWITCH__OFF

static const cyaml_strval_t switches[] = {
	{ "on", ON },	{ "yes", ON }, { "true", ON },
	{ "off", OFF }, { "no", OFF }, { "false", OFF },
};

static const cyaml_strval_t unregistered[] = {
	{ "drop", MCMESH__V1__SEGMENT_CONFIG__UNREGISTERED__DROP },
	{ "router-ports", MCMESH__V1__SEGMENT_CONFIG__UNREGISTERED__ROUTER_PORTS },
	{ "flood", MCMESH__V1__SEGMENT_CONFIG__UNREGISTERED__FLOOD },
};

#define STRICT (CYAML_FLAG_OPTIONAL | CYAML_FLAG_STRICT)
#define SWITCH(type, path, member) \
	CYAML_FIELD_ENUM(#member, STRICT, type, path member, switches, ARRAY_SIZE(switches))
#define NUMBER(type, path, member) CYAML_FIELD_UINT(#member, CYAML_FLAG_OPTIONAL, type, path member)
#define SETTINGS(type, path)                                                                    \
	SWITCH(type, path, link_local_across_nodes), SWITCH(type, path, fast_leave),            \
		SWITCH(type, path, querier), SWITCH(type, path, querier_guard),                 \
		SWITCH(type, path, require_router_alert),                                       \
		SWITCH(type, path, accept_global_mld_source),                                   \
		SWITCH(type, path, router_ports_across_nodes), SWITCH(type, path, proxy),       \
		CYAML_FIELD_ENUM("unregistered", STRICT, type, path unregistered, unregistered, \
				 ARRAY_SIZE(unregistered)),                                     \
		NUMBER(type, path, query_interval_ms),                                          \
		NUMBER(type, path, query_response_interval_ms), NUMBER(type, path, robustness), \
		NUMBER(type, path, last_member_query_interval_ms),                              \
		NUMBER(type, path, max_groups_per_port),                                        \
		NUMBER(type, path, max_sources_per_group),                                      \
		NUMBER(type, path, max_hosts_per_group),                                        \
		NUMBER(type, path, max_reports_per_second), NUMBER(type, path, igmp_version),   \
		NUMBER(type, path, mld_version), NUMBER(type, path, membership_interval_ms),    \
		NUMBER(type, path, last_member_query_count),                                    \
		NUMBER(type, path, startup_query_interval_ms),                                  \
		NUMBER(type, path, startup_query_count)

#define NOTHING
const cyaml_schema_field_t config_defaults_fields[] = {
	SETTINGS(struct log_config, NOTHING),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t segment_fields[] = {
	CYAML_FIELD_UINT("segment", CYAML_FLAG_DEFAULT, struct file_segment, segment),
	SETTINGS(struct file_segment, config.),
	CYAML_FIELD_END,
};

const cyaml_schema_value_t config_segment_value = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct file_segment, segment_fields),
};

struct range {
	const char *name;
	uint32_t value, min, max;
};

static int check(const char *path, uint32_t segment, const struct log_config *c,
		 const struct log_config *above, char why[CONFIG_WHY_MAX])
{
	const struct range ranges[] = {
		{ "query_interval_ms", c->query_interval_ms, 1000, QUERY_INTERVAL_MS_MAX },
		{ "query_response_interval_ms", c->query_response_interval_ms, INTERVAL_MS_MIN,
		  RESPONSE_INTERVAL_MS_MAX },
		{ "robustness", c->robustness, 1, ROBUSTNESS_MAX },
		{ "last_member_query_interval_ms", c->last_member_query_interval_ms,
		  INTERVAL_MS_MIN, RESPONSE_INTERVAL_MS_MAX },
		{ "max_groups_per_port", c->max_groups_per_port, 1, LIMIT_MAX },
		{ "max_sources_per_group", c->max_sources_per_group, 1, LIMIT_MAX },
		{ "max_hosts_per_group", c->max_hosts_per_group, 1, LIMIT_MAX },
		{ "max_reports_per_second", c->max_reports_per_second, 1, LIMIT_MAX },
		{ "igmp_version", c->igmp_version, 1, 3 },
		{ "mld_version", c->mld_version, 1, 2 },
		{ "membership_interval_ms", c->membership_interval_ms, 1000,
		  MEMBERSHIP_INTERVAL_MS_MAX },
		{ "last_member_query_count", c->last_member_query_count, 1, QUERY_COUNT_MAX },
		{ "startup_query_interval_ms", c->startup_query_interval_ms, INTERVAL_MS_MIN,
		  QUERY_INTERVAL_MS_MAX },
		{ "startup_query_count", c->startup_query_count, 1, QUERY_COUNT_MAX },
	};
	uint32_t interval = c->query_interval_ms ?: above->query_interval_ms ?: QUERY_INTERVAL_MS;
	uint32_t response = c->query_response_interval_ms ?:
			    above->query_response_interval_ms ?:
			    RESPONSE_INTERVAL_MS;
	uint32_t membership = c->membership_interval_ms ?: above->membership_interval_ms;

	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		const struct range *r = &ranges[i];

		if (r->value && (r->value < r->min || r->value > r->max)) {
			snprintf(why, CONFIG_WHY_MAX,
				 "%s: %s of segment %u is %u, but must be %u to %u", path, r->name,
				 segment, r->value, r->min, r->max);
			return -EINVAL;
		}
	}
	if (response >= interval) {
		snprintf(why, CONFIG_WHY_MAX,
			 "%s: query_response_interval_ms %u of segment %u is not less than its "
			 "query_interval_ms %u",
			 path, response, segment, interval);
		return -EINVAL;
	}
	if (membership && membership <= interval + response) {
		snprintf(why, CONFIG_WHY_MAX,
			 "%s: membership_interval_ms %u of segment %u would end members before "
			 "they are asked again: give more than %u",
			 path, membership, segment, interval + response);
		return -EINVAL;
	}
	return 0;
}

static int segment_take(const char *path, const struct file_segment *s,
			const struct log_config *defaults, struct controller_config *config,
			char why[CONFIG_WHY_MAX])
{
	int r;

	if (s->segment < 1 || s->segment > REPORT_SEGMENT_MAX) {
		snprintf(why, CONFIG_WHY_MAX, "%s: segments has segment %u, but must be 1 to %u",
			 path, s->segment, REPORT_SEGMENT_MAX);
		return -EINVAL;
	}
	r = check(path, s->segment, &s->config, defaults, why);
	if (r < 0)
		return r;
	r = controller_config_add_segment(config, s->segment, &s->config);
	if (r == -EEXIST)
		snprintf(why, CONFIG_WHY_MAX, "%s: segments has segment %u twice", path,
			 s->segment);
	return r == -EEXIST ? -EINVAL : r;
}

int config_segments_take(const char *path, const struct log_config *defaults,
			 const struct file_segment *segments, unsigned int n,
			 struct controller_config *config, char why[CONFIG_WHY_MAX])
{
	static const struct log_config none;
	int r = 0;

	if (defaults) {
		r = check(path, 0, defaults, &none, why);
		if (r == 0)
			r = controller_config_add_segment(config, 0, defaults);
	}
	for (unsigned int i = 0; r == 0 && i < n; i++)
		r = segment_take(path, &segments[i], defaults ? defaults : &none, config, why);
	return r;
}
