/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * DOC: fans
 *
 * A fan is a device of our own that makes n copies of whatever enters it: its
 * ingress mirrors each packet, by act_mirred, once to the ingress of the device
 * FIRST and n - 1 times to that of the device REST (node/datapath/fan.c). Such a
 * copy is a plain clone that shares its head with the others and is taken in at
 * once, where bpf_clone_redirect() also gives the packet a new head and puts the
 * copy into the CPU's backlog, which is what a burst overflows.
 *
 *   port ── mcmesh_port ──► fan n ──► FIRST ── mcmesh_fan_first ──► 1st receiver
 *           picks the list    └─────► REST ─── mcmesh_fan_rest ───► 2nd … nth
 *
 * A fan knows of no group: one for each n serves all lists, and nothing of it
 * changes while packets pass. What the copies are for is in skb->cb, which each
 * inherits: the chunk of the list, as the packet found it. Which of the n it is
 * tells the order of arrival: copies of a packet come one after another, on one
 * CPU, so a counter of that CPU suffices. FIRST sets it, REST takes the next. The
 * counter bears the packet's name, so that one that is taken too late, or by
 * another packet meanwhile, is missed and counted, and never makes a duplicate.
 *
 * A fan serves two chunks of a list, for its copies are cheaper than a new start.
 * Where more ports follow, the copy behind the last goes on with the chunk after
 * them, as the packet that it is.
 */
#include "drop.h"
#include "encapsulate.h"
#include "port.h"

/* Words of skb->cb. CPU and RUN are the packet's name. */
#define CB_CHUNK 0
#define CB_SEQ	 1
#define CB_FROM	 2 /* ifindex of the port that it came from */
#define CB_CPU	 3
#define CB_RUN	 4

/* The fan for the ports of the list from this chunk on: r->fan, 0: none. True where
 * nothing is left to do but to send it there. */
static __always_inline bool fan_find(struct replicate *r, __u32 chunk)
{
	struct dp_list *list = bpf_map_lookup_elem(&lists, &chunk);
	__u32 copies, *ifindex;

	r->fan = 0;
	if (!list || list->fan < DP_FAN_MIN || r->keep || r->skip_bridge || list->seq != r->seq)
		return false;
	copies = list->fan;
	ifindex = bpf_map_lookup_elem(&fans, &copies);
	r->fan = ifindex ? *(volatile __u32 *)ifindex : 0;
	return r->fan && (list->no_remotes || !r->to_remotes);
}

static __always_inline int send_to_fan(struct __sk_buff *skb, struct replicate *r)
{
	__u32 zero = 0;
	struct fan_runs *runs = bpf_map_lookup_elem(&fan_runs, &zero);

	if (!runs)
		return VERDICT_CONSUMED;
	skb->cb[CB_CHUNK] = r->first;
	skb->cb[CB_SEQ] = r->seq;
	skb->cb[CB_FROM] = r->from_ifindex;
	skb->cb[CB_CPU] = bpf_get_smp_processor_id();
	runs->last += 2;
	skb->cb[CB_RUN] = runs->last | 1; /* never 0, which is nobody's */
	if (!r->n_direct)
		return bpf_redirect(r->fan, BPF_F_INGRESS);
	bpf_clone_redirect(skb, r->fan, BPF_F_INGRESS);
	return send_direct(skb, r);
}

/* ---- where copies arrive ---------------------------------------------------- */

/* Which of its packet's copies it is, from 0 on; or minus an enum dp_drop. */
static __always_inline int fan_count(struct __sk_buff *skb, bool first)
{
	__u32 cpu = skb->cb[CB_CPU], run = skb->cb[CB_RUN], zero = 0;
	struct fan_runs *runs = bpf_map_lookup_elem(&fan_runs, &zero);
	struct fan_run *slot;

	if (!runs)
		return -DP_DROP_FAN_LOST;
	slot = &runs->run[run / 2 % DP_FAN_RUNS];
	if (first) {
		slot->cpu = cpu;
		slot->run = run;
		slot->next = 1;
		return 0;
	}
	if (!run || slot->run != run || slot->cpu != cpu)
		return -DP_DROP_FAN_LOST;
	return slot->next++ & 0xffff;
}

/* The copy is that port's. The verdict. */
static __always_inline int fan_deliver(struct __sk_buff *skb, __u32 segment, __u32 id)
{
	struct dp_port *port = bpf_map_lookup_elem(&ports, &id);
	struct dp_port_counters *c = bpf_map_lookup_elem(&port_counters, &id);
	__u32 len = skb->len, ifindex;

	if (!port || !c)
		return VERDICT_CONSUMED;
	ifindex = *(volatile __u32 *)&port->ifindex;
	if (!ifindex || port->segment != segment) {
		count_one(DP_COUNTER_COPY_STALE, len);
		return VERDICT_CONSUMED;
	}
	if (ifindex == skb->cb[CB_FROM])
		return VERDICT_CONSUMED;
	if (!packet_fits(skb, port->mtu)) {
		count_copy(c, bpf_clone_redirect(skb, ifindex, 0), len);
		return VERDICT_CONSUMED;
	}
	count(&c->copied, len);
	return port->peer ? bpf_redirect_peer(ifindex, 0) : bpf_redirect(ifindex, 0);
}
