/* SPDX-License-Identifier: Apache-2.0 */
/* What comes from other nodes, through a real VXLAN device on loopback. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bpf/shared.h"
#include "common/cleanup.h"
#include "tests/bpf/harness.h"

#define VXLAN_PORT 4797

static const char payload[64] = "payload";

extern const uint32_t overlay_reasons[];
extern const size_t n_overlay_reasons;
const uint32_t overlay_reasons[] = {
	DP_DROP_OVERLAY_NO_TUNNEL,     DP_DROP_OVERLAY_VTEP,	DP_DROP_OVERLAY_SEGMENT,
	DP_DROP_OVERLAY_DISCOVERY,     DP_DROP_OVERLAY_CONTROL, DP_DROP_OVERLAY_LINK_LOCAL,
	DP_DROP_OVERLAY_NOT_MULTICAST,
};
const size_t n_overlay_reasons = ARRAY_SIZE(overlay_reasons);

static void send_vxlan(const char *from, uint32_t vni, const uint8_t *frame, size_t len)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	uint8_t packet[HARNESS_FRAME] = { 0x08 };
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	packet[4] = (uint8_t)(vni >> 16);
	packet[5] = (uint8_t)(vni >> 8);
	packet[6] = (uint8_t)vni;
	memcpy(packet + 8, frame, len);
	a.sin_addr.s_addr = inet_addr(from);
	cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	a.sin_addr.s_addr = inet_addr("127.0.0.1");
	a.sin_port = htons(VXLAN_PORT);
	cr_assert_eq(sendto(fd, packet, len + 8, 0, (struct sockaddr *)&a, sizeof(a)),
		     (ssize_t)len + 8);
}

static struct datapath *fixture(void)
{
	struct datapath_segment s = { .id = 1, .unregistered = DATAPATH_UNREGISTERED_DROP };
	struct datapath_route route = { .segment = 1, .n_ports = 2, .n_remotes = 1 };
	struct datapath *dp = harness_open(NULL);
	struct addr peer;
	uint32_t ports[2];
	char why[DATAPATH_WHY_MAX] = "";

	harness_run("ip link add mcmesh0 type vxlan external dstport %d && "
		    "ip link set mcmesh0 up",
		    VXLAN_PORT);
	cr_assert_eq(datapath_segment_set(dp, &s), 0);
	cr_assert_eq(addr_parse("127.0.0.2", &peer), 0);
	cr_assert_eq(datapath_remote_set(dp, &peer, "n2"), 0);
	cr_assert_eq(datapath_overlay_set(dp, harness_ifindex("mcmesh", 0), why), 0, "%s", why);
	for (unsigned int i = 0; i < 2; i++) {
		struct datapath_port port;

		ports[i] = harness_ifindex("p", i);
		cr_assert_eq(datapath_port_attach(dp, ports[i], 1, 0, &port, why), 0, "%s", why);
	}
	route.ports = ports;
	route.remotes = &peer;
	cr_assert_eq(addr_parse("239.1.2.3", &route.group), 0);
	cr_assert_eq(datapath_route_set(dp, &route), 0);
	route.kind = DATAPATH_ROUTE_ALL;
	route.group = ADDR_NULL;
	cr_assert_eq(datapath_route_set(dp, &route), 0);
	return dp;
}

Test(overlay, to_ports_only_and_refusals_by_name)
{
	_cleanup_close_ int w0 = -1, w1 = -1;
	uint8_t frame[HARNESS_FRAME];
	struct datapath *dp;
	size_t len;

	if (!harness_enter(2))
		return;
	dp = fixture();
	w0 = harness_socket("w", 0);
	w1 = harness_socket("w", 1);

	len = frame_ipv4(frame, "192.0.2.9", "239.1.2.3", 17, 5, payload, 20);
	send_vxlan("127.0.0.2", 1, frame, len);
	cr_expect_eq(harness_receive(w0, 1, NULL, NULL), 1);
	cr_expect_eq(harness_receive(w1, 1, NULL, NULL), 1);
	cr_expect_eq(harness_counter_wait(dp, "rx_overlay", 1), 1);
	cr_expect_eq(harness_counter(dp, "copy_remote", 0), 0, "back to the overlay");

	send_vxlan("127.0.0.3", 1, frame, len);
	cr_expect_eq(harness_counter_wait(dp, "drop_overlay_vtep", 1), 1);
	send_vxlan("127.0.0.2", 2, frame, len);
	cr_expect_eq(harness_counter_wait(dp, "drop_overlay_segment", 1), 1);
	len = frame_ipv4(frame, "192.0.2.9", "192.0.2.1", 17, 5, payload, 20);
	send_vxlan("127.0.0.2", 1, frame, len);
	cr_expect_eq(harness_counter_wait(dp, "drop_overlay_not_multicast", 1), 1);
	len = frame_ipv4(frame, "192.0.2.9", "224.0.0.22", 2, 6, payload, 16);
	send_vxlan("127.0.0.2", 1, frame, len);
	cr_expect_eq(harness_counter_wait(dp, "drop_overlay_control", 1), 1);
	len = frame_ipv6(frame, "fe80::1", "ff02::1", 58, "\x86\0\0\0\0\0\0\0", 8);
	send_vxlan("127.0.0.2", 1, frame, len);
	cr_expect_eq(harness_counter_wait(dp, "drop_overlay_discovery", 1), 1);
	len = frame_ipv4(frame, "192.0.2.9", "224.0.0.251", 17, 5, payload, 20);
	send_vxlan("127.0.0.2", 1, frame, len);
	cr_expect_eq(harness_counter_wait(dp, "drop_overlay_link_local", 1), 1);
	cr_expect_eq(harness_test_run("overlay", harness_ifindex("p", 0), frame, len), 2);
	cr_expect_eq(harness_counter_wait(dp, "drop_overlay_no_tunnel", 1), 1);
	cr_expect_eq(harness_receive(w0, 0, NULL, NULL), 0);

	cr_assert_eq(datapath_segment_set(
			     dp, &(struct datapath_segment){ .id = 1, .link_local_remote = true }),
		     0);
	send_vxlan("127.0.0.2", 1, frame, len);
	cr_expect_eq(harness_receive(w1, 1, NULL, NULL), 1);
	datapath_close(dp);
}

Test(overlay, one_copy_a_remote)
{
	_cleanup_close_ int w0 = -1, lo = -1;
	uint8_t frame[HARNESS_FRAME], seen[HARNESS_FRAME];
	struct datapath *dp;
	size_t len, seen_len = 0;

	if (!harness_enter(2))
		return;
	dp = fixture();
	w0 = harness_socket("w", 0);
	len = frame_ipv4(frame, "192.0.2.1", "239.1.2.3", 17, 5, payload, 20);
	lo = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_UDP);
	harness_send(w0, frame, len);
	cr_expect_eq(harness_receive(lo, 1, seen, &seen_len), 1);
	cr_expect_eq(harness_counter(dp, "copy_remote", 0), 1);
	cr_assert_eq(seen_len, 20 + 8 + 8 + len);
	cr_expect_eq(memcmp(seen + 16, "\x7f\0\0\2", 4), 0, "to the VTEP");
	cr_expect_eq(seen[8], 64, "TTL");
	cr_expect_eq(memcmp(seen + 32, "\0\0\1", 3), 0, "VNI");
	cr_expect_eq(memcmp(seen + 36, frame, len), 0, "the frame as it was");
	datapath_close(dp);
}

/* Both of segment 1: what nobody joined, and what is link-local. */
static uint64_t remote_copies(struct datapath *dp, int fd, const char *group)
{
	uint64_t before = harness_counter(dp, "copy_remote", 0), ports;
	uint8_t frame[HARNESS_FRAME];
	size_t len = frame_ipv4(frame, "192.0.2.1", group, 17, 5, payload, 20);

	ports = harness_counter(dp, "copy_port", 0);
	harness_send(fd, frame, len);
	harness_counter_wait(dp, "copy_port", ports + 1);
	return harness_counter(dp, "copy_remote", 0) - before;
}

Test(overlay, flood_and_link_local_have_switches_of_their_own)
{
	struct datapath_segment s = { .id = 1, .unregistered = DATAPATH_UNREGISTERED_FLOOD };
	struct datapath_route r = { .kind = DATAPATH_ROUTE_ALL, .segment = 1, .n_ports = 2 };
	_cleanup_close_ int w0 = -1;
	struct addr remote;
	uint32_t ports[2];
	struct datapath *dp;

	if (!harness_enter(2))
		return;
	dp = fixture();
	w0 = harness_socket("w", 0);
	cr_assert_eq(addr_parse("127.0.0.2", &remote), 0);
	ports[0] = harness_ifindex("p", 0);
	ports[1] = harness_ifindex("p", 1);
	r.ports = ports;
	r.remotes = &remote;
	r.n_remotes = 1;
	cr_assert_eq(datapath_route_set(dp, &r), 0);
	cr_assert_eq(datapath_segment_set(dp, &s), 0);
	cr_expect_eq(remote_copies(dp, w0, "239.9.9.9"), 1);
	cr_expect_eq(remote_copies(dp, w0, "224.0.0.251"), 0);
	s.unregistered = DATAPATH_UNREGISTERED_ROUTER_PORTS;
	s.link_local_remote = true;
	cr_assert_eq(datapath_segment_set(dp, &s), 0);
	cr_expect_eq(remote_copies(dp, w0, "224.0.0.251"), 1);
	r.kind = DATAPATH_ROUTE_ROUTERS;
	r.n_router_ports = 2;
	r.n_router_remotes = 1;
	cr_assert_eq(datapath_route_set(dp, &r), 0);
	cr_expect_eq(remote_copies(dp, w0, "239.9.9.9"), 1, "a node with a router port");
	datapath_close(dp);
}
