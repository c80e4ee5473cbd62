/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Mutual TLS for servers and channels of rpc.h, from three PEM files.
 *
 * The files are looked at again for each handshake of a server, for new channels
 * and calls, and by rpc_tls_refresh(): what was replaced is in force from then
 * on, without a restart. New files that are no good change nothing and are told
 * once. Calls keep the connection that they began on.
 *
 * cacert may hold several authorities (a bundle): whoever one of them has
 * signed is let in, and the program's own certificate must be of one of them.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RPC_TLS_WHY_MAX 512

struct rpc_tls;

struct rpc_tls_options {
	/* A client may leave cert and key out when its server asks for none. */
	const char *cacert, *cert, *key;
	/* Client: the name that the server's certificate must have. NULL: the
	 * target's host. */
	const char *server_name;
	bool server;
	/* Files that are no good are no error of rpc_tls_new(): why has the
	 * sentence, and what needs them fails until they are good. */
	bool may_wait;
	/* Something happened to the files: a sentence. From any thread. */
	void (*on_event)(void *userdata, bool bad, const char *sentence);
	void *userdata;
};

struct rpc_tls_counters {
	uint64_t reloads, reloads_refused;
};

/* 0, or -errno with a sentence; why is "" after 0 but for may_wait. */
int rpc_tls_new(const struct rpc_tls_options *options, struct rpc_tls **ret_tls,
		char why[RPC_TLS_WHY_MAX]);

/* Channels that use it keep it alive, servers do until their runtime ends. */
void rpc_tls_free(struct rpc_tls *tls);

/* Looks at the files; call it about once a second. */
void rpc_tls_refresh(struct rpc_tls *tls);

/* Why there is no pair; "" when there is one. */
void rpc_tls_why(struct rpc_tls *tls, char why[RPC_TLS_WHY_MAX]);
struct rpc_tls_counters rpc_tls_counters(struct rpc_tls *tls);

/* Handshakes that failed in this process's servers: no certificate, one of a
 * foreign authority, not TLS at all, or too slow. */
uint64_t rpc_handshakes_failed(void);

/* ---- who calls ---------------------------------------------------------------- */

enum rpc_name_kind {
	RPC_NAME_DNS,
	RPC_NAME_URI,
	RPC_NAME_IP, /* as inet_ntop(3) writes it */
};

struct rpc_name {
	enum rpc_name_kind kind;
	char *text;
};

/* More subject alternative names than that are left out. */
#define RPC_NAMES_MAX 64

/* A token bucket of calls. */
struct rpc_rate {
	uint64_t at_ms;
	uint32_t tokens;
};

struct rpc_identity {
	char *subject; /* the common name, for people; says nothing about rights */
	struct rpc_name *names;
	size_t n_names;
	int64_t not_after_s;	 /* CLOCK_REALTIME */
	unsigned int references; /* rpc_tls.c's: calls with one certificate share it */
	/* rpc_server.c's. */
	unsigned int open_calls;
	struct rpc_rate rate;
};

/* DNS names compare without case, addresses and URIs as they are. */
bool rpc_identity_has(const struct rpc_identity *identity, enum rpc_name_kind kind,
		      const char *text);
/* "ann (mcmesh://role/read)", "n1 (n1, 203.0.113.1)": for sentences. */
void rpc_identity_describe(const struct rpc_identity *identity, char *text, size_t size);
