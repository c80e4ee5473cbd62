/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * DOC: flows
 *
 * Two lookups in `routes`, of the source and of the group, are half of what a packet
 * costs before its first copy. A stream asks the same for each of its packets, so each
 * CPU keeps the answers in a table that is indexed by a product instead of a hash.
 *
 * An answer holds while the routes of its group are what they were: the agent adds one
 * to the group's element of `epochs` after each change of `routes`, and before the
 * chunks of the old list may become another's. Who asks notes the epoch first and the
 * routes after it, so that an answer from before a change bears an epoch from before it.
 *
 * Packets of a CPU do not interrupt each other, so nobody sees half a flow.
 */
#include "maps.h"

static __always_inline bool key_equal(const struct dp_route_key *a, const struct dp_route_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] && x[4] == y[4];
}

/* Where the flow of that key is kept. */
static __always_inline struct flow *flow_slot(const struct dp_route_key *key)
{
	const __u32 *group = (const __u32 *)key->group, *source = (const __u32 *)key->source;
	__u32 slot = (group[3] ^ key->segment << 8) * 0x9e3779b1 + source[3] * 0x85ebca6b;

	slot >>= 32 - FLOW_BITS;
	return bpf_map_lookup_elem(&flows, &slot);
}

static __always_inline __u64 *flow_epoch(const struct dp_route_key *key)
{
	__u32 slot = DP_EPOCH_SLOT(key->group);

	return bpf_map_lookup_elem(&epochs, &slot);
}

static __always_inline bool flow_holds(const struct flow *f, const struct dp_route_key *key)
{
	const volatile __u64 *epoch = flow_epoch(key);

	return f && epoch && f->epoch == *epoch && key_equal(&f->key, key);
}

/* The epoch of what is read of `routes` from here on: atomic, so that no CPU reads them
 * before it. */
static __always_inline __u64 flow_epoch_begin(const struct dp_route_key *key)
{
	__u64 *epoch = flow_epoch(key);

	return epoch ? __sync_fetch_and_add(epoch, 0) : 0;
}
