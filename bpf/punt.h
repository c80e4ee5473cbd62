/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* IGMP and MLD go to the agent as they are. */
#include "drop.h"

/* Is the port within its rate? One word a port: the time at which it would
 * have earned all it has sent (the generic cell rate algorithm). */
static __always_inline bool punt_in_pace(__u32 port, __u64 now_ns)
{
	struct dp_config *c;
	__u64 *due_ns, due;
	__u32 zero = 0;

	c = bpf_map_lookup_elem(&config, &zero);
	due_ns = bpf_map_lookup_elem(&punt_pace, &port);
	if (!c || !due_ns)
		return false;
	due = *due_ns > now_ns ? *due_ns : now_ns;
	due += c->punt_interval_ns;
	if (due - now_ns > c->punt_burst_ns)
		return false;
	*due_ns = due;
	return true;
}

/* 0, or minus an enum dp_drop. */
static __always_inline int punt_frame(struct __sk_buff *skb, __u32 id, const struct dp_port *port)
{
	__u64 now_ns = bpf_ktime_get_ns();
	struct punt_record *record;
	__u64 len = skb->len;
	__u32 zero = 0;

	if (!punt_in_pace(id, now_ns))
		return -DP_DROP_PUNT_RATE;
	record = bpf_map_lookup_elem(&punt_scratch, &zero);
	/* Keeps the bound next to its use, where the verifier looks for it. */
	asm volatile("" : "+r"(len));
	if (!record || len < ETH_HLEN || len > DP_PUNT_FRAME)
		return -DP_DROP_PUNT_LENGTH;
	record->header.time_ns = now_ns;
	record->header.ifindex = port->ifindex;
	record->header.generation = port->generation;
	record->header.len = len;
	record->header.pad = 0;
	if (bpf_skb_load_bytes(skb, 0, record->frame, len) < 0)
		return -DP_DROP_PUNT_LENGTH;
	if (bpf_ringbuf_output(&punt, record, sizeof(record->header) + len, 0) < 0)
		return -DP_DROP_PUNT_RING;
	return 0;
}
