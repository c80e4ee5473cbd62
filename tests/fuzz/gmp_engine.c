/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole engine under a script of frames, facts and time. After each step:
 * what the effects told is what the engine says, nothing happened on a port
 * that nothing was sent to, limits hold, sets are sorted, and after the timers
 * ran nothing is due.
 */
#include <stdlib.h>
#include <string.h>

#include "gmp_sums.h"
#include "node/gmp/gmp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define PORTS	    3
#define TAG(port)   (100 + (port) / 2) /* 2 and 3 are of one segment */
#define TOLD_MAX    256
#define GROUPS_MAX  4
#define SOURCES_MAX 5
#define HOSTS_MAX   2
#define STATIC_MAX  4
#define SCRIPT_MAX  400
#define TIMERS_MAX  100000

struct told {
	uint32_t port, changes;
	struct addr group;
	struct filter filter;
};

struct run {
	const uint8_t *data;
	size_t len;
	struct gmp *gmp;
	struct gmp_fx fx;
	uint64_t now;
	struct told told[TOLD_MAX];
	size_t n_told, n_seen;
	bool there[PORTS + 1];
	struct gmp_config config;
};

static void require(bool fact)
{
	if (!fact)
		abort();
}

static uint8_t next(struct run *run)
{
	if (!run->len)
		return 0;
	run->len--;
	return *run->data++;
}

static struct addr group_of(bool v6, uint8_t k)
{
	static const uint8_t heads[4][3] = {
		{ 0xff, 0x1e }, { 0xff, 0x3e }, { 0xff, 2 }, { 0xff, 1 }
	};
	uint8_t v4[4] = { k & 8 ? 232 : 239, 0, 0, k & 7 }, b[16] = { 0 };
	uint32_t be32;

	if (!v6) {
		if (k >= 0xf0)
			v4[0] = 224;
		memcpy(&be32, v4, 4);
		return addr_v4_be32(be32);
	}
	memcpy(b, heads[k >> 6], 3);
	b[15] = k & 7;
	return addr_v6(b);
}

static struct addr source_of(bool v6, uint8_t k)
{
	uint8_t v4[4] = { 192, 0, 2, k & 7 }, b[16] = { 0x20, 1, [15] = k & 7 };
	uint32_t be32;

	memcpy(&be32, v4, 4);
	return v6 ? addr_v6(b) : addr_v4_be32(be32);
}

/* ---- frames ------------------------------------------------------------------ */

static size_t put_addr(uint8_t *p, bool v6, const struct addr *a)
{
	size_t width = v6 ? 16 : 4;

	memcpy(p, a->b + 16 - width, width);
	return width;
}

static size_t body_build(struct run *run, bool v6, uint8_t kind, uint8_t *p)
{
	static const uint8_t types[2][8] = {
		{ 0x22, 0x22, 0x22, 0x22, 0x11, 0x12, 0x16, 0x17 },
		{ 143, 143, 143, 143, 130, 130, 131, 132 },
	};
	size_t head = v6 ? 24 : 8, at = 8;
	struct addr group = group_of(v6, next(run));
	uint8_t n;

	p[0] = types[v6][kind];
	if (kind >= 4) {
		bool query = kind == 4 || (v6 && kind == 5);

		p[1] = query ? next(run) : 0;
		if (!query || p[1] & 1)
			put_addr(p + (v6 ? 8 : 4), v6, &group);
		if (!query || !(p[1] & 2))
			return head;
		p[head] = next(run);
		p[head + 1] = next(run);
		n = p[head + 3] = next(run) & 3;
		at = head + 4;
		while (n--)
			at += put_addr(p + at, v6, &(struct addr[]){ source_of(v6, next(run)) }[0]);
		return at;
	}
	for (p[7] = kind + 1, n = 0; n < p[7]; n++) {
		uint8_t sources = next(run) & 7;

		if (n)
			group = group_of(v6, next(run));
		p[at] = (next(run) % 7);
		p[at + 3] = sources;
		at += 4 + put_addr(p + at + 4, v6, &group);
		while (sources--)
			at += put_addr(p + at, v6, &(struct addr[]){ source_of(v6, next(run)) }[0]);
	}
	return at;
}

static size_t frame_build(struct run *run, uint8_t *f)
{
	uint8_t choice = next(run), host = next(run);
	bool v6 = choice & 1;
	uint8_t *ip = f + 14, *p = ip + (v6 ? 48 : 24);
	size_t n = body_build(run, v6, choice >> 1 & 7, p);
	size_t total = n + (v6 ? 8 : 24);

	f[12] = v6 ? 0x86 : 8;
	f[13] = v6 ? 0xdd : 0;
	if (v6) {
		memcpy(ip, "\x60\0\0\0\0\0\0\1\xfe\x80", 10);
		ip[4] = (uint8_t)(total >> 8);
		ip[5] = (uint8_t)total;
		ip[23] = host & 7;
		ip[40] = 58;
	} else {
		memcpy(ip, "\x46\0\0\0\0\0\0\0\1\2\0\0\x0a", 13);
		ip[2] = (uint8_t)(total >> 8);
		ip[3] = (uint8_t)total;
		ip[15] = host & 7;
		if (!(host & 7))
			ip[12] = 0;
		memset(ip + 20, 1, 4);
	}
	gmp_sums_fix(f, (size_t)(p - f) + n);
	return (size_t)(p - f) + n;
}

static void step_frame(struct run *run, uint32_t port)
{
	uint8_t f[2048] = { 0 };

	gmp_input(run->gmp, port, f, frame_build(run, f), run->now, &run->fx);
}

/* Bytes of the script as they are. */
static void step_raw(struct run *run, uint32_t port)
{
	size_t n = next(run);
	uint8_t *f;

	if (n > run->len)
		n = run->len;
	f = malloc(n + 1);
	if (!f)
		return;
	memcpy(f, run->data, n);
	gmp_sums_fix(f, n);
	gmp_input(run->gmp, port, f, n, run->now, &run->fx);
	run->data += n;
	run->len -= n;
	free(f);
}

/* ---- facts ------------------------------------------------------------------- */

static void step_fact(struct run *run, uint32_t port)
{
	uint8_t choice = next(run), n = choice >> 2 & 3;
	struct addr sources[4], group = group_of(choice & 1, next(run));
	struct filter f = { 0 };

	for (uint8_t i = 0; i < n; i++)
		sources[i] = source_of(choice & 1, next(run));
	if (filter_init(&f, choice & 16 ? FILTER_EXCLUDE : FILTER_INCLUDE, sources, n) < 0)
		return;
	if (choice & 64)
		require(gmp_port_want(run->gmp, port, &group, &f, run->now) ==
			(run->there[port] ? 0 : -2));
	else if (choice & 2)
		gmp_port_restore(run->gmp, port, &group, &f, run->now, &run->fx);
	else
		gmp_port_static(run->gmp, port, &group, choice & 32 ? NULL : &f, run->now,
				&run->fx);
	filter_deinit(&f);
}

static void step_config(struct run *run, uint32_t port)
{
	uint8_t choice = next(run);
	struct gmp_config c = run->config;

	c.querier = choice & 1;
	c.fast_leave = choice & 2;
	c.querier_guard = choice & 4;
	c.igmp_version = GMP_IGMPV1 + (choice >> 3) % 3;
	c.mld_version = choice & 32 ? GMP_MLDV1 : GMP_MLDV2;
	c.query_interval_ms = 20 + next(run) * 500u;
	c.last_member_query_count = choice >> 6;
	c.membership_interval_ms = choice & 64 ? next(run) * 10u : 0;
	c.router = (choice ^ choice >> 4) % 3;
	c.proxy = !(choice & 128);
	require(gmp_port_configure(run->gmp, port, &c, run->now, &run->fx) ==
		(run->there[port] ? 0 : -2));
}

static void step_port(struct run *run, uint32_t port)
{
	if (run->there[port])
		gmp_port_remove(run->gmp, port, &run->fx);
	else
		require(gmp_port_add(run->gmp, port, TAG(port), &run->config, run->now, &run->fx) ==
			0);
	run->there[port] = !run->there[port];
}

static void step_time(struct run *run)
{
	static const uint32_t units[] = { 1, 50, 1000, 10000 };
	uint8_t choice = next(run);
	int i;

	run->now += (choice >> 2) * units[choice & 3];
	if (next(run) & 1)
		return; /* the timers come late */
	for (i = 0; i < TIMERS_MAX && gmp_next_ms(run->gmp) <= run->now; i++)
		gmp_expire(run->gmp, run->now, &run->fx);
	require(gmp_next_ms(run->gmp) > run->now);
}

/* ---- what must hold ---------------------------------------------------------- */

static struct told *told_find(struct run *run, uint32_t port, const struct addr *group, bool add)
{
	for (size_t i = 0; i < run->n_told; i++) {
		if (run->told[i].port == port && addr_equal(&run->told[i].group, group))
			return &run->told[i];
	}
	if (!add || run->n_told == TOLD_MAX)
		return NULL;
	run->told[run->n_told] = (struct told){ .port = port, .group = *group };
	return &run->told[run->n_told++];
}

static void check_effects(struct run *run, uint32_t port)
{
	require(!run->fx.overflow);
	for (uint32_t p = 1; p <= PORTS; p++)
		require(!gmp_port_is_proxied(run->gmp, p) ||
			(gmp_port_is_router(run->gmp, p) && !gmp_port_takes_reports(run->gmp, p)));
	for (size_t i = 0; i < run->n_told; i++)
		run->told[i].changes = 0;
	for (size_t i = 0; i < run->fx.n; i++) {
		const struct gmp_fx_item *item = &run->fx.items[i];
		struct told *t;

		require(!port || item->port == port);
		require(item->frame_off + item->frame_len <= run->fx.arena_len);
		if (item->type != GMP_FX_MEMBERSHIP)
			continue;
		t = told_find(run, item->port, &item->group, true);
		if (t)
			t->changes++;
	}
	for (size_t i = 0; i < run->n_told; i++) {
		struct told *t = &run->told[i];
		struct filter f;

		if (gmp_membership_filter(run->gmp, t->port, &t->group, &f) < 0)
			abort();
		require(t->changes || filter_equal(&f, &t->filter));
		require(t->changes != 1 || !filter_equal(&f, &t->filter));
		filter_deinit(&t->filter);
		t->filter = f;
	}
}

static int check_view(const struct gmp_membership_view *view, void *userdata)
{
	struct run *run = userdata;
	const struct told *t = told_find(run, view->port, &view->group, false);

	run->n_seen++;
	require(view->tag == TAG(view->port) && run->there[view->port]);
	require(t ? !filter_is_none(&t->filter) && t->filter.mode == view->mode
		  : run->n_told == TOLD_MAX);
	require(view->n_hosts <= HOSTS_MAX);
	require(view->n_sources <= SOURCES_MAX + (view->is_static ? STATIC_MAX : 0));
	require(view->is_static == (view->expires_ms == UINT64_MAX));
	for (size_t i = 0; i < view->n_sources; i++) {
		for (size_t k = 0; k < i; k++)
			require(!addr_equal(&view->sources[i].addr, &view->sources[k].addr));
		require(view->is_static || !i ||
			addr_cmp(&view->sources[i - 1].addr, &view->sources[i].addr) < 0);
		require(!t || view->sources[i].forwarded ==
				      filter_wants(&t->filter, &view->sources[i].addr));
	}
	return 0;
}

static void check(struct run *run, uint32_t port)
{
	size_t n = 0;

	check_effects(run, port);
	run->n_seen = 0;
	gmp_memberships_walk(run->gmp, 0, check_view, run);
	for (uint32_t p = 1; p <= PORTS; p++) {
		size_t of_port = gmp_port_membership_count(run->gmp, p);

		require(of_port <= GROUPS_MAX);
		n += of_port;
	}
	require(n == run->n_seen);
	gmp_fx_clear(&run->fx);
}

static void step(struct run *run)
{
	uint8_t op = next(run);
	uint32_t port = 1 + (op >> 4) % PORTS;

	switch (op & 15) {
	case 0:
	case 1:
	case 2:
		step_time(run);
		port = 0;
		break;
	case 3:
		step_raw(run, port);
		break;
	case 4:
		step_fact(run, port);
		break;
	case 5:
		step_config(run, port);
		break;
	case 6:
		step_port(run, port);
		break;
	case 7:
		gmp_port_query(run->gmp, port, run->now, &run->fx);
		break;
	default:
		step_frame(run, port);
		break;
	}
	check(run, port);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct run *run = calloc(1, sizeof(*run));
	const uint8_t own[16] = { 0xfe, 0x80, [15] = 4 };

	if (!run)
		return 0;
	run->data = data;
	run->len = len;
	run->now = 1;
	gmp_config_default(&run->config);
	run->config.query_interval_ms = 60000;
	run->config.query_response_interval_ms = 10;
	run->config.query_source_v4 = addr_v4_be32(0x0400000a);
	run->config.query_source_v6 = addr_v6(own);
	run->config.max_groups = GROUPS_MAX;
	run->config.max_sources = SOURCES_MAX;
	run->config.max_hosts = HOSTS_MAX;
	run->config.max_reports_per_second = 50;
	run->config.fast_leave = len & 1;
	require(gmp_new(&run->gmp) == 0);
	for (uint32_t p = 1; p <= PORTS; p++)
		step_port(run, p);
	gmp_fx_clear(&run->fx);
	for (int i = 0; i < SCRIPT_MAX && run->len; i++)
		step(run);
	for (size_t i = 0; i < run->n_told; i++)
		filter_deinit(&run->told[i].filter);
	gmp_free(run->gmp);
	gmp_fx_deinit(&run->fx);
	free(run);
	return 0;
}
