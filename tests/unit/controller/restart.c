/* SPDX-License-Identifier: Apache-2.0 */
/* A controller whose store outlives it: what agents and operators find again. */
#include "harness.h"

#include <grpc/health/v1/health.pb-c.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "store_harness.h"

#define SERVING	    GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define NOT_SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING

static char *scratch;
static bool health_asked;
static Grpc__Health__V1__HealthCheckResponse__ServingStatus health_status;

static void configure(struct controller_config *into)
{
	char spec[256];

	scratch = scratch_new();
	snprintf(spec, sizeof(spec), "sqlite:%s/store.db", scratch);
	cr_assert_eq(controller_config_set_store(into, spec), 0);
}

static void setup_sqlite(void)
{
	setup_with(configure);
}

static void teardown_sqlite(void)
{
	teardown();
	scratch_free(scratch);
}

TestSuite(restart, .init = setup_sqlite, .fini = teardown_sqlite, .timeout = 60);

/* As after the hold time: the store is known to be whole. */
static void whole(void)
{
	registry_set_complete(c->registry);
	store_complete(c->store);
	turn();
}

static void reopen(struct agent *again, const struct agent *before, const char *node, uint8_t id)
{
	agent_open(again, &(struct hello){ .node = node,
					   .vtep = id,
					   .instance = id,
					   .attempt = before->session + 1,
					   .epoch = before->epoch,
					   .revision = before->revision,
					   .known = id == 1 ? "n2" : "n1" });
	UNTIL(again->session || again->closed);
}

/* The store decides in its turn: neither is known when the other says Hello. */
Test(restart, S20_of_two_nodes_with_one_vtep_at_once_the_first_stays)
{
	static struct agent a, b;
	struct agent *first, *other;

	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1 });
	agent_open(&b, &(struct hello){ .node = "n2", .vtep = 1, .instance = 2 });
	UNTIL((a.session && b.closed) || (b.session && a.closed));
	first = a.session ? &a : &b;
	other = a.session ? &b : &a;
	cr_assert_eq(other->status, RPC_ALREADY_EXISTS);
	cr_assert_eq(c->counters.conflicts, 1);
	agent_report(first, 1, true, 7);
	cr_assert_not(first->closed, "%s", first->text);
	cr_assert_eq(first->accepted, 1);
}

Test(restart, agents_resume_with_what_they_missed)
{
	static struct agent a, b, a2, b2;

	two_agents(&a, &b);
	agent_report(&a, 2, false, 7);
	agent_report(&a, 3, false, 8);
	UNTIL(b.revision == log_segment_find(c->log, 1)->revision);
	whole();
	restart();
	cr_assert(registry_is_complete(c->registry, controller_now_ms()));
	cr_assert_eq(registry_count(c->registry), 2);
	cr_assert_eq(registry_stale_count(c->registry), 2);
	cr_assert_null(registry_expired(c->registry, controller_now_ms() + config->hold_ms - 5000));
	cr_assert_eq(log_node_find(c->log, "n1")->n_members, 2);
	reopen(&a2, &a, "n1", 1);
	cr_assert_arr_eq(a2.epoch, a.epoch, EPOCH_LEN);
	cr_assert_gt(a2.session, a.session);
	agent_report(&a2, 3, true, 8); /* repeated: it was committed before the end */
	agent_report(&a2, 4, false, 9);
	reopen(&b2, &b, "n2", 2);
	UNTIL(b2.deltas == 1);
	cr_assert_eq(b2.previous, b.revision);
	cr_assert_eq(b2.changes, 1);
	cr_assert_eq(c->counters.snapshots, 2, "of segment 0, whose revision no Hello here names");
	cr_assert_eq(a2.snapshots + b2.snapshots, 0);
	cr_assert_eq(log_node_find(c->log, "n1")->n_members, 3);
	agent_ack_right(&b2);
	UNTIL(c->counters.resync_digest == 0 && b2.revision == log_revision(c->log));
}

/* A controller that was not there long enough to know all does not say that it does. */
Test(restart, log_that_was_not_whole_is_not_whole_after)
{
	static struct agent a, b, a2, b2;

	two_agents(&a, &b);
	agent_report(&a, 2, false, 7);
	restart();
	cr_assert_not(registry_is_complete(c->registry, controller_now_ms()));
	reopen(&a2, &a, "n1", 1);
	agent_report(&a2, 3, true, 7);
	cr_assert_not(registry_is_complete(c->registry, controller_now_ms()));
	reopen(&b2, &b, "n2", 2);
	agent_report(&b2, 2, true, 0);
	UNTIL(b2.completes && a2.completes);
}

static int add_static(const char *group)
{
	Mcmesh__V1__AddStaticMemberRequest q = MCMESH__V1__ADD_STATIC_MEMBER_REQUEST__INIT;
	Mcmesh__V1__StaticMember m = MCMESH__V1__STATIC_MEMBER__INIT;

	m.node = (char *)"n1";
	m.port = (char *)"p1";
	m.group = (char *)group;
	m.mode = MCMESH__V1__FILTER__MODE__EXCLUDE;
	q.member = &m;
	return ask("AddStaticMember", &q.base, &mcmesh__v1__add_static_member_response__descriptor,
		   NULL);
}

Test(restart, operators_static_members_stay_and_the_file_owns_the_settings)
{
	const struct log_config before = { .robustness = 3 }, after = { .robustness = 5 };
	struct addr group;

	cr_assert_eq(addr_parse("239.3.3.3", &group), 0);
	cr_assert_eq(add_static("239.3.3.3"), RPC_OK);
	cr_assert_eq(controller_config_add_segment(config, 7, &before), 0);
	cr_assert_eq(controller_config_add_segment(config, 8, &before), 0);
	restart();
	cr_assert_not_null(log_find_live(c->log, LOG_STATIC, 0, "n1", &group, "p1"));
	UNTIL(log_config_find(c->log, 7) && log_config_find(c->log, 8));
	config->segments_count = 0;
	cr_assert_eq(controller_config_add_segment(config, 7, &after), 0);
	restart();
	cr_assert_not_null(log_find_live(c->log, LOG_STATIC, 0, "n1", &group, "p1"));
	UNTIL(log_config_find(c->log, 7)->config->robustness == 5 && !log_config_find(c->log, 8));
}

Test(restart, agent_that_is_ahead_begins_an_epoch_for_all)
{
	static struct agent a, b, a2, b2, again;
	uint8_t renewed[EPOCH_LEN];

	two_agents(&a, &b);
	agent_report(&b, 2, false, 7);
	whole();
	UNTIL(a.deltas);
	a.revision += 1000; /* the store is an older copy */
	rpc_call_cancel(a.call);
	UNTIL(a.closed);
	agent_open(&a2, &(struct hello){ .node = "n1",
					 .vtep = 1,
					 .instance = 1,
					 .attempt = 1,
					 .epoch = a.epoch,
					 .revision = a.revision,
					 .known = "n2" });
	UNTIL(a2.closed && b.closed);
	cr_assert_eq(a2.status, RPC_UNAVAILABLE);
	cr_assert_eq(b.status, RPC_UNAVAILABLE);
	cr_assert_not_null(strstr(b.text, "new epoch"), "%s", b.text);
	cr_assert_arr_neq(log_epoch(c->log), a.epoch, EPOCH_LEN);
	/* What the store still had stays until both have said what is. */
	agent_open(&a2, &(struct hello){ .node = "n1",
					 .vtep = 1,
					 .instance = 1,
					 .attempt = 2,
					 .epoch = a.epoch,
					 .revision = a.revision,
					 .known = "n2" });
	UNTIL(a2.snapshots == 1);
	cr_assert_eq(a2.completes, 0);
	cr_assert_eq(a2.rows, 1);
	agent_report(&a2, 1, true, 0);
	cr_assert_not(registry_is_complete(c->registry, controller_now_ms()));
	agent_open(&b2, &(struct hello){ .node = "n2", .vtep = 2, .instance = 2, .attempt = 1 });
	agent_report(&b2, 3, true, 7);
	UNTIL(a2.completes && b2.completes);
	agent_ack_right(&a2);
	cr_assert_eq(c->counters.resync_digest, 0);
	/* In this epoch nobody honest is ahead: the liar is alone. */
	memcpy(renewed, log_epoch(c->log), EPOCH_LEN);
	agent_open(&again, &(struct hello){ .node = "n3",
					    .vtep = 3,
					    .instance = 3,
					    .epoch = renewed,
					    .revision = 1000000 });
	UNTIL(again.snapshots == 1);
	cr_assert_not(a2.closed);
	cr_assert_arr_eq(log_epoch(c->log), renewed, EPOCH_LEN);
	restart();
	cr_assert_arr_eq(log_epoch(c->log), renewed, EPOCH_LEN);
}

static void health_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	if (message)
		health_status = ((const Grpc__Health__V1__HealthCheckResponse *)message)->status;
}

static void health_close(struct rpc_call *call, int status, const char *text)
{
	health_asked = false;
}

static Grpc__Health__V1__HealthCheckResponse__ServingStatus health(void)
{
	static const struct rpc_call_ops ops = { health_message, NULL, health_close };
	Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
	struct rpc_call *call;

	health_asked = true;
	cr_assert_eq(rpc_channel_call(channel, "/grpc.health.v1.Health/Check",
				      &grpc__health__v1__health_check_response__descriptor, &ops, 0,
				      NULL, &call),
		     0);
	rpc_call_send(call, &q.base);
	rpc_call_finish(call, 0, "%s", "");
	UNTIL(!health_asked);
	return health_status;
}

/* A full disk, or as here a limit of the file's size. */
Test(restart, reports_wait_for_a_store_that_cannot_write)
{
	Mcmesh__V1__Report r = MCMESH__V1__REPORT__INIT;
	Mcmesh__V1__MemberChange m = MCMESH__V1__MEMBER_CHANGE__INIT, *members = &m;
	uint8_t group[4] = { 239, 1, 1, 7 };
	struct rlimit none, all;
	static struct agent a, b, late;

	signal(SIGXFSZ, SIG_IGN);
	two_agents(&a, &b);
	cr_assert_eq(getrlimit(RLIMIT_FSIZE, &all), 0);
	none = all;
	none.rlim_cur = 0;
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &none), 0);
	m.segment = 1;
	m.group = (ProtobufCBinaryData){ 4, group };
	m.mode = MCMESH__V1__FILTER__MODE__EXCLUDE;
	r.sequence = 2;
	r.n_members = 1;
	r.members = &members;
	agent_send(&a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_REPORT, &r);
	UNTIL(c->store->trouble && c->store->failures > 2);
	cr_assert_eq(add_static("239.3.3.3"), RPC_UNAVAILABLE);
	cr_assert_not_null(strstr(ask_text, "store"), "%s", ask_text);
	agent_open(&late, &(struct hello){ .node = "n3", .vtep = 3, .instance = 3 });
	UNTIL(late.closed);
	cr_assert_eq(late.status, RPC_UNAVAILABLE);
	/* Nobody goes while nobody can be heard, and who was heard stays. */
	registry_heard(c->registry, registry_find(c->registry, "n2"),
		       controller_now_ms() - 2 * config->hold_ms);
	registry_heard(c->registry, registry_find(c->registry, "n1"), controller_now_ms());
	turn();
	turn();
	cr_assert_not_null(registry_find(c->registry, "n2"));
	cr_assert(a.accepted == 1 && !a.closed && !b.closed && !b.deltas);
	cr_assert(controller_is_serving(c), "a moment is no reason to go away");
	UNTIL(health() == NOT_SERVING);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &all), 0);
	UNTIL(a.accepted == 2 && b.deltas == 1);
	cr_assert_null(c->store->trouble);
	/* The silent have the hold time again, for they may have tried to come. */
	for (int i = 0; i < 5; i++)
		turn();
	cr_assert_eq(health(), SERVING);
	cr_assert_not_null(registry_find(c->registry, "n2"));
	cr_assert_eq(add_static("239.3.3.3"), RPC_OK);
	restart();
	cr_assert_eq(log_node_find(c->log, "n1")->n_members, 1);
}
