/* SPDX-License-Identifier: Apache-2.0 */
/* What a CPU keeps of a stream's route (bpf/flow.h) is never older than the routes. */
#include <bpf/bpf.h>
#include <criterion/criterion.h>
#include <sched.h>
#include <stdio.h>

#include "bpf/shared.h"
#include "common/cleanup.h"
#include "tests/bpf/harness.h"

#define GROUP	  "239.1.2.3"
#define RECEIVERS 3 /* and the sender, p0 */

static const char payload[64] = "payload";

struct stage {
	struct datapath *dp;
	struct datapath_port ports[RECEIVERS + 1];
	int sender, receiver[RECEIVERS + 1];
};

static struct addr ip(const char *text)
{
	struct addr a;

	cr_assert_eq(addr_parse(text, &a), 0);
	return a;
}

/* All packets on one CPU, so that each finds what the one before it left. */
static bool stage_enter(struct stage *s)
{
	char why[DATAPATH_WHY_MAX] = "";
	cpu_set_t one;

	if (!harness_enter(RECEIVERS + 1))
		return false;
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	cr_assert_eq(sched_setaffinity(0, sizeof(one), &one), 0);
	s->dp = harness_open(NULL);
	for (unsigned int i = 0; i <= RECEIVERS; i++) {
		cr_assert_eq(datapath_port_attach(s->dp, harness_ifindex("p", i), 1, 0,
						  &s->ports[i], why),
			     0, "%s", why);
		s->receiver[i] = harness_socket("w", i);
	}
	s->sender = s->receiver[0];
	return true;
}

static void stage_leave(struct stage *s)
{
	for (unsigned int i = 0; i <= RECEIVERS; i++)
		close(s->receiver[i]);
	datapath_close(s->dp);
}

/* source: NULL, any. */
static void route(struct stage *s, const char *source, unsigned int receiver)
{
	struct addr from = source ? ip(source) : (struct addr){ 0 };
	struct datapath_route r = {
		.segment = 1,
		.group = ip(GROUP),
		.source = from,
		.ports = &s->ports[receiver].ifindex,
		.n_ports = 1,
	};

	cr_assert_eq(datapath_route_set(s->dp, &r), 0);
}

static void route_del(struct stage *s, const char *source)
{
	struct addr group = ip(GROUP), from = source ? ip(source) : (struct addr){ 0 };

	cr_assert_eq(
		datapath_route_del(s->dp, DATAPATH_ROUTE_GROUP, 1, &group, source ? &from : NULL),
		0);
}

static void send_from(struct stage *s, const char *source)
{
	uint8_t frame[HARNESS_FRAME];
	size_t len = frame_ipv4(frame, source, GROUP, 17, 5, payload, sizeof(payload));

	harness_send(s->sender, frame, len);
}

/* Two packets of the source reach that receiver (0: nobody), and no other. */
static void expect_at(struct stage *s, const char *source, unsigned int receiver, const char *when)
{
	send_from(s, source);
	send_from(s, source);
	for (unsigned int i = 1; i <= RECEIVERS; i++) {
		unsigned int want = i == receiver ? 2 : 0;

		cr_expect_eq(harness_receive(s->receiver[i], want, NULL, NULL), want,
			     "%s: w%u, source %s", when, i, source);
	}
}

struct sum {
	uint64_t packets, bytes;
	unsigned int rows;
};

static int add(const struct datapath_counter *c, void *userdata)
{
	struct addr group = ip(GROUP);
	struct sum *sum = userdata;

	cr_expect(c->segment == 1 && addr_cmp(&c->group, &group) == 0);
	sum->packets += c->packets;
	sum->bytes += c->bytes;
	sum->rows++;
	return 0;
}

/* Of the group, on whatever flows, and whichever of them have ended. */
static void check_count(struct stage *s, uint64_t want)
{
	uint8_t frame[HARNESS_FRAME];
	size_t len = frame_ipv4(frame, "192.0.2.1", GROUP, 17, 5, payload, sizeof(payload));
	struct sum sum = { 0 };

	cr_assert_eq(datapath_groups_walk(s->dp, add, &sum), 0);
	cr_expect_eq(sum.rows, 1, "%u", sum.rows);
	cr_expect_eq(sum.packets, want, "%llu", (unsigned long long)sum.packets);
	cr_expect_eq(sum.bytes, want * len, "%llu", (unsigned long long)sum.bytes);
}

Test(flows, each_change_of_the_routes_is_followed)
{
	struct stage s;

	if (!stage_enter(&s))
		return;
	expect_at(&s, "192.0.2.1", 0, "no route");
	route(&s, NULL, 1);
	expect_at(&s, "192.0.2.1", 1, "a route of the group");
	route(&s, "192.0.2.1", 2);
	expect_at(&s, "192.0.2.1", 2, "and one of the source");
	expect_at(&s, "192.0.2.2", 1, "of which it is not");
	route(&s, "192.0.2.1", 3);
	expect_at(&s, "192.0.2.1", 3, "that is replaced");
	route(&s, NULL, 2);
	expect_at(&s, "192.0.2.1", 3, "the group's is replaced");
	expect_at(&s, "192.0.2.2", 2, "the group's is replaced");
	route_del(&s, "192.0.2.1");
	expect_at(&s, "192.0.2.1", 2, "the source's is gone");
	route_del(&s, NULL);
	check_count(&s, 14);
	expect_at(&s, "192.0.2.1", 0, "both are gone");
	expect_at(&s, "192.0.2.2", 0, "both are gone");
	stage_leave(&s);
}

/* Far more sources than there are flows, two of which have a list of their own. */
Test(flows, streams_that_share_a_slot_keep_apart)
{
	enum { SOURCES = 4000, BATCH = 200 };
	unsigned int got[RECEIVERS + 1] = { 0 };
	struct stage s;

	if (!stage_enter(&s))
		return;
	route(&s, NULL, 1);
	route(&s, "198.51.100.1", 2);
	route(&s, "198.51.100.200", 3);
	for (unsigned int i = 0; i < SOURCES; i++) {
		char source[16];

		snprintf(source, sizeof(source), "10.1.%u.%u", i >> 8, i & 0xff);
		send_from(&s, source);
		send_from(&s, i % 2 ? "198.51.100.1" : "198.51.100.200");
		if (i % BATCH < BATCH - 1)
			continue;
		got[1] += harness_receive(s.receiver[1], BATCH, NULL, NULL);
		got[2] += harness_receive(s.receiver[2], BATCH / 2, NULL, NULL);
		got[3] += harness_receive(s.receiver[3], BATCH / 2, NULL, NULL);
	}
	cr_expect_eq(got[1], SOURCES, "%u", got[1]);
	cr_expect_eq(got[2], SOURCES / 2, "%u", got[2]);
	cr_expect_eq(got[3], SOURCES / 2, "%u", got[3]);
	check_count(&s, 2 * SOURCES);
	stage_leave(&s);
}

/* From a version without flows: what is there goes on, and follows its next change. */
Test(flows, an_upgrade_brings_the_maps_that_are_missing)
{
	static const char *const added[] = { "epochs", "flows", "group_counts", "vtep_cache" };
	char why[DATAPATH_WHY_MAX] = "";
	struct stage s;

	if (!stage_enter(&s))
		return;
	route(&s, NULL, 1);
	datapath_close(s.dp);
	for (size_t i = 0; i < ARRAY_SIZE(added); i++)
		harness_run("rm " HARNESS_ROOT "/" MCMESH_LAYOUT "/maps/%s", added[i]);
	expect_at(&s, "192.0.2.1", 1, "no agent");

	s.dp = harness_open(NULL);
	cr_expect(datapath_adopted(s.dp));
	expect_at(&s, "192.0.2.1", 1, "the next agent");
	for (unsigned int i = 0; i <= RECEIVERS; i++)
		cr_assert_eq(datapath_port_attach(s.dp, s.ports[i].ifindex, 1, 0, &s.ports[i], why),
			     0, "%s", why);
	expect_at(&s, "192.0.2.1", 1, "its programs");
	route(&s, NULL, 2);
	expect_at(&s, "192.0.2.1", 2, "and a change");
	stage_leave(&s);
}

/* An agent that dies between a change and its epoch: the next one makes up for it. */
Test(flows, what_was_kept_does_not_outlive_the_agent)
{
	struct dp_route_key key = { .segment = 1 };
	struct addr group = ip(GROUP);
	_cleanup_close_ int fd = -1;
	struct stage s;

	if (!stage_enter(&s))
		return;
	route(&s, NULL, 1);
	expect_at(&s, "192.0.2.1", 1, "a route of the group");
	datapath_close(s.dp);

	memcpy(key.group, &group, sizeof(key.group));
	fd = bpf_obj_get(HARNESS_ROOT "/" MCMESH_LAYOUT "/maps/routes");
	cr_assert_eq(bpf_map_delete_elem(fd, &key), 0);
	expect_at(&s, "192.0.2.1", 1, "nobody has said so yet");

	s.dp = harness_open(NULL);
	expect_at(&s, "192.0.2.1", 0, "the next agent");
	stage_leave(&s);
}
