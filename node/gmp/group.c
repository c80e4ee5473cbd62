/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
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

const struct source *group_source(const struct group *g, const struct addr *a)
{
	uint32_t i = source_index(g, a);

	return i < g->n_sources && addr_equal(&g->sources[i].addr, a) ? &g->sources[i] : NULL;
}

static struct source *find_source(struct group *g, const struct addr *a)
{
	return (struct source *)group_source(g, a);
}

static int reserve(struct group *g, size_t extra)
{
	uint32_t max = g->port->config.max_sources;
	size_t need = g->n_sources + extra;
	struct source *sources;

	if (need > max)
		need = max > g->n_sources ? max : g->n_sources;
	if (need <= g->cap_sources)
		return 0;
	if (g->cap_sources && need < g->cap_sources * 2u)
		need = g->cap_sources * 2u;
	sources = realloc(g->sources, need * sizeof(*sources));
	if (!sources)
		return -ENOMEM;
	g->sources = sources;
	g->cap_sources = (uint32_t)need;
	return 0;
}

/* After reserve(). False: the limit. */
static bool insert(struct group *g, const struct addr *a, uint64_t expires)
{
	uint32_t i = source_index(g, a);

	if (g->n_sources >= g->port->config.max_sources || g->n_sources >= g->cap_sources) {
		count(g->port, GMP_C_source_limit);
		return false;
	}
	memmove(&g->sources[i + 1], &g->sources[i], (g->n_sources - i) * sizeof(*g->sources));
	g->sources[i] = (struct source){ .addr = *a, .expires = expires };
	g->n_sources++;
	return true;
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

/* Something is due then: the heap may not hold a later time. */
static void due_at(struct group *g, uint64_t t)
{
	timer_lower(g->port->gmp, &g->timer, t);
}

static bool retransmit_due(const struct source *s, uint64_t now)
{
	return s->retransmit && (int32_t)((uint32_t)now - s->retransmit_at) >= 0;
}

static void earlier(uint64_t *next, uint64_t t)
{
	if (t < *next)
		*next = t;
}

/* Scans: only for the pop of a timer, not for each record. */
static uint64_t group_next(const struct group *g, uint64_t now)
{
	uint64_t next = g->mode == FILTER_EXCLUDE ? g->expires : UINT64_MAX;

	for (uint32_t i = 0; i < g->n_sources; i++) {
		const struct source *s = &g->sources[i];

		if (s->expires)
			earlier(&next, s->expires);
		if (s->retransmit)
			earlier(&next, now + (s->retransmit_at - (uint32_t)now));
	}
	for (uint32_t i = 0; i < g->n_hosts; i++)
		earlier(&next, g->hosts[i].expires);
	if (g->retransmit)
		earlier(&next, g->retransmit_at);
	if (g->v1_until)
		earlier(&next, g->v1_until);
	if (g->v2_until)
		earlier(&next, g->v2_until);
	return next;
}

/* From now until the next settle, changes are judged by this view. Without
 * memory for it they are told unjudged. */
void group_remember(struct group *g)
{
	if (!g->has_last)
		g->has_last = group_view(g, &g->last) == 0;
}

static bool view_changed(struct group *g, struct gmp_fx *fx)
{
	struct filter view;
	bool changed;

	if (!g->has_last && !g->is_static)
		return true;
	if (group_view(g, &view) < 0) {
		fx->overflow = true;
		filter_deinit(&g->last);
		g->has_last = false;
		return true;
	}
	changed = !g->has_last || !filter_equal(&view, &g->last);
	filter_deinit(&g->last);
	g->has_last = g->is_static;
	if (g->is_static)
		g->last = view;
	else
		filter_deinit(&view);
	return changed;
}

/* Tells what changed; frees what is empty. g may be gone after this. */
void group_settle(struct group *g, struct gmp_fx *fx)
{
	struct gmp_fx_item *item;

	if (g->dirty && view_changed(g, fx)) {
		item = fx_push(fx, GMP_FX_MEMBERSHIP, g->port->id);
		if (item)
			item->group = g->addr;
	}
	g->dirty = false;
	if (g->mode == FILTER_EXCLUDE || g->n_sources)
		return;
	if (!g->is_static) {
		group_free(g);
		return;
	}
	g->v1_until = g->v2_until = 0;
	g->retransmit = g->n_hosts = 0;
	g->hosts_unknown = false;
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
	g->retransmit_at = now + g->port->config.last_member_query_interval_ms;
	if (g->retransmit)
		due_at(g, g->retransmit_at);
}

/* Q(G, the sources whose copy is due), those that are refreshed and those that
 * are not in messages of their own. */
static void query_sources(struct group *g, uint64_t now, struct gmp_fx *fx)
{
	uint64_t next = now + g->port->config.last_member_query_interval_ms;
	size_t max = wire_query_max_sources(is_v6(g)), n[2] = { 0 };
	struct addr list[2][WIRE_QUERY_SOURCES_MAX];

	for (uint32_t i = 0; i < g->n_sources; i++) {
		struct source *src = &g->sources[i];
		bool s = s_flag_of(g, src->expires, now);

		if (!retransmit_due(src, now))
			continue;
		src->retransmit--;
		src->retransmit_at = (uint32_t)next;
		if (src->retransmit)
			due_at(g, next);
		list[s][n[s]++] = src->addr;
		if (n[s] == max) {
			port_send_query(g->port, is_v6(g), &g->addr, list[s], max, s, now, fx);
			n[s] = 0;
		}
	}
	for (int s = 1; s >= 0; s--) {
		if (n[s])
			port_send_query(g->port, is_v6(g), &g->addr, list[s], n[s], s, now, fx);
	}
}

static void start_group_query(struct group *g, uint64_t now, struct gmp_fx *fx)
{
	/* An IGMPv1 link knows no leaving (RFC 2236 4). */
	if (!port_is_querier(g->port, is_v6(g), now) ||
	    port_version(g->port, is_v6(g), now) == GMP_IGMPV1)
		return;
	if (g->retransmit && !s_flag_of(g, g->expires, now))
		return; /* under way */
	if (s_flag_of(g, g->expires, now)) {
		g->expires = now + port_last_member_ms(g->port);
		due_at(g, g->expires);
	}
	g->retransmit = g->port->config.last_member_query_count;
	query_group(g, now, fx);
}

/* Q(G, those of the running sources whose membership in `set` is `in`). */
static void start_source_query(struct group *g, const struct addr *set, size_t n, bool in,
			       uint64_t now, struct gmp_fx *fx)
{
	enum gmp_version version = port_version(g->port, is_v6(g), now);
	uint64_t expires = now + port_last_member_ms(g->port);
	bool any = false;

	/* Nobody can be asked: the timers run their course. */
	if (!port_is_querier(g->port, is_v6(g), now) ||
	    (version != GMP_IGMPV3 && version != GMP_MLDV2))
		return;
	for (uint32_t i = 0; i < g->n_sources; i++) {
		struct source *s = &g->sources[i];

		if (s->expires <= expires || listed(set, n, &s->addr) != in)
			continue;
		s->expires = expires;
		s->retransmit = (uint8_t)g->port->config.last_member_query_count;
		s->retransmit_at = (uint32_t)now;
		any = true;
	}
	if (!any)
		return;
	due_at(g, expires);
	query_sources(g, now, fx);
}

/* 6.6.1: someone else's query, without S. */
void group_lower(struct group *g, const struct wire_message *m, uint64_t now)
{
	uint64_t limit = now + port_last_member_ms(g->port);

	if (!m->n && g->mode == FILTER_EXCLUDE && g->expires > limit)
		g->expires = limit;
	for (uint16_t i = 0; i < m->n; i++) {
		struct addr a = wire_source(m->v6, m->body, i);
		struct source *s = find_source(g, &a);

		if (s && s->expires > limit)
			s->expires = limit;
	}
	due_at(g, limit);
}

static void cut(uint64_t *t, uint64_t limit)
{
	if (*t > limit)
		*t = limit;
}

/* New settings: nothing runs longer than it would if it started now. */
void group_cut(struct group *g, uint64_t now)
{
	const struct gmp_config *c = &g->port->config;
	uint64_t limit = now + port_membership_ms(g->port, is_v6(g));
	uint64_t again = now + c->last_member_query_interval_ms;
	uint64_t older = now + port_older_host_ms(g->port, is_v6(g));

	cut(&g->expires, limit);
	cut(&g->v1_until, older);
	cut(&g->v2_until, older);
	cut(&g->retransmit_at, again);
	if (g->retransmit > c->last_member_query_count)
		g->retransmit = c->last_member_query_count;
	for (uint32_t i = 0; i < g->n_sources; i++) {
		struct source *s = &g->sources[i];

		cut(&s->expires, limit);
		if (s->retransmit > c->last_member_query_count)
			s->retransmit = (uint8_t)c->last_member_query_count;
		if (s->retransmit && (int32_t)(s->retransmit_at - (uint32_t)again) > 0)
			s->retransmit_at = (uint32_t)again;
	}
	for (uint32_t i = 0; i < g->n_hosts; i++) {
		if (g->hosts[i].expires != UINT64_MAX)
			cut(&g->hosts[i].expires, limit);
	}
	timer_set(g->port->gmp, &g->timer, group_next(g, now));
}

/* ---- the state table (6.4.1, 6.4.2) ----------------------------------------- */

static void add_sources(struct group *g, const struct addr *a, size_t n, uint64_t expires)
{
	for (size_t i = 0; i < n; i++) {
		struct source *s = find_source(g, &a[i]);

		if (s) {
			g->dirty |= !s->expires;
			s->expires = expires;
		} else if (insert(g, &a[i], expires)) {
			g->dirty |= g->mode == FILTER_INCLUDE;
		}
	}
	if (n)
		due_at(g, expires);
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
			insert(g, &a[i], was_include ? 0 : fresh);
	}
	g->expires = gmi;
	due_at(g, gmi);
	if (!was_include) /* what ran so far may end after a shorter interval */
		due_at(g, fresh);
}

static void block(struct group *g, const struct addr *a, size_t n, uint64_t now, struct gmp_fx *fx)
{
	for (size_t i = 0; g->mode == FILTER_EXCLUDE && i < n; i++) {
		if (!group_source(g, &a[i]))
			insert(g, &a[i], g->expires);
	}
	start_source_query(g, a, n, true, now, fx);
}

static void to_include(struct group *g, const struct addr *a, size_t n, uint64_t now, uint64_t gmi,
		       struct gmp_fx *fx)
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
			struct source *s = find_source(g, &a[i]);

			g->dirty |= s ? s->expires != 0 : insert(g, &a[i], 0);
			if (s)
				s->expires = s->retransmit = 0;
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

static bool host_room(struct group *g)
{
	uint32_t max = g->port->config.max_hosts, cap = g->cap_hosts ? g->cap_hosts * 2 : 1;
	struct host *hosts;

	if (g->n_hosts >= max)
		return false;
	if (g->n_hosts < g->cap_hosts)
		return true;
	hosts = realloc(g->hosts, cap * sizeof(*hosts));
	if (!hosts)
		return false;
	g->hosts = hosts;
	g->cap_hosts = cap;
	return true;
}

static void host_seen(struct group *g, const struct addr *a, uint64_t expires)
{
	bool found;
	uint32_t i = host_index(g, a, &found);

	if (found) {
		if (g->hosts[i].expires != UINT64_MAX)
			g->hosts[i].expires = expires;
		return;
	}
	if (!host_room(g)) {
		count(g->port, GMP_C_host_limit);
		g->hosts_unknown = true; /* one we cannot see may still listen */
		return;
	}
	memmove(&g->hosts[i + 1], &g->hosts[i], (g->n_hosts - i) * sizeof(*g->hosts));
	g->hosts[i] = (struct host){ *a, expires };
	g->n_hosts++;
	due_at(g, expires);
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

/* Could a packet carry it as its source? */
static bool is_source(bool v6, const struct addr *a)
{
	return v6 != addr_is_v4(a) && !addr_is_unspecified(a) && !addr_is_multicast(a);
}

/* Reads the sources into the engine's scratch, sorted and unique. */
static int read_sources(struct port *port, bool v6, const uint8_t *sources, size_t *n)
{
	struct gmp *gmp = port->gmp;
	size_t used = 0, unique = 0;
	bool sorted = true;

	if (*n > gmp->scratch_cap) {
		struct addr *scratch = realloc(gmp->scratch, *n * sizeof(*scratch));

		if (!scratch)
			return -ENOMEM;
		gmp->scratch = scratch;
		gmp->scratch_cap = *n;
	}
	for (size_t i = 0; i < *n; i++) {
		struct addr a = wire_source(v6, sources, i);

		if (!is_source(v6, &a)) {
			count(port, GMP_C_bad_source);
			continue;
		}
		sorted &= !used || addr_cmp(&gmp->scratch[used - 1], &a) < 0;
		gmp->scratch[used++] = a;
	}
	*n = used;
	if (sorted)
		return 0;
	qsort(gmp->scratch, used, sizeof(*gmp->scratch), addr_compare);
	for (size_t i = 0; i < used; i++) {
		if (!unique || !addr_equal(&gmp->scratch[unique - 1], &gmp->scratch[i]))
			gmp->scratch[unique++] = gmp->scratch[i];
	}
	*n = unique;
	return 0;
}

static void older_seen(struct group *g, enum gmp_version version, uint64_t now)
{
	uint64_t until = now + port_older_host_ms(g->port, is_v6(g));

	*(version == GMP_IGMPV1 ? &g->v1_until : &g->v2_until) = until;
	due_at(g, until);
}

/* 7.3.2: what an older host on the link cannot take part in. */
static bool compat_ignores(const struct group *g, unsigned int type, size_t *n, uint64_t now)
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

static void track_host(struct group *g, unsigned int type, size_t n, const struct addr *host,
		       uint64_t expires)
{
	if (!n && (type == WIRE_TO_IN || type == WIRE_IS_IN))
		host_gone(g, host);
	else if (type == WIRE_IS_EX || type == WIRE_TO_EX || (n && type != WIRE_BLOCK))
		host_seen(g, host, expires);
}

static void apply(struct group *g, unsigned int type, const struct addr *a, size_t n,
		  const struct addr *host, uint64_t now, struct gmp_fx *fx)
{
	uint64_t gmi = now + port_membership_ms(g->port, is_v6(g)), old = g->expires;
	bool leaves = type == WIRE_TO_IN || type == WIRE_BLOCK;

	if (leaves && host_alone(g, host, now)) {
		leave_now(g, type, a, n, gmi, fx);
		return;
	}
	switch (type) {
	case WIRE_IS_IN:
	case WIRE_ALLOW:
		add_sources(g, a, n, gmi);
		break;
	case WIRE_IS_EX:
		to_exclude(g, a, n, gmi, gmi, fx);
		break;
	case WIRE_TO_EX:
		to_exclude(g, a, n, old, gmi, fx);
		start_source_query(g, a, n, true, now, fx);
		break;
	case WIRE_TO_IN:
		to_include(g, a, n, now, gmi, fx);
		break;
	case WIRE_BLOCK:
		block(g, a, n, now, fx);
		break;
	}
}

/* NULL: nothing to apply the record to. */
static struct group *record_group(struct port *port, const struct addr *addr, bool wants,
				  uint64_t now, struct gmp_fx *fx)
{
	struct group *g = group_find(port->gmp, port->id, addr);
	int r;

	/* What has run out by now has run out before this record. */
	if (g && g->timer.index && g->timer.due <= now) {
		group_expire(g, now, fx);
		g = group_find(port->gmp, port->id, addr);
	}
	if (g || !wants)
		return g;
	r = group_get(port, addr, &g);
	if (r == -ENOMEM)
		fx->overflow = true;
	return r < 0 ? NULL : g;
}

void group_record(struct port *port, const struct addr *addr, unsigned int type, bool v6,
		  const uint8_t *sources, size_t n, const struct addr *host,
		  enum gmp_version version, uint64_t now, struct gmp_fx *fx)
{
	bool excludes = type == WIRE_IS_EX || type == WIRE_TO_EX;
	bool older = version != GMP_IGMPV3 && version != GMP_MLDV2;
	struct group *g;

	g = record_group(port, addr, excludes || (n && type != WIRE_BLOCK), now, fx);
	if (!g)
		return;
	if (older && excludes)
		older_seen(g, version, now);
	if (compat_ignores(g, type, &n, now))
		return;
	if (read_sources(port, v6, sources, &n) < 0 || reserve(g, n) < 0) {
		count(port, GMP_C_no_memory);
		fx->overflow = true;
		group_settle(g, fx);
		return;
	}
	apply(g, type, port->gmp->scratch, n, host, now, fx);
	track_host(g, type, n, host, older ? UINT64_MAX : now + port_membership_ms(port, v6));
	group_settle(g, fx);
}

/* The union of what is known and what was saved, all as if reported now. */
int group_restore(struct group *g, const struct filter *filter, uint64_t now)
{
	_cleanup_(filter_deinit)
	struct filter all = FILTER_NULL;
	uint64_t gmi = now + port_membership_ms(g->port, is_v6(g));
	bool was_static = g->is_static;
	int r;

	group_remember(g);
	g->is_static = false; /* the dynamic part alone */
	r = group_view(g, &all);
	g->is_static = was_static;
	if (r == 0)
		r = filter_merge(&all, filter);
	if (r < 0 || (r = reserve(g, all.n_sources)) < 0)
		return r;
	g->n_sources = 0;
	g->mode = all.mode;
	g->expires = gmi;
	for (uint32_t i = 0; i < all.n_sources; i++)
		insert(g, &all.sources[i], all.mode == FILTER_EXCLUDE ? 0 : gmi);
	g->hosts_unknown = true;
	g->dirty = true;
	due_at(g, gmi);
	return 0;
}

static void sources_expire(struct group *g, uint64_t now)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < g->n_sources; i++) {
		struct source *s = &g->sources[i];

		if (s->expires && s->expires <= now) {
			g->dirty = true;
			if (g->mode == FILTER_INCLUDE)
				continue;
			s->expires = s->retransmit = 0;
		}
		g->sources[kept++] = *s;
	}
	g->n_sources = kept;
}

/* 6.5: back to INCLUDE with what still runs. */
static void exclude_expire(struct group *g, struct gmp_fx *fx)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < g->n_sources; i++) {
		if (g->sources[i].expires)
			g->sources[kept++] = g->sources[i];
	}
	g->n_sources = kept;
	g->retransmit = 0;
	set_mode(g, FILTER_INCLUDE, "group timer", fx);
}

void group_expire(struct group *g, uint64_t now, struct gmp_fx *fx)
{
	sources_expire(g, now);
	if (g->mode == FILTER_EXCLUDE && g->expires <= now)
		exclude_expire(g, fx);
	hosts_prune(g, now);
	if (g->v1_until <= now)
		g->v1_until = 0;
	if (g->v2_until <= now)
		g->v2_until = 0;
	if (g->retransmit && g->retransmit_at <= now)
		query_group(g, now, fx);
	query_sources(g, now, fx);
	timer_set(g->port->gmp, &g->timer, group_next(g, now));
	group_settle(g, fx);
}
