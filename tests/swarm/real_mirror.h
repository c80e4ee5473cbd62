/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Included before node/mirror.c by the build, so that the agents' own mirror
 * lives beside the swarm's (flock.c) in one program.
 */
#define mirror		      real_mirror
#define mirror_new	      real_mirror_new
#define mirror_free	      real_mirror_free
#define mirror_segment_add    real_mirror_segment_add
#define mirror_epoch_set      real_mirror_epoch_set
#define mirror_epoch	      real_mirror_epoch
#define mirror_seed_node      real_mirror_seed_node
#define mirror_seed_member    real_mirror_seed_member
#define mirror_seed_self      real_mirror_seed_self
#define mirror_seed_own	      real_mirror_seed_own
#define mirror_seed_revision  real_mirror_seed_revision
#define mirror_delta	      real_mirror_delta
#define mirror_snapshot	      real_mirror_snapshot
#define mirror_resync	      real_mirror_resync
#define mirror_revision	      real_mirror_revision
#define mirror_digest	      real_mirror_digest
#define mirror_segments_walk  real_mirror_segments_walk
#define mirror_nodes_walk     real_mirror_nodes_walk
#define mirror_members_walk   real_mirror_members_walk
#define mirror_uncertain      real_mirror_uncertain
#define mirror_is_certain     real_mirror_is_certain
#define mirror_own_begin      real_mirror_own_begin
#define mirror_own_row	      real_mirror_own_row
#define mirror_own_end	      real_mirror_own_end
#define mirror_is_told	      real_mirror_is_told
#define mirror_resumable      real_mirror_resumable
#define mirror_snapshot_ended real_mirror_snapshot_ended
#define mirror_session_begin  real_mirror_session_begin
