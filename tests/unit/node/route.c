/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of a path, by messages as the kernel sends them. */
#include "node/rtnl/internal.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <linux/lwtunnel.h>
#include <linux/neighbour.h>
#include <string.h>

static const uint8_t MAC[6] = { 2, 0, 0, 0, 0, 9 };

struct message {
	alignas(struct nlmsghdr) uint8_t buf[512];
	struct nlmsghdr *nlh;
};

static struct addr ip(const char *text)
{
	struct addr a;

	cr_assert_eq(addr_parse(text, &a), 0);
	return a;
}

static struct rtmsg *route_message(struct message *m, uint8_t type)
{
	void *body;

	m->nlh = rtnl_message(m->buf, RTM_NEWROUTE, 0, sizeof(struct rtmsg), &body);
	((struct rtmsg *)body)->rtm_type = type;
	return body;
}

static void put(struct message *m, uint16_t type, const char *address)
{
	struct addr a = ip(address);

	mnl_attr_put(m->nlh, type, addr_is_v4(&a) ? 4 : 16, addr_is_v4(&a) ? a.b + 12 : a.b);
}

static struct rtnl_route parsed(const struct message *m)
{
	struct rtnl_route route = { .found = false };

	rtnl_route_parse(m->nlh, &route);
	return route;
}

/* ---- routes ---- */

Test(route, plain_one_with_gateway_and_mtu)
{
	struct nlattr *metrics;
	struct rtnl_route r;
	struct message m;

	route_message(&m, RTN_UNICAST);
	mnl_attr_put_u32(m.nlh, RTA_OIF, 5);
	put(&m, RTA_GATEWAY, "192.0.2.254");
	metrics = mnl_attr_nest_start(m.nlh, RTA_METRICS);
	mnl_attr_put_u32(m.nlh, RTAX_HOPLIMIT, 3);
	mnl_attr_put_u32(m.nlh, RTAX_MTU, 1300);
	mnl_attr_nest_end(m.nlh, metrics);
	r = parsed(&m);
	cr_expect(r.found && r.plain);
	cr_expect_eq(r.ifindex, 5);
	cr_expect_eq(r.mtu, 1300);
	cr_expect(addr_equal(&r.gateway,
			     &(struct addr){ .b = { [10] = 0xff, 0xff, 192, 0, 2, 254 } }));
}

Test(route, what_is_more_than_an_ethernet_header_is_not_plain)
{
	static const uint8_t types[] = { RTN_LOCAL,	RTN_BROADCAST,	 RTN_MULTICAST,
					 RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT,
					 RTN_THROW,	RTN_ANYCAST };
	static const uint16_t attrs[] = { RTA_VIA, RTA_ENCAP, RTA_ENCAP_TYPE, RTA_MULTIPATH,
					  RTA_NEWDST };
	struct message m;

	for (size_t i = 0; i < sizeof(types); i++) {
		route_message(&m, types[i]);
		mnl_attr_put_u32(m.nlh, RTA_OIF, 5);
		cr_expect(!parsed(&m).plain && parsed(&m).found, "type %u", types[i]);
	}
	for (size_t i = 0; i < sizeof(attrs) / sizeof(*attrs); i++) {
		route_message(&m, RTN_UNICAST);
		mnl_attr_put_u32(m.nlh, RTA_OIF, 5);
		mnl_attr_put_u16(m.nlh, attrs[i], LWTUNNEL_ENCAP_MPLS);
		cr_expect(!parsed(&m).plain, "attribute %u", attrs[i]);
	}
}

Test(route, gateway_that_is_no_address)
{
	struct message m;

	route_message(&m, RTN_UNICAST);
	mnl_attr_put_u16(m.nlh, RTA_GATEWAY, 1);
	cr_expect_not(parsed(&m).plain);
}

Test(route, other_messages_say_nothing)
{
	struct message m;

	route_message(&m, RTN_UNICAST);
	m.nlh->nlmsg_type = RTM_DELROUTE;
	cr_expect_not(parsed(&m).found);
}

/* ---- neighbours ---- */

static struct rtnl_neighbour neighbour(uint16_t state, size_t mac_len)
{
	struct rtnl_neighbour n = { .usable = false };
	struct message m;
	void *body;

	m.nlh = rtnl_message(m.buf, RTM_NEWNEIGH, 0, sizeof(struct ndmsg), &body);
	((struct ndmsg *)body)->ndm_state = state;
	if (mac_len)
		mnl_attr_put(m.nlh, NDA_LLADDR, mac_len, MAC);
	rtnl_neighbour_parse(m.nlh, &n);
	return n;
}

Test(route, neighbours_whose_address_holds)
{
	static const uint16_t good[] = { NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE,
					 NUD_PERMANENT };
	static const uint16_t bad[] = { NUD_INCOMPLETE, NUD_FAILED, NUD_NOARP, NUD_NONE };

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		struct rtnl_neighbour n = neighbour(good[i], 6);

		cr_expect(n.usable, "state %#x", good[i]);
		cr_expect_arr_eq(n.mac, MAC, 6);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		cr_expect_not(neighbour(bad[i], 6).usable, "state %#x", bad[i]);
	cr_expect_not(neighbour(NUD_REACHABLE, 0).usable);
	cr_expect_not(neighbour(NUD_REACHABLE, 4).usable, "not Ethernet");
}

/* ---- the way ---- */

struct facts {
	struct addr to, from;
	bool ipsec;
	struct rtnl_route route;
	struct rtnl_link link;
	bool no_link;
};

static struct facts good(void)
{
	return (struct facts){
		.to = ip("192.0.2.2"),
		.from = ip("192.0.2.1"),
		.route = { .found = true, .plain = true, .ifindex = 5 },
		.link = { .ifindex = 5,
			  .up = true,
			  .carrier = true,
			  .ethernet = true,
			  .mtu = 1500,
			  .mac = { 2, 0, 0, 0, 0, 1 } },
	};
}

static struct rtnl_path begin(const struct facts *f)
{
	struct rtnl_path path;

	memset(&path, 0xff, sizeof(path));
	rtnl_path_begin(&f->to, &f->from, f->ipsec, &f->route, f->no_link ? NULL : &f->link, &path);
	return path;
}

Test(route, direct_to_a_neighbour)
{
	struct rtnl_neighbour n = { .usable = true, .mac = { 2, 0, 0, 0, 0, 9 } };
	struct facts f = good();
	struct rtnl_path p = begin(&f);

	rtnl_path_end(&n, &p);
	cr_expect_eq(p.way, RTNL_WAY_DIRECT);
	cr_expect_eq(p.ifindex, 5);
	cr_expect_eq(p.mtu, 1500);
	cr_expect(addr_equal(&p.next_hop, &f.to));
	cr_expect_arr_eq(p.from_mac, f.link.mac, 6);
	cr_expect_arr_eq(p.to_mac, MAC, 6);
}

Test(route, by_a_gateway_and_by_the_smaller_mtu)
{
	struct facts f = good();
	struct addr gateway = ip("192.0.2.254");
	struct rtnl_path p;

	f.route.gateway = gateway;
	f.route.mtu = 1400;
	p = begin(&f);
	cr_expect(addr_equal(&p.next_hop, &gateway));
	cr_expect_eq(p.mtu, 1400);
	f.route.mtu = 9000;
	cr_expect_eq(begin(&f).mtu, 1500);
}

Test(route, a_neighbour_that_is_not_known_yet)
{
	struct rtnl_neighbour n = { .usable = false };
	struct facts f = good();
	struct rtnl_path p = begin(&f);

	rtnl_path_end(&n, &p);
	cr_expect_eq(p.way, RTNL_WAY_NEIGHBOUR);
	cr_expect_eq(p.ifindex, 5, "its coming is waited for at this link");
}

#define EXPECT_WAY(f, want) \
	cr_expect_eq(begin(&(f)).way, want, "%s", rtnl_way_text(begin(&(f)).way))

Test(route, reasons_in_their_order)
{
	struct facts f = good();

	f.link.carrier = false;
	EXPECT_WAY(f, RTNL_WAY_DOWN);
	f = good();
	f.link.up = false;
	EXPECT_WAY(f, RTNL_WAY_DOWN);
	f.link.ethernet = false; /* WireGuard, ipip, tun */
	EXPECT_WAY(f, RTNL_WAY_LINK);
	f.no_link = true;
	EXPECT_WAY(f, RTNL_WAY_LINK);
	f.ipsec = true;
	EXPECT_WAY(f, RTNL_WAY_IPSEC);
	f.route.plain = false;
	EXPECT_WAY(f, RTNL_WAY_ROUTE);
	f.route.found = false;
	EXPECT_WAY(f, RTNL_WAY_NO_ROUTE);
	f.to = ip("2001:db8::1");
	EXPECT_WAY(f, RTNL_WAY_FAMILY);
}

Test(route, a_route_without_a_link_is_none_that_is_plain)
{
	struct facts f = good();

	f.route.ifindex = 0;
	EXPECT_WAY(f, RTNL_WAY_ROUTE);
}

/* The MTU is wanted also where the way is another. */
Test(route, mtu_of_a_way_that_is_not_direct)
{
	struct facts f = good();

	f.ipsec = true;
	cr_expect_eq(begin(&f).mtu, 1500);
	cr_expect_eq(begin(&f).ifindex, 5);
	f.no_link = true;
	cr_expect_eq(begin(&f).mtu, 0);
}

Test(route, every_way_has_its_text)
{
	for (int way = RTNL_WAY_DIRECT; way <= RTNL_WAY_SETTING; way++)
		cr_expect(rtnl_way_text((enum rtnl_way)way)[0], "%d", way);
	cr_expect_str_empty(rtnl_way_text(RTNL_WAY_SETTING + 1));
}
