/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: what agents say aside
 *
 * To take a message of a stream is to tell the peer that it may send more: a system
 * call here and a wake-up there for each, unless something else is sent on the
 * connection anyway. Acknowledgements are as many as deltas, so an agent sends them,
 * and its heartbeats, on a second stream (Aside), which is not read on after a message
 * until the session is sent something; what is said on the Sync stream (reports,
 * answers) is read at once as ever.
 *
 * While the session owes an acknowledgement of what it was sent, it is read on at once.
 * So each one is taken as soon as it comes; what waits, for heartbeat_ms at most, are
 * heartbeats. One message in ASIDE_EVERY is read on in any case, so that an agent that
 * says a little more than it is told leaves no backlog.
 *
 * The stream begins with an Attach, which names the session. It may end alone: the
 * agent goes on in Sync.
 */
#include <stdlib.h>

#include "controller/access.h"
#include "controller/node_service.h"

#define ASIDE_EVERY 16

struct aside {
	struct controller *c;
	struct rpc_call *call;
	struct session *s; /* NULL: not attached yet, or its session has ended */
	bool attached;
	unsigned int n_messages;
	uint64_t opened_ms;
	TAILQ_ENTRY(aside) link; /* while not attached */
};

static void attach(struct aside *a, const Mcmesh__V1__Attach *attach)
{
	struct registry_node *node = registry_find(a->c->registry, attach->node);
	struct session *s = node ? node->session : NULL;
	char why[RPC_REFUSAL_MAX];
	int status;

	if (!s || s->id != attach->session || s->state != SESSION_ACTIVE || s->aside) {
		rpc_call_finish(a->call, RPC_FAILED_PRECONDITION,
				"the node has no such session here: send a Hello on Sync first");
		return;
	}
	status = access_node(a->c, a->call, s->name, &s->vtep, why);
	if (status != RPC_OK) {
		a->c->counters.hellos_denied++;
		rpc_call_finish(a->call, status, "%s", why);
		return;
	}
	TAILQ_REMOVE(&a->c->sessions->asides, a, link);
	a->attached = true;
	a->s = s;
	s->aside = a;
}

void aside_read_on(struct aside *a)
{
	if (a)
		rpc_call_read_on(a->call);
}

void aside_end(struct aside *a)
{
	if (!a)
		return;
	a->s->aside = NULL;
	a->s = NULL;
	rpc_call_finish(a->call, RPC_OK, "the session has ended");
}

uint64_t asides_turn(struct sessions *ss, uint64_t now_ms)
{
	struct aside *a, *next;

	for (a = TAILQ_FIRST(&ss->asides); a; a = next) {
		next = TAILQ_NEXT(a, link);
		if (now_ms < a->opened_ms + NODE_HELLO_MS)
			return a->opened_ms + NODE_HELLO_MS;
		rpc_call_finish(a->call, RPC_DEADLINE_EXCEEDED,
				"the stream began without an Attach");
	}
	return CONTROLLER_NEVER;
}

void aside_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__AgentMessage *m = (const Mcmesh__V1__AgentMessage *)message;
	struct aside *a = rpc_call_userdata(call);

	if (!m) {
		rpc_call_finish(call, RPC_OK, "%s", "");
	} else if (m->message_case == MCMESH__V1__AGENT_MESSAGE__MESSAGE_ATTACH && !a->attached) {
		attach(a, m->attach);
	} else if (!a->attached) {
		rpc_call_finish(call, RPC_INVALID_ARGUMENT, "the first message must be an Attach");
	} else if (a->s) {
		session_aside(a->s, m);
		if (a->s && !session_owes(a->s) && ++a->n_messages % ASIDE_EVERY)
			rpc_call_hold(call);
	}
}

void aside_close(struct rpc_call *call, int status, const char *text)
{
	struct aside *a = rpc_call_userdata(call);

	if (a->s)
		a->s->aside = NULL;
	if (!a->attached)
		TAILQ_REMOVE(&a->c->sessions->asides, a, link);
	a->c->sessions->n_asides--;
	free(a);
}

void aside_open(struct rpc_call *call)
{
	struct controller *c = rpc_call_userdata(call);
	struct aside *a = calloc(1, sizeof(*a));

	if (!a)
		abort();
	a->c = c;
	a->call = call;
	a->opened_ms = controller_now_ms();
	TAILQ_INSERT_TAIL(&c->sessions->asides, a, link);
	c->sessions->n_asides++;
	rpc_call_set_userdata(call, a);
	if (c->draining)
		rpc_call_finish(call, RPC_UNAVAILABLE, "the controller is stopping");
	else if (c->sessions->n_asides > 2 * (size_t)c->config->limits.agents)
		rpc_call_finish(call, RPC_RESOURCE_EXHAUSTED,
				"the controller has too many streams");
}
