/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * A fan: a device of our own whose ingress mirrors each packet to the ingress of
 * every port of one list (node/datapath/fan.c). Such a copy is a plain clone and
 * is taken in at once, where bpf_clone_redirect() also copies the head and puts
 * the copy into the CPU's backlog, which is what a burst overflows.
 *
 * The packet carries a nonce in skb->cb, so that the port's program can tell it
 * from one that the workload sent; then it is for the workload. The list is the
 * truth: it has a fan only while that has the same ports, and any change of the
 * list is a new list, without one.
 */
#include "drop.h"
#include "encapsulate.h"
#include "port.h"

/* Words of skb->cb. */
#define CB_NONCE   0 /* and 1 */
#define CB_FROM	   2 /* ifindex of the port that it came from */
#define CB_SEGMENT 3

/* The fan of the list that begins there, if it may be used; 0: none. */
static __always_inline __u32 fan_find(const struct replicate *r, __u32 first)
{
	struct dp_list *list = bpf_map_lookup_elem(&lists, &first);

	if (!list || list->n_ports < DP_FAN_PORTS || r->keep || r->skip_bridge ||
	    list->seq != r->seq)
		return 0;
	list->hits++; /* CPUs may lose some to each other */
	return *(volatile __u32 *)&list->fan;
}

static __always_inline int send_to_fan(struct __sk_buff *skb, struct replicate *r)
{
	__u32 zero = 0;
	struct dp_config *conf = bpf_map_lookup_elem(&config, &zero);

	if (!conf)
		return VERDICT_CONSUMED;
	skb->cb[CB_NONCE] = conf->nonce[0];
	skb->cb[CB_NONCE + 1] = conf->nonce[1];
	skb->cb[CB_FROM] = r->from_ifindex;
	skb->cb[CB_SEGMENT] = r->key.segment;
	if (!r->n_direct)
		return bpf_redirect(r->fan, BPF_F_INGRESS);
	bpf_clone_redirect(skb, r->fan, BPF_F_INGRESS);
	skb->cb[CB_NONCE] = 0;
	return send_direct(skb, r);
}

static __always_inline bool is_from_fan(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct dp_config *conf = bpf_map_lookup_elem(&config, &zero);

	return conf && conf->nonce[0] && skb->cb[CB_NONCE] == conf->nonce[0] &&
	       skb->cb[CB_NONCE + 1] == conf->nonce[1];
}

/* At a port: the copy is its workload's. The verdict. */
static __always_inline int fan_deliver(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, from = skb->cb[CB_FROM], len = skb->len;
	struct dp_port_counters *c;
	struct dp_port *port;
	__u32 id = 0;

	skb->cb[CB_NONCE] = 0;
	port = port_find(ifindex, &id);
	c = bpf_map_lookup_elem(&port_counters, &id);
	if (!port || !c || port->segment != skb->cb[CB_SEGMENT]) {
		count_one(DP_COUNTER_COPY_STALE, len);
		return VERDICT_CONSUMED;
	}
	if (ifindex == from)
		return VERDICT_CONSUMED;
	if (!packet_fits(skb, port->mtu)) {
		count_copy(c, bpf_clone_redirect(skb, ifindex, 0), len);
		return VERDICT_CONSUMED;
	}
	count(&c->copied, len);
	return port->peer ? bpf_redirect_peer(ifindex, 0) : bpf_redirect(ifindex, 0);
}
