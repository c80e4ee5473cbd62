/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The controller as one object: what main.c runs and tests run in-process.
 * Services see its members; the rest of the world the functions.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/metrics.h"
#include "common/rpc.h"
#include "controller/config.h"
#include "controller/plan/log.h"
#include "controller/plan/registry.h"
#include "controller/store/store.h"

#define CONTROLLER_WHY_MAX  512
#define CONTROLLER_GRACE_MS 2000 /* for streams to end in a drain */
/* A store that cannot commit for so long: the health service says NOT_SERVING. */
#define CONTROLLER_STORE_PATIENCE_MS 3000
#define CONTROLLER_SETTINGS_RETRY_MS 1000
#define CONTROLLER_NEVER	     UINT64_MAX

struct sessions;
struct feed;
struct watches;
struct mesh;
struct queries;
struct peers;
struct http;

struct controller_counters {
	uint64_t sessions, takeovers, conflicts, refused_hellos;
	uint64_t reports, reports_repeated, rows_refused, rows_widened;
	uint64_t reports_throttled, sessions_throttled;
	uint64_t deltas, delta_bytes_built, snapshots, editions, chunks, bookmarks;
	uint64_t resync_digest, resync_behind, resync_ahead, digest_alarms;
	uint64_t store_errors; /* what the store could not do */
	uint64_t nodes_expired, queries, queries_timed_out, watchers_shed, slow_agents;
	/* segments_refused: subscriptions to segments that are not the node's. */
	uint64_t calls_denied, hellos_denied, segments_refused, handshakes_failed;
	uint64_t doors_shut, connections_cut, calls_flooded; /* see rpc_server_counters */
};

struct controller_times {
	/* From a change's revision to an agent's acknowledgement of it. */
	struct metrics_histogram append_to_ack;
	/* From a report's arrival to its commit. */
	struct metrics_histogram report_to_commit;
};

struct controller {
	const struct controller_config *config;
	struct controller_limits limits;	 /* of the last file that was read */
	const struct controller_config *records; /* whose `nodes` are in force */
	struct rpc *rpc;
	struct rpc_tls *tls; /* NULL: plaintext */
	uint64_t access_look_ms;
	struct rpc_tls *etcd_tls; /* towards the store */
	struct rpc_server *server;
	struct store *store;
	struct log *log;
	struct registry *registry;
	struct sessions *sessions;
	struct feed *feed;
	struct watches *watches;
	struct mesh *mesh;
	struct queries *queries;
	struct peers *peers;
	struct controller_counters counters;
	struct controller_times times;
	struct http *http; /* NULL: no metrics */
	bool draining, stopped, failed;
	/* What it knows of the store is no longer true: it drains, and after it
	 * stopped a new one has to begin from what the store says. */
	bool again;
	bool serving; /* the store makes progress */
	bool stuck;   /* it has not committed for a while, and is ours alone */
};

/* What health says. */
static inline bool controller_is_serving(const struct controller *c)
{
	return c->serving && !c->stuck && !c->draining;
}

/* Binds and serves. The configuration and the runtime must outlive it; ret_ports
 * as in rpc_server_options. 0, or -errno with a sentence. */
int controller_new(const struct controller_config *config, struct rpc *rpc, int *ret_ports,
		   struct controller **ret_controller, char why[CONTROLLER_WHY_MAX]);
/* After it stopped. */
void controller_free(struct controller *c);

/* One turn of what is due besides RPCs; the CLOCK_MONOTONIC deadline of the next. */
uint64_t controller_turn(struct controller *c, uint64_t now_ms);

/* The settings of segments and the records of nodes become those of this
 * configuration, which it takes over, also on failure; nothing else of it
 * applies. 0 or -ENOMEM. */
int controller_reload(struct controller *c, struct controller_config *config);

/* Tells agents and watchers, ends streams; `stopped` once all is over. */
void controller_drain(struct controller *c, const char *reason);

uint64_t controller_now_ms(void);
uint64_t controller_now_us(void);

/* An agent knows revisions of the log's epoch that the log never had: begins a new
 * epoch, once, and ends all sessions. -ENOTSUP: the store has no such. */
int controller_renew(struct controller *c, const char *node);

/* Withdraws all that the node has, fenced by its session. */
void controller_expire(struct controller *c, struct registry_node *node);
