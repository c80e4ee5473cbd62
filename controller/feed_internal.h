/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the feed's files share: feed.c sends, feed_snapshots.c has what is sent to who
 * has nothing, feed_acks.c hears how far it came. */
#include "controller/node_service.h"
#include "controller/wire.h"

struct cached {
	uint64_t previous, revision;
	uint64_t at;	    /* the log's revision of the segment when it was built */
	uint64_t n_changes; /* of the segment until then */
	size_t n_rows;
	struct rpc_bytes *bytes;
};

/* When a revision of the segment came into the log. */
struct appended {
	uint64_t revision, at_us;
};

/* Of a segment, its subs in one lane. */
struct feed_segment_lane {
	struct feed_segment *segment;
	LIST_HEAD(, sub) subs;
	bool dirty;
	uint64_t goal; /* what the present round brings its subs to, at least */
	TAILQ_ENTRY(feed_segment_lane) link;
};

struct feed_segment {
	struct log_segment *segment;
	struct feed_segment_lane lanes[FEED_LANES];
	uint64_t n_changes; /* ever, while the feed has known it */
	TAILQ_ENTRY(feed_segment) all;
	struct cached cache[FEED_CACHE];
	unsigned int next_cache;
	struct edition *edition;	   /* the newest that is kept */
	struct appended times[FEED_TIMES]; /* a ring */
	uint64_t n_times;		   /* ever written */
};

struct feed_lane_state {
	TAILQ_HEAD(, sub) ready;
	TAILQ_HEAD(, feed_segment_lane) dirty;
	uint64_t round_ms, window_until_ms;
	uint64_t n_joined; /* when the last round ended */
	bool in_round;
	size_t n_owed; /* subs that the round has not served yet */
};

struct feed {
	struct controller *c;
	struct feed_lane_state lanes[FEED_LANES];
	TAILQ_HEAD(, sub) waiting, ahead;
	TAILQ_HEAD(, feed_segment) segments;
	size_t n_snapshots;
	uint64_t n_joined; /* sessions, ever */
	uint64_t bookmark_ms, bookmarked, last_snapshot_id;
	unsigned int work; /* done in this turn, in deltas */
	size_t n_chunks;   /* of all editions */
	struct arena arena;
};

void sub_make_ready(struct feed *feed, struct sub *sub);
/* How long a lane rests after a round that took so long; n_joined: sessions that began
 * since the round before it ended. */
uint64_t feed_rest_ms(enum feed_lane lane, uint64_t took_ms, uint64_t n_joined);
void feed_resync(struct feed *feed, struct sub *sub, const char *reason);

/* ---- feed_snapshots.c ------------------------------------------------------- */

/* The segment's edition is not read by others any more. */
void editions_drop(struct feed_segment *fs);
/* Those that nobody has read for a while. */
void editions_trim(struct feed *feed, uint64_t now_ms);
void snapshot_want(struct feed *feed, struct sub *sub);
/* False: too many are under way, it waits. */
bool snapshot_begin(struct feed *feed, struct sub *sub);
/* As much as fits the turn; true: it has ended. */
bool snapshot_continue(struct feed *feed, struct sub *sub);
bool snapshot_is_complete(const struct sub *sub);
void snapshot_stop(struct feed *feed, struct sub *sub);

/* ---- feed_acks.c ------------------------------------------------------------ */

/* The segment's revision came into the log now. */
void feed_time_note(struct feed_segment *fs);
