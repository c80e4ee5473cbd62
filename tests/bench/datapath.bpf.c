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

#define IPV4_PROTOCOL 23 /* offsets in the frame */
#define IPV4_DADDR    30
#define PROTOCOL_UDP  17

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} delivered SEC(".maps");

SEC("tc")
int count_and_drop(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&delivered, &zero);
	__u8 protocol;

	if (n && bpf_skb_load_bytes(skb, IPV4_PROTOCOL, &protocol, 1) == 0 &&
	    protocol == PROTOCOL_UDP)
		++*n;
	return TC_ACT_SHOT;
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

/* ifindex → ifindex */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 16);
} redirects SEC(".maps");

SEC("tc")
int redirect(struct __sk_buff *skb)
{
	__u32 from = skb->ifindex, *to = bpf_map_lookup_elem(&redirects, &from);

	return to ? bpf_redirect(*to, 0) : TC_ACT_SHOT;
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
} groups SEC(".maps");

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

static __always_inline int ref_input(struct __sk_buff *skb, bool from_overlay)
{
	struct walk w = { .skb = skb, .from_overlay = from_overlay };
	__u32 group;
	void *inner;

	if (bpf_skb_load_bytes(skb, IPV4_DADDR, &group, sizeof(group)) < 0)
		return TC_ACT_OK;
	inner = bpf_map_lookup_elem(&groups, &group);
	if (!inner)
		return TC_ACT_OK;
	bpf_for_each_map_elem(inner, deliver, &w, 0);
	return TC_ACT_SHOT;
}

SEC("tc")
int ref_port(struct __sk_buff *skb)
{
	return ref_input(skb, false);
}

SEC("tc")
int ref_overlay(struct __sk_buff *skb)
{
	return ref_input(skb, true);
}
