/* SPDX-License-Identifier: Apache-2.0 */

/*
 * DOC: a call's life
 *
 * Both ends keep at most one batch in flight for sending, one for receiving
 * and one that waits for the end (the client's status, the server's "closed").
 * A read tells of the end too: it brings no message. So the end batch is started
 * when no read is in flight or to come, and every call has a completion to come:
 * on_close runs from the completion that leaves nothing in flight, hence never
 * from inside rpc_call_*(). It is not there from the start since Debian's library,
 * built with its checks, looks for each batch that ends among all that are
 * outstanding, one by one: with thousands of streams that was most of its time.
 *
 * What is sent from a callback of the call itself is started when the callback
 * returns: a unary answer, its initial metadata and its status leave in one
 * batch.
 */
#include "common/rpc_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-event.h>
#include <utlist.h>

struct rpc_item {
	struct rpc_item *next;
	grpc_slice slice;
};

static void call_wake_up(struct rpc_call *call)
{
	if (!call->rests)
		return;
	call->rests = false;
	DL_DELETE2(call->rpc->resting, call, rest_prev, rest_next);
}

static void call_free(struct rpc_call *call)
{
	struct rpc_server *server = call->server;

	call_wake_up(call);
	rpc_queue_call_went(call->rpc, call->queue);
	if (call->prev)
		call->prev->next = call->next;
	else
		call->rpc->calls = call->next;
	if (call->next)
		call->next->prev = call->prev;
	grpc_call_unref(call->call);
	grpc_metadata_array_destroy(&call->initial);
	grpc_metadata_array_destroy(&call->trailing);
	grpc_slice_unref(call->end_text);
	if (call->received)
		grpc_byte_buffer_destroy(call->received);
	gpr_free(call->peer);
	if (call->booked)
		call->identity->open_calls--;
	rpc_identity_free(call->identity);
	free(call->finish_text);
	free(call);
	if (server)
		rpc_server_call_gone(server);
}

static void call_drop_queue(struct rpc_call *call)
{
	struct rpc_item *item;

	while ((item = call->first)) {
		call->first = item->next;
		grpc_slice_unref(item->slice);
		free(item);
	}
	call->last = NULL;
	call->backlog = call->sending;
}

static void call_close(struct rpc_call *call)
{
	_cleanup_free_ char *text = NULL;
	int status;

	if (call->server) {
		status = call->finish_done && !call->cancelled ? RPC_OK : RPC_CANCELLED;
	} else if (call->override_status) {
		status = call->override_status;
		text = strdup(call->override_text);
	} else {
		status = call->end_code;
		text = strndup((const char *)GRPC_SLICE_START_PTR(call->end_text),
			       GRPC_SLICE_LENGTH(call->end_text));
	}
	call_drop_queue(call);
	/* So that nothing starts in the last callback. */
	call->finishing = call->send_failed = true;
	call->busy++;
	if (call->ops.on_close)
		call->ops.on_close(call, status, text ?: "");
	call_free(call);
}

/* Nothing else would tell of the end. */
static void call_await_end(struct rpc_call *call)
{
	grpc_op op = { .op = GRPC_OP_RECV_STATUS_ON_CLIENT };

	if (call->end_awaited)
		return;
	call->end_awaited = true;
	if (call->server) {
		op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
		op.data.recv_close_on_server.cancelled = &call->end_cancelled;
	} else {
		op.data.recv_status_on_client.trailing_metadata = &call->trailing;
		op.data.recv_status_on_client.status = &call->end_code;
		op.data.recv_status_on_client.status_details = &call->end_text;
	}
	rpc_call_start_batch(call, &op, 1, &call->on_end);
}

/* A client reads to the end, or the status would not come. */
static bool call_reads_on(const struct rpc_call *call)
{
	return !call->server || (!call->end_received && !call->finishing && !call->cancelled);
}

/* The last thing that a completion does with the call. */
static void call_settle(struct rpc_call *call)
{
	if (call->busy)
		return;
	rpc_call_flush(call);
	if (!call->reading && !call->rests && !(call->held && call_reads_on(call)))
		call_await_end(call);
	if (call->in_flight || !call->end_received)
		return;
	if (!call->server && !call->read_ended)
		return;
	call_close(call);
}

void rpc_call_start_batch(struct rpc_call *call, const grpc_op *ops, size_t n, struct rpc_tag *tag)
{
	grpc_call_error error = grpc_call_start_batch(call->call, ops, n, tag, NULL);

	/* Anything else is a mistake of this file; a dead call fails later. */
	if (error != GRPC_CALL_OK)
		abort();
	call->in_flight++;
}

/* ---- sending ---------------------------------------------------------------- */

static bool call_may_send(const struct rpc_call *call)
{
	if (call->send_busy || call->send_failed || call->cancelled || call->finish_sent)
		return false;
	if (call->server && call->end_received)
		return false;
	return call->first || call->finishing;
}

static size_t add_message(struct rpc_call *call, grpc_op *op, grpc_byte_buffer **ret_buffer)
{
	struct rpc_item *item = call->first;

	if (!item)
		return 0;
	call->first = item->next;
	if (!call->first)
		call->last = NULL;
	call->sending = GRPC_SLICE_LENGTH(item->slice);
	*ret_buffer = grpc_raw_byte_buffer_create(&item->slice, 1);
	grpc_slice_unref(item->slice);
	free(item);
	op->op = GRPC_OP_SEND_MESSAGE;
	/* More follows: no need to hurry this one out. */
	op->flags = call->first ? GRPC_WRITE_BUFFER_HINT : 0;
	op->data.send_message.send_message = *ret_buffer;
	return 1;
}

static void add_finish(struct rpc_call *call, grpc_op *op, grpc_slice *text)
{
	call->finish_sent = true;
	if (!call->server) {
		op->op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
		return;
	}
	op->op = GRPC_OP_SEND_STATUS_FROM_SERVER;
	op->data.send_status_from_server.status = (grpc_status_code)call->finish_status;
	op->data.send_status_from_server.status_details = text;
}

void rpc_call_flush(struct rpc_call *call)
{
	grpc_byte_buffer *buffer = NULL;
	grpc_op ops[3] = { 0 };
	grpc_slice text;
	size_t n = 0;

	if (!call_may_send(call))
		return;
	text = grpc_slice_from_copied_string(call->finish_text ?: "");
	if (call->server && !call->init_sent) {
		ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
		call->init_sent = true;
	}
	n += add_message(call, &ops[n], &buffer);
	if (!call->first && call->finishing)
		add_finish(call, &ops[n++], &text);
	call->send_busy = true;
	rpc_call_start_batch(call, ops, n, &call->on_send);
	if (buffer)
		grpc_byte_buffer_destroy(buffer);
	grpc_slice_unref(text);
}

static void call_sent(struct rpc_tag *tag, bool ok)
{
	struct rpc_call *call = container_of(tag, struct rpc_call, on_send);
	bool message = call->sending > 0 || !call->finish_sent;

	call->in_flight--;
	call->send_busy = false;
	call->backlog -= call->sending;
	call->sending = 0;
	if (!ok) {
		call->send_failed = true;
		call_drop_queue(call);
	} else if (call->finish_sent) {
		call->finish_done = true;
	} else if (message && !call->first && !call->finishing && !call->cancelled &&
		   call->ops.on_drained) {
		call->busy++;
		call->ops.on_drained(call);
		call->busy--;
	}
	call_settle(call);
}

static int call_queue(struct rpc_call *call, grpc_slice slice)
{
	struct rpc_item *item;

	if (call->finishing || call->cancelled || call->send_failed || call->end_received) {
		grpc_slice_unref(slice);
		return -EPIPE;
	}
	item = malloc(sizeof(*item));
	if (!item) {
		grpc_slice_unref(slice);
		return -ENOMEM;
	}
	*item = (struct rpc_item){ .slice = slice };
	if (call->last)
		call->last->next = item;
	else
		call->first = item;
	call->last = item;
	call->backlog += GRPC_SLICE_LENGTH(slice);
	if (!call->busy)
		rpc_call_flush(call);
	return 0;
}

int rpc_call_send(struct rpc_call *call, const ProtobufCMessage *message)
{
	grpc_slice slice;
	int r;

	if (call->finishing || call->cancelled)
		return -EPIPE;
	r = rpc_encode(message, &slice);
	if (r < 0)
		return r;
	return call_queue(call, slice);
}

struct rpc_bytes *rpc_bytes_new(const ProtobufCMessage *message)
{
	_cleanup_free_ struct rpc_bytes *bytes = calloc(1, sizeof(*bytes));

	if (!bytes || rpc_encode(message, &bytes->slice) < 0)
		return NULL;
	return TAKE_PTR(bytes);
}

void rpc_bytes_free(struct rpc_bytes *bytes)
{
	if (!bytes)
		return;
	grpc_slice_unref(bytes->slice);
	free(bytes);
}

int rpc_call_send_bytes(struct rpc_call *call, const struct rpc_bytes *bytes)
{
	return call_queue(call, grpc_slice_ref(bytes->slice));
}

size_t rpc_call_backlog(const struct rpc_call *call)
{
	return call->backlog;
}

void rpc_call_finish(struct rpc_call *call, int status, const char *text, ...)
{
	va_list ap;

	if (call->finishing || call->cancelled)
		return;
	call->finishing = true;
	call->finish_status = status;
	if (call->server && text) {
		va_start(ap, text);
		if (vasprintf(&call->finish_text, text, ap) < 0)
			call->finish_text = NULL;
		va_end(ap);
	}
	if (call->server)
		call_await_end(call);
	if (!call->busy)
		rpc_call_flush(call);
}

void rpc_call_cancel(struct rpc_call *call)
{
	if (call->cancelled)
		return;
	call->cancelled = true;
	call_drop_queue(call);
	grpc_call_cancel_with_status(call->call, GRPC_STATUS_CANCELLED, "cancelled here", NULL);
	call_await_end(call);
}

/* ---- receiving -------------------------------------------------------------- */

static void call_read(struct rpc_call *call)
{
	grpc_op op = { .op = GRPC_OP_RECV_MESSAGE };

	op.data.recv_message.recv_message = &call->received;
	call->reading = true;
	rpc_call_start_batch(call, &op, 1, &call->on_recv);
}

/* Starting a read makes the library tell the peer how much it may send, a
 * system call that what follows from this message need not wait for. */
static void call_rest(struct rpc_call *call)
{
	call->rests = true;
	if (!call->rpc->resting)
		call->rpc->resting_ms = rpc_now_ms();
	DL_APPEND2(call->rpc->resting, call, rest_prev, rest_next);
	if (call->rpc->resume)
		sd_event_source_set_enabled(call->rpc->resume, SD_EVENT_ONESHOT);
}

void rpc_resume(struct rpc *rpc)
{
	while (rpc->resting) {
		struct rpc_call *call = rpc->resting;

		call_wake_up(call);
		if (call_reads_on(call))
			call_read(call);
		else
			call_await_end(call);
	}
}

void rpc_call_hold(struct rpc_call *call)
{
	call->held = true;
}

void rpc_call_read_on(struct rpc_call *call)
{
	if (!call->held)
		return;
	call->held = false;
	if (call_reads_on(call) && !call->busy)
		call_read(call);
	else if (call_reads_on(call))
		call_rest(call);
}

static void call_garbage(struct rpc_call *call, const char *why)
{
	if (call->server) {
		rpc_call_finish(call, RPC_INVALID_ARGUMENT, "the message is no %s: %s",
				call->incoming->name, why);
		return;
	}
	call->override_status = RPC_INTERNAL;
	call->override_text = why;
	rpc_call_cancel(call);
}

static void call_deliver(struct rpc_call *call, grpc_byte_buffer *buffer)
{
	const ProtobufCMessage *message;
	struct rpc_arena arena;
	const char *why;

	rpc_arena_init(&arena, call->rpc);
	message = rpc_decode(&arena, call->incoming, buffer, &why);
	grpc_byte_buffer_destroy(buffer);
	call->busy++;
	if (!message)
		call_garbage(call, why);
	else if (call->ops.on_message)
		call->ops.on_message(call, message);
	call->busy--;
	rpc_arena_deinit(&arena);
}

static void call_received(struct rpc_tag *tag, bool ok)
{
	struct rpc_call *call = container_of(tag, struct rpc_call, on_recv);
	grpc_byte_buffer *buffer = TAKE_PTR(call->received);
	/* Nobody waits for what comes after the answer, or from a call given up. */
	bool wanted = !call->cancelled && !(call->server && call->finishing);

	call->in_flight--;
	call->reading = false;
	if (!buffer) {
		call->read_ended = true;
		if (wanted && ok && call->server && !call->end_received && call->ops.on_message) {
			call->busy++;
			call->ops.on_message(call, NULL);
			call->busy--;
		}
		call_settle(call);
		return;
	}
	if (wanted)
		call_deliver(call, buffer);
	else
		grpc_byte_buffer_destroy(buffer);
	if (call_reads_on(call) && !call->held)
		call_rest(call);
	call_settle(call);
}

void rpc_call_start_reading(struct rpc_call *call)
{
	call_read(call);
}

/* ---- beginning and end ------------------------------------------------------ */

static void call_started(struct rpc_tag *tag, bool ok)
{
	struct rpc_call *call = container_of(tag, struct rpc_call, on_init);

	call->in_flight--;
	call_settle(call);
}

static void call_ended(struct rpc_tag *tag, bool ok)
{
	struct rpc_call *call = container_of(tag, struct rpc_call, on_end);

	call->in_flight--;
	call->end_received = true;
	if (call->server && call->end_cancelled)
		call_drop_queue(call);
	call_settle(call);
}

struct rpc_call *rpc_call_new(struct rpc *rpc, grpc_call *core, unsigned int queue)
{
	struct rpc_call *call = calloc(1, sizeof(*call));

	if (!call)
		return NULL;
	call->rpc = rpc;
	call->call = core;
	call->queue = queue;
	call->on_init.fn = call_started;
	call->on_send.fn = call_sent;
	call->on_recv.fn = call_received;
	call->on_end.fn = call_ended;
	call->end_text = grpc_empty_slice();
	grpc_metadata_array_init(&call->initial);
	grpc_metadata_array_init(&call->trailing);
	call->next = rpc->calls;
	if (call->next)
		call->next->prev = call;
	rpc->calls = call;
	rpc_queue_call_came(rpc, queue);
	return call;
}

void rpc_call_open_server(struct rpc_call *call, const struct rpc_method *method)
{
	if (!call->finishing) {
		call->ops = method->ops;
		call->incoming = method->request;
		call->userdata = method->userdata;
		if (method->on_open) {
			call->busy++;
			method->on_open(call);
			call->busy--;
		}
	}
	if (!call->finishing && !call->cancelled)
		call_read(call);
	rpc_call_flush(call);
}

/* ---- plain accessors -------------------------------------------------------- */

void *rpc_call_userdata(struct rpc_call *call)
{
	return call->userdata;
}

void rpc_call_set_userdata(struct rpc_call *call, void *userdata)
{
	call->userdata = userdata;
}

const char *rpc_call_peer(struct rpc_call *call)
{
	if (!call->peer)
		call->peer = grpc_call_get_peer(call->call);
	return call->peer;
}

const struct rpc_identity *rpc_call_identity(const struct rpc_call *call)
{
	return call->identity;
}
