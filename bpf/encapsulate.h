/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Copies to other nodes, in VXLAN (RFC 7348), by one of two ways.
 *
 * Through the overlay device, a tunnel key a copy: the kernel then routes,
 * resolves, fragments and encrypts each, which costs a microsecond.
 *
 * Direct, where the agent knows the path (struct dp_path: an Ethernet link, a
 * neighbour that is reachable, nothing else to be done to the packet) and the
 * packet fits: the packet is encapsulated once, and for each remote only MAC
 * addresses, destination and checksum are written before it is cloned to the
 * link. Paths hold as long as an agent vouches for them.
 *
 * What does not fit goes through the overlay device, which fragments it; but not
 * over IPv6, where the agent does (node/oversize.c): such copies are encapsulated
 * with the direct ones, and put into a device that the agent reads.
 */
#include <linux/udp.h>

#include "drop.h"
#include "parse.h"

/* The part that every kernel since 5.15 knows. */
#define TUNNEL_KEY_SIZE __builtin_offsetof(struct bpf_tunnel_key, local_ipv4)
#define TUNNEL_TTL	64

#define DIRECT_CHUNK 32

#define SOURCE_PORTS	0xc000 /* the dynamic ones, as RFC 7348 section 5 wants */
#define ECN_MASK	3
#define IPV6_FLOW_LABEL 0xfffff

#define VXLAN_VNI_VALID 0x08000000

struct vxlan_header {
	__be32 flags_be;
	__be32 vni_be; /* in the upper 24 bits */
};

/* What is put before the inner IP header. In memory two bytes further back, so
 * that the headers are aligned, as in the kernel. */
struct outer_ipv4 {
	__u8 align[2];
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	struct vxlan_header vxlan;
	struct ethhdr inner;
	__u8 first[2]; /* of the inner packet, for who reads: version and TOS */
};

struct outer_ipv6 {
	__u8 align[2];
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct udphdr udp;
	struct vxlan_header vxlan;
	struct ethhdr inner;
	__u8 first[2]; /* of the inner packet, for who reads: version and TOS */
};

#define HEADERS(type) (__builtin_offsetof(type, first) - 2)
#define ADDED_IPV4    (HEADERS(struct outer_ipv4) - ETH_HLEN)
#define ADDED_IPV6    (HEADERS(struct outer_ipv6) - ETH_HLEN)

#define FRAGMENT_OFFSET 6 /* of the flags in an IPv4 header, of the next header in IPv6's */

/* Of the inner frame: what an IPv6 packet has room for. */
#define LONGEST_IPV6 (65535 - sizeof(struct udphdr) - sizeof(struct vxlan_header))

_Static_assert(ADDED_IPV4 == 50 && ADDED_IPV6 == 70, "outer headers");
_Static_assert(sizeof(struct outer_ipv6) <= sizeof(((struct encapsulation *)0)->head), "head");

/* One packet's work. */
struct replicate {
	struct dp_route_key key; /* of the list */
	__u32 seq;
	__u32 from_ifindex; /* no copy back; 0: from the overlay */
	__u32 from_mtu;	    /* of that port; 0: not known */
	__u32 skip_bridge;  /* its ports get the packet from it; 0: none */
	__u32 to_remotes;
	__u32 keep;    /* copies are clones only: the host gets the packet too, or is_ptp() */
	__u32 no_peer; /* bpf_redirect_peer() would be wrong of this packet */
	__u32 held;    /* port that is to get the next copy; 0: none */
	__u32 held_ifindex, held_mtu, held_peer;
	__u32 fan;	/* device that makes the copies to ports; 0: none */
	__u32 first;	/* chunk of the list that they begin with */
	__u32 direct;	/* enum direct_kind: known after the first remote */
	__u32 n_direct; /* remotes in `encapsulation` */
};

enum direct_kind {
	DIRECT_UNKNOWN,
	DIRECT_NO,
	DIRECT_IPV4,
	DIRECT_IPV6,
};

static __always_inline bool is_ipv4(const __u8 *address)
{
	return !*(__u64 *)address && *(__u32 *)(address + 8) == bpf_htonl(0xffff);
}

/* A GSO packet is cut into segments that fit the link it was made for; the
 * longest IPv4 header and UDP's are an upper bound of what is before the data. */
static __always_inline __u32 ip_length(const struct __sk_buff *skb)
{
	return skb->gso_size ? skb->gso_size + 60 + sizeof(struct udphdr) : skb->len - ETH_HLEN;
}

static __always_inline bool packet_fits(const struct __sk_buff *skb, __u32 mtu)
{
	return mtu && ip_length(skb) <= mtu;
}

/* DSCP and ECN of the inner packet: ECN goes out (RFC 6040 section 4.1), DSCP if
 * workloads are to choose how the underlay treats them. */
static __always_inline __u8 outer_tos(struct __sk_buff *skb, const struct dp_config *conf)
{
	__u8 b[2] = {}, tos;

	bpf_skb_load_bytes(skb, ETH_HLEN, b, sizeof(b));
	tos = skb->protocol == bpf_htons(ETH_P_IP) ? b[1] : b[0] << 4 | b[1] >> 4;
	return conf->dscp == DP_DSCP_INHERIT ? tos : conf->dscp << 2 | (tos & ECN_MASK);
}

/* ---- through the overlay device --------------------------------------------- */

/* 0, or what a helper said. */
static __always_inline long send_by_device(struct __sk_buff *skb, __u32 segment,
					   const struct dp_remote *remote,
					   const struct dp_config *conf)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = segment,
		.tunnel_tos = outer_tos(skb, conf) & ~ECN_MASK, /* that the kernel adds */
		.tunnel_ttl = TUNNEL_TTL,
	};
	__u64 flags = BPF_F_ZERO_CSUM_TX;
	long rc;

	if (is_ipv4(remote->vtep)) {
		key.remote_ipv4 = bpf_ntohl(*(__u32 *)(remote->vtep + 12));
		key.local_ipv4 = bpf_ntohl(*(__u32 *)(conf->vtep + 12));
	} else {
		__builtin_memcpy(key.remote_ipv6, remote->vtep, 16);
		__builtin_memcpy(key.local_ipv6, conf->vtep, 16);
		flags |= BPF_F_TUNINFO_IPV6;
	}
	/* The peer takes copies from our VTEP only, which need not be the address
	 * that the kernel would choose. Kernels before 6.0 cannot be told. */
	rc = bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags);
	if (rc < 0)
		rc = bpf_skb_set_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, flags);
	return rc < 0 ? rc : bpf_clone_redirect(skb, conf->overlay_ifindex, 0);
}

__noinline int copy_by_device(struct __sk_buff *skb, struct replicate *r, __u32 id)
{
	struct dp_remote *remote = bpf_map_lookup_elem(&remotes, &id);
	struct dp_remote_counters *c = bpf_map_lookup_elem(&remote_counters, &id);
	__u32 zero = 0, len = skb->len;
	struct dp_config *conf = bpf_map_lookup_elem(&config, &zero);

	if (!r || !remote || !c || !conf)
		return 0;
	if (!remote->in_use) {
		count_one(DP_COUNTER_COPY_STALE, len);
	} else if (send_by_device(skb, r->key.segment, remote, conf) == 0) {
		count(&c->copied, len);
		count(&c->by_device, len);
	} else {
		count(&c->failed, len);
	}
	return 0;
}

/* ---- direct ----------------------------------------------------------------- */

static __always_inline __u32 direct_kind(const struct replicate *r, const struct dp_config *conf)
{
	if (r->keep || conf->paths_until_ns <= bpf_ktime_get_ns())
		return DIRECT_NO;
	return is_ipv4(conf->vtep) ? DIRECT_IPV4 : DIRECT_IPV6;
}

/* NULL behind the end. */
static __always_inline struct direct *direct_at(struct encapsulation *e, __u64 n)
{
	if (n >= DP_DIRECT_MAX)
		return NULL;
	/* Says it again where the compiler cannot move it from what it bounds. */
	asm volatile("%0 &= %1" : "+r"(n) : "i"(DP_DIRECT_MAX - 1));
	return &e->direct[n];
}

/* The agent's device for what is too long; 0: none. */
static __always_inline __u32 oversize_ifindex(void)
{
	__u32 number = DP_PATH_OVERSIZE;
	struct dp_path *path = bpf_map_lookup_elem(&paths, &number);

	return path ? *(volatile __u32 *)&path->ifindex : 0;
}

/* A fragment, and those before it are longer: with them, as by two ways it would
 * come first, and too many that wait for their beginning are given up. */
static __always_inline bool is_part_of_longer(struct __sk_buff *skb, const struct replicate *r,
					      __u32 added, const struct dp_path *path)
{
	__u16 word = 0;

	if (r->direct != DIRECT_IPV6 || r->from_mtu + added <= path->mtu)
		return false;
	/* The same offset in both headers. */
	bpf_skb_load_bytes(skb, ETH_HLEN + FRAGMENT_OFFSET, &word, sizeof(word));
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return word & bpf_htons(IP_MORE_FRAGMENTS | IP_OFFSET_MASK);
	return *(__u8 *)&word == IPPROTO_FRAGMENT;
}

/* Over IPv6, where the overlay device drops what is too long. */
static __always_inline bool may_be_fragmented(const struct __sk_buff *skb,
					      const struct replicate *r)
{
	bool may = r->direct == DIRECT_IPV6 && oversize_ifindex() &&
		   (skb->gso_size || skb->len <= LONGEST_IPV6);

	count_one(may ? DP_COUNTER_COPY_LONG : DP_COUNTER_COPY_TOO_LONG, skb->len);
	return may;
}

/* Notes a remote that is to be sent to directly, or sends by the device. Which
 * of the two is decided here and once: no change of path makes it both. */
__noinline int add_remote(struct __sk_buff *skb, struct replicate *r, __u32 id)
{
	struct dp_remote *remote = bpf_map_lookup_elem(&remotes, &id);
	__u32 zero = 0, number, added;
	struct encapsulation *e = bpf_map_lookup_elem(&encapsulation, &zero);
	struct dp_config *conf = bpf_map_lookup_elem(&config, &zero);
	struct dp_path *path;
	struct direct *d;

	if (!r || !remote || !e || !conf)
		return 0;
	if (r->direct == DIRECT_UNKNOWN)
		r->direct = direct_kind(r, conf);
	number = *(volatile __u32 *)&remote->path;
	path = bpf_map_lookup_elem(&paths, &number);
	added = r->direct == DIRECT_IPV4 ? ADDED_IPV4 : ADDED_IPV6;
	d = direct_at(e, r->n_direct);
	if (!number || !path || !d)
		return copy_by_device(skb, r, id);
	if (ip_length(skb) + added > path->mtu || is_part_of_longer(skb, r, added, path)) {
		if (is_ipv4(conf->vtep) || !may_be_fragmented(skb, r))
			return copy_by_device(skb, r, id);
		number |= DP_PATH_LONG;
	} else if (r->direct == DIRECT_NO || !path->ifindex) {
		return copy_by_device(skb, r, id);
	}
	d->remote = id;
	d->path = number;
	r->n_direct++;
	return 0;
}

static __always_inline __u32 sum_words(const void *data, __u32 n)
{
	const __u16 *words = data;
	__u32 sum = 0;

	for (__u32 i = 0; i < n; i++)
		sum += words[i];
	return sum;
}

static __always_inline __u16 sum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

static __always_inline void write_tunnel(struct udphdr *udp, struct vxlan_header *vxlan,
					 const struct dp_config *conf, __u32 vni, __u32 hash,
					 __u32 len)
{
	udp->source = bpf_htons(SOURCE_PORTS | (hash & ~SOURCE_PORTS & 0xffff));
	udp->dest = bpf_htons(conf->udp_port);
	udp->len = bpf_htons(sizeof(*udp) + sizeof(*vxlan) + len);
	udp->check = 0; /* RFC 7348 5, RFC 6936: the inner packet has its own */
	vxlan->flags_be = bpf_htonl(VXLAN_VNI_VALID);
	vxlan->vni_be = bpf_htonl(vni << 8);
}

/* Makes room, and writes what all remotes share. */
static __always_inline long encapsulate_ipv4(struct __sk_buff *skb, struct encapsulation *e,
					     const struct dp_config *conf, __u32 vni)
{
	struct outer_ipv4 *o = (void *)e->head;
	__u32 len = skb->len, hash = bpf_get_hash_recalc(skb);

	bpf_skb_load_bytes(skb, 0, &o->inner, sizeof(o->inner));
	o->eth.h_proto = bpf_htons(ETH_P_IP);
	*(__u8 *)&o->ip = 0x45;
	o->ip.tos = outer_tos(skb, conf);
	o->ip.tot_len = bpf_htons(len + ADDED_IPV4 - ETH_HLEN);
	o->ip.id = 0; /* RFC 6864: an atomic datagram */
	o->ip.frag_off = bpf_htons(IP_DONT_FRAGMENT);
	o->ip.ttl = TUNNEL_TTL;
	o->ip.protocol = IPPROTO_UDP;
	o->ip.check = 0;
	o->ip.saddr = *(__u32 *)(conf->vtep + 12);
	o->ip.daddr = 0;
	e->sum = sum_words(&o->ip, sizeof(o->ip) / 2);
	write_tunnel(&o->udp, &o->vxlan, conf, vni, hash, len);
	if (bpf_skb_adjust_room(skb, ADDED_IPV4, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 |
					BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH |
					BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN)) < 0)
		return -1;
	return bpf_skb_store_bytes(skb, 0, &o->eth, HEADERS(struct outer_ipv4), 0);
}

static __always_inline long encapsulate_ipv6(struct __sk_buff *skb, struct encapsulation *e,
					     const struct dp_config *conf, __u32 vni)
{
	struct outer_ipv6 *o = (void *)e->head;
	__u32 len = skb->len, hash = bpf_get_hash_recalc(skb);

	bpf_skb_load_bytes(skb, 0, &o->inner, sizeof(o->inner));
	o->eth.h_proto = bpf_htons(ETH_P_IPV6);
	*(__be32 *)&o->ip = bpf_htonl(0x60000000 | outer_tos(skb, conf) << 20 |
				      (hash & IPV6_FLOW_LABEL)); /* RFC 6438 */
	o->ip.payload_len = bpf_htons(len + ADDED_IPV6 - ETH_HLEN - sizeof(o->ip));
	o->ip.nexthdr = IPPROTO_UDP;
	o->ip.hop_limit = TUNNEL_TTL;
	__builtin_memcpy(&o->ip.saddr, conf->vtep, 16);
	write_tunnel(&o->udp, &o->vxlan, conf, vni, hash, len);
	if (bpf_skb_adjust_room(skb, ADDED_IPV6, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 |
					BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH |
					BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN)) < 0)
		return -1;
	return bpf_skb_store_bytes(skb, 0, &o->eth, HEADERS(struct outer_ipv6), 0);
}

/* Addresses the encapsulated packet to the path. 0, or what a helper said. */
static __always_inline long address_to(struct __sk_buff *skb, struct encapsulation *e,
				       const struct dp_path *path, __u32 kind)
{
	struct outer_ipv4 *v4 = (void *)e->head;
	struct outer_ipv6 *v6 = (void *)e->head;

	__builtin_memcpy(v4->eth.h_dest, path->to_mac, ETH_ALEN);
	__builtin_memcpy(v4->eth.h_source, path->from_mac, ETH_ALEN);
	if (kind == DIRECT_IPV4) {
		v4->ip.daddr = *(__u32 *)(path->vtep + 12);
		v4->ip.check = sum_fold(e->sum + sum_words(path->vtep + 12, 2));
		return bpf_skb_store_bytes(skb, 0, &v4->eth, sizeof(v4->eth) + sizeof(v4->ip), 0);
	}
	__builtin_memcpy(&v6->ip.daddr, path->vtep, 16);
	return bpf_skb_store_bytes(skb, 0, &v6->eth, sizeof(v6->eth) + sizeof(v6->ip), 0);
}

/* The verdict that sends the packet itself, for the last of them; else 0. */
__noinline int send_direct_chunk(struct __sk_buff *skb, struct replicate *r, __u32 begin)
{
	__u32 zero = 0, len = skb->len;
	struct encapsulation *e = bpf_map_lookup_elem(&encapsulation, &zero);

	if (!r || !e)
		return 0;
	len -= r->direct == DIRECT_IPV4 ? ADDED_IPV4 : ADDED_IPV6; /* as by the device */
	for (__u32 i = 0; i < DIRECT_CHUNK; i++) {
		__u32 n = begin + i, id, number, is_long, ifindex;
		struct direct *d = direct_at(e, n);
		struct dp_remote_counters *c;
		struct dp_path *path;

		if (n >= r->n_direct || !d)
			break;
		id = d->remote;
		is_long = d->path & DP_PATH_LONG;
		number = d->path & ~DP_PATH_LONG;
		c = bpf_map_lookup_elem(&remote_counters, &id);
		path = bpf_map_lookup_elem(&paths, &number);
		if (!c || !path)
			continue;
		ifindex = is_long ? oversize_ifindex() : path->ifindex;
		if (address_to(skb, e, path, r->direct) < 0) {
			count(&c->failed, len);
		} else if (n + 1 == r->n_direct && !is_long) {
			count(&c->copied, len);
			return bpf_redirect(ifindex, 0);
		} else if (bpf_clone_redirect(skb, ifindex, 0) == 0) {
			count(&c->copied, len);
		} else {
			count(&c->failed, len);
		}
	}
	return 0;
}

__noinline int send_direct_by_device(struct __sk_buff *skb, struct replicate *r, __u32 begin)
{
	__u32 zero = 0;
	struct encapsulation *e = bpf_map_lookup_elem(&encapsulation, &zero);

	if (!r || !e)
		return 0;
	for (__u32 i = 0; i < DIRECT_CHUNK; i++) {
		struct direct *d = direct_at(e, begin + i);

		if (begin + i >= r->n_direct || !d)
			break;
		copy_by_device(skb, r, d->remote);
	}
	return 0;
}

/* To all remotes that were noted. The verdict on the packet. */
static __always_inline int send_direct(struct __sk_buff *skb, struct replicate *r)
{
	__u32 zero = 0;
	struct encapsulation *e = bpf_map_lookup_elem(&encapsulation, &zero);
	struct dp_config *conf = bpf_map_lookup_elem(&config, &zero);
	long rc;

	if (!e || !conf)
		return VERDICT_CONSUMED;
	rc = r->direct == DIRECT_IPV4 ? encapsulate_ipv4(skb, e, conf, r->key.segment)
				      : encapsulate_ipv6(skb, e, conf, r->key.segment);
	for (__u32 i = 0; i < DP_DIRECT_MAX / DIRECT_CHUNK; i++) {
		__u32 begin = i * DIRECT_CHUNK;
		int verdict;

		if (begin >= r->n_direct)
			break;
		/* No room was made (out of memory, or a kind of packet that cannot
		 * be encapsulated): it is as it was. */
		verdict = rc < 0 ? send_direct_by_device(skb, r, begin)
				 : send_direct_chunk(skb, r, begin);
		if (verdict)
			return verdict;
	}
	return VERDICT_CONSUMED;
}
