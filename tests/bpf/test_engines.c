/* SPDX-License-Identifier: Apache-2.0 */
/* Every way of a copy, with what workloads really send. */
#include <bpf/bpf.h>
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bpf/shared.h"
#include "common/cleanup.h"
#include "tests/bpf/mesh.h"

#define SEGMENT_LEN 1000
#define DOWN_TRIES  2000

#define TCX_INGRESS 46

static struct engine engines[] = {
	{ "device, egress" },
	{ "device, peer", .peer = true },
	{ "direct, egress", .direct = true },
	{ "direct, peer", .direct = true, .peer = true },
	{ "direct, peer, IPv6 underlay", .direct = true, .peer = true, .v6 = true },
	{ "device, peer, IPv6 underlay", .peer = true, .v6 = true },
	{ "device, egress, fan", .fan = true },
	{ "direct, egress, fan", .direct = true, .fan = true },
	{ "direct, peer, fan", .direct = true, .peer = true, .fan = true },
	{ "direct, peer, fan, IPv6 underlay", true, true, true, true },
	{ "clsact, device, egress", .clsact = true },
	{ "clsact, direct, peer", .clsact = true, .direct = true, .peer = true },
	{ "clsact, direct, peer, fan", .clsact = true, .direct = true, .peer = true, .fan = true },
	{ "clsact, device, IPv6 underlay", .clsact = true, .v6 = true },
};

static void check_gso(const struct mesh *m)
{
	uint8_t data[5 * SEGMENT_LEN];
	int size = SEGMENT_LEN, none = 0;

	cr_assert_eq(setsockopt(m->sender, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size)), 0);
	mesh_fill(data, sizeof(data), 9);
	mesh_send(m, AF_INET, data, sizeof(data));
	for (size_t at = 0; at < sizeof(data); at += SEGMENT_LEN) {
		mesh_expect(m, "near", m->near, data + at, SEGMENT_LEN);
		mesh_expect(m, "far", m->far, data + at, SEGMENT_LEN);
	}
	setsockopt(m->sender, IPPROTO_UDP, UDP_SEGMENT, &none, sizeof(none));
}

/* DSCP and ECN of the workload are its receivers'. */
static void check_tos(const struct mesh *m)
{
	int tos = 0xb8 | 2, none = 0;
	uint8_t data[100];

	setsockopt(m->sender, IPPROTO_IP, IP_TOS, &tos, sizeof(tos));
	mesh_fill(data, sizeof(data), 3);
	mesh_send(m, AF_INET, data, sizeof(data));
	cr_expect_eq(mesh_expect(m, "near", m->near, data, sizeof(data)), tos);
	cr_expect_eq(mesh_expect(m, "far", m->far, data, sizeof(data)), tos);
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
	/* Without TCX nothing of ours is on the underlay. */
	cr_expect_eq(harness_counter(m->b, "overlay_stripped", 0) > 0,
		     strcmp(datapath_attach_name(m->b), "tcx") == 0, "%s", m->engine.name);
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
		mesh_check(&m, AF_INET, lengths[i], i);
		mesh_check(&m, AF_INET6, lengths[i], i + 100);
	}
	check_gso(&m);
	check_tos(&m);
	mesh_expect_nothing(&m, "near", m.near);
	mesh_expect_nothing(&m, "far", m.far);
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
		mesh_fill(data, sizeof(data), i);
		if (i == 5)
			harness_run("ip -n near link set eth0 down");
		if (i == 10)
			datapath_port_delivery_set(m.a, harness_ifindex("p", 1), 0, false);
		if (i > 10 && harness_counter(m.a, "copy_port_down", 0))
			break; /* the kernel itself has noticed */
		mesh_send(&m, AF_INET, data, sizeof(data));
		mesh_expect(&m, "far", m.far, data, sizeof(data));
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
		mesh_fill(data, sizeof(data), i);
		if (i == 5)
			harness_run("ip link del p1");
		mesh_send(&m, AF_INET, data, sizeof(data));
		mesh_expect(&m, "far", m.far, data, sizeof(data));
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
	mesh_fill(data, sizeof(data), 1);
	mesh_send(&m, AF_INET, data, sizeof(data));
	mesh_expect(&m, "far", m.far, data, sizeof(data));
	cr_expect_eq(harness_counter(m.a, "copy_remote_by_device", 0), 0);
	cr_assert_eq(datapath_paths_hold(m.a, 1), 0);
	mesh_send(&m, AF_INET, data, sizeof(data));
	mesh_expect(&m, "far", m.far, data, sizeof(data));
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
	mesh_fill(data, sizeof(data), 1);
	for (uint64_t i = 1; i <= 2; i++) {
		mesh_send(&m, AF_INET, data, sizeof(data));
		mesh_expect(&m, "near", m.near, data, sizeof(data));
		cr_expect_eq(harness_counter(m.a, "copy_too_long", 0), i);
		/* As after an agent's death. */
		cr_assert_eq(datapath_paths_hold(m.a, 1), 0);
	}
	mesh_check(&m, AF_INET, 1000, 2);
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
		mesh_check(&m, AF_INET, 64, i);
		if (i % 10 == 4)
			mesh_route(m.a, GROUP, ports, i % 20 == 4 ? 1 : 2, "10.9.0.2");
		if (i % 20 != 7)
			continue;
		fan = if_nametoindex(i == 7 ? "mcmfan3" : "mcmfan1");
		cr_assert_gt(fan, 0);
		harness_run(i == 7 ? "ip link del mcmfan3" : "ip link set mcmfan1 down");
		datapath_link_changed(m.a, fan); /* as the agent tells */
		mesh_settle(&m);
		cr_assert_gt(datapath_fans_count(m.a), 0, "they are made again");
	}
	mesh_expect_nothing(&m, "near", m.near);
	mesh_expect_nothing(&m, "far", m.far);
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
	mesh_settle(&m);
	mesh_check(&m, AF_INET, 64, 1);
	mesh_settle(&m);
	mesh_check(&m, AF_INET, 64, 2);
	mesh_expect_nothing(&m, "near", m.near);
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
	mesh_check(&m, AF_INET, 64, 1);
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
	mesh_check(&m, AF_INET, 64, 1);
	mesh_reopen_a(&m);
	cr_expect_gt(datapath_fans_count(m.a), 0);
	mesh_check(&m, AF_INET, 64, 2);
	mesh_settle(&m);
	mesh_check(&m, AF_INET, 64, 3);
	cr_expect_eq(if_nametoindex("mcmfan2"), fan, "made again");
	datapath_close(m.a);
	cr_expect_eq(datapath_destroy(HARNESS_ROOT), 0);
	harness_run("! ip link show | grep -q mcmfan");
	m.a = NULL;
	mesh_close(&m);
}

#define MANY 140 /* what two fans of two chunks serve, and more */

/* Adds what has come. How many that makes in all. */
static size_t drain(const int *sockets, unsigned int counts[MANY])
{
	uint8_t frame[HARNESS_FRAME];
	size_t all = 0;

	for (size_t i = 0; i < MANY; i++) {
		ssize_t len;

		while ((len = recv(sockets[i], frame, sizeof(frame), MSG_DONTWAIT)) >= 0)
			counts[i] += len >= 34;
		all += counts[i];
	}
	return all;
}

/* From chunk to chunk: each port of the list gets one, the sender and all others none. */
static void check_list(struct datapath *dp, const uint32_t *ports, const int *sockets, size_t n)
{
	static uint64_t clock_ms = UINT32_MAX;
	unsigned int counts[MANY] = { 0 };
	uint8_t frame[HARNESS_FRAME];
	size_t len;

	mesh_route(dp, GROUP, ports, n, NULL);
	for (unsigned int i = 0; i < 3; i++)
		datapath_tick(dp, clock_ms += 2000);
	cr_assert_gt(datapath_fans_count(dp), 0);
	len = frame_ipv4(frame, "192.0.2.1", GROUP, IPPROTO_UDP, 5, "payload", 8);
	harness_send(sockets[0], frame, len);
	for (int tries = 0; tries < 500 && drain(sockets, counts) < n - 1; tries++)
		(void)poll(NULL, 0, 10);			      /* poll interval */
	cr_expect_eq(harness_receive(sockets[0], 0, frame, &len), 0); /* those too many come */
	(void)drain(sockets, counts);
	for (size_t i = 0; i < MANY; i++)
		cr_expect_eq(counts[i], i && i < n, "port %zu of %zu: %u", i, n, counts[i]);
}

static struct datapath *open_many(uint32_t ports[MANY], int sockets[MANY])
{
	static const struct datapath_options options = {
		.root = HARNESS_ROOT, .max_ports = MANY, .max_routes = 16, .max_lists = 64
	};
	static const struct datapath_segment segment = { .id = 1 };
	struct datapath *dp = harness_open(&options);
	char why[DATAPATH_WHY_MAX] = "";
	struct datapath_port port;

	cr_assert_eq(datapath_segment_set(dp, &segment), 0);
	for (unsigned int i = 0; i < MANY; i++) {
		cr_assert_eq(datapath_port_attach(dp, harness_ifindex("p", i), 1, 0, &port, why), 0,
			     "%s", why);
		datapath_port_delivery_set(dp, port.ifindex, 1500, false);
		ports[i] = port.ifindex;
		sockets[i] = harness_socket("w", i);
	}
	return dp;
}

static void check_lists(struct datapath *dp, const uint32_t ports[MANY], const int sockets[MANY])
{
	static const size_t lengths[] = { 32, 33, 64, 65, 66, MANY };

	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++)
		check_list(dp, ports, sockets, lengths[i]);
	for (unsigned int i = 0; i < MANY; i++)
		close(sockets[i]);
}

Test(engines, a_fan_goes_on_with_the_next_chunk)
{
	uint32_t ports[MANY];
	struct datapath *dp;
	int sockets[MANY];

	if (!harness_enter(MANY))
		return;
	dp = open_many(ports, sockets);
	check_lists(dp, ports, sockets);
	cr_expect_gt(if_nametoindex("mcmfan65"), 0, "no fan of two chunks that goes on");
	datapath_close(dp);
}

/* It has room for fans of one chunk only. */
Test(engines, fans_in_the_map_of_an_earlier_agent)
{
	uint32_t ports[MANY];
	struct datapath *dp;
	int sockets[MANY];
	int map;

	if (!harness_enter(MANY))
		return;
	harness_run("mkdir -p " HARNESS_ROOT "/" MCMESH_LAYOUT "/maps");
	map = bpf_map_create(BPF_MAP_TYPE_ARRAY, "fans", 4, 4, 64, NULL);
	cr_assert_geq(map, 0);
	cr_assert_eq(bpf_obj_pin(map, HARNESS_ROOT "/" MCMESH_LAYOUT "/maps/fans"), 0);
	close(map);
	dp = open_many(ports, sockets);
	check_lists(dp, ports, sockets);
	cr_expect_gt(if_nametoindex("mcmfan33"), 0, "no fan of one chunk that goes on");
	cr_expect_eq(if_nametoindex("mcmfan65"), 0);
	datapath_close(dp);
}
