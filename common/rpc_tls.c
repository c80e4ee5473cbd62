/* SPDX-License-Identifier: Apache-2.0 */

/*
 * DOC: certificates that change under a running program
 *
 * An rpc_tls holds the contents of its files and what stat(2) said of them then.
 * Whoever needs the pair looks whether that changed (three system calls) and
 * reads again if so. gRPC asks from threads of its own, so one lock guards all.
 *
 * Files are replaced one after the other, and a certificate without its key is
 * no good for a moment. A pair that is refused is therefore told only when it is
 * still the same and still bad RPC_TLS_SETTLE_MS later.
 *
 * gRPC remembers for each listening address whether it has the latest pair, so
 * each has a `struct tls_user` with the version it was given.
 */
#include "common/rpc_tls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "common/rpc_internal.h"
#include "common/rpc_x509.h"

#define TLS_FILE_MAX	  (1u << 20)
#define RPC_TLS_SETTLE_MS 500
#define TLS_LOOK_MS	  1000
/* A certificate that ends sooner is told, once. */
#define TLS_WARN_S (24 * 3600)

enum { FILE_CACERT, FILE_CERT, FILE_KEY, FILES };

static const char *const file_names[FILES] = { "cacert", "cert", "key" };

/* Which state of the files: equal signatures, equal contents. */
struct tls_signature {
	struct {
		dev_t dev;
		ino_t ino;
		off_t size;
		struct timespec changed;
		int error;
	} file[FILES];
};

struct tls_pair {
	char *text[FILES]; /* NULL: not configured */
	int64_t not_after_s;
	bool exposed; /* the key can be read by others */
};

struct tls_user {
	struct tls_user *next;
	struct rpc_tls *tls;
	uint64_t version;
};

struct rpc_tls_held {
	struct rpc_tls_held *next;
	struct rpc_tls *tls;
};

struct rpc_tls {
	pthread_mutex_t lock;
	atomic_uint references;
	char *path[FILES], *server_name;
	bool server;
	void (*on_event)(void *userdata, bool bad, const char *sentence);
	void *userdata;

	struct tls_pair pair;
	uint64_t version; /* of pair; 0: there is none */
	struct tls_signature seen, refused;
	uint64_t refused_at_ms, looked_ms;
	bool has_refused, told_refused, told_end;
	char why[RPC_TLS_WHY_MAX];
	struct rpc_tls_counters counters;
	struct tls_user *users;
};

static void pair_deinit(struct tls_pair *pair)
{
	for (int i = 0; i < FILES; i++) {
		if (i == FILE_KEY && pair->text[i])
			explicit_bzero(pair->text[i], strlen(pair->text[i]));
		free(pair->text[i]);
	}
	*pair = (struct tls_pair){ 0 };
}

/* ---- files ------------------------------------------------------------------- */

static void signature_take(const struct rpc_tls *tls, struct tls_signature *ret)
{
	struct stat st;

	memset(ret, 0, sizeof(*ret)); /* compared by memcmp() */
	for (int i = 0; i < FILES; i++) {
		if (!tls->path[i])
			continue;
		if (stat(tls->path[i], &st) < 0) {
			ret->file[i].error = errno;
			continue;
		}
		ret->file[i].dev = st.st_dev;
		ret->file[i].ino = st.st_ino;
		ret->file[i].size = st.st_size;
		ret->file[i].changed = st.st_ctim;
	}
}

static bool signature_equal(const struct tls_signature *a, const struct tls_signature *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

static int file_refuse(const char *name, const char *path, int error, char *why)
{
	const char *advice = error == ENOENT   ? ": name the file that has it"
			     : error == EACCES ? ": let this program's user read it"
					       : "";

	snprintf(why, RPC_TLS_WHY_MAX, "%s %s cannot be read: %s%s", name, path, strerror(error),
		 advice);
	return -error;
}

static int file_read(const char *name, const char *path, char **ret_text, char *why)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	_cleanup_free_ char *text = NULL;
	struct stat st;
	ssize_t n;

	if (fd < 0)
		return file_refuse(name, path, errno, why);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > TLS_FILE_MAX) {
		snprintf(why, RPC_TLS_WHY_MAX, "%s %s is not a file of at most %u bytes", name,
			 path, TLS_FILE_MAX);
		return -EINVAL;
	}
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return file_refuse(name, path, ENOMEM, why);
	n = read(fd, text, (size_t)st.st_size);
	if (n < 0)
		return file_refuse(name, path, errno, why);
	text[n] = '\0';
	*ret_text = TAKE_PTR(text);
	return 0;
}

static int pair_read(const struct rpc_tls *tls, struct tls_pair *pair, char *why)
{
	struct rpc_x509_pair check = { .cacert_path = tls->path[FILE_CACERT],
				       .cert_path = tls->path[FILE_CERT],
				       .key_path = tls->path[FILE_KEY],
				       .server = tls->server };
	struct stat st;
	int r;

	for (int i = 0; i < FILES; i++) {
		if (!tls->path[i])
			continue;
		r = file_read(file_names[i], tls->path[i], &pair->text[i], why);
		if (r < 0)
			return r;
	}
	pair->exposed = tls->path[FILE_KEY] && stat(tls->path[FILE_KEY], &st) == 0 &&
			(st.st_mode & S_IROTH);
	check.cacert = pair->text[FILE_CACERT];
	check.cert = pair->text[FILE_CERT];
	check.key = pair->text[FILE_KEY];
	return rpc_x509_check(&check, &pair->not_after_s, why, RPC_TLS_WHY_MAX);
}

/* ---- the pair in force --------------------------------------------------------- */

static void tell(struct rpc_tls *tls, bool bad, const char *sentence)
{
	if (tls->on_event)
		tls->on_event(tls->userdata, bad, sentence);
}

static void pair_take(struct rpc_tls *tls, struct tls_pair *pair)
{
	char sentence[RPC_TLS_WHY_MAX];

	pair_deinit(&tls->pair);
	tls->pair = *pair;
	*pair = (struct tls_pair){ 0 };
	tls->why[0] = '\0';
	tls->told_end = false;
	if (tls->version++) {
		tls->counters.reloads++;
		snprintf(sentence, sizeof(sentence), "the TLS files were read again: %s",
			 tls->path[FILE_CERT] ?: tls->path[FILE_CACERT]);
		tell(tls, false, sentence);
	}
	if (!tls->pair.exposed)
		return;
	snprintf(sentence, sizeof(sentence),
		 "key %s can be read by every user of this machine: chmod o-r it",
		 tls->path[FILE_KEY]);
	tell(tls, true, sentence);
}

static void refused_tell(struct rpc_tls *tls)
{
	char sentence[RPC_TLS_WHY_MAX + 64];

	tls->told_refused = true;
	tls->counters.reloads_refused++;
	snprintf(sentence, sizeof(sentence), "%s%s", tls->why,
		 tls->version ? "; what was read before stays in force" : "");
	tell(tls, true, sentence);
}

/* Under the lock. */
static void tls_look(struct rpc_tls *tls)
{
	struct tls_signature now;
	struct tls_pair pair = { 0 };

	tls->looked_ms = rpc_now_ms();
	signature_take(tls, &now);
	if (tls->version && signature_equal(&now, &tls->seen)) {
		tls->has_refused = false;
		return;
	}
	if (tls->has_refused && signature_equal(&now, &tls->refused) && tls->told_refused &&
	    tls->version)
		return;
	/* Without a pair: time alone may make it good, or the clock. */
	if (pair_read(tls, &pair, tls->why) == 0) {
		tls->seen = now;
		tls->has_refused = false;
		pair_take(tls, &pair);
		return;
	}
	pair_deinit(&pair);
	if (!tls->has_refused || !signature_equal(&now, &tls->refused)) {
		tls->has_refused = true;
		tls->told_refused = false;
		tls->refused = now;
		tls->refused_at_ms = rpc_now_ms();
	} else if (!tls->told_refused && rpc_now_ms() - tls->refused_at_ms >= RPC_TLS_SETTLE_MS) {
		refused_tell(tls);
	}
}

static void end_look(struct rpc_tls *tls)
{
	int64_t left_s = tls->pair.not_after_s - (int64_t)time(NULL);
	char sentence[RPC_TLS_WHY_MAX];

	if (!tls->version || !tls->pair.not_after_s || tls->told_end || left_s > TLS_WARN_S)
		return;
	tls->told_end = true;
	snprintf(sentence, sizeof(sentence), "cert %s ends in %lld minutes: put a new one there",
		 tls->path[FILE_CERT], (long long)(left_s > 0 ? left_s / 60 : 0));
	tell(tls, true, sentence);
}

void rpc_tls_refresh(struct rpc_tls *tls)
{
	pthread_mutex_lock(&tls->lock);
	tls_look(tls);
	end_look(tls);
	pthread_mutex_unlock(&tls->lock);
}

void rpc_tls_why(struct rpc_tls *tls, char why[RPC_TLS_WHY_MAX])
{
	pthread_mutex_lock(&tls->lock);
	snprintf(why, RPC_TLS_WHY_MAX, "%s", tls->version ? "" : tls->why);
	pthread_mutex_unlock(&tls->lock);
}

struct rpc_tls_counters rpc_tls_counters(struct rpc_tls *tls)
{
	struct rpc_tls_counters counters;

	pthread_mutex_lock(&tls->lock);
	counters = tls->counters;
	pthread_mutex_unlock(&tls->lock);
	return counters;
}

/* ---- for gRPC ------------------------------------------------------------------ */

/* Before each handshake, from any thread. */
static grpc_ssl_certificate_config_reload_status pair_fetch(
	void *userdata, grpc_ssl_server_certificate_config **ret_config)
{
	grpc_ssl_certificate_config_reload_status status = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_FAIL;
	struct tls_user *user = userdata;
	struct rpc_tls *tls = user->tls;

	pthread_mutex_lock(&tls->lock);
	tls_look(tls);
	if (tls->version && tls->version == user->version) {
		status = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
	} else if (tls->version) {
		const grpc_ssl_pem_key_cert_pair pair = { tls->pair.text[FILE_KEY],
							  tls->pair.text[FILE_CERT] };

		*ret_config = grpc_ssl_server_certificate_config_create(tls->pair.text[FILE_CACERT],
									&pair, 1);
		user->version = tls->version;
		status = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
	}
	pthread_mutex_unlock(&tls->lock);
	return status;
}

grpc_server_credentials *rpc_tls_server_credentials(struct rpc_tls *tls)
{
	struct tls_user *user = calloc(1, sizeof(*user));

	if (!user)
		return NULL;
	user->tls = tls;
	pthread_mutex_lock(&tls->lock);
	user->next = tls->users;
	tls->users = user;
	pthread_mutex_unlock(&tls->lock);
	return grpc_ssl_server_credentials_create_with_options(
		grpc_ssl_server_credentials_create_options_using_config_fetcher(
			GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY, pair_fetch,
			user));
}

bool rpc_tls_is_newer(struct rpc_tls *tls, uint64_t version)
{
	uint64_t now_ms = rpc_now_ms();
	bool newer;

	pthread_mutex_lock(&tls->lock);
	if (now_ms >= tls->looked_ms + TLS_LOOK_MS)
		tls_look(tls);
	newer = tls->version > version;
	pthread_mutex_unlock(&tls->lock);
	return newer;
}

struct rpc_tls *rpc_tls_ref(struct rpc_tls *tls)
{
	atomic_fetch_add(&tls->references, 1);
	return tls;
}

grpc_channel_credentials *rpc_tls_channel_credentials(struct rpc_tls *tls, uint64_t *ret_version)
{
	grpc_channel_credentials *credentials = NULL;
	grpc_ssl_pem_key_cert_pair pair;

	pthread_mutex_lock(&tls->lock);
	tls_look(tls);
	pair = (grpc_ssl_pem_key_cert_pair){ tls->pair.text[FILE_KEY], tls->pair.text[FILE_CERT] };
	*ret_version = tls->version;
	if (tls->version)
		credentials = grpc_ssl_credentials_create_ex(
			tls->pair.text[FILE_CACERT], pair.private_key ? &pair : NULL, NULL, NULL);
	pthread_mutex_unlock(&tls->lock);
	return credentials;
}

const char *rpc_tls_server_name(const struct rpc_tls *tls)
{
	return tls->server_name;
}

/* ---- whose call it is ------------------------------------------------------------ */

struct rpc_known {
	struct rpc_identity *identity;
	size_t len;
	char pem[];
};

static size_t pem_slot(const char *pem, size_t len)
{
	uint32_t hash = 2166136261u; /* FNV-1a: who collides is read again, no more */

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ (uint8_t)pem[i]) * 16777619u;
	return hash % RPC_KNOWN_MAX;
}

static void known_free(struct rpc_known *known)
{
	if (!known)
		return;
	rpc_identity_free(known->identity);
	free(known);
}

static int identity_of(struct rpc *rpc, const char *pem, size_t len,
		       struct rpc_identity **ret_identity)
{
	struct rpc_known **slot = &rpc->known[pem_slot(pem, len)], *known = *slot;
	int r;

	if (!known || known->len != len || memcmp(known->pem, pem, len) != 0) {
		known = malloc(sizeof(*known) + len);
		if (!known)
			return -ENOMEM;
		r = rpc_x509_identity(pem, len, &known->identity);
		if (r < 0) {
			free(known);
			return r;
		}
		known->len = len;
		memcpy(known->pem, pem, len);
		known_free(*slot);
		*slot = known;
	}
	known->identity->references++;
	*ret_identity = known->identity;
	return 0;
}

int rpc_tls_identity(struct rpc *rpc, grpc_call *call, struct rpc_identity **ret_identity)
{
	grpc_auth_context *context = grpc_call_auth_context(call);
	grpc_auth_property_iterator it = grpc_auth_context_find_properties_by_name(
		context, GRPC_X509_PEM_CERT_PROPERTY_NAME);
	const grpc_auth_property *pem = grpc_auth_property_iterator_next(&it);
	int r = -ENOENT;

	if (pem)
		r = identity_of(rpc, pem->value, pem->value_length, ret_identity);
	grpc_auth_context_release(context);
	return r;
}

/* ---- life ---------------------------------------------------------------------- */

static int options_take(const struct rpc_tls_options *o, struct rpc_tls *tls)
{
	const char *const paths[FILES] = { o->cacert, o->cert, o->key };

	for (int i = 0; i < FILES; i++) {
		tls->path[i] = paths[i] ? strdup(paths[i]) : NULL;
		if (paths[i] && !tls->path[i])
			return -ENOMEM;
	}
	tls->server_name = o->server_name ? strdup(o->server_name) : NULL;
	return o->server_name && !tls->server_name ? -ENOMEM : 0;
}

int rpc_tls_new(const struct rpc_tls_options *options, struct rpc_tls **ret_tls,
		char why[RPC_TLS_WHY_MAX])
{
	struct rpc_tls *tls;
	int r = -EINVAL;

	if (!options->cacert || !options->cert != !options->key ||
	    (options->server && !options->cert)) {
		snprintf(why, RPC_TLS_WHY_MAX, "TLS needs cacert, cert and key: %s is missing",
			 !options->cacert ? "cacert"
			 : !options->cert ? "cert"
					  : "key");
		return -EINVAL;
	}
	snprintf(why, RPC_TLS_WHY_MAX, "out of memory");
	tls = calloc(1, sizeof(*tls));
	if (!tls)
		return -ENOMEM;
	pthread_mutex_init(&tls->lock, NULL);
	tls->references = 1;
	tls->server = options->server;
	tls->on_event = options->on_event;
	tls->userdata = options->userdata;
	if (options_take(options, tls) < 0) {
		rpc_tls_free(tls);
		return -ENOMEM;
	}
	tls_look(tls);
	snprintf(why, RPC_TLS_WHY_MAX, "%s", tls->why);
	if (!tls->version && !options->may_wait) {
		rpc_tls_free(tls);
		return r;
	}
	/* The caller has the sentence. */
	tls->told_refused = true;
	*ret_tls = tls;
	return 0;
}

void rpc_tls_free(struct rpc_tls *tls)
{
	struct tls_user *user;

	if (!tls || atomic_fetch_sub(&tls->references, 1) > 1)
		return;
	while ((user = tls->users)) {
		tls->users = user->next;
		free(user);
	}
	for (int i = 0; i < FILES; i++)
		free(tls->path[i]);
	free(tls->server_name);
	pair_deinit(&tls->pair);
	pthread_mutex_destroy(&tls->lock);
	free(tls);
}

int rpc_tls_hold(struct rpc *rpc, struct rpc_tls *tls)
{
	struct rpc_tls_held *held = malloc(sizeof(*held));

	if (!held)
		return -ENOMEM;
	*held = (struct rpc_tls_held){ rpc->held, rpc_tls_ref(tls) };
	rpc->held = held;
	return 0;
}

void rpc_tls_release(struct rpc *rpc)
{
	struct rpc_tls_held *held;

	for (size_t i = 0; i < RPC_KNOWN_MAX; i++)
		known_free(rpc->known[i]);
	while ((held = rpc->held)) {
		rpc->held = held->next;
		rpc_tls_free(held->tls);
		free(held);
	}
}
