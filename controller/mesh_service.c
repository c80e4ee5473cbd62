/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: MeshService, the mesh for operators
 *
 * Lists walk the log's order of keys from a position and answer at once. What
 * needs an agent (ListRoutes, Verify) or time (WaitConverged) is a `wait`: an
 * object that lives until its call is over, whoever ends first.
 */
#include "controller/mesh_service.h"

#include <errno.h>
#include <inttypes.h>
#include <sodium/utils.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "controller/node_service.h"

enum wait_kind {
	WAIT_NONE,
	WAIT_ROUTES,
	WAIT_VERIFY,
	WAIT_CONVERGED,
	WAIT_COMMIT,
};

struct verified {
	struct wait *wait;
	char name[LOG_NAME_MAX];
	bool answered, ok;
	char detail[256];
};

struct wait {
	struct controller *c;
	struct rpc_call *call; /* NULL: the caller went */
	enum wait_kind kind;
	bool finished;
	unsigned int in_flight; /* store calls */
	uint64_t revision, deadline_ms;
	/* WAIT_ROUTES: the routes so far, serialised (parts of one message concatenate). */
	uint8_t *routes;
	size_t n_routes;
	/* WAIT_VERIFY */
	struct verified *nodes;
	size_t n_nodes, n_asked;
	TAILQ_ENTRY(wait) link;
};

struct mesh {
	struct controller *c;
	TAILQ_HEAD(, wait) waits;
	size_t n_waits;
	bool check;
};

int mesh_new(struct controller *c, struct mesh **ret_mesh)
{
	struct mesh *mesh = calloc(1, sizeof(*mesh));

	if (!mesh)
		return -ENOMEM;
	mesh->c = c;
	TAILQ_INIT(&mesh->waits);
	*ret_mesh = mesh;
	return 0;
}

void mesh_free(struct mesh *mesh)
{
	free(mesh);
}

void mesh_converge(struct mesh *mesh)
{
	if (mesh)
		mesh->check = true;
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

static struct wait *wait_of(struct rpc_call *call)
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
	c->mesh->n_waits++;
}

static void wait_forget_queries(struct wait *w)
{
	struct session *s;

	if (w->kind != WAIT_ROUTES && w->kind != WAIT_VERIFY)
		return;
	for (s = sessions_first(w->c->sessions); s; s = TAILQ_NEXT(s, all)) {
		session_query_forget(s, w);
		for (size_t i = 0; i < w->n_nodes; i++)
			session_query_forget(s, &w->nodes[i]);
	}
}

static void wait_free(struct wait *w)
{
	TAILQ_REMOVE(&w->c->mesh->waits, w, link);
	w->c->mesh->n_waits--;
	free(w->routes);
	free(w->nodes);
	free(w);
}

static void call_close(struct rpc_call *call, int status, const char *text)
{
	struct wait *w = wait_of(call);

	w->call = NULL;
	wait_forget_queries(w);
	w->finished = true;
	if (!w->in_flight)
		wait_free(w);
}

static void fail(struct wait *w, int status, const char *text)
{
	if (w->finished || !w->call)
		return;
	w->finished = true;
	rpc_call_finish(w->call, status, "%s", text);
}

static void reply(struct wait *w, const ProtobufCMessage *message)
{
	if (w->finished || !w->call)
		return;
	w->finished = true;
	rpc_call_send(w->call, message);
	rpc_call_finish(w->call, RPC_OK, "%s", "");
}

/* A NULL message is the half-close after the request. */
static bool is_request(struct wait *w, const ProtobufCMessage *message)
{
	return message && !w->finished && w->kind == WAIT_NONE;
}

static int group_parse(struct wait *w, const char *text, struct addr *ret_group)
{
	if (addr_parse(text, ret_group) == 0 && addr_is_multicast(ret_group))
		return 0;
	fail(w, RPC_INVALID_ARGUMENT, "the group is not a multicast address");
	return -EINVAL;
}

static int list_begin(struct wait *w, uint32_t size, const char *token, struct page *ret_page)
{
	if (page_parse(w->c->log, size, token, ret_page) == 0)
		return 0;
	fail(w, RPC_INVALID_ARGUMENT,
	     "the page token is not one of this controller's epoch: start the list again");
	return -EINVAL;
}

/* ---- lists ----------------------------------------------------------------------- */

static void list_nodes(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ListNodesRequest *q = (const Mcmesh__V1__ListNodesRequest *)message;
	Mcmesh__V1__ListNodesResponse a = MCMESH__V1__LIST_NODES_RESPONSE__INIT;
	struct wait *w = wait_of(call);
	struct arena arena = ARENA_NULL;
	struct registry_node *node;
	struct log_row *row;
	struct page page;

	if (!is_request(w, message) || list_begin(w, q->page_size, q->page_token, &page) < 0)
		return;
	a.nodes = arena_alloc(&arena, page.size * sizeof(*a.nodes));
	for (row = page_seek(w->c->log, &page, LOG_NODE, 0, NULL); row && row->key.kind == LOG_NODE;
	     row = row->next[0]) {
		node = registry_find(w->c->registry, row->node->name);
		if (row->deleted || !node)
			continue;
		if (a.n_nodes >= page.size) {
			a.next_page_token = page_token(w->c->log, &arena, &page, row);
			break;
		}
		a.nodes[a.n_nodes++] = mesh_node(w->c, &arena, node);
	}
	a.epoch = mesh_epoch_text(w->c, &arena);
	a.revision = page.revision;
	reply(w, &a.base);
	arena_reset(&arena);
}

struct member_filter {
	uint32_t segment;
	bool has_group;
	struct addr group;
	const char *node;
};

/* Where the walk can start: at the group when the segment is given too. */
static struct log_row *members_seek(struct controller *c, const struct page *page,
				    const struct member_filter *f)
{
	return page_seek(c->log, page, LOG_MEMBER, f->segment,
			 f->segment && f->has_group ? &f->group : NULL);
}

/* The walk has left what the filter can match. */
static bool members_end(const struct log_row *row, const struct member_filter *f)
{
	return row->key.kind != LOG_MEMBER || (f->segment && row->key.segment != f->segment) ||
	       (f->segment && f->has_group && addr_cmp(&row->key.group, &f->group) > 0);
}

static bool members_match(const struct log_row *row, const struct member_filter *f)
{
	return !row->deleted && (!f->has_group || addr_equal(&row->key.group, &f->group)) &&
	       (!f->node[0] || strcmp(row->node->name, f->node) == 0);
}

static void list_members(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ListMembersRequest *q = (const Mcmesh__V1__ListMembersRequest *)message;
	Mcmesh__V1__ListMembersResponse a = MCMESH__V1__LIST_MEMBERS_RESPONSE__INIT;
	struct wait *w = wait_of(call);
	struct member_filter f = { 0 };
	struct arena arena = ARENA_NULL;
	struct log_row *row;
	struct page page;
	size_t bytes = 0;

	if (!is_request(w, message) || list_begin(w, q->page_size, q->page_token, &page) < 0)
		return;
	f.segment = q->segment;
	f.node = q->node;
	f.has_group = q->group[0];
	if (f.has_group && group_parse(w, q->group, &f.group) < 0)
		return;
	a.members = arena_alloc(&arena, page.size * sizeof(*a.members));
	for (row = members_seek(w->c, &page, &f); row && !members_end(row, &f);
	     row = row->next[0]) {
		if (!members_match(row, &f))
			continue;
		if (a.n_members >= page.size || bytes > MESH_PAGE_BYTES) {
			a.next_page_token = page_token(w->c->log, &arena, &page, row);
			break;
		}
		a.members[a.n_members++] = wire_member(&arena, row);
		bytes += 128 + (size_t)row->filter.n_sources * ADDR_TEXT_MAX;
	}
	a.epoch = mesh_epoch_text(w->c, &arena);
	a.revision = page.revision;
	reply(w, &a.base);
	arena_reset(&arena);
}

static bool same_group(const struct log_row *a, const struct log_row *b)
{
	return a->key.kind == b->key.kind && a->key.segment == b->key.segment &&
	       addr_equal(&a->key.group, &b->key.group);
}

/* The rows from `row` on that are of its group; NULL when none of them lives. */
static Mcmesh__V1__Group *group_take(struct arena *arena, struct log_row *row,
				     struct log_row **ret_next)
{
	Mcmesh__V1__Group *g;
	struct log_row *r;
	size_t n = 0;

	for (r = row; r && same_group(r, row); r = r->next[0])
		n += !r->deleted;
	*ret_next = r;
	if (!n)
		return NULL;
	g = arena_alloc(arena, sizeof(*g));
	mcmesh__v1__group__init(g);
	g->segment = row->key.segment;
	g->group = wire_addr(arena, &row->key.group);
	g->nodes = arena_alloc(arena, n * sizeof(*g->nodes));
	for (r = row; r && same_group(r, row); r = r->next[0]) {
		if (!r->deleted)
			g->nodes[g->n_nodes++] = r->node->name;
	}
	return g;
}

static void list_groups(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ListGroupsRequest *q = (const Mcmesh__V1__ListGroupsRequest *)message;
	Mcmesh__V1__ListGroupsResponse a = MCMESH__V1__LIST_GROUPS_RESPONSE__INIT;
	struct wait *w = wait_of(call);
	struct member_filter f = { .node = "" };
	struct arena arena = ARENA_NULL;
	struct log_row *row, *next;
	Mcmesh__V1__Group *g;
	struct page page;
	size_t bytes = 0;

	if (!is_request(w, message) || list_begin(w, q->page_size, q->page_token, &page) < 0)
		return;
	f.segment = q->segment;
	f.has_group = q->group[0];
	if (f.has_group && group_parse(w, q->group, &f.group) < 0)
		return;
	a.groups = arena_alloc(&arena, page.size * sizeof(*a.groups));
	for (row = members_seek(w->c, &page, &f); row && !members_end(row, &f); row = next) {
		if (a.n_groups >= page.size || bytes > MESH_PAGE_BYTES) {
			a.next_page_token = page_token(w->c->log, &arena, &page, row);
			break;
		}
		g = group_take(&arena, row, &next);
		if (!g || (f.has_group && !addr_equal(&row->key.group, &f.group)))
			continue;
		a.groups[a.n_groups++] = g;
		bytes += 64 + g->n_nodes * 24;
	}
	a.epoch = mesh_epoch_text(w->c, &arena);
	a.revision = page.revision;
	reply(w, &a.base);
	arena_reset(&arena);
}

static void list_static(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ListStaticMembersRequest *q =
		(const Mcmesh__V1__ListStaticMembersRequest *)message;
	Mcmesh__V1__ListStaticMembersResponse a = MCMESH__V1__LIST_STATIC_MEMBERS_RESPONSE__INIT;
	struct wait *w = wait_of(call);
	struct arena arena = ARENA_NULL;
	struct log_row *row;
	struct page page;

	if (!is_request(w, message) || list_begin(w, q->page_size, q->page_token, &page) < 0)
		return;
	a.members = arena_alloc(&arena, page.size * sizeof(*a.members));
	for (row = page_seek(w->c->log, &page, LOG_STATIC, 0, NULL);
	     row && row->key.kind == LOG_STATIC; row = row->next[0]) {
		Mcmesh__V1__StaticMember *m;

		if (row->deleted || (q->node[0] && strcmp(q->node, row->node->name) != 0))
			continue;
		if (a.n_members >= page.size) {
			a.next_page_token = page_token(w->c->log, &arena, &page, row);
			break;
		}
		m = arena_alloc(&arena, sizeof(*m));
		mcmesh__v1__static_member__init(m);
		m->node = row->node->name;
		m->port = row->key.port;
		m->group = wire_addr(&arena, &row->key.group);
		m->mode = wire_mode(&row->filter);
		m->n_sources = row->filter.n_sources;
		m->sources = wire_sources(&arena, &row->filter);
		a.members[a.n_members++] = m;
	}
	a.epoch = mesh_epoch_text(w->c, &arena);
	a.revision = page.revision;
	reply(w, &a.base);
	arena_reset(&arena);
}

/* ---- questions to one node --------------------------------------------------------- */

/* The node's session; otherwise the call has failed with a sentence. */
static struct session *session_of(struct wait *w, const char *name)
{
	struct registry_node *node = registry_find(w->c->registry, name);

	if (!node) {
		fail(w, RPC_NOT_FOUND,
		     "no agent ever announced this node: see mcmeshctl node list");
		return NULL;
	}
	if (!node->session)
		fail(w, RPC_UNAVAILABLE,
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
	Mcmesh__V1__ListRoutesResponse *a;
	struct arena arena = ARENA_NULL;

	if (w->finished)
		return;
	if (status != RPC_OK) {
		fail(w, status, text);
		return;
	}
	if (routes_add(w, part) < 0) {
		fail(w, RPC_RESOURCE_EXHAUSTED,
		     "the node has too many routes for one answer: name a segment or a group");
		return;
	}
	if (part->more)
		return;
	a = mcmesh__v1__list_routes_response__unpack(NULL, w->n_routes, w->routes);
	if (!a) {
		fail(w, RPC_INTERNAL, "the agent's routes cannot be read");
		return;
	}
	reply(w,
	      &(Mcmesh__V1__ListRoutesResponse){
		      .base = a->base,
		      .n_routes = a->n_routes,
		      .routes = a->routes,
		      .epoch = mesh_epoch_text(w->c, &arena),
		      .revision = w->revision,
	      }
		       .base);
	mcmesh__v1__list_routes_response__free_unpacked(a, NULL);
	arena_reset(&arena);
}

static void list_routes(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ListRoutesRequest *q = (const Mcmesh__V1__ListRoutesRequest *)message;
	Mcmesh__V1__Query query = MCMESH__V1__QUERY__INIT;
	Mcmesh__V1__RoutesQuery routes = MCMESH__V1__ROUTES_QUERY__INIT;
	struct wait *w = wait_of(call);
	struct session *s;
	struct addr group;

	if (!is_request(w, message))
		return;
	if (q->group[0]) {
		if (group_parse(w, q->group, &group) < 0)
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
	if (session_query(s, &query, routes_done, w) < 0)
		fail(w, RPC_RESOURCE_EXHAUSTED, "too many questions wait for this node's agent");
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
	reply(w, &a.base);
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

static void verify_check(struct wait *w)
{
	size_t open = 0;

	for (size_t i = 0; i < w->n_nodes; i++) {
		struct verified *v = &w->nodes[i];

		if (!v->answered || (v->ok && !verify_judge(w, v)))
			open++;
	}
	if (!open)
		verify_finish(w);
}

static void verify_done(void *userdata, int status, const char *text,
			const Mcmesh__V1__Answer *part)
{
	struct verified *v = userdata;

	if (status == RPC_OK && part->more)
		return;
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
	mesh_converge(v->wait->c->mesh);
}

static void verify_ask(struct wait *w, const struct registry_node *node)
{
	Mcmesh__V1__Query query = MCMESH__V1__QUERY__INIT;
	Mcmesh__V1__VerifyQuery verify = MCMESH__V1__VERIFY_QUERY__INIT;
	struct verified *v = &w->nodes[w->n_nodes++];

	v->wait = w;
	strcpy(v->name, node->name);
	query.query_case = MCMESH__V1__QUERY__QUERY_VERIFY;
	query.verify = &verify;
	if (!node->session)
		snprintf(v->detail, sizeof(v->detail), "the agent is not connected");
	else if (session_query(node->session, &query, verify_done, v) < 0)
		snprintf(v->detail, sizeof(v->detail), "too many questions wait for the agent");
	else
		return;
	v->answered = true;
}

static void verify(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__VerifyRequest *q = (const Mcmesh__V1__VerifyRequest *)message;
	struct wait *w = wait_of(call);
	struct registry_node *node;
	struct log_row *row;

	if (!is_request(w, message))
		return;
	if (q->node[0] && !registry_find(w->c->registry, q->node)) {
		fail(w, RPC_NOT_FOUND,
		     "no agent ever announced this node: see mcmeshctl node list");
		return;
	}
	w->kind = WAIT_VERIFY;
	w->revision = log_revision(w->c->log);
	w->deadline_ms = controller_now_ms() + NODE_QUERY_TIMEOUT_MS;
	w->nodes = calloc(registry_count(w->c->registry) + 1, sizeof(*w->nodes));
	if (!w->nodes) {
		fail(w, RPC_RESOURCE_EXHAUSTED, "the controller is out of memory");
		return;
	}
	for (row = log_seek(w->c->log, LOG_NODE, 0, &ADDR_NULL, "", "");
	     row && row->key.kind == LOG_NODE; row = row->next[0]) {
		node = registry_find(w->c->registry, row->node->name);
		if (!row->deleted && node && (!q->node[0] || strcmp(q->node, node->name) == 0))
			verify_ask(w, node);
	}
	mesh_converge(w->c->mesh);
}

/* ---- WaitConverged -------------------------------------------------------------------- */

static void converged_check(struct wait *w)
{
	Mcmesh__V1__WaitConvergedResponse a = MCMESH__V1__WAIT_CONVERGED_RESPONSE__INIT;
	struct session *s;

	for (s = sessions_first(w->c->sessions); s; s = TAILQ_NEXT(s, all)) {
		if (s->state != SESSION_ACTIVE)
			continue;
		if (!session_has_applied(s, w->revision))
			return;
		a.nodes++;
	}
	a.revision = log_revision(w->c->log);
	reply(w, &a.base);
}

static void wait_converged(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__WaitConvergedRequest *q =
		(const Mcmesh__V1__WaitConvergedRequest *)message;
	struct wait *w = wait_of(call);

	if (!is_request(w, message))
		return;
	if (q->revision > log_revision(w->c->log)) {
		fail(w, RPC_OUT_OF_RANGE, "the log has not reached this revision");
		return;
	}
	if (w->c->mesh->n_waits > MESH_WAITERS_MAX) {
		fail(w, RPC_RESOURCE_EXHAUSTED, "too many calls wait: try again later");
		return;
	}
	w->kind = WAIT_CONVERGED;
	w->revision = q->revision ? q->revision : log_revision(w->c->log);
	mesh_converge(w->c->mesh);
}

/* ---- changes by operators ---------------------------------------------------------------- */

static void drain_node(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__DrainNodeRequest *q = (const Mcmesh__V1__DrainNodeRequest *)message;
	Mcmesh__V1__DrainNodeResponse a = MCMESH__V1__DRAIN_NODE_RESPONSE__INIT;
	struct wait *w = wait_of(call);
	struct registry_node *node;

	if (!is_request(w, message))
		return;
	node = registry_find(w->c->registry, q->node);
	if (!node) {
		fail(w, RPC_NOT_FOUND,
		     "no agent ever announced this node: see mcmeshctl node list");
		return;
	}
	registry_set_draining(w->c->registry, node, !q->cancel);
	a.revision = log_revision(w->c->log);
	reply(w, &a.base);
}

static void static_committed(void *userdata, int result, uint64_t revision)
{
	/* The two answers have the same fields. */
	Mcmesh__V1__AddStaticMemberResponse a = MCMESH__V1__ADD_STATIC_MEMBER_RESPONSE__INIT;
	struct wait *w = userdata;

	a.revision = revision;
	if (result < 0)
		fail(w, RPC_UNAVAILABLE, "the store failed: try again");
	else
		reply(w, &a.base);
	if (--w->in_flight == 0 && !w->call)
		wait_free(w);
}

static void static_commit(struct wait *w, const struct log_change *change)
{
	struct store_txn txn = { .node = change->node, .changes = change, .n_changes = 1 };

	w->kind = WAIT_COMMIT;
	w->in_flight++;
	store_commit(w->c->store, &txn, static_committed, w);
}

static int static_key(struct wait *w, const char *node, const char *port, const char *group,
		      struct log_change *ret_change)
{
	*ret_change = (struct log_change){ .kind = LOG_STATIC, .node = node, .port = port };
	if (group_parse(w, group, &ret_change->group) < 0)
		return -EINVAL;
	if (!node[0] || strlen(node) >= LOG_NAME_MAX || !port[0] || strlen(port) >= LOG_PORT_MAX) {
		fail(w, RPC_INVALID_ARGUMENT, "a static member needs a node and a port's name");
		return -EINVAL;
	}
	return 0;
}

static int static_filter(struct wait *w, const Mcmesh__V1__StaticMember *m, struct filter *ret)
{
	struct addr sources[REPORT_SOURCES_MAX];

	if (m->n_sources > REPORT_SOURCES_MAX) {
		fail(w, RPC_INVALID_ARGUMENT, "a member has at most 1024 sources");
		return -EINVAL;
	}
	for (size_t i = 0; i < m->n_sources; i++) {
		if (addr_parse(m->sources[i], &sources[i]) < 0 || addr_is_multicast(&sources[i]) ||
		    addr_is_unspecified(&sources[i])) {
			fail(w, RPC_INVALID_ARGUMENT, "a source is not a unicast address");
			return -EINVAL;
		}
	}
	if (m->mode == MCMESH__V1__FILTER__MODE__INCLUDE && !m->n_sources) {
		fail(w, RPC_INVALID_ARGUMENT,
		     "INCLUDE with no source asks for nothing: use EXCLUDE for every source");
		return -EINVAL;
	}
	return filter_init(
		ret, m->mode == MCMESH__V1__FILTER__MODE__EXCLUDE ? FILTER_EXCLUDE : FILTER_INCLUDE,
		sources, m->n_sources);
}

static void add_static(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__AddStaticMemberRequest *q =
		(const Mcmesh__V1__AddStaticMemberRequest *)message;
	struct wait *w = wait_of(call);
	struct log_change change;

	if (!is_request(w, message))
		return;
	if (!q->member) {
		fail(w, RPC_INVALID_ARGUMENT, "the request has no member");
		return;
	}
	if (static_key(w, q->member->node, q->member->port, q->member->group, &change) < 0 ||
	    static_filter(w, q->member, &change.filter) < 0)
		return;
	static_commit(w, &change);
	filter_deinit(&change.filter);
}

static void remove_static(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__RemoveStaticMemberRequest *q =
		(const Mcmesh__V1__RemoveStaticMemberRequest *)message;
	struct wait *w = wait_of(call);
	struct log_change change;

	if (!is_request(w, message) || static_key(w, q->node, q->port, q->group, &change) < 0)
		return;
	if (!log_find_live(w->c->log, LOG_STATIC, 0, q->node, &change.group, q->port)) {
		fail(w, RPC_NOT_FOUND, "there is no such static member");
		return;
	}
	change.deleted = true;
	static_commit(w, &change);
}

/* ---- the turn ------------------------------------------------------------------------------- */

uint64_t mesh_turn(struct mesh *mesh, uint64_t now_ms)
{
	uint64_t next = CONTROLLER_NEVER;
	struct wait *w;

	TAILQ_FOREACH(w, &mesh->waits, link)
	{
		if (w->finished || (!mesh->check && now_ms < w->deadline_ms))
			continue;
		if (w->kind == WAIT_VERIFY)
			verify_check(w);
		else if (w->kind == WAIT_CONVERGED)
			converged_check(w);
	}
	mesh->check = false;
	TAILQ_FOREACH(w, &mesh->waits, link)
	{
		if (!w->finished && w->deadline_ms < next)
			next = w->deadline_ms;
	}
	return next > now_ms ? next : now_ms + 1;
}

void mesh_drain(struct mesh *mesh, const char *reason)
{
	struct wait *w;

	TAILQ_FOREACH(w, &mesh->waits, link)
	fail(w, RPC_UNAVAILABLE, reason);
}

#define METHOD(name, request, response, fn)                                              \
	{                                                                                \
		"/mcmesh.v1.MeshService/" name, &mcmesh__v1__##request##__descriptor,    \
			&mcmesh__v1__##response##__descriptor, { fn, NULL, call_close }, \
			call_open, NULL                                                  \
	}

const struct rpc_method mesh_service_methods[] = {
	METHOD("ListNodes", list_nodes_request, list_nodes_response, list_nodes),
	METHOD("ListGroups", list_groups_request, list_groups_response, list_groups),
	METHOD("ListMembers", list_members_request, list_members_response, list_members),
	METHOD("ListRoutes", list_routes_request, list_routes_response, list_routes),
	METHOD("Verify", verify_request, verify_response, verify),
	METHOD("DrainNode", drain_node_request, drain_node_response, drain_node),
	METHOD("AddStaticMember", add_static_member_request, add_static_member_response,
	       add_static),
	METHOD("RemoveStaticMember", remove_static_member_request, remove_static_member_response,
	       remove_static),
	METHOD("ListStaticMembers", list_static_members_request, list_static_members_response,
	       list_static),
	METHOD("WaitConverged", wait_converged_request, wait_converged_response, wait_converged),
	{ "/mcmesh.v1.MeshService/Watch",
	  &mcmesh__v1__watch_request__descriptor,
	  &mcmesh__v1__watch_response__descriptor,
	  { watch_message, watch_drained, watch_close },
	  watch_open,
	  NULL },
};
const size_t mesh_service_n_methods = ARRAY_SIZE(mesh_service_methods);
