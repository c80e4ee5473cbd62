/* SPDX-License-Identifier: Apache-2.0 */
/* Timers and variables, queries sent, election: C and D, and MLD of H. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "gmp_harness.h"

#define OLD_REPORT(v6) ((v6) ? 131 : 0x16)
#define OLD_LEAVE(v6)  ((v6) ? 132 : 0x17)

static const char *refusal(struct gmp_config config)
{
	const char *why = NULL;

	if (gmp_config_validate(&config, &why) == 0)
		return NULL;
	cr_assert_not_null(why);
	return why;
}

/* General queries of the rig's family on P1, counted until ms have gone. */
static size_t generals(struct rig *rig, uint64_t ms)
{
	size_t n = 0;

	gmp_fx_clear(&rig->fx);
	rig_wait(rig, ms);
	for (const char *p = rig_queries(rig, P1); (p = strstr(p, "Q(")); p++)
		n += p[2] != 'G';
	return n;
}

static struct query query_from(bool v6, const char *source)
{
	return (struct query){ .source = addr_of(source),
			       .version = v6 ? GMP_MLDV2 : GMP_IGMPV3,
			       .qrv = 2,
			       .qqic = 125 };
}

static const char *lower(bool v6)
{
	return v6 ? "fe80::1" : "10.0.0.1";
}

static const char *higher(bool v6)
{
	return v6 ? "fe80::ff:1" : "10.200.0.1";
}

Test(conformance, C01_robustness)
{
	struct gmp_config c = rig_config();

	cr_assert_eq(c.robustness, 2);
	cr_assert_null(refusal(c));
	c.robustness = 0;
	cr_assert_not_null(refusal(c));
	c.robustness = 1;
	cr_assert_null(refusal(c));
}

Test(conformance, C02_query_interval)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		cr_assert_eq(rig->config.query_interval_ms, 125000);
		generals(rig, 125000); /* in step: one was just sent, or is to come */
		for (int i = 0; i < 4; i++)
			cr_assert_eq(generals(rig, 125000), 1);
		rig_free(rig);
	}
}

Test(conformance, C03_response_interval_below_the_query_interval)
{
	struct gmp_config c = rig_config();

	cr_assert_eq(c.query_response_interval_ms, 10000);
	c.query_response_interval_ms = 125000;
	cr_assert_not_null(refusal(c));
	c.query_response_interval_ms = 124999;
	cr_assert_null(refusal(c));
	c.query_response_interval_ms = 0;
	cr_assert_not_null(refusal(c));
}

Test(conformance, C04_membership_interval)
{
	EACH_FAMILY(v6)
	{
		struct gmp_config c = rig_config();
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, WIRE_IS_EX, "");
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		rig_free(rig);
		c.robustness = 3;
		c.query_interval_ms = 60000;
		rig = rig_new(v6, &c);
		rig_report(rig, P1, WIRE_IS_EX, "");
		cr_assert_str_eq(rig_state(rig, P1), "EX:200{}{}");
		rig_free(rig);
		c.membership_interval_ms = 33000;
		rig = rig_new(v6, &c);
		rig_report(rig, P1, WIRE_IS_EX, "");
		cr_assert_str_eq(rig_state(rig, P1), "EX:33{}{}");
		rig_free(rig);
		/* The largest values do not wrap. */
		c.membership_interval_ms = 0;
		c.robustness = 255;
		c.query_interval_ms = 86400000;
		rig = rig_new(v6, &c);
		rig_report(rig, P1, WIRE_IS_EX, "");
		cr_assert_str_eq(rig_state(rig, P1), "EX:22032020{}{}");
		rig_free(rig);
	}
}

Test(conformance, C05_other_querier_present)
{
	EACH_FAMILY(v6)
	{
		struct query q = query_from(v6, lower(v6));
		struct rig *rig = rig_new(v6, NULL);

		rig_query(rig, P1, &q);
		cr_assert_eq(generals(rig, 254999), 0);
		cr_assert_eq(generals(rig, 1), 1);
		rig_free(rig);
	}
}

Test(conformance, C06_startup_queries)
{
	struct gmp_config c = rig_config();
	struct gmp_fx fx = { 0 };
	struct gmp *gmp;

	c.query_source_v6 = ADDR_NULL; /* IGMP alone */
	cr_assert_eq(gmp_new(&gmp), 0);
	cr_assert_eq(gmp_port_add(gmp, P1, 0, &c, 5, &fx), 0);
	cr_assert_eq(fx.n, 1);
	cr_assert_eq(gmp_next_ms(gmp), 5 + 31250);
	gmp_expire(gmp, 5 + 31249, &fx);
	cr_assert_eq(fx.n, 1);
	gmp_expire(gmp, 5 + 31250, &fx);
	cr_assert_eq(fx.n, 2);
	cr_assert_eq(gmp_next_ms(gmp), 5 + 31250 + 125000);
	gmp_free(gmp);
	gmp_fx_deinit(&fx);
}

Test(conformance, C07_last_member_time)
{
	EACH_FAMILY(v6)
	{
		struct gmp_config c = rig_config();
		struct rig *rig;

		c.last_member_query_interval_ms = 300;
		c.last_member_query_count = 3;
		rig = rig_new(v6, &c);
		rig_report(rig, P1, WIRE_IS_EX, "");
		rig_report(rig, P1, WIRE_TO_IN, "");
		cr_assert_str_eq(rig_state(rig, P1), "EX:0.9{}{}");
		rig_wait(rig, 599);
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G) Q(G)");
		rig_wait(rig, 1);
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G) Q(G) Q(G)");
		rig_wait(rig, 299);
		cr_assert(rig_forwards(rig, P1, 1));
		rig_wait(rig, 1);
		cr_assert_not(rig_forwards(rig, P1, 1));
		rig_free(rig);
	}
}

Test(conformance, C10_older_host_present)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_old(rig, P1, OLD_REPORT(v6));
		rig_wait(rig, 100000);
		rig_report(rig, P1, WIRE_IS_EX, "");
		rig_wait(rig, 159999);
		cr_assert_eq(rig_version(rig, P1), v6 ? GMP_MLDV1 : GMP_IGMPV2);
		rig_wait(rig, 1);
		cr_assert_eq(rig_version(rig, P1), v6 ? GMP_MLDV2 : GMP_IGMPV3);
		cr_assert_str_eq(rig_state(rig, P1), "EX:110{}{}");
		rig_free(rig);
	}
}

Test(conformance, C13_robustness_of_the_elected_querier)
{
	EACH_FAMILY(v6)
	{
		struct query q = query_from(v6, lower(v6));
		struct gmp_config c = rig_config();
		struct rig *rig = rig_new(v6, NULL);
		const uint8_t *f;
		size_t len;

		q.qrv = 7;
		q.qqic = 20;
		rig_query(rig, P1, &q);
		rig_report(rig, P1, WIRE_IS_EX, "");
		cr_assert_str_eq(rig_state(rig, P1), "EX:160{}{}"); /* 7 * 20 + 20 */
		q.qrv = q.qqic = 0;				    /* 4.1.6, 4.1.7: ours */
		rig_query(rig, P1, &q);
		rig_report(rig, P1, WIRE_IS_EX, "");
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		q.qrv = 7;
		q.qqic = 20;
		rig_query(rig, P1, &q);
		rig_report(rig, P1, WIRE_IS_EX, "");
		cr_assert_str_eq(rig_state(rig, P1), "EX:160{}{}");
		rig_wait(rig, 500000); /* ours again */
		rig_report(rig, P1, WIRE_IS_EX, "");
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		rig_free(rig);

		c.robustness = 8;
		rig = rig_new(v6, &c);
		generals(rig, 130000);
		f = rig_query_frame(rig, &len);
		cr_assert_not_null(f);
		cr_assert_eq(f[v6 ? 14 + 48 + 24 : 14 + 24 + 8], 0);
		rig_free(rig);
	}
}

Test(conformance, C14_settings_change_while_running)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);
		struct gmp_config c = rig->config;

		rig_report(rig, P1, WIRE_IS_EX, "2");
		rig_report(rig, P1, WIRE_ALLOW, "1");
		gmp_fx_clear(&rig->fx);
		for (int i = 0; i < 3; i++)
			cr_assert_eq(gmp_port_configure(rig->gmp, P1, &c, rig->now, &rig->fx), 0);
		cr_assert_eq(rig->fx.n, 0, "the same settings ask nobody");
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{1:270}{2}");
		c.query_interval_ms = 20000;
		cr_assert_eq(gmp_port_configure(rig->gmp, P1, &c, rig->now, &rig->fx), 0);
		cr_assert_str_eq(rig_state(rig, P1), "EX:60{1:60}{2}");
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_MEMBERSHIP), 0);
		cr_assert_eq(generals(rig, 20000), 1);
		cr_assert_eq(generals(rig, 20000), 1);
		c.query_interval_ms = 125000; /* running timers keep their expiry */
		cr_assert_eq(gmp_port_configure(rig->gmp, P1, &c, rig->now, &rig->fx), 0);
		cr_assert_str_eq(rig_state(rig, P1), "EX:20{1:20}{2}");
		c.querier = false;
		cr_assert_eq(gmp_port_configure(rig->gmp, P1, &c, rig->now, &rig->fx), 0);
		cr_assert_eq(generals(rig, 400000), 0);
		c.querier = true; /* a new querier starts */
		cr_assert_eq(gmp_port_configure(rig->gmp, P1, &c, rig->now, &rig->fx), 0);
		cr_assert_str_eq(rig_queries(rig, P1), "Q()");
		cr_assert_eq(generals(rig, 31250), 1);
		c.robustness = 0;
		cr_assert_eq(gmp_port_configure(rig->gmp, P1, &c, rig->now, &rig->fx), -EINVAL);
		cr_assert_eq(gmp_port_configure(rig->gmp, 99, &rig->config, 0, &rig->fx), -ENOENT);
		rig_free(rig);
	}
}

Test(conformance, D01_startup_then_each_interval)
{
	EACH_FAMILY(v6)
	{
		struct gmp_config c = rig_config();
		struct rig *rig = rig_new(v6, &c);

		c.startup_query_interval_ms = 1000;
		c.startup_query_count = 3;
		gmp_port_remove(rig->gmp, P1, &rig->fx);
		gmp_fx_clear(&rig->fx);
		cr_assert_eq(gmp_port_add(rig->gmp, P1, 0, &c, rig->now, &rig->fx), 0);
		cr_assert_str_eq(rig_queries(rig, P1), "Q()");
		cr_assert_eq(generals(rig, 999), 0);
		cr_assert_eq(generals(rig, 1), 1);
		cr_assert_eq(generals(rig, 3000), 1);
		cr_assert_eq(generals(rig, 122999), 0);
		cr_assert_eq(generals(rig, 1), 1);
		rig_free(rig);
	}
}

static bool sums_right(const uint8_t *frame, size_t len)
{
	enum gmp_counter why;
	struct wire_message m;

	return wire_parse(frame, len, &m, &why) == 0 && m.router_alert;
}

Test(conformance, D02_general_query_field_by_field)
{
	static const uint8_t want[] = {
		0x01, 0x00, 0x5e, 0x00, 0x00, 0x01, 2,	  1,	2,    3,    4,	  5,
		0x08, 0x00, 0x46, 0xc0, 0x00, 0x24, 0x00, 0x00, 0x00, 0x00, 0x01, 0x02,
	};
	static const uint8_t addresses[] = { 10, 9, 9, 9, 224, 0, 0, 1, 0x94, 4, 0, 0 };
	struct rig *rig = rig_new(false, NULL);
	const uint8_t *f;
	size_t len;

	generals(rig, 125000);
	f = rig_query_frame(rig, &len);
	cr_assert_not_null(f);
	cr_assert_eq(len, 14 + 24 + 12);
	cr_assert_arr_eq(f, want, sizeof(want));
	cr_assert_arr_eq(f + 26, addresses, sizeof(addresses));
	cr_assert_arr_eq(f + 38, "\x11\x64", 2);
	cr_assert_arr_eq(f + 42, "\0\0\0\0\x02\x7d\0\0", 8);
	cr_assert(sums_right(f, len));
	rig_free(rig);
}

static void version_only(bool v6, enum gmp_version version, size_t body, unsigned int code)
{
	struct gmp_config c = rig_config();
	struct rig *rig;

	if (v6)
		c.mld_version = version;
	else
		c.igmp_version = version;
	rig = rig_new(v6, &c);
	rig_wait(rig, 500000);
	for (size_t i = 0; i < rig->fx.n; i++) {
		const struct gmp_fx_item *item = &rig->fx.items[i];
		const uint8_t *f = gmp_fx_frame(&rig->fx, item), *p = f + 14 + (v6 ? 48 : 24);

		if ((f[12] == 0x86) != v6)
			continue;
		cr_assert_eq(f + item->frame_len - p, (ptrdiff_t)body);
		cr_assert_eq(v6 ? (unsigned int)(p[4] << 8 | p[5]) : p[1], code);
		cr_assert(sums_right(f, item->frame_len));
	}
	cr_assert_neq(rig_queries(rig, P1)[0], '\0');
	rig_free(rig);
}

Test(conformance, D03_only_the_configured_version)
{
	version_only(false, GMP_IGMPV1, 8, 0);
	version_only(false, GMP_IGMPV2, 8, 100);
	version_only(false, GMP_IGMPV3, 12, 100);
	version_only(true, GMP_MLDV1, 24, 10000);
	version_only(true, GMP_MLDV2, 28, 10000);
}

Test(conformance, D04_specific_query_goes_to_the_group)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);
		struct addr g = group_of(v6);
		const uint8_t *f;
		size_t len;

		rig_report(rig, P1, WIRE_IS_EX, "");
		rig_report(rig, P1, WIRE_TO_IN, "");
		f = rig_query_frame(rig, &len);
		cr_assert_not_null(f);
		cr_assert_arr_eq(f, v6 ? "\x33\x33\x0a\x0a\x0a\x0a" : "\x01\x00\x5e\x0a\x0a\x0a",
				 6);
		cr_assert_arr_eq(f + 14 + (v6 ? 24 : 16), g.b + (v6 ? 0 : 12), v6 ? 16 : 4);
		cr_assert_arr_eq(f + 14 + (v6 ? 48 + 8 : 24 + 4), g.b + (v6 ? 0 : 12), v6 ? 16 : 4);
		cr_assert_eq(f[14 + (v6 ? 7 : 8)], 1);
		cr_assert(sums_right(f, len));
		rig_free(rig);
	}
}

Test(conformance, D05_leave_is_asked_twice_and_ends_after_two_intervals)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, WIRE_IS_EX, "");
		rig_report(rig, P1, WIRE_TO_IN, "");
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G)");
		cr_assert_eq(rig_effects(rig, P2, GMP_FX_QUERY), 0);
		gmp_fx_clear(&rig->fx);
		rig_wait(rig, 999);
		cr_assert_str_eq(rig_queries(rig, P1), "");
		rig_wait(rig, 1);
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G)");
		rig_wait(rig, 999);
		cr_assert(rig_forwards(rig, P1, 1));
		rig_wait(rig, 1);
		cr_assert_not(rig_forwards(rig, P1, 1));
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G)");
		rig_free(rig);
	}
}

Test(conformance, D06_an_answer_keeps_the_group)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, WIRE_IS_EX, "");
		rig_report(rig, P1, WIRE_TO_IN, "");
		rig_wait(rig, 500);
		rig_report_host(rig, P1, 77, WIRE_IS_EX, "");
		gmp_fx_clear(&rig->fx);
		rig_wait(rig, 500);
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G)s");
		rig_wait(rig, 5000);
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G)s");
		cr_assert_str_eq(rig_state(rig, P1), "EX:264.5{}{}");
		rig_free(rig);
	}
}

Test(conformance, D07_sources_in_two_messages_by_the_s_flag)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, WIRE_ALLOW, "1 2 3");
		rig_report(rig, P1, WIRE_BLOCK, "1 2");
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G,1 2)");
		rig_wait(rig, 500);
		rig_report_host(rig, P1, 77, WIRE_ALLOW, "2");
		gmp_fx_clear(&rig->fx);
		rig_wait(rig, 500);
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G,2)s Q(G,1)");
		rig_wait(rig, 1000);
		cr_assert_str_eq(rig_view(rig, P1), "IN{2 3}");
		rig_free(rig);
	}
}

static size_t query_sources(const struct rig *rig)
{
	size_t n = 0, at = rig->v6 ? 14 + 48 + 24 + 2 : 14 + 24 + 8 + 2;

	for (size_t i = 0; i < rig->fx.n; i++) {
		const uint8_t *f = gmp_fx_frame(&rig->fx, &rig->fx.items[i]);

		if (rig->fx.items[i].type != GMP_FX_QUERY)
			continue;
		cr_assert_leq(rig->fx.items[i].frame_len, 1514);
		cr_assert(sums_right(f, rig->fx.items[i].frame_len));
		n += (size_t)(f[at] << 8 | f[at + 1]);
	}
	return n;
}

Test(conformance, D08_a_long_list_is_split)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		for (unsigned int k = 0; k < 400; k += 50) {
			char text[512];
			size_t len = 0;

			for (unsigned int i = 1; i <= 50; i++)
				len += (size_t)snprintf(text + len, sizeof(text) - len, " %u",
							k + i);
			rig_report(rig, P1, WIRE_ALLOW, text);
		}
		rig_report(rig, P1, WIRE_TO_IN, "");
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_QUERY), v6 ? 5 : 2);
		cr_assert_eq(query_sources(rig), 400);
		gmp_fx_clear(&rig->fx);
		rig_wait(rig, 1000);
		cr_assert_eq(query_sources(rig), 400);
		rig_wait(rig, 1000);
		cr_assert_str_eq(rig_state(rig, P1), "-");
		rig_free(rig);
	}
}

Test(conformance, D09_mld_general_query_field_by_field)
{
	static const uint8_t want[] = {
		0x33, 0x33, 0, 0,  0, 1, 2,    1,    2, 3, 4, 5, 0x86, 0xdd, 0x60, 0,
		0,    0,    0, 36, 0, 1, 0xfe, 0x80, 0, 0, 0, 0, 0,    0,    0,	   0,
		0,    0,    0, 9,  0, 9, 0xff, 2,    0, 0, 0, 0, 0,    0,    0,	   0,
		0,    0,    0, 0,  0, 1, 58,   0,    5, 2, 0, 0, 1,    0,    130,
	};
	struct rig *rig = rig_new(true, NULL);
	const uint8_t *f;
	size_t len;

	generals(rig, 125000);
	f = rig_query_frame(rig, &len);
	cr_assert_not_null(f);
	cr_assert_eq(len, 14 + 40 + 8 + 28);
	cr_assert_arr_eq(f, want, sizeof(want));
	cr_assert_arr_eq(f + 66, "\x27\x10\0\0", 4);
	cr_assert_arr_eq(f + 86, "\x02\x7d\0\0", 4);
	cr_assert(sums_right(f, len));
	rig_free(rig);
}

Test(conformance, D10_who_is_no_querier_asks_nothing)
{
	EACH_FAMILY(v6)
	{
		struct query q = query_from(v6, lower(v6));
		struct rig *rig = rig_new(v6, NULL);

		rig_query(rig, P1, &q);
		rig_report(rig, P1, WIRE_IS_EX, "");
		rig_report(rig, P1, WIRE_ALLOW, "1");
		rig_report(rig, P1, WIRE_TO_IN, "");
		cr_assert_str_eq(rig_queries(rig, P1), "");
		rig_report(rig, P1, WIRE_BLOCK, "1");
		rig_wait(rig, 100000);
		cr_assert_str_eq(rig_queries(rig, P1), "");
		cr_assert_str_eq(rig_state(rig, P1), "EX:170{1:170}{}");
		rig_free(rig);
	}
}

Test(conformance, D11_the_lowest_address_asks)
{
	EACH_FAMILY(v6)
	{
		struct query high = query_from(v6, higher(v6)), low = query_from(v6, lower(v6));
		struct rig *rig = rig_new(v6, NULL);

		rig_query(rig, P1, &high);
		cr_assert_eq(generals(rig, 125000), 1);
		rig_query(rig, P1, &low);
		cr_assert_eq(generals(rig, 200000), 0);
		rig_query(rig, P1, &low);
		cr_assert_eq(generals(rig, 254999), 0);
		cr_assert_eq(generals(rig, 1), 1);
		cr_assert_eq(generals(rig, 125000), 1);
		cr_assert(gmp_port_counter(rig->gmp, P1, GMP_C_queries_received) == 3);
		rig_free(rig);
	}
}

Test(conformance, D12_proxy_queries_win_nothing)
{
	struct query q = query_from(false, "0.0.0.0");
	struct rig *rig = rig_new(false, NULL);

	rig_query(rig, P1, &q);
	cr_assert_not(gmp_port_is_router(rig->gmp, P1));
	cr_assert_eq(generals(rig, 125000), 1);
	rig_free(rig);
}

Test(conformance, D13_an_older_querier_sets_the_version)
{
	EACH_FAMILY(v6)
	{
		struct query q = query_from(v6, higher(v6));
		struct rig *rig = rig_new(v6, NULL);

		q.version = v6 ? GMP_MLDV1 : GMP_IGMPV2;
		rig_query(rig, P1, &q);
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_OLDER), 1, "it is told");
		cr_assert_eq(rig->fx.items[0].version, q.version);
		rig_query(rig, P1, &q);
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_OLDER), 0, "not with each query");
		cr_assert_eq(generals(rig, 125000), 1);
		cr_assert_str_eq(rig_queries(rig, P1), "Q()old");
		/* Sources cannot be asked for: their timers are left alone. */
		rig_report(rig, P1, WIRE_ALLOW, "1 2");
		rig_report(rig, P1, WIRE_BLOCK, "1");
		cr_assert_str_eq(rig_state(rig, P1), "IN{1:270 2:270}");
		cr_assert_str_eq(rig_queries(rig, P1), "");
		rig_report(rig, P1, WIRE_IS_EX, "");
		rig_report(rig, P1, WIRE_TO_IN, "");
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G)old");
		generals(rig, 200000);
		cr_assert_eq(generals(rig, 125000), 1);
		cr_assert_str_eq(rig_queries(rig, P1), "Q()", "it has gone");
		rig_query(rig, P1, &q);
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_OLDER), 1, "it is told again");
		rig_free(rig);
	}
}

Test(conformance, D14_queries_of_others_lower_timers)
{
	EACH_FAMILY(v6)
	{
		struct query q = query_from(v6, lower(v6));
		struct rig *rig = rig_new(v6, NULL);

		q.group = group_of(v6);
		q.s_flag = true;
		rig_report(rig, P1, WIRE_IS_EX, "3");
		rig_report(rig, P1, WIRE_ALLOW, "1 2");
		rig_query(rig, P1, &q);
		q.sources = "1 3";
		rig_query(rig, P1, &q);
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{1:270 2:270}{3}");
		q.s_flag = false;
		rig_query(rig, P1, &q);
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{1:2 2:270}{3}");
		q.sources = NULL;
		rig_query(rig, P1, &q);
		cr_assert_str_eq(rig_state(rig, P1), "EX:2{1:2 2:270}{3}");
		gmp_fx_clear(&rig->fx);
		rig_wait(rig, 1999);
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_MEMBERSHIP), 0);
		rig_wait(rig, 1);
		cr_assert_str_eq(rig_state(rig, P1), "IN{2:268}");
		rig_free(rig);
	}
}

Test(conformance, D16_guard_against_queries_from_ports)
{
	EACH_FAMILY(v6)
	{
		struct query q = query_from(v6, lower(v6));
		struct gmp_config c = rig_config();
		struct rig *rig;

		c.querier_guard = true;
		rig = rig_new(v6, &c);
		rig_report(rig, P1, WIRE_IS_EX, "");
		rig_query(rig, P1, &q);
		q.group = group_of(v6);
		rig_query(rig, P1, &q);
		cr_assert_eq(rig_counter(rig, GMP_C_querier_guard), 2);
		cr_assert_not(gmp_port_is_router(rig->gmp, P1));
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		cr_assert_eq(generals(rig, 125000), 1);
		rig_free(rig);
	}
}

Test(conformance, D18_mld_queries_from_elsewhere)
{
	static const char *const sources[] = { "::", "2001:db8::1", "fec0::1" };

	for (size_t i = 0; i < 3; i++) {
		struct query q = query_from(true, sources[i]);
		struct rig *rig = rig_new(true, NULL);

		rig_query(rig, P1, &q);
		cr_assert_eq(rig_counter(rig, GMP_C_bad_source), 1);
		cr_assert_not(gmp_port_is_router(rig->gmp, P1));
		cr_assert_eq(generals(rig, 125000), 1);
		rig_free(rig);
	}
}

Test(conformance, H06_response_in_ms_interval_in_s)
{
	struct gmp_config c = rig_config();
	struct rig *rig;
	const uint8_t *f;
	size_t len;

	c.query_interval_ms = 136000;
	c.query_response_interval_ms = 65536;
	rig = rig_new(true, &c);
	generals(rig, 136000);
	f = rig_query_frame(rig, &len);
	cr_assert_not_null(f);
	cr_assert_eq(f[66] << 8 | f[67], 0x9000); /* 2^16 ms */
	cr_assert_eq(f[87], 0x81);		  /* 136 s */
	rig_free(rig);
}

Test(gmp_querier, our_own_query_is_not_another_s)
{
	EACH_FAMILY(v6)
	{
		struct query q = query_from(v6, v6 ? "fe80::9:9" : "10.9.9.9");
		struct rig *rig = rig_new(v6, NULL);

		rig_query(rig, P1, &q);
		cr_assert_eq(rig_counter(rig, GMP_C_own_query), 1);
		cr_assert_not(gmp_port_is_router(rig->gmp, P1));
		rig_free(rig);
	}
}

Test(gmp_querier, a_port_is_asked_again_on_demand)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		gmp_port_query(rig->gmp, P1, rig->now, &rig->fx);
		cr_assert_str_eq(rig_queries(rig, P1), "Q()");
		cr_assert_eq(rig_effects(rig, P2, GMP_FX_QUERY), 0);
		rig_free(rig);
	}
}

Test(querier, a_restored_router_port_is_one_for_an_interval_more)
{
	struct rig *rig = rig_new(false, NULL);

	gmp_port_restore_router(rig->gmp, P1, rig->now, &rig->fx);
	cr_assert(gmp_port_is_router(rig->gmp, P1));
	cr_assert_not(gmp_port_is_router(rig->gmp, P2));
	rig_wait(rig, 254999);
	cr_assert(gmp_port_is_router(rig->gmp, P1));
	rig_wait(rig, 1);
	cr_assert_not(gmp_port_is_router(rig->gmp, P1));
	rig_free(rig);
}
