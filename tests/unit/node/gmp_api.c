/* SPDX-License-Identifier: Apache-2.0 */
/* node/gmp/gmp.h as a contract: facts, views, limits, and memory that runs out. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "gmp_harness.h"

static struct filter filter_of(bool v6, enum filter_mode mode, unsigned int first, unsigned int n)
{
	struct addr list[64];
	struct filter f;

	for (unsigned int i = 0; i < n; i++)
		list[i] = source_of(v6, first + i);
	cr_assert_eq(filter_init(&f, mode, list, n), 0);
	return f;
}

static int restore(struct rig *rig, const struct addr *group, enum filter_mode mode,
		   unsigned int first, unsigned int n)
{
	struct filter f = filter_of(rig->v6, mode, first, n);
	int r;

	gmp_fx_clear(&rig->fx);
	r = gmp_port_restore(rig->gmp, P1, group, &f, rig->now, &rig->fx);
	filter_deinit(&f);
	return r;
}

static int fix(struct rig *rig, const struct addr *group, enum filter_mode mode, unsigned int first,
	       unsigned int n)
{
	struct filter f = filter_of(rig->v6, mode, first, n);
	int r;

	gmp_fx_clear(&rig->fx);
	r = gmp_port_static(rig->gmp, P1, group, &f, rig->now, &rig->fx);
	filter_deinit(&f);
	return r;
}

static int withdraw(struct rig *rig, const struct addr *group)
{
	gmp_fx_clear(&rig->fx);
	return gmp_port_static(rig->gmp, P1, group, NULL, rig->now, &rig->fx);
}

static size_t told(const struct rig *rig)
{
	return rig_effects(rig, P1, GMP_FX_MEMBERSHIP);
}

Test(gmp_api, restore_forwards_at_once_and_ages)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);
		struct addr g = group_of(v6);

		cr_assert_eq(restore(rig, &g, FILTER_EXCLUDE, 1, 2), 0);
		cr_assert_eq(told(rig), 1);
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{1 2}");
		cr_assert_eq(restore(rig, &g, FILTER_EXCLUDE, 1, 2), 0);
		cr_assert_eq(told(rig), 0, "the same again");
		rig_wait(rig, 269999);
		cr_assert_str_eq(rig_view(rig, P1), "EX{1 2}");
		rig_wait(rig, 1);
		cr_assert_str_eq(rig_state(rig, P1), "-");
		cr_assert_eq(told(rig), 1);

		cr_assert_eq(restore(rig, &g, FILTER_INCLUDE, 1, 2), 0);
		cr_assert_str_eq(rig_state(rig, P1), "IN{1:270 2:270}");
		rig_wait(rig, 100000);
		rig_report(rig, P1, WIRE_IS_IN, "2");
		cr_assert_eq(told(rig), 0, "a report of what was known");
		rig_wait(rig, 170000);
		cr_assert_str_eq(rig_state(rig, P1), "IN{2:100}");
		rig_free(rig);
	}
}

Test(gmp_api, restore_takes_nothing_from_live_hosts)
{
	EACH_FAMILY(v6)
	{
		struct gmp_config c = rig_config();
		struct addr g = group_of(v6);
		struct rig *rig;

		c.fast_leave = true;
		rig = rig_new(v6, &c);
		rig_report(rig, P1, WIRE_IS_IN, "5");
		cr_assert_eq(restore(rig, &g, FILTER_INCLUDE, 1, 1), 0);
		cr_assert_str_eq(rig_view(rig, P1), "IN{1 5}");
		rig_report(rig, P1, WIRE_TO_IN, "");
		cr_assert_str_eq(rig_view(rig, P1), "IN{1 5}", "others may be there unknown");
		rig_wait(rig, 2000);
		cr_assert_str_eq(rig_view(rig, P1), "IN{}");
		rig_free(rig);
	}
}

Test(gmp_api, restore_and_static_refuse_what_no_report_may_ask)
{
	static const char *const bad[2][4] = { { "224.0.0.1", "10.1.1.1", "0.0.0.0", "232.1.1.1" },
					       { "ff02::1", "2001:db8::1", "ff01::5",
						 "ff3e::8000:1" } };

	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);
		struct addr g = group_of(!v6);
		struct filter f = FILTER_NULL;

		for (size_t i = 0; i < 4; i++) {
			struct addr no = addr_of(bad[v6][i]);

			cr_assert_eq(restore(rig, &no, FILTER_EXCLUDE, 0, 0), -EINVAL);
			cr_assert_eq(fix(rig, &no, FILTER_EXCLUDE, 0, 0), -EINVAL);
		}
		cr_assert_eq(restore(rig, &g, FILTER_INCLUDE, 1, 1), -EINVAL, "mixed families");
		cr_assert_eq(fix(rig, &g, FILTER_INCLUDE, 1, 1), -EINVAL);
		g = group_of(v6);
		cr_assert_eq(restore(rig, &g, FILTER_INCLUDE, 0, 0), 0);
		cr_assert_eq(withdraw(rig, &g), 0);
		cr_assert_eq(gmp_port_restore(rig->gmp, 99, &g, &f, 0, &rig->fx), -ENOENT);
		cr_assert_eq(gmp_port_static(rig->gmp, 99, &g, &f, 0, &rig->fx), -ENOENT);
		cr_assert_eq(gmp_port_membership_count(rig->gmp, P1), 0);
		cr_assert_eq(rig->fx.n, 0);
		rig_free(rig);
	}
}

Test(gmp_api, static_members_stay_and_are_told_when_they_matter)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);
		struct addr g = group_of(v6);

		cr_assert_eq(fix(rig, &g, FILTER_INCLUDE, 1, 1), 0);
		cr_assert_eq(told(rig), 1);
		cr_assert_eq(fix(rig, &g, FILTER_INCLUDE, 1, 1), 0);
		cr_assert_eq(told(rig), 0, "the same again");
		rig_wait(rig, 1000000);
		cr_assert_str_eq(rig_view(rig, P1), "IN{1}");
		rig_report(rig, P1, WIRE_ALLOW, "1");
		cr_assert_eq(told(rig), 0, "it was wanted anyway");
		rig_report(rig, P1, WIRE_ALLOW, "2");
		cr_assert_eq(told(rig), 1);
		cr_assert_str_eq(rig_view(rig, P1), "IN{1 2}");
		cr_assert_eq(fix(rig, &g, FILTER_INCLUDE, 2, 1), 0);
		cr_assert_eq(told(rig), 0, "hosts want 1 and 2 themselves");
		cr_assert_eq(withdraw(rig, &g), 0);
		cr_assert_eq(told(rig), 0);
		cr_assert_str_eq(rig_state(rig, P1), "IN{1:270 2:270}");
		cr_assert_eq(fix(rig, &g, FILTER_EXCLUDE, 2, 2), 0);
		cr_assert_str_eq(rig_view(rig, P1), "EX{3}");
		rig_wait(rig, 270000);
		cr_assert_str_eq(rig_view(rig, P1), "EX{2 3}");
		cr_assert_eq(withdraw(rig, &g), 0);
		cr_assert_eq(told(rig), 1);
		cr_assert_str_eq(rig_state(rig, P1), "-");
		cr_assert_eq(withdraw(rig, &g), 0);
		cr_assert_eq(told(rig), 0);
		rig_free(rig);
	}
}

/* ---- views ------------------------------------------------------------------- */

struct seen {
	size_t n, stop_at;
	uint32_t tag;
	uint64_t expires;
	size_t hosts;
	bool is_static;
};

static int note(const struct gmp_membership_view *view, void *userdata)
{
	struct seen *seen = userdata;

	seen->n++;
	seen->tag = view->tag;
	seen->expires = view->expires_ms;
	seen->hosts = view->n_hosts;
	seen->is_static = view->is_static;
	return seen->stop_at && seen->n == seen->stop_at ? 42 : 0;
}

Test(gmp_api, walk_and_view)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);
		struct addr g = group_of(v6), other = addr_of(v6 ? "ff1e::2" : "239.2.2.2");
		struct seen seen = { 0 };

		rig_report_host(rig, P1, 1, WIRE_IS_EX, "");
		rig_report_host(rig, P1, 2, WIRE_IS_EX, "");
		rig_report(rig, P2, WIRE_IS_IN, "1");
		cr_assert_eq(fix(rig, &other, FILTER_EXCLUDE, 0, 0), 0);
		cr_assert_eq(gmp_memberships_walk(rig->gmp, 0, note, &seen), 0);
		cr_assert_eq(seen.n, 3);
		seen = (struct seen){ 0 };
		cr_assert_eq(gmp_memberships_walk(rig->gmp, P2, note, &seen), 0);
		cr_assert_eq(seen.n, 1);
		cr_assert_eq(seen.expires, rig->now + 270000);
		seen = (struct seen){ .stop_at = 2 };
		cr_assert_eq(gmp_memberships_walk(rig->gmp, 0, note, &seen), 42);
		cr_assert_eq(seen.n, 2);
		cr_assert_eq(gmp_membership_view(rig->gmp, P1, &g, note, &seen), 0);
		cr_assert_eq(seen.hosts, 2);
		cr_assert_eq(seen.tag, 7);
		cr_assert_not(seen.is_static);
		cr_assert_eq(gmp_membership_view(rig->gmp, P1, &other, note, &seen), 0);
		cr_assert(seen.is_static && seen.expires == UINT64_MAX);
		cr_assert_eq(gmp_membership_view(rig->gmp, P2, &other, note, &seen), -ENOENT);
		rig_free(rig);
	}
}

Test(gmp_api, silent_hosts_are_forgotten)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);
		struct addr g = group_of(v6);
		struct seen seen = { 0 };

		rig_report_host(rig, P1, 1, WIRE_IS_EX, "");
		rig_wait(rig, 200000);
		rig_report_host(rig, P1, 2, WIRE_IS_EX, "");
		rig_wait(rig, 69999);
		gmp_membership_view(rig->gmp, P1, &g, note, &seen);
		cr_assert_eq(seen.hosts, 2);
		rig_wait(rig, 1);
		gmp_membership_view(rig->gmp, P1, &g, note, &seen);
		cr_assert_eq(seen.hosts, 1);
		rig_free(rig);
	}
}

Test(gmp_api, ports)
{
	struct rig *rig = rig_new(false, NULL);
	struct gmp_config c = rig->config;

	cr_assert_eq(gmp_port_add(rig->gmp, P1, 0, &c, rig->now, &rig->fx), -EEXIST);
	c.robustness = 0;
	cr_assert_eq(gmp_port_add(rig->gmp, 50, 0, &c, rig->now, &rig->fx), -EINVAL);
	gmp_port_remove(rig->gmp, 50, &rig->fx);
	rig_report(rig, 50, WIRE_IS_EX, "");
	cr_assert_eq(rig->fx.n, 0);
	cr_assert_eq(gmp_port_counter(rig->gmp, 50, GMP_C_reports_accepted), 0);
	cr_assert_str_eq(gmp_counter_name(GMP_C_bad_ttl), "gmp_bad_ttl");
	cr_assert_str_eq(gmp_counter_name(GMP_C_bad_csum), "gmp_bad_csum");
	cr_assert_null(gmp_counter_name(GMP_C_COUNT));
	rig_free(rig);
	gmp_free(NULL);
}

Test(gmp_api, many_ports_and_groups_come_and_go)
{
	struct rig *rig = rig_new(false, NULL);

	for (uint32_t p = 1000; p < 1300; p++) {
		cr_assert_eq(gmp_port_add(rig->gmp, p * 512, p, &rig->config, rig->now, &rig->fx),
			     0);
		rig_report(rig, p * 512, WIRE_ALLOW, "1");
		rig->now += 10;
	}
	for (uint32_t p = 1000; p < 1300; p += 3) {
		gmp_port_remove(rig->gmp, p * 512, &rig->fx);
		cr_assert_str_eq(rig_view(rig, p * 512), "IN{}");
	}
	for (uint32_t p = 1000; p < 1300; p++)
		cr_assert_str_eq(rig_view(rig, p * 512), (p - 1000) % 3 ? "IN{1}" : "IN{}");
	rig_wait(rig, 270000);
	for (uint32_t p = 1000; p < 1300; p++)
		cr_assert_str_eq(rig_view(rig, p * 512), "IN{}");
	rig_free(rig);
}

/* ---- limits ------------------------------------------------------------------ */

Test(gmp_api, group_limit_refuses_and_evicts_nobody)
{
	EACH_FAMILY(v6)
	{
		struct gmp_config c = rig_config();
		struct addr host = host_of(v6, 1), third = addr_of(v6 ? "ff1e::3" : "239.3.3.3");
		struct record records[] = { { WIRE_IS_EX, group_of(v6), "" },
					    { WIRE_IS_EX, addr_of(v6 ? "ff1e::2" : "239.2.2.2"),
					      "" },
					    { WIRE_IS_EX, third, "" } };
		struct rig *rig;
		struct frame f;

		c.max_groups = 2;
		rig = rig_new(v6, &c);
		frame_report(&f, v6, &host, records, 3);
		rig_frame(rig, P1, &f);
		cr_assert_eq(gmp_port_membership_count(rig->gmp, P1), 2);
		cr_assert_eq(rig_counter(rig, GMP_C_group_limit), 1);
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		cr_assert_str_eq(rig_state_of(rig, P1, &third), "-");
		cr_assert_eq(restore(rig, &third, FILTER_EXCLUDE, 0, 0), -ENOSPC);
		cr_assert_eq(fix(rig, &third, FILTER_EXCLUDE, 0, 0), -ENOSPC);
		rig_frame(rig, P2, &f);
		cr_assert_eq(gmp_port_membership_count(rig->gmp, P2), 2, "of each port");
		rig_free(rig);
	}
}

Test(gmp_api, source_limit_refuses_and_evicts_nobody)
{
	EACH_FAMILY(v6)
	{
		struct gmp_config c = rig_config();
		struct rig *rig;

		c.max_sources = 3;
		rig = rig_new(v6, &c);
		rig_report(rig, P1, WIRE_ALLOW, "2 3 4");
		rig_report(rig, P1, WIRE_ALLOW, "1 2 5");
		cr_assert_str_eq(rig_state(rig, P1), "IN{2:270 3:270 4:270}");
		cr_assert_eq(rig_counter(rig, GMP_C_source_limit), 2);
		rig_report(rig, P2, WIRE_IS_EX, "1 2 3 4 5");
		cr_assert_str_eq(rig_state(rig, P2), "EX:270{}{1 2 3}", "the rest is let through");
		rig_free(rig);
	}
}

Test(gmp_api, host_limit_makes_leaves_slow_again)
{
	EACH_FAMILY(v6)
	{
		struct gmp_config c = rig_config();
		struct rig *rig;

		c.max_hosts = 1;
		c.fast_leave = true;
		rig = rig_new(v6, &c);
		rig_report_host(rig, P1, 1, WIRE_IS_EX, "");
		rig_report_host(rig, P1, 2, WIRE_IS_EX, "");
		cr_assert_eq(rig_counter(rig, GMP_C_host_limit), 1);
		rig_report_host(rig, P1, 1, WIRE_TO_IN, "");
		cr_assert_str_eq(rig_state(rig, P1), "EX:2{}{}");
		rig_free(rig);
	}
}

Test(gmp_api, report_rate_limit)
{
	EACH_FAMILY(v6)
	{
		struct gmp_config c = rig_config();
		struct rig *rig;

		c.max_reports_per_second = 10;
		rig = rig_new(v6, &c);
		for (int i = 0; i < 15; i++)
			rig_report(rig, P1, WIRE_IS_EX, "");
		cr_assert_eq(rig_counter(rig, GMP_C_reports_accepted), 10);
		cr_assert_eq(rig_counter(rig, GMP_C_rate_limited), 5);
		rig_report(rig, P2, WIRE_IS_EX, "");
		cr_assert_str_eq(rig_view(rig, P2), "EX{}", "of each port");
		rig->now += 99;
		rig_report(rig, P1, WIRE_IS_EX, "");
		cr_assert_eq(rig_counter(rig, GMP_C_reports_accepted), 10);
		rig->now += 1;
		rig_report(rig, P1, WIRE_IS_EX, "");
		cr_assert_eq(rig_counter(rig, GMP_C_reports_accepted), 11);
		rig->now += 3600000;
		for (int i = 0; i < 15; i++)
			rig_report(rig, P1, WIRE_IS_EX, "");
		cr_assert_eq(rig_counter(rig, GMP_C_reports_accepted), 21, "no more than a second");
		rig_free(rig);
	}
}
