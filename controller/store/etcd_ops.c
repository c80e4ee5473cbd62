/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes. Each belongs to a node (or to none: "") and waits until those before
 * it are done; done means: etcd has it, and the watch has shown it here.
 *
 * What is written in a node's name writes `live/NODE` too and compares its
 * mod_revision with the last one known, so that the writes of a node are a
 * chain: each link fits once, and only where the writer knew the link before
 * it. Another session, another controller or a removal ends the chain. When an
 * answer does not come, the same link is tried again; if it does not fit and
 * the last write is this one, it was in.
 *
 * Every transaction costs the members of etcd an agreement and a write to the
 * disk, so links of several nodes share one: what is asked while the few that are
 * on their way are all that may be. If one link does not fit, none is in; the
 * answer tells which it was, and the others go again without it.
 *
 * A large commit is several links; only the last says its sequence. A removal
 * deletes live/NODE with its first transaction and goes on for as long as
 * there is none, so a node that comes back stops it.
 */
#include "controller/store/etcd_ops.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "controller/store/codec.h"

#define TXN_PATH "/etcdserverpb.KV/Txn"

static void op_free(struct etcd_op *op)
{
	for (size_t i = 0; i < op->n_items; i++) {
		free(op->items[i].key);
		free(op->items[i].value);
	}
	free(op->items);
	free(op);
}

static struct etcd_op *op_new(struct etcd *e, enum op_kind kind, const char *node)
{
	struct etcd_op *op = calloc(1, sizeof(*op));

	if (!op)
		return NULL;
	op->e = e;
	op->kind = kind;
	op->deadline_ms = etcd_now_ms() + ETCD_OP_MS;
	op->holder = etcd_holder_get(e, node);
	if (op->holder)
		return op;
	free(op);
	return NULL;
}

/* One that was never started. */
static void op_drop(struct etcd_op *op)
{
	etcd_holder_release(op->e, op->holder);
	op_free(op);
}

/* The last thing that is done with an operation. */
static void op_end(struct etcd_op *op)
{
	struct etcd_holder *h = op->holder;
	struct etcd *e = op->e;

	TAILQ_REMOVE(&h->ops, op, link);
	if (TAILQ_EMPTY(&h->ops)) {
		TAILQ_REMOVE(&e->active, h, by_active);
		h->active = false;
		etcd_holder_release(e, h);
	}
	e->n_ops--;
	if (op->result < 0)
		e->store.failures++;
	if (op->session_done)
		op->session_done(op->userdata, op->result, op->live.session, op->live.sequence);
	else if (op->commit_done)
		op->commit_done(op->userdata, op->result, op->revision);
	op_free(op);
}

static void op_fail(struct etcd_op *op, int result)
{
	op->result = result;
	op_end(op);
}

static void op_wait(struct etcd_op *op, uint64_t revision)
{
	op->state = OP_WAITING;
	op->revision = revision;
}

/* ---- batches -------------------------------------------------------------------------- */

static void answered(void *userdata, int status, const char *text, const ProtobufCMessage *answer);

/* The first of the operations, as many as go together. */
static void batch_send(struct etcd *e, struct etcd_op *const *ops, size_t n, uint64_t now_ms)
{
	struct etcd_batch *b = calloc(1, sizeof(*b));
	struct txn *t = etcd_txn_new();
	int r = b && t ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < n && etcd_txn_has_room(t, b, ops[i]); i++) {
		b->ops[b->n++] = ops[i];
		r = etcd_txn_add(t, ops[i]);
	}
	if (r == 0)
		r = etcd_client_call(e->client, TXN_PATH, &t->request.base,
				     &etcdserverpb__txn_response__descriptor, answered, b);
	etcd_txn_free(t);
	if (r < 0) {
		for (size_t i = 0; i < n; i++)
			ops[i]->retry_ms = now_ms + ETCD_RETRY_MS;
		free(b);
		return;
	}
	b->e = e;
	for (size_t i = 0; i < b->n; i++)
		b->ops[i]->state = OP_SENT;
	TAILQ_INSERT_TAIL(&e->batches, b, link);
	e->n_sent++;
}

/* ---- decisions ------------------------------------------------------------------------- */

static bool is_newer(const struct etcd_live *live, const struct etcd_live *q)
{
	if (q->start_count != live->start_count)
		return q->start_count > live->start_count;
	return q->attempt > live->attempt;
}

/* As memory.c decides. 0, or why not. */
static int session_begin(struct etcd_op *op)
{
	const struct etcd_holder *h = op->holder;
	const struct etcd_live *was = &h->live;
	bool same = h->mod && memcmp(was->instance, op->live.instance, STORE_INSTANCE_LEN) == 0;

	if (h->mod && !same && op->holder_alive)
		return -EEXIST;
	if (same && !is_newer(was, &op->live))
		return -ESTALE;
	op->live.sequence = same && was->start_count == op->live.start_count ? was->sequence : 0;
	op->live.reported = same && was->reported;
	op->live.session = (h->mod ? was->session : op->e->store.revision) + 1;
	op->mod = h->mod;
	return 0;
}

static int op_begin(struct etcd_op *op)
{
	struct etcd_holder *h = op->holder;

	op->linked = true;
	switch (op->kind) {
	case OP_SESSION:
		return session_begin(op);
	case OP_COMMIT:
	case OP_PUBLISH:
		if (!h->mod || h->live.session != op->session || h->refused == op->session ||
		    strcmp(h->live.controller, op->e->id) != 0)
			return -ESTALE;
		if (op->claim[0] &&
		    etcd_vtep_claim(op->e, op->claim, h->node, &op->claim_mod) < 0) {
			h->refused = op->session;
			return -EEXIST;
		}
		op->live = h->live;
		op->live.silent = op->kind == OP_PUBLISH ? !op->alive : h->live.silent;
		op->mod = h->mod;
		return 0;
	case OP_REMOVE:
		if (h->mod != op->fence)
			return -ESTALE;
		op->mod = h->mod;
		return 0;
	case OP_PLAIN:
		return 0;
	}
	return -EINVAL;
}

static void op_again(struct etcd_op *op)
{
	op->state = OP_QUEUED;
	op->retry_ms = 0;
	op->e->ops_next_ms = 0;
}

static void link_done(struct etcd_op *op, uint64_t revision)
{
	op->again = false;
	op->at += op->sending;
	op->sending = 0;
	op->mod = op->kind == OP_REMOVE ? 0 : revision;
	if (op->at < op->n_items) {
		op->revision = revision;
		op_again(op);
		return;
	}
	op_wait(op, revision);
}

/* Somebody was faster: when that is known here, it is begun anew. */
static void op_decide_again(struct etcd_op *op, uint64_t revision)
{
	op->linked = false;
	op->again = false;
	op->result = -EAGAIN;
	op_wait(op, revision);
}

/* live/NODE is not as it was thought to be: `kv`, or NULL for none. */
static void link_refused(struct etcd_op *op, uint64_t revision, const Etcdserverpb__KeyValue *kv)
{
	Mcmesh__Store__Live *m =
		kv ? etcd_unpack(&mcmesh__store__live__descriptor, &kv->value) : NULL;
	bool was_this =
		m && op->again && m->write == op->write && strcmp(m->controller, op->e->id) == 0;

	if (m)
		mcmesh__store__live__free_unpacked(m, NULL);
	if (was_this) {
		link_done(op, (uint64_t)kv->mod_revision);
		return;
	}
	if (op->kind == OP_REMOVE && op->again && !kv) {
		link_done(op, revision);
		return;
	}
	if (op->kind == OP_SESSION) {
		op->holder_alive = true;
		op_decide_again(op, revision);
		return;
	}
	op->result = -ESTALE;
	op_wait(op, revision);
}

/* Not an answer: the same again. */
static void op_retry(struct etcd_op *op, int status, const char *text)
{
	op->state = OP_QUEUED;
	op->again = true;
	op->retry_ms = etcd_now_ms() + ETCD_RETRY_MS;
	if (status == RPC_INVALID_ARGUMENT && strstr(text, "too many operations"))
		etcd_trouble(op->e, ETCD_TXN_SENTENCE, ETCD_TXN_OPS);
	else if (status != RPC_CANCELLED)
		etcd_trouble(op->e, "etcd does not take a change: %s",
			     text[0] ? text : rpc_status_name(status));
}

/* The i-th key of those that were compared, as it is; NULL: it is not there. */
static const Etcdserverpb__KeyValue *result_of(const Etcdserverpb__TxnResponse *a, size_t i)
{
	const Etcdserverpb__RangeResponse *range = NULL;

	if (i < a->n_responses &&
	    a->responses[i]->response_case == ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE)
		range = a->responses[i]->response_range;
	return range && range->n_kvs ? range->kvs[0] : NULL;
}

static uint64_t revision_of(const Etcdserverpb__TxnResponse *a, const Etcdserverpb__KeyValue *kv)
{
	if (kv)
		return (uint64_t)kv->mod_revision;
	return a->header ? (uint64_t)a->header->revision : 0;
}

/* One of a batch that etcd did not take; its results begin with the i-th. */
static void op_refused(struct etcd_op *op, const Etcdserverpb__TxnResponse *a, size_t i)
{
	const Etcdserverpb__KeyValue *live = result_of(a, i);
	const Etcdserverpb__KeyValue *claim = op->claiming ? result_of(a, i + 1) : NULL;

	if ((live ? (uint64_t)live->mod_revision : 0) != op->mod)
		link_refused(op, revision_of(a, live), live);
	else if (op->claiming && (claim ? (uint64_t)claim->mod_revision : 0) != op->claim_mod)
		op_decide_again(op, revision_of(a, claim));
	else
		op_again(op); /* by another's fault, or what it gives back is another's */
}

static void answered(void *userdata, int status, const char *text, const ProtobufCMessage *answer)
{
	const Etcdserverpb__TxnResponse *a = (const Etcdserverpb__TxnResponse *)answer;
	struct etcd_batch *b = userdata;
	struct etcd *e = b->e;
	size_t at = 0;

	TAILQ_REMOVE(&e->batches, b, link);
	e->n_sent--;
	e->ops_next_ms = 0;
	if (status == RPC_OK)
		etcd_trouble(e, "%s", "");
	for (size_t i = 0, n; i < b->n; i++, at += n) {
		n = etcd_txn_results(b->ops[i]);
		if (status != RPC_OK)
			op_retry(b->ops[i], status, text);
		else if (a->succeeded)
			link_done(b->ops[i], a->header ? (uint64_t)a->header->revision : 0);
		else
			op_refused(b->ops[i], a, at);
	}
	free(b);
}

/* ---- the turn ------------------------------------------------------------------------- */

/* More at once would only wait in etcd; what waits here meanwhile goes together. */
static bool may_send(const struct etcd *e)
{
	return e->n_sent < ETCD_SENT_MAX && etcd_client_is_ready(e->client);
}

/* A store that is busy is no store that failed. */
static uint64_t op_deadline_ms(const struct etcd_op *op)
{
	uint64_t progress_ms = op->e->progress_ms + ETCD_OP_MS;

	return op->deadline_ms > progress_ms ? op->deadline_ms : progress_ms;
}

/* True: it is gone. */
static bool op_turn(struct etcd_op *op, uint64_t now_ms)
{
	if (op->state == OP_SENT)
		return false;
	if (op->state == OP_WAITING && op->revision <= op->e->store.revision) {
		if (op->result != -EAGAIN) {
			op_end(op);
			return true;
		}
		op->result = 0;
		op->state = OP_QUEUED;
		op->retry_ms = 0;
	}
	if (now_ms >= op_deadline_ms(op)) {
		op_fail(op, -ETIMEDOUT);
		return true;
	}
	return false;
}

static void op_start(struct etcd_op *op)
{
	struct etcd_holder *h = op->holder;

	TAILQ_INSERT_TAIL(&h->ops, op, link);
	op->e->n_ops++;
	if (!h->active)
		TAILQ_INSERT_TAIL(&op->e->active, h, by_active);
	h->active = true;
	op->e->ops_next_ms = 0;
}

static uint64_t op_next_ms(const struct etcd_op *op)
{
	if (op->state == OP_SENT)
		return UINT64_MAX; /* the call has a deadline of its own */
	if (op->state == OP_QUEUED && may_send(op->e))
		return op->retry_ms;
	return op_deadline_ms(op);
}

/* Ends what can be ended; the next deadline. */
static uint64_t ops_look(struct etcd *e, uint64_t now_ms)
{
	struct etcd_holder *h, *next;
	uint64_t next_ms, at;
	bool again;

	do {
		again = false;
		next_ms = UINT64_MAX;
		for (h = TAILQ_FIRST(&e->active); h; h = next) {
			next = TAILQ_NEXT(h, by_active);
			/* With its last operation the holder may go. */
			if (op_turn(TAILQ_FIRST(&h->ops), now_ms)) {
				again = true;
				continue;
			}
			at = op_next_ms(TAILQ_FIRST(&h->ops));
			next_ms = at < next_ms ? at : next_ms;
		}
	} while (again);
	return next_ms;
}

/* Those that can be sent now; what cannot begin ends. */
static size_t ops_gather(struct etcd *e, uint64_t now_ms, struct etcd_op *ops[ETCD_TXN_NODES])
{
	struct etcd_holder *h, *next;
	struct etcd_op *op;
	size_t n = 0;
	int r;

	for (h = TAILQ_FIRST(&e->active); h && n < ETCD_TXN_NODES; h = next) {
		next = TAILQ_NEXT(h, by_active);
		op = TAILQ_FIRST(&h->ops);
		if (op->state != OP_QUEUED || now_ms < op->retry_ms)
			continue;
		r = op->linked ? 0 : op_begin(op);
		if (r < 0)
			op_fail(op, r);
		else
			ops[n++] = op;
	}
	return n;
}

uint64_t etcd_ops_turn(struct etcd *e, uint64_t now_ms)
{
	struct etcd_op *ops[ETCD_TXN_NODES];
	size_t n;

	ops_look(e, now_ms);
	while (may_send(e) && (n = ops_gather(e, now_ms, ops)) > 0)
		batch_send(e, ops, n, now_ms);
	return ops_look(e, now_ms);
}

void etcd_ops_end(struct etcd *e)
{
	struct etcd_batch *b;
	struct etcd_holder *h;

	/* Answers may still come, to nobody. */
	TAILQ_FOREACH(b, &e->batches, link)
	b->n = 0;
	while ((h = TAILQ_FIRST(&e->active)))
		op_fail(TAILQ_FIRST(&h->ops), -ECANCELED);
}

void etcd_ops_free(struct etcd *e)
{
	struct etcd_batch *b;

	while ((b = TAILQ_FIRST(&e->batches))) {
		TAILQ_REMOVE(&e->batches, b, link);
		free(b);
	}
}

/* ---- what the store is asked ------------------------------------------------------------ */

void etcd_session(struct store *store, const struct store_session *q, store_session_done *done,
		  void *userdata)
{
	struct etcd *e = (struct etcd *)store;
	struct etcd_op *op = op_new(e, OP_SESSION, q->node);

	if (!op) {
		done(userdata, -ENOMEM, 0, 0);
		return;
	}
	memcpy(op->live.instance, q->instance, STORE_INSTANCE_LEN);
	op->live.start_count = q->start_count;
	op->live.attempt = q->attempt;
	memcpy(op->live.controller, e->id, sizeof(op->live.controller));
	op->holder_alive = q->holder_alive;
	op->session_done = done;
	op->userdata = userdata;
	op_start(op);
}

static int item_add(struct etcd_op *op, const struct log_change *c)
{
	struct op_item *item = &op->items[op->n_items];
	char key[ETCD_KEY_MAX];

	etcd_key_of_row(op->e, key, c);
	item->key = strdup(key);
	if (!item->key)
		return -ENOMEM;
	op->n_items++;
	if (c->deleted)
		return 0;
	item->len = store_encoded_size(c);
	item->value = malloc(item->len);
	if (!item->value)
		return -ENOMEM;
	store_encode(c, item->value);
	return 0;
}

static int items_add(struct etcd_op *op, const struct log_change *changes, size_t n)
{
	int r = 0;

	op->items = calloc(n + 1, sizeof(*op->items));
	if (!op->items)
		return -ENOMEM;
	for (size_t i = 0; i < n && r == 0; i++)
		r = item_add(op, &changes[i]);
	return r;
}

/* The VTEP of the node's row, if it is among what is written in its name. */
static void claim_take(struct etcd_op *op, const struct store_txn *txn)
{
	for (size_t i = 0; i < txn->n_changes; i++) {
		const struct log_change *c = &txn->changes[i];

		if (c->kind == LOG_NODE && !c->deleted)
			addr_format(&c->vtep, op->claim);
	}
}

static enum op_kind kind_of(const struct store_txn *txn)
{
	for (size_t i = 0; i < txn->n_changes; i++) {
		const struct log_change *c = &txn->changes[i];

		if (c->kind == LOG_NODE && c->deleted && strcmp(c->node, txn->node) == 0)
			return OP_REMOVE;
	}
	return txn->removes_node ? OP_REMOVE : txn->session ? OP_COMMIT : OP_PLAIN;
}

void etcd_commit(struct store *store, const struct store_txn *txn, store_commit_done *done,
		 void *userdata)
{
	struct etcd *e = (struct etcd *)store;
	enum op_kind kind = kind_of(txn);
	struct etcd_op *op = op_new(e, kind, txn->node ?: "");
	int r = op ? items_add(op, txn->changes, txn->n_changes) : -ENOMEM;

	if (r == 0 && kind == OP_REMOVE && txn->session && op->holder->live.session != txn->session)
		r = -ESTALE;
	if (r < 0) {
		if (op)
			op_drop(op);
		done(userdata, r, 0);
		return;
	}
	if (kind == OP_COMMIT)
		claim_take(op, txn);
	op->fence = op->holder->mod;
	op->session = txn->session;
	op->sequence = txn->sequence;
	op->reported = txn->reported;
	op->commit_done = done;
	op->userdata = userdata;
	op_start(op);
}

void etcd_publish(struct store *store, const char *node, uint64_t session, bool alive)
{
	struct etcd_op *op = op_new((struct etcd *)store, OP_PUBLISH, node);

	if (!op)
		return;
	op->session = session;
	op->alive = alive;
	op_start(op);
}

static void plain_put(struct etcd *e, const char *key, const uint8_t *value, size_t len,
		      store_commit_done *done, void *userdata)
{
	struct etcd_op *op = op_new(e, OP_PLAIN, "");

	if (op) {
		op->items = calloc(1, sizeof(*op->items));
		op->n_items = op->items ? 1 : 0;
	}
	if (op && op->n_items) {
		op->items[0].key = strdup(key);
		op->items[0].value = value ? malloc(len + 1) : NULL;
		op->items[0].len = len;
	}
	if (!op || !op->n_items || !op->items[0].key || (value && !op->items[0].value)) {
		if (op)
			op_drop(op);
		if (done)
			done(userdata, -ENOMEM, 0);
		return;
	}
	if (value)
		memcpy(op->items[0].value, value, len);
	op->commit_done = done;
	op->userdata = userdata;
	op_start(op);
}

void etcd_drain(struct store *store, const char *node, bool on, store_commit_done *done,
		void *userdata)
{
	struct etcd *e = (struct etcd *)store;
	char key[ETCD_KEY_MAX];

	etcd_key(e, key, "drain/%s", node);
	plain_put(e, key, on ? (const uint8_t *)"1" : NULL, on ? 1 : 0, done, userdata);
}

void etcd_complete(struct store *store)
{
	struct etcd *e = (struct etcd *)store;
	Mcmesh__Store__Complete m = MCMESH__STORE__COMPLETE__INIT;
	uint8_t value[2 * EPOCH_LEN];
	char key[ETCD_KEY_MAX];

	m.epoch = (ProtobufCBinaryData){ EPOCH_LEN, e->store.epoch };
	etcd_key(e, key, "complete");
	plain_put(e, key, value, mcmesh__store__complete__pack(&m, value), NULL, NULL);
}
