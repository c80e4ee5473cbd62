/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The session's second stream: acknowledgements and heartbeats, which the controller
 * reads when it has something to tell anyway (controller/aside.c). It is opened when
 * the Welcome says that the controller knows it; without it, and when it ends, all is
 * said on the Sync stream, also what was acknowledged last: it may have been lost.
 */
#include <stdbool.h>

#include "common/rpc.h"
#include "mcmesh/v1/node.pb-c.h"
#include "node/uplink.h"

struct link_aside {
	struct rpc_call *call;
	struct uplink *uplink;
};

/* A Welcome came on a Sync stream of the channel. */
void link_aside_begin(struct link_aside *aside, struct rpc_channel *channel, struct uplink *uplink,
		      const char *node, const Mcmesh__V1__Welcome *welcome);
/* False: it is to be said on the Sync stream. */
bool link_aside_send(struct link_aside *aside, const Mcmesh__V1__AgentMessage *message);
/* Before its channel goes. */
void link_aside_end(struct link_aside *aside);
