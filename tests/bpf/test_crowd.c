/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A group that has a thousand receivers on one node, and each of them is looked at. All
 * workloads are in one network namespace, so that one socket hears them all: what it
 * hears says by which device.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bpf/shared.h"
#include "common/cleanup.h"
#include "tests/bpf/harness.h"

#define GROUP "239.1.2.3"
/* Copies that do not go right into workloads take a place each in the CPU's backlog,
 * which by default has 1,000; making so many devices takes most of a test's time. */
#define MANY	   1024
#define MANY_QUEUE 320
#define PACKETS	   30
#define LEAVES_AT  10 /* this one is in the list no more */
#define GOES_AT	   20 /* and this one's device is deleted, the list as it was */
#define LEAVES	   100
#define GOES	   277
#define QUIET_MS   100
#define BUFFER	   (256 << 20)
#define NUMBER_AT  (14 + 20)
#define IFINDEXES  8192

struct way {
	char name[32];
	bool fan, peer, clsact;
	unsigned int n;
};

static struct way ways[] = {
	{ "clones", .n = MANY_QUEUE },
	{ "fans, egress", .fan = true, .n = MANY_QUEUE },
	{ "fans, peer", .fan = true, .peer = true, .n = MANY },
	{ "clsact, fans, peer", .fan = true, .peer = true, .clsact = true, .n = MANY },
};

struct crowd {
	const struct way *way;
	struct datapath *dp;
	int hear, speak;
	uint32_t ports[MANY];
	int port_of[IFINDEXES]; /* of the workload's end */
	uint8_t got[MANY][PACKETS];
};

/* p0 … are in this namespace, w0 … in `crowd`. */
static bool make_ports(unsigned int n)
{
	char path[] = "/tmp/mcmesh_test_XXXXXX";
	FILE *batch;
	int fd;

	if (!harness_enter(0))
		return false;
	harness_run("mount -t tmpfs tmpfs /run && mkdir /run/netns && ip netns add crowd && "
		    "ip netns exec crowd sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
	fd = mkstemp(path);
	cr_assert_geq(fd, 0);
	batch = fdopen(fd, "w");
	cr_assert(batch);
	for (unsigned int i = 0; i < n; i++)
		fprintf(batch,
			"link add p%u type veth peer name w%u netns crowd\nlink set p%u up\n", i, i,
			i);
	fclose(batch);
	harness_run("ip -batch %s", path);
	harness_run("seq -f 'link set w%%g up' 0 %u | ip -n crowd -batch -", n - 1);
	unlink(path);
	return true;
}

static int open_packets(unsigned int ifindex)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET,
				  .sll_protocol = htons(ETH_P_IP),
				  .sll_ifindex = (int)ifindex };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), one = 1, size = BUFFER;

	cr_assert_geq(fd, 0);
	setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	cr_assert_eq(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0, "%s", strerror(errno));
	return fd;
}

static void open_workloads(struct crowd *c)
{
	_cleanup_close_ int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int there = open("/run/netns/crowd", O_RDONLY | O_CLOEXEC);

	cr_assert_eq(setns(there, CLONE_NEWNET), 0, "%s", strerror(errno));
	for (unsigned int i = 0; i < c->way->n; i++) {
		uint32_t ifindex = harness_ifindex("w", i);

		cr_assert(ifindex && ifindex < IFINDEXES);
		c->port_of[ifindex] = (int)i;
	}
	c->hear = open_packets(0);
	c->speak = open_packets(harness_ifindex("w", 0));
	cr_assert_eq(setns(home, CLONE_NEWNET), 0, "%s", strerror(errno));
}

/* All ports but `without`. */
static void set_list(struct crowd *c, unsigned int without)
{
	struct datapath_route r = { .segment = 1, .ports = c->ports };
	uint32_t ports[MANY];

	cr_assert_eq(addr_parse(GROUP, &r.group), 0);
	for (unsigned int i = 0; i < c->way->n; i++) {
		if (i != without)
			ports[r.n_ports++] = c->ports[i];
	}
	r.ports = ports;
	cr_assert_eq(datapath_route_set(c->dp, &r), 0);
}

static void open_node(struct crowd *c)
{
	const struct datapath_options options = {
		.root = HARNESS_ROOT,
		.max_ports = MANY,
		.max_routes = 16,
		.max_lists = 256,
		.max_remotes = 8,
		.punt_ring_bytes = 4096,
		.no_fans = !c->way->fan,
		.attach = c->way->clsact ? DATAPATH_ATTACH_CLSACT : DATAPATH_ATTACH_AUTO,
	};
	struct datapath_segment segment = { .id = 1 };
	char why[DATAPATH_WHY_MAX] = "";
	struct datapath_port port;

	c->dp = harness_open(&options);
	cr_assert_eq(datapath_segment_set(c->dp, &segment), 0);
	for (unsigned int i = 0; i < c->way->n; i++) {
		cr_assert_eq(datapath_port_attach(c->dp, harness_ifindex("p", i), 1, 0, &port, why),
			     0, "%s", why);
		datapath_port_delivery_set(c->dp, port.ifindex, 1500, c->way->peer);
		c->ports[i] = port.ifindex;
	}
	set_list(c, MANY);
	/* Fans are made a moment after the list that wants them. */
	for (unsigned int i = 1; i <= 3; i++)
		datapath_tick(c->dp, UINT32_MAX + (uint64_t)i * 2000);
	cr_assert_eq(datapath_fans_count(c->dp) > 0, c->way->fan, "%s", c->way->name);
}

static void send_number(struct crowd *c, uint8_t number)
{
	uint8_t frame[HARNESS_FRAME];

	harness_send(c->speak, frame,
		     frame_ipv4(frame, "192.0.2.1", GROUP, IPPROTO_UDP, 5, &number, 1));
}

/* What came so far. */
static void hear(struct crowd *c, int wait_ms)
{
	uint8_t frame[HARNESS_FRAME];
	struct pollfd p = { .fd = c->hear, .events = POLLIN };

	while (poll(&p, 1, wait_ms) == 1) {
		struct sockaddr_ll by;
		socklen_t size = sizeof(by);
		ssize_t n =
			recvfrom(c->hear, frame, sizeof(frame), 0, (struct sockaddr *)&by, &size);

		if (n <= NUMBER_AT || frame[0] != 1 || frame[NUMBER_AT] >= PACKETS)
			continue;
		c->got[c->port_of[by.sll_ifindex]][frame[NUMBER_AT]]++;
	}
}

static bool is_to_have(unsigned int port, unsigned int number)
{
	if (port == 0)
		return false; /* its own */
	if (port == LEAVES)
		return number < LEAVES_AT;
	return port != GOES || number < GOES_AT;
}

ParameterizedTestParameters(crowd, each_of_a_thousand_has_each_packet_once)
{
	return cr_make_param_array(struct way, ways, ARRAY_SIZE(ways));
}

ParameterizedTest(struct way *way, crowd, each_of_a_thousand_has_each_packet_once)
{
	static struct crowd c;
	unsigned int wrong = 0;

	c.way = way;
	if (!make_ports(way->n))
		return;
	open_workloads(&c);
	open_node(&c);
	for (uint8_t i = 0; i < PACKETS; i++) {
		if (i == LEAVES_AT)
			set_list(&c, LEAVES);
		if (i == GOES_AT)
			harness_run("ip link del p%u", GOES);
		send_number(&c, i);
		hear(&c, 0);
	}
	hear(&c, QUIET_MS);
	for (unsigned int port = 0; port < way->n; port++) {
		for (unsigned int i = 0; i < PACKETS; i++) {
			if (c.got[port][i] == is_to_have(port, i))
				continue;
			if (!wrong++)
				cr_expect(false, "%s: port %u has number %u %u times", way->name,
					  port, i, c.got[port][i]);
		}
	}
	cr_expect_eq(wrong, 0, "%s: %u of %u", way->name, wrong, way->n * PACKETS);
	datapath_close(c.dp);
	close(c.hear);
	close(c.speak);
}
