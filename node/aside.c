/* SPDX-License-Identifier: Apache-2.0 */
#include "node/aside.h"

#include <string.h>

#define ASIDE_PATH    "/mcmesh.v1.NodeService/Aside"
#define ASIDE_FEATURE "aside"

static void on_close(struct rpc_call *call, int status, const char *text)
{
	struct link_aside *aside = rpc_call_userdata(call);

	if (!aside)
		return; /* its session ended */
	aside->call = NULL;
	uplink_acks_lost(aside->uplink);
}

static bool is_offered(const Mcmesh__V1__Welcome *welcome)
{
	for (size_t i = 0; i < welcome->n_features; i++) {
		if (strcmp(welcome->features[i], ASIDE_FEATURE) == 0)
			return true;
	}
	return false;
}

void link_aside_begin(struct link_aside *aside, struct rpc_channel *channel, struct uplink *uplink,
		      const char *node, const Mcmesh__V1__Welcome *welcome)
{
	static const struct rpc_call_ops ops = { .on_close = on_close };
	Mcmesh__V1__AgentMessage message = MCMESH__V1__AGENT_MESSAGE__INIT;
	Mcmesh__V1__Attach attach = MCMESH__V1__ATTACH__INIT;

	if (aside->call || !is_offered(welcome))
		return;
	if (rpc_channel_call(channel, ASIDE_PATH, &mcmesh__v1__controller_message__descriptor, &ops,
			     0, aside, &aside->call) < 0) {
		aside->call = NULL;
		return;
	}
	aside->uplink = uplink;
	attach.node = (char *)node;
	attach.session = welcome->session;
	message.message_case = MCMESH__V1__AGENT_MESSAGE__MESSAGE_ATTACH;
	message.attach = &attach;
	rpc_call_send(aside->call, &message.base);
}

bool link_aside_send(struct link_aside *aside, const Mcmesh__V1__AgentMessage *message)
{
	if (message->message_case != MCMESH__V1__AGENT_MESSAGE__MESSAGE_ACK &&
	    message->message_case != MCMESH__V1__AGENT_MESSAGE__MESSAGE_HEARTBEAT)
		return false;
	return aside->call && rpc_call_send(aside->call, &message->base) == 0;
}

void link_aside_end(struct link_aside *aside)
{
	if (!aside->call)
		return;
	rpc_call_set_userdata(aside->call, NULL);
	rpc_call_cancel(aside->call);
	aside->call = NULL;
}
