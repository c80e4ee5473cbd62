/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file: whose it is, whether it is whole, and its format's history. Formats
 * are steps; a new file takes all of them, an old one those it lacks, in one
 * transaction. A step that was released is never edited.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "controller/store/sqlite_internal.h"

#define HEADER_LEN	   100
#define HEADER_VERSION	   60 /* of user_version, be32 */
#define HEADER_APPLICATION 68

static const char *const steps[FILE_FORMAT] = {
	/* 1: positions grow with revisions, so the table is the log. */
	"CREATE TABLE mesh (one INTEGER PRIMARY KEY CHECK (one = 1), epoch BLOB NOT NULL,"
	" complete INTEGER NOT NULL, revision INTEGER NOT NULL, floor INTEGER NOT NULL,"
	" session INTEGER NOT NULL, starts INTEGER NOT NULL) STRICT;"
	"INSERT INTO mesh VALUES (1, randomblob(16), 0, 1, 1, 0, 0);"
	"CREATE TABLE session (node TEXT PRIMARY KEY, instance BLOB NOT NULL,"
	" start_count INTEGER NOT NULL, attempt INTEGER NOT NULL, session INTEGER NOT NULL,"
	" sequence INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
	"CREATE TABLE log (position INTEGER PRIMARY KEY, revision INTEGER NOT NULL,"
	" deleted INTEGER NOT NULL, kind INTEGER NOT NULL, segment INTEGER NOT NULL,"
	" node TEXT NOT NULL, port TEXT NOT NULL, grp BLOB NOT NULL, subject INTEGER NOT NULL,"
	" value BLOB NOT NULL, UNIQUE (kind, segment, node, port, grp, subject)) STRICT;"
	"CREATE INDEX log_deleted ON log (revision) WHERE deleted;",
	/* 2: who wrote it last, for people who ask. */
	"ALTER TABLE mesh ADD COLUMN program TEXT NOT NULL DEFAULT '';",
};

static const char columns[] =
	"log.position log.revision log.deleted log.kind log.segment log.node log.port log.grp "
	"log.subject log.value mesh.one mesh.epoch mesh.complete mesh.revision mesh.floor "
	"mesh.session mesh.starts mesh.program session.node session.instance session.start_count "
	"session.attempt session.session session.sequence";

static uint32_t be32_at(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int newer(const char *path, long format, char why[STORE_WHY_MAX])
{
	snprintf(why, STORE_WHY_MAX,
		 "store %.120s: its format is %ld, this program knows up to %d: use the newer "
		 "mcmesh-controller that wrote it",
		 path, format, FILE_FORMAT);
	return -ENOTSUP;
}

static int header_check(const char *path, const uint8_t *header, ssize_t n, char why[STORE_WHY_MAX])
{
	if (n < HEADER_LEN || memcmp(header, "SQLite format 3", 16) != 0 ||
	    be32_at(header + HEADER_APPLICATION) != FILE_APPLICATION) {
		snprintf(
			why, STORE_WHY_MAX,
			"store %.120s: the file is not a store of mcmesh: it was not touched; name "
			"another place",
			path);
		return -EINVAL;
	}
	if (be32_at(header + HEADER_VERSION) > FILE_FORMAT)
		return newer(path, be32_at(header + HEADER_VERSION), why);
	return 0;
}

int sqlite_file_check(const char *path, bool *ret_exists, char why[STORE_WHY_MAX])
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t header[HEADER_LEN];
	struct stat st;
	int r;

	if (fd < 0 && errno == ENOENT) {
		*ret_exists = false;
		return 0;
	}
	if (fd < 0 || fstat(fd, &st) < 0) {
		r = -errno;
		snprintf(why, STORE_WHY_MAX, "store %.150s: cannot open it: %s", path,
			 strerror(-r));
		return r;
	}
	if (!S_ISREG(st.st_mode)) {
		snprintf(why, STORE_WHY_MAX, "store %.150s: this is not a file: name one", path);
		return -EINVAL;
	}
	r = header_check(path, header, pread(fd, header, sizeof(header), 0), why);
	if (r == 0)
		*ret_exists = true;
	return r;
}

int sqlite_file_why(const char *path, sqlite3 *db, int rc, char why[STORE_WHY_MAX])
{
	int system = db ? sqlite3_system_errno(db) : 0;

	switch (rc & 0xff) {
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		snprintf(why, STORE_WHY_MAX,
			 "store %.120s: the file is damaged; it was not changed: move it away, or "
			 "put a backup in its place",
			 path);
		return -EBADMSG;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		snprintf(why, STORE_WHY_MAX,
			 "store %.150s: another program is writing to it: end that one", path);
		return -EBUSY;
	case SQLITE_FULL:
		snprintf(why, STORE_WHY_MAX, "store %.150s: the disk is full: make room", path);
		return -ENOSPC;
	case SQLITE_READONLY:
		snprintf(why, STORE_WHY_MAX,
			 "store %.150s: the file cannot be written: make it writable for this user",
			 path);
		return -EROFS;
	default:
		snprintf(why, STORE_WHY_MAX, "store %.120s: %s%s%s", path, sqlite3_errstr(rc),
			 system ? ": " : "", system ? strerror(system) : "");
		return system ? -system : -EIO;
	}
}

static int on_text(void *userdata, int n, char **values, char **names)
{
	char **text = userdata;

	if (n && !*text && values[0])
		*text = strdup(values[0]);
	return 0;
}

/* The first value of a query as text. */
static int query(sqlite3 *db, const char *sql, char **ret_text)
{
	return sqlite3_exec(db, sql, on_text, ret_text, NULL);
}

static int format_of(sqlite3 *db, long *ret_format)
{
	_cleanup_free_ char *text = NULL;
	int rc = query(db, "PRAGMA user_version", &text);

	if (rc == SQLITE_OK)
		*ret_format = text ? atol(text) : 0;
	return rc;
}

/* The steps after the file's format. */
static int migrate(sqlite3 *db, long format)
{
	char pragma[48];
	int rc;

	if (format >= FILE_FORMAT)
		return SQLITE_OK;
	rc = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
	for (long i = format; rc == SQLITE_OK && i < FILE_FORMAT; i++)
		rc = sqlite3_exec(db, steps[i], NULL, NULL, NULL);
	snprintf(pragma, sizeof(pragma), "PRAGMA user_version = %d", FILE_FORMAT);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(db, pragma, NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
	if (rc != SQLITE_OK && !sqlite3_get_autocommit(db))
		sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	return rc;
}

static void db_close(sqlite3 *db)
{
	sqlite3_close(db);
}

DEFINE_CLEANUP(sqlite3 *, db_close)

int sqlite_connect(const char *path, int flags, sqlite3 **ret_db)
{
	int rc = sqlite3_open_v2(
		path, ret_db,
		flags | SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);

	if (rc != SQLITE_OK)
		return rc;
	/* A file that is refused stays as it is, its WAL too. */
	sqlite3_db_config(*ret_db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	sqlite3_db_config(*ret_db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	sqlite3_db_config(*ret_db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
	return SQLITE_OK;
}

static int folder_sync(const char *path)
{
	const char *slash = strrchr(path, '/');
	char folder[PATH_MAX] = ".";
	_cleanup_close_ int fd = -1;

	if (slash)
		snprintf(folder, sizeof(folder), "%.*s", slash == path ? 1 : (int)(slash - path),
			 path);
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd >= 0 && fsync(fd) == 0 ? 0 : -errno;
}

/* Whole under another name first: a crash leaves no half of a store. */
int sqlite_file_create(const char *path, char why[STORE_WHY_MAX])
{
	_cleanup_(db_close_p)
	sqlite3 *db = NULL;
	char name[PATH_MAX], application[64];
	int rc;

	if (snprintf(name, sizeof(name), "%s-new", path) >= (int)sizeof(name)) {
		snprintf(why, STORE_WHY_MAX, "the store's path is too long");
		return -ENAMETOOLONG;
	}
	unlink(name);
	rc = sqlite_connect(name, SQLITE_OPEN_CREATE, &db);
	snprintf(application, sizeof(application), "PRAGMA application_id = %d", FILE_APPLICATION);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(db, application, NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = migrate(db, 0);
	if (rc != SQLITE_OK) {
		rc = sqlite_file_why(path, db, rc, why);
		unlink(name);
		return rc;
	}
	db_close(TAKE_PTR(db));
	if (chmod(name, 0640) < 0 || rename(name, path) < 0 || folder_sync(path) < 0) {
		rc = -errno;
		snprintf(why, STORE_WHY_MAX, "store %.150s: cannot create it: %s", path,
			 strerror(-rc));
		unlink(name);
		return rc;
	}
	return 0;
}

/* Reads all of it before anything is written. */
static int db_check(const char *path, sqlite3 *db, long *ret_format, char why[STORE_WHY_MAX])
{
	_cleanup_free_ char *verdict = NULL;
	int rc = query(db, "PRAGMA quick_check(1)", &verdict);

	if (rc == SQLITE_OK && (!verdict || strcmp(verdict, "ok") != 0))
		rc = SQLITE_CORRUPT;
	if (rc == SQLITE_OK)
		rc = format_of(db, ret_format);
	if (rc != SQLITE_OK)
		return sqlite_file_why(path, db, rc, why);
	if (*ret_format > FILE_FORMAT)
		return newer(path, *ret_format, why); /* its last writes are in the WAL */
	return 0;
}

static int columns_check(const char *path, sqlite3 *db, char why[STORE_WHY_MAX])
{
	static const char sql[] =
		"SELECT group_concat(name, ' ') FROM (SELECT t.name || '.' || c.name AS name"
		" FROM sqlite_schema AS t JOIN pragma_table_info(t.name) AS c"
		" WHERE t.type = 'table' AND substr(t.name, 1, 7) <> 'sqlite_'"
		" ORDER BY t.name, c.cid)";
	_cleanup_free_ char *text = NULL;
	int rc = query(db, sql, &text);

	if (rc != SQLITE_OK)
		return sqlite_file_why(path, db, rc, why);
	if (text && strcmp(text, columns) == 0)
		return 0;
	snprintf(why, STORE_WHY_MAX,
		 "store %.120s: it has columns that this program does not know, or lacks some: use "
		 "the mcmesh-controller that wrote it",
		 path);
	return -ENOTSUP;
}

int sqlite_file_open(const char *path, bool only_load, sqlite3 **ret_db, char why[STORE_WHY_MAX])
{
	_cleanup_(db_close_p)
	sqlite3 *db = NULL;
	long format = 0;
	int rc = sqlite_connect(path, 0, &db), r;

	if (rc == SQLITE_OK && sqlite3_db_readonly(db, "main") && !only_load)
		rc = SQLITE_READONLY;
	if (rc != SQLITE_OK)
		return sqlite_file_why(path, db, rc, why);
	r = db_check(path, db, &format, why);
	if (r < 0)
		return r;
	if (!only_load) {
		rc = migrate(db, format);
		if (rc == SQLITE_OK)
			rc = sqlite3_exec(
				db,
				"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
				"PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -16384;"
				"PRAGMA temp_store = MEMORY",
				NULL, NULL, NULL);
		if (rc != SQLITE_OK)
			return sqlite_file_why(path, db, rc, why);
	} else if (format < FILE_FORMAT) {
		snprintf(why, STORE_WHY_MAX,
			 "store %.120s: its format is old: start a controller with it once", path);
		return -ENOTSUP;
	}
	r = columns_check(path, db, why);
	if (r == 0)
		*ret_db = TAKE_PTR(db);
	return r;
}
