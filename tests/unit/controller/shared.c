/* SPDX-License-Identifier: Apache-2.0 */
/* Two controllers at one etcd, both in this process: what agents and operators see. */
#include "etcd_server.h"
#include "harness.h"

#include <errno.h>

static struct etcd_cluster cluster;
static struct controller_config *other_config;
static struct rpc_channel *other_channel;
static char spec[160];

static void configure_one(struct controller_config *one)
{
	char listen[32];

	snprintf(listen, sizeof(listen), "127.0.0.1:%d", etcd_free_port());
	cr_assert_eq(controller_config_set_listen(one, listen), 0);
	cr_assert_eq(controller_config_set_store(one, spec), 0);
	one->heartbeat_ms = 200;
	one->stale_ms = 1000;
	one->hold_ms = 2000;
}

/* Another life of the second controller. */
static void other_start(void)
{
	char why[CONTROLLER_WHY_MAX];

	cr_assert_eq(controller_new(other_config, rpc, NULL, &second, why), 0, "%s", why);
}

static void other_stop(void)
{
	controller_drain(second, "the test is over");
	UNTIL(second->stopped);
	controller_free(second);
	second = NULL;
}

static void setup_two(void)
{
	struct rpc_channel_options options = { 0 };
	char why[CONFIG_WHY_MAX];

	if (!etcd_is_installed())
		cr_skip_test("etcd is not installed: apt-get install etcd-server");
	etcd_cluster_start(&cluster, 1);
	snprintf(spec, sizeof(spec), "etcd:%s", cluster.endpoints);
	setup_with(configure_one);
	cr_assert_eq(controller_config_load(NULL, &other_config, why), 0);
	configure_one(other_config);
	other_start();
	options.target = other_config->listen[0];
	cr_assert_eq(rpc_channel_new(rpc, &options, &other_channel), 0);
}

static void teardown_two(void)
{
	if (!rpc)
		return;
	if (second)
		other_stop();
	rpc_channel_free(other_channel);
	teardown();
	controller_config_free(other_config);
	etcd_cluster_stop(&cluster);
}

TestSuite(shared, .init = setup_two, .fini = teardown_two, .timeout = 120);

static struct registry_node *known(const struct controller *at, const char *name)
{
	return registry_find(at->registry, name);
}

static bool is_elsewhere(const struct controller *at, const char *name)
{
	struct registry_node *node = known(at, name);

	return node && node->elsewhere && log_find_live(at->log, LOG_NODE, 0, name, NULL, NULL);
}

/* n1 at the first controller, n2 at the twin; both have reported. */
static void one_each(struct agent *a, struct agent *b)
{
	agent_open(a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	agent_open(b, &(struct hello){
			      .node = "n2", .vtep = 2, .instance = 2, .channel = other_channel });
	UNTIL(a->session && b->session && a->snapshots && b->snapshots);
	agent_report(a, 1, true, 0);
	agent_report(b, 1, true, 0);
	UNTIL(is_elsewhere(c, "n2") && is_elsewhere(second, "n1"));
}

static void beat(struct agent *a)
{
	Mcmesh__V1__Heartbeat heartbeat = MCMESH__V1__HEARTBEAT__INIT;

	if (!a->closed)
		agent_send(a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_HEARTBEAT, &heartbeat);
}

/* Agents that go on living while something else is waited for. */
#define UNTIL_WITH(a, b, condition)                              \
	do {                                                     \
		uint64_t _at = 0;                                \
		UNTIL(({                                         \
			if (controller_now_ms() > _at) {         \
				beat(a);                         \
				beat(b);                         \
				_at = controller_now_ms() + 200; \
			}                                        \
			(condition);                             \
		}));                                             \
	} while (0)

Test(shared, a_join_at_one_arrives_at_the_other)
{
	static struct agent a, b;

	one_each(&a, &b);
	agent_report(&a, 2, false, 7);
	UNTIL(b.deltas && b.changes == 1);
	cr_assert_eq(log_node_find(second->log, "n1")->n_members, 1);
}

Test(shared, one_name_one_agent_wherever_it_connects)
{
	static struct agent a, b, twin, vtep, newer;

	one_each(&a, &b);
	agent_open(&twin,
		   &(struct hello){
			   .node = "n1", .vtep = 9, .instance = 9, .channel = other_channel });
	agent_open(&vtep,
		   &(struct hello){
			   .node = "n7", .vtep = 1, .instance = 7, .channel = other_channel });
	UNTIL(twin.closed && vtep.closed);
	cr_assert_eq(twin.status, RPC_ALREADY_EXISTS);
	cr_assert_eq(vtep.status, RPC_ALREADY_EXISTS);
	cr_assert_not(a.closed);
	/* The same agent, by accident at both: the newer stream wins. */
	agent_open(&newer, &(struct hello){ .node = "n1",
					    .vtep = 1,
					    .instance = 1,
					    .attempt = 1,
					    .channel = other_channel });
	UNTIL(a.closed && newer.session);
	cr_assert_eq(a.status, RPC_ABORTED);
	UNTIL(is_elsewhere(c, "n1"));
	agent_report(&newer, 2, true, 5);
	cr_assert_eq(newer.accepted, 2);
}

Test(shared, an_agent_that_moves_gets_what_it_missed)
{
	static struct agent a, b, moved;

	one_each(&a, &b);
	agent_report(&b, 2, false, 7);
	UNTIL(a.deltas);
	rpc_call_cancel(a.call);
	UNTIL(a.closed);
	agent_report(&b, 3, false, 8);
	agent_open(&moved, &(struct hello){ .node = "n1",
					    .vtep = 1,
					    .instance = 1,
					    .attempt = 1,
					    .epoch = a.epoch,
					    .revision = a.revision,
					    .channel = other_channel });
	UNTIL(moved.deltas == 1);
	cr_assert_eq(moved.snapshots, 0);
	cr_assert_eq(moved.previous, a.revision);
}

Test(shared, a_restarted_controller_sends_no_snapshots)
{
	static struct agent a, b, again;

	one_each(&a, &b);
	agent_report(&b, 2, false, 7);
	UNTIL(b.accepted == 2);
	agent_ack_right(&b);
	other_stop();
	UNTIL(b.closed);
	agent_report(&a, 2, false, 8);
	other_start();
	agent_open(&again, &(struct hello){ .node = "n2",
					    .vtep = 2,
					    .instance = 2,
					    .attempt = 1,
					    .epoch = b.epoch,
					    .revision = b.revision,
					    .channel = other_channel });
	UNTIL(again.session && again.deltas);
	cr_assert_eq(again.snapshots, 0);
}

Test(shared, an_agent_ahead_waits_and_is_not_resynced)
{
	static struct agent a, b, ahead;
	uint64_t revision;

	one_each(&a, &b);
	revision = second->store->revision + 2;
	agent_open(&ahead, &(struct hello){ .node = "n1",
					    .vtep = 1,
					    .instance = 1,
					    .attempt = 1,
					    .epoch = a.epoch,
					    .revision = revision,
					    .channel = other_channel });
	UNTIL(ahead.session && second->store->revision >= revision);
	agent_report(&b, 2, false, 7);
	UNTIL(ahead.deltas);
	cr_assert_eq(ahead.snapshots + ahead.resyncs, 0);
	cr_assert_geq(ahead.previous, revision);
}

Test(shared, a_silent_node_is_removed_by_whoever_is_there)
{
	static struct agent a, b;

	one_each(&a, &b);
	agent_report(&b, 2, false, 7);
	UNTIL_WITH(&a, &b, log_node_find(c->log, "n2")->n_members == 1);
	other_stop(); /* and n2's agent goes nowhere else */
	UNTIL_WITH(&a, &a, known(c, "n2")->state == REGISTRY_STALE);
	cr_assert_eq(log_node_find(c->log, "n2")->n_members, 1, "only its controller died");
	UNTIL_WITH(&a, &a, !known(c, "n2"));
	cr_assert_eq(c->counters.nodes_expired, 1);
	other_start();
	cr_assert_null(log_find_live(second->log, LOG_NODE, 0, "n2", NULL, NULL));
}

Test(shared, a_removed_nodes_stream_ends_and_it_reports_again)
{
	static struct agent a, b, again;
	struct registry_node *node;

	one_each(&a, &b);
	agent_report(&b, 2, false, 7);
	UNTIL_WITH(&a, &b, log_node_find(c->log, "n2")->n_members == 1);
	/* As if the first had waited for the hold time. */
	node = known(c, "n2");
	registry_elsewhere(c->registry, node, false, controller_now_ms());
	controller_expire(c, node);
	UNTIL(b.closed);
	cr_assert_eq(b.status, RPC_UNAVAILABLE);
	UNTIL(!log_find_live(second->log, LOG_NODE, 0, "n2", NULL, NULL));
	agent_open(&again, &(struct hello){ .node = "n2",
					    .vtep = 2,
					    .instance = 2,
					    .attempt = 1,
					    .channel = other_channel });
	UNTIL(again.session);
	agent_report(&again, 2, true, 9);
	UNTIL(known(c, "n2") && log_node_find(c->log, "n2")->n_members == 1);
}

Test(shared, a_drain_is_known_to_both)
{
	Mcmesh__V1__DrainNodeRequest q = MCMESH__V1__DRAIN_NODE_REQUEST__INIT;
	static struct agent a, b;

	one_each(&a, &b);
	q.node = (char *)"n2";
	cr_assert_eq(ask("DrainNode", &q.base, &mcmesh__v1__drain_node_response__descriptor, NULL),
		     RPC_OK);
	UNTIL_WITH(&a, &b, known(c, "n2")->draining && known(second, "n2")->draining);
	rpc_call_cancel(b.call);
	UNTIL_WITH(&a, &a, !known(c, "n2") && !known(second, "n2"));
}

Test(shared, without_etcd_streams_are_shed_and_come_back)
{
	static struct agent a, b, again;

	one_each(&a, &b);
	etcd_member_kill(&cluster, 0);
	UNTIL_WITH(&a, &b, a.closed && b.closed);
	cr_assert_eq(a.status, RPC_UNAVAILABLE);
	agent_open(&again, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1, .attempt = 1 });
	UNTIL(again.closed);
	cr_assert_eq(again.status, RPC_UNAVAILABLE);
	cr_assert_not_null(known(c, "n2"), "nothing is withdrawn meanwhile");
	etcd_member_start(&cluster, 0);
	UNTIL(c->serving && second->serving);
	agent_open(&again, &(struct hello){ .node = "n1",
					    .vtep = 1,
					    .instance = 1,
					    .attempt = 2,
					    .epoch = a.epoch,
					    .revision = a.revision });
	UNTIL(again.session);
	agent_report(&again, 2, true, 3);
	cr_assert_eq(again.snapshots, 0);
	UNTIL(log_node_find(second->log, "n1")->n_members == 1);
}

static void answer_routes(struct agent *agent, const Mcmesh__V1__Query *query)
{
	Mcmesh__V1__Answer answer = MCMESH__V1__ANSWER__INIT;
	Mcmesh__V1__Route route = MCMESH__V1__ROUTE__INIT, *routes = &route;

	answer.id = query->id;
	route.group = (char *)"239.1.1.7";
	answer.n_routes = query->query_case == MCMESH__V1__QUERY__QUERY_ROUTES;
	answer.routes = &routes;
	agent_send(agent, MCMESH__V1__AGENT_MESSAGE__MESSAGE_ANSWER, &answer);
}

Test(shared, questions_reach_the_controller_that_has_the_node)
{
	Mcmesh__V1__ListRoutesRequest q = MCMESH__V1__LIST_ROUTES_REQUEST__INIT;
	Mcmesh__V1__ListNodesRequest n = MCMESH__V1__LIST_NODES_REQUEST__INIT;
	Mcmesh__V1__VerifyRequest v = MCMESH__V1__VERIFY_REQUEST__INIT;
	Mcmesh__V1__WaitConvergedRequest w = MCMESH__V1__WAIT_CONVERGED_REQUEST__INIT;
	Mcmesh__V1__ListRoutesResponse *routes;
	Mcmesh__V1__ListNodesResponse *nodes;
	Mcmesh__V1__VerifyResponse *verified;
	Mcmesh__V1__WaitConvergedResponse *converged;
	static struct agent a = { .on_query = answer_routes }, b = { .on_query = answer_routes };

	one_each(&a, &b);
	UNTIL(a.revision0 >= log_segment_find(c->log, 0)->revision &&
	      b.revision0 >= log_segment_find(c->log, 0)->revision);
	agent_ack_right(&a);
	agent_ack_right(&b);
	q.node = (char *)"n2";
	cr_assert_eq(ask("ListRoutes", &q.base, &mcmesh__v1__list_routes_response__descriptor,
			 (ProtobufCMessage **)&routes),
		     RPC_OK, "%s", ask_text);
	cr_assert_eq(routes->n_routes, 1);
	cr_assert_eq(ask("ListNodes", &n.base, &mcmesh__v1__list_nodes_response__descriptor,
			 (ProtobufCMessage **)&nodes),
		     RPC_OK);
	cr_assert_eq(nodes->n_nodes, 2);
	cr_assert_gt(nodes->nodes[1]->applied_revision, 0);
	cr_assert_eq(nodes->nodes[1]->state, MCMESH__V1__NODE__STATE__CONNECTED);
	cr_assert_eq(ask("Verify", &v.base, &mcmesh__v1__verify_response__descriptor,
			 (ProtobufCMessage **)&verified),
		     RPC_OK);
	cr_assert_eq(verified->n_nodes, 2);
	cr_assert(verified->nodes[0]->ok && verified->nodes[1]->ok, "%s; %s",
		  verified->nodes[0]->detail, verified->nodes[1]->detail);
	cr_assert_eq(ask("WaitConverged", &w.base, &mcmesh__v1__wait_converged_response__descriptor,
			 (ProtobufCMessage **)&converged),
		     RPC_OK, "%s", ask_text);
	cr_assert_eq(converged->nodes, 2);
	mcmesh__v1__list_routes_response__free_unpacked(routes, NULL);
	mcmesh__v1__list_nodes_response__free_unpacked(nodes, NULL);
	mcmesh__v1__verify_response__free_unpacked(verified, NULL);
	mcmesh__v1__wait_converged_response__free_unpacked(converged, NULL);
}

Test(shared, a_controller_that_does_not_answer_is_a_sentence)
{
	Mcmesh__V1__ListRoutesRequest q = MCMESH__V1__LIST_ROUTES_REQUEST__INIT;
	static struct agent a, b;
	struct controller *frozen;

	one_each(&a, &b);
	frozen = second;
	rpc_server_shutdown(second->server, 0, NULL, NULL); /* its etcd side lives */
	UNTIL(b.closed);
	registry_elsewhere(c->registry, known(c, "n2"), true, controller_now_ms());
	q.node = (char *)"n2";
	cr_assert_eq(
		ask("ListRoutes", &q.base, &mcmesh__v1__list_routes_response__descriptor, NULL),
		RPC_UNAVAILABLE);
	cr_assert_not_null(strstr(ask_text, "does not answer"), "%s", ask_text);
	second = NULL;
	controller_free(frozen);
}

Test(shared, a_new_epoch_begins_everywhere)
{
	static struct agent a, b;

	one_each(&a, &b);
	etcd_member_wipe(&cluster, 0);
	etcd_member_start(&cluster, 0);
	UNTIL(c->again && second->again && c->draining && second->draining);
	UNTIL(a.closed && b.closed);
	UNTIL(second->stopped);
	controller_free(second);
	second = NULL;
	other_start();
	cr_assert(second->store->is_fresh);
	cr_assert_arr_neq(log_epoch(second->log), a.epoch, EPOCH_LEN);
}

/* ---- one VTEP, two nodes ---------------------------------------------------------- */

static bool has_row(const struct controller *at, const char *name)
{
	return log_find_live(at->log, LOG_NODE, 0, name, NULL, NULL);
}

struct commit {
	int result;
	bool done;
};

static void on_session(void *userdata, int result, uint64_t session, uint64_t last)
{
	*(uint64_t *)userdata = result < 0 ? UINT64_MAX : session;
}

static void on_commit(void *userdata, int result, uint64_t revision)
{
	*(struct commit *)userdata = (struct commit){ result, true };
}

static uint64_t session_of(struct controller *at, const char *node, uint8_t instance)
{
	struct store_session q = { .node = node, .instance = { instance }, .attempt = 1 };
	uint64_t session = 0;

	store_session(at->store, &q, on_session, &session);
	UNTIL(session);
	cr_assert_neq(session, UINT64_MAX);
	return session;
}

static void commit_row(struct controller *at, const char *node, uint64_t session, uint8_t vtep,
		       struct commit *ret_commit)
{
	struct log_change change = { .kind = LOG_NODE, .node = node };
	struct store_txn txn = {
		.node = node, .session = session, .changes = &change, .n_changes = 1
	};
	char text[32];

	snprintf(text, sizeof(text), "203.0.113.%u", vtep);
	cr_assert_eq(addr_parse(text, &change.vtep), 0);
	*ret_commit = (struct commit){ 0 };
	store_commit(at->store, &txn, on_commit, ret_commit);
}

static void commit_member(struct controller *at, const char *node, uint64_t session,
			  struct commit *ret_commit)
{
	struct log_change change = {
		.kind = LOG_MEMBER, .node = node, .segment = 1, .filter.mode = FILTER_EXCLUDE
	};
	struct store_txn txn = {
		.node = node, .session = session, .changes = &change, .n_changes = 1
	};

	cr_assert_eq(addr_parse("239.1.1.1", &change.group), 0);
	*ret_commit = (struct commit){ 0 };
	store_commit(at->store, &txn, on_commit, ret_commit);
}

Test(shared, S20_a_vtep_claimed_at_two_controllers_at_once_is_the_firsts)
{
	uint64_t sessions[2] = { session_of(c, "n1", 1), session_of(second, "n2", 2) };
	struct commit rows[2], members[2];
	size_t loser;

	/* Neither has seen anything of the other. */
	commit_row(c, "n1", sessions[0], 1, &rows[0]);
	commit_row(second, "n2", sessions[1], 1, &rows[1]);
	commit_member(c, "n1", sessions[0], &members[0]);
	commit_member(second, "n2", sessions[1], &members[1]);
	UNTIL(rows[0].done && rows[1].done && members[0].done && members[1].done);
	loser = rows[0].result == 0;
	cr_assert_eq(rows[!loser].result, 0);
	cr_assert_eq(rows[loser].result, -EEXIST);
	cr_assert_eq(members[!loser].result, 0);
	cr_assert_lt(members[loser].result, 0, "no members of a node that is not there");
	UNTIL(has_row(c, loser ? "n1" : "n2") && has_row(second, loser ? "n1" : "n2"));
	cr_assert_not(has_row(c, loser ? "n2" : "n1"));
	/* Of one controller, in one transaction, too. */
	sessions[0] = session_of(c, "n3", 3);
	sessions[1] = session_of(c, "n4", 4);
	commit_row(c, "n3", sessions[0], 3, &rows[0]);
	commit_row(c, "n4", sessions[1], 3, &rows[1]);
	UNTIL(rows[0].done && rows[1].done);
	cr_assert_eq((rows[0].result == 0) + (rows[1].result == 0), 1);
	cr_assert_eq(rows[0].result + rows[1].result, -EEXIST);
}

Test(shared, S20_a_vtep_goes_with_its_node_and_by_a_move)
{
	uint64_t n1 = session_of(c, "n1", 1), n2 = session_of(second, "n2", 2);
	struct log_change gone = { .kind = LOG_NODE, .node = "n1", .deleted = true };
	struct store_txn removal = {
		.node = "n1", .session = n1, .removes_node = true, .changes = &gone, .n_changes = 1
	};
	struct commit one, two;

	commit_row(c, "n1", n1, 1, &one);
	UNTIL(one.done && has_row(second, "n1"));
	commit_row(second, "n2", n2, 1, &two);
	UNTIL(two.done);
	cr_assert_eq(two.result, -EEXIST);
	/* n1 moves to another address: the first is free. */
	commit_row(c, "n1", n1, 9, &one);
	UNTIL(one.done);
	cr_assert_eq(one.result, 0);
	n2 = session_of(second, "n5", 5);
	commit_row(second, "n5", n2, 1, &two);
	UNTIL(two.done);
	cr_assert_eq(two.result, 0);
	/* n1 is removed: so is the second. */
	store_commit(c->store, &removal, on_commit, &one);
	one.done = false;
	UNTIL(one.done);
	cr_assert_eq(one.result, 0);
	UNTIL(!has_row(second, "n1"));
	commit_row(second, "n5", n2, 9, &two);
	UNTIL(two.done);
	cr_assert_eq(two.result, 0);
	/* One that nobody hears keeps nothing from others. */
	n1 = session_of(c, "n6", 6);
	commit_row(c, "n6", n1, 6, &one);
	UNTIL(one.done);
	UNTIL(is_elsewhere(second, "n6"));
	store_publish(c->store, "n6", n1, false);
	UNTIL(!is_elsewhere(second, "n6"));
	n2 = session_of(second, "n7", 7);
	commit_row(second, "n7", n2, 6, &two);
	UNTIL(two.done);
	cr_assert_eq(two.result, 0);
}

Test(shared, S20_agents_with_one_vtep_at_two_controllers)
{
	static struct agent a, b;
	struct agent *first, *other;

	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	agent_open(&b, &(struct hello){
			       .node = "n2", .vtep = 1, .instance = 2, .channel = other_channel });
	UNTIL(a.closed || b.closed);
	first = a.closed ? &b : &a;
	other = a.closed ? &a : &b;
	cr_assert_eq(other->status, RPC_ALREADY_EXISTS, "%d %s", other->status, other->text);
	UNTIL(first->session);
	agent_report(first, 1, true, 7);
	cr_assert_eq(first->accepted, 1);
	UNTIL(has_row(c, first == &a ? "n1" : "n2"));
	cr_assert_not(has_row(c, first == &a ? "n2" : "n1"));
}

/* ---- an etcd that takes less than is needed ------------------------------------------ */

Test(shared_limits, S16_an_etcd_with_small_transactions_is_told_at_the_start, .timeout = 60)
{
	char why[CONTROLLER_WHY_MAX];
	struct controller *none;

	if (!etcd_is_installed())
		cr_skip_test("etcd is not installed: apt-get install etcd-server");
	etcd_arguments = " --max-txn-ops 127";
	etcd_cluster_start(&cluster, 1);
	snprintf(spec, sizeof(spec), "etcd:%s", cluster.endpoints);
	cr_assert_eq(controller_config_load(NULL, &config, why), 0);
	configure_one(config);
	cr_assert_eq(rpc_new(&rpc), 0);
	cr_assert_lt(controller_new(config, rpc, NULL, &none, why), 0);
	cr_assert_not_null(strstr(why, "--max-txn-ops 128"), "%s", why);
	rpc_free(rpc);
	controller_config_free(config);
	etcd_cluster_stop(&cluster);
}
