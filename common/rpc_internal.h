/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Shared by rpc*.c only; see rpc.h for the model. */
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include "common/cleanup.h"
#include "common/rpc.h"
#include "common/rpc_tls.h"

/* Server calls that wait for a client at any time. */
#define RPC_ARMED_REQUESTS 512
/* Calls of one connection, and of one certificate, a second and at once; more are
 * refused unread. */
#define RPC_CALLS_PER_SECOND_MAX 5000
#define RPC_RATES		 1024 /* by hash of the peer */
/* A read is put off while there is other work, but not for longer. */
#define RPC_REST_MAX_MS 10
/* Network events that complete nothing, one after the other, that a turn of a loop
 * with other work takes. */
#define RPC_BUSY_LOOKS 32
/* Completions that one turn of a loop handles before others get theirs. */
#define RPC_TURN_MAX 64
/* What one decoded message may take: small elements grow by decoding. */
#define RPC_DECODE_MEMORY_MAX (64u << 20)
/* Open streams of one connection, and of one certificate on all of its connections:
 * less than what a server has for all of its clients. */
#define RPC_STREAMS_PER_CONNECTION_MAX 256
#define RPC_STREAMS_PER_IDENTITY_MAX   192
#define RPC_METADATA_MAX	       4 /* of one call from here */
#define RPC_CLIENT_KEEPALIVE_MS	       1000
#define RPC_PING_INTERVAL_MIN_MS       300
#define RPC_CONNECT_TIMEOUT_MS	       2000
#define RPC_WINDOW_BYTES	       (1024 * 1024)
#define RPC_READ_BYTES		       (32 * 1024)
/* TCP, TLS and HTTP/2 settings together: who takes longer is cut off. */
#define RPC_HANDSHAKE_TIMEOUT_MS 5000
/* Certificates that need not be read again: reading one takes longer than a call. */
#define RPC_KNOWN_MAX 1024
/* Certificates are looked at as often, so that a clock that was set counts. */
#define RPC_EXPIRY_LOOK_MS 60000
/* After the loop's other work of the turn. */
#define RPC_RESUME_PRIORITY 10
#define RPC_BACKOFF_MIN_MS  100
#define RPC_BACKOFF_MAX_MS  1000

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* Calls of one completion queue, and queues: rpc_queues.c. */
#define RPC_QUEUE_CALLS 1024
#define RPC_QUEUES_MAX	32
/* Who waits at one of several queues looks at the others as often. */
#define RPC_QUEUES_WAIT_MS 1

/* What a completion carries back. */
struct rpc_tag {
	void (*fn)(struct rpc_tag *tag, bool ok);
};

struct rpc_done {
	struct rpc_tag *tag;
	bool ok;
};

struct rpc_queue {
	grpc_completion_queue *cq;
	size_t n_calls;
};

struct rpc {
	struct rpc_queue queues[RPC_QUEUES_MAX];
	unsigned int n_queues; /* that exist: there is always the first */
	unsigned int queue_at;
	size_t n_calls;
	struct rpc_call *calls;
	struct rpc_call *resting; /* their next read is put off to the end of the turn */
	uint64_t resting_ms;	  /* the first since then */
	bool has_more;
	struct rpc_server *servers;
	struct rpc_known *known[RPC_KNOWN_MAX]; /* certificates, by hash */
	struct rpc_tls_held *held;		/* until gRPC has ended */
	rpc_known *known_message;
	void *known_userdata;
	/* One decoder chunk kept for the next message. */
	void *spare;

	grpc_channel *lame;
	atomic_bool woken;
	atomic_uint library; /* odd while rpc_poll() is in the library */

	/* rpc_new_on_event(): the mailbox between the queue thread and the loop. */
	struct sd_event *event;
	struct sd_event_source *source;
	struct sd_event_source *resume; /* at the latest then, the reads go on */
	pthread_t thread;
	int event_fd;
	pthread_mutex_t lock;
	struct rpc_done *inbox; /* under lock */
	size_t n_inbox, inbox_size;
	struct rpc_done *batch; /* the loop's own */
	size_t n_batch, batch_size, batch_at;
};

struct rpc_call {
	struct rpc *rpc;
	struct rpc_call *prev, *next;
	struct rpc_call *rest_prev, *rest_next;
	bool rests, held;
	unsigned int queue;
	bool booked;		   /* with its identity */
	struct rpc_server *server; /* NULL: a client's */
	grpc_call *call;
	struct rpc_call_ops ops;
	const ProtobufCMessageDescriptor *incoming;
	void *userdata;
	char *peer;
	struct rpc_identity *identity;

	struct rpc_tag on_init, on_send, on_recv, on_end;
	unsigned int in_flight;
	unsigned int busy; /* inside a callback of this call */

	struct rpc_item *first, *last;
	size_t backlog, sending;
	bool init_sent, send_busy, send_failed;
	bool finishing, finish_sent, finish_done;
	int finish_status;
	char *finish_text;

	grpc_byte_buffer *received;
	bool reading, read_ended;

	bool end_awaited, end_received, cancelled;
	int end_cancelled;	   /* server */
	grpc_status_code end_code; /* client */
	grpc_slice end_text;
	int override_status; /* client: what went wrong here, not there */
	const char *override_text;
	grpc_metadata_array initial, trailing;
};

struct rpc_method_set {
	const struct rpc_method *methods;
	size_t n;
};

struct rpc_request;
struct rpc_standard;

struct rpc_server {
	struct rpc *rpc;
	struct rpc_server *prev, *next;
	grpc_server *server;
	struct rpc_method_set *sets;
	size_t n_sets;
	struct rpc_unix_socket *sockets;
	struct rpc_standard *standard;
	size_t n_armed, n_calls;
	bool started, serving, stopping, notified, stopped;
	struct rpc_tag on_notify;
	uint64_t cancel_at_ms; /* 0: none */
	struct rpc_tls *tls;
	struct rpc_guard *guard;
	struct rpc_request *idle; /* slots to be armed when the queue is empty */
	struct rpc_rate rates[RPC_RATES];
	uint64_t flooded;
	uint64_t expiry_at_ms; /* the next look at the calls' certificates; 0: none */
	uint64_t expired;
	int (*authorize)(const struct rpc_call *call, const char *path, void *userdata,
			 char why[RPC_REFUSAL_MAX]);
	void *authorize_userdata;
	struct sd_event_source *timer;
	void (*on_stopped)(void *userdata);
	void *stopped_userdata;
};

struct rpc_bytes {
	grpc_slice slice;
};

uint64_t rpc_now_ms(void);

/* One turn of either kind of runtime, waiting until something happened. */
void rpc_run_once(struct rpc *rpc);

/* rpc_queues.c */
void rpc_queues_init(struct rpc *rpc);
/* For a call that is to come; its number is rpc_call_new()'s. */
unsigned int rpc_queue_pick(struct rpc *rpc);
void rpc_queue_call_came(struct rpc *rpc, unsigned int queue);
void rpc_queue_call_went(struct rpc *rpc, unsigned int queue);
/*
 * What completed until the deadline, RPC_TURN_MAX at most; how many. Each look at
 * the network takes one event of it, and most complete nothing (windows, parts of
 * messages), so who has work of its own looks `looks` times for nothing: else a busy
 * loop would hear one event a turn, and take its peers for silent.
 */
int rpc_queues_run(struct rpc *rpc, uint64_t deadline_ms, int looks);
/* With nothing in flight: what completes yet, and the end of all queues. */
void rpc_queues_end(struct rpc *rpc);

/* rpc_call.c */
struct rpc_call *rpc_call_new(struct rpc *rpc, grpc_call *core, unsigned int queue);
void rpc_call_start_batch(struct rpc_call *call, const grpc_op *ops, size_t n, struct rpc_tag *tag);
void rpc_call_start_reading(struct rpc_call *call);
/* Server: open the call for its handler, or refuse it when it is finishing. */
void rpc_call_open_server(struct rpc_call *call, const struct rpc_method *method);
void rpc_call_flush(struct rpc_call *call);

/* rpc_codec.c */
struct rpc_arena {
	ProtobufCAllocator allocator;
	struct rpc *rpc;
	struct rpc_chunk *chunk;
	size_t total;
};

void rpc_arena_init(struct rpc_arena *arena, struct rpc *rpc);
void rpc_arena_deinit(struct rpc_arena *arena);
/* NULL, and *ret_why, when the bytes are no message of that kind. */
const ProtobufCMessage *rpc_decode(struct rpc_arena *arena,
				   const ProtobufCMessageDescriptor *descriptor,
				   grpc_byte_buffer *buffer, const char **ret_why);
/* 0, -EMSGSIZE or -ENOMEM. */
int rpc_encode(const ProtobufCMessage *message, grpc_slice *ret_slice);

/* rpc_server.c */
void rpc_server_call_gone(struct rpc_server *server);
/* Slots that rest take new calls again. */
void rpc_server_arm(struct rpc_server *server);
void rpc_server_tick(struct rpc_server *server, uint64_t now_ms);
/* The deadline of the next tick; UINT64_MAX: none. */
uint64_t rpc_server_next_ms(const struct rpc_server *server);

/* rpc_guard.c */
struct rpc_guard;
/* Guards the sockets that listen on the port; *guard is made with the first. */
int rpc_guard_listen(struct rpc_guard **guard, int port);
/* On the thread that runs the loop. */
int rpc_guard_start(struct rpc_guard *guard, struct rpc *rpc);
/* Before the listeners go: their numbers may become others'. */
void rpc_guard_stop(struct rpc_guard *guard);
uint64_t rpc_guard_shut(const struct rpc_guard *guard);
uint64_t rpc_guard_cut(const struct rpc_guard *guard);
void rpc_guard_free(struct rpc_guard *guard);

/* rpc_flood.c: the guard's, and on its thread but for new and free. */
#define RPC_FLOOD_FILTER_MAX 192
struct rpc_flood;
struct sock_filter;
struct rpc_flood *rpc_flood_new(struct rpc *rpc);
void rpc_flood_free(struct rpc_flood *flood);
/* Looks at who keeps the loop from its work; true: the filter is another. */
bool rpc_flood_look(struct rpc_flood *flood, const uint16_t *ports, size_t n_ports);
/* Drops what banned addresses send; 0: nobody is banned. */
size_t rpc_flood_filter(const struct rpc_flood *flood, struct sock_filter *code);
/* Connections that were cut off. */
uint64_t rpc_flood_cut(const struct rpc_flood *flood);

/* rpc_tls.c */
/* Until rpc_tls_release(): gRPC may ask for a pair at any time. */
int rpc_tls_hold(struct rpc *rpc, struct rpc_tls *tls);
void rpc_tls_release(struct rpc *rpc);
grpc_server_credentials *rpc_tls_server_credentials(struct rpc_tls *tls);
/* NULL: there is no pair. */
grpc_channel_credentials *rpc_tls_channel_credentials(struct rpc_tls *tls, uint64_t *ret_version);
/* Is there a newer pair than that one? Looks about once a second. */
bool rpc_tls_is_newer(struct rpc_tls *tls, uint64_t version);
struct rpc_tls *rpc_tls_ref(struct rpc_tls *tls);
const char *rpc_tls_server_name(const struct rpc_tls *tls);
/* -ENOENT: the call came without TLS. */
int rpc_tls_identity(struct rpc *rpc, grpc_call *call, struct rpc_identity **ret_identity);
void rpc_identity_free(struct rpc_identity *identity);

/* rpc_standard.c */
void rpc_standard_free(struct rpc_standard *standard);
/* Serving changed: tell the watchers. */
void rpc_standard_notify(struct rpc_standard *standard);
/* The server stops: end the streams that are ours. */
void rpc_standard_stop(struct rpc_standard *standard);
