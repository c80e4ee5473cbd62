/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: MeshService, the mesh for operators
 *
 * Each call but Watch is a `wait`: an object that lives until its call is over,
 * whoever ends first. Lists (mesh_lists.c) walk the log's order of keys from a
 * position and answer at once; changes (mesh_changes.c) wait for the store;
 * questions (mesh_questions.c) wait for agents. A pending wait knows whom it
 * waits for (the holdout), so that an acknowledgement of another agent costs it
 * nothing.
 */
#include "controller/mesh_service.h"

#include <errno.h>
#include <sodium/utils.h>
#include <stdio.h>
#include <stdlib.h>

#include "controller/mesh_internal.h"

int mesh_new(struct controller *c, struct mesh **ret_mesh)
{
	struct mesh *mesh = calloc(1, sizeof(*mesh));

	if (!mesh)
		return -ENOMEM;
	mesh->c = c;
	TAILQ_INIT(&mesh->waits);
	TAILQ_INIT(&mesh->pending);
	*ret_mesh = mesh;
	return 0;
}

void mesh_free(struct mesh *mesh)
{
	free(mesh);
}

void mesh_converge(struct mesh *mesh, const void *who)
{
	struct wait *w;

	if (!mesh)
		return;
	TAILQ_FOREACH(w, &mesh->pending, by_pending)
	{
		if (!w->holdout || w->holdout == who)
			w->look = true;
	}
}

char *mesh_epoch_text(struct controller *c, struct arena *arena)
{
	char *text = arena_alloc(arena, 2 * EPOCH_LEN + 1);

	return sodium_bin2hex(text, 2 * EPOCH_LEN + 1, log_epoch(c->log), EPOCH_LEN);
}

Mcmesh__V1__Node *mesh_node(struct controller *c, struct arena *arena,
			    const struct registry_node *node)
{
	Mcmesh__V1__Node *n = arena_alloc(arena, sizeof(*n));
	struct log_node *log_node = log_node_find(c->log, node->name);
	uint64_t now_ms = controller_now_ms();

	mcmesh__v1__node__init(n);
	n->name = (char *)node->name;
	n->address = wire_addr(arena, &node->vtep);
	n->state = node->draining		       ? MCMESH__V1__NODE__STATE__DRAINING
		   : node->state == REGISTRY_CONNECTED ? MCMESH__V1__NODE__STATE__CONNECTED
						       : MCMESH__V1__NODE__STATE__STALE;
	n->applied_revision = node->session ? session_applied(node->session) : 0;
	n->member_count = log_node ? log_node->n_members : 0;
	n->silent_ms = now_ms > node->heard_ms ? now_ms - node->heard_ms : 0;
	n->version = (char *)node->version;
	return n;
}

/* ---- calls --------------------------------------------------------------------- */

struct wait *wait_of(struct rpc_call *call)
{
	return rpc_call_userdata(call);
}

static void call_open(struct rpc_call *call)
{
	struct controller *c = rpc_call_userdata(call);
	struct wait *w = calloc(1, sizeof(*w));

	if (!w)
		abort();
	w->c = c;
	w->call = call;
	w->deadline_ms = CONTROLLER_NEVER;
	rpc_call_set_userdata(call, w);
	TAILQ_INSERT_TAIL(&c->mesh->waits, w, link);
	if (++c->mesh->n_waits > MESH_CALLS_MAX)
		wait_fail(w, RPC_RESOURCE_EXHAUSTED, "too many calls are open: try again later");
}

void wait_free(struct wait *w)
{
	TAILQ_REMOVE(&w->c->mesh->waits, w, link);
	w->c->mesh->n_waits--;
	for (size_t i = 0; i < w->n_lists; i++)
		mcmesh__v1__list_nodes_response__free_unpacked(w->lists[i], NULL);
	route_page_deinit(&w->routes);
	free(w->nodes);
	free(w);
}

int wait_ask(struct wait *w, const char *address, const char *method,
	     const ProtobufCMessage *request, const ProtobufCMessageDescriptor *response,
	     uint64_t timeout_ms, question_done *done)
{
	int r;

	if (w->n_questions >= PEERS_MAX)
		return -E2BIG;
	r = peers_ask(w->c->peers, address, method, request, response, timeout_ms, done, w,
		      &w->questions[w->n_questions]);
	if (r < 0)
		return r;
	w->n_questions++;
	w->n_open++;
	return 0;
}

void wait_answered(struct wait *w)
{
	w->n_open--;
}

static void wait_finish(struct wait *w)
{
	w->finished = true;
	query_cancel(TAKE_PTR(w->query));
	for (size_t i = 0; i < w->n_questions; i++)
		question_cancel(TAKE_PTR(w->questions[i]));
	for (size_t i = 0; i < w->n_nodes; i++)
		query_cancel(TAKE_PTR(w->nodes[i].query));
	if (!w->pending)
		return;
	w->pending = false;
	w->c->mesh->n_pending--;
	TAILQ_REMOVE(&w->c->mesh->pending, w, by_pending);
}

static void call_close(struct rpc_call *call, int status, const char *text)
{
	struct wait *w = wait_of(call);

	w->call = NULL;
	wait_finish(w);
	if (!w->in_flight)
		wait_free(w);
}

void wait_fail(struct wait *w, int status, const char *text)
{
	if (w->finished)
		return;
	wait_finish(w);
	rpc_call_finish(w->call, status, "%s", text);
}

void wait_reply(struct wait *w, const ProtobufCMessage *message)
{
	int r;

	if (w->finished)
		return;
	wait_finish(w);
	r = rpc_call_send(w->call, message);
	if (r == -EMSGSIZE)
		rpc_call_finish(w->call, RPC_RESOURCE_EXHAUSTED,
				"the answer is too large for one message: ask for less");
	else if (r < 0)
		rpc_call_finish(w->call, RPC_RESOURCE_EXHAUSTED, "the controller is out of memory");
	else
		rpc_call_finish(w->call, RPC_OK, "%s", "");
}

int wait_pend(struct wait *w)
{
	struct mesh *mesh = w->c->mesh;

	if (mesh->n_pending >= MESH_WAITERS_MAX) {
		wait_fail(w, RPC_RESOURCE_EXHAUSTED, "too many calls wait: try again later");
		return -EBUSY;
	}
	TAILQ_INSERT_TAIL(&mesh->pending, w, by_pending);
	mesh->n_pending++;
	w->pending = w->look = true;
	return 0;
}

bool wait_is_request(struct wait *w, const ProtobufCMessage *message)
{
	return message && !w->finished && w->kind == WAIT_NONE;
}

int mesh_group_parse(const char *text, struct addr *ret_group, char ret_why[MESH_WHY_MAX])
{
	if (addr_parse(text, ret_group) == 0 && addr_is_multicast(ret_group))
		return 0;
	snprintf(ret_why, MESH_WHY_MAX,
		 "group \"%.64s\" is not a multicast address (224.0.0.0/4 or ff00::/8)", text);
	return -EINVAL;
}

int wait_group(struct wait *w, const char *text, struct addr *ret_group)
{
	char why[MESH_WHY_MAX];
	int r = mesh_group_parse(text, ret_group, why);

	if (r < 0)
		wait_fail(w, RPC_INVALID_ARGUMENT, why);
	return r;
}

/* ---- the turn -------------------------------------------------------------------- */

static void pending_look(struct mesh *mesh, uint64_t now_ms)
{
	struct wait *w, *next;

	for (w = TAILQ_FIRST(&mesh->pending); w; w = next) {
		next = TAILQ_NEXT(w, by_pending);
		if (!w->look && now_ms < w->deadline_ms)
			continue;
		w->look = false;
		if (w->kind == WAIT_VERIFY)
			verify_check(w);
		else
			converged_check(w);
	}
}

uint64_t mesh_turn(struct mesh *mesh, uint64_t now_ms)
{
	uint64_t next = CONTROLLER_NEVER;
	struct wait *w;

	pending_look(mesh, now_ms);
	TAILQ_FOREACH(w, &mesh->pending, by_pending)
	{
		if (w->deadline_ms < next)
			next = w->deadline_ms;
	}
	return next > now_ms ? next : now_ms + 1;
}

void mesh_drain(struct mesh *mesh, const char *reason)
{
	struct wait *w;

	TAILQ_FOREACH(w, &mesh->waits, link)
	{
		wait_fail(w, RPC_UNAVAILABLE, reason);
	}
}

#define METHOD(name, request, response, fn)                                              \
	{                                                                                \
		"/mcmesh.v1.MeshService/" name, &mcmesh__v1__##request##__descriptor,    \
			&mcmesh__v1__##response##__descriptor, { fn, NULL, call_close }, \
			call_open, NULL                                                  \
	}

const struct rpc_method mesh_service_methods[] = {
	METHOD("ListNodes", list_nodes_request, list_nodes_response, mesh_list_nodes),
	METHOD("ListGroups", list_groups_request, list_groups_response, mesh_list_groups),
	METHOD("ListMembers", list_members_request, list_members_response, mesh_list_members),
	METHOD("ListRoutes", list_routes_request, list_routes_response, mesh_list_routes),
	METHOD("Verify", verify_request, verify_response, mesh_verify),
	METHOD("DrainNode", drain_node_request, drain_node_response, mesh_drain_node),
	METHOD("AddStaticMember", add_static_member_request, add_static_member_response,
	       mesh_add_static),
	METHOD("RemoveStaticMember", remove_static_member_request, remove_static_member_response,
	       mesh_remove_static),
	METHOD("ListStaticMembers", list_static_members_request, list_static_members_response,
	       mesh_list_static),
	METHOD("WaitConverged", wait_converged_request, wait_converged_response,
	       mesh_wait_converged),
	{ "/mcmesh.v1.MeshService/Watch",
	  &mcmesh__v1__watch_request__descriptor,
	  &mcmesh__v1__watch_response__descriptor,
	  { watch_message, watch_drained, watch_close },
	  watch_open,
	  NULL },
};
const size_t mesh_service_n_methods = ARRAY_SIZE(mesh_service_methods);
