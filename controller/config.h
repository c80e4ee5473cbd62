/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The controller's configuration. Every key is optional:
 *
 *   listen: [0.0.0.0:7797]
 *   store: sqlite:/var/lib/mcmesh/controller.db   # or etcd:HOST:PORT[,HOST:PORT…], memory
 *   name: c1                  # default: the host name
 *   metrics: 127.0.0.1:9797   # /metrics, /healthz, / over HTTP; default: none
 *   heartbeat_ms: 600
 *   stale_ms: 2000
 *   hold_ms: 120000
 *   coalesce_ms: 2
 *   log_tombstones: 65536
 *   limits: { groups_per_node: 65536, sources_per_member: 1024, members_per_segment: 2000000,
 *     changes_per_second: 10000, sessions_per_minute: 120, agents: 10000, watchers: 256 }
 *   defaults:                 # settings of every segment; what is absent: the agent's
 *     { link_local_across_nodes: off, unregistered: drop, fast_leave: off, querier: on,
 *       querier_guard: off, require_router_alert: off, router_ports_across_nodes: on,
 *       proxy: on, query_interval_ms: 125000,
 *       query_response_interval_ms: 10000, robustness: 2,
 *       last_member_query_interval_ms: 1000, max_groups_per_port: 4096,
 *       max_sources_per_group: 1024, max_hosts_per_group: 256,
 *       max_reports_per_second: 10000, igmp_version: 3, mld_version: 2,
 *       membership_interval_ms: 270000, last_member_query_count: 2,
 *       startup_query_interval_ms: 31250, startup_query_count: 2,
 *       accept_global_mld_source: off }
 *   segments:                 # settings of one segment, above the defaults
 *     - { segment: 100, link_local_across_nodes: on }
 *   tls: { cacert: PATH, cert: PATH, key: PATH }
 *   etcd:                     # with store: etcd:…
 *     { cacert: PATH, cert: PATH, key: PATH, server_name: NAME, user: NAME,
 *       password_file: PATH, prefix: /mcmesh/ }
 *   advertise: HOST:PORT      # where other controllers reach this one
 *   insecure: no              # plaintext to where others can reach it
 *   nodes:                    # what is known of nodes, above their certificates (access.h)
 *     - { name: n1, vteps: [203.0.113.1], segments: [1, 100], evicted: no }
 *   log_level: info           # error | warning | info | debug
 */
#include <stdint.h>

#include "common/config.h"
#include "common/log.h"
#include "controller/plan/log.h"

struct controller_limits {
	uint32_t groups_per_node, sources_per_member, agents, watchers;
	uint32_t members_per_segment;			  /* of all nodes */
	uint32_t changes_per_second, sessions_per_minute; /* of one node */
};

/* The settings for one segment; 0: the defaults of all. */
struct controller_segment {
	uint32_t segment;
	struct log_config config;
};

/* The operator's record of a node. */
struct controller_node {
	char *name;
	struct addr *vteps; /* none: those of its certificate */
	unsigned int vteps_count;
	uint32_t *segments; /* in order; none: all */
	unsigned int segments_count;
	bool evicted;
};

struct controller_etcd {
	struct config_tls tls; /* cacert NULL: plaintext */
	char *user, *password_file, *prefix;
};

struct controller_config {
	char **listen;
	unsigned int listen_count;
	char *store;
	char *name;
	char *metrics; /* where HTTP shows them; NULL: nowhere */
	uint32_t heartbeat_ms, stale_ms, hold_ms, coalesce_ms, log_tombstones;
	struct controller_limits limits;
	struct controller_segment *segments; /* one each; only those that say something */
	unsigned int segments_count;
	struct controller_node *nodes; /* by name */
	unsigned int nodes_count;
	struct config_tls *tls; /* NULL: plaintext */
	struct controller_etcd etcd;
	char *advertise; /* NULL: config_advertise() finds it */
	bool insecure;
	enum log_level log_level;
};

/* path NULL: defaults. 0, or -errno with a sentence. */
int controller_config_load(const char *path, struct controller_config **ret_config,
			   char why[CONFIG_WHY_MAX]);
void controller_config_free(struct controller_config *config);

/* Adds the settings for a segment. -EEXIST: it has some; -ENOMEM. */
int controller_config_add_segment(struct controller_config *config, uint32_t segment,
				  const struct log_config *settings);

/* Replaces the list by one address. */
int controller_config_set_listen(struct controller_config *config, const char *address);
int controller_config_set_store(struct controller_config *config, const char *spec);
