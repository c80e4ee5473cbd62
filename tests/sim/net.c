/* SPDX-License-Identifier: Apache-2.0 */
/*
 * common/rpc.h on made-up wires. A call has two ends; each end has a queue of
 * what is on the way to it, in order, each item with the time of its arrival. A
 * cut or a frozen receiver stalls the queue, as TCP would; what arrives after
 * the end of a call is dropped. Callbacks come from events only.
 */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/cleanup.h"
#include "tests/sim/sim.h"

#define WINDOW_BYTES	   65536
#define CONNECT_TIMEOUT_US (2 * SIM_S)
#define KEEPALIVE_US	   (15 * SIM_S) /* a server's patience with a cut */
#define TURN_US		   50

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
	char target[64];
};

struct rpc_bytes {
	size_t len;
	uint8_t data[];
};

static TAILQ_HEAD(, rpc_call) calls;
static TAILQ_HEAD(, rpc_server) servers;
static TAILQ_HEAD(, rpc) processes;
static bool cuts[SIM_HOSTS][SIM_HOSTS];
static uint64_t latency_us, spike_us;
static size_t byte_weight;
uint64_t sim_messages;

void sim_network(uint64_t latency, uint64_t spike, size_t weight)
{
	latency_us = latency;
	spike_us = spike;
	byte_weight = weight;
}

static void inbox_drop(struct rpc_call *call)
{
	struct item *item;

	while ((item = TAILQ_FIRST(&call->inbox))) {
		TAILQ_REMOVE(&call->inbox, item, link);
		free(item->data);
		free(item);
	}
	call->inbox_bytes = 0;
}

void sim_net_end(void)
{
	struct rpc_call *call;
	struct rpc *rpc;

	while ((call = TAILQ_FIRST(&calls))) {
		TAILQ_REMOVE(&calls, call, link);
		inbox_drop(call);
		free(call);
	}
	while ((rpc = TAILQ_FIRST(&processes))) {
		TAILQ_REMOVE(&processes, rpc, link);
		free(rpc);
	}
}

/* ---- processes ------------------------------------------------------------------- */

struct rpc *sim_process_new(const char *name, unsigned int host)
{
	struct rpc *rpc = calloc(1, sizeof(*rpc));

	snprintf(rpc->name, sizeof(rpc->name), "%s", name);
	rpc->host = host;
	rpc->wake_at = UINT64_MAX;
	TAILQ_INSERT_TAIL(&processes, rpc, link);
	return rpc;
}

const char *sim_process_name(const struct rpc *rpc)
{
	return rpc->name;
}

bool sim_process_is_frozen(const struct rpc *rpc)
{
	return rpc->frozen;
}

void sim_process_on_turn(struct rpc *rpc, void (*fn)(void *arg), void *arg)
{
	rpc->turn = fn;
	rpc->turn_arg = arg;
}

static void turn_event(void *arg)
{
	struct rpc *rpc = arg;

	if (rpc->dead || sim_now < rpc->wake_at)
		return; /* another event comes for what it waits for */
	rpc->wake_at = UINT64_MAX;
	if (rpc->frozen)
		rpc->turn_missed = true;
	else
		rpc->turn(rpc->turn_arg);
}

void sim_process_wake(struct rpc *rpc, uint64_t when_us)
{
	if (!rpc->turn || when_us >= rpc->wake_at)
		return;
	rpc->wake_at = when_us;
	sim_at(when_us, turn_event, rpc);
}

static void turn_soon(struct rpc *rpc)
{
	sim_process_wake(rpc, sim_now + TURN_US);
}

/* ---- calls ------------------------------------------------------------------------- */

static void call_free_if_over(struct rpc_call *call)
{
	if (!call->dead || call->events)
		return;
	TAILQ_REMOVE(&calls, call, link);
	free(call);
}

static void server_stop_if_over(struct rpc_server *server)
{
	struct rpc_call *call;

	if (!server->stopping || !server->on_stopped)
		return;
	TAILQ_FOREACH(call, &calls, link)
	{
		if (call->server == server && !call->dead)
			return;
	}
	server->on_stopped(server->stopped_userdata);
	server->on_stopped = NULL;
}

/* The last callback. */
static void call_close(struct rpc_call *call, int status, const char *text)
{
	struct rpc_server *server = call->server;

	if (call->dead)
		return;
	call->dead = true;
	inbox_drop(call);
	if (call->peer)
		call->peer->peer = NULL;
	call->peer = NULL;
	if (call->ops.on_close)
		call->ops.on_close(call, status, text);
	turn_soon(call->rpc);
	if (server)
		server_stop_if_over(server);
}

static void deliver_event(void *arg);

static void deliver_later(struct rpc_call *to)
{
	struct item *head = TAILQ_FIRST(&to->inbox);

	if (to->scheduled || !head || to->dead)
		return;
	to->scheduled = true;
	to->events++;
	sim_at(head->due > sim_now ? head->due : sim_now, deliver_event, to);
}

static void post(struct rpc_call *to, struct item *item)
{
	uint64_t wait = latency_us / 2 + sim_random(latency_us);

	if (sim_random(200) == 0)
		wait += sim_random(spike_us + 1);
	item->due = sim_now + wait;
	if (item->due < to->last_due)
		item->due = to->last_due;
	to->last_due = item->due;
	to->inbox_bytes += item->len;
	TAILQ_INSERT_TAIL(&to->inbox, item, link);
	deliver_later(to);
}

static struct item *item_new(enum item_kind kind)
{
	struct item *item = calloc(1, sizeof(*item));

	item->kind = kind;
	return item;
}

/* The other end learns of it, if it is still there. */
static void reset_peer(struct rpc_call *call, int status, const char *text)
{
	struct item *item;

	if (!call->peer)
		return;
	item = item_new(ITEM_RESET);
	item->status = status;
	snprintf(item->text, sizeof(item->text), "%s", text);
	post(call->peer, item);
	call->peer->peer = NULL;
	call->peer = NULL;
}

static void close_event(void *arg)
{
	struct rpc_call *call = arg;

	call->events--;
	if (!call->rpc->dead)
		call_close(call,
			   call->server	     ? RPC_CANCELLED
			   : call->cancelled ? RPC_CANCELLED
					     : RPC_UNAVAILABLE,
			   call->cancelled ? "" : "connection refused or lost");
	call_free_if_over(call);
}

static void close_soon(struct rpc_call *call)
{
	call->events++;
	sim_at(sim_now + 1, close_event, call);
}

static const struct rpc_method *method_find(const char *target, const char *path,
					    struct rpc_server **ret_server)
{
	struct rpc_server *server;

	TAILQ_FOREACH(server, &servers, link)
	{
		if (strcmp(server->listen, target) != 0 || !server->started || server->stopping)
			continue;
		*ret_server = server;
		for (size_t i = 0; i < server->n; i++) {
			for (size_t j = 0; j < server->n_methods[i]; j++) {
				if (strcmp(server->methods[i][j].path, path) == 0)
					return &server->methods[i][j];
			}
		}
	}
	return NULL;
}

static struct rpc_call *call_new(struct rpc *rpc)
{
	struct rpc_call *call = calloc(1, sizeof(*call));

	call->rpc = rpc;
	call->opened_at = sim_now;
	TAILQ_INIT(&call->inbox);
	TAILQ_INSERT_TAIL(&calls, call, link);
	return call;
}

static unsigned int target_host(const char *target)
{
	struct rpc_server *server;

	TAILQ_FOREACH(server, &servers, link)
	{
		if (strcmp(server->listen, target) == 0)
			return server->rpc->host;
	}
	return SIM_HOSTS;
}

/* Of the future server's side: `call` is a shell until the method is known. */
static void on_arrival(struct rpc_call *call)
{
	struct rpc_server *server = NULL;
	const struct rpc_method *m = method_find(call->target, call->path, &server);

	if (!m || server->rpc->dead) {
		call->dead = true;
		inbox_drop(call);
		reset_peer(call, RPC_UNAVAILABLE, "connection refused");
		return;
	}
	call->rpc = server->rpc;
	call->server = server;
	call->ops = m->ops;
	call->incoming = m->request;
	call->userdata = m->userdata;
	call->open = true;
	if (m->on_open)
		m->on_open(call);
	turn_soon(call->rpc);
}

static void on_item(struct rpc_call *call, struct item *item)
{
	ProtobufCMessage *message;
	struct rpc_call *peer = call->peer;

	switch (item->kind) {
	case ITEM_OPEN:
		on_arrival(call);
		return;
	case ITEM_MESSAGE:
		sim_messages++;
		if (call->cancelled || (call->server && call->finishing))
			return;
		message = protobuf_c_message_unpack(call->incoming, NULL, item->len, item->data);
		assert(message);
		call->ops.on_message(call, message);
		protobuf_c_message_free_unpacked(message, NULL);
		break;
	case ITEM_HALF_CLOSE:
		if (!call->finishing)
			call->ops.on_message(call, NULL);
		break;
	case ITEM_STATUS:
		if (peer) {
			peer->finished = true;
			peer->peer = NULL;
			call->peer = NULL;
			call_close(peer, RPC_OK, "");
			call_free_if_over(peer);
		}
		call_close(call, item->status, item->text);
		return;
	case ITEM_RESET:
		call_close(call, call->server ? RPC_CANCELLED : item->status, item->text);
		return;
	}
	turn_soon(call->rpc);
}

static bool receiver_stalls(const struct rpc_call *call)
{
	struct rpc_server *server;

	if (cuts[call->peer_host][call->rpc->host] || call->rpc->frozen)
		return true;
	if (call->server || !call->target[0])
		return false;
	TAILQ_FOREACH(server, &servers, link)
	{
		if (strcmp(server->listen, call->target) == 0 && server->rpc->frozen)
			return true;
	}
	return false;
}

static void sender_drained(struct rpc_call *call)
{
	struct rpc_call *sender = call->peer;

	if (!sender || !sender->sender_waits || rpc_call_backlog(sender))
		return;
	sender->sender_waits = false;
	if (sender->finishing || sender->rpc->frozen || !sender->ops.on_drained)
		return;
	sender->ops.on_drained(sender);
	turn_soon(sender->rpc);
}

static void deliver_event(void *arg)
{
	struct rpc_call *call = arg;
	struct item *item;

	call->events--;
	call->scheduled = false;
	item = TAILQ_FIRST(&call->inbox);
	if (!call->dead && item && receiver_stalls(call)) {
		if (!call->stalled)
			call->stalled_at = sim_now;
		call->stalled = true;
	} else if (!call->dead && item) {
		TAILQ_REMOVE(&call->inbox, item, link);
		call->inbox_bytes -= item->len;
		on_item(call, item);
		free(item->data);
		free(item);
		if (!call->dead) {
			sender_drained(call);
			deliver_later(call);
		}
	}
	call_free_if_over(call);
}

static void stalled_retry(void)
{
	struct rpc_call *call;

	TAILQ_FOREACH(call, &calls, link)
	{
		if (call->stalled && !call->dead && !receiver_stalls(call)) {
			call->stalled = false;
			deliver_later(call);
		}
	}
}

/* Half of a connection that does not move is given up by keepalive. */
static void keepalive_event(void *arg)
{
	struct rpc_call *call, *next;

	for (call = TAILQ_FIRST(&calls); call; call = next) {
		struct rpc_call *peer = call->peer;
		bool waits = call->stalled && !call->rpc->frozen &&
			     sim_now > call->stalled_at + KEEPALIVE_US;

		next = TAILQ_NEXT(call, link);
		if (peer && peer->stalled && sim_now > peer->stalled_at + KEEPALIVE_US)
			waits = true;
		if (call->dead || !call->server || call->rpc->frozen || !waits)
			continue;
		reset_peer(call, RPC_UNAVAILABLE, "keepalive");
		call_close(call, RPC_CANCELLED, "");
		call_free_if_over(call);
	}
	sim_at(sim_now + SIM_S, keepalive_event, NULL);
}

void sim_net_reset(void)
{
	TAILQ_INIT(&calls);
	TAILQ_INIT(&servers);
	TAILQ_INIT(&processes);
	memset(cuts, 0, sizeof(cuts));
	sim_messages = 0;
	sim_at(SIM_S, keepalive_event, NULL);
}

/* An attempt to connect takes only so long. */
static void patience_event(void *arg)
{
	struct rpc_call *call = arg;

	call->events--;
	if (!call->dead && !call->rpc->dead && call->peer && !call->peer->open) {
		reset_peer(call, RPC_CANCELLED, "");
		call_close(call, RPC_UNAVAILABLE, "failed to connect");
	}
	call_free_if_over(call);
}

void sim_cut(unsigned int from, unsigned int to, bool cut)
{
	cuts[from][to] = cut;
	if (!cut)
		stalled_retry();
}

bool sim_is_cut(unsigned int from, unsigned int to)
{
	return cuts[from][to];
}

void sim_process_freeze(struct rpc *rpc, bool frozen)
{
	struct rpc_call *call;

	rpc->frozen = frozen;
	if (frozen)
		return;
	stalled_retry();
	TAILQ_FOREACH(call, &calls, link)
	{
		if (call->rpc == rpc && call->sender_waits && call->peer)
			sender_drained(call->peer);
	}
	if (rpc->turn_missed) {
		rpc->turn_missed = false;
		turn_soon(rpc);
	}
}

void sim_process_kill(struct rpc *rpc)
{
	struct rpc_server *server;
	struct rpc_call *call, *next;

	rpc->dead = true;
	TAILQ_FOREACH(server, &servers, link)
	{
		if (server->rpc == rpc) {
			server->started = false;
			server->on_stopped = NULL;
		}
	}
	for (call = TAILQ_FIRST(&calls); call; call = next) {
		next = TAILQ_NEXT(call, link);
		if (call->rpc != rpc || call->dead)
			continue;
		reset_peer(call, RPC_UNAVAILABLE, "connection reset");
		/* Only so that the code frees what it has: nobody sees it. */
		call_close(call, RPC_CANCELLED, "");
		call_free_if_over(call);
	}
}

void sim_connections_lose(struct rpc *rpc)
{
	struct rpc_call *call, *next;

	for (call = TAILQ_FIRST(&calls); call; call = next) {
		next = TAILQ_NEXT(call, link);
		if (call->rpc != rpc || call->dead || !call->peer)
			continue;
		reset_peer(call, RPC_UNAVAILABLE, "connection reset");
		close_soon(call);
	}
}

/* ---- common/rpc.h ------------------------------------------------------------------- */

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
	item = item_new(ITEM_MESSAGE);
	item->data = malloc(bytes->len + 1);
	item->len = bytes->len;
	memcpy(item->data, bytes->data, bytes->len);
	call->sender_waits = true;
	post(call->peer, item);
	return 0;
}

int rpc_call_send(struct rpc_call *call, const ProtobufCMessage *message)
{
	struct rpc_bytes *bytes = rpc_bytes_new(message);
	int r = rpc_call_send_bytes(call, bytes);

	rpc_bytes_free(bytes);
	return r;
}

size_t rpc_call_backlog(const struct rpc_call *call)
{
	size_t bytes = call->peer ? call->peer->inbox_bytes * byte_weight : 0;

	return bytes > WINDOW_BYTES ? bytes - WINDOW_BYTES : 0;
}

void rpc_call_finish(struct rpc_call *call, int status, const char *text, ...)
{
	struct item *item;
	va_list ap;

	if (call->finishing || call->dead)
		return;
	call->finishing = true;
	if (!call->peer) {
		close_soon(call);
		return;
	}
	item = item_new(call->server ? ITEM_STATUS : ITEM_HALF_CLOSE);
	item->status = status;
	va_start(ap, text);
	vsnprintf(item->text, sizeof(item->text), text, ap);
	va_end(ap);
	post(call->peer, item);
}

void rpc_call_cancel(struct rpc_call *call)
{
	if (call->cancelled || call->dead)
		return;
	call->cancelled = true;
	reset_peer(call, RPC_CANCELLED, "");
	close_soon(call);
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
	TAILQ_INSERT_TAIL(&servers, server, link);
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

	TAILQ_FOREACH(server, &servers, link)
	{
		if (server->rpc != rpc || rpc->dead)
			continue;
		TAILQ_FOREACH(call, &calls, link)
		{
			if (call->server == server)
				rpc_call_cancel(call);
		}
		server_stop_if_over(server);
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
	TAILQ_FOREACH(call, &calls, link)
	{
		if (call->server == server)
			call->server = NULL;
	}
	TAILQ_REMOVE(&servers, server, link);
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

/* Until its arrival the other side is a shell in a process of its own, which has
 * only a host: there may be nobody. */
static struct rpc *wire_process(unsigned int host)
{
	struct rpc *rpc;

	TAILQ_FOREACH(rpc, &processes, link)
	{
		if (rpc->host == host && rpc->name[0] == '@')
			return rpc;
	}
	return sim_process_new("@", host);
}

int rpc_channel_call(struct rpc_channel *channel, const char *path,
		     const ProtobufCMessageDescriptor *response, const struct rpc_call_ops *ops,
		     uint64_t deadline_ms, void *userdata, struct rpc_call **ret_call)
{
	unsigned int host = target_host(channel->target);
	struct rpc_call *call = call_new(channel->rpc);

	call->ops = *ops;
	call->incoming = response;
	call->userdata = userdata;
	*ret_call = call;
	call->events++;
	sim_at(sim_now + CONNECT_TIMEOUT_US, patience_event, call);
	if (host == SIM_HOSTS) {
		close_soon(call);
		return 0;
	}
	call->peer = call_new(wire_process(host));
	call->peer->peer = call;
	call->peer->peer_host = call->rpc->host;
	call->peer_host = host;
	snprintf(call->peer->target, sizeof(call->peer->target), "%s", channel->target);
	snprintf(call->peer->path, sizeof(call->peer->path), "%s", path);
	post(call->peer, item_new(ITEM_OPEN));
	return 0;
}
