/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * DOC: gRPC over the C core, seen from one thread
 *
 * This is the only code that includes <grpc/...>. A runtime has a completion
 * queue, more of them for thousands of calls; every callback below runs on the
 * thread that owns the runtime, one at a time, so users need no locks:
 *
 *   rpc_new()           the owner calls rpc_poll() as its main loop (controller,
 *                       mcmeshctl)
 *   rpc_new_on_event()  a queue thread only moves completions into a mailbox;
 *                       they run from the owner's sd-event loop (agent)
 *
 * A call is the same object on both ends and for unary and streaming methods.
 * Messages are protobuf-c messages; sending serialises at once, so the caller
 * keeps ownership. on_close is the last callback of a call, comes exactly once
 * and never from inside rpc_call_*(); after it the call is freed.
 *
 * Writes are queued without a bound here: a sender with much to say looks at
 * rpc_call_backlog() and continues from on_drained.
 *
 * Errors: 0 or -errno. Statuses are gRPC's codes.
 */
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rpc;
struct rpc_server;
struct rpc_channel;
struct rpc_call;
struct rpc_tls;
struct rpc_identity;
struct sd_event;

enum rpc_status {
	RPC_OK = 0,
	RPC_CANCELLED = 1,
	RPC_UNKNOWN = 2,
	RPC_INVALID_ARGUMENT = 3,
	RPC_DEADLINE_EXCEEDED = 4,
	RPC_NOT_FOUND = 5,
	RPC_ALREADY_EXISTS = 6,
	RPC_PERMISSION_DENIED = 7,
	RPC_RESOURCE_EXHAUSTED = 8,
	RPC_FAILED_PRECONDITION = 9,
	RPC_ABORTED = 10,
	RPC_OUT_OF_RANGE = 11,
	RPC_UNIMPLEMENTED = 12,
	RPC_INTERNAL = 13,
	RPC_UNAVAILABLE = 14,
	RPC_DATA_LOSS = 15,
	RPC_UNAUTHENTICATED = 16,
};

const char *rpc_status_name(int status);

/* The largest message, either way: more is refused (-EMSGSIZE at the sender). */
#define RPC_MESSAGE_MAX (4u << 20)

/* ---- runtime ---------------------------------------------------------------- */

/* Block the signals that the program handles (for signalfd or sigwait) before
 * this: the library's threads take over the mask, also those it starts later. */

int rpc_new(struct rpc **ret_rpc);
int rpc_new_on_event(struct sd_event *event, struct rpc **ret_rpc);

/* After every server, channel and call of it is gone or was shut down; drains. */
void rpc_free(struct rpc *rpc);

/* Runs what completed, at most until deadline_ms of CLOCK_MONOTONIC
 * (0: what is there now). Only for rpc_new(). Returns when at least one
 * callback batch ran, the deadline passed, or rpc_wake() was called. */
int rpc_poll(struct rpc *rpc, uint64_t deadline_ms);

/* Did the last rpc_poll() end because it had run enough, so that more may have
 * come already? Who has something to say may want to hear that first. */
bool rpc_has_more(const struct rpc *rpc);

/*
 * Reads that were put off until the work of the turn is done go on: the next
 * message of a call comes after this. rpc_poll() comes to it when nothing else
 * has completed and its deadline is ahead (after 10 ms at the latest), the
 * sd-event loop when it has nothing else; a loop of that kind that may be busy
 * for long calls it at the end of its turn.
 */
void rpc_resume(struct rpc *rpc);

/* Makes rpc_poll() return; from any thread. Not for signal handlers. */
void rpc_wake(struct rpc *rpc);

/*
 * Asked before a message is decoded: the message that these bytes are, of the caller's
 * memory and as it is until the callback ends, or NULL. For who is told the same by many.
 */
typedef const ProtobufCMessage *rpc_known(const ProtobufCMessageDescriptor *descriptor,
					  const uint8_t *data, size_t len, void *userdata);
void rpc_set_known(struct rpc *rpc, rpc_known *fn, void *userdata);

/* Called for the library's own log lines; default: drop them. */
void rpc_set_log(void (*fn)(const char *line));

/* ---- calls ------------------------------------------------------------------ */

struct rpc_call_ops {
	/* NULL message: the peer half-closed (server side only). The message is
	 * freed after the callback. */
	void (*on_message)(struct rpc_call *call, const ProtobufCMessage *message);
	/* The write queue became empty. */
	void (*on_drained)(struct rpc_call *call);
	/* The end: client: the server's status; server: RPC_OK when the status was
	 * sent, RPC_CANCELLED when the peer went. text is "" or a sentence. */
	void (*on_close)(struct rpc_call *call, int status, const char *text);
};

void *rpc_call_userdata(struct rpc_call *call);
void rpc_call_set_userdata(struct rpc_call *call, void *userdata);

/* Queues one message. -EPIPE when the call is already finishing. */
int rpc_call_send(struct rpc_call *call, const ProtobufCMessage *message);

/* The same for many calls: serialise once, share the bytes. */
struct rpc_bytes;
struct rpc_bytes *rpc_bytes_new(const ProtobufCMessage *message);
void rpc_bytes_free(struct rpc_bytes *bytes);
int rpc_call_send_bytes(struct rpc_call *call, const struct rpc_bytes *bytes);

/*
 * From on_message: the next message is not wanted before rpc_call_read_on(); nor is the
 * peer's end heard of before that, or before the call is finished here. To read on
 * right after something was sent on the connection costs no system call of its own.
 */
void rpc_call_hold(struct rpc_call *call);
void rpc_call_read_on(struct rpc_call *call);

/* Bytes queued and not yet taken by the transport. */
size_t rpc_call_backlog(const struct rpc_call *call);

/* Server: sends the status after what is queued; client: half-closes (status
 * and text ignored). Later sends give -EPIPE. text is a printf format. */
void rpc_call_finish(struct rpc_call *call, int status, const char *text, ...)
	__attribute__((format(printf, 3, 4)));

/* Ends the call now, without what is queued; on_close still comes. */
void rpc_call_cancel(struct rpc_call *call);

/* "ipv4:203.0.113.1:41234", "unix:". */
const char *rpc_call_peer(struct rpc_call *call);

/* Server: whose certificate the call came with (rpc_tls.h); NULL: without TLS. */
const struct rpc_identity *rpc_call_identity(const struct rpc_call *call);

/* ---- server ----------------------------------------------------------------- */

struct rpc_method {
	const char *path; /* "/mcmesh.v1.MeshService/ListNodes" */
	const ProtobufCMessageDescriptor *request;
	const ProtobufCMessageDescriptor *response;
	struct rpc_call_ops ops;
	/* The call arrived; may set its userdata. userdata of the method is the
	 * call's until then. May be NULL. */
	void (*on_open)(struct rpc_call *call);
	void *userdata;
};

#define RPC_REFUSAL_MAX 512

struct rpc_server_options {
	const char *const *listen; /* "203.0.113.254:7400", "unix:/run/x.sock"; NULL-terminated */
	/* Clients must have a certificate; a call ends with its certificate. Unix
	 * sockets stay plaintext. NULL: plaintext. Needs rpc_new(). */
	struct rpc_tls *tls;
	/* Whether the call may be: RPC_OK, or a status and why. Comes before on_open;
	 * NULL: all may. */
	int (*authorize)(const struct rpc_call *call, const char *path, void *userdata,
			 char why[RPC_REFUSAL_MAX]);
	void *userdata;
	/* Ports that were bound, for listen ":0"; may be NULL. */
	int *ret_ports;
};

int rpc_server_new(struct rpc *rpc, const struct rpc_server_options *options,
		   struct rpc_server **ret_server);

/* Before rpc_server_start(). The array must outlive the server. */
void rpc_server_add(struct rpc_server *server, const struct rpc_method *methods, size_t n);

/* grpc.health.v1 and server reflection. `descriptors` is a serialised
 * FileDescriptorSet with imports, kept by reference; may be NULL. */
void rpc_server_add_standard(struct rpc_server *server, const uint8_t *descriptors, size_t len);
void rpc_server_set_serving(struct rpc_server *server, bool serving);

int rpc_server_start(struct rpc_server *server);

struct rpc_server_counters {
	uint64_t expired; /* calls refused or ended because their certificate was over */
	uint64_t shut;	  /* how often new connections had to wait: nearly no descriptors left */
	uint64_t flooded; /* calls refused: too many of one connection or certificate */
	uint64_t cut;	  /* connections ended: they left the loop no time for others */
};

struct rpc_server_counters rpc_server_counters(const struct rpc_server *server);

/* A listener of this process ended on an error that the library does not survive:
 * no new connections come any more. */
bool rpc_listener_lost(void);

/* NOT_SERVING, no new calls; on_stopped once every call has ended. Calls still
 * open after grace_ms are cancelled. */
void rpc_server_shutdown(struct rpc_server *server, uint64_t grace_ms,
			 void (*on_stopped)(void *userdata), void *userdata);
void rpc_server_free(struct rpc_server *server);

/* ---- client ----------------------------------------------------------------- */

#define RPC_KEEPALIVE_NEVER INT32_MAX

struct rpc_channel_options {
	const char *target; /* "203.0.113.254:7400", "unix:/run/x.sock" */
	/* NULL: plaintext, as always for unix:. -ENOKEY: it has no pair (rpc_tls_why()). */
	struct rpc_tls *tls;
	/* How long the peer may be silent before it is probed; 0: the default, which
	 * servers of others may find too often; RPC_KEEPALIVE_NEVER: it is not. And then
	 * before it is left. */
	uint32_t keepalive_ms, keepalive_wait_ms;
	uint32_t message_max; /* what may arrive; 0: RPC_MESSAGE_MAX */
};

int rpc_channel_new(struct rpc *rpc, const struct rpc_channel_options *options,
		    struct rpc_channel **ret_channel);
void rpc_channel_free(struct rpc_channel *channel);

/* deadline_ms: relative; 0: none. `response` describes what arrives. */
int rpc_channel_call(struct rpc_channel *channel, const char *path,
		     const ProtobufCMessageDescriptor *response, const struct rpc_call_ops *ops,
		     uint64_t deadline_ms, void *userdata, struct rpc_call **ret_call);

/* The same with metadata: keys in lower case. */
struct rpc_metadata {
	const char *key, *value;
};

int rpc_channel_call_with(struct rpc_channel *channel, const char *path,
			  const ProtobufCMessageDescriptor *response,
			  const struct rpc_call_ops *ops, uint64_t deadline_ms,
			  const struct rpc_metadata *metadata, size_t n_metadata, void *userdata,
			  struct rpc_call **ret_call);
