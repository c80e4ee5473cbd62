/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <mcmesh/v1/mesh.pb-c.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/rpc.h"
#include "common/rpc_tls.h"
#include "ctl/ctl.h"

struct session {
	const struct ctl_options *options;
	struct rpc *rpc;
	struct rpc_tls *tls; /* NULL: plaintext */
	struct rpc_channel *channel;
	pthread_t thread;
	atomic_bool interrupted;

	/* Of the call under way. */
	bool closed, out_failed, no_memory;
	int status;
	char *text;
	ProtobufCMessage *answer;
};

/* ---- signals ---------------------------------------------------------------- */

static void *signal_thread(void *arg)
{
	struct session *s = arg;
	sigset_t set;
	int number;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	while (sigwait(&set, &number) == 0) {
		atomic_store(&s->interrupted, true);
		rpc_wake(s->rpc);
	}
	return NULL;
}

/* ---- calls ------------------------------------------------------------------ */

/* What a callback gets lives as long as the callback. */
static ProtobufCMessage *message_copy(const ProtobufCMessage *m)
{
	size_t len = protobuf_c_message_get_packed_size(m);
	_cleanup_free_ uint8_t *bytes = malloc(len ?: 1);

	if (!bytes)
		return NULL;
	protobuf_c_message_pack(m, bytes);
	return protobuf_c_message_unpack(m->descriptor, NULL, len, bytes);
}

static void on_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	struct session *s = rpc_call_userdata(call);

	if (s->options->command->watch) {
		if (!s->out_failed && !ctl_print_event(s->options, message)) {
			s->out_failed = true;
			rpc_call_cancel(call);
		}
		return;
	}
	if (s->answer)
		return;
	s->answer = message_copy(message);
	s->no_memory = !s->answer;
}

static void on_close(struct rpc_call *call, int status, const char *text)
{
	struct session *s = rpc_call_userdata(call);

	s->closed = true;
	s->status = status;
	free(s->text);
	s->text = strdup(text);
}

/* 0: none. */
static uint64_t deadline_ms(const struct ctl_command *c)
{
	if (c->watch)
		return 0;
	return c->asks ? CTL_ASKS_DEADLINE_MS : CTL_DEADLINE_MS;
}

static int call_run(struct session *s)
{
	static const struct rpc_call_ops ops = { .on_message = on_message, .on_close = on_close };
	const struct ctl_command *c = s->options->command;
	struct rpc_call *call;
	int r;

	s->closed = false;
	r = rpc_channel_call(s->channel, c->path, c->response, &ops, deadline_ms(c), s, &call);
	if (r < 0)
		return r;
	/* A call that has ended already says why in on_close. */
	rpc_call_send(call, s->options->request);
	rpc_call_finish(call, RPC_OK, NULL);
	while (!s->closed) {
		rpc_poll(s->rpc, UINT64_MAX);
		if (!s->closed && atomic_load(&s->interrupted))
			rpc_call_cancel(call);
	}
	return s->no_memory ? -ENOMEM : 0;
}

/* ---- what went wrong -------------------------------------------------------- */

/* The library's own words for a peer that is not there; everything else that
 * is UNAVAILABLE is the peer's sentence. */
static bool is_unreachable(const struct session *s)
{
	static const char *const words[] = {
		"failed to connect",	"connections to",   "DNS resolution failed",
		"Socket closed",	"backends failing", "Connection reset",
		"Broken pipe",		"keepalive",	    "GOAWAY",
		"Endpoint read failed", "UNKNOWN:",
	};

	if (s->status != RPC_UNAVAILABLE)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strncmp(s->text ?: "", words[i], strlen(words[i])) == 0 ||
		    (i >= 4 && strstr(s->text ?: "", words[i])))
			return true;
	return !s->text || !*s->text;
}

/* One of the two does not take the other: the library says it in its own words. */
static bool is_handshake(const struct session *s)
{
	return s->tls && s->status == RPC_UNAVAILABLE && s->text &&
	       (strstr(s->text, "andshake") || strstr(s->text, "Ssl") || strstr(s->text, "SSL") ||
		strstr(s->text, "Peer name") || strstr(s->text, "Endpoint read failed"));
}

static int call_failed(const struct session *s)
{
	bool agent = s->options->command->agent;
	const char *who = agent ? "agent" : "controller";
	const char *target = agent ? s->options->agent : s->options->controller;

	if (s->status == RPC_DEADLINE_EXCEEDED)
		fprintf(stderr,
			"mcmeshctl: the %s at %s did not answer within %d s: is it overloaded, or "
			"the address another's?\n",
			who, target, (int)(deadline_ms(s->options->command) / 1000));
	else if (is_handshake(s))
		fprintf(stderr,
			"mcmeshctl: no TLS with the %s at %s: either it does not take the "
			"certificate, or its own is not of --cacert, or not for this host (see "
			"--server-name), or it speaks plaintext\n",
			who, target);
	else if (is_unreachable(s))
		fprintf(stderr, "mcmeshctl: cannot reach the %s at %s: is mcmesh-%s running%s?\n",
			who, target, who,
			agent || s->tls ? "" : ", and does it want --cacert, --cert and --key");
	else if (s->status == RPC_UNIMPLEMENTED)
		fprintf(stderr,
			"mcmeshctl: the %s at %s does not know this command: is it an mcmesh-%s "
			"of this version?\n",
			who, target, who);
	else
		fprintf(stderr, "mcmeshctl: %s\n",
			s->text && *s->text ? s->text : rpc_status_name(s->status));
	return CTL_FAILED;
}

/* ---- pages ------------------------------------------------------------------ */

static char **token_of(const ProtobufCMessage *m, const char *field)
{
	const ProtobufCFieldDescriptor *f = ctl_field(m, field);

	return f ? ctl_value(m, f) : NULL;
}

/* Puts the rows of the pages before in front of this page's. */
static int page_join(const char *rows, ProtobufCMessage *before, ProtobufCMessage *page)
{
	const ProtobufCFieldDescriptor *f = ctl_field(page, rows);
	size_t *n_before = (size_t *)((char *)before + f->quantifier_offset);
	size_t *n_page = (size_t *)((char *)page + f->quantifier_offset);
	void ***list_before = ctl_value(before, f), ***list_page = ctl_value(page, f);
	void **joined;

	if (*n_before == 0)
		return 0;
	joined = reallocarray(*list_before, *n_before + *n_page, sizeof(*joined));
	if (!joined)
		return -ENOMEM;
	if (*n_page)
		memcpy(joined + *n_before, *list_page, *n_page * sizeof(*joined));
	free(*list_page);
	*list_page = joined;
	*n_page += *n_before;
	*list_before = NULL;
	*n_before = 0;
	return 0;
}

static bool next_page(struct session *s)
{
	char **next = token_of(s->answer, "next_page_token");
	char **token = token_of(s->options->request, "page_token");

	if (!next || !token || !*next || !**next)
		return false;
	/* A token that does not move would never end. */
	if (strcmp(*token, *next) == 0)
		return false;
	if (*token != protobuf_c_empty_string)
		free(*token);
	*token = strdup(*next);
	return *token;
}

static int list_run(struct session *s)
{
	const struct ctl_command *c = s->options->command;
	ProtobufCMessage *before = NULL;
	int r;

	for (;;) {
		r = call_run(s);
		if (r < 0 || s->status != RPC_OK || !s->answer)
			break;
		if (before)
			r = page_join(c->rows, before, s->answer);
		if (before)
			protobuf_c_message_free_unpacked(TAKE_PTR(before), NULL);
		if (r < 0 || !c->rows || !next_page(s))
			break;
		before = TAKE_PTR(s->answer);
	}
	if (before)
		protobuf_c_message_free_unpacked(before, NULL);
	return r;
}

/* ---- commands --------------------------------------------------------------- */

static int watch_end(struct session *s)
{
	if (s->out_failed)
		return ctl_print_failed();
	if (atomic_load(&s->interrupted))
		return CTL_DONE;
	if (s->status == RPC_OK) {
		fputs("mcmeshctl: the controller ended the watch: start it again\n", stderr);
		return CTL_FAILED;
	}
	return call_failed(s);
}

static int verify_end(const Mcmesh__V1__VerifyResponse *v)
{
	if (v->not_compared)
		fprintf(stderr,
			"mcmeshctl: %u of %zu nodes not compared: their agents are not connected\n",
			v->not_compared, v->n_nodes);
	for (size_t i = 0; i < v->n_nodes; i++)
		if (!v->nodes[i]->ok)
			return CTL_DRIFT;
	return CTL_DONE;
}

static int answer_end(struct session *s)
{
	const struct ctl_command *c = s->options->command;

	if (atomic_load(&s->interrupted) && s->status != RPC_OK) {
		fputs("mcmeshctl: interrupted\n", stderr);
		return CTL_FAILED;
	}
	if (s->status != RPC_OK)
		return call_failed(s);
	if (!s->answer) {
		fputs("mcmeshctl: the answer is empty: is the peer of this version?\n", stderr);
		return CTL_FAILED;
	}
	if (!ctl_print(s->options, s->answer))
		return ctl_print_failed();
	return c->verify ? verify_end((const void *)s->answer) : CTL_DONE;
}

static int session_run(struct session *s)
{
	bool watch = s->options->command->watch;
	int r = watch ? call_run(s) : list_run(s);

	if (r < 0) {
		fprintf(stderr, "mcmeshctl: %s\n", strerror(-r));
		return CTL_FAILED;
	}
	return watch ? watch_end(s) : answer_end(s);
}

/* An agent's unix socket needs none. */
static int tls_start(struct session *s)
{
	const struct ctl_options *o = s->options;
	const struct rpc_tls_options options = {
		.cacert = o->cacert, .cert = o->cert, .key = o->key, .server_name = o->server_name
	};
	char why[RPC_TLS_WHY_MAX];
	int r;

	if (o->command->agent || (!o->cacert && !o->cert && !o->key))
		return 0;
	r = rpc_tls_new(&options, &s->tls, why);
	if (r < 0)
		fprintf(stderr, "mcmeshctl: %s\n", why);
	return r;
}

int ctl_run(const struct ctl_options *options)
{
	struct session s = { .options = options };
	struct rpc_channel_options to = {
		.target = options->command->agent ? options->agent : options->controller,
	};
	int r;

	if (tls_start(&s) < 0)
		return CTL_FAILED;
	to.tls = s.tls;
	r = rpc_new(&s.rpc);
	if (r < 0)
		goto fail;
	r = rpc_channel_new(s.rpc, &to, &s.channel);
	if (r < 0)
		goto fail;
	r = -pthread_create(&s.thread, NULL, signal_thread, &s);
	if (r < 0)
		goto fail;
	r = session_run(&s);
	pthread_cancel(s.thread);
	pthread_join(s.thread, NULL);
	goto out;
fail:
	fprintf(stderr, "mcmeshctl: cannot start: %s\n", strerror(-r));
	r = CTL_FAILED;
out:
	rpc_channel_free(s.channel);
	rpc_free(s.rpc);
	rpc_tls_free(s.tls);
	if (s.answer)
		protobuf_c_message_free_unpacked(s.answer, NULL);
	free(s.text);
	return r;
}
