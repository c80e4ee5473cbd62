/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the files of the SQLite backend share (see sqlite.c). */
#include <sqlite3.h>
#include <sys/queue.h>

#include "controller/store/store.h"

#define FILE_APPLICATION	 0x6d636d73 /* "mcms", in the file's header */
#define FILE_FORMAT		 2	    /* user_version: steps of sqlite_file.c */
#define SQLITE_CEILING_BLOCK	 65536	    /* revisions between two writes of the seal */
#define SQLITE_BATCH_ROWS	 8192	    /* of one transaction, about */
#define SQLITE_FORGET_MAX	 4096	    /* deletions forgotten by one transaction */
#define SQLITE_CHECKPOINT_PAGES	 1024	    /* of the WAL: the thread begins */
#define SQLITE_CHECKPOINT_FORCED 65536	    /* it cannot keep up: the loop waits once */
#define SQLITE_CHECKPOINT_MS	 20	    /* between two beginnings */
#define SQLITE_RETRY_MIN_MS	 50
#define SQLITE_RETRY_MAX_MS	 1000
#define SEAL_BOOT_MAX		 40

struct checkpointer;

/* The file PATH-lock: held locked, and what the last run said of PATH. */
struct seal {
	int fd;
	bool valid; /* it could be read */
	bool clean; /* that run closed its store: nothing can be missing */
	uint8_t epoch[EPOCH_LEN];
	uint64_t starts, ceiling;
	char boot[SEAL_BOOT_MAX];
};

enum statement {
	BEGIN,
	COMMIT,
	ROLLBACK,
	SYNC_FULL,
	SYNC_NORMAL,
	MESH_READ,
	MESH_BEGIN,
	MESH_REVISION,
	MESH_FLOOR,
	MESH_COMPLETE,
	SESSION_FIND,
	SESSION_PUT,
	SESSION_FENCE,
	SESSION_FORGET,
	SESSION_CLEAR,
	ROW_PUT,
	ROW_DELETE,
	ROW_CLEAR,
	ROWS,
	FORGET_CUT,
	FORGET,
	N_STATEMENTS,
};

/* What a caller asked for, until it is on its way to the disk. */
struct item {
	STAILQ_ENTRY(item) link;
	char node[LOG_NAME_MAX];
	struct store_session session;
	store_session_done *session_done; /* NULL: a commit */
	store_commit_done *commit_done;
	void *userdata;
	uint64_t fence, sequence;
	bool removes_node;
	struct log_change *changes; /* with all that they point to */
	size_t n_changes;
	/* Decided in the transaction. */
	int result;
	uint64_t session_id, last_sequence;
};

STAILQ_HEAD(items, item);

struct sqlite {
	struct store store;
	char *path;
	sqlite3 *db;
	sqlite3_stmt *statements[N_STATEMENTS];
	struct seal seal;
	bool only_load;
	bool begun; /* something was written, so it is to be closed */
	uint64_t starts, last_session;
	struct items queue;
	uint64_t forget_to;
	bool complete_due;
	uint64_t retry_ms, retry_after_ms;
	struct checkpointer *checkpointer;
	uint64_t checkpoint_ms;
	int wal_pages;
	char trouble[STORE_WHY_MAX];
};

/* ---- sqlite_seal.c ------------------------------------------------------------- */

/* Locks it for this process, creates it when there is none. -EBUSY: another has it. */
int seal_open(const char *path, struct seal *ret_seal, char why[STORE_WHY_MAX]);
/* On the disk when it returns 0. */
int seal_write(const struct seal *seal);
void seal_close(struct seal *seal);
void seal_boot(char ret_boot[SEAL_BOOT_MAX]);

/* ---- sqlite_checkpoint.c ------------------------------------------------------- */

int checkpointer_new(const char *path, struct checkpointer **ret_checkpointer);
/* Beside what goes on; false: it is at it already, or there is none (NULL). */
bool checkpointer_start(struct checkpointer *checkpointer);
/* Since the last time it was asked. */
unsigned int checkpointer_failures(struct checkpointer *checkpointer);
void checkpointer_free(struct checkpointer *checkpointer);

/* ---- sqlite_file.c ------------------------------------------------------------- */

/* Touches no file that is not a store of ours. */
int sqlite_file_check(const char *path, bool *ret_exists, char why[STORE_WHY_MAX]);
/* A connection that leaves the WAL alone when it is closed; SQLite's answer. */
int sqlite_connect(const char *path, int flags, sqlite3 **ret_db);
int sqlite_file_create(const char *path, char why[STORE_WHY_MAX]);
int sqlite_file_open(const char *path, bool only_load, sqlite3 **ret_db, char why[STORE_WHY_MAX]);
/* The sentence for what SQLite answered; the -errno that goes with it. */
int sqlite_file_why(const char *path, sqlite3 *db, int rc, char why[STORE_WHY_MAX]);

/* ---- sqlite_rows.c ------------------------------------------------------------- */

int sqlite_prepare(struct sqlite *s);
void sqlite_finalize(struct sqlite *s);
/* Runs a statement that gives no row; SQLITE_OK or an error. */
int sqlite_run(struct sqlite *s, enum statement which);
int sqlite_mesh_read(struct sqlite *s, bool *ret_complete);
int sqlite_mesh_begin(struct sqlite *s, const uint8_t epoch[EPOCH_LEN], uint64_t revision,
		      uint64_t floor, bool complete);
int sqlite_row_put(struct sqlite *s, uint64_t revision, const struct log_change *change);
/* One item of a transaction; *revision is the last that was given out. */
int sqlite_item_run(struct sqlite *s, struct item *item, uint64_t *revision);
int sqlite_mesh_revision(struct sqlite *s, uint64_t revision);
/* Forgets a bounded number of deletions; the floor after it. */
int sqlite_forget(struct sqlite *s, uint64_t *ret_floor);
/* All rows as events. 0, or -errno with a sentence; changes nothing in the file. */
int sqlite_rows_load(struct sqlite *s, char why[STORE_WHY_MAX]);
