/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Operations, and how they become transactions: etcd_ops.c's and etcd_txn.c's. */
#include "controller/store/etcd_internal.h"

enum op_kind {
	OP_SESSION,
	OP_COMMIT,
	OP_REMOVE,
	OP_PUBLISH,
	OP_PLAIN, /* not in a node's name */
};

enum op_state {
	OP_QUEUED,
	OP_SENT,
	OP_WAITING, /* for the watch */
};

struct op_item {
	char *key;
	uint8_t *value; /* NULL: delete it */
	size_t len;
};

struct etcd_op {
	struct etcd *e;
	struct etcd_holder *holder;
	enum op_kind kind;
	enum op_state state;
	uint64_t deadline_ms, retry_ms;
	uint64_t revision; /* of the last answer */
	int result;
	struct op_item *items;
	size_t n_items, at, sending; /* [at, at + sending) are on their way */
	bool linked;		     /* `mod` is the chain's end; it has begun */
	uint64_t mod, fence, write;
	uint64_t session, sequence;
	bool reported, alive, again, holder_alive;
	struct etcd_live live;	   /* what live/NODE becomes */
	char claim[ADDR_TEXT_MAX]; /* the VTEP that the node takes; "": none */
	uint64_t claim_mod;	   /* of vtep/CLAIM, as it is thought to be */
	bool claiming, releasing;  /* a VTEP, in the link that is on its way */
	store_session_done *session_done;
	store_commit_done *commit_done;
	void *userdata;
	TAILQ_ENTRY(etcd_op) link;
};

/* Operations of several nodes that etcd takes together or not at all. */
struct etcd_batch {
	struct etcd *e;
	struct etcd_op *ops[ETCD_TXN_NODES];
	size_t n;
	TAILQ_ENTRY(etcd_batch) link;
};

/* What a batch is as a request. */
struct txn {
	Etcdserverpb__TxnRequest request;
	Etcdserverpb__RequestOp ops[ETCD_TXN_OPS], *list[ETCD_TXN_OPS];
	union {
		Etcdserverpb__PutRequest put;
		Etcdserverpb__DeleteRangeRequest del;
	} parts[ETCD_TXN_OPS];
	struct txn_compare {
		Etcdserverpb__Compare compare;
		Etcdserverpb__RequestOp otherwise;
		Etcdserverpb__RangeRequest range;
	} guards[ETCD_TXN_MORE * ETCD_TXN_NODES];
	struct txn_node {
		char live_key[ETCD_KEY_MAX], claim_key[ETCD_KEY_MAX], release_key[ETCD_KEY_MAX];
		uint8_t *live;
	} nodes[ETCD_TXN_NODES];
	Etcdserverpb__Compare *compares[ETCD_TXN_MORE * ETCD_TXN_NODES];
	Etcdserverpb__RequestOp *otherwises[ETCD_TXN_MORE * ETCD_TXN_NODES];
	char drain_key[ETCD_KEY_MAX];
	size_t n_nodes, bytes;
};

struct txn *etcd_txn_new(void);
void etcd_txn_free(struct txn *txn);
/* The next link of the operation's chain. 0 or -ENOMEM. */
int etcd_txn_add(struct txn *txn, struct etcd_op *op);
/* Does the operation's next link fit, too? */
bool etcd_txn_has_room(const struct txn *txn, const struct etcd_batch *batch,
		       const struct etcd_op *op);
/* Requests of the operation that an answer of "no" has results for. */
size_t etcd_txn_results(const struct etcd_op *op);
