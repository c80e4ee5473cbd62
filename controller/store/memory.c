/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store that lives as long as the process: sessions in a hash table, rows
 * in the controller's log alone. Its epoch is new with each start, so a
 * restarted controller waits for the agents to report again (docs/sync-rules.md, S09).
 */
#include <errno.h>
#include <sodium/randombytes.h>
#include <stdlib.h>
#include <string.h>

#include "controller/store/store.h"

struct holder {
	char node[LOG_NAME_MAX];
	uint8_t instance[STORE_INSTANCE_LEN];
	uint64_t start_count, attempt, session, sequence;
	UT_hash_handle hh;
};

struct memory {
	struct store store;
	struct holder *holders;
	uint64_t last_session;
};

static int memory_open(const struct store_options *options, const char *rest,
		       const struct store_events *events, void *userdata, struct store **ret_store,
		       char why[STORE_WHY_MAX])
{
	struct memory *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->store.ops = &store_memory_ops;
	m->store.events = *events;
	m->store.userdata = userdata;
	m->store.is_fresh = true;
	m->store.revision = 1; /* 0 says "none" on the wire */
	m->store.floor = 1;
	randombytes_buf(m->store.epoch, sizeof(m->store.epoch));
	*ret_store = &m->store;
	return 0;
}

static void memory_close(struct store *store)
{
	struct memory *m = (struct memory *)store;
	struct holder *h, *tmp;

	HASH_ITER (hh, m->holders, h, tmp) {
		HASH_DEL(m->holders, h);
		free(h);
	}
	free(m);
}

static bool is_newer(const struct holder *h, const struct store_session *q)
{
	if (q->start_count != h->start_count)
		return q->start_count > h->start_count;
	return q->attempt > h->attempt;
}

static void memory_session(struct store *store, const struct store_session *q,
			   store_session_done *done, void *userdata)
{
	struct memory *m = (struct memory *)store;
	struct holder *h;

	HASH_FIND_STR(m->holders, q->node, h);
	if (!h) {
		h = calloc(1, sizeof(*h));
		if (!h) {
			done(userdata, -ENOMEM, 0, 0);
			return;
		}
		strncpy(h->node, q->node, sizeof(h->node) - 1);
		HASH_ADD_STR(m->holders, node, h);
	} else if (memcmp(h->instance, q->instance, sizeof(h->instance)) != 0) {
		if (q->holder_alive) {
			done(userdata, -EEXIST, 0, 0);
			return;
		}
		h->sequence = 0;
	} else if (!is_newer(h, q)) {
		done(userdata, -ESTALE, 0, 0);
		return;
	} else if (q->start_count != h->start_count) {
		h->sequence = 0;
	}
	memcpy(h->instance, q->instance, sizeof(h->instance));
	h->start_count = q->start_count;
	h->attempt = q->attempt;
	h->session = ++m->last_session;
	done(userdata, 0, h->session, h->sequence);
}

/* With its node: the members that its last sequence stands for are gone. */
static void holder_forget(struct memory *m, const char *node)
{
	struct holder *h;

	HASH_FIND_STR(m->holders, node, h);
	if (!h)
		return;
	HASH_DEL(m->holders, h);
	free(h);
}

static void memory_commit(struct store *store, const struct store_txn *txn, store_commit_done *done,
			  void *userdata)
{
	struct memory *m = (struct memory *)store;
	const struct log_change *changes = txn->changes;
	size_t n = txn->n_changes, batch;
	struct holder *h;

	if (txn->session) {
		HASH_FIND_STR(m->holders, txn->node, h);
		if (!h || h->session != txn->session) {
			done(userdata, -ESTALE, 0);
			return;
		}
		if (txn->sequence)
			h->sequence = txn->sequence;
	}
	for (size_t i = 0; i < n; i++) {
		if (changes[i].kind == LOG_NODE && changes[i].deleted)
			holder_forget(m, changes[i].node);
	}
	for (; n; changes += batch, n -= batch) {
		batch = store_batch(changes, n);
		store->revision++;
		store->events.on_event(store->userdata, store->revision, changes, batch);
	}
	done(userdata, 0, store->revision);
}

const struct store_ops store_memory_ops = {
	.scheme = "memory",
	.open = memory_open,
	.close = memory_close,
	.session = memory_session,
	.commit = memory_commit,
};
