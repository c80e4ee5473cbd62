/* SPDX-License-Identifier: Apache-2.0 */
/* Operations of nodes as one request to etcd: what must be so, what is written
 * then, and what is read otherwise. */
#include "controller/store/etcd_ops.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void txn_put(struct txn *t, const char *key, const uint8_t *value, size_t len)
{
	size_t i = t->request.n_success++;
	Etcdserverpb__RequestOp *o = t->list[i] = &t->ops[i];

	etcdserverpb__request_op__init(o);
	if (value) {
		etcdserverpb__put_request__init(&t->parts[i].put);
		t->parts[i].put.key = etcd_bytes(key);
		t->parts[i].put.value = (ProtobufCBinaryData){ len, (uint8_t *)value };
		o->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
		o->request_put = &t->parts[i].put;
		return;
	}
	etcdserverpb__delete_range_request__init(&t->parts[i].del);
	t->parts[i].del.key = etcd_bytes(key);
	o->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
	o->request_delete_range = &t->parts[i].del;
}

struct txn *etcd_txn_new(void)
{
	struct txn *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	etcdserverpb__txn_request__init(&t->request);
	t->request.success = t->list;
	t->request.compare = t->compares;
	t->request.failure = t->otherwises;
	return t;
}

void etcd_txn_free(struct txn *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n_nodes; i++)
		free(t->nodes[i].live);
	free(t);
}

/* Only if the key is as of that revision (0: not there); else its value is told. */
static void txn_compare(struct txn *t, const char *key, uint64_t mod)
{
	struct txn_compare *c = &t->guards[t->request.n_compare];

	etcdserverpb__compare__init(&c->compare);
	c->compare.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
	c->compare.key = etcd_bytes(key);
	c->compare.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
	c->compare.mod_revision = (int64_t)mod;
	t->compares[t->request.n_compare++] = &c->compare;

	etcdserverpb__range_request__init(&c->range);
	c->range.key = etcd_bytes(key);
	etcdserverpb__request_op__init(&c->otherwise);
	c->otherwise.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
	c->otherwise.request_range = &c->range;
	t->otherwises[t->request.n_failure++] = &c->otherwise;
}

static int txn_put_live(struct txn *t, struct txn_node *n, struct etcd_op *op)
{
	Mcmesh__Store__Live m = MCMESH__STORE__LIVE__INIT;
	struct etcd_live *live = &op->live;

	m.instance = (ProtobufCBinaryData){ STORE_INSTANCE_LEN, live->instance };
	m.start_count = live->start_count;
	m.attempt = live->attempt;
	m.session = live->session;
	m.sequence = live->sequence;
	m.controller = live->controller;
	m.silent = live->silent;
	if (live->reported)
		m.reported = (ProtobufCBinaryData){ EPOCH_LEN, op->e->store.epoch };
	m.write = op->write;
	n->live = malloc(mcmesh__store__live__get_packed_size(&m));
	if (!n->live)
		return -ENOMEM;
	txn_put(t, n->live_key, n->live, mcmesh__store__live__pack(&m, n->live));
	return 0;
}

static void txn_items(struct txn *t, struct etcd_op *op)
{
	size_t i;

	for (i = op->at; i < op->n_items && i - op->at < ETCD_TXN_PUTS; i++) {
		size_t bytes = op->items[i].len + ETCD_ROW_BYTES;

		if (i > op->at && t->bytes + bytes > ETCD_TXN_BYTES)
			break;
		t->bytes += bytes;
		txn_put(t, op->items[i].key, op->items[i].value, op->items[i].len);
	}
	op->sending = i - op->at;
}

/* The VTEP that the node has had and gives back with this; "": none. */
static const char *release_of(const struct etcd_op *op)
{
	const char *had = op->holder->vtep;

	if (op->kind == OP_COMMIT && op->claim[0] && strcmp(op->claim, had) != 0)
		return had;
	return op->kind == OP_REMOVE ? had : "";
}

/* With the node's row its VTEP becomes the node's, if nobody took it meanwhile; the
 * one before becomes free, if it still is the node's. */
static void txn_vteps(struct txn *t, struct txn_node *n, struct etcd_op *op, bool last)
{
	const char *release = last ? release_of(op) : "";

	op->claiming = last && op->claim[0];
	op->releasing = release[0];
	if (op->claiming) {
		etcd_key(op->e, n->claim_key, "vtep/%s", op->claim);
		txn_compare(t, n->claim_key, op->claim_mod);
		txn_put(t, n->claim_key, (const uint8_t *)op->holder->node,
			strlen(op->holder->node));
	}
	if (op->releasing) {
		etcd_key(op->e, n->release_key, "vtep/%s", release);
		txn_compare(t, n->release_key, etcd_vtep_mod(op->e, release));
		txn_put(t, n->release_key, NULL, 0);
	}
}

size_t etcd_txn_results(const struct etcd_op *op)
{
	return (op->kind != OP_PLAIN) + op->claiming + op->releasing;
}

/* Those of several nodes never write the same key, others may. */
static bool may_share(const struct etcd_op *op)
{
	return op->kind == OP_COMMIT || op->kind == OP_PUBLISH || op->kind == OP_SESSION;
}

/* Of a VTEP a transaction can say one thing only. */
static bool same_vtep(const struct etcd_op *a, const struct etcd_op *b)
{
	return strcmp(a->claim, b->claim) == 0 || strcmp(a->claim, release_of(b)) == 0 ||
	       strcmp(b->claim, release_of(a)) == 0;
}

bool etcd_txn_has_room(const struct txn *t, const struct etcd_batch *b, const struct etcd_op *op)
{
	size_t bytes = 0, i;

	if (!b->n)
		return true;
	for (i = 0; op->claim[0] && i < b->n; i++) {
		if (b->ops[i]->claim[0] && same_vtep(op, b->ops[i]))
			return false;
	}
	for (i = op->at; i < op->n_items && i - op->at < ETCD_TXN_PUTS; i++)
		bytes += op->items[i].len + ETCD_ROW_BYTES;
	return may_share(op) && may_share(b->ops[0]) && b->n < ETCD_TXN_NODES &&
	       t->request.n_success + (i - op->at) + ETCD_TXN_MORE <= ETCD_TXN_OPS &&
	       t->bytes + bytes <= ETCD_TXN_BYTES;
}

/* The next link of its chain. */
int etcd_txn_add(struct txn *t, struct etcd_op *op)
{
	struct txn_node *n = &t->nodes[t->n_nodes++];
	bool last;

	etcd_key(op->e, n->live_key, "live/%s", op->holder->node);
	txn_items(t, op);
	last = op->at + op->sending == op->n_items;
	if (op->kind == OP_PLAIN)
		return 0;
	txn_compare(t, n->live_key, op->mod);
	txn_vteps(t, n, op, last);
	if (op->kind == OP_REMOVE && op->mod)
		txn_put(t, n->live_key, NULL, 0);
	if (op->kind == OP_REMOVE && last && op->holder->draining) {
		etcd_key(op->e, t->drain_key, "drain/%s", op->holder->node);
		txn_put(t, t->drain_key, NULL, 0);
	}
	if (op->kind == OP_REMOVE)
		return 0;
	if (last && op->sequence)
		op->live.sequence = op->sequence;
	if (last && op->reported)
		op->live.reported = true;
	if (!op->again)
		op->write = ++op->e->last_write;
	return txn_put_live(t, n, op);
}
