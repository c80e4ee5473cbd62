/* SPDX-License-Identifier: Apache-2.0 */

/*
 * DOC: completion queues
 *
 * One would do, were it not for the library's checks, which Debian builds in: with
 * each completion it looks through all batches that are outstanding at its queue, and
 * every stream has one, its read. At 5,000 agents that was a third of the controller's
 * time. So calls are spread over as many queues as keep RPC_QUEUE_CALLS each.
 *
 * Whoever looks at the network, at whichever queue, works for all of them, but waits
 * only at its own: so while several queues have calls nobody waits longer than
 * RPC_QUEUES_WAIT_MS at one. Where that few calls are made that one queue is enough,
 * nothing wakes up in vain; where there are more, their heartbeats come as often.
 */
#include "common/rpc_internal.h"

static gpr_timespec deadline_of(uint64_t deadline_ms)
{
	if (deadline_ms == UINT64_MAX)
		return gpr_inf_future(GPR_CLOCK_MONOTONIC);
	return (gpr_timespec){
		.tv_sec = (int64_t)(deadline_ms / 1000),
		.tv_nsec = (int32_t)(deadline_ms % 1000) * 1000000,
		.clock_type = GPR_CLOCK_MONOTONIC,
	};
}

static void queue_add(struct rpc *rpc)
{
	rpc->queues[rpc->n_queues++].cq = grpc_completion_queue_create_for_next(NULL);
}

void rpc_queues_init(struct rpc *rpc)
{
	queue_add(rpc);
}

unsigned int rpc_queue_pick(struct rpc *rpc)
{
	size_t enough = rpc->n_calls / RPC_QUEUE_CALLS + 1;
	unsigned int best = 0;

	/* The thread beside an event loop waits at one. */
	if (rpc->event)
		return 0;
	if (enough > rpc->n_queues && rpc->n_queues < RPC_QUEUES_MAX)
		queue_add(rpc);
	for (unsigned int i = 1; i < rpc->n_queues && i < enough; i++) {
		if (rpc->queues[i].n_calls < rpc->queues[best].n_calls)
			best = i;
	}
	return best;
}

void rpc_queue_call_came(struct rpc *rpc, unsigned int queue)
{
	rpc->queues[queue].n_calls++;
	rpc->n_calls++;
}

void rpc_queue_call_went(struct rpc *rpc, unsigned int queue)
{
	rpc->queues[queue].n_calls--;
	rpc->n_calls--;
}

/* The first, and whichever has calls: one that has none completes nothing. */
static unsigned int queue_next(const struct rpc *rpc)
{
	unsigned int i = rpc->queue_at;

	do
		i = (i + 1) % rpc->n_queues;
	while (i && !rpc->queues[i].n_calls);
	return i;
}

int rpc_queues_run(struct rpc *rpc, uint64_t deadline_ms, int looks)
{
	bool several = rpc->n_calls > rpc->queues[0].n_calls;
	/* Each once: what completes there may have been found at another's look. */
	int n = 0, most = looks + (several ? (int)rpc->n_queues - 1 : 0), left = most;
	gpr_timespec deadline;

	if (several && deadline_ms > rpc_now_ms() + RPC_QUEUES_WAIT_MS)
		deadline_ms = rpc_now_ms() + RPC_QUEUES_WAIT_MS;
	deadline = deadline_of(deadline_ms);
	while (n < RPC_TURN_MAX && left) {
		grpc_event ev;

		atomic_fetch_add(&rpc->library, 1);
		ev = grpc_completion_queue_next(rpc->queues[rpc->queue_at].cq, deadline, NULL);
		atomic_fetch_add(&rpc->library, 1);
		deadline = deadline_of(0);
		if (ev.type == GRPC_OP_COMPLETE) {
			struct rpc_tag *tag = ev.tag;

			left = most;
			tag->fn(tag, ev.success);
			n++;
		} else {
			left--;
			rpc->queue_at = queue_next(rpc);
		}
	}
	return n;
}

void rpc_queues_end(struct rpc *rpc)
{
	for (unsigned int i = 0; i < rpc->n_queues; i++) {
		grpc_completion_queue *cq = rpc->queues[i].cq;
		grpc_event ev;

		grpc_completion_queue_shutdown(cq);
		do {
			ev = grpc_completion_queue_next(cq, gpr_inf_future(GPR_CLOCK_MONOTONIC),
							NULL);
			if (ev.type == GRPC_OP_COMPLETE) {
				struct rpc_tag *tag = ev.tag;

				tag->fn(tag, ev.success);
			}
		} while (ev.type != GRPC_QUEUE_SHUTDOWN);
		grpc_completion_queue_destroy(cq);
	}
}
