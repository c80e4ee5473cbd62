/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mcmesh-bench-store [MEMBERS [FOLDER]]: what keeping the mesh in a file costs, without
 * RPC: commits one by one and together, the longest wait, loading, the file's
 * size. FOLDER decides which disk is measured.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "controller/store/store.h"

#define NODES	 1000
#define TOGETHER 100
#define SINGLES	 10000

struct bench {
	struct store *store;
	struct log *log;
	uint64_t sessions[NODES], sequences[NODES];
	uint64_t answered, session;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void on_event(void *userdata, uint64_t revision, const struct log_change *changes, size_t n)
{
	if (log_apply(((struct bench *)userdata)->log, revision, changes, n) < 0)
		abort();
}

static void on_session(void *userdata, int result, uint64_t session, uint64_t last_sequence)
{
	struct bench *b = userdata;

	if (result < 0)
		abort();
	b->session = session;
	b->answered++;
}

static void on_commit(void *userdata, int result, uint64_t revision)
{
	if (result < 0)
		abort();
	((struct bench *)userdata)->answered++;
}

static void open_store(struct bench *b, const char *spec)
{
	static const struct store_events events = { .on_event = on_event };
	const struct store_options options = { .spec = spec };
	char why[STORE_WHY_MAX] = "out of memory";

	if (store_open(&options, &events, b, &b->store, why) < 0 ||
	    log_new(b->store->epoch, b->store->revision, LOG_TOMBSTONES_MAX, &b->log) < 0) {
		fprintf(stderr, "mcmesh-bench-store: %s\n", why);
		exit(EXIT_FAILURE);
	}
	log_load_begin(b->log, b->store->floor);
	if (store_load(b->store, why) < 0) {
		fprintf(stderr, "mcmesh-bench-store: %s\n", why);
		exit(EXIT_FAILURE);
	}
	log_load_end(b->log, b->store->revision);
}

static void close_store(struct bench *b)
{
	store_close(b->store);
	log_free(b->log);
}

/* One report of one row. */
static void ask(struct bench *b, uint32_t i, bool deleted)
{
	char node[16];
	struct log_change c = { .kind = LOG_MEMBER,
				.segment = 1,
				.node = node,
				.group = addr_v4_be32(__builtin_bswap32(0xef000000 + i / NODES)),
				.deleted = deleted,
				.filter = { .mode = FILTER_EXCLUDE } };
	struct store_txn txn = { .node = node,
				 .session = b->sessions[i % NODES],
				 .sequence = ++b->sequences[i % NODES],
				 .changes = &c,
				 .n_changes = 1 };

	snprintf(node, sizeof(node), "n%u", i % NODES);
	store_commit(b->store, &txn, on_commit, b);
}

static void connect_all(struct bench *b, uint64_t start)
{
	struct store_session q = { .start_count = start };
	char node[16];

	q.node = node;
	for (uint32_t i = 0; i < NODES; i++) {
		snprintf(node, sizeof(node), "n%u", i);
		store_session(b->store, &q, on_session, b);
		store_dispatch(b->store, now_ns() / 1000000);
		b->sessions[i] = b->session;
		b->sequences[i] = 0;
	}
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* A loop with nothing to do but what the store wants done. */
static void rest_until(struct bench *b, uint64_t ns)
{
	while (now_ns() < ns) {
		poll(NULL, 0, 1); /* poll interval */
		store_dispatch(b->store, now_ns() / 1000000);
	}
}

/* n reports, `together` of them in a turn of the loop, every pace_ms. */
static void commits(struct bench *b, const char *what, uint32_t n, uint32_t step, uint32_t together,
		    bool deleted, uint64_t pace_ms)
{
	uint64_t *took = calloc(n / together + 1, sizeof(*took)), start = now_ns();
	uint32_t turns = 0;

	for (uint32_t i = 0; i < n; turns++) {
		uint64_t wanted = b->answered, at = now_ns();

		for (uint32_t j = 0; j < together && i < n; j++, i++, wanted++)
			ask(b, i * step, deleted);
		while (b->answered < wanted)
			store_dispatch(b->store, now_ns() / 1000000);
		took[turns] = now_ns() - at;
		rest_until(b, at + pace_ms * 1000000);
	}
	qsort(took, turns, sizeof(*took), by_value);
	printf("%-34s %9.0f rows/s; a turn: p50 %.0f us, p99 %.0f us, worst %.1f ms\n", what,
	       (double)n * 1e9 / (double)(now_ns() - start), (double)took[turns / 2] / 1e3,
	       (double)took[turns * 99ul / 100] / 1e3, (double)took[turns - 1] / 1e6);
	free(took);
}

static void file_size(const char *path, uint32_t members)
{
	struct stat st;

	if (stat(path, &st) == 0)
		printf("%-34s %9.1f MB, %ld bytes a member\n", "the file, closed",
		       (double)st.st_size / 1e6, (long)(st.st_size / members));
}

static void run(const char *path, uint32_t members)
{
	struct bench b = { 0 };
	char spec[300];
	uint64_t start;

	snprintf(spec, sizeof(spec), "sqlite:%s", path);
	open_store(&b, spec);
	connect_all(&b, 1);
	commits(&b, "100 reports a turn, new rows", members, 1, TOGETHER, false, 0);
	commits(&b, "100 reports a turn, changed rows", members, 1, TOGETHER, false, 0);
	commits(&b, "one report a turn, changed rows", SINGLES, 7, 1, false, 0);
	commits(&b, "10,000 reports a second", 5 * SINGLES, 3, TOGETHER, false, 10);
	commits(&b, "500 reports a second", 500 * 5, 11, 1, false, 2);
	commits(&b, "100 reports a turn, deletions", SINGLES, 1, TOGETHER, true, 0);
	start = now_ns();
	close_store(&b);
	printf("%-34s %9.1f ms\n", "closing", (double)(now_ns() - start) / 1e6);
	file_size(path, members);
	start = now_ns();
	open_store(&b, spec);
	printf("%-34s %9.1f ms, checked, with its log\n", "loading",
	       (double)(now_ns() - start) / 1e6);
	close_store(&b);
}

int main(int argc, char **argv)
{
	static const char *const suffixes[] = { "", "-lock", "-wal", "-shm" };
	long members = argc > 1 ? atol(argv[1]) : 100000;
	char path[256], name[300];

	if (members < SINGLES || members > 10000000) {
		fprintf(stderr, "usage: mcmesh-bench-store [MEMBERS [FOLDER]]\n");
		return 2;
	}
	snprintf(path, sizeof(path), "%s/mcmesh-bench-store-%d.db", argc > 2 ? argv[2] : "/var/tmp",
		 (int)getpid());
	printf("%ld members on %d nodes in %s\n", members, NODES, path);
	run(path, (uint32_t)members);
	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
		unlink(name);
	}
	return EXIT_SUCCESS;
}
