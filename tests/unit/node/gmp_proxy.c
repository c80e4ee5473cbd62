/* SPDX-License-Identifier: Apache-2.0 */
#include "node/gmp/proxy.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "gmp_harness.h"

/* One proxy; what it sent since the last look, in words. */
struct host {
	struct proxy *p;
	bool v6;
	uint64_t now;
	uint8_t last[WIRE_FRAME_MAX];
	size_t last_len, frames;
	char text[65536];
	size_t len;
};

static const struct proxy_config defaults = {
	.robustness = 2,
	.unsolicited_interval_ms = 1000,
	.query_interval_ms = 125000,
	.mac = { 2, 1, 2, 3, 4, 5 },
};

static struct addr group_number(bool v6, unsigned int n)
{
	char text[32];

	snprintf(text, sizeof(text), v6 ? "ff1e::%x" : "239.1.%u.%u", v6 ? n + 1 : n / 250,
		 n % 250 + 1);
	return addr_of(text);
}

static struct host *host_new(bool v6)
{
	struct proxy_config config = defaults;
	struct host *h = calloc(1, sizeof(*h));

	cr_assert_not_null(h);
	config.source = addr_of(v6 ? "fe80::9:9" : "0.0.0.0");
	h->v6 = v6;
	h->now = 1000;
	cr_assert_eq(proxy_new(v6, &config, 7, &h->p), 0);
	return h;
}

static void host_free(struct host *h)
{
	proxy_free(h->p);
	free(h);
}

static void say(struct host *h, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(struct host *h, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	h->len += (size_t)vsnprintf(h->text + h->len, sizeof(h->text) - h->len, format, args);
	va_end(args);
	cr_assert_lt(h->len, sizeof(h->text));
}

static void on_send(const uint8_t *frame, size_t len, void *userdata)
{
	static const char *const types[] = { "?",     "IS_IN", "IS_EX", "TO_IN",
					     "TO_EX", "ALLOW", "BLOCK" };
	struct host *h = userdata;
	struct wire_message m;
	enum gmp_counter why;
	const uint8_t *cursor;

	cr_assert_leq(len, 1514);
	cr_assert_eq(wire_parse(frame, len, &m, &why), 0, "%s", gmp_counter_name(why));
	cr_assert(m.router_alert && m.v6 == h->v6);
	memcpy(h->last, frame, len);
	h->last_len = len;
	h->frames++;
	if (m.kind != WIRE_REPORT_V3) {
		say(h, "%s%s%u", h->len ? " " : "", m.kind == WIRE_LEAVE ? "leave" : "v",
		    m.kind == WIRE_LEAVE       ? 0
		    : m.kind == WIRE_REPORT_V1 ? 1
					       : 2);
		return;
	}
	cursor = m.body;
	for (uint16_t i = 0; i < m.n; i++) {
		struct wire_record rec;

		wire_record_next(&m, &cursor, &rec);
		say(h, "%s%s%u{", h->len ? " " : "", types[rec.type], rec.group.b[15]);
		for (uint16_t k = 0; k < rec.n_sources; k++)
			say(h, "%s%u", k ? " " : "", wire_source(h->v6, rec.sources, k).b[15]);
		say(h, "}");
	}
}

/* What is due at h->now, once. */
static const char *said(struct host *h)
{
	h->len = h->frames = 0;
	h->text[0] = '\0';
	proxy_expire(h->p, h->now, on_send, h);
	return h->text;
}

/* Nothing until the next time that it names; what it says then. */
static const char *said_next(struct host *h, uint64_t within_ms)
{
	uint64_t next = proxy_next_ms(h->p);

	cr_assert(next > h->now && next <= h->now + within_ms, "%lu after %lu", (unsigned long)next,
		  (unsigned long)h->now);
	h->now = next - 1;
	cr_assert_str_eq(said(h), "");
	h->now = next;
	return said(h);
}

static void want(struct host *h, unsigned int group, enum filter_mode mode, const char *sources)
{
	struct addr list[16], g = group_number(h->v6, group - 1);
	struct filter f;
	size_t n = 0;

	for (; *sources; sources++) {
		if (*sources != ' ')
			list[n++] = source_of(h->v6, (unsigned int)(*sources - '0'));
	}
	cr_assert_eq(filter_init(&f, mode, list, n), 0);
	cr_assert_eq(proxy_want(h->p, &g, &f, h->now), 0);
	filter_deinit(&f);
}

#define IN FILTER_INCLUDE
#define EX FILTER_EXCLUDE

static void ask(struct host *h, enum gmp_version version, unsigned int group, const char *sources,
		uint8_t code)
{
	struct query q = {
		.source = addr_of(h->v6 ? "fe80::1" : "10.0.0.1"),
		.version = version,
		.sources = sources,
	};
	struct wire_message m;
	enum gmp_counter why;
	struct frame f;

	if (group)
		q.group = group_number(h->v6, group - 1);
	frame_query(&f, &q);
	cr_assert_eq(wire_parse(f.b, f.len, &m, &why), 0);
	m.max_response_ms = code * 100u;
	proxy_query(h->p, &m, h->now);
}

static enum gmp_version newest(const struct host *h)
{
	return h->v6 ? GMP_MLDV2 : GMP_IGMPV3;
}

/* The copies that are left. */
static void drain(struct host *h)
{
	for (int i = 0; i < 10 && proxy_next_ms(h->p) != UINT64_MAX; i++) {
		h->now = proxy_next_ms(h->p);
		said(h);
	}
	cr_assert_eq(proxy_next_ms(h->p), UINT64_MAX);
}

/* ---- changes ------------------------------------------------------------------- */

Test(conformance, C08_unsolicited_report_interval)
{
	EACH_FAMILY(v6)
	{
		struct host *h = host_new(v6);

		want(h, 1, EX, "");
		cr_assert_eq(proxy_next_ms(h->p), h->now, "the first at once");
		cr_assert_str_eq(said(h), "TO_EX1{}");
		cr_assert_str_eq(said_next(h, 1000), "TO_EX1{}", "robustness times");
		cr_assert_eq(proxy_next_ms(h->p), UINT64_MAX);
		host_free(h);
	}
}

Test(proxy, changes_of_sources_and_of_mode)
{
	EACH_FAMILY(v6)
	{
		struct host *h = host_new(v6);

		want(h, 1, IN, "12");
		cr_assert_str_eq(said(h), "ALLOW1{1 2}");
		drain(h);
		want(h, 1, IN, "23");
		cr_assert_str_eq(said(h), "ALLOW1{3} BLOCK1{1}");
		drain(h);
		want(h, 1, EX, "45");
		cr_assert_str_eq(said(h), "TO_EX1{4 5}");
		drain(h);
		want(h, 1, EX, "5");
		cr_assert_str_eq(said(h), "ALLOW1{4}");
		cr_assert_str_eq(said_next(h, 1000), "ALLOW1{4}");
		want(h, 1, EX, "56");
		cr_assert_str_eq(said(h), "BLOCK1{6}");
		want(h, 1, IN, "7");
		cr_assert_str_eq(said(h), "TO_IN1{7}", "and no more of the source");
		cr_assert_str_eq(said_next(h, 1000), "TO_IN1{7}");
		want(h, 1, IN, "");
		cr_assert_str_eq(said(h), "BLOCK1{7}");
		cr_assert_str_eq(said_next(h, 1000), "BLOCK1{7}");
		want(h, 1, EX, "");
		drain(h);
		want(h, 1, IN, "");
		cr_assert_str_eq(said(h), "TO_IN1{}");
		cr_assert_str_eq(said_next(h, 1000), "TO_IN1{}");
		cr_assert_eq(proxy_next_ms(h->p), UINT64_MAX);
		want(h, 1, IN, "");
		cr_assert_eq(proxy_next_ms(h->p), UINT64_MAX, "nothing was, nothing is");
		host_free(h);
	}
}

Test(proxy, a_change_that_overtakes_another_says_what_is_true_now)
{
	EACH_FAMILY(v6)
	{
		struct host *h = host_new(v6);

		want(h, 1, IN, "1");
		cr_assert_str_eq(said(h), "ALLOW1{1}");
		want(h, 1, IN, "2");
		cr_assert_str_eq(said(h), "ALLOW1{2} BLOCK1{1}");
		want(h, 1, IN, "12");
		cr_assert_str_eq(said(h), "ALLOW1{1 2}", "two's second copy goes along");
		cr_assert_str_eq(said_next(h, 1000), "ALLOW1{1}");
		cr_assert_eq(proxy_next_ms(h->p), UINT64_MAX);
		want(h, 1, EX, "");
		cr_assert_str_eq(said(h), "TO_EX1{}");
		want(h, 1, EX, "3");
		cr_assert_str_eq(said(h), "TO_EX1{3}", "the whole filter while the mode is told");
		cr_assert_str_eq(said_next(h, 1000), "BLOCK1{3}");
		cr_assert_eq(proxy_next_ms(h->p), UINT64_MAX);
		host_free(h);
	}
}

Test(proxy, robustness_is_the_number_of_copies)
{
	struct proxy_config config = defaults;
	struct host *h = host_new(false);

	config.robustness = 4;
	config.source = addr_of("0.0.0.0");
	proxy_configure(h->p, &config);
	want(h, 1, EX, "");
	cr_assert_str_eq(said(h), "TO_EX1{}");
	for (int i = 0; i < 3; i++)
		cr_assert_str_eq(said_next(h, 1000), "TO_EX1{}");
	cr_assert_eq(proxy_next_ms(h->p), UINT64_MAX);
	host_free(h);
}

Test(proxy, many_groups_in_few_packets)
{
	EACH_FAMILY(v6)
	{
		struct host *h = host_new(v6);
		size_t each = v6 ? 20 : 8, room = wire_report_room(v6);

		for (unsigned int i = 1; i <= 1000; i++)
			want(h, i, EX, "");
		said(h);
		cr_assert_eq(h->frames, (1000 + room / each - 1) / (room / each));
		drain(h);
		ask(h, newest(h), 0, "", 100);
		h->now = proxy_next_ms(h->p);
		said(h);
		cr_assert_eq(h->frames, (1000 + room / each - 1) / (room / each));
		host_free(h);
	}
}

Test(proxy, long_lists_are_split_and_those_of_exclude_cut)
{
	EACH_FAMILY(v6)
	{
		size_t fit = (wire_report_room(v6) - (v6 ? 20 : 8)) / (v6 ? 16 : 4);
		struct host *h = host_new(v6);
		struct addr list[1000], g = group_number(v6, 0);
		struct filter f;

		for (size_t i = 0; i < 1000; i++) {
			list[i] = source_of(v6, 1);
			list[i].b[14] = (uint8_t)(i >> 8);
			list[i].b[15] = (uint8_t)i;
		}
		cr_assert_eq(filter_init(&f, IN, list, 1000), 0);
		cr_assert_eq(proxy_want(h->p, &g, &f, h->now), 0);
		said(h);
		cr_assert_eq(h->frames, (1000 + fit - 1) / fit);
		f.mode = EX;
		cr_assert_eq(proxy_want(h->p, &g, &f, h->now), 0);
		said(h);
		cr_assert_eq(h->frames, 1, "what is left out passes");
		filter_deinit(&f);
		host_free(h);
	}
}

/* ---- answers --------------------------------------------------------------------- */

Test(proxy, general_queries_are_answered_within_their_time)
{
	EACH_FAMILY(v6)
	{
		uint64_t first = 0, other = 0;
		struct host *h = host_new(v6);

		want(h, 1, EX, "12");
		want(h, 2, IN, "3");
		drain(h);
		for (int i = 0; i < 20; i++) {
			uint64_t asked = h->now;

			ask(h, newest(h), 0, "", 20);
			cr_assert_str_eq(said_next(h, 2000), "IS_EX1{1 2} IS_IN2{3}");
			other += i && h->now - asked != first;
			first = h->now - asked;
			cr_assert_eq(proxy_next_ms(h->p), UINT64_MAX, "once");
		}
		cr_assert_gt(other, 10, "at random");
		want(h, 1, IN, "");
		want(h, 2, IN, "");
		drain(h);
		ask(h, newest(h), 0, "", 20);
		cr_assert_str_eq(said_next(h, 2000), "", "nothing is wanted");
		host_free(h);
	}
}

Test(proxy, the_sooner_answer_stands)
{
	struct host *h = host_new(false);
	uint64_t at;

	want(h, 1, EX, "");
	drain(h);
	ask(h, GMP_IGMPV3, 0, "", 1);
	at = proxy_next_ms(h->p);
	ask(h, GMP_IGMPV3, 0, "", 250);
	ask(h, GMP_IGMPV3, 1, "", 250);
	cr_assert_eq(proxy_next_ms(h->p), at);
	cr_assert_str_eq(said_next(h, 100), "IS_EX1{}");
	cr_assert_eq(proxy_next_ms(h->p), UINT64_MAX, "that answered them all");
	ask(h, GMP_IGMPV3, 0, "", 250);
	h->now++;
	for (int i = 0; i < 100; i++)
		ask(h, GMP_IGMPV3, 0, "", 1);
	cr_assert_leq(proxy_next_ms(h->p), h->now + 100);
	said_next(h, 100);
	cr_assert_eq(proxy_next_ms(h->p), UINT64_MAX);
	host_free(h);
}

Test(proxy, group_and_source_queries)
{
	EACH_FAMILY(v6)
	{
		struct host *h = host_new(v6);

		want(h, 1, EX, "12");
		want(h, 2, IN, "34");
		drain(h);
		ask(h, newest(h), 1, "", 10);
		cr_assert_str_eq(said_next(h, 1000), "IS_EX1{1 2}");
		ask(h, newest(h), 1, "1 3", 10);
		cr_assert_str_eq(said_next(h, 1000), "IS_IN1{3}", "one is not wanted");
		ask(h, newest(h), 2, "1 3 4", 10);
		cr_assert_str_eq(said_next(h, 1000), "IS_IN2{3 4}");
		ask(h, newest(h), 2, "1 2", 10);
		cr_assert_str_eq(said_next(h, 1000), "", "none of them");
		ask(h, newest(h), 3, "", 10);
		cr_assert_eq(proxy_next_ms(h->p), UINT64_MAX, "nobody wants it");
		ask(h, newest(h), 2, "3", 10);
		ask(h, newest(h), 2, "3 4", 10);
		cr_assert_str_eq(said_next(h, 1000), "IS_IN2{3 4}", "both in one");
		ask(h, newest(h), 2, "3", 10);
		ask(h, newest(h), 2, "", 10);
		ask(h, newest(h), 2, "4", 10);
		cr_assert_str_eq(said_next(h, 1000), "IS_IN2{3 4}", "the whole group");
		ask(h, newest(h), 2, "3 4", 10);
		want(h, 2, IN, "4");
		cr_assert_str_eq(said(h), "BLOCK2{3}");
		while (proxy_next_ms(h->p) != UINT64_MAX) {
			h->now = proxy_next_ms(h->p);
			cr_assert(!strstr(said(h), "IS_IN2{3"), "what is true when it is said");
		}
		host_free(h);
	}
}

/* ---- versions --------------------------------------------------------------------- */

Test(conformance, C09_older_querier_present)
{
	EACH_FAMILY(v6)
	{
		struct host *h = host_new(v6);
		uint64_t until;

		want(h, 1, EX, "");
		drain(h);
		ask(h, v6 ? GMP_MLDV1 : GMP_IGMPV2, 0, "", 100);
		until = h->now + 2 * 125000 + 10 * 10000;
		cr_assert_str_eq(said_next(h, 10000 + 200), "v2");
		ask(h, newest(h), 1, "1 2", 10);
		cr_assert_str_eq(said_next(h, 1000), "v2", "the version stays");
		h->now = until - 1;
		said(h);
		want(h, 1, EX, "1");
		cr_assert_str_eq(said(h), "", "of sources there is nothing to say");
		h->now = until;
		said(h);
		want(h, 1, EX, "");
		cr_assert_str_eq(said(h), "ALLOW1{1}");
		host_free(h);
	}
}

Test(proxy, reports_and_leaves_of_older_versions)
{
	EACH_FAMILY(v6)
	{
		struct host *h = host_new(v6);

		ask(h, v6 ? GMP_MLDV1 : GMP_IGMPV2, 0, "", 100);
		want(h, 1, IN, "1");
		cr_assert_str_eq(said(h), "v2", "any wish is one for all sources");
		cr_assert_str_eq(said_next(h, 1000), "v2");
		want(h, 1, EX, "1");
		cr_assert_str_eq(said(h), "");
		want(h, 1, IN, "");
		cr_assert_str_eq(said(h), "leave0");
		cr_assert_eq(memcmp(h->last, v6 ? "\x33\x33\0\0\0\x02" : "\x01\0\x5e\0\0\x02", 6),
			     0);
		want(h, 1, EX, "");
		cr_assert_str_eq(said(h), "v2");
		cr_assert_eq(h->last[5], 1, "to the group");
		host_free(h);
	}
}

Test(proxy, igmpv1_has_no_leave_and_older_versions_no_ssm)
{
	struct addr ssm = addr_of("232.1.1.1"), s1 = source_of(false, 1);
	struct host *h = host_new(false);
	struct filter f;

	ask(h, GMP_IGMPV1, 0, "", 100);
	want(h, 1, EX, "");
	cr_assert_str_eq(said(h), "v1");
	want(h, 1, IN, "");
	cr_assert_str_eq(said(h), "");
	cr_assert_eq(filter_init(&f, IN, &s1, 1), 0);
	cr_assert_eq(proxy_want(h->p, &ssm, &f, h->now), 0);
	cr_assert_str_eq(said(h), "");
	drain(h);
	filter_deinit(&f);
	host_free(h);
}

Test(proxy, an_answer_of_an_old_version_is_spread)
{
	struct host *h = host_new(false);
	size_t turns = 0, frames = 0;

	for (unsigned int i = 1; i <= 500; i++)
		want(h, i, EX, "");
	drain(h);
	ask(h, GMP_IGMPV2, 0, "", 100);
	while (frames < 500) {
		h->now = proxy_next_ms(h->p);
		said(h);
		frames += h->frames;
		turns += h->frames > 0;
		cr_assert_lt(h->frames, 50, "no burst");
	}
	cr_assert_gt(turns, 30);
	cr_assert_leq(turns, 65);
	host_free(h);
}

Test(proxy, frames_field_by_field)
{
	EACH_FAMILY(v6)
	{
		struct host *h = host_new(v6);
		const uint8_t *ip = h->last + 14;

		want(h, 1, EX, "");
		said(h);
		cr_assert_eq(memcmp(h->last + 6, defaults.mac, 6), 0);
		if (v6) {
			cr_assert_eq(memcmp(h->last, "\x33\x33\0\0\0\x16", 6), 0);
			cr_assert_eq(ip[7], 1);
			cr_assert_eq(ip[8], 0xfe);
			cr_assert_eq(memcmp(ip + 24, "\xff\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x16", 16),
				     0);
			cr_assert_eq(memcmp(ip + 40, "\x3a\0\x05\x02\0\0\x01\0", 8), 0);
			cr_assert_eq(ip[48], 143);
		} else {
			cr_assert_eq(memcmp(h->last, "\x01\0\x5e\0\0\x16", 6), 0);
			cr_assert_eq(ip[0], 0x46);
			cr_assert_eq(ip[1], 0xc0);
			cr_assert_eq(ip[8], 1);
			cr_assert_eq(memcmp(ip + 12, "\0\0\0\0\xe0\0\0\x16\x94\x04\0\0", 12), 0);
			cr_assert_eq(ip[24], 0x22);
		}
		host_free(h);
	}
}

/* ---- in the engine ----------------------------------------------------------------- */

static void learn(struct rig *rig)
{
	struct query q = { .source = addr_of(rig->v6 ? "fe80::1" : "10.0.0.1"),
			   .version = rig->v6 ? GMP_MLDV2 : GMP_IGMPV3 };

	rig_query(rig, R, &q);
}

static void engine_want(struct rig *rig, enum filter_mode mode)
{
	struct filter f = { .mode = mode };
	struct addr g = group_of(rig->v6);

	cr_assert_eq(gmp_port_want(rig->gmp, R, &g, &f, rig->now), 0);
}

Test(proxy, of_a_router_port_begins_and_ends_with_it)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		engine_want(rig, EX);
		rig_wait(rig, 1000);
		cr_assert_eq(rig_effects(rig, R, GMP_FX_SEND), 0, "no router is there");
		learn(rig);
		cr_assert_eq(rig_effects(rig, R, GMP_FX_PROXY), 1);
		cr_assert(gmp_port_is_proxied(rig->gmp, R));
		cr_assert_not(gmp_port_takes_reports(rig->gmp, R));
		engine_want(rig, EX);
		rig_wait(rig, 1000);
		cr_assert_eq(rig_effects(rig, R, GMP_FX_SEND), 2);
		gmp_fx_clear(&rig->fx);
		rig_report(rig, P1, WIRE_TO_EX, "");
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_REPORT), 0, "not as it is");
		learn(rig);
		rig_wait(rig, 10000);
		cr_assert_eq(rig_effects(rig, R, GMP_FX_SEND), 1, "the answer");
		rig_wait(rig, 245000);
		cr_assert_not(gmp_port_is_proxied(rig->gmp, R));
		learn(rig);
		cr_assert_eq(rig_effects(rig, R, GMP_FX_PROXY), 1, "it is to be told all anew");
		rig_wait(rig, 10000);
		cr_assert_eq(rig_effects(rig, R, GMP_FX_SEND), 0);
		rig_free(rig);
	}
}

Test(proxy, off_hands_reports_on_and_may_change_while_running)
{
	EACH_FAMILY(v6)
	{
		struct gmp_config config = rig_config();
		struct rig *rig;

		config.proxy = false;
		rig = rig_new(v6, &config);
		learn(rig);
		cr_assert(gmp_port_takes_reports(rig->gmp, R));
		rig_report(rig, P1, WIRE_TO_EX, "");
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_REPORT), 1);
		config.proxy = true;
		gmp_fx_clear(&rig->fx);
		cr_assert_eq(gmp_port_configure(rig->gmp, R, &config, rig->now, &rig->fx), 0);
		cr_assert_eq(rig_effects(rig, R, GMP_FX_PROXY), 1);
		cr_assert_not(gmp_port_takes_reports(rig->gmp, R));
		rig_report(rig, P1, WIRE_TO_EX, "");
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_REPORT), 0);
		rig_free(rig);
	}
}

Test(conformance, F02_router_ports_by_configuration)
{
	EACH_FAMILY(v6)
	{
		struct gmp_config config = rig_config();
		struct rig *rig;

		config.router = GMP_ROUTER_NEVER;
		rig = rig_new(v6, &config);
		learn(rig);
		cr_assert_not(gmp_port_is_router(rig->gmp, R));
		rig_free(rig);
		config.router = GMP_ROUTER_ALWAYS;
		config.querier_guard = true;
		rig = rig_new(v6, &config);
		cr_assert(gmp_port_is_router(rig->gmp, R), "before any query");
		engine_want(rig, EX);
		rig_wait(rig, 1000);
		gmp_fx_clear(&rig->fx);
		learn(rig);
		rig_wait(rig, 10000);
		cr_assert_eq(rig_effects(rig, R, GMP_FX_SEND), 1, "its queries are no intrusion");
		rig_wait(rig, 1000000);
		cr_assert(gmp_port_is_router(rig->gmp, R));
		rig_free(rig);
	}
}
