/* SPDX-License-Identifier: Apache-2.0 */
/* The datapath on real devices: attaching, adopting, replacing, failing. */
#include <bpf/bpf.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "bpf/shared.h"
#include "common/cleanup.h"
#include "tests/bpf/harness.h"

static const char payload[64] = "payload";

static struct addr ip(const char *text)
{
	struct addr a;

	cr_assert_eq(addr_parse(text, &a), 0);
	return a;
}

static void attach(struct datapath *dp, unsigned int n, struct datapath_port *ret_port)
{
	char why[DATAPATH_WHY_MAX] = "";

	for (unsigned int i = 0; i < n; i++)
		cr_assert_eq(
			datapath_port_attach(dp, harness_ifindex("p", i), 1, 0, &ret_port[i], why),
			0, "%s", why);
}

static void route(struct datapath *dp, const char *group, const struct datapath_port *ports,
		  size_t n)
{
	struct datapath_route r = { .segment = 1, .group = ip(group), .n_ports = n };
	uint32_t ifindexes[64];

	for (size_t i = 0; i < n; i++)
		ifindexes[i] = ports[i].ifindex;
	r.ports = ifindexes;
	cr_assert_eq(datapath_route_set(dp, &r), 0);
}

static size_t data(uint8_t *frame)
{
	return frame_ipv4(frame, "192.0.2.1", "239.1.2.3", 17, 5, payload, 64);
}

static int count_ports(const struct datapath_port *port, void *userdata)
{
	(*(unsigned int *)userdata)++;
	return 0;
}

static int count_remotes(const struct addr *vtep, const char *node, void *userdata)
{
	*(unsigned int *)userdata += strcmp(node, "n2") == 0;
	return 0;
}

static int count_segments(const struct datapath_segment *segment, void *userdata)
{
	*(unsigned int *)userdata += segment->id == 1 && segment->revision == 77;
	return 0;
}

static int check_route(const struct datapath_route *r, void *userdata)
{
	*(unsigned int *)userdata += r->segment == 1 && r->n_ports == 3 && r->n_remotes == 1 &&
				     r->ports[0] == harness_ifindex("p", 0);
	return 0;
}

static void check_life(enum datapath_attach how)
{
	struct datapath_options o = { .root = HARNESS_ROOT,
				      .attach = how,
				      .max_ports = 16,
				      .max_remotes = 16,
				      .max_routes = 16,
				      .max_lists = 64,
				      .punt_ring_bytes = 16384 };
	struct datapath_port ports[3], again;
	struct datapath_route r = {
		.segment = 1, .group = ip("239.1.2.3"), .n_ports = 3, .n_remotes = 1
	};
	struct datapath_meta meta = { .epoch = "epoch" }, got;
	struct addr peer = ip("127.0.0.2");
	unsigned int n_ports = 0, n_remotes = 0, n_segments = 0, n_routes = 0;
	uint32_t ifindexes[3];
	uint8_t frame[HARNESS_FRAME];
	char why[DATAPATH_WHY_MAX] = "";
	size_t len = data(frame);
	struct datapath *dp, *other = NULL;
	_cleanup_close_ int w0 = harness_socket("w", 0), w1 = harness_socket("w", 1);

	dp = harness_open(&o);
	cr_expect_not(datapath_adopted(dp));
	cr_expect_eq(datapath_open(&o, &other, why), -EBUSY);
	attach(dp, 3, ports);
	for (int i = 0; i < 3; i++)
		ifindexes[i] = ports[i].ifindex;
	r.ports = ifindexes;
	r.remotes = &peer;
	cr_expect_eq(datapath_route_set(dp, &r), 1, "a remote that nobody set is left out");
	cr_assert_eq(datapath_remote_set(dp, &peer, "n2"), 0);
	cr_assert_eq(datapath_route_set(dp, &r), 0);
	cr_assert_eq(datapath_meta_set(dp, &meta), 0);
	cr_assert_eq(
		datapath_segment_set(dp, &(struct datapath_segment){ .id = 1, .revision = 77 }), 0);
	datapath_close(dp);

	harness_send(w0, frame, len);
	cr_expect_eq(harness_receive(w1, 1, NULL, NULL), 1, "forwards without an agent");

	dp = harness_open(&o);
	cr_expect(datapath_adopted(dp));
	datapath_ports_walk(dp, count_ports, &n_ports);
	datapath_remotes_walk(dp, count_remotes, &n_remotes);
	datapath_segments_walk(dp, count_segments, &n_segments);
	datapath_routes_walk(dp, check_route, &n_routes);
	cr_expect_eq(n_ports, 3);
	cr_expect_eq(n_remotes, 1);
	cr_expect_eq(n_segments, 1);
	cr_expect_eq(n_routes, 1);
	cr_assert_eq(datapath_meta_get(dp, &got), 0);
	cr_expect_eq(memcmp(&got, &meta, sizeof(meta)), 0);
	attach(dp, 1, &again);
	cr_expect_eq(again.generation, ports[0].generation, "the same port");
	harness_send(w0, frame, len);
	cr_expect_eq(harness_receive(w1, 1, NULL, NULL), 1);

	cr_assert_eq(datapath_port_detach(dp, ports[1].ifindex), 0);
	harness_send(w0, frame, len);
	cr_expect_eq(harness_receive(w1, 0, NULL, NULL), 0, "gone at once");
	attach(dp, 2, ports);
	cr_expect_gt(ports[1].generation, ports[2].generation);
	datapath_close(dp);
	cr_expect_eq(datapath_destroy(HARNESS_ROOT), 0);
	harness_send(w0, frame, len);
	cr_expect_eq(harness_receive(w1, 0, NULL, NULL), 0);
}

Test(datapath, life_with_tcx)
{
	if (harness_enter(3) && harness_needs_tcx())
		check_life(DATAPATH_ATTACH_TCX);
}

Test(datapath, life_with_clsact)
{
	if (harness_enter(3))
		check_life(DATAPATH_ATTACH_CLSACT);
}

/* Else what the port's hosts had joined would be forgotten. */
Test(datapath, attached_the_other_way_it_is_the_same_port)
{
	static const enum datapath_attach ways[] = { DATAPATH_ATTACH_TCX, DATAPATH_ATTACH_CLSACT,
						     DATAPATH_ATTACH_CLSACT, DATAPATH_ATTACH_TCX,
						     DATAPATH_ATTACH_TCX };
	struct datapath_options o = { .root = HARNESS_ROOT, .punt_ring_bytes = 4096 };
	struct datapath_port first, port;
	uint8_t frame[HARNESS_FRAME];
	size_t len = data(frame);

	if (!harness_enter(2) || !harness_needs_tcx())
		return;
	_cleanup_close_ int w0 = harness_socket("w", 0), w1 = harness_socket("w", 1);

	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		struct datapath_port ports[2];
		struct datapath *dp;

		o.attach = ways[i];
		dp = harness_open(&o);
		attach(dp, 2, ports);
		port = ports[0];
		if (i == 0) {
			first = port;
			route(dp, "239.1.2.3", ports, 2);
		}
		cr_expect_eq(port.fresh, i == 0, "%zu", i);
		cr_expect_eq(port.generation, first.generation, "%zu", i);
		harness_send(w0, frame, len);
		cr_expect_eq(harness_receive(w1, 1, NULL, NULL), 1, "%zu", i);
		datapath_close(dp);
	}
}

Test(datapath, a_reused_ifindex_is_another_port)
{
	struct datapath_port before, after;
	struct datapath *dp;
	uint32_t ifindex;

	if (!harness_enter(1))
		return;
	dp = harness_open(NULL);
	attach(dp, 1, &before);
	ifindex = before.ifindex;
	harness_run("ip link del p0");
	harness_run("ip link add p0 index %u type veth peer name w0 && ip link set p0 up", ifindex);
	attach(dp, 1, &after);
	cr_expect_eq(after.ifindex, ifindex);
	cr_expect_gt(after.generation, before.generation);
	datapath_close(dp);
}

static void *let_go(void *fd)
{
	/* The fault itself: the kernel lets go of a dying process's lock late. */
	(void)poll(NULL, 0, 200);
	close(*(int *)fd);
	return NULL;
}

Test(datapath, a_predecessor_that_is_still_dying_is_waited_for)
{
	struct datapath *dp;
	pthread_t thread;
	int fd;

	if (!harness_enter(1))
		return;
	datapath_close(harness_open(NULL));
	fd = open(HARNESS_ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert_geq(fd, 0);
	cr_assert_eq(flock(fd, LOCK_EX), 0);
	cr_assert_eq(pthread_create(&thread, NULL, let_go, &fd), 0);
	dp = harness_open(NULL);
	pthread_join(thread, NULL);
	cr_expect_not_null(dp);
	datapath_close(dp);
}

Test(datapath, a_device_that_was_detached_behind_our_back_stays_in_its_lists)
{
	struct datapath_port ports[2];
	uint8_t frame[HARNESS_FRAME];
	size_t len = data(frame);
	struct datapath *dp;
	_cleanup_close_ int w0 = -1, w1 = -1;
	char path[128];

	if (!harness_enter(2) || !harness_needs_tcx())
		return;
	dp = harness_open(NULL);
	attach(dp, 2, ports);
	route(dp, "239.1.2.3", ports, 2);
	snprintf(path, sizeof(path), HARNESS_ROOT "/" MCMESH_LAYOUT "/links/%u", ports[1].ifindex);
	cr_assert_eq(unlink(path), 0);
	datapath_close(dp);
	dp = harness_open(NULL);
	attach(dp, 2, ports);
	cr_expect_not(ports[0].fresh);
	cr_expect(ports[1].fresh);
	w0 = harness_socket("w", 0);
	w1 = harness_socket("w", 1);
	harness_send(w0, frame, len);
	cr_expect_eq(harness_receive(w1, 1, NULL, NULL), 1);
	datapath_close(dp);
}

Test(datapath, a_receiver_that_is_unknown_costs_the_others_nothing)
{
	struct addr unknown = ip("192.0.2.99");
	struct datapath_port ports[2];
	uint8_t frame[HARNESS_FRAME];
	size_t len = data(frame);
	struct datapath *dp;
	_cleanup_close_ int w0 = -1, w1 = -1;
	struct datapath_route r = { .segment = 1, .group = ip("239.1.2.3"), .n_ports = 2 };
	uint32_t ifindexes[2];

	if (!harness_enter(2))
		return;
	dp = harness_open(NULL);
	attach(dp, 2, ports);
	ifindexes[0] = ports[1].ifindex;
	ifindexes[1] = 999999;
	r.ports = ifindexes;
	r.remotes = &unknown;
	r.n_remotes = 1;
	cr_assert_eq(datapath_route_set(dp, &r), 2);
	w0 = harness_socket("w", 0);
	w1 = harness_socket("w", 1);
	harness_send(w0, frame, len);
	cr_expect_eq(harness_receive(w1, 1, NULL, NULL), 1);
	datapath_close(dp);
}

/* A list may outlive its receiver, also over a restart of the agent: whoever
 * comes next must not inherit the copies. */
Test(datapath, a_new_port_does_not_inherit_the_number_of_a_listed_one)
{
	struct datapath_port ports[3];
	uint8_t frame[HARNESS_FRAME];
	size_t len = data(frame);
	struct datapath *dp;
	_cleanup_close_ int w0 = -1, w2 = -1;
	char why[DATAPATH_WHY_MAX];

	if (!harness_enter(3))
		return;
	dp = harness_open(NULL);
	attach(dp, 2, ports);
	route(dp, "239.1.2.3", ports, 2);
	cr_assert_eq(datapath_port_detach(dp, ports[1].ifindex), 0);
	datapath_close(dp);
	dp = harness_open(NULL);
	cr_assert_eq(datapath_port_attach(dp, harness_ifindex("p", 2), 1, 0, &ports[2], why), 0);
	w0 = harness_socket("w", 0);
	w2 = harness_socket("w", 2);
	harness_send(w0, frame, len);
	cr_expect_eq(harness_counter_wait(dp, "copy_stale", 1), 1);
	cr_expect_eq(harness_receive(w2, 0, NULL, NULL), 0);
	datapath_close(dp);
}

/* The bridge floods link-local groups between its ports; a second copy would
 * be a duplicate. */
Test(datapath, link_local_between_ports_of_a_bridge)
{
	struct datapath_route r = { .kind = DATAPATH_ROUTE_ALL, .segment = 1, .n_ports = 3 };
	struct datapath_port port;
	uint32_t ifindexes[3];
	uint8_t frame[HARNESS_FRAME];
	size_t len = frame_ipv4(frame, "192.0.2.1", "224.0.0.251", 17, 5, payload, 64);
	char why[DATAPATH_WHY_MAX] = "";
	struct datapath *dp;
	_cleanup_close_ int w0 = -1, w1 = -1, w2 = -1;

	if (!harness_enter(3))
		return;
	harness_run("ip link add br0 type bridge mcast_snooping 0 && ip link set br0 up && "
		    "ip link set p0 master br0 && ip link set p1 master br0");
	dp = harness_open(NULL);
	for (unsigned int i = 0; i < 3; i++) {
		ifindexes[i] = harness_ifindex("p", i);
		cr_assert_eq(datapath_port_attach(dp, ifindexes[i], 1,
						  i < 2 ? if_nametoindex("br0") : 0, &port, why),
			     0, "%s", why);
	}
	r.ports = ifindexes;
	cr_assert_eq(datapath_route_set(dp, &r), 0);
	w0 = harness_socket("w", 0);
	w1 = harness_socket("w", 1);
	w2 = harness_socket("w", 2);
	harness_send(w0, frame, len);
	cr_expect_eq(harness_receive(w1, 1, NULL, NULL), 1);
	cr_expect_eq(harness_receive(w2, 1, NULL, NULL), 1);
	cr_expect_eq(harness_receive(w0, 0, NULL, NULL), 0);
	datapath_close(dp);
}

Test(datapath, a_bad_receiver_costs_the_others_nothing)
{
	struct datapath_port ports[4];
	uint8_t frame[HARNESS_FRAME];
	size_t len = data(frame);
	struct datapath *dp;
	_cleanup_close_ int w0 = -1, w3 = -1;

	if (!harness_enter(4))
		return;
	dp = harness_open(NULL);
	attach(dp, 4, ports);
	route(dp, "239.1.2.3", ports, 4);
	w0 = harness_socket("w", 0);
	w3 = harness_socket("w", 3);
	harness_run("ip link set p1 down && ip link del p2");
	for (int i = 0; i < 10; i++)
		harness_send(w0, frame, len);
	cr_expect_eq(harness_receive(w3, 10, NULL, NULL), 10);
	cr_expect_eq(harness_receive(w0, 0, NULL, NULL), 0, "none back");
	cr_expect_eq(harness_counter(dp, "copy_port_down", ports[1].ifindex), 10);
	cr_expect_eq(harness_counter(dp, "copy_port_gone", ports[2].ifindex), 10);
	cr_expect_eq(harness_counter(dp, "copy_port", ports[3].ifindex), 10);
	datapath_close(dp);
}

static void take(const struct datapath_punt *punt, void *userdata)
{
	memcpy(userdata, punt, sizeof(*punt));
}

Test(datapath, what_an_agent_left_unread_is_for_the_next)
{
	struct datapath_punt punt = { 0 };
	struct datapath_port port;
	uint8_t frame[HARNESS_FRAME];
	size_t len = frame_ipv4(frame, "192.0.2.1", "224.0.0.22", 2, 6, payload, 16);
	struct datapath *dp;
	struct pollfd p = { .events = POLLIN };
	_cleanup_close_ int w0 = -1;

	if (!harness_enter(1))
		return;
	dp = harness_open(NULL);
	attach(dp, 1, &port);
	w0 = harness_socket("w", 0);
	for (int i = 0; i < 5; i++)
		harness_send(w0, frame, len);
	cr_expect_eq(harness_counter_wait(dp, "punt", 5), 5);
	cr_expect_eq(datapath_punt_consume(dp, 2, take, &punt), 2);
	cr_expect_eq(punt.ifindex, port.ifindex);
	cr_expect_eq(punt.generation, port.generation);
	cr_expect_eq(punt.len, len);
	datapath_close(dp);
	dp = harness_open(NULL);
	harness_send(w0, frame, len);
	cr_expect_eq(harness_counter_wait(dp, "punt", 6), 6);
	p.fd = datapath_punt_fd(dp);
	cr_expect_eq(poll(&p, 1, 2000), 1);
	cr_expect_eq(datapath_punt_consume(dp, 100, take, &punt), 4);
	cr_expect_eq(memcmp(punt.frame, frame, len), 0);
	cr_expect_eq(datapath_punt_consume(dp, 100, take, &punt), 0);
	cr_expect_eq(poll(&p, 1, 0), 0);
	datapath_close(dp);
}

Test(datapath, a_list_of_a_thousand)
{
	enum { N = 1024 };
	static struct addr remotes[N];
	struct datapath_options o = { .root = HARNESS_ROOT,
				      .max_remotes = N,
				      .max_routes = 16,
				      .max_lists = 64,
				      .max_ports = 8,
				      .punt_ring_bytes = 4096 };
	struct datapath_route r = {
		.segment = 1, .group = ip("239.1.2.3"), .remotes = remotes, .n_remotes = N
	};
	struct datapath_port port;
	uint8_t frame[HARNESS_FRAME];
	char why[DATAPATH_WHY_MAX] = "";
	struct datapath *dp;
	_cleanup_close_ int w0 = -1;

	if (!harness_enter(1))
		return;
	harness_run(
		"ip link add mcmesh0 type vxlan external dstport 4797 && ip link set mcmesh0 up");
	dp = harness_open(&o);
	attach(dp, 1, &port);
	cr_assert_eq(datapath_overlay_set(dp, if_nametoindex("mcmesh0"), why), 0, "%s", why);
	for (unsigned int i = 0; i < N; i++) {
		char text[32];

		snprintf(text, sizeof(text), "127.1.%u.%u", i / 256, i % 256);
		remotes[i] = ip(text);
		cr_assert_eq(datapath_remote_set(dp, &remotes[i], "n"), 0);
	}
	cr_expect_eq(datapath_remote_set(dp, &(struct addr){ { 0x20, 1 } }, "n"), -ENOSPC);
	cr_assert_eq(datapath_route_set(dp, &r), 0);
	cr_assert_eq(datapath_route_set(dp, &r), 0, "room for the old and the new");
	cr_expect_eq(datapath_route_set(dp, &r), -ENOSPC, "in its grace period");
	datapath_tick(dp, datapath_next_ms(dp));
	cr_expect_eq(datapath_route_set(dp, &r), 0);
	w0 = harness_socket("w", 0);
	harness_send(w0, frame, data(frame));
	cr_expect_eq(harness_counter_wait(dp, "copy_remote", N) +
			     harness_counter(dp, "copy_remote_failed", 0),
		     N);
	datapath_close(dp);
}

#define ROUTERS_N 70 /* more than two chunks */

static int count_routers(const struct datapath_route *route, void *userdata)
{
	size_t *routers = userdata;

	if (route->kind != DATAPATH_ROUTE_GROUP)
		return 0;
	routers[0] = route->n_ports;
	routers[1] = route->n_router_ports;
	routers[2] = route->n_remotes;
	routers[3] = route->n_router_remotes;
	return 0;
}

Test(datapath, lists_tell_routers_from_members_also_to_the_next_agent)
{
	struct datapath_options o = { .root = HARNESS_ROOT, .punt_ring_bytes = 4096 };
	struct addr remotes[ROUTERS_N];
	struct datapath_route r = { .segment = 1,
				    .group = ip("239.1.2.3"),
				    .remotes = remotes,
				    .n_remotes = ROUTERS_N,
				    .n_router_remotes = 45,
				    .n_ports = 2,
				    .n_router_ports = 1 };
	struct datapath_port ports[2];
	struct datapath *dp;
	uint32_t ifindexes[2];

	if (!harness_enter(2))
		return;
	dp = harness_open(&o);
	attach(dp, 2, ports);
	ifindexes[0] = ports[0].ifindex;
	ifindexes[1] = ports[1].ifindex;
	r.ports = ifindexes;
	for (unsigned int i = 0; i < ROUTERS_N; i++) {
		char text[32];

		snprintf(text, sizeof(text), "127.1.0.%u", i);
		remotes[i] = ip(text);
		cr_assert_eq(datapath_remote_set(dp, &remotes[i], "n"), 0);
	}
	cr_assert_eq(datapath_route_set(dp, &r), 0);
	for (int start = 0; start < 2; start++) {
		size_t routers[4] = { 0 };

		cr_assert_eq(datapath_routes_walk(dp, count_routers, routers), 0);
		cr_expect(routers[0] == 2 && routers[1] == 1);
		cr_expect(routers[2] == ROUTERS_N && routers[3] == 45);
		datapath_close(dp);
		dp = harness_open(&o);
	}
	datapath_close(dp);
}

static void map_delete(const char *name, const void *key)
{
	char path[128];
	_cleanup_close_ int fd = -1;

	snprintf(path, sizeof(path), "%s/" MCMESH_LAYOUT "/maps/%s", HARNESS_ROOT, name);
	fd = bpf_obj_get(path);
	cr_assert_geq(fd, 0);
	cr_assert_eq(bpf_map_delete_elem(fd, key), 0);
}

Test(datapath, damage_is_found_named_and_mended)
{
	struct datapath_options o = { .root = HARNESS_ROOT, .punt_ring_bytes = 4096 };
	struct datapath_damage damage;
	struct datapath_port port;
	struct addr vtep = ip("127.0.0.2");
	uint32_t segment = 1;
	struct datapath *dp;

	if (!harness_enter(1))
		return;
	dp = harness_open(&o);
	attach(dp, 1, &port);
	cr_assert_eq(datapath_remote_set(dp, &vtep, "n2"), 0);
	cr_assert_eq(datapath_segment_set(dp, &(struct datapath_segment){ .id = 1 }), 0);
	for (int start = 0; start < 2; start++) {
		cr_assert_eq(datapath_check(dp, &damage), 0);
		cr_expect_eq(damage.n, 0, "%s", damage.first);
		map_delete("port_ids", &port.ifindex);
		cr_assert_eq(datapath_check(dp, &damage), 0);
		cr_expect_eq(damage.n, 1);
		cr_expect_not_null(strstr(damage.first, "port"));
		map_delete("vteps", &vtep);
		map_delete("segments", &segment);
		cr_assert_eq(datapath_check(dp, &damage), 0);
		cr_expect_eq(damage.n, 2);
		cr_expect_not_null(strstr(damage.first, "127.0.0.2"));
		cr_assert_eq(datapath_check(dp, &damage), 0);
		cr_expect_eq(damage.n, 0, "%s", damage.first);
		datapath_close(dp);
		dp = harness_open(&o);
	}
	datapath_close(dp);
}

struct churn {
	struct datapath *dp;
	const struct datapath_port *ports;
	volatile int stop;
	unsigned int rounds;
};

/* Replaces the list between two and three receivers, and makes and deletes
 * another key, so that its element is recycled. What is refused while chunks
 * wait for their grace period is tried again. */
static void *churn(void *userdata)
{
	struct churn *c = userdata;
	struct addr group = ip("239.1.2.3"), other = ip("239.7.7.7");
	uint32_t ifindexes[3];

	for (int i = 0; i < 3; i++)
		ifindexes[i] = c->ports[i].ifindex;
	while (!c->stop) {
		struct datapath_route r = { .segment = 1,
					    .group = group,
					    .ports = ifindexes,
					    .n_ports = c->rounds % 2 ? 2 : 3 };

		if (datapath_route_set(c->dp, &r) == 0)
			c->rounds++;
		r.group = other;
		r.ports = ifindexes + 2;
		r.n_ports = 1;
		datapath_route_set(c->dp, &r);
		datapath_route_del(c->dp, DATAPATH_ROUTE_GROUP, 1, &other, NULL);
	}
	return NULL;
}

/* L1: a member that stays gets each packet once while the list changes. */
Test(datapath, replacing_a_list_under_traffic)
{
	enum { N = 20000 };
	struct datapath_port ports[3];
	struct churn c = { .ports = ports };
	uint8_t frame[HARNESS_FRAME];
	size_t len = data(frame);
	unsigned int got = 0;
	pthread_t thread;
	_cleanup_close_ int w0 = -1, w1 = -1;

	if (!harness_enter(3))
		return;
	c.dp = harness_open(NULL);
	attach(c.dp, 3, ports);
	w0 = harness_socket("w", 0);
	w1 = harness_socket("w", 1);
	route(c.dp, "239.1.2.3", ports, 3);
	cr_assert_eq(pthread_create(&thread, NULL, churn, &c), 0);
	for (int i = 0; i < N; i++) {
		harness_send(w0, frame, len);
		if (i % 1000 == 999)
			got += harness_receive(w1, 1000, NULL, NULL);
	}
	c.stop = 1;
	pthread_join(thread, NULL);
	got += harness_receive(w1, 0, NULL, NULL);
	cr_expect_eq(got, N, "%u of %u after %u replacements", got, N, c.rounds);
	cr_expect_gt(c.rounds, 100);
	datapath_close(c.dp);
}
