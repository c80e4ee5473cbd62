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

#include "common/cleanup.h"
#include "tests/sim/net_internal.h"

#define WINDOW_BYTES	   65536
#define CONNECT_TIMEOUT_US (2 * SIM_S)
#define KEEPALIVE_US	   (15 * SIM_S) /* a server's patience with a cut */
#define TURN_US		   50

struct net_calls net_calls;
struct net_servers net_servers;
struct net_processes net_processes;
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

	while ((call = TAILQ_FIRST(&net_calls))) {
		TAILQ_REMOVE(&net_calls, call, link);
		inbox_drop(call);
		free(call);
	}
	while ((rpc = TAILQ_FIRST(&net_processes))) {
		TAILQ_REMOVE(&net_processes, rpc, link);
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
	TAILQ_INSERT_TAIL(&net_processes, rpc, link);
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
	TAILQ_REMOVE(&net_calls, call, link);
	free(call);
}

void net_server_stop_if_over(struct rpc_server *server)
{
	struct rpc_call *call;

	if (!server->stopping || !server->on_stopped)
		return;
	TAILQ_FOREACH(call, &net_calls, link)
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
		net_server_stop_if_over(server);
}

static void deliver_event(void *arg);

/* Who does not read on still learns that the call has ended. */
static struct item *next_item(const struct rpc_call *to)
{
	struct item *item;

	TAILQ_FOREACH(item, &to->inbox, link)
	{
		if (!to->held || item->kind == ITEM_RESET)
			return item;
	}
	return NULL;
}

static void deliver_later(struct rpc_call *to)
{
	struct item *item = next_item(to);

	if (to->scheduled || !item || to->dead)
		return;
	to->scheduled = true;
	to->events++;
	sim_at(item->due > sim_now ? item->due : sim_now, deliver_event, to);
}

void net_read_on(struct rpc_call *call)
{
	deliver_later(call);
}

void net_post(struct rpc_call *to, struct item *item)
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

struct item *net_item_new(enum item_kind kind)
{
	struct item *item = calloc(1, sizeof(*item));

	item->kind = kind;
	return item;
}

/* The other end learns of it, if it is still there. */
void net_reset_peer(struct rpc_call *call, int status, const char *text)
{
	struct item *item;

	if (!call->peer)
		return;
	item = net_item_new(ITEM_RESET);
	item->status = status;
	snprintf(item->text, sizeof(item->text), "%s", text);
	net_post(call->peer, item);
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

void net_close_soon(struct rpc_call *call)
{
	call->events++;
	sim_at(sim_now + 1, close_event, call);
}

static const struct rpc_method *method_find(const char *target, const char *path,
					    struct rpc_server **ret_server)
{
	struct rpc_server *server;

	TAILQ_FOREACH(server, &net_servers, link)
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

struct rpc_call *net_call_new(struct rpc *rpc)
{
	struct rpc_call *call = calloc(1, sizeof(*call));

	call->rpc = rpc;
	call->opened_at = sim_now;
	TAILQ_INIT(&call->inbox);
	TAILQ_INSERT_TAIL(&net_calls, call, link);
	return call;
}

static unsigned int target_host(const char *target)
{
	struct rpc_server *server;

	TAILQ_FOREACH(server, &net_servers, link)
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
		net_reset_peer(call, RPC_UNAVAILABLE, "connection refused");
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
	TAILQ_FOREACH(server, &net_servers, link)
	{
		if (strcmp(server->listen, call->target) == 0 && server->rpc->frozen)
			return true;
	}
	return false;
}

size_t net_backlog(const struct rpc_call *call)
{
	size_t bytes = call->peer ? call->peer->inbox_bytes * byte_weight : 0;

	return bytes > WINDOW_BYTES ? bytes - WINDOW_BYTES : 0;
}

static void sender_drained(struct rpc_call *call)
{
	struct rpc_call *sender = call->peer;

	if (!sender || !sender->sender_waits || net_backlog(sender))
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
	item = next_item(call);
	if (!call->dead && item && item->due > sim_now) {
		deliver_later(call); /* since it was scheduled, its owner does not read on */
	} else if (!call->dead && item && receiver_stalls(call)) {
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

	TAILQ_FOREACH(call, &net_calls, link)
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

	for (call = TAILQ_FIRST(&net_calls); call; call = next) {
		struct rpc_call *peer = call->peer;
		bool waits = call->stalled && !call->rpc->frozen &&
			     sim_now > call->stalled_at + KEEPALIVE_US;

		next = TAILQ_NEXT(call, link);
		if (peer && peer->stalled && sim_now > peer->stalled_at + KEEPALIVE_US)
			waits = true;
		if (call->dead || !call->server || call->rpc->frozen || !waits)
			continue;
		net_reset_peer(call, RPC_UNAVAILABLE, "keepalive");
		call_close(call, RPC_CANCELLED, "");
		call_free_if_over(call);
	}
	sim_at(sim_now + SIM_S, keepalive_event, NULL);
}

void sim_net_reset(void)
{
	TAILQ_INIT(&net_calls);
	TAILQ_INIT(&net_servers);
	TAILQ_INIT(&net_processes);
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
		net_reset_peer(call, RPC_CANCELLED, "");
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
	TAILQ_FOREACH(call, &net_calls, link)
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
	TAILQ_FOREACH(server, &net_servers, link)
	{
		if (server->rpc == rpc) {
			server->started = false;
			server->on_stopped = NULL;
		}
	}
	for (call = TAILQ_FIRST(&net_calls); call; call = next) {
		next = TAILQ_NEXT(call, link);
		if (call->rpc != rpc || call->dead)
			continue;
		net_reset_peer(call, RPC_UNAVAILABLE, "connection reset");
		/* Only so that the code frees what it has: nobody sees it. */
		call_close(call, RPC_CANCELLED, "");
		call_free_if_over(call);
	}
}

void sim_stream_lose(struct rpc_call *call, bool with_what_is_under_way)
{
	if (!call || call->dead || !call->peer)
		return;
	if (with_what_is_under_way)
		inbox_drop(call->peer);
	net_reset_peer(call, RPC_UNAVAILABLE, "connection reset");
	net_close_soon(call);
}

void sim_stream_delay(struct rpc_call *call, uint64_t us)
{
	if (call && call->peer && call->peer->last_due < sim_now + us)
		call->peer->last_due = sim_now + us;
}

void sim_connections_lose(struct rpc *rpc)
{
	struct rpc_call *call, *next;
	bool all = sim_chance(50);

	for (call = TAILQ_FIRST(&net_calls); call; call = next) {
		next = TAILQ_NEXT(call, link);
		if (call->rpc == rpc)
			sim_stream_lose(call, all);
	}
}

/* ---- a call begins ------------------------------------------------------------------- */

/* Until its arrival the other side is a shell in a process of its own, which has
 * only a host: there may be nobody. */
static struct rpc *wire_process(unsigned int host)
{
	struct rpc *rpc;

	TAILQ_FOREACH(rpc, &net_processes, link)
	{
		if (rpc->host == host && rpc->name[0] == '@')
			return rpc;
	}
	return sim_process_new("@", host);
}

void net_connect(struct rpc_call *call, const char *target, const char *path, bool first)
{
	unsigned int host = target_host(target);

	if (first) {
		call->events++;
		sim_at(sim_now + CONNECT_TIMEOUT_US, patience_event, call);
	}
	if (host == SIM_HOSTS) {
		net_close_soon(call);
		return;
	}
	call->peer = net_call_new(wire_process(host));
	call->peer->peer = call;
	call->peer->peer_host = call->rpc->host;
	call->peer_host = host;
	snprintf(call->peer->target, sizeof(call->peer->target), "%s", target);
	snprintf(call->peer->path, sizeof(call->peer->path), "%s", path);
	net_post(call->peer, net_item_new(ITEM_OPEN));
}
