/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What db.c and db_shared.c share. */
#include <sys/queue.h>

#include "controller/controller.h"
#include "tests/sim/db.h"
#include "tests/sim/sim.h"

#define SIMDB_SEATS 16 /* nodes' names */
#define SIMDB_PEERS 64 /* controllers, each start counted */

/* What etcd.c has at live/NODE. */
struct simdb_seat {
	unsigned int index;
	char node[LOG_NAME_MAX];
	uint64_t mod; /* 0: nobody's */
	uint8_t instance[STORE_INSTANCE_LEN];
	uint64_t start_count, attempt, session, sequence;
	uint64_t controller; /* its id */
	char address[32];
	bool silent, reported, peer_lives, draining;
};

struct simdb;

struct holder {
	char node[LOG_NAME_MAX];
	uint8_t instance[STORE_INSTANCE_LEN];
	uint64_t start_count, attempt, session, sequence;
	struct holder *next;
};

/* What a store owes its controller, in order. */
struct owed {
	uint64_t when, revision;
	struct log_change *changes;
	size_t n;
	store_commit_done *commit_done;
	store_session_done *session_done;
	void *userdata;
	int result;
	uint64_t session, sequence;
	/* Of a shared store: who holds a node from now on, or that a beat came back. */
	void (*seen)(struct simdb *db, const struct owed *o);
	uint64_t sent_ms;
	struct simdb_seat seat;
	TAILQ_ENTRY(owed) link;
};

TAILQ_HEAD(owed_list, owed);

struct simdb {
	struct store store;
	struct rpc *process;
	struct owed_list owed;
	struct owed_list failing; /* in the order of time */
	uint64_t last_when;
	uint64_t first_session; /* older ones are not of this controller */
	/* The rest is of a shared store. */
	bool cut;	 /* from the store: nothing goes out, nothing comes */
	uint64_t lag_us; /* its watch is so slow */
	uint64_t id, progress_ms, beat_at_ms;
	struct simdb_seat known[SIMDB_SEATS];		  /* what the watch has shown */
	bool saying[SIMDB_SEATS], is_silent[SIMDB_SEATS]; /* publish() during a cut */
	uint64_t said_session[SIMDB_SEATS];
	const char *addresses[SIMDB_PEERS + 1];
	TAILQ_ENTRY(simdb) link;
};

TAILQ_HEAD(simdb_list, simdb);

extern struct log *simdb_rows;
extern struct simdb_list simdb_open_stores;

/* What the watch will show; in order. */
struct owed *simdb_owe(struct simdb *db);
struct owed *simdb_owe_failure(struct simdb *db, int result);
/* Writes a revision, and owes it to every store that is open. */
void simdb_publish(const struct log_change *changes, size_t n);

int simdb_open(const struct store_options *options, const char *rest,
	       const struct store_events *events, void *userdata, struct store **ret_store,
	       char why[STORE_WHY_MAX]);
void simdb_close(struct store *store);
int simdb_load(struct store *store, char why[STORE_WHY_MAX]);
void simdb_complete(struct store *store);
void simdb_dispatch(struct store *store, uint64_t now_ms);
uint64_t simdb_next_ms(const struct store *store);

/* ---- db_shared.c ------------------------------------------------------------------ */

extern const struct store_ops simdb_shared_ops;
int simdb_shared_open(const struct store_options *options, const struct store_events *events,
		      void *userdata, struct store **ret_store, char why[STORE_WHY_MAX]);
void simdb_shared_reset(void);
void simdb_shared_cut(struct simdb *db, bool cut);
