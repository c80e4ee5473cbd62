/* SPDX-License-Identifier: Apache-2.0 */
/* The file: what is refused and stays as it is, what a crash leaves, a disk that fails. */
#include "store_harness.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct bed bed;
static char *scratch, spec[256], path[256];

static void setup(void)
{
	scratch = scratch_new();
	snprintf(path, sizeof(path), "%s/store.db", scratch);
	snprintf(spec, sizeof(spec), "sqlite:%s", path);
}

static void teardown(void)
{
	if (bed.store)
		bed_close(&bed);
	scratch_free(scratch);
}

TestSuite(sqlite, .init = setup, .fini = teardown, .timeout = 60);

static uint64_t connect_n1(void)
{
	uint64_t session;

	cr_assert_eq(bed_session(&bed, "n1", 1, 1, 1, false, &session, NULL), 0);
	return session;
}

/* A store with some rows, closed. */
static void make(uint32_t rows)
{
	uint64_t session;

	bed_open(&bed, spec);
	session = connect_n1();
	for (uint32_t i = 0; i < rows; i++) {
		struct log_change c = change_member("n1", i, false);

		cr_assert_eq(bed_commit(&bed, "n1", session, i + 1, &c, 1), 0);
	}
	bed_close(&bed);
}

static void sql(const char *text)
{
	char *why = NULL;
	sqlite3 *db;

	cr_assert_eq(sqlite3_open(path, &db), SQLITE_OK);
	cr_assert_eq(sqlite3_exec(db, text, NULL, NULL, &why), SQLITE_OK, "%s", why);
	sqlite3_close(db);
}

static char *contents(const char *name, size_t *ret_size)
{
	FILE *f = fopen(name, "r");
	char *data = malloc(4 << 20);

	cr_assert_not_null(f, "%s", name);
	*ret_size = fread(data, 1, 4 << 20, f);
	fclose(f);
	return data;
}

static void write_file(const char *name, const void *data, size_t size)
{
	FILE *f = fopen(name, "w");

	cr_assert_not_null(f);
	cr_assert_eq(fwrite(data, 1, size, f), size);
	fclose(f);
}

/* The store is refused with this in its sentence, and the file is as it was. */
static void refused(int error, const char *word)
{
	size_t size, size_after;
	char *before = contents(path, &size), *after;

	cr_assert_eq(bed_try(&bed, spec), error, "%s", bed.why);
	cr_assert_not_null(strstr(bed.why, word), "%s", bed.why);
	cr_assert_not_null(strstr(bed.why, path), "%s", bed.why);
	cr_assert_null(strchr(bed.why, '\n'));
	after = contents(path, &size_after);
	cr_assert(size == size_after && memcmp(before, after, size) == 0, "the file changed");
	free(before);
	free(after);
}

/* ---- files that are refused ------------------------------------------------------------ */

Test(sqlite, foreign_files_are_not_touched)
{
	char name[300];
	size_t size;
	char *data;

	write_file(path, "a letter", 8);
	refused(-EINVAL, "not a store of mcmesh");
	write_file(path, "", 0);
	refused(-EINVAL, "not a store of mcmesh");
	unlink(path);
	sql("CREATE TABLE other (x)");
	refused(-EINVAL, "not a store of mcmesh");
	snprintf(name, sizeof(name), "%s-lock", path);
	cr_assert_neq(access(name, F_OK), 0, "nothing is made beside a foreign file");
	unlink(path);
	make(3);
	data = contents(path, &size);
	write_file(path, data, size / 2);
	refused(-EBADMSG, "damaged");
	write_file(path, data, 100);
	refused(-EBADMSG, "damaged");
	write_file(path, data, 99);
	refused(-EINVAL, "not a store of mcmesh");
	free(data);
	unlink(path);
	cr_assert_eq(mkdir(path, 0700), 0);
	cr_assert_eq(bed_try(&bed, spec), -EINVAL);
	cr_assert_not_null(strstr(bed.why, "not a file"), "%s", bed.why);
}

/* Whatever byte is damaged: it is a whole store, or it is refused and stays. */
Test(sqlite, damage_anywhere_is_found_or_harmless, .timeout = 120)
{
	size_t size, after_size;
	unsigned int found = 0;
	char *data, *damaged, *after;

	make(60);
	data = contents(path, &size);
	damaged = malloc(size);
	srand(3);
	for (int i = 0; i < 300; i++) {
		size_t at = (size_t)rand() % size;

		memcpy(damaged, data, size);
		for (size_t j = at; j < size && j < at + 1 + (size_t)(rand() % 64); j++)
			damaged[j] = (char)rand();
		write_file(path, damaged, size);
		if (bed_try(&bed, spec) == 0) {
			bed_close(&bed);
			continue;
		}
		found++;
		cr_assert_gt(strlen(bed.why), 20);
		after = contents(path, &after_size);
		cr_assert(after_size == size && memcmp(after, damaged, size) == 0);
		free(after);
	}
	cr_assert_gt(found, 50, "%u", found);
	free(data);
	free(damaged);
}

Test(sqlite, newer_formats_and_unknown_columns_are_refused)
{
	make(1);
	sql("ALTER TABLE log ADD COLUMN colour TEXT");
	refused(-ENOTSUP, "columns");
	sql("ALTER TABLE log DROP COLUMN colour; CREATE TABLE extra (x)");
	refused(-ENOTSUP, "columns");
	sql("DROP TABLE extra; UPDATE log SET value = x'09' WHERE kind = 3");
	refused(-ENOTSUP, "newer");
	sql("UPDATE OR REPLACE log SET value = x'01', kind = 17");
	refused(-ENOTSUP, "newer");
	sql("PRAGMA user_version = 3");
	refused(-ENOTSUP, "its format is 3");
}

Test(sqlite, damaged_rows_are_refused)
{
	static const char *const damage[] = {
		"UPDATE OR REPLACE log SET value = x'01'",
		"UPDATE OR REPLACE log SET grp = x'01'",
		"UPDATE OR REPLACE log SET grp = x'00000000000000000000ffff0a000001'",
		"UPDATE OR REPLACE log SET node = ''",
		"UPDATE OR REPLACE log SET node = printf('%100s', 'x')",
		"UPDATE OR REPLACE log SET segment = 16777216",
		"UPDATE OR REPLACE log SET segment = 0",
		"UPDATE OR REPLACE log SET revision = 0",
		"UPDATE OR REPLACE log SET revision = 1000000000",
		"UPDATE log SET revision = 1 WHERE position = (SELECT max(position) FROM log)",
		"UPDATE OR REPLACE log SET deleted = 1",
		"UPDATE mesh SET epoch = x'00'",
		"DELETE FROM mesh",
	};
	size_t size;
	char *data;

	make(3);
	data = contents(path, &size);
	for (size_t i = 0; i < sizeof(damage) / sizeof(damage[0]); i++) {
		write_file(path, data, size);
		sql(damage[i]);
		refused(-EBADMSG, "damaged");
	}
	free(data);
}

Test(sqlite, place_that_cannot_be_written_is_a_sentence)
{
	struct bed other;

	cr_assert_eq(bed_try(&bed, "sqlite:"), -EINVAL);
	cr_assert_eq(bed_try(&bed, "sqlite:/nowhere/at/all/store.db"), -ENOENT);
	cr_assert_not_null(strstr(bed.why, "make its folder"), "%s", bed.why);
	make(1);
	bed_open(&bed, spec);
	cr_assert_eq(bed_try(&other, spec), -EBUSY);
	cr_assert_not_null(strstr(other.why, "another controller"), "%s", other.why);
	bed_close(&bed);
	if (geteuid() != 0)
		cr_skip_test("the rest needs root");
	cr_assert_eq(chmod(path, 0444), 0);
	cr_assert_eq(chmod(scratch, 0777), 0);
	cr_assert_eq(seteuid(65534), 0);
	cr_assert_lt(bed_try(&bed, spec), 0, "the seal is root's");
	cr_assert_eq(seteuid(0), 0);
	snprintf(bed.why, sizeof(bed.why), "%s-lock", path);
	cr_assert_eq(chmod(bed.why, 0666), 0);
	cr_assert_eq(seteuid(65534), 0);
	refused(-EROFS, "cannot be written");
	cr_assert_eq(seteuid(0), 0);
}

Test(sqlite, folder_of_the_default_is_made)
{
	char name[300];

	snprintf(name, sizeof(name), "sqlite:%s/mcmesh/controller.db", scratch);
	bed_open(&bed, name);
	bed_close(&bed);
	snprintf(name, sizeof(name), "sqlite:%s/a/b/controller.db", scratch);
	cr_assert_eq(bed_try(&bed, name), -ENOENT);
}

/* ---- formats --------------------------------------------------------------------------- */

Test(sqlite, file_of_format_1_is_taken_over)
{
	struct log_change c = change_member("n1", 1, false);
	uint8_t epoch[EPOCH_LEN];
	char *before, *after;

	make(5);
	bed_open(&bed, spec);
	store_complete(bed.store);
	before = bed_text(&bed);
	memcpy(epoch, bed.store->epoch, EPOCH_LEN);
	bed_close(&bed);
	/* What the first format had. */
	sql("ALTER TABLE mesh DROP COLUMN program; PRAGMA user_version = 1");
	bed_open(&bed, spec);
	after = bed_text(&bed);
	cr_assert_str_eq(after, before);
	cr_assert_arr_eq(bed.store->epoch, epoch, EPOCH_LEN);
	cr_assert_not(bed.store->is_fresh);
	cr_assert_eq(bed_commit(&bed, "", 0, 0, &c, 1), 0);
	bed_close(&bed);
	bed_open(&bed, spec);
	free(before);
	free(after);
}

/* ---- crashes and copies ------------------------------------------------------------------ */

static void copy(const char *suffix, const char *to)
{
	char from[300], into[300];
	size_t size;
	char *data;

	snprintf(from, sizeof(from), "%s%s", path, suffix);
	snprintf(into, sizeof(into), "%s%s", to, suffix);
	data = contents(from, &size);
	write_file(into, data, size);
	free(data);
}

static void work_and_say_whole(void)
{
	uint64_t session;

	bed_open(&bed, spec);
	store_complete(bed.store);
	session = connect_n1();
	for (uint32_t i = 0; i < 100; i++) {
		struct log_change c = change_member("n1", i, false);

		cr_assert_eq(bed_commit(&bed, "n1", session, i + 1, &c, 1), 0);
	}
}

/* What is there when the process ends without a goodbye: the files as they are. */
static void killed(void)
{
	char other[256];

	work_and_say_whole();
	snprintf(other, sizeof(other), "%s/killed.db", scratch);
	copy("", other);
	copy("-wal", other);
	copy("-lock", other);
	bed_close(&bed);
	memcpy(path, other, sizeof(path));
	snprintf(spec, sizeof(spec), "sqlite:%s", path);
}

static void replace_in_seal(const char *from, const char *to)
{
	char name[300], *data, *at;
	size_t size;

	snprintf(name, sizeof(name), "%s-lock", path);
	data = contents(name, &size);
	data[size] = '\0';
	at = strstr(data, from);
	cr_assert_not_null(at, "%s", data);
	memcpy(at, to, strlen(to));
	write_file(name, data, size);
	free(data);
}

static void epoch_is(bool same, const uint8_t epoch[EPOCH_LEN], uint64_t at_least)
{
	bed_open(&bed, spec);
	cr_assert_eq(memcmp(bed.store->epoch, epoch, EPOCH_LEN) == 0, same);
	cr_assert_eq(bed.store->is_fresh, !same);
	cr_assert_geq(bed.store->revision, at_least);
	cr_assert_geq(log_node_find(bed.log, "n1")->n_members, 1);
}

Test(sqlite, killed_process_loses_nothing)
{
	uint64_t sequence;

	killed();
	bed_open(&bed, spec);
	cr_assert_not(bed.store->is_fresh);
	cr_assert_eq(log_node_find(bed.log, "n1")->n_members, 100);
	cr_assert_eq(bed_session(&bed, "n1", 1, 1, 2, false, NULL, &sequence), 0);
	cr_assert_eq(sequence, 100);
}

static void epoch_read(uint8_t epoch[EPOCH_LEN], uint64_t *ret_revision)
{
	bed_open(&bed, spec);
	memcpy(epoch, bed.store->epoch, EPOCH_LEN);
	*ret_revision = bed.store->revision;
	bed_close(&bed);
}

Test(sqlite, power_cut_begins_an_epoch_above_the_ceiling)
{
	uint8_t epoch[EPOCH_LEN];
	uint64_t revision;

	killed();
	epoch_read(epoch, &revision); /* and closes it: the next boot is no matter */
	replace_in_seal("boot ", "boot x");
	epoch_is(true, epoch, revision);
	bed_close(&bed);
	replace_in_seal("clean 1", "clean 0");
	replace_in_seal("boot ", "boot x");
	epoch_is(false, epoch, revision + 1000);
}

Test(sqlite, older_copy_begins_an_epoch)
{
	uint8_t epoch[EPOCH_LEN];
	uint64_t revision;
	size_t size;
	char *copy, name[300];

	make(3);
	bed_open(&bed, spec);
	store_complete(bed.store);
	bed_close(&bed);
	copy = contents(path, &size);
	epoch_read(epoch, &revision);
	write_file(path, copy, size);
	epoch_is(false, epoch, revision);
	bed_close(&bed);
	epoch_read(epoch, &revision);
	snprintf(name, sizeof(name), "%s-lock", path);
	unlink(name); /* came from elsewhere */
	epoch_is(false, epoch, revision);
	free(copy);
}

Test(sqlite, refused_file_keeps_what_a_crash_left_in_the_wal)
{
	char name[300];
	size_t size;
	char *data;

	killed();
	snprintf(name, sizeof(name), "%s-wal", path);
	data = contents(name, &size);
	cr_assert_gt(size, 0);
	free(data);
	data = contents(path, &size);
	data[100] = 0x55; /* the type of the first page */
	write_file(path, data, size);
	free(data);
	if (bed_try(&bed, spec) == 0)
		return; /* the WAL had that page */
	data = contents(name, &size);
	cr_assert_gt(size, 0, "the WAL is gone");
	free(data);
}

/* ---- a disk that fails --------------------------------------------------------------------- */

static void failed(struct bed *b, uint64_t session)
{
	struct log_change c = change_member("n1", 5000, false);
	size_t n = b->n_answers;
	uint64_t revision = log_revision(b->log);

	/* An operator is told; a report waits; the log is as it was. */
	cr_assert_eq(bed_commit(b, "", 0, 0, &c, 1), -EIO);
	cr_assert_not_null(b->store->trouble);
	cr_assert_eq(bed_session(b, "n2", 2, 1, 1, false, NULL, NULL), -EIO);
	bed_ask(b, "n1", session, 100000, &c, 1);
	for (int i = 0; i < 3; i++) {
		while (store_next_ms(b->store) == 0)
			store_dispatch(b->store, 0);
		store_dispatch(b->store, store_next_ms(b->store));
	}
	cr_assert_eq(b->n_answers, n + 2);
	cr_assert_eq(log_revision(b->log), revision);
	cr_assert_gt(b->store->failures, 2);
}

/* Fills the store until it cannot go on; the member that is not in. */
static uint32_t fill(uint64_t session)
{
	struct addr sources[200];
	struct log_change c;
	uint32_t i;

	for (i = 0; i < 200; i++)
		sources[i] = addr_v4_be32(__builtin_bswap32(i + 1));
	for (i = 0; i < 5000; i++) {
		size_t n = bed.n_answers;

		c = change_member("n1", i, false);
		c.filter = (struct filter){ FILTER_INCLUDE, 200, sources };
		bed_ask(&bed, "n1", session, i + 1, &c, 1);
		store_dispatch(bed.store, 1);
		if (bed.n_answers == n)
			break;
		cr_assert_eq(bed_last(&bed, 0)->result, 0);
	}
	cr_assert_lt(i, 5000, "the disk has more room than was thought");
	cr_assert_not_null(bed.store->trouble);
	return i;
}

static void recovered(uint64_t session, uint32_t missing)
{
	struct log_change c = change_member("n1", missing, false);
	size_t n = bed.n_answers;
	char *before, *after;

	cr_assert(bed_wait(&bed, n + 2), "what waited is committed");
	cr_assert_null(bed.store->trouble);
	cr_assert_not_null(log_find_live(bed.log, LOG_MEMBER, 1, "n1", &c.group, NULL));
	cr_assert_eq(bed_commit(&bed, "", 0, 0, &c, 1), 0);
	before = bed_text(&bed);
	bed_close(&bed);
	bed_open(&bed, spec);
	after = bed_text(&bed);
	cr_assert_str_eq(after, before);
	free(before);
	free(after);
}

Test(sqlite, full_disk_costs_nothing_and_is_used_again)
{
	char ballast[300];
	uint64_t session;
	uint32_t missing;

	if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		cr_skip_test("a disk of its own needs root");
	cr_assert_eq(mount("tmpfs", scratch, "tmpfs", 0, "size=2m"), 0);
	snprintf(ballast, sizeof(ballast), "%s/ballast", scratch);
	bed_open(&bed, spec);
	session = connect_n1();
	{
		static char zeros[1 << 20];

		write_file(ballast, zeros, sizeof(zeros));
	}
	missing = fill(session);
	cr_assert_not_null(strstr(bed.store->trouble, "disk is full"), "%s", bed.store->trouble);
	failed(&bed, session);
	unlink(ballast);
	recovered(session, missing);
	bed_close(&bed);
	umount2(scratch, MNT_DETACH);
}

Test(sqlite, failing_writes_cost_nothing)
{
	struct rlimit limit, all;
	uint64_t session;
	uint32_t missing;

	signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(getrlimit(RLIMIT_FSIZE, &all), 0);
	bed_open(&bed, spec);
	session = connect_n1();
	limit = all;
	limit.rlim_cur = 300 * 1024;
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	missing = fill(session);
	failed(&bed, session);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &all), 0);
	recovered(session, missing);
}

Test(sqlite, writer_beside_it_is_waited_for)
{
	struct log_change c = change_member("n1", 1, false);
	uint64_t session;
	sqlite3 *db;

	bed_open(&bed, spec);
	session = connect_n1();
	cr_assert_eq(sqlite3_open(path, &db), SQLITE_OK);
	cr_assert_eq(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	bed_ask(&bed, "n1", session, 1, &c, 1);
	store_dispatch(bed.store, 1);
	cr_assert_not_null(strstr(bed.store->trouble, "another program"), "%s", bed.store->trouble);
	sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	sqlite3_close(db);
	cr_assert(bed_wait(&bed, 2));
	cr_assert_eq(bed_last(&bed, 0)->result, 0);
}

/* A reader sees what is committed, and keeps nobody from committing. */
Test(sqlite, reader_beside_it)
{
	const struct store_options options = { .spec = spec, .only_load = true };
	static const struct store_events none = { 0 };
	struct log_change c = change_member("n1", 1, false);
	struct store *reader;
	char why[STORE_WHY_MAX];

	make(2);
	bed_open(&bed, spec);
	cr_assert_eq(store_open(&options, &none, NULL, &reader, why), 0, "%s", why);
	cr_assert_eq(bed_commit(&bed, "", 0, 0, &c, 1), 0);
	cr_assert_arr_eq(reader->epoch, bed.store->epoch, EPOCH_LEN);
	store_close(reader);
	cr_assert_eq(bed_commit(&bed, "", 0, 0, &c, 1), 0);
	bed_close(&bed);
	unlink(path);
	cr_assert_eq(store_open(&options, &none, NULL, &reader, why), -ENOENT);
}
