// SPDX-License-Identifier: Apache-2.0
#include "tests/oracle/oracle.h"

#include <string.h>

/*
 * DOC: the model
 *
 * One line of code for each line of the tables of RFC 9776 6.4.1 and 6.4.2 (X the
 * sources whose timers run, Y the blocked ones, A those of the record). Nothing is
 * cached and nothing is shared: every question scans the arrays.
 *
 * Where the RFCs and gmp.h leave something open, this model holds:
 *  - Timers are lowered by "send Q" only where this router is the querier (6.6.3
 *    describes what the querier does); a non-querier lowers them when it hears the
 *    query (6.6.1).
 *  - Any query with a clear S flag lowers timers (6.6.1 makes no exception for the
 *    address it comes from), also in a router that stays the querier.
 *  - A leave of IGMPv2 or MLDv1 is TO_IN({}) in each mode but IGMPv1's.
 *  - What the elected querier says of QRV and QQI holds as long as it is heard.
 *  - A port where we do not ask hears the routers of the other ports (RFC 4541 2.1.1):
 *    without a querier of ours it obeys them, else it takes their lowering alone.
 *    Running timers keep their expiry.
 *  - The older-host timers are a part of the group record: they end with it.
 */

static unsigned set_of(const struct oracle_group *g, enum oracle_source_state state)
{
	unsigned set = 0;

	for (int i = 0; i < ORACLE_SOURCES; i++)
		if (g->sources[i].state == state)
			set |= 1u << i;
	return set;
}

static void set_put(struct oracle_group *g, unsigned set, enum oracle_source_state state,
		    uint64_t expires)
{
	for (int i = 0; i < ORACLE_SOURCES; i++)
		if (set & 1u << i)
			g->sources[i] = (struct oracle_source){ state, expires };
}

/* RFC 9776 section 8; what the elected querier says goes first (4.1.6, 4.1.7). */
static uint64_t query_time(const struct oracle_port *p)
{
	uint64_t robustness = p->robustness ? p->robustness : p->config.robustness;

	return robustness * (p->query_interval ? p->query_interval : p->config.query_interval_ms);
}

static uint64_t membership_interval(const struct oracle_port *p)
{
	if (p->config.membership_interval_ms)
		return p->config.membership_interval_ms;
	return query_time(p) + 2ull * p->config.query_response_interval_ms;
}

static uint64_t older_host_interval(const struct oracle_port *p)
{
	return query_time(p) + p->config.query_response_interval_ms;
}

static uint64_t other_querier_interval(const struct oracle_port *p)
{
	return query_time(p) + p->config.query_response_interval_ms / 2;
}

static uint64_t last_member_time(const struct oracle_port *p)
{
	const struct gmp_config *c = &p->config;
	uint64_t count = c->last_member_query_count ? c->last_member_query_count : c->robustness;

	return count * c->last_member_query_interval_ms;
}

/* 4.1.7: a mantissa of 4 bits with a hidden one, an exponent of 3. Seconds. */
static uint64_t qqic_seconds(uint8_t code)
{
	if (code < 128)
		return code;
	return (16ull + code % 16) << (3 + code / 16 % 8);
}

/* RFC 4604, 4607; of ff3x::/32 the last 16 bits must be zero. */
static bool is_ssm(const struct oracle *o, int group)
{
	const uint8_t *b = o->groups[group].b;

	if (!o->v6)
		return b[12] == 232;
	return b[0] == 0xff && (b[1] & 0xf0) == 0x30 && b[2] == 0 && b[3] == 0;
}

static bool is_querier(const struct oracle *o, const struct oracle_port *p, uint64_t now)
{
	if (!p->config.querier)
		return false;
	return p->other_querier_until <= now;
}

bool oracle_exists(const struct oracle *o, int port, int group)
{
	const struct oracle_group *g = &o->ports[port].groups[group];

	return g->exclude || set_of(g, ORACLE_WANTED);
}

struct oracle_view oracle_view(const struct oracle *o, int port, int group)
{
	const struct oracle_group *g = &o->ports[port].groups[group];

	return (struct oracle_view){
		.exclude = g->exclude,
		.sources = set_of(g, g->exclude ? ORACLE_BLOCKED : ORACLE_WANTED),
	};
}

/* RFC 9776 7.3.2, RFC 9777 8.3.2. */
enum gmp_version oracle_version(const struct oracle *o, int port, int group, uint64_t now)
{
	const struct oracle_group *g = &o->ports[port].groups[group];

	if (g->v1_until > now)
		return GMP_IGMPV1;
	if (g->v2_until > now)
		return o->v6 ? GMP_MLDV1 : GMP_IGMPV2;
	return o->v6 ? GMP_MLDV2 : GMP_IGMPV3;
}

/* After each step: INCLUDE {} is no record; a view that differs is remembered. */
static void settle(struct oracle *o, int port, int group, struct oracle_view before)
{
	struct oracle_view after = oracle_view(o, port, group);

	if (!oracle_exists(o, port, group))
		memset(&o->ports[port].groups[group], 0, sizeof(struct oracle_group));
	if (after.exclude != before.exclude || after.sources != before.sources)
		o->changed[port][group] = true;
}

static void lower_group(struct oracle_port *p, struct oracle_group *g, uint64_t now)
{
	uint64_t limit = now + last_member_time(p);

	if (g->exclude && g->timer > limit)
		g->timer = limit;
}

static void lower_sources(struct oracle_port *p, struct oracle_group *g, unsigned set, uint64_t now)
{
	uint64_t limit = now + last_member_time(p);

	for (int i = 0; i < ORACLE_SOURCES; i++)
		if (set & 1u << i && g->sources[i].state == ORACLE_WANTED &&
		    g->sources[i].expires > limit)
			g->sources[i].expires = limit;
}

/* RFC 9776 6.4: the table of a group in INCLUDE. Returns the sources to ask for. */
static unsigned include_record(struct oracle_group *g, unsigned type, unsigned b, uint64_t gmi)
{
	unsigned a = set_of(g, ORACLE_WANTED);

	switch (type) {
	case ORACLE_IS_IN:
	case ORACLE_ALLOW:
		set_put(g, b, ORACLE_WANTED, gmi);
		return 0;
	case ORACLE_TO_IN:
		set_put(g, b, ORACLE_WANTED, gmi);
		return a & ~b;
	case ORACLE_BLOCK:
		return a & b;
	default: /* IS_EX, TO_EX */
		g->exclude = true;
		g->timer = gmi;
		set_put(g, b & ~a, ORACLE_BLOCKED, 0);
		set_put(g, a & ~b, ORACLE_ABSENT, 0);
		return type == ORACLE_TO_EX ? a & b : 0;
	}
}

/* The table of a group in EXCLUDE. */
static unsigned exclude_record(struct oracle_group *g, unsigned type, unsigned a, uint64_t gmi)
{
	unsigned x = set_of(g, ORACLE_WANTED), y = set_of(g, ORACLE_BLOCKED);

	switch (type) {
	case ORACLE_IS_IN:
	case ORACLE_ALLOW:
		set_put(g, a, ORACLE_WANTED, gmi);
		return 0;
	case ORACLE_TO_IN:
		set_put(g, a, ORACLE_WANTED, gmi);
		return x & ~a;
	case ORACLE_BLOCK:
		set_put(g, a & ~x & ~y, ORACLE_WANTED, g->timer);
		return a & ~y;
	case ORACLE_IS_EX:
		set_put(g, a & ~x & ~y, ORACLE_WANTED, gmi);
		set_put(g, (x | y) & ~a, ORACLE_ABSENT, 0);
		g->timer = gmi;
		return 0;
	default: /* TO_EX */
		set_put(g, a & ~x & ~y, ORACLE_WANTED, g->timer);
		set_put(g, (x | y) & ~a, ORACLE_ABSENT, 0);
		g->timer = gmi;
		return a & ~y;
	}
}

void oracle_record(struct oracle *o, int port, int group, unsigned type, unsigned sources,
		   uint64_t now)
{
	struct oracle_port *p = &o->ports[port];
	struct oracle_group *g = &p->groups[group];
	struct oracle_view before = oracle_view(o, port, group);
	enum gmp_version version = oracle_version(o, port, group, now);
	uint64_t gmi = now + membership_interval(p);
	bool was_exclude = g->exclude;
	unsigned ask;

	if (!p->present || type < ORACLE_IS_IN || type > ORACLE_BLOCK)
		return;
	if (is_ssm(o, group) && (type == ORACLE_IS_EX || type == ORACLE_TO_EX))
		return;
	if (version != GMP_IGMPV3 && version != GMP_MLDV2) {
		if (type == ORACLE_BLOCK)
			return;
		if (type == ORACLE_TO_EX)
			sources = 0;
		if (type == ORACLE_TO_IN && version == GMP_IGMPV1)
			return;
	}
	if (was_exclude)
		ask = exclude_record(g, type, sources, gmi);
	else
		ask = include_record(g, type, sources, gmi);
	if (is_querier(o, p, now)) {
		lower_sources(p, g, ask, now);
		if (was_exclude && type == ORACLE_TO_IN)
			lower_group(p, g, now);
	}
	settle(o, port, group, before);
}

void oracle_old_report(struct oracle *o, int port, int group, enum gmp_version version,
		       uint64_t now)
{
	struct oracle_port *p = &o->ports[port];
	uint64_t until = now + older_host_interval(p);

	if (!p->present || is_ssm(o, group))
		return;
	oracle_record(o, port, group, ORACLE_IS_EX, 0, now);
	if (version == GMP_IGMPV1)
		p->groups[group].v1_until = until;
	else
		p->groups[group].v2_until = until;
}

void oracle_old_leave(struct oracle *o, int port, int group, uint64_t now)
{
	if (!is_ssm(o, group))
		oracle_record(o, port, group, ORACLE_TO_IN, 0, now);
}

/* What the elected querier says (4.1.6, 4.1.7: zero stands for our own). */
static void obey(struct oracle_port *p, const struct oracle_query *query, uint64_t now)
{
	p->robustness = query->qrv;
	p->query_interval = 1000 * qqic_seconds(query->qqic);
	p->other_querier_until = now + other_querier_interval(p);
}

static void lower(struct oracle_port *p, const struct oracle_query *query, uint64_t now)
{
	if (query->group < 0 || query->suppress)
		return;
	if (query->sources)
		lower_sources(p, &p->groups[query->group], query->sources, now);
	else
		lower_group(p, &p->groups[query->group], now);
}

/* All ports are of one segment: a router's query reaches those that nobody of us asks. */
static void pass(struct oracle *o, int from, const struct oracle_query *query, uint64_t now)
{
	for (int port = 0; port < ORACLE_PORTS; port++) {
		struct oracle_port *p = &o->ports[port];

		if (port == from || !p->present || is_querier(o, p, now))
			continue;
		if (!p->config.querier)
			obey(p, query, now);
		lower(p, query, now);
	}
}

void oracle_query(struct oracle *o, int port, const struct oracle_query *query, uint64_t now)
{
	struct oracle_port *p = &o->ports[port];
	const struct gmp_config *c = &p->config;
	const struct addr *own = o->v6 ? &c->query_source_v6 : &c->query_source_v4;

	if (!p->present || c->querier_guard)
		return;
	/* RFC 9776 6.6.2; 0.0.0.0 takes no part (RFC 4541 2.1.1 (4)). */
	if (!addr_is_unspecified(&query->from) &&
	    (!c->querier || addr_is_unspecified(own) || addr_is_null(own) ||
	     memcmp(query->from.b, own->b, sizeof(own->b)) < 0))
		obey(p, query, now);
	lower(p, query, now);
	if (!addr_is_unspecified(&query->from))
		pass(o, port, query, now);
}

static void group_advance(struct oracle *o, int port, int group, uint64_t now)
{
	struct oracle_group *g = &o->ports[port].groups[group];
	struct oracle_view before = oracle_view(o, port, group);

	/* 6.2.3: a source that runs out goes in INCLUDE, is blocked in EXCLUDE. */
	for (int i = 0; i < ORACLE_SOURCES; i++) {
		struct oracle_source *s = &g->sources[i];

		if (s->state == ORACLE_WANTED && s->expires <= now) {
			s->state = g->exclude ? ORACLE_BLOCKED : ORACLE_ABSENT;
			s->expires = 0;
		}
	}
	/* 6.5: what still runs becomes INCLUDE's list. */
	if (g->exclude && g->timer <= now) {
		set_put(g, set_of(g, ORACLE_BLOCKED), ORACLE_ABSENT, 0);
		g->exclude = false;
		g->timer = 0;
	}
	settle(o, port, group, before);
}

void oracle_advance(struct oracle *o, uint64_t now)
{
	for (int port = 0; port < ORACLE_PORTS; port++) {
		struct oracle_port *p = &o->ports[port];

		if (p->other_querier_until <= now)
			p->robustness = p->query_interval = 0;
		for (int group = 0; group < ORACLE_GROUPS; group++)
			group_advance(o, port, group, now);
	}
}

void oracle_port_add(struct oracle *o, int port, const struct gmp_config *config)
{
	memset(&o->ports[port], 0, sizeof(o->ports[port]));
	o->ports[port].present = true;
	o->ports[port].config = *config;
}

void oracle_port_remove(struct oracle *o, int port)
{
	for (int group = 0; group < ORACLE_GROUPS; group++)
		o->changed[port][group] |= oracle_exists(o, port, group);
	memset(&o->ports[port], 0, sizeof(o->ports[port]));
}

void oracle_forget_changes(struct oracle *o)
{
	memset(o->changed, 0, sizeof(o->changed));
}

uint64_t oracle_deadline(const struct oracle *o, uint64_t now, unsigned n)
{
	uint64_t all[ORACLE_PORTS * (1 + ORACLE_GROUPS * (3 + ORACLE_SOURCES))];
	unsigned count = 0;

	for (int port = 0; port < ORACLE_PORTS; port++) {
		const struct oracle_port *p = &o->ports[port];

		all[count++] = p->other_querier_until;
		for (int group = 0; group < ORACLE_GROUPS; group++) {
			const struct oracle_group *g = &p->groups[group];

			all[count++] = g->timer;
			all[count++] = g->v1_until;
			all[count++] = g->v2_until;
			for (int i = 0; i < ORACLE_SOURCES; i++)
				all[count++] = g->sources[i].expires;
		}
	}
	/* The n-th in the order of time, by asking n times for the next. */
	for (uint64_t after = now;; n--) {
		uint64_t next = UINT64_MAX;

		for (unsigned i = 0; i < count; i++)
			if (all[i] > after && all[i] < next)
				next = all[i];
		if (next == UINT64_MAX || !n)
			return next == UINT64_MAX ? 0 : next;
		after = next;
	}
}

void oracle_init(struct oracle *o, bool v6)
{
	/* Source-specific: the third to the fifth; the sixth and seventh are neighbours
	 * of that range and are not in it. */
	static const char *const groups[2][ORACLE_GROUPS] = {
		{ "239.10.10.10", "225.10.10.10", "232.0.0.1", "232.1.2.3", "232.255.255.255",
		  "231.255.255.255", "233.0.0.0", "224.0.1.129" },
		{ "ff15::1", "ff05::2", "ff35::1", "ff3e::4321:1234", "ff38::8000:1", "ff35:40::1",
		  "ff25::1", "ff1e::101" },
	};
	char text[ADDR_TEXT_MAX];

	memset(o, 0, sizeof(*o));
	o->v6 = v6;
	for (int i = 0; i < ORACLE_GROUPS; i++)
		addr_parse(groups[v6][i], &o->groups[i]);
	for (int i = 0; i < ORACLE_SOURCES; i++) {
		snprintf(text, sizeof(text), v6 ? "2001:db8::%d" : "192.0.2.%d", 1 + i * 7);
		addr_parse(text, &o->sources[i]);
	}
}
