/* SPDX-License-Identifier: Apache-2.0 */
#include "node/uplink.h"

#include <criterion/criterion.h>
#include <stdio.h>

#include "node/rota.h"

/* A controller that is a few lines: what was sent is kept as text. */
static char sent[128][96];
static size_t n_sent, n_connects, n_disconnects;
static uint64_t last_sequence;
static char session_text[128];
static size_t n_told;

static void on_connect(const char *target, void *userdata)
{
	n_connects++;
}

static void on_disconnect(void *userdata)
{
	n_disconnects++;
}

static const char *const kinds[] = { "DELTA", "FULL", "FULL_END" };

static void on_send(const Mcmesh__V1__AgentMessage *m, void *userdata)
{
	char *p = sent[n_sent++];

	switch (m->message_case) {
	case MCMESH__V1__AGENT_MESSAGE__MESSAGE_HELLO:
		snprintf(p, sizeof(sent[0]), "hello %s", m->hello->node);
		break;
	case MCMESH__V1__AGENT_MESSAGE__MESSAGE_REPORT:
		last_sequence = m->report->sequence;
		snprintf(p, sizeof(sent[0]), "report %s %zu%s", kinds[m->report->kind],
			 m->report->n_members,
			 m->report->n_members && m->report->members[0]->deleted ? " deleted" : "");
		break;
	case MCMESH__V1__AGENT_MESSAGE__MESSAGE_ACK:
		snprintf(p, sizeof(sent[0]), "ack");
		break;
	case MCMESH__V1__AGENT_MESSAGE__MESSAGE_HEARTBEAT:
		snprintf(p, sizeof(sent[0]), "heartbeat");
		break;
	case MCMESH__V1__AGENT_MESSAGE__MESSAGE_SENDING:
		snprintf(p, sizeof(sent[0]), "sending %zu, %u to %u", m->sending->n_segments,
			 m->sending->n_segments ? m->sending->segments[0] : 0,
			 m->sending->n_segments ? m->sending->segments[m->sending->n_segments - 1]
						: 0);
		break;
	default:
		snprintf(p, sizeof(sent[0]), "?");
	}
}

static void on_session(const char *controller, const char *reason, void *userdata)
{
	snprintf(session_text, sizeof(session_text), "%s", controller ? controller : "-");
}

static void on_epoch(const uint8_t *epoch, void *userdata)
{
}

static void on_refused(uint32_t segment, const struct addr *group, const char *reason,
		       void *userdata)
{
	n_told++;
}

static void no_remote(const struct addr *vtep, const char *node, void *userdata)
{
}

static void no_remote_del(const struct addr *vtep, void *userdata)
{
}

static void no_member(uint32_t segment, const struct addr *group, const struct addr *vtep,
		      const struct filter *filter, void *userdata)
{
}

static const struct uplink_ops ops = {
	.connect = on_connect,
	.disconnect = on_disconnect,
	.send = on_send,
	.epoch = on_epoch,
	.session = on_session,
	.refused = on_refused,
};
static const struct mirror_ops mirror_ops = {
	no_remote, no_remote_del, no_member, NULL, NULL, NULL
};
static const char *const controllers[] = { "c1", NULL };
static const char *const two_controllers[] = { "c1", "c2", NULL };
static uint8_t epoch[EPOCH_LEN] = { 7 };

struct bed {
	struct mirror *mirror;
	struct uplink *uplink;
};

static struct bed make(const char *const *list, uint64_t whole_at_ms)
{
	struct uplink_options options = {
		.node = "n1",
		.start_count = 1,
		.controllers = list,
		.seed = 42,
		.whole_at_ms = whole_at_ms,
	};
	struct bed b;

	n_sent = n_connects = n_disconnects = 0;
	cr_assert_eq(mirror_new("n1", &mirror_ops, NULL, &b.mirror), 0);
	mirror_segment_add(b.mirror, 1);
	cr_assert_eq(uplink_new(&options, &ops, NULL, b.mirror, 0, &b.uplink), 0);
	return b;
}

static void drop(struct bed *b)
{
	uplink_free(b->uplink);
	mirror_free(b->mirror);
}

static uint32_t protocol = 1;

static void welcome(struct bed *b, uint64_t now)
{
	Mcmesh__V1__ControllerMessage m = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
	Mcmesh__V1__Welcome w = MCMESH__V1__WELCOME__INIT;

	w.epoch.data = epoch;
	w.epoch.len = EPOCH_LEN;
	w.heartbeat_ms = 500;
	w.protocol = protocol;
	m.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_WELCOME;
	m.welcome = &w;
	uplink_message(b->uplink, &m, now);
}

static void up(struct bed *b, uint64_t now)
{
	uplink_expire(b->uplink, now);
	uplink_opened(b->uplink, now);
	welcome(b, now);
}

static Mcmesh__V1__Refusal **refusals;
static size_t n_refusals;

static void accepted(struct bed *b, uint64_t sequence, uint64_t now)
{
	Mcmesh__V1__ControllerMessage m = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
	Mcmesh__V1__Accepted a = MCMESH__V1__ACCEPTED__INIT;

	a.sequence = sequence;
	a.refused = refusals;
	a.n_refused = n_refusals;
	m.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_ACCEPTED;
	m.accepted = &a;
	uplink_message(b->uplink, &m, now);
}

static int bookmark(struct bed *b, uint32_t segment, uint64_t previous, uint64_t revision,
		    uint64_t now)
{
	Mcmesh__V1__ControllerMessage m = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
	Mcmesh__V1__Delta d = MCMESH__V1__DELTA__INIT;

	d.segment = segment;
	d.previous = previous;
	d.revision = revision;
	m.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_DELTA;
	m.delta = &d;
	uplink_message(b->uplink, &m, now);
	return 0;
}

static void join(struct bed *b, uint8_t last, bool on)
{
	struct addr group = addr_v4_be32(__builtin_bswap32(0xef010100u + last));
	struct filter f = { on ? FILTER_EXCLUDE : FILTER_INCLUDE, 0, NULL };

	cr_assert_eq(uplink_member_set(b->uplink, 1, &group, &f), 0);
}

static size_t count(const char *text)
{
	size_t n = 0;

	for (size_t i = 0; i < n_sent; i++)
		n += strncmp(sent[i], text, strlen(text)) == 0;
	return n;
}

Test(uplink, hello_then_a_full_report_of_what_is_known)
{
	struct bed b = make(controllers, 0);

	join(&b, 1, true);
	up(&b, 10);
	cr_assert_str_eq(sent[0], "hello n1");
	cr_assert_str_eq(sent[1], "report FULL_END 1");
	cr_assert_str_eq(session_text, "c1");
	drop(&b);
}

Test(uplink, S01_full_report_waits_until_the_members_are_whole)
{
	struct bed b = make(controllers, 1000);

	join(&b, 1, true);
	up(&b, 10);
	cr_assert_str_eq(sent[1], "report DELTA 1", "a join does not wait");
	accepted(&b, 1, 11);
	uplink_flush(b.uplink, 999);
	cr_assert_eq(n_sent, 2);
	uplink_flush(b.uplink, 1000);
	cr_assert_str_eq(sent[2], "report FULL_END 1");
	drop(&b);
}

Test(uplink, S02_one_report_is_in_flight_and_the_next_takes_all)
{
	struct bed b = make(controllers, 0);

	up(&b, 0);
	accepted(&b, last_sequence, 0);
	n_sent = 0;
	join(&b, 1, true);
	uplink_flush(b.uplink, 1);
	join(&b, 2, true);
	join(&b, 3, true);
	uplink_flush(b.uplink, 1);
	cr_assert_eq(n_sent, 1);
	accepted(&b, last_sequence, 2);
	cr_assert_str_eq(sent[1], "report DELTA 2");
	drop(&b);
}

Test(uplink, a_leave_during_flight_is_not_lost)
{
	struct bed b = make(controllers, 0);

	up(&b, 0);
	accepted(&b, last_sequence, 0);
	join(&b, 1, true);
	uplink_flush(b.uplink, 1);
	join(&b, 1, false);
	n_sent = 0;
	accepted(&b, last_sequence, 2);
	cr_assert_str_eq(sent[0], "report DELTA 1 deleted");
	accepted(&b, last_sequence, 3);
	uplink_flush(b.uplink, 4);
	cr_assert_eq(n_sent, 1);
	drop(&b);
}

Test(uplink, S01_what_was_not_accepted_is_sent_again_under_a_new_sequence)
{
	struct bed b = make(controllers, 0);
	uint64_t lost;

	up(&b, 0);
	accepted(&b, last_sequence, 0);
	join(&b, 1, true);
	uplink_flush(b.uplink, 1);
	lost = last_sequence;
	uplink_closed(b.uplink, 14, "gone", 2);
	n_sent = 0;
	up(&b, uplink_next_ms(b.uplink));
	cr_assert_str_eq(sent[0], "hello n1");
	cr_assert_str_eq(sent[1], "report FULL_END 1");
	cr_assert_gt(last_sequence, lost);
	accepted(&b, lost, 900);
	uplink_flush(b.uplink, 900);
	cr_assert_eq(n_sent, 2, "an answer to an older report settles nothing");
	drop(&b);
}

Test(uplink, S01_each_session_begins_with_a_full_report)
{
	struct bed b = make(controllers, 0);

	join(&b, 1, true);
	up(&b, 0);
	accepted(&b, last_sequence, 0);
	uplink_closed(b.uplink, 14, "gone", 2);
	epoch[0] = 8;
	n_sent = 0;
	up(&b, uplink_next_ms(b.uplink));
	cr_assert_str_eq(sent[1], "report FULL_END 1");
	epoch[0] = 7;
	drop(&b);
}

Test(uplink, retry_waits_out_its_backoff)
{
	struct bed b = make(controllers, 0);
	uint64_t at;

	uplink_expire(b.uplink, 0);
	cr_assert_eq(n_connects, 1);
	uplink_closed(b.uplink, 14, "refused", 5);
	at = uplink_next_ms(b.uplink);
	cr_assert_gt(at, 5);
	cr_assert_leq(at, 5 + ROTA_BACKOFF_MAX_MS);
	uplink_expire(b.uplink, at - 1);
	cr_assert_eq(n_connects, 1);
	uplink_expire(b.uplink, at);
	cr_assert_eq(n_connects, 2);
	drop(&b);
}

Test(uplink, the_next_controller_is_tried_at_once)
{
	struct bed b = make(two_controllers, 0);

	uplink_expire(b.uplink, 0);
	uplink_closed(b.uplink, 14, "refused", 5);
	cr_assert_eq(uplink_next_ms(b.uplink), 5);
	drop(&b);
}

Test(uplink, a_silent_controller_is_left_after_three_heartbeats)
{
	struct bed b = make(controllers, 0);

	up(&b, 0);
	for (uint64_t now = 0; now < 1500; now += 499)
		uplink_expire(b.uplink, now);
	uplink_expire(b.uplink, 1499);
	cr_assert_eq(n_disconnects, 0);
	uplink_expire(b.uplink, 1500);
	cr_assert_eq(n_disconnects, 1);
	cr_assert_str_eq(session_text, "-");
	drop(&b);
}

Test(uplink, S17_an_agent_that_was_stopped_listens_before_it_calls_the_controller_silent)
{
	struct bed b = make(controllers, 0);

	up(&b, 0);
	uplink_expire(b.uplink, 400);
	uplink_expire(b.uplink, 60000); /* what came meanwhile is read after this */
	cr_assert_eq(n_disconnects, 0);
	uplink_expire(b.uplink, 60499);
	cr_assert_eq(n_disconnects, 0);
	uplink_expire(b.uplink, 60500);
	cr_assert_eq(n_disconnects, 1, "there was nothing");
	drop(&b);
}

Test(uplink, heartbeats_fill_silence_only)
{
	struct bed b = make(controllers, 0);

	up(&b, 0);
	uplink_expire(b.uplink, 499);
	cr_assert_eq(count("heartbeat"), 0);
	uplink_expire(b.uplink, 500);
	cr_assert_eq(count("heartbeat"), 1);
	drop(&b);
}

Test(uplink, S10_acks_come_after_the_maps_and_at_most_every_50_ms)
{
	struct bed b = make(controllers, 0);

	up(&b, 1000);
	bookmark(&b, 1, 0, 4, 1000);
	cr_assert_eq(count("ack"), 0);
	cr_assert(uplink_applied(b.uplink, 1001));
	cr_assert_eq(count("ack"), 1);
	bookmark(&b, 1, 4, 5, 1002);
	cr_assert(uplink_applied(b.uplink, 1050));
	cr_assert_eq(count("ack"), 1);
	cr_assert_not(uplink_applied(b.uplink, 1051));
	cr_assert_eq(count("ack"), 2);
	drop(&b);
}

Test(uplink, S26_what_was_acknowledged_aside_is_said_again_when_it_ends)
{
	struct bed b = make(controllers, 0);

	up(&b, 1000);
	bookmark(&b, 1, 0, 4, 1000);
	cr_assert(uplink_applied(b.uplink, 1001));
	cr_assert_eq(count("ack"), 1);
	uplink_acks_lost(b.uplink);
	cr_assert_not(uplink_applied(b.uplink, 1002));
	cr_assert_eq(count("ack"), 1, "not before the interval");
	uplink_expire(b.uplink, uplink_next_ms(b.uplink));
	cr_assert_eq(count("ack"), 2);
	cr_assert_not(uplink_applied(b.uplink, 2000));
	cr_assert_eq(count("ack"), 2, "once");
	/* Nor of what is not in the maps yet. */
	bookmark(&b, 1, 4, 5, 2000);
	uplink_acks_lost(b.uplink);
	uplink_expire(b.uplink, 2100);
	cr_assert_eq(count("ack"), 2);
	drop(&b);
}

static void sending(struct bed *b, uint32_t first, uint32_t second, uint64_t now)
{
	struct sending_list list = { .n = 0 };

	if (first)
		sending_list_add(&list, first);
	if (second)
		sending_list_add(&list, second);
	uplink_sending_set(b->uplink, &list, now);
}

Test(uplink, S25_what_is_sent_into_is_told_when_it_changes_and_in_each_session)
{
	struct bed b = make(controllers, 0);

	sending(&b, 7, 5, 0);
	up(&b, 0);
	cr_assert_eq(count("sending 2, 5 to 7"), 1);
	sending(&b, 5, 7, 1000);
	cr_assert_eq(count("sending"), 1);
	sending(&b, 5, 5, 2000);
	cr_assert_eq(count("sending 1, 5 to 5"), 1);
	sending(&b, 0, 0, 3000);
	cr_assert_eq(count("sending 0"), 1);
	uplink_closed(b.uplink, 14, "gone", 3000);
	sending(&b, 9, 0, 3100);
	cr_assert_eq(count("sending"), 3);
	uplink_expire(b.uplink, 20000);
	uplink_opened(b.uplink, 20000);
	welcome(&b, 20000);
	cr_assert_eq(count("sending 1, 9 to 9"), 1);
	/* One that sends nothing says nothing: an idle session begins so. */
	sending(&b, 0, 0, 20100);
	cr_assert_eq(count("sending"), 5);
	drop(&b);
}

Test(uplink, a_gap_begins_the_session_anew)
{
	struct bed b = make(controllers, 0);

	up(&b, 0);
	bookmark(&b, 1, 3, 4, 1);
	cr_assert_eq(n_disconnects, 1);
	cr_assert_eq(uplink_counter(b.uplink, UPLINK_C_GAPS), 1);
	drop(&b);
}

static const char *const many_controllers[] = { "c1", "c2", "c3", NULL };

/* S17: whatever a controller dies of, the next is asked within 5 s. */
Test(uplink, S17_dead_frozen_and_cut_off_controllers_are_left_within_five_seconds)
{
	struct bed b = make(many_controllers, 0);
	uint64_t now = 10000;

	up(&b, 0);
	/* Heard until now, then frozen. The next takes the stream and says nothing. */
	uplink_expire(b.uplink, 1000);
	bookmark(&b, 1, 0, 4, now);
	while (n_disconnects < 1)
		uplink_expire(b.uplink, now = uplink_next_ms(b.uplink));
	cr_assert_leq(now, 10000 + 3 * 500);
	uplink_expire(b.uplink, uplink_next_ms(b.uplink));
	cr_assert_eq(n_connects, 2);
	uplink_opened(b.uplink, now);
	while (n_disconnects < 2)
		uplink_expire(b.uplink, now = uplink_next_ms(b.uplink));
	/* The third is dead, and refuses the connection; so round to the first. */
	uplink_expire(b.uplink, now);
	cr_assert_eq(n_connects, 3);
	uplink_closed(b.uplink, 14, "connection refused", now);
	now = uplink_next_ms(b.uplink);
	up(&b, now);
	cr_assert_eq(n_connects, 4);
	cr_assert_leq(now, 10000 + 5000);
	cr_assert_str_neq(session_text, "-");
	drop(&b);
}

/* Each serves all; a move would cost a session and a full report, and gain nothing. */
Test(uplink, S17_an_agent_stays_where_it_works)
{
	struct bed b = make(many_controllers, 0);
	uint64_t now = 0, revision = 0, end = 3600000;

	up(&b, now);
	uplink_closed(b.uplink, 14, "the controller ended", now);
	up(&b, now = uplink_next_ms(b.uplink));
	cr_assert_eq(n_connects, 2);
	for (; now < end; now += 400) {
		bookmark(&b, 1, revision, revision + 1, now);
		revision++;
		n_sent = 0; /* the record of them is short */
		uplink_expire(b.uplink, now);
	}
	cr_assert_eq(n_connects, 2);
	cr_assert_eq(n_disconnects, 0);
	drop(&b);
}

/* A controller that greets and then fails must not be asked in a tight loop. */
Test(uplink, a_session_that_ends_at_once_counts_as_a_failure)
{
	struct bed b = make(two_controllers, 0);
	uint64_t now = 0;

	for (int i = 0; i < 20; i++) {
		now = uplink_next_ms(b.uplink);
		up(&b, now);
		uplink_closed(b.uplink, 14, "the store failed", now);
	}
	cr_assert_gt(now, 1000);
	now = uplink_next_ms(b.uplink);
	up(&b, now);
	now += ROTA_PROVEN_MS;
	uplink_closed(b.uplink, 14, "the controller ended", now);
	cr_assert_eq(uplink_next_ms(b.uplink), now, "what worked is left for the next at once");
	drop(&b);
}

/* Two agents with one identity (a copied disk) would otherwise take turns. */
Test(uplink, one_that_lost_its_node_to_a_newer_session_waits)
{
	struct bed b = make(two_controllers, 0);

	up(&b, 0);
	uplink_closed(b.uplink, 10, "a newer session of this node took over", 5000);
	cr_assert_geq(uplink_next_ms(b.uplink), 5000 + ROTA_REFUSED_MS / 2);
	drop(&b);
}

Test(uplink, S14_a_refused_member_is_told_once_and_asked_for_again)
{
	struct bed b = make(controllers, 0);
	Mcmesh__V1__Refusal refusal = MCMESH__V1__REFUSAL__INIT, *list = &refusal;
	struct addr group = addr_v4_be32(__builtin_bswap32(0xef010101u));
	uint8_t wire[4] = { 239, 1, 1, 1 };

	join(&b, 1, true);
	join(&b, 2, true);
	up(&b, 0);
	refusal.segment = 1;
	refusal.group = (ProtobufCBinaryData){ 4, wire };
	refusal.reason = (char *)"full";
	refusals = &list;
	n_refusals = 1;
	accepted(&b, last_sequence, 10);
	cr_assert_eq(n_told, 1);
	cr_assert_str_eq(uplink_refusal(b.uplink, 1, &group), "full");
	n_sent = 0;
	uplink_flush(b.uplink, 10 + UPLINK_REFUSED_RETRY_MS - 1);
	cr_assert_eq(count("report DELTA 1"), 0);
	uplink_flush(b.uplink, 10 + UPLINK_REFUSED_RETRY_MS);
	cr_assert_eq(count("report DELTA 1"), 1, "only the refused one");
	accepted(&b, last_sequence, 10 + UPLINK_REFUSED_RETRY_MS);
	cr_assert_eq(n_told, 1, "not again");
	n_refusals = 0;
	uplink_flush(b.uplink, 10 + 2 * UPLINK_REFUSED_RETRY_MS);
	accepted(&b, last_sequence, 10 + 2 * UPLINK_REFUSED_RETRY_MS);
	cr_assert_null(uplink_refusal(b.uplink, 1, &group));
	n_sent = 0;
	uplink_flush(b.uplink, 10 + 9 * UPLINK_REFUSED_RETRY_MS);
	cr_assert_eq(n_sent, 0, "it is in");
	drop(&b);
}

Test(uplink, S24_a_version_that_was_not_offered_is_left)
{
	struct bed b = make(two_controllers, 0);

	protocol = UPLINK_PROTOCOL_MAX + 1;
	up(&b, 0);
	cr_assert_eq(n_disconnects, 1);
	cr_assert_eq(uplink_counter(b.uplink, UPLINK_C_SESSIONS), 0);
	protocol = 1;
	up(&b, uplink_next_ms(b.uplink));
	cr_assert_eq(uplink_counter(b.uplink, UPLINK_C_SESSIONS), 1, "the other one may be older");
	drop(&b);
}
