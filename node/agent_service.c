/* SPDX-License-Identifier: Apache-2.0 */
#include "node/agent_internal.h"

/*
 * AgentService on the agent's unix socket (proto/mcmesh/v1/agent.proto).
 * Lists are collected whole, sorted and cut into pages (page.h).
 */
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <sodium/utils.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "node/agent_views.h"
#include "node/page.h"

#define EPOCH_TEXT (2 * EPOCH_LEN + 1)

extern const uint8_t _binary_mcmesh_pb_start[], _binary_mcmesh_pb_end[];

static struct agent *call_agent(struct rpc_call *call)
{
	return rpc_call_userdata(call);
}

/* ---- answers ---------------------------------------------------------------- */

/* An answer that cannot be sent is an error, not an empty list. */
static void answer(struct rpc_call *call, const ProtobufCMessage *response)
{
	int r = rpc_call_send(call, response);

	if (r == -EMSGSIZE)
		rpc_call_finish(call, RPC_RESOURCE_EXHAUSTED,
				"the answer is too large for one message: ask for less");
	else if (r < 0)
		rpc_call_finish(call, RPC_RESOURCE_EXHAUSTED, "the agent is out of memory");
	else
		rpc_call_finish(call, RPC_OK, "%s", "");
}

static char *epoch_text(const struct agent *a, char ret_text[EPOCH_TEXT])
{
	return sodium_bin2hex(ret_text, EPOCH_TEXT, mirror_epoch(a->mirror), EPOCH_LEN);
}

/* The request's page of a list; false: the call has failed. */
static bool page_take(struct rpc_call *call, void *rows, size_t n, page_order *order, uint32_t size,
		      const char *token, struct page *ret_page)
{
	int r = page_cut(rows, n, order, size, token, ret_page);

	if (r == -EINVAL)
		rpc_call_finish(call, RPC_INVALID_ARGUMENT,
				"page_token is not one of this list: leave it empty to start over");
	else if (r < 0)
		rpc_call_finish(call, RPC_RESOURCE_EXHAUSTED, "the agent is out of memory");
	return r == 0;
}

/* A page of the rows, and where the agent is in the log. */
#define ANSWER_PAGE(call, request, response, field, list, total, order)        \
	do {                                                                   \
		char epoch[EPOCH_TEXT];                                        \
		struct page page;                                              \
                                                                               \
		if (!page_take(call, list, total, order, (request)->page_size, \
			       (request)->page_token, &page))                  \
			break;                                                 \
		(response).field = (list) + page.from;                         \
		(response).n_##field = page.n;                                 \
		if (page.next)                                                 \
			(response).next_page_token = page.next;                \
		(response).epoch = epoch_text(call_agent(call), epoch);        \
		(response).revision = view_revision(call_agent(call));         \
		answer(call, &(response).base);                                \
		page_deinit(&page);                                            \
	} while (0)

/* Empty text: any (null). Anything else must be a group. */
static bool group_of(struct rpc_call *call, const char *text, struct addr *ret_group)
{
	*ret_group = ADDR_NULL;
	if (!text[0])
		return true;
	if (addr_parse(text, ret_group) == 0 && addr_is_multicast(ret_group))
		return true;
	rpc_call_finish(call, RPC_INVALID_ARGUMENT,
			"group \"%.64s\" is not a multicast address (224.0.0.0/4 or ff00::/8)",
			text);
	return false;
}

/* ---- lists ------------------------------------------------------------------ */

static void on_list_ports(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ListPortsRequest *request = (const void *)message;
	Mcmesh__V1__ListPortsResponse response = MCMESH__V1__LIST_PORTS_RESPONSE__INIT;
	struct view_ports ports;

	if (!request)
		return;
	view_ports_collect(call_agent(call), &ports);
	ANSWER_PAGE(call, request, response, ports, ports.rows, ports.n, view_port_cmp);
	view_ports_deinit(&ports);
}

static void on_list_paths(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ListPathsRequest *request = (const void *)message;
	Mcmesh__V1__ListPathsResponse response = MCMESH__V1__LIST_PATHS_RESPONSE__INIT;
	struct view_paths paths;

	if (!request)
		return;
	view_paths_collect(call_agent(call), &paths);
	ANSWER_PAGE(call, request, response, paths, paths.rows, paths.n, view_path_cmp);
	view_paths_deinit(&paths);
}

static void on_list_memberships(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ListMembershipsRequest *request = (const void *)message;
	Mcmesh__V1__ListMembershipsResponse response = MCMESH__V1__LIST_MEMBERSHIPS_RESPONSE__INIT;
	struct view_memberships list;
	struct addr group;

	if (!request || !group_of(call, request->group, &group))
		return;
	view_memberships_collect(call_agent(call), request->segment, request->port, &group, &list);
	ANSWER_PAGE(call, request, response, memberships, list.rows, list.n, view_membership_cmp);
	view_memberships_deinit(&list);
}

static void on_list_routes(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ListFibRequest *request = (const void *)message;
	Mcmesh__V1__ListFibResponse response = MCMESH__V1__LIST_FIB_RESPONSE__INIT;
	Mcmesh__V1__Route **routes;
	struct addr group;
	size_t n;

	if (!request || !group_of(call, request->group, &group))
		return;
	if (agent_routes_read(call_agent(call), request->segment,
			      addr_is_null(&group) ? NULL : &group, &routes, &n) < 0) {
		rpc_call_finish(call, RPC_INTERNAL, "the kernel's maps could not be read");
		return;
	}
	ANSWER_PAGE(call, request, response, routes, routes, n, agent_route_cmp);
	agent_routes_free(routes, n);
}

static void on_list_counters(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ListCountersRequest *request = (const void *)message;
	Mcmesh__V1__ListCountersResponse response = MCMESH__V1__LIST_COUNTERS_RESPONSE__INIT;
	struct view_counters counters;

	if (!request)
		return;
	view_counters_collect(call_agent(call), request->prefix, true, &counters);
	ANSWER_PAGE(call, request, response, counters, counters.rows, counters.n, view_counter_cmp);
	view_counters_deinit(&counters);
}

/* ---- single answers --------------------------------------------------------- */

static void on_get_status(struct rpc_call *call, const ProtobufCMessage *message)
{
	Mcmesh__V1__GetStatusResponse response = MCMESH__V1__GET_STATUS_RESPONSE__INIT;
	struct agent *a = call_agent(call);
	char vtep[ADDR_TEXT_MAX], instance[33], epoch[EPOCH_TEXT];

	if (!message)
		return;
	sodium_bin2hex(instance, sizeof(instance), a->identity.instance,
		       sizeof(a->identity.instance));
	response.node = a->config->node;
	response.vtep = (char *)addr_format(&a->config->vtep, vtep);
	response.version = (char *)MCMESH_VERSION;
	response.instance = instance;
	response.start_count = a->identity.start_count;
	response.controller = (char *)uplink_controller(a->uplink);
	response.epoch = epoch_text(a, epoch);
	response.revision = view_revision(a);
	response.attach = (char *)datapath_attach_name(a->datapath);
	response.replication = (char *)datapath_engine_name(a->datapath);
	response.session_detail = (char *)uplink_detail(a->uplink);
	answer(call, &response.base);
}

static void on_explain(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ExplainRequest *request = (const void *)message;
	Mcmesh__V1__ExplainResponse response = MCMESH__V1__EXPLAIN_RESPONSE__INIT;
	struct agent_explanation explanation;
	struct addr group, source = ADDR_NULL;

	if (!request)
		return;
	if (!request->group[0] || !request->port[0]) {
		rpc_call_finish(call, RPC_INVALID_ARGUMENT, "name a group and a port");
		return;
	}
	if (!group_of(call, request->group, &group))
		return;
	if (request->source[0] &&
	    (addr_parse(request->source, &source) < 0 || addr_is_multicast(&source) ||
	     addr_is_v4(&source) != addr_is_v4(&group))) {
		rpc_call_finish(call, RPC_INVALID_ARGUMENT,
				"source \"%.64s\" is not a unicast address of the group's family",
				request->source);
		return;
	}
	if (agent_explain(call_agent(call), request->port, &group, &source, &explanation) < 0) {
		rpc_call_finish(call, RPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	response.delivered = explanation.delivered;
	response.reasons = explanation.reasons;
	response.n_reasons = explanation.n_reasons;
	answer(call, &response.base);
	agent_explanation_deinit(&explanation);
}

/* ---- watch ------------------------------------------------------------------ */

static void watch_send_port(struct rpc_call *call, Mcmesh__V1__Port *port, bool gone)
{
	Mcmesh__V1__AgentWatchResponse event = MCMESH__V1__AGENT_WATCH_RESPONSE__INIT;

	event.type = gone ? MCMESH__V1__AGENT_WATCH_RESPONSE__TYPE__DELETE
			  : MCMESH__V1__AGENT_WATCH_RESPONSE__TYPE__PUT;
	event.object_case = MCMESH__V1__AGENT_WATCH_RESPONSE__OBJECT_PORT;
	event.port = port;
	rpc_call_send(call, &event.base);
}

static void watch_send_membership(struct rpc_call *call, Mcmesh__V1__Membership *membership,
				  bool gone)
{
	Mcmesh__V1__AgentWatchResponse event = MCMESH__V1__AGENT_WATCH_RESPONSE__INIT;

	event.type = gone ? MCMESH__V1__AGENT_WATCH_RESPONSE__TYPE__DELETE
			  : MCMESH__V1__AGENT_WATCH_RESPONSE__TYPE__PUT;
	event.object_case = MCMESH__V1__AGENT_WATCH_RESPONSE__OBJECT_MEMBERSHIP;
	event.membership = membership;
	rpc_call_send(call, &event.base);
}

static void on_watch(struct rpc_call *call, const ProtobufCMessage *message)
{
	Mcmesh__V1__AgentWatchResponse synced = MCMESH__V1__AGENT_WATCH_RESPONSE__INIT;
	struct agent *a = call_agent(call);
	struct view_memberships memberships;
	struct view_ports ports;
	size_t slot = 0;

	if (!message)
		return;
	while (slot < AGENT_MAX_WATCHERS && a->watchers[slot])
		slot++;
	if (slot == AGENT_MAX_WATCHERS) {
		rpc_call_finish(call, RPC_RESOURCE_EXHAUSTED, "too many watchers: at most %d",
				AGENT_MAX_WATCHERS);
		return;
	}
	a->watchers[slot] = call;
	view_ports_collect(a, &ports);
	for (size_t i = 0; i < ports.n; i++)
		watch_send_port(call, ports.rows[i], false);
	view_ports_deinit(&ports);
	view_memberships_collect(a, 0, "", &ADDR_NULL, &memberships);
	for (size_t i = 0; i < memberships.n; i++)
		watch_send_membership(call, memberships.rows[i], false);
	view_memberships_deinit(&memberships);
	synced.type = MCMESH__V1__AGENT_WATCH_RESPONSE__TYPE__SYNCED;
	rpc_call_send(call, &synced.base);
}

static void on_watch_close(struct rpc_call *call, int status, const char *text)
{
	struct agent *a = call_agent(call);

	for (size_t i = 0; i < AGENT_MAX_WATCHERS; i++) {
		if (a->watchers[i] == call)
			a->watchers[i] = NULL;
	}
}

#define WATCH_BACKLOG_MAX (4 * 1024 * 1024)

/* Drops a watcher that does not read. */
static bool watcher_ready(struct agent *a, size_t i)
{
	struct rpc_call *call = a->watchers[i];

	if (!call)
		return false;
	if (rpc_call_backlog(call) <= WATCH_BACKLOG_MAX)
		return true;
	a->watchers[i] = NULL;
	rpc_call_finish(call, RPC_RESOURCE_EXHAUSTED, "too slow to follow: watch again");
	return false;
}

static bool watched(const struct agent *a)
{
	for (size_t i = 0; i < AGENT_MAX_WATCHERS; i++) {
		if (a->watchers[i])
			return true;
	}
	return false;
}

void agent_watch_port(struct agent *a, const struct agent_port *port, bool gone)
{
	Mcmesh__V1__Port *row;

	if (!watched(a))
		return;
	row = view_port(a, port);
	if (!row)
		return;
	for (size_t i = 0; i < AGENT_MAX_WATCHERS; i++) {
		if (watcher_ready(a, i))
			watch_send_port(a->watchers[i], row, gone);
	}
	free(row);
}

void agent_watch_membership(struct agent *a, uint32_t ifindex, const struct addr *group)
{
	struct agent_port *port = agent_port_find(a, ifindex);
	Mcmesh__V1__Membership gone = MCMESH__V1__MEMBERSHIP__INIT, *row;
	char text[ADDR_TEXT_MAX];

	if (!port || !watched(a))
		return;
	row = view_membership(a, ifindex, group);
	gone.segment = port->segment;
	gone.port = port->name;
	gone.group = (char *)addr_format(group, text);
	for (size_t i = 0; i < AGENT_MAX_WATCHERS; i++) {
		if (watcher_ready(a, i))
			watch_send_membership(a->watchers[i], row ? row : &gone, !row);
	}
	view_membership_free(row);
}

/* ---- service ---------------------------------------------------------------- */

#define METHOD(name, request_type, response_type, handler)              \
	{                                                               \
		.path = "/mcmesh.v1.AgentService/" name,                \
		.request = &mcmesh__v1__##request_type##__descriptor,   \
		.response = &mcmesh__v1__##response_type##__descriptor, \
		.ops = { .on_message = handler },                       \
	}

static const struct rpc_method methods_template[] = {
	METHOD("ListPorts", list_ports_request, list_ports_response, on_list_ports),
	METHOD("ListPaths", list_paths_request, list_paths_response, on_list_paths),
	METHOD("ListMemberships", list_memberships_request, list_memberships_response,
	       on_list_memberships),
	METHOD("ListRoutes", list_fib_request, list_fib_response, on_list_routes),
	METHOD("ListCounters", list_counters_request, list_counters_response, on_list_counters),
	METHOD("Explain", explain_request, explain_response, on_explain),
	METHOD("GetStatus", get_status_request, get_status_response, on_get_status),
	{
		.path = "/mcmesh.v1.AgentService/Watch",
		.request = &mcmesh__v1__agent_watch_request__descriptor,
		.response = &mcmesh__v1__agent_watch_response__descriptor,
		.ops = { .on_message = on_watch, .on_close = on_watch_close },
	},
};

static struct rpc_method methods[ARRAY_SIZE(methods_template)];

/* The group may use the socket, and pass its folder if that is for nobody else. */
static int socket_share(const struct node_config *config, char why[AGENT_WHY_MAX])
{
	_cleanup_free_ char *folder = strdup(config->socket);
	const struct group *group;
	struct stat st;

	if (!config->socket_group)
		return 0;
	group = getgrnam(config->socket_group);
	if (!folder || !group) {
		snprintf(why, AGENT_WHY_MAX, "socket_group: there is no group \"%s\"",
			 config->socket_group);
		return -ENOENT;
	}
	*strrchr(folder, '/') = '\0';
	if (chown(config->socket, (uid_t)-1, group->gr_gid) < 0 || stat(folder, &st) < 0 ||
	    (!(st.st_mode & S_IXOTH) && chown(folder, (uid_t)-1, group->gr_gid) < 0)) {
		snprintf(why, AGENT_WHY_MAX, "socket_group: %s: %s", config->socket,
			 strerror(errno));
		return -errno;
	}
	return 0;
}

int agent_service_start(struct agent *a, char why[AGENT_WHY_MAX])
{
	char *address;
	const char *listen[2] = { NULL, NULL };
	struct rpc_server_options options = { .listen = listen };
	int r;

	if (asprintf(&address, "unix:%s", a->config->socket) < 0)
		return -ENOMEM;
	listen[0] = address;
	memcpy(methods, methods_template, sizeof(methods));
	for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
		methods[i].userdata = a;
	r = rpc_server_new(a->rpc, &options, &a->server);
	if (r < 0) {
		snprintf(
			why, AGENT_WHY_MAX,
			"cannot listen on %s: %s: is another agent running, or its folder missing?",
			address, strerror(-r));
		free(address);
		return r;
	}
	free(address);
	rpc_server_add(a->server, methods, ARRAY_SIZE(methods));
	rpc_server_add_standard(a->server, _binary_mcmesh_pb_start,
				(size_t)(_binary_mcmesh_pb_end - _binary_mcmesh_pb_start));
	r = socket_share(a->config, why);
	if (r >= 0)
		r = rpc_server_start(a->server);
	if (r >= 0)
		rpc_server_set_serving(a->server, true);
	return r;
}
