/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * From a route to copies. This is the seam for a faster engine: route_find()
 * and replicate() are all that the entry points know.
 *
 * A copy is a clone, and bpf_clone_redirect() gives the packet a new head after
 * each. The last one goes as the packet itself (bpf_redirect), or right into
 * the workload's end of the veth (bpf_redirect_peer): so the walk holds each
 * receiver back until it sees the next. Copies to other nodes come after those
 * to ports, since they change the packet: encapsulate.h.
 */
#include "drop.h"
#include "encapsulate.h"
#include "fan.h"
#include "flow.h"
#include "parse.h"

#define ROUTE_TRIES 4

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

/* A clone to the port that was held back. */
static __always_inline void send_held(struct __sk_buff *skb, struct replicate *r)
{
	/* A key of its own: where r is a global function's argument, kernels before
	 * 6.3 do not take a pointer into it. */
	__u32 held = r->held, len = skb->len;
	struct dp_port_counters *c = bpf_map_lookup_elem(&port_counters, &held);

	if (!held || !c)
		return;
	r->held = 0;
	count_copy(c, bpf_clone_redirect(skb, r->held_ifindex, 0), len);
}

/*
 * Functions that are not static: the verifier then checks each once, and not
 * once a receiver of the longest list.
 */
__noinline int add_port(struct __sk_buff *skb, struct replicate *r, __u32 id)
{
	struct dp_port *port = bpf_map_lookup_elem(&ports, &id);
	__u32 ifindex;

	if (!r || !port)
		return 0;
	ifindex = *(volatile __u32 *)&port->ifindex;
	if (!ifindex || port->segment != r->key.segment) {
		count_one(DP_COUNTER_COPY_STALE, skb->len);
		return 0;
	}
	if (ifindex == r->from_ifindex || (r->skip_bridge && port->bridge == r->skip_bridge))
		return 0;
	send_held(skb, r);
	r->held = id;
	r->held_ifindex = ifindex;
	r->held_mtu = port->mtu;
	r->held_peer = port->peer;
	return 0;
}

static __always_inline void add_receiver(struct __sk_buff *skb, struct replicate *r, __u32 id,
					 bool is_port)
{
	if (is_port && !r->fan)
		add_port(skb, r, id);
	else if (!is_port && r->to_remotes)
		add_remote(skb, r, id);
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
	if (r->fan && !list->n_remotes)
		return list->next & 0x7fffffff;
	for (__u32 i = 0; i < DP_LIST_ENTRIES; i++) {
		if (i >= n)
			break;
		add_receiver(skb, r, list->entry[i], i < n_ports);
	}
	return list->next & 0x7fffffff;
}

/* The port that is left, as the packet itself where that is safe. The verdict. */
static __always_inline int send_last(struct __sk_buff *skb, struct replicate *r)
{
	__u32 held = r->held;
	struct dp_port_counters *c = bpf_map_lookup_elem(&port_counters, &held);

	if (r->keep || !c || !packet_fits(skb, r->held_mtu)) {
		send_held(skb, r);
		return VERDICT_CONSUMED;
	}
	count(&c->copied, skb->len);
	return r->held_peer && !r->no_peer ? bpf_redirect_peer(r->held_ifindex, 0)
					   : bpf_redirect(r->held_ifindex, 0);
}

/* All receivers are known, and all but the last port and the remotes on direct
 * paths have their copies. The verdict. */
static __always_inline int finish(struct __sk_buff *skb, struct replicate *r)
{
	if (r->fan)
		return send_to_fan(skb, r);
	if (!r->n_direct)
		return r->held ? send_last(skb, r) : VERDICT_CONSUMED;
	send_held(skb, r);
	return send_direct(skb, r);
}

/* The verdict on the packet, or minus an enum dp_drop. */
static __always_inline int replicate(struct __sk_buff *skb, struct replicate *r,
				     const struct dp_route *route)
{
	__u32 index = route->first;

	r->seq = route->seq;
	r->first = index;
	if (fan_find(r, index))
		return send_to_fan(skb, r);
	for (int i = 0; i < DP_LIST_CHAIN; i++) {
		int next = replicate_chunk(skb, r, index);

		if (next < 0)
			return next;
		if (next == 0)
			return finish(skb, r);
		index = next;
	}
	send_held(skb, r);
	return -DP_DROP_LIST_BROKEN;
}

/* The rest of a list, for the copy behind a chunk's last. */
__noinline int fan_go_on(struct __sk_buff *skb, __u32 chunk)
{
	struct dp_list *list = bpf_map_lookup_elem(&lists, &chunk);
	struct replicate r = {};
	struct dp_route rest;

	if (!list)
		return -DP_DROP_LIST_BROKEN;
	rest.first = list->next;
	rest.seq = skb->cb[CB_SEQ];
	r.key = list->key;
	r.from_ifindex = skb->cb[CB_FROM];
	return rest.first ? replicate(skb, &r, &rest) : VERDICT_CONSUMED;
}

/* One of the copies that a fan made. The verdict, or minus an enum dp_drop. */
static __always_inline int fan_input(struct __sk_buff *skb, bool first)
{
	__u32 chunk = skb->cb[CB_CHUNK], n;
	struct dp_list *list = bpf_map_lookup_elem(&lists, &chunk);
	int rc = fan_count(skb, first);

	if (rc < 0)
		return rc;
	n = rc;
	if (!list || list->seq != skb->cb[CB_SEQ])
		return -DP_DROP_LIST_BROKEN;
	if (list->fan_more && n >= list->n_ports) {
		n -= list->n_ports;
		chunk = list->next;
		list = bpf_map_lookup_elem(&lists, &chunk);
		if (!list || list->seq != skb->cb[CB_SEQ])
			return -DP_DROP_LIST_BROKEN;
	}
	if (n < list->n_ports && n < DP_LIST_ENTRIES)
		return fan_deliver(skb, list->key.segment, list->entry[n]);
	return fan_go_on(skb, chunk);
}
