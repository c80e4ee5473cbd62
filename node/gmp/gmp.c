/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: group management engine
 *
 * A port (querier.c) holds per-family querier state and a list of groups
 * (group.c), each the RFC 9776 section 6 state of one (port, group); MLD is the
 * same machine with other addresses. A port with a router on it (router.c) has
 * the host side as well: proxy.c tells the router what all others want, as one
 * host. wire.c and encode.c know bytes and no state. Groups are found through one
 * open-addressed table, and what is due through one heap (timer.c), so neither a
 * report nor a tick scans.
 *
 * Ownership: struct gmp owns ports, ports own groups. Thread: the caller's one.
 * The caller executes the effects; nothing here does I/O or reads a clock.
 */
#include "node/gmp/gmp.h"

#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "node/gmp/internal.h"

#define EXPIRE_MAX	   4096 /* timers a call of gmp_expire() */
#define INTERVAL_MAX_MS	   86400000u
#define DEFAULT_GROUPS	   4096
#define DEFAULT_SOURCES	   1024
#define DEFAULT_HOSTS	   256
#define DEFAULT_REPORTS_PS 10000

void gmp_config_default(struct gmp_config *ret_config)
{
	*ret_config = (struct gmp_config){
		.robustness = 2,
		.query_interval_ms = 125000,
		.query_response_interval_ms = 10000,
		.last_member_query_interval_ms = 1000,
		.igmp_version = GMP_IGMPV3,
		.mld_version = GMP_MLDV2,
		.querier = true,
		.proxy = true,
	};
}

int gmp_config_validate(const struct gmp_config *config, const char **ret_why)
{
	const char *why = NULL;

	if (config->robustness < 1 || config->robustness > 255)
		why = "robustness must be 1 to 255";
	else if (config->query_interval_ms < 1 || config->query_interval_ms > INTERVAL_MAX_MS)
		why = "the query interval must be 1 ms to a day";
	else if (config->query_response_interval_ms < 1 ||
		 config->query_response_interval_ms >= config->query_interval_ms)
		why = "the query response interval must be less than the query interval";
	else if (config->last_member_query_interval_ms < 1 ||
		 config->last_member_query_interval_ms > INTERVAL_MAX_MS)
		why = "the last member query interval must be 1 ms to a day";
	else if (config->last_member_query_count > 255 || config->startup_query_count > 255)
		why = "query counts must be at most 255";
	else if (config->igmp_version < GMP_IGMPV1 || config->igmp_version > GMP_IGMPV3)
		why = "the IGMP version must be 1, 2 or 3";
	else if (config->mld_version < GMP_MLDV1 || config->mld_version > GMP_MLDV2)
		why = "the MLD version must be 1 or 2";
	else if (!addr_is_null(&config->query_source_v6) &&
		 !addr_is_link_local_unicast(&config->query_source_v6))
		why = "the IPv6 query source must be link-local";
	if (!why)
		return 0;
	*ret_why = why;
	return -EINVAL;
}

static void resolve(struct gmp_config *c)
{
#define RESOLVE(field, value) (c->field = c->field ? c->field : (value))
	RESOLVE(startup_query_interval_ms, c->query_interval_ms / 4 ? c->query_interval_ms / 4 : 1);
	RESOLVE(startup_query_count, c->robustness);
	RESOLVE(last_member_query_count, c->robustness);
	RESOLVE(max_groups, DEFAULT_GROUPS);
	RESOLVE(max_sources, DEFAULT_SOURCES);
	RESOLVE(max_hosts, DEFAULT_HOSTS);
	RESOLVE(max_reports_per_second, DEFAULT_REPORTS_PS);
#undef RESOLVE
}

int gmp_new(struct gmp **ret_gmp)
{
	struct gmp *gmp = calloc(1, sizeof(*gmp));

	if (!gmp)
		return -ENOMEM;
	*ret_gmp = gmp;
	return 0;
}

void gmp_free(struct gmp *gmp)
{
	struct gmp_fx fx = { 0 };

	if (!gmp)
		return;
	for (size_t b = 0; b < PORT_BUCKETS; b++) {
		while (gmp->ports[b])
			gmp_port_remove(gmp, gmp->ports[b]->id, &fx);
	}
	gmp_fx_deinit(&fx);
	free(gmp->table);
	free(gmp->heap);
	free(gmp->scratch);
	free(gmp);
}

static struct port *port_find(const struct gmp *gmp, uint32_t id)
{
	struct port *p = gmp->ports[id % PORT_BUCKETS];

	while (p && p->id != id)
		p = p->next;
	return p;
}

/* ---- group table ------------------------------------------------------------- */

static size_t hash(const struct gmp *gmp, uint32_t port, const struct addr *a)
{
	uint64_t w[2], h = (uint64_t)(uintptr_t)gmp ^ port * 0x9e3779b97f4a7c15ull;

	memcpy(w, a->b, 16);
	h = (h ^ w[0]) * 0xff51afd7ed558ccdull;
	h ^= h >> 32 ^ w[1];
	/* Groups differ in their last octets, the high bits of w[1]: they must
	 * come down before a product can spread them. */
	h = (h ^ h >> 33) * 0xff51afd7ed558ccdull;
	h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53ull;
	return (size_t)(h ^ h >> 33);
}

static size_t slot(const struct gmp *gmp, uint32_t port, const struct addr *a)
{
	size_t mask = gmp->table_size - 1, i = hash(gmp, port, a) & mask;

	while (gmp->table[i] &&
	       (gmp->table[i]->port->id != port || !addr_equal(&gmp->table[i]->addr, a)))
		i = (i + 1) & mask;
	return i;
}

struct group *group_find(const struct gmp *gmp, uint32_t port, const struct addr *addr)
{
	return gmp->table_size ? gmp->table[slot(gmp, port, addr)] : NULL;
}

static int table_reserve(struct gmp *gmp)
{
	size_t old_size = gmp->table_size, size = old_size ? old_size * 2 : 64;
	struct group **old = gmp->table, **table;

	if ((gmp->n_groups + 1) * 4 <= old_size * 3)
		return 0;
	table = calloc(size, sizeof(struct group *));
	if (!table)
		return -ENOMEM;
	gmp->table = table;
	gmp->table_size = size;
	for (size_t i = 0; i < old_size; i++) {
		if (old[i])
			table[slot(gmp, old[i]->port->id, &old[i]->addr)] = old[i];
	}
	free(old);
	return 0;
}

/* Backward shift: no tombstones. */
static void table_remove(struct gmp *gmp, const struct group *g)
{
	size_t mask = gmp->table_size - 1, hole = slot(gmp, g->port->id, &g->addr), i = hole;

	while (gmp->table[i = (i + 1) & mask]) {
		size_t home = hash(gmp, gmp->table[i]->port->id, &gmp->table[i]->addr) & mask;

		if (((i - home) & mask) >= ((i - hole) & mask)) {
			gmp->table[hole] = gmp->table[i];
			hole = i;
		}
	}
	gmp->table[hole] = NULL;
}

int group_get(struct port *port, const struct addr *addr, struct group **ret_group)
{
	struct gmp *gmp = port->gmp;
	struct group *g = group_find(gmp, port->id, addr);

	if (g) {
		*ret_group = g;
		return 0;
	}
	if (port->n_groups >= port->config.max_groups) {
		count(port, GMP_C_group_limit);
		return -ENOSPC;
	}
	if (table_reserve(gmp) < 0 || timer_reserve(gmp) < 0 || !(g = calloc(1, sizeof(*g)))) {
		count(port, GMP_C_no_memory);
		return -ENOMEM;
	}
	g->port = port;
	g->addr = *addr;
	g->next = port->groups;
	if (g->next)
		g->next->prev = g;
	port->groups = g;
	port->n_groups++;
	gmp->table[slot(gmp, port->id, addr)] = g;
	gmp->n_groups++;
	*ret_group = g;
	return 0;
}

void group_free(struct group *g)
{
	struct gmp *gmp = g->port->gmp;

	table_remove(gmp, g);
	timer_remove(gmp, &g->timer);
	if (g->prev)
		g->prev->next = g->next;
	else
		g->port->groups = g->next;
	if (g->next)
		g->next->prev = g->prev;
	g->port->n_groups--;
	gmp->n_groups--;
	filter_deinit(&g->fixed);
	filter_deinit(&g->last);
	free(g->sources);
	free(g->hosts);
	free(g);
}

/* ---- ports ------------------------------------------------------------------- */

int gmp_port_add(struct gmp *gmp, uint32_t port, uint32_t tag, const struct gmp_config *config,
		 uint64_t now_ms, struct gmp_fx *fx)
{
	const char *why;
	struct port *p;

	if (gmp_config_validate(config, &why) < 0)
		return -EINVAL;
	if (port_find(gmp, port))
		return -EEXIST;
	if (timer_reserve(gmp) < 0)
		return -ENOMEM;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->gmp = gmp;
	p->id = port;
	p->tag = tag;
	p->timer.is_port = true;
	p->config = *config;
	resolve(&p->config);
	p->tokens_milli = p->config.max_reports_per_second * 1000ull;
	p->tokens_at = now_ms;
	p->next = gmp->ports[port % PORT_BUCKETS];
	gmp->ports[port % PORT_BUCKETS] = p;
	gmp->n_ports++;
	port_start(p, now_ms, fx);
	return 0;
}

void gmp_port_remove(struct gmp *gmp, uint32_t port, struct gmp_fx *fx)
{
	struct port **link = &gmp->ports[port % PORT_BUCKETS], *p;
	struct gmp_fx_item *item;

	while (*link && (*link)->id != port)
		link = &(*link)->next;
	p = *link;
	if (!p)
		return;
	while (p->groups) {
		item = fx_push(fx, GMP_FX_MEMBERSHIP, port);
		if (item)
			item->group = p->groups->addr;
		group_free(p->groups);
	}
	port_router_lost(p, fx);
	timer_remove(gmp, &p->timer);
	*link = p->next;
	gmp->n_ports--;
	free(p);
}

int gmp_port_configure(struct gmp *gmp, uint32_t port, const struct gmp_config *config,
		       uint64_t now_ms, struct gmp_fx *fx)
{
	struct port *p = port_find(gmp, port);
	bool was_querier[2];
	const char *why;

	if (!p)
		return -ENOENT;
	if (gmp_config_validate(config, &why) < 0)
		return -EINVAL;
	was_querier[0] = port_may_query(p, false);
	was_querier[1] = port_may_query(p, true);
	p->config = *config;
	resolve(&p->config);
	for (struct group *g = p->groups; g; g = g->next)
		group_cut(g, now_ms);
	port_reconfigured(p, was_querier, now_ms, fx);
	return 0;
}

/* ---- memberships that no frame brought --------------------------------------- */

/* Why no membership may be kept, as the counter of it; GMP_C_COUNT: it may. */
static enum gmp_counter group_refused(const struct addr *group, bool any_source)
{
	static const uint8_t all_nodes[16] = { 0xff, 2, [15] = 1 };

	if (!addr_is_multicast(group) ||
	    (addr_is_v4(group) ? !memcmp(group->b + 12, "\xe0\0\0\1", 4)
			       : (group->b[1] & 0x0f) < 2 || !memcmp(group->b, all_nodes, 16)))
		return GMP_C_not_multicast_group;
	return any_source && addr_is_ssm_group(group) ? GMP_C_ssm_refused : GMP_C_COUNT;
}

static bool filter_fits(const struct addr *group, const struct filter *filter)
{
	for (uint32_t i = 0; i < filter->n_sources; i++) {
		if (addr_is_v4(&filter->sources[i]) != addr_is_v4(group))
			return false;
	}
	return group_refused(group, filter_wants_any(filter)) == GMP_C_COUNT;
}

void gmp_port_restore_router(struct gmp *gmp, uint32_t port, uint64_t now_ms, struct gmp_fx *fx)
{
	struct port *p = port_find(gmp, port);

	if (p)
		port_router_restore(p, now_ms, fx);
}

int gmp_port_restore(struct gmp *gmp, uint32_t port, const struct addr *group,
		     const struct filter *filter, uint64_t now_ms, struct gmp_fx *fx)
{
	struct port *p = port_find(gmp, port);
	struct group *g;
	int r;

	if (!p)
		return -ENOENT;
	if (!filter_fits(group, filter))
		return -EINVAL;
	if (filter_is_none(filter))
		return 0;
	r = group_get(p, group, &g);
	if (r < 0)
		return r;
	r = group_restore(g, filter, now_ms);
	group_settle(g, fx);
	return r;
}

static void static_withdraw(struct group *g, struct gmp_fx *fx)
{
	if (!g || !g->is_static)
		return;
	g->is_static = false;
	g->dirty = true;
	filter_deinit(&g->fixed);
	group_settle(g, fx);
}

int gmp_port_static(struct gmp *gmp, uint32_t port, const struct addr *group,
		    const struct filter *filter, uint64_t now_ms, struct gmp_fx *fx)
{
	struct port *p = port_find(gmp, port);
	_cleanup_(filter_deinit)
	struct filter copy = FILTER_NULL;
	struct group *g;
	int r;

	if (!p)
		return -ENOENT;
	if (!addr_is_multicast(group))
		return -EINVAL;
	if (!filter || filter_is_none(filter)) {
		static_withdraw(group_find(gmp, port, group), fx);
		return 0;
	}
	if (!filter_fits(group, filter))
		return -EINVAL;
	r = filter_copy(&copy, filter);
	if (r == 0)
		r = group_get(p, group, &g);
	if (r < 0)
		return r;
	group_remember(g);
	filter_deinit(&g->fixed);
	g->fixed = copy;
	copy = FILTER_NULL;
	g->is_static = g->dirty = true;
	group_settle(g, fx);
	return 0;
}

void gmp_port_query(struct gmp *gmp, uint32_t port, uint64_t now_ms, struct gmp_fx *fx)
{
	struct port *p = port_find(gmp, port);

	if (p)
		port_start(p, now_ms, fx);
}

/* ---- input ------------------------------------------------------------------- */

static bool take_token(struct port *p, uint64_t now)
{
	uint64_t rate = p->config.max_reports_per_second, cap = rate * 1000;
	uint64_t gone = now > p->tokens_at ? now - p->tokens_at : 0;

	p->tokens_milli = gone >= 1000 ? cap : p->tokens_milli + gone * rate;
	if (p->tokens_milli > cap)
		p->tokens_milli = cap;
	if (gone)
		p->tokens_at = now;
	if (p->tokens_milli < 1000)
		return false;
	p->tokens_milli -= 1000;
	return true;
}

static bool may_track(struct port *p, const struct wire_message *m, const struct addr *group,
		      unsigned int type)
{
	bool any_source = m->kind != WIRE_REPORT_V3 || type == WIRE_IS_EX || type == WIRE_TO_EX;
	enum gmp_counter why = group_refused(group, any_source);

	if (type < WIRE_IS_IN || type > WIRE_BLOCK)
		why = GMP_C_unknown_record;
	else if (m->v6 == addr_is_v4(group)) /* ::ffff:224.0.0.0/100 is no MLD group */
		why = GMP_C_not_multicast_group;
	if (why == GMP_C_COUNT)
		return true;
	count(p, why);
	return false;
}

static void report_input(struct port *p, const struct wire_message *m, uint64_t now,
			 struct gmp_fx *fx)
{
	const uint8_t *cursor = m->body;
	enum gmp_version version = m->v6 ? GMP_MLDV1 : GMP_IGMPV2;
	unsigned int type = m->kind == WIRE_LEAVE ? WIRE_TO_IN : WIRE_IS_EX;

	if (m->kind != WIRE_REPORT_V3) {
		if (m->kind == WIRE_REPORT_V1)
			version = GMP_IGMPV1;
		if (may_track(p, m, &m->group, type))
			group_record(p, &m->group, type, m->v6, NULL, 0, &m->source, version, now,
				     fx);
		return;
	}
	version = m->v6 ? GMP_MLDV2 : GMP_IGMPV3;
	for (uint16_t i = 0; i < m->n; i++) {
		struct wire_record rec;

		wire_record_next(m, &cursor, &rec);
		if (may_track(p, m, &rec.group, rec.type))
			group_record(p, &rec.group, rec.type, m->v6, rec.sources, rec.n_sources,
				     &m->source, version, now, fx);
	}
}

/* A router's query, to the hosts of the segment's other ports that are to hear it. */
static void query_pass(struct port *from, const struct wire_message *m, const uint8_t *frame,
		       size_t len, uint64_t now, struct gmp_fx *fx)
{
	struct gmp_fx_item *item;
	bool passed = false;

	/* RFC 4541 2.1.1 (4): 0.0.0.0 is no router's, and asks only its own port. */
	if (addr_is_unspecified(&m->source) || from->config.router == GMP_ROUTER_NEVER)
		return;
	for (size_t b = 0; b < PORT_BUCKETS; b++) {
		for (struct port *p = from->gmp->ports[b]; p; p = p->next) {
			if (p == from || p->tag != from->tag || !port_takes_queries(p, m->v6, now))
				continue;
			if (!passed && !take_token(from, now)) {
				count(from, GMP_C_rate_limited);
				return;
			}
			passed = true;
			port_query_passed(p, m, now);
		}
	}
	if (!passed)
		return;
	count(from, GMP_C_queries_passed);
	item = fx_frame(fx, GMP_FX_PASS, from->id, frame, len);
	if (item)
		item->v6 = m->v6;
}

void gmp_input(struct gmp *gmp, uint32_t port, const uint8_t *frame, size_t len, uint64_t now_ms,
	       struct gmp_fx *fx)
{
	struct port *p = port_find(gmp, port);
	enum gmp_counter why;
	struct wire_message m;

	if (!p)
		return;
	if (p->timer.index && p->timer.due <= now_ms)
		port_expire(p, now_ms, fx);
	if (wire_parse(frame, len, &m, &why) < 0) {
		count(p, why);
		/* RFC 4541 2.1.1 (3). The kernel hands on no ICMPv6 of unknown type. */
		if (why == GMP_C_unknown_type && frame[12] == 0x08 && take_token(p, now_ms))
			fx_frame(fx, GMP_FX_FLOOD, port, frame, len);
		return;
	}
	/* IGMPv1 (RFC 1112) has no Router Alert to require. */
	if (p->config.require_router_alert && !m.router_alert && m.kind != WIRE_REPORT_V1 &&
	    !(m.kind == WIRE_QUERY && m.version == GMP_IGMPV1)) {
		count(p, GMP_C_no_router_alert);
		return;
	}
	if (m.kind == WIRE_QUERY) {
		if (port_query_input(p, &m, now_ms, fx))
			query_pass(p, &m, frame, len, now_ms, fx);
		return;
	}
	if (m.v6 && !addr_is_unspecified(&m.source) && !addr_is_link_local_unicast(&m.source) &&
	    !p->config.accept_global_mld_source) {
		count(p, GMP_C_bad_source);
		return;
	}
	if (!take_token(p, now_ms)) {
		count(p, GMP_C_rate_limited);
		return;
	}
	count(p, GMP_C_reports_accepted);
	if (gmp->n_takers > p->takes_reports)
		fx_frame(fx, GMP_FX_REPORT, port, frame, len);
	report_input(p, &m, now_ms, fx);
}

void gmp_expire(struct gmp *gmp, uint64_t now_ms, struct gmp_fx *fx)
{
	for (int i = 0; i < EXPIRE_MAX && gmp_next_ms(gmp) <= now_ms; i++) {
		struct timer *t = gmp->heap[1];

		/* The timer is the first member of both. */
		if (t->is_port)
			port_expire((struct port *)t, now_ms, fx);
		else
			group_expire((struct group *)t, now_ms, fx);
	}
}

uint64_t gmp_next_ms(const struct gmp *gmp)
{
	return gmp->heap_n ? gmp->heap[1]->due : UINT64_MAX;
}

size_t gmp_port_membership_count(const struct gmp *gmp, uint32_t port)
{
	const struct port *p = port_find(gmp, port);

	return p ? p->n_groups : 0;
}

bool gmp_port_is_router(const struct gmp *gmp, uint32_t port)
{
	const struct port *p = port_find(gmp, port);

	return p && p->is_router;
}

bool gmp_port_takes_reports(const struct gmp *gmp, uint32_t port)
{
	const struct port *p = port_find(gmp, port);

	return p && p->takes_reports;
}

bool gmp_port_takes_queries(const struct gmp *gmp, uint32_t port, bool v6, uint64_t now_ms)
{
	const struct port *p = port_find(gmp, port);

	return p && port_takes_queries(p, v6, now_ms);
}

bool gmp_port_is_proxied(const struct gmp *gmp, uint32_t port)
{
	const struct port *p = port_find(gmp, port);

	return p && port_is_proxied(p);
}

int gmp_port_want(struct gmp *gmp, uint32_t port, const struct addr *group,
		  const struct filter *filter, uint64_t now_ms)
{
	struct port *p = port_find(gmp, port);

	return p ? port_proxy_want(p, group, filter, now_ms) : -ENOENT;
}

uint64_t gmp_port_counter(const struct gmp *gmp, uint32_t port, enum gmp_counter c)
{
	const struct port *p = port_find(gmp, port);

	return p && c < GMP_C_COUNT ? p->counters[c] : 0;
}
