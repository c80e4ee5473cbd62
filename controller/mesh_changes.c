/* SPDX-License-Identifier: Apache-2.0 */
/* What operators change: drains and static members. */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "controller/mesh_internal.h"

static void commit_answer(struct wait *w, int result, const ProtobufCMessage *answer)
{
	if (result < 0)
		wait_fail(w, RPC_UNAVAILABLE, "the store failed: try again");
	else
		wait_reply(w, answer);
	if (--w->in_flight == 0 && !w->call)
		wait_free(w);
}

static void drain_committed(void *userdata, int result, uint64_t revision)
{
	Mcmesh__V1__DrainNodeResponse a = MCMESH__V1__DRAIN_NODE_RESPONSE__INIT;
	struct wait *w = userdata;

	a.revision = revision;
	commit_answer(w, result, &a.base);
}

void mesh_drain_node(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__DrainNodeRequest *q = (const Mcmesh__V1__DrainNodeRequest *)message;
	struct wait *w = wait_of(call);

	if (!wait_is_request(w, message))
		return;
	if (!registry_find(w->c->registry, q->node)) {
		wait_fail(w, RPC_NOT_FOUND,
			  "no agent ever announced this node: see mcmeshctl node list");
		return;
	}
	w->kind = WAIT_COMMIT;
	w->in_flight++;
	store_drain(w->c->store, q->node, !q->cancel, drain_committed, w);
}

static void static_committed(void *userdata, int result, uint64_t revision)
{
	/* The two answers have the same fields. */
	Mcmesh__V1__AddStaticMemberResponse a = MCMESH__V1__ADD_STATIC_MEMBER_RESPONSE__INIT;
	struct wait *w = userdata;

	a.revision = revision;
	commit_answer(w, result, &a.base);
}

static void static_commit(struct wait *w, const struct log_change *change)
{
	struct store_txn txn = { .node = change->node, .changes = change, .n_changes = 1 };

	w->kind = WAIT_COMMIT;
	w->in_flight++;
	store_commit(w->c->store, &txn, static_committed, w);
}

/* As the kernel has names of interfaces. */
static bool port_name_is_valid(const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < len; i++) {
		if (name[i] == '/' || name[i] == ':' || isspace((unsigned char)name[i]) ||
		    iscntrl((unsigned char)name[i]))
			return false;
	}
	return len && len < LOG_PORT_MAX && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int static_key(struct wait *w, const char *node, const char *port, const char *group,
		      struct log_change *ret_change)
{
	*ret_change = (struct log_change){ .kind = LOG_STATIC, .node = node, .port = port };
	if (wait_group(w, group, &ret_change->group) < 0)
		return -EINVAL;
	if (!node[0] || strlen(node) >= LOG_NAME_MAX || !port[0] || strlen(port) >= LOG_PORT_MAX) {
		wait_fail(w, RPC_INVALID_ARGUMENT,
			  "a static member needs a node and a port's name");
		return -EINVAL;
	}
	return 0;
}

static int static_filter(struct wait *w, const Mcmesh__V1__StaticMember *m, struct filter *ret)
{
	struct addr sources[REPORT_SOURCES_MAX];

	if (m->n_sources > REPORT_SOURCES_MAX) {
		wait_fail(w, RPC_INVALID_ARGUMENT, "a member has at most 1024 sources");
		return -EINVAL;
	}
	for (size_t i = 0; i < m->n_sources; i++) {
		if (addr_parse(m->sources[i], &sources[i]) < 0 || addr_is_multicast(&sources[i]) ||
		    addr_is_unspecified(&sources[i])) {
			wait_fail(w, RPC_INVALID_ARGUMENT, "a source is not a unicast address");
			return -EINVAL;
		}
	}
	if (m->mode != MCMESH__V1__FILTER__MODE__INCLUDE &&
	    m->mode != MCMESH__V1__FILTER__MODE__EXCLUDE) {
		wait_fail(w, RPC_INVALID_ARGUMENT, "the mode is INCLUDE or EXCLUDE");
		return -EINVAL;
	}
	if (m->mode == MCMESH__V1__FILTER__MODE__INCLUDE && !m->n_sources) {
		wait_fail(w, RPC_INVALID_ARGUMENT,
			  "INCLUDE with no source asks for nothing: use EXCLUDE for every source");
		return -EINVAL;
	}
	return filter_init(
		ret, m->mode == MCMESH__V1__FILTER__MODE__EXCLUDE ? FILTER_EXCLUDE : FILTER_INCLUDE,
		sources, m->n_sources);
}

void mesh_add_static(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__AddStaticMemberRequest *q =
		(const Mcmesh__V1__AddStaticMemberRequest *)message;
	struct wait *w = wait_of(call);
	struct log_change change;

	if (!wait_is_request(w, message))
		return;
	if (!q->member) {
		wait_fail(w, RPC_INVALID_ARGUMENT, "the request has no member");
		return;
	}
	if (!node_name_is_valid(q->member->node) || !port_name_is_valid(q->member->port)) {
		wait_fail(w, RPC_INVALID_ARGUMENT,
			  "a static member needs a node's name and that of one of its interfaces");
		return;
	}
	if (static_key(w, q->member->node, q->member->port, q->member->group, &change) < 0 ||
	    static_filter(w, q->member, &change.filter) < 0)
		return;
	static_commit(w, &change);
	filter_deinit(&change.filter);
}

void mesh_remove_static(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__RemoveStaticMemberRequest *q =
		(const Mcmesh__V1__RemoveStaticMemberRequest *)message;
	struct wait *w = wait_of(call);
	struct log_change change;

	if (!wait_is_request(w, message) || static_key(w, q->node, q->port, q->group, &change) < 0)
		return;
	if (!log_find_live(w->c->log, LOG_STATIC, 0, q->node, &change.group, q->port)) {
		wait_fail(w, RPC_NOT_FOUND, "there is no such static member");
		return;
	}
	change.deleted = true;
	static_commit(w, &change);
}
