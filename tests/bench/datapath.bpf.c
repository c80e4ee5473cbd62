// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * For the datapath's benchmark: what counts at the receivers, what measures the
 * generator alone, the floor (a bare redirect), and the eBPF design that others
 * published: group → inner hash of subscribers, walked by bpf_for_each_map_elem
 * with one bpf_clone_redirect a subscriber.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "datapath_shared.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define IPV4_TYPE     12 /* offsets in the frame */
#define IPV4_PROTOCOL 23
#define IPV4_CHECKSUM 24
#define IPV4_DADDR    30
#define IPV4_END      34
#define PROTOCOL_UDP  17

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} delivered SEC(".maps");

/* Loads as cheap as can be: what is measured is who delivers. */
static __always_inline int count_udp(struct __sk_buff *skb)
{
	__u8 *frame = (void *)(long)skb->data;
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&delivered, &zero);

	if (n && frame + IPV4_PROTOCOL + 1 <= (__u8 *)(long)skb->data_end &&
	    frame[IPV4_PROTOCOL] == PROTOCOL_UDP)
		++*n;
	return TC_ACT_SHOT;
}

SEC("tc")
int count_and_drop(struct __sk_buff *skb)
{
	return count_udp(skb);
}

SEC("tc")
int drop_all(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

SEC("xdp")
int pass_all(struct xdp_md *xdp)
{
	return XDP_PASS;
}

/* 1: what arrives at the other node is counted there and then. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} sending_only SEC(".maps");

/*
 * The end of the wire. Many nodes are one there: each copy in a tunnel is given that
 * one's address, which is the first of them, before it goes on to whoever receives.
 */
SEC("tc")
int wire_end(struct __sk_buff *skb)
{
	__u32 zero = 0, *only = bpf_map_lookup_elem(&sending_only, &zero), sum;
	__u8 *frame = (void *)(long)skb->data;
	__u16 *check, *to;

	if (only && *only)
		return count_udp(skb);
	if (frame + IPV4_END > (__u8 *)(long)skb->data_end ||
	    *(__u16 *)(frame + IPV4_TYPE) != bpf_htons(0x0800) || frame[IPV4_DADDR] != 10)
		return TC_ACT_UNSPEC;
	check = (__u16 *)(frame + IPV4_CHECKSUM);
	to = (__u16 *)(frame + IPV4_DADDR + 2);
	/* RFC 1624 */
	sum = (__u16) ~*check + (__u16) ~*to;
	*to = (*to & bpf_htons(0xff00)) | bpf_htons(REMOTE_FIRST);
	sum += *to;
	sum = (sum & 0xffff) + (sum >> 16);
	*check = ~((sum & 0xffff) + (sum >> 16));
	return TC_ACT_UNSPEC;
}

/* From a device, for a kind of group, to another. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct redirect_key);
	__type(value, __u32);
	__uint(max_entries, 16);
} redirects SEC(".maps");

static __always_inline int redirect_from(struct __sk_buff *skb, __u32 ifindex)
{
	struct redirect_key key = { .ifindex = ifindex };
	__u32 *to;
	__u8 kind;

	if (bpf_skb_load_bytes(skb, IPV4_DADDR + 1, &kind, 1) < 0)
		return TC_ACT_SHOT;
	key.kind = kind;
	to = bpf_map_lookup_elem(&redirects, &key);
	return to ? bpf_redirect(*to, 0) : TC_ACT_SHOT;
}

SEC("tc")
int redirect(struct __sk_buff *skb)
{
	return redirect_from(skb, skb->ifindex);
}

/* Its interfaces may have the numbers of ours. */
SEC("tc")
int redirect_far(struct __sk_buff *skb)
{
	return redirect_from(skb, REDIRECT_FAR);
}

struct inner {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(key_size, 4);
	__uint(value_size, sizeof(struct subscriber));
	__uint(max_entries, REF_SUBSCRIBERS);
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(key_size, 4);
	__uint(max_entries, REF_GROUPS);
	__array(values, struct inner);
} groups SEC(".maps"), far_groups SEC(".maps");

struct walk {
	struct __sk_buff *skb;
	bool from_overlay;
};

static long deliver(void *map, const void *key, struct subscriber *s, struct walk *w)
{
	struct bpf_tunnel_key tunnel = {};

	if (s->ifindex == w->skb->ifindex)
		return 0;
	if (s->remote) {
		if (w->from_overlay)
			return 0;
		tunnel.tunnel_id = REF_VNI;
		tunnel.remote_ipv4 = s->address;
		tunnel.tunnel_ttl = 64;
		if (bpf_skb_set_tunnel_key(w->skb, &tunnel,
					   __builtin_offsetof(struct bpf_tunnel_key, local_ipv4),
					   BPF_F_ZERO_CSUM_TX) < 0)
			return 0;
	}
	bpf_clone_redirect(w->skb, s->ifindex, 0);
	return 0;
}

static __always_inline int ref_input(struct __sk_buff *skb, void *of, bool from_overlay)
{
	struct walk w = { .skb = skb, .from_overlay = from_overlay };
	__u32 group;
	void *inner;

	if (bpf_skb_load_bytes(skb, IPV4_DADDR, &group, sizeof(group)) < 0)
		return TC_ACT_OK;
	inner = bpf_map_lookup_elem(of, &group);
	if (!inner)
		return TC_ACT_OK;
	bpf_for_each_map_elem(inner, deliver, &w, 0);
	return TC_ACT_SHOT;
}

SEC("tc")
int ref_port(struct __sk_buff *skb)
{
	return ref_input(skb, &groups, false);
}

SEC("tc")
int ref_overlay(struct __sk_buff *skb)
{
	return ref_input(skb, &groups, true);
}

SEC("tc")
int ref_far(struct __sk_buff *skb)
{
	return ref_input(skb, &far_groups, true);
}
