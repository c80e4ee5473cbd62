/* SPDX-License-Identifier: Apache-2.0 */
/* The calls of common/rpc.h, on the wires of net.c. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/net_internal.h"

void *rpc_call_userdata(struct rpc_call *call)
{
	return call->userdata;
}

void rpc_call_set_userdata(struct rpc_call *call, void *userdata)
{
	call->userdata = userdata;
}

struct rpc_bytes *rpc_bytes_new(const ProtobufCMessage *message)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	struct rpc_bytes *bytes = malloc(sizeof(*bytes) + len);

	bytes->len = protobuf_c_message_pack(message, bytes->data);
	return bytes;
}

void rpc_bytes_free(struct rpc_bytes *bytes)
{
	free(bytes);
}

int rpc_call_send_bytes(struct rpc_call *call, const struct rpc_bytes *bytes)
{
	struct item *item;

	if (call->finishing || call->dead || call->cancelled)
		return -EPIPE;
	if (!call->peer || call->rpc->dead)
		return 0; /* into the void, until the end comes */
	item = net_item_new(ITEM_MESSAGE);
	item->data = malloc(bytes->len + 1);
	item->len = bytes->len;
	memcpy(item->data, bytes->data, bytes->len);
	call->sender_waits = true;
	net_post(call->peer, item);
	return 0;
}

int rpc_call_send(struct rpc_call *call, const ProtobufCMessage *message)
{
	struct rpc_bytes *bytes = rpc_bytes_new(message);
	int r = rpc_call_send_bytes(call, bytes);

	rpc_bytes_free(bytes);
	return r;
}

void rpc_call_hold(struct rpc_call *call)
{
	call->held = true;
}

void rpc_call_read_on(struct rpc_call *call)
{
	if (!call->held)
		return;
	call->held = false;
	net_read_on(call);
}

size_t rpc_call_backlog(const struct rpc_call *call)
{
	return net_backlog(call);
}

void rpc_call_finish(struct rpc_call *call, int status, const char *text, ...)
{
	struct item *item;
	va_list ap;

	if (call->finishing || call->dead)
		return;
	call->finishing = true;
	if (!call->peer) {
		net_close_soon(call);
		return;
	}
	item = net_item_new(call->server ? ITEM_STATUS : ITEM_HALF_CLOSE);
	item->status = status;
	va_start(ap, text);
	vsnprintf(item->text, sizeof(item->text), text, ap);
	va_end(ap);
	net_post(call->peer, item);
}

void rpc_call_cancel(struct rpc_call *call)
{
	if (call->cancelled || call->dead)
		return;
	call->cancelled = true;
	net_reset_peer(call, RPC_CANCELLED, "");
	net_close_soon(call);
}

const char *rpc_call_peer(struct rpc_call *call)
{
	return call->peer ? call->peer->rpc->name : "?";
}

int rpc_server_new(struct rpc *rpc, const struct rpc_server_options *options,
		   struct rpc_server **ret_server)
{
	struct rpc_server *server = calloc(1, sizeof(*server));

	server->rpc = rpc;
	snprintf(server->listen, sizeof(server->listen), "%s", options->listen[0]);
	TAILQ_INSERT_TAIL(&net_servers, server, link);
	*ret_server = server;
	return 0;
}

void rpc_server_add(struct rpc_server *server, const struct rpc_method *methods, size_t n)
{
	server->methods[server->n] = methods;
	server->n_methods[server->n++] = n;
}

int rpc_server_start(struct rpc_server *server)
{
	server->started = true;
	return 0;
}

static void grace_event(void *arg)
{
	struct rpc *rpc = arg;
	struct rpc_server *server;
	struct rpc_call *call;

	TAILQ_FOREACH(server, &net_servers, link)
	{
		if (server->rpc != rpc || rpc->dead)
			continue;
		TAILQ_FOREACH(call, &net_calls, link)
		{
			if (call->server == server)
				rpc_call_cancel(call);
		}
		net_server_stop_if_over(server);
	}
}

void rpc_server_shutdown(struct rpc_server *server, uint64_t grace_ms,
			 void (*on_stopped)(void *userdata), void *userdata)
{
	server->stopping = true;
	server->on_stopped = on_stopped;
	server->stopped_userdata = userdata;
	sim_at(sim_now + grace_ms * SIM_MS, grace_event, server->rpc);
}

void rpc_server_free(struct rpc_server *server)
{
	struct rpc_call *call;

	if (!server)
		return;
	TAILQ_FOREACH(call, &net_calls, link)
	{
		if (call->server == server)
			call->server = NULL;
	}
	TAILQ_REMOVE(&net_servers, server, link);
	free(server);
}

int rpc_channel_new(struct rpc *rpc, const struct rpc_channel_options *options,
		    struct rpc_channel **ret_channel)
{
	struct rpc_channel *channel = calloc(1, sizeof(*channel));

	channel->rpc = rpc;
	snprintf(channel->target, sizeof(channel->target), "%s", options->target);
	*ret_channel = channel;
	return 0;
}

void rpc_channel_free(struct rpc_channel *channel)
{
	free(channel);
}

int rpc_channel_call(struct rpc_channel *channel, const char *path,
		     const ProtobufCMessageDescriptor *response, const struct rpc_call_ops *ops,
		     uint64_t deadline_ms, void *userdata, struct rpc_call **ret_call)
{
	struct rpc_call *call = net_call_new(channel->rpc);

	call->ops = *ops;
	call->incoming = response;
	call->userdata = userdata;
	*ret_call = call;
	net_connect(call, channel->target, path, !channel->used);
	channel->used = true;
	return 0;
}
