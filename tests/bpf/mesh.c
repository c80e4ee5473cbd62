/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bpf/mesh.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bpf/shared.h"
#include "common/cleanup.h"

#define WAIT_MS	       2000
#define QUIET_MS       50
#define ROOT_FAR       "/sys/fs/bpf/far"
#define SETTLE_TICKS   3
#define SETTLE_TICK_MS 2000

void mesh_enter_fd(int fd)
{
	cr_assert_eq(setns(fd, CLONE_NEWNET), 0, "%s", strerror(errno));
}

void mesh_enter(const char *name)
{
	char path[64];
	_cleanup_close_ int fd = -1;

	snprintf(path, sizeof(path), "/run/netns/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_geq(fd, 0);
	mesh_enter_fd(fd);
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
					    .no_fans = !m->engine.fan,
					    .dscp = m->engine.dscp,
					    .attach = m->engine.clsact ? DATAPATH_ATTACH_CLSACT
								       : DATAPATH_ATTACH_AUTO };
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

void mesh_route(struct datapath *dp, const char *group, const uint32_t *ports, size_t n,
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

	mesh_enter(namespace);
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

void mesh_settle(const struct mesh *m)
{
	static uint64_t clock_ms;
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	if (!clock_ms)
		clock_ms = (uint64_t)t.tv_sec * 1000;
	for (unsigned int i = 0; i < SETTLE_TICKS; i++) {
		clock_ms += SETTLE_TICK_MS;
		datapath_tick(m->a, clock_ms);
		mesh_enter("b");
		datapath_tick(m->b, clock_ms);
		mesh_enter_fd(m->node_a);
	}
}

/* They are made a moment after the lists that want them. */
static void get_fans(const struct mesh *m)
{
	mesh_settle(m);
	cr_assert_gt(datapath_fans_count(m->a), 0, "%s: no fans", m->engine.name);
	cr_assert_gt(datapath_fans_count(m->b), 0, "%s: no fans", m->engine.name);
}

bool mesh_open(const struct engine *engine, struct mesh *ret_mesh)
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
	mesh_enter("b");
	m.b = open_node(&m, ROOT_FAR, b, a, "ub", (const uint8_t[]){ 0x0b, 0x0a });
	far[0] = attach(&m, m.b, "q", 0);
	far[1] = attach(&m, m.b, "q", 1);
	for (const char *const *g = (const char *const[]){ GROUP, GROUP_V6, NULL }; *g; g++) {
		mesh_route(m.a, *g, near, 2, b);
		mesh_route(m.b, *g, far, 2, NULL);
	}
	m.sender = open_socket("sender", AF_INET, false);
	m.near = open_socket("near", AF_INET, true);
	m.far = open_socket("far", AF_INET, true);
	m.sender6 = open_socket("sender", AF_INET6, false);
	m.near6 = open_socket("near", AF_INET6, true);
	m.far6 = open_socket("far", AF_INET6, true);
	mesh_enter_fd(m.node_a);
	if (engine->fan)
		get_fans(&m);
	*ret_mesh = m;
	return true;
}

void mesh_close(struct mesh *m)
{
	const int fds[] = { m->sender, m->near, m->far, m->sender6, m->near6, m->far6, m->node_a };

	datapath_close(m->a);
	datapath_close(m->b);
	oversize_free(m->oversize);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
}

void mesh_fill(uint8_t *data, size_t len, unsigned int number)
{
	for (size_t i = 0; i < len; i++)
		data[i] = (uint8_t)(i * 7 + (i >> 8) + number * 13);
}

void mesh_send(const struct mesh *m, int family, const uint8_t *data, size_t len)
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

uint8_t mesh_expect(const struct mesh *m, const char *who, int fd, const uint8_t *data, size_t len)
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

void mesh_expect_nothing(const struct mesh *m, const char *who, int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	cr_expect_eq(poll(&p, 1, QUIET_MS), 0, "%s: %s got one too many", m->engine.name, who);
}

void mesh_check(const struct mesh *m, int family, size_t len, unsigned int number)
{
	static uint8_t data[DATAGRAM];

	mesh_fill(data, len, number);
	mesh_send(m, family, data, len);
	mesh_expect(m, "near", family == AF_INET ? m->near : m->near6, data, len);
	mesh_expect(m, "far", family == AF_INET ? m->far : m->far6, data, len);
}

void mesh_reopen_a(struct mesh *m)
{
	m->a = open_node(m, HARNESS_ROOT, "10.9.0.1", "10.9.0.2", "ua",
			 (const uint8_t[]){ 0x0a, 0x0b });
}
