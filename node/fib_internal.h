/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What fib.c, fib_segment.c and fib_adopt.c share. */
#include "node/fib.h"

#include <uthash.h>

struct receiver {
	uint32_t port; /* 0: a remote */
	struct addr vtep;
	struct filter filter;
};

/* An installed entry. Ports: those whose filter wants the source, then routers
 * that are listed for nothing but being routers; each part sorted. Remotes: the
 * same, with the nodes that want everything. */
struct entry {
	struct addr source; /* null: any */
	uint32_t *ports;
	size_t n_ports, n_router_ports;
	struct addr *remotes;
	size_t n_remotes, n_router_remotes;
};

/* n_ports of one that is not as it ought to be, until a write succeeds. */
#define ENTRY_BROKEN SIZE_MAX

struct group_key {
	uint32_t segment;
	struct addr group;
};

struct fib_group {
	struct group_key key;
	struct receiver *receivers; /* sorted: ports by number, then remotes by address */
	size_t n_receivers, cap_receivers;
	struct entry *entries; /* sorted by source, so (*, G) is first */
	size_t n_entries;
	struct filter member; /* last told to ops->member */
	bool dirty;
	struct fib_group *dirty_next;
	UT_hash_handle hh;
};

/* Who wants every group of the segment. */
struct fib_segment {
	uint32_t id;	   /* key */
	uint32_t *routers; /* local ports, sorted */
	size_t n_routers;
	struct addr *remotes; /* nodes, sorted */
	size_t n_remotes;
	bool within;	   /* the local routers are not told to other nodes */
	bool told;	   /* they are told now */
	bool dirty;	   /* not flushed yet */
	bool installed;	   /* `list` is in the maps */
	struct entry list; /* of groups that nobody joined */
	UT_hash_handle hh;
};

struct fib {
	struct fib_ops ops;
	void *userdata;
	struct fib_segment *segments;
	struct fib_group *groups;
	struct fib_group *dirty;
	size_t n_entries;
};

/* fib.c */
void entry_deinit(struct entry *entry);
bool entry_equal(const struct entry *a, const struct entry *b);
struct entry *entry_find(struct entry *entries, size_t n, const struct addr *source);
struct datapath_route entry_route(const struct fib_group *group, const struct entry *entry);
struct fib_group *fib_group_find(const struct fib *fib, uint32_t segment, const struct addr *group);
struct fib_group *fib_group_get(struct fib *fib, uint32_t segment, const struct addr *group);
void fib_group_mark(struct fib *fib, struct fib_group *group);
size_t receiver_position(const struct fib_group *group, uint32_t port, const struct addr *vtep,
			 bool *ret_found);
int receiver_insert(struct fib_group *group, size_t at, uint32_t port, const struct addr *vtep,
		    const struct filter *filter);
int addr_sort(const void *a, const void *b);

/* fib_segment.c */
const struct fib_segment *fib_segment_find(const struct fib *fib, uint32_t segment);
int fib_segment_remote_set(struct fib *fib, uint32_t segment, const struct addr *vtep, bool on);
bool fib_segment_port_forget(struct fib *fib, uint32_t port);

/* The segment's routers and nodes behind those that the entry has, but none
 * twice; the entry's arrays have room. */
void fib_segment_append(const struct fib_segment *segment, struct entry *entry);

int fib_segment_flush(struct fib *fib, struct fib_segment *segment);
int fib_segment_adopt(struct fib *fib, const struct datapath_route *route);
void fib_segments_free(struct fib *fib);
struct datapath_route fib_segment_route(const struct fib_segment *segment);
