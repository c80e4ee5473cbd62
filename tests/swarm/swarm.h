/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * DOC: mcmesh-swarm, many agents in one process
 *
 * Each simulated agent is the real uplink (node/uplink.c) on a gRPC channel,
 * connection and stream of its own; only its mirror is shared (flock.h) and
 * there is no datapath: what it is told counts as applied at once. One thread,
 * the completion queue is its loop; the agents' timers hang in a wheel.
 *
 *   main.c      options; commands line by line (scenario.c), answers as JSON
 *   swarm.c     agents, their streams, their timers
 *   flock.c     what the agents know
 *
 * Agents connect at most `connecting` at a time.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "common/rpc.h"
#include "node/aside.h"
#include "node/uplink.h"
#include "tests/swarm/flock.h"

#define SWARM_AGENTS_MAX      16000
#define SWARM_CONTROLLERS_MAX 32
#define SWARM_WHEEL	      4096 /* slots of a millisecond */
#define SWARM_SAMPLES_MAX     65536

struct swarm_options {
	const char *controllers[SWARM_CONTROLLERS_MAX + 1];
	const char *prefix;
	const char *pki; /* ca.pem; NAME.pem and NAME.key of each agent, and of `read` */
	uint32_t agents, full, groups, overlap, segments, first_segment, connecting;
	uint32_t vtep_base; /* host order */
	uint32_t group_base;
	uint64_t seed;
};

struct swarm_agent {
	struct swarm *swarm;
	uint32_t index, segment;
	char name[64];
	struct uplink *uplink;
	struct mirror *mirror;
	struct rpc_tls *tls;
	struct rpc_channel *channel;
	struct rpc_call *call;
	struct link_aside aside;
	bool up, counts_as_connecting, dirty, queued, opening;
	uint64_t slot; /* in the wheel: due then */
	uint64_t reported, accepted, accepted_revision;
	uint64_t reported_us;
	uint64_t applied_us; /* the last move of its segment */
	bool *wants;	     /* of its own groups */
	TAILQ_ENTRY(swarm_agent) timer, link;
};

TAILQ_HEAD(swarm_agents, swarm_agent);

struct swarm {
	struct swarm_options options;
	struct rpc *rpc;
	struct rpc_tls *tls; /* an operator's */
	struct flock *flock;
	struct swarm_agent *agents;
	struct swarm_agents wheel[SWARM_WHEEL];
	struct swarm_agents dirty, queue;
	uint64_t wheel_ms;
	uint32_t n_connecting, n_up, n_lost;
	uint64_t random;
	uint64_t *members; /* of each segment: what the agents want */
	uint64_t rows_reported;
	/* From a report to its Accepted, the newest SWARM_SAMPLES_MAX. */
	uint32_t *accept_us;
	size_t n_accepts;
};

uint64_t swarm_now_us(void);
uint64_t swarm_now_ms(void);
uint64_t swarm_random(struct swarm *s, uint64_t below);

int swarm_new(const struct swarm_options *options, struct swarm **ret_swarm);
void swarm_free(struct swarm *s);

/* One turn: what arrived, what is due; waits until at most until_ms. */
void swarm_turn(struct swarm *s, uint64_t until_ms);

/* A member of any group of the agent's segment; reported at the end of the turn. */
void swarm_member_set(struct swarm_agent *a, uint32_t group, bool on);
/* The agent's k-th group: the other of joined and left. */
void swarm_toggle(struct swarm_agent *a, uint32_t k);

/* Has the agent a session, everything reported, and been told all members of
 * its segment? */
bool swarm_agent_is_synced(const struct swarm_agent *a);

struct swarm_sum {
	uint64_t counters[UPLINK_C_COUNT];
	uint64_t least_revision, greatest_revision; /* of the agents' own segments */
};

void swarm_sum(const struct swarm *s, struct swarm_sum *ret_sum);

/* ---- scenario.c ------------------------------------------------------------------ */

/* Commands from stdin until `quit` or its end; 0 or 1. */
int scenario_commands(struct swarm *s);
/* Connect, churn for so long, and say what was seen. */
int scenario_run(struct swarm *s, uint32_t changes_a_second, uint32_t seconds);
