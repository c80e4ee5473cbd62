/* SPDX-License-Identifier: Apache-2.0 */
/* What MeshService has to ask agents (ListRoutes, Verify) or wait for (WaitConverged). */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/mesh_internal.h"

static struct registry_node *node_of(struct wait *w, const char *name)
{
	struct registry_node *node = registry_find(w->c->registry, name);

	if (!node)
		wait_fail(w, RPC_NOT_FOUND,
			  "no agent ever announced this node: see mcmeshctl node list");
	else if (!node->session && !node->elsewhere)
		wait_fail(w, RPC_UNAVAILABLE,
			  "the node's agent is not connected: ask the agent itself on its socket");
	else
		return node;
	return NULL;
}

/* What a controller that did not answer is told of. */
static void holder_why(const char *address, const char *text, char *ret_why, size_t size)
{
	snprintf(ret_why, size,
		 "the controller at %s, which has the node's agent, does not answer%s%s",
		 address[0] ? address : "an address that it does not tell (advertise)",
		 text[0] ? ": " : "", text);
}

static void routes_done(void *userdata, int status, const char *text,
			const Mcmesh__V1__Answer *part)
{
	struct wait *w = userdata;
	Mcmesh__V1__ListRoutesResponse *a, answer;
	struct arena arena = ARENA_NULL;
	int r;

	if (status != RPC_OK || !part->more)
		w->query = NULL;
	if (status != RPC_OK) {
		wait_fail(w, status, text);
		return;
	}
	r = route_page_add(&w->routes, part->routes, part->n_routes);
	if (r < 0) {
		wait_fail(w, RPC_RESOURCE_EXHAUSTED,
			  r == -EMSGSIZE ? "a route of the node is too large for one message"
					 : "the controller is out of memory");
		return;
	}
	if (part->more && !w->routes.next)
		return;
	a = mcmesh__v1__list_routes_response__unpack(NULL, w->routes.len, w->routes.bytes);
	if (!a) {
		wait_fail(w, RPC_INTERNAL, "the agent's routes cannot be read");
		return;
	}
	answer = *a;
	answer.epoch = mesh_epoch_text(w->c, &arena);
	answer.revision = w->revision;
	if (w->routes.next)
		answer.next_page_token = w->routes.next;
	wait_reply(w, &answer.base);
	mcmesh__v1__list_routes_response__free_unpacked(a, NULL);
	arena_reset(&arena);
}

static void routes_relayed(void *userdata, const char *address, int status, const char *text,
			   const ProtobufCMessage *answer)
{
	struct wait *w = userdata;
	char why[256];

	wait_answered(w);
	if (answer) {
		wait_reply(w, answer);
		return;
	}
	if (status == RPC_UNAVAILABLE || status == RPC_DEADLINE_EXCEEDED) {
		holder_why(address, text, why, sizeof(why));
		text = why;
	}
	wait_fail(w, status, text);
}

static void routes_relay(struct wait *w, const struct registry_node *node,
			 const Mcmesh__V1__ListRoutesRequest *q)
{
	Mcmesh__V1__ListRoutesRequest request = *q;
	char why[256];

	request.local = true;
	if (!q->local && node->holder[0] &&
	    wait_ask(w, node->holder, "ListRoutes", &request.base,
		     &mcmesh__v1__list_routes_response__descriptor, PEER_TIMEOUT_MS,
		     routes_relayed) == 0)
		return;
	holder_why(node->holder, "", why, sizeof(why));
	wait_fail(w, RPC_UNAVAILABLE, why);
}

void mesh_list_routes(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ListRoutesRequest *q = (const Mcmesh__V1__ListRoutesRequest *)message;
	Mcmesh__V1__Query query = MCMESH__V1__QUERY__INIT;
	Mcmesh__V1__RoutesQuery routes = MCMESH__V1__ROUTES_QUERY__INIT;
	struct wait *w = wait_of(call);
	struct registry_node *node;
	struct addr group;

	if (!wait_is_request(w, message))
		return;
	if (route_page_begin(&w->routes, q->page_size, q->page_token) < 0) {
		wait_fail(w, RPC_INVALID_ARGUMENT,
			  "the page token is not one of this list: start the list again");
		return;
	}
	if (q->group[0]) {
		if (wait_group(w, q->group, &group) < 0)
			return;
		routes.group.data = (uint8_t *)addr_to_wire(&group, &routes.group.len);
	}
	node = node_of(w, q->node);
	if (!node)
		return;
	w->kind = WAIT_ROUTES;
	if (!node->session) {
		routes_relay(w, node, q);
		return;
	}
	routes.segment = q->segment;
	query.query_case = MCMESH__V1__QUERY__QUERY_ROUTES;
	query.routes = &routes;
	w->revision = session_applied(node->session);
	if (session_query(node->session, &query, routes_done, w, &w->query) < 0)
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
		a.not_compared += w->nodes[i].absent;
	}
	a.not_compared += w->n_absent;
	a.epoch = mesh_epoch_text(w->c, &arena);
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

/* A node without a session keeps what it has, and has nobody to say what that is. */
static void verify_absent(struct verified *v)
{
	v->answered = v->ok = v->absent = true;
	snprintf(v->detail, sizeof(v->detail), "not connected: not compared");
}

/* The agent's kernel agrees with the agent; does the agent agree with the log?
 * False: it has not acknowledged yet, ask again at its next ack. */
static bool verify_judge(struct wait *w, struct verified *v)
{
	struct registry_node *node = registry_find(w->c->registry, v->name);
	const struct sub *sub;

	if (!node || !node->session) {
		verify_absent(v);
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
		if (v->ok && !v->absent && !v->holder[0] && !verify_judge(w, v)) {
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
	if (status == RPC_UNAVAILABLE) /* its session ended */
		verify_absent(v);
	else if (status != RPC_OK)
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
	if (node->elsewhere && node->holder[0]) {
		memcpy(v->holder, node->holder, sizeof(v->holder));
		return; /* verify_ask_others() */
	}
	if (!node->session && !node->elsewhere) {
		verify_absent(v);
		return;
	}
	if (!node->session)
		holder_why("", "", v->detail, sizeof(v->detail));
	else if (session_query(node->session, &query, verify_done, v, &v->query) < 0)
		snprintf(v->detail, sizeof(v->detail), "too many questions wait for the agent");
	else
		return;
	v->answered = true;
}

static const Mcmesh__V1__VerifyResponse__Result *result_of(const Mcmesh__V1__VerifyResponse *a,
							   const char *name)
{
	for (size_t i = 0; a && i < a->n_nodes; i++) {
		if (strcmp(a->nodes[i]->name, name) == 0)
			return a->nodes[i];
	}
	return NULL;
}

static void verify_others_done(struct wait *w, const char *address, const char *text,
			       const Mcmesh__V1__VerifyResponse *a)
{
	for (size_t i = 0; i < w->n_nodes; i++) {
		struct verified *v = &w->nodes[i];
		const Mcmesh__V1__VerifyResponse__Result *r = result_of(a, v->name);

		if (v->answered || strcmp(v->holder, address) != 0)
			continue;
		v->answered = true;
		v->ok = r && r->ok;
		if (r)
			snprintf(v->detail, sizeof(v->detail), "%s", r->detail);
		else if (a) /* it has left there */
			verify_absent(v);
		else
			holder_why(address, text, v->detail, sizeof(v->detail));
	}
	w->n_absent += a ? a->not_compared : 0;
	mesh_converge(w->c->mesh, w->holdout);
}

static void verify_answered(void *userdata, const char *address, int status, const char *text,
			    const ProtobufCMessage *answer)
{
	wait_answered(userdata);
	verify_others_done(userdata, address, text, (const Mcmesh__V1__VerifyResponse *)answer);
}

/* Each of the other controllers once, for all of its nodes. */
static void verify_ask_others(struct wait *w, const char *node)
{
	Mcmesh__V1__VerifyRequest request = MCMESH__V1__VERIFY_REQUEST__INIT;

	request.node = (char *)node;
	request.local = true;
	for (size_t i = 0; i < w->n_nodes; i++) {
		const char *holder = w->nodes[i].holder;
		bool asked = !holder[0];

		for (size_t j = 0; j < i && !asked; j++)
			asked = strcmp(w->nodes[j].holder, holder) == 0;
		if (!asked && wait_ask(w, holder, "Verify", &request.base,
				       &mcmesh__v1__verify_response__descriptor,
				       2 * PEER_TIMEOUT_MS, verify_answered) < 0)
			verify_others_done(w, holder, "too many controllers", NULL);
	}
}

void mesh_verify(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__VerifyRequest *q = (const Mcmesh__V1__VerifyRequest *)message;
	struct wait *w = wait_of(call);
	struct registry_node *node;
	struct log_row *row;

	if (!wait_is_request(w, message))
		return;
	if (q->node[0] && !q->local && !node_of(w, q->node))
		return;
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
		if (row->deleted || !node || (q->node[0] && strcmp(q->node, node->name) != 0))
			continue;
		if (node->session || !q->local)
			verify_ask(w, node);
	}
	verify_ask_others(w, q->node);
}

/* ---- WaitConverged -------------------------------------------------------------------- */

#define CONVERGED_LOOK_MS 20 /* while the log itself is not there yet */

void converged_check(struct wait *w)
{
	Mcmesh__V1__WaitConvergedResponse a = MCMESH__V1__WAIT_CONVERGED_RESPONSE__INIT;
	struct session *s;

	w->holdout = NULL;
	w->deadline_ms = CONTROLLER_NEVER;
	if (w->revision > log_revision(w->c->log) && w->revision > w->c->store->revision) {
		w->deadline_ms = controller_now_ms() + CONVERGED_LOOK_MS;
		return;
	}
	for (s = sessions_first(w->c->sessions); s; s = TAILQ_NEXT(s, all)) {
		if (s->state != SESSION_ACTIVE)
			continue;
		if (!session_has_applied(s, w->revision)) {
			w->holdout = s;
			return;
		}
		a.nodes++;
	}
	if (w->n_open)
		return;
	a.nodes += w->n_converged;
	a.revision = log_revision(w->c->log);
	wait_reply(w, &a.base);
}

static void converged_answered(void *userdata, const char *address, int status, const char *text,
			       const ProtobufCMessage *answer)
{
	struct wait *w = userdata;
	char why[256];

	wait_answered(w);
	if (answer) {
		w->n_converged += ((const Mcmesh__V1__WaitConvergedResponse *)answer)->nodes;
		mesh_converge(w->c->mesh, w->holdout);
		return;
	}
	snprintf(why, sizeof(why), "the controller at %s does not answer: %s", address, text);
	wait_fail(w, RPC_UNAVAILABLE, why);
}

void mesh_wait_converged(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__WaitConvergedRequest *q =
		(const Mcmesh__V1__WaitConvergedRequest *)message;
	Mcmesh__V1__WaitConvergedRequest local = MCMESH__V1__WAIT_CONVERGED_REQUEST__INIT;
	const char *const *others;
	struct wait *w = wait_of(call);

	if (!wait_is_request(w, message))
		return;
	/* Where there are several controllers, another one may have given it out. */
	if (q->revision > log_revision(w->c->log) && !store_is_shared(w->c->store)) {
		wait_fail(w, RPC_OUT_OF_RANGE, "the log has not reached this revision");
		return;
	}
	w->kind = WAIT_CONVERGED;
	w->revision = q->revision ? q->revision : log_revision(w->c->log);
	if (wait_pend(w) < 0 || q->local)
		return;
	local.revision = w->revision;
	local.local = true;
	for (others = store_controllers(w->c->store); *others; others++)
		wait_ask(w, *others, "WaitConverged", &local.base,
			 &mcmesh__v1__wait_converged_response__descriptor, 0, converged_answered);
}
