/* SPDX-License-Identifier: Apache-2.0 */
/* What MeshService has to ask agents (ListRoutes, Verify) or wait for (WaitConverged). */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/mesh_internal.h"

/* The node's session; otherwise the call has failed with a sentence. */
static struct session *session_of(struct wait *w, const char *name)
{
	struct registry_node *node = registry_find(w->c->registry, name);

	if (!node) {
		wait_fail(w, RPC_NOT_FOUND,
			  "no agent ever announced this node: see mcmeshctl node list");
		return NULL;
	}
	if (!node->session)
		wait_fail(w, RPC_UNAVAILABLE,
			  "the node's agent is not connected: ask the agent itself on its socket");
	return node->session;
}

static int routes_add(struct wait *w, const Mcmesh__V1__Answer *part)
{
	Mcmesh__V1__ListRoutesResponse a = MCMESH__V1__LIST_ROUTES_RESPONSE__INIT;
	uint8_t *grown;
	size_t size;

	a.n_routes = part->n_routes;
	a.routes = part->routes;
	size = mcmesh__v1__list_routes_response__get_packed_size(&a);
	if (w->n_routes + size > MESH_ROUTES_MAX)
		return -E2BIG;
	grown = realloc(w->routes, w->n_routes + size + 1);
	if (!grown)
		return -ENOMEM;
	w->routes = grown;
	w->n_routes += mcmesh__v1__list_routes_response__pack(&a, w->routes + w->n_routes);
	return 0;
}

static void routes_done(void *userdata, int status, const char *text,
			const Mcmesh__V1__Answer *part)
{
	struct wait *w = userdata;
	Mcmesh__V1__ListRoutesResponse *a, answer;
	struct arena arena = ARENA_NULL;

	if (status != RPC_OK || !part->more)
		w->query = NULL;
	if (status != RPC_OK) {
		wait_fail(w, status, text);
		return;
	}
	if (routes_add(w, part) < 0) {
		wait_fail(w, RPC_RESOURCE_EXHAUSTED,
			  "the node has too many routes for one answer: name a segment or a group");
		return;
	}
	if (part->more)
		return;
	a = mcmesh__v1__list_routes_response__unpack(NULL, w->n_routes, w->routes);
	if (!a) {
		wait_fail(w, RPC_INTERNAL, "the agent's routes cannot be read");
		return;
	}
	answer = *a;
	answer.epoch = mesh_epoch_text(w->c, &arena);
	answer.revision = w->revision;
	wait_reply(w, &answer.base);
	mcmesh__v1__list_routes_response__free_unpacked(a, NULL);
	arena_reset(&arena);
}

void mesh_list_routes(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ListRoutesRequest *q = (const Mcmesh__V1__ListRoutesRequest *)message;
	Mcmesh__V1__Query query = MCMESH__V1__QUERY__INIT;
	Mcmesh__V1__RoutesQuery routes = MCMESH__V1__ROUTES_QUERY__INIT;
	struct wait *w = wait_of(call);
	struct session *s;
	struct addr group;

	if (!wait_is_request(w, message))
		return;
	if (q->group[0]) {
		if (wait_group(w, q->group, &group) < 0)
			return;
		routes.group.data = (uint8_t *)addr_to_wire(&group, &routes.group.len);
	}
	s = session_of(w, q->node);
	if (!s)
		return;
	routes.segment = q->segment;
	query.query_case = MCMESH__V1__QUERY__QUERY_ROUTES;
	query.routes = &routes;
	w->kind = WAIT_ROUTES;
	w->revision = session_applied(s);
	if (session_query(s, &query, routes_done, w, &w->query) < 0)
		wait_fail(w, RPC_RESOURCE_EXHAUSTED,
			  "too many questions wait for this node's agent");
}

/* ---- Verify ------------------------------------------------------------------------ */

static void verify_finish(struct wait *w)
{
	Mcmesh__V1__VerifyResponse a = MCMESH__V1__VERIFY_RESPONSE__INIT;
	struct arena arena = ARENA_NULL;

	a.nodes = arena_alloc(&arena, (w->n_nodes + 1) * sizeof(*a.nodes));
	for (size_t i = 0; i < w->n_nodes; i++) {
		Mcmesh__V1__VerifyResponse__Result *r = arena_alloc(&arena, sizeof(*r));

		mcmesh__v1__verify_response__result__init(r);
		r->name = w->nodes[i].name;
		r->ok = w->nodes[i].ok;
		r->detail = w->nodes[i].detail;
		a.nodes[a.n_nodes++] = r;
	}
	a.revision = w->revision;
	wait_reply(w, &a.base);
	arena_reset(&arena);
}

static const struct sub *sub_unverified(const struct session *s)
{
	for (size_t i = 0; i < s->n_subs; i++) {
		if (s->subs[i].mismatches)
			return &s->subs[i];
	}
	return NULL;
}

/* The agent's kernel agrees with the agent; does the agent agree with the log?
 * False: it has not acknowledged yet, ask again at its next ack. */
static bool verify_judge(struct wait *w, struct verified *v)
{
	struct registry_node *node = registry_find(w->c->registry, v->name);
	const struct sub *sub;

	if (!node || !node->session) {
		v->ok = false;
		snprintf(v->detail, sizeof(v->detail), "the agent went away");
		return true;
	}
	if (!session_has_applied(node->session, w->revision)) {
		if (controller_now_ms() < w->deadline_ms)
			return false;
		v->ok = false;
		snprintf(v->detail, sizeof(v->detail),
			 "the agent has acknowledged revision %" PRIu64 ", not %" PRIu64,
			 session_applied(node->session), w->revision);
		return true;
	}
	sub = sub_unverified(node->session);
	if (sub) {
		v->ok = false;
		snprintf(v->detail, sizeof(v->detail),
			 "the agent's rows of segment %u differ from the log's", sub->segment->id);
	}
	return true;
}

void verify_check(struct wait *w)
{
	struct registry_node *node;

	for (size_t i = 0; i < w->n_nodes; i++) {
		struct verified *v = &w->nodes[i];

		if (!v->answered) {
			w->holdout = v;
			return;
		}
		if (v->ok && !verify_judge(w, v)) {
			node = registry_find(w->c->registry, v->name);
			w->holdout = node->session;
			return;
		}
	}
	verify_finish(w);
}

static void verify_done(void *userdata, int status, const char *text,
			const Mcmesh__V1__Answer *part)
{
	struct verified *v = userdata;

	if (status == RPC_OK && part->more)
		return;
	v->query = NULL;
	v->answered = true;
	v->ok = status == RPC_OK && part->differences == 0;
	if (status != RPC_OK)
		snprintf(v->detail, sizeof(v->detail), "%s", text);
	else if (part->differences)
		snprintf(v->detail, sizeof(v->detail), "%" PRIu64 " entries of the maps differ: %s",
			 part->differences, part->detail);
	else
		snprintf(v->detail, sizeof(v->detail),
			 "the kernel's maps and the acknowledged rows are what revision %" PRIu64
			 " asks for",
			 v->wait->revision);
	mesh_converge(v->wait->c->mesh, v);
}

static void verify_ask(struct wait *w, const struct registry_node *node)
{
	Mcmesh__V1__Query query = MCMESH__V1__QUERY__INIT;
	Mcmesh__V1__VerifyQuery verify = MCMESH__V1__VERIFY_QUERY__INIT;
	struct verified *v = &w->nodes[w->n_nodes++];

	v->wait = w;
	memcpy(v->name, node->name, sizeof(v->name));
	query.query_case = MCMESH__V1__QUERY__QUERY_VERIFY;
	query.verify = &verify;
	if (!node->session)
		snprintf(v->detail, sizeof(v->detail), "the agent is not connected");
	else if (session_query(node->session, &query, verify_done, v, &v->query) < 0)
		snprintf(v->detail, sizeof(v->detail), "too many questions wait for the agent");
	else
		return;
	v->answered = true;
}

void mesh_verify(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__VerifyRequest *q = (const Mcmesh__V1__VerifyRequest *)message;
	struct wait *w = wait_of(call);
	struct registry_node *node;
	struct log_row *row;

	if (!wait_is_request(w, message))
		return;
	if (q->node[0] && !registry_find(w->c->registry, q->node)) {
		wait_fail(w, RPC_NOT_FOUND,
			  "no agent ever announced this node: see mcmeshctl node list");
		return;
	}
	w->kind = WAIT_VERIFY;
	w->revision = log_revision(w->c->log);
	w->deadline_ms = controller_now_ms() + NODE_QUERY_TIMEOUT_MS;
	w->nodes = calloc(registry_count(w->c->registry) + 1, sizeof(*w->nodes));
	if (!w->nodes) {
		wait_fail(w, RPC_RESOURCE_EXHAUSTED, "the controller is out of memory");
		return;
	}
	if (wait_pend(w) < 0)
		return;
	for (row = log_seek(w->c->log, LOG_NODE, 0, &ADDR_NULL, "", "");
	     row && row->key.kind == LOG_NODE; row = row->next[0]) {
		node = registry_find(w->c->registry, row->node->name);
		if (!row->deleted && node && (!q->node[0] || strcmp(q->node, node->name) == 0))
			verify_ask(w, node);
	}
}

/* ---- WaitConverged -------------------------------------------------------------------- */

void converged_check(struct wait *w)
{
	Mcmesh__V1__WaitConvergedResponse a = MCMESH__V1__WAIT_CONVERGED_RESPONSE__INIT;
	struct session *s;

	for (s = sessions_first(w->c->sessions); s; s = TAILQ_NEXT(s, all)) {
		if (s->state != SESSION_ACTIVE)
			continue;
		if (!session_has_applied(s, w->revision)) {
			w->holdout = s;
			return;
		}
		a.nodes++;
	}
	a.revision = log_revision(w->c->log);
	wait_reply(w, &a.base);
}

void mesh_wait_converged(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__WaitConvergedRequest *q =
		(const Mcmesh__V1__WaitConvergedRequest *)message;
	struct wait *w = wait_of(call);

	if (!wait_is_request(w, message))
		return;
	if (q->revision > log_revision(w->c->log)) {
		wait_fail(w, RPC_OUT_OF_RANGE, "the log has not reached this revision");
		return;
	}
	w->kind = WAIT_CONVERGED;
	w->revision = q->revision ? q->revision : log_revision(w->c->log);
	wait_pend(w);
}
