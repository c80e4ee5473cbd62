/* SPDX-License-Identifier: Apache-2.0 */

/* Client and server in one process, once as a main loop, once beside sd-event. */
#include "common/rpc.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <grpc/health/v1/health.pb-c.h>
#include <grpc/reflection/v1alpha/reflection.pb-c.h>
#include <mcmesh/v1/agent.pb-c.h>
#include <mcmesh/v1/node.pb-c.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <systemd/sd-event.h>
#include <time.h>
#include <unistd.h>

#define WAIT_MS 20000

extern const uint8_t _binary_mcmesh_pb_start[], _binary_mcmesh_pb_end[];

struct fixture {
	struct sd_event *event;
	struct rpc *rpc;
	struct rpc_server *server;
	struct rpc_channel *channel;
	int port;
	char target[64];
	/* what the server saw */
	struct rpc_call *held;
	int opened, half_closed, server_closed, server_status, drained;
	uint64_t server_messages;
	bool stopped;
};

struct result {
	int closed, status, messages, drained;
	uint64_t next;
	char text[200];
};

static struct fixture f;

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void turn(void)
{
	if (f.event)
		cr_assert_geq(sd_event_run(f.event, 100000), 0);
	else
		cr_assert_eq(rpc_poll(f.rpc, now_ms() + 100), 0);
}

#define until(condition)                                                       \
	do {                                                                   \
		uint64_t _end = now_ms() + WAIT_MS;                            \
		while (!(condition)) {                                         \
			cr_assert_lt(now_ms(), _end, "never: %s", #condition); \
			turn();                                                \
		}                                                              \
	} while (0)

/* ---- the server's methods --------------------------------------------------- */

static void server_closed(struct rpc_call *call, int status, const char *text)
{
	f.server_closed++;
	f.server_status = status;
	if (f.held == call)
		f.held = NULL;
}

static void status_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	Mcmesh__V1__GetStatusResponse r = MCMESH__V1__GET_STATUS_RESPONSE__INIT;

	if (!message)
		return;
	r.node = (char *)"n1";
	r.revision = UINT64_MAX;
	cr_assert_eq(rpc_call_send(call, &r.base), 0);
	rpc_call_finish(call, RPC_OK, NULL);
	cr_assert_eq(rpc_call_send(call, &r.base), -EPIPE);
	cr_assert_eq(f.server_closed, 0, "on_close from inside rpc_call_finish()");
}

static void echo_open(struct rpc_call *call)
{
	f.opened++;
	f.held = call;
}

static void echo_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__AgentMessage *in = (const void *)message;
	Mcmesh__V1__ControllerMessage out = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
	Mcmesh__V1__Accepted accepted = MCMESH__V1__ACCEPTED__INIT;

	if (!in) {
		f.half_closed++;
		rpc_call_finish(call, RPC_OK, NULL);
		return;
	}
	f.server_messages++;
	out.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_ACCEPTED;
	out.accepted = &accepted;
	accepted.sequence = in->report ? in->report->sequence : 0;
	cr_assert_eq(rpc_call_send(call, &out.base), 0);
}

static void hold_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	if (!message)
		f.half_closed++;
}

static void hold_drained(struct rpc_call *call)
{
	f.drained++;
}

static void refuse_open(struct rpc_call *call)
{
	rpc_call_finish(call, RPC_FAILED_PRECONDITION, "no %s", "wine");
}

static const struct rpc_method methods[] = {
	{ .path = "/mcmesh.v1.AgentService/GetStatus",
	  .request = &mcmesh__v1__get_status_request__descriptor,
	  .response = &mcmesh__v1__get_status_response__descriptor,
	  .ops = { .on_message = status_message, .on_close = server_closed } },
	{ .path = "/mcmesh.v1.NodeService/Sync",
	  .request = &mcmesh__v1__agent_message__descriptor,
	  .response = &mcmesh__v1__controller_message__descriptor,
	  .ops = { .on_message = echo_message, .on_close = server_closed },
	  .on_open = echo_open },
	{ .path = "/mcmesh.v1.AgentService/Watch",
	  .request = &mcmesh__v1__explain_request__descriptor,
	  .response = &mcmesh__v1__agent_watch_response__descriptor,
	  .ops = { .on_message = hold_message,
		   .on_drained = hold_drained,
		   .on_close = server_closed },
	  .on_open = echo_open },
	{ .path = "/mcmesh.v1.AgentService/Explain",
	  .request = &mcmesh__v1__explain_request__descriptor,
	  .response = &mcmesh__v1__explain_response__descriptor,
	  .ops = { .on_close = server_closed },
	  .on_open = refuse_open },
};

static void set_stopped(void *userdata)
{
	*(bool *)userdata = true;
}

static void up(bool on_event)
{
	const char *listen[] = { "127.0.0.1:0", NULL };
	struct rpc_server_options options = { .listen = listen, .ret_ports = &f.port };

	memset(&f, 0, sizeof(f));
	if (on_event) {
		cr_assert_geq(sd_event_new(&f.event), 0);
		cr_assert_eq(rpc_new_on_event(f.event, &f.rpc), 0);
	} else {
		cr_assert_eq(rpc_new(&f.rpc), 0);
	}
	cr_assert_eq(rpc_server_new(f.rpc, &options, &f.server), 0);
	rpc_server_add(f.server, methods, sizeof(methods) / sizeof(methods[0]));
	rpc_server_add_standard(f.server, _binary_mcmesh_pb_start,
				(size_t)(_binary_mcmesh_pb_end - _binary_mcmesh_pb_start));
	cr_assert_eq(rpc_server_start(f.server), 0);
	snprintf(f.target, sizeof(f.target), "127.0.0.1:%d", f.port);
	cr_assert_eq(rpc_channel_new(f.rpc, &(struct rpc_channel_options){ .target = f.target },
				     &f.channel),
		     0);
}

static void down(void)
{
	rpc_channel_free(f.channel);
	if (f.server) {
		rpc_server_shutdown(f.server, 0, set_stopped, &f.stopped);
		until(f.stopped);
		rpc_server_free(f.server);
	}
	rpc_free(f.rpc);
	sd_event_unref(f.event);
}

/* ---- the client's side ------------------------------------------------------ */

static void client_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	struct result *r = rpc_call_userdata(call);

	cr_assert_not_null(message);
	r->messages++;
}

static void client_close(struct rpc_call *call, int status, const char *text)
{
	struct result *r = rpc_call_userdata(call);

	r->closed++;
	r->status = status;
	snprintf(r->text, sizeof(r->text), "%s", text);
}

static void client_drained(struct rpc_call *call)
{
	struct result *r = rpc_call_userdata(call);

	r->drained++;
}

static const struct rpc_call_ops client_ops = { client_message, client_drained, client_close };

static struct rpc_call *start(const char *path, const ProtobufCMessageDescriptor *response,
			      const struct rpc_call_ops *ops, uint64_t deadline, struct result *r)
{
	struct rpc_call *call;

	cr_assert_eq(
		rpc_channel_call(f.channel, path, response, ops ?: &client_ops, deadline, r, &call),
		0);
	return call;
}

static struct rpc_call *unary(const char *path, const ProtobufCMessage *request,
			      const ProtobufCMessageDescriptor *response, struct result *r)
{
	struct rpc_call *call = start(path, response, NULL, 5000, r);

	cr_assert_eq(rpc_call_send(call, request), 0);
	rpc_call_finish(call, RPC_OK, NULL);
	return call;
}

static void check_unary(void)
{
	Mcmesh__V1__GetStatusRequest q = MCMESH__V1__GET_STATUS_REQUEST__INIT;
	struct result r = { 0 };

	unary(methods[0].path, &q.base, methods[0].response, &r);
	until(r.closed && f.server_closed);
	cr_assert_eq(r.status, RPC_OK, "%s", r.text);
	cr_assert_eq(r.messages, 1);
	cr_assert_eq(f.server_status, RPC_OK);
}

#define ECHOES 10000
#define WINDOW 64

static void echo_next(struct rpc_call *call, struct result *r)
{
	Mcmesh__V1__AgentMessage m = MCMESH__V1__AGENT_MESSAGE__INIT;
	Mcmesh__V1__Report report = MCMESH__V1__REPORT__INIT;

	if (r->next == ECHOES) {
		rpc_call_finish(call, RPC_OK, NULL);
		return;
	}
	m.message_case = MCMESH__V1__AGENT_MESSAGE__MESSAGE_REPORT;
	m.report = &report;
	report.sequence = ++r->next;
	cr_assert_eq(rpc_call_send(call, &m.base), 0);
}

static void echo_received(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ControllerMessage *m = (const void *)message;
	struct result *r = rpc_call_userdata(call);

	cr_assert_eq(m->accepted->sequence, (uint64_t)++r->messages);
	echo_next(call, r);
}

static void check_echo(void)
{
	static const struct rpc_call_ops ops = { echo_received, NULL, client_close };
	struct result r = { 0 };
	struct rpc_call *call = start(methods[1].path, methods[1].response, &ops, 0, &r);

	for (int i = 0; i < WINDOW; i++)
		echo_next(call, &r);
	until(r.closed && f.server_closed);
	cr_assert_eq(r.status, RPC_OK, "%s", r.text);
	cr_assert_eq(r.messages, ECHOES);
	cr_assert_eq(f.server_messages, ECHOES);
	cr_assert_eq(f.half_closed, 1);
}

/* 3,000 messages of 4 kB: more than flow control lets through at once. */
static void check_backlog(void)
{
	Mcmesh__V1__AgentWatchResponse m = MCMESH__V1__AGENT_WATCH_RESPONSE__INIT;
	Mcmesh__V1__Port port = MCMESH__V1__PORT__INIT;
	static char detail[4097];
	struct rpc_bytes *bytes;
	struct result r = { 0 };

	memset(detail, 'x', sizeof(detail) - 1);
	port.detail = detail;
	m.object_case = MCMESH__V1__AGENT_WATCH_RESPONSE__OBJECT_PORT;
	m.port = &port;
	start(methods[2].path, methods[2].response, NULL, 0, &r);
	until(f.held);
	bytes = rpc_bytes_new(&m.base);
	for (int i = 0; i < 3000; i++)
		cr_assert_eq(rpc_call_send_bytes(f.held, bytes), 0);
	rpc_bytes_free(bytes);
	cr_assert_geq(rpc_call_backlog(f.held), 3000u * 4096);
	until(f.drained);
	cr_assert_eq(f.drained, 1);
	cr_assert_eq(rpc_call_backlog(f.held), 0);
	rpc_call_finish(f.held, RPC_OK, NULL);
	until(r.closed);
	cr_assert_eq(r.messages, 3000);
}

static void check_refusals(void)
{
	Mcmesh__V1__ExplainRequest q = MCMESH__V1__EXPLAIN_REQUEST__INIT;
	struct result r = { 0 };

	unary("/mcmesh.v1.AgentService/Nothing", &q.base, methods[0].response, &r);
	until(r.closed);
	cr_assert_eq(r.status, RPC_UNIMPLEMENTED);
	cr_assert_str_eq(r.text, "there is no method /mcmesh.v1.AgentService/Nothing here");

	r = (struct result){ 0 };
	unary(methods[3].path, &q.base, methods[3].response, &r);
	until(r.closed);
	cr_assert_eq(r.status, RPC_FAILED_PRECONDITION);
	cr_assert_str_eq(r.text, "no wine");

	/* A string that is no UTF-8. */
	q.group = (char *)"\xc0\xaf";
	r = (struct result){ 0 };
	unary(methods[2].path, &q.base, methods[2].response, &r);
	until(r.closed);
	cr_assert_eq(r.status, RPC_INVALID_ARGUMENT);
	cr_assert(strstr(r.text, "UTF-8"), "%s", r.text);

	Mcmesh__V1__Answer a = MCMESH__V1__ANSWER__INIT;
	Mcmesh__V1__AgentMessage m = MCMESH__V1__AGENT_MESSAGE__INIT;

	a.error = (char *)"\xff";
	m.message_case = MCMESH__V1__AGENT_MESSAGE__MESSAGE_ANSWER;
	m.answer = &a;
	r = (struct result){ 0 };
	unary(methods[1].path, &m.base, methods[1].response, &r);
	until(r.closed);
	cr_assert_eq(r.status, RPC_INVALID_ARGUMENT, "nested string");
}

/* Bytes that are no protobuf: a bytes field of one message read as another. */
static void check_garbage(void)
{
	Mcmesh__V1__GetStatusResponse junk = MCMESH__V1__GET_STATUS_RESPONSE__INIT;
	struct result r = { 0 };

	/* Field 1 of AgentMessage is a Hello: "\x0a\xff" is a truncated field in it. */
	junk.node = (char *)"\x0a\x7f";
	unary(methods[1].path, &junk.base, methods[1].response, &r);
	until(r.closed && f.server_closed);
	cr_assert_eq(r.status, RPC_INVALID_ARGUMENT, "%d %s", r.status, r.text);
	cr_assert_eq(f.server_messages, 0);
}

static void check_cancel_and_deadline(void)
{
	struct result r = { 0 };
	struct rpc_call *call = start(methods[2].path, methods[2].response, NULL, 0, &r);

	until(f.held);
	rpc_call_cancel(call);
	cr_assert_eq(r.closed, 0, "on_close from inside rpc_call_cancel()");
	until(r.closed && f.server_closed);
	cr_assert_eq(r.status, RPC_CANCELLED);
	cr_assert_eq(f.server_status, RPC_CANCELLED);

	r = (struct result){ 0 };
	start(methods[2].path, methods[2].response, NULL, 50, &r);
	until(r.closed && f.server_closed == 2);
	cr_assert_eq(r.status, RPC_DEADLINE_EXCEEDED);

	/* The server gives up on its own. */
	r = (struct result){ 0 };
	f.held = NULL;
	start(methods[2].path, methods[2].response, NULL, 0, &r);
	until(f.held);
	rpc_call_cancel(f.held);
	until(r.closed && f.server_closed == 3);
	cr_assert_neq(r.status, RPC_OK);
}

static void check_half_close(void)
{
	struct result r = { 0 };
	struct rpc_call *call = start(methods[2].path, methods[2].response, NULL, 0, &r);

	rpc_call_finish(call, RPC_OK, NULL);
	until(f.half_closed);
	cr_assert_eq(r.closed, 0);
	rpc_call_finish(f.held, RPC_NOT_FOUND, "later");
	until(r.closed);
	cr_assert_eq(r.status, RPC_NOT_FOUND);
	cr_assert_str_eq(r.text, "later");
}

static void check_server_gone(void)
{
	struct result r = { 0 }, late = { 0 };
	uint64_t began;

	start(methods[2].path, methods[2].response, NULL, 0, &r);
	until(f.held);
	rpc_server_free(f.server);
	f.server = NULL;
	until(r.closed);
	cr_assert(r.status == RPC_UNAVAILABLE || r.status == RPC_CANCELLED, "%d", r.status);
	began = now_ms();
	start(methods[2].path, methods[2].response, NULL, 0, &late);
	until(late.closed);
	cr_assert_eq(late.status, RPC_UNAVAILABLE);
	cr_assert_lt(now_ms() - began, 3000, "a dead channel fails fast");
}

static void check_grace(void)
{
	struct result r = { 0 };
	uint64_t began;

	start(methods[2].path, methods[2].response, NULL, 0, &r);
	until(f.held);
	began = now_ms();
	rpc_server_shutdown(f.server, 200, set_stopped, &f.stopped);
	until(f.stopped);
	cr_assert_geq(now_ms() - began, 199, "the grace time is the calls'");
	until(r.closed);
	rpc_server_free(f.server);
	f.server = NULL;
}

static void check_free_with_open_calls(void)
{
	static struct result r;

	r = (struct result){ 0 };
	start(methods[2].path, methods[2].response, NULL, 0, &r);
	until(f.held);
	rpc_channel_free(f.channel);
	f.channel = NULL;
	f.server = NULL; /* rpc_free() finds both */
	rpc_free(f.rpc);
	f.rpc = NULL;
	cr_assert_eq(r.closed, 1);
	cr_assert_eq(f.server_closed, 1);
}

#define BOTH(name)                 \
	Test(rpc, name##_as_loop)  \
	{                          \
		up(false);         \
		check_##name();    \
		down();            \
	}                          \
	Test(rpc, name##_on_event) \
	{                          \
		up(true);          \
		check_##name();    \
		down();            \
	}

BOTH(unary)
BOTH(echo)
BOTH(backlog)
BOTH(refusals)
BOTH(garbage)
BOTH(cancel_and_deadline)
BOTH(half_close)
BOTH(server_gone)
BOTH(grace)
BOTH(free_with_open_calls)

/* ---- standard services, sockets, waking ------------------------------------- */

static int health_seen[8], n_health;

static void health_received(struct rpc_call *call, const ProtobufCMessage *message)
{
	health_seen[n_health++ % 8] =
		(int)((const Grpc__Health__V1__HealthCheckResponse *)message)->status;
}

Test(rpc, health)
{
	static const struct rpc_call_ops ops = { health_received, NULL, client_close };
	Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
	const ProtobufCMessageDescriptor *d = &grpc__health__v1__health_check_response__descriptor;
	struct result r = { 0 }, w = { 0 };
	struct rpc_call *watch;

	up(false);
	q.service = (char *)"mcmesh.v1.NodeService";
	unary("/grpc.health.v1.Health/Check", &q.base, d, &r);
	until(r.closed);
	cr_assert_eq(r.status, RPC_OK);
	q.service = (char *)"mcmesh.v1.Node";
	unary("/grpc.health.v1.Health/Check", &q.base, d, &r);
	until(r.closed == 2);
	cr_assert_eq(r.status, RPC_NOT_FOUND);

	q.service = (char *)"";
	watch = start("/grpc.health.v1.Health/Watch", d, &ops, 0, &w);
	rpc_call_send(watch, &q.base);
	rpc_call_finish(watch, RPC_OK, NULL);
	until(n_health == 1);
	rpc_server_set_serving(f.server, false);
	rpc_server_set_serving(f.server, false);
	until(n_health == 2);
	rpc_server_set_serving(f.server, true);
	until(n_health == 3);
	rpc_server_shutdown(f.server, 5000, set_stopped, &f.stopped);
	until(w.closed && f.stopped);
	cr_assert_eq(n_health, 4);
	cr_assert_eq(health_seen[0], 1);
	cr_assert_eq(health_seen[1], 2);
	cr_assert_eq(health_seen[2], 1);
	cr_assert_eq(health_seen[3], 2);
	cr_assert_eq(w.status, RPC_UNAVAILABLE);
	down();
}

static int files_seen, services_seen, errors_seen;

static void reflection_received(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Grpc__Reflection__V1alpha__ServerReflectionResponse *r = (const void *)message;

	if (r->message_response_case == 4)
		files_seen += (int)r->file_descriptor_response->n_file_descriptor_proto;
	if (r->message_response_case == 6)
		services_seen = (int)r->list_services_response->n_service;
	if (r->message_response_case == 7)
		errors_seen++;
}

static void reflect(struct rpc_call *call, int which, const char *text)
{
	Grpc__Reflection__V1alpha__ServerReflectionRequest q =
		GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__INIT;

	q.message_request_case = which;
	q.list_services = (char *)text;
	cr_assert_eq(rpc_call_send(call, &q.base), 0);
}

Test(rpc, reflection)
{
	static const struct rpc_call_ops ops = { reflection_received, NULL, client_close };
	static const char *const symbols[] = {
		"mcmesh.v1.NodeService",
		"mcmesh.v1.NodeService.Sync",
		"mcmesh.v1.Membership.State",
		"mcmesh.v1.Membership.Source.State",
		"mcmesh.v1.Filter.Mode",
		"mcmesh.v1",
		"mcmesh.v1.Nod",
		"grpc.health.v1.Health",
	};
	/* node.proto and agent.proto need types.proto too. */
	static const int files[] = { 2, 2, 0, 2, 1, 0, 0, 1 };
	struct result r = { 0 };
	struct rpc_call *call;
	int errors = 0, seen = 0;

	up(false);
	call = start("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
		     &grpc__reflection__v1alpha__server_reflection_response__descriptor, &ops, 0,
		     &r);
	reflect(call, 7, "");
	until(services_seen);
	cr_assert_eq(services_seen, 4);
	for (size_t i = 0; i < 8; i++) {
		reflect(call, 4, symbols[i]);
		errors += !files[i];
		seen += files[i];
		until(errors_seen + files_seen >= errors + seen);
		cr_assert_eq(errors_seen, errors, "%s: %d", symbols[i], errors_seen);
		cr_assert_eq(files_seen, seen, "%s: %d", symbols[i], files_seen);
	}
	reflect(call, 3, "mcmesh/v1/types.proto");
	until(files_seen == seen + 1);
	rpc_call_finish(call, RPC_OK, NULL);
	until(r.closed);
	cr_assert_eq(r.status, RPC_OK);
	down();
}

Test(rpc, unix_socket_has_one_owner)
{
	char dir[] = "/tmp/mcmesh-rpc-XXXXXX", path[80], listen[100], lock[100];
	const char *list[] = { listen, NULL };
	struct rpc_server_options options = { .listen = list };
	struct rpc_server *a, *b = NULL;
	struct stat st;

	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/run/x.sock", dir);
	snprintf(listen, sizeof(listen), "unix:%s", path);
	snprintf(lock, sizeof(lock), "%s.lock", path);
	up(false);
	cr_assert_eq(rpc_server_new(f.rpc, &options, &a), 0);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0660);
	cr_assert_eq(rpc_server_new(f.rpc, &options, &b), -EADDRINUSE);
	cr_assert_null(b);
	cr_assert_eq(stat(path, &st), 0, "the live server's socket is gone");
	rpc_server_start(a);
	rpc_server_free(a);
	cr_assert_lt(access(lock, F_OK), 0);
	/* A dead server's socket. */
	cr_assert_eq(mknod(path, S_IFSOCK | 0600, 0), 0);
	cr_assert_eq(rpc_server_new(f.rpc, &options, &a), 0);
	cr_assert_eq(rpc_server_start(a), 0);
	rpc_server_free(a);
	down();
	unlink(path);
	snprintf(path, sizeof(path), "%s/run", dir);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0750);
	rmdir(path);
	rmdir(dir);
}

static void *waker(void *arg)
{
	rpc_wake(arg);
	rpc_wake(arg);
	return NULL;
}

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	return getsockopt(fd, level, name, &value, &size) < 0 ? -1 : value;
}

/* What listens is set so; the library's accepted sockets are to have it from there. */
Test(rpc, connections_are_probed)
{
	int n = 0;

	up(false);
	check_unary();
	for (int fd = 3; fd < 1024; fd++) {
		struct sockaddr_in6 own, peer; /* the port is at the same place in both */
		socklen_t size = sizeof(own), peer_size = sizeof(peer);

		if (getsockname(fd, (struct sockaddr *)&own, &size) < 0 ||
		    (own.sin6_family != AF_INET && own.sin6_family != AF_INET6) ||
		    ntohs(own.sin6_port) != f.port ||
		    getpeername(fd, (struct sockaddr *)&peer, &peer_size) < 0)
			continue;
		n++;
		cr_expect_eq(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
		cr_expect_eq(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 10);
		cr_expect_eq(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 15000);
	}
	cr_expect_eq(n, 1);
	down();
}

/* ---- more calls than one completion queue takes -------------------------------- */

#define CROWD_CHANNELS 12
#define CROWD_STREAMS  200 /* of each */
#define CROWD	       (CROWD_CHANNELS * CROWD_STREAMS)

static struct result crowd[CROWD];
static uint64_t crowd_answers, crowd_closed;

static void crowd_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	client_message(call, message);
	crowd_answers++;
}

static void crowd_close(struct rpc_call *call, int status, const char *text)
{
	client_close(call, status, text);
	crowd_closed++;
}

static void report(struct rpc_call *call)
{
	Mcmesh__V1__AgentMessage m = MCMESH__V1__AGENT_MESSAGE__INIT;
	Mcmesh__V1__Report report = MCMESH__V1__REPORT__INIT;

	m.message_case = MCMESH__V1__AGENT_MESSAGE__MESSAGE_REPORT;
	m.report = &report;
	cr_assert_eq(rpc_call_send(call, &m.base), 0);
}

Test(rpc, many_calls_share_a_loop)
{
	static const struct rpc_call_ops ops = { crowd_message, NULL, crowd_close };
	static struct rpc_call *calls[CROWD];
	struct rpc_channel *channels[CROWD_CHANNELS];

	up(false);
	for (int i = 0; i < CROWD_CHANNELS; i++)
		cr_assert_eq(rpc_channel_new(f.rpc,
					     &(struct rpc_channel_options){ .target = f.target },
					     &channels[i]),
			     0);
	for (int i = 0; i < CROWD; i++) {
		cr_assert_eq(rpc_channel_call(channels[i % CROWD_CHANNELS], methods[1].path,
					      methods[1].response, &ops, 0, &crowd[i], &calls[i]),
			     0);
		report(calls[i]);
		/* Some turns in between: the server's ends are spread as they come. */
		if (i % 100 == 99)
			until(f.opened == i + 1);
	}
	until(crowd_answers == CROWD);
	/* Each alone, with nothing else to wake the loop. */
	for (int i = 0; i < CROWD; i += 97) {
		uint64_t began = now_ms();

		crowd_answers = 0;
		report(calls[i]);
		while (!crowd_answers)
			cr_assert_eq(rpc_poll(f.rpc, began + WAIT_MS), 0);
		cr_assert_lt(now_ms() - began, WAIT_MS / 2, "waits at one queue for another");
		cr_assert_eq(crowd[i].messages, 2);
	}
	/* One end after the other: either side hears of the other's. */
	for (int i = 0; i < CROWD; i++) {
		if (i % 2)
			rpc_call_cancel(calls[i]);
		else
			rpc_call_finish(calls[i], RPC_OK, NULL);
	}
	until(crowd_closed == CROWD && f.server_closed == CROWD);
	cr_assert_geq(f.half_closed, CROWD / 2);
	/* And few again. */
	f.server_closed = 0;
	check_unary();
	for (int i = 0; i < CROWD_CHANNELS; i++)
		rpc_channel_free(channels[i]);
	down();
}

Test(rpc, wake_ends_a_poll)
{
	uint64_t began = now_ms();
	pthread_t thread;

	up(false);
	cr_assert_eq(pthread_create(&thread, NULL, waker, f.rpc), 0);
	cr_assert_eq(rpc_poll(f.rpc, now_ms() + WAIT_MS), 0);
	cr_assert_lt(now_ms() - began, WAIT_MS / 2);
	pthread_join(thread, NULL);
	rpc_wake(f.rpc); /* and freed with one under way */
	down();
}
