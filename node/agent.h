/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The agent of one node: everything wired to one sd-event loop. See agent.c.
 */
#include "node/config.h"

struct agent;

#define AGENT_WHY_MAX 512

/* The configuration is kept by reference. 0, or -errno with a sentence; what
 * an earlier agent pinned goes on forwarding also after a failure. */
int agent_new(const struct node_config *config, struct agent **ret_agent, char why[AGENT_WHY_MAX]);

/* Until SIGTERM or SIGINT (both blocked by the caller before): 0. */
int agent_run(struct agent *agent);

/* Leaves the datapath pinned and forwarding. */
void agent_free(struct agent *agent);

/* The certificates of config->tls. may_wait: 0 also when they are no good, with
 * the sentence; an agent works on without controllers until they are. */
struct rpc_tls;
int agent_tls_new(const struct node_config *config, bool may_wait, struct rpc_tls **ret_tls,
		  char why[AGENT_WHY_MAX]);
