/* SPDX-License-Identifier: Apache-2.0 */
#include "node/ways.h"

#include <criterion/criterion.h>
#include <string.h>

static struct addr ip(const char *text)
{
	struct addr a;

	cr_assert_eq(addr_parse(text, &a), 0);
	return a;
}

static struct rtnl_path path_to(const char *next_hop)
{
	return (struct rtnl_path){
		.way = RTNL_WAY_DIRECT,
		.ifindex = 7,
		.mtu = 1500,
		.next_hop = ip(next_hop),
		.to_mac = { 2, 0, 0, 0, 0, 1 },
		.from_mac = { 2, 0, 0, 0, 0, 2 },
	};
}

/* ---- time ---- */

Test(ways, a_change_asks_at_once_but_not_before_the_pause)
{
	struct ways_clock c = { 0 };

	ways_asked(&c, 100000);
	ways_held(&c, 1000000);
	cr_expect_eq(ways_next_ms(&c), 100000 + WAYS_REFRESH_MS);
	ways_changed(&c);
	cr_expect_eq(ways_next_ms(&c), 100000 + WAYS_PAUSE_MS);
	ways_changed(&c);
	cr_expect_eq(ways_next_ms(&c), 100000 + WAYS_PAUSE_MS, "later changes do not put it off");
}

Test(ways, a_round_that_is_due_is_not_put_off_by_a_change)
{
	struct ways_clock c = { 0 };

	ways_asked(&c, 100000);
	c.due_ms = 100001;
	ways_changed(&c);
	cr_expect_eq(c.due_ms, 100001);
}

Test(ways, single_paths_are_due_at_once)
{
	struct ways_clock c = { 0 };

	ways_asked(&c, 100000);
	ways_held(&c, 100000);
	c.some_due = true;
	cr_expect_eq(ways_next_ms(&c), 0);
}

/* Two turns may be missed before the datapath lets go. */
Test(ways, held_anew_well_before_the_hold_ends)
{
	struct ways_clock c = { 0 };

	ways_asked(&c, 1000000);
	ways_held(&c, 100000);
	cr_expect_leq(ways_next_ms(&c), 100000 + WAYS_HOLD_MS / 3);
	cr_expect_geq(ways_next_ms(&c), 100000 + WAYS_HOLD_MS / 4);
}

Test(ways, a_round_is_due_at_its_time_and_not_before)
{
	struct ways_clock c = { 0 };

	ways_asked(&c, 100000);
	cr_expect_eq(ways_round_due(&c, 100000 + WAYS_REFRESH_MS - 1), WAYS_ROUND_NONE);
	cr_expect_eq(ways_round_due(&c, 100000 + WAYS_REFRESH_MS), WAYS_ROUND_ALL);
	c.some_due = true;
	cr_expect_eq(ways_round_due(&c, 100000 + WAYS_REFRESH_MS - 1), WAYS_ROUND_SOME);
	cr_expect_eq(ways_round_due(&c, 100000 + WAYS_REFRESH_MS), WAYS_ROUND_ALL,
		     "they are among all");
	c.some_due = false;
	ways_changed(&c);
	cr_expect_eq(ways_round_due(&c, 100000 + WAYS_PAUSE_MS - 1), WAYS_ROUND_NONE);
	cr_expect_eq(ways_round_due(&c, 100000 + WAYS_PAUSE_MS), WAYS_ROUND_ALL);
}

/* A clock that was never asked, as at the start. */
Test(ways, the_first_turn_asks_and_holds)
{
	struct ways_clock c = { 0 };

	cr_expect_eq(ways_round_due(&c, 0), WAYS_ROUND_ALL);
	cr_expect(ways_hold_due(&c, 0));
	cr_expect_eq(ways_next_ms(&c), 0);
}

Test(ways, the_hold_is_due_at_its_time_and_not_before)
{
	struct ways_clock c = { 0 };

	ways_asked(&c, 1000000);
	ways_held(&c, 100000);
	cr_expect_not(ways_hold_due(&c, ways_next_ms(&c) - 1));
	cr_expect(ways_hold_due(&c, ways_next_ms(&c)));
	ways_held(&c, ways_next_ms(&c));
	cr_expect_not(ways_hold_due(&c, c.hold_ms - 1));
}

/* ---- links ---- */

Test(ways, a_link_is_there_once_and_no_more_than_there_is_room_for)
{
	uint32_t links[4] = { 0, 0, 0, 99 };
	size_t n = 0;

	for (uint32_t i = 0; i < 6; i++)
		ways_link_add(links, 3, &n, 7 + i / 2);
	cr_expect_eq(n, 3);
	cr_expect(links[0] == 7 && links[1] == 8 && links[2] == 9);
	ways_link_add(links, 3, &n, 10);
	ways_link_add(links, 3, &n, 8);
	cr_expect_eq(n, 3);
	cr_expect_eq(links[3], 99, "nothing behind the end");
}

/* ---- neighbours ---- */

Test(ways, only_the_neighbour_of_a_path_matters)
{
	const struct addr hop = ip("192.0.2.1"), other = ip("192.0.2.2");
	struct rtnl_path path = path_to("192.0.2.1");

	cr_expect(ways_neighbour_matters(&path, 7, &hop));
	cr_expect_not(ways_neighbour_matters(&path, 8, &hop));
	cr_expect_not(ways_neighbour_matters(&path, 7, &other));
	path.way = RTNL_WAY_NEIGHBOUR;
	cr_expect(ways_neighbour_matters(&path, 7, &hop), "it may be resolved now");
	path.way = RTNL_WAY_IPSEC;
	cr_expect_not(ways_neighbour_matters(&path, 7, &hop));
}

/* ---- what the datapath is told ---- */

Test(ways, a_direct_path_is_told_as_a_whole)
{
	struct rtnl_path path = path_to("192.0.2.1");
	struct datapath_path to;

	for (int v6 = 0; v6 < 2; v6++) {
		memset(&to, 0xff, sizeof(to));
		cr_assert(ways_datapath_path(&path, v6, &to));
		cr_expect_eq(to.ifindex, 7);
		cr_expect_eq(to.mtu, 1500);
		cr_expect_arr_eq(to.to_mac, path.to_mac, 6);
		cr_expect_arr_eq(to.from_mac, path.from_mac, 6);
	}
}

Test(ways, of_another_way_over_ipv4_nothing_is_told)
{
	struct datapath_path to = { .mtu = 1 };

	for (int way = RTNL_WAY_UNKNOWN; way <= RTNL_WAY_SETTING; way++) {
		struct rtnl_path path = path_to("192.0.2.1");

		path.way = (enum rtnl_way)way;
		cr_expect_not(ways_datapath_path(&path, false, &to), "%d", way);
		cr_expect_eq(to.mtu, 1, "untouched");
	}
}

Test(ways, of_another_way_over_ipv6_only_the_mtu_is_told)
{
	for (int way = RTNL_WAY_UNKNOWN; way <= RTNL_WAY_SETTING; way++) {
		struct rtnl_path path = path_to("2001:db8::1");
		struct datapath_path to;

		path.way = (enum rtnl_way)way;
		cr_assert(ways_datapath_path(&path, true, &to));
		cr_expect_eq(to.ifindex, 0);
		cr_expect_eq(to.to_mac[0], 0);
		cr_expect_eq(to.mtu, way == RTNL_WAY_IPSEC ? 1500 - WAYS_IPSEC_BYTES : 1500);
	}
}

Test(ways, an_mtu_that_is_not_known_is_not_told)
{
	struct rtnl_path path = { .way = RTNL_WAY_NO_ROUTE };
	struct datapath_path to = { .mtu = 1 };

	cr_expect_not(ways_datapath_path(&path, true, &to));
	cr_expect_eq(to.mtu, 1);
	path = (struct rtnl_path){ .way = RTNL_WAY_IPSEC, .mtu = 100 };
	cr_assert(ways_datapath_path(&path, true, &to));
	cr_expect_eq(to.mtu, 0, "no wrap");
}

/* ---- ports ---- */

Test(ways, into_the_veth_only_where_nothing_is_passed_by)
{
	const struct ways_port good = { .up = true,
					.veth = true,
					.peer_away = true,
					.egress_plain = true,
					.attached_ms = 5000 };
	struct ways_port p = good;
	const uint64_t then = 5000 + WAYS_PEER_AFTER_MS;

	cr_expect(ways_port_may_peer(NODE_DELIVERY_AUTO, &p, then));
	cr_expect_not(ways_port_may_peer(NODE_DELIVERY_AUTO, &p, then - 1));
	cr_expect_not(ways_port_may_peer(NODE_DELIVERY_EGRESS, &p, then));
	cr_expect(ways_port_may_peer(NODE_DELIVERY_PEER, &p, 5000),
		  "who says so waits for nothing");
	p.egress_plain = false;
	cr_expect_not(ways_port_may_peer(NODE_DELIVERY_AUTO, &p, then));
	cr_expect(ways_port_may_peer(NODE_DELIVERY_PEER, &p, then));
}

Test(ways, into_the_veth_never_where_that_cannot_be)
{
	const struct ways_port good = { true, true, true, true, 0 };

	for (int what = 0; what < 3; what++) {
		struct ways_port p = good;

		*(what == 0 ? &p.up : what == 1 ? &p.veth : &p.peer_away) = false;
		cr_expect_not(ways_port_may_peer(NODE_DELIVERY_AUTO, &p, 100000), "%d", what);
		cr_expect_not(ways_port_may_peer(NODE_DELIVERY_PEER, &p, 100000), "%d", what);
	}
}
