/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions, the feed and Watch, served and called in one process over loopback. */
#include "harness.h"

#include "common/cleanup.h"

TestSuite(services, .init = setup, .fini = teardown, .timeout = 60);

Test(services, S06_join_arrives_as_delta_on_its_predecessor)
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

Test(services, S07_resume_gets_only_what_was_missed)
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

Test(services, S09_unknown_epoch_is_not_complete_until_known_nodes_reported)
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

Test(services, S03_another_instance_is_refused_and_a_newer_session_takes_over)
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

Test(services, S10_wrong_digest_resyncs_once_then_alarms)
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

/* Its revision can be that at which the snapshot ended. */
Test(services, S10_an_ack_from_before_the_snapshot_raises_no_alarm)
{
	static const uint8_t wrong[16] = { 1 };
	static struct agent a, b;
	uint64_t before;

	two_agents(&a, &b);
	before = b.ended[1];
	agent_ack(&b, wrong);
	UNTIL(b.resyncs == 1 && b.ended[1] != before);
	b.ended[1] = before;
	agent_ack(&b, wrong);
	agent_report(&b, 2, true, 7);
	UNTIL(b.accepted == 2);
	cr_assert_eq(c->counters.digest_alarms, 0);
	cr_assert_eq(b.resyncs, 1);
}

/* Its revision is that which the agent had when its digest differed. */
Test(services, S24_a_repair_is_waited_for)
{
	static const uint8_t wrong[16] = { 1 };
	static struct agent a, b;
	struct session *s;
	uint64_t before, after;

	two_agents(&a, &b);
	s = registry_find(c->registry, "n2")->session;
	UNTIL(b.revision0 >= log_segment_find(c->log, 0)->revision);
	agent_ack_right(&b);
	UNTIL(session_has_applied(s, log_revision(c->log)));
	before = b.ended[1];
	agent_ack(&b, wrong);
	UNTIL(b.resyncs == 1 && b.ended[1] != before);
	cr_assert_not(session_has_applied(s, log_revision(c->log)));
	/* One that was sent before it came. */
	after = b.ended[1];
	b.ended[1] = before;
	agent_ack_right(&b);
	agent_report(&b, 2, true, 0);
	UNTIL(b.accepted == 2);
	cr_assert_not(session_has_applied(s, log_revision(c->log)));
	b.ended[1] = after;
	agent_ack_right(&b);
	UNTIL(session_has_applied(s, log_revision(c->log)));
	cr_assert_not(session_owes(s));
}

/* An agent that does not name snapshots in its acks is asked for revisions only. */
Test(services, S24_older_agents_acks_name_no_snapshot)
{
	static struct agent a;

	agent_open(&a, &(struct hello){
			       .node = "n1", .vtep = 1, .instance = 1, .nameless_acks = true });
	agent_report(&a, 1, true, 7);
	UNTIL(a.completes && a.revision0 >= log_segment_find(c->log, 0)->revision &&
	      a.revision >= log_segment_find(c->log, 1)->revision);
	a.ended[0] = a.ended[1] = 0;
	agent_ack_right(&a);
	UNTIL(session_has_applied(registry_find(c->registry, "n1")->session, log_revision(c->log)));
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

/* n1 was heard so long ago; n2 just now. The lists of the registry are by that. */
static void silence_n1(uint64_t ms)
{
	registry_heard(c->registry, registry_find(c->registry, "n1"), controller_now_ms() - ms);
	registry_heard(c->registry, registry_find(c->registry, "n2"), controller_now_ms());
}

Test(services, S11_members_outlive_the_session_until_the_hold_time)
{
	static struct agent a, b;

	two_agents(&a, &b);
	agent_report(&a, 2, false, 7);
	UNTIL(b.deltas == 1);
	rpc_call_cancel(a.call);
	UNTIL(a.closed && !registry_find(c->registry, "n1")->session);
	silence_n1(config->hold_ms - 60000);
	turn();
	cr_assert_eq(log_node_find(c->log, "n1")->n_members, 1);
	silence_n1(config->hold_ms);
	UNTIL(b.deltas == 2);
	cr_assert_null(registry_find(c->registry, "n1"));
	cr_assert_eq(log_node_find(c->log, "n1")->n_members, 0);
	cr_assert_not(b.closed);
}

static void configure_quotas(struct controller_config *settings)
{
	settings->limits.changes_per_second = 20;
	settings->limits.sessions_per_minute = 2;
}

Test(quotas, S14_changes_beyond_the_rate_wait_and_the_last_state_wins, .fini = teardown,
     .timeout = 60)
{
	static struct agent a, b;
	uint64_t start;

	setup_with(configure_quotas);
	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	agent_report(&a, 1, true, 0);
	/* More than there is goes through whole, and is owed. */
	start = controller_now_ms();
	agent_report_many(&a, 2, false, 0, 40, 0);
	cr_assert_eq(c->counters.reports_throttled, 0);
	agent_report(&a, 3, false, 9);
	cr_assert_eq(c->counters.reports_throttled, 1);
	cr_assert_geq(controller_now_ms() - start, 900);
	cr_assert_not(a.closed);
	/* Another node is not held up. */
	agent_open(&b, &(struct hello){ .node = "n2", .vtep = 2, .instance = 2 });
	agent_report(&b, 1, true, 7);
	cr_assert_eq(c->counters.reports_throttled, 1);
}

Test(quotas, S14_sessions_beyond_the_rate_are_refused, .fini = teardown, .timeout = 60)
{
	static struct agent a[3];

	setup_with(configure_quotas);
	for (uint64_t i = 0; i < 3; i++) {
		agent_open(&a[i],
			   &(struct hello){ .node = "n1", .vtep = 1, .instance = 1, .attempt = i });
		UNTIL(a[i].session || a[i].closed);
	}
	UNTIL(a[2].closed);
	cr_assert_eq(a[2].status, RPC_RESOURCE_EXHAUSTED);
	cr_assert_eq(c->counters.sessions_throttled, 1);
	cr_assert_not(a[1].closed, "who is refused takes nothing over");
}

Test(services, S24_a_version_within_both_ranges_is_settled)
{
	static struct agent older, newer, too_new;

	agent_open(&older, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	agent_open(&newer,
		   &(struct hello){ .node = "n2", .vtep = 2, .instance = 2, .protocol_max = 2 });
	agent_open(&too_new, &(struct hello){ .node = "n3",
					      .vtep = 3,
					      .instance = 3,
					      .protocol_min = 2,
					      .protocol_max = 3 });
	UNTIL(older.session && newer.session && too_new.closed);
	cr_assert_eq(too_new.status, RPC_FAILED_PRECONDITION);
}

Test(services, S12_a_subscription_to_groups_is_refused_not_served_as_all)
{
	static struct agent a;

	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1, .groups = true });
	UNTIL(a.closed);
	cr_assert_eq(a.status, RPC_FAILED_PRECONDITION);
	cr_assert_not_null(strstr(a.text, "mode ALL"), "%s", a.text);
	cr_assert_eq(a.chunks, 0);
}

static void on_end(struct rpc_call *call, int status, const char *text)
{
	*(int *)rpc_call_userdata(call) = status;
}

Test(services, S13_a_stream_without_a_hello_ends)
{
	static const struct rpc_call_ops ops = { .on_close = on_end };
	static struct agent a;
	int status = -1;
	struct rpc_call *call;
	struct session *s;

	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	UNTIL(a.session);
	cr_assert_eq(rpc_channel_call(channel, "/mcmesh.v1.NodeService/Sync",
				      &mcmesh__v1__controller_message__descriptor, &ops, 0, &status,
				      &call),
		     0);
	UNTIL(sessions_count(c->sessions) == 2);
	for (s = sessions_first(c->sessions); s; s = TAILQ_NEXT(s, all))
		s->sent_ms -= NODE_HELLO_MS - 1000;
	turn();
	cr_assert_eq(status, -1, "not before its time");
	for (s = sessions_first(c->sessions); s; s = TAILQ_NEXT(s, all))
		s->sent_ms -= 1000;
	UNTIL(status == RPC_DEADLINE_EXCEEDED);
	cr_assert_not(a.closed, "who said Hello stays");
}

Test(services, S20_a_vtep_that_no_other_node_reaches_is_refused)
{
	static struct agent a;
	Mcmesh__V1__Hello h = MCMESH__V1__HELLO__INIT;
	uint8_t instance[16] = { 1 };
	uint8_t vteps[][16] = {
		{ 127, 0, 0, 1 }, { 127, 9, 9, 9 }, { [15] = 1 }, { 224, 0, 0, 1 }
	};
	const size_t lens[] = { 4, 4, 16, 4 };
	static const struct rpc_call_ops ops = { .on_close = on_end };
	struct rpc_call *call;

	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	UNTIL(a.session);
	h.protocol_min = h.protocol_max = 1;
	h.node = (char *)"n2";
	h.instance = (ProtobufCBinaryData){ sizeof(instance), instance };
	for (size_t i = 0; i < ARRAY_SIZE(vteps); i++) {
		Mcmesh__V1__AgentMessage m = MCMESH__V1__AGENT_MESSAGE__INIT;
		int status = -1;

		h.vtep = (ProtobufCBinaryData){ lens[i], vteps[i] };
		m.message_case = MCMESH__V1__AGENT_MESSAGE__MESSAGE_HELLO;
		m.hello = &h;
		cr_assert_eq(rpc_channel_call(channel, "/mcmesh.v1.NodeService/Sync",
					      &mcmesh__v1__controller_message__descriptor, &ops, 0,
					      &status, &call),
			     0);
		cr_assert_eq(rpc_call_send(call, &m.base), 0);
		UNTIL(status != -1);
		cr_assert_eq(status, RPC_INVALID_ARGUMENT, "%zu", i);
	}
}
