/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * From the underlay to the inner frame, without the overlay device: for plain
 * packets only, to our VTEP and our UDP port, whole, without a checksum of
 * their own (RFC 6936) and without an ECN mark that would have to be carried
 * inwards (RFC 6040 section 4.2). All others are left to the kernel. So is what
 * comes while no overlay device is there, and GSO packets: they could be
 * stripped, but would be dropped later.
 */
#include <linux/if_packet.h>

#include "encapsulate.h"

struct tunnel {
	__u32 vtep[4]; /* the sender's */
	__u32 vni;
	__u32 added; /* bytes before the inner IP header, but for its Ethernet header */
	struct ethhdr inner;
	bool protocol_changed; /* inner and outer IP are not of one version */
};

static __always_inline bool is_tunnel(const struct udphdr *udp, const struct vxlan_header *vxlan,
				      const struct dp_config *conf)
{
	return udp->dest == bpf_htons(conf->udp_port) && !udp->check &&
	       vxlan->flags_be == bpf_htonl(VXLAN_VNI_VALID);
}

/* b: the first bytes of the inner packet. */
static __always_inline bool ecn_is_plain(const struct ethhdr *inner, const __u8 *b, __u8 outer)
{
	outer &= ECN_MASK;
	return outer == 0 ||
	       outer == ((inner->h_proto == bpf_htons(ETH_P_IP) ? b[1] : b[1] >> 4) & ECN_MASK);
}

static __always_inline bool tunnel_read_ipv4(struct __sk_buff *skb, const struct dp_config *conf,
					     struct tunnel *t)
{
	struct outer_ipv4 o;

	if (bpf_skb_load_bytes(skb, 0, &o.eth, HEADERS(struct outer_ipv4) + sizeof(o.first)) < 0 ||
	    *(__u8 *)&o.ip != 0x45 || o.ip.protocol != IPPROTO_UDP ||
	    !is_tunnel(&o.udp, &o.vxlan, conf))
		return false;
	if (o.ip.daddr != *(__u32 *)(conf->vtep + 12) || !is_ipv4(conf->vtep) ||
	    o.ip.frag_off & bpf_htons(IP_MORE_FRAGMENTS | IP_OFFSET_MASK) ||
	    bpf_ntohs(o.ip.tot_len) + ETH_HLEN != skb->len ||
	    !ecn_is_plain(&o.inner, o.first, o.ip.tos))
		return false;
	t->vtep[2] = bpf_htonl(0xffff);
	t->vtep[3] = o.ip.saddr;
	t->vni = bpf_ntohl(o.vxlan.vni_be) >> 8;
	t->added = ADDED_IPV4;
	t->inner = o.inner;
	t->protocol_changed = o.inner.h_proto != bpf_htons(ETH_P_IP);
	return true;
}

static __always_inline bool address_equal(const __u32 *a, const __u32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline bool tunnel_read_ipv6(struct __sk_buff *skb, const struct dp_config *conf,
					     struct tunnel *t)
{
	struct outer_ipv6 o;

	if (bpf_skb_load_bytes(skb, 0, &o.eth, HEADERS(struct outer_ipv6) + sizeof(o.first)) < 0 ||
	    o.ip.version != 6 || o.ip.nexthdr != IPPROTO_UDP || !is_tunnel(&o.udp, &o.vxlan, conf))
		return false;
	if (!address_equal(o.ip.daddr.in6_u.u6_addr32, (const __u32 *)conf->vtep) ||
	    bpf_ntohs(o.ip.payload_len) + sizeof(o.ip) + ETH_HLEN != skb->len ||
	    !ecn_is_plain(&o.inner, o.first, bpf_ntohl(*(__be32 *)&o.ip) >> 20))
		return false;
	__builtin_memcpy(t->vtep, &o.ip.saddr, 16);
	t->vni = bpf_ntohl(o.vxlan.vni_be) >> 8;
	t->added = ADDED_IPV6;
	t->inner = o.inner;
	t->protocol_changed = o.inner.h_proto != bpf_htons(ETH_P_IPV6);
	return true;
}

/* Is it a plain packet of a tunnel to us? *ret_tunnel is set only then. A function
 * of its own, so that its headers are off the stack before the copies are made. */
static __noinline bool tunnel_read(struct __sk_buff *skb, struct tunnel *ret_tunnel)
{
	struct dp_config *conf;
	__u32 zero = 0;

	if (skb->pkt_type != PACKET_HOST || skb->vlan_present || skb->gso_size)
		return false;
	conf = bpf_map_lookup_elem(&config, &zero);
	if (!conf || !conf->overlay_ifindex)
		return false;
	__builtin_memset(ret_tunnel, 0, sizeof(*ret_tunnel));
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return tunnel_read_ipv4(skb, conf, ret_tunnel);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return tunnel_read_ipv6(skb, conf, ret_tunnel);
	return false;
}

/* False: it is as it was. */
static __always_inline bool tunnel_strip(struct __sk_buff *skb, const struct tunnel *t)
{
	if (bpf_skb_adjust_room(skb, -(__s32)t->added, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) < 0)
		return false;
	/* The tunnel's zero checksum counts as one that was checked, as in the
	 * kernel's own receive path; what the link knows is of the inner packet, from
	 * its IP header on. */
	bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC);
	bpf_skb_store_bytes(skb, 0, &t->inner, sizeof(t->inner), 0);
	bpf_skb_change_type(skb, PACKET_MULTICAST);
	return true;
}
