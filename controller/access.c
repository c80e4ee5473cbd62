/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: identities and rights
 *
 * A certificate's subject alternative names say what it is:
 *
 *	mcmesh://role/read, /admin	an operator
 *	mcmesh://role/controller	another controller
 *	mcmesh://node/NAME		the agent of a node; or, when it has no name of
 *					the forms above, a DNS name equal to NAME
 *
 * access_rules[] is the only place that says which role a method needs. The
 * Hello of a session says for which node, and where: access_node().
 *
 * The operator's records (`nodes:` in the file) add to certificates: VTEPs of a
 * node, the segments that it may see and report, and that it is evicted.
 */
#include "controller/access.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/rpc_tls.h"
#include "controller/config_nodes.h"
#include "controller/node_service.h"

#define LOOK_MS	   1000
#define MESH	   "/mcmesh.v1.MeshService/"
#define BY_READERS (ACCESS_BY_READ | ACCESS_BY_ADMIN | ACCESS_BY_CONTROLLER)

const struct access_rule access_rules[] = {
	{ "/mcmesh.v1.NodeService/Sync", ACCESS_BY_NODE },
	{ "/mcmesh.v1.NodeService/Aside", ACCESS_BY_NODE },
	{ MESH "ListNodes", BY_READERS },
	{ MESH "ListGroups", BY_READERS },
	{ MESH "ListMembers", BY_READERS },
	{ MESH "ListRoutes", BY_READERS },
	{ MESH "ListStaticMembers", BY_READERS },
	{ MESH "Watch", BY_READERS },
	{ MESH "Verify", BY_READERS },
	{ MESH "WaitConverged", BY_READERS },
	{ MESH "DrainNode", ACCESS_BY_ADMIN },
	{ MESH "AddStaticMember", ACCESS_BY_ADMIN },
	{ MESH "RemoveStaticMember", ACCESS_BY_ADMIN },
	{ "/grpc.health.v1.Health/Check", ACCESS_BY_ALL },
	{ "/grpc.health.v1.Health/Watch", ACCESS_BY_ALL },
	{ "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", ACCESS_BY_ALL },
	{ "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", ACCESS_BY_ALL },
};
const size_t access_n_rules = ARRAY_SIZE(access_rules);

static bool begins(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

static unsigned int roles_of(const struct rpc_identity *identity)
{
	unsigned int roles = 0;
	bool has_dns = false;

	if (rpc_identity_has(identity, RPC_NAME_URI, ACCESS_ROLE "read"))
		roles |= ACCESS_BY_READ;
	if (rpc_identity_has(identity, RPC_NAME_URI, ACCESS_ROLE "admin"))
		roles |= ACCESS_BY_ADMIN;
	if (rpc_identity_has(identity, RPC_NAME_URI, ACCESS_ROLE "controller"))
		roles |= ACCESS_BY_CONTROLLER;
	for (size_t i = 0; i < identity->n_names; i++) {
		const struct rpc_name *n = &identity->names[i];

		if (n->kind == RPC_NAME_URI && begins(n->text, ACCESS_NODE))
			roles |= ACCESS_BY_NODE;
		has_dns |= n->kind == RPC_NAME_DNS;
	}
	/* A controller's DNS names are where it is reached, and make it no node. */
	return roles || !has_dns ? roles : ACCESS_BY_NODE;
}

static bool is_node(const struct rpc_identity *identity, const char *node)
{
	unsigned int roles = roles_of(identity);
	char uri[sizeof(ACCESS_NODE) + LOG_NAME_MAX];

	snprintf(uri, sizeof(uri), ACCESS_NODE "%s", node);
	if (rpc_identity_has(identity, RPC_NAME_URI, uri))
		return true;
	if (roles != ACCESS_BY_NODE)
		return false;
	/* With case: records and the log tell n1 from N1. */
	for (size_t i = 0; i < identity->n_names; i++) {
		const struct rpc_name *n = &identity->names[i];

		if (n->kind == RPC_NAME_DNS && strcmp(n->text, node) == 0)
			return true;
	}
	return false;
}

/* ---- calls ----------------------------------------------------------------------- */

static void roles_text(unsigned int roles, char text[128])
{
	const char *const names[] = { ACCESS_NODE "NAME", ACCESS_ROLE "read", ACCESS_ROLE "admin",
				      ACCESS_ROLE "controller" };
	size_t at = 0;

	text[0] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (roles & (1u << i))
			at += (size_t)snprintf(text + at, 128 - at, "%s%s", at ? " or " : "",
					       names[i]);
	}
	if (!roles)
		snprintf(text, 128, "a right that nobody has");
}

static int denied(struct controller *c, const struct rpc_call *call, const char *why)
{
	c->counters.calls_denied++;
	log_warning("A call was denied. peer=%s why=\"%s\"", rpc_call_peer((struct rpc_call *)call),
		    why);
	return RPC_PERMISSION_DENIED;
}

int access_authorize(const struct rpc_call *call, const char *path, void *userdata,
		     char why[RPC_REFUSAL_MAX])
{
	const struct rpc_identity *identity = rpc_call_identity(call);
	struct controller *c = userdata;
	char has[192], needs[128];
	unsigned int roles = 0;

	if (!identity)
		return RPC_OK;
	for (size_t i = 0; i < ARRAY_SIZE(access_rules); i++) {
		if (strcmp(access_rules[i].path, path) == 0)
			roles = access_rules[i].roles;
	}
	if (roles_of(identity) & roles)
		return RPC_OK;
	/* Health and the description of the services tell nothing of the mesh. */
	if (roles == ACCESS_BY_ALL)
		return RPC_OK;
	rpc_identity_describe(identity, has, sizeof(has));
	roles_text(roles, needs);
	snprintf(why, RPC_REFUSAL_MAX, "%s needs a certificate with %s: this one is of %s",
		 path + 1, needs, has);
	return denied(c, call, why);
}

/* ---- nodes ----------------------------------------------------------------------- */

static bool record_has_vtep(const struct controller_node *record, const struct addr *vtep)
{
	for (unsigned int i = 0; record && i < record->vteps_count; i++) {
		if (addr_equal(&record->vteps[i], vtep))
			return true;
	}
	return false;
}

static bool identity_has_vtep(const struct rpc_identity *identity, const struct addr *vtep)
{
	struct addr a;

	for (size_t i = 0; identity && i < identity->n_names; i++) {
		const struct rpc_name *n = &identity->names[i];

		if (n->kind == RPC_NAME_IP && addr_parse(n->text, &a) == 0 && addr_equal(&a, vtep))
			return true;
	}
	return false;
}

/* Without TLS only a record can say something against it. */
static bool may_use_vtep(const struct controller_node *record, const struct rpc_identity *identity,
			 const struct addr *vtep)
{
	if (record_has_vtep(record, vtep) || identity_has_vtep(identity, vtep))
		return true;
	return !identity && !(record && record->vteps_count);
}

int access_node(const struct controller *c, const struct rpc_call *call, const char *node,
		const struct addr *vtep, char why[RPC_REFUSAL_MAX])
{
	const struct rpc_identity *identity = rpc_call_identity(call);
	const struct controller_node *record = config_node_find(c->records, node);
	char has[192] = "", address[ADDR_TEXT_MAX];

	if (identity)
		rpc_identity_describe(identity, has, sizeof(has));
	if (identity && !is_node(identity, node))
		snprintf(why, RPC_REFUSAL_MAX,
			 "node %s needs a certificate with " ACCESS_NODE
			 "%s, or with that DNS name: this one is of %s",
			 node, node, has);
	else if (record && record->evicted)
		snprintf(why, RPC_REFUSAL_MAX,
			 "node %s is evicted by the controller's configuration", node);
	else if (!may_use_vtep(record, identity, vtep))
		snprintf(why, RPC_REFUSAL_MAX,
			 "node %s may not use the VTEP %s: neither its certificate%s%s nor a "
			 "record in the controller's configuration (nodes: vteps:) has it",
			 node, addr_format(vtep, address), identity ? ", of " : "", has);
	else
		return RPC_OK;
	return RPC_PERMISSION_DENIED;
}

bool access_segment(const struct controller *c, const char *node, uint32_t segment)
{
	const struct controller_node *record = config_node_find(c->records, node);

	return !record || !record->segments_count || segment == 0 ||
	       config_node_has_segment(record, segment);
}

static bool same_segments(const struct controller_node *a, const struct controller_node *b)
{
	size_t n = a ? a->segments_count : 0;

	if (n != (b ? b->segments_count : 0))
		return false;
	return n == 0 || memcmp(a->segments, b->segments, n * sizeof(*a->segments)) == 0;
}

/* What the records of now have against a session; RPC_OK: nothing. */
static int session_check(const struct session *s, const struct controller_config *before,
			 char why[RPC_REFUSAL_MAX])
{
	if (access_node(s->c, s->call, s->name, &s->vtep, why) != RPC_OK)
		return RPC_PERMISSION_DENIED;
	if (same_segments(config_node_find(before, s->name),
			  config_node_find(s->c->records, s->name)))
		return RPC_OK;
	/* Its Hello decides again, and it reports again. */
	snprintf(why, RPC_REFUSAL_MAX, "the segments of node %s were changed: connect again",
		 s->name);
	return RPC_UNAVAILABLE;
}

void access_changed(struct controller *c, const struct controller_config *before)
{
	char why[RPC_REFUSAL_MAX];
	struct session *s, *next;

	for (s = sessions_first(c->sessions); s; s = next) {
		const struct controller_node *record = config_node_find(c->records, s->name);
		struct registry_node *node = s->node;
		int status;

		next = TAILQ_NEXT(s, all);
		if (s->state != SESSION_ACTIVE || !s->call)
			continue;
		status = session_check(s, before, why);
		if (status == RPC_OK)
			continue;
		log_warning("A session is ended. node=%s why=\"%s\"", s->name, why);
		session_end(s, status, why);
		/* Who is evicted takes its members along, at once. */
		if (node && record && record->evicted)
			controller_expire(c, node);
	}
}

/* ---- certificates ------------------------------------------------------------------ */

/* The server's counters become ours; each kind has one line a look. */
static void server_look(struct controller *c)
{
	struct rpc_server_counters now = rpc_server_counters(c->server);
	uint64_t failed = rpc_handshakes_failed();

	if (now.shut != c->counters.doors_shut)
		log_warning("New connections wait: nearly as many are open as this process may "
			    "have files. total=%llu",
			    (unsigned long long)now.shut);
	if (now.cut != c->counters.connections_cut)
		log_warning("A connection was ended, and its address is kept out for a while: it "
			    "left no time for the others. total=%llu",
			    (unsigned long long)now.cut);
	if (now.flooded != c->counters.calls_flooded)
		log_warning("Calls were refused: too many of one client. new=%llu total=%llu",
			    (unsigned long long)(now.flooded - c->counters.calls_flooded),
			    (unsigned long long)now.flooded);
	if (failed != c->counters.handshakes_failed)
		log_warning("Handshakes failed: no certificate, a foreign one, no TLS, or too "
			    "slow. new=%llu total=%llu",
			    (unsigned long long)(failed - c->counters.handshakes_failed),
			    (unsigned long long)failed);
	c->counters.doors_shut = now.shut;
	c->counters.connections_cut = now.cut;
	c->counters.calls_flooded = now.flooded;
	c->counters.handshakes_failed = failed;
}

uint64_t access_turn(struct controller *c, uint64_t now_ms)
{
	if (now_ms < c->access_look_ms)
		return c->access_look_ms;
	c->access_look_ms = now_ms + LOOK_MS;
	if (rpc_listener_lost() && !c->failed) {
		log_error("no new connections can be accepted: stopping, to be started again");
		c->failed = true;
	}
	if (c->tls)
		rpc_tls_refresh(c->tls);
	server_look(c);
	return c->access_look_ms;
}

static void tls_event(void *userdata, bool bad, const char *sentence)
{
	if (bad)
		log_warning("%s", sentence);
	else
		log_info("%s", sentence);
}

int access_tls_new(const struct controller_config *config, struct rpc_tls **ret_tls,
		   char why[CONTROLLER_WHY_MAX])
{
	const struct config_tls *t = config->tls;
	char tls_why[RPC_TLS_WHY_MAX];
	int r;

	if (!t)
		return 0;
	r = rpc_tls_new(
		&(struct rpc_tls_options){
			.cacert = t->cacert,
			.cert = t->cert,
			.key = t->key,
			.server = true,
			.on_event = tls_event,
		},
		ret_tls, tls_why);
	snprintf(why, CONTROLLER_WHY_MAX, "%s", tls_why);
	return r;
}

/* unix:, or an address that only this machine has. */
static bool is_local(const char *listen)
{
	const char *colon = strrchr(listen, ':');
	char host[64];
	struct addr a;

	if (begins(listen, "unix:"))
		return true;
	if (listen[0] == '[')
		return begins(listen, "[::1]:");
	snprintf(host, sizeof(host), "%.*s", (int)(colon ? colon - listen : 0), listen);
	if (strcmp(host, "localhost") == 0)
		return true;
	return addr_parse(host, &a) == 0 && addr_is_v4(&a) && begins(host, "127.");
}

int access_check_listen(const struct controller_config *config, char why[CONTROLLER_WHY_MAX])
{
	if (config->tls && config->insecure) {
		snprintf(why, CONTROLLER_WHY_MAX,
			 "tls: and insecure contradict each other: leave one out");
		return -EINVAL;
	}
	for (unsigned int i = 0; i < config->listen_count; i++) {
		if (config->tls || config->insecure || is_local(config->listen[i]))
			continue;
		snprintf(why, CONTROLLER_WHY_MAX,
			 "listening on %s without tls would let anybody speak for any node: give "
			 "tls: { cacert, cert, key }, or --insecure where nobody else can reach it",
			 config->listen[i]);
		return -EINVAL;
	}
	return 0;
}
