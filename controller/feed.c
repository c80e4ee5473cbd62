/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: feeding the log to agents
 *
 * Each subscription (sub) knows one number: the revision of its segment that
 * it was sent. Whatever is newer in the log is owed; nothing else is kept for
 * it, so a slow agent costs what the transport already holds, and gets the
 * difference in one piece when it reads again.
 *
 * A change marks its segment. At the end of the loop turn a round begins: the
 * segment's subs become ready, and its `goal` is the log's revision of that
 * moment. Ready subs are served FEED_PER_TURN at a time, so that a large fan-out
 * does not hold up other calls. What changes meanwhile goes along to those who
 * are not served yet while the delta is small (FEED_FRESH_ROWS), and to the
 * others with the next round; beyond that it waits for it. So subs that start a
 * round at the same revision share the serialised bytes, also while the log
 * moves on.
 *
 * The next round begins coalesce_ms after the last began, and not before the
 * feed has rested for half as long as the round took, or for as long after a long
 * one (FEED_LONG_MS; FEED_REST_MAX_MS at most): under load a round is long and
 * gathers much, and there is time for what agents and operators say.
 *
 * A delta is bounded and ends at a revision. When it ends before the newest
 * one, rows that changed again later are not in it, so the agent's state after
 * it never was the log's; its acks are compared only from `comparable_from`.
 *
 * A snapshot walks the segment in the order of changes with a cursor; rows that
 * change meanwhile move to the end and come (again). It ends when the walk has
 * reached the end, at the log's revision of that moment. While the log is not
 * complete (a store that began empty), it ends without `complete` and is
 * repeated, whole, once the log is.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

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

struct feed_segment {
	struct log_segment *segment;
	LIST_HEAD(, sub) subs;
	bool dirty;
	uint64_t n_changes; /* ever, while it had subs */
	uint64_t goal;	    /* what the present round brings its subs to, at least */
	TAILQ_ENTRY(feed_segment) link, all;
	struct cached cache[FEED_CACHE];
	unsigned int next_cache;
	struct appended times[FEED_TIMES]; /* a ring */
	uint64_t n_times;		   /* ever written */
};

struct feed {
	struct controller *c;
	TAILQ_HEAD(, sub) ready, waiting, ahead;
	TAILQ_HEAD(, feed_segment) dirty, segments;
	size_t n_snapshots;
	uint64_t round_ms, window_until_ms, bookmark_ms, bookmarked, last_snapshot_id;
	bool in_round;
	size_t n_owed;	   /* subs that the round has not served yet */
	unsigned int work; /* done in this turn, in deltas */
	struct arena arena;
};

int feed_new(struct controller *c, struct feed **ret_feed)
{
	struct feed *feed = calloc(1, sizeof(*feed));

	if (!feed)
		return -ENOMEM;
	feed->c = c;
	TAILQ_INIT(&feed->ready);
	TAILQ_INIT(&feed->waiting);
	TAILQ_INIT(&feed->ahead);
	TAILQ_INIT(&feed->dirty);
	TAILQ_INIT(&feed->segments);
	*ret_feed = feed;
	return 0;
}

static void cache_clear(struct feed_segment *fs)
{
	for (size_t i = 0; i < FEED_CACHE; i++) {
		rpc_bytes_free(fs->cache[i].bytes);
		fs->cache[i].bytes = NULL;
	}
}

void feed_free(struct feed *feed)
{
	struct feed_segment *fs;

	if (!feed)
		return;
	while ((fs = TAILQ_FIRST(&feed->segments))) {
		TAILQ_REMOVE(&feed->segments, fs, all);
		cache_clear(fs);
		fs->segment->userdata = NULL;
		free(fs);
	}
	arena_reset(&feed->arena);
	free(feed);
}

static struct feed_segment *segment_get(struct feed *feed, struct log_segment *segment)
{
	struct feed_segment *fs = segment->userdata;

	if (fs)
		return fs;
	fs = calloc(1, sizeof(*fs));
	if (!fs)
		abort();
	fs->segment = segment;
	LIST_INIT(&fs->subs);
	TAILQ_INSERT_TAIL(&feed->segments, fs, all);
	segment->userdata = fs;
	return fs;
}

static void segment_going(struct log_segment *segment, void *userdata)
{
	struct feed_segment *fs = segment->userdata;
	struct feed *feed = userdata;

	if (!fs)
		return;
	if (fs->dirty)
		TAILQ_REMOVE(&feed->dirty, fs, link);
	TAILQ_REMOVE(&feed->segments, fs, all);
	cache_clear(fs);
	free(fs);
}

static void sub_make_ready(struct feed *feed, struct sub *sub)
{
	if (sub->ready || sub->waiting || sub->blocked || sub->ahead)
		return;
	sub->ready = true;
	TAILQ_INSERT_TAIL(&feed->ready, sub, link);
}

static void sub_paid(struct feed *feed, struct sub *sub)
{
	feed->n_owed -= sub->owed;
	sub->owed = false;
}

static struct appended *time_at(const struct feed_segment *fs, uint64_t i)
{
	return (struct appended *)&fs->times[i % FEED_TIMES];
}

static void time_note(struct feed_segment *fs)
{
	uint64_t revision = fs->segment->revision;

	if (fs->n_times && time_at(fs, fs->n_times - 1)->revision == revision)
		return;
	*time_at(fs, fs->n_times++) = (struct appended){ revision, controller_now_us() };
}

/* The first revision after this one whose time is known, or NULL. */
static const struct appended *time_after(const struct feed_segment *fs, uint64_t revision)
{
	uint64_t low = fs->n_times > FEED_TIMES ? fs->n_times - FEED_TIMES : 0, high = fs->n_times;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;

		if (time_at(fs, middle)->revision <= revision)
			low = middle + 1;
		else
			high = middle;
	}
	return low < fs->n_times ? time_at(fs, low) : NULL;
}

void feed_changed(struct feed *feed, struct log_segment *segment)
{
	struct feed_segment *fs = segment->userdata;

	if (!fs || LIST_EMPTY(&fs->subs))
		return;
	time_note(fs);
	fs->n_changes++;
	if (fs->dirty)
		return;
	fs->dirty = true;
	TAILQ_INSERT_TAIL(&feed->dirty, fs, link);
}

/* ---- snapshots ---------------------------------------------------------------- */

static void slot_release(struct feed *feed, struct sub *sub)
{
	struct sub *next;

	if (!sub->has_slot)
		return;
	sub->has_slot = false;
	feed->n_snapshots--;
	next = TAILQ_FIRST(&feed->waiting);
	if (next) {
		TAILQ_REMOVE(&feed->waiting, next, link);
		next->waiting = false;
		sub_make_ready(feed, next);
	}
}

static void snapshot_stop(struct feed *feed, struct sub *sub)
{
	if (sub->in_snapshot)
		log_cursor_close(&sub->cursor);
	sub->in_snapshot = false;
	slot_release(feed, sub);
}

static void snapshot_want(struct feed *feed, struct sub *sub)
{
	snapshot_stop(feed, sub);
	sub->wants_snapshot = true;
	sub->comparable = false;
	sub_make_ready(feed, sub);
}

static bool snapshot_begin(struct feed *feed, struct sub *sub)
{
	if (feed->n_snapshots >= FEED_SNAPSHOTS_MAX) {
		sub->waiting = true;
		TAILQ_INSERT_TAIL(&feed->waiting, sub, link);
		return false;
	}
	feed->n_snapshots++;
	sub->has_slot = true;
	sub->wants_snapshot = false;
	sub->in_snapshot = true;
	sub->snapshot_id = ++feed->last_snapshot_id;
	sub->snapshot_start = log_revision(feed->c->log);
	sub->snapshot_complete = registry_is_complete(feed->c->registry, controller_now_ms());
	log_cursor_open(&sub->cursor, sub->segment);
	feed->c->counters.snapshots++;
	return true;
}

/* Rows of one chunk; true when the walk has reached the end. */
static bool chunk_fill(struct feed *feed, struct sub *sub, Mcmesh__V1__Snapshot *chunk)
{
	size_t bytes = 0, n_allocated = FEED_CHUNK_BYTES / 64;
	struct log_row *row;

	chunk->rows = arena_alloc(&feed->arena, n_allocated * sizeof(*chunk->rows));
	while ((row = sub->cursor.next)) {
		size_t size = wire_row_size(row);

		if (chunk->n_rows &&
		    (bytes + size > FEED_CHUNK_BYTES || chunk->n_rows == n_allocated))
			return false;
		log_cursor_next(&sub->cursor);
		/* Old tombstones say nothing that the sweep does not. */
		if (row->deleted && sub->snapshot_complete && row->revision <= sub->snapshot_start)
			continue;
		chunk->rows[chunk->n_rows++] = wire_change(&feed->arena, row);
		bytes += size;
	}
	return true;
}

static void snapshot_ended(struct feed *feed, struct sub *sub, uint64_t revision)
{
	snapshot_stop(feed, sub);
	sub->sent = revision;
	sub->comparable_from = revision;
	sub->comparable = sub->snapshot_complete;
	sub->incomplete = !sub->snapshot_complete;
}

/* True: it has ended. */
static bool snapshot_continue(struct feed *feed, struct sub *sub)
{
	while (feed->work < FEED_PER_TURN) {
		Mcmesh__V1__ControllerMessage m = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
		Mcmesh__V1__Snapshot chunk = MCMESH__V1__SNAPSHOT__INIT;

		chunk.segment = sub->segment->id;
		chunk.id = sub->snapshot_id;
		chunk.end = chunk_fill(feed, sub, &chunk);
		if (chunk.end) {
			chunk.revision = log_revision(feed->c->log);
			chunk.complete = sub->snapshot_complete;
		}
		m.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_SNAPSHOT;
		m.snapshot = &chunk;
		session_send(sub->session, &m);
		arena_reset(&feed->arena);
		feed->c->counters.chunks++;
		feed->work += FEED_CHUNK_WORK;
		if (chunk.end) {
			snapshot_ended(feed, sub, chunk.revision);
			return true;
		}
		if (rpc_call_backlog(sub->session->call) > FEED_BACKLOG_MAX)
			break;
	}
	return false;
}

static void resync(struct feed *feed, struct sub *sub, const char *reason)
{
	Mcmesh__V1__ControllerMessage m = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
	Mcmesh__V1__Resync resync = MCMESH__V1__RESYNC__INIT;

	resync.segment = sub->segment->id;
	resync.reason = (char *)reason;
	m.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_RESYNC;
	m.resync = &resync;
	session_send(sub->session, &m);
	snapshot_want(feed, sub);
}

/* ---- deltas ------------------------------------------------------------------- */

static struct rpc_bytes *delta_build(struct feed *feed, struct log_segment *segment,
				     uint64_t previous, uint64_t *ret_revision, size_t *ret_rows)
{
	Mcmesh__V1__ControllerMessage m = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
	Mcmesh__V1__Delta delta = MCMESH__V1__DELTA__INIT;
	struct log_row *first = log_segment_after(segment, previous), *row;
	struct rpc_bytes *bytes;
	size_t n = 0, size = 0;

	delta.segment = segment->id;
	delta.previous = previous;
	delta.revision = log_revision(feed->c->log);
	for (row = first; row; row = TAILQ_NEXT(row, by_segment)) {
		struct log_row *next = TAILQ_NEXT(row, by_segment);

		n++;
		size += wire_row_size(row);
		/* Only at the end of a revision: half of one is not a state. */
		if (size > FEED_DELTA_BYTES && next && next->revision != row->revision) {
			delta.revision = row->revision;
			break;
		}
	}
	delta.changes = arena_alloc(&feed->arena, n * sizeof(*delta.changes));
	for (row = first; delta.n_changes < n; row = TAILQ_NEXT(row, by_segment))
		delta.changes[delta.n_changes++] = wire_change(&feed->arena, row);
	m.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_DELTA;
	m.delta = &delta;
	bytes = rpc_bytes_new(&m.base);
	arena_reset(&feed->arena);
	feed->c->counters.delta_bytes_built++;
	*ret_revision = delta.revision;
	*ret_rows = n;
	return bytes;
}

/* Would it be made again, for the sake of what came since? */
static bool cached_is_fresh(const struct feed_segment *fs, const struct cached *cached)
{
	return cached->at >= fs->segment->revision ||
	       cached->n_rows + (fs->n_changes - cached->n_changes) > FEED_FRESH_ROWS;
}

/* Bytes that bring who is at `previous` to `least`, if they fit one delta. */
static const struct cached *delta_get(struct feed *feed, struct feed_segment *fs, uint64_t previous,
				      uint64_t least)
{
	struct cached *cached, made = { .previous = previous,
					.at = log_revision(feed->c->log),
					.n_changes = fs->n_changes };

	for (size_t i = 0; i < FEED_CACHE; i++) {
		cached = &fs->cache[i];
		if (cached->bytes && cached->at >= least && cached->previous == previous &&
		    cached_is_fresh(fs, cached))
			return cached;
	}
	made.bytes = delta_build(feed, fs->segment, previous, &made.revision, &made.n_rows);
	if (!made.bytes)
		abort();
	cached = &fs->cache[fs->next_cache++ % FEED_CACHE];
	rpc_bytes_free(cached->bytes);
	*cached = made;
	return cached;
}

static void delta_send(struct feed *feed, struct sub *sub, uint64_t least)
{
	const struct cached *d = delta_get(feed, sub->segment->userdata, sub->sent, least);

	rpc_call_send_bytes(sub->session->call, d->bytes);
	session_was_sent(sub->session);
	sub->sent = d->revision;
	if (d->revision < d->at)
		sub->comparable_from = d->at;
	feed->c->counters.deltas++;
}

/* What a sub is to be brought to now: what came after it waits for its round. */
static uint64_t sub_goal(const struct feed *feed, const struct sub *sub)
{
	const struct feed_segment *fs = sub->segment->userdata;
	uint64_t goal = fs->dirty ? fs->goal : fs->segment->revision;

	return sub->bookmark && feed->bookmarked > goal ? feed->bookmarked : goal;
}

/* Sends what is owed until there is nothing, or enough for this turn. */
static void sub_serve(struct feed *feed, struct sub *sub)
{
	uint64_t goal;

	if (rpc_call_backlog(sub->session->call) > FEED_BACKLOG_MAX) {
		sub->blocked = true;
		feed->c->counters.slow_agents++;
		return;
	}
	if (!sub->in_snapshot && !sub->wants_snapshot && sub->sent < sub->segment->floor) {
		feed->c->counters.resync_behind++;
		resync(feed, sub, "the agent fell behind what the log remembers");
		return;
	}
	if (sub->wants_snapshot && !snapshot_begin(feed, sub))
		return;
	if (sub->in_snapshot) {
		if (!snapshot_continue(feed, sub))
			sub_make_ready(feed, sub);
		return;
	}
	goal = sub_goal(feed, sub);
	if (sub->sent < goal) {
		feed->c->counters.bookmarks += sub->sent >= sub->segment->revision;
		delta_send(feed, sub, goal);
	}
	if (sub->sent < goal)
		sub_make_ready(feed, sub);
	else
		sub->bookmark = false;
}

/* ---- sessions come and go -------------------------------------------------------- */

static void sub_start(struct feed *feed, struct sub *sub, bool same_epoch)
{
	uint64_t known = same_epoch ? sub->sent : 0;

	if (same_epoch && known > log_revision(feed->c->log) && known > feed->c->store->revision) {
		if (store_is_shared(feed->c->store)) {
			/* Another controller was faster: what it told comes here too. */
			sub->ahead = true;
			sub->ahead_ms = controller_now_ms();
			TAILQ_INSERT_TAIL(&feed->ahead, sub, link);
			store_ahead(feed->c->store, known);
			return;
		}
		feed->c->counters.resync_ahead++;
		resync(feed, sub, "the agent is ahead of this log");
		return;
	}
	if (!known || known < sub->segment->floor) {
		sub->sent = 0;
		snapshot_want(feed, sub);
		return;
	}
	sub->acked = known;
	/* An earlier session may have ended between the parts of a delta that was cut. */
	if (known < sub->segment->revision)
		sub->comparable_from = log_revision(feed->c->log);
	sub->comparable = registry_is_complete(feed->c->registry, controller_now_ms());
	sub->incomplete = !sub->comparable;
	sub_make_ready(feed, sub);
}

void feed_join(struct feed *feed, struct session *s)
{
	bool same = s->has_epoch && memcmp(s->hello_epoch, log_epoch(feed->c->log), EPOCH_LEN) == 0;

	for (size_t i = 0; i < s->n_subs; i++) {
		struct feed_segment *fs = segment_get(feed, s->subs[i].segment);

		LIST_INSERT_HEAD(&fs->subs, &s->subs[i], of_segment);
		s->subs[i].begun = log_revision(feed->c->log);
		sub_start(feed, &s->subs[i], same);
	}
}

/* The log has come to where those agents are; or it takes too long. In the order
 * in which they came. */
static void ahead_turn(struct feed *feed, uint64_t now_ms)
{
	struct sub *sub, *next;

	for (sub = TAILQ_FIRST(&feed->ahead); sub; sub = next) {
		next = TAILQ_NEXT(sub, link);
		if (sub->sent > feed->c->store->revision)
			continue;
		TAILQ_REMOVE(&feed->ahead, sub, link);
		sub->ahead = false;
		sub_start(feed, sub, true);
	}
	/* With its session all of its subs go. */
	while ((sub = TAILQ_FIRST(&feed->ahead)) && now_ms >= sub->ahead_ms + FEED_AHEAD_MS)
		session_end(sub->session, RPC_UNAVAILABLE,
			    "this controller does not know yet what you know: connect elsewhere");
}

void feed_leave(struct feed *feed, struct session *s)
{
	for (size_t i = 0; i < s->n_subs; i++) {
		struct sub *sub = &s->subs[i];

		if (sub->ready)
			TAILQ_REMOVE(&feed->ready, sub, link);
		if (sub->waiting)
			TAILQ_REMOVE(&feed->waiting, sub, link);
		if (sub->ahead)
			TAILQ_REMOVE(&feed->ahead, sub, link);
		sub->ready = sub->waiting = sub->ahead = false;
		sub_paid(feed, sub);
		snapshot_stop(feed, sub);
		LIST_REMOVE(sub, of_segment);
	}
}

void feed_drained(struct feed *feed, struct session *s)
{
	for (size_t i = 0; i < s->n_subs; i++) {
		if (s->subs[i].blocked) {
			s->subs[i].blocked = false;
			sub_make_ready(feed, &s->subs[i]);
		}
	}
}

void feed_completed(struct feed *feed)
{
	struct feed_segment *fs;
	struct sub *sub;

	TAILQ_FOREACH(fs, &feed->segments, all)
	{
		LIST_FOREACH (sub, &fs->subs, of_segment) {
			if (sub->incomplete || sub->in_snapshot) {
				sub->incomplete = false;
				if (!sub->waiting)
					snapshot_want(feed, sub);
			}
		}
	}
}

static void ack_compare(struct feed *feed, struct sub *sub, const Mcmesh__V1__SegmentAck *ack)
{
	struct digest mine;
	uint8_t wire[16];

	/* One that was sent before a snapshot came can have its very revision. */
	if (ack->revision == sub->comparable_from && ack->snapshot != sub->snapshot_id)
		return;
	if (!sub->comparable || ack->revision < sub->comparable_from ||
	    ack->digest.len != sizeof(wire) || !log_digest_at(sub->segment, ack->revision, &mine))
		return;
	digest_to_wire(&mine, wire);
	sub->verified = memcmp(wire, ack->digest.data, sizeof(wire)) == 0;
	if (sub->verified) {
		sub->mismatches = 0;
		return;
	}
	sub->mismatches++;
	if (sub->mismatches == 1) {
		feed->c->counters.resync_digest++;
		log_warning("an agent's digest differs, it gets a snapshot node=%s segment=%u "
			    "revision=%llu",
			    sub->session->name, sub->segment->id,
			    (unsigned long long)ack->revision);
		resync(feed, sub, "the digest differs");
	} else if (sub->mismatches == 2) {
		feed->c->counters.digest_alarms++;
		log_error("an agent's digest differs again after a snapshot node=%s segment=%u",
			  sub->session->name, sub->segment->id);
	}
}

static int sub_cmp(const void *key, const void *element)
{
	uint32_t segment = *(const uint32_t *)key;
	const struct sub *sub = element;

	return (segment > sub->segment->id) - (segment < sub->segment->id);
}

static uint64_t sub_unacked(const struct sub *sub)
{
	return sub->acked > sub->begun ? sub->acked : sub->begun;
}

/* What the agent was told before counts from its oldest change. */
static void ack_time(struct feed *feed, const struct sub *sub, uint64_t revision)
{
	const struct appended *first = time_after(sub->segment->userdata, sub_unacked(sub));

	if (first && first->revision <= revision)
		metrics_observe_us(&feed->c->times.append_to_ack,
				   controller_now_us() - first->at_us);
}

void feed_lag(const struct feed *feed, const struct session *s, uint64_t now_us,
	      struct feed_lag *ret_lag)
{
	struct feed_lag lag = { 0 };

	for (size_t i = 0; i < s->n_subs; i++) {
		const struct sub *sub = &s->subs[i];
		const struct appended *first = time_after(sub->segment->userdata, sub_unacked(sub));
		uint64_t revisions;

		if (sub->acked >= sub->segment->revision)
			continue;
		revisions = sub->segment->revision - sub->acked;
		lag.revisions = revisions > lag.revisions ? revisions : lag.revisions;
		if (first && now_us - first->at_us > lag.us)
			lag.us = now_us - first->at_us;
	}
	*ret_lag = lag;
}

void feed_ack(struct feed *feed, struct session *s, const Mcmesh__V1__SegmentAck *ack)
{
	uint32_t segment = ack->segment;
	struct sub *sub = bsearch(&segment, s->subs, s->n_subs, sizeof(*s->subs), sub_cmp);

	if (!sub || ack->revision > sub->sent)
		return;
	if (ack->revision > sub->acked) {
		ack_time(feed, sub, ack->revision);
		sub->acked = ack->revision;
	}
	ack_compare(feed, sub, ack);
}

bool session_has_applied(const struct session *s, uint64_t revision)
{
	for (size_t i = 0; i < s->n_subs; i++) {
		const struct sub *sub = &s->subs[i];

		if (sub->wants_snapshot || sub->in_snapshot ||
		    (sub->acked < revision && sub->acked < sub->segment->revision))
			return false;
	}
	return true;
}

uint64_t session_applied(const struct session *s)
{
	uint64_t applied = log_revision(s->c->log);

	for (size_t i = 0; i < s->n_subs; i++) {
		const struct sub *sub = &s->subs[i];

		if ((sub->acked < sub->segment->revision || sub->wants_snapshot ||
		     sub->in_snapshot) &&
		    sub->acked < applied)
			applied = sub->acked;
	}
	return applied;
}

/* ---- the turn -------------------------------------------------------------------- */

static void flush(struct feed *feed)
{
	struct feed_segment *fs;
	struct sub *sub;

	while ((fs = TAILQ_FIRST(&feed->dirty))) {
		TAILQ_REMOVE(&feed->dirty, fs, link);
		fs->dirty = false;
		fs->goal = fs->segment->revision;
		LIST_FOREACH (sub, &fs->subs, of_segment) {
			sub_make_ready(feed, sub);
			feed->n_owed += sub->ready && !sub->owed;
			sub->owed = sub->ready;
		}
	}
}

/* All are brought to the same revision, so that they share bytes then too. */
static void bookmarks(struct feed *feed)
{
	uint64_t revision = log_revision(feed->c->log);
	struct feed_segment *fs;
	struct sub *sub;

	if (revision == feed->bookmarked)
		return;
	feed->bookmarked = revision;
	TAILQ_FOREACH(fs, &feed->segments, all)
	{
		LIST_FOREACH (sub, &fs->subs, of_segment) {
			if (sub->in_snapshot || sub->wants_snapshot || sub->sent >= revision)
				continue;
			sub->bookmark = true;
			sub_make_ready(feed, sub);
		}
	}
}

static void round_begin(struct feed *feed, uint64_t now_ms)
{
	flush(feed);
	feed->in_round = true;
	feed->round_ms = now_ms;
	feed->window_until_ms = now_ms + feed->c->config->coalesce_ms;
}

static void round_end(struct feed *feed)
{
	uint64_t now_ms = controller_now_ms(), took_ms = now_ms - feed->round_ms;
	uint64_t rest_ms = took_ms < FEED_LONG_MS ? took_ms / 2 : took_ms;

	feed->in_round = false;
	rest_ms = rest_ms < FEED_REST_MAX_MS ? rest_ms : FEED_REST_MAX_MS;
	if (now_ms + rest_ms > feed->window_until_ms)
		feed->window_until_ms = now_ms + rest_ms;
}

uint64_t feed_turn(struct feed *feed, uint64_t now_ms)
{
	struct sub *sub;

	ahead_turn(feed, now_ms);
	if (!TAILQ_EMPTY(&feed->dirty) && !feed->in_round && now_ms >= feed->window_until_ms)
		round_begin(feed, now_ms);
	if (now_ms >= feed->bookmark_ms) {
		bookmarks(feed);
		log_segments_trim(feed->c->log, segment_going, feed);
		feed->bookmark_ms = now_ms + FEED_BOOKMARK_MS;
	}
	for (feed->work = 0; feed->work < FEED_PER_TURN && (sub = TAILQ_FIRST(&feed->ready));
	     feed->work++) {
		TAILQ_REMOVE(&feed->ready, sub, link);
		sub->ready = false;
		sub_paid(feed, sub);
		sub_serve(feed, sub);
	}
	if (feed->in_round && !feed->n_owed)
		round_end(feed);
	if (!TAILQ_EMPTY(&feed->ready))
		return now_ms;
	if (!TAILQ_EMPTY(&feed->dirty))
		return feed->window_until_ms < feed->bookmark_ms ? feed->window_until_ms
								 : feed->bookmark_ms;
	return feed->bookmark_ms;
}

void feed_hurry(struct feed *feed, uint64_t now_ms)
{
	if (!feed->in_round && TAILQ_EMPTY(&feed->ready))
		feed_turn(feed, now_ms);
}
