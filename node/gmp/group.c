/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "node/gmp/internal.h"

static const char *const mode_names[] = { "INCLUDE", "EXCLUDE" };

static bool is_v6(const struct group *g)
{
	return !addr_is_v4(&g->addr);
}

/* First index whose address is not below a. */
static uint32_t source_index(const struct group *g, const struct addr *a)
{
	uint32_t lo = 0, hi = g->n_sources;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (addr_cmp(&g->sources[mid].addr, a) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct source *group_source(struct group *g, const struct addr *a)
{
	uint32_t i = source_index(g, a);

	return i < g->n_sources && addr_equal(&g->sources[i].addr, a) ? &g->sources[i] : NULL;
}

int group_reserve(struct group *g, size_t extra)
{
	uint32_t max = g->port->config.max_sources;
	size_t need = g->n_sources + extra;
	struct source *sources;

	if (need > max)
		need = max > g->n_sources ? max : g->n_sources;
	if (need <= g->cap_sources)
		return 0;
	if (need < g->cap_sources * 2u)
		need = g->cap_sources * 2u;
	sources = realloc(g->sources, need * sizeof(*sources));
	if (!sources)
		return -ENOMEM;
	g->sources = sources;
	g->cap_sources = (uint32_t)need;
	return 0;
}

/* After group_reserve(). NULL: the limit. */
struct source *group_insert(struct group *g, const struct addr *a, uint64_t expires)
{
	uint32_t i = source_index(g, a);

	if (g->n_sources >= g->port->config.max_sources || g->n_sources >= g->cap_sources) {
		count(g->port, GMP_C_source_limit);
		return NULL;
	}
	memmove(&g->sources[i + 1], &g->sources[i], (g->n_sources - i) * sizeof(*g->sources));
	g->sources[i] = (struct source){ .addr = *a, .expires = expires };
	g->n_sources++;
	return &g->sources[i];
}

static int addr_compare(const void *a, const void *b)
{
	return addr_cmp(a, b);
}

static bool listed(const struct addr *set, size_t n, const struct addr *a)
{
	return n && bsearch(a, set, n, sizeof(*set), addr_compare);
}

static void set_mode(struct group *g, enum filter_mode mode, const char *event, struct gmp_fx *fx)
{
	struct gmp_fx_item *item;

	if (g->mode == mode)
		return;
	item = fx_push(fx, GMP_FX_TRACE, g->port->id);
	if (item) {
		item->group = g->addr;
		item->trace_old = mode_names[g->mode];
		item->trace_new = mode_names[mode];
		item->trace_event = event;
	}
	g->mode = mode;
	g->dirty = true;
}

static uint64_t group_next(const struct group *g)
{
	uint64_t next = g->mode == FILTER_EXCLUDE ? g->expires : UINT64_MAX;

	for (uint32_t i = 0; i < g->n_sources; i++) {
		if (g->sources[i].expires && g->sources[i].expires < next)
			next = g->sources[i].expires;
	}
	return g->retransmit_at && g->retransmit_at < next ? g->retransmit_at : next;
}

/* Tells what changed; frees what is empty. g may be gone after this. */
void group_settle(struct group *g, uint64_t now, struct gmp_fx *fx)
{
	struct filter view = FILTER_NULL;
	bool changed = g->dirty;
	struct gmp_fx_item *item;

	if (g->dirty && g->is_static && group_view(g, &view) == 0) {
		changed = !filter_equal(&view, &g->last);
		filter_deinit(&g->last);
		g->last = view;
	}
	g->dirty = false;
	if (changed) {
		item = fx_push(fx, GMP_FX_MEMBERSHIP, g->port->id);
		if (item)
			item->group = g->addr;
	}
	if (g->mode == FILTER_INCLUDE && !g->n_sources) {
		g->retransmit_at = 0;
		g->n_hosts = 0;
		g->hosts_unknown = false;
		if (!g->is_static) {
			group_free(g);
			return;
		}
	}
}

/* ---- last-member queries (6.6.3) -------------------------------------------- */

static bool s_flag_of(const struct group *g, uint64_t expires, uint64_t now)
{
	return expires > now + port_last_member_ms(g->port);
}

static void query_group(struct group *g, uint64_t now, struct gmp_fx *fx)
{
	port_send_query(g->port, is_v6(g), &g->addr, NULL, 0, s_flag_of(g, g->expires, now), now,
			fx);
	g->retransmit--;
}

/* Sources with `left` copies to come (0: any), in up to two messages. */
static void query_sources(struct group *g, uint32_t left, uint64_t now, struct gmp_fx *fx)
{
	struct addr *list = g->n_sources ? malloc(g->n_sources * sizeof(*list)) : NULL;

	for (int s = 1; list && s >= 0; s--) {
		size_t n = 0;

		for (uint32_t i = 0; i < g->n_sources; i++) {
			struct source *src = &g->sources[i];

			if (!src->retransmit || (left && src->retransmit != left) ||
			    s_flag_of(g, src->expires, now) != s)
				continue;
			list[n++] = src->addr;
		}
		if (n)
			port_send_query(g->port, is_v6(g), &g->addr, list, n, s, now, fx);
	}
	for (uint32_t i = 0; i < g->n_sources; i++) {
		if (g->sources[i].retransmit && (!left || g->sources[i].retransmit == left))
			g->sources[i].retransmit--;
	}
	free(list);
}

static void schedule_retransmit(struct group *g, uint64_t now)
{
	bool more = g->retransmit > 0;

	for (uint32_t i = 0; !more && i < g->n_sources; i++)
		more = g->sources[i].retransmit > 0;
	if (!more)
		g->retransmit_at = 0;
	else if (g->retransmit_at <= now)
		g->retransmit_at = now + g->port->config.last_member_query_interval_ms;
}

static void start_group_query(struct group *g, uint64_t now, struct gmp_fx *fx)
{
	if (!port_is_querier(g->port, is_v6(g), now))
		return;
	if (g->retransmit && !s_flag_of(g, g->expires, now))
		return; /* under way */
	if (s_flag_of(g, g->expires, now))
		g->expires = now + port_last_member_ms(g->port);
	g->retransmit = g->port->config.last_member_query_count;
	query_group(g, now, fx);
	schedule_retransmit(g, now);
}

/* Q(G, those of the running sources whose membership in `set` is `in`). */
static void start_source_query(struct group *g, const struct addr *set, size_t n, bool in,
			       uint64_t now, struct gmp_fx *fx)
{
	uint32_t copies = g->port->config.last_member_query_count;
	bool any = false;

	if (!port_is_querier(g->port, is_v6(g), now))
		return;
	for (uint32_t i = 0; i < g->n_sources; i++) {
		struct source *s = &g->sources[i];

		if (!s->expires || listed(set, n, &s->addr) != in ||
		    !s_flag_of(g, s->expires, now))
			continue;
		s->expires = now + port_last_member_ms(g->port);
		s->retransmit = copies;
		any = true;
	}
	if (!any)
		return;
	query_sources(g, copies, now, fx);
	schedule_retransmit(g, now);
}

/* 6.6.1: someone else's query, without S. */
void group_lower(struct group *g, const struct wire_message *m, uint64_t now)
{
	uint64_t limit = now + port_last_member_ms(g->port);

	if (!m->n && g->mode == FILTER_EXCLUDE && g->expires > limit)
		g->expires = limit;
	for (uint16_t i = 0; i < m->n; i++) {
		struct addr a = wire_source(m->v6, m->body, i);
		struct source *s = group_source(g, &a);

		if (s && s->expires > limit)
			s->expires = limit;
	}
	timer_lower(g->port->gmp, &g->timer, group_next(g));
}

/* ---- the state table (6.4.1, 6.4.2) ----------------------------------------- */

static void add_sources(struct group *g, const struct addr *a, size_t n, uint64_t expires)
{
	for (size_t i = 0; i < n; i++) {
		struct source *s = group_source(g, &a[i]);

		if (s) {
			g->dirty |= !s->expires;
			s->expires = expires;
		} else if (group_insert(g, &a[i], expires)) {
			g->dirty |= g->mode == FILTER_INCLUDE;
		}
	}
}

/* Keeps the sources of the set (in) or those outside it. */
static void keep_sources(struct group *g, const struct addr *set, size_t n, bool in)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < g->n_sources; i++) {
		if (listed(set, n, &g->sources[i].addr) == in)
			g->sources[kept++] = g->sources[i];
		else
			g->dirty |= g->mode == FILTER_INCLUDE || !g->sources[i].expires;
	}
	g->n_sources = kept;
}

static void to_exclude(struct group *g, const struct addr *a, size_t n, uint64_t fresh,
		       uint64_t gmi, struct gmp_fx *fx)
{
	bool was_include = g->mode == FILTER_INCLUDE;

	keep_sources(g, a, n, true);
	set_mode(g, FILTER_EXCLUDE, "exclude report", fx);
	for (size_t i = 0; i < n; i++) {
		if (!group_source(g, &a[i]))
			group_insert(g, &a[i], was_include ? 0 : fresh);
	}
	g->expires = gmi;
}

static void block(struct group *g, const struct addr *a, size_t n, uint64_t now, struct gmp_fx *fx)
{
	for (size_t i = 0; g->mode == FILTER_EXCLUDE && i < n; i++) {
		if (!group_source(g, &a[i]))
			group_insert(g, &a[i], g->expires);
	}
	start_source_query(g, a, n, true, now, fx);
}

static void to_include(struct group *g, const struct addr *a, size_t n, uint64_t now,
		       uint64_t gmi, struct gmp_fx *fx)
{
	add_sources(g, a, n, gmi);
	start_source_query(g, a, n, false, now, fx);
	if (g->mode == FILTER_EXCLUDE)
		start_group_query(g, now, fx);
}

static void leave_now(struct group *g, unsigned int type, const struct addr *a, size_t n,
		      uint64_t gmi, struct gmp_fx *fx)
{
	if (type == WIRE_TO_IN) {
		keep_sources(g, a, n, true);
		for (uint32_t i = 0; i < g->n_sources; i++)
			g->sources[i].expires = gmi;
		set_mode(g, FILTER_INCLUDE, "fast leave", fx);
		add_sources(g, a, n, gmi);
		g->retransmit = 0;
	} else if (g->mode == FILTER_INCLUDE) {
		keep_sources(g, a, n, false);
	} else {
		for (size_t i = 0; i < n; i++) {
			struct source *s = group_source(g, &a[i]);

			if (s ? s->expires != 0 : group_insert(g, &a[i], 0) != NULL) {
				g->dirty = true;
				if (s)
					s->expires = 0, s->retransmit = 0;
			}
		}
	}
}

/* ---- explicit host tracking -------------------------------------------------- */

static void hosts_prune(struct group *g, uint64_t now)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < g->n_hosts; i++) {
		if (g->hosts[i].expires > now)
			g->hosts[kept++] = g->hosts[i];
	}
	g->n_hosts = kept;
}

static uint32_t host_index(const struct group *g, const struct addr *a, bool *ret_found)
{
	uint32_t lo = 0, hi = g->n_hosts;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (addr_cmp(&g->hosts[mid].addr, a) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	*ret_found = lo < g->n_hosts && addr_equal(&g->hosts[lo].addr, a);
	return lo;
}

static void host_seen(struct group *g, const struct addr *a, uint64_t expires)
{
	struct host *hosts = g->hosts;
	bool found;
	uint32_t i = host_index(g, a, &found), cap = g->cap_hosts;

	if (found) {
		if (hosts[i].expires != UINT64_MAX)
			hosts[i].expires = expires;
		return;
	}
	if (g->n_hosts == cap && g->n_hosts < g->port->config.max_hosts) {
		cap = cap ? cap * 2 : 1;
		hosts = realloc(g->hosts, cap * sizeof(*hosts));
		if (hosts) {
			g->hosts = hosts;
			g->cap_hosts = cap;
		}
	}
	if (!hosts || g->n_hosts == g->cap_hosts || g->n_hosts >= g->port->config.max_hosts) {
		count(g->port, GMP_C_host_limit);
		g->hosts_unknown = true; /* one we cannot see may still listen */
		return;
	}
	memmove(&hosts[i + 1], &hosts[i], (g->n_hosts - i) * sizeof(*hosts));
	hosts[i] = (struct host){ *a, expires };
	g->n_hosts++;
}

/* Is `a` the only host? Hosts that send from 0.0.0.0 cannot be told apart. */
static bool host_alone(struct group *g, const struct addr *a, uint64_t now)
{
	hosts_prune(g, now);
	return g->port->config.fast_leave && !g->hosts_unknown && g->n_hosts == 1 &&
	       !addr_is_unspecified(a) && addr_equal(&g->hosts[0].addr, a);
}

static void host_gone(struct group *g, const struct addr *a)
{
	bool found;
	uint32_t i = host_index(g, a, &found);

	if (!found)
		return;
	g->n_hosts--;
	memmove(&g->hosts[i], &g->hosts[i + 1], (g->n_hosts - i) * sizeof(*g->hosts));
}

/* ---- input ------------------------------------------------------------------- */

/* Reads the sources into the engine's scratch, sorted and unique. */
static int read_sources(struct gmp *gmp, bool v6, const uint8_t *sources, size_t *n)
{
	size_t used = 0;

	if (*n > gmp->scratch_cap) {
		struct addr *scratch = realloc(gmp->scratch, *n * sizeof(*scratch));

		if (!scratch)
			return -ENOMEM;
		gmp->scratch = scratch;
		gmp->scratch_cap = *n;
	}
	for (size_t i = 0; i < *n; i++)
		gmp->scratch[i] = wire_source(v6, sources, i);
	if (*n > 1)
		qsort(gmp->scratch, *n, sizeof(*gmp->scratch), addr_compare);
	for (size_t i = 0; i < *n; i++) {
		if (!used || !addr_equal(&gmp->scratch[used - 1], &gmp->scratch[i]))
			gmp->scratch[used++] = gmp->scratch[i];
	}
	*n = used;
	return 0;
}

/* 7.3.2: what an older host on the link cannot take part in. */
static bool compat_ignores(struct group *g, unsigned int type, size_t *n, uint64_t now)
{
	bool v1 = g->v1_until > now, v2 = v1 || g->v2_until > now;

	if (v2 && type == WIRE_TO_EX)
		*n = 0;
	if ((v2 && type == WIRE_BLOCK) || (v1 && type == WIRE_TO_IN)) {
		count(g->port, GMP_C_compat_ignored);
		return true;
	}
	return false;
}

static void apply(struct group *g, unsigned int type, const struct addr *a, size_t n,
		  const struct addr *host, bool older, uint64_t now, struct gmp_fx *fx)
{
	uint64_t gmi = now + port_membership_ms(g->port, is_v6(g));
	bool leaves = type == WIRE_TO_IN || type == WIRE_BLOCK;

	if (leaves && host_alone(g, host, now)) {
		leave_now(g, type, a, n, gmi, fx);
	} else {
		switch (type) {
		case WIRE_IS_IN:
		case WIRE_ALLOW:
			add_sources(g, a, n, gmi);
			break;
		case WIRE_IS_EX:
			to_exclude(g, a, n, gmi, gmi, fx);
			break;
		case WIRE_TO_EX: {
			uint64_t old = g->expires;

			to_exclude(g, a, n, old, gmi, fx);
			start_source_query(g, a, n, true, now, fx);
			break;
		}
		case WIRE_TO_IN:
			to_include(g, a, n, now, gmi, fx);
			break;
		case WIRE_BLOCK:
			block(g, a, n, now, fx);
			break;
		}
	}
	if (type == WIRE_TO_IN && !n)
		host_gone(g, host);
	else if (type != WIRE_BLOCK)
		host_seen(g, host, older ? UINT64_MAX : gmi);
	timer_lower(g->port->gmp, &g->timer, group_next(g));
}

void group_record(struct port *port, const struct addr *addr, unsigned int type, bool v6,
		  const uint8_t *sources, size_t n, const struct addr *host,
		  enum gmp_version version, uint64_t now, struct gmp_fx *fx)
{
	bool nothing = type == WIRE_BLOCK ||
		       (!n && type != WIRE_IS_EX && type != WIRE_TO_EX);
	bool older = version != GMP_IGMPV3 && version != GMP_MLDV2;
	struct group *g = group_find(port->gmp, port->id, addr);
	uint64_t until;

	if (!g && nothing)
		return;
	if (!g)
		g = group_get(port, addr);
	if (!g)
		return;
	if (older && type == WIRE_IS_EX) {
		until = now + port->config.robustness * port->config.query_interval_ms +
			port->config.query_response_interval_ms; /* 8.13 */
		if (version == GMP_IGMPV1)
			g->v1_until = until;
		else
			g->v2_until = until;
	}
	if (compat_ignores(g, type, &n, now))
		return;
	if (read_sources(port->gmp, v6, sources, &n) < 0 || group_reserve(g, n) < 0) {
		count(port, GMP_C_no_memory);
		fx->overflow = true;
		group_settle(g, now, fx);
		return;
	}
	apply(g, type, port->gmp->scratch, n, host, older, now, fx);
	group_settle(g, now, fx);
}

void group_expire(struct group *g, uint64_t now, struct gmp_fx *fx)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < g->n_sources; i++) {
		struct source *s = &g->sources[i];

		if (s->expires && s->expires <= now) {
			g->dirty = true;
			if (g->mode == FILTER_INCLUDE)
				continue;
			s->expires = 0;
			s->retransmit = 0;
		}
		g->sources[kept++] = *s;
	}
	g->n_sources = kept;
	if (g->mode == FILTER_EXCLUDE && g->expires <= now) { /* 6.5 */
		kept = 0;
		for (uint32_t i = 0; i < g->n_sources; i++) {
			if (g->sources[i].expires)
				g->sources[kept++] = g->sources[i];
		}
		g->n_sources = kept;
		set_mode(g, FILTER_INCLUDE, "group timer", fx);
		g->retransmit = 0;
	}
	if (g->retransmit_at && g->retransmit_at <= now) {
		if (g->retransmit)
			query_group(g, now, fx);
		query_sources(g, 0, now, fx);
		schedule_retransmit(g, now);
	}
	timer_set(g->port->gmp, &g->timer, group_next(g));
	group_settle(g, now, fx);
}
