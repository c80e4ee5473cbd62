/* SPDX-License-Identifier: Apache-2.0 */
/* What the underlay sees of a copy: how it is to be treated, and of which flow it is. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/bpf/mesh.h"

#define OVERLAY_PORT	4797
#define ETHER_BYTES	14
#define FLOWS		16
#define FLOWS_DISTINCT	8 /* of those, at least */
#define WIRE_MS		2000
#define DYNAMIC_PORTS	49152 /* RFC 7348 section 5 */
#define TOS_OF_WORKLOAD (10 << 2 | 2)
#define FIXED		46

static struct engine engines[] = {
	{ "device", .dscp = FIXED },
	{ "direct", .direct = true, .peer = true, .dscp = FIXED },
	{ "direct, fan", .direct = true, .peer = true, .fan = true, .dscp = FIXED },
	{ "device, IPv6 underlay", .v6 = true, .dscp = FIXED },
	{ "direct, IPv6 underlay", .direct = true, .v6 = true, .dscp = FIXED },
	{ "device, inherit", .dscp = DATAPATH_DSCP_INHERIT },
	{ "direct, inherit", .direct = true, .peer = true, .dscp = DATAPATH_DSCP_INHERIT },
	{ "device, IPv6 underlay, inherit", .v6 = true, .dscp = DATAPATH_DSCP_INHERIT },
	{ "direct, IPv6 underlay, inherit", .direct = true, .v6 = true,
	  .dscp = DATAPATH_DSCP_INHERIT },
	{ "direct, zero", .direct = true },
};

/* At node b's end of the underlay, before any program. */
static int wire_open(const struct mesh *m)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	int fd;

	mesh_enter("b");
	fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL));
	at.sll_ifindex = (int)if_nametoindex("ub");
	cr_assert_eq(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0, "%s", strerror(errno));
	mesh_enter_fd(m->node_a);
	return fd;
}

struct outer {
	uint8_t tos;
	uint16_t source_port;
};

/* The next copy on the wire. */
static struct outer wire_next(const struct mesh *m, int fd)
{
	uint8_t frame[2048];

	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		bool v4;
		size_t at;
		ssize_t n;

		cr_assert_eq(poll(&p, 1, WIRE_MS), 1, "%s: nothing on the wire", m->engine.name);
		n = recv(fd, frame, sizeof(frame), 0);
		v4 = frame[12] == 0x08 && frame[13] == 0;
		at = ETHER_BYTES + (v4 ? 20 : 40);
		if (n < (ssize_t)at + 8 || frame[v4 ? 23 : 20] != IPPROTO_UDP ||
		    (frame[at + 2] << 8 | frame[at + 3]) != OVERLAY_PORT)
			continue;
		return (struct outer){
			.tos = v4 ? frame[15] : (uint8_t)(frame[14] << 4 | frame[15] >> 4),
			.source_port = (uint16_t)(frame[at] << 8 | frame[at + 1]),
		};
	}
}

static void from_port(const struct mesh *m, int fd, uint16_t port)
{
	struct sockaddr_in from = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	uint8_t data[64];

	to.sin_addr.s_addr = inet_addr(GROUP);
	cr_assert_eq(bind(fd, (struct sockaddr *)&from, sizeof(from)), 0);
	mesh_fill(data, sizeof(data), 1);
	for (int i = 0; i < 2; i++)
		cr_assert_eq(sendto(fd, data, sizeof(data), 0, (struct sockaddr *)&to, sizeof(to)),
			     (ssize_t)sizeof(data));
}

static int flow_socket(const struct mesh *m)
{
	struct ip_mreqn by = { .imr_ifindex = 0 };
	int fd;

	mesh_enter("sender");
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	by.imr_ifindex = (int)if_nametoindex("eth0");
	setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &by, sizeof(by));
	mesh_enter_fd(m->node_a);
	return fd;
}

/* One source port a flow, so that the underlay spreads flows and keeps order. */
static void check_flows(const struct mesh *m, int wire)
{
	unsigned int distinct = 0;
	uint16_t ports[FLOWS];

	for (unsigned int i = 0; i < FLOWS; i++) {
		_cleanup_close_ int fd = flow_socket(m);
		bool seen = false;

		from_port(m, fd, (uint16_t)(20000 + i));
		ports[i] = wire_next(m, wire).source_port;
		cr_expect_eq(wire_next(m, wire).source_port, ports[i], "%s: flow %u by two ports",
			     m->engine.name, i);
		if (m->engine.direct)
			cr_expect_geq(ports[i], DYNAMIC_PORTS, "%s", m->engine.name);
		for (unsigned int j = 0; j < i; j++)
			seen |= ports[j] == ports[i];
		distinct += !seen;
	}
	cr_expect_geq(distinct, FLOWS_DISTINCT, "%s: %u ports of %d flows", m->engine.name,
		      distinct, FLOWS);
}

ParameterizedTestParameters(wire, treatment_and_flow)
{
	return cr_make_param_array(struct engine, engines, ARRAY_SIZE(engines));
}

ParameterizedTest(struct engine *engine, wire, treatment_and_flow)
{
	int tos = TOS_OF_WORKLOAD;
	_cleanup_close_ int wire = -1;
	uint8_t data[100], want;
	struct mesh m;

	if (!mesh_open(engine, &m))
		return;
	wire = wire_open(&m);
	want = engine->dscp == DATAPATH_DSCP_INHERIT ? TOS_OF_WORKLOAD
						     : (uint8_t)(engine->dscp << 2 | 2);
	setsockopt(m.sender, IPPROTO_IP, IP_TOS, &tos, sizeof(tos));
	setsockopt(m.sender6, IPPROTO_IPV6, IPV6_TCLASS, &tos, sizeof(tos));
	mesh_fill(data, sizeof(data), 1);
	mesh_send(&m, AF_INET, data, sizeof(data));
	cr_expect_eq(wire_next(&m, wire).tos, want, "%s", engine->name);
	cr_expect_eq(mesh_expect(&m, "far", m.far, data, sizeof(data)), tos,
		     "the workload's own changed on the way");
	mesh_send(&m, AF_INET6, data, sizeof(data));
	cr_expect_eq(wire_next(&m, wire).tos, want, "%s: IPv6", engine->name);
	mesh_expect(&m, "far", m.far6, data, sizeof(data));
	check_flows(&m, wire);
	mesh_close(&m);
}
