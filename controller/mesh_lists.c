/* SPDX-License-Identifier: Apache-2.0 */
/* The lists of MeshService: walks over the log in the order of its keys. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "controller/mesh_internal.h"

static int list_begin(struct wait *w, enum log_kind kind, uint32_t size, const char *token,
		      struct page *ret_page)
{
	if (page_parse(w->c->log, kind, size, token, ret_page) == 0)
		return 0;
	wait_fail(w, RPC_INVALID_ARGUMENT,
		  "the page token is not one of this list and epoch: start the list again");
	return -EINVAL;
}

static int by_name(const void *name, const void *node)
{
	return strcmp(name, (*(Mcmesh__V1__Node *const *)node)->name);
}

/* What only the controller knows that has the node's session. */
static void node_complete(const struct wait *w, Mcmesh__V1__Node *n)
{
	for (size_t i = 0; i < w->n_lists; i++) {
		const Mcmesh__V1__ListNodesResponse *list = w->lists[i];
		Mcmesh__V1__Node **found = NULL;

		if (list->n_nodes)
			found = bsearch(n->name, list->nodes, list->n_nodes, sizeof(*list->nodes),
					by_name);
		if (!found)
			continue;
		n->applied_revision = (*found)->applied_revision;
		n->silent_ms = (*found)->silent_ms;
		n->version = (*found)->version;
	}
}

static void nodes_reply(struct wait *w, bool local)
{
	Mcmesh__V1__ListNodesResponse a = MCMESH__V1__LIST_NODES_RESPONSE__INIT;
	struct arena arena = ARENA_NULL;
	struct registry_node *node;
	struct log_row *row;

	a.nodes = arena_alloc(&arena, w->page.size * sizeof(*a.nodes));
	for (row = page_seek(w->c->log, &w->page, LOG_NODE, 0, NULL);
	     row && row->key.kind == LOG_NODE; row = row->next[0]) {
		node = registry_find(w->c->registry, row->node->name);
		if (row->deleted || !node || (local && !node->session))
			continue;
		if (a.n_nodes >= w->page.size) {
			a.next_page_token = page_token(w->c->log, &arena, &w->page, row);
			break;
		}
		a.nodes[a.n_nodes] = mesh_node(w->c, &arena, node);
		if (node->elsewhere)
			node_complete(w, a.nodes[a.n_nodes]);
		a.n_nodes++;
	}
	a.epoch = mesh_epoch_text(w->c, &arena);
	a.revision = w->page.revision;
	wait_reply(w, &a.base);
	arena_reset(&arena);
}

/* A controller that does not answer leaves its nodes without what it knows. */
static void nodes_answered(void *userdata, const char *address, int status, const char *text,
			   const ProtobufCMessage *answer)
{
	struct wait *w = userdata;
	size_t len = answer ? protobuf_c_message_get_packed_size(answer) : 0;
	uint8_t *bytes = answer ? malloc(len + 1) : NULL;

	wait_answered(w);
	if (bytes) {
		/* The message lives only here. */
		protobuf_c_message_pack(answer, bytes);
		w->lists[w->n_lists] = mcmesh__v1__list_nodes_response__unpack(NULL, len, bytes);
		w->n_lists += w->lists[w->n_lists] != NULL;
		free(bytes);
	}
	if (!w->n_open)
		nodes_reply(w, false);
}

void mesh_list_nodes(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ListNodesRequest *q = (const Mcmesh__V1__ListNodesRequest *)message;
	const char *const *others;
	Mcmesh__V1__ListNodesRequest local = MCMESH__V1__LIST_NODES_REQUEST__INIT;
	struct wait *w = wait_of(call);

	if (!wait_is_request(w, message) ||
	    list_begin(w, LOG_NODE, q->page_size, q->page_token, &w->page) < 0)
		return;
	w->kind = WAIT_NODES;
	local.local = true;
	if (!q->local) {
		for (others = store_controllers(w->c->store); *others; others++)
			wait_ask(w, *others, "ListNodes", &local.base,
				 &mcmesh__v1__list_nodes_response__descriptor, PEER_TIMEOUT_MS,
				 nodes_answered);
	}
	if (!w->n_open)
		nodes_reply(w, q->local);
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

void mesh_list_members(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ListMembersRequest *q = (const Mcmesh__V1__ListMembersRequest *)message;
	Mcmesh__V1__ListMembersResponse a = MCMESH__V1__LIST_MEMBERS_RESPONSE__INIT;
	struct wait *w = wait_of(call);
	struct member_filter f = { 0 };
	struct arena arena = ARENA_NULL;
	struct log_row *row;
	struct page page;
	size_t bytes = 0;

	if (!wait_is_request(w, message) ||
	    list_begin(w, LOG_MEMBER, q->page_size, q->page_token, &page) < 0)
		return;
	f.segment = q->segment;
	f.node = q->node;
	f.has_group = q->group[0];
	if (f.has_group && wait_group(w, q->group, &f.group) < 0)
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
	wait_reply(w, &a.base);
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
	g->group = wire_group(arena, &row->key.group);
	g->nodes = arena_alloc(arena, n * sizeof(*g->nodes));
	for (r = row; r && same_group(r, row); r = r->next[0]) {
		if (!r->deleted)
			g->nodes[g->n_nodes++] = r->node->name;
	}
	return g;
}

void mesh_list_groups(struct rpc_call *call, const ProtobufCMessage *message)
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

	if (!wait_is_request(w, message) ||
	    list_begin(w, LOG_MEMBER, q->page_size, q->page_token, &page) < 0)
		return;
	page.node[0] = 0; /* the whole group, also who joined it between two pages */
	f.segment = q->segment;
	f.has_group = q->group[0];
	if (f.has_group && wait_group(w, q->group, &f.group) < 0)
		return;
	a.groups = arena_alloc(&arena, page.size * sizeof(*a.groups));
	for (row = members_seek(w->c, &page, &f); row && !members_end(row, &f); row = next) {
		g = group_take(&arena, row, &next);
		if (!g || (f.has_group && !addr_equal(&row->key.group, &f.group)))
			continue;
		if (a.n_groups >= page.size || bytes > MESH_PAGE_BYTES) {
			a.next_page_token = page_token(w->c->log, &arena, &page, row);
			break;
		}
		a.groups[a.n_groups++] = g;
		bytes += 64 + g->n_nodes * 24;
	}
	a.epoch = mesh_epoch_text(w->c, &arena);
	a.revision = page.revision;
	wait_reply(w, &a.base);
	arena_reset(&arena);
}

void mesh_list_static(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ListStaticMembersRequest *q =
		(const Mcmesh__V1__ListStaticMembersRequest *)message;
	Mcmesh__V1__ListStaticMembersResponse a = MCMESH__V1__LIST_STATIC_MEMBERS_RESPONSE__INIT;
	struct wait *w = wait_of(call);
	struct arena arena = ARENA_NULL;
	struct log_row *row;
	struct page page;
	size_t bytes = 0;

	if (!wait_is_request(w, message) ||
	    list_begin(w, LOG_STATIC, q->page_size, q->page_token, &page) < 0)
		return;
	a.members = arena_alloc(&arena, page.size * sizeof(*a.members));
	for (row = page_seek(w->c->log, &page, LOG_STATIC, 0, NULL);
	     row && row->key.kind == LOG_STATIC; row = row->next[0]) {
		Mcmesh__V1__StaticMember *m;

		if (row->deleted || (q->node[0] && strcmp(q->node, row->node->name) != 0))
			continue;
		if (a.n_members >= page.size || bytes > MESH_PAGE_BYTES) {
			a.next_page_token = page_token(w->c->log, &arena, &page, row);
			break;
		}
		m = arena_alloc(&arena, sizeof(*m));
		mcmesh__v1__static_member__init(m);
		m->node = row->node->name;
		m->port = row->key.port;
		m->group = wire_group(&arena, &row->key.group);
		m->mode = wire_mode(&row->filter);
		m->n_sources = row->filter.n_sources;
		m->sources = wire_sources(&arena, &row->filter);
		a.members[a.n_members++] = m;
		bytes += 128 + (size_t)row->filter.n_sources * ADDR_TEXT_MAX;
	}
	a.epoch = mesh_epoch_text(w->c, &arena);
	a.revision = page.revision;
	wait_reply(w, &a.base);
	arena_reset(&arena);
}
