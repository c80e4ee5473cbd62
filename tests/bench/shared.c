/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a store carries: mcmesh-bench-shared SPEC [NODES GROUPS SECONDS]. Every node
 * reports GROUPS members at once, then changes one of them as soon as its last
 * change is in; a second controller at the same store (etcd) follows. Then a start.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/rpc.h"
#include "controller/store/store.h"

#define NODES_MAX   4096
#define LATENCY_MAX 4000000

struct side {
	struct store *store;
	struct log *log;
	size_t changes; /* seen */
	bool loaded;
};

struct node {
	char name[16];
	uint64_t session, sequence, asked_us;
	uint32_t turn;
	bool busy;
};

static struct side sides[2];
static struct node nodes[NODES_MAX];
static struct rpc *rpc;
static size_t n_busy, n_latencies;
static uint32_t latencies[LATENCY_MAX];

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void die(const char *what)
{
	fprintf(stderr, "mcmesh-bench-shared: %s\n", what);
	exit(1);
}

static void on_event(void *userdata, uint64_t revision, const struct log_change *changes, size_t n)
{
	struct side *s = userdata;

	if (log_apply(s->log, revision, changes, n) < 0)
		die("the log is full");
	s->changes += n;
}

static void on_presence(void *userdata, const struct store_presence *presence)
{
}

static void on_draining(void *userdata, const char *node, bool on)
{
}

static void on_lost(void *userdata, const char *why)
{
	die(why);
}

static void side_open(struct side *s, const char *spec)
{
	static const struct store_events events = { on_event, on_presence, on_draining, on_lost };
	const struct store_options options = { .spec = spec, .rpc = rpc, .advertise = "here:1" };
	char why[STORE_WHY_MAX] = "out of memory";

	if (store_open(&options, &events, s, &s->store, why) < 0 ||
	    log_new(s->store->epoch, 0, LOG_TOMBSTONES_MAX, &s->log) < 0)
		die(why);
	log_load_begin(s->log, s->store->floor);
	if (store_load(s->store, why) < 0)
		die(why);
	log_load_end(s->log, s->store->revision);
	s->loaded = true;
}

static void side_close(struct side *s)
{
	store_close(s->store);
	log_free(s->log);
	memset(s, 0, sizeof(*s));
}

static void turn(void)
{
	uint64_t now_ms = now_us() / 1000, next_ms = now_ms + 10;

	for (size_t i = 0; i < 2; i++) {
		if (!sides[i].loaded)
			continue;
		store_dispatch(sides[i].store, now_ms);
		if (store_next_ms(sides[i].store) < next_ms)
			next_ms = store_next_ms(sides[i].store);
	}
	rpc_poll(rpc, next_ms);
}

static void on_session(void *userdata, int result, uint64_t session, uint64_t sequence)
{
	struct node *n = userdata;

	if (result < 0)
		die(strerror(-result));
	n->session = session;
	n->sequence = sequence;
	n_busy--;
}

static void on_commit(void *userdata, int result, uint64_t revision)
{
	struct node *n = userdata;

	if (result < 0)
		die(strerror(-result));
	n->busy = false;
	n_busy--;
	if (n_latencies < LATENCY_MAX)
		latencies[n_latencies++] = (uint32_t)(now_us() - n->asked_us);
}

static struct log_change member(const struct node *n, uint32_t group)
{
	return (struct log_change){ .kind = LOG_MEMBER,
				    .segment = 1,
				    .node = n->name,
				    .group = addr_v4_be32(__builtin_bswap32(0xef000000u + group)),
				    .filter = { .mode = FILTER_EXCLUDE } };
}

static void commit(struct node *n, const struct log_change *changes, size_t n_changes)
{
	const struct store_txn txn = { .node = n->name,
				       .session = n->session,
				       .sequence = ++n->sequence,
				       .changes = changes,
				       .n_changes = n_changes };

	n->busy = true;
	n->asked_us = now_us();
	n_busy++;
	store_commit(sides[0].store, &txn, on_commit, n);
}

static void sessions_take(uint32_t n_nodes)
{
	for (uint32_t i = 0; i < n_nodes; i++) {
		struct store_session q = { .node = nodes[i].name, .start_count = 1 };

		snprintf(nodes[i].name, sizeof(nodes[i].name), "n%u", i);
		n_busy++;
		store_session(sides[0].store, &q, on_session, &nodes[i]);
	}
	while (n_busy)
		turn();
}

static void report_all(uint32_t n_nodes, uint32_t n_groups)
{
	struct log_change *changes = calloc(n_groups, sizeof(*changes));

	for (uint32_t i = 0; i < n_nodes; i++) {
		for (uint32_t g = 0; g < n_groups; g++)
			changes[g] = member(&nodes[i], g);
		commit(&nodes[i], changes, n_groups);
	}
	while (n_busy)
		turn();
	free(changes);
}

static void churn(uint32_t n_nodes, uint32_t n_groups, uint32_t n_active, uint64_t seconds)
{
	uint64_t end_us = now_us() + seconds * 1000000;

	while (now_us() < end_us) {
		for (uint32_t i = 0; i < n_active && i < n_nodes; i++) {
			struct node *n = &nodes[i];
			struct log_change c = member(n, n->turn / 2 % n_groups);

			if (n->busy)
				continue;
			c.deleted = n->turn++ % 2 == 0;
			commit(n, &c, 1);
		}
		turn();
	}
	while (n_busy)
		turn();
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void churn_tell(uint32_t n_nodes, uint32_t n_groups, uint32_t n_active, uint64_t seconds)
{
	uint64_t at_us = now_us(), lag_us;

	n_latencies = 0;
	churn(n_nodes, n_groups, n_active, seconds);
	lag_us = now_us();
	while (sides[1].loaded && log_revision(sides[1].log) < log_revision(sides[0].log))
		turn();
	qsort(latencies, n_latencies, sizeof(latencies[0]), by_size);
	printf("%4u nodes change at once: %.0f changes/s, accepted p50 %.1f ms p99 %.1f ms, "
	       "the other controller behind %.1f ms\n",
	       n_active, (double)n_latencies / ((double)(lag_us - at_us) / 1e6),
	       latencies[n_latencies / 2] / 1e3, latencies[n_latencies * 99 / 100] / 1e3,
	       (double)(now_us() - lag_us) / 1e3);
}

int main(int argc, char **argv)
{
	const char *spec = argc > 1 ? argv[1] : "memory";
	uint32_t n_nodes = argc > 2 ? (uint32_t)atoi(argv[2]) : 1000;
	uint32_t n_groups = argc > 3 ? (uint32_t)atoi(argv[3]) : 200;
	uint64_t seconds = argc > 4 ? (uint64_t)atoi(argv[4]) : 5, at_us;

	if (n_nodes > NODES_MAX || rpc_new(&rpc) < 0)
		die("at most 4096 nodes");
	setvbuf(stdout, NULL, _IOLBF, 0);
	side_open(&sides[0], spec);
	if (store_is_shared(sides[0].store))
		side_open(&sides[1], spec);
	at_us = now_us();
	sessions_take(n_nodes);
	printf("%u sessions: %.0f ms\n", n_nodes, (double)(now_us() - at_us) / 1e3);
	at_us = now_us();
	report_all(n_nodes, n_groups);
	printf("%u members: %.0f ms\n", n_nodes * n_groups, (double)(now_us() - at_us) / 1e3);
	for (uint32_t n_active = 1; n_active <= n_nodes; n_active *= 10)
		churn_tell(n_nodes, n_groups, n_active, seconds);
	if (sides[1].loaded) {
		side_close(&sides[1]);
		at_us = now_us();
		side_open(&sides[1], spec);
		printf("a start: %.0f ms, %zu changes\n", (double)(now_us() - at_us) / 1e3,
		       sides[1].changes);
		side_close(&sides[1]);
	}
	side_close(&sides[0]);
	rpc_free(rpc);
	return 0;
}
