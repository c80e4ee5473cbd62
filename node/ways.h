/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The rules of node/paths.c: which short way is right now, and when to look again. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "node/config.h"
#include "node/datapath/datapath.h"
#include "node/rtnl/rtnl.h"

#define WAYS_HOLD_MS	   10000 /* without us the short ways are used so long */
#define WAYS_REFRESH_MS	   5000	 /* neighbours are said to be in use so often */
#define WAYS_PAUSE_MS	   200	 /* between rounds that changes ask for */
#define WAYS_PEER_AFTER_MS 2000	 /* a CNI has its egress programs by then */

/* When paths are asked for, and held. */
struct ways_clock {
	uint64_t asked_ms; /* the last round */
	uint64_t due_ms;   /* the next */
	uint64_t hold_ms;  /* when they are to be held anew */
	bool some_due;	   /* of single ones, at once */
};

/* Something changed: a round at once, but no storm of changes keeps us from
 * everything else. */
void ways_changed(struct ways_clock *clock);
void ways_asked(struct ways_clock *clock, uint64_t now_ms);
void ways_held(struct ways_clock *clock, uint64_t now_ms);
uint64_t ways_next_ms(const struct ways_clock *clock);

enum ways_round {
	WAYS_ROUND_NONE,
	WAYS_ROUND_SOME, /* of those whose neighbour changed */
	WAYS_ROUND_ALL,
};

/* What is to be asked for now. */
enum ways_round ways_round_due(const struct ways_clock *clock, uint64_t now_ms);
bool ways_hold_due(const struct ways_clock *clock, uint64_t now_ms);

/* Each link once, of the first `max`. */
void ways_link_add(uint32_t *links, size_t max, size_t *n, uint32_t ifindex);

/* May the path be another, now that the link's neighbour changed? */
bool ways_neighbour_matters(const struct rtnl_path *path, uint32_t ifindex,
			    const struct addr *neighbour);

/* Bytes that IPsec adds at most: a tunnel over IPv6 with UDP, ESP's header, IV,
 * padding and integrity value. */
#define WAYS_IPSEC_BYTES 160

/*
 * What the datapath is to know of the path; false: nothing. Direct ways as a whole.
 * Of the others to IPv6 addresses the MTU, with no link: the overlay device
 * would lose what is longer.
 */
bool ways_datapath_path(const struct rtnl_path *path, bool v6, struct datapath_path *ret_path);

struct ways_port {
	bool up, veth, peer_away;
	bool egress_plain; /* the host has nothing there; only asked where it matters */
	uint64_t attached_ms;
};

/* May copies be put right into the veth's other end? */
bool ways_port_may_peer(enum node_delivery delivery, const struct ways_port *port, uint64_t now_ms);
