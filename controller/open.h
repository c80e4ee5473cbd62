/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The configured store, opened. */
#include "controller/controller.h"

/* The store, and what it needs as long as the runtime lives; *ret_tls may be NULL.
 * 0, or -errno with a sentence. */
int controller_store_open(const struct controller_config *config, struct rpc *rpc, bool only_load,
			  const struct store_events *events, void *userdata,
			  struct rpc_tls **ret_tls, struct store **ret_store,
			  char why[CONTROLLER_WHY_MAX]);
