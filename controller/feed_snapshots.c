/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: snapshots
 *
 * A snapshot walks the segment in the order of changes with a cursor; rows that
 * change meanwhile move to the end and come (again). It ends when the walk has
 * reached the end, at the log's revision of that moment. While the log is not
 * complete (a store that began empty), it ends without `complete` and is
 * repeated, whole, once the log is: rows that the agent has may belong to nodes
 * that have not reported yet. Who knew nothing before has no such rows, and needs
 * it once only.
 *
 * Who needs a snapshot reads an edition of it: chunks that were made once, by
 * whoever came to them first, and that the others send as they are. Many agents that
 * come at the same time cost one walk, and an agent that comes a little later gets an
 * older edition and the changes since as deltas, which are shared as well. An
 * edition is not read when
 *
 *  - it may not sweep and the reader's is to, or the other way round;
 *  - it may sweep, and began before what the reader knows (`least`): the sweep would
 *    take rows away that came since, until the deltas bring them back;
 *  - the reader has had it in this session;
 *  - more has changed since than it is worth, or the log has forgotten deletions that
 *    followed it.
 *
 * It is kept while somebody reads it and EDITION_KEEP_MS longer. What all editions
 * hold is bounded (FEED_EDITIONS_BYTES): beyond that, one is made for its reader alone
 * and each chunk is gone when it is sent.
 */
#include "controller/feed_internal.h"

#include <stdlib.h>

#include "controller/wire.h"

struct edition {
	struct feed *feed;
	struct log_segment *segment;
	uint64_t id;
	uint64_t start, revision; /* of the log, when it began and when it ended */
	uint64_t n_changes;	  /* of the segment, until it began */
	uint64_t used_ms;
	bool complete, ended;
	bool kept; /* for others too */
	unsigned int refs;
	struct log_cursor cursor; /* until it has ended */
	struct rpc_bytes **chunks;
	size_t n_chunks;
};

static void chunk_drop(struct edition *e, size_t i)
{
	rpc_bytes_free(e->chunks[i]);
	e->chunks[i] = NULL;
	e->feed->n_chunks--;
}

static void edition_unref(struct edition *e)
{
	if (!e || --e->refs)
		return;
	if (!e->ended)
		log_cursor_close(&e->cursor);
	for (size_t i = 0; i < e->n_chunks; i++) {
		if (e->chunks[i])
			chunk_drop(e, i);
	}
	free(e->chunks);
	free(e);
}

/* Is a snapshot for it to sweep what it does not name? */
static bool sub_sweeps(const struct feed *feed, const struct sub *sub)
{
	return !sub->session->knows || registry_is_complete(feed->c->registry, controller_now_ms());
}

static struct edition *edition_new(struct feed *feed, const struct sub *sub)
{
	struct log_segment *segment = sub->segment;
	struct feed_segment *fs = segment->userdata;
	struct edition *e = calloc(1, sizeof(*e));

	if (!e)
		abort();
	e->feed = feed;
	e->segment = segment;
	e->refs = 1;
	e->id = ++feed->last_snapshot_id;
	e->start = log_revision(feed->c->log);
	e->n_changes = fs->n_changes;
	e->complete = sub_sweeps(feed, sub);
	e->kept = feed->n_chunks < FEED_EDITIONS_BYTES / FEED_CHUNK_BYTES;
	log_cursor_open(&e->cursor, segment);
	feed->c->counters.editions++;
	return e;
}

/* Has it lost deletions that were to follow in it, or after it? */
static bool edition_is_behind(const struct edition *e)
{
	return (e->ended ? e->revision : e->start) < e->segment->floor;
}

static bool edition_serves(const struct edition *e, const struct sub *sub)
{
	const struct feed_segment *fs = e->segment->userdata;

	return e->complete == sub_sweeps(e->feed, sub) &&
	       (!e->complete || e->start >= sub->least) && e->start >= sub->sent &&
	       e->id != sub->snapshot_id && !edition_is_behind(e) &&
	       fs->n_changes - e->n_changes <= e->segment->n_live / 4 + FEED_FRESH_ROWS;
}

static struct edition *edition_get(struct feed *feed, const struct sub *sub)
{
	struct feed_segment *fs = sub->segment->userdata;
	struct edition *e = fs->edition;

	if (e && edition_serves(e, sub)) {
		e->refs++;
		return e;
	}
	e = edition_new(feed, sub);
	if (e->kept) {
		edition_unref(fs->edition);
		fs->edition = e;
		e->refs++;
	}
	return e;
}

void editions_drop(struct feed_segment *fs)
{
	edition_unref(fs->edition);
	fs->edition = NULL;
}

void editions_trim(struct feed *feed, uint64_t now_ms)
{
	struct feed_segment *fs;

	TAILQ_FOREACH(fs, &feed->segments, all)
	{
		if (fs->edition && fs->edition->refs == 1 &&
		    (!fs->edition->ended || now_ms >= fs->edition->used_ms + FEED_EDITION_KEEP_MS))
			editions_drop(fs);
	}
}

/* ---- chunks ---------------------------------------------------------------------- */

/* Rows of one chunk; true when the walk has reached the end. */
static bool chunk_fill(struct edition *e, Mcmesh__V1__Snapshot *chunk)
{
	size_t bytes = 0, n_allocated = FEED_CHUNK_BYTES / 64;
	struct arena *arena = &e->feed->arena;
	struct log_row *row;

	chunk->rows = arena_alloc(arena, n_allocated * sizeof(*chunk->rows));
	while ((row = e->cursor.next)) {
		size_t size = wire_row_size(row);

		if (chunk->n_rows &&
		    (bytes + size > FEED_CHUNK_BYTES || chunk->n_rows == n_allocated))
			return false;
		log_cursor_next(&e->cursor);
		/* Old tombstones say nothing that the sweep does not. */
		if (row->deleted && e->complete && row->revision <= e->start)
			continue;
		chunk->rows[chunk->n_rows++] = wire_change(arena, row);
		bytes += size;
	}
	return true;
}

static void chunk_make(struct edition *e)
{
	Mcmesh__V1__ControllerMessage m = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
	Mcmesh__V1__Snapshot chunk = MCMESH__V1__SNAPSHOT__INIT;
	struct rpc_bytes *bytes;

	chunk.segment = e->segment->id;
	chunk.id = e->id;
	chunk.end = chunk_fill(e, &chunk);
	if (chunk.end) {
		log_cursor_close(&e->cursor);
		e->ended = true;
		e->revision = chunk.revision = log_revision(e->feed->c->log);
		chunk.complete = e->complete;
	}
	m.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_SNAPSHOT;
	m.snapshot = &chunk;
	bytes = rpc_bytes_new(&m.base);
	e->chunks = reallocarray(e->chunks, e->n_chunks + 1, sizeof(*e->chunks));
	if (!bytes || !e->chunks)
		abort();
	arena_reset(&e->feed->arena);
	e->chunks[e->n_chunks++] = bytes;
	e->feed->n_chunks++;
	e->feed->work += FEED_CHUNK_WORK;
}

/* ---- a reader -------------------------------------------------------------------- */

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

bool snapshot_is_complete(const struct sub *sub)
{
	return sub->edition && sub->edition->complete;
}

void snapshot_stop(struct feed *feed, struct sub *sub)
{
	if (sub->edition) {
		sub->edition->used_ms = controller_now_ms();
		edition_unref(sub->edition);
	}
	sub->edition = NULL;
	sub->in_snapshot = false;
	slot_release(feed, sub);
}

void snapshot_want(struct feed *feed, struct sub *sub)
{
	snapshot_stop(feed, sub);
	sub->wants_snapshot = true;
	sub->comparable = false;
	sub_make_ready(feed, sub);
}

bool snapshot_begin(struct feed *feed, struct sub *sub)
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
	sub->edition = edition_get(feed, sub);
	sub->snapshot_id = sub->edition->id;
	sub->chunk = 0;
	feed->c->counters.snapshots++;
	return true;
}

static void snapshot_ended(struct feed *feed, struct sub *sub)
{
	struct edition *e = sub->edition;

	sub->sent = e->revision;
	sub->comparable_from = e->revision;
	sub->comparable = e->complete;
	sub->incomplete = !e->complete;
	snapshot_stop(feed, sub);
}

bool snapshot_continue(struct feed *feed, struct sub *sub)
{
	struct edition *e = sub->edition;
	unsigned int most = rpc_has_more(feed->c->rpc) ? FEED_PER_BUSY_TURN : FEED_PER_TURN;

	while (feed->work < most) {
		if (!e->ended && edition_is_behind(e)) {
			feed->c->counters.resync_behind++;
			snapshot_want(feed, sub);
			return true;
		}
		if (sub->chunk == e->n_chunks)
			chunk_make(e);
		rpc_call_send_bytes(sub->session->call, e->chunks[sub->chunk]);
		session_was_sent(sub->session);
		if (!e->kept)
			chunk_drop(e, sub->chunk);
		sub->chunk++;
		feed->c->counters.chunks++;
		feed->work += FEED_COPY_WORK;
		if (e->ended && sub->chunk == e->n_chunks) {
			snapshot_ended(feed, sub);
			return true;
		}
		if (rpc_call_backlog(sub->session->call) > FEED_BACKLOG_MAX)
			break;
	}
	return false;
}
