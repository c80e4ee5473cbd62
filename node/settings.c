/* SPDX-License-Identifier: Apache-2.0 */
#include "node/settings.h"

#include <errno.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "common/cleanup.h"

struct segment_row {
	uint32_t segment;
	Mcmesh__V1__SegmentConfig config; /* without static_ports */
	bool confirmed;
	UT_hash_handle hh;
};

struct member_key {
	char port[IFNAMSIZ];
	struct addr group;
};

struct member_row {
	struct member_key key;
	struct filter filter;
	bool confirmed;
	UT_hash_handle hh;
};

struct settings {
	char *node;
	struct settings_ops ops;
	void *userdata;
	struct segment_row *segments;
	struct member_row *members;
};

int settings_new(const char *node, const struct settings_ops *ops, void *userdata,
		 struct settings **ret_settings)
{
	struct settings *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->ops = *ops;
	s->userdata = userdata;
	s->node = strdup(node);
	if (!s->node) {
		free(s);
		return -ENOMEM;
	}
	*ret_settings = s;
	return 0;
}

static void member_free(struct settings *s, struct member_row *row)
{
	HASH_DEL(s->members, row);
	filter_deinit(&row->filter);
	free(row);
}

void settings_free(struct settings *s)
{
	struct segment_row *segment, *next_segment;
	struct member_row *member, *next_member;

	if (!s)
		return;
	HASH_ITER (hh, s->segments, segment, next_segment) {
		HASH_DEL(s->segments, segment);
		free(segment);
	}
	HASH_ITER (hh, s->members, member, next_member)
		member_free(s, member);
	free(s->node);
	free(s);
}

/* ---- segments --------------------------------------------------------------- */

static const struct segment_row *segment_find(const struct settings *s, uint32_t segment)
{
	struct segment_row *row;

	HASH_FIND(hh, s->segments, &segment, sizeof(segment), row);
	return row;
}

static void segment_delete(struct settings *s, struct segment_row *row)
{
	uint32_t segment = row->segment;

	HASH_DEL(s->segments, row);
	free(row);
	s->ops.segment(segment, s->userdata);
}

static int segment_change(struct settings *s, const Mcmesh__V1__ConfigChange *c)
{
	struct segment_row *row = (struct segment_row *)segment_find(s, c->segment);

	if (c->deleted) {
		if (row)
			segment_delete(s, row);
		return 0;
	}
	if (!c->config)
		return -EINVAL;
	if (!row) {
		row = calloc(1, sizeof(*row));
		if (!row)
			return -ENOMEM;
		row->segment = c->segment;
		HASH_ADD(hh, s->segments, segment, sizeof(row->segment), row);
	}
	row->config = *c->config;
	row->config.base.n_unknown_fields = 0;
	row->config.base.unknown_fields = NULL;
	row->confirmed = true;
	s->ops.segment(c->segment, s->userdata);
	return 0;
}

/* ---- static members --------------------------------------------------------- */

static int member_filter(const Mcmesh__V1__StaticPort *p, struct filter *ret_filter)
{
	_cleanup_free_ struct addr *sources = malloc((p->n_sources + 1) * sizeof(*sources));

	if (!sources)
		return -ENOMEM;
	for (size_t i = 0; i < p->n_sources; i++) {
		if (addr_from_wire(p->sources[i].data, p->sources[i].len, &sources[i]) < 0)
			return -EINVAL;
	}
	return filter_init(ret_filter,
			   p->mode == MCMESH__V1__FILTER__MODE__EXCLUDE ? FILTER_EXCLUDE
									: FILTER_INCLUDE,
			   sources, p->n_sources);
}

static int member_change(struct settings *s, const Mcmesh__V1__StaticPort *p, bool deleted)
{
	struct filter filter = FILTER_NULL;
	struct member_row *row;
	struct member_key key;
	int r;

	if (strcmp(p->node, s->node) != 0)
		return 0;
	memset(&key, 0, sizeof(key));
	if (!p->port[0] || strlen(p->port) >= sizeof(key.port) ||
	    addr_from_wire(p->group.data, p->group.len, &key.group) < 0 ||
	    !addr_is_multicast(&key.group))
		return -EINVAL;
	memcpy(key.port, p->port, strlen(p->port));
	HASH_FIND(hh, s->members, &key, sizeof(key), row);
	if (deleted) {
		if (!row)
			return 0;
		s->ops.member(key.port, &key.group, NULL, s->userdata);
		member_free(s, row);
		return 0;
	}
	r = member_filter(p, &filter);
	if (r < 0)
		return r;
	if (!row) {
		row = HASH_COUNT(s->members) < SETTINGS_MAX_STATIC ? calloc(1, sizeof(*row)) : NULL;
		if (!row) {
			filter_deinit(&filter);
			return HASH_COUNT(s->members) < SETTINGS_MAX_STATIC ? -ENOMEM : -ENOSPC;
		}
		row->key = key;
		HASH_ADD(hh, s->members, key, sizeof(row->key), row);
	}
	filter_deinit(&row->filter);
	row->filter = filter;
	row->confirmed = true;
	s->ops.member(key.port, &key.group, &row->filter, s->userdata);
	return 0;
}

/* ---- changes ---------------------------------------------------------------- */

int settings_change(struct settings *s, const Mcmesh__V1__ConfigChange *c)
{
	/* A change with static ports is about those alone. */
	if (c->config && c->config->n_static_ports) {
		for (size_t i = 0; i < c->config->n_static_ports; i++) {
			int r = member_change(s, c->config->static_ports[i], c->deleted);

			if (r < 0)
				return r;
		}
		return 0;
	}
	return segment_change(s, c);
}

static Mcmesh__V1__SegmentConfig__Switch switch_of(bool on)
{
	return on ? MCMESH__V1__SEGMENT_CONFIG__SWITCH__ON
		  : MCMESH__V1__SEGMENT_CONFIG__SWITCH__OFF;
}

int settings_seed(struct settings *s, const struct datapath_segment *segment)
{
	static const Mcmesh__V1__SegmentConfig__Unregistered unregistered[] = {
		[DATAPATH_UNREGISTERED_ROUTER_PORTS] =
			MCMESH__V1__SEGMENT_CONFIG__UNREGISTERED__ROUTER_PORTS,
		[DATAPATH_UNREGISTERED_DROP] = MCMESH__V1__SEGMENT_CONFIG__UNREGISTERED__DROP,
		[DATAPATH_UNREGISTERED_FLOOD] = MCMESH__V1__SEGMENT_CONFIG__UNREGISTERED__FLOOD,
	};
	struct segment_row *row;

	/* All as by default: a row of the mesh may say otherwise before ours is swept. */
	if (!segment->link_local_remote && !segment->routers_within && !segment->unregistered)
		return 0;
	if (segment_find(s, segment->id) || segment->unregistered >= ARRAY_SIZE(unregistered))
		return 0;
	row = calloc(1, sizeof(*row));
	if (!row)
		return -ENOMEM;
	row->segment = segment->id;
	mcmesh__v1__segment_config__init(&row->config);
	row->config.link_local_across_nodes = switch_of(segment->link_local_remote);
	row->config.router_ports_across_nodes = switch_of(!segment->routers_within);
	row->config.unregistered = unregistered[segment->unregistered];
	HASH_ADD(hh, s->segments, segment, sizeof(row->segment), row);
	return 0;
}

void settings_unconfirm(struct settings *s)
{
	for (struct segment_row *row = s->segments; row; row = row->hh.next)
		row->confirmed = false;
	for (struct member_row *row = s->members; row; row = row->hh.next)
		row->confirmed = false;
}

void settings_sweep(struct settings *s)
{
	struct segment_row *segment, *next_segment;
	struct member_row *member, *next_member;

	HASH_ITER (hh, s->segments, segment, next_segment) {
		if (!segment->confirmed)
			segment_delete(s, segment);
	}
	HASH_ITER (hh, s->members, member, next_member) {
		if (member->confirmed)
			continue;
		s->ops.member(member->key.port, &member->key.group, NULL, s->userdata);
		member_free(s, member);
	}
}

/* ---- meaning ---------------------------------------------------------------- */

static void over_switch(Mcmesh__V1__SegmentConfig__Switch from, bool *to)
{
	if (from != MCMESH__V1__SEGMENT_CONFIG__SWITCH__SWITCH_UNSPECIFIED)
		*to = from == MCMESH__V1__SEGMENT_CONFIG__SWITCH__ON;
}

static void over_number(uint32_t from, uint32_t *to)
{
	if (from)
		*to = from;
}

static void gmp_over(const Mcmesh__V1__SegmentConfig *from, struct gmp_config *to)
{
	over_switch(from->fast_leave, &to->fast_leave);
	over_switch(from->querier, &to->querier);
	over_switch(from->querier_guard, &to->querier_guard);
	over_switch(from->require_router_alert, &to->require_router_alert);
	over_switch(from->proxy, &to->proxy);
	over_number(from->query_interval_ms, &to->query_interval_ms);
	over_number(from->query_response_interval_ms, &to->query_response_interval_ms);
	over_number(from->robustness, &to->robustness);
	over_number(from->last_member_query_interval_ms, &to->last_member_query_interval_ms);
	over_number(from->last_member_query_count, &to->last_member_query_count);
	over_number(from->startup_query_interval_ms, &to->startup_query_interval_ms);
	over_number(from->startup_query_count, &to->startup_query_count);
	over_number(from->membership_interval_ms, &to->membership_interval_ms);
	over_switch(from->accept_global_mld_source, &to->accept_global_mld_source);
	over_number(from->max_groups_per_port, &to->max_groups);
	over_number(from->max_sources_per_group, &to->max_sources);
	over_number(from->max_hosts_per_group, &to->max_hosts);
	over_number(from->max_reports_per_second, &to->max_reports_per_second);
	if (from->igmp_version)
		to->igmp_version = GMP_IGMPV1 + from->igmp_version - 1;
	if (from->mld_version)
		to->mld_version = GMP_MLDV1 + from->mld_version - 1;
}

void settings_gmp(const struct settings *s, uint32_t segment, struct gmp_config *config)
{
	const struct segment_row *mesh = segment_find(s, 0), *own = segment_find(s, segment);
	struct gmp_config merged = *config;
	const char *why;

	if (mesh)
		gmp_over(&mesh->config, &merged);
	if (own)
		gmp_over(&own->config, &merged);
	if (gmp_config_validate(&merged, &why) >= 0)
		*config = merged;
}

static void datapath_over(const Mcmesh__V1__SegmentConfig *from, struct datapath_segment *to)
{
	bool across = !to->routers_within;

	over_switch(from->link_local_across_nodes, &to->link_local_remote);
	over_switch(from->router_ports_across_nodes, &across);
	to->routers_within = !across;
	switch (from->unregistered) {
	case MCMESH__V1__SEGMENT_CONFIG__UNREGISTERED__DROP:
		to->unregistered = DATAPATH_UNREGISTERED_DROP;
		break;
	case MCMESH__V1__SEGMENT_CONFIG__UNREGISTERED__ROUTER_PORTS:
		to->unregistered = DATAPATH_UNREGISTERED_ROUTER_PORTS;
		break;
	case MCMESH__V1__SEGMENT_CONFIG__UNREGISTERED__FLOOD:
		to->unregistered = DATAPATH_UNREGISTERED_FLOOD;
		break;
	default:
		break;
	}
}

void settings_datapath(const struct settings *s, struct datapath_segment *segment)
{
	const struct segment_row *mesh = segment_find(s, 0), *own = segment_find(s, segment->id);

	if (mesh)
		datapath_over(&mesh->config, segment);
	if (own)
		datapath_over(&own->config, segment);
}

void settings_members_walk(const struct settings *s, const char *port,
			   void (*fn)(const struct addr *group, const struct filter *filter,
				      void *userdata),
			   void *userdata)
{
	struct member_row *row, *next;

	HASH_ITER (hh, s->members, row, next) {
		if (strcmp(row->key.port, port) == 0)
			fn(&row->key.group, &row->filter, userdata);
	}
}
