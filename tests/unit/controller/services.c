/* SPDX-License-Identifier: Apache-2.0 */
/* The controller's services, served and called in one process over loopback. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/controller.h"
#include "mcmesh/v1/mesh.pb-c.h"
#include "mcmesh/v1/node.pb-c.h"

#define PATIENCE_MS 10000

static struct rpc *rpc;
static struct controller *c;
static struct controller_config *config;
static struct rpc_channel *channel;

/* What an agent saw; messages live only during their callback. */
struct agent {
	struct rpc_call *call;
	uint8_t epoch[EPOCH_LEN];
	uint64_t session, accepted;
	unsigned int deltas, snapshots, completes, resyncs;
	uint64_t previous, revision; /* segment 1 */
	size_t changes;		     /* of the last delta of segment 1 */
	bool closed;
	int status;
	char text[128];
};

static void turn(void)
{
	uint64_t now = controller_now_ms(), next = controller_turn(c, now);

	rpc_poll(rpc, next < now + 50 ? next : now + 50);
}

#define UNTIL(condition)                                           \
	do {                                                       \
		uint64_t _end = controller_now_ms() + PATIENCE_MS; \
		while (!(condition) && controller_now_ms() < _end) \
			turn();                                    \
		cr_assert(condition);                              \
	} while (0)

static void agent_delta(struct agent *a, const Mcmesh__V1__Delta *d)
{
	if (d->segment != 1)
		return;
	a->deltas++;
	a->previous = d->previous;
	a->revision = d->revision;
	a->changes = d->n_changes;
}

static void agent_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ControllerMessage *m = (const Mcmesh__V1__ControllerMessage *)message;
	struct agent *a = rpc_call_userdata(call);

	if (!m)
		return;
	switch (m->message_case) {
	case MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_WELCOME:
		memcpy(a->epoch, m->welcome->epoch.data, EPOCH_LEN);
		a->session = m->welcome->session;
		break;
	case MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_ACCEPTED:
		a->accepted = m->accepted->sequence;
		break;
	case MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_DELTA:
		agent_delta(a, m->delta);
		break;
	case MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_SNAPSHOT:
		if (m->snapshot->segment != 1 || !m->snapshot->end)
			break;
		a->snapshots++;
		a->completes += m->snapshot->complete;
		a->revision = m->snapshot->revision;
		break;
	case MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_RESYNC:
		a->resyncs++;
		break;
	default:
		break;
	}
}

static void agent_close(struct rpc_call *call, int status, const char *text)
{
	struct agent *a = rpc_call_userdata(call);

	a->closed = true;
	a->status = status;
	a->text[0] = 0;
	strncat(a->text, text, sizeof(a->text) - 1);
}

static void agent_send(struct agent *a, Mcmesh__V1__AgentMessage__MessageCase kind, void *part)
{
	Mcmesh__V1__AgentMessage m = MCMESH__V1__AGENT_MESSAGE__INIT;

	m.message_case = kind;
	m.hello = part;
	cr_assert_eq(rpc_call_send(a->call, &m.base), 0);
}

struct hello {
	const char *node;
	uint8_t vtep, instance;
	uint64_t attempt, revision;
	const uint8_t *epoch;
	const char *known;
};

static void agent_open(struct agent *a, const struct hello *q)
{
	static const struct rpc_call_ops ops = { agent_message, NULL, agent_close };
	Mcmesh__V1__Hello h = MCMESH__V1__HELLO__INIT;
	Mcmesh__V1__Subscription sub = MCMESH__V1__SUBSCRIPTION__INIT, *subs = &sub;
	uint8_t vtep[4] = { 203, 0, 113, q->vtep }, instance[16] = { q->instance };
	char *known = (char *)q->known;

	memset(a, 0, sizeof(*a));
	cr_assert_eq(rpc_channel_call(channel, "/mcmesh.v1.NodeService/Sync",
				      &mcmesh__v1__controller_message__descriptor, &ops, 0, a,
				      &a->call),
		     0);
	h.protocol_min = h.protocol_max = 1;
	h.node = (char *)q->node;
	h.vtep = (ProtobufCBinaryData){ 4, vtep };
	h.instance = (ProtobufCBinaryData){ 16, instance };
	h.start_count = 1;
	h.attempt = q->attempt;
	if (q->epoch)
		h.epoch = (ProtobufCBinaryData){ EPOCH_LEN, (uint8_t *)q->epoch };
	sub.segment = 1;
	sub.revision = q->revision;
	h.n_segments = 1;
	h.segments = &subs;
	h.n_known_nodes = known ? 1 : 0;
	h.known_nodes = &known;
	agent_send(a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_HELLO, &h);
}

/* One row (group 239.1.1.last), or none when last is 0. */
static void agent_report(struct agent *a, uint64_t sequence, bool full, uint8_t last)
{
	Mcmesh__V1__Report r = MCMESH__V1__REPORT__INIT;
	Mcmesh__V1__MemberChange m = MCMESH__V1__MEMBER_CHANGE__INIT, *members = &m;
	uint8_t group[4] = { 239, 1, 1, last };

	m.segment = 1;
	m.group = (ProtobufCBinaryData){ 4, group };
	m.mode = MCMESH__V1__FILTER__MODE__EXCLUDE;
	r.sequence = sequence;
	r.kind = full ? MCMESH__V1__REPORT__KIND__FULL_END : MCMESH__V1__REPORT__KIND__DELTA;
	r.n_members = last != 0;
	r.members = &members;
	agent_send(a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_REPORT, &r);
	UNTIL(a->accepted == sequence || a->closed);
}

static void agent_ack(struct agent *a, const uint8_t digest[16])
{
	Mcmesh__V1__Ack ack = MCMESH__V1__ACK__INIT;
	Mcmesh__V1__SegmentAck s = MCMESH__V1__SEGMENT_ACK__INIT, *segments = &s;

	s.segment = 1;
	s.revision = a->revision;
	s.digest = (ProtobufCBinaryData){ 16, (uint8_t *)digest };
	ack.n_segments = 1;
	ack.segments = &segments;
	agent_send(a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_ACK, &ack);
}

static void setup_with(uint32_t stale_ms, uint32_t hold_ms)
{
	struct rpc_channel_options options = { 0 };
	char why[CONTROLLER_WHY_MAX], target[32];
	int port = 0;

	cr_assert_eq(controller_config_load(NULL, &config, why), 0);
	cr_assert_eq(controller_config_set_listen(config, "127.0.0.1:0"), 0);
	config->stale_ms = stale_ms;
	config->hold_ms = hold_ms;
	cr_assert_eq(rpc_new(&rpc), 0);
	cr_assert_eq(controller_new(config, rpc, &port, &c, why), 0, "%s", why);
	snprintf(target, sizeof(target), "127.0.0.1:%d", port);
	options.target = target;
	cr_assert_eq(rpc_channel_new(rpc, &options, &channel), 0);
}

static void setup(void)
{
	setup_with(2000, 120000);
}

static void teardown(void)
{
	controller_drain(c, "the test is over");
	UNTIL(c->stopped);
	rpc_channel_free(channel);
	controller_free(c);
	rpc_free(rpc);
	controller_config_free(config);
}

static void two_agents(struct agent *a, struct agent *b)
{
	agent_open(a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	UNTIL(a->session && a->snapshots);
	agent_open(b, &(struct hello){ .node = "n2", .vtep = 2, .instance = 2 });
	UNTIL(b->session && b->snapshots);
	agent_report(a, 1, true, 0);
	agent_report(b, 1, true, 0);
	UNTIL(a->completes && b->completes);
}

TestSuite(services, .init = setup, .fini = teardown, .timeout = 60);

Test(services, join_arrives_as_delta_on_its_predecessor)
{
	static struct agent a, b;
	uint64_t at;

	two_agents(&a, &b);
	at = b.revision;
	agent_report(&a, 2, false, 7);
	UNTIL(b.deltas == 1);
	cr_assert_eq(b.previous, at);
	cr_assert_eq(b.changes, 1);
	at = b.revision;
	agent_report(&a, 3, false, 7); /* a refresh is no change */
	agent_report(&a, 2, false, 8); /* a repeated sequence is not applied */
	agent_report(&a, 4, false, 9);
	UNTIL(b.deltas == 2);
	cr_assert_eq(b.previous, at);
	cr_assert_eq(b.changes, 1);
}

Test(services, resume_gets_only_what_was_missed)
{
	static struct agent a, b, again;

	two_agents(&a, &b);
	agent_report(&a, 2, false, 7);
	UNTIL(b.deltas == 1);
	rpc_call_cancel(b.call);
	UNTIL(b.closed);
	agent_report(&a, 3, false, 8);
	agent_open(&again, &(struct hello){ .node = "n2",
					    .vtep = 2,
					    .instance = 2,
					    .attempt = 1,
					    .epoch = b.epoch,
					    .revision = b.revision });
	UNTIL(again.deltas == 1);
	cr_assert_eq(again.snapshots, 0);
	cr_assert_eq(again.previous, b.revision);
	cr_assert_eq(again.changes, 1);
}

Test(services, unknown_epoch_is_not_complete_until_known_nodes_reported)
{
	static const uint8_t other[EPOCH_LEN] = { 9 };
	static struct agent a, b;

	agent_open(&a, &(struct hello){ .node = "n1",
					.vtep = 1,
					.instance = 1,
					.epoch = other,
					.revision = 77,
					.known = "n2" });
	agent_report(&a, 1, true, 0);
	UNTIL(a.snapshots == 1);
	cr_assert_eq(a.completes, 0);
	agent_open(&b, &(struct hello){ .node = "n2", .vtep = 2, .instance = 2 });
	agent_report(&b, 1, true, 7);
	UNTIL(a.completes == 1);
}

Test(services, another_instance_is_refused_and_a_newer_session_takes_over)
{
	static struct agent a, other, newer;

	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	UNTIL(a.session);
	agent_open(&other, &(struct hello){ .node = "n1", .vtep = 1, .instance = 2 });
	UNTIL(other.closed);
	cr_assert_eq(other.status, RPC_ALREADY_EXISTS);
	agent_open(&other, &(struct hello){ .node = "n9", .vtep = 1, .instance = 2 });
	UNTIL(other.closed);
	cr_assert_eq(other.status, RPC_ALREADY_EXISTS);
	cr_assert_not(a.closed);
	agent_open(&newer, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1, .attempt = 1 });
	UNTIL(a.closed && newer.session);
	cr_assert_eq(a.status, RPC_ABORTED);
}

Test(services, wrong_digest_resyncs_once_then_alarms)
{
	static const uint8_t wrong[16] = { 1 };
	static struct agent a, b;
	unsigned int snapshots;

	two_agents(&a, &b);
	snapshots = b.snapshots;
	agent_ack(&b, wrong);
	UNTIL(b.resyncs == 1 && b.snapshots == snapshots + 1);
	agent_ack(&b, wrong);
	UNTIL(c->counters.digest_alarms == 1);
	cr_assert_eq(c->counters.resync_digest, 1);
	cr_assert_eq(b.snapshots, snapshots + 1);
}

struct watched {
	unsigned int puts, deletes, synced;
	bool closed;
};

static void watch_message_seen(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__WatchResponse *e = (const Mcmesh__V1__WatchResponse *)message;
	struct watched *w = rpc_call_userdata(call);

	if (!e)
		return;
	if (e->type == MCMESH__V1__WATCH_RESPONSE__TYPE__SYNCED)
		w->synced++;
	else if (e->type == MCMESH__V1__WATCH_RESPONSE__TYPE__PUT)
		w->puts++;
	else if (e->type == MCMESH__V1__WATCH_RESPONSE__TYPE__DELETE)
		w->deletes++;
}

static void watch_closed(struct rpc_call *call, int status, const char *text)
{
	((struct watched *)rpc_call_userdata(call))->closed = true;
}

Test(services, watch_sends_the_state_then_changes)
{
	static const struct rpc_call_ops ops = { watch_message_seen, NULL, watch_closed };
	Mcmesh__V1__WatchRequest q = MCMESH__V1__WATCH_REQUEST__INIT;
	static struct watched w;
	struct rpc_call *call;
	static struct agent a, b;

	two_agents(&a, &b);
	agent_report(&a, 2, false, 7);
	q.members_only = true;
	cr_assert_eq(rpc_channel_call(channel, "/mcmesh.v1.MeshService/Watch",
				      &mcmesh__v1__watch_response__descriptor, &ops, 0, &w, &call),
		     0);
	rpc_call_send(call, &q.base);
	rpc_call_finish(call, 0, "%s", "");
	UNTIL(w.synced == 1);
	cr_assert_eq(w.puts, 1);
	agent_report(&a, 3, true, 8); /* 7 is not named: swept */
	UNTIL(w.puts == 2 && w.deletes == 1);
}

static void setup_short(void)
{
	setup_with(500, 1500);
}

TestSuite(hold, .init = setup_short, .fini = teardown, .timeout = 60);

Test(hold, members_outlive_the_session_until_the_hold_time)
{
	static struct agent a, b;
	uint64_t said = 0;

	two_agents(&a, &b);
	agent_report(&a, 2, false, 7);
	UNTIL(b.deltas == 1);
	rpc_call_cancel(a.call);
	UNTIL(a.closed);
	cr_assert_not_null(registry_find(c->registry, "n1"));
	cr_assert_eq(log_node_find(c->log, "n1")->n_members, 1);
	while (registry_find(c->registry, "n1")) {
		Mcmesh__V1__Heartbeat h = MCMESH__V1__HEARTBEAT__INIT;

		turn();
		if (controller_now_ms() < said + 50)
			continue;
		said = controller_now_ms();
		cr_assert_not(b.closed, "%d %s", b.status, b.text);
		agent_send(&b, MCMESH__V1__AGENT_MESSAGE__MESSAGE_HEARTBEAT, &h);
	}
	UNTIL(b.deltas == 2);
	cr_assert_eq(log_node_find(c->log, "n1")->n_members, 0);
	cr_assert_not(b.closed);
}
