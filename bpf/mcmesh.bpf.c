// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * DOC: the kernel side of a node
 *
 * The programs: mcmesh_port runs at the TC ingress of a workload's host-side
 * device, mcmesh_overlay at the ingress of the collect_md VXLAN device,
 * mcmesh_underlay before that, at the ingress of the device that other nodes'
 * packets arrive by, and mcmesh_fan_first and mcmesh_fan_rest where the copies arrive that
 * devices of our own make:
 *
 *   classify.h     which class a packet has          (parse.h: from its bytes)
 *   replicate.h    route → list → copies to ports and, from ports only, remotes
 *   flow.h         the route that a stream's last packet took
 *   fan.h          copies to several ports by devices of ours that clone faster
 *   encapsulate.h  copies to remotes: directly, or by the VXLAN device
 *   strip.h        the other end: VXLAN off, where the device is not needed
 *   punt.h         IGMP and MLD → ring buffer → agent
 *   drop.h         counters, and the one exit for what is dropped
 *   maps.h         the maps; shared.h their layout, the agent's too
 *
 * The programs hold no state of a group and take no decision on membership:
 * the agent computes for each (segment, group, source) the exact list of
 * receivers, and a packet goes to the list of its source, else of its group,
 * else where the segment sends what nobody joined. What came from the overlay
 * is copied to ports and never to the overlay.
 *
 * The stack is short: 512 bytes for a chain of calls, where older verifiers (6.1) count
 * each frame in steps of 32. The longest, port → replicate_chunk → add_remote →
 * copy_by_device, has 480 in that count.
 *
 * Loads on 5.15 and later with nothing but the UAPI headers: no type
 * information of a kernel is needed, at build time or at run time.
 */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <bpf/bpf_helpers.h>

#include "classify.h"
#include "drop.h"
#include "maps.h"
#include "port.h"
#include "punt.h"
#include "replicate.h"
#include "strip.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Segment flags in one load; false when it is not there. */
static __always_inline bool segment_find(__u32 id, struct dp_segment *ret_segment)
{
	struct dp_segment *s = bpf_map_lookup_elem(&segments, &id);

	if (!s)
		return false;
	*(__u64 *)ret_segment = *(volatile __u64 *)s;
	ret_segment->revision = 0;
	return ret_segment->id == id;
}

static __always_inline void correct_mac(struct __sk_buff *skb, const struct packet *p)
{
	const __u16 *has = (const __u16 *)p->mac, *ought = (const __u16 *)p->group_mac;

	if (has[0] == ought[0] && has[1] == ought[1] && has[2] == ought[2])
		return;
	bpf_skb_store_bytes(skb, 0, p->group_mac, ETH_ALEN, 0);
	count_one(DP_COUNTER_MAC_CORRECTED, skb->len);
}

static __always_inline void key_of_kind(struct dp_route_key *key, __u32 segment, __u8 kind)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->segment = segment;
	key->kind = kind;
}

/* To the list of every port. The verdict, or minus an enum dp_drop. */
static __always_inline int send_link_local(struct __sk_buff *skb, struct replicate *r,
					   __u32 segment)
{
	struct dp_route route;
	int rc;

	key_of_kind(&r->key, segment, DP_ROUTE_ALL);
	rc = route_find(&r->key, &route);
	if (rc == 0)
		return -DP_DROP_NO_RECEIVER;
	return rc < 0 ? rc : replicate(skb, r, &route);
}

static __always_inline void any_source(struct dp_route_key *key)
{
	__builtin_memset(key->source, 0, sizeof(key->source));
}

static __always_inline void count_route(const struct dp_flow *flow, __u32 len)
{
	count_one(flow->any_source ? DP_COUNTER_ROUTE_GROUP : DP_COUNTER_ROUTE_SOURCE, len);
}

/* Of the source, else of the group, and keeps it in the flow. Sets key and *ret_route: 1,
 * 0 where there is none, or minus an enum dp_drop. */
static __always_inline int flow_begin(struct dp_flow *flow, struct dp_route_key *key,
				      struct dp_route *ret_route)
{
	__u64 epoch;
	int rc;

	flow_end(flow);
	flow->key = *key;
	flow->any_source = 0;
	epoch = flow_epoch_begin(key);
	rc = route_find(key, ret_route);
	if (rc == 0) {
		flow->any_source = 1;
		any_source(key);
		rc = route_find(key, ret_route);
	}
	if (rc > 0) {
		flow->route = *ret_route;
		flow->epoch = epoch;
	}
	return rc;
}

/* The same, from the flow where that holds. */
static __always_inline int find_group_route(struct dp_route_key *key, __u32 len,
					    struct dp_route *ret_route)
{
	struct dp_flow *flow = flow_place(key);
	int rc = 1;

	if (!flow)
		return -DP_DROP_ROUTE_CHANGING;
	if (flow_holds(flow, key)) {
		*ret_route = flow->route;
		if (flow->any_source)
			any_source(key);
	} else {
		rc = flow_begin(flow, key, ret_route);
	}
	if (rc)
		count_route(flow, len);
	if (rc > 0)
		count(&flow->count, len);
	return rc;
}

/* Sets key and *ret_route to where data goes. 0, or minus an enum dp_drop. */
static __always_inline int find_data_route(struct replicate *r, const struct packet *p,
					   __u32 segment, __u32 len, struct dp_route *ret_route)
{
	struct dp_segment s;
	int rc;

	r->key = p->key;
	r->key.segment = segment;
	rc = find_group_route(&r->key, len, ret_route);
	if (rc)
		return rc < 0 ? rc : 0;

	if (!segment_find(segment, &s))
		return -DP_DROP_SEGMENT_UNKNOWN;
	if (s.unregistered == DP_UNREGISTERED_DROP)
		return -DP_DROP_UNREGISTERED;
	key_of_kind(&r->key, segment,
		    s.unregistered == DP_UNREGISTERED_FLOOD ? DP_ROUTE_ALL : DP_ROUTE_ROUTERS);
	rc = route_find(&r->key, ret_route);
	if (rc == 0)
		return -DP_DROP_UNREGISTERED;
	count_one(DP_COUNTER_ROUTE_UNREGISTERED, len);
	return rc < 0 ? rc : 0;
}

/* The verdict, or minus an enum dp_drop. */
static __always_inline int send_data(struct __sk_buff *skb, struct replicate *r,
				     const struct packet *p, __u32 segment)
{
	struct dp_route route;
	int rc;

	rc = find_data_route(r, p, segment, skb->len, &route);
	if (rc < 0)
		return rc;
	correct_mac(skb, p);
	rc = replicate(skb, r, &route);
	if (rc == -DP_DROP_NO_RECEIVER && r->key.kind != DP_ROUTE_GROUP)
		return -DP_DROP_UNREGISTERED;
	return rc;
}

/* To the agent, and to nobody else: hosts that hear another's report would
 * keep silent (RFC 4541 2.1.1 (1)). The verdict, or minus an enum dp_drop. */
static __always_inline int port_control(struct __sk_buff *skb, __u32 id, const struct dp_port *port,
					struct dp_port_counters *c)
{
	int rc = punt_frame(skb, id, port);

	count(rc < 0 ? &c->punt_lost : &c->punted, skb->len);
	return rc < 0 ? rc : VERDICT_CONSUMED;
}

/* Copies, and leaves the packet to the host as well. */
static __always_inline int port_link_local(struct __sk_buff *skb, struct replicate *r,
					   const struct packet *p, const struct dp_port *port)
{
	struct dp_segment s = {};
	int rc;

	r->to_remotes = segment_find(port->segment, &s) && s.link_local_remote;
	r->keep = 1;
	r->skip_bridge = port->bridge;
	correct_mac(skb, p);
	rc = send_link_local(skb, r, port->segment);
	if (rc < 0 && rc != -DP_DROP_NO_RECEIVER)
		drop(skb, -rc);
	count_one(DP_COUNTER_PASS_LINK_LOCAL, skb->len);
	return VERDICT_UNTOUCHED;
}

SEC("tc")
int mcmesh_port(struct __sk_buff *skb)
{
	struct replicate r = {};
	struct dp_port_counters *c;
	__u32 ifindex = skb->ifindex;
	struct dp_port *port;
	struct packet p;
	__u32 id = 0;
	int class, rc;

	class = classify(skb, &p);
	if (class == CLASS_OTHER)
		return VERDICT_UNTOUCHED;
	if (class == CLASS_DISCOVERY || class == CLASS_DHCPV6) {
		count_one(class == CLASS_DHCPV6 ? DP_COUNTER_PASS_DHCPV6
						: DP_COUNTER_PASS_DISCOVERY,
			  skb->len);
		return VERDICT_UNTOUCHED;
	}

	port = port_find(ifindex, &id);
	c = bpf_map_lookup_elem(&port_counters, &id);
	if (!port || !c) {
		count_one(DP_COUNTER_PASS_PORT_UNKNOWN, skb->len);
		return VERDICT_UNTOUCHED;
	}
	count(&c->rx, skb->len);
	r.from_ifindex = ifindex;
	r.from_mtu = port->mtu;
	if (class == CLASS_LINK_LOCAL)
		return port_link_local(skb, &r, &p, port);
	if (class == CLASS_CONTROL) {
		rc = port_control(skb, id, port, c);
	} else if (class == CLASS_DATA) {
		r.to_remotes = 1;
		r.keep = is_ptp(&p);
		rc = send_data(skb, &r, &p, port->segment);
	} else {
		rc = class;
	}
	if (rc < 0) {
		count(&c->dropped, skb->len);
		return drop(skb, -rc);
	}
	return rc;
}

/* Has that remote this address? *ret_id is its number then. */
static __always_inline bool remote_is(__u32 id, const __u32 vtep[4], __u32 *ret_id)
{
	struct dp_remote *remote = bpf_map_lookup_elem(&remotes, &id);

	if (!remote || !remote->in_use || *(__u64 *)remote->vtep != *(__u64 *)vtep ||
	    *(__u64 *)(remote->vtep + 8) != *(__u64 *)(vtep + 2))
		return false;
	*ret_id = id;
	return true;
}

/* Which node a packet's outer header and tunnel name: *ret_id. Minus an enum
 * dp_drop where that is none. */
static __always_inline int sender_find(const __u32 vtep[4], __u32 *ret_id)
{
	__u32 slot = DP_VTEP_SLOT((const __u8 *)vtep), *found;

	found = bpf_map_lookup_elem(&vtep_cache, &slot);
	if (found && remote_is(*(volatile __u32 *)found, vtep, ret_id))
		return 0;
	found = bpf_map_lookup_elem(&vteps, vtep);
	if (found && remote_is(*(volatile __u32 *)found, vtep, ret_id))
		return 0;
	return -DP_DROP_OVERLAY_VTEP;
}

/* Who sent it: *ret_vni, *ret_id. 0, or minus an enum dp_drop. */
static __always_inline int overlay_sender(struct __sk_buff *skb, __u32 *ret_vni, __u32 *ret_id)
{
	struct bpf_tunnel_key key = {};
	__u32 vtep[4] = {};
	long rc;

	rc = bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, 0);
	if (rc == 0) {
		vtep[2] = bpf_htonl(0xffff);
		vtep[3] = bpf_htonl(key.remote_ipv4);
	} else if (rc == -EPROTO &&
		   bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, BPF_F_TUNINFO_IPV6) == 0) {
		__builtin_memcpy(vtep, key.remote_ipv6, sizeof(vtep));
	} else {
		return -DP_DROP_OVERLAY_NO_TUNNEL;
	}
	*ret_vni = key.tunnel_id;
	return sender_find(vtep, ret_id);
}

/* A frame from node `id` with this VNI, the tunnel's headers off. The verdict,
 * or minus an enum dp_drop. */
static __always_inline int overlay_input(struct __sk_buff *skb, struct replicate *r, __u32 vni,
					 __u32 id)
{
	struct dp_remote_counters *c;
	struct dp_segment s;
	struct packet p;
	int class;

	c = bpf_map_lookup_elem(&remote_counters, &id);
	if (c)
		count(&c->rx, skb->len);
	if (!vni)
		return -DP_DROP_OVERLAY_SEGMENT;

	class = classify(skb, &p);
	/* A route of a segment says that it is there. */
	if (class == CLASS_DATA) {
		class = send_data(skb, r, &p, vni);
		return class == -DP_DROP_SEGMENT_UNKNOWN ? -DP_DROP_OVERLAY_SEGMENT : class;
	}
	if (!segment_find(vni, &s))
		return -DP_DROP_OVERLAY_SEGMENT;
	switch (class) {
	case CLASS_OTHER:
		return -DP_DROP_OVERLAY_NOT_MULTICAST;
	case CLASS_DISCOVERY:
		return -DP_DROP_OVERLAY_DISCOVERY;
	case CLASS_CONTROL:
		return -DP_DROP_OVERLAY_CONTROL;
	case CLASS_DHCPV6:
		return -DP_DROP_OVERLAY_LINK_LOCAL;
	case CLASS_LINK_LOCAL:
		if (!s.link_local_remote)
			return -DP_DROP_OVERLAY_LINK_LOCAL;
		correct_mac(skb, &p);
		return send_link_local(skb, r, vni);
	default:
		return class;
	}
}

SEC("tc")
int mcmesh_overlay(struct __sk_buff *skb)
{
	struct replicate r = {};
	__u32 vni, id;
	int rc;

	rc = overlay_sender(skb, &vni, &id);
	if (rc == 0)
		rc = overlay_input(skb, &r, vni, id);
	return rc < 0 ? drop(skb, -rc) : rc;
}

/* Strips a plain packet of a node: *ret_vni, *ret_id, and in r what that means for
 * its delivery. Its header is off the stack before the copies are made. */
static __always_inline bool underlay_strip(struct __sk_buff *skb, struct replicate *r,
					   __u32 *ret_vni, __u32 *ret_id)
{
	struct tunnel t;

	if (!tunnel_read(skb, &t) || sender_find(t.vtep, ret_id) < 0 || !tunnel_strip(skb, &t))
		return false;
	r->no_peer = t.protocol_changed;
	*ret_vni = t.vni;
	return true;
}

/* What is not ours, or not plain, goes its way: the overlay device sees it. */
SEC("tc")
int mcmesh_underlay(struct __sk_buff *skb)
{
	struct replicate r = {};
	__u32 vni, id;
	int rc;

	if (!underlay_strip(skb, &r, &vni, &id))
		return VERDICT_UNTOUCHED;
	count_one(DP_COUNTER_OVERLAY_STRIPPED, skb->len);
	rc = overlay_input(skb, &r, vni, id);
	return rc < 0 ? drop(skb, -rc) : rc;
}

/* A copy that a fan made: its first, or another. */
SEC("tc")
int mcmesh_fan_first(struct __sk_buff *skb)
{
	int rc = fan_input(skb, true);

	return rc < 0 ? drop(skb, -rc) : rc;
}

SEC("tc")
int mcmesh_fan_rest(struct __sk_buff *skb)
{
	int rc = fan_input(skb, false);

	return rc < 0 ? drop(skb, -rc) : rc;
}
