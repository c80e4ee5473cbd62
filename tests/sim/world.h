/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The mesh of one run: who is there, what is wanted, what each node does. */
#include "controller/controller.h"
#include "node/aside.h"
#include "node/fib.h"
#include "node/mirror.h"
#include "node/uplink.h"
#include "tests/sim/sim.h"

#define SEGMENTS    3 /* 1 to 3 */
#define GROUPS	    5
#define SOURCES	    3
#define ANY	    SOURCES /* a source that no filter names */
#define PORTS	    2
#define NODES_MAX   10
#define CONTROLLERS 3

/* The maps of a node: what survives its agent. remotes and ports are bit sets. */
struct entry {
	bool there;
	uint32_t remotes, ports;
};

struct pins {
	bool adopted;
	uint8_t epoch[EPOCH_LEN];
	uint64_t revisions[SEGMENTS + 1];
	struct entry entries[SEGMENTS + 1][GROUPS][SOURCES + 1];
	char remotes[NODES_MAX][16]; /* names by VTEP */
};

struct node {
	unsigned int index; /* of its VTEP and host */
	char name[16];
	uint8_t instance[16];
	uint64_t start_count;
	bool segments[SEGMENTS + 1];
	bool gone;	/* for good */
	bool contested; /* another agent has had its name */
	struct pins pins;

	/* What the workloads of each port want, and since when that is so. */
	struct filter wants[SEGMENTS + 1][GROUPS][PORTS];
	uint64_t wants_since[SEGMENTS + 1][GROUPS][SOURCES + 1];

	/* The agent; NULL: not running. */
	struct rpc *process;
	struct mirror *mirror;
	struct fib *fib;
	struct uplink *uplink;
	struct rpc_channel *channel;
	struct rpc_call *call;
	struct link_aside aside;
	bool aside_lost; /* of this session, by a fault */
	bool adopting, deferred, flush_failed;
	bool moved;	/* the mirror, since the maps were written */
	uint32_t going; /* VTEPs to take out after the flush */
	uint64_t flush_retry_ms;
	uint64_t last_good; /* when a controller could last hear it */
	bool was_dark;	    /* for so long that it could have been withdrawn */
	char connected_to[32];
	uint64_t sessions, gaps, bad, snapshots, resyncs; /* of all its agents */
};

struct member_controller {
	char name[16];
	unsigned int host;
	struct rpc *process;
	struct controller *c; /* NULL: not running */
	struct controller_config *config;
	uint64_t resync_digest, alarms, snapshots, slow;
};

struct world {
	struct node nodes[NODES_MAX];
	size_t n_nodes;
	struct member_controller controllers[CONTROLLERS];
	size_t n_controllers;
	const char *targets[CONTROLLERS + 1];
	bool keeps;			/* the store outlives controllers */
	uint64_t hold_ms, confirmed_at; /* the laws held everywhere at this time */
	uint32_t log_tombstones;
	unsigned int flush_failures; /* percent */
	uint32_t sources_max;	     /* of a member; 0: as many as there are */
	bool busy;		     /* many changes for each fault */
	uint64_t changes;
};

extern struct world world;

struct addr world_group(unsigned int group);
struct addr world_source(unsigned int source);
struct addr world_vtep(unsigned int index);
bool node_wants(const struct node *node, unsigned int segment, unsigned int group,
		unsigned int source);
/* Remotes that the maps have for a packet. */
uint32_t node_remotes(const struct node *node, unsigned int segment, unsigned int group,
		      unsigned int source);

/* A workload changes its mind. */
void node_want(struct node *node, unsigned int segment, unsigned int group, unsigned int port,
	       struct filter filter);
void node_start(struct node *node);
/* The agent ends; with a reboot the maps and the workloads too. */
void node_kill(struct node *node, bool reboot);
bool node_is_heard(const struct node *node);
/* An entry is about to change: which remotes may not go now? */
void world_judge(struct node *node, unsigned int segment, unsigned int group, unsigned int source,
		 uint32_t before, uint32_t after);

/* A seed's run; false: a law does not hold. */
bool world_run(uint64_t seed);
