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
	bool ethernet; /* ARPHRD_ETHER */
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
