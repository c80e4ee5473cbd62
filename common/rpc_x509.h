/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Certificates in PEM, read with libcrypto; used by rpc_tls.c only. Each function
 * leaves the thread's error queue of libcrypto empty, which gRPC reads too.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rpc_identity;

struct rpc_x509_pair {
	/* Contents and, for sentences, paths; cert and key may be NULL together. */
	const char *cacert, *cert, *key;
	const char *cacert_path, *cert_path, *key_path;
	bool server;
};

/* Would a peer with the same authorities take the pair, now? 0 or -EINVAL with a
 * sentence. ret_not_after_s: of the certificate, 0 without one. */
int rpc_x509_check(const struct rpc_x509_pair *pair, int64_t *ret_not_after_s, char *why,
		   size_t why_size);

/* Names and end of the first certificate, with one reference. 0, -EINVAL or -ENOMEM. */
int rpc_x509_identity(const char *pem, size_t len, struct rpc_identity **ret_identity);
/* Gives one reference back. */
void rpc_identity_free(struct rpc_identity *identity);
