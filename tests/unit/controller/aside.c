/* SPDX-License-Identifier: Apache-2.0 */
/* What agents say aside: acknowledgements and heartbeats on a stream of their own. */
#include "harness.h"

static void configure(struct controller_config *settings)
{
	/* Nothing is sent but what the tests make. */
	settings->heartbeat_ms = 600000;
}

static void up(void)
{
	setup_with(configure);
}

TestSuite(aside, .init = up, .fini = teardown, .timeout = 60);

static int ended, ended_status;

static void on_close(struct rpc_call *call, int status, const char *text)
{
	ended++;
	ended_status = status;
}

/* The agent, but what it sends goes aside. */
static void aside_open_as(struct agent *ret_aside, const struct agent *a, const char *node,
			  uint64_t session)
{
	static const struct rpc_call_ops ops = { .on_close = on_close };
	Mcmesh__V1__Attach attach = MCMESH__V1__ATTACH__INIT;

	*ret_aside = *a;
	cr_assert_eq(rpc_channel_call(channel, "/mcmesh.v1.NodeService/Aside",
				      &mcmesh__v1__controller_message__descriptor, &ops, 0, NULL,
				      &ret_aside->call),
		     0);
	attach.node = (char *)node;
	attach.session = session;
	agent_send(ret_aside, MCMESH__V1__AGENT_MESSAGE__MESSAGE_ATTACH, &attach);
}

static void ack_aside(const struct agent *aside, const struct agent *a)
{
	struct agent as = *a;

	as.call = aside->call;
	agent_ack_right(&as);
}

static void turns(uint64_t ms)
{
	for (uint64_t end = controller_now_ms() + ms; controller_now_ms() < end;)
		turn();
}

Test(aside, S26_acks_aside_are_taken_at_once_and_heartbeats_when_something_is_sent)
{
	Mcmesh__V1__Heartbeat heartbeat = MCMESH__V1__HEARTBEAT__INIT;
	static struct agent a, b, aside;
	struct session *s;
	uint64_t heard_ms;

	two_agents(&a, &b);
	aside_open_as(&aside, &b, "n2", b.session);
	s = registry_find(c->registry, "n2")->session;
	UNTIL(s->aside);
	for (uint8_t i = 1; i <= 40; i++) {
		agent_report(&a, 1 + i, false, 10 + i);
		UNTIL(b.revision == log_segment_find(c->log, 1)->revision);
		cr_assert(session_owes(s));
		ack_aside(&aside, &b);
		UNTIL(session_has_applied(s, b.revision));
	}
	UNTIL(!session_owes(s));
	/* Two, because one in so many is read on in any case. */
	agent_send(&aside, MCMESH__V1__AGENT_MESSAGE__MESSAGE_HEARTBEAT, &heartbeat);
	turns(30);
	heard_ms = s->node->heard_ms;
	agent_send(&aside, MCMESH__V1__AGENT_MESSAGE__MESSAGE_HEARTBEAT, &heartbeat);
	turns(100);
	cr_assert_eq(s->node->heard_ms, heard_ms, "nothing was sent to the agent");
	agent_report(&a, 42, false, 100);
	UNTIL(s->node->heard_ms > heard_ms);
	cr_assert_eq(ended, 0);
	/* With its session it ends. */
	rpc_call_cancel(b.call);
	UNTIL(ended == 1);
	cr_assert_eq(ended_status, RPC_OK);
}

Test(aside, S26_only_the_session_of_now_has_one)
{
	static struct agent a, b, aside, wrong;

	two_agents(&a, &b);
	aside_open_as(&wrong, &b, "n2", b.session + 1);
	UNTIL(ended == 1);
	cr_assert_eq(ended_status, RPC_FAILED_PRECONDITION);
	aside_open_as(&wrong, &b, "n7", b.session);
	UNTIL(ended == 2);
	cr_assert_eq(ended_status, RPC_FAILED_PRECONDITION);
	aside_open_as(&aside, &b, "n2", b.session);
	UNTIL(((struct session *)registry_find(c->registry, "n2")->session)->aside);
	aside_open_as(&wrong, &b, "n2", b.session);
	UNTIL(ended == 3);
	cr_assert_eq(ended_status, RPC_FAILED_PRECONDITION, "it has one");
	/* Without it, Sync takes what it says. */
	rpc_call_cancel(aside.call);
	UNTIL(!((struct session *)registry_find(c->registry, "n2")->session)->aside);
	agent_report(&a, 2, false, 9);
	UNTIL(b.revision == log_segment_find(c->log, 1)->revision);
	agent_ack_right(&b);
	UNTIL(session_has_applied(registry_find(c->registry, "n2")->session, b.revision));
	cr_assert_not(b.closed);
}
