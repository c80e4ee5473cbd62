/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * From bytes to what a packet is. Loads go through the helper, so that it does
 * not matter which part of the frame is linear. Fields named _be keep the
 * network's order.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "shared.h"

enum packet_class {
	CLASS_OTHER,	  /* not IP multicast, or tagged: none of our business */
	CLASS_DISCOVERY,  /* ICMPv6 133-137: never replicated (RFC 4861) */
	CLASS_CONTROL,	  /* IGMP, MLD */
	CLASS_DHCPV6,	  /* ff02::1:2 (RFC 8415 7.1) */
	CLASS_LINK_LOCAL, /* 224.0.0.0/24, ff0x::/16 with x <= 2 (RFC 4541 2.1.2) */
	CLASS_DATA,
};

struct packet {
	struct dp_route_key key;  /* group and source; the rest is zero */
	__u8 mac[ETH_ALEN];	  /* the Ethernet destination it has */
	__u8 group_mac[ETH_ALEN]; /* and the one that it ought to have */
};

#define IPV6_EXTENSIONS_MAX 8

#define PTP_IPV4    0xe0000181 /* 224.0.1.129 */
#define PTP_IPV6    0x181      /* ff0x::181 */
#define PTP_DOMAINS 4

#define IP_DONT_FRAGMENT  0x4000
#define IP_MORE_FRAGMENTS 0x2000
#define IP_OFFSET_MASK	  0x1fff
#define IPV6_OFFSET_MASK  0xfff8

#define ICMPV6_MLD_QUERY       130
#define ICMPV6_MLD_REPORT      131
#define ICMPV6_MLD_DONE	       132
#define ICMPV6_DISCOVERY_FIRST 133
#define ICMPV6_DISCOVERY_LAST  137
#define ICMPV6_MLD2_REPORT     143

#define NEXT_HOP_BY_HOP	 0
#define NEXT_ROUTING	 43
#define NEXT_FRAGMENT	 44
#define NEXT_AUTH	 51
#define NEXT_ICMPV6	 58
#define NEXT_DESTINATION 60
#define NEXT_MOBILITY	 135
#define NEXT_HIP	 139
#define NEXT_SHIM6	 140

/* Of 01:00:5e (RFC 1112 6.4) or 33:33 (RFC 2464 7)? */
static __always_inline bool mac_is_group(const __u8 *mac)
{
	return (mac[0] == 0x01 && mac[1] == 0x00 && mac[2] == 0x5e) ||
	       (mac[0] == 0x33 && mac[1] == 0x33);
}

/*
 * To a group of PTP (IEEE 1588 annexes C and D)? Its senders ask for the time at
 * which a packet left. Each device that the packet itself, and not a clone, goes
 * out by tells their socket one; ptp4l takes a second for an error.
 */
static __always_inline bool is_ptp(const struct packet *p)
{
	const __u32 *g = (const __u32 *)p->key.group;

	if (p->key.group[0] == 0xff)
		return !(g[0] & bpf_htonl(0xffff)) && !g[1] && !g[2] &&
		       bpf_ntohl(g[3]) - PTP_IPV6 < PTP_DOMAINS;
	return bpf_ntohl(g[3]) - PTP_IPV4 < PTP_DOMAINS;
}

/* In memory two bytes further back, so that the IP header is aligned. */
struct frame_start {
	__u8 align[2];
	struct ethhdr eth;
	struct iphdr ip;
};

#define FRAME_START (sizeof(struct ethhdr) + sizeof(struct iphdr))

/* ip: NULL where the frame ends before it. */
static __always_inline int classify_ipv4(struct __sk_buff *skb, struct packet *p,
					 const struct iphdr *ip)
{
	__u32 total;
	__u16 frag;

	if (!ip || ip->version != 4)
		return mac_is_group(p->mac) ? -DP_DROP_IPV4_HEADER : CLASS_OTHER;
	if ((ip->daddr & bpf_htonl(0xf0000000)) != bpf_htonl(0xe0000000))
		return CLASS_OTHER;

	total = bpf_ntohs(ip->tot_len);
	if (ip->ihl < 5 || total < ip->ihl * 4 || ETH_HLEN + total > skb->len)
		return -DP_DROP_IPV4_LENGTH;

	p->key.group[10] = p->key.group[11] = 0xff;
	p->key.source[10] = p->key.source[11] = 0xff;
	__builtin_memcpy(p->key.group + 12, &ip->daddr, 4);
	__builtin_memcpy(p->key.source + 12, &ip->saddr, 4);
	p->group_mac[0] = 0x01;
	p->group_mac[1] = 0x00;
	p->group_mac[2] = 0x5e;
	p->group_mac[3] = p->key.group[13] & 0x7f;
	p->group_mac[4] = p->key.group[14];
	p->group_mac[5] = p->key.group[15];

	frag = bpf_ntohs(ip->frag_off) & (IP_MORE_FRAGMENTS | IP_OFFSET_MASK);
	if (ip->protocol == IPPROTO_IGMP)
		return frag ? -DP_DROP_IGMP_FRAGMENT : CLASS_CONTROL;
	if ((ip->daddr & bpf_htonl(0xffffff00)) == bpf_htonl(0xe0000000))
		return CLASS_LINK_LOCAL;
	return CLASS_DATA;
}

struct extension {
	__u8 next;
	__u8 len;
	__be16 frag_be;
};

/*
 * Looks behind the extension headers for ICMPv6: *ret_type is its type, or 0
 * when the packet is something else. A chain that cannot be followed to its
 * end could hide a router advertisement, so it is refused.
 */
static __always_inline int ipv6_find_icmp(struct __sk_buff *skb, __u8 next, __u8 *ret_type,
					  bool *ret_fragment)
{
	__u32 offset = ETH_HLEN + sizeof(struct ipv6hdr);
	struct extension x;

	*ret_type = 0;
	*ret_fragment = false;
	for (int i = 0; i <= IPV6_EXTENSIONS_MAX; i++) {
		switch (next) {
		case NEXT_ICMPV6:
			if (bpf_skb_load_bytes(skb, offset, ret_type, 1) < 0)
				return -DP_DROP_IPV6_EXTENSIONS;
			return 0;
		case NEXT_HOP_BY_HOP:
		case NEXT_ROUTING:
		case NEXT_DESTINATION:
		case NEXT_MOBILITY:
		case NEXT_HIP:
		case NEXT_SHIM6:
		case NEXT_AUTH:
		case NEXT_FRAGMENT:
			break;
		default:
			return 0;
		}
		if (bpf_skb_load_bytes(skb, offset, &x, sizeof(x)) < 0)
			return -DP_DROP_IPV6_EXTENSIONS;
		if (next == NEXT_FRAGMENT) {
			if (x.frag_be & bpf_htons(IPV6_OFFSET_MASK))
				return 0; /* its beginning decided */
			if (x.frag_be & bpf_htons(1))
				*ret_fragment = true;
			offset += 8;
		} else if (next == NEXT_AUTH) {
			offset += (x.len + 2) * 4;
		} else {
			offset += (x.len + 1) * 8;
		}
		next = x.next;
	}
	return -DP_DROP_IPV6_EXTENSIONS;
}

static __always_inline int classify_icmpv6(__u8 type, bool fragment)
{
	if (type >= ICMPV6_DISCOVERY_FIRST && type <= ICMPV6_DISCOVERY_LAST)
		return CLASS_DISCOVERY;
	if ((type >= ICMPV6_MLD_QUERY && type <= ICMPV6_MLD_DONE) || type == ICMPV6_MLD2_REPORT)
		return fragment ? -DP_DROP_MLD_FRAGMENT : CLASS_CONTROL;
	return CLASS_DATA;
}

static __always_inline int classify_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr ip;
	bool fragment;
	__u8 type;
	int rc;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) < 0 || ip.version != 6)
		return mac_is_group(p->mac) ? -DP_DROP_IPV6_HEADER : CLASS_OTHER;
	__builtin_memcpy(p->key.group, &ip.daddr, 16);
	__builtin_memcpy(p->key.source, &ip.saddr, 16);
	if (p->key.group[0] != 0xff)
		return CLASS_OTHER;
	if (ETH_HLEN + sizeof(ip) + bpf_ntohs(ip.payload_len) > skb->len)
		return -DP_DROP_IPV6_LENGTH;

	p->group_mac[0] = p->group_mac[1] = 0x33;
	__builtin_memcpy(p->group_mac + 2, p->key.group + 12, 4);

	rc = ipv6_find_icmp(skb, ip.nexthdr, &type, &fragment);
	if (rc == 0)
		rc = classify_icmpv6(type, fragment);
	if (rc != CLASS_DATA)
		return rc;
	if (ip.daddr.in6_u.u6_addr32[0] == bpf_htonl(0xff020000) && !ip.daddr.in6_u.u6_addr32[1] &&
	    !ip.daddr.in6_u.u6_addr32[2] && ip.daddr.in6_u.u6_addr32[3] == bpf_htonl(0x00010002))
		return CLASS_DHCPV6;
	if ((p->key.group[1] & 0x0f) <= 2)
		return CLASS_LINK_LOCAL;
	return CLASS_DATA;
}
