/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The node's copy of the mesh's log: nodes and members of the segments it has,
 * as the controller tells them (proto/mcmesh/v1/node.proto). Pure: messages
 * in, changes out.
 *
 * Rows carry the revision that last changed them; an older row never replaces
 * a newer one. A row is confirmed once the present epoch, or the present
 * snapshot of its segment, has named it; only `end` with `complete` removes
 * what is not. So a controller that lost its store takes no route away before
 * it knows better.
 *
 * This node's own rows are kept (the digest needs them) but not told.
 */
#include <stdbool.h>
#include <stdint.h>

#include "common/addr.h"
#include "common/digest.h"
#include "common/filter.h"
#include "mcmesh/v1/node.pb-c.h"

struct mirror;

/* Expected outcomes of mirror_delta(). */
enum {
	MIRROR_E_GAP = 1, /* the delta does not follow what is applied: resume anew */
};

#define MIRROR_MAX_ROWS 4000000 /* across segments: beyond it -ENOSPC */

struct mirror_ops {
	/* A remote node is known with this VTEP; told before its members. */
	void (*remote_add)(const struct addr *vtep, const char *node, void *userdata);
	/* After the last of its members was told as gone. */
	void (*remote_del)(const struct addr *vtep, void *userdata);
	/* INCLUDE {}: no member any more. */
	void (*member)(uint32_t segment, const struct addr *group, const struct addr *vtep,
		       const struct filter *filter, void *userdata);
	/* Configuration rows are the caller's to keep; may be NULL, then all are. */
	int (*config)(const Mcmesh__V1__ConfigChange *change, void *userdata);
	/* None is confirmed any more; those that are not by now are gone. */
	void (*config_unconfirm)(void *userdata);
	void (*config_sweep)(void *userdata);
};

int mirror_new(const char *self, const struct mirror_ops *ops, void *userdata,
	       struct mirror **ret_mirror);
void mirror_free(struct mirror *mirror);

/* A segment that the node has; 0 is always there. */
int mirror_segment_add(struct mirror *mirror, uint32_t segment);

/* The log that revisions speak of. Another one: every revision is 0 again and
 * no row is confirmed; routes stay as they are. */
void mirror_epoch_set(struct mirror *mirror, const uint8_t epoch[EPOCH_LEN]);
const uint8_t *mirror_epoch(const struct mirror *mirror);

/* State saved by an earlier start: rows, then the revision they stand for. */
int mirror_seed_node(struct mirror *mirror, const char *node, const struct addr *vtep);
int mirror_seed_member(struct mirror *mirror, uint32_t segment, const struct addr *group,
		       const struct addr *vtep, const struct filter *filter);
void mirror_seed_self(struct mirror *mirror, const struct addr *vtep);
int mirror_seed_own(struct mirror *mirror, uint32_t segment, const struct addr *group,
		    const struct filter *filter);
void mirror_seed_revision(struct mirror *mirror, uint32_t segment, uint64_t revision);

/*
 * Own rows that were seeded are what the ports want, which the log may not say
 * (a report was under way when the agent ended): until that is settled, or a
 * complete snapshot came, the segment's digest is not the log's. It is settled
 * once the log is known to have, at the applied revision, exactly the rows that
 * are named between begin and end; those that the log itself told stay.
 */
size_t mirror_uncertain(const struct mirror *mirror); /* so many segments */
bool mirror_is_certain(const struct mirror *mirror, uint32_t segment);
void mirror_own_begin(struct mirror *mirror, uint32_t segment);
int mirror_own_row(struct mirror *mirror, uint32_t segment, const struct addr *group,
		   const struct filter *filter);
void mirror_own_end(struct mirror *mirror, uint32_t segment);

/* Are all members told, or do some wait for their node's row? Until they are, the
 * maps lack what the revision stands for: it must not be saved. */
bool mirror_is_told(const struct mirror *mirror);

/* 0; MIRROR_E_GAP; -EINVAL: a field that cannot be (nothing of the delta
 * applies); -ENOMEM, -ENOSPC: the segment needs a snapshot. */
int mirror_delta(struct mirror *mirror, const Mcmesh__V1__Delta *delta);
int mirror_snapshot(struct mirror *mirror, const Mcmesh__V1__Snapshot *snapshot);

/* The segment's state is in doubt: a snapshot follows. */
void mirror_resync(struct mirror *mirror, uint32_t segment);

/* Applied revision; 0: none, or no such segment. */
uint64_t mirror_revision(const struct mirror *mirror, uint32_t segment);
/* From where the segment can go on in another session: its revision, or 0 while
 * rows of an earlier log wait for a complete snapshot. */
uint64_t mirror_resumable(const struct mirror *mirror, uint32_t segment);
/* The last snapshot that ended since mirror_session_begin(); 0: none. */
uint64_t mirror_snapshot_ended(const struct mirror *mirror, uint32_t segment);
/* Snapshots of another session are not of this one. */
void mirror_session_begin(struct mirror *mirror);
struct digest mirror_digest(const struct mirror *mirror, uint32_t segment);

void mirror_segments_walk(const struct mirror *mirror,
			  void (*fn)(uint32_t segment, uint64_t revision, void *userdata),
			  void *userdata);
void mirror_nodes_walk(const struct mirror *mirror,
		       void (*fn)(const char *node, const struct addr *vtep, void *userdata),
		       void *userdata);

/* For Explain: each remote member of the group. */
void mirror_members_walk(const struct mirror *mirror, uint32_t segment, const struct addr *group,
			 void (*fn)(const char *node, const struct filter *filter, void *userdata),
			 void *userdata);
