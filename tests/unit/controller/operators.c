/* SPDX-License-Identifier: Apache-2.0 */
/* MeshService: lists by pages, drains, static members, questions to agents. */
#include "harness.h"

#include "common/cleanup.h"

TestSuite(operators, .init = setup, .fini = teardown, .timeout = 60);

#define D(name) &mcmesh__v1__##name##__descriptor

/* ---- pages -------------------------------------------------------------------- */

/* The first member of a page of one; "" when there is none. */
static void members_page(const char *token, char ret_group[64], char ret_token[256])
{
	Mcmesh__V1__ListMembersRequest q = MCMESH__V1__LIST_MEMBERS_REQUEST__INIT;
	Mcmesh__V1__ListMembersResponse *a;
	ProtobufCMessage *answer;

	q.page_size = 1;
	q.page_token = (char *)token;
	cr_assert_eq(ask("ListMembers", &q.base, D(list_members_response), &answer), RPC_OK);
	a = (Mcmesh__V1__ListMembersResponse *)answer;
	cr_assert(a->n_members <= 1);
	snprintf(ret_group, 64, "%s", a->n_members ? a->members[0]->group : "");
	snprintf(ret_token, 256, "%s", a->next_page_token);
	protobuf_c_message_free_unpacked(answer, NULL);
}

Test(operators, S22_pages_of_members_neither_repeat_nor_skip_while_rows_change)
{
	char group[64], token[256], first[256];
	static struct agent a, b;

	two_agents(&a, &b);
	for (uint8_t i = 1; i <= 4; i++)
		agent_report(&a, (uint64_t)i + 1, false, (uint8_t)(2 * i)); /* 2 4 6 8 */
	members_page("", group, first);
	cr_assert_str_eq(group, "239.1.1.2");
	members_page(first, group, token);
	cr_assert_str_eq(group, "239.1.1.4");
	/* 6, where the next page begins, goes; 5 and 9 come; 3 comes behind. */
	agent_report(&b, 2, false, 3);
	agent_report(&b, 3, false, 5);
	agent_report(&b, 4, false, 9);
	agent_report(&a, 6, true, 8); /* 2, 4 and 6 are not named */
	members_page(token, group, token);
	cr_assert_str_eq(group, "239.1.1.8");
	members_page(token, group, token);
	cr_assert_str_eq(group, "239.1.1.9");
	cr_assert_str_eq(token, "");
	members_page(first, group, token); /* 4 is gone, 5 came: an old place still serves */
	cr_assert_str_eq(group, "239.1.1.5");
}

static void nodes_page(const char *token, char ret_name[64], char ret_token[256])
{
	Mcmesh__V1__ListNodesRequest q = MCMESH__V1__LIST_NODES_REQUEST__INIT;
	Mcmesh__V1__ListNodesResponse *a;
	ProtobufCMessage *answer;

	q.page_size = 1;
	q.page_token = (char *)token;
	cr_assert_eq(ask("ListNodes", &q.base, D(list_nodes_response), &answer), RPC_OK);
	a = (Mcmesh__V1__ListNodesResponse *)answer;
	cr_assert_eq(a->n_nodes, 1);
	snprintf(ret_name, 64, "%s %s", a->nodes[0]->name, a->nodes[0]->address);
	snprintf(ret_token, 256, "%s", a->next_page_token);
	protobuf_c_message_free_unpacked(answer, NULL);
}

Test(operators, pages_of_nodes_and_a_vtep_of_ipv6)
{
	Mcmesh__V1__ListMembersRequest q = MCMESH__V1__LIST_MEMBERS_REQUEST__INIT;
	static struct agent a, b, six;
	char name[64], token[256];

	two_agents(&a, &b);
	agent_open(&six, &(struct hello){ .node = "n3", .vtep = 3, .instance = 3, .v6 = true });
	UNTIL(six.session);
	nodes_page("", name, token);
	cr_assert_str_eq(name, "n1 203.0.113.1");
	q.page_token = token;
	cr_assert_eq(ask("ListMembers", &q.base, D(list_members_response), NULL),
		     RPC_INVALID_ARGUMENT); /* the token of another list */
	nodes_page(token, name, token);
	cr_assert_str_eq(name, "n2 203.0.113.2");
	nodes_page(token, name, token);
	cr_assert_str_eq(name, "n3 2001:db8::3");
	cr_assert_str_eq(token, "");
}

static size_t groups_page(const char *token, char ret_group[64], char ret_token[256])
{
	Mcmesh__V1__ListGroupsRequest q = MCMESH__V1__LIST_GROUPS_REQUEST__INIT;
	Mcmesh__V1__ListGroupsResponse *a;
	ProtobufCMessage *answer;
	size_t n;

	q.page_size = 1;
	q.page_token = (char *)token;
	cr_assert_eq(ask("ListGroups", &q.base, D(list_groups_response), &answer), RPC_OK);
	a = (Mcmesh__V1__ListGroupsResponse *)answer;
	cr_assert_eq(a->n_groups, 1);
	n = a->groups[0]->n_nodes;
	snprintf(ret_group, 64, "%s", a->groups[0]->group);
	snprintf(ret_token, 256, "%s", a->next_page_token);
	protobuf_c_message_free_unpacked(answer, NULL);
	return n;
}

Test(operators, pages_of_groups_are_whole_groups)
{
	static struct agent a, b;
	char group[64], token[256];

	two_agents(&a, &b);
	agent_report(&b, 2, false, 1);
	agent_report(&b, 3, false, 2);
	cr_assert_eq(groups_page("", group, token), 1);
	agent_report(&a, 2, false, 2); /* before the row that the token names */
	cr_assert_eq(groups_page(token, group, token), 2);
	cr_assert_str_eq(group, "239.1.1.2");
	cr_assert_str_eq(token, "");
	agent_report(&b, 4, true, 1); /* 2 is n1's alone */
	agent_report(&a, 3, true, 0);
	groups_page("", group, token);
	cr_assert_str_eq(token, "", "a group that is gone is no next page");
}

/* ---- static members ------------------------------------------------------------- */

static unsigned int configs, deletions;
static char config_last[128];

static void on_config(const Mcmesh__V1__ConfigChange *change)
{
	const Mcmesh__V1__StaticPort *p = change->config->static_ports[0];

	cr_assert_eq(change->config->n_static_ports, 1);
	configs++;
	deletions += change->deleted;
	snprintf(config_last, sizeof(config_last), "%s %s %u.%u.%u.%u %d", p->node, p->port,
		 p->group.data[0], p->group.data[1], p->group.data[2], p->group.data[3], p->mode);
}

static Mcmesh__V1__Filter__Mode static_mode = MCMESH__V1__FILTER__MODE__EXCLUDE;

static int static_add(const char *port, const char *group)
{
	Mcmesh__V1__AddStaticMemberRequest q = MCMESH__V1__ADD_STATIC_MEMBER_REQUEST__INIT;
	Mcmesh__V1__StaticMember m = MCMESH__V1__STATIC_MEMBER__INIT;

	m.node = (char *)"n1";
	m.port = (char *)port;
	m.group = (char *)group;
	m.mode = static_mode;
	q.member = &m;
	return ask("AddStaticMember", &q.base, D(add_static_member_response), NULL);
}

static void static_page(const char *token, char ret_port[64], char ret_token[256])
{
	Mcmesh__V1__ListStaticMembersRequest q = MCMESH__V1__LIST_STATIC_MEMBERS_REQUEST__INIT;
	Mcmesh__V1__ListStaticMembersResponse *a;
	ProtobufCMessage *answer;

	q.page_size = 1;
	q.page_token = (char *)token;
	cr_assert_eq(ask("ListStaticMembers", &q.base, D(list_static_members_response), &answer),
		     RPC_OK);
	a = (Mcmesh__V1__ListStaticMembersResponse *)answer;
	snprintf(ret_port, 64, "%s", a->n_members ? a->members[0]->port : "");
	snprintf(ret_token, 256, "%s", a->next_page_token);
	protobuf_c_message_free_unpacked(answer, NULL);
}

Test(operators, S05_static_members_go_down_as_configuration)
{
	Mcmesh__V1__RemoveStaticMemberRequest q = MCMESH__V1__REMOVE_STATIC_MEMBER_REQUEST__INIT;
	static struct agent a = { .on_config = on_config }, late = { .on_config = on_config };
	char port[64], token[256];

	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	UNTIL(a.session);
	cr_assert_eq(static_add("p1", "239.9.9.9"), RPC_OK);
	UNTIL(configs == 1);
	cr_assert_str_eq(config_last, "n1 p1 239.9.9.9 1");
	cr_assert_eq(static_add("p2", "239.9.9.9"), RPC_OK);
	UNTIL(configs == 2);
	static_page("", port, token);
	cr_assert_str_eq(port, "p1");
	static_page(token, port, token);
	cr_assert_str_eq(port, "p2");
	cr_assert_str_eq(token, "");
	cr_assert_eq(static_add("p1", "10.0.0.1"), RPC_INVALID_ARGUMENT);
	cr_assert_eq(static_add("", "239.9.9.9"), RPC_INVALID_ARGUMENT);
	cr_assert_eq(static_add("a/b", "239.9.9.9"), RPC_INVALID_ARGUMENT);
	cr_assert_eq(static_add("a b", "239.9.9.9"), RPC_INVALID_ARGUMENT);
	cr_assert_eq(static_add("..", "239.9.9.9"), RPC_INVALID_ARGUMENT);
	static_mode = (Mcmesh__V1__Filter__Mode)9;
	cr_assert_eq(static_add("p3", "239.9.9.9"), RPC_INVALID_ARGUMENT);
	static_mode = MCMESH__V1__FILTER__MODE__EXCLUDE;
	q.node = (char *)"n1";
	q.port = (char *)"p1";
	q.group = (char *)"239.9.9.9";
	cr_assert_eq(ask("RemoveStaticMember", &q.base, D(remove_static_member_response), NULL),
		     RPC_OK);
	UNTIL(deletions == 1);
	cr_assert_eq(ask("RemoveStaticMember", &q.base, D(remove_static_member_response), NULL),
		     RPC_NOT_FOUND);
	static_page("", port, token);
	cr_assert_str_eq(port, "p2");
	configs = 0;
	agent_open(&late, &(struct hello){ .node = "n2", .vtep = 2, .instance = 2 });
	UNTIL(late.snapshots && configs); /* in the snapshot of segment 0 */
	cr_assert(strncmp(config_last, "n1 p", 4) == 0);
}

/* ---- settings by file ------------------------------------------------------------ */

static unsigned int settings, settings_defaults, settings_100;

static void on_settings(const Mcmesh__V1__ConfigChange *change)
{
	const Mcmesh__V1__SegmentConfig *s = change->config;

	settings++;
	if (change->segment == 0)
		settings_defaults +=
			s->unregistered == MCMESH__V1__SEGMENT_CONFIG__UNREGISTERED__ROUTER_PORTS &&
			s->query_interval_ms == 20000 && s->querier == 0;
	else if (change->segment == 100)
		settings_100 +=
			s->link_local_across_nodes == MCMESH__V1__SEGMENT_CONFIG__SWITCH__ON &&
			s->max_groups_per_port == 7 && s->query_interval_ms == 0 &&
			s->membership_interval_ms == 300000 && s->last_member_query_count == 5 &&
			s->startup_query_interval_ms == 700 && s->startup_query_count == 6 &&
			s->accept_global_mld_source == MCMESH__V1__SEGMENT_CONFIG__SWITCH__ON;
	cr_assert_eq(s->n_static_ports, 0);
}

static void configure_segments(struct controller_config *into)
{
	struct log_config defaults = {
		.unregistered = MCMESH__V1__SEGMENT_CONFIG__UNREGISTERED__ROUTER_PORTS,
		.query_interval_ms = 20000,
	};
	struct log_config one = {
		.link_local_across_nodes = MCMESH__V1__SEGMENT_CONFIG__SWITCH__ON,
		.max_groups_per_port = 7,
		.membership_interval_ms = 300000,
		.last_member_query_count = 5,
		.startup_query_interval_ms = 700,
		.startup_query_count = 6,
		.accept_global_mld_source = MCMESH__V1__SEGMENT_CONFIG__SWITCH__ON,
	};

	cr_assert_eq(controller_config_add_segment(into, 0, &defaults), 0);
	cr_assert_eq(controller_config_add_segment(into, 100, &one), 0);
	cr_assert_neq(controller_config_add_segment(into, 100, &one), 0);
}

static void setup_segments(void)
{
	setup_with(configure_segments);
}

TestSuite(segments, .init = setup_segments, .fini = teardown, .timeout = 60);

Test(segments, agents_get_the_settings_of_the_file)
{
	static struct agent a = { .on_config = on_settings };

	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	UNTIL(a.revision0 && settings == 2);
	cr_assert_eq(settings_defaults, 1);
	cr_assert_eq(settings_100, 1);
}

/* ---- drains ----------------------------------------------------------------------- */

static int drain(const char *node, bool cancel)
{
	Mcmesh__V1__DrainNodeRequest q = MCMESH__V1__DRAIN_NODE_REQUEST__INIT;

	q.node = (char *)node;
	q.cancel = cancel;
	return ask("DrainNode", &q.base, D(drain_node_response), NULL);
}

Test(operators, S11_members_of_a_drained_node_go_when_its_session_ends)
{
	static struct agent a, b, again;

	two_agents(&a, &b);
	agent_report(&a, 2, false, 7);
	UNTIL(b.deltas == 1);
	cr_assert_eq(drain("nobody", false), RPC_NOT_FOUND);
	cr_assert_eq(drain("n1", false), RPC_OK);
	cr_assert_eq(drain("n1", true), RPC_OK);
	rpc_call_cancel(a.call);
	UNTIL(a.closed && !registry_find(c->registry, "n1")->session);
	turn();
	cr_assert_eq(log_node_find(c->log, "n1")->n_members, 1, "the drain was cancelled");
	agent_open(&again, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1, .attempt = 1 });
	UNTIL(again.session);
	cr_assert_eq(drain("n1", false), RPC_OK);
	turn();
	cr_assert_eq(log_node_find(c->log, "n1")->n_members, 1, "its traffic goes on");
	rpc_call_cancel(again.call);
	UNTIL(b.deltas == 2);
	cr_assert_null(registry_find(c->registry, "n1"));
	cr_assert_eq(b.changes, 1);
}

/* ---- questions --------------------------------------------------------------------- */

static void answer_part(struct agent *a, uint64_t id, const char *group, bool more)
{
	Mcmesh__V1__Answer answer = MCMESH__V1__ANSWER__INIT;
	Mcmesh__V1__Route route = MCMESH__V1__ROUTE__INIT, *routes = &route;
	char *ports = (char *)"p1";

	route.segment = 1;
	route.group = (char *)group;
	route.source = (char *)"*";
	route.n_ports = 1;
	route.ports = &ports;
	answer.id = id;
	answer.more = more;
	answer.n_routes = 1;
	answer.routes = &routes;
	agent_send(a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_ANSWER, &answer);
}

static void on_query(struct agent *a, const Mcmesh__V1__Query *query)
{
	Mcmesh__V1__Answer verify = MCMESH__V1__ANSWER__INIT;

	if (query->query_case == MCMESH__V1__QUERY__QUERY_VERIFY) {
		verify.id = query->id;
		agent_send(a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_ANSWER, &verify);
		return;
	}
	answer_part(a, query->id + 1000, "239.0.0.9", false); /* nobody asked for this one */
	answer_part(a, query->id, "239.0.0.1", true);
	answer_part(a, query->id, "239.0.0.2", true);
	answer_part(a, query->id, "239.0.0.3", false);
	answer_part(a, query->id, "239.0.0.4", false); /* after the end */
}

Test(operators, S23_routes_come_in_parts_as_one_answer)
{
	Mcmesh__V1__ListRoutesRequest q = MCMESH__V1__LIST_ROUTES_REQUEST__INIT;
	static struct agent a = { .on_query = on_query }, b;
	Mcmesh__V1__ListRoutesResponse *r;
	ProtobufCMessage *answer;

	two_agents(&a, &b);
	q.node = (char *)"n1";
	cr_assert_eq(ask("ListRoutes", &q.base, D(list_routes_response), &answer), RPC_OK);
	r = (Mcmesh__V1__ListRoutesResponse *)answer;
	cr_assert_eq(r->n_routes, 3);
	cr_assert_str_eq(r->routes[0]->group, "239.0.0.1");
	cr_assert_str_eq(r->routes[2]->group, "239.0.0.3");
	cr_assert_str_eq(r->routes[2]->ports[0], "p1");
	protobuf_c_message_free_unpacked(answer, NULL);
	q.node = (char *)"nobody";
	cr_assert_eq(ask("ListRoutes", &q.base, D(list_routes_response), NULL), RPC_NOT_FOUND);
	q.node = (char *)"n2"; /* says nothing */
	cr_assert_eq(ask("ListRoutes", &q.base, D(list_routes_response), NULL),
		     RPC_DEADLINE_EXCEEDED);
	rpc_call_cancel(b.call);
	UNTIL(b.closed && !registry_find(c->registry, "n2")->session);
	cr_assert_eq(ask("ListRoutes", &q.base, D(list_routes_response), NULL), RPC_UNAVAILABLE);
	cr_assert_not(a.closed);
}

/* Of a page that begins at the token: how many rows, the first one's group, the next token. */
static size_t routes_page(uint32_t size, const char *token, char ret_group[64], char ret_token[128])
{
	Mcmesh__V1__ListRoutesRequest q = MCMESH__V1__LIST_ROUTES_REQUEST__INIT;
	Mcmesh__V1__ListRoutesResponse *r;
	ProtobufCMessage *answer;
	size_t n;

	q.node = (char *)"n1";
	q.page_size = size;
	q.page_token = (char *)token;
	cr_assert_eq(ask("ListRoutes", &q.base, D(list_routes_response), &answer), RPC_OK);
	r = (Mcmesh__V1__ListRoutesResponse *)answer;
	n = r->n_routes;
	snprintf(ret_group, 64, "%s", n ? r->routes[0]->group : "");
	snprintf(ret_token, 128, "%s", r->next_page_token);
	cr_assert_eq(strlen(r->epoch), 2 * EPOCH_LEN);
	protobuf_c_message_free_unpacked(answer, NULL);
	return n;
}

Test(operators, S22_pages_of_routes_begin_at_a_key)
{
	static const char *const bad[] = { "x", "1/239.0.0.2", "1/239.0.0.2/*/", "1/x/*" };
	Mcmesh__V1__ListRoutesRequest q = MCMESH__V1__LIST_ROUTES_REQUEST__INIT;
	static struct agent a = { .on_query = on_query }, b;
	char group[64], token[128];

	two_agents(&a, &b);
	cr_expect_eq(routes_page(2, "", group, token), 2);
	cr_expect_str_eq(group, "239.0.0.1");
	cr_expect_eq(routes_page(2, token, group, token), 1);
	cr_expect_str_eq(group, "239.0.0.3");
	cr_expect_str_eq(token, "");
	cr_expect_eq(routes_page(3, "", group, token), 3);
	cr_expect_str_eq(token, "", "the page is full, and the list is at its end");
	/* The row that a token names is gone. */
	cr_expect_eq(routes_page(9, "1/239.0.0.2/192.0.2.1", group, token), 1);
	cr_expect_str_eq(group, "239.0.0.3");
	cr_expect_eq(routes_page(9, "2/239.0.0.1/*", group, token), 0);
	q.node = (char *)"n1";
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		q.page_token = (char *)bad[i];
		cr_expect_eq(ask("ListRoutes", &q.base, D(list_routes_response), NULL),
			     RPC_INVALID_ARGUMENT, "%s", bad[i]);
	}
}

#define LARGE_PARTS 8
#define LARGE_ROWS  100

/* Routes of 6 kB, 4.8 MB in all. */
static void on_query_large(struct agent *a, const Mcmesh__V1__Query *query)
{
	static char port[6000], groups[LARGE_ROWS][16];
	static Mcmesh__V1__Route routes[LARGE_ROWS], *rows[LARGE_ROWS];
	Mcmesh__V1__Answer answer = MCMESH__V1__ANSWER__INIT;
	static char *ports[] = { port };

	memset(port, 'p', sizeof(port) - 1);
	answer.id = query->id;
	answer.n_routes = LARGE_ROWS;
	answer.routes = rows;
	for (int part = 0; part < LARGE_PARTS; part++) {
		for (int i = 0; i < LARGE_ROWS; i++) {
			rows[i] = &routes[i];
			mcmesh__v1__route__init(rows[i]);
			snprintf(groups[i], sizeof(groups[i]), "239.0.%d.%d", part, i);
			routes[i].group = groups[i];
			routes[i].source = (char *)"*";
			routes[i].n_ports = 1;
			routes[i].ports = ports;
		}
		answer.more = part + 1 < LARGE_PARTS;
		agent_send(a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_ANSWER, &answer);
	}
}

Test(operators, S22_routes_beyond_one_message_are_pages)
{
	static struct agent a = { .on_query = on_query_large }, b;
	char group[64], token[128];
	size_t first, rest;

	two_agents(&a, &b);
	first = routes_page(0, "", group, token);
	cr_assert(token[0]);
	rest = routes_page(0, token, group, token);
	cr_expect_str_eq(token, "");
	cr_expect(first > 400 && rest > 200, "%zu, %zu", first, rest);
	cr_expect_eq(first + rest, LARGE_PARTS * LARGE_ROWS);
	cr_expect_not(a.closed);
}

struct waiting {
	bool answered, closed;
	uint32_t nodes;
};

static void wait_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	struct waiting *w = rpc_call_userdata(call);

	if (!message)
		return;
	w->answered = true;
	w->nodes = ((const Mcmesh__V1__WaitConvergedResponse *)message)->nodes;
}

static void wait_close(struct rpc_call *call, int status, const char *text)
{
	((struct waiting *)rpc_call_userdata(call))->closed = true;
}

Test(operators, S24_wait_converged_waits_for_the_last_agent)
{
	static const struct rpc_call_ops ops = { wait_message, NULL, wait_close };
	Mcmesh__V1__WaitConvergedRequest q = MCMESH__V1__WAIT_CONVERGED_REQUEST__INIT;
	static struct waiting w;
	struct rpc_call *call;
	static struct agent a, b;

	two_agents(&a, &b);
	agent_report(&a, 2, false, 7);
	UNTIL(a.deltas && b.deltas && a.revision0 && b.revision0);
	q.revision = log_revision(c->log) + 1;
	cr_assert_eq(ask("WaitConverged", &q.base, D(wait_converged_response), NULL),
		     RPC_OUT_OF_RANGE);
	q.revision = 0;
	cr_assert_eq(rpc_channel_call(channel, "/mcmesh.v1.MeshService/WaitConverged",
				      D(wait_converged_response), &ops, 0, &w, &call),
		     0);
	rpc_call_send(call, &q.base);
	rpc_call_finish(call, 0, "%s", "");
	agent_ack_right(&a);
	UNTIL(session_applied(registry_find(c->registry, "n1")->session) == log_revision(c->log));
	/* An answer to the first call would come before the one to this. */
	q.revision = log_revision(c->log) + 1;
	cr_assert_eq(ask("WaitConverged", &q.base, D(wait_converged_response), NULL),
		     RPC_OUT_OF_RANGE);
	cr_assert_not(w.answered, "n2 has not acknowledged");
	agent_ack_right(&b);
	UNTIL(w.closed);
	cr_assert(w.answered);
	cr_assert_eq(w.nodes, 2);
}

Test(operators, S23_verify_asks_and_compares)
{
	Mcmesh__V1__VerifyRequest q = MCMESH__V1__VERIFY_REQUEST__INIT;
	static struct agent a = { .on_query = on_query };
	Mcmesh__V1__VerifyResponse *r;
	ProtobufCMessage *answer;

	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	UNTIL(a.snapshots && a.revision0);
	cr_assert_eq(ask("Verify", &q.base, D(verify_response), &answer), RPC_OK);
	r = (Mcmesh__V1__VerifyResponse *)answer;
	cr_assert_eq(r->n_nodes, 1);
	cr_assert_not(r->nodes[0]->ok); /* it never acknowledged */
	cr_assert(strstr(r->nodes[0]->detail, "acknowledged"));
	protobuf_c_message_free_unpacked(answer, NULL);
	agent_report(&a, 1, true, 7);
	UNTIL(a.completes && a.revision0 >= log_segment_find(c->log, 0)->revision &&
	      a.revision >= log_segment_find(c->log, 1)->revision);
	agent_ack_right(&a);
	cr_assert_eq(ask("Verify", &q.base, D(verify_response), &answer), RPC_OK);
	r = (Mcmesh__V1__VerifyResponse *)answer;
	cr_assert(r->nodes[0]->ok, "%s", r->nodes[0]->detail);
	protobuf_c_message_free_unpacked(answer, NULL);
}

static Mcmesh__V1__VerifyResponse *verified(void)
{
	Mcmesh__V1__VerifyRequest q = MCMESH__V1__VERIFY_REQUEST__INIT;
	ProtobufCMessage *answer;

	cr_assert_eq(ask("Verify", &q.base, D(verify_response), &answer), RPC_OK);
	return (Mcmesh__V1__VerifyResponse *)answer;
}

static void on_query_go(struct agent *a, const Mcmesh__V1__Query *query)
{
	rpc_call_cancel(a->call);
}

Test(operators, S23_a_node_without_a_session_is_not_compared)
{
	Mcmesh__V1__VerifyRequest q = MCMESH__V1__VERIFY_REQUEST__INIT;
	static struct agent a = { .on_query = on_query }, b = { .on_query = on_query_go };
	Mcmesh__V1__VerifyResponse *r;

	two_agents(&a, &b);
	UNTIL(a.revision0 >= log_segment_find(c->log, 0)->revision);
	agent_ack_right(&a);
	/* The first time it goes when it is asked. */
	for (int i = 0; i < 2; i++) {
		r = verified();
		cr_assert_eq(r->n_nodes, 2);
		cr_expect(r->nodes[0]->ok, "%s", r->nodes[0]->detail);
		cr_expect(r->nodes[1]->ok, "%s", r->nodes[1]->detail);
		cr_expect_str_eq(r->nodes[1]->detail, "not connected: not compared");
		cr_expect_eq(r->not_compared, 1);
		cr_expect_eq(strlen(r->epoch), 2 * EPOCH_LEN);
		protobuf_c_message_free_unpacked(&r->base, NULL);
		UNTIL(b.closed && !registry_find(c->registry, "n2")->session);
	}
	q.node = (char *)"n2";
	cr_expect_eq(ask("Verify", &q.base, D(verify_response), NULL), RPC_UNAVAILABLE);
	q.node = (char *)"nobody";
	cr_expect_eq(ask("Verify", &q.base, D(verify_response), NULL), RPC_NOT_FOUND);
}
