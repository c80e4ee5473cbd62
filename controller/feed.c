/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: feeding the log to agents
 *
 * Each subscription (sub) knows one number: the revision of its segment that
 * it was sent. Whatever is newer in the log is owed; nothing else is kept for
 * it, so a slow agent costs what the transport already holds, and gets the
 * difference in one piece when it reads again.
 *
 * A sub is in one of two lanes: nodes whose workloads send into the segment need
 * to know of a receiver at once, all others only in case they send later. Each
 * lane has its rounds, and the lane of the senders goes first.
 *
 * A change marks its segment. At the end of the loop turn a round of each lane
 * begins: the segment's subs of the lane become ready, and its `goal` is the log's
 * revision of that moment. Ready subs are served FEED_PER_TURN at a time, so that
 * a large fan-out does not hold up other calls: neither the reports nor the
 * senders that those concern. What changes meanwhile goes along to those who are
 * not served yet while the delta is small (FEED_FRESH_ROWS), and to the others
 * with the next round; beyond that it waits for it. So subs that start a round at
 * the same revision share the serialised bytes, also while the log moves on.
 *
 * The lane's next round begins coalesce_ms after the last began, and not before
 * the lane has rested for half as long as the round took, or for as long after a
 * long one (FEED_LONG_MS; FEED_REST_MAX_MS at most): under load a round is long and
 * gathers much, and there is time for what agents and operators say. While many agents
 * come up, each brings rows that all who are there before it have to be told of: nodes
 * that do not send are told less often then (FEED_COMING), or there is no time for those
 * who come.
 *
 * A delta is bounded and ends at a revision. When it ends before the newest
 * one, rows that changed again later are not in it, so the agent's state after
 * it never was the log's; its acks are compared only from `comparable_from`.
 *
 * Who has nothing, or fell behind what the log remembers, gets a snapshot
 * (feed_snapshots.c). While more of what peers said waits than a turn takes, that is
 * heard first: a turn with work worth FEED_PER_BUSY_TURN done sends no more of snapshots.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "controller/feed_internal.h"
#include "controller/wire.h"

int feed_new(struct controller *c, struct feed **ret_feed)
{
	struct feed *feed = calloc(1, sizeof(*feed));

	if (!feed)
		return -ENOMEM;
	feed->c = c;
	for (size_t i = 0; i < FEED_LANES; i++) {
		TAILQ_INIT(&feed->lanes[i].ready);
		TAILQ_INIT(&feed->lanes[i].dirty);
	}
	TAILQ_INIT(&feed->waiting);
	TAILQ_INIT(&feed->ahead);
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
		editions_drop(fs);
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
	for (size_t i = 0; i < FEED_LANES; i++) {
		LIST_INIT(&fs->lanes[i].subs);
		fs->lanes[i].segment = fs;
	}
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
	for (size_t i = 0; i < FEED_LANES; i++) {
		if (fs->lanes[i].dirty)
			TAILQ_REMOVE(&feed->lanes[i].dirty, &fs->lanes[i], link);
	}
	TAILQ_REMOVE(&feed->segments, fs, all);
	cache_clear(fs);
	editions_drop(fs);
	free(fs);
}

void sub_make_ready(struct feed *feed, struct sub *sub)
{
	if (sub->ready || sub->waiting || sub->blocked || sub->ahead)
		return;
	sub->ready = true;
	TAILQ_INSERT_TAIL(&feed->lanes[sub->lane].ready, sub, link);
}

static void sub_unready(struct feed *feed, struct sub *sub)
{
	if (!sub->ready)
		return;
	sub->ready = false;
	TAILQ_REMOVE(&feed->lanes[sub->lane].ready, sub, link);
}

static void sub_paid(struct feed *feed, struct sub *sub)
{
	feed->lanes[sub->lane].n_owed -= sub->owed;
	sub->owed = false;
}

void feed_changed(struct feed *feed, struct log_segment *segment)
{
	struct feed_segment *fs = segment->userdata;

	if (!fs)
		return;
	feed_time_note(fs);
	fs->n_changes++;
	for (size_t i = 0; i < FEED_LANES; i++) {
		struct feed_segment_lane *lane = &fs->lanes[i];

		if (lane->dirty || LIST_EMPTY(&lane->subs))
			continue;
		lane->dirty = true;
		TAILQ_INSERT_TAIL(&feed->lanes[i].dirty, lane, link);
	}
}

void feed_resync(struct feed *feed, struct sub *sub, const char *reason)
{
	Mcmesh__V1__ControllerMessage m = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
	Mcmesh__V1__Resync resync = MCMESH__V1__RESYNC__INIT;

	resync.segment = sub->segment->id;
	resync.reason = (char *)reason;
	m.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_RESYNC;
	m.resync = &resync;
	session_send(sub->session, &m);
	/* Whatever the agent had, and the snapshot that is in doubt, is older. */
	sub->least = log_revision(feed->c->log);
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
	const struct feed_segment_lane *lane = &fs->lanes[sub->lane];
	uint64_t goal = lane->dirty ? lane->goal : fs->segment->revision;

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
		feed_resync(feed, sub, "the agent fell behind what the log remembers");
		return;
	}
	if (sub->wants_snapshot && !snapshot_begin(feed, sub))
		return;
	if (sub->in_snapshot) {
		if (!snapshot_continue(feed, sub) || sub->sent < sub_goal(feed, sub))
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
		feed_resync(feed, sub, "the agent is ahead of this log");
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
	/* An agent that restarted trusts its own rows once it is where its report is. */
	sub->bookmark = known < feed->bookmarked;
	sub_make_ready(feed, sub);
}

void feed_join(struct feed *feed, struct session *s)
{
	bool same = s->has_epoch && memcmp(s->hello_epoch, log_epoch(feed->c->log), EPOCH_LEN) == 0;

	feed->n_joined++;
	for (size_t i = 0; i < s->n_subs; i++) {
		struct feed_segment *fs = segment_get(feed, s->subs[i].segment);

		s->subs[i].lane = FEED_OTHERS;
		LIST_INSERT_HEAD(&fs->lanes[FEED_OTHERS].subs, &s->subs[i], of_segment);
		s->subs[i].begun = log_revision(feed->c->log);
		s->subs[i].least = s->knows ? s->subs[i].begun : 0;
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

		sub_unready(feed, sub);
		if (sub->waiting)
			TAILQ_REMOVE(&feed->waiting, sub, link);
		if (sub->ahead)
			TAILQ_REMOVE(&feed->ahead, sub, link);
		sub->waiting = sub->ahead = false;
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

static void subs_walk(struct feed *feed, void (*fn)(struct feed *feed, struct sub *sub))
{
	struct feed_segment *fs;
	struct sub *sub;

	TAILQ_FOREACH(fs, &feed->segments, all)
	{
		for (size_t i = 0; i < FEED_LANES; i++) {
			LIST_FOREACH (sub, &fs->lanes[i].subs, of_segment)
				fn(feed, sub);
		}
	}
}

static void sub_repeat(struct feed *feed, struct sub *sub)
{
	if (!sub->incomplete && (!sub->in_snapshot || snapshot_is_complete(sub)))
		return;
	sub->incomplete = false;
	if (!sub->waiting)
		snapshot_want(feed, sub);
}

void feed_completed(struct feed *feed)
{
	subs_walk(feed, sub_repeat);
}

/* ---- who sends ------------------------------------------------------------------- */

/* The other lane may be in a round, or past one, that this sub's had not come to. */
static void sub_move(struct feed *feed, struct sub *sub, enum feed_lane lane)
{
	struct feed_segment *fs = sub->segment->userdata;

	if (sub->lane == lane)
		return;
	sub_unready(feed, sub);
	sub_paid(feed, sub);
	LIST_REMOVE(sub, of_segment);
	sub->lane = lane;
	LIST_INSERT_HEAD(&fs->lanes[lane].subs, sub, of_segment);
	sub_make_ready(feed, sub);
}

static int id_cmp(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

void feed_sending(struct feed *feed, struct session *s, const Mcmesh__V1__Sending *sending)
{
	size_t n = sending->n_segments;

	if (n)
		qsort(sending->segments, n, sizeof(*sending->segments), id_cmp);
	for (size_t i = 0; i < s->n_subs; i++) {
		uint32_t id = s->subs[i].segment->id;
		/* Who sends needs the nodes, too. */
		bool sends = n && (id == 0 || bsearch(&id, sending->segments, n,
						      sizeof(*sending->segments), id_cmp));

		sub_move(feed, &s->subs[i], sends ? FEED_SENDERS : FEED_OTHERS);
	}
}

/* ---- the turn -------------------------------------------------------------------- */

static void lane_flush(struct feed *feed, struct feed_lane_state *lane)
{
	struct feed_segment_lane *segment;
	struct sub *sub;

	while ((segment = TAILQ_FIRST(&lane->dirty))) {
		TAILQ_REMOVE(&lane->dirty, segment, link);
		segment->dirty = false;
		segment->goal = segment->segment->segment->revision;
		LIST_FOREACH (sub, &segment->subs, of_segment) {
			sub_make_ready(feed, sub);
			lane->n_owed += sub->ready && !sub->owed;
			sub->owed = sub->ready;
		}
	}
}

static void sub_bookmark(struct feed *feed, struct sub *sub)
{
	if (sub->in_snapshot || sub->wants_snapshot || sub->sent >= feed->bookmarked)
		return;
	sub->bookmark = true;
	sub_make_ready(feed, sub);
}

/* All are brought to the same revision, so that they share bytes then too. */
static void bookmarks(struct feed *feed)
{
	uint64_t revision = log_revision(feed->c->log);

	if (revision == feed->bookmarked)
		return;
	feed->bookmarked = revision;
	subs_walk(feed, sub_bookmark);
}

uint64_t feed_rest_ms(enum feed_lane lane, uint64_t took_ms, uint64_t n_joined)
{
	uint64_t rest_ms = took_ms < FEED_LONG_MS ? took_ms / 2 : took_ms;
	uint64_t max_ms = FEED_REST_MAX_MS;

	if (lane == FEED_OTHERS && n_joined >= FEED_COMING) {
		rest_ms = took_ms * FEED_COMING_RESTS;
		max_ms = FEED_COMING_REST_MAX_MS;
	}
	return rest_ms < max_ms ? rest_ms : max_ms;
}

static void round_end(const struct feed *feed, struct feed_lane_state *lane)
{
	uint64_t now_ms = controller_now_ms();
	uint64_t rest_ms = feed_rest_ms((enum feed_lane)(lane - feed->lanes),
					now_ms - lane->round_ms, feed->n_joined - lane->n_joined);

	lane->in_round = false;
	lane->n_joined = feed->n_joined;
	if (now_ms + rest_ms > lane->window_until_ms)
		lane->window_until_ms = now_ms + rest_ms;
}

static void lane_turn(struct feed *feed, struct feed_lane_state *lane, uint64_t now_ms)
{
	struct sub *sub;

	if (!TAILQ_EMPTY(&lane->dirty) && !lane->in_round && now_ms >= lane->window_until_ms) {
		lane_flush(feed, lane);
		lane->in_round = true;
		lane->round_ms = now_ms;
		lane->window_until_ms = now_ms + feed->c->config->coalesce_ms;
	}
	for (; feed->work < FEED_PER_TURN && (sub = TAILQ_FIRST(&lane->ready)); feed->work++) {
		sub_unready(feed, sub);
		sub_paid(feed, sub);
		sub_serve(feed, sub);
	}
	if (lane->in_round && !lane->n_owed)
		round_end(feed, lane);
}

/* When the lane has something to do; CONTROLLER_NEVER: when something changes. */
static uint64_t lane_next_ms(const struct feed_lane_state *lane, uint64_t now_ms)
{
	if (!TAILQ_EMPTY(&lane->ready))
		return now_ms;
	return TAILQ_EMPTY(&lane->dirty) ? CONTROLLER_NEVER : lane->window_until_ms;
}

uint64_t feed_turn(struct feed *feed, uint64_t now_ms)
{
	uint64_t next_ms;

	ahead_turn(feed, now_ms);
	if (now_ms >= feed->bookmark_ms) {
		bookmarks(feed);
		editions_trim(feed, now_ms);
		log_segments_trim(feed->c->log, segment_going, feed);
		feed->bookmark_ms = now_ms + FEED_BOOKMARK_MS;
	}
	feed->work = 0;
	next_ms = feed->bookmark_ms;
	for (size_t i = 0; i < FEED_LANES; i++)
		lane_turn(feed, &feed->lanes[i], now_ms);
	for (size_t i = 0; i < FEED_LANES; i++) {
		uint64_t lane_ms = lane_next_ms(&feed->lanes[i], now_ms);

		next_ms = lane_ms < next_ms ? lane_ms : next_ms;
	}
	return next_ms;
}

void feed_hurry(struct feed *feed, uint64_t now_ms)
{
	feed->work = 0;
	for (size_t i = 0; i < FEED_LANES; i++) {
		struct feed_lane_state *lane = &feed->lanes[i];

		if (lane->in_round || !TAILQ_EMPTY(&lane->ready))
			return;
		lane_turn(feed, lane, now_ms);
	}
}
