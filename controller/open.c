/* SPDX-License-Identifier: Apache-2.0 */
#include "controller/open.h"

#include <stdio.h>

#include "common/rpc_tls.h"
#include "controller/config_etcd.h"

static int tls_new(const struct controller_config *config, struct rpc_tls **ret_tls,
		   char why[CONTROLLER_WHY_MAX])
{
	const struct config_tls *t = &config->etcd.tls;
	const struct rpc_tls_options options = {
		.cacert = t->cacert, .cert = t->cert, .key = t->key, .server_name = t->server_name
	};
	char tls_why[RPC_TLS_WHY_MAX] = "";
	int r;

	*ret_tls = NULL;
	if (!t->cacert)
		return 0;
	r = rpc_tls_new(&options, ret_tls, tls_why);
	if (r < 0)
		snprintf(why, CONTROLLER_WHY_MAX, "%s", tls_why);
	return r;
}

int controller_store_open(const struct controller_config *config, struct rpc *rpc, bool only_load,
			  const struct store_events *events, void *userdata,
			  struct rpc_tls **ret_tls, struct store **ret_store,
			  char why[CONTROLLER_WHY_MAX])
{
	const struct controller_etcd *o = &config->etcd;
	char address[ADVERTISE_MAX], store_why[STORE_WHY_MAX] = "out of memory";
	struct store_etcd_options etcd = { .prefix = o->prefix,
					   .user = o->user,
					   .password_file = o->password_file };
	const struct store_options options = { .spec = config->store,
					       .only_load = only_load,
					       .rpc = rpc,
					       .advertise = address,
					       .etcd = &etcd };
	int r = tls_new(config, ret_tls, why);

	if (r < 0)
		return r;
	etcd.tls = *ret_tls;
	config_advertise(config, address);
	r = store_open(&options, events, userdata, ret_store, store_why);
	if (r < 0)
		snprintf(why, CONTROLLER_WHY_MAX, "%s", store_why);
	return r;
}
