/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent acknowledges: how far its maps are, with a digest of what they have. */
#include "node/uplink_internal.h"

#include "common/cleanup.h"

struct ack_build {
	struct uplink *u;
	Mcmesh__V1__SegmentAck rows[64];
	Mcmesh__V1__SegmentAck *pointers[64];
	uint8_t digests[64][16];
	size_t n;
	uint64_t now_ms;
};

static void ack_send(struct ack_build *b)
{
	Mcmesh__V1__Ack ack = MCMESH__V1__ACK__INIT;

	if (!b->n)
		return;
	ack.segments = b->pointers;
	ack.n_segments = b->n;
	uplink_send_part(b->u, MCMESH__V1__AGENT_MESSAGE__MESSAGE_ACK, &ack, b->now_ms);
	b->n = 0;
}

static void ack_segment(uint32_t segment, uint64_t revision, void *userdata)
{
	struct ack_build *b = userdata;
	struct digest digest = mirror_digest(b->u->mirror, segment);
	Mcmesh__V1__SegmentAck *row = &b->rows[b->n];

	if (!revision)
		return;
	mcmesh__v1__segment_ack__init(row);
	row->segment = segment;
	row->revision = revision;
	row->rows = digest.rows;
	row->snapshot = mirror_snapshot_ended(b->u->mirror, segment);
	b->pointers[b->n] = row;
	if (mirror_is_certain(b->u->mirror, segment)) {
		row->digest.data = b->digests[b->n];
		row->digest.len = sizeof(b->digests[b->n]);
	}
	digest_to_wire(&digest, b->digests[b->n]);
	if (++b->n == ARRAY_SIZE(b->rows))
		ack_send(b);
}

void uplink_ack_if_due(struct uplink *u, uint64_t now_ms)
{
	struct ack_build build = { .u = u, .now_ms = now_ms };

	if (u->state != UP || !u->ack_ready || now_ms < u->acked_ms + UPLINK_ACK_INTERVAL_MS)
		return;
	u->ack_due = u->ack_ready = false;
	u->acked_ms = now_ms;
	mirror_segments_walk(u->mirror, ack_segment, &build);
	ack_send(&build);
}

static void own_settle_segment(uint32_t segment, uint64_t revision, void *userdata)
{
	struct uplink *u = userdata;
	static const struct filter every = { .mode = FILTER_EXCLUDE };
	struct member *m, *next;

	if (mirror_is_certain(u->mirror, segment) || revision < u->accepted)
		return;
	mirror_own_begin(u->mirror, segment);
	HASH_ITER (hh, u->members, m, next) {
		if (m->key.segment == segment && !m->refusal && !filter_is_none(&m->filter) &&
		    mirror_own_row(u->mirror, segment, &m->key.group,
				   m->widened ? &every : &m->filter) < 0)
			return; /* at a later ack */
	}
	mirror_own_end(u->mirror, segment);
	u->ack_due = true;
}

/* The log has every member as it is now: what was seeded can be settled. */
static void own_settle(struct uplink *u)
{
	if (mirror_uncertain(u->mirror) && u->state == UP && !u->full_due && !u->in_flight &&
	    !u->due)
		mirror_segments_walk(u->mirror, own_settle_segment, u);
}

bool uplink_applied(struct uplink *u, uint64_t now_ms)
{
	bool moved = u->moved;

	/* The maps lack members whose node is not told yet. */
	if (!mirror_is_told(u->mirror))
		return false;
	u->moved = false;
	own_settle(u);
	u->ack_ready = u->ack_due;
	uplink_ack_if_due(u, now_ms);
	return moved;
}

void uplink_acks_lost(struct uplink *u)
{
	u->ack_due = true;
}
