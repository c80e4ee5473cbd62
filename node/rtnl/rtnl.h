/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Links of this network namespace by rtnetlink (libmnl): what there is, what
 * comes, changes and goes, and the VXLAN device that the agent owns. One
 * netlink socket for events, one for requests; no thread, no clock.
 */
#include <stdbool.h>
#include <stdint.h>

#include <net/if.h>

#include "common/addr.h"

struct rtnl;

#define RTNL_WHY_MAX 256

struct rtnl_link {
	uint32_t ifindex;
	char name[IFNAMSIZ];
	char kind[16];	 /* IFLA_INFO_KIND: "veth", "tun", "vxlan", "macvlan", … or "" */
	uint32_t master; /* bridge or bond that it is a port of, or 0 */
	bool up;	 /* IFF_UP */
	bool carrier;	 /* IFF_LOWER_UP */
	uint32_t mtu;
	uint8_t mac[6];
	bool ethernet;	/* ARPHRD_ETHER */
	bool peer_away; /* a veth whose other end is in another network namespace */
	bool queueing;	/* it has a qdisc that is more than a pass */
};

struct rtnl_ops {
	/* New, or something of it changed (a rename too). */
	void (*on_link)(const struct rtnl_link *link, void *userdata);
	void (*on_link_gone)(uint32_t ifindex, void *userdata);
};

int rtnl_new(const struct rtnl_ops *ops, void *userdata, struct rtnl **ret_rtnl);
void rtnl_free(struct rtnl *rtnl);

/* Readable when events wait; then rtnl_dispatch(). An overrun of the socket is
 * repaired inside by a dump that reports differences. */
int rtnl_fd(const struct rtnl *rtnl);
int rtnl_dispatch(struct rtnl *rtnl);

/* Reports every link now; links known before that are not there any more come
 * as gone. Call once after rtnl_new(). */
int rtnl_dump(struct rtnl *rtnl);

const struct rtnl_link *rtnl_link_by_index(const struct rtnl *rtnl, uint32_t ifindex);

/* Is the address one of this namespace's interfaces'? */
bool rtnl_has_address(struct rtnl *rtnl, const struct addr *addr);

/* The interface that has it; 0: none. */
uint32_t rtnl_address_link(struct rtnl *rtnl, const struct addr *addr);

/* Up, with that MTU and queue, and without an IPv6 address of its own. */
int rtnl_link_set_up(struct rtnl *rtnl, uint32_t ifindex, uint32_t mtu, uint32_t queue);

/* Packets that the link's driver could not send, and could not take in. */
struct rtnl_lost {
	uint64_t tx, rx;
};
int rtnl_link_lost(struct rtnl *rtnl, uint32_t ifindex, struct rtnl_lost *ret_lost);

/* Does somebody filter or shape what leaves by the link (qdisc, clsact filter)? */
bool rtnl_egress_is_plain(struct rtnl *rtnl, uint32_t ifindex);

/* ---- path.c: can packets to a node be written right onto a link? ------------ */

/* They can, or why not. In the order in which it is looked at. */
enum rtnl_way {
	RTNL_WAY_DIRECT = 0,
	RTNL_WAY_UNKNOWN, /* the kernel was not asked, or did not say */
	RTNL_WAY_FAMILY,  /* the two addresses are not of one family */
	RTNL_WAY_NO_ROUTE,
	RTNL_WAY_ROUTE,	    /* one with an encapsulation, of several hops, to ourselves, … */
	RTNL_WAY_IPSEC,	    /* policies: whether one applies is the kernel's to say */
	RTNL_WAY_LINK,	    /* not Ethernet: a tunnel, or no link that is known */
	RTNL_WAY_DOWN,	    /* no carrier, or taken down */
	RTNL_WAY_NEIGHBOUR, /* its link-layer address is not known (yet) */
	RTNL_WAY_SETTING,   /* it could, and shall not: the caller's */
};

struct rtnl_path {
	enum rtnl_way way;
	/* As far as it was found: 0 or null is not. */
	uint32_t ifindex;
	uint32_t mtu;
	struct addr next_hop;
	uint8_t to_mac[6], from_mac[6];
};

/* 0, also when the answer is no; -errno: not known. Tells the kernel that the
 * neighbour is in use. ipsec: rtnl_has_policies(). */
int rtnl_path_find(struct rtnl *rtnl, const struct addr *to, const struct addr *from, bool ipsec,
		   struct rtnl_path *ret_path);

/* A phrase for people: "no route". */
const char *rtnl_way_text(enum rtnl_way way);

/* Are there IPsec policies, or is that not known? */
bool rtnl_has_policies(struct rtnl *rtnl);

/* What may change a path, but for links: routes, rules and policies; neighbours. */
struct rtnl_watch_ops {
	void (*on_route)(void *userdata);
	void (*on_neighbour)(uint32_t ifindex, const struct addr *addr, void *userdata);
};

int rtnl_watch_start(struct rtnl *rtnl);

/* Two sockets: routes and neighbours, policies (-1: the kernel has none). */
int rtnl_watch_fd(const struct rtnl *rtnl, bool xfrm);
void rtnl_watch_dispatch(struct rtnl *rtnl, bool xfrm, const struct rtnl_watch_ops *ops,
			 void *userdata);

struct rtnl_vxlan_options {
	const char *name;  /* "mcmesh0" */
	uint16_t udp_port; /* 4797 */
	uint32_t mtu;	   /* 0: the largest, so that the outer packet is fragmented, not dropped */
};

/*
 * Makes the flow-based (collect_md, no learning, udp6zerocsumrx) VXLAN device,
 * or adopts one that is right, and sets it up. A device of that name that is
 * something else is left alone: -EEXIST and a sentence. Another VXLAN device on
 * the port: -EADDRINUSE and a sentence.
 */
int rtnl_vxlan_ensure(struct rtnl *rtnl, const struct rtnl_vxlan_options *options,
		      uint32_t *ret_ifindex, char why[RTNL_WHY_MAX]);
int rtnl_link_delete(struct rtnl *rtnl, uint32_t ifindex);

/* What kind of device cannot be a port, as a sentence; NULL: it can. */
const char *rtnl_link_refusal(const struct rtnl_link *link);
