/* SPDX-License-Identifier: Apache-2.0 */
/* Rows, sessions and the mesh's own line, as statements. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "controller/store/codec.h"
#include "controller/store/sqlite_internal.h"

#define SMALL_VALUE 512
#define SEGMENT_MAX 16777215

static const char *const texts[N_STATEMENTS] = {
	[BEGIN] = "BEGIN IMMEDIATE",
	[COMMIT] = "COMMIT",
	[ROLLBACK] = "ROLLBACK",
	[SYNC_FULL] = "PRAGMA synchronous = FULL",
	[SYNC_NORMAL] = "PRAGMA synchronous = NORMAL",
	[MESH_READ] = "SELECT epoch, complete, revision, floor, session, starts FROM mesh",
	[MESH_BEGIN] = "UPDATE mesh SET epoch = ?, complete = ?, revision = ?, floor = ?,"
		       " starts = ?, program = ?",
	[MESH_REVISION] = "UPDATE mesh SET revision = ?, session = ?",
	[MESH_FLOOR] = "UPDATE mesh SET floor = ?",
	[MESH_COMPLETE] = "UPDATE mesh SET complete = 1",
	[SESSION_FIND] = "SELECT instance, start_count, attempt, sequence FROM session"
			 " WHERE node = ?",
	[SESSION_PUT] = "INSERT OR REPLACE INTO session (node, instance, start_count, attempt,"
			" session, sequence) VALUES (?, ?, ?, ?, ?, ?)",
	[SESSION_FENCE] = "UPDATE session SET sequence = CASE WHEN ?3 = 0 THEN sequence ELSE ?3 END"
			  " WHERE node = ?1 AND session = ?2",
	[SESSION_FORGET] = "DELETE FROM session WHERE node = ?",
	[SESSION_CLEAR] = "DELETE FROM session",
	[ROW_PUT] = "INSERT OR REPLACE INTO log (kind, segment, node, port, grp, subject, revision,"
		    " deleted, value) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
	[ROW_DELETE] = "DELETE FROM log WHERE kind = ? AND segment = ? AND node = ? AND port = ?"
		       " AND grp = ? AND subject = ? AND deleted = 0",
	[ROW_CLEAR] = "DELETE FROM log",
	[ROWS] = "SELECT revision, deleted, kind, segment, node, port, grp, subject, value FROM log"
		 " ORDER BY position",
	[FORGET_CUT] = "SELECT revision FROM log WHERE deleted AND revision <= ? ORDER BY revision"
		       " LIMIT 1 OFFSET ?",
	[FORGET] = "DELETE FROM log WHERE deleted AND revision <= ?",
};

int sqlite_prepare(struct sqlite *s)
{
	int rc = SQLITE_OK;

	for (int i = 0; rc == SQLITE_OK && i < N_STATEMENTS; i++)
		rc = sqlite3_prepare_v3(s->db, texts[i], -1, SQLITE_PREPARE_PERSISTENT,
					&s->statements[i], NULL);
	return rc;
}

void sqlite_finalize(struct sqlite *s)
{
	for (int i = 0; i < N_STATEMENTS; i++) {
		sqlite3_finalize(s->statements[i]);
		s->statements[i] = NULL;
	}
}

/* Steps to its end and makes it ready for the next time. */
static int finish(sqlite3_stmt *st)
{
	int rc = sqlite3_step(st);

	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
	return rc == SQLITE_DONE || rc == SQLITE_ROW ? SQLITE_OK : rc;
}

int sqlite_run(struct sqlite *s, enum statement which)
{
	return finish(s->statements[which]);
}

/* ---- the mesh ------------------------------------------------------------------- */

int sqlite_mesh_read(struct sqlite *s, bool *ret_complete)
{
	sqlite3_stmt *st = s->statements[MESH_READ];
	int rc = sqlite3_step(st);

	if (rc == SQLITE_DONE || (rc == SQLITE_ROW && sqlite3_column_bytes(st, 0) != EPOCH_LEN)) {
		rc = SQLITE_CORRUPT;
	} else if (rc == SQLITE_ROW) {
		memcpy(s->store.epoch, sqlite3_column_blob(st, 0), EPOCH_LEN);
		*ret_complete = sqlite3_column_int(st, 1);
		s->store.revision = (uint64_t)sqlite3_column_int64(st, 2);
		s->store.floor = (uint64_t)sqlite3_column_int64(st, 3);
		s->last_session = (uint64_t)sqlite3_column_int64(st, 4);
		s->starts = (uint64_t)sqlite3_column_int64(st, 5);
		rc = SQLITE_OK;
	}
	sqlite3_reset(st);
	return rc;
}

int sqlite_mesh_begin(struct sqlite *s, const uint8_t epoch[EPOCH_LEN], uint64_t revision,
		      uint64_t floor, bool complete)
{
	sqlite3_stmt *st = s->statements[MESH_BEGIN];

	sqlite3_bind_blob(st, 1, epoch, EPOCH_LEN, SQLITE_STATIC);
	sqlite3_bind_int(st, 2, complete);
	sqlite3_bind_int64(st, 3, (sqlite3_int64)revision);
	sqlite3_bind_int64(st, 4, (sqlite3_int64)floor);
	sqlite3_bind_int64(st, 5, (sqlite3_int64)s->starts);
	sqlite3_bind_text(st, 6, MCMESH_VERSION, -1, SQLITE_STATIC);
	return finish(st);
}

int sqlite_mesh_revision(struct sqlite *s, uint64_t revision)
{
	sqlite3_stmt *st = s->statements[MESH_REVISION];

	sqlite3_bind_int64(st, 1, (sqlite3_int64)revision);
	sqlite3_bind_int64(st, 2, (sqlite3_int64)s->last_session);
	return finish(st);
}

/* ---- sessions ------------------------------------------------------------------- */

static bool is_newer(const struct store_session *q, uint64_t start_count, uint64_t attempt)
{
	if (q->start_count != start_count)
		return q->start_count > start_count;
	return q->attempt > attempt;
}

/* Sets result and last_sequence by who holds the name. */
static int session_judge(struct sqlite *s, struct item *item)
{
	sqlite3_stmt *st = s->statements[SESSION_FIND];
	const struct store_session *q = &item->session;
	uint64_t start_count, attempt;
	int rc;

	item->result = 0;
	item->last_sequence = 0;
	sqlite3_bind_text(st, 1, item->node, -1, SQLITE_STATIC);
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) {
		start_count = (uint64_t)sqlite3_column_int64(st, 1);
		attempt = (uint64_t)sqlite3_column_int64(st, 2);
		if (sqlite3_column_bytes(st, 0) != STORE_INSTANCE_LEN ||
		    memcmp(sqlite3_column_blob(st, 0), q->instance, STORE_INSTANCE_LEN) != 0)
			item->result = q->holder_alive ? -EEXIST : 0;
		else if (!is_newer(q, start_count, attempt))
			item->result = -ESTALE;
		else if (q->start_count == start_count)
			item->last_sequence = (uint64_t)sqlite3_column_int64(st, 3);
	}
	sqlite3_reset(st);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int session_run(struct sqlite *s, struct item *item)
{
	sqlite3_stmt *st = s->statements[SESSION_PUT];
	int rc = session_judge(s, item);

	if (rc != SQLITE_OK || item->result < 0)
		return rc;
	/* Never given out again, also when this transaction fails. */
	item->session_id = ++s->last_session;
	sqlite3_bind_text(st, 1, item->node, -1, SQLITE_STATIC);
	sqlite3_bind_blob(st, 2, item->session.instance, STORE_INSTANCE_LEN, SQLITE_STATIC);
	sqlite3_bind_int64(st, 3, (sqlite3_int64)item->session.start_count);
	sqlite3_bind_int64(st, 4, (sqlite3_int64)item->session.attempt);
	sqlite3_bind_int64(st, 5, (sqlite3_int64)item->session_id);
	sqlite3_bind_int64(st, 6, (sqlite3_int64)item->last_sequence);
	return finish(st);
}

static int session_fence(struct sqlite *s, struct item *item)
{
	sqlite3_stmt *st = s->statements[SESSION_FENCE];
	int rc;

	sqlite3_bind_text(st, 1, item->node, -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, 2, (sqlite3_int64)item->fence);
	sqlite3_bind_int64(st, 3, (sqlite3_int64)item->sequence);
	rc = finish(st);
	item->result = rc == SQLITE_OK && sqlite3_changes(s->db) == 1 ? 0 : -ESTALE;
	return rc;
}

static int session_forget(struct sqlite *s, const char *node)
{
	sqlite3_stmt *st = s->statements[SESSION_FORGET];

	sqlite3_bind_text(st, 1, node, -1, SQLITE_STATIC);
	return finish(st);
}

/* ---- rows ------------------------------------------------------------------------ */

/* What is not part of the kind's key is empty. */
static void bind_key(sqlite3_stmt *st, const struct log_change *c)
{
	bool has_group = c->kind == LOG_MEMBER || c->kind == LOG_STATIC;

	sqlite3_bind_int(st, 1, (int)c->kind);
	sqlite3_bind_int64(st, 2, c->segment);
	sqlite3_bind_text(st, 3, c->node, -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 4, c->kind == LOG_STATIC ? c->port : "", -1, SQLITE_STATIC);
	sqlite3_bind_blob(st, 5, &c->group, has_group ? sizeof(c->group) : 0, SQLITE_STATIC);
	sqlite3_bind_int64(st, 6, c->kind == LOG_CONFIG ? c->subject : 0);
}

int sqlite_row_put(struct sqlite *s, uint64_t revision, const struct log_change *c)
{
	sqlite3_stmt *st = s->statements[ROW_PUT];
	size_t size = store_encoded_size(c);
	uint8_t small[SMALL_VALUE], *value = small;
	_cleanup_free_ uint8_t *big = NULL;
	int rc;

	if (c->deleted) {
		bind_key(s->statements[ROW_DELETE], c);
		rc = sqlite_run(s, ROW_DELETE);
		if (rc != SQLITE_OK || !sqlite3_changes(s->db))
			return rc; /* nothing was there: no tombstone, as in the log */
	}
	if (size > sizeof(small)) {
		value = big = malloc(size);
		if (!big)
			return SQLITE_NOMEM;
	}
	store_encode(c, value);
	bind_key(st, c);
	sqlite3_bind_int64(st, 7, (sqlite3_int64)revision);
	sqlite3_bind_int(st, 8, c->deleted);
	sqlite3_bind_blob(st, 9, value, (int)size, SQLITE_STATIC);
	rc = finish(st);
	if (rc == SQLITE_OK && c->kind == LOG_NODE && c->deleted)
		rc = session_forget(s, c->node);
	return rc;
}

int sqlite_item_run(struct sqlite *s, struct item *item, uint64_t *revision)
{
	const struct log_change *changes = item->changes;
	size_t n = item->n_changes, batch;
	int rc = SQLITE_OK;

	if (item->session_done)
		return session_run(s, item);
	item->result = 0;
	if (item->fence) {
		rc = session_fence(s, item);
		if (rc != SQLITE_OK || item->result < 0)
			return rc;
	}
	for (; n; changes += batch, n -= batch) {
		batch = store_batch(changes, n);
		++*revision;
		for (size_t i = 0; rc == SQLITE_OK && i < batch; i++)
			rc = sqlite_row_put(s, *revision, &changes[i]);
	}
	return rc == SQLITE_OK && item->removes_node ? session_forget(s, item->node) : rc;
}

int sqlite_forget(struct sqlite *s, uint64_t *ret_floor)
{
	sqlite3_stmt *cut = s->statements[FORGET_CUT], *st = s->statements[FORGET];
	uint64_t floor = s->forget_to;
	int rc;

	sqlite3_bind_int64(cut, 1, (sqlite3_int64)floor);
	sqlite3_bind_int(cut, 2, SQLITE_FORGET_MAX - 1);
	rc = sqlite3_step(cut);
	if (rc == SQLITE_ROW)
		floor = (uint64_t)sqlite3_column_int64(cut, 0);
	sqlite3_reset(cut);
	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		return rc;
	sqlite3_bind_int64(st, 1, (sqlite3_int64)floor);
	rc = finish(st);
	if (rc == SQLITE_OK) {
		sqlite3_bind_int64(s->statements[MESH_FLOOR], 1, (sqlite3_int64)floor);
		rc = sqlite_run(s, MESH_FLOOR);
	}
	*ret_floor = floor;
	return rc;
}

/* ---- loading ---------------------------------------------------------------------- */

/* The strings and settings of a change, which SQLite keeps only until the next row. */
struct kept {
	char node[LOG_NAME_MAX], port[LOG_PORT_MAX];
	struct log_config config;
};

struct loading {
	struct store *store;
	uint64_t revision; /* of what is gathered */
	struct log_change *changes;
	struct kept *kept;
	size_t n, n_allocated;
};

static int loading_grow(struct loading *l)
{
	size_t want = l->n_allocated ? 2 * l->n_allocated : STORE_BATCH_ROWS;
	struct log_change *changes;
	struct kept *kept;

	if (l->n < l->n_allocated)
		return 0;
	changes = reallocarray(l->changes, want, sizeof(*changes));
	if (!changes)
		return -ENOMEM;
	l->changes = changes;
	kept = reallocarray(l->kept, want, sizeof(*kept));
	if (!kept)
		return -ENOMEM;
	l->kept = kept;
	l->n_allocated = want;
	return 0;
}

/* Gives one revision to the log. */
static void loading_flush(struct loading *l)
{
	for (size_t i = 0; i < l->n; i++) {
		l->changes[i].node = l->kept[i].node;
		l->changes[i].port = l->kept[i].port;
		l->changes[i].config = &l->kept[i].config;
	}
	if (l->n)
		l->store->events.on_event(l->store->userdata, l->revision, l->changes, l->n);
	for (size_t i = 0; i < l->n; i++)
		filter_deinit(&l->changes[i].filter);
	l->n = 0;
}

static int text_read(sqlite3_stmt *st, int column, char *ret, size_t size)
{
	const char *text = (const char *)sqlite3_column_text(st, column);
	size_t len = (size_t)sqlite3_column_bytes(st, column);

	if (!text || len >= size || strlen(text) != len)
		return -EBADMSG;
	memcpy(ret, text, len + 1);
	return 0;
}

static int key_read(sqlite3_stmt *st, struct log_change *c, struct kept *kept)
{
	sqlite3_int64 segment = sqlite3_column_int64(st, 3), subject = sqlite3_column_int64(st, 7);
	int kind = sqlite3_column_int(st, 2), group_len = sqlite3_column_bytes(st, 6);
	bool has_group = kind == LOG_MEMBER || kind == LOG_STATIC;

	if (kind < LOG_NODE || kind > LOG_CONFIG)
		return -ENOTSUP;
	if (segment < 0 || segment > SEGMENT_MAX || subject < 0 || subject > SEGMENT_MAX ||
	    (kind == LOG_MEMBER) != (segment != 0) ||
	    group_len != (has_group ? (int)sizeof(c->group) : 0) ||
	    text_read(st, 4, kept->node, sizeof(kept->node)) < 0 ||
	    text_read(st, 5, kept->port, sizeof(kept->port)) < 0 ||
	    (kind == LOG_CONFIG) != (kept->node[0] == '\0'))
		return -EBADMSG;
	*c = (struct log_change){ .kind = (enum log_kind)kind,
				  .segment = (uint32_t)segment,
				  .subject = (uint32_t)subject,
				  .deleted = sqlite3_column_int(st, 1) };
	if (has_group) {
		memcpy(&c->group, sqlite3_column_blob(st, 6), sizeof(c->group));
		/* The null group stands for every group. */
		if (!addr_is_multicast(&c->group) &&
		    !(kind == LOG_MEMBER && addr_is_null(&c->group)))
			return -EBADMSG;
	}
	return 0;
}

static int row_read(struct loading *l, sqlite3_stmt *st)
{
	uint64_t revision = (uint64_t)sqlite3_column_int64(st, 0);
	struct log_change *c;
	struct kept *kept;
	int r;

	if (revision < l->revision || !revision || revision > l->store->revision)
		return -EBADMSG;
	if (revision != l->revision)
		loading_flush(l);
	l->revision = revision;
	r = loading_grow(l);
	if (r < 0)
		return r;
	c = &l->changes[l->n];
	kept = &l->kept[l->n];
	r = key_read(st, c, kept);
	if (r == 0)
		r = store_decode(sqlite3_column_blob(st, 8), (size_t)sqlite3_column_bytes(st, 8), c,
				 &kept->config);
	if (r == 0)
		l->n++;
	return r;
}

int sqlite_rows_load(struct sqlite *s, char why[STORE_WHY_MAX])
{
	sqlite3_stmt *st = s->statements[ROWS];
	struct loading l = { .store = &s->store };
	int rc = SQLITE_DONE, r = 0;

	while (r == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW)
		r = row_read(&l, st);
	loading_flush(&l);
	sqlite3_reset(st);
	free(l.changes);
	free(l.kept);
	if (r == 0 && rc != SQLITE_DONE)
		return sqlite_file_why(s->path, s->db, rc, why);
	if (r == -EBADMSG)
		return sqlite_file_why(s->path, s->db, SQLITE_CORRUPT, why);
	if (r == -ENOTSUP)
		snprintf(why, STORE_WHY_MAX,
			 "store %.120s: it has rows or settings that this program does not know: "
			 "use the newer mcmesh-controller that wrote them",
			 s->path);
	return r;
}
