/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A connection to one member of an etcd cluster at a time, over rpc.h: it logs
 * in, finds another member when one fails, and tells its user when streams can
 * be opened and when they are gone. Calls fail; what to repeat is the user's.
 */
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/rpc.h"
#include "etcd/etcd.pb-c.h"

#define ETCD_ENDPOINTS_MAX 16
#define ETCD_CALL_MS	   2000 /* a unary call that takes longer has failed */
#define ETCD_WHY_MAX	   256
#define ETCD_PASSWORD_MAX  256

struct etcd_client;

struct etcd_client_options {
	struct rpc *rpc;
	const char *endpoints; /* HOST:PORT[,HOST:PORT…] */
	struct rpc_tls *tls;   /* NULL: plaintext */
	const char *user;      /* NULL: no login */
	const char *password_file;
	const char *probe_key; /* one that the user may read */
	void (*on_ready)(void *userdata);
	void (*on_gone)(void *userdata);
	void *userdata;
};

/* 0, or -errno with a sentence. Connects from etcd_client_turn() on. */
int etcd_client_new(const struct etcd_client_options *options, struct etcd_client **ret_client,
		    char why[ETCD_WHY_MAX]);
/* No callback comes after it. */
void etcd_client_free(struct etcd_client *client);

/* Connects when it is time to; the next deadline. */
uint64_t etcd_client_turn(struct etcd_client *client, uint64_t now_ms);
bool etcd_client_is_ready(const struct etcd_client *client);
/* The last failure as a sentence, "" when there was none; the member in use. */
const char *etcd_client_why(const struct etcd_client *client);
const char *etcd_client_endpoint(const struct etcd_client *client);
uint64_t etcd_client_moves(const struct etcd_client *client);

/* The member answers, but is of no use (no progress): try another one. */
void etcd_client_move(struct etcd_client *client, const char *why);

/* answer is NULL unless status is RPC_OK. */
typedef void etcd_done(void *userdata, int status, const char *text,
		       const ProtobufCMessage *answer);

/* done comes exactly once, not from inside, unless the client is freed before. */
int etcd_client_call(struct etcd_client *client, const char *path, const ProtobufCMessage *request,
		     const ProtobufCMessageDescriptor *response, etcd_done *done, void *userdata);

/* A stream of the member in use; its end is no reason to move. */
int etcd_client_stream(struct etcd_client *client, const char *path,
		       const ProtobufCMessageDescriptor *response, const struct rpc_call_ops *ops,
		       void *userdata, struct rpc_call **ret_call);
