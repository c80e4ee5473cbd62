/* SPDX-License-Identifier: Apache-2.0 */
/* The router-side state table, RFC 9776 6.4 and RFC 9777 7.4: B of
 * docs/conformance.md, the same vectors for both families (H10). */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "gmp_harness.h"

enum { IS_IN = 1, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK };

/*
 * "IN 1 2" is INCLUDE(1, 2), "EX 1 2/3" EXCLUDE({1, 2}, {3}), made 10 s before
 * the event: timers left alone show 260, new ones 270, lowered ones 2.
 * "!": the port has no querier, so nothing is lowered.
 */
static const struct row {
	const char *id, *before;
	unsigned int event;
	const char *sources, *after, *queries;
} rows[] = {
	{ "B01", "IN 1 2", IS_IN, "2 3", "IN{1:260 2:270 3:270}", "" },
	{ "B01", "IN 1 2", IS_IN, "", "IN{1:260 2:260}", "" },
	{ "B01", "-", IS_IN, "1 2", "IN{1:270 2:270}", "" },
	{ "B01", "-", IS_IN, "", "-", "" },

	{ "B02", "IN 1 2", IS_EX, "2 3", "EX:270{2:260}{3}", "" },
	{ "B02", "IN 1 2", IS_EX, "", "EX:270{}{}", "" },
	{ "B02", "IN 1", IS_EX, "2", "EX:270{}{2}", "" },
	{ "B02", "-", IS_EX, "1", "EX:270{}{1}", "" },
	{ "B02", "-", IS_EX, "", "EX:270{}{}", "" },

	{ "B03", "EX 1 2/3 4", IS_IN, "2 3 5", "EX:260{1:260 2:270 3:270 5:270}{4}", "" },
	{ "B03", "EX 1 2/3 4", IS_IN, "", "EX:260{1:260 2:260}{3 4}", "" },
	{ "B03", "EX /", IS_IN, "1", "EX:260{1:270}{}", "" },

	{ "B04", "EX 1 2/3 4", IS_EX, "2 3 5", "EX:270{2:260 5:270}{3}", "" },
	{ "B04", "EX 1 2/3 4", IS_EX, "", "EX:270{}{}", "" },
	{ "B04", "EX /", IS_EX, "1", "EX:270{1:270}{}", "" },
	{ "B04", "EX /1", IS_EX, "1", "EX:270{}{1}", "" },

	{ "B05", "IN 1 2", ALLOW, "2 3", "IN{1:260 2:270 3:270}", "" },
	{ "B05", "IN 1 2", ALLOW, "", "IN{1:260 2:260}", "" },
	{ "B05", "-", ALLOW, "1", "IN{1:270}", "" },
	{ "B05", "-", ALLOW, "", "-", "" },

	{ "B06", "IN 1 2", BLOCK, "2 3", "IN{1:260 2:2}", "Q(G,2)" },
	{ "B06", "IN 1 2", BLOCK, "3", "IN{1:260 2:260}", "" },
	{ "B06", "IN 1 2", BLOCK, "", "IN{1:260 2:260}", "" },
	{ "B06", "-", BLOCK, "1", "-", "" },
	{ "B06", "!IN 1 2", BLOCK, "2 3", "IN{1:260 2:260}", "" },

	{ "B07", "IN 1 2", TO_EX, "2 3", "EX:270{2:2}{3}", "Q(G,2)" },
	{ "B07", "IN 1 2", TO_EX, "3", "EX:270{}{3}", "" },
	{ "B07", "IN 1 2", TO_EX, "", "EX:270{}{}", "" },
	{ "B07", "-", TO_EX, "1", "EX:270{}{1}", "" },
	{ "B07", "-", TO_EX, "", "EX:270{}{}", "" },
	{ "B07", "!IN 1 2", TO_EX, "2 3", "EX:270{2:260}{3}", "" },

	{ "B08", "IN 1 2", TO_IN, "2 3", "IN{1:2 2:270 3:270}", "Q(G,1)" },
	{ "B08", "IN 1 2", TO_IN, "", "IN{1:2 2:2}", "Q(G,1 2)" },
	{ "B08", "IN 1 2", TO_IN, "1 2", "IN{1:270 2:270}", "" },
	{ "B08", "-", TO_IN, "1", "IN{1:270}", "" },
	{ "B08", "-", TO_IN, "", "-", "" },
	{ "B08", "!IN 1 2", TO_IN, "", "IN{1:260 2:260}", "" },

	{ "B09", "EX 1 2/3 4", ALLOW, "2 3 5", "EX:260{1:260 2:270 3:270 5:270}{4}", "" },
	{ "B09", "EX 1 2/3 4", ALLOW, "", "EX:260{1:260 2:260}{3 4}", "" },
	{ "B09", "EX /", ALLOW, "1", "EX:260{1:270}{}", "" },

	{ "B10", "EX 1 2/3 4", BLOCK, "2 3 5", "EX:260{1:260 2:2 5:2}{3 4}", "Q(G,2 5)" },
	{ "B10", "EX 1/3", BLOCK, "3", "EX:260{1:260}{3}", "" },
	{ "B10", "EX 1/3", BLOCK, "", "EX:260{1:260}{3}", "" },
	{ "B10", "EX /", BLOCK, "1", "EX:260{1:2}{}", "Q(G,1)" },
	{ "B10", "!EX 1 2/3 4", BLOCK, "2 3 5", "EX:260{1:260 2:260 5:260}{3 4}", "" },

	{ "B11", "EX 1 2/3 4", TO_EX, "2 3 5", "EX:270{2:2 5:2}{3}", "Q(G,2 5)" },
	{ "B11", "EX 1 2/3 4", TO_EX, "3", "EX:270{}{3}", "" },
	{ "B11", "EX 1 2/3 4", TO_EX, "", "EX:270{}{}", "" },
	{ "B11", "!EX 1 2/3 4", TO_EX, "2 3 5", "EX:270{2:260 5:260}{3}", "" },

	{ "B12", "EX 1 2/3 4", TO_IN, "2 3 5", "EX:2{1:2 2:270 3:270 5:270}{4}", "Q(G,1) Q(G)" },
	{ "B12", "EX 1 2/3 4", TO_IN, "", "EX:2{1:2 2:2}{3 4}", "Q(G,1 2) Q(G)" },
	{ "B12", "EX /", TO_IN, "", "EX:2{}{}", "Q(G)" },
	{ "B12", "EX /1", TO_IN, "1", "EX:2{1:270}{}", "Q(G)" },
	{ "B12", "!EX 1 2/3", TO_IN, "", "EX:260{1:260 2:260}{3}", "" },
};

static void make_state(struct rig *rig, const char *before)
{
	char requested[64];
	const char *slash = strchr(before, '/');

	if (before[0] == 'I') {
		rig_report(rig, P1, ALLOW, before + 3);
	} else if (before[0] == 'E') {
		snprintf(requested, sizeof(requested), "%.*s", (int)(slash - before - 3),
			 before + 3);
		rig_report(rig, P1, IS_EX, slash + 1);
		rig_report(rig, P1, ALLOW,
			   strspn(requested, " ") == strlen(requested) ? "" : requested);
	}
	rig_wait(rig, 10000);
}

static void run(const char *id)
{
	size_t ran = 0;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *row = &rows[i];

		if (strcmp(row->id, id) != 0)
			continue;
		EACH_FAMILY(v6)
		{
			struct gmp_config config = rig_config();
			struct rig *rig;

			config.querier = row->before[0] != '!';
			rig = rig_new(v6, &config);
			make_state(rig, row->before + (row->before[0] == '!'));
			rig_report(rig, P1, row->event, row->sources);
			cr_expect_str_eq(rig_state(rig, P1), row->after,
					 "%s family %d: %s, event %u {%s}: %s, not %s", id, v6,
					 row->before, row->event, row->sources, rig_state(rig, P1),
					 row->after);
			cr_expect_str_eq(rig_queries(rig, P1), row->queries,
					 "%s family %d: %s, event %u {%s}: sent \"%s\"", id, v6,
					 row->before, row->event, row->sources,
					 rig_queries(rig, P1));
			cr_expect_str_eq(rig_state(rig, P2), "-");
			rig_free(rig);
			ran++;
		}
	}
	cr_assert_geq(ran, 6);
}

Test(conformance, B01_inc_is_in)
{
	run("B01");
}
Test(conformance, B02_inc_is_ex)
{
	run("B02");
}
Test(conformance, B03_exc_is_in)
{
	run("B03");
}
Test(conformance, B04_exc_is_ex)
{
	run("B04");
}
Test(conformance, B05_inc_allow)
{
	run("B05");
}
Test(conformance, B06_inc_block)
{
	run("B06");
}
Test(conformance, B07_inc_to_ex)
{
	run("B07");
}
Test(conformance, B08_inc_to_in)
{
	run("B08");
}
Test(conformance, B09_exc_allow)
{
	run("B09");
}
Test(conformance, B10_exc_block)
{
	run("B10");
}
Test(conformance, B11_exc_to_ex)
{
	run("B11");
}
Test(conformance, B12_exc_to_in)
{
	run("B12");
}

Test(conformance, B13_unseen_group_is_include_nothing)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		cr_assert_str_eq(rig_state(rig, P1), "-");
		cr_assert_str_eq(rig_view(rig, P1), "IN{}");
		rig_report(rig, P1, BLOCK, "1");
		rig_report(rig, P1, TO_IN, "");
		cr_assert_str_eq(rig_state(rig, P1), "-");
		cr_assert_eq(rig->fx.n, 0);
		cr_assert_eq(gmp_port_membership_count(rig->gmp, P1), 0);
		rig_free(rig);
	}
}

Test(conformance, B14_inc_source_timer)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, ALLOW, "1");
		rig_wait(rig, 1000);
		rig_report(rig, P1, ALLOW, "2");
		gmp_fx_clear(&rig->fx);
		rig_wait(rig, 268999);
		cr_assert_str_eq(rig_view(rig, P1), "IN{1 2}");
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_MEMBERSHIP), 0);
		rig_wait(rig, 1);
		cr_assert_str_eq(rig_view(rig, P1), "IN{2}");
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_MEMBERSHIP), 1);
		rig_wait(rig, 999);
		cr_assert_str_eq(rig_view(rig, P1), "IN{2}");
		rig_wait(rig, 1);
		cr_assert_str_eq(rig_state(rig, P1), "-");
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_MEMBERSHIP), 2);
		rig_free(rig);
	}
}

Test(conformance, B15_exc_source_timer_blocks)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, IS_EX, "");
		rig_report(rig, P1, ALLOW, "1");
		rig_wait(rig, 5000);
		rig_report(rig, P1, TO_EX, "1"); /* group timer 270, source LMQT */
		rig_wait(rig, 1999);
		cr_assert_str_eq(rig_view(rig, P1), "EX{}");
		gmp_fx_clear(&rig->fx);
		rig_wait(rig, 1);
		cr_assert_str_eq(rig_state(rig, P1), "EX:268{}{1}");
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_MEMBERSHIP), 1);
		rig_free(rig);
	}
}

Test(conformance, B16_exc_group_timer_keeps_the_requested)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, IS_EX, "2");
		rig_wait(rig, 10000);
		rig_report(rig, P1, ALLOW, "1");
		gmp_fx_clear(&rig->fx);
		rig_wait(rig, 259999);
		cr_assert_str_eq(rig_view(rig, P1), "EX{2}");
		rig_wait(rig, 1);
		cr_assert_str_eq(rig_state(rig, P1), "IN{1:10}");
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_MEMBERSHIP), 1);
		rig_free(rig);
	}
}

Test(conformance, B17_exc_group_timer_deletes)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, IS_EX, "1 2");
		gmp_fx_clear(&rig->fx);
		rig_wait(rig, 269999);
		cr_assert_str_eq(rig_view(rig, P1), "EX{1 2}");
		rig_wait(rig, 1);
		cr_assert_str_eq(rig_state(rig, P1), "-");
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_MEMBERSHIP), 1);
		cr_assert_eq(gmp_port_membership_count(rig->gmp, P1), 0);
		rig_free(rig);
	}
}

Test(conformance, B18_what_is_forwarded)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, ALLOW, "1");
		cr_assert(rig_forwards(rig, P1, 1) && !rig_forwards(rig, P1, 2));
		rig_report(rig, P2, IS_EX, "1");
		rig_report(rig, P2, ALLOW, "2");
		cr_assert(!rig_forwards(rig, P2, 1));
		cr_assert(rig_forwards(rig, P2, 2) && rig_forwards(rig, P2, 3));
		rig_free(rig);
	}
}

Test(conformance, B19_blocked_source_flows_until_the_last_member_time)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, ALLOW, "1 2");
		rig_report(rig, P1, BLOCK, "1");
		rig_wait(rig, 500);
		cr_assert(rig_forwards(rig, P1, 1));
		rig_wait(rig, 1499);
		cr_assert(rig_forwards(rig, P1, 1));
		rig_wait(rig, 1);
		cr_assert(!rig_forwards(rig, P1, 1));
		cr_assert(rig_forwards(rig, P1, 2));
		rig_free(rig);
	}
}

/* ---- B20: random inputs against a model of the table ------------------------- */

#define N    6
#define GMI  270000
#define LMQT 2000
#define GONE UINT64_MAX

struct model {
	bool exclude;
	uint64_t group, source[N + 1]; /* GONE: not there; 0: blocked */
};

static void model_expire(struct model *m, uint64_t now)
{
	for (int i = 1; i <= N; i++) {
		if (m->source[i] && m->source[i] <= now)
			m->source[i] = m->exclude ? 0 : GONE;
	}
	if (!m->exclude || m->group > now)
		return;
	m->exclude = false;
	for (int i = 1; i <= N; i++)
		m->source[i] = m->source[i] ? m->source[i] : GONE;
}

static void model_event(struct model *m, unsigned int event, unsigned int set, uint64_t now,
			bool querier)
{
	bool excludes = event == IS_EX || event == TO_EX, was_exclude = m->exclude;

	for (int i = 1; i <= N; i++) {
		bool in = set >> i & 1, there = m->source[i] != GONE, asks;

		if (in && (event == IS_IN || event == ALLOW || event == TO_IN))
			m->source[i] = now + GMI;
		else if (in && !there && excludes)
			m->source[i] = !was_exclude ? 0 : event == IS_EX ? now + GMI : m->group;
		else if (in && !there && event == BLOCK && was_exclude)
			m->source[i] = m->group;
		else if (!in && excludes)
			m->source[i] = GONE;
		asks = ((event == BLOCK || event == TO_EX) && in) || (event == TO_IN && !in);
		if (querier && asks && m->source[i] != GONE && m->source[i] > now + LMQT)
			m->source[i] = now + LMQT;
	}
	if (excludes) {
		m->exclude = true;
		m->group = now + GMI;
	} else if (querier && event == TO_IN && was_exclude && m->group > now + LMQT) {
		m->group = now + LMQT;
	}
}

static const char *model_state(const struct model *m, uint64_t now)
{
	static char text[512];
	size_t len = 0;
	bool any = m->exclude;

#define SAY(...)    (len += (size_t)snprintf(text + len, sizeof(text) - len, __VA_ARGS__))
#define SAY_TIME(t) SAY((t) % 1000 ? ":%.1f" : ":%.0f", (double)(t) / 1000)
	SAY(m->exclude ? "EX" : "IN");
	if (m->exclude)
		SAY_TIME(m->group - now);
	for (int blocked = 0; blocked <= m->exclude; blocked++) {
		const char *gap = "";

		SAY("{");
		for (int i = 1; i <= N; i++) {
			if (m->source[i] == GONE || (m->source[i] == 0) != blocked)
				continue;
			any = true;
			SAY("%s%d", gap, i);
			gap = " ";
			if (m->source[i])
				SAY_TIME(m->source[i] - now);
		}
		SAY("}");
	}
	return any ? text : "-";
}

static void model_run(bool v6, bool querier, unsigned int seed)
{
	static const uint64_t steps[] = { 0, 0, 500, 1000, 1500, 2000, 60000, 130000, 269999 };
	struct gmp_config config = rig_config();
	struct model m = { .source = { GONE, GONE, GONE, GONE, GONE, GONE, GONE } };
	char told[512] = "IN{}";
	struct rig *rig;

	config.querier = querier;
	rig = rig_new(v6, &config);
	for (int i = 0; i < 1500; i++) {
		unsigned int event = 1 + (unsigned int)rand_r(&seed) % 6, n = 0;
		unsigned int set = (unsigned int)rand_r(&seed) & (unsigned int)rand_r(&seed) & 0x7e;
		uint64_t step = steps[(unsigned int)rand_r(&seed) % 9], end = rig->now + step;
		char sources[32] = "";

		for (int s = 1; s <= N; s++) {
			if (set >> s & 1)
				n += (unsigned int)snprintf(sources + n, sizeof(sources) - n,
							    n ? " %d" : "%d", s);
		}
		gmp_fx_clear(&rig->fx);
		for (uint64_t t; (t = gmp_next_ms(rig->gmp)) <= end;) {
			rig->now = t > rig->now ? t : rig->now;
			model_expire(&m, rig->now);
			gmp_expire(rig->gmp, rig->now, &rig->fx);
		}
		rig->now = end;
		model_expire(&m, end);
		if (!rig_effects(rig, P1, GMP_FX_MEMBERSHIP))
			cr_assert_str_eq(rig_view(rig, P1), told, "changed by time, untold");
		snprintf(told, sizeof(told), "%s", rig_view(rig, P1));
		rig_report(rig, P1, event, sources);
		model_event(&m, event, set, rig->now, querier);
		cr_assert_str_eq(rig_state(rig, P1), model_state(&m, rig->now),
				 "step %d, event %u {%s}: %s, the model says %s", i, event, sources,
				 rig_state(rig, P1), model_state(&m, rig->now));
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_MEMBERSHIP),
			     strcmp(told, rig_view(rig, P1)) != 0, "told exactly when %s became %s",
			     told, rig_view(rig, P1));
		snprintf(told, sizeof(told), "%s", rig_view(rig, P1));
	}
	rig_free(rig);
}

Test(conformance, B20_random_inputs_agree_with_a_model)
{
	EACH_FAMILY(v6)
	{
		for (unsigned int seed = 1; seed <= 4; seed++)
			model_run(v6, seed % 2, seed);
	}
}

Test(conformance, B21_answers_to_general_queries_keep_the_group)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, IS_EX, "");
		for (int i = 0; i < 7; i++) {
			gmp_fx_clear(&rig->fx);
			rig_wait(rig, 125000);
			cr_assert_eq(rig_effects(rig, P1, GMP_FX_MEMBERSHIP), 0);
			rig_report(rig, P1, IS_EX, "");
			cr_assert_eq(rig->fx.n, 0);
			cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		}
		rig_free(rig);
	}
}

Test(conformance, B22_silence_ends_the_group)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, IS_EX, "");
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_MEMBERSHIP), 1);
		gmp_fx_clear(&rig->fx);
		rig_wait(rig, 269999);
		cr_assert(rig_forwards(rig, P1, 1));
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_MEMBERSHIP), 0);
		rig_wait(rig, 1);
		cr_assert(!rig_forwards(rig, P1, 1));
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_MEMBERSHIP), 1);
		rig_free(rig);
	}
}

Test(gmp_state, input_after_a_deadline_finds_it_run_out)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, IS_EX, "");
		rig->now += 270000; /* nobody ran the timers */
		rig_report(rig, P1, ALLOW, "1");
		cr_assert_str_eq(rig_state(rig, P1), "IN{1:270}");
		rig_free(rig);
	}
}

Test(gmp_state, queries_of_sources_keep_clocks_of_their_own)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, ALLOW, "1 2");
		rig_report(rig, P1, BLOCK, "1");
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G,1)");
		rig_wait(rig, 400);
		rig_report(rig, P1, BLOCK, "2");
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G,2)");
		gmp_fx_clear(&rig->fx);
		rig_wait(rig, 600);
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G,1)");
		rig_wait(rig, 399);
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G,1)");
		rig_wait(rig, 1);
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G,1) Q(G,2)");
		rig_wait(rig, 3000);
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G,1) Q(G,2)");
		rig_free(rig);
	}
}
