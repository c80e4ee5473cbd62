/* SPDX-License-Identifier: Apache-2.0 */
#include "harness.h"

struct rpc *rpc;
struct controller *c, *second;
struct controller_config *config;
struct rpc_channel *channel;
char target[32], ask_text[256];
int listen_ports[2];

void turn(void)
{
	uint64_t now = controller_now_ms(), next = controller_turn(c, now), its;

	if (second) {
		its = controller_turn(second, now);
		next = its < next ? its : next;
	}
	rpc_poll(rpc, next < now + 50 ? next : now + 50);
}

static void agent_changes(struct agent *a, Mcmesh__V1__Change **changes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (changes[i]->change_case == MCMESH__V1__CHANGE__CHANGE_CONFIG && a->on_config)
			a->on_config(changes[i]->config);
	}
}

static void agent_delta(struct agent *a, const Mcmesh__V1__Delta *d)
{
	agent_changes(a, d->changes, d->n_changes);
	if (d->segment == 0)
		a->revision0 = d->revision;
	if (d->segment != 1)
		return;
	a->deltas++;
	a->previous = d->previous;
	a->revision = d->revision;
	a->changes = d->n_changes;
}

static void agent_snapshot(struct agent *a, const Mcmesh__V1__Snapshot *s)
{
	agent_changes(a, s->rows, s->n_rows);
	if (s->segment < 2 && s->end)
		a->ended[s->segment] = s->id;
	if (s->segment == 0 && s->end)
		a->revision0 = s->revision;
	if (s->segment != 1)
		return;
	if (s->id != a->snapshot_id)
		a->chunks = 0, a->rows = 0;
	a->snapshot_id = s->id;
	a->chunks++;
	a->rows += s->n_rows;
	cr_assert(protobuf_c_message_get_packed_size(&s->base) <= 64 * 1024);
	if (!s->end)
		return;
	a->snapshots++;
	a->completes += s->complete;
	a->revision = s->revision;
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
		a->refused += (unsigned int)m->accepted->n_refused;
		break;
	case MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_DELTA:
		agent_delta(a, m->delta);
		break;
	case MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_SNAPSHOT:
		agent_snapshot(a, m->snapshot);
		break;
	case MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_QUERY:
		if (a->on_query)
			a->on_query(a, m->query);
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

void agent_send(struct agent *a, Mcmesh__V1__AgentMessage__MessageCase kind, void *part)
{
	Mcmesh__V1__AgentMessage m = MCMESH__V1__AGENT_MESSAGE__INIT;

	m.message_case = kind;
	m.hello = part;
	cr_assert_eq(rpc_call_send(a->call, &m.base), 0);
}

void agent_open(struct agent *a, const struct hello *q)
{
	static const struct rpc_call_ops ops = { agent_message, NULL, agent_close };
	Mcmesh__V1__Hello h = MCMESH__V1__HELLO__INIT;
	Mcmesh__V1__Subscription sub = MCMESH__V1__SUBSCRIPTION__INIT, *subs = &sub;
	uint8_t vtep[4] = { 203, 0, 113, q->vtep }, instance[16] = { q->instance };
	uint8_t vtep6[16] = { 0x20, 0x01, 0x0d, 0xb8, [15] = q->vtep };
	char *known = (char *)q->known, *features[] = { "ack-snapshot" };
	struct agent fresh = { .on_config = a->on_config, .on_query = a->on_query };

	*a = fresh;
	cr_assert_eq(
		rpc_channel_call(q->channel ? q->channel : channel, "/mcmesh.v1.NodeService/Sync",
				 &mcmesh__v1__controller_message__descriptor, &ops, 0, a, &a->call),
		0);
	h.protocol_min = q->protocol_min ? q->protocol_min : 1;
	h.protocol_max = q->protocol_max ? q->protocol_max : 1;
	h.node = (char *)q->node;
	h.vtep = q->v6 ? (ProtobufCBinaryData){ 16, vtep6 } : (ProtobufCBinaryData){ 4, vtep };
	h.instance = (ProtobufCBinaryData){ 16, instance };
	h.start_count = 1;
	h.attempt = q->attempt;
	if (q->epoch)
		h.epoch = (ProtobufCBinaryData){ EPOCH_LEN, (uint8_t *)q->epoch };
	sub.segment = 1;
	sub.revision = q->revision;
	sub.mode = q->groups ? MCMESH__V1__SUBSCRIPTION__MODE__GROUPS
			     : MCMESH__V1__SUBSCRIPTION__MODE__ALL;
	h.n_segments = 1;
	h.segments = &subs;
	h.n_features = q->nameless_acks ? 0 : 1;
	h.features = features;
	h.n_known_nodes = known ? 1 : 0;
	h.known_nodes = &known;
	agent_send(a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_HELLO, &h);
}

/* One row (group 239.1.1.last), or none when last is 0. */
void agent_report(struct agent *a, uint64_t sequence, bool full, uint8_t last)
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

void agent_ack(struct agent *a, const uint8_t digest[16])
{
	Mcmesh__V1__Ack ack = MCMESH__V1__ACK__INIT;
	Mcmesh__V1__SegmentAck s = MCMESH__V1__SEGMENT_ACK__INIT, *segments = &s;

	s.segment = 1;
	s.revision = a->revision;
	s.snapshot = a->ended[1];
	s.digest = (ProtobufCBinaryData){ 16, (uint8_t *)digest };
	ack.n_segments = 1;
	ack.segments = &segments;
	agent_send(a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_ACK, &ack);
}

static void controller_begin(void)
{
	struct rpc_channel_options options = { .target = target };
	char why[CONTROLLER_WHY_MAX];

	cr_assert_eq(controller_new(config, rpc, listen_ports, &c, why), 0, "%s", why);
	snprintf(target, sizeof(target), "127.0.0.1:%d", listen_ports[0]);
	cr_assert_eq(rpc_channel_new(rpc, &options, &channel), 0);
}

static void controller_end(void)
{
	controller_drain(c, "the test is over");
	UNTIL(c->stopped);
	rpc_channel_free(channel);
	controller_free(c);
}

void setup_with(void (*configure)(struct controller_config *))
{
	char why[CONFIG_WHY_MAX];

	cr_assert_eq(controller_config_load(NULL, &config, why), 0);
	cr_assert_eq(controller_config_set_listen(config, "127.0.0.1:0"), 0);
	cr_assert_eq(controller_config_set_store(config, "memory"), 0);
	/* No test lives so long: a slow machine makes nobody silent. */
	config->stale_ms = 600000;
	config->hold_ms = 2 * config->stale_ms;
	if (configure)
		configure(config);
	cr_assert_eq(rpc_new(&rpc), 0);
	controller_begin();
}

void restart(void)
{
	controller_end();
	controller_begin();
}

void setup(void)
{
	setup_with(NULL);
}

void teardown(void)
{
	controller_end();
	rpc_free(rpc);
	controller_config_free(config);
}

void two_agents(struct agent *a, struct agent *b)
{
	agent_open(a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	UNTIL(a->session && a->snapshots);
	agent_open(b, &(struct hello){ .node = "n2", .vtep = 2, .instance = 2 });
	UNTIL(b->session && b->snapshots);
	agent_report(a, 1, true, 0);
	agent_report(b, 1, true, 0);
	UNTIL(a->completes && b->completes);
}

void agent_report_many(struct agent *a, uint64_t sequence, bool full, uint32_t first, uint32_t n,
		       uint32_t n_sources)
{
	Mcmesh__V1__Report r = MCMESH__V1__REPORT__INIT;
	Mcmesh__V1__MemberChange *rows = calloc(n, sizeof(*rows)), **members;
	uint8_t(*groups)[4] = calloc(n, sizeof(*groups)), (*addrs)[4];
	ProtobufCBinaryData *sources = calloc(n_sources + 1, sizeof(*sources));

	members = calloc(n, sizeof(*members));
	addrs = calloc(n_sources + 1, sizeof(*addrs));
	for (uint32_t i = 0; i < n_sources; i++) {
		memcpy(addrs[i], (uint8_t[]){ 198, 18, (uint8_t)(i >> 8), (uint8_t)i }, 4);
		sources[i] = (ProtobufCBinaryData){ 4, addrs[i] };
	}
	for (uint32_t i = 0; i < n; i++) {
		uint32_t g = first + i;

		mcmesh__v1__member_change__init(members[i] = &rows[i]);
		memcpy(groups[i], (uint8_t[]){ 239, 2, (uint8_t)(g >> 8), (uint8_t)g }, 4);
		rows[i].segment = 1;
		rows[i].group = (ProtobufCBinaryData){ 4, groups[i] };
		rows[i].mode = n_sources ? MCMESH__V1__FILTER__MODE__INCLUDE
					 : MCMESH__V1__FILTER__MODE__EXCLUDE;
		rows[i].n_sources = n_sources;
		rows[i].sources = sources;
	}
	r.sequence = sequence;
	r.kind = full ? MCMESH__V1__REPORT__KIND__FULL_END : MCMESH__V1__REPORT__KIND__DELTA;
	r.n_members = n;
	r.members = members;
	agent_send(a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_REPORT, &r);
	free(rows);
	free(members);
	free(groups);
	free(addrs);
	free(sources);
	UNTIL(a->accepted == sequence || a->closed);
}

void agent_ack_right(struct agent *a)
{
	Mcmesh__V1__SegmentAck s[2] = { MCMESH__V1__SEGMENT_ACK__INIT,
					MCMESH__V1__SEGMENT_ACK__INIT };
	Mcmesh__V1__SegmentAck *segments[] = { &s[0], &s[1] };
	Mcmesh__V1__Ack ack = MCMESH__V1__ACK__INIT;
	uint8_t wire[2][16];

	for (uint32_t i = 0; i < 2; i++) {
		digest_to_wire(&log_segment_find(c->log, i)->digest, wire[i]);
		s[i].segment = i;
		s[i].snapshot = a->ended[i];
		s[i].revision = i ? a->revision : a->revision0;
		s[i].digest = (ProtobufCBinaryData){ 16, wire[i] };
	}
	ack.n_segments = 2;
	ack.segments = segments;
	agent_send(a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_ACK, &ack);
}

struct asked {
	const ProtobufCMessageDescriptor *type;
	ProtobufCMessage *answer;
	bool closed;
	int status;
};

static void ask_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	struct asked *q = rpc_call_userdata(call);
	size_t size;
	uint8_t *bytes;

	if (!message)
		return;
	/* The message lives only here. */
	size = protobuf_c_message_get_packed_size(message);
	bytes = malloc(size + 1);
	protobuf_c_message_pack(message, bytes);
	q->answer = protobuf_c_message_unpack(q->type, NULL, size, bytes);
	free(bytes);
}

static void ask_close(struct rpc_call *call, int status, const char *text)
{
	struct asked *q = rpc_call_userdata(call);

	q->closed = true;
	q->status = status;
	snprintf(ask_text, sizeof(ask_text), "%s", text);
}

int ask(const char *method, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response, ProtobufCMessage **ret_answer)
{
	static const struct rpc_call_ops ops = { ask_message, NULL, ask_close };
	struct asked q = { .type = response };
	struct rpc_call *call;
	char path[64];

	snprintf(path, sizeof(path), "/mcmesh.v1.MeshService/%s", method);
	cr_assert_eq(rpc_channel_call(channel, path, response, &ops, 0, &q, &call), 0);
	rpc_call_send(call, request);
	rpc_call_finish(call, 0, "%s", "");
	UNTIL(q.closed);
	cr_assert_eq(q.status == RPC_OK, q.answer != NULL);
	if (ret_answer)
		*ret_answer = q.answer;
	else if (q.answer)
		protobuf_c_message_free_unpacked(q.answer, NULL);
	return q.status;
}
