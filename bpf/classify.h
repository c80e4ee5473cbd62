/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* The one place that decides which class a packet has. */
#include "parse.h"

/* An enum packet_class, or minus an enum dp_drop. */
static __always_inline int classify(struct __sk_buff *skb, struct packet *p)
{
	struct frame_start start;
	bool whole;

	__builtin_memset(p, 0, sizeof(*p));
	/* Tagged by an offload; a tag in the frame shows as its type. */
	if (skb->vlan_present)
		return CLASS_OTHER;
	/* One load for what nearly all have: each costs as much as a map's. */
	whole = bpf_skb_load_bytes(skb, 0, &start.eth, FRAME_START) == 0;
	if (!whole && bpf_skb_load_bytes(skb, 0, &start.eth, ETH_HLEN) < 0)
		return CLASS_OTHER;
	__builtin_memcpy(p->mac, start.eth.h_dest, ETH_ALEN);
	if (start.eth.h_proto == bpf_htons(ETH_P_IP))
		return classify_ipv4(skb, p, whole ? &start.ip : NULL);
	if (start.eth.h_proto == bpf_htons(ETH_P_IPV6))
		return classify_ipv6(skb, p);
	return CLASS_OTHER;
}
