/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * DOC: the simulation
 *
 * The real controller (all of controller/ but main) and the real state machines
 * of the agents (uplink, mirror, fib) in one process, on a clock that only
 * events move. What stands in for the rest:
 *
 *   net.c      common/rpc.h on made-up wires (net_rpc.c has its calls): latency,
 *              lost connections and streams, frozen processes, cuts of either
 *              direction, backpressure; every message is packed and unpacked, so the
 *              wire format is the real one. Each stream has an order of its own
 *   db.c       a store that outlives its controllers, with delays and outages
 *   db_shared.c  the same for several controllers, after etcd*.c: sessions by
 *              compare and swap, leases, a watch for each that may lag or be cut
 *   node.c     an agent: what agent.c and link.c do, on a table for the maps; its
 *              second stream is the real one (node/aside.c)
 *   world.c    what the workloads want, faults, and the laws
 *   main.c     seeds
 *
 * A seed decides everything, so it reproduces a run exactly. The product is
 * compiled for this with small limits (CMakeLists.txt), so that a mesh of a few
 * nodes meets chunks, cut deltas, slow agents and forgotten tombstones.
 *
 * One run in five has two controllers, one in five three. What is asked of a store
 * that a controller is cut off from fails, and one commit in 200 fails with a part of
 * it in.
 *
 * Three rules cannot be seen from here, as the laws hold without them too, so unit
 * tests show them:
 *   - An older row never replaces a newer (S08). A controller sends a segment's
 *     rows in the order of their revisions, a snapshot's too, and no deltas between
 *     its chunks. So an older row comes later only from another controller that lags,
 *     to an agent whose last snapshot was not finished; it is right again with the
 *     deltas that follow, and the laws look at what has been so since the last quiet.
 *   - What was in flight when a session ended is due again. The next session's full
 *     report names it anyway; the rule matters before an agent knows its members
 *     (whole_at_ms), for less than a second here.
 *   - What is acknowledged aside is read at once (S26): with the next heartbeat it is
 *     read in any case, and no law counts milliseconds.
 * A store that does not fence older sessions is seen since there are controllers
 * that lag behind another's session.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/rpc.h"

/* ---- clock, events, chance ------------------------------------------------------- */

#define SIM_MS 1000ull /* the clock's unit is a microsecond */
#define SIM_S  1000000ull

extern uint64_t sim_now;

static inline uint64_t sim_now_ms(void)
{
	return sim_now / SIM_MS;
}

void sim_reset(uint64_t seed);
/* Frees what is left; every process must have ended. */
void sim_end(void);

/* fn runs once, at the time; never before a later sim_step(). */
void sim_at(uint64_t when_us, void (*fn)(void *arg), void *arg);
/* Runs what is due next; false: nothing until then, and the clock is there. */
bool sim_step(uint64_t until_us);

uint64_t sim_random(uint64_t n); /* [0, n) */
bool sim_chance(unsigned int percent);

void sim_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The law that does not hold; the run ends. */
void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
extern bool sim_tracing, sim_failed;

/* ---- network --------------------------------------------------------------------- */

/* A process. Its host is a letter: 'A'… for machines that a cut can part. */
struct rpc *sim_process_new(const char *name, unsigned int host);
/* kill -9: peers see a reset, if the network lets it through. */
void sim_process_kill(struct rpc *rpc);
void sim_process_freeze(struct rpc *rpc, bool frozen);
/* Its connections break, both ends learn it. */
void sim_connections_lose(struct rpc *rpc);
/* One of them alone; with what its peer was still to be told, or after that. */
void sim_stream_lose(struct rpc_call *call, bool with_what_is_under_way);
/* What is said on it from now on arrives that late, and what follows after it. */
void sim_stream_delay(struct rpc_call *call, uint64_t us);
bool sim_process_is_frozen(const struct rpc *rpc);
const char *sim_process_name(const struct rpc *rpc);
/* Its main loop's turn: runs after callbacks, and when it was asked for. */
void sim_process_on_turn(struct rpc *rpc, void (*fn)(void *arg), void *arg);
void sim_process_wake(struct rpc *rpc, uint64_t when_us);

#define SIM_HOSTS 32
/* One direction. What is under way waits. */
void sim_cut(unsigned int from, unsigned int to, bool cut);
bool sim_is_cut(unsigned int from, unsigned int to);

/* Latency of a message, and how much each byte weighs for backpressure. */
void sim_network(uint64_t latency_us, uint64_t spike_us, size_t weight);

extern uint64_t sim_messages;

/* Of sim_reset() and sim_end(). */
void sim_net_reset(void);
void sim_net_end(void);
