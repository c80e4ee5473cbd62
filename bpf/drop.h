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

/* What bpf_clone_redirect() says of a device that is down (NET_XMIT_CN of
 * the queue's answers; measured for link down and for no carrier). */
#define CLONE_DOWN 2

/* rc: bpf_clone_redirect()'s. */
static __always_inline void count_copy(struct dp_port_counters *c, long rc, __u32 len)
{
	if (rc == 0)
		count(&c->copied, len);
	else if (rc < 0)
		count(&c->gone, len);
	else if (rc == CLONE_DOWN)
		count(&c->down, len);
	else
		count(&c->refused, len);
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
