/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Who may do what. A call without TLS comes from this machine, or the operator
 * said --insecure: it may do everything. With TLS the names in the certificate
 * decide, and what they do not allow is denied.
 */
#include "common/rpc.h"
#include "controller/controller.h"

#define ACCESS_ROLE "mcmesh://role/"
#define ACCESS_NODE "mcmesh://node/"

enum access_role {
	ACCESS_BY_NODE = 1 << 0,
	ACCESS_BY_READ = 1 << 1,
	ACCESS_BY_ADMIN = 1 << 2,
	ACCESS_BY_CONTROLLER = 1 << 3,
	ACCESS_BY_ALL = (1 << 4) - 1,
};

struct access_rule {
	const char *path; /* "/mcmesh.v1.MeshService/ListNodes" */
	unsigned int roles;
};

/* One row for each method of each service; what has none is for nobody. */
extern const struct access_rule access_rules[];
extern const size_t access_n_rules;

/* rpc_server_options.authorize; userdata is the controller. */
int access_authorize(const struct rpc_call *call, const char *path, void *userdata,
		     char why[RPC_REFUSAL_MAX]);

/* May who opened the call be this node, at this VTEP? RPC_OK, or why not. */
int access_node(const struct controller *c, const struct rpc_call *call, const char *node,
		const struct addr *vtep, char why[RPC_REFUSAL_MAX]);
bool access_segment(const struct controller *c, const char *node, uint32_t segment);

/* The file was read again: ends sessions that it does not allow, or changes. */
void access_changed(struct controller *c, const struct controller_config *before);

/* Certificates and what became of handshakes; the next deadline. */
uint64_t access_turn(struct controller *c, uint64_t now_ms);

/* Where the controller listens must fit how it is protected: 0 or -EINVAL. */
int access_check_listen(const struct controller_config *config, char why[CONTROLLER_WHY_MAX]);
/* NULL without tls. */
int access_tls_new(const struct controller_config *config, struct rpc_tls **ret_tls,
		   char why[CONTROLLER_WHY_MAX]);
