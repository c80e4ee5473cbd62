/* SPDX-License-Identifier: Apache-2.0 */
/* One packet, one verdict, one counter: BPF_PROG_TEST_RUN on the loaded
 * programs. Each drop reason has a row here or in overlay_rows[]. */
#include <bpf/bpf.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

#include "bpf/shared.h"
#include "common/cleanup.h"
#include "tests/bpf/harness.h"

#define UNTOUCHED (-1)
#define CONSUMED  2

#define UDP    17
#define ICMPV6 58

static const char payload[64] = "payload";

struct row {
	const char *name;
	size_t (*build)(uint8_t *frame);
	int verdict;
	const char *counter; /* goes up by one; NULL: no counter moves */
	uint32_t reason;     /* enum dp_drop that this row tests */
	uint32_t segment;    /* of the port; 0: 1 */
	void (*prepare)(struct datapath *dp);
	const char *program; /* NULL: the port's */
};

#define BUILD(fn, ...)                   \
	static size_t fn(uint8_t *frame) \
	{                                \
		size_t len = 0;          \
		__VA_ARGS__;             \
		return len;              \
	}

#define V4(group, proto, ihl, len_) frame_ipv4(frame, "192.0.2.1", group, proto, ihl, payload, len_)
#define V6(group, next, data, len_) frame_ipv6(frame, "fe80::1", group, next, data, len_)

BUILD(unicast, len = V4("192.0.2.9", UDP, 5, 20); frame[0] = 2)
BUILD(arp, len = V4("192.0.2.9", UDP, 5, 20); memset(frame, 0xff, 6); frame[13] = 6)
BUILD(data, len = V4("239.1.2.3", UDP, 5, 20))
BUILD(data_source, len = frame_ipv4(frame, "192.0.2.77", "239.1.2.3", UDP, 5, payload, 20))
BUILD(data_blocked, len = frame_ipv4(frame, "192.0.2.66", "239.1.2.3", UDP, 5, payload, 20))
BUILD(data_options, len = V4("239.1.2.3", UDP, 15, 20))
BUILD(data_fragment, len = V4("239.1.2.3", UDP, 5, 20); frame[21] = 7)
BUILD(data_bad_checksum, len = V4("239.1.2.3", UDP, 5, 20); frame[24] ^= 1)
BUILD(data_wrong_mac, len = V4("239.1.2.3", UDP, 5, 20); memset(frame, 0xff, 6))
BUILD(data_padded, len = V4("239.1.2.3", UDP, 5, 4) + 30)
BUILD(same_mac, len = V4("225.1.2.3", UDP, 5, 20))
BUILD(tagged, len = V4("239.1.2.3", UDP, 5, 20); frame[12] = 0x81; frame[13] = 0)
BUILD(link_local, len = V4("224.0.0.251", UDP, 5, 20))
BUILD(igmp, len = V4("224.0.0.22", 2, 6, 16))
BUILD(igmp_no_option, len = V4("239.1.2.3", 2, 5, 8))
BUILD(igmp_unicast, len = V4("192.0.2.9", 2, 5, 8); frame[0] = 2)
BUILD(igmp_first_fragment, len = V4("224.0.0.22", 2, 6, 16); frame[20] = 0x20)
BUILD(igmp_fragment, len = V4("224.0.0.22", 2, 6, 16); frame[21] = 1)
BUILD(v4_version, len = V4("239.1.2.3", UDP, 5, 20); frame[14] = 0x65)
BUILD(v4_ihl, len = V4("239.1.2.3", UDP, 5, 20); frame[14] = 0x44)
BUILD(v4_total, len = V4("239.1.2.3", UDP, 5, 20) - 1)
BUILD(v6_version, len = V6("ff15::1", UDP, payload, 20); frame[14] = 0x40)
BUILD(v6_length, len = V6("ff15::1", UDP, payload, 20) - 1)
BUILD(v6_data, len = V6("ff15::1", UDP, payload, 20))
BUILD(v6_link_local, len = V6("ff02::fb", UDP, payload, 20))
BUILD(v6_node_local, len = V6("ff01::1", UDP, payload, 20))
BUILD(v6_dhcp, len = V6("ff02::1:2", UDP, payload, 20))
BUILD(v6_ping, len = V6("ff15::1", ICMPV6, "\x80\0\0\0\0\0\0\0", 8))

static size_t icmp(uint8_t *frame, const char *group, const char *chain, size_t n, uint8_t first,
		   uint8_t type)
{
	uint8_t p[256] = { 0 };

	memcpy(p, chain, n);
	p[n] = type;
	return frame_ipv6(frame, "fe80::1", group, first, p, n + 24);
}

#define HBH_TO(next) next "\0\x05\x02\0\0\1\0"
#define OPT_TO(next) next "\0\1\4\0\0\0\0"

BUILD(mld2, len = icmp(frame, "ff02::16", HBH_TO("\x3a"), 8, 0, 143))
BUILD(mld_query, len = icmp(frame, "ff02::1", HBH_TO("\x3a"), 8, 0, 130))
BUILD(mld1, len = icmp(frame, "ff15::1", HBH_TO("\x3a"), 8, 0, 131))
BUILD(mld_done, len = icmp(frame, "ff02::2", HBH_TO("\x3a"), 8, 0, 132))
BUILD(mld_bare, len = icmp(frame, "ff02::16", "", 0, 58, 143))
BUILD(mld_chain, len = icmp(frame, "ff02::16", HBH_TO("\x3c") OPT_TO("\x3a"), 16, 0, 143))
BUILD(mld_fragment, len = icmp(frame, "ff02::16", "\x3a\0\0\1\0\0\0\1", 8, 44, 143))
BUILD(solicitation, len = icmp(frame, "ff02::1:ff00:1", "", 0, 58, 135))
BUILD(advertisement, len = icmp(frame, "ff02::1", HBH_TO("\x3c") OPT_TO("\x3a"), 16, 0, 134))
BUILD(discovery_last, len = icmp(frame, "ff02::1", "", 0, 58, 137))
BUILD(discovery_wide, len = icmp(frame, "ff15::1", "", 0, 58, 134))
BUILD(ext_cut, len = V6("ff15::1", 0, "\x3a", 1))
BUILD(ext_many,
      len = icmp(frame, "ff15::1",
		 OPT_TO("\x3c") OPT_TO("\x3c") OPT_TO("\x3c") OPT_TO("\x3c") OPT_TO("\x3c")
			 OPT_TO("\x3c") OPT_TO("\x3c") OPT_TO("\x3c") OPT_TO("\x3a"),
		 72, 60, 134))
BUILD(ext_most, len = icmp(frame, "ff02::1",
			   OPT_TO("\x3c") OPT_TO("\x3c") OPT_TO("\x3c") OPT_TO("\x3c")
				   OPT_TO("\x3c") OPT_TO("\x3c") OPT_TO("\x3c") OPT_TO("\x3a"),
			   64, 60, 134))
BUILD(v6_later_fragment, len = icmp(frame, "ff15::1", "\x3a\0\0\x08\0\0\0\1", 8, 44, 134))
BUILD(igmp_long, static uint8_t big[DP_PUNT_FRAME];
      len = frame_ipv4(frame, "192.0.2.1", "224.0.0.22", 2, 6, big, DP_PUNT_FRAME))
BUILD(unregistered, len = V4("239.9.9.9", UDP, 5, 20))

static void set_segment(struct datapath *dp, uint32_t id, enum datapath_unregistered unregistered)
{
	struct datapath_segment s = { .id = id, .unregistered = unregistered };

	cr_assert_eq(datapath_segment_set(dp, &s), 0);
}

static void set_route(struct datapath *dp, enum datapath_route_kind kind, const char *group,
		      const char *source, const uint32_t *ports, size_t n_ports)
{
	struct datapath_route r = {
		.kind = kind, .segment = 1, .ports = ports, .n_ports = n_ports
	};

	if (group)
		cr_assert_eq(addr_parse(group, &r.group), 0);
	if (source)
		cr_assert_eq(addr_parse(source, &r.source), 0);
	cr_assert_eq(datapath_route_set(dp, &r), 0);
}

static void flood(struct datapath *dp)
{
	set_segment(dp, 1, DATAPATH_UNREGISTERED_FLOOD);
}

static void never(struct datapath *dp)
{
	set_segment(dp, 1, DATAPATH_UNREGISTERED_DROP);
}

static void unknown_segment(struct datapath *dp)
{
	cr_assert_eq(datapath_segment_del(dp, 1), 0);
}

static void spend_pace(struct datapath *dp)
{
	uint8_t frame[HARNESS_FRAME];
	size_t len = igmp(frame);

	/* The burst of the fixture is two frames, its rate one a second. */
	for (int i = 0; i < 2; i++)
		harness_test_run("port", harness_ifindex("p", 0), frame, len);
}

static void detach(struct datapath *dp)
{
	cr_assert_eq(datapath_port_detach(dp, harness_ifindex("p", 0)), 0);
}

static void reach_map(const char *name, void (*fn)(int fd));
static void fill_ring(struct datapath *dp);
static void break_list(struct datapath *dp);
static void break_route(struct datapath *dp);

#define D(r) "drop_" r

static const struct row rows[] = {
	{ "unicast", unicast, UNTOUCHED, NULL },
	{ "broadcast ARP", arp, UNTOUCHED, NULL },
	{ "tagged in the frame", tagged, UNTOUCHED, NULL },
	{ "IGMP to a unicast address", igmp_unicast, UNTOUCHED, NULL },
	{ "data", data, CONSUMED, "copy_port" },
	{ "data, own source", data_source, CONSUMED, "route_source" },
	{ "data, options", data_options, CONSUMED, "copy_port" },
	{ "data, later fragment", data_fragment, CONSUMED, "copy_port" },
	{ "data, bad checksum", data_bad_checksum, CONSUMED, "copy_port" },
	{ "data, padded", data_padded, CONSUMED, "copy_port" },
	{ "data, wrong MAC", data_wrong_mac, CONSUMED, "mac_corrected" },
	{ "data, IPv6", v6_data, CONSUMED, "copy_port" },
	{ "data, IPv6 ping", v6_ping, CONSUMED, "copy_port" },
	{ "data, IPv6 later fragment", v6_later_fragment, CONSUMED, "copy_port" },
	{ "data, unknown port", data, UNTOUCHED, "pass_port_unknown", .prepare = detach },
	{ "link-local", link_local, UNTOUCHED, "copy_port" },
	{ "link-local passes", link_local, UNTOUCHED, "pass_link_local" },
	{ "link-local, IPv6", v6_link_local, UNTOUCHED, "copy_port" },
	{ "node-local, IPv6", v6_node_local, UNTOUCHED, "pass_link_local" },
	{ "DHCPv6", v6_dhcp, UNTOUCHED, "pass_dhcpv6" },
	{ "neighbour solicitation", solicitation, UNTOUCHED, "pass_discovery" },
	{ "router advertisement behind headers", advertisement, UNTOUCHED, "pass_discovery" },
	{ "as many headers as allowed", ext_most, UNTOUCHED, "pass_discovery" },
	{ "redirect", discovery_last, UNTOUCHED, "pass_discovery" },
	{ "router advertisement, wide group", discovery_wide, UNTOUCHED, "pass_discovery" },
	{ "IGMP", igmp, CONSUMED, "punt" },
	{ "IGMP, no option", igmp_no_option, CONSUMED, "punt" },
	{ "MLDv2", mld2, CONSUMED, "punt" },
	{ "MLD query", mld_query, CONSUMED, "punt" },
	{ "MLDv1 report", mld1, CONSUMED, "punt" },
	{ "MLDv1 done", mld_done, CONSUMED, "punt" },
	{ "MLD without header", mld_bare, CONSUMED, "punt" },
	{ "MLD behind two headers", mld_chain, CONSUMED, "punt" },
	{ "unregistered, flood", unregistered, CONSUMED, "copy_port", .prepare = flood },
	{ "same MAC, other group", same_mac, CONSUMED, D("unregistered"), DP_DROP_UNREGISTERED },
	{ "unregistered", unregistered, CONSUMED, D("unregistered"), DP_DROP_UNREGISTERED,
	  .prepare = never },
	{ "blocked source", data_blocked, CONSUMED, D("no_receiver"), DP_DROP_NO_RECEIVER },
	{ "IPv4 version", v4_version, CONSUMED, D("ipv4_header"), DP_DROP_IPV4_HEADER },
	{ "IPv4 header length", v4_ihl, CONSUMED, D("ipv4_length"), DP_DROP_IPV4_LENGTH },
	{ "IPv4 total length", v4_total, CONSUMED, D("ipv4_length"), DP_DROP_IPV4_LENGTH },
	{ "IPv6 version", v6_version, CONSUMED, D("ipv6_header"), DP_DROP_IPV6_HEADER },
	{ "IPv6 length", v6_length, CONSUMED, D("ipv6_length"), DP_DROP_IPV6_LENGTH },
	{ "IPv6 cut header", ext_cut, CONSUMED, D("ipv6_extensions"), DP_DROP_IPV6_EXTENSIONS },
	{ "IPv6 many headers", ext_many, CONSUMED, D("ipv6_extensions"), DP_DROP_IPV6_EXTENSIONS },
	{ "IGMP first fragment", igmp_first_fragment, CONSUMED, D("igmp_fragment"),
	  DP_DROP_IGMP_FRAGMENT },
	{ "IGMP fragment", igmp_fragment, CONSUMED, D("igmp_fragment"), DP_DROP_IGMP_FRAGMENT },
	{ "MLD fragment", mld_fragment, CONSUMED, D("mld_fragment"), DP_DROP_MLD_FRAGMENT },
	{ "IGMP too long", igmp_long, CONSUMED, D("punt_length"), DP_DROP_PUNT_LENGTH },
	{ "IGMP too often", igmp, CONSUMED, D("punt_rate"), DP_DROP_PUNT_RATE,
	  .prepare = spend_pace },
	{ "IGMP, full ring", igmp, CONSUMED, D("punt_ring"), DP_DROP_PUNT_RING,
	  .prepare = fill_ring },
	{ "route of another key", data, CONSUMED, D("route_changing"), DP_DROP_ROUTE_CHANGING,
	  .prepare = break_route },
	{ "list that does not end", data, CONSUMED, D("list_broken"), DP_DROP_LIST_BROKEN,
	  .prepare = break_list },
	{ "copy of an unknown packet", data, CONSUMED, D("fan_lost"), DP_DROP_FAN_LOST,
	  .program = "fan_rest" },
	{ "no segment", unregistered, CONSUMED, D("segment_unknown"), DP_DROP_SEGMENT_UNKNOWN,
	  .prepare = unknown_segment },
};

static void reach_map(const char *name, void (*fn)(int fd))
{
	char path[128];
	_cleanup_close_ int fd = -1;

	snprintf(path, sizeof(path), "%s/" MCMESH_LAYOUT "/maps/%s", HARNESS_ROOT, name);
	fd = bpf_obj_get(path);
	cr_assert_geq(fd, 0);
	fn(fd);
}

static void pace_free(int fd)
{
	struct dp_config c;
	uint32_t zero = 0;

	cr_assert_eq(bpf_map_lookup_elem(fd, &zero, &c), 0);
	c.punt_interval_ns = 1;
	c.punt_burst_ns = UINT64_C(1) << 40;
	cr_assert_eq(bpf_map_update_elem(fd, &zero, &c, BPF_ANY), 0);
}

static void fill_ring(struct datapath *dp)
{
	uint8_t frame[HARNESS_FRAME];
	size_t len = igmp(frame);

	reach_map("config", pace_free);
	for (int i = 0; i < 4096 && harness_counter(dp, "drop_punt_ring", 0) == 0; i++)
		harness_test_run("port", harness_ifindex("p", 0), frame, len);
}

static void alter_lists(int fd, void (*fn)(struct dp_list *list, uint32_t number))
{
	struct dp_list list;

	for (uint32_t i = 1; bpf_map_lookup_elem(fd, &i, &list) == 0; i++) {
		if (!list.seq)
			continue;
		fn(&list, i);
		cr_assert_eq(bpf_map_update_elem(fd, &i, &list, BPF_ANY), 0);
	}
}

static void loop_to_itself(struct dp_list *list, uint32_t number)
{
	list->next = number;
}

static void other_key(struct dp_list *list, uint32_t number)
{
	list->key.segment ^= 1;
}

static void lists_loop(int fd)
{
	alter_lists(fd, loop_to_itself);
}

static void lists_other_key(int fd)
{
	alter_lists(fd, other_key);
}

static void break_list(struct datapath *dp)
{
	reach_map("lists", lists_loop);
}

static void break_route(struct datapath *dp)
{
	reach_map("lists", lists_other_key);
}

static struct datapath *fixture(void)
{
	static const struct datapath_options options = {
		.root = HARNESS_ROOT,
		.max_ports = 8,
		.max_remotes = 8,
		.max_routes = 64,
		.max_lists = 64,
		.max_segments = 8,
		.punt_ring_bytes = 16384,
		.punt_rate = 1,
		.punt_burst = 2,
	};
	struct datapath *dp = harness_open(&options);
	uint32_t ports[2];

	set_segment(dp, 1, DATAPATH_UNREGISTERED_ROUTER_PORTS);
	for (unsigned int i = 0; i < 2; i++) {
		struct datapath_port port;
		char why[DATAPATH_WHY_MAX] = "";

		ports[i] = harness_ifindex("p", i);
		cr_assert_eq(datapath_port_attach(dp, ports[i], 1, 0, &port, why), 0, "%s", why);
	}
	set_route(dp, DATAPATH_ROUTE_GROUP, "239.1.2.3", NULL, ports, 2);
	set_route(dp, DATAPATH_ROUTE_GROUP, "239.1.2.3", "192.0.2.77", ports, 2);
	set_route(dp, DATAPATH_ROUTE_GROUP, "239.1.2.3", "192.0.2.66", NULL, 0);
	set_route(dp, DATAPATH_ROUTE_GROUP, "ff15::1", NULL, ports, 2);
	set_route(dp, DATAPATH_ROUTE_ALL, NULL, NULL, ports, 2);
	return dp;
}

/* What a test run cannot take, as it is no page, comes by the wire. */
static int run(const struct row *row, const uint8_t *frame, size_t len)
{
	_cleanup_close_ int w0 = -1;

	if (len <= HARNESS_FRAME)
		return harness_test_run(row->program ? row->program : "port",
					harness_ifindex("p", 0), frame, len);
	w0 = harness_socket("w", 0);
	harness_send(w0, frame, len);
	return row->verdict;
}

Test(packets, rows)
{
	static uint8_t frame[2 * DP_PUNT_FRAME];
	struct datapath *dp = NULL;

	if (!harness_enter(2))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct row *row = &rows[i];
		uint64_t before = 0, seen = 0, after;
		int verdict;

		dp = dp ?: fixture();
		if (row->prepare)
			row->prepare(dp);
		if (row->counter)
			before = harness_counter(dp, row->counter, 0);
		else
			seen = harness_counter(dp, "rx_multicast", 0);
		memset(frame, 0, sizeof(frame));
		verdict = run(row, frame, row->build(frame));
		cr_expect_eq(verdict, row->verdict, "%s: verdict %d", row->name, verdict);
		if (row->counter) {
			after = harness_counter_wait(dp, row->counter, before + 1);
			cr_expect_eq(after, before + 1, "%s: %s went from %lu to %lu", row->name,
				     row->counter, before, after);
		} else {
			cr_expect_eq(harness_counter(dp, "rx_multicast", 0), seen, "%s", row->name);
		}
		/* A load is half a second: made anew is only what a row changed, or paces. */
		if (row->prepare || i == ARRAY_SIZE(rows) - 1 ||
		    (row->counter && !strcmp(row->counter, "punt"))) {
			datapath_close(dp);
			cr_assert_eq(datapath_destroy(HARNESS_ROOT), 0);
			dp = NULL;
		}
	}
}

/* Through a VXLAN device: see test_overlay.c, whose table has these. */
extern const uint32_t overlay_reasons[];
extern const size_t n_overlay_reasons;

Test(packets, every_drop_reason_has_a_row)
{
	static const char *const names[] = {
		"none",
#define DROP_REASON(id, name, doc) name,
#include "bpf/drop_reasons.def"
#undef DROP_REASON
	};

	for (uint32_t reason = 1; reason < DP_DROP_MAX; reason++) {
		bool found = false;

		for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
			found |= rows[i].reason == reason;
		for (size_t i = 0; i < n_overlay_reasons; i++)
			found |= overlay_reasons[i] == reason;
		cr_expect(found, "no test for %s", names[reason]);
	}
}
