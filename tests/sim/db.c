/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simdb_rows are a log of the product's own (plan/log.h), which keeps order and
 * tombstones. A commit is decided when it arrives and answered after its event,
 * in order, through a queue of each controller that has it open.
 */
#include "tests/sim/db_internal.h"

#include <errno.h>
#include <sodium/randombytes.h>
#include <stdlib.h>
#include <string.h>

#include "controller/controller.h"
#include "tests/sim/sim.h"

#define ROWS_OF_A_REVISION 3

struct log *simdb_rows;
struct simdb_list simdb_open_stores = TAILQ_HEAD_INITIALIZER(simdb_open_stores);
static uint64_t last_session, delay_us;
static struct holder *holders;
static bool outage, fresh;

static void rows_new(void)
{
	uint8_t epoch[EPOCH_LEN];

	randombytes_buf(epoch, sizeof(epoch));
	log_free(simdb_rows);
	if (log_new(epoch, 1, 64, &simdb_rows) < 0 || !log_segment_get(simdb_rows, 0))
		abort();
	fresh = true;
}

void simdb_lose(void)
{
	struct holder *h;

	while ((h = holders)) {
		holders = h->next;
		free(h);
	}
	rows_new();
}

void simdb_reset(void)
{
	last_session = 0;
	outage = false;
	delay_us = 1000;
	simdb_lose();
	simdb_shared_reset();
}

void simdb_end(void)
{
	simdb_lose();
	log_free(simdb_rows);
	simdb_rows = NULL;
}

void simdb_outage(bool on)
{
	struct simdb *db;

	outage = on;
	TAILQ_FOREACH(db, &simdb_open_stores, link)
	{
		if (db->store.ops == &simdb_shared_ops)
			simdb_shared_cut(db, on);
	}
}

static struct simdb *find(const struct rpc *process)
{
	struct simdb *db;

	TAILQ_FOREACH(db, &simdb_open_stores, link)
	{
		if (db->process == process && db->store.ops == &simdb_shared_ops)
			return db;
	}
	return NULL;
}

void simdb_cut(const struct rpc *process, bool cut)
{
	struct simdb *db = find(process);

	if (db)
		simdb_shared_cut(db, cut);
}

void simdb_lag(const struct rpc *process, uint64_t lag_us)
{
	struct simdb *db = find(process);

	if (db)
		db->lag_us = lag_us;
}

void simdb_speed(uint64_t delay)
{
	delay_us = delay;
}

/* ---- what is owed -------------------------------------------------------------------- */

static void changes_free(struct log_change *changes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		filter_deinit(&changes[i].filter);
		free((char *)changes[i].node);
		free((char *)changes[i].port);
		free((struct log_config *)changes[i].config);
	}
	free(changes);
}

static struct log_change *changes_copy(const struct log_change *changes, size_t n)
{
	struct log_change *copy = calloc(n, sizeof(*copy));

	for (size_t i = 0; i < n; i++) {
		copy[i] = changes[i];
		copy[i].node = strdup(changes[i].node);
		copy[i].port = changes[i].port ? strdup(changes[i].port) : NULL;
		filter_copy(&copy[i].filter, &changes[i].filter);
		if (changes[i].config) {
			struct log_config *config = malloc(sizeof(*config));

			*config = *changes[i].config;
			copy[i].config = config;
		}
	}
	return copy;
}

struct owed *simdb_owe(struct simdb *db)
{
	struct owed *o = calloc(1, sizeof(*o));

	o->when = sim_now + sim_random(delay_us) + sim_random(db->lag_us + 1);
	if (o->when < db->last_when)
		o->when = db->last_when;
	db->last_when = o->when;
	TAILQ_INSERT_TAIL(&db->owed, o, link);
	sim_process_wake(db->process, o->when + 1);
	return o;
}

/* Of what was asked and fails: not by the watch, so it does not wait for that. */
struct owed *simdb_owe_failure(struct simdb *db, int result)
{
	struct owed *o = calloc(1, sizeof(*o)), *last = TAILQ_LAST(&db->failing, owed_list);

	o->when = sim_now + sim_random(2 * SIM_S);
	if (last && o->when < last->when)
		o->when = last->when;
	o->result = result;
	TAILQ_INSERT_TAIL(&db->failing, o, link);
	sim_process_wake(db->process, o->when + 1);
	return o;
}

static void owed_run(struct simdb *db, struct owed_list *list, struct owed *o)
{
	TAILQ_REMOVE(list, o, link);
	if (o->changes) {
		db->store.revision = o->revision;
		db->store.events.on_event(db->store.userdata, o->revision, o->changes, o->n);
	}
	if (o->commit_done)
		o->commit_done(o->userdata, o->result, o->revision);
	if (o->session_done)
		o->session_done(o->userdata, o->result, o->session, o->sequence);
	if (o->seen)
		o->seen(db, o);
	changes_free(o->changes, o->n);
	free(o);
}

void simdb_dispatch(struct store *store, uint64_t now_ms)
{
	struct simdb *db = (struct simdb *)store;
	struct owed *o;

	while ((o = TAILQ_FIRST(&db->failing)) && o->when <= sim_now)
		owed_run(db, &db->failing, o);
	while (!db->cut && (o = TAILQ_FIRST(&db->owed)) && o->when <= sim_now)
		owed_run(db, &db->owed, o);
}

uint64_t simdb_next_ms(const struct store *store)
{
	const struct simdb *db = (const struct simdb *)store;
	struct owed *o = db->cut ? NULL : TAILQ_FIRST(&db->owed);
	struct owed *failing = TAILQ_FIRST(&db->failing);
	uint64_t next_ms = o ? o->when / SIM_MS + 1 : UINT64_MAX;

	if (failing && failing->when / SIM_MS + 1 < next_ms)
		next_ms = failing->when / SIM_MS + 1;
	return next_ms;
}

/* ---- the interface -------------------------------------------------------------------- */

int simdb_open(const struct store_options *options, const char *rest,
	       const struct store_events *events, void *userdata, struct store **ret_store,
	       char why[STORE_WHY_MAX])
{
	struct simdb *db = calloc(1, sizeof(*db));

	db->store.ops = &simdb_ops;
	db->process = ((struct controller *)userdata)->rpc;
	db->store.events = *events;
	db->store.userdata = userdata;
	db->store.revision = log_revision(simdb_rows);
	db->store.floor = log_floor(simdb_rows);
	db->store.is_fresh = fresh;
	db->first_session = last_session + 1;
	sim_trace("the store is opened: epoch %02x revision %llu floor %llu%s",
		  log_epoch(simdb_rows)[0], (unsigned long long)log_revision(simdb_rows),
		  (unsigned long long)log_floor(simdb_rows), fresh ? " fresh" : "");
	memcpy(db->store.epoch, log_epoch(simdb_rows), EPOCH_LEN);
	TAILQ_INIT(&db->owed);
	TAILQ_INIT(&db->failing);
	TAILQ_INSERT_TAIL(&simdb_open_stores, db, link);
	*ret_store = &db->store;
	return 0;
}

void simdb_close(struct store *store)
{
	struct simdb *db = (struct simdb *)store;
	struct owed *o;

	while ((o = TAILQ_FIRST(&db->failing)))
		owed_run(db, &db->failing, o);
	while ((o = TAILQ_FIRST(&db->owed))) {
		changes_free(o->changes, o->n);
		o->changes = NULL;
		o->n = 0;
		o->result = -EIO;
		o->seen = NULL;
		owed_run(db, &db->owed, o);
	}
	TAILQ_REMOVE(&simdb_open_stores, db, link);
	free(db);
}

static struct log_change row_change(const struct log_row *row)
{
	return (struct log_change){
		.kind = row->key.kind,
		.segment = row->key.segment,
		.node = row->node->name,
		.port = row->key.port,
		.group = row->key.group,
		.deleted = row->deleted,
		.filter = row->filter,
		.vtep = row->vtep,
		.subject = row->key.subject,
		.config = row->config,
	};
}

void simdb_complete(struct store *store)
{
	fresh = false;
}

int simdb_load(struct store *store, char why[STORE_WHY_MAX])
{
	struct log_row *row = log_after(simdb_rows, 0);
	struct log_change changes[64];

	while (row) {
		uint64_t revision = row->revision;
		size_t n = 0;

		for (; row && row->revision == revision && n < 64; row = TAILQ_NEXT(row, by_log))
			changes[n++] = row_change(row);
		store->events.on_event(store->userdata, revision, changes, n);
	}
	return 0;
}

static struct holder *holder_find(const char *node)
{
	struct holder *h = holders;

	while (h && strcmp(h->node, node) != 0)
		h = h->next;
	return h;
}

static int session_decide(const struct store_session *q, struct holder **ret_holder)
{
	struct holder *h = holder_find(q->node);

	if (outage)
		return -EIO;
	if (!h) {
		h = calloc(1, sizeof(*h));
		strncpy(h->node, q->node, sizeof(h->node) - 1);
		h->next = holders;
		holders = h;
	} else if (memcmp(h->instance, q->instance, sizeof(h->instance)) != 0) {
		if (q->holder_alive)
			return -EEXIST;
		h->sequence = 0;
	} else if (q->start_count < h->start_count ||
		   (q->start_count == h->start_count && q->attempt <= h->attempt)) {
		return -ESTALE;
	} else if (q->start_count != h->start_count) {
		h->sequence = 0;
	}
	memcpy(h->instance, q->instance, sizeof(h->instance));
	h->start_count = q->start_count;
	h->attempt = q->attempt;
	h->session = ++last_session;
	*ret_holder = h;
	return 0;
}

static void simdb_session(struct store *store, const struct store_session *q,
			  store_session_done *done, void *userdata)
{
	struct owed *o = simdb_owe((struct simdb *)store);
	struct holder *h = NULL;

	o->session_done = done;
	o->userdata = userdata;
	o->result = session_decide(q, &h);
	if (h) {
		o->session = h->session;
		o->sequence = h->sequence;
	}
}

void simdb_publish(const struct log_change *changes, size_t n)
{
	uint64_t revision = log_revision(simdb_rows) + 1 + sim_random(3);
	struct simdb *db;

	if (log_apply(simdb_rows, revision, changes, n) < 0)
		abort();
	TAILQ_FOREACH(db, &simdb_open_stores, link)
	{
		struct owed *o = simdb_owe(db);

		o->revision = revision;
		o->changes = changes_copy(changes, n);
		o->n = n;
	}
}

static int commit(const struct simdb *db, const struct store_txn *txn)
{
	struct holder *h = holder_find(txn->node);
	size_t n = txn->n_changes;

	if (outage)
		return -EIO;
	if (txn->session && (!h || h->session != txn->session))
		return -ESTALE;
	/* "No session" is what was loaded, not one that is being handed out. */
	if (txn->removes_node && !txn->session && h && h->session >= db->first_session)
		return -ESTALE;
	if (h && txn->sequence)
		h->sequence = txn->sequence;
	for (const struct log_change *c = txn->changes; n;) {
		size_t batch = n < ROWS_OF_A_REVISION ? n : ROWS_OF_A_REVISION;

		if (h && c[batch - 1].kind == LOG_NODE && c[batch - 1].deleted)
			h->sequence = 0; /* its simdb_rows must be taken again */
		simdb_publish(c, batch);
		c += batch;
		n -= batch;
	}
	return 0;
}

static void simdb_commit(struct store *store, const struct store_txn *txn, store_commit_done *done,
			 void *userdata)
{
	int r = commit((struct simdb *)store, txn);
	struct owed *o = simdb_owe((struct simdb *)store);

	o->commit_done = done;
	o->userdata = userdata;
	o->result = r;
	o->revision = log_revision(simdb_rows);
}

const struct store_ops simdb_ops = {
	.scheme = "sim",
	.open = simdb_open,
	.close = simdb_close,
	.load = simdb_load,
	.complete = simdb_complete,
	.session = simdb_session,
	.commit = simdb_commit,
	.dispatch = simdb_dispatch,
	.next_ms = simdb_next_ms,
};

/* "sim:" beside the product's own backends. */
int __wrap_store_open(const struct store_options *options, const struct store_events *events,
		      void *userdata, struct store **ret_store, char why[STORE_WHY_MAX]);
int __real_store_open(const struct store_options *options, const struct store_events *events,
		      void *userdata, struct store **ret_store, char why[STORE_WHY_MAX]);

int __wrap_store_open(const struct store_options *options, const struct store_events *events,
		      void *userdata, struct store **ret_store, char why[STORE_WHY_MAX])
{
	if (strcmp(options->spec, "sim:shared") == 0)
		return simdb_shared_open(options, events, userdata, ret_store, why);
	if (strcmp(options->spec, "sim:") == 0)
		return simdb_open(options, "", events, userdata, ret_store, why);
	return __real_store_open(options, events, userdata, ret_store, why);
}
