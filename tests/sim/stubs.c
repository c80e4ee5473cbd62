/* SPDX-License-Identifier: Apache-2.0 */
/* What the controller could use besides, and does not here: TLS, etcd, a poll, metrics. */
#include <errno.h>

#include "common/rpc.h"
#include "common/rpc_tls.h"
#include "controller/metrics.h"
#include "controller/store/store.h"

const struct store_ops store_etcd_ops = { .scheme = "etcd" };

int controller_metrics_start(struct controller *c, char why[CONTROLLER_WHY_MAX])
{
	return 0;
}

int rpc_poll(struct rpc *rpc, uint64_t deadline_ms)
{
	return -ENOTSUP;
}

const struct rpc_identity *rpc_call_identity(const struct rpc_call *call)
{
	return NULL;
}

struct rpc_server_counters rpc_server_counters(const struct rpc_server *server)
{
	return (struct rpc_server_counters){ 0 };
}

bool rpc_listener_lost(void)
{
	return false;
}

int rpc_channel_call_with(struct rpc_channel *channel, const char *path,
			  const ProtobufCMessageDescriptor *response,
			  const struct rpc_call_ops *ops, uint64_t deadline_ms,
			  const struct rpc_metadata *metadata, size_t n_metadata, void *userdata,
			  struct rpc_call **ret_call)
{
	return rpc_channel_call(channel, path, response, ops, deadline_ms, userdata, ret_call);
}

int rpc_tls_new(const struct rpc_tls_options *options, struct rpc_tls **ret_tls,
		char why[RPC_TLS_WHY_MAX])
{
	return -ENOTSUP;
}

void rpc_tls_free(struct rpc_tls *tls)
{
}

void rpc_tls_refresh(struct rpc_tls *tls)
{
}

uint64_t rpc_handshakes_failed(void)
{
	return 0;
}

bool rpc_identity_has(const struct rpc_identity *identity, enum rpc_name_kind kind,
		      const char *text)
{
	return false;
}

void rpc_identity_describe(const struct rpc_identity *identity, char *text, size_t size)
{
}

void rpc_server_add_standard(struct rpc_server *server, const uint8_t *descriptors, size_t len)
{
}

void rpc_server_set_serving(struct rpc_server *server, bool serving)
{
}

const char *rpc_status_name(int status)
{
	return status == RPC_OK ? "OK" : "an error";
}

/* A turn of the simulation hears everything. */
bool rpc_has_more(const struct rpc *rpc)
{
	return false;
}
