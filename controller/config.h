/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The controller's configuration. Every key is optional:
 *
 *   listen: [0.0.0.0:7797]
 *   store: memory
 *   name: c1                  # default: the host name
 *   heartbeat_ms: 600
 *   stale_ms: 2000
 *   hold_ms: 120000
 *   coalesce_ms: 2
 *   log_tombstones: 65536
 *   limits: { groups_per_node: 65536, sources_per_member: 1024, agents: 10000, watchers: 256 }
 *   log_level: info           # error | warning | info | debug
 */
#include <stdint.h>

#include "common/config.h"
#include "common/log.h"

struct controller_limits {
	uint32_t groups_per_node, sources_per_member, agents, watchers;
};

struct controller_config {
	char **listen;
	unsigned int listen_count;
	char *store;
	char *name;
	uint32_t heartbeat_ms, stale_ms, hold_ms, coalesce_ms, log_tombstones;
	struct controller_limits limits;
	enum log_level log_level;
};

/* path NULL: defaults. 0, or -errno with a sentence. */
int controller_config_load(const char *path, struct controller_config **ret_config,
			   char why[CONFIG_WHY_MAX]);
void controller_config_free(struct controller_config *config);

/* Replaces the list by one address. */
int controller_config_set_listen(struct controller_config *config, const char *address);
int controller_config_set_store(struct controller_config *config, const char *spec);
