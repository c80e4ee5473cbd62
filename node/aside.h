/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The session's second stream: acknowledgements and heartbeats, which the controller
 * reads when it has something to tell anyway (controller/aside.c). It is opened when
 * the Welcome says that the controller knows it; without it, and when it ends, all is
 * said on the Sync stream.
 */
#include <stdbool.h>

#include "common/rpc.h"
#include "mcmesh/v1/node.pb-c.h"

struct aside {
	struct rpc_call *call;
};

/* A Welcome came on a Sync stream of the channel. */
void aside_begin(struct aside *aside, struct rpc_channel *channel, const char *node,
		 const Mcmesh__V1__Welcome *welcome);
/* False: it is to be said on the Sync stream. */
bool aside_send(struct aside *aside, const Mcmesh__V1__AgentMessage *message);
/* Before its channel goes. */
void aside_end(struct aside *aside);
