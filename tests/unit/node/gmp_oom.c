/* SPDX-License-Identifier: Apache-2.0 */
/* Each allocation of a script fails once: nothing leaks or crashes, and where
 * no overflow was told, what was told is what the engine says. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "gmp_harness.h"
#include "node/gmp/proxy.h"

/* The linker puts these before the library's (tests/unit/gmp.cmake). */
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);

static bool armed;
static long fail_at, made;

static bool fails(void)
{
	return armed && made++ == fail_at;
}

void *__wrap_malloc(size_t size)
{
	return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
	return fails() ? NULL : __real_realloc(p, size);
}

static void frame_of(struct frame *f, bool v6, int step)
{
	static const unsigned int types[] = { WIRE_ALLOW, WIRE_IS_EX, WIRE_BLOCK, WIRE_TO_IN };
	static const char *const sources[] = { "1 2 3 4 5 6 7 8 9", "3 4", "5 6 7", "1" };
	struct record records[] = { { types[step % 4], group_of(v6), sources[step % 4] },
				    { WIRE_IS_IN, addr_of(v6 ? "ff1e::2" : "239.2.2.2"), "1 2" } };
	struct addr host = host_of(v6, (unsigned int)step);

	frame_report(f, v6, &host, records, 2);
}

struct told {
	struct addr group;
	struct filter filter;
};

static void compare(struct rig *rig, struct told *told, size_t n)
{
	bool all = rig->fx.overflow;

	for (size_t k = 0; k < n; k++) {
		bool one = all;
		struct filter f;

		for (size_t i = 0; i < rig->fx.n; i++)
			one |= rig->fx.items[i].type == GMP_FX_MEMBERSHIP &&
			       addr_equal(&rig->fx.items[i].group, &told[k].group);
		cr_assert_eq(gmp_membership_filter(rig->gmp, P1, &told[k].group, &f), 0);
		cr_assert(one || filter_equal(&f, &told[k].filter), "untold at allocation %ld",
			  fail_at);
		filter_deinit(&told[k].filter);
		told[k].filter = f;
	}
	gmp_fx_clear(&rig->fx);
}

static void step(struct rig *rig, int i, const struct filter *fixed)
{
	struct addr g = group_of(rig->v6);
	struct frame f;

	frame_of(&f, rig->v6, i);
	armed = true;
	if (i == 3 || i == 9)
		gmp_port_static(rig->gmp, P1, &g, i == 3 ? fixed : NULL, rig->now, &rig->fx);
	else if (i == 6)
		gmp_port_restore(rig->gmp, P1, &g, fixed, rig->now, &rig->fx);
	else if (i % 4 == 1)
		gmp_expire(rig->gmp, rig->now += 1500, &rig->fx);
	else
		gmp_input(rig->gmp, P1, f.b, f.len, rig->now, &rig->fx);
	armed = false;
}

static bool sweep(bool v6)
{
	struct told told[] = { { group_of(v6), FILTER_NULL },
			       { addr_of(v6 ? "ff1e::2" : "239.2.2.2"), FILTER_NULL } };
	struct addr list[] = { source_of(v6, 1), source_of(v6, 20) };
	struct rig *rig = rig_new(v6, NULL);
	struct filter fixed;

	gmp_fx_deinit(&rig->fx); /* its memory is part of the sweep */
	cr_assert_eq(filter_init(&fixed, FILTER_INCLUDE, list, 2), 0);
	made = 0;
	for (int i = 0; i < 16; i++) {
		step(rig, i, &fixed);
		compare(rig, told, 2);
	}
	rig_wait(rig, 600000);
	compare(rig, told, 2);
	cr_assert_str_eq(rig_state(rig, P1), "-", "at allocation %ld", fail_at);
	filter_deinit(&fixed);
	filter_deinit(&told[0].filter);
	filter_deinit(&told[1].filter);
	rig_free(rig);
	return made <= fail_at;
}

Test(gmp_oom, each_allocation_fails_once)
{
	EACH_FAMILY(v6)
	{
		for (fail_at = 0; !sweep(v6); fail_at++)
			cr_assert_lt(fail_at, 1000);
		cr_assert_gt(fail_at, 15);
	}
}

Test(gmp_oom, ports_and_the_engine_itself)
{
	struct gmp_config config = rig_config();
	struct gmp *gmp = NULL;

	for (fail_at = 0; fail_at < 20; fail_at++) {
		struct gmp_fx fx = { 0 };
		int r = 0;

		made = 0;
		armed = true;
		r = gmp_new(&gmp);
		if (r == 0)
			r = gmp_port_add(gmp, P1, 1, &config, 1, &fx);
		armed = false;
		cr_assert(r == 0 || r == -12);
		cr_assert(r < 0 || fx.overflow || fx.n == 2);
		gmp_free(gmp);
		gmp = NULL;
		gmp_fx_deinit(&fx);
	}
}

/* ---- the proxy ----------------------------------------------------------------- */

static struct filter heard; /* of G, by a router that believes each report */

static void hear(const uint8_t *frame, size_t len, void *userdata)
{
	struct addr sources[16];
	struct wire_message m;
	struct wire_record rec;
	enum gmp_counter why;
	const uint8_t *cursor;
	bool *v6 = userdata;

	cr_assert_eq(wire_parse(frame, len, &m, &why), 0);
	cursor = m.body;
	for (uint16_t i = 0; i < m.n; i++) {
		wire_record_next(&m, &cursor, &rec);
		if (rec.type == WIRE_ALLOW || rec.type == WIRE_BLOCK)
			continue;
		for (uint16_t k = 0; k < rec.n_sources; k++)
			sources[k] = wire_source(*v6, rec.sources, k);
		filter_deinit(&heard);
		cr_assert_eq(filter_init(&heard,
					 rec.type == WIRE_IS_EX || rec.type == WIRE_TO_EX
						 ? FILTER_EXCLUDE
						 : FILTER_INCLUDE,
					 sources, rec.n_sources),
			     0);
	}
}

/* What the test allocates does not count. */
static void hear_unarmed(const uint8_t *frame, size_t len, void *userdata)
{
	armed = false;
	hear(frame, len, userdata);
	armed = true;
}

static bool proxy_sweep(bool v6)
{
	const struct proxy_config config = { .robustness = 1,
					     .unsolicited_interval_ms = 1000,
					     .source = addr_of(v6 ? "fe80::9" : "0.0.0.0") };
	static const char *const states[] = { "1", "12", "x3", "x34", "x", "5" };
	struct addr g = group_of(v6);
	struct wire_message ask = { .kind = WIRE_QUERY,
				    .version = v6 ? GMP_MLDV2 : GMP_IGMPV3,
				    .v6 = v6,
				    .max_response_ms = 100 };
	uint64_t now = 1000;
	struct proxy *p = NULL;

	made = 0;
	armed = true;
	while (proxy_new(v6, &config, 1, &p) < 0)
		;
	for (size_t i = 0; i < 6; i++) {
		bool exclude = states[i][0] == 'x';
		struct addr list[4];
		struct filter f;
		size_t n = 0;

		armed = false;
		for (const char *s = states[i] + exclude; *s; s++)
			list[n++] = source_of(v6, (unsigned int)(*s - '0'));
		filter_init(&f, exclude, list, n);
		armed = true;
		while (proxy_want(p, &g, &f, now) < 0)
			;
		for (int turn = 0; turn < 4 && proxy_next_ms(p) != UINT64_MAX; turn++) {
			now = proxy_next_ms(p);
			proxy_expire(p, now, hear_unarmed, &v6);
		}
		armed = false;
		cr_assert_eq(proxy_next_ms(p), UINT64_MAX, "all was said");
		proxy_query(p, &ask, now);
		now = proxy_next_ms(p);
		proxy_expire(p, now, hear, &v6);
		cr_assert(filter_equal(&heard, &f), "at allocation %ld", fail_at);
		filter_deinit(&f);
		armed = true;
	}
	armed = false;
	proxy_free(p);
	filter_deinit(&heard);
	heard = FILTER_NULL;
	return made <= fail_at;
}

Test(gmp_oom, proxy_says_what_is_wanted_after_each_failure)
{
	EACH_FAMILY(v6)
	{
		for (fail_at = 0; !proxy_sweep(v6); fail_at++)
			cr_assert_lt(fail_at, 1000);
		cr_assert_gt(fail_at, 10);
	}
}
