/* SPDX-License-Identifier: Apache-2.0 */
/*
 * "sim:shared": the store that several controllers have, as etcd*.c see it. Who
 * may speak for a node is a seat, changed only by who knows it as it is; the
 * watch shows each controller the rows and the seats in one order, each at its
 * own pace. A controller lives for the others while its lease lasts, and its own
 * beat, when the watch brings it back, is its progress.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/db_internal.h"

/* As in etcd_internal.h. */
#define BEAT_MS		   500
#define PROGRESS_MS	   3000
#define LEASE_MS	   5000
#define ROWS_OF_A_REVISION 3

struct peer {
	char address[32];
	uint64_t lease_ms;
	bool lives;
};

static struct simdb_seat seats[SIMDB_SEATS];
static struct peer peers[SIMDB_PEERS + 1]; /* by id, from 1 */
static uint64_t n_peers, last_mod, last_session;

void simdb_shared_reset(void)
{
	memset(seats, 0, sizeof(seats));
	memset(peers, 0, sizeof(peers));
	n_peers = last_mod = last_session = 0;
}

static struct simdb_seat *seat_of(const char *node)
{
	for (unsigned int i = 0; i < SIMDB_SEATS; i++) {
		if (!seats[i].node[0]) {
			seats[i].index = i;
			snprintf(seats[i].node, sizeof(seats[i].node), "%s", node);
		}
		if (strcmp(seats[i].node, node) == 0)
			return &seats[i];
	}
	abort();
}

/* ---- what the watch shows ---------------------------------------------------------- */

static void seat_tell(struct simdb *db, const struct simdb_seat *seat)
{
	const struct store_presence presence = {
		.node = seat->node,
		.state = !seat->mod	     ? STORE_FREE
			 : !seat->peer_lives ? STORE_LOST
			 : seat->silent	     ? STORE_SILENT
					     : STORE_ALIVE,
		.ours = seat->mod && seat->controller == db->id,
		.controller = seat->mod && seat->peer_lives ? seat->address : "",
		.session = seat->mod ? seat->session : 0,
		.reported = seat->mod && seat->reported,
	};

	db->store.events.on_presence(db->store.userdata, &presence);
}

static void seat_seen(struct simdb *db, const struct owed *o)
{
	const struct simdb_seat *seat = &o->seat, was = db->known[seat->index];

	db->known[seat->index] = *seat;
	/* A report accepted is no news of who is there. */
	if (!seat->mod != !was.mod || was.session != seat->session || was.silent != seat->silent ||
	    was.reported != seat->reported || was.controller != seat->controller ||
	    was.peer_lives != seat->peer_lives)
		seat_tell(db, seat);
	if (was.draining != seat->draining)
		db->store.events.on_draining(db->store.userdata, seat->node, seat->draining);
}

static void seat_changed(struct simdb_seat *seat, bool written)
{
	struct simdb *db;

	if (written)
		seat->mod = ++last_mod;
	sim_trace("store: %s is %s of %s, session %llu%s", seat->node,
		  !seat->mod	 ? "nobody's, not"
		  : seat->silent ? "silent, a node"
				 : "a node",
		  seat->mod ? peers[seat->controller].address : "anybody",
		  (unsigned long long)seat->session, written ? "" : ", its controller changed");
	seat->peer_lives = seat->mod && peers[seat->controller].lives;
	snprintf(seat->address, sizeof(seat->address), "%s",
		 seat->mod ? peers[seat->controller].address : "");
	TAILQ_FOREACH(db, &simdb_open_stores, link)
	{
		struct owed *o = simdb_owe(db);

		o->seat = *seat;
		o->seen = seat_seen;
	}
}

static void seat_free(struct simdb_seat *seat)
{
	struct simdb_seat empty = { .index = seat->index };

	memcpy(empty.node, seat->node, sizeof(empty.node));
	*seat = empty;
	seat_changed(seat, false);
}

/* ---- who lives ----------------------------------------------------------------------- */

static void peer_set(uint64_t id, bool lives)
{
	if (peers[id].lives == lives)
		return;
	peers[id].lives = lives;
	sim_trace("store: %s %s", peers[id].address, lives ? "is there" : "is there no more");
	for (unsigned int i = 0; i < SIMDB_SEATS; i++) {
		if (seats[i].mod && seats[i].controller == id)
			seat_changed(&seats[i], false);
	}
}

static void leases_event(void *arg)
{
	for (uint64_t id = 1; id <= n_peers; id++) {
		if (sim_now_ms() >= peers[id].lease_ms)
			peer_set(id, false);
	}
	sim_at(sim_now + BEAT_MS * SIM_MS, leases_event, NULL);
}

static void beat_seen(struct simdb *db, const struct owed *o)
{
	db->progress_ms = o->sent_ms;
}

static void beat(struct simdb *db, uint64_t now_ms)
{
	struct owed *o;

	db->beat_at_ms = now_ms + BEAT_MS;
	if (db->cut)
		return;
	peers[db->id].lease_ms = now_ms + LEASE_MS;
	peer_set(db->id, true);
	o = simdb_owe(db);
	o->seen = beat_seen;
	o->sent_ms = now_ms;
}

static void shared_publish(struct store *store, const char *node, uint64_t session, bool alive);

void simdb_shared_cut(struct simdb *db, bool cut)
{
	if (db->cut == cut)
		return;
	sim_trace("store: %s is %s", peers[db->id].address, cut ? "cut off" : "back");
	db->cut = cut;
	sim_process_wake(db->process, sim_now + 1);
	for (unsigned int i = 0; !cut && i < SIMDB_SEATS; i++) {
		if (db->saying[i])
			shared_publish(&db->store, seats[i].node, db->said_session[i],
				       !db->is_silent[i]);
		db->saying[i] = false;
	}
}

/* ---- writes ------------------------------------------------------------------------- */

static bool is_newer(const struct simdb_seat *seat, const struct store_session *q)
{
	if (q->start_count != seat->start_count)
		return q->start_count > seat->start_count;
	return q->attempt > seat->attempt;
}

/* Who knows an older state of the seat asks again when the watch has shown it, and
 * takes the holder for alive then. */
static int session_decide(const struct simdb *db, const struct store_session *q,
			  struct simdb_seat *seat)
{
	bool same = seat->mod && memcmp(seat->instance, q->instance, sizeof(q->instance)) == 0;
	bool alive = q->holder_alive || db->known[seat->index].mod != seat->mod;

	if (seat->mod && !same && alive)
		return -EEXIST;
	if (same && !is_newer(seat, q))
		return -ESTALE;
	if (!same || seat->start_count != q->start_count)
		seat->sequence = 0;
	seat->reported &= same;
	memcpy(seat->instance, q->instance, sizeof(q->instance));
	seat->start_count = q->start_count;
	seat->attempt = q->attempt;
	seat->session = ++last_session;
	seat->controller = db->id;
	seat->silent = false;
	seat_changed(seat, true);
	return 0;
}

static void shared_session(struct store *store, const struct store_session *q,
			   store_session_done *done, void *userdata)
{
	struct simdb *db = (struct simdb *)store;
	struct simdb_seat *seat = seat_of(q->node);
	int r = db->cut ? -ETIMEDOUT : session_decide(db, q, seat);
	struct owed *o = db->cut ? simdb_owe_failure(db, r) : simdb_owe(db);

	o->session_done = done;
	o->userdata = userdata;
	o->result = r;
	o->session = seat->session;
	o->sequence = seat->sequence;
}

static int fence(const struct simdb *db, const struct store_txn *txn, const struct simdb_seat *seat)
{
	const struct simdb_seat *known = &db->known[seat->index];

	if (txn->removes_node)
		return known->mod != seat->mod || (txn->session && seat->session != txn->session)
			       ? -ESTALE
			       : 0;
	if (!txn->session)
		return 0;
	return !seat->mod || seat->session != txn->session || seat->controller != db->id ? -ESTALE
											 : 0;
}

/* most: transactions until the answer is lost. */
static int commit(const struct simdb *db, const struct store_txn *txn, uint64_t most)
{
	struct simdb_seat *seat = seat_of(txn->node);
	size_t n = txn->n_changes;
	int r = fence(db, txn, seat);

	if (r < 0)
		return r;
	if (!most)
		return -ETIMEDOUT;
	if (txn->removes_node && seat->mod)
		seat_free(seat);
	for (const struct log_change *c = txn->changes; n; most--) {
		size_t batch = n < ROWS_OF_A_REVISION ? n : ROWS_OF_A_REVISION;

		if (!most)
			return -ETIMEDOUT;
		simdb_publish(c, batch);
		c += batch;
		n -= batch;
	}
	if (txn->removes_node || !txn->session)
		return 0;
	if (txn->sequence)
		seat->sequence = txn->sequence;
	seat->reported |= txn->reported;
	seat_changed(seat, true);
	return 0;
}

static void shared_commit(struct store *store, const struct store_txn *txn, store_commit_done *done,
			  void *userdata)
{
	struct simdb *db = (struct simdb *)store;
	struct owed *o;
	int r;

	/* What fails may be in, in part: a cut comes between the parts. */
	r = commit(db, txn, db->cut ? 0 : sim_random(200) ? UINT64_MAX : sim_random(3));
	if (db->cut || r == -ETIMEDOUT) {
		r = -ETIMEDOUT;
		o = simdb_owe_failure(db, r);
	} else {
		o = simdb_owe(db);
	}
	o->commit_done = done;
	o->userdata = userdata;
	o->result = r;
	o->revision = log_revision(simdb_rows);
}

static void shared_publish(struct store *store, const char *node, uint64_t session, bool alive)
{
	struct simdb *db = (struct simdb *)store;
	struct simdb_seat *seat = seat_of(node);

	if (db->cut) {
		db->saying[seat->index] = true;
		db->is_silent[seat->index] = !alive;
		db->said_session[seat->index] = session;
		return;
	}
	if (!seat->mod || seat->session != session || seat->controller != db->id)
		return;
	seat->silent = !alive;
	seat_changed(seat, true);
}

static void shared_drain(struct store *store, const char *node, bool on, store_commit_done *done,
			 void *userdata)
{
	struct simdb *db = (struct simdb *)store;
	struct simdb_seat *seat = seat_of(node);
	struct owed *o = db->cut ? simdb_owe_failure(db, -ETIMEDOUT) : NULL;

	if (!db->cut) {
		seat->draining = on;
		seat_changed(seat, false);
		o = simdb_owe(db);
	}
	o->commit_done = done;
	o->userdata = userdata;
	o->revision = log_revision(simdb_rows);
}

/* ---- the rest of the interface ---------------------------------------------------------- */

static bool shared_is_serving(const struct store *store, uint64_t now_ms)
{
	return now_ms < ((const struct simdb *)store)->progress_ms + PROGRESS_MS;
}

/* This store never goes back, so nobody can know more than it has. */
static void shared_ahead(struct store *store, uint64_t revision)
{
	if (revision > log_revision(simdb_rows))
		sim_fail("an agent is at a revision that the store never had");
}

static const char *const *shared_controllers(struct store *store)
{
	struct simdb *db = (struct simdb *)store;
	size_t n = 0;

	for (uint64_t id = 1; id <= n_peers; id++) {
		if (id != db->id && peers[id].lives)
			db->addresses[n++] = peers[id].address;
	}
	db->addresses[n] = NULL;
	return db->addresses;
}

static void shared_dispatch(struct store *store, uint64_t now_ms)
{
	struct simdb *db = (struct simdb *)store;

	if (now_ms >= db->beat_at_ms)
		beat(db, now_ms);
	simdb_dispatch(store, now_ms);
}

static uint64_t shared_next_ms(const struct store *store)
{
	const struct simdb *db = (const struct simdb *)store;
	uint64_t next_ms = simdb_next_ms(store), end_ms = db->progress_ms + PROGRESS_MS;

	if (end_ms > sim_now_ms() && end_ms < next_ms)
		next_ms = end_ms;
	return db->beat_at_ms < next_ms ? db->beat_at_ms : next_ms;
}

static int shared_load(struct store *store, char why[STORE_WHY_MAX])
{
	struct simdb *db = (struct simdb *)store;
	int r = simdb_load(store, why);

	for (unsigned int i = 0; r == 0 && i < SIMDB_SEATS; i++) {
		db->known[i] = seats[i];
		if (seats[i].node[0])
			seat_tell(db, &seats[i]);
	}
	return r;
}

static void shared_close(struct store *store)
{
	struct simdb *db = (struct simdb *)store;
	uint64_t id = db->id;
	bool clean = ((struct controller *)store->userdata)->stopped && !db->cut;

	simdb_close(store);
	/* Of one that was killed the lease goes on. */
	if (clean)
		peer_set(id, false);
	peers[id].lease_ms = clean ? 0 : peers[id].lease_ms;
}

int simdb_shared_open(const struct store_options *options, const struct store_events *events,
		      void *userdata, struct store **ret_store, char why[STORE_WHY_MAX])
{
	struct simdb *db;

	if (n_peers == SIMDB_PEERS)
		abort();
	simdb_open(options, "", events, userdata, ret_store, why);
	db = (struct simdb *)*ret_store;
	db->store.ops = &simdb_shared_ops;
	db->id = ++n_peers;
	snprintf(peers[db->id].address, sizeof(peers[db->id].address), "%.31s",
		 options->advertise ?: "");
	db->progress_ms = sim_now_ms();
	if (db->id == 1)
		leases_event(NULL);
	beat(db, sim_now_ms());
	return 0;
}

const struct store_ops simdb_shared_ops = {
	.scheme = "sim",
	.open = NULL, /* by the wrapped store_open() */
	.close = shared_close,
	.load = shared_load,
	.complete = simdb_complete,
	.session = shared_session,
	.commit = shared_commit,
	.dispatch = shared_dispatch,
	.next_ms = shared_next_ms,
	.publish = shared_publish,
	.drain = shared_drain,
	.is_serving = shared_is_serving,
	.ahead = shared_ahead,
	.controllers = shared_controllers,
};
