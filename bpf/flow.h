/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * DOC: flows
 *
 * Two lookups in `routes`, of the source and of the group, would be half of what the
 * program at a port takes for a packet. A stream asks the same for each of its packets, so
 * each CPU keeps the answers in a table that is indexed by a product instead of a hash.
 *
 * An answer holds while the routes of its group are what they were: the agent adds one
 * to the group's element of `epochs` after each change of `routes`, and before the
 * chunks of the old list may become another's. Who asks notes the epoch first and the
 * routes after it, so that an answer from before a change bears an epoch from before it.
 *
 * A flow counts its packets as well, and hands the count to its group's when it ends:
 * when another takes its place, or a change of the routes.
 *
 * Packets of a CPU do not interrupt each other, so nobody sees half a flow.
 */
#include "drop.h"

static __always_inline bool key_equal(const struct dp_route_key *a, const struct dp_route_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] && x[4] == y[4];
}

/* The place of the flow with that key, whosever it is now. */
static __always_inline struct dp_flow *flow_place(const struct dp_route_key *key)
{
	const __u32 *group = (const __u32 *)key->group, *source = (const __u32 *)key->source;
	__u32 product = (group[3] ^ key->segment << 8) * 0x9e3779b1 + source[3] * 0x85ebca6b;
	__u32 place = product >> 16 & (DP_FLOWS - 1);

	return bpf_map_lookup_elem(&flows, &place);
}

static __always_inline __u64 *flow_epoch(const struct dp_route_key *key)
{
	__u32 slot = DP_EPOCH_SLOT(key->group);

	return bpf_map_lookup_elem(&epochs, &slot);
}

/* Is it the flow of that key, and is its route the one that there is? */
static __always_inline bool flow_holds(const struct dp_flow *f, const struct dp_route_key *key)
{
	const volatile __u64 *epoch = flow_epoch(key);

	return epoch && f->epoch == *epoch && key_equal(&f->key, key);
}

/* What it counted goes to its group; the table forgets those that are longest unused. */
static __noinline int flow_end(struct dp_flow *f)
{
	struct dp_group key = { .segment = f->key.segment };
	struct dp_count *total, none = {};

	f->epoch = 0;
	if (!f->count.packets)
		return 0;
	__builtin_memcpy(key.group, f->key.group, sizeof(key.group));
	total = bpf_map_lookup_elem(&group_counts, &key);
	if (!total) {
		/* Another CPU may do the same. */
		bpf_map_update_elem(&group_counts, &key, &none, BPF_NOEXIST);
		total = bpf_map_lookup_elem(&group_counts, &key);
	}
	if (total) {
		__sync_fetch_and_add(&total->packets, f->count.packets);
		__sync_fetch_and_add(&total->bytes, f->count.bytes);
	}
	f->count = none;
	return 0;
}

/* The epoch of what is read of `routes` from here on: by an atomic operation, so that
 * no CPU reads them before it. */
static __always_inline __u64 flow_epoch_begin(const struct dp_route_key *key)
{
	__u64 *epoch = flow_epoch(key);

	return epoch ? __sync_fetch_and_add(epoch, 0) : 0;
}
