/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: NodeService, the agents' sessions
 *
 * A session is one Sync stream. It is OPENED until its Hello, ASKING while the
 * store decides whether it may speak for the node, ACTIVE, ENDED. The registry
 * points to a node's session and to one only; a newer session of the same
 * instance takes the node over and the older ends with ABORTED.
 *
 * Reports are committed one after the other for each session: the difference
 * to the log is taken when a report's turn comes, and the log has the reports
 * before it by then. The parts of a full report are gathered; only its last
 * part (FULL_END) is committed and answered.
 *
 * A session object outlives its stream while the store still has a call with
 * its name (in_flight).
 */
#include "controller/node_service.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "controller/access.h"
#include "controller/mesh_service.h"
#include "controller/wire.h"

#define LOOPBACK_NET 127

int sessions_new(struct controller *c, struct sessions **ret_sessions)
{
	struct sessions *ss = calloc(1, sizeof(*ss));

	if (!ss)
		return -ENOMEM;
	ss->c = c;
	TAILQ_INIT(&ss->all);
	TAILQ_INIT(&ss->opened);
	TAILQ_INIT(&ss->by_sent);
	TAILQ_INIT(&ss->throttled);
	TAILQ_INIT(&ss->asides);
	*ret_sessions = ss;
	return 0;
}

void sessions_free(struct sessions *ss)
{
	free(ss);
}

size_t sessions_count(const struct sessions *ss)
{
	return ss->n;
}

struct session *sessions_first(struct sessions *ss)
{
	return TAILQ_FIRST(&ss->all);
}

static void session_free(struct session *s)
{
	reports_free(s);
	for (size_t i = 0; i < s->n_subs; i++)
		s->subs[i].segment->refs--;
	free(s->subs);
	free(s);
}

void session_was_sent(struct session *s)
{
	struct sessions *ss = s->c->sessions;

	if (s->state != SESSION_ACTIVE)
		return;
	s->sent_ms = controller_now_ms();
	TAILQ_REMOVE(&ss->by_sent, s, by_sent);
	TAILQ_INSERT_TAIL(&ss->by_sent, s, by_sent);
	aside_read_on(s->aside);
}

int session_send(struct session *s, const Mcmesh__V1__ControllerMessage *message)
{
	int r = s->call ? rpc_call_send(s->call, &message->base) : -EPIPE;

	if (r == 0)
		session_was_sent(s);
	return r;
}

void session_end(struct session *s, int status, const char *text)
{
	struct controller *c = s->c;

	if (s->state == SESSION_ENDED)
		return;
	if (s->state == SESSION_ACTIVE) {
		feed_leave(c->feed, s);
		TAILQ_REMOVE(&c->sessions->by_sent, s, by_sent);
	} else if (s->state == SESSION_OPENED) {
		TAILQ_REMOVE(&c->sessions->opened, s, by_sent);
	}
	s->state = SESSION_ENDED;
	aside_end(s->aside);
	reports_stop(s);
	if (s->node && s->node->session == s)
		registry_disconnect(c->registry, s->node);
	s->node = NULL;
	query_end_all(s, RPC_UNAVAILABLE, "the node's agent went away");
	if (s->call)
		rpc_call_finish(s->call, status, "%s", text);
	mesh_converge(c->mesh, s);
}

/* ---- Hello --------------------------------------------------------------------- */

/* RFC 1123 labels, joined by dots. */
bool node_name_is_valid(const char *name)
{
	size_t len = strlen(name);

	if (len == 0 || len >= LOG_NAME_MAX)
		return false;
	for (size_t i = 0; i < len; i++) {
		bool edge = i == 0 || i + 1 == len || name[i - 1] == '.' || name[i + 1] == '.';

		if (isalnum((unsigned char)name[i]) || (name[i] == '-' && !edge) ||
		    (name[i] == '.' && i && i + 1 < len && name[i - 1] != '.'))
			continue;
		return false;
	}
	return true;
}

static bool is_vtep(const struct addr *a)
{
	static const struct addr loopback6 = { .b[15] = 1 };

	if (addr_is_unspecified(a) || addr_is_multicast(a) || addr_is_null(a))
		return false;
	if (!addr_is_v4(a))
		return !addr_equal(a, &loopback6);
	return addr_to_be32(a) != UINT32_MAX && ntohl(addr_to_be32(a)) >> 24 != LOOPBACK_NET;
}

static int hello_fail(struct session *s, int status, const char *text)
{
	s->c->counters.refused_hellos++;
	session_end(s, status, text);
	return -EPROTO;
}

static int sub_order(const void *a, const void *b)
{
	uint32_t x = ((const struct sub *)a)->segment->id, y = ((const struct sub *)b)->segment->id;

	return (x > y) - (x < y);
}

/* Segment 0 and what it names, each once, in order. */
static int hello_subscribe(struct session *s, const Mcmesh__V1__Hello *h)
{
	if (h->n_segments > NODE_SEGMENTS_MAX)
		return hello_fail(s, RPC_INVALID_ARGUMENT, "too many segments in the Hello");
	s->subs = calloc(h->n_segments + 1, sizeof(*s->subs));
	if (!s->subs)
		return hello_fail(s, RPC_RESOURCE_EXHAUSTED, "the controller is out of memory");
	s->subs[0].segment = log_segment_get(s->c->log, 0);
	s->subs[0].segment->refs++;
	s->n_subs = 1;
	for (size_t i = 0; i < h->n_segments; i++) {
		const Mcmesh__V1__Subscription *q = h->segments[i];
		struct log_segment *segment;
		size_t j;

		if (q->segment > REPORT_SEGMENT_MAX)
			return hello_fail(s, RPC_INVALID_ARGUMENT,
					  "a segment is not a VNI (0 to 16777215)");
		/* All members instead would not be what its digests speak of. */
		if (q->mode != MCMESH__V1__SUBSCRIPTION__MODE__ALL || q->n_groups)
			return hello_fail(s, RPC_FAILED_PRECONDITION,
					  "this controller serves whole segments only: subscribe "
					  "with mode ALL and no groups");
		if (!access_segment(s->c, s->name, q->segment)) {
			s->c->counters.segments_refused++;
			log_warning("A segment is not this node's: see nodes in the configuration. "
				    "node=%s segment=%u",
				    s->name, q->segment);
			continue;
		}
		segment = log_segment_get(s->c->log, q->segment);
		if (!segment)
			return hello_fail(s, RPC_RESOURCE_EXHAUSTED,
					  "the mesh has too many segments");
		for (j = 0; j < s->n_subs && s->subs[j].segment != segment; j++)
			;
		s->subs[j].segment = segment;
		s->subs[j].sent = q->revision;
		if (j < s->n_subs)
			continue;
		segment->refs++;
		s->n_subs++;
	}
	for (size_t i = 0; i < s->n_subs; i++)
		s->subs[i].session = s;
	qsort(s->subs, s->n_subs, sizeof(*s->subs), sub_order);
	return 0;
}

static int hello_expect(struct session *s, const Mcmesh__V1__Hello *h)
{
	struct registry *r = s->c->registry;

	if (h->n_known_nodes > NODE_KNOWN_MAX)
		return hello_fail(s, RPC_INVALID_ARGUMENT, "too many known nodes in the Hello");
	/* A log that is complete waits for nobody. */
	for (size_t i = 0; i < h->n_known_nodes && registry_awaits(r); i++) {
		if (!node_name_is_valid(h->known_nodes[i]))
			return hello_fail(s, RPC_INVALID_ARGUMENT,
					  "a known node's name is not a host name");
		registry_expect(r, h->known_nodes[i]);
	}
	registry_expect(r, s->name);
	return 0;
}

static int hello_parse(struct session *s, const Mcmesh__V1__Hello *h)
{
	if (h->protocol_min > NODE_PROTOCOL || h->protocol_max < NODE_PROTOCOL)
		return hello_fail(s, RPC_FAILED_PRECONDITION,
				  "this controller speaks protocol version 1 only: use an agent "
				  "that does");
	if (!node_name_is_valid(h->node))
		return hello_fail(s, RPC_INVALID_ARGUMENT,
				  "the node's name must be a host name (RFC 1123) of at most 63 "
				  "characters");
	if (addr_from_wire(h->vtep.data, h->vtep.len, &s->vtep) < 0 || !is_vtep(&s->vtep))
		return hello_fail(s, RPC_INVALID_ARGUMENT,
				  "the VTEP must be a unicast IPv4 or IPv6 address at which "
				  "other nodes reach this one");
	if (h->instance.len != STORE_INSTANCE_LEN)
		return hello_fail(s, RPC_INVALID_ARGUMENT, "the instance id must have 16 bytes");
	if (h->epoch.len != 0 && h->epoch.len != EPOCH_LEN)
		return hello_fail(s, RPC_INVALID_ARGUMENT, "the epoch must have 16 bytes or none");
	strncpy(s->name, h->node, sizeof(s->name) - 1);
	strncpy(s->version, h->version, sizeof(s->version) - 1);
	memcpy(s->instance, h->instance.data, sizeof(s->instance));
	s->start_count = h->start_count;
	s->attempt = h->attempt;
	for (size_t i = 0; i < h->n_features; i++)
		s->acks_snapshots |= strcmp(h->features[i], "ack-snapshot") == 0;
	s->has_epoch = h->epoch.len == EPOCH_LEN;
	s->knows = s->has_epoch || h->n_known_nodes;
	if (s->has_epoch)
		memcpy(s->hello_epoch, h->epoch.data, EPOCH_LEN);
	return 0;
}

static void welcome(struct session *s)
{
	Mcmesh__V1__ControllerMessage m = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
	Mcmesh__V1__Welcome w = MCMESH__V1__WELCOME__INIT;
	char *features[] = { (char *)"aside" };
	struct controller *c = s->c;

	w.protocol = NODE_PROTOCOL;
	w.epoch.data = (uint8_t *)log_epoch(c->log);
	w.epoch.len = EPOCH_LEN;
	w.revision = log_revision(c->log);
	w.session = s->id;
	w.heartbeat_ms = c->config->heartbeat_ms;
	w.hold_ms = c->config->hold_ms;
	w.controller = c->config->name;
	w.features = features;
	w.n_features = ARRAY_SIZE(features);
	m.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_WELCOME;
	m.welcome = &w;
	session_send(s, &m);
}

void session_release(struct session *s)
{
	s->in_flight--;
	if (!s->call && !s->in_flight)
		session_free(s);
}

void session_store_failed(struct session *s)
{
	s->c->counters.store_errors++;
	session_end(s, RPC_UNAVAILABLE, STORE_FAILED);
}

static int vtep_in_use(struct session *s)
{
	s->c->counters.conflicts++;
	return hello_fail(s, RPC_ALREADY_EXISTS,
			  "another living node has this VTEP: give each node its own");
}

/* Another controller gave it to another node at the same moment. */
static void vtep_lost(struct session *s)
{
	struct log_row *row = log_find_live(s->c->log, LOG_NODE, 0, s->name, NULL, NULL);

	if (s->node)
		registry_set_vtep(s->c->registry, s->node, row ? &row->vtep : &ADDR_NULL);
	vtep_in_use(s);
}

static void node_committed(void *userdata, int result, uint64_t revision)
{
	struct session *s = userdata;

	if (result == -ESTALE)
		session_end(s, RPC_ABORTED, "a newer session of this node took over");
	else if (result == -EEXIST)
		vtep_lost(s);
	else if (result < 0)
		session_store_failed(s);
	session_release(s);
}

static void node_row_commit(struct session *s)
{
	struct log_row *row = log_find_live(s->c->log, LOG_NODE, 0, s->name, NULL, NULL);
	struct log_change change = { .kind = LOG_NODE, .node = s->name, .vtep = s->vtep };
	struct store_txn txn = {
		.node = s->name, .session = s->id, .changes = &change, .n_changes = 1
	};

	if (row && addr_equal(&row->vtep, &s->vtep) &&
	    store_has_vtep(s->c->store, s->name, &s->vtep))
		return;
	s->in_flight++;
	store_commit(s->c->store, &txn, node_committed, s);
}

/* The store gave the session: the node is this stream's now. */
static int session_take_node(struct session *s)
{
	struct registry *registry = s->c->registry;
	struct registry_node *node = registry_find(registry, s->name), *other;
	struct session *old;
	bool told_silent;

	other = registry_find_vtep(registry, &s->vtep, s->name);
	if (other && registry_is_alive(other))
		return vtep_in_use(s); /* it was faster, while the store decided */
	if (other)
		controller_expire(s->c, other);
	if (!node && registry_add(registry, s->name, controller_now_ms(), &node) < 0)
		return hello_fail(s, RPC_RESOURCE_EXHAUSTED, "the mesh has too many nodes");
	old = node->session;
	if (old) {
		s->c->counters.takeovers++;
		session_end(old, RPC_ABORTED, "a newer session of this node took over");
	}
	s->node = node;
	/* The watch may show the session before its answer comes, and the silence of
	 * before be told in its name. */
	told_silent = node->published && node->session_id == s->id;
	registry_set_vtep(registry, node, &s->vtep);
	bucket_fill(&node->sessions, s->c->limits.sessions_per_minute, 60000, controller_now_ms());
	bucket_spend(&node->sessions, s->c->limits.sessions_per_minute, 60000, 1);
	node->session_id = s->id;
	node->start_count = s->start_count;
	node->attempt = s->attempt;
	memcpy(node->instance, s->instance, sizeof(node->instance));
	memcpy(node->version, s->version, sizeof(node->version));
	registry_connect(registry, node, s, controller_now_ms());
	node->published = told_silent;
	registry_touch(registry, node);
	return 0;
}

/* The store gave the session, and its agent is gone: the node is silent, and
 * what an older session says is fenced. */
static void session_abandoned(struct session *s, uint64_t id)
{
	struct registry *registry = s->c->registry;
	struct registry_node *node = registry_find(registry, s->name);

	if (!node && registry_add(registry, s->name, controller_now_ms(), &node) < 0)
		return;
	if (node->session)
		session_end(node->session, RPC_ABORTED, "a newer session of this node took over");
	if (node->elsewhere)
		registry_elsewhere(registry, node, false, controller_now_ms());
	node->holder[0] = 0;
	node->session_id = id;
	node->published = false;
	registry_set_vtep(registry, node, &s->vtep);
	registry_touch(registry, node);
}

static void session_decided(void *userdata, int result, uint64_t id, uint64_t last_sequence)
{
	struct session *s = userdata;
	struct sessions *ss = s->c->sessions;

	if (s->state != SESSION_ASKING) {
		if (result == 0)
			session_abandoned(s, id);
		session_release(s);
		return;
	}
	if (result == -EEXIST) {
		s->c->counters.conflicts++;
		hello_fail(s, RPC_ALREADY_EXISTS,
			   "another agent with this node name is alive: give each node its own "
			   "name");
	} else if (result == -ESTALE) {
		hello_fail(s, RPC_ABORTED, "a newer session of this node took over");
	} else if (result < 0) {
		session_store_failed(s);
	} else {
		s->id = id;
		s->last_sequence = last_sequence;
		if (session_take_node(s) == 0) {
			s->state = SESSION_ACTIVE;
			s->c->counters.sessions++;
			TAILQ_INSERT_TAIL(&ss->by_sent, s, by_sent);
			welcome(s);
			feed_join(s->c->feed, s);
			node_row_commit(s);
			log_info("an agent connected node=%s peer=%s", s->name,
				 rpc_call_peer(s->call));
		}
	}
	session_release(s);
}

static int hello_access(struct session *s)
{
	char why[RPC_REFUSAL_MAX];
	int status = access_node(s->c, s->call, s->name, &s->vtep, why);

	if (status == RPC_OK)
		return 0;
	s->c->counters.hellos_denied++;
	log_warning("An agent was denied. peer=%s why=\"%s\"", rpc_call_peer(s->call), why);
	return hello_fail(s, status, why);
}

static int hello_conflict(struct session *s, bool *ret_alive)
{
	struct registry *registry = s->c->registry;
	struct registry_node *node = registry_find(registry, s->name), *other;

	other = registry_find_vtep(registry, &s->vtep, s->name);
	if (other && registry_is_alive(other))
		return vtep_in_use(s);
	if (!node && registry_count(registry) >= s->c->config->limits.agents)
		return hello_fail(s, RPC_RESOURCE_EXHAUSTED,
				  "the mesh has as many agents as limits.agents allows");
	/* Counted where a session is had: who is refused uses up nobody's. */
	if (node) {
		uint32_t rate = s->c->limits.sessions_per_minute;

		bucket_fill(&node->sessions, rate, 60000, controller_now_ms());
		if (node->sessions.tokens < 60000) {
			s->c->counters.sessions_throttled++;
			return hello_fail(s, RPC_RESOURCE_EXHAUSTED,
					  "the node has begun as many sessions as "
					  "limits.sessions_per_minute allows: wait");
		}
	}
	*ret_alive = node && registry_is_alive(node);
	return 0;
}

/* Of the same epoch, but this log never was where the agent is. */
static bool hello_is_ahead(const struct session *s)
{
	if (!s->has_epoch || memcmp(s->hello_epoch, log_epoch(s->c->log), EPOCH_LEN) != 0)
		return false;
	for (size_t i = 0; i < s->n_subs; i++) {
		if (s->subs[i].sent > log_revision(s->c->log))
			return true;
	}
	return false;
}

static void on_hello(struct session *s, const Mcmesh__V1__Hello *h)
{
	struct store_session request;
	bool alive;

	if (s->state != SESSION_OPENED) {
		session_end(s, RPC_INVALID_ARGUMENT, "a second Hello on one stream");
		return;
	}
	if (hello_parse(s, h) < 0 || hello_access(s) < 0 || hello_conflict(s, &alive) < 0 ||
	    hello_subscribe(s, h) < 0 || hello_expect(s, h) < 0)
		return;
	if (hello_is_ahead(s) && controller_renew(s->c, s->name) == 0)
		return;
	TAILQ_REMOVE(&s->c->sessions->opened, s, by_sent);
	s->state = SESSION_ASKING;
	request = (struct store_session){ .node = s->name,
					  .start_count = s->start_count,
					  .attempt = s->attempt,
					  .holder_alive = alive };
	memcpy(request.instance, s->instance, sizeof(request.instance));
	s->in_flight++;
	store_session(s->c->store, &request, session_decided, s);
}

/* ---- the stream ------------------------------------------------------------------ */

static void on_ack(struct session *s, const Mcmesh__V1__Ack *ack)
{
	for (size_t i = 0; i < ack->n_segments && i <= NODE_SEGMENTS_MAX; i++)
		feed_ack(s->c->feed, s, ack->segments[i]);
	mesh_converge(s->c->mesh, s);
}

static void on_active(struct session *s, const Mcmesh__V1__AgentMessage *m)
{
	registry_heard(s->c->registry, s->node, controller_now_ms());
	switch (m->message_case) {
	case MCMESH__V1__AGENT_MESSAGE__MESSAGE_REPORT:
		reports_take(s, m->report);
		break;
	case MCMESH__V1__AGENT_MESSAGE__MESSAGE_ACK:
		on_ack(s, m->ack);
		break;
	case MCMESH__V1__AGENT_MESSAGE__MESSAGE_ANSWER:
		query_answered(s, m->answer);
		break;
	case MCMESH__V1__AGENT_MESSAGE__MESSAGE_SENDING:
		feed_sending(s->c->feed, s, m->sending);
		break;
	default: /* heartbeats, what a newer agent says */
		break;
	}
}

void session_aside(struct session *s, const Mcmesh__V1__AgentMessage *m)
{
	/* Also the first thing that a process does which was stopped for long. */
	if (!store_is_serving(s->c->store, controller_now_ms()))
		session_end(s, RPC_UNAVAILABLE,
			    "this controller has lost its store: connect elsewhere");
	else if (m->message_case == MCMESH__V1__AGENT_MESSAGE__MESSAGE_ACK ||
		 m->message_case == MCMESH__V1__AGENT_MESSAGE__MESSAGE_HEARTBEAT)
		on_active(s, m);
}

static void sync_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__AgentMessage *m = (const Mcmesh__V1__AgentMessage *)message;
	struct session *s = rpc_call_userdata(call);

	if (s->state == SESSION_ENDED)
		return;
	/* Also the first thing that a process does which was stopped for long. */
	if (!store_is_serving(s->c->store, controller_now_ms()))
		session_end(s, RPC_UNAVAILABLE,
			    "this controller has lost its store: connect elsewhere");
	else if (!m)
		session_end(s, RPC_OK, "");
	else if (m->message_case == MCMESH__V1__AGENT_MESSAGE__MESSAGE_HELLO)
		on_hello(s, m->hello);
	else if (s->state == SESSION_ACTIVE)
		on_active(s, m);
	else
		session_end(s, RPC_INVALID_ARGUMENT, "the first message must be a Hello");
}

static void sync_drained(struct rpc_call *call)
{
	struct session *s = rpc_call_userdata(call);

	if (s->state == SESSION_ACTIVE)
		feed_drained(s->c->feed, s);
}

static void sync_close(struct rpc_call *call, int status, const char *text)
{
	struct session *s = rpc_call_userdata(call);
	struct sessions *ss = s->c->sessions;

	if (s->state == SESSION_ACTIVE)
		log_info("an agent went away node=%s", s->name);
	s->call = NULL;
	session_end(s, RPC_CANCELLED, "");
	TAILQ_REMOVE(&ss->all, s, all);
	ss->n--;
	if (!s->in_flight)
		session_free(s);
}

static void sync_open(struct rpc_call *call)
{
	struct controller *c = rpc_call_userdata(call);
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	s->c = c;
	s->call = call;
	TAILQ_INIT(&s->reports);
	TAILQ_INIT(&s->queries);
	TAILQ_INSERT_TAIL(&c->sessions->all, s, all);
	TAILQ_INSERT_TAIL(&c->sessions->opened, s, by_sent);
	s->sent_ms = controller_now_ms();
	c->sessions->n++;
	rpc_call_set_userdata(call, s);
	if (c->draining)
		session_end(s, RPC_UNAVAILABLE, "the controller is stopping: connect elsewhere");
	else if (c->sessions->n > 2 * (size_t)c->config->limits.agents)
		session_end(s, RPC_RESOURCE_EXHAUSTED, "the controller has too many streams");
}

const struct rpc_method node_service_methods[] = {
	{ "/mcmesh.v1.NodeService/Sync",
	  &mcmesh__v1__agent_message__descriptor,
	  &mcmesh__v1__controller_message__descriptor,
	  { sync_message, sync_drained, sync_close },
	  sync_open,
	  NULL },
	{ "/mcmesh.v1.NodeService/Aside",
	  &mcmesh__v1__agent_message__descriptor,
	  &mcmesh__v1__controller_message__descriptor,
	  { aside_message, NULL, aside_close },
	  aside_open,
	  NULL },
};
const size_t node_service_n_methods = ARRAY_SIZE(node_service_methods);

/* Streams are few enough to be held by who says nothing. */
static uint64_t opened_turn(struct sessions *ss, uint64_t now_ms)
{
	struct session *s;

	while ((s = TAILQ_FIRST(&ss->opened)) && now_ms >= s->sent_ms + NODE_HELLO_MS)
		hello_fail(s, RPC_DEADLINE_EXCEEDED, "the stream began without a Hello");
	return s ? s->sent_ms + NODE_HELLO_MS : CONTROLLER_NEVER;
}

uint64_t sessions_turn(struct sessions *ss, uint64_t now_ms)
{
	Mcmesh__V1__Heartbeat heartbeat = MCMESH__V1__HEARTBEAT__INIT;
	Mcmesh__V1__ControllerMessage m = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
	uint64_t next = CONTROLLER_NEVER, after_ms;
	struct session *s;

	m.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_HEARTBEAT;
	m.heartbeat = &heartbeat;
	while ((s = TAILQ_FIRST(&ss->by_sent)) &&
	       now_ms >= s->sent_ms + ss->c->config->heartbeat_ms) {
		/* A stream that takes nothing needs no heartbeats queued on top. */
		if (rpc_call_backlog(s->call) > FEED_BACKLOG_MAX)
			session_was_sent(s);
		else
			session_send(s, &m);
	}
	if (s)
		next = s->sent_ms + ss->c->config->heartbeat_ms;
	after_ms = reports_turn(ss, now_ms);
	next = after_ms < next ? after_ms : next;
	after_ms = opened_turn(ss, now_ms);
	next = after_ms < next ? after_ms : next;
	after_ms = asides_turn(ss, now_ms);
	return after_ms < next ? after_ms : next;
}

void sessions_drain(struct sessions *ss, const char *reason)
{
	Mcmesh__V1__Drain drain = MCMESH__V1__DRAIN__INIT;
	Mcmesh__V1__ControllerMessage m = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
	struct session *s, *next;

	drain.reason = (char *)reason;
	m.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_DRAIN;
	m.drain = &drain;
	for (s = TAILQ_FIRST(&ss->all); s; s = next) {
		next = TAILQ_NEXT(s, all);
		if (s->state == SESSION_ACTIVE)
			session_send(s, &m);
		session_end(s, RPC_UNAVAILABLE, reason);
	}
}
