/* SPDX-License-Identifier: Apache-2.0 */
#include "common/rpc.h"

#include <errno.h>
#include <fcntl.h>
#include <grpc/support/log.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-event.h>
#include <time.h>

#include "common/rpc_internal.h"

/* A slot that waits for the next call. */
struct rpc_request {
	struct rpc_tag tag;
	struct rpc_request *next; /* idle */
	struct rpc_server *server;
	grpc_call *call;
	grpc_call_details details;
	grpc_metadata_array metadata;
	unsigned int queue; /* the call's */
};

/* ---- unix sockets ----------------------------------------------------------- */

/* Held as long as the socket: the library would steal a live server's path. */
struct rpc_unix_socket {
	struct rpc_unix_socket *next;
	int lock_fd;
	char lock_path[];
};

static const char *unix_path(const char *listen)
{
	if (strncmp(listen, "unix:", 5) != 0)
		return NULL;
	listen += 5;
	return strncmp(listen, "//", 2) == 0 ? listen + 2 : listen;
}

/* The file may be removed between open and lock by the one that held it. */
static int lock_file(const char *path, int *ret_fd)
{
	for (int i = 0; i < 100; i++) {
		_cleanup_close_ int fd =
			open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		struct stat held, named;

		if (fd < 0)
			return -errno;
		if (flock(fd, LOCK_EX | LOCK_NB) < 0)
			return errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
		if (fstat(fd, &held) == 0 && stat(path, &named) == 0 &&
		    held.st_ino == named.st_ino && held.st_dev == named.st_dev) {
			*ret_fd = TAKE_FD(fd);
			return 0;
		}
	}
	return -EADDRINUSE;
}

static int make_parent(const char *path)
{
	_cleanup_free_ char *dir = strdup(path);
	char *slash;

	if (!dir)
		return -ENOMEM;
	slash = strrchr(dir, '/');
	if (!slash || slash == dir)
		return 0;
	*slash = '\0';
	if (mkdir(dir, 0750) < 0 && errno != EEXIST)
		return -errno;
	return 0;
}

static int unix_prepare(struct rpc_server *server, const char *path)
{
	_cleanup_free_ struct rpc_unix_socket *s = NULL;
	struct stat st;
	size_t size;
	int r;

	if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return -ENAMETOOLONG;
	r = make_parent(path);
	if (r < 0)
		return r;
	size = strlen(path) + sizeof(".lock");
	s = malloc(sizeof(*s) + size);
	if (!s)
		return -ENOMEM;
	snprintf(s->lock_path, size, "%s.lock", path);
	r = lock_file(s->lock_path, &s->lock_fd);
	if (r < 0)
		return r;
	s->next = server->sockets;
	server->sockets = TAKE_PTR(s);
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	/* We hold the lock: whoever made this socket is dead. */
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	return unlink(path) < 0 ? -errno : 0;
}

static void unix_release(struct rpc_server *server)
{
	struct rpc_unix_socket *s;

	while ((s = server->sockets)) {
		server->sockets = s->next;
		unlink(s->lock_path);
		close(s->lock_fd);
		free(s);
	}
}

/* The library takes the number modulo 65536. */
static bool has_port(const char *listen)
{
	const char *colon = strrchr(listen, ':');
	char *end;

	return colon && colon[1] >= '0' && colon[1] <= '9' &&
	       strtoul(colon + 1, &end, 10) <= UINT16_MAX && !*end;
}

static int server_listen(struct rpc_server *server, const char *listen, int *ret_port)
{
	grpc_server_credentials *credentials;
	const char *path = unix_path(listen);
	mode_t mask = 0;
	int port, r;

	if (!path && !has_port(listen))
		return -EINVAL;
	if (path) {
		r = unix_prepare(server, path);
		if (r < 0)
			return r;
		mask = umask(0117); /* the socket is 0660 from its first moment */
	}
	credentials = server->tls && !path ? rpc_tls_server_credentials(server->tls)
					   : grpc_insecure_server_credentials_create();
	if (!credentials)
		return -ENOMEM;
	port = grpc_server_add_http2_port(server->server, listen, credentials);
	grpc_server_credentials_release(credentials);
	if (path)
		umask(mask);
	if (port == 0)
		return -EADDRINUSE;
	*ret_port = port;
	return path ? 0 : rpc_guard_listen(&server->guard, port);
}

/* ---- calls ------------------------------------------------------------------ */

static const struct rpc_method *server_method(const struct rpc_server *server, grpc_slice path)
{
	size_t len = GRPC_SLICE_LENGTH(path);

	for (size_t i = 0; i < server->n_sets; i++)
		for (size_t k = 0; k < server->sets[i].n; k++) {
			const struct rpc_method *m = &server->sets[i].methods[k];

			if (strlen(m->path) == len &&
			    memcmp(m->path, GRPC_SLICE_START_PTR(path), len) == 0)
				return m;
		}
	return NULL;
}

/* ---- whose call it is -------------------------------------------------------- */

static bool expires_first(uint64_t at_ms, uint64_t other_ms)
{
	return !other_ms || at_ms < other_ms;
}

/* Ends the call when its certificate is over; else when to look again. */
static void call_check_expiry(struct rpc_server *server, struct rpc_call *call, uint64_t now_ms,
			      uint64_t *next_ms)
{
	int64_t left_s = call->identity->not_after_s - (int64_t)time(NULL);
	uint64_t look_ms = RPC_EXPIRY_LOOK_MS;

	if (left_s < 0) {
		server->expired++;
		rpc_call_finish(call, RPC_UNAUTHENTICATED,
				"the certificate of %s has expired: connect with a new one",
				call->identity->subject ?: "the caller");
		return;
	}
	if ((uint64_t)(left_s + 1) * 1000 < look_ms)
		look_ms = (uint64_t)(left_s + 1) * 1000;
	if (expires_first(now_ms + look_ms, *next_ms))
		*next_ms = now_ms + look_ms;
}

static void server_check_expiry(struct rpc_server *server, uint64_t now_ms)
{
	uint64_t next_ms = 0;

	for (struct rpc_call *call = server->rpc->calls; call; call = call->next)
		if (call->server == server && call->identity && !call->finishing)
			call_check_expiry(server, call, now_ms, &next_ms);
	server->expiry_at_ms = next_ms;
}

static bool rate_take(struct rpc_rate *rate)
{
	uint64_t now_ms = rpc_now_ms(), more;

	more = rate->tokens + (now_ms - rate->at_ms) * RPC_CALLS_PER_SECOND_MAX / 1000;
	if (more != rate->tokens)
		rate->at_ms = now_ms;
	rate->tokens = more < RPC_CALLS_PER_SECOND_MAX ? (uint32_t)more : RPC_CALLS_PER_SECOND_MAX;
	if (!rate->tokens)
		return false;
	rate->tokens--;
	return true;
}

/* Of each connection; who shares a hash shares it. */
static bool connection_allows(struct rpc_server *server, grpc_call *core)
{
	char *peer = grpc_call_get_peer(core);
	uint32_t hash = 0;

	for (const char *p = peer; *p; p++)
		hash = hash * 31 + (uint8_t)*p;
	gpr_free(peer);
	return rate_take(&server->rates[hash % RPC_RATES]);
}

/* Of each certificate, however many connections it has. */
static bool identity_allows(struct rpc_server *server, struct rpc_call *call)
{
	struct rpc_identity *identity = call->identity;
	const char *who = identity->subject ?: "the caller";

	if (identity->open_calls >= RPC_STREAMS_PER_IDENTITY_MAX)
		rpc_call_finish(call, RPC_RESOURCE_EXHAUSTED,
				"the certificate of %s has %u calls open, which is all it may", who,
				identity->open_calls);
	else if (!rate_take(&identity->rate))
		rpc_call_finish(call, RPC_RESOURCE_EXHAUSTED,
				"the certificate of %s makes more than %u calls a second", who,
				RPC_CALLS_PER_SECOND_MAX);
	if (call->finishing) {
		server->flooded++;
		return false;
	}
	identity->open_calls++;
	call->booked = true;
	return true;
}

static void call_authorize(struct rpc_server *server, struct rpc_call *call, const char *path)
{
	char why[RPC_REFUSAL_MAX] = "";
	int r, status;

	r = server->tls ? rpc_tls_identity(server->rpc, call->call, &call->identity) : -ENOENT;
	if (r < 0 && r != -ENOENT) {
		rpc_call_finish(call, RPC_UNAUTHENTICATED, "the certificate cannot be read");
		return;
	}
	if (call->identity) {
		call_check_expiry(server, call, rpc_now_ms(), &server->expiry_at_ms);
		if (call->finishing || !identity_allows(server, call))
			return;
	}
	if (!server->authorize)
		return;
	status = server->authorize(call, path, server->authorize_userdata, why);
	if (status != RPC_OK)
		rpc_call_finish(call, status, "%s", why);
}

static void request_arm(struct rpc_request *request);

static void request_free(struct rpc_request *request)
{
	grpc_call_details_destroy(&request->details);
	grpc_metadata_array_destroy(&request->metadata);
	free(request);
}

static void call_drop(grpc_call *core, const char *why)
{
	grpc_call_cancel_with_status(core, GRPC_STATUS_RESOURCE_EXHAUSTED, why, NULL);
	grpc_call_unref(core);
}

static void server_accept(struct rpc_server *server, struct rpc_request *request)
{
	const struct rpc_method *method = server_method(server, request->details.method);
	struct rpc_call *call = rpc_call_new(server->rpc, request->call, request->queue);

	if (!call) {
		call_drop(request->call, "the server is out of memory");
		return;
	}
	call->server = server;
	server->n_calls++;
	call->busy++;
	if (!method)
		rpc_call_finish(call, RPC_UNIMPLEMENTED, "there is no method %.*s here",
				(int)GRPC_SLICE_LENGTH(request->details.method),
				(const char *)GRPC_SLICE_START_PTR(request->details.method));
	else if (server->stopping)
		rpc_call_finish(call, RPC_UNAVAILABLE, "the server stops: try another, or later");
	else
		call_authorize(server, call, method->path);
	call->busy--;
	rpc_call_open_server(call, method);
}

static void server_check_stopped(struct rpc_server *server)
{
	void (*on_stopped)(void *userdata) = server->on_stopped;

	if (!server->notified || server->n_armed || server->n_calls || server->stopped)
		return;
	server->stopped = true;
	server->cancel_at_ms = 0;
	server->timer = sd_event_source_disable_unref(server->timer);
	/* Last: the callee may free the server. */
	server->on_stopped = NULL;
	if (on_stopped)
		on_stopped(server->stopped_userdata);
}

static void request_arrived(struct rpc_tag *tag, bool ok)
{
	struct rpc_request *request = container_of(tag, struct rpc_request, tag);
	struct rpc_server *server = request->server;

	server->n_armed--;
	if (!ok) {
		request_free(request);
		server_check_stopped(server);
		return;
	}
	if (connection_allows(server, request->call)) {
		server_accept(server, request);
	} else {
		server->flooded++;
		call_drop(request->call, "too many calls a second on one connection");
	}
	grpc_call_details_destroy(&request->details);
	grpc_metadata_array_destroy(&request->metadata);
	if (server->rpc->event) {
		request_arm(request);
		return;
	}
	request->next = server->idle;
	server->idle = request;
}

void rpc_server_arm(struct rpc_server *server)
{
	struct rpc_request *request;

	while ((request = server->idle)) {
		server->idle = request->next;
		request_arm(request);
	}
}

/* Consumes the request when the server takes no more. */
static void request_arm(struct rpc_request *request)
{
	struct rpc_server *server = request->server;
	struct rpc *rpc = server->rpc;

	grpc_call_details_init(&request->details);
	grpc_metadata_array_init(&request->metadata);
	request->tag.fn = request_arrived;
	request->queue = rpc_queue_pick(rpc);
	if (server->stopping ||
	    grpc_server_request_call(server->server, &request->call, &request->details,
				     &request->metadata, rpc->queues[request->queue].cq,
				     rpc->queues[0].cq, &request->tag) != GRPC_CALL_OK) {
		request_free(request);
		return;
	}
	server->n_armed++;
}

void rpc_server_call_gone(struct rpc_server *server)
{
	server->n_calls--;
	server_check_stopped(server);
}

/* ---- life ------------------------------------------------------------------- */

#define ARG_INT(name, number)                                                              \
	(grpc_arg)                                                                         \
	{                                                                                  \
		.type = GRPC_ARG_INTEGER, .key = (char *)(name), .value.integer = (number) \
	}

static grpc_server *server_create(void)
{
	grpc_arg list[] = {
		ARG_INT(GRPC_ARG_ALLOW_REUSEPORT, 0),
		ARG_INT(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, RPC_MESSAGE_MAX),
		/* Books that nobody reads. */
		ARG_INT(GRPC_ARG_ENABLE_CHANNELZ, 0),
		/* A probe and a window update a message cost more than the small
		 * messages themselves. */
		ARG_INT(GRPC_ARG_HTTP2_BDP_PROBE, 0),
		ARG_INT(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, RPC_WINDOW_BYTES),
		ARG_INT(GRPC_ARG_MAX_CONCURRENT_STREAMS, RPC_STREAMS_PER_CONNECTION_MAX),
		ARG_INT(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
			RPC_PING_INTERVAL_MIN_MS),
		ARG_INT(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0),
		ARG_INT(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
		/* rpc_guard.c has another. */
		ARG_INT(GRPC_ARG_KEEPALIVE_TIME_MS, RPC_KEEPALIVE_NEVER),
		ARG_INT(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, RPC_HANDSHAKE_TIMEOUT_MS),
		/* What one connection has sent is worked off before others' turn. */
		ARG_INT(GRPC_ARG_TCP_MAX_READ_CHUNK_SIZE, RPC_READ_BYTES),
	};
	grpc_channel_args args = { ARRAY_SIZE(list), list };

	return grpc_server_create(&args, NULL);
}

static void server_notified(struct rpc_tag *tag, bool ok)
{
	struct rpc_server *server = container_of(tag, struct rpc_server, on_notify);

	server->notified = true;
	server_check_stopped(server);
}

int rpc_server_new(struct rpc *rpc, const struct rpc_server_options *options,
		   struct rpc_server **ret_server)
{
	struct rpc_server *server;
	int port, r;

	if (options->tls && rpc->event)
		return -EOPNOTSUPP;
	if (options->tls && rpc_tls_hold(rpc, options->tls) < 0)
		return -ENOMEM;
	server = calloc(1, sizeof(*server));
	if (!server)
		return -ENOMEM;
	server->rpc = rpc;
	server->tls = options->tls;
	/* Failed handshakes are counted from what it says: core_log(). */
	gpr_set_log_verbosity(GPR_LOG_SEVERITY_DEBUG);
	server->authorize = options->authorize;
	server->authorize_userdata = options->userdata;
	server->serving = true;
	server->on_notify.fn = server_notified;
	server->server = server_create();
	grpc_server_register_completion_queue(server->server, rpc->queues[0].cq, NULL);
	server->next = rpc->servers;
	if (server->next)
		server->next->prev = server;
	rpc->servers = server;
	for (size_t i = 0; options->listen && options->listen[i]; i++) {
		r = server_listen(server, options->listen[i], &port);
		if (r < 0) {
			rpc_server_free(server);
			return r;
		}
		if (options->ret_ports)
			options->ret_ports[i] = port;
	}
	*ret_server = server;
	return 0;
}

void rpc_server_add(struct rpc_server *server, const struct rpc_method *methods, size_t n)
{
	struct rpc_method_set *sets =
		reallocarray(server->sets, server->n_sets + 1, sizeof(*server->sets));

	if (!sets)
		abort(); /* a server without its methods would be a lie */
	sets[server->n_sets++] = (struct rpc_method_set){ methods, n };
	server->sets = sets;
}

void rpc_server_set_serving(struct rpc_server *server, bool serving)
{
	if (server->serving == serving || server->stopping)
		return;
	server->serving = serving;
	if (server->standard)
		rpc_standard_notify(server->standard);
}

int rpc_server_start(struct rpc_server *server)
{
	int r = rpc_guard_start(server->guard, server->rpc);

	if (r < 0)
		return r;
	grpc_server_start(server->server);
	server->started = true;
	for (int i = 0; i < RPC_ARMED_REQUESTS; i++) {
		struct rpc_request *request = calloc(1, sizeof(*request));

		if (!request)
			return i ? 0 : -ENOMEM;
		request->server = server;
		request_arm(request);
	}
	return 0;
}

static int on_grace_over(sd_event_source *source, uint64_t usec, void *userdata)
{
	rpc_server_tick(userdata, rpc_now_ms());
	return 0;
}

void rpc_server_tick(struct rpc_server *server, uint64_t now_ms)
{
	if (server->expiry_at_ms && now_ms >= server->expiry_at_ms)
		server_check_expiry(server, now_ms);
	if (!server->cancel_at_ms || now_ms < server->cancel_at_ms)
		return;
	server->cancel_at_ms = 0;
	grpc_server_cancel_all_calls(server->server);
}

uint64_t rpc_server_next_ms(const struct rpc_server *server)
{
	uint64_t next_ms = UINT64_MAX;

	if (server->cancel_at_ms)
		next_ms = server->cancel_at_ms;
	if (server->expiry_at_ms && server->expiry_at_ms < next_ms)
		next_ms = server->expiry_at_ms;
	return next_ms;
}

struct rpc_server_counters rpc_server_counters(const struct rpc_server *server)
{
	return (struct rpc_server_counters){ server->expired, rpc_guard_shut(server->guard),
					     server->flooded, rpc_guard_cut(server->guard) };
}

static void server_cancel_in(struct rpc_server *server, uint64_t grace_ms)
{
	server->cancel_at_ms = rpc_now_ms() + grace_ms;
	if (grace_ms == 0) {
		rpc_server_tick(server, server->cancel_at_ms);
		return;
	}
	if (!server->rpc->event)
		return; /* rpc_poll() looks at cancel_at_ms */
	server->timer = sd_event_source_disable_unref(server->timer);
	if (sd_event_add_time(server->rpc->event, &server->timer, CLOCK_MONOTONIC,
			      (server->cancel_at_ms + 1) * 1000, 1000, on_grace_over, server) < 0)
		rpc_server_tick(server, server->cancel_at_ms);
}

void rpc_server_shutdown(struct rpc_server *server, uint64_t grace_ms,
			 void (*on_stopped)(void *userdata), void *userdata)
{
	server->on_stopped = on_stopped;
	server->stopped_userdata = userdata;
	if (!server->stopping) {
		server->serving = false;
		server->stopping = true;
		rpc_guard_stop(server->guard);
		if (server->standard) {
			rpc_standard_notify(server->standard);
			rpc_standard_stop(server->standard);
		}
		grpc_server_shutdown_and_notify(server->server, server->rpc->queues[0].cq,
						&server->on_notify);
	}
	server_cancel_in(server, grace_ms);
}

void rpc_server_free(struct rpc_server *server)
{
	if (!server)
		return;
	if (!server->stopped) {
		rpc_server_shutdown(server, 0, NULL, NULL);
		while (!server->stopped)
			rpc_run_once(server->rpc);
	}
	if (server->prev)
		server->prev->next = server->next;
	else
		server->rpc->servers = server->next;
	if (server->next)
		server->next->prev = server->prev;
	grpc_server_destroy(server->server);
	unix_release(server);
	rpc_standard_free(server->standard);
	rpc_guard_free(server->guard);
	rpc_server_arm(server); /* a server that stops frees them */
	free(server->sets);
	free(server);
}
