/* SPDX-License-Identifier: Apache-2.0 */

/* Mutual TLS between a server and clients in one process; deploy/pki makes the files. */
#include "common/rpc_tls.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <ftw.h>
#include <mcmesh/v1/agent.pb-c.h>
#include <mcmesh/v1/node.pb-c.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/rpc.h"

#define WAIT_MS 20000
#define PATH	256

static struct {
	char dir[64];
	struct rpc *rpc;
	struct rpc_tls *tls; /* the server's */
	struct rpc_server *server;
	char target[64];
	/* what the server saw */
	int opened, closed;
	bool has_identity;
	char caller[256];
	/* what it says to a call */
	int refuse;
	/* events */
	int good, bad;
	char last[RPC_TLS_WHY_MAX];
} f;

struct result {
	int closed, status, messages;
	char text[256];
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

#define until(condition)                                                       \
	do {                                                                   \
		uint64_t _end = now_ms() + WAIT_MS;                            \
		while (!(condition)) {                                         \
			cr_assert_lt(now_ms(), _end, "never: %s", #condition); \
			if (f.rpc)                                             \
				rpc_poll(f.rpc, now_ms() + 20);                \
		}                                                              \
	} while (0)

__attribute__((format(printf, 1, 2))) static void pki(const char *format, ...)
{
	char arguments[512], line[1024];
	va_list ap;

	va_start(ap, format);
	vsnprintf(arguments, sizeof(arguments), format, ap);
	va_end(ap);
	snprintf(line, sizeof(line), "/usr/bin/python3 %s/deploy/pki/mcmesh-pki %s/%s", SOURCE_DIR,
		 f.dir, arguments);
	cr_assert_eq(system(line), 0, "%s", line);
}

static const char *path(const char *name)
{
	static char paths[8][PATH];
	static unsigned int at;
	char *p = paths[at++ % 8];

	snprintf(p, PATH, "%s/%s", f.dir, name);
	return p;
}

static void copy(const char *from, const char *to)
{
	char line[2 * PATH + 16], temporary[PATH];

	snprintf(temporary, sizeof(temporary), "%s.new", path(to));
	snprintf(line, sizeof(line), "cat %s > %s", path(from), temporary);
	cr_assert_eq(system(line), 0);
	cr_assert_eq(rename(temporary, path(to)), 0);
}

static void bundle(const char *one, const char *other, const char *to)
{
	char line[3 * PATH];

	snprintf(line, sizeof(line), "cat %s %s > %s", path(one), path(other), path(to));
	cr_assert_eq(system(line), 0);
}

static void on_event(void *userdata, bool bad, const char *sentence)
{
	*(bad ? &f.bad : &f.good) += 1;
	snprintf(f.last, sizeof(f.last), "%s", sentence);
}

static int load(const char *ca, const char *cert, const char *key, bool server,
		struct rpc_tls **ret_tls, char why[RPC_TLS_WHY_MAX])
{
	struct rpc_tls_options options = { .server = server, .on_event = on_event };

	options.cacert = ca ? path(ca) : NULL;
	options.cert = cert ? path(cert) : NULL;
	options.key = key ? path(key) : NULL;
	return rpc_tls_new(&options, ret_tls, why);
}

static void echo_open(struct rpc_call *call)
{
	const struct rpc_identity *identity = rpc_call_identity(call);

	f.opened++;
	f.has_identity = identity;
	if (identity)
		rpc_identity_describe(identity, f.caller, sizeof(f.caller));
}

static void echo_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	Mcmesh__V1__ControllerMessage out = MCMESH__V1__CONTROLLER_MESSAGE__INIT;

	if (message)
		rpc_call_send(call, &out.base);
	else
		rpc_call_finish(call, RPC_OK, NULL);
}

static void echo_close(struct rpc_call *call, int status, const char *text)
{
	f.closed++;
}

static int authorize(const struct rpc_call *call, const char *method, void *userdata,
		     char why[RPC_REFUSAL_MAX])
{
	cr_assert_str_eq(method, "/mcmesh.v1.NodeService/Sync");
	snprintf(why, RPC_REFUSAL_MAX, "not you");
	return f.refuse;
}

static const struct rpc_method methods[] = {
	{ .path = "/mcmesh.v1.NodeService/Sync",
	  .request = &mcmesh__v1__agent_message__descriptor,
	  .response = &mcmesh__v1__controller_message__descriptor,
	  .ops = { .on_message = echo_message, .on_close = echo_close },
	  .on_open = echo_open },
};

static void make_dir(void)
{
	memset(&f, 0, sizeof(f));
	umask(0077); /* keys are copied */
	snprintf(f.dir, sizeof(f.dir), "/tmp/mcmesh-tls-XXXXXX");
	cr_assert_not_null(mkdtemp(f.dir));
	pki("a ca");
	pki("a controller c1 --host 127.0.0.1 --host c1.mesh");
	pki("a node n1 --vtep 203.0.113.1 --vtep fd00::1");
	pki("b ca other");
	pki("b node n1");
	pki("b controller c1 --host 127.0.0.1");
}

static int remove_one(const char *name, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(name);
}

static void remove_dir(void)
{
	nftw(f.dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void up_plain(struct rpc_tls *tls)
{
	const char *listen[] = { "127.0.0.1:0", NULL };
	int port;
	struct rpc_server_options options = {
		.listen = listen, .ret_ports = &port, .tls = tls, .authorize = authorize
	};

	f.tls = tls;
	cr_assert_eq(rpc_new(&f.rpc), 0);
	cr_assert_eq(rpc_server_new(f.rpc, &options, &f.server), 0);
	rpc_server_add(f.server, methods, 1);
	cr_assert_eq(rpc_server_start(f.server), 0);
	snprintf(f.target, sizeof(f.target), "127.0.0.1:%d", port);
}

static void up(void)
{
	char why[RPC_TLS_WHY_MAX];
	struct rpc_tls *tls;

	make_dir();
	copy("a/c1.pem", "server.pem");
	copy("a/c1.key", "server.key");
	copy("a/ca.pem", "server.ca");
	cr_assert_eq(load("server.ca", "server.pem", "server.key", true, &tls, why), 0, "%s", why);
	up_plain(tls);
}

static void down(void)
{
	rpc_server_free(f.server);
	rpc_tls_free(f.tls);
	rpc_free(f.rpc);
	remove_dir();
}

static void client_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	((struct result *)rpc_call_userdata(call))->messages++;
}

static void client_close(struct rpc_call *call, int status, const char *text)
{
	struct result *r = rpc_call_userdata(call);

	r->closed++;
	r->status = status;
	snprintf(r->text, sizeof(r->text), "%s", text);
}

static const struct rpc_call_ops client_ops = { .on_message = client_message,
						.on_close = client_close };

static struct rpc_call *begin(struct rpc_channel *channel, struct result *r)
{
	Mcmesh__V1__AgentMessage m = MCMESH__V1__AGENT_MESSAGE__INIT;
	struct rpc_call *call;

	memset(r, 0, sizeof(*r));
	cr_assert_eq(rpc_channel_call(channel, "/mcmesh.v1.NodeService/Sync",
				      &mcmesh__v1__controller_message__descriptor, &client_ops,
				      WAIT_MS, r, &call),
		     0);
	rpc_call_send(call, &m.base);
	return call;
}

/* One message there and back; the status. */
static struct result exchange(struct rpc_tls *tls)
{
	struct rpc_channel_options options = { .target = f.target, .tls = tls };
	struct rpc_channel *channel;
	struct rpc_call *call;
	struct result r;

	cr_assert_eq(rpc_channel_new(f.rpc, &options, &channel), 0);
	call = begin(channel, &r);
	until(r.messages || r.closed);
	if (!r.closed)
		rpc_call_finish(call, RPC_OK, NULL);
	until(r.closed);
	rpc_channel_free(channel);
	return r;
}

/* The same on a channel that lives longer. */
static int exchange_on(struct rpc_channel *channel)
{
	struct rpc_call *call;
	struct result r;

	call = begin(channel, &r);
	until(r.messages || r.closed);
	if (!r.closed)
		rpc_call_finish(call, RPC_OK, NULL);
	until(r.closed);
	return r.status;
}

static struct result exchange_as(const char *ca, const char *cert, const char *key,
				 const char *server_name)
{
	struct rpc_tls_options options = { .server_name = server_name };
	char why[RPC_TLS_WHY_MAX];
	struct rpc_tls *tls;
	struct result r;

	options.cacert = path(ca);
	options.cert = cert ? path(cert) : NULL;
	options.key = key ? path(key) : NULL;
	cr_assert_eq(rpc_tls_new(&options, &tls, why), 0, "%s", why);
	r = exchange(tls);
	rpc_tls_free(tls);
	return r;
}

/* ---- files --------------------------------------------------------------------- */

static void refused(const char *ca, const char *cert, const char *key, bool server,
		    const char *sentence)
{
	char why[RPC_TLS_WHY_MAX];
	struct rpc_tls *tls;

	cr_assert_lt(load(ca, cert, key, server, &tls, why), 0, "no: %s", sentence);
	cr_assert_not_null(strstr(why, sentence), "not \"%s\" but \"%s\"", sentence, why);
}

Test(rpc_tls, files_that_are_no_good)
{
	char line[PATH * 3];

	make_dir();
	pki("a node late --seconds 1000 --since 500");
	pki("a node old --seconds -10 --since -1000");
	refused("a/ca.pem", "a/none.pem", "a/n1.key", false,
		"none.pem cannot be read: No such file or directory: name the file");
	refused(NULL, "a/n1.pem", "a/n1.key", false, "cacert is missing");
	refused("a/ca.pem", "a/n1.pem", NULL, false, "key is missing");
	refused("a/ca.pem", NULL, NULL, true, "cert is missing");
	refused("a/ca.key", "a/n1.pem", "a/n1.key", false, "ca.key holds no certificate in PEM");
	refused("a/ca.pem", "a/n1.key", "a/n1.key", false, "n1.key holds no certificate in PEM");
	refused("a/ca.pem", "a/n1.pem", "a/n1.pem", false, "n1.pem holds no private key in PEM");
	refused("a/ca.pem", "a/n1.pem", "a/c1.key", false,
		"c1.key does not belong to the certificate");
	refused("a/ca.pem", "a/old.pem", "a/old.key", false, "old.pem has expired (20");
	refused("a/ca.pem", "a/late.pem", "a/late.key", false, "late.pem is not valid before 20");
	refused("b/ca.pem", "a/n1.pem", "a/n1.key", false,
		"n1.pem is not signed by an authority in cacert");
	refused("a/ca.pem", "a/n1.pem", "a/n1.key", true, "n1.pem is not for a TLS server");
	refused("a", "a/n1.pem", "a/n1.key", true, "a is not a file of at most");
	snprintf(line, sizeof(line), "openssl pkey -in %s -aes128 -passout pass:x -out %s",
		 path("a/n1.key"), path("locked.key"));
	cr_assert_eq(system(line), 0);
	refused("a/ca.pem", "a/n1.pem", "locked.key", false, "locked.key has a passphrase");
	remove_dir();
}

Test(rpc_tls, key_that_others_can_read)
{
	char why[RPC_TLS_WHY_MAX];
	struct rpc_tls *tls;

	make_dir();
	cr_assert_eq(chmod(path("a/n1.key"), 0644), 0);
	cr_assert_eq(load("a/ca.pem", "a/n1.pem", "a/n1.key", false, &tls, why), 0);
	cr_assert_eq(f.bad, 1);
	cr_assert_not_null(strstr(f.last, "n1.key can be read by every user"));
	rpc_tls_free(tls);
	remove_dir();
}

/* An agent goes on without a pair, and takes it when it is there. */
Test(rpc_tls, pair_that_comes_later)
{
	struct rpc_tls_options options = { .may_wait = true, .on_event = on_event };
	struct rpc_channel_options to = { .target = "127.0.0.1:1" };
	struct rpc_channel *channel;
	char why[RPC_TLS_WHY_MAX];

	make_dir();
	options.cacert = path("a/ca.pem");
	options.cert = path("mine.pem");
	options.key = path("mine.key");
	cr_assert_eq(rpc_tls_new(&options, &to.tls, why), 0);
	cr_assert_not_null(strstr(why, "mine.pem cannot be read"));
	cr_assert_eq(rpc_new(&f.rpc), 0);
	cr_assert_eq(rpc_channel_new(f.rpc, &to, &channel), -ENOKEY);
	copy("a/n1.pem", "mine.pem");
	copy("a/n1.key", "mine.key");
	cr_assert_eq(rpc_channel_new(f.rpc, &to, &channel), 0);
	rpc_tls_why(to.tls, why);
	cr_assert_str_eq(why, "");
	rpc_channel_free(channel);
	rpc_free(f.rpc);
	rpc_tls_free(to.tls);
	remove_dir();
}

/* ---- calls --------------------------------------------------------------------- */

Test(rpc_tls, both_ends_know_each_other)
{
	struct result r;

	up();
	r = exchange_as("a/ca.pem", "a/n1.pem", "a/n1.key", NULL);
	cr_assert_eq(r.status, RPC_OK, "%s", r.text);
	cr_assert_eq(r.messages, 1);
	cr_assert_str_eq(f.caller, "n1 (n1, mcmesh://node/n1, 203.0.113.1, fd00::1)");
	down();
}

Test(rpc_tls, names_compare_by_kind)
{
	struct rpc_name names[] = { { RPC_NAME_DNS, (char *)"n1" },
				    { RPC_NAME_URI, (char *)"mcmesh://role/read" } };
	struct rpc_identity identity = { .names = names, .n_names = 2 };

	cr_assert(rpc_identity_has(&identity, RPC_NAME_DNS, "N1"));
	cr_assert(!rpc_identity_has(&identity, RPC_NAME_URI, "n1"));
	cr_assert(rpc_identity_has(&identity, RPC_NAME_URI, "mcmesh://role/read"));
	cr_assert(!rpc_identity_has(&identity, RPC_NAME_URI, "mcmesh://role/READ"));
	cr_assert(!rpc_identity_has(NULL, RPC_NAME_DNS, "n1"));
}

Test(rpc_tls, clients_without_rights_do_not_get_in)
{
	char why[RPC_TLS_WHY_MAX];
	struct rpc_tls *tls;
	uint64_t failed;
	struct result r;

	up();
	failed = rpc_handshakes_failed();
	r = exchange_as("a/ca.pem", NULL, NULL, NULL);
	cr_assert_eq(r.status, RPC_UNAVAILABLE, "%s", r.text);
	until(rpc_handshakes_failed() > failed);

	failed = rpc_handshakes_failed();
	bundle("a/ca.pem", "b/ca.pem", "both.ca");
	r = exchange_as("both.ca", "b/n1.pem", "b/n1.key", NULL);
	cr_assert_eq(r.status, RPC_UNAVAILABLE, "%s", r.text);
	until(rpc_handshakes_failed() > failed);

	failed = rpc_handshakes_failed();
	r = exchange(NULL);
	cr_assert_eq(r.status, RPC_UNAVAILABLE, "%s", r.text);
	until(rpc_handshakes_failed() > failed);
	cr_assert_eq(f.opened, 0);

	/* And the client does not trust just any server. */
	cr_assert_eq(load("b/ca.pem", "b/n1.pem", "b/n1.key", false, &tls, why), 0);
	r = exchange(tls);
	cr_assert_eq(r.status, RPC_UNAVAILABLE, "%s", r.text);
	rpc_tls_free(tls);
	r = exchange_as("a/ca.pem", "a/n1.pem", "a/n1.key", NULL);
	cr_assert_eq(r.status, RPC_OK, "%s", r.text);
	down();
}

Test(rpc_tls, server_must_have_the_name)
{
	struct result r;

	up();
	r = exchange_as("a/ca.pem", "a/n1.pem", "a/n1.key", "c2.mesh");
	cr_assert_eq(r.status, RPC_UNAVAILABLE, "%s", r.text);
	r = exchange_as("a/ca.pem", "a/n1.pem", "a/n1.key", "c1.mesh");
	cr_assert_eq(r.status, RPC_OK, "%s", r.text);
	down();
}

Test(rpc_tls, tls_to_a_plaintext_server)
{
	struct result r;

	make_dir();
	up_plain(NULL);
	r = exchange_as("a/ca.pem", "a/n1.pem", "a/n1.key", NULL);
	cr_assert_eq(r.status, RPC_UNAVAILABLE, "%s", r.text);
	r = exchange(NULL);
	cr_assert_eq(r.status, RPC_OK, "%s", r.text);
	cr_assert(!f.has_identity);
	down();
}

Test(rpc_tls, authorize_has_the_last_word)
{
	struct result r;

	up();
	f.refuse = RPC_PERMISSION_DENIED;
	r = exchange_as("a/ca.pem", "a/n1.pem", "a/n1.key", NULL);
	cr_assert_eq(r.status, RPC_PERMISSION_DENIED);
	cr_assert_str_eq(r.text, "not you");
	cr_assert_eq(f.opened, 0);
	down();
}

Test(rpc_tls, one_certificate_does_not_take_every_stream)
{
	enum { ASKED = 230, MAY = 192 };
	struct rpc_channel_options to = { 0 };
	static struct rpc_call *calls[ASKED];
	static struct result results[ASKED];
	struct rpc_channel *channel;
	char why[RPC_TLS_WHY_MAX];
	unsigned int open = 0;

	up();
	pki("a node n2");
	to.target = f.target;
	cr_assert_eq(load("a/ca.pem", "a/n1.pem", "a/n1.key", false, &to.tls, why), 0);
	cr_assert_eq(rpc_channel_new(f.rpc, &to, &channel), 0);
	rpc_tls_free(to.tls);
	for (size_t i = 0; i < ASKED; i++)
		calls[i] = begin(channel, &results[i]);
	for (size_t i = 0; i < ASKED; i++) {
		until(results[i].messages || results[i].closed);
		open += !results[i].closed;
		cr_assert(!results[i].closed || results[i].status == RPC_RESOURCE_EXHAUSTED);
	}
	cr_assert_eq(open, MAY);
	cr_assert_eq(rpc_server_counters(f.server).flooded, ASKED - MAY);
	cr_assert_eq(exchange_as("a/ca.pem", "a/n2.pem", "a/n2.key", NULL).status, RPC_OK);
	cr_assert_eq(exchange_on(channel), RPC_RESOURCE_EXHAUSTED);
	/* What is over counts no more. */
	for (size_t i = 0; i < ASKED; i++) {
		if (results[i].closed)
			continue;
		rpc_call_finish(calls[i], RPC_OK, NULL);
		until(results[i].closed);
	}
	until(f.closed == f.opened);
	cr_assert_eq(exchange_on(channel), RPC_OK);
	rpc_channel_free(channel);
	down();
}

Test(rpc_tls, a_channel_goes_on_with_new_files)
{
	struct rpc_channel_options to = { .target = f.target };
	struct rpc_channel *channel;
	char why[RPC_TLS_WHY_MAX];
	int status;

	up();
	copy("a/ca.pem", "mine.ca");
	copy("a/n1.pem", "mine.pem");
	copy("a/n1.key", "mine.key");
	cr_assert_eq(load("mine.ca", "mine.pem", "mine.key", false, &to.tls, why), 0);
	cr_assert_eq(rpc_channel_new(f.rpc, &to, &channel), 0);
	rpc_tls_free(to.tls);
	cr_assert_eq(exchange_on(channel), RPC_OK);
	copy("b/c1.pem", "server.pem");
	copy("b/c1.key", "server.key");
	copy("b/ca.pem", "server.ca");
	copy("b/n1.pem", "mine.pem");
	copy("b/n1.key", "mine.key");
	copy("b/ca.pem", "mine.ca");
	/* First the client reads its files, then the server for the new connection. */
	until((status = exchange_on(channel)) != RPC_OK || f.good == 2);
	cr_assert_eq(status, RPC_OK);
	cr_assert_eq(exchange_on(channel), RPC_OK);
	cr_assert_str_eq(f.caller, "n1 (n1, mcmesh://node/n1)");
	rpc_channel_free(channel);
	down();
}

/* ---- time ---------------------------------------------------------------------- */

static bool told(void)
{
	rpc_tls_refresh(f.tls);
	return f.bad > 0;
}

Test(rpc_tls, rotation_under_a_stream)
{
	Mcmesh__V1__AgentMessage again = MCMESH__V1__AGENT_MESSAGE__INIT;
	struct rpc_channel_options to = { .target = f.target };
	struct rpc_channel *channel;
	char why[RPC_TLS_WHY_MAX];
	struct rpc_call *call;
	struct result old, r;

	up();
	cr_assert_eq(load("a/ca.pem", "a/n1.pem", "a/n1.key", false, &to.tls, why), 0);
	cr_assert_eq(rpc_channel_new(f.rpc, &to, &channel), 0);
	call = begin(channel, &old);
	until(old.messages == 1);

	/* Half a pair changes nothing, is told once, and who comes still gets in. */
	copy("b/c1.pem", "server.pem");
	until(told());
	cr_assert_not_null(strstr(f.last, "server.key does not belong to the certificate"));
	cr_assert_not_null(strstr(f.last, "stays in force"));
	rpc_tls_refresh(f.tls);
	cr_assert_eq(f.bad, 1);
	cr_assert_eq(rpc_tls_counters(f.tls).reloads_refused, 1);
	r = exchange_as("a/ca.pem", "a/n1.pem", "a/n1.key", NULL);
	cr_assert_eq(r.status, RPC_OK, "%s", r.text);

	/* The whole of another authority: who has its certificates gets in, others not. */
	copy("b/c1.key", "server.key");
	copy("b/ca.pem", "server.ca");
	r = exchange_as("b/ca.pem", "b/n1.pem", "b/n1.key", NULL);
	cr_assert_eq(r.status, RPC_OK, "%s", r.text);
	r = exchange_as("a/ca.pem", "a/n1.pem", "a/n1.key", NULL);
	cr_assert_eq(r.status, RPC_UNAVAILABLE, "%s", r.text);
	cr_assert_eq(rpc_tls_counters(f.tls).reloads, 1);
	cr_assert_eq(f.bad, 1);

	/* The stream of before goes on. */
	cr_assert_eq(old.closed, 0, "%s", old.text);
	rpc_call_send(call, &again.base);
	until(old.messages == 2);
	rpc_call_finish(call, RPC_OK, NULL);
	until(old.closed);
	cr_assert_eq(old.status, RPC_OK);
	rpc_channel_free(channel);
	rpc_tls_free(to.tls);
	down();
}

Test(rpc_tls, streams_end_with_their_certificate)
{
	struct rpc_channel_options to = { .target = f.target };
	struct rpc_channel *channel;
	char why[RPC_TLS_WHY_MAX];
	struct result r;

	up();
	pki("a node brief --seconds 6");
	cr_assert_eq(load("a/ca.pem", "a/brief.pem", "a/brief.key", false, &to.tls, why), 0);
	cr_assert_eq(rpc_channel_new(f.rpc, &to, &channel), 0);
	begin(channel, &r);
	until(r.messages == 1);
	cr_assert_eq(r.closed, 0);
	until(r.closed);
	cr_assert_eq(r.status, RPC_UNAUTHENTICATED);
	cr_assert_str_eq(r.text, "the certificate of brief has expired: connect with a new one");
	/* The connection is still there; a call on it is not worth more. */
	begin(channel, &r);
	until(r.closed);
	cr_assert_eq(r.status, RPC_UNAUTHENTICATED, "%s", r.text);
	cr_assert_eq(rpc_server_counters(f.server).expired, 2);
	rpc_channel_free(channel);
	rpc_tls_free(to.tls);
	down();
}
