/* SPDX-License-Identifier: Apache-2.0 */
#include "common/rpc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/rpc_internal.h"

struct rpc_channel {
	struct rpc *rpc;
	grpc_channel *channel;
	char *target;
	struct rpc_tls *tls; /* NULL: plaintext */
	uint64_t version;    /* of the certificate */
	uint32_t keepalive_ms, keepalive_wait_ms, message_max;
};

#define ARG_INT(name, number)                                                              \
	(grpc_arg)                                                                         \
	{                                                                                  \
		.type = GRPC_ARG_INTEGER, .key = (char *)(name), .value.integer = (number) \
	}

/* The channel of the library, with the certificate of now; NULL: there is none. */
static grpc_channel *channel_open(struct rpc_channel *channel)
{
	const char *server_name = channel->tls ? rpc_tls_server_name(channel->tls) : NULL;
	grpc_channel_credentials *credentials;
	grpc_channel *core;
	grpc_arg list[] = {
		ARG_INT(GRPC_ARG_ENABLE_RETRIES, 0),
		ARG_INT(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
		ARG_INT(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
		/* One connection a channel, with a back-off of its own. */
		ARG_INT(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
		ARG_INT(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, RPC_BACKOFF_MIN_MS),
		ARG_INT(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, RPC_BACKOFF_MAX_MS),
		/* Despite its name: how long one attempt to connect may take. */
		ARG_INT(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, RPC_CONNECT_TIMEOUT_MS),
		ARG_INT(GRPC_ARG_KEEPALIVE_TIME_MS, (int)channel->keepalive_ms),
		ARG_INT(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, (int)channel->keepalive_wait_ms),
		ARG_INT(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0),
		ARG_INT(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
		ARG_INT(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)channel->message_max),
		/* Books that nobody reads. */
		ARG_INT(GRPC_ARG_ENABLE_CHANNELZ, 0),
		/* A probe and a window update a message cost more than the small
		 * messages themselves. */
		ARG_INT(GRPC_ARG_HTTP2_BDP_PROBE, 0),
		ARG_INT(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, RPC_WINDOW_BYTES),
		{ .type = GRPC_ARG_STRING,
		  .key = (char *)GRPC_ARG_PRIMARY_USER_AGENT_STRING,
		  .value.string = (char *)"mcmesh/" MCMESH_VERSION },
		/* Last: only when there is one. */
		{ .type = GRPC_ARG_STRING,
		  .key = (char *)GRPC_SSL_TARGET_NAME_OVERRIDE_ARG,
		  .value.string = (char *)server_name },
	};
	grpc_channel_args args = { ARRAY_SIZE(list) - !server_name, list };

	credentials = channel->tls ? rpc_tls_channel_credentials(channel->tls, &channel->version)
				   : grpc_insecure_credentials_create();
	if (!credentials)
		return NULL;
	core = grpc_channel_create(channel->target, credentials, &args);
	grpc_channel_credentials_release(credentials);
	return core;
}

int rpc_channel_new(struct rpc *rpc, const struct rpc_channel_options *options,
		    struct rpc_channel **ret_channel)
{
	struct rpc_channel *channel = calloc(1, sizeof(*channel));

	if (!channel)
		return -ENOMEM;
	channel->rpc = rpc;
	channel->keepalive_ms =
		options->keepalive_ms ? options->keepalive_ms : RPC_CLIENT_KEEPALIVE_MS;
	channel->keepalive_wait_ms =
		options->keepalive_wait_ms ? options->keepalive_wait_ms : RPC_CLIENT_KEEPALIVE_MS;
	channel->message_max = options->message_max ? options->message_max : RPC_MESSAGE_MAX;
	channel->target = strdup(options->target);
	if (options->tls && strncmp(options->target, "unix:", 5) != 0)
		channel->tls = rpc_tls_ref(options->tls);
	channel->channel = channel->target ? channel_open(channel) : NULL;
	if (!channel->channel) {
		rpc_channel_free(channel);
		return -ENOKEY;
	}
	*ret_channel = channel;
	return 0;
}

void rpc_channel_free(struct rpc_channel *channel)
{
	if (!channel)
		return;
	if (channel->channel)
		grpc_channel_destroy(channel->channel);
	rpc_tls_free(channel->tls);
	free(channel->target);
	free(channel);
}

/* Calls that run keep the connection of before. */
static void channel_renew(struct rpc_channel *channel)
{
	grpc_channel *core;

	if (!channel->tls || !rpc_tls_is_newer(channel->tls, channel->version))
		return;
	core = channel_open(channel);
	if (!core)
		return;
	grpc_channel_destroy(channel->channel);
	channel->channel = core;
}

static void call_start(struct rpc_call *call, grpc_metadata *metadata, size_t n)
{
	grpc_op begin[2] = {
		{ .op = GRPC_OP_SEND_INITIAL_METADATA,
		  .flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET },
		{ .op = GRPC_OP_RECV_INITIAL_METADATA },
	};

	begin[0].data.send_initial_metadata.metadata = metadata;
	begin[0].data.send_initial_metadata.count = n;
	begin[1].data.recv_initial_metadata.recv_initial_metadata = &call->initial;
	rpc_call_start_batch(call, begin, 2, &call->on_init);
	rpc_call_start_reading(call);
}

int rpc_channel_call(struct rpc_channel *channel, const char *path,
		     const ProtobufCMessageDescriptor *response, const struct rpc_call_ops *ops,
		     uint64_t deadline_ms, void *userdata, struct rpc_call **ret_call)
{
	return rpc_channel_call_with(channel, path, response, ops, deadline_ms, NULL, 0, userdata,
				     ret_call);
}

int rpc_channel_call_with(struct rpc_channel *channel, const char *path,
			  const ProtobufCMessageDescriptor *response,
			  const struct rpc_call_ops *ops, uint64_t deadline_ms,
			  const struct rpc_metadata *metadata, size_t n_metadata, void *userdata,
			  struct rpc_call **ret_call)
{
	gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
	grpc_metadata list[RPC_METADATA_MAX] = { 0 };
	struct rpc_call *call;
	grpc_slice method;
	unsigned int queue;
	grpc_call *core;

	if (n_metadata > RPC_METADATA_MAX)
		return -E2BIG;
	if (deadline_ms)
		deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
					gpr_time_from_millis((int64_t)deadline_ms, GPR_TIMESPAN));
	channel_renew(channel);
	method = grpc_slice_from_copied_string(path);
	queue = rpc_queue_pick(channel->rpc);
	core = grpc_channel_create_call(channel->channel, NULL, GRPC_PROPAGATE_DEFAULTS,
					channel->rpc->queues[queue].cq, method, NULL, deadline,
					NULL);
	grpc_slice_unref(method);
	if (!core)
		return -ENOMEM;
	call = rpc_call_new(channel->rpc, core, queue);
	if (!call) {
		grpc_call_unref(core);
		return -ENOMEM;
	}
	call->ops = *ops;
	call->incoming = response;
	call->userdata = userdata;
	for (size_t i = 0; i < n_metadata; i++) {
		list[i].key = grpc_slice_from_copied_string(metadata[i].key);
		list[i].value = grpc_slice_from_copied_string(metadata[i].value);
	}
	call_start(call, list, n_metadata);
	/* The library has taken references of its own. */
	for (size_t i = 0; i < n_metadata; i++) {
		grpc_slice_unref(list[i].key);
		grpc_slice_unref(list[i].value);
	}
	*ret_call = call;
	return 0;
}
