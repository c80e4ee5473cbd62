/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a thousand agents know, kept once.
 *
 * An agent's mirror of 100,000 members takes 25 MB; a thousand of them do not
 * fit one machine. But their contents are the same log at slightly different
 * revisions. A flock keeps, for every row, the versions that some agent may
 * still be at; an agent of the flock is a revision and a digest for each
 * segment. A delta moves the digest by (new version - version at `previous`),
 * worked out once for all agents that were sent the same delta.
 *
 * Two agents that are told different contents for one (row, revision) are a
 * fault of the controller and counted.
 *
 * flock.c also implements node/mirror.h, which node/uplink.c is written
 * against; an agent made with `full` has the real mirror behind it.
 */
#include <stdint.h>

#include "node/mirror.h"

struct flock;

struct flock_counters {
	uint64_t rows_told;	    /* over all agents, deltas and snapshots */
	uint64_t withdrawals;	    /* member rows told as deleted by deltas, over all agents */
	uint64_t deltas_worked_out; /* not taken from memory */
	uint64_t decoded;	    /* large messages, likewise */
	uint64_t inconsistent;
};

int flock_new(struct flock **ret_flock);
void flock_free(struct flock *flock);
const struct flock_counters *flock_counters(const struct flock *flock);

/* Versions before this revision are not needed any more. */
void flock_forget(struct flock *flock, uint64_t revision);

/* The message of these bytes, if it is a large one: decoded once for all who are told
 * the same, as long as it is one of the newest. See rpc_set_known(). */
const ProtobufCMessage *flock_message(const ProtobufCMessageDescriptor *descriptor,
				      const uint8_t *data, size_t len, void *flock);

int flock_agent_new(struct flock *flock, const char *node, bool full, struct mirror **ret_mirror);
