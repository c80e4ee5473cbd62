/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A mesh from one store to another, or to a file for later, as JSON lines: what
 * operators said (settings, static members) and the nodes that are known. Members
 * are not in it: they are the agents' and come back by their reports (see
 * transfer.c).
 */
#include <stdbool.h>
#include <stdio.h>

#include "controller/controller.h"

#define TRANSFER_VERSION     1
#define TRANSFER_ROWS_MAX    1000000
#define TRANSFER_LINE_MAX    (1024 * 1024)
#define TRANSFER_TOGETHER_MS 60000 /* for a store in the network to take it */

/* path "-": standard output, or input. 0, or -errno with a sentence. */
int transfer_export(const struct controller_config *config, struct rpc *rpc, const char *path,
		    char why[CONTROLLER_WHY_MAX]);
/* force: also over what the store has. */
int transfer_import(const struct controller_config *config, struct rpc *rpc, const char *path,
		    bool force, char why[CONTROLLER_WHY_MAX]);
