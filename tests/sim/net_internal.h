/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Between the wires (net.c) and the calls on them (net_rpc.c). */
#include <sys/queue.h>

#include "tests/sim/sim.h"

enum item_kind { ITEM_OPEN, ITEM_MESSAGE, ITEM_HALF_CLOSE, ITEM_STATUS, ITEM_RESET };

struct item {
	enum item_kind kind;
	uint64_t due;
	uint8_t *data;
	size_t len;
	int status;
	char text[256];
	TAILQ_ENTRY(item) link;
};

struct rpc_call {
	struct rpc *rpc;
	struct rpc_call *peer; /* NULL: it is gone */
	unsigned int peer_host;
	struct rpc_server *server;
	struct rpc_call_ops ops;
	const ProtobufCMessageDescriptor *incoming;
	void *userdata;
	unsigned int events; /* scheduled, that name the call */
	bool open, finishing, finished, dead, cancelled;
	char path[64], target[64];
	TAILQ_HEAD(, item) inbox;
	size_t inbox_bytes;
	uint64_t last_due, opened_at, stalled_at;
	bool scheduled, stalled, sender_waits;
	bool held; /* its owner does not read on */
	TAILQ_ENTRY(rpc_call) link;
};

struct rpc_server {
	struct rpc *rpc;
	char listen[64];
	const struct rpc_method *methods[4];
	size_t n_methods[4], n;
	bool started, stopping;
	void (*on_stopped)(void *userdata);
	void *stopped_userdata;
	TAILQ_ENTRY(rpc_server) link;
};

struct rpc {
	char name[16];
	unsigned int host;
	bool frozen, dead, turn_missed;
	uint64_t wake_at;
	void (*turn)(void *arg);
	void *turn_arg;
	TAILQ_ENTRY(rpc) link;
};

struct rpc_channel {
	struct rpc *rpc;
	bool used;
	char target[64];
};

struct rpc_bytes {
	size_t len;
	uint8_t data[];
};

TAILQ_HEAD(net_calls, rpc_call);
TAILQ_HEAD(net_servers, rpc_server);
TAILQ_HEAD(net_processes, rpc);
extern struct net_calls net_calls;
extern struct net_servers net_servers;
extern struct net_processes net_processes;

struct rpc_call *net_call_new(struct rpc *rpc);
/* Ours ends by an event, its last callback comes from there. */
void net_close_soon(struct rpc_call *call);
/* Makes the other end, at whoever listens there; the channel's first call connects. */
void net_connect(struct rpc_call *call, const char *target, const char *path, bool first);
/* The other end learns of it, if it is still there. */
void net_reset_peer(struct rpc_call *call, int status, const char *text);
struct item *net_item_new(enum item_kind kind);
/* Puts it on its way. */
void net_post(struct rpc_call *to, struct item *item);
void net_read_on(struct rpc_call *call);
void net_server_stop_if_over(struct rpc_server *server);
size_t net_backlog(const struct rpc_call *call);
