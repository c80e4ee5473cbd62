/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Forwarding entries of this node, derived (pure: no BPF, no socket, no clock).
 *
 * Facts go in: what each local port and each remote node wants of a group. Out
 * come, by fib_flush(), only the differences: exact entries for every source
 * that some filter names, and one entry for all other sources, so that a packet
 * needs at most two lookups and no filter is evaluated per packet:
 *
 *   (S, G)  every receiver whose filter lets S pass
 *   (*, G)  every receiver in EXCLUDE mode
 *
 * A group that has receivers at all has a (*, G) entry, if need be an empty one:
 * a source nobody wants is "registered and unwanted", not "unregistered".
 *
 * The union of the local filters is what the node is a member with; its changes
 * come out as member().
 *
 * Adoption: entries found in the kernel's maps can be turned back into filters
 * (fib_adopt(), fib_adopt_done()), exactly, because every named source has its
 * own entry. That makes the maps the node's saved state.
 */
#include <stddef.h>
#include <stdint.h>

#include "common/addr.h"
#include "common/filter.h"
#include "node/datapath/datapath.h"

struct fib;

struct fib_ops {
	/* 0 or -errno; a failed entry stays due and is tried at the next flush. */
	int (*route_set)(const struct datapath_route *route, void *userdata);
	int (*route_del)(uint32_t segment, const struct addr *group, const struct addr *source,
			 void *userdata);
	/* INCLUDE {}: the node is no member any more. */
	void (*member)(uint32_t segment, const struct addr *group, const struct filter *filter,
		       void *userdata);
	/* What fib_wanted() says may be another, and the segment has router ports.
	 * May be NULL. */
	void (*wanted)(uint32_t segment, const struct addr *group, void *userdata);
};

int fib_new(const struct fib_ops *ops, void *userdata, struct fib **ret_fib);
void fib_free(struct fib *fib);

/* INCLUDE {} takes the receiver out. 0 or -ENOMEM. The null group of a remote
 * stands for every group: the node has router ports. */
int fib_local_set(struct fib *fib, uint32_t segment, const struct addr *group, uint32_t port,
		  const struct filter *filter);
int fib_remote_set(struct fib *fib, uint32_t segment, const struct addr *group,
		   const struct addr *vtep, const struct filter *filter);

/*
 * A router port gets every group of the segment (RFC 4541 2.1.2): it is in each
 * entry, and in the list of the groups that nobody joined, with the nodes that
 * have one. In an entry it is marked when nothing but that lists it, so that
 * adoption does not take it for a member.
 */
int fib_router_set(struct fib *fib, uint32_t segment, uint32_t port, bool on);

/* Does this node ask the others for every group, while it has a router port
 * (a member of the null group, EXCLUDE {})? It does unless told otherwise. */
int fib_routers_across(struct fib *fib, uint32_t segment, bool across);

/* Out of every group: for a port that vanished with a previous agent. */
void fib_port_forget(struct fib *fib, uint32_t port);

/* The maps are not what was written: the next flush writes every entry again. */
void fib_rewrite(struct fib *fib);

/* Derives what changed and calls the ops. Returns how many groups are still
 * due because an op failed. */
size_t fib_flush(struct fib *fib);

/* What all but this port want of the group: the other ports and the nodes, but
 * not what routers get. 0 or -ENOMEM; the caller deinits. */
int fib_wanted(const struct fib *fib, uint32_t segment, const struct addr *group,
	       uint32_t except_port, struct filter *ret_filter);
void fib_groups_walk(const struct fib *fib, uint32_t segment,
		     void (*fn)(const struct addr *group, void *userdata), void *userdata);

/* An entry that is installed already. Router ports are not restored by it. */
int fib_adopt(struct fib *fib, const struct datapath_route *route);

struct fib_adopted {
	uint32_t segment;
	const struct addr *group;
	uint32_t port;		 /* 0: a remote */
	const struct addr *vtep; /* of a remote */
	const struct filter *filter;
};

/* After the last fib_adopt(): the receivers' filters are rebuilt and told. */
int fib_adopt_done(struct fib *fib, void (*fn)(const struct fib_adopted *adopted, void *userdata),
		   void *userdata);

/* What is installed, as this module believes. */
int fib_walk(const struct fib *fib, int (*fn)(const struct datapath_route *route, void *userdata),
	     void *userdata);

/* Is exactly this entry believed to be installed? For verification. */
bool fib_has(const struct fib *fib, const struct datapath_route *route);

/* Number of entries believed to be installed. */
size_t fib_count(const struct fib *fib);
