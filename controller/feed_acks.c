/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What agents acknowledge: how far each is, when it came there, and whether it has
 * what the log has.
 */
#include "controller/feed_internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "controller/wire.h"

static struct appended *time_at(const struct feed_segment *fs, uint64_t i)
{
	return (struct appended *)&fs->times[i % FEED_TIMES];
}

void feed_time_note(struct feed_segment *fs)
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
		feed_resync(feed, sub, "the digest differs");
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
	if (ack->snapshot == sub->snapshot_id)
		sub->acked_snapshot = ack->snapshot;
	ack_compare(feed, sub, ack);
}

/* It was sent a snapshot, or will be, and has not said that it has it. */
static bool sub_is_replaced(const struct sub *sub)
{
	return sub->wants_snapshot || sub->in_snapshot ||
	       (sub->session->acks_snapshots && sub->acked_snapshot != sub->snapshot_id);
}

bool session_owes(const struct session *s)
{
	for (size_t i = 0; i < s->n_subs; i++) {
		if (sub_is_replaced(&s->subs[i]) || s->subs[i].acked < s->subs[i].sent)
			return true;
	}
	return false;
}

bool session_has_applied(const struct session *s, uint64_t revision)
{
	for (size_t i = 0; i < s->n_subs; i++) {
		const struct sub *sub = &s->subs[i];

		if (sub_is_replaced(sub) ||
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

		if ((sub->acked < sub->segment->revision || sub_is_replaced(sub)) &&
		    sub->acked < applied)
			applied = sub->acked;
	}
	return applied;
}
