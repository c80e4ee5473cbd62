/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every way of a copy, with what workloads really send: two nodes, joined by an
 * underlay with an MTU of 1,500, and three workloads in network namespaces of
 * their own, so that checksums are left to the link and fragments do not mix.
 *
 *   sender ── p0 ┐ node a ua ══ ub node b ┌ q0 ── far
 *   near   ── p1 ┘                        └ q1 ── spare
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bpf/shared.h"
#include "common/cleanup.h"
#include "node/oversize.h"
#include "tests/bpf/harness.h"

#define PORT	    5000
#define WAIT_MS	    2000
#define QUIET_MS    50
#define DATAGRAM    65000
#define ROOT_FAR    "/sys/fs/bpf/far"
#define GROUP	    "239.1.2.3"
#define GROUP_V6    "ff15::77"
#define SEGMENT_LEN 1000
#define DOWN_TRIES  2000

#define TCX_INGRESS 46

#define SETTLE_TICKS   3
#define SETTLE_TICK_MS 2000

struct engine {
	char name[48]; /* not a pointer: it goes to another process */
	bool direct, peer, fan, v6;
};

static struct engine engines[] = {
	{ "device, egress", false, false, false, false },
	{ "device, peer", false, true, false, false },
	{ "direct, egress", true, false, false, false },
	{ "direct, peer", true, true, false, false },
	{ "direct, peer, IPv6 underlay", true, true, false, true },
	{ "device, peer, IPv6 underlay", false, true, false, true },
	{ "device, egress, fan", false, false, true, false },
	{ "direct, egress, fan", true, false, true, false },
	{ "direct, peer, fan", true, true, true, false },
	{ "direct, peer, fan, IPv6 underlay", true, true, true, true },
};

struct mesh {
	struct engine engine;
	int node_a; /* its namespace */
	struct datapath *a, *b;
	struct oversize *oversize;
	int sender, near, far; /* UDP sockets */
	int sender6, near6, far6;
};

static void check_datagram(const struct mesh *m, int family, size_t len, unsigned int number);

static void enter(int fd)
{
	cr_assert_eq(setns(fd, CLONE_NEWNET), 0, "%s", strerror(errno));
}

static void enter_name(const char *name)
{
	char path[64];
	_cleanup_close_ int fd = -1;

	snprintf(path, sizeof(path), "/run/netns/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_geq(fd, 0);
	enter(fd);
}

static struct addr ip(const char *text)
{
	struct addr a;

	cr_assert_eq(addr_parse(text, &a), 0);
	return a;
}

static void make_devices(void)
{
	harness_run("mount -t tmpfs tmpfs /run && mkdir /run/netns && "
		    "for n in sender near far spare b; do ip netns add $n; done");
	harness_run("sysctl -qw net.ipv6.conf.default.disable_ipv6=0 "
		    "net.ipv6.conf.default.accept_dad=0");
	harness_run("ip link add ua address 02:00:00:00:00:0a type veth peer name ub "
		    "address 02:00:00:00:00:0b netns b && ip link set ua up && "
		    "ip addr add 10.9.0.1/24 dev ua && ip addr add fd09::1/64 dev ua nodad && "
		    "ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:0b dev ua nud permanent && "
		    "ip neigh add fd09::2 lladdr 02:00:00:00:00:0b dev ua nud permanent");
	harness_run("ip link add p0 type veth peer name eth0 netns sender && "
		    "ip link add p1 type veth peer name eth0 netns near && "
		    "ip link set p0 up && ip link set p1 up");
	harness_run("ip -n b link set ub up && ip -n b addr add 10.9.0.2/24 dev ub && "
		    "ip -n b addr add fd09::2/64 dev ub nodad && "
		    "ip -n b neigh add 10.9.0.1 lladdr 02:00:00:00:00:0a dev ub nud permanent && "
		    "ip -n b neigh add fd09::1 lladdr 02:00:00:00:00:0a dev ub nud permanent && "
		    "ip -n b link add q0 type veth peer name eth0 netns far && "
		    "ip -n b link set q0 up && "
		    "ip -n b link add q1 type veth peer name eth0 netns spare && "
		    "ip -n b link set q1 up && ip -n spare link set eth0 up");
	harness_run("i=1; for n in sender near far; do ip -n $n link set lo up; "
		    "ip -n $n addr add 10.8.0.$i/24 dev eth0; "
		    "ip -n $n addr add fd08::$i/64 dev eth0 nodad; "
		    "ip -n $n link set eth0 up; i=$((i+1)); done");
	for (const char *const *n = (const char *const[]){ "", "-n b", NULL }; *n; n++)
		harness_run("ip %s link add mcmesh0 type vxlan external nolearning udp6zerocsumrx "
			    "dstport 4797 && ip %s link set mcmesh0 up mtu 65000",
			    *n, *n);
}

static struct datapath *open_node(const struct mesh *m, const char *root, const char *vtep,
				  const char *peer, const char *underlay, const uint8_t mac[2])
{
	struct datapath_options options = { .root = root,
					    .vtep = ip(vtep),
					    .max_ports = 8,
					    .max_remotes = 8,
					    .max_routes = 16,
					    .max_lists = 64,
					    .fan_min_ports = 2,
					    .no_fans = !m->engine.fan };
	struct datapath_path path = { .mtu = 1500,
				      .to_mac = { 2, 0, 0, 0, 0, mac[1] },
				      .from_mac = { 2, 0, 0, 0, 0, mac[0] } };
	struct datapath_segment segment = { .id = 1 };
	char why[DATAPATH_WHY_MAX] = "";
	struct addr other = ip(peer);
	struct datapath *dp = NULL;

	cr_assert_eq(datapath_open(&options, &dp, why), 0, "%s", why);
	cr_assert_eq(datapath_segment_set(dp, &segment), 0);
	cr_assert_eq(datapath_overlay_set(dp, harness_ifindex("mcmesh", 0), why), 0, "%s", why);
	cr_assert_eq(datapath_remote_set(dp, &other, "other"), 0);
	if (m->engine.direct) {
		path.ifindex = if_nametoindex(underlay);
		cr_assert_eq(datapath_underlay_set(dp, &path.ifindex, 1, why), 0, "%s", why);
	} else if (!m->engine.v6) {
		return dp;
	}
	cr_assert_eq(datapath_remote_path_set(dp, &other, &path), 0);
	cr_assert_eq(datapath_paths_hold(dp, UINT64_MAX), 0);
	return dp;
}

/* Linux does not fragment VXLAN over IPv6: node a's agent does. */
static void make_oversize(struct mesh *m)
{
	char why[OVERSIZE_WHY_MAX] = "";
	struct addr vtep = ip("fd09::1");

	cr_assert_eq(oversize_new(&vtep, 4797, &m->oversize, why), 0, "%s", why);
	harness_run("ip link set " OVERSIZE_NAME "0 addrgenmode none && "
		    "ip link set " OVERSIZE_NAME "0 up mtu 65521");
	datapath_oversize_set(m->a, oversize_ifindex(m->oversize));
}

static uint32_t attach(const struct mesh *m, struct datapath *dp, const char *name, unsigned int n)
{
	struct datapath_port port;
	char why[DATAPATH_WHY_MAX] = "";

	cr_assert_eq(datapath_port_attach(dp, harness_ifindex(name, n), 1, 0, &port, why), 0, "%s",
		     why);
	cr_assert_eq(datapath_port_delivery_set(dp, port.ifindex, 1500, m->engine.peer), 0);
	return port.ifindex;
}

static void route(struct datapath *dp, const char *group, const uint32_t *ports, size_t n,
		  const char *remote)
{
	struct datapath_route r = {
		.segment = 1, .group = ip(group), .ports = ports, .n_ports = n
	};
	struct addr vtep;

	if (remote) {
		vtep = ip(remote);
		r.remotes = &vtep;
		r.n_remotes = 1;
	}
	cr_assert_eq(datapath_route_set(dp, &r), 0);
}

static int open_socket(const char *namespace, int family, bool member)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(PORT) };
	struct ip_mreqn join = { .imr_multiaddr.s_addr = inet_addr(GROUP) };
	struct ipv6_mreq join6;
	int fd, one = 1, ttl = 4;

	enter_name(namespace);
	fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	cr_assert_geq(fd, 0);
	join.imr_ifindex = (int)if_nametoindex("eth0");
	join6.ipv6mr_interface = (unsigned int)join.imr_ifindex;
	inet_pton(AF_INET6, GROUP_V6, &join6.ipv6mr_multiaddr);
	if (family == AF_INET) {
		setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &join, sizeof(join));
		setsockopt(fd, IPPROTO_IP, IP_MULTICAST_TTL, &ttl, sizeof(ttl));
		setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &one, sizeof(one));
		if (member)
			cr_assert_eq(
				setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof(join)),
				0);
		cr_assert_eq(bind(fd, (struct sockaddr *)&v4, sizeof(v4)), 0);
	} else {
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
		setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, &join.imr_ifindex, sizeof(int));
		if (member)
			cr_assert_eq(setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &join6,
						sizeof(join6)),
				     0);
		cr_assert_eq(bind(fd, (struct sockaddr *)&v6, sizeof(v6)), 0);
	}
	return fd;
}

/* What they do later, now. */
static void settle(const struct mesh *m)
{
	static uint64_t clock_ms;
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	if (!clock_ms)
		clock_ms = (uint64_t)t.tv_sec * 1000;
	for (unsigned int i = 0; i < SETTLE_TICKS; i++) {
		clock_ms += SETTLE_TICK_MS;
		datapath_tick(m->a, clock_ms);
		enter_name("b");
		datapath_tick(m->b, clock_ms);
		enter(m->node_a);
	}
}

/* They are made a moment after the lists that want them. */
static void get_fans(const struct mesh *m)
{
	settle(m);
	cr_assert_gt(datapath_fans_count(m->a), 0, "%s: no fans", m->engine.name);
	cr_assert_gt(datapath_fans_count(m->b), 0, "%s: no fans", m->engine.name);
}

/* False: skipped. */
static bool mesh_open(const struct engine *engine, struct mesh *ret_mesh)
{
	const char *a = engine->v6 ? "fd09::1" : "10.9.0.1",
		   *b = engine->v6 ? "fd09::2" : "10.9.0.2";
	struct mesh m = { .engine = *engine };
	uint32_t near[2], far[2];

	if (!harness_enter(0))
		return false;
	make_devices();
	m.node_a = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	m.a = open_node(&m, HARNESS_ROOT, a, b, "ua", (const uint8_t[]){ 0x0a, 0x0b });
	if (engine->v6)
		make_oversize(&m);
	near[0] = attach(&m, m.a, "p", 0); /* the sender is a member as well */
	near[1] = attach(&m, m.a, "p", 1);
	enter_name("b");
	m.b = open_node(&m, ROOT_FAR, b, a, "ub", (const uint8_t[]){ 0x0b, 0x0a });
	far[0] = attach(&m, m.b, "q", 0);
	far[1] = attach(&m, m.b, "q", 1);
	for (const char *const *g = (const char *const[]){ GROUP, GROUP_V6, NULL }; *g; g++) {
		route(m.a, *g, near, 2, b);
		route(m.b, *g, far, 2, NULL);
	}
	m.sender = open_socket("sender", AF_INET, false);
	m.near = open_socket("near", AF_INET, true);
	m.far = open_socket("far", AF_INET, true);
	m.sender6 = open_socket("sender", AF_INET6, false);
	m.near6 = open_socket("near", AF_INET6, true);
	m.far6 = open_socket("far", AF_INET6, true);
	enter(m.node_a);
	if (engine->fan)
		get_fans(&m);
	*ret_mesh = m;
	return true;
}

static void mesh_close(struct mesh *m)
{
	const int fds[] = { m->sender, m->near, m->far, m->sender6, m->near6, m->far6, m->node_a };

	datapath_close(m->a);
	datapath_close(m->b);
	oversize_free(m->oversize);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
}

/* The content tells a datagram's length and number from any other's. */
static void fill(uint8_t *data, size_t len, unsigned int number)
{
	for (size_t i = 0; i < len; i++)
		data[i] = (uint8_t)(i * 7 + (i >> 8) + number * 13);
}

static void send_to(const struct mesh *m, int family, const uint8_t *data, size_t len)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(PORT) };
	bool is_v4 = family == AF_INET;
	ssize_t n;

	v4.sin_addr.s_addr = inet_addr(GROUP);
	inet_pton(AF_INET6, GROUP_V6, &v6.sin6_addr);
	n = sendto(is_v4 ? m->sender : m->sender6, data, len, 0,
		   is_v4 ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6,
		   is_v4 ? sizeof(v4) : sizeof(v6));
	cr_assert_eq(n, (ssize_t)len, "%s", strerror(errno));
	if (m->oversize)
		oversize_dispatch(m->oversize);
}

/* The next datagram is this one. Its TOS, for IPv4. */
static uint8_t expect(const struct mesh *m, const char *who, int fd, const uint8_t *data,
		      size_t len)
{
	static uint8_t got[DATAGRAM];
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { got, sizeof(got) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.buf,
			      .msg_controllen = sizeof(control.buf) };
	struct pollfd p = { .fd = fd, .events = POLLIN };
	const struct cmsghdr *c;
	ssize_t n;

	cr_assert_eq(poll(&p, 1, WAIT_MS), 1, "%s: %s got nothing of %zu bytes", m->engine.name,
		     who, len);
	n = recvmsg(fd, &msg, 0);
	cr_expect_eq(n, (ssize_t)len, "%s: %s got %zd bytes of %zu", m->engine.name, who, n, len);
	cr_expect(n == (ssize_t)len && memcmp(got, data, len) == 0, "%s: %s: %zu bytes differ",
		  m->engine.name, who, len);
	c = CMSG_FIRSTHDR(&msg);
	return c && c->cmsg_type == IP_TOS ? *(const uint8_t *)CMSG_DATA(c) : 0;
}

static void expect_nothing(const struct mesh *m, const char *who, int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	cr_expect_eq(poll(&p, 1, QUIET_MS), 0, "%s: %s got one too many", m->engine.name, who);
}

static void check_datagram(const struct mesh *m, int family, size_t len, unsigned int number)
{
	static uint8_t data[DATAGRAM];

	fill(data, len, number);
	send_to(m, family, data, len);
	expect(m, "near", family == AF_INET ? m->near : m->near6, data, len);
	expect(m, "far", family == AF_INET ? m->far : m->far6, data, len);
}

static void check_gso(const struct mesh *m)
{
	uint8_t data[5 * SEGMENT_LEN];
	int size = SEGMENT_LEN, none = 0;

	cr_assert_eq(setsockopt(m->sender, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size)), 0);
	fill(data, sizeof(data), 9);
	send_to(m, AF_INET, data, sizeof(data));
	for (size_t at = 0; at < sizeof(data); at += SEGMENT_LEN) {
		expect(m, "near", m->near, data + at, SEGMENT_LEN);
		expect(m, "far", m->far, data + at, SEGMENT_LEN);
	}
	setsockopt(m->sender, IPPROTO_UDP, UDP_SEGMENT, &none, sizeof(none));
}

/* DSCP and ECN of the workload are its receivers'. */
static void check_tos(const struct mesh *m)
{
	int tos = 0xb8 | 2, none = 0;
	uint8_t data[100];

	setsockopt(m->sender, IPPROTO_IP, IP_TOS, &tos, sizeof(tos));
	fill(data, sizeof(data), 3);
	send_to(m, AF_INET, data, sizeof(data));
	cr_expect_eq(expect(m, "near", m->near, data, sizeof(data)), tos);
	cr_expect_eq(expect(m, "far", m->far, data, sizeof(data)), tos);
	setsockopt(m->sender, IPPROTO_IP, IP_TOS, &none, sizeof(none));
}

static void check_way(const struct mesh *m)
{
	uint64_t copies = harness_counter(m->a, "copy_remote", 0);
	uint64_t by_device = harness_counter(m->a, "copy_remote_by_device", 0);

	cr_expect_gt(copies, 0);
	uint64_t by_agent = harness_counter(m->a, "copy_long", 0);

	cr_expect_eq(by_agent > 0, m->engine.v6, "%s", m->engine.name);
	cr_expect_eq(harness_counter(m->a, "copy_too_long", 0), 0, "%s", m->engine.name);
	cr_expect_eq(harness_counter(m->a, "copy_remote_failed", 0), 0, "%s", m->engine.name);
	if (!m->engine.direct) {
		cr_expect_eq(by_device + by_agent, copies, "%s", m->engine.name);
		return;
	}
	cr_expect_lt(by_device, copies, "%s: all by the device", m->engine.name);
	cr_expect_eq(by_device > 0, !m->engine.v6, "%s: what does not fit goes by the device",
		     m->engine.name);
	cr_expect_gt(harness_counter(m->b, "overlay_stripped", 0), 0, "%s", m->engine.name);
}

ParameterizedTestParameters(engines, what_workloads_send)
{
	return cr_make_param_array(struct engine, engines, ARRAY_SIZE(engines));
}

ParameterizedTest(struct engine *engine, engines, what_workloads_send)
{
	static const size_t lengths[] = { 1, 64, 1400, 1440, 1472, 3000, 9000, 60000 };
	struct mesh m;

	if (!mesh_open(engine, &m))
		return;
	for (unsigned int i = 0; i < ARRAY_SIZE(lengths); i++) {
		check_datagram(&m, AF_INET, lengths[i], i);
		check_datagram(&m, AF_INET6, lengths[i], i + 100);
	}
	check_gso(&m);
	check_tos(&m);
	expect_nothing(&m, "near", m.near);
	expect_nothing(&m, "far", m.far);
	check_way(&m);
	mesh_close(&m);
}

ParameterizedTestParameters(engines, a_receiver_that_is_down)
{
	return cr_make_param_array(struct engine, engines, ARRAY_SIZE(engines));
}

/* L7: the agent tells of the link a moment later; the other gets all copies. */
ParameterizedTest(struct engine *engine, engines, a_receiver_that_is_down)
{
	uint8_t data[64];
	struct mesh m;

	if (!mesh_open(engine, &m))
		return;
	for (unsigned int i = 0; i < DOWN_TRIES; i++) {
		fill(data, sizeof(data), i);
		if (i == 5)
			harness_run("ip -n near link set eth0 down");
		if (i == 10)
			datapath_port_delivery_set(m.a, harness_ifindex("p", 1), 0, false);
		if (i > 10 && harness_counter(m.a, "copy_port_down", 0))
			break; /* the kernel itself has noticed */
		send_to(&m, AF_INET, data, sizeof(data));
		expect(&m, "far", m.far, data, sizeof(data));
	}
	cr_expect_gt(harness_counter(m.a, "copy_port_down", 0), 0, "%s", m.engine.name);
	mesh_close(&m);
}

ParameterizedTestParameters(engines, a_receiver_that_goes_meanwhile)
{
	return cr_make_param_array(struct engine, engines, ARRAY_SIZE(engines));
}

ParameterizedTest(struct engine *engine, engines, a_receiver_that_goes_meanwhile)
{
	uint8_t data[64];
	struct mesh m;

	if (!mesh_open(engine, &m))
		return;
	for (unsigned int i = 0; i < 20; i++) {
		fill(data, sizeof(data), i);
		if (i == 5)
			harness_run("ip link del p1");
		send_to(&m, AF_INET, data, sizeof(data));
		expect(&m, "far", m.far, data, sizeof(data));
	}
	mesh_close(&m);
}

Test(engines, paths_end_with_who_follows_them)
{
	struct engine direct = { "direct", true, true, false, false };
	uint8_t data[64];
	struct mesh m;

	if (!mesh_open(&direct, &m))
		return;
	fill(data, sizeof(data), 1);
	send_to(&m, AF_INET, data, sizeof(data));
	expect(&m, "far", m.far, data, sizeof(data));
	cr_expect_eq(harness_counter(m.a, "copy_remote_by_device", 0), 0);
	cr_assert_eq(datapath_paths_hold(m.a, 1), 0);
	send_to(&m, AF_INET, data, sizeof(data));
	expect(&m, "far", m.far, data, sizeof(data));
	cr_expect_eq(harness_counter(m.a, "copy_remote_by_device", 0), 1);
	mesh_close(&m);
}

/* Nobody there to fragment: the loss has a name. */
Test(engines, too_long_for_an_ipv6_underlay)
{
	struct engine engine = { "direct, peer, IPv6 underlay", true, true, false, true };
	static uint8_t data[1472];
	struct mesh m;

	if (!mesh_open(&engine, &m))
		return;
	datapath_oversize_set(m.a, 0);
	fill(data, sizeof(data), 1);
	for (uint64_t i = 1; i <= 2; i++) {
		send_to(&m, AF_INET, data, sizeof(data));
		expect(&m, "near", m.near, data, sizeof(data));
		cr_expect_eq(harness_counter(m.a, "copy_too_long", 0), i);
		/* As after an agent's death. */
		cr_assert_eq(datapath_paths_hold(m.a, 1), 0);
	}
	check_datagram(&m, AF_INET, 1000, 2);
	cr_expect_eq(harness_counter(m.a, "copy_too_long", 0), 2);
	mesh_close(&m);
}

/* Lists change, and the devices are deleted and shut down, at any time: every packet
 * comes once. */
Test(engines, fans_come_and_go)
{
	struct engine engine = { "direct, peer, fan", true, true, true, false };
	uint32_t ports[2], fan;
	struct mesh m;

	if (!mesh_open(&engine, &m))
		return;
	ports[0] = harness_ifindex("p", 1);
	ports[1] = harness_ifindex("p", 0);
	for (unsigned int i = 0; i < 60; i++) {
		check_datagram(&m, AF_INET, 64, i);
		if (i % 10 == 4)
			route(m.a, GROUP, ports, i % 20 == 4 ? 1 : 2, "10.9.0.2");
		if (i % 20 != 7)
			continue;
		fan = if_nametoindex(i == 7 ? "mcmfan3" : "mcmfan1");
		cr_assert_gt(fan, 0);
		harness_run(i == 7 ? "ip link del mcmfan3" : "ip link set mcmfan1 down");
		datapath_link_changed(m.a, fan); /* as the agent tells */
		settle(&m);
		cr_assert_gt(datapath_fans_count(m.a), 0, "they are made again");
	}
	expect_nothing(&m, "near", m.near);
	expect_nothing(&m, "far", m.far);
	mesh_close(&m);
}

static struct datapath_damage port_check(const struct mesh *m, uint32_t ifindex)
{
	struct datapath_damage damage = { 0 };

	datapath_port_check(m->a, ifindex, &damage);
	return damage;
}

Test(engines, a_program_that_somebody_takes_off_is_back)
{
	struct engine engine = { "direct, peer, fan", true, true, true, false };
	uint32_t p1;
	struct mesh m;

	if (!harness_needs_tcx() || !mesh_open(&engine, &m))
		return;
	p1 = harness_ifindex("p", 1);
	cr_expect_eq(port_check(&m, p1).n, 0);
	harness_run("rm " HARNESS_ROOT "/" MCMESH_LAYOUT "/links/%u", p1);
	cr_expect_eq(port_check(&m, p1).n, 1);
	cr_expect_eq(port_check(&m, p1).n, 0, "it is not back");
	settle(&m);
	check_datagram(&m, AF_INET, 64, 1);
	settle(&m);
	check_datagram(&m, AF_INET, 64, 2);
	expect_nothing(&m, "near", m.near);
	mesh_close(&m);
}

Test(engines, a_program_that_comes_before_ours_goes_behind)
{
	LIBBPF_OPTS(bpf_link_create_opts, before, .flags = 1U << 3);
	struct engine engine = { "direct, peer", true, true, false, false };
	_cleanup_close_ int prog = -1, other = -1;
	uint32_t p0;
	struct mesh m;

	if (!mesh_open(&engine, &m))
		return;
	p0 = harness_ifindex("p", 0);
	/* To it everything is somebody else's packet, and to be dropped. */
	prog = bpf_obj_get(HARNESS_ROOT "/" MCMESH_LAYOUT "/progs/overlay");
	other = bpf_link_create(prog, (int)p0, TCX_INGRESS, &before);
	if (other < 0) {
		cr_skip_test("no TCX");
		return;
	}
	cr_expect_eq(port_check(&m, p0).n, 1);
	cr_expect_eq(port_check(&m, p0).n, 0);
	check_datagram(&m, AF_INET, 64, 1);
	mesh_close(&m);
}

Test(engines, programs_of_overlay_and_underlay_are_looked_at_too)
{
	static const char *const names[] = { "overlay", "underlay-*" };
	struct engine engine = { "direct, peer", true, true, false, false };
	struct mesh m;

	if (!harness_needs_tcx() || !mesh_open(&engine, &m))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct datapath_damage damage = { 0 };

		harness_run("rm " HARNESS_ROOT "/" MCMESH_LAYOUT "/links/%s", names[i]);
		datapath_devices_check(m.a, &damage);
		cr_expect_eq(damage.n, 1, "%s", names[i]);
		cr_expect(strstr(damage.first, i ? "underlay" : "overlay"), "%s", damage.first);
		damage.n = 0;
		datapath_devices_check(m.a, &damage);
		cr_expect_eq(damage.n, 0, "%s: %s", names[i], damage.first);
	}
	mesh_close(&m);
}

/* They go on without an agent, and whoever comes next takes them over. */
Test(engines, fans_of_an_agent_that_died)
{
	struct engine engine = { "direct, peer, fan", true, true, true, false };
	uint32_t fan;
	struct mesh m;

	if (!mesh_open(&engine, &m))
		return;
	fan = if_nametoindex("mcmfan2");
	cr_assert_gt(fan, 0);
	datapath_close(m.a);
	check_datagram(&m, AF_INET, 64, 1);
	m.a = open_node(&m, HARNESS_ROOT, "10.9.0.1", "10.9.0.2", "ua",
			(const uint8_t[]){ 0x0a, 0x0b });
	cr_expect_gt(datapath_fans_count(m.a), 0);
	check_datagram(&m, AF_INET, 64, 2);
	settle(&m);
	check_datagram(&m, AF_INET, 64, 3);
	cr_expect_eq(if_nametoindex("mcmfan2"), fan, "made again");
	datapath_close(m.a);
	cr_expect_eq(datapath_destroy(HARNESS_ROOT), 0);
	harness_run("! ip link show | grep -q mcmfan");
	m.a = NULL;
	mesh_close(&m);
}
