/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: the embedded store
 *
 * One SQLite file, PATH, holds the log as the controller has it in memory: one
 * row for each key with the revision that last changed it, deletions above a
 * floor included. A change gives its row a new position at the end of the table,
 * so reading the table by position is reading the log, and a restarted
 * controller goes on where it was: same epoch, same revisions, and agents get
 * what they missed and no snapshot.
 *
 * Commits are gathered. What one turn of the loop brought is one transaction,
 * written by store_dispatch(): first the disk, then the events, then the
 * answers, in the order in which they were asked for. Fencing is a compare in
 * the same transaction.
 *
 * What a crash can take. The file is in WAL mode with synchronous=NORMAL: a
 * commit is a write to the WAL without waiting for the disk. When the process
 * dies the kernel still has those writes, and nothing is lost. When the machine
 * dies the last of them may be gone, though agents have been told of them.
 * Waiting for the disk would cost each join some milliseconds and still would
 * not help, for this is a cache: agents own their members and report them in
 * full with each session. What matters is that nobody is misled: an agent that
 * has a revision which this log never had, or has otherwise, must not be served
 * from it. Therefore the file PATH-lock, the seal, says on the disk which epoch
 * and start of the controller the store had last, whether that run closed it,
 * the machine's boot id, and a ceiling that no revision reaches before it is
 * raised. A new epoch begins, above the ceiling, and the log is not called
 * complete until the agents have reported again, when
 *
 *   - the last run did not close the store and the machine was booted since,
 *   - the seal is missing, unreadable, or of another epoch or start: the file is
 *     an older copy, or came from elsewhere,
 *   - an agent turns up that is ahead of the log (store_renew()): both files are
 *     older copies.
 *
 * So a backup can be put in place at any time. Its PATH-wal must go then, as it
 * belongs to the file that was there; export and import have no such traps.
 *
 * A file that is not a store, is damaged, newer, not writable or in use is
 * refused with a sentence before anything is written to it. Damage is looked
 * for in all of it: pages by SQLite, rows by sqlite_load().
 *
 * A write that fails at run time changes nothing: the transaction is rolled
 * back, what waits is kept in its order and tried again, `trouble` says why.
 * Reports wait (their agents keep them until they are answered); operators and
 * new sessions are told at once.
 *
 * Checkpoints, which do wait for the disk, have a thread of their own
 * (sqlite_checkpoint.c). Readers (--export) may have the file open beside it.
 */
#include <errno.h>
#include <limits.h>
#include <sodium/randombytes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "controller/store/sqlite_internal.h"

/* ---- open and close ------------------------------------------------------------- */

static bool is_other(const struct sqlite *s)
{
	const struct seal *seal = &s->seal;
	char boot[SEAL_BOOT_MAX];

	seal_boot(boot);
	return !seal->valid || seal->starts != s->starts ||
	       memcmp(seal->epoch, s->store.epoch, EPOCH_LEN) != 0 ||
	       s->store.revision > seal->ceiling ||
	       (!seal->clean && (boot[0] == '-' || strcmp(boot, seal->boot) != 0));
}

/* The seal that goes with the store as it is now. */
static int seal_store(struct sqlite *s, uint64_t revision, bool clean)
{
	struct seal seal = s->seal;
	int r;

	memcpy(seal.epoch, s->store.epoch, EPOCH_LEN);
	seal.starts = s->starts;
	if (!seal.valid || seal.ceiling < revision + 1)
		seal.ceiling = revision + SQLITE_CEILING_BLOCK;
	seal.clean = clean;
	seal.valid = true;
	seal_boot(seal.boot);
	r = seal_write(&seal);
	if (r == 0)
		s->seal = seal;
	return r;
}

/* A line of the mesh that is on the disk when it returns. */
static int mesh_begin(struct sqlite *s, const uint8_t epoch[EPOCH_LEN], uint64_t revision,
		      uint64_t floor, bool complete)
{
	int rc = sqlite_run(s, SYNC_FULL);

	if (rc == SQLITE_OK)
		rc = sqlite_mesh_begin(s, epoch, revision, floor, complete);
	sqlite_run(s, SYNC_NORMAL);
	return rc;
}

/* Reads what the store is and decides on its epoch; nothing is written. */
static int judge(struct sqlite *s, char why[STORE_WHY_MAX])
{
	bool complete = false;
	int rc = sqlite_mesh_read(s, &complete);

	if (rc != SQLITE_OK)
		return sqlite_file_why(s->path, s->db, rc, why);
	if (s->only_load)
		return 0;
	if (is_other(s)) {
		randombytes_buf(s->store.epoch, sizeof(s->store.epoch));
		complete = false;
		if (s->seal.valid && s->seal.ceiling > s->store.revision)
			s->store.revision = s->seal.ceiling;
	}
	s->starts++;
	s->store.is_fresh = !complete;
	return 0;
}

/* Notes that this run has begun. */
static int begin(struct sqlite *s, char why[STORE_WHY_MAX])
{
	int r, rc = mesh_begin(s, s->store.epoch, s->store.revision, s->store.floor,
			       !s->store.is_fresh);

	if (rc != SQLITE_OK)
		return sqlite_file_why(s->path, s->db, rc, why);
	r = seal_store(s, s->store.revision, false);
	if (r < 0)
		snprintf(why, STORE_WHY_MAX, "store %.150s: cannot write beside it: %s", s->path,
			 strerror(-r));
	s->begun = r == 0;
	/* Without it the loop waits for checkpoints itself. */
	if (r == 0)
		checkpointer_new(s->path, &s->checkpointer);
	return r;
}

/* Writes only when every row was good. */
static int sqlite_load(struct store *store, char why[STORE_WHY_MAX])
{
	struct sqlite *s = (struct sqlite *)store;
	int r = sqlite_rows_load(s, why);

	return r < 0 || s->only_load ? r : begin(s, why);
}

static void item_free(struct item *item)
{
	free(item->changes);
	free(item);
}

static void item_fail(struct item *item, int r)
{
	if (item->session_done)
		item->session_done(item->userdata, r, 0, 0);
	else
		item->commit_done(item->userdata, r, 0);
	item_free(item);
}

static bool is_due(const struct sqlite *s)
{
	return !STAILQ_EMPTY(&s->queue) || s->complete_due;
}

static void commit_queued(struct sqlite *s, uint64_t now_ms);

/* Only what a checkpoint brought to the disk is closed cleanly. */
static void close_clean(struct sqlite *s)
{
	int rc = sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);

	if (rc == SQLITE_OK)
		seal_store(s, s->store.revision, true);
	sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
}

/* A store that was only looked at stays as it is. */
static void sqlite_free(struct sqlite *s)
{
	sqlite_finalize(s);
	if (s->db)
		sqlite3_close(s->db);
	seal_close(&s->seal);
	free(s->path);
	free(s);
}

static void sqlite_close(struct store *store)
{
	struct sqlite *s = (struct sqlite *)store;
	struct item *item;

	while (is_due(s) && !store->trouble)
		commit_queued(s, 0);
	while ((item = STAILQ_FIRST(&s->queue))) {
		STAILQ_REMOVE_HEAD(&s->queue, link);
		item_fail(item, -ECANCELED);
	}
	checkpointer_free(s->checkpointer);
	if (s->begun)
		close_clean(s);
	sqlite_free(s);
}

DEFINE_CLEANUP(struct sqlite *, sqlite_free)

static int on_wal(void *userdata, sqlite3 *db, const char *name, int pages)
{
	((struct sqlite *)userdata)->wal_pages = pages;
	return SQLITE_OK;
}

/* Only the last part: a longer path is more likely a mistake. */
static void folder_make(const char *path)
{
	const char *slash = strrchr(path, '/');
	char folder[PATH_MAX];

	if (!slash || slash == path || slash - path >= PATH_MAX)
		return;
	snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path), path);
	mkdir(folder, 0750); /* what keeps it from being there, the next step says */
}

static int files_open(struct sqlite *s, char why[STORE_WHY_MAX])
{
	bool exists;
	int r = sqlite_file_check(s->path, &exists, why);

	if (r < 0)
		return r;
	if (!exists && s->only_load) {
		snprintf(why, STORE_WHY_MAX, "store %.150s: there is no such file", s->path);
		return -ENOENT;
	}
	if (!exists)
		folder_make(s->path);
	if (!s->only_load)
		r = seal_open(s->path, &s->seal, why);
	/* Once more: who had the lock may have made it. */
	if (r == 0)
		r = sqlite_file_check(s->path, &exists, why);
	if (r == 0 && !exists)
		r = sqlite_file_create(s->path, why);
	if (r == 0)
		r = sqlite_file_open(s->path, s->only_load, &s->db, why);
	return r;
}

static int sqlite_open(const struct store_options *options, const char *rest,
		       const struct store_events *events, void *userdata, struct store **ret_store,
		       char why[STORE_WHY_MAX])
{
	_cleanup_(sqlite_free_p)
	struct sqlite *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->seal.fd = -1;
	STAILQ_INIT(&s->queue);
	s->store.ops = &store_sqlite_ops;
	s->store.events = *events;
	s->store.userdata = userdata;
	s->only_load = options->only_load;
	if (!rest[0]) {
		snprintf(why, STORE_WHY_MAX, "store sqlite: names no file: use sqlite:PATH");
		return -EINVAL;
	}
	s->path = strdup(rest);
	if (!s->path)
		return -ENOMEM;
	r = files_open(s, why);
	if (r < 0)
		return r;
	r = sqlite_prepare(s);
	if (r != SQLITE_OK)
		return sqlite_file_why(s->path, s->db, r, why);
	sqlite3_wal_hook(s->db, on_wal, s);
	r = judge(s, why);
	if (r < 0)
		return r;
	*ret_store = &TAKE_PTR(s)->store;
	return 0;
}

/* ---- what is asked ---------------------------------------------------------------- */

static size_t aligned(size_t size)
{
	return (size + 15) & ~(size_t)15;
}

static size_t extra_size(const struct log_change *c)
{
	return aligned(c->config && c->kind == LOG_CONFIG ? sizeof(*c->config) : 0) +
	       aligned(c->filter.n_sources * sizeof(struct addr)) +
	       aligned(strlen(c->node) + 1 + (c->port ? strlen(c->port) + 1 : 0));
}

static void *extra_copy(char **at, const void *from, size_t size)
{
	void *to = *at;

	memcpy(to, from, size);
	*at += aligned(size);
	return to;
}

static void change_copy(struct log_change *to, const struct log_change *from, char **at)
{
	size_t node = strlen(from->node) + 1;
	char *names;

	*to = *from;
	to->config = NULL;
	to->filter.sources = NULL;
	if (from->config && from->kind == LOG_CONFIG)
		to->config = extra_copy(at, from->config, sizeof(*from->config));
	if (from->filter.n_sources)
		to->filter.sources = extra_copy(at, from->filter.sources,
						from->filter.n_sources * sizeof(struct addr));
	names = *at;
	to->node = memcpy(names, from->node, node);
	if (from->port)
		to->port = memcpy(names + node, from->port, strlen(from->port) + 1);
	*at += aligned(node + (from->port ? strlen(from->port) + 1 : 0));
}

/* One block with all that the changes point to. */
static struct log_change *changes_copy(const struct log_change *changes, size_t n)
{
	size_t size = aligned(n * sizeof(*changes));
	struct log_change *copy;
	char *at;

	for (size_t i = 0; i < n; i++)
		size += extra_size(&changes[i]);
	copy = malloc(size + 1);
	if (!copy)
		return NULL;
	at = (char *)copy + aligned(n * sizeof(*changes));
	for (size_t i = 0; i < n; i++)
		change_copy(&copy[i], &changes[i], &at);
	return copy;
}

static struct item *item_new(const char *node, void *userdata)
{
	struct item *item = calloc(1, sizeof(*item));

	if (!item)
		return NULL;
	strncpy(item->node, node, sizeof(item->node) - 1);
	item->userdata = userdata;
	return item;
}

static void sqlite_session(struct store *store, const struct store_session *request,
			   store_session_done *done, void *userdata)
{
	struct sqlite *s = (struct sqlite *)store;
	struct item *item = store->trouble ? NULL : item_new(request->node, userdata);

	if (!item) {
		done(userdata, store->trouble ? -EIO : -ENOMEM, 0, 0);
		return;
	}
	item->session = *request;
	item->session.node = item->node;
	item->session_done = done;
	STAILQ_INSERT_TAIL(&s->queue, item, link);
}

/* An operator wants an answer; a report, or the end of a node, can wait. */
static bool can_wait(const struct item *item)
{
	return !item->session_done && item->fence;
}

static void sqlite_commit(struct store *store, const struct store_txn *txn, store_commit_done *done,
			  void *userdata)
{
	struct sqlite *s = (struct sqlite *)store;
	struct item *item = item_new(txn->node, userdata);

	if (item)
		item->changes = changes_copy(txn->changes, txn->n_changes);
	if (!item || !item->changes) {
		free(item);
		done(userdata, -ENOMEM, 0);
		return;
	}
	item->n_changes = txn->n_changes;
	item->fence = txn->session;
	item->sequence = txn->sequence;
	item->removes_node = txn->removes_node;
	item->commit_done = done;
	if (store->trouble && !can_wait(item)) {
		item_fail(item, -EIO);
		return;
	}
	STAILQ_INSERT_TAIL(&s->queue, item, link);
}

/* ---- the transaction ---------------------------------------------------------------- */

/* Above it a crash of the machine cannot have been. */
static int ceiling_keep(struct sqlite *s, uint64_t revision)
{
	if (revision <= s->seal.ceiling)
		return SQLITE_OK;
	return seal_store(s, revision, false) < 0 ? SQLITE_IOERR : SQLITE_OK;
}

/* All of the items or none; *revision and *floor are those after it. */
static int transaction(struct sqlite *s, struct items *items, uint64_t *revision, uint64_t *floor)
{
	struct item *item;
	int rc = sqlite_run(s, BEGIN);

	if (rc != SQLITE_OK)
		return rc;
	STAILQ_FOREACH(item, items, link)
	{
		rc = sqlite_item_run(s, item, revision);
		if (rc != SQLITE_OK)
			break;
	}
	if (rc == SQLITE_OK && s->forget_to > s->store.floor)
		rc = sqlite_forget(s, floor);
	if (rc == SQLITE_OK && s->complete_due)
		rc = sqlite_run(s, MESH_COMPLETE);
	if (rc == SQLITE_OK)
		rc = sqlite_mesh_revision(s, *revision);
	if (rc == SQLITE_OK)
		rc = ceiling_keep(s, *revision);
	if (rc == SQLITE_OK)
		rc = sqlite_run(s, COMMIT);
	if (rc != SQLITE_OK && !sqlite3_get_autocommit(s->db))
		sqlite_run(s, ROLLBACK);
	return rc;
}

static void item_answer(struct sqlite *s, struct item *item)
{
	const struct log_change *changes = item->changes;
	size_t n = item->result == 0 ? item->n_changes : 0, batch;

	for (; n; changes += batch, n -= batch) {
		batch = store_batch(changes, n);
		s->store.revision++;
		s->store.events.on_event(s->store.userdata, s->store.revision, changes, batch);
	}
	if (item->session_done)
		item->session_done(item->userdata, item->result,
				   item->result == 0 ? item->session_id : 0,
				   item->result == 0 ? item->last_sequence : 0);
	else
		item->commit_done(item->userdata, item->result,
				  item->result == 0 ? s->store.revision : 0);
	item_free(item);
}

/* Those that cannot wait are told; the others stay, in their order. */
static void trouble_begin(struct sqlite *s, struct items *items, int rc, uint64_t now_ms)
{
	struct items keep = STAILQ_HEAD_INITIALIZER(keep), fail = STAILQ_HEAD_INITIALIZER(fail);
	struct item *item;

	s->store.failures++;
	sqlite_file_why(s->path, s->db, rc, s->trouble);
	if (!s->store.trouble) {
		s->store.trouble_since_ms = now_ms;
		s->retry_after_ms = SQLITE_RETRY_MIN_MS;
	}
	s->store.trouble = s->trouble;
	s->retry_ms = now_ms + s->retry_after_ms;
	s->retry_after_ms *= 2;
	if (s->retry_after_ms > SQLITE_RETRY_MAX_MS)
		s->retry_after_ms = SQLITE_RETRY_MAX_MS;
	STAILQ_CONCAT(items, &s->queue);
	while ((item = STAILQ_FIRST(items))) {
		STAILQ_REMOVE_HEAD(items, link);
		if (can_wait(item))
			STAILQ_INSERT_TAIL(&keep, item, link);
		else
			STAILQ_INSERT_TAIL(&fail, item, link);
	}
	STAILQ_CONCAT(&s->queue, &keep);
	while ((item = STAILQ_FIRST(&fail))) {
		STAILQ_REMOVE_HEAD(&fail, link);
		item_fail(item, -EIO);
	}
}

static void commit_queued(struct sqlite *s, uint64_t now_ms)
{
	struct items items = STAILQ_HEAD_INITIALIZER(items);
	uint64_t revision = s->store.revision, floor = s->store.floor;
	struct item *item;
	size_t rows = 0;
	int rc;

	while (rows < SQLITE_BATCH_ROWS && (item = STAILQ_FIRST(&s->queue))) {
		STAILQ_REMOVE_HEAD(&s->queue, link);
		STAILQ_INSERT_TAIL(&items, item, link);
		rows += 1 + item->n_changes;
	}
	rc = transaction(s, &items, &revision, &floor);
	if (rc != SQLITE_OK) {
		trouble_begin(s, &items, rc, now_ms);
		return;
	}
	s->store.trouble = NULL;
	s->retry_ms = 0;
	s->store.floor = floor;
	s->complete_due = false;
	while ((item = STAILQ_FIRST(&items))) {
		STAILQ_REMOVE_HEAD(&items, link);
		item_answer(s, item);
	}
}

/* When the next checkpoint is to begin. */
static uint64_t checkpoint_ms(const struct sqlite *s)
{
	return s->wal_pages >= SQLITE_CHECKPOINT_PAGES ? s->checkpoint_ms : UINT64_MAX;
}

/* After one that took all, the next commit begins the WAL anew and says so. */
static void checkpoint(struct sqlite *s, uint64_t now_ms)
{
	s->checkpoint_ms = now_ms + SQLITE_CHECKPOINT_MS;
	s->store.failures += checkpointer_failures(s->checkpointer);
	if (s->wal_pages < SQLITE_CHECKPOINT_FORCED && s->checkpointer) {
		if (checkpointer_start(s->checkpointer))
			s->wal_pages = 0;
		return;
	}
	s->wal_pages = 0;
	if (sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL) !=
	    SQLITE_OK)
		s->store.failures++;
}

static bool has_work(const struct sqlite *s)
{
	return is_due(s) || s->store.trouble;
}

static void sqlite_dispatch(struct store *store, uint64_t now_ms)
{
	struct sqlite *s = (struct sqlite *)store;

	if (has_work(s) && now_ms >= s->retry_ms)
		commit_queued(s, now_ms);
	if (now_ms >= checkpoint_ms(s))
		checkpoint(s, now_ms);
}

static uint64_t sqlite_next_ms(const struct store *store)
{
	const struct sqlite *s = (const struct sqlite *)store;

	if (has_work(s))
		return s->retry_ms;
	return checkpoint_ms(s);
}

/* ---- epochs ---------------------------------------------------------------------------- */

static void sqlite_forget_to(struct store *store, uint64_t floor)
{
	((struct sqlite *)store)->forget_to = floor;
}

static void sqlite_complete(struct store *store)
{
	((struct sqlite *)store)->complete_due = true;
}

static int sqlite_renew(struct store *store)
{
	struct sqlite *s = (struct sqlite *)store;
	uint64_t revision = store->revision;
	uint8_t epoch[EPOCH_LEN];

	randombytes_buf(epoch, sizeof(epoch));
	if (mesh_begin(s, epoch, revision, store->floor, false) != SQLITE_OK)
		return -EIO;
	memcpy(store->epoch, epoch, EPOCH_LEN);
	store->is_fresh = true;
	s->complete_due = false;
	/* Should this fail, the next start begins one more epoch. */
	seal_store(s, revision, false);
	return 0;
}

static int replace(struct sqlite *s, const struct log_change *changes, size_t n,
		   const uint8_t epoch[EPOCH_LEN], uint64_t *revision)
{
	uint64_t floor = *revision;
	size_t batch;
	int rc = sqlite_run(s, ROW_CLEAR);

	if (rc == SQLITE_OK)
		rc = sqlite_run(s, SESSION_CLEAR);
	for (; n; changes += batch, n -= batch) {
		batch = store_batch(changes, n);
		++*revision;
		for (size_t i = 0; rc == SQLITE_OK && i < batch; i++)
			rc = sqlite_row_put(s, *revision, &changes[i]);
	}
	if (rc == SQLITE_OK)
		rc = sqlite_mesh_begin(s, epoch, *revision, floor, false);
	return rc == SQLITE_OK ? ceiling_keep(s, *revision) : rc;
}

static int sqlite_replace(struct store *store, const struct log_change *changes, size_t n,
			  char why[STORE_WHY_MAX])
{
	struct sqlite *s = (struct sqlite *)store;
	uint64_t before = store->revision, revision = before;
	uint8_t epoch[EPOCH_LEN];
	int rc = sqlite_run(s, SYNC_FULL), r;

	randombytes_buf(epoch, sizeof(epoch));
	if (rc == SQLITE_OK)
		rc = sqlite_run(s, BEGIN);
	if (rc == SQLITE_OK)
		rc = replace(s, changes, n, epoch, &revision);
	if (rc == SQLITE_OK)
		rc = sqlite_run(s, COMMIT);
	if (rc != SQLITE_OK) {
		r = sqlite_file_why(s->path, s->db, rc, why);
		if (!sqlite3_get_autocommit(s->db))
			sqlite_run(s, ROLLBACK);
		return r;
	}
	sqlite_run(s, SYNC_NORMAL);
	memcpy(store->epoch, epoch, EPOCH_LEN);
	store->revision = revision;
	store->floor = before;
	store->is_fresh = true;
	s->begun = true;
	seal_store(s, revision, false);
	return 0;
}

const struct store_ops store_sqlite_ops = {
	.scheme = "sqlite",
	.open = sqlite_open,
	.close = sqlite_close,
	.load = sqlite_load,
	.session = sqlite_session,
	.commit = sqlite_commit,
	.dispatch = sqlite_dispatch,
	.next_ms = sqlite_next_ms,
	.forget = sqlite_forget_to,
	.complete = sqlite_complete,
	.renew = sqlite_renew,
	.replace = sqlite_replace,
};
