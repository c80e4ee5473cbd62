/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * DOC: the store
 *
 * The store is the log's home: it orders commits into revisions, keeps the
 * rows, and hands out sessions. The controller's memory (plan/log.h) changes
 * only from the store's events, never from the answer to a commit, so that a
 * store shared by several controllers (etcd) looks like the embedded ones.
 *
 * Everything is asynchronous in shape: `done` may come from inside the call or
 * later, from store_dispatch() or store_close(), and exactly once. The events of
 * a commit come before its `done`. Inputs are borrowed for the call only.
 *
 * A store that was there before says so by its rows: store_load() gives them as
 * events in the order of their revisions, deletions above `floor` included. An
 * epoch ends where the store cannot know all that its agents know (is_fresh);
 * the rows that it has are then what it believed last.
 *
 * A store that cannot commit for a while (a full disk, no quorum) keeps what was
 * asked or fails it, and says `trouble`; it recovers by itself.
 *
 * A backend is a vtable, chosen by the spec string: "memory", "sqlite:PATH",
 * "etcd:HOST:PORT,…".
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "controller/plan/log.h"

#define STORE_WHY_MAX	   256
#define STORE_BATCH_ROWS   1024		/* rows of one revision */
#define STORE_BATCH_BYTES  (256 * 1024) /* about so much on the wire */
#define STORE_INSTANCE_LEN 16

struct store;
struct rpc;
struct rpc_tls;

/* Who holds a node's session, where several controllers share the store. */
enum store_state {
	STORE_FREE,   /* nobody: it never was, or was removed */
	STORE_ALIVE,  /* a living controller hears its agent */
	STORE_SILENT, /* a living controller does not hear it any more */
	STORE_LOST,   /* its controller is gone */
};

struct store_presence {
	const char *node;
	enum store_state state;
	bool ours;		/* the session was taken here */
	const char *controller; /* where the holder can be asked; "": nobody holds it */
	uint64_t session;
	bool reported; /* its members are all in the log of this epoch */
};

struct store_events {
	/* One revision: the rows it changed. */
	void (*on_event)(void *userdata, uint64_t revision, const struct log_change *changes,
			 size_t n);
	/* Only from stores that controllers share. */
	void (*on_presence)(void *userdata, const struct store_presence *presence);
	void (*on_draining)(void *userdata, const char *node, bool on);
	/* What is known of the log is no longer true, or another epoch has begun:
	 * the controller has to begin anew. */
	void (*on_lost)(void *userdata, const char *why);
};

struct store_etcd_options {
	const char *prefix; /* NULL: "/mcmesh/" */
	const char *user, *password_file;
	struct rpc_tls *tls; /* outlives the RPC runtime; NULL: plaintext */
};

struct store_options {
	const char *spec;
	/* Nothing but store_load() follows: a controller may have the store open. */
	bool only_load;
	/* For stores in the network; may be NULL. */
	struct rpc *rpc;
	const char *advertise; /* this controller's name and address for the others; or NULL */
	const struct store_etcd_options *etcd;
};

struct store_session {
	const char *node;
	uint8_t instance[STORE_INSTANCE_LEN];
	uint64_t start_count, attempt;
	/* Another instance with this name is known to be alive here. */
	bool holder_alive;
};

/*
 * 0 with a session number and the last sequence that this start of the instance
 * committed; -EEXIST: another instance lives; -ESTALE: a newer session of the
 * same instance exists; else the store failed.
 */
typedef void store_session_done(void *userdata, int result, uint64_t session,
				uint64_t last_sequence);

struct store_txn {
	const char *node;
	uint64_t session;  /* must be the node's newest; 0: not fenced (operator) */
	uint64_t sequence; /* 0: not a report */
	bool reported;	   /* with it the node's members are all in the log */
	/* The node goes: valid only while its session, or its lack of one, is as it
	 * is now; what the store knows of its instance goes too. */
	bool removes_node;
	const struct log_change *changes;
	size_t n_changes;
};

/* 0 with the revision at or before which all of it is in; -ESTALE: fenced;
 * -EEXIST: another living node has the VTEP, and nothing that this session commits
 * gets in any more. A commit that failed in another way may be in, in part: the same
 * again is harmless. */
typedef void store_commit_done(void *userdata, int result, uint64_t revision);

struct store_ops {
	const char *scheme; /* "memory" */
	int (*open)(const struct store_options *options, const char *rest,
		    const struct store_events *events, void *userdata, struct store **ret_store,
		    char why[STORE_WHY_MAX]);
	void (*close)(struct store *store);
	int (*load)(struct store *store, char why[STORE_WHY_MAX]);
	void (*session)(struct store *store, const struct store_session *request,
			store_session_done *done, void *userdata);
	void (*commit)(struct store *store, const struct store_txn *txn, store_commit_done *done,
		       void *userdata);
	/* Runs what is due; the deadline of the next is store_next_ms(). */
	void (*dispatch)(struct store *store, uint64_t now_ms);
	uint64_t (*next_ms)(const struct store *store);
	/* Deletions at or before the revision are not needed any more. */
	void (*forget)(struct store *store, uint64_t floor);
	/* From now on the log is whole (is_fresh), also after a restart. */
	void (*complete)(struct store *store);
	/* Begins a new epoch, because an agent knows more than the store does; when it
	 * returns 0, `epoch` is new and kept. NULL: not for one controller to decide. */
	int (*renew)(struct store *store);
	/* Instead of all that is there, these rows, in a new epoch: all or nothing, and
	 * on the disk when it returns. NULL: nothing would be left of it. */
	int (*replace)(struct store *store, const struct log_change *changes, size_t n,
		       char why[STORE_WHY_MAX]);

	/* The rest is for stores that controllers share; NULL elsewhere. */

	/* What the holder of a node's session hears of its agent. */
	void (*publish)(struct store *store, const char *node, uint64_t session, bool alive);
	void (*drain)(struct store *store, const char *node, bool on, store_commit_done *done,
		      void *userdata);
	/* Does the store take part in the mesh's progress? */
	bool (*is_serving)(const struct store *store, uint64_t now_ms);
	/* An agent says that it is at this revision of our epoch, and we are not. */
	void (*ahead)(struct store *store, uint64_t revision);
	/* Where the other living controllers can be asked; NULL-terminated, borrowed. */
	const char *const *(*controllers)(struct store *store);
	/* Is the VTEP known to all as the node's? If not, its row has to be committed,
	 * also when it says nothing new. */
	bool (*has_vtep)(struct store *store, const char *node, const struct addr *vtep);
};

struct store {
	const struct store_ops *ops;
	struct store_events events;
	void *userdata;
	struct log *log; /* what its events made, for audits; or NULL */
	uint8_t epoch[EPOCH_LEN];
	uint64_t revision; /* everything up to here is in the log */
	uint64_t floor;	   /* deletions after it are all there */
	/* Agents may know members that the log does not: its epoch began with this
	 * process, or earlier but was never complete. */
	bool is_fresh;
	/* Why it cannot commit now, as a sentence, and since when; NULL: it can. */
	const char *trouble;
	uint64_t trouble_since_ms;
	uint64_t failures; /* commits that failed, each try counted */
};

extern const struct store_ops store_memory_ops;
extern const struct store_ops store_sqlite_ops;
extern const struct store_ops store_etcd_ops;

/* 0, or -errno with a sentence. */
int store_open(const struct store_options *options, const struct store_events *events,
	       void *userdata, struct store **ret_store, char why[STORE_WHY_MAX]);
void store_close(struct store *store);

/* Before the first commit: what is there already, as events. 0, or -errno with a
 * sentence. */
int store_load(struct store *store, char why[STORE_WHY_MAX]);
/* Has it more than one controller? */
bool store_is_shared(const struct store *store);
void store_session(struct store *store, const struct store_session *request,
		   store_session_done *done, void *userdata);
void store_commit(struct store *store, const struct store_txn *txn, store_commit_done *done,
		  void *userdata);
void store_dispatch(struct store *store, uint64_t now_ms);
uint64_t store_next_ms(const struct store *store);
void store_forget(struct store *store, uint64_t floor);
void store_complete(struct store *store);
/* -ENOTSUP: the backend has none. */
int store_renew(struct store *store);
int store_replace(struct store *store, const struct log_change *changes, size_t n,
		  char why[STORE_WHY_MAX]);
void store_publish(struct store *store, const char *node, uint64_t session, bool alive);
void store_drain(struct store *store, const char *node, bool on, store_commit_done *done,
		 void *userdata);
bool store_is_serving(const struct store *store, uint64_t now_ms);
void store_ahead(struct store *store, uint64_t revision);
const char *const *store_controllers(struct store *store);
bool store_has_vtep(struct store *store, const char *node, const struct addr *vtep);

/* How many of the changes make the next revision: a bounded, non-empty batch. */
size_t store_batch(const struct log_change *changes, size_t n);
