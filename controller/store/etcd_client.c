/* SPDX-License-Identifier: Apache-2.0 */
/*
 *	          turn                 logged in            asked
 *	WAITING ────────► LOGGING_IN ────────────► PROBING ───────► READY
 *	   ▲                   │                      │               │
 *	   └───────────────────┴──── a failure ───────┴───────────────┘
 *
 * The probe is a read that needs the cluster's agreement, so a member that is
 * cut off from the others is not taken for one that works. After a failure the
 * next member is tried, at once until each had its turn, then with a back-off
 * that doubles and jitters, so that many controllers do not come back at the
 * same moment.
 */
#include "controller/store/etcd_client.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium/randombytes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>

#include "common/cleanup.h"

#define BACKOFF_MIN_MS	  50
#define BACKOFF_MAX_MS	  1000
#define KEEPALIVE_MS	  10000	       /* etcd ends a connection that is probed too often */
#define MESSAGE_MAX	  (256u << 20) /* etcd is trusted: a watch that catches up */
#define FAILURES_MAX	  3	       /* of a member that answers, in a row */
#define NEVER		  UINT64_MAX
#define AUTHENTICATE_PATH "/etcdserverpb.Auth/Authenticate"
#define RANGE_PATH	  "/etcdserverpb.KV/Range"

enum client_state {
	CLIENT_WAITING,
	CLIENT_LOGGING_IN,
	CLIENT_PROBING,
	CLIENT_READY,
};

struct etcd_call {
	struct etcd_client *client; /* NULL: nobody waits any more */
	uint64_t generation;
	struct rpc_call *call;
	etcd_done *done;
	void *userdata;
	bool answered;
	TAILQ_ENTRY(etcd_call) link;
};

struct etcd_client {
	struct etcd_client_options options;
	char *endpoints; /* cut into pieces */
	const char *endpoint[ETCD_ENDPOINTS_MAX];
	size_t n_endpoints, at;
	char *user, *password_file, *token, *probe_key;
	struct rpc_channel *channel;
	enum client_state state;
	uint64_t generation; /* of the connection: what an older one says is no news */
	uint64_t retry_at_ms, moves;
	unsigned int failures, answered_failures;
	TAILQ_HEAD(, etcd_call) calls;
	char why[ETCD_WHY_MAX];
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static bool is_endpoint(const char *text)
{
	const char *colon = strrchr(text, ':');
	char *end;
	unsigned long port;

	if (!colon || colon == text || strchr(text, '/'))
		return false;
	port = strtoul(colon + 1, &end, 10);
	return colon[1] && !*end && port > 0 && port < 65536;
}

static int endpoints_parse(struct etcd_client *client, const char *text, char why[ETCD_WHY_MAX])
{
	char *rest, *piece;

	client->endpoints = strdup(text);
	if (!client->endpoints)
		return -ENOMEM;
	rest = client->endpoints;
	while ((piece = strsep(&rest, ","))) {
		if (!is_endpoint(piece)) {
			snprintf(
				why, ETCD_WHY_MAX,
				"\"%.64s\" is no member of etcd: write etcd:HOST:PORT[,HOST:PORT…]",
				piece);
			return -EINVAL;
		}
		if (client->n_endpoints == ETCD_ENDPOINTS_MAX) {
			snprintf(why, ETCD_WHY_MAX, "at most %d members of etcd can be named",
				 ETCD_ENDPOINTS_MAX);
			return -EINVAL;
		}
		client->endpoint[client->n_endpoints++] = piece;
	}
	/* Not all controllers at the same member. */
	client->at = randombytes_uniform((uint32_t)client->n_endpoints);
	return 0;
}

int etcd_client_new(const struct etcd_client_options *options, struct etcd_client **ret_client,
		    char why[ETCD_WHY_MAX])
{
	struct etcd_client *client = calloc(1, sizeof(*client));
	int r = -ENOMEM;

	snprintf(why, ETCD_WHY_MAX, "out of memory");
	if (!client)
		return r;
	TAILQ_INIT(&client->calls);
	client->options = *options;
	r = endpoints_parse(client, options->endpoints, why);
	client->probe_key = strdup(options->probe_key);
	if (!client->probe_key)
		r = -ENOMEM;
	if (r == 0 && options->user) {
		client->user = strdup(options->user);
		client->password_file = strdup(options->password_file ?: "");
		r = client->user && client->password_file ? 0 : -ENOMEM;
	}
	if (r < 0) {
		etcd_client_free(client);
		return r;
	}
	*ret_client = client;
	return 0;
}

static void token_forget(struct etcd_client *client)
{
	free(client->token);
	client->token = NULL;
}

void etcd_client_free(struct etcd_client *client)
{
	struct etcd_call *call;

	if (!client)
		return;
	while ((call = TAILQ_FIRST(&client->calls))) {
		TAILQ_REMOVE(&client->calls, call, link);
		call->client = NULL;
		rpc_call_cancel(call->call);
	}
	rpc_channel_free(client->channel);
	token_forget(client);
	free(client->probe_key);
	free(client->user);
	free(client->password_file);
	free(client->endpoints);
	free(client);
}

bool etcd_client_is_ready(const struct etcd_client *client)
{
	return client->state == CLIENT_READY;
}

const char *etcd_client_why(const struct etcd_client *client)
{
	return client->why;
}

const char *etcd_client_endpoint(const struct etcd_client *client)
{
	return client->endpoint[client->at];
}

uint64_t etcd_client_moves(const struct etcd_client *client)
{
	return client->moves;
}

/* ---- failures --------------------------------------------------------------------- */

static uint64_t backoff_ms(unsigned int failures)
{
	uint64_t ms = BACKOFF_MIN_MS;

	for (; failures > 1 && ms < BACKOFF_MAX_MS; failures--)
		ms *= 2;
	ms = ms < BACKOFF_MAX_MS ? ms : BACKOFF_MAX_MS;
	return ms / 2 + randombytes_uniform((uint32_t)ms / 2 + 1);
}

/* Everything of this connection is over; the next one comes from the turn. */
static void client_leave(struct etcd_client *client, bool to_next)
{
	struct etcd_call *call;
	bool was_ready = client->state == CLIENT_READY;

	client->state = CLIENT_WAITING;
	client->generation++;
	client->failures++;
	client->answered_failures = 0;
	if (to_next) {
		client->at = (client->at + 1) % client->n_endpoints;
		client->moves++;
	}
	client->retry_at_ms =
		now_ms() +
		(client->failures < client->n_endpoints ? 0 : backoff_ms(client->failures));
	TAILQ_FOREACH(call, &client->calls, link)
	{
		rpc_call_cancel(call->call);
	}
	rpc_channel_free(TAKE_PTR(client->channel));
	if (was_ready)
		client->options.on_gone(client->options.userdata);
}

void etcd_client_move(struct etcd_client *client, const char *why)
{
	if (client->state == CLIENT_WAITING)
		return;
	snprintf(client->why, sizeof(client->why), "etcd at %s: %s", etcd_client_endpoint(client),
		 why);
	client_leave(client, true);
}

static bool is_login_needed(int status, const char *text)
{
	return status == RPC_UNAUTHENTICATED || strstr(text, "invalid auth token") ||
	       strstr(text, "user name is empty");
}

/* What a failed call says of the member; the call's own user decides about it. */
static void client_judge(struct etcd_client *client, int status, const char *text)
{
	bool by_etcd = strncmp(text, "etcdserver:", strlen("etcdserver:")) == 0;

	if (status == RPC_OK) {
		client->answered_failures = 0;
		return;
	}
	if (is_login_needed(status, text)) {
		snprintf(client->why, sizeof(client->why), "etcd at %s: %s",
			 etcd_client_endpoint(client),
			 client->user ? text : "it wants a user: set etcd.user and password_file");
		token_forget(client);
		client_leave(client, false);
		return;
	}
	if (status != RPC_UNAVAILABLE && status != RPC_DEADLINE_EXCEEDED &&
	    status != RPC_CANCELLED && status != RPC_INTERNAL && status != RPC_UNKNOWN)
		return; /* an answer */
	if (!by_etcd || ++client->answered_failures >= FAILURES_MAX)
		etcd_client_move(client, text[0] ? text : rpc_status_name(status));
}

/* ---- calls ------------------------------------------------------------------------ */

static void call_finish(struct etcd_call *call, int status, const char *text,
			const ProtobufCMessage *answer)
{
	struct etcd_client *client = call->client;

	call->answered = true;
	if (!client)
		return;
	if (call->generation == client->generation)
		client_judge(client, status, text);
	call->done(call->userdata, status, text, answer);
}

static void call_message(struct rpc_call *rpc_call, const ProtobufCMessage *message)
{
	struct etcd_call *call = rpc_call_userdata(rpc_call);

	if (message && !call->answered)
		call_finish(call, RPC_OK, "", message);
}

static void call_close(struct rpc_call *rpc_call, int status, const char *text)
{
	struct etcd_call *call = rpc_call_userdata(rpc_call);
	struct etcd_client *client = call->client;

	if (client)
		TAILQ_REMOVE(&client->calls, call, link);
	if (!call->answered)
		call_finish(call, status ?: RPC_INTERNAL, text, NULL);
	free(call);
}

static size_t metadata_of(const struct etcd_client *client, struct rpc_metadata metadata[2])
{
	size_t n = 0;

	/* A member without a leader ends the stream instead of being silent. */
	metadata[n++] = (struct rpc_metadata){ "hasleader", "true" };
	if (client->token)
		metadata[n++] = (struct rpc_metadata){ "token", client->token };
	return n;
}

int etcd_client_call(struct etcd_client *client, const char *path, const ProtobufCMessage *request,
		     const ProtobufCMessageDescriptor *response, etcd_done *done, void *userdata)
{
	static const struct rpc_call_ops ops = { call_message, NULL, call_close };
	struct rpc_metadata metadata[2];
	size_t n = metadata_of(client, metadata);
	struct etcd_call *call;
	int r;

	if (!client->channel)
		return -ENOTCONN;
	call = calloc(1, sizeof(*call));
	if (!call)
		return -ENOMEM;
	call->client = client;
	call->generation = client->generation;
	call->done = done;
	call->userdata = userdata;
	r = rpc_channel_call_with(client->channel, path, response, &ops, ETCD_CALL_MS, metadata, n,
				  call, &call->call);
	if (r < 0) {
		free(call);
		return r;
	}
	TAILQ_INSERT_TAIL(&client->calls, call, link);
	r = rpc_call_send(call->call, request);
	if (r < 0)
		rpc_call_cancel(call->call); /* done says so */
	else
		rpc_call_finish(call->call, 0, "%s", "");
	return 0;
}

int etcd_client_stream(struct etcd_client *client, const char *path,
		       const ProtobufCMessageDescriptor *response, const struct rpc_call_ops *ops,
		       void *userdata, struct rpc_call **ret_call)
{
	struct rpc_metadata metadata[2];
	size_t n = metadata_of(client, metadata);

	if (!client->channel)
		return -ENOTCONN;
	return rpc_channel_call_with(client->channel, path, response, ops, 0, metadata, n, userdata,
				     ret_call);
}

/* ---- connecting ------------------------------------------------------------------- */

static void probed(void *userdata, int status, const char *text, const ProtobufCMessage *answer)
{
	struct etcd_client *client = userdata;

	if (client->state != CLIENT_PROBING)
		return;
	if (status != RPC_OK) {
		etcd_client_move(client, text);
		return;
	}
	client->state = CLIENT_READY;
	client->failures = 0;
	client->options.on_ready(client->options.userdata);
}

static int probe(struct etcd_client *client)
{
	Etcdserverpb__RangeRequest q = ETCDSERVERPB__RANGE_REQUEST__INIT;

	client->state = CLIENT_PROBING;
	q.key = (ProtobufCBinaryData){ strlen(client->probe_key), (uint8_t *)client->probe_key };
	q.limit = 1;
	return etcd_client_call(client, RANGE_PATH, &q.base,
				&etcdserverpb__range_response__descriptor, probed, client);
}

static void logged_in(void *userdata, int status, const char *text, const ProtobufCMessage *answer)
{
	const Etcdserverpb__AuthenticateResponse *a =
		(const Etcdserverpb__AuthenticateResponse *)answer;
	struct etcd_client *client = userdata;

	if (client->state != CLIENT_LOGGING_IN)
		return;
	if (status == RPC_OK)
		client->token = strdup(a->token);
	if (!client->token || probe(client) < 0)
		etcd_client_move(client, text[0] ? text : "out of memory");
}

static int password_read(const char *path, char password[ETCD_PASSWORD_MAX])
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, password, ETCD_PASSWORD_MAX - 1);
	if (n < 0)
		return -errno;
	password[n] = 0;
	password[strcspn(password, "\r\n")] = 0;
	return 0;
}

/* The file is read each time: a password may change. */
static int log_in(struct etcd_client *client)
{
	Etcdserverpb__AuthenticateRequest q = ETCDSERVERPB__AUTHENTICATE_REQUEST__INIT;
	char password[ETCD_PASSWORD_MAX];
	int r = password_read(client->password_file, password);

	if (r < 0) {
		snprintf(client->why, sizeof(client->why), "cannot read etcd.password_file %s: %s",
			 client->password_file, strerror(-r));
		return r;
	}
	client->state = CLIENT_LOGGING_IN;
	q.name = client->user;
	q.password = password;
	r = etcd_client_call(client, AUTHENTICATE_PATH, &q.base,
			     &etcdserverpb__authenticate_response__descriptor, logged_in, client);
	explicit_bzero(password, sizeof(password));
	return r;
}

static void client_connect(struct etcd_client *client)
{
	const struct rpc_channel_options options = { .target = etcd_client_endpoint(client),
						     .tls = client->options.tls,
						     .keepalive_ms = KEEPALIVE_MS,
						     .message_max = MESSAGE_MAX };
	int r = rpc_channel_new(client->options.rpc, &options, &client->channel);

	if (r == 0)
		r = client->user && !client->token ? log_in(client) : probe(client);
	if (r < 0) {
		if (!client->why[0])
			snprintf(client->why, sizeof(client->why), "etcd at %s: %s", options.target,
				 strerror(-r));
		client_leave(client, true);
	}
}

uint64_t etcd_client_turn(struct etcd_client *client, uint64_t now)
{
	if (client->state != CLIENT_WAITING)
		return NEVER;
	if (now >= client->retry_at_ms)
		client_connect(client);
	return client->state == CLIENT_WAITING ? client->retry_at_ms : NEVER;
}
