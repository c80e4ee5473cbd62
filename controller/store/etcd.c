/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: etcd as the store of several controllers
 *
 *	meta                       format, epoch, cluster        of all
 *	complete                   the epoch's log is whole
 *	compact                    how far back history goes
 *	node/N                     VTEP                          rows of the log,
 *	member/N/SEGMENT/GROUP     filter                        values as in codec.h
 *	static/N/PORT/GROUP        filter
 *	config/SEGMENT             settings
 *	live/N                     who may speak for N           not rows
 *	drain/N                    an operator drains N
 *	vtep/ADDRESS               the node whose VTEP it is (etcd_vtep.c)
 *	controller/ID              leased: this controller lives
 *
 * The log's revision is etcd's mod_revision. What is not a row takes revisions
 * too, so the log's have gaps. Memory changes only by the watch (etcd_watch.c),
 * also by what was written here: an operation is done when the watch has shown
 * it. Writes are chained by live/N (etcd_ops.c); nothing but controller/ID is
 * leased, so the death of a controller changes one key and withdraws nothing.
 *
 * Start. Rows are read as of an old revision (the last compaction, bounded), and
 * the watch replays from there to now: so deletions since then are known, and
 * agents that were somewhere in between get what they missed, no snapshots.
 * When that history is gone, the rows are read as of now.
 *
 * Another epoch begins when `meta` is not there, when the cluster is not the one
 * in which the epoch began (a restored copy), and when etcd is at a lower
 * revision than a controller or an agent has seen. Whoever finds it writes
 * `meta`, compared with what it was; all controllers see that and begin anew.
 *
 * Progress is a beat that comes back by the watch (etcd_beat.c). Without any for
 * ETCD_PROGRESS_MS the controller is out of the game: it sheds its agents.
 *
 * One thread, the controller's; open and load run the RPC loop themselves,
 * before anything is served.
 */
#include <errno.h>
#include <inttypes.h>
#include <sodium/randombytes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "controller/store/etcd_internal.h"

#define RANGE_PATH     "/etcdserverpb.KV/Range"
#define TXN_PATH       "/etcdserverpb.KV/Txn"
#define DEFAULT_PREFIX "/mcmesh/"

uint64_t etcd_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void etcd_trouble(struct etcd *e, const char *format, ...)
{
	va_list ap;

	if (e->broken && e->store.trouble)
		return; /* that one stays */
	va_start(ap, format);
	vsnprintf(e->trouble, sizeof(e->trouble), format, ap);
	va_end(ap);
	if (!e->trouble[0]) {
		e->store.trouble = NULL;
		return;
	}
	if (!e->store.trouble)
		e->store.trouble_since_ms = etcd_now_ms();
	e->store.trouble = e->trouble;
}

void etcd_lost(struct etcd *e, const char *why)
{
	if (e->lost)
		return;
	e->lost = true;
	if (e->store.events.on_lost)
		e->store.events.on_lost(e->store.userdata, why);
}

/* ---- reads that open and load wait for ------------------------------------------------ */

struct answer {
	const ProtobufCMessageDescriptor *type;
	ProtobufCMessage *message;
	bool done;
	int status;
	char text[ETCD_WHY_MAX];
};

static void answer_take(void *userdata, int status, const char *text,
			const ProtobufCMessage *message)
{
	struct answer *a = userdata;
	uint8_t *bytes;
	size_t len;

	a->done = true;
	a->status = status;
	snprintf(a->text, sizeof(a->text), "%s", text);
	if (!message)
		return;
	/* It lives only here. */
	len = protobuf_c_message_get_packed_size(message);
	bytes = malloc(len + 1);
	if (bytes) {
		protobuf_c_message_pack(message, bytes);
		a->message = protobuf_c_message_unpack(a->type, NULL, len, bytes);
	}
	free(bytes);
	if (!a->message)
		a->status = RPC_RESOURCE_EXHAUSTED;
}

static void turn(struct etcd *e, uint64_t end_ms)
{
	uint64_t now_ms = etcd_now_ms(), next_ms;

	store_dispatch(&e->store, now_ms);
	next_ms = store_next_ms(&e->store);
	rpc_poll(e->rpc, next_ms < end_ms ? next_ms : end_ms);
}

/* One call, on whichever member answers, until end_ms. NULL: *why says it. A
 * status other than RPC_UNAVAILABLE and the like is an answer too. */
static ProtobufCMessage *ask(struct etcd *e, const char *path, const ProtobufCMessage *request,
			     const ProtobufCMessageDescriptor *type, uint64_t end_ms,
			     int *ret_status, char why[STORE_WHY_MAX])
{
	struct answer a = { .type = type };

	while (etcd_now_ms() < end_ms) {
		if (!etcd_client_is_ready(e->client)) {
			turn(e, end_ms);
			continue;
		}
		a.done = false;
		if (etcd_client_call(e->client, path, request, type, answer_take, &a) < 0)
			break;
		while (!a.done)
			turn(e, etcd_now_ms() + ETCD_CALL_MS);
		if (a.message || a.status == RPC_OUT_OF_RANGE ||
		    a.status == RPC_PERMISSION_DENIED || a.status == RPC_FAILED_PRECONDITION ||
		    a.status == RPC_INVALID_ARGUMENT)
			break;
	}
	if (ret_status)
		*ret_status = a.message ? RPC_OK : a.status;
	if (!a.message)
		snprintf(why, STORE_WHY_MAX, "the store does not answer: %s",
			 a.text[0]			 ? a.text
			 : etcd_client_why(e->client)[0] ? etcd_client_why(e->client)
							 : "no member of etcd could be reached");
	return a.message;
}

static Etcdserverpb__RangeResponse *get(struct etcd *e, const char *word, uint64_t end_ms,
					char why[STORE_WHY_MAX])
{
	Etcdserverpb__RangeRequest q = ETCDSERVERPB__RANGE_REQUEST__INIT;
	char key[ETCD_KEY_MAX];

	etcd_key(e, key, "%s", word);
	q.key = etcd_bytes(key);
	return (Etcdserverpb__RangeResponse *)ask(e, RANGE_PATH, &q.base,
						  &etcdserverpb__range_response__descriptor, end_ms,
						  NULL, why);
}

/* ---- opening --------------------------------------------------------------------------- */

static int meta_put(struct etcd *e, uint64_t mod, uint64_t end_ms, char why[STORE_WHY_MAX])
{
	struct etcd_epoch_txn txn;
	ProtobufCMessage *a;

	etcd_epoch_txn_init(&txn, e, mod);
	a = ask(e, TXN_PATH, &txn.request.base, &etcdserverpb__txn_response__descriptor, end_ms,
		NULL, why);
	if (!a)
		return -EHOSTUNREACH;
	/* Whoever was first: what is there now counts. */
	protobuf_c_message_free_unpacked(a, NULL);
	return 0;
}

static int meta_take(struct etcd *e, const Etcdserverpb__KeyValue *kv, char why[STORE_WHY_MAX])
{
	Mcmesh__Store__Meta *m = etcd_unpack(&mcmesh__store__meta__descriptor, &kv->value);
	int r = -EAGAIN;

	if (!m || m->epoch.len != EPOCH_LEN || !m->format) {
		snprintf(why, STORE_WHY_MAX,
			 "the key %smeta in etcd is not this program's: use another etcd.prefix",
			 e->prefix);
		r = -EBADMSG;
	} else if (m->format > ETCD_FORMAT) {
		snprintf(why, STORE_WHY_MAX,
			 "etcd has the data of a newer version: upgrade this controller");
		r = -ENOTSUP;
	} else if (m->cluster_id == e->cluster_id) {
		memcpy(e->store.epoch, m->epoch.data, EPOCH_LEN);
		e->meta_mod = (uint64_t)kv->mod_revision;
		r = 0;
	}
	if (m)
		mcmesh__store__meta__free_unpacked(m, NULL);
	return r;
}

/* Which log this is; begins it when there is none, or when the cluster is another. */
static int meta_open(struct etcd *e, uint64_t end_ms, char why[STORE_WHY_MAX])
{
	Etcdserverpb__RangeResponse *a;
	uint64_t mod;
	int r;

	do {
		a = get(e, "meta", end_ms, why);
		if (!a)
			return -EHOSTUNREACH;
		e->cluster_id = a->header->cluster_id;
		e->store.revision = (uint64_t)a->header->revision;
		mod = a->n_kvs ? (uint64_t)a->kvs[0]->mod_revision : 0;
		r = a->n_kvs ? meta_take(e, a->kvs[0], why) : -EAGAIN;
		etcdserverpb__range_response__free_unpacked(a, NULL);
		if (r == -EAGAIN && meta_put(e, mod, end_ms, why) < 0)
			return -EHOSTUNREACH;
	} while (r == -EAGAIN);
	return r;
}

static int complete_open(struct etcd *e, uint64_t end_ms, char why[STORE_WHY_MAX])
{
	Etcdserverpb__RangeResponse *a = get(e, "complete", end_ms, why);
	Mcmesh__Store__Complete *m;

	if (!a)
		return -EHOSTUNREACH;
	m = a->n_kvs ? etcd_unpack(&mcmesh__store__complete__descriptor, &a->kvs[0]->value) : NULL;
	e->store.is_fresh = !m || m->epoch.len != EPOCH_LEN ||
			    memcmp(m->epoch.data, e->store.epoch, EPOCH_LEN) != 0;
	if (m)
		mcmesh__store__complete__free_unpacked(m, NULL);
	etcdserverpb__range_response__free_unpacked(a, NULL);
	return 0;
}

/* 0, -ERANGE when etcd does not reach back so far, or another failure. */
static int floor_try(struct etcd *e, uint64_t revision, uint64_t end_ms, char why[STORE_WHY_MAX])
{
	Etcdserverpb__RangeRequest q = ETCDSERVERPB__RANGE_REQUEST__INIT;
	ProtobufCMessage *a;
	int status;

	q.key = etcd_bytes(e->prefix);
	q.revision = (int64_t)revision;
	a = ask(e, RANGE_PATH, &q.base, &etcdserverpb__range_response__descriptor, end_ms, &status,
		why);
	if (!a)
		return status == RPC_OUT_OF_RANGE ? -ERANGE : -EHOSTUNREACH;
	protobuf_c_message_free_unpacked(a, NULL);
	return 0;
}

/* As large a transaction as the largest of ours, which only reads. */
static int limits_open(struct etcd *e, uint64_t end_ms, char why[STORE_WHY_MAX])
{
	Etcdserverpb__TxnRequest q = ETCDSERVERPB__TXN_REQUEST__INIT;
	Etcdserverpb__RequestOp op = ETCDSERVERPB__REQUEST_OP__INIT, *ops[ETCD_TXN_OPS];
	Etcdserverpb__RangeRequest range = ETCDSERVERPB__RANGE_REQUEST__INIT;
	char key[ETCD_KEY_MAX];
	ProtobufCMessage *a;
	int status;

	etcd_key(e, key, "meta");
	range.key = etcd_bytes(key);
	op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
	op.request_range = &range;
	for (size_t i = 0; i < ETCD_TXN_OPS; i++)
		ops[i] = &op;
	q.success = ops;
	q.n_success = ETCD_TXN_OPS;
	a = ask(e, TXN_PATH, &q.base, &etcdserverpb__txn_response__descriptor, end_ms, &status,
		why);
	if (a) {
		protobuf_c_message_free_unpacked(a, NULL);
		return 0;
	}
	if (status == RPC_INVALID_ARGUMENT)
		snprintf(why, STORE_WHY_MAX, ETCD_TXN_SENTENCE, ETCD_TXN_OPS);
	return -EHOSTUNREACH;
}

/* How far back the load goes. */
static int floor_open(struct etcd *e, uint64_t end_ms, char why[STORE_WHY_MAX])
{
	Etcdserverpb__RangeResponse *a = get(e, "compact", end_ms, why);
	uint64_t floor = e->meta_mod;
	Mcmesh__Store__Compacted *m;
	int r;

	if (!a)
		return -EHOSTUNREACH;
	m = a->n_kvs ? etcd_unpack(&mcmesh__store__compacted__descriptor, &a->kvs[0]->value) : NULL;
	if (m) {
		floor = m->revision > floor ? m->revision : floor;
		e->compacted = m->revision;
		mcmesh__store__compacted__free_unpacked(m, NULL);
	}
	etcdserverpb__range_response__free_unpacked(a, NULL);
	if (e->store.revision > floor + ETCD_HISTORY_MAX)
		floor = e->store.revision - ETCD_HISTORY_MAX;
	r = floor_try(e, floor, end_ms, why);
	if (r == -ERANGE) {
		floor = e->store.revision;
		r = floor_try(e, floor, end_ms, why);
	}
	e->store.floor = floor;
	return r;
}

static void on_ready(void *userdata)
{
	struct etcd *e = userdata;

	if (e->loaded)
		etcd_watch_open(e);
}

static void on_gone(void *userdata)
{
	struct etcd *e = userdata;

	etcd_watch_close(e);
	etcd_beat_gone(e);
}

static int prefix_take(struct etcd *e, const char *prefix, char why[STORE_WHY_MAX])
{
	e->prefix_len = strlen(prefix);
	if (e->prefix_len && e->prefix_len < sizeof(e->prefix) &&
	    prefix[e->prefix_len - 1] == '/') {
		memcpy(e->prefix, prefix, e->prefix_len + 1);
		return 0;
	}
	snprintf(why, STORE_WHY_MAX,
		 "etcd.prefix must end with a slash and have at most %d characters",
		 ETCD_PREFIX_MAX - 1);
	return -EINVAL;
}

static int client_new(struct etcd *e, const struct store_options *options, const char *endpoints,
		      char why[STORE_WHY_MAX])
{
	static const struct store_etcd_options none;
	const struct store_etcd_options *o = options->etcd ?: &none;
	struct etcd_client_options client = { .rpc = options->rpc,
					      .endpoints = endpoints,
					      .tls = o->tls,
					      .user = o->user,
					      .password_file = o->password_file,
					      .on_ready = on_ready,
					      .on_gone = on_gone,
					      .userdata = e };
	int r = prefix_take(e, o->prefix ?: DEFAULT_PREFIX, why);
	char key[ETCD_KEY_MAX];

	if (r < 0)
		return r;
	etcd_key(e, key, "meta");
	client.probe_key = key;
	return etcd_client_new(&client, &e->client, why);
}

static void etcd_free(struct etcd *e)
{
	etcd_beat_gone(e);
	etcd_watch_free(e);
	etcd_client_free(e->client);
	etcd_ops_free(e);
	free(e);
}

static int etcd_open(const struct store_options *options, const char *rest,
		     const struct store_events *events, void *userdata, struct store **ret_store,
		     char why[STORE_WHY_MAX])
{
	uint64_t end_ms = etcd_now_ms() + ETCD_OPEN_MS;
	struct etcd *e = calloc(1, sizeof(*e));
	int r;

	snprintf(why, STORE_WHY_MAX, "out of memory");
	if (!e)
		return -ENOMEM;
	e->store.ops = &store_etcd_ops;
	e->store.events = *events;
	e->store.userdata = userdata;
	e->rpc = options->rpc;
	TAILQ_INIT(&e->active);
	TAILQ_INIT(&e->batches);
	snprintf(e->address, sizeof(e->address), "%s", options->advertise ?: "");
	snprintf(e->id, sizeof(e->id), "%08x%08x", randombytes_random(), randombytes_random());
	r = client_new(e, options, rest, why);
	if (r == 0)
		r = meta_open(e, end_ms, why);
	if (r == 0)
		r = limits_open(e, end_ms, why);
	if (r == 0)
		r = complete_open(e, end_ms, why);
	if (r == 0)
		r = floor_open(e, end_ms, why);
	if (r < 0) {
		etcd_free(e);
		return r;
	}
	*ret_store = &e->store;
	return 0;
}

/* ---- loading ---------------------------------------------------------------------------- */

static int by_revision(const void *a, const void *b)
{
	uint64_t x = ((const struct etcd_row *)a)->revision;
	uint64_t y = ((const struct etcd_row *)b)->revision;

	return (x > y) - (x < y);
}

/* The rows that were read come in the order of keys. */
static void rows_tell(struct etcd *e)
{
	struct etcd_rows *g = &e->gathered;
	size_t n;

	if (g->n)
		qsort(g->rows, g->n, sizeof(*g->rows), by_revision);
	for (size_t i = 0; i < g->n; i += n) {
		for (n = 1; i + n < g->n && g->rows[i + n].revision == g->rows[i].revision; n++)
			;
		etcd_rows_tell(e, g->rows + i, n);
	}
	etcd_rows_clear(g);
}

/* All that lived at the floor, page by page. */
static int rows_load(struct etcd *e, uint64_t end_ms, char why[STORE_WHY_MAX])
{
	Etcdserverpb__RangeRequest q = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__RangeResponse *a;
	char end[ETCD_PREFIX_MAX], from[ETCD_KEY_MAX + 1];
	bool more = true;

	memcpy(end, e->prefix, e->prefix_len + 1);
	end[e->prefix_len - 1]++;
	memcpy(from, e->prefix, e->prefix_len + 1);
	q.key = etcd_bytes(from);
	q.range_end = etcd_bytes(end);
	q.limit = ETCD_PAGE;
	q.revision = (int64_t)e->store.floor;
	while (more) {
		a = (Etcdserverpb__RangeResponse *)ask(e, RANGE_PATH, &q.base,
						       &etcdserverpb__range_response__descriptor,
						       end_ms, NULL, why);
		if (!a)
			return -EHOSTUNREACH;
		for (size_t i = 0; i < a->n_kvs; i++)
			etcd_apply(e, a->kvs[i], false);
		more = a->more && a->n_kvs && a->kvs[a->n_kvs - 1]->key.len < sizeof(from) - 1;
		if (more) {
			q.key = a->kvs[a->n_kvs - 1]->key;
			/* The next key there can be. */
			memcpy(from, q.key.data, q.key.len);
			from[q.key.len] = 0;
			q.key.data = (uint8_t *)from;
			q.key.len++;
		}
		etcdserverpb__range_response__free_unpacked(a, NULL);
	}
	return 0;
}

/* Until a beat of ours comes back: everything before it is known then. */
static int history_load(struct etcd *e, uint64_t end_ms, char why[STORE_WHY_MAX])
{
	e->store.revision = e->store.floor;
	e->loaded = true; /* from now on each connection watches */
	e->progress_ms = 0;
	e->moved_ms = etcd_now_ms();
	e->stall_ms = 4 * ETCD_STALL_MS;
	if (etcd_client_is_ready(e->client))
		etcd_watch_open(e);
	while (!e->progress_ms && !e->lost && !e->broken && etcd_now_ms() < end_ms)
		turn(e, end_ms);
	if (e->progress_ms && !e->lost && !e->broken)
		return 0;
	snprintf(why, STORE_WHY_MAX, "the store does not follow: %s",
		 e->lost			 ? "its log changed meanwhile, start again"
		 : e->trouble[0]		 ? e->trouble
		 : etcd_client_why(e->client)[0] ? etcd_client_why(e->client)
						 : "etcd shows no changes");
	return -EHOSTUNREACH;
}

static int etcd_load(struct store *store, char why[STORE_WHY_MAX])
{
	struct etcd *e = (struct etcd *)store;
	uint64_t end_ms = etcd_now_ms() + ETCD_LOAD_MS;
	struct etcd_holder *h, *tmp;
	int r;

	r = rows_load(e, end_ms, why);
	if (r < 0)
		return r;
	rows_tell(e);
	r = history_load(e, end_ms, why);
	if (r < 0)
		return r;
	HASH_ITER (hh, e->holders, h, tmp)
		h->dirty = true;
	e->told = true;
	e->presence_dirty = true;
	etcd_presence_tell(e);
	return 0;
}

/* ---- running ---------------------------------------------------------------------------- */

static bool etcd_is_serving(const struct store *store, uint64_t now_ms)
{
	const struct etcd *e = (const struct etcd *)store;

	return !e->broken && now_ms < e->progress_ms + ETCD_PROGRESS_MS;
}

static void etcd_close(struct store *store)
{
	struct etcd *e = (struct etcd *)store;
	uint64_t end_ms = etcd_now_ms() + ETCD_CLOSE_MS;

	/* What was asked gets its chance. */
	while (e->n_ops && !e->lost && etcd_is_serving(store, etcd_now_ms()) &&
	       etcd_now_ms() < end_ms)
		turn(e, end_ms);
	e->lost = true; /* nothing more is told */
	etcd_ops_end(e);
	etcd_beat_revoke(e);
	etcd_free(e);
}

static void etcd_dispatch(struct store *store, uint64_t now_ms)
{
	struct etcd *e = (struct etcd *)store;

	e->next_ms = etcd_client_turn(e->client, now_ms);
	if (e->lost)
		return;
	e->beat_next_ms = etcd_beat_turn(e, now_ms);
	e->ops_next_ms = etcd_ops_turn(e, now_ms);
}

static uint64_t etcd_next_ms(const struct store *store)
{
	const struct etcd *e = (const struct etcd *)store;
	uint64_t next_ms = e->next_ms;

	next_ms = e->beat_next_ms < next_ms ? e->beat_next_ms : next_ms;
	return e->ops_next_ms < next_ms ? e->ops_next_ms : next_ms;
}

const struct store_ops store_etcd_ops = {
	.scheme = "etcd",
	.open = etcd_open,
	.close = etcd_close,
	.load = etcd_load,
	.session = etcd_session,
	.commit = etcd_commit,
	.dispatch = etcd_dispatch,
	.next_ms = etcd_next_ms,
	.complete = etcd_complete,
	.publish = etcd_publish,
	.drain = etcd_drain,
	.is_serving = etcd_is_serving,
	.ahead = etcd_ahead,
	.controllers = etcd_controllers,
	.has_vtep = etcd_has_vtep,
};
