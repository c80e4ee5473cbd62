/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* The one place that decides which class a packet has. */
#include "parse.h"

/* An enum packet_class, or minus an enum dp_drop. */
static __always_inline int classify(struct __sk_buff *skb, struct packet *p)
{
	struct ethhdr eth;

	__builtin_memset(p, 0, sizeof(*p));
	/* Tagged by an offload; a tag in the frame shows as its type. */
	if (skb->vlan_present)
		return CLASS_OTHER;
	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) < 0)
		return CLASS_OTHER;
	__builtin_memcpy(p->mac, eth.h_dest, ETH_ALEN);
	if (eth.h_proto == bpf_htons(ETH_P_IP))
		return classify_ipv4(skb, p);
	if (eth.h_proto == bpf_htons(ETH_P_IPV6))
		return classify_ipv6(skb, p);
	return CLASS_OTHER;
}
