/* SPDX-License-Identifier: Apache-2.0 */
/* Older hosts, snooping, source-specific groups: E, F and G. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "gmp_harness.h"

#define V1_REPORT      0x12
#define V2_REPORT      0x16
#define V2_LEAVE       0x17
#define OLD_REPORT(v6) ((v6) ? 131 : V2_REPORT)
#define OLD_LEAVE(v6)  ((v6) ? 132 : V2_LEAVE)

Test(conformance, E01_igmpv1_report)
{
	struct rig *rig = rig_new(false, NULL);

	rig_old(rig, P1, V1_REPORT);
	cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
	cr_assert_eq(rig_version(rig, P1), GMP_IGMPV1);
	rig_old(rig, P1, V2_LEAVE);
	rig_report(rig, P1, WIRE_TO_IN, "");
	rig_report(rig, P1, WIRE_BLOCK, "1");
	cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
	cr_assert_str_eq(rig_queries(rig, P1), "");
	cr_assert_eq(rig_counter(rig, GMP_C_compat_ignored), 3);
	rig_wait(rig, 259999);
	rig_report(rig, P1, WIRE_IS_EX, "");
	rig_report(rig, P1, WIRE_TO_IN, "");
	cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
	rig_wait(rig, 1);
	rig_report(rig, P1, WIRE_TO_IN, "");
	cr_assert_str_eq(rig_state(rig, P1), "EX:2{}{}");
	rig_free(rig);
}

Test(conformance, E02_igmpv2_report)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, WIRE_ALLOW, "1");
		rig_old(rig, P1, OLD_REPORT(v6));
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		cr_assert_eq(rig_version(rig, P1), v6 ? GMP_MLDV1 : GMP_IGMPV2);
		rig_free(rig);
	}
}

Test(conformance, E03_igmpv2_leave)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_old(rig, P1, OLD_REPORT(v6));
		rig_old(rig, P1, OLD_LEAVE(v6));
		cr_assert_str_eq(rig_state(rig, P1), "EX:2{}{}");
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G)");
		rig_wait(rig, 2000);
		cr_assert_str_eq(rig_state(rig, P1), "-");
		rig_free(rig);
	}
}

Test(conformance, E04_sources_beside_an_older_host)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_old(rig, P1, OLD_REPORT(v6));
		rig_report(rig, P1, WIRE_BLOCK, "1");
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		rig_report(rig, P1, WIRE_TO_EX, "1");
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		cr_assert_str_eq(rig_queries(rig, P1), "");
		cr_assert(rig_forwards(rig, P1, 1));
		cr_assert_eq(rig_counter(rig, GMP_C_compat_ignored), 1);
		rig_free(rig);
	}
}

Test(conformance, E05_compatibility_is_of_one_group_on_one_port)
{
	EACH_FAMILY(v6)
	{
		struct addr host = host_of(v6, 1), second = addr_of(v6 ? "ff1e::2" : "239.2.2.2");
		struct record records[] = { { WIRE_TO_EX, second, "1" } };
		struct rig *rig = rig_new(v6, NULL);
		struct frame f;

		rig_old(rig, P1, OLD_REPORT(v6));
		frame_report(&f, v6, &host, records, 1);
		rig_frame(rig, P1, &f);
		cr_assert_str_eq(rig_state_of(rig, P1, &second), "EX:270{}{1}");
		rig_report(rig, P2, WIRE_TO_EX, "1");
		cr_assert_str_eq(rig_state(rig, P2), "EX:270{}{1}");
		rig_wait(rig, 250000);
		rig_report(rig, P1, WIRE_IS_EX, "");
		rig_wait(rig, 9999);
		rig_report(rig, P1, WIRE_TO_EX, "1");
		cr_assert_str_eq(rig_view(rig, P1), "EX{}");
		rig_wait(rig, 1);
		rig_report(rig, P1, WIRE_IS_EX, "1");
		rig_report(rig, P1, WIRE_TO_EX, "1 2");
		rig_wait(rig, 2000);
		cr_assert_str_eq(rig_view(rig, P1), "EX{1 2}", "%s", rig_view(rig, P1));
		rig_free(rig);
	}
}

Test(conformance, E06_fast_leave_of_the_last_tracked_host)
{
	EACH_FAMILY(v6)
	{
		struct gmp_config c = rig_config();
		struct rig *rig;

		c.fast_leave = true;
		rig = rig_new(v6, &c);
		rig_old_host(rig, P1, 1, OLD_REPORT(v6));
		rig_old_host(rig, P1, 2, OLD_REPORT(v6));
		rig_old_host(rig, P1, 1, OLD_LEAVE(v6));
		cr_assert_str_eq(rig_state(rig, P1), "EX:2{}{}");
		rig_wait(rig, 500);
		rig_old_host(rig, P1, 2, OLD_REPORT(v6));
		rig_wait(rig, 3000);
		cr_assert_str_eq(rig_view(rig, P1), "EX{}");
		rig_old_host(rig, P1, 2, OLD_LEAVE(v6));
		cr_assert_str_eq(rig_state(rig, P1), "-");
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_MEMBERSHIP), 1);

		rig_report_host(rig, P1, 1, WIRE_TO_EX, "");
		rig_report_host(rig, P1, 1, WIRE_BLOCK, "3");
		cr_assert_str_eq(rig_view(rig, P1), "EX{3}");
		rig_report_host(rig, P1, 1, WIRE_TO_IN, "4");
		cr_assert_str_eq(rig_view(rig, P1), "IN{4}");
		rig_report_host(rig, P1, 2, WIRE_ALLOW, "5");
		rig_report_host(rig, P1, 1, WIRE_BLOCK, "4");
		cr_assert_str_eq(rig_view(rig, P1), "IN{4 5}", "host 2 may want it");
		rig_free(rig);
	}
}

static size_t handed_on(const struct rig *rig)
{
	return rig_effects(rig, P1, GMP_FX_REPORT);
}

static void learn_router(struct rig *rig)
{
	struct query q = { .source = addr_of(rig->v6 ? "fe80::1" : "10.0.0.1"),
			   .version = rig->v6 ? GMP_MLDV2 : GMP_IGMPV3 };

	rig_query(rig, R, &q);
	cr_assert(gmp_port_is_router(rig->gmp, R));
}

/* Router ports get the reports as they are, and not a proxy's. */
static struct rig *rig_forwarding(bool v6)
{
	struct gmp_config config = rig_config();

	config.proxy = false;
	return rig_new(v6, &config);
}

Test(conformance, E07_reports_are_handed_to_router_ports_only)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_forwarding(v6);

		rig_old(rig, P1, OLD_REPORT(v6));
		cr_assert_eq(handed_on(rig), 0, "there is no router port");
		learn_router(rig);
		rig_old(rig, P1, OLD_REPORT(v6));
		cr_assert_eq(handed_on(rig), 1);
		cr_assert_eq(rig->fx.items[0].port, P1);
		rig_old(rig, P1, OLD_LEAVE(v6));
		cr_assert_eq(handed_on(rig), 1);
		rig_old(rig, R, OLD_REPORT(v6));
		cr_assert_eq(rig_effects(rig, R, GMP_FX_REPORT), 0, "not back to itself");
		rig_free(rig);
	}
}

Test(conformance, E08_mldv1_report_and_done)
{
	struct rig *rig = rig_new(true, NULL);

	rig_old(rig, P1, 131);
	cr_assert_eq(rig_version(rig, P1), GMP_MLDV1);
	cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
	rig_old(rig, P1, 132);
	cr_assert_str_eq(rig_queries(rig, P1), "Q(G)");
	rig_wait(rig, 2000);
	cr_assert_str_eq(rig_state(rig, P1), "-");
	rig_free(rig);
}

Test(conformance, F01_report_frames_go_on_unchanged)
{
	EACH_FAMILY(v6)
	{
		struct record record = { WIRE_TO_EX, group_of(v6), "1 2" };
		struct addr host = host_of(v6, 1);
		struct rig *rig = rig_forwarding(v6);
		struct frame f;

		learn_router(rig);
		frame_report(&f, v6, &host, &record, 1);
		rig_frame(rig, P1, &f);
		cr_assert_eq(rig->fx.items[0].type, GMP_FX_REPORT);
		cr_assert_eq(rig->fx.items[0].frame_len, f.len);
		cr_assert_arr_eq(gmp_fx_frame(&rig->fx, &rig->fx.items[0]), f.b, f.len);
		rig_free(rig);
	}
}

Test(conformance, F02_router_ports_are_learnt_and_expire)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		cr_assert_not(gmp_port_is_router(rig->gmp, R));
		learn_router(rig);
		cr_assert_eq(rig_effects(rig, R, GMP_FX_ROUTER), 1);
		rig_wait(rig, 100000);
		learn_router(rig);
		cr_assert_eq(rig_effects(rig, R, GMP_FX_ROUTER), 0, "it was one");
		rig_wait(rig, 254999);
		cr_assert(gmp_port_is_router(rig->gmp, R));
		gmp_fx_clear(&rig->fx);
		rig_wait(rig, 1);
		cr_assert_not(gmp_port_is_router(rig->gmp, R));
		cr_assert_eq(rig_effects(rig, R, GMP_FX_ROUTER), 1);
		cr_assert_not(gmp_port_is_router(rig->gmp, P1));
		rig_free(rig);
	}
}

Test(conformance, F02_router_port_lasts_as_long_as_its_queries_say)
{
	EACH_FAMILY(v6)
	{
		struct query q = { .source = addr_of(v6 ? "fe80::1" : "10.0.0.1"),
				   .version = v6 ? GMP_MLDV2 : GMP_IGMPV3,
				   .qrv = 2,
				   .qqic = 20 };
		struct rig *rig = rig_new(v6, NULL);

		rig_query(rig, R, &q);
		rig_wait(rig, 44999);
		cr_assert(gmp_port_is_router(rig->gmp, R));
		rig_wait(rig, 1);
		cr_assert_not(gmp_port_is_router(rig->gmp, R));
		rig_free(rig);
	}
}

static struct query router_query(bool v6)
{
	return (struct query){ .source = addr_of(v6 ? "fe80::1" : "10.0.0.1"),
			       .version = v6 ? GMP_MLDV2 : GMP_IGMPV3,
			       .qrv = 2,
			       .qqic = 20 };
}

/* Does R's query go on, and do the hosts of the port get it? */
static bool passed_to(const struct rig *rig, uint32_t port)
{
	return rig_effects(rig, R, GMP_FX_PASS) == 1 &&
	       gmp_port_takes_queries(rig->gmp, port, rig->v6, rig->now);
}

Test(conformance, F02_queries_reach_the_other_ports_where_we_do_not_ask)
{
	EACH_FAMILY(v6)
	{
		struct query q = router_query(v6);
		struct gmp_config config = rig_config();
		struct frame f;
		struct rig *rig;

		config.querier = false;
		rig = rig_new(v6, &config);
		frame_query(&f, &q);
		rig_frame(rig, R, &f);
		cr_assert(passed_to(rig, P1) && passed_to(rig, P2));
		for (size_t i = 0; i < rig->fx.n; i++) {
			const struct gmp_fx_item *item = &rig->fx.items[i];

			if (item->type != GMP_FX_PASS)
				continue;
			cr_assert_eq(item->v6, v6);
			cr_assert_eq(item->frame_len, f.len);
			cr_assert_arr_eq(gmp_fx_frame(&rig->fx, item), f.b, f.len, "as it was");
		}
		cr_assert_eq(gmp_port_counter(rig->gmp, R, GMP_C_queries_passed), 1);
		cr_assert_not(gmp_port_is_router(rig->gmp, P1), "the router is on R");

		/* Its hosts answer at the router's interval, and its questions count there. */
		rig_report(rig, P1, WIRE_TO_EX, "");
		cr_assert_str_eq(rig_state(rig, P1), "EX:60{}{}");
		q.group = group_of(v6);
		q.s_flag = true;
		rig_query(rig, R, &q);
		cr_assert(passed_to(rig, P1));
		cr_assert_str_eq(rig_state(rig, P1), "EX:60{}{}");
		q.s_flag = false;
		rig_query(rig, R, &q);
		cr_assert_str_eq(rig_state(rig, P1), "EX:2{}{}");
		rig_report(rig, P1, WIRE_IS_EX, "");
		rig_wait(rig, 45000); /* the router is silent: our own values again */
		rig_report(rig, P1, WIRE_IS_EX, "");
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		rig_free(rig);
	}
}

Test(conformance, F02_queries_stay_where_our_querier_asks_and_the_proxy_answers)
{
	EACH_FAMILY(v6)
	{
		struct query q = router_query(v6), lower = q;
		struct rig *rig = rig_new(v6, NULL);

		q.group = group_of(v6);
		rig_report(rig, P1, WIRE_TO_EX, "");
		rig_query(rig, R, &q);
		cr_assert_eq(rig_effects(rig, R, GMP_FX_PASS), 0);
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		/* On P1 another one asks: two routers are to hear each other. */
		rig_query(rig, P1, &lower);
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_PASS), 1);
		cr_assert(gmp_port_takes_queries(rig->gmp, R, v6, rig->now), "R's rules there");
		cr_assert_not(gmp_port_takes_queries(rig->gmp, P2, v6, rig->now));
		rig_query(rig, R, &q);
		cr_assert(passed_to(rig, P1));
		cr_assert_not(passed_to(rig, P2));
		cr_assert_str_eq(rig_state(rig, P1), "EX:2{}{}");
		rig_free(rig);
	}
}

/* The router waits for the hosts' own reports; we go on asking beside it. */
Test(conformance, F02_queries_reach_the_other_ports_without_a_proxy)
{
	EACH_FAMILY(v6)
	{
		struct query q = router_query(v6);
		struct rig *rig = rig_forwarding(v6);

		rig_query(rig, R, &q);
		cr_assert(passed_to(rig, P1) && passed_to(rig, P2));
		rig_report(rig, P1, WIRE_TO_EX, "");
		q.group = group_of(v6);
		rig_query(rig, R, &q);
		cr_assert(passed_to(rig, P1));
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}", "we end it ourselves");
		rig_wait(rig, 125000);
		cr_assert(rig_effects(rig, P1, GMP_FX_QUERY));
		rig_free(rig);
	}
}

Test(conformance, F02_queries_of_no_router_stay_on_their_port)
{
	struct query q = router_query(false);
	struct gmp_config config = rig_config();
	struct rig *rig;

	config.querier = false;
	rig = rig_new(false, &config);
	q.source = addr_of("0.0.0.0");
	rig_query(rig, R, &q);
	cr_assert_eq(rig_effects(rig, R, GMP_FX_PASS), 0, "RFC 4541 2.1.1 (4)");
	q = router_query(false);
	cr_assert_eq(gmp_port_add(rig->gmp, 14, 8, &config, rig->now, &rig->fx), 0);
	rig_query(rig, 14, &q);
	cr_assert_eq(rig_effects(rig, 14, GMP_FX_PASS), 0, "the others are of another segment");
	config.router = GMP_ROUTER_NEVER;
	cr_assert_eq(gmp_port_configure(rig->gmp, R, &config, rig->now, &rig->fx), 0);
	rig_query(rig, R, &q);
	cr_assert_eq(rig_effects(rig, R, GMP_FX_PASS), 0, "a router is never there");
	config.router = GMP_ROUTER_AUTO;
	config.querier_guard = true;
	cr_assert_eq(gmp_port_configure(rig->gmp, R, &config, rig->now, &rig->fx), 0);
	rig_query(rig, R, &q);
	cr_assert_eq(rig_effects(rig, R, GMP_FX_PASS), 0, "the guard");
	config.router = GMP_ROUTER_ALWAYS;
	cr_assert_eq(gmp_port_configure(rig->gmp, R, &config, rig->now, &rig->fx), 0);
	rig_query(rig, R, &q);
	cr_assert(passed_to(rig, P1), "who configured a router wants it heard");
	rig_free(rig);
}

Test(snoop, passed_queries_are_limited)
{
	struct query q = router_query(false);
	struct gmp_config config = rig_config();
	struct rig *rig;

	config.querier = false;
	config.max_reports_per_second = 1;
	rig = rig_new(false, &config);
	rig_query(rig, R, &q);
	cr_assert(passed_to(rig, P1));
	rig_query(rig, R, &q);
	cr_assert_eq(rig_effects(rig, R, GMP_FX_PASS), 0);
	cr_assert_eq(gmp_port_counter(rig->gmp, R, GMP_C_rate_limited), 1);
	cr_assert_eq(gmp_port_counter(rig->gmp, R, GMP_C_queries_received), 2, "it was applied");
	rig_wait(rig, 1000);
	rig_query(rig, R, &q);
	cr_assert(passed_to(rig, P1));
	rig_free(rig);
}

/* A router elsewhere ruled only while we might not ask. */
Test(snoop, querier_that_is_switched_on_asks_beside_a_router_elsewhere)
{
	EACH_FAMILY(v6)
	{
		struct query q = router_query(v6);
		struct gmp_config config = rig_config();
		struct rig *rig;

		config.querier = false;
		rig = rig_new(v6, &config);
		rig_query(rig, R, &q);
		gmp_fx_clear(&rig->fx);
		config.querier = true;
		for (uint32_t port = P1; port <= R; port++)
			cr_assert_eq(
				gmp_port_configure(rig->gmp, port, &config, rig->now, &rig->fx), 0);
		cr_assert_gt(rig_effects(rig, P1, GMP_FX_QUERY), 0);
		cr_assert_eq(rig_effects(rig, R, GMP_FX_QUERY), 1, "the other family alone");
		rig_report(rig, P1, WIRE_TO_EX, "");
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		rig_free(rig);
	}
}

Test(conformance, F07_the_address_is_the_key_not_the_mac)
{
	struct addr twin = addr_of("225.10.10.10");
	struct rig *rig = rig_new(false, NULL);

	rig_report(rig, P1, WIRE_TO_EX, "");
	cr_assert_str_eq(rig_state_of(rig, P1, &twin), "-");
	rig_free(rig);
}

Test(conformance, F09_a_removed_port_ends_its_memberships)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		learn_router(rig);
		rig_report(rig, R, WIRE_TO_EX, "");
		rig_report(rig, P1, WIRE_TO_EX, "");
		gmp_fx_clear(&rig->fx);
		gmp_port_remove(rig->gmp, R, &rig->fx);
		cr_assert_eq(rig_effects(rig, R, GMP_FX_MEMBERSHIP), 1);
		cr_assert_eq(rig_effects(rig, R, GMP_FX_ROUTER), 1);
		cr_assert_eq(rig->fx.n, 2);
		cr_assert_str_eq(rig_view(rig, R), "IN{}");
		cr_assert_str_eq(rig_view(rig, P1), "EX{}");
		cr_assert_not(gmp_port_is_router(rig->gmp, R));
		rig_old(rig, P1, OLD_REPORT(v6));
		cr_assert_eq(handed_on(rig), 0);
		rig_wait(rig, 600000);
		cr_assert_eq(rig_effects(rig, R, GMP_FX_QUERY), 0);
		rig_free(rig);
	}
}

Test(conformance, F12_filters_are_of_each_port)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, WIRE_IS_IN, "1");
		rig_report(rig, P2, WIRE_IS_IN, "2");
		cr_assert_str_eq(rig_view(rig, P1), "IN{1}");
		cr_assert_str_eq(rig_view(rig, P2), "IN{2}");
		rig_free(rig);
	}
}

Test(conformance, F13_hosts_of_one_port_get_a_superset)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report_host(rig, P1, 1, WIRE_TO_EX, "1 2");
		rig_report_host(rig, P1, 2, WIRE_ALLOW, "1");
		cr_assert_str_eq(rig_view(rig, P1), "EX{2}");
		rig_report_host(rig, P1, 3, WIRE_TO_EX, "2 3");
		cr_assert_str_eq(rig_view(rig, P1), "EX{2}", "3 until nobody answers for it");
		rig_free(rig);
	}
}

Test(conformance, F14_link_local_mld_groups)
{
	static const struct {
		const char *group;
		bool kept;
	} rows[] = { { "ff02::1", false }, { "ff01::1", false },	{ "ff00::9", false },
		     { "ff02::fb", true }, { "ff02::1:ff00:17", true }, /* solicited-node */
		     { "ff05::1", true } };

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct addr host = host_of(true, 1), group = addr_of(rows[i].group);
		struct rig *rig = rig_new(true, NULL);
		struct frame f;

		frame_simple(&f, 131, &host, &group);
		rig_frame(rig, P1, &f);
		cr_assert_eq(gmp_port_membership_count(rig->gmp, P1), rows[i].kept, "%s",
			     rows[i].group);
		rig_free(rig);
	}
}

static struct addr ssm_group(bool v6)
{
	return addr_of(v6 ? "ff3e::8000:1" : "232.1.1.1");
}

static void ssm_report(struct rig *rig, unsigned int type, const char *sources)
{
	struct record record = { type, ssm_group(rig->v6), sources };
	struct addr host = host_of(rig->v6, 1);
	struct frame f;

	frame_report(&f, rig->v6, &host, &record, 1);
	rig_frame(rig, P1, &f);
}

Test(conformance, G01_any_source_requests_for_ssm_groups)
{
	EACH_FAMILY(v6)
	{
		struct addr host = host_of(v6, 1), group = ssm_group(v6);
		static const uint8_t types[2][3] = { { V1_REPORT, V2_REPORT, V2_LEAVE },
						     { 131, 131, 132 } };
		struct rig *rig = rig_new(v6, NULL);
		struct frame f;

		for (size_t i = 0; i < 3; i++) {
			frame_simple(&f, types[v6][i], &host, &group);
			rig_frame(rig, P1, &f);
		}
		ssm_report(rig, WIRE_IS_EX, "");
		ssm_report(rig, WIRE_TO_EX, "1");
		cr_assert_eq(gmp_port_membership_count(rig->gmp, P1), 0);
		cr_assert_eq(rig_counter(rig, GMP_C_ssm_refused), 5);
		ssm_report(rig, WIRE_ALLOW, "1");
		ssm_report(rig, WIRE_IS_EX, "");
		cr_assert_str_eq(rig_state_of(rig, P1, &group), "IN{1:270}");
		rig_free(rig);
	}
}

Test(conformance, G02_source_specific_requests)
{
	EACH_FAMILY(v6)
	{
		struct addr group = ssm_group(v6);
		struct rig *rig = rig_new(v6, NULL);

		ssm_report(rig, WIRE_ALLOW, "1 2");
		ssm_report(rig, WIRE_IS_IN, "3");
		cr_assert_str_eq(rig_state_of(rig, P1, &group), "IN{1:270 2:270 3:270}");
		ssm_report(rig, WIRE_BLOCK, "2");
		cr_assert_str_eq(rig_queries(rig, P1), "Q(G,2)");
		ssm_report(rig, WIRE_TO_IN, "1");
		cr_assert_str_eq(rig_state_of(rig, P1, &group), "IN{1:270 2:2 3:2}");
		rig_free(rig);
	}
}

Test(conformance, G03_segments_are_apart)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		gmp_port_remove(rig->gmp, P2, &rig->fx);
		cr_assert_eq(gmp_port_add(rig->gmp, P2, 8, &rig->config, rig->now, &rig->fx), 0);
		rig_report(rig, P1, WIRE_ALLOW, "1");
		cr_assert_str_eq(rig_view(rig, P2), "IN{}");
		rig_report(rig, P2, WIRE_ALLOW, "2");
		cr_assert_str_eq(rig_view(rig, P1), "IN{1}");
		cr_assert_str_eq(rig_view(rig, P2), "IN{2}");
		rig_free(rig);
	}
}

Test(conformance, H09_mldv1_host_beside_mldv2_queries)
{
	struct rig *rig = rig_new(true, NULL);

	rig_old(rig, P1, 131);
	rig_report(rig, P1, WIRE_BLOCK, "1");
	cr_assert(rig_forwards(rig, P1, 1));
	rig_wait(rig, 130000);
	cr_assert_not_null(strstr(rig_queries(rig, P1), "Q()"));
	cr_assert_null(strstr(rig_queries(rig, P1), "old"), "the querier keeps its version");
	rig_free(rig);
}

Test(conformance, H10_both_families_by_the_same_vectors)
{
	/* What gmp_state.c runs for B; here, that a state of one is none of the other. */
	EACH_FAMILY(v6)
	{
		struct addr other = group_of(!v6);
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, WIRE_TO_EX, "1");
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{1}");
		cr_assert_str_eq(rig_state_of(rig, P1, &other), "-");
		rig_free(rig);
	}
}
