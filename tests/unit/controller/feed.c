/* SPDX-License-Identifier: Apache-2.0 */
/* The feed to agents and to watchers where it is hard: speed, slowness, size, abuse. */
#include "common/cleanup.h"
#include "harness.h"

#include "controller/feed_internal.h"

static void configure_two_addresses(struct controller_config *into)
{
	into->listen = reallocarray(into->listen, 3, sizeof(*into->listen));
	into->listen[1] = strdup("127.0.0.2:0");
	into->listen[2] = NULL;
	into->listen_count = 2;
}

static void setup_two_addresses(void)
{
	setup_with(configure_two_addresses);
}

TestSuite(feed, .init = setup_two_addresses, .fini = teardown, .timeout = 60);

/* The log's revision is what the agent has, in both segments. */
static bool is_current(const struct agent *a)
{
	return a->revision >= log_segment_find(c->log, 1)->revision &&
	       a->revision0 >= log_segment_find(c->log, 0)->revision;
}

Test(feed, S02_change_after_idle_goes_out_in_the_same_turn)
{
	Mcmesh__V1__Report r = MCMESH__V1__REPORT__INIT;
	Mcmesh__V1__MemberChange m = MCMESH__V1__MEMBER_CHANGE__INIT, *members = &m;
	uint8_t group[4] = { 239, 1, 1, 7 };
	uint64_t end = controller_now_ms() + PATIENCE_MS, idle_at, deltas, reports;
	static struct agent a, b;

	two_agents(&a, &b);
	UNTIL(is_current(&a) && is_current(&b));
	idle_at = controller_now_ms() + config->coalesce_ms + 1;
	UNTIL(controller_now_ms() >= idle_at);
	m.segment = 1;
	m.group = (ProtobufCBinaryData){ 4, group };
	m.mode = MCMESH__V1__FILTER__MODE__EXCLUDE;
	r.sequence = 2;
	r.n_members = 1;
	r.members = &members;
	deltas = c->counters.deltas;
	reports = c->counters.reports;
	agent_send(&a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_REPORT, &r);
	while (c->counters.reports == reports && controller_now_ms() < end)
		rpc_poll(rpc, controller_now_ms() + 50);
	cr_assert_eq(c->counters.reports, reports + 1);
	cr_assert_eq(c->counters.deltas, deltas + 2, "not before the report's receipt");
	/* What follows within the window waits for its end. */
	r.sequence = 3;
	group[3] = 8;
	config->coalesce_ms = 1000;
	reports = c->counters.reports;
	UNTIL(b.deltas == 1);
	agent_report(&a, 3, false, 8); /* opens a window of 1000 ms, goes at once */
	UNTIL(b.deltas == 2);
	agent_report(&a, 4, false, 9);
	agent_report(&a, 5, false, 10);
	cr_assert_eq(b.deltas, 2);
	UNTIL(b.deltas == 3);
	cr_assert_eq(b.changes, 2);
}

Test(feed, S08_snapshot_larger_than_a_chunk_is_whole)
{
	static struct agent a, b;

	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	UNTIL(a.session);
	agent_report_many(&a, 1, true, 0, 3000, 0);
	agent_open(&b, &(struct hello){ .node = "n2", .vtep = 2, .instance = 2 });
	agent_report(&b, 1, true, 0);
	UNTIL(b.completes);
	/* The last one: an earlier one could not be complete. */
	cr_assert(b.chunks > 2, "%u chunks", b.chunks);
	cr_assert_eq(b.rows, 3000);
	cr_assert_eq(b.revision, log_revision(c->log));
}

Test(feed, S13_those_who_come_together_share_one_snapshot)
{
	const uint8_t wrong[16] = { 1 };
	static struct agent a, many[6], late, other;
	uint64_t editions;

	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	UNTIL(a.session);
	agent_report_many(&a, 1, true, 0, 3000, 0);
	UNTIL(a.completes);
	editions = c->counters.editions;
	for (size_t i = 0; i < ARRAY_SIZE(many); i++) {
		char name[8];

		snprintf(name, sizeof(name), "m%zu", i);
		agent_open(&many[i], &(struct hello){ .node = name,
						      .vtep = (uint8_t)(10 + i),
						      .instance = (uint8_t)(10 + i) });
	}
	for (size_t i = 0; i < ARRAY_SIZE(many); i++) {
		UNTIL(many[i].completes == 1);
		cr_assert_eq(many[i].rows, 3000);
		cr_assert_eq(many[i].snapshot_id, many[0].snapshot_id);
	}
	/* One of the members; segment 0 changes by each node that comes. */
	cr_assert_leq(c->counters.editions, editions + 1 + ARRAY_SIZE(many));
	agent_report(&a, 2, false, 7);
	agent_open(&late, &(struct hello){ .node = "n2", .vtep = 2, .instance = 2 });
	UNTIL(late.completes && late.revision == log_segment_find(c->log, 1)->revision);
	cr_assert_eq(late.snapshot_id, many[0].snapshot_id);
	cr_assert_eq(late.changes, 1, "what came since is a delta");
	registry_set_complete(c->registry);
	/* What another log told may hold the new row: an old snapshot would take it away. */
	agent_open(&other,
		   &(struct hello){
			   .node = "n3", .vtep = 3, .instance = 3, .revision = 1, .epoch = wrong });
	UNTIL(other.completes);
	cr_assert_neq(other.snapshot_id, many[0].snapshot_id);
	cr_assert_eq(other.rows, 3001);
	/* Nor is what may be wrong sent again. */
	agent_ack(&other, wrong);
	UNTIL(other.resyncs == 1 && other.completes == 2);
	cr_assert_neq(other.snapshot_id, late.snapshot_id);
	cr_assert_eq(other.rows, 3001);
	cr_assert_eq(c->counters.digest_alarms, 0);
}

Test(feed, S13_slow_agent_costs_bounded_memory_and_catches_up)
{
	struct rpc_channel_options options = { 0 };
	static struct agent a, slow;
	struct rpc_channel *other;
	struct session *session;
	struct rpc *behind;
	char other_target[32];
	size_t most = 0;
	uint64_t end;

	/* A runtime of its own, so that it can stop to read, and another address, so
	 * that the library does not share the connection. */
	snprintf(other_target, sizeof(other_target), "127.0.0.2:%d", listen_ports[1]);
	options.target = other_target;
	cr_assert_eq(rpc_new(&behind), 0);
	cr_assert_eq(rpc_channel_new(behind, &options, &other), 0);
	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	UNTIL(a.session);
	agent_open(&slow,
		   &(struct hello){ .node = "n2", .vtep = 2, .instance = 2, .channel = other });
	UNTIL((rpc_poll(behind, 0), slow.session && slow.snapshots));
	session = registry_find(c->registry, "n2")->session;
	/* About 6 kB a row; all change again and again. */
	for (uint64_t i = 1; i <= 60 || (i <= 600 && !c->counters.slow_agents); i++) {
		agent_report_many(&a, i, false, (uint32_t)(i % 20) * 10, 10,
				  (uint32_t)(1000 + i / 20 % 20));
		if (rpc_call_backlog(session->call) > most)
			most = rpc_call_backlog(session->call);
	}
	cr_assert(c->counters.slow_agents > 0);
	cr_assert(most > FEED_BACKLOG_MAX, "%zu", most);
	cr_assert(most < FEED_BACKLOG_MAX + 2 * FEED_DELTA_BYTES, "%zu", most);
	cr_assert_not(a.closed);
	cr_assert(slow.revision < log_revision(c->log));
	UNTIL((rpc_poll(behind, 0), slow.revision == log_revision(c->log)));
	cr_assert_not(slow.closed);
	rpc_call_cancel(slow.call);
	end = controller_now_ms() + PATIENCE_MS;
	while (!slow.closed && controller_now_ms() < end) {
		rpc_poll(behind, controller_now_ms() + 10);
		turn();
	}
	rpc_channel_free(other);
	rpc_free(behind);
}

/* ---- abuse ---------------------------------------------------------------------- */

static void expect_end(struct agent *bad, int status)
{
	UNTIL(bad->closed);
	cr_assert_eq(bad->status, status, "%d %s", bad->status, bad->text);
	cr_assert(strlen(bad->text) > 10, "%s", bad->text);
	cr_assert_null(strchr(bad->text, '\n'));
}

Test(feed, bad_message_ends_its_own_session_only)
{
	Mcmesh__V1__Heartbeat heartbeat = MCMESH__V1__HEARTBEAT__INIT;
	Mcmesh__V1__Answer answer = MCMESH__V1__ANSWER__INIT;
	Mcmesh__V1__Hello hello = MCMESH__V1__HELLO__INIT;
	static const struct rpc_call_ops none = { 0 };
	static struct agent a, b, bad;
	struct rpc_call *call;

	two_agents(&a, &b);
	agent_open(&bad, &(struct hello){ .node = "not a name", .vtep = 9, .instance = 9 });
	expect_end(&bad, RPC_INVALID_ARGUMENT);
	agent_open(&bad, &(struct hello){ .node = "n9", .vtep = 2, .instance = 9 });
	expect_end(&bad, RPC_ALREADY_EXISTS);
	agent_open(&bad, &(struct hello){ .node = "n9", .vtep = 9, .instance = 9 });
	agent_send(&bad, MCMESH__V1__AGENT_MESSAGE__MESSAGE_HELLO, &hello);
	expect_end(&bad, RPC_INVALID_ARGUMENT);
	agent_open(&bad, &(struct hello){ .node = "n9", .vtep = 9, .instance = 9, .attempt = 1 });
	UNTIL(bad.session);
	agent_send(&bad, MCMESH__V1__AGENT_MESSAGE__MESSAGE_HEARTBEAT, &heartbeat);
	answer.id = 12345; /* nobody asked */
	agent_send(&bad, MCMESH__V1__AGENT_MESSAGE__MESSAGE_ANSWER, &answer);
	agent_report(&bad, 1, false, 7);
	cr_assert_not(bad.closed);
	agent_report(&bad, 0, false, 8);
	expect_end(&bad, RPC_INVALID_ARGUMENT);
	/* A call that says nothing, and one that is cut off in its beginning. */
	cr_assert_eq(rpc_channel_call(channel, "/mcmesh.v1.NodeService/Sync",
				      &mcmesh__v1__controller_message__descriptor, &none, 0, NULL,
				      &call),
		     0);
	rpc_call_cancel(call);
	agent_report(&a, 2, false, 9);
	UNTIL(b.revision == log_revision(c->log));
	cr_assert_not(a.closed || b.closed);
}

Test(feed, S14_bad_rows_are_refused_one_by_one)
{
	Mcmesh__V1__Report r = MCMESH__V1__REPORT__INIT;
	Mcmesh__V1__MemberChange m[6], *members[6];
	uint8_t good[4] = { 239, 1, 1, 7 }, unicast[4] = { 10, 0, 0, 1 };
	ProtobufCBinaryData source = { 4, good };
	static struct agent a, b;

	two_agents(&a, &b);
	for (int i = 0; i < 6; i++) {
		mcmesh__v1__member_change__init(members[i] = &m[i]);
		m[i].segment = 1;
		m[i].group = (ProtobufCBinaryData){ 4, good };
		m[i].mode = MCMESH__V1__FILTER__MODE__EXCLUDE;
	}
	m[0].group.len = 3;
	m[1].group.data = unicast;
	m[2].segment = 0;
	m[3].segment = 1u << 24;
	m[4].n_sources = 1;
	m[4].sources = &source; /* a multicast source */
	r.sequence = 2;
	r.n_members = 6;
	r.members = members;
	agent_send(&a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_REPORT, &r);
	UNTIL(a.accepted == 2);
	cr_assert_eq(a.refused, 5);
	UNTIL(b.deltas == 1);
	cr_assert_eq(b.changes, 1);
	cr_assert_not(a.closed);
}

/* ---- Watch ------------------------------------------------------------------------ */

struct watched {
	unsigned int puts, deletes, synced, node_puts;
	Mcmesh__V1__Node__State state; /* of the last node */
	char token[128];
	bool closed;
	int status;
};

static void watched_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__WatchResponse *e = (const Mcmesh__V1__WatchResponse *)message;
	struct watched *w = rpc_call_userdata(call);

	if (!e)
		return;
	if (e->resume_token[0])
		snprintf(w->token, sizeof(w->token), "%s", e->resume_token);
	w->synced += e->type == MCMESH__V1__WATCH_RESPONSE__TYPE__SYNCED;
	w->deletes += e->type == MCMESH__V1__WATCH_RESPONSE__TYPE__DELETE;
	if (e->type != MCMESH__V1__WATCH_RESPONSE__TYPE__PUT)
		return;
	if (e->object_case == MCMESH__V1__WATCH_RESPONSE__OBJECT_NODE) {
		w->node_puts++;
		w->state = e->node->state;
	} else {
		w->puts++;
	}
}

static void watched_close(struct rpc_call *call, int status, const char *text)
{
	struct watched *w = rpc_call_userdata(call);

	w->closed = true;
	w->status = status;
}

static struct rpc_call *watch(struct watched *w, const char *token, const char *node, bool members)
{
	static const struct rpc_call_ops ops = { watched_message, NULL, watched_close };
	Mcmesh__V1__WatchRequest q = MCMESH__V1__WATCH_REQUEST__INIT;
	struct rpc_call *call;

	q.resume_token = (char *)token;
	q.node = (char *)node;
	q.members_only = members;
	cr_assert_eq(rpc_channel_call(channel, "/mcmesh.v1.MeshService/Watch",
				      &mcmesh__v1__watch_response__descriptor, &ops, 0, w, &call),
		     0);
	rpc_call_send(call, &q.base);
	rpc_call_finish(call, 0, "%s", "");
	return call;
}

Test(feed, S22_watch_resumes_after_its_token)
{
	static struct watched first, again, late, wrong;
	static struct agent a, b;
	struct rpc_call *call;
	char token[128];

	two_agents(&a, &b);
	agent_report(&a, 2, false, 7);
	call = watch(&first, "", "", true);
	UNTIL(first.synced);
	cr_assert_eq(first.puts, 1);
	memcpy(token, first.token, sizeof(token));
	rpc_call_cancel(call);
	UNTIL(first.closed);
	agent_report(&a, 3, false, 8);
	agent_report(&a, 4, true, 8); /* 7 goes */
	watch(&again, token, "", true);
	UNTIL(again.puts == 1 && again.deletes == 1);
	cr_assert_eq(again.synced, 0);
	watch(&wrong, "nonsense", "", true);
	UNTIL(wrong.closed);
	cr_assert_eq(wrong.status, RPC_INVALID_ARGUMENT);
	/* Another epoch: as far away as a revision that is forgotten. */
	token[0] = token[0] == '0' ? '1' : '0';
	watch(&late, token, "", true);
	UNTIL(late.closed);
	cr_assert_eq(late.status, RPC_OUT_OF_RANGE);
	cr_assert_not(again.closed);
}

static struct session *session_of(const char *node)
{
	return registry_find(c->registry, node)->session;
}

static void say_sending(struct agent *a, const char *node, uint32_t segment)
{
	Mcmesh__V1__Sending sending = MCMESH__V1__SENDING__INIT;

	sending.segments = &segment;
	sending.n_segments = segment != 0;
	agent_send(a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_SENDING, &sending);
	UNTIL(session_of(node)->subs[1].lane == (segment == 1 ? FEED_SENDERS : FEED_OTHERS));
}

static struct agent three[3];

static void three_agents(void)
{
	two_agents(&three[0], &three[1]);
	agent_open(&three[2], &(struct hello){ .node = "n3", .vtep = 3, .instance = 3 });
	UNTIL(three[2].session && three[2].snapshots);
	agent_report(&three[2], 1, true, 0);
	UNTIL(three[2].completes);
	UNTIL(is_current(&three[0]) && is_current(&three[1]) && is_current(&three[2]));
	for (uint64_t end = controller_now_ms() + config->coalesce_ms + 1;
	     controller_now_ms() < end;)
		turn();
}

/* Was this one sent to before the other, the last time? */
static bool was_before(const char *node, const char *other)
{
	struct session *s = session_of(other);

	while (s && s != session_of(node))
		s = TAILQ_NEXT(s, by_sent);
	return s == NULL;
}

Test(feed, S25_nodes_that_send_are_told_first)
{
	static const char *const names[] = { "n2", "n3" };

	three_agents();
	for (size_t i = 0; i < 4; i++) {
		size_t sender = i % 2, deltas = three[1 + sender].deltas;

		say_sending(&three[1 + sender], names[sender], 1);
		say_sending(&three[2 - sender], names[1 - sender], i < 2 ? 0 : 7);
		agent_report(&three[0], 2 + i, false, (uint8_t)(10 + i));
		UNTIL(three[1 + sender].deltas > deltas && is_current(&three[2 - sender]));
		cr_assert(was_before(names[sender], names[1 - sender]), "%zu", i);
	}
}

Test(feed, S25_nodes_that_send_do_not_wait_for_the_others_round)
{
	struct feed_lane_state *others = &c->feed->lanes[FEED_OTHERS];
	unsigned int deltas;

	three_agents();
	say_sending(&three[1], "n2", 1);
	UNTIL(!others->in_round && TAILQ_EMPTY(&others->dirty));
	/* A round that does not end. */
	others->in_round = true;
	others->n_owed++;
	deltas = three[2].deltas;
	agent_report(&three[0], 2, false, 20);
	UNTIL(is_current(&three[1]));
	cr_assert_eq(three[2].deltas, deltas);
	/* Who begins to send is told what that round has not. */
	say_sending(&three[2], "n3", 1);
	UNTIL(is_current(&three[2]));
	cr_assert_eq(three[2].deltas, deltas + 1);
	others->n_owed--;
	UNTIL(is_current(&three[0]) && !others->in_round);
}

Test(feed, S13_nodes_that_do_not_send_are_told_less_often_while_many_come_up)
{
	cr_assert_eq(feed_rest_ms(FEED_OTHERS, FEED_LONG_MS - 1, FEED_COMING - 1),
		     (FEED_LONG_MS - 1) / 2);
	cr_assert_eq(feed_rest_ms(FEED_OTHERS, FEED_LONG_MS, FEED_COMING - 1), FEED_LONG_MS);
	cr_assert_eq(feed_rest_ms(FEED_OTHERS, 10 * FEED_REST_MAX_MS, 0), FEED_REST_MAX_MS);
	cr_assert_eq(feed_rest_ms(FEED_OTHERS, 100, FEED_COMING), 100 * FEED_COMING_RESTS);
	cr_assert_eq(feed_rest_ms(FEED_OTHERS, FEED_COMING_REST_MAX_MS, FEED_COMING),
		     FEED_COMING_REST_MAX_MS);
	/* Packets wait for what these are told. */
	cr_assert_eq(feed_rest_ms(FEED_SENDERS, 100, FEED_COMING), FEED_REST_MAX_MS);
}

static void configure_short_log(struct controller_config *into)
{
	into->log_tombstones = 16;
}

static void setup_short_log(void)
{
	setup_with(configure_short_log);
}

TestSuite(short_log, .init = setup_short_log, .fini = teardown, .timeout = 60);

Test(short_log, S22_token_that_the_log_forgot_is_out_of_range)
{
	static struct watched first, late;
	static struct agent a, b;

	two_agents(&a, &b);
	agent_report(&a, 2, false, 7);
	watch(&first, "", "", true);
	UNTIL(first.synced);
	memcpy(late.token, first.token, sizeof(late.token));
	agent_report_many(&a, 3, false, 0, 40, 0);
	agent_report(&a, 4, true, 0); /* 41 deletions, 16 are remembered */
	watch(&late, late.token, "", true);
	UNTIL(late.closed);
	cr_assert_eq(late.status, RPC_OUT_OF_RANGE);
}

Test(feed, watch_shows_changes_of_a_nodes_state)
{
	static struct agent a, b;
	static struct watched w;
	uint64_t start;

	two_agents(&a, &b);
	watch(&w, "", "n1", false);
	UNTIL(w.synced);
	cr_assert_eq(w.state, MCMESH__V1__NODE__STATE__CONNECTED);
	start = controller_now_ms();
	registry_heard(c->registry, registry_find(c->registry, "n1"),
		       controller_now_ms() - config->stale_ms);
	registry_heard(c->registry, registry_find(c->registry, "n2"), controller_now_ms());
	UNTIL(w.state == MCMESH__V1__NODE__STATE__STALE);
	cr_assert(controller_now_ms() < start + 4000, "only with a bookmark");
	agent_report(&a, 2, false, 0); /* it is heard again */
	UNTIL(w.state == MCMESH__V1__NODE__STATE__CONNECTED);
	registry_set_draining(c->registry, registry_find(c->registry, "n1"), true);
	UNTIL(w.state == MCMESH__V1__NODE__STATE__DRAINING);
	rpc_call_cancel(a.call);
	UNTIL(w.deletes == 1);
}

/* ---- a store that began empty -------------------------------------------------------- */

Test(feed, S09_fresh_log_is_complete_when_all_known_nodes_reported_or_the_hold_passed)
{
	static struct agent a, b;
	uint64_t turns = 0, end;

	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1, .known = "n7" });
	UNTIL(a.session);
	agent_report(&a, 1, true, 7);
	agent_open(&b, &(struct hello){ .node = "n2", .vtep = 2, .instance = 2, .known = "n1" });
	agent_report(&b, 1, true, 8);
	UNTIL(a.snapshots && b.snapshots);
	cr_assert_eq(a.completes + b.completes, 0, "n7 has not reported");
	/* n7 never comes: the hold time ends it, by the turn alone. */
	cr_assert(registry_tick(c->registry, controller_now_ms() + config->hold_ms));
	registry_connect(c->registry, registry_find(c->registry, "n1"),
			 registry_find(c->registry, "n1")->session, controller_now_ms());
	registry_connect(c->registry, registry_find(c->registry, "n2"),
			 registry_find(c->registry, "n2")->session, controller_now_ms());
	feed_completed(c->feed);
	UNTIL(a.completes == 1 && b.completes == 1);
	/* And nothing spins afterwards. */
	end = controller_now_ms() + 200;
	for (; controller_now_ms() < end; turns++)
		turn();
	cr_assert(turns < 100, "%lu turns in 200 ms", (unsigned long)turns);
}
