/* SPDX-License-Identifier: Apache-2.0 */

/*
 * DOC: what every gRPC server is asked for: its health and its reflection
 *
 * Health: "" and each service that a method is registered for share one state.
 * Reflection answers from the serialised FileDescriptorSet as it is: the set is
 * walked by hand, since protobuf-c has no descriptor.proto of its own, and a
 * file is sent as the bytes it came in.
 */
#include "common/rpc_internal.h"

#include <errno.h>
#include <grpc/health/v1/health.pb-c.h>
#include <grpc/reflection/v1alpha/reflection.pb-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_METHODS   4
#define STREAMS_MAX 1024 /* open health watches and reflection streams */

struct text {
	const uint8_t *p;
	size_t len;
};

struct rpc_standard {
	struct rpc_server *server;
	struct stream *streams;
	size_t n_streams;
	struct rpc_method methods[N_METHODS];
	struct text *files; /* one FileDescriptorProto each */
	size_t n_files;
};

/* A health watch or a reflection stream that is open. */
struct stream {
	struct stream *prev, *next;
	struct rpc_standard *standard;
	struct rpc_call *call;
	char *service; /* health: NULL until the request came */
	int told;
	bool health;
};

/* ---- open streams ----------------------------------------------------------- */

static void stream_open(struct rpc_call *call, bool health)
{
	struct rpc_standard *standard = rpc_call_userdata(call);
	struct stream *s = standard->n_streams < STREAMS_MAX ? calloc(1, sizeof(*s)) : NULL;

	if (!s) {
		rpc_call_set_userdata(call, NULL);
		rpc_call_finish(call, RPC_RESOURCE_EXHAUSTED,
				"the server has too many such streams: try again later");
		return;
	}
	standard->n_streams++;
	*s = (struct stream){ .standard = standard, .call = call, .told = -1, .health = health };
	s->next = standard->streams;
	if (s->next)
		s->next->prev = s;
	standard->streams = s;
	rpc_call_set_userdata(call, s);
}

static void stream_close(struct rpc_call *call, int status, const char *text)
{
	struct stream *s = rpc_call_userdata(call);

	if (!s)
		return;
	s->standard->n_streams--;
	if (s->prev)
		s->prev->next = s->next;
	else
		s->standard->streams = s->next;
	if (s->next)
		s->next->prev = s->prev;
	free(s->service);
	free(s);
}

/* ---- health ----------------------------------------------------------------- */

static bool service_of(const struct rpc_method *m, struct text *ret_name)
{
	const char *end = strrchr(m->path, '/');

	if (m->path[0] != '/' || end == m->path)
		return false;
	*ret_name = (struct text){ (const uint8_t *)m->path + 1, (size_t)(end - m->path - 1) };
	return true;
}

static bool text_is(struct text t, const char *s)
{
	return strlen(s) == t.len && memcmp(t.p, s, t.len) == 0;
}

static int health_of(const struct rpc_server *server, const char *service)
{
	bool known = service[0] == '\0';
	struct text name;

	for (size_t i = 0; i < server->n_sets && !known; i++)
		for (size_t k = 0; k < server->sets[i].n && !known; k++)
			known = service_of(&server->sets[i].methods[k], &name) &&
				text_is(name, service);
	if (!known)
		return GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN;
	return server->serving
		       ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
		       : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
}

static void health_send(struct rpc_call *call, int status)
{
	Grpc__Health__V1__HealthCheckResponse response =
		GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

	response.status = status;
	rpc_call_send(call, &response.base);
}

static void health_check(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Grpc__Health__V1__HealthCheckRequest *request = (const void *)message;
	struct rpc_standard *standard = rpc_call_userdata(call);
	int status;

	if (!request) {
		rpc_call_finish(call, RPC_INVALID_ARGUMENT, "the call carries no request");
		return;
	}
	status = health_of(standard->server, request->service);
	if (status == GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN) {
		rpc_call_finish(call, RPC_NOT_FOUND, "there is no service \"%.100s\" here",
				request->service);
		return;
	}
	health_send(call, status);
	rpc_call_finish(call, RPC_OK, NULL);
}

static void health_tell(struct stream *s)
{
	int status = health_of(s->standard->server, s->service);

	if (status == s->told)
		return;
	s->told = status;
	health_send(s->call, status);
}

static void health_watch_open(struct rpc_call *call)
{
	stream_open(call, true);
}

static void health_watch(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Grpc__Health__V1__HealthCheckRequest *request = (const void *)message;
	struct stream *s = rpc_call_userdata(call);

	if (!s || (!request && s->service))
		return;
	if (!request || s->service) {
		rpc_call_finish(call, RPC_INVALID_ARGUMENT, "a watch takes one request");
		return;
	}
	s->service = strdup(request->service);
	if (!s->service) {
		rpc_call_finish(call, RPC_RESOURCE_EXHAUSTED, "the server is out of memory");
		return;
	}
	health_tell(s);
}

void rpc_standard_notify(struct rpc_standard *standard)
{
	for (struct stream *s = standard->streams; s; s = s->next)
		if (s->service)
			health_tell(s);
}

void rpc_standard_stop(struct rpc_standard *standard)
{
	for (struct stream *s = standard->streams; s; s = s->next)
		rpc_call_finish(s->call, RPC_UNAVAILABLE, "the server stops");
}

/* ---- descriptors, read where they lie --------------------------------------- */

/* Field numbers of google/protobuf/descriptor.proto. */
enum {
	SET_FILE = 1,
	FILE_NAME = 1,
	FILE_PACKAGE = 2,
	FILE_DEPENDENCY = 3,
	FILE_MESSAGE = 4,
	FILE_ENUM = 5,
	FILE_SERVICE = 6,
	ANY_NAME = 1,
	MESSAGE_FIELD = 2,
	MESSAGE_NESTED = 3,
	MESSAGE_ENUM = 4,
	MESSAGE_ONEOF = 8,
	SERVICE_METHOD = 2,
	ENUM_VALUE = 2,
};

static bool varint_take(struct text *t, uint64_t *ret_value)
{
	uint64_t value = 0;

	for (unsigned int shift = 0; shift < 64 && t->len; shift += 7) {
		uint8_t b = *t->p++;

		t->len--;
		value |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80)) {
			*ret_value = value;
			return true;
		}
	}
	return false;
}

/* The next length-delimited field; others are skipped. */
static bool field_take(struct text *t, unsigned int *ret_number, struct text *ret_body)
{
	static const size_t fixed[8] = { [1] = 8, [5] = 4 };
	uint64_t key, n;

	while (t->len && varint_take(t, &key)) {
		unsigned int type = key & 7;

		if (type == 0) {
			if (!varint_take(t, &n))
				return false;
			continue;
		}
		if (type == 2) {
			if (!varint_take(t, &n) || n > t->len)
				return false;
			*ret_number = (unsigned int)(key >> 3);
			*ret_body = (struct text){ t->p, n };
			t->p += n;
			t->len -= n;
			return true;
		}
		if (!fixed[type] || fixed[type] > t->len)
			return false;
		t->p += fixed[type];
		t->len -= fixed[type];
	}
	return false;
}

static struct text field_find(struct text in, unsigned int number)
{
	struct text body;
	unsigned int n;

	while (field_take(&in, &n, &body))
		if (n == number)
			return body;
	return (struct text){ (const uint8_t *)"", 0 };
}

/* Does "a.b" begin with `name`, as a whole component? *rest is what follows. */
static bool symbol_enter(struct text symbol, struct text name, struct text *ret_rest)
{
	if (name.len > symbol.len || memcmp(name.p, symbol.p, name.len) != 0)
		return false;
	if (name.len == symbol.len) {
		*ret_rest = (struct text){ symbol.p + symbol.len, 0 };
		return true;
	}
	if (symbol.p[name.len] != '.')
		return false;
	*ret_rest = (struct text){ symbol.p + name.len + 1, symbol.len - name.len - 1 };
	return true;
}

enum scope { SCOPE_FILE, SCOPE_MESSAGE, SCOPE_LEAF_PARENT, SCOPE_LEAF };

static enum scope scope_inside(enum scope scope, unsigned int n, bool *ret_named)
{
	*ret_named = true;
	if (scope == SCOPE_FILE && n == FILE_MESSAGE)
		return SCOPE_MESSAGE;
	if (scope == SCOPE_FILE && (n == FILE_ENUM || n == FILE_SERVICE))
		return SCOPE_LEAF_PARENT;
	if (scope == SCOPE_MESSAGE && n == MESSAGE_NESTED)
		return SCOPE_MESSAGE;
	if (scope == SCOPE_MESSAGE && n == MESSAGE_ENUM)
		return SCOPE_LEAF_PARENT;
	if (scope == SCOPE_MESSAGE && (n == MESSAGE_FIELD || n == MESSAGE_ONEOF))
		return SCOPE_LEAF;
	/* Methods and enum values are both number 2. */
	if (scope == SCOPE_LEAF_PARENT && n == SERVICE_METHOD)
		return SCOPE_LEAF;
	*ret_named = false;
	return SCOPE_LEAF;
}

static bool scope_has(struct text in, enum scope scope, struct text symbol)
{
	struct text body, rest;
	unsigned int n;

	while (field_take(&in, &n, &body)) {
		bool named;
		enum scope inner = scope_inside(scope, n, &named);

		if (!named || !symbol_enter(symbol, field_find(body, ANY_NAME), &rest))
			continue;
		if (rest.len == 0 || (inner != SCOPE_LEAF && scope_has(body, inner, rest)))
			return true;
	}
	return false;
}

static bool file_has(struct text file, struct text symbol)
{
	struct text package = field_find(file, FILE_PACKAGE), rest = symbol;

	if (package.len && (!symbol_enter(symbol, package, &rest) || rest.len == 0))
		return false;
	return scope_has(file, SCOPE_FILE, rest);
}

/* ---- reflection ------------------------------------------------------------- */

typedef Grpc__Reflection__V1alpha__ServerReflectionResponse reflection_response;

static void reflection_error(reflection_response *response, struct rpc_call *call, int code,
			     const char *text)
{
	Grpc__Reflection__V1alpha__ErrorResponse error =
		GRPC__REFLECTION__V1ALPHA__ERROR_RESPONSE__INIT;

	error.error_code = code;
	error.error_message = (char *)text;
	response->message_response_case =
		GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
	response->error_response = &error;
	rpc_call_send(call, &response->base);
}

static size_t file_index(const struct rpc_standard *standard, struct text name)
{
	size_t i;

	for (i = 0; i < standard->n_files; i++) {
		struct text t = field_find(standard->files[i], FILE_NAME);

		if (t.len == name.len && memcmp(t.p, name.p, t.len) == 0)
			break;
	}
	return i;
}

/* The file and all it imports, each once; `wanted` doubles as the work list. */
static size_t file_closure(const struct rpc_standard *standard, size_t first, size_t *wanted)
{
	size_t n = 1;

	wanted[0] = first;
	for (size_t i = 0; i < n; i++) {
		struct text file = standard->files[wanted[i]], body;
		unsigned int number;

		while (field_take(&file, &number, &body)) {
			size_t k, found;

			if (number != FILE_DEPENDENCY)
				continue;
			found = file_index(standard, body);
			for (k = 0; k < n && wanted[k] != found; k++)
				;
			if (k == n && found < standard->n_files)
				wanted[n++] = found;
		}
	}
	return n;
}

static void reflection_file(const struct rpc_standard *standard, reflection_response *response,
			    struct rpc_call *call, size_t first)
{
	Grpc__Reflection__V1alpha__FileDescriptorResponse answer =
		GRPC__REFLECTION__V1ALPHA__FILE_DESCRIPTOR_RESPONSE__INIT;
	_cleanup_free_ ProtobufCBinaryData *list = NULL;
	_cleanup_free_ size_t *wanted = NULL;

	if (first >= standard->n_files) {
		reflection_error(response, call, RPC_NOT_FOUND, "nothing here has that name");
		return;
	}
	list = calloc(standard->n_files, sizeof(*list));
	wanted = calloc(standard->n_files, sizeof(*wanted));
	if (!list || !wanted) {
		reflection_error(response, call, RPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	answer.n_file_descriptor_proto = file_closure(standard, first, wanted);
	answer.file_descriptor_proto = list;
	for (size_t i = 0; i < answer.n_file_descriptor_proto; i++) {
		list[i].data = (uint8_t *)standard->files[wanted[i]].p;
		list[i].len = standard->files[wanted[i]].len;
	}
	response->message_response_case =
		GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
	response->file_descriptor_response = &answer;
	rpc_call_send(call, &response->base);
}

#define SERVICES_MAX 32

static size_t services_collect(const struct rpc_server *server, char *ret_names[SERVICES_MAX])
{
	struct text name;
	size_t n = 0, at;

	for (size_t i = 0; i < server->n_sets; i++)
		for (size_t k = 0; k < server->sets[i].n && n < SERVICES_MAX; k++) {
			if (!service_of(&server->sets[i].methods[k], &name))
				continue;
			/* Served, but it cannot be described: its file is v1alpha's. */
			if (text_is(name, "grpc.reflection.v1.ServerReflection"))
				continue;
			for (at = 0; at < n && !text_is(name, ret_names[at]); at++)
				;
			if (at == n)
				ret_names[n] = strndup((const char *)name.p, name.len);
			if (at == n && ret_names[n])
				n++;
		}
	return n;
}

static void reflection_list(const struct rpc_standard *standard, reflection_response *response,
			    struct rpc_call *call)
{
	Grpc__Reflection__V1alpha__ListServiceResponse answer =
		GRPC__REFLECTION__V1ALPHA__LIST_SERVICE_RESPONSE__INIT;
	Grpc__Reflection__V1alpha__ServiceResponse rows[SERVICES_MAX], *list[SERVICES_MAX];
	char *names[SERVICES_MAX];

	answer.n_service = services_collect(standard->server, names);
	answer.service = list;
	for (size_t i = 0; i < answer.n_service; i++) {
		grpc__reflection__v1alpha__service_response__init(&rows[i]);
		rows[i].name = names[i];
		list[i] = &rows[i];
	}
	response->message_response_case =
		GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
	response->list_services_response = &answer;
	rpc_call_send(call, &response->base);
	for (size_t i = 0; i < answer.n_service; i++)
		free(names[i]);
}

static void reflection_open(struct rpc_call *call)
{
	stream_open(call, false);
}

static void reflection_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Grpc__Reflection__V1alpha__ServerReflectionRequest *request = (const void *)message;
	reflection_response response = GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__INIT;
	struct stream *s = rpc_call_userdata(call);
	const struct rpc_standard *standard;
	struct text name;
	size_t i;

	if (!request || !s) {
		rpc_call_finish(call, RPC_OK, NULL);
		return;
	}
	standard = s->standard;
	response.valid_host = request->host;
	response.original_request = (Grpc__Reflection__V1alpha__ServerReflectionRequest *)request;
	switch (request->message_request_case) {
	case GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
		reflection_list(standard, &response, call);
		return;
	case GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
		name.p = (const uint8_t *)request->file_by_filename;
		name.len = strlen(request->file_by_filename);
		reflection_file(standard, &response, call, file_index(standard, name));
		return;
	case GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
		name.p = (const uint8_t *)request->file_containing_symbol;
		name.len = strlen(request->file_containing_symbol);
		for (i = 0; i < standard->n_files && !file_has(standard->files[i], name); i++)
			;
		reflection_file(standard, &response, call, i);
		return;
	default:
		reflection_error(&response, call, RPC_UNIMPLEMENTED, "proto3 has no extensions");
	}
}

/* ---- life ------------------------------------------------------------------- */

static void standard_index(struct rpc_standard *standard, struct text set)
{
	struct text rest = set, body;
	unsigned int number;
	size_t n = 0;

	while (field_take(&rest, &number, &body))
		n += number == SET_FILE;
	standard->files = calloc(n ?: 1, sizeof(*standard->files));
	if (!standard->files)
		return;
	while (field_take(&set, &number, &body))
		if (number == SET_FILE)
			standard->files[standard->n_files++] = body;
}

void rpc_server_add_standard(struct rpc_server *server, const uint8_t *descriptors, size_t len)
{
	struct rpc_standard *standard = calloc(1, sizeof(*standard));
	struct rpc_method reflection = {
		.request = &grpc__reflection__v1alpha__server_reflection_request__descriptor,
		.response = &grpc__reflection__v1alpha__server_reflection_response__descriptor,
		.on_open = reflection_open,
		.ops = { .on_message = reflection_message, .on_close = stream_close },
		.userdata = standard,
	};
	struct rpc_method health = {
		.request = &grpc__health__v1__health_check_request__descriptor,
		.response = &grpc__health__v1__health_check_response__descriptor,
		.userdata = standard,
	};
	size_t n = 2;

	if (!standard)
		abort(); /* as in rpc_server_add() */
	standard->server = server;
	standard->methods[0] = health;
	standard->methods[0].path = "/grpc.health.v1.Health/Check";
	standard->methods[0].ops.on_message = health_check;
	standard->methods[1] = health;
	standard->methods[1].path = "/grpc.health.v1.Health/Watch";
	standard->methods[1].on_open = health_watch_open;
	standard->methods[1].ops.on_message = health_watch;
	standard->methods[1].ops.on_close = stream_close;
	if (descriptors) {
		standard_index(standard, (struct text){ descriptors, len });
		standard->methods[n] = reflection;
		standard->methods[n++].path =
			"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
		standard->methods[n] = reflection;
		standard->methods[n++].path =
			"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
	}
	server->standard = standard;
	rpc_server_add(server, standard->methods, n);
}

void rpc_standard_free(struct rpc_standard *standard)
{
	if (!standard)
		return;
	free(standard->files);
	free(standard);
}
