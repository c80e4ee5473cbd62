/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * From a route to copies. This is the seam for a faster engine: route_find()
 * and replicate() are all that the entry points know.
 */
#include "drop.h"
#include "parse.h"

#define ROUTE_TRIES 4

/* The part that every kernel since 5.15 knows. */
#define TUNNEL_KEY_SIZE __builtin_offsetof(struct bpf_tunnel_key, local_ipv4)
#define TUNNEL_TTL	64

/* What bpf_clone_redirect() says of a device that is down (NET_XMIT_CN of
 * the queue's answers; measured for link down and for no carrier). */
#define CLONE_DOWN 2

/* One packet's work. */
struct replicate {
	struct dp_route_key key; /* of the list */
	__u32 seq;
	__u32 from_ifindex; /* no copy back; 0: from the overlay */
	__u32 skip_bridge;  /* its ports get the packet from it; 0: none */
	__u32 to_remotes;
};

static __always_inline bool key_equal(const struct dp_route_key *a, const struct dp_route_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] && x[4] == y[4];
}

/* 1 and *ret_route, 0 when there is none, or minus an enum dp_drop. */
static __noinline int route_find(const struct dp_route_key *key, struct dp_route *ret_route)
{
	for (int i = 0; i < ROUTE_TRIES; i++) {
		struct dp_route *r = bpf_map_lookup_elem(&routes, key);
		struct dp_list *list;
		union {
			__u64 word;
			struct dp_route route;
		} u;

		if (!r)
			return 0;
		u.word = *(volatile __u64 *)r;
		list = bpf_map_lookup_elem(&lists, &u.route.first);
		if (list && list->seq == u.route.seq && key_equal(&list->key, key)) {
			*ret_route = u.route;
			return 1;
		}
		/* The element became another key's while it was read. */
		count_one(DP_COUNTER_ROUTE_RETRY, 0);
	}
	return -DP_DROP_ROUTE_CHANGING;
}

/*
 * The next three are not static: the verifier then checks each once, and not
 * once a receiver of the longest list.
 */
__noinline int copy_to_port(struct __sk_buff *skb, struct replicate *r, __u32 id)
{
	struct dp_port *port = bpf_map_lookup_elem(&ports, &id);
	struct dp_port_counters *c = bpf_map_lookup_elem(&port_counters, &id);
	__u32 ifindex, len = skb->len;
	long rc;

	if (!r || !port || !c)
		return 0;
	ifindex = *(volatile __u32 *)&port->ifindex;
	if (!ifindex || port->segment != r->key.segment) {
		count_one(DP_COUNTER_COPY_STALE, len);
		return 0;
	}
	if (ifindex == r->from_ifindex || (r->skip_bridge && port->bridge == r->skip_bridge))
		return 0;
	rc = bpf_clone_redirect(skb, ifindex, 0);
	if (rc == 0)
		count(&c->copied, len);
	else if (rc < 0)
		count(&c->gone, len);
	else if (rc == CLONE_DOWN)
		count(&c->down, len);
	else
		count(&c->refused, len);
	return 0;
}

__noinline int copy_to_remote(struct __sk_buff *skb, struct replicate *r, __u32 id)
{
	struct dp_remote *remote = bpf_map_lookup_elem(&remotes, &id);
	struct dp_remote_counters *c = bpf_map_lookup_elem(&remote_counters, &id);
	struct bpf_tunnel_key key = {};
	__u64 flags = BPF_F_ZERO_CSUM_TX;
	__u32 zero = 0, len = skb->len;
	struct dp_config *conf = bpf_map_lookup_elem(&config, &zero);
	long rc;

	if (!r || !remote || !c || !conf)
		return 0;
	if (!remote->in_use) {
		count_one(DP_COUNTER_COPY_STALE, len);
		return 0;
	}
	key.tunnel_id = r->key.segment;
	key.tunnel_ttl = TUNNEL_TTL;
	if (!*(__u64 *)remote->vtep && *(__u32 *)(remote->vtep + 8) == bpf_htonl(0xffff)) {
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
	if (rc == 0 && bpf_clone_redirect(skb, conf->overlay_ifindex, 0) == 0)
		count(&c->copied, len);
	else
		count(&c->failed, len);
	return 0;
}

/* The number of the next chunk, 0 at the end, or minus an enum dp_drop. */
__noinline int replicate_chunk(struct __sk_buff *skb, struct replicate *r, __u32 index)
{
	struct dp_list *list = bpf_map_lookup_elem(&lists, &index);
	__u32 n_ports, n;

	if (!r || !list || list->seq != r->seq || !key_equal(&list->key, &r->key))
		return -DP_DROP_LIST_BROKEN;
	n_ports = list->n_ports;
	n = n_ports + list->n_remotes;
	if (n == 0)
		return -DP_DROP_NO_RECEIVER;
	for (__u32 i = 0; i < DP_LIST_ENTRIES; i++) {
		if (i >= n)
			break;
		if (i < n_ports)
			copy_to_port(skb, r, list->entry[i]);
		else if (r->to_remotes)
			copy_to_remote(skb, r, list->entry[i]);
	}
	return list->next & 0x7fffffff;
}

/* 0, or minus an enum dp_drop. */
static __always_inline int replicate(struct __sk_buff *skb, struct replicate *r,
				     const struct dp_route *route)
{
	__u32 index = route->first;

	r->seq = route->seq;
	for (int i = 0; i < DP_LIST_CHAIN; i++) {
		int next = replicate_chunk(skb, r, index);

		if (next <= 0)
			return next;
		index = next;
	}
	return -DP_DROP_LIST_BROKEN;
}
