/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The kernel side of a node: BPF programs on ports and overlay device, and the
 * maps that they read. Memberships live in the engine; here are only the
 * results, as forwarding entries.
 *
 * Programs, maps, links and the punt ring are pinned, so forwarding goes on
 * while no agent runs, and the next agent adopts what it finds: the maps are
 * the node's saved state (ports, remotes, routes, revision).
 *
 * Not thread-safe; one owner. Errors are 0 or -errno; functions that can fail
 * for reasons an operator must act on also give one sentence.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/addr.h"
#include "common/digest.h"

struct datapath;

#define DATAPATH_WHY_MAX       256
#define DATAPATH_NODE_NAME_MAX 64 /* with the NUL */

enum datapath_attach {
	DATAPATH_ATTACH_AUTO = 0,
	DATAPATH_ATTACH_TCX,
	DATAPATH_ATTACH_CLSACT,
};

#define DATAPATH_DSCP_INHERIT 64 /* the workload's */

#define DATAPATH_FAN_NAME "mcmfan" /* and a number: devices that we make */

#define DATAPATH_MAX_PORTS     4096 /* the defaults */
#define DATAPATH_FAN_MIN_PORTS 3

/* 0 takes the default. */
struct datapath_options {
	const char *root; /* bpffs directory: "/sys/fs/bpf/mcmesh"; made if missing */
	enum datapath_attach attach;
	struct addr vtep;	  /* source of remote copies; null: as the kernel chooses */
	uint16_t udp_port;	  /* of the overlay: 4,797 */
	uint8_t dscp;		  /* of remote copies: 0 to 63, or DATAPATH_DSCP_INHERIT */
	uint32_t max_ports;	  /* 4,096 */
	uint32_t max_remotes;	  /* 4,096 */
	uint32_t max_routes;	  /* 65,536 */
	uint32_t max_lists;	  /* list chunks: 131,072 */
	uint32_t max_segments;	  /* 1,024 */
	bool no_fans;		  /* copies without devices of ours */
	uint32_t fan_min_ports;	  /* of a list that is served by them, 2 to 32: 3 */
	uint32_t punt_ring_bytes; /* 4 MiB; a power of two of pages */
	uint32_t punt_rate;	  /* frames a second and port: 20,000 */
	uint32_t punt_burst;	  /* 20,000 */
};

/* Mounts bpffs where it is missing, loads, or adopts what is pinned under
 * root with the same map layout. *why is a sentence on failure: no privileges,
 * no BTF, bpffs cannot be mounted, another agent has it (-EBUSY), … */
int datapath_open(const struct datapath_options *options, struct datapath **ret_dp,
		  char why[DATAPATH_WHY_MAX]);

/* Leaves everything pinned and forwarding. */
void datapath_close(struct datapath *dp);

/* Detaches, unpins and removes everything under root. */
int datapath_destroy(const char *root);

/* Was there state to adopt? */
bool datapath_adopted(const struct datapath *dp);
const char *datapath_attach_name(const struct datapath *dp); /* "tcx" or "clsact" */
const char *datapath_engine_name(const struct datapath *dp); /* "fan" or "clone" */

/* ---- saved position in the log ---------------------------------------------- */

struct datapath_meta {
	uint8_t epoch[EPOCH_LEN];
};

int datapath_meta_set(struct datapath *dp, const struct datapath_meta *meta);
int datapath_meta_get(struct datapath *dp, struct datapath_meta *ret_meta);

/* ---- segments --------------------------------------------------------------- */

enum datapath_unregistered {
	DATAPATH_UNREGISTERED_ROUTER_PORTS = 0,
	DATAPATH_UNREGISTERED_DROP,
	DATAPATH_UNREGISTERED_FLOOD,
};

struct datapath_segment {
	uint32_t id; /* VNI, 1 .. 2^24 - 1; 0 only keeps a revision */
	enum datapath_unregistered unregistered;
	bool link_local_remote; /* link-local groups also to the remotes of the all-ports list */
	bool routers_within;	/* kept for the caller: router ports ask no other node */
	uint64_t revision;	/* saved position of the segment in the log */
};

int datapath_segment_set(struct datapath *dp, const struct datapath_segment *segment);
int datapath_segment_del(struct datapath *dp, uint32_t id);
int datapath_segments_walk(struct datapath *dp,
			   int (*fn)(const struct datapath_segment *segment, void *userdata),
			   void *userdata);

/* ---- devices ---------------------------------------------------------------- */

/* The collect_md VXLAN device that remote copies leave and enter by: attaches
 * the overlay program. 0 detaches. */
int datapath_overlay_set(struct datapath *dp, uint32_t ifindex, char why[DATAPATH_WHY_MAX]);

/*
 * Devices by which other nodes' packets arrive. There the tunnel's headers are
 * taken off plain ones, which then do not pass netfilter and the overlay
 * device; all others are untouched. Detaches from those that are not named.
 * Nothing without TCX.
 */
int datapath_underlay_set(struct datapath *dp, const uint32_t *ifindexes, size_t n,
			  char why[DATAPATH_WHY_MAX]);

struct datapath_port {
	uint32_t ifindex;
	uint32_t segment;
	uint32_t generation; /* grows with every attach, so that a reused ifindex is told apart */
	uint32_t bridge;     /* ifindex of the bridge it is a port of, or 0 */
	bool fresh;	     /* of attach: nothing of ours was there, so lists that name
				the ifindex may mean a device that is gone */
};

/* Attaches the port program (first in the chain), verifies it, and only then
 * makes the port known. Of a port that is attached already: adopts it and
 * replaces its program by the present one. */
int datapath_port_attach(struct datapath *dp, uint32_t ifindex, uint32_t segment, uint32_t bridge,
			 struct datapath_port *ret_port, char why[DATAPATH_WHY_MAX]);

/* The caller has taken it out of every route before. Device gone: cleans up. */
int datapath_port_detach(struct datapath *dp, uint32_t ifindex);

/*
 * What is known of the port's link. mtu: it is up, and the last copy of a packet
 * that fits may be handed to it without a look at what becomes of that; 0: not
 * known. peer: that copy may be put right into the other end of the veth, in
 * another network namespace, past whatever the host has at the port's egress.
 */
int datapath_port_delivery_set(struct datapath *dp, uint32_t ifindex, uint32_t mtu, bool peer);

/* Is no BPF program at the link's egress? */
bool datapath_egress_is_plain(uint32_t ifindex);

/* Ports in the maps: after adoption, those of the previous agent. */
int datapath_ports_walk(struct datapath *dp,
			int (*fn)(const struct datapath_port *port, void *userdata),
			void *userdata);

/* ---- remotes ---------------------------------------------------------------- */

/* A known node: copies go to it, and packets are taken from it. */
int datapath_remote_set(struct datapath *dp, const struct addr *vtep, const char *node);
int datapath_remote_del(struct datapath *dp, const struct addr *vtep);
/* How copies to a remote leave without the overlay device: by an Ethernet link
 * to a neighbour that answers, with nothing else to be done to them. */
struct datapath_path {
	uint32_t ifindex; /* 0: by the overlay device, and only the MTU is known */
	uint32_t mtu;	  /* of IP packets; longer ones take the overlay device */
	uint8_t to_mac[6], from_mac[6];
};

/* NULL: by the overlay device. */
int datapath_remote_path_set(struct datapath *dp, const struct addr *vtep,
			     const struct datapath_path *path);

/* The device that takes copies, encapsulated, that are too long for a path over IPv6;
 * 0: none. */
void datapath_oversize_set(struct datapath *dp, uint32_t ifindex);

/* Paths are used until then (CLOCK_MONOTONIC): who follows routes and neighbours
 * puts it off, and when it dies copies soon take the overlay device. */
int datapath_paths_hold(struct datapath *dp, uint64_t until_ns);

int datapath_remotes_walk(struct datapath *dp,
			  int (*fn)(const struct addr *vtep, const char *node, void *userdata),
			  void *userdata);

/* ---- routes ----------------------------------------------------------------- */

enum datapath_route_kind {
	DATAPATH_ROUTE_GROUP = 0, /* (segment, group, source or null = any) */
	DATAPATH_ROUTE_ALL,	  /* every port (and remote) of the segment */
	DATAPATH_ROUTE_ROUTERS,	  /* router ports of the segment */
};

struct datapath_route {
	enum datapath_route_kind kind;
	uint32_t segment;
	struct addr group;     /* null unless GROUP */
	struct addr source;    /* null: any */
	const uint32_t *ports; /* ifindexes */
	size_t n_ports;
	size_t n_router_ports;	    /* the last so many: only because they get every group */
	const struct addr *remotes; /* VTEPs, each set by datapath_remote_set() */
	size_t n_remotes;
	size_t n_router_remotes; /* as with ports */
};

/* Replaces the entry as a whole: a packet sees the old list or the new one.
 * -ENOSPC: the table or the lists are full, the old entry stays. Returns how
 * many receivers were left out as they are unknown, so that one that a limit
 * refused costs the others nothing. A receiver that is removed and comes back
 * is another one: set the routes that name it again. */
int datapath_route_set(struct datapath *dp, const struct datapath_route *route);
int datapath_route_del(struct datapath *dp, enum datapath_route_kind kind, uint32_t segment,
		       const struct addr *group, const struct addr *source);

/* Reads the kernel's maps back. The route lives for the call. */
int datapath_routes_walk(struct datapath *dp,
			 int (*fn)(const struct datapath_route *route, void *userdata),
			 void *userdata);

/* Numbers of copies that a device of ours makes (fan.c): 0 while there are none. */
uint32_t datapath_fans_count(const struct datapath *dp);

/* The device went, or down: it may be one of ours. */
void datapath_link_changed(struct datapath *dp, uint32_t ifindex);

/* ---- damage ------------------------------------------------------------------ */

struct datapath_damage {
	uint64_t n; /* elements that were not as written */
	char first[DATAPATH_WHY_MAX];
};

/* Compares ports, remotes, segments and configuration with what was written and
 * writes again what differs. Routes and lists are the caller's to compare. */
int datapath_check(struct datapath *dp, struct datapath_damage *ret_damage);

/*
 * The programs, of a port, or of overlay and underlay: is each attached and the
 * first at its device? Where it is not it is attached anew, and noted.
 */
void datapath_port_check(struct datapath *dp, uint32_t ifindex, struct datapath_damage *damage);
void datapath_devices_check(struct datapath *dp, struct datapath_damage *damage);

/* ---- punted frames ---------------------------------------------------------- */

struct datapath_punt {
	uint64_t time_ns; /* CLOCK_MONOTONIC, when the frame was seen */
	uint32_t ifindex;
	uint32_t generation;
	const uint8_t *frame; /* from the Ethernet header on */
	size_t len;
};

/* Readable when there is something. */
int datapath_punt_fd(const struct datapath *dp);

/* Hands over at most max frames, oldest first; returns how many. What an
 * earlier agent left unread comes first. */
int datapath_punt_consume(struct datapath *dp, size_t max,
			  void (*fn)(const struct datapath_punt *punt, void *userdata),
			  void *userdata);

/* ---- counters --------------------------------------------------------------- */

struct datapath_counter {
	const char *name;   /* "rx_multicast", "copy_port", "drop_…", "punt", … */
	uint32_t segment;   /* 0: does not apply */
	uint32_t ifindex;   /* 0: does not apply */
	struct addr group;  /* null: does not apply */
	struct addr remote; /* null: does not apply */
	uint64_t packets, bytes;
};

/* Sums over CPUs, those that are zero left out. */
int datapath_counters_walk(struct datapath *dp,
			   int (*fn)(const struct datapath_counter *counter, void *userdata),
			   void *userdata);

/* The same of each group that packets came to, from ports and from other nodes, and had a
 * route: one counter a segment and group, with both as labels. Slow: it reads two tables. */
#define DATAPATH_GROUP_COUNTER "rx_group"
int datapath_groups_walk(struct datapath *dp,
			 int (*fn)(const struct datapath_counter *counter, void *userdata),
			 void *userdata);

/* Frames that were to be punted and were lost (rate, ring), on all ports. */
uint64_t datapath_punt_lost(struct datapath *dp);

/* What the port's workloads sent so far, IGMP and MLD left out: -ENOENT, or 0. */
int datapath_port_sent(struct datapath *dp, uint32_t ifindex, uint64_t *ret_packets);

/* Packets to link-local groups that all ports sent. */
uint64_t datapath_link_local_sent(struct datapath *dp);

/* Frees what waited for its grace period; call when datapath_next_ms() is due
 * (CLOCK_MONOTONIC milliseconds, UINT64_MAX: never). */
void datapath_tick(struct datapath *dp, uint64_t now_ms);
uint64_t datapath_next_ms(const struct datapath *dp);
