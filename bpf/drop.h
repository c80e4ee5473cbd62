/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* Counting, and the one way out for what is dropped. */
#include <linux/pkt_cls.h>

#include "maps.h"

/* The same numbers as TCX_NEXT and TCX_DROP, which older headers lack. */
#define VERDICT_UNTOUCHED TC_ACT_UNSPEC
#define VERDICT_CONSUMED  TC_ACT_SHOT

static __always_inline void count(struct dp_count *c, __u32 bytes)
{
	c->packets++;
	c->bytes += bytes;
}

static __always_inline void count_one(__u32 id, __u32 bytes)
{
	struct dp_count *c = bpf_map_lookup_elem(&counters, &id);

	if (c)
		count(c, bytes);
}

/* reason: an enum dp_drop. */
static __always_inline int drop(struct __sk_buff *skb, __u32 reason)
{
	count_one(DP_COUNTER_DROPS + reason, skb->len);
	return VERDICT_CONSUMED;
}
