/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * What the BPF programs and the agent share: the layout of maps and punted
 * records. Both compilers assert it. It is kept across upgrades under the pin
 * directory MCMESH_LAYOUT: what changes a size, an offset or a meaning takes
 * the next number. A map may be added without: the next agent makes it beside the
 * others, and an older one knows nothing of it.
 *
 * Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d.
 */
#include <linux/types.h>

#define MCMESH_LAYOUT "v3"

#define DP_LIST_ENTRIES	 32   /* receivers in a chunk */
#define DP_LIST_CHAIN	 256  /* chunks in a list: 8,192 receivers */
#define DP_PUNT_FRAME	 9216 /* longest frame that is punted */
#define DP_NODE_NAME	 64   /* with the NUL */
#define DP_PORT_CACHE	 8192 /* a power of two */
#define DP_VTEP_CACHE	 4096 /* the same */
#define DP_EPOCHS	 256  /* the same */
#define DP_FLOWS	 1024 /* the same; of a CPU */
#define DP_FANS		 128  /* elements of `fans` */
#define DP_FAN_CHUNKS	 2    /* of a list, that one fan serves */
#define DP_FAN_MAX	 65   /* copies by one fan: of those chunks, and one that goes on */
#define DP_FAN_RUNS	 64   /* packets of a CPU that fans are at work on, nested or queued */
#define DP_DIRECT_MAX	 2048 /* remotes of a packet that share one encapsulation */
#define DP_PATH_OVERSIZE 0    /* number of the path of what is too long for the others */
#define DP_PATH_LONG	 (1U << 31) /* with a path's number: by that one */
#define DP_DSCP_INHERIT	 64	    /* as the workload has it */
#define DP_COUNTERS	 128	    /* room for both lists below */
#define DP_COUNTER_DROPS 64	    /* drop reason r counts at DP_COUNTER_DROPS + r */

enum dp_route_kind {
	DP_ROUTE_GROUP = 0,
	DP_ROUTE_ALL = 1,
	DP_ROUTE_ROUTERS = 2,
};

enum dp_unregistered {
	DP_UNREGISTERED_ROUTERS = 0,
	DP_UNREGISTERED_DROP = 1,
	DP_UNREGISTERED_FLOOD = 2,
};

enum dp_drop {
	DP_DROP_NONE = 0,
#define DROP_REASON(id, name, doc) DP_DROP_##id,
#include "drop_reasons.def"
#undef DROP_REASON
	DP_DROP_MAX
};

enum dp_counter {
#define COUNTER(id, name, doc) DP_COUNTER_##id,
#include "counters.def"
#undef COUNTER
	DP_COUNTER_MAX
};

/* Element of a table of 2^bits for an address, by its last four bytes. */
static inline __u32 dp_address_slot(const __u8 *address, unsigned int bits)
{
	return *(const __u32 *)(address + 12) * 0x9e3779b1U >> (32 - bits);
}

#define DP_VTEP_SLOT(vtep)   dp_address_slot(vtep, 12) /* of `vtep_cache` */
#define DP_EPOCH_SLOT(group) dp_address_slot(group, 8) /* of `epochs` */

/* Key of `routes`. Source all-zero: any. ALL and ROUTERS: both all-zero. */
struct dp_route_key {
	__u32 segment;
	__u8 kind;
	__u8 pad[3];
	__u8 group[16];
	__u8 source[16];
} __attribute__((aligned(8)));

/* Value of `routes`: read in one load. */
struct dp_route {
	__u32 first; /* chunk; never 0 */
	__u32 seq;   /* as in each chunk of the list */
} __attribute__((aligned(8)));

/*
 * Element of `lists`: a chunk of a receiver list. Published by the store of
 * its number in a dp_route, constant from then on, and used again only after
 * a grace period. A hash element may be recycled while a packet reads it, so
 * the chunk says whose it is, and the reader compares.
 */
struct dp_list {
	struct dp_route_key key;
	__u32 seq;
	__u32 next; /* chunk, or 0 */
	__u16 n_ports;
	__u16 n_remotes;
	__u16 fan;	  /* copies that a fan is to make, from this chunk on; 0: by clones */
	__u16 fan_more;	  /* chunks behind this one that it serves as well */
	__u32 no_remotes; /* there are none in the whole list */
	__u32 routers; /* bit i: entry i is here only because it gets every group; the agent's own */
	__u32 entry[DP_LIST_ENTRIES]; /* numbers of ports, then of remotes */
};

/* Element of `ports`; `port_ids` maps an ifindex to its number. ifindex 0: not
 * in use. A number is used again only after a grace period. */
struct dp_port {
	__u32 ifindex;
	__u32 segment;
	__u32 generation;
	__u32 bridge;
	/* The last copy of a packet needs no clone, but what becomes of it is not
	 * seen; so only to links that are known to be up. 0: not known. */
	__u32 mtu;
	__u32 peer; /* it may be put right into the veth's other end */
};

/*
 * Element of `paths`: how copies to a remote leave without the overlay device.
 * Published by the store of its number in dp_remote.path, constant from then
 * on, and used again only after a grace period.
 */
struct dp_path {
	__u8 vtep[16];
	__u32 ifindex; /* 0: by the overlay device, and only the MTU is known */
	__u32 mtu;     /* of IP packets */
	__u8 to_mac[6];
	__u8 from_mac[6];
	__u32 pad;
};

/* Value of `segments`; the first eight bytes are read in one load. */
struct dp_segment {
	__u32 id;
	__u8 unregistered;
	__u8 link_local_remote;
	__u8 routers_within; /* the agent's own */
	__u8 pad;
	__u64 revision;
};

/* Element of `remotes`; `vteps` maps an address to its number. */
struct dp_remote {
	__u8 vtep[16];
	__u32 in_use;
	__u32 path; /* 0: through the overlay device */
	char node[DP_NODE_NAME];
};

struct dp_config {
	__u32 overlay_ifindex;
	__u16 udp_port;
	__u8 dscp; /* of the outer header: 0 to 63, or DP_DSCP_INHERIT */
	__u8 pad;
	__u64 punt_interval_ns; /* between frames of one port, in the long run */
	__u64 punt_burst_ns;	/* burst * interval */
	__u8 vtep[16];		/* source of remote copies; null: as the kernel chooses */
	/* Paths hold until then (CLOCK_MONOTONIC); a live agent puts it off. */
	__u64 paths_until_ns;
};

/* Elements of `fans`: the devices where copies arrive, then those that make as
 * many copies as the number of the element says. */
enum dp_fan {
	DP_FAN_FIRST = 0, /* a packet's first copy arrives here */
	DP_FAN_REST = 1,
	DP_FAN_MIN = 2,
};

struct dp_meta {
	__u8 epoch[16];
	__u32 generation; /* last one given to a port */
	__u32 pad[3];
};

/* A record of `punt`, followed by the frame from the Ethernet header on. */
struct dp_punt {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u32 ifindex;
	__u32 generation;
	__u32 len;
	__u32 pad;
};

struct dp_count {
	__u64 packets;
	__u64 bytes;
};

/* Key of `group_counts`. */
struct dp_group {
	__u32 segment;
	__u8 group[16];
};

/* Element of `flows`, of each CPU: what the routes said to the last packets of a stream,
 * and how many these were: bpf/flow.h. */
struct dp_flow {
	struct dp_route_key key; /* with the source that the packets have */
	struct dp_route route;
	__u64 epoch;	       /* 0: it is nobody's */
	__u64 any_source;      /* the route is not of that source alone */
	struct dp_count count; /* not yet in `group_counts` */
};

/* Element of `port_counters`, by the port's number. */
struct dp_port_counters {
	struct dp_count rx;
	struct dp_count copied;
	struct dp_count gone;	 /* the device does not exist any more */
	struct dp_count down;	 /* link down or no carrier */
	struct dp_count refused; /* queue full or over the MTU */
	struct dp_count punted;
	struct dp_count punt_lost;
	struct dp_count dropped;
};

/* Element of `remote_counters`, by the remote's number. */
struct dp_remote_counters {
	struct dp_count rx;
	struct dp_count copied; /* all that left */
	struct dp_count failed;
	struct dp_count by_device; /* of the copied: through the overlay device */
};

#define DP_ASSERT_SIZE(type, size) _Static_assert(sizeof(type) == (size), #type " size")
#define DP_ASSERT_OFFSET(type, member, offset) \
	_Static_assert(__builtin_offsetof(type, member) == (offset), #type "." #member)

_Static_assert(DP_VTEP_CACHE == 1 << 12 && DP_EPOCHS == 1 << 8, "slots");
DP_ASSERT_SIZE(struct dp_group, 20);
DP_ASSERT_SIZE(struct dp_flow, 80);
DP_ASSERT_SIZE(struct dp_route_key, 40);
DP_ASSERT_OFFSET(struct dp_route_key, group, 8);
DP_ASSERT_OFFSET(struct dp_route_key, source, 24);
DP_ASSERT_SIZE(struct dp_route, 8);
DP_ASSERT_SIZE(struct dp_list, 64 + 4 * DP_LIST_ENTRIES);
DP_ASSERT_OFFSET(struct dp_list, seq, 40);
DP_ASSERT_OFFSET(struct dp_list, n_ports, 48);
DP_ASSERT_OFFSET(struct dp_list, entry, 64);
_Static_assert(DP_LIST_ENTRIES <= 32, "bits of dp_list.routers");
DP_ASSERT_OFFSET(struct dp_list, fan, 52);
_Static_assert(DP_FAN_MAX == DP_FAN_CHUNKS * DP_LIST_ENTRIES + 1 && DP_FAN_MAX < DP_FANS, "fans");
DP_ASSERT_SIZE(struct dp_port, 24);
DP_ASSERT_SIZE(struct dp_path, 40);
DP_ASSERT_SIZE(struct dp_segment, 16);
DP_ASSERT_OFFSET(struct dp_segment, revision, 8);
DP_ASSERT_SIZE(struct dp_remote, 24 + DP_NODE_NAME);
DP_ASSERT_SIZE(struct dp_config, 48);
DP_ASSERT_SIZE(struct dp_meta, 32);
DP_ASSERT_SIZE(struct dp_punt, 24);
DP_ASSERT_SIZE(struct dp_port_counters, 128);
DP_ASSERT_SIZE(struct dp_remote_counters, 64);
_Static_assert(DP_COUNTER_MAX <= DP_COUNTER_DROPS, "counters");
_Static_assert(DP_COUNTER_DROPS + DP_DROP_MAX <= DP_COUNTERS, "drop counters");
