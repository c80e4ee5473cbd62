/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mcmesh-bench-plan [MEMBERS [NODES [STORE]]]: what the controller's log costs at scale, in
 * one process: insertion, change, digest, resume, snapshot, memory; and, over
 * loopback, the time from an agent's report to the delta at another agent.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/rpc.h"
#include "controller/controller.h"
#include "controller/plan/log.h"
#include "controller/wire.h"
#include "mcmesh/v1/node.pb-c.h"

#define CHUNK	60000
#define RESUMED 100
#define JOINS	2000

static const uint8_t epoch[EPOCH_LEN] = { 1 };

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static long rss_kb(void)
{
	long size = 0, pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (f) {
		if (fscanf(f, "%ld %ld", &size, &pages) != 2)
			pages = 0;
		fclose(f);
	}
	return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void show(const char *what, uint64_t ns, uint64_t n)
{
	printf("%-34s %10.0f ns each, %9.1f ms in all\n", what, (double)ns / (double)n,
	       (double)ns / 1e6);
}

static struct log_change member(char name[16], uint32_t i, uint32_t nodes, bool deleted)
{
	struct addr group = addr_v4_be32(htobe32(0xef000000 + i / nodes));

	snprintf(name, 16, "n%u", i % nodes);
	return (struct log_change){ .kind = LOG_MEMBER,
				    .segment = 1,
				    .node = name,
				    .group = group,
				    .deleted = deleted,
				    .filter = { .mode = FILTER_EXCLUDE } };
}

static void apply_all(struct log *log, const char *what, uint32_t members, uint32_t nodes,
		      bool deleted, uint32_t step)
{
	uint64_t start = now_ns(), n = 0;
	char name[16];

	for (uint32_t i = 0; i < members; i += step, n++) {
		struct log_change change = member(name, i, nodes, deleted);

		if (log_apply(log, log_revision(log) + 1, &change, 1) < 0)
			abort();
	}
	show(what, now_ns() - start, n);
}

static size_t message_size(struct arena *arena, Mcmesh__V1__Change **rows, size_t n)
{
	Mcmesh__V1__ControllerMessage m = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
	Mcmesh__V1__Snapshot chunk = MCMESH__V1__SNAPSHOT__INIT;
	struct rpc_bytes *bytes;

	chunk.rows = rows;
	chunk.n_rows = n;
	m.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_SNAPSHOT;
	m.snapshot = &chunk;
	bytes = rpc_bytes_new(&m.base);
	rpc_bytes_free(bytes);
	n = protobuf_c_message_get_packed_size(&m.base);
	arena_reset(arena);
	return n;
}

static void snapshot(struct log *log, uint32_t members)
{
	struct log_segment *segment = log_segment_find(log, 1);
	struct log_cursor cursor = { 0 };
	struct arena arena = ARENA_NULL;
	Mcmesh__V1__Change *rows[CHUNK / 64];
	size_t n = 0, bytes = 0, total = 0;
	uint64_t start = now_ns();
	struct log_row *row;

	log_cursor_open(&cursor, segment);
	while ((row = log_cursor_next(&cursor))) {
		rows[n++] = wire_change(&arena, row);
		bytes += wire_row_size(row);
		if (bytes > CHUNK - 256 || n == CHUNK / 64) {
			total += message_size(&arena, rows, n);
			bytes = n = 0;
		}
	}
	total += message_size(&arena, rows, n);
	log_cursor_close(&cursor);
	show("snapshot, built and serialised", now_ns() - start, members);
	printf("%-34s %10.1f MB\n", "  its size", (double)total / 1e6);
}

static void digest(struct log *log, uint32_t members)
{
	struct log_segment *segment = log_segment_find(log, 1);
	struct digest sum = { 0 };
	uint64_t start = now_ns();
	struct log_row *row;

	TAILQ_FOREACH(row, &segment->rows, by_segment)
	{
		if (!row->deleted)
			digest_add_member(&sum, epoch, 1, row->node->name, &row->key.group,
					  &row->filter);
	}
	show("digest, computed anew", now_ns() - start, members);
	if (sum.sum != segment->digest.sum)
		abort();
}

static void resume(struct log *log)
{
	uint64_t start = now_ns(), n = 0;
	struct log_row *row;

	row = log_segment_after(log_segment_find(log, 1), log_revision(log) - RESUMED);
	for (; row; row = TAILQ_NEXT(row, by_segment))
		n++;
	show("resume after 100 changes, a change", now_ns() - start, n);
}

static void plan(uint32_t members, uint32_t nodes)
{
	long before = rss_kb();
	struct log *log;

	if (log_new(epoch, 1, LOG_TOMBSTONES_MAX, &log) < 0)
		abort();
	printf("%u members on %u nodes\n", members, nodes);
	apply_all(log, "insertion", members, nodes, false, 1);
	printf("%-34s %10ld kB, %ld bytes a member\n", "  memory", rss_kb() - before,
	       (rss_kb() - before) * 1024 / (long)members);
	snapshot(log, members);
	digest(log, members);
	apply_all(log, "change of a row", members, nodes, false, 7);
	apply_all(log, "deletion", members, nodes, true, 7);
	apply_all(log, "insertion again", members, nodes, false, 7);
	resume(log);
	log_free(log);
}

/* ---- over loopback --------------------------------------------------------------- */

struct agent {
	struct rpc_call *call;
	bool ready;
	uint64_t accepted, delta_ns;
};

static void on_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ControllerMessage *m = (const Mcmesh__V1__ControllerMessage *)message;
	struct agent *a = rpc_call_userdata(call);

	if (!m)
		return;
	if (m->message_case == MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_DELTA &&
	    m->delta->segment == 1)
		a->delta_ns = now_ns();
	else if (m->message_case == MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_SNAPSHOT)
		a->ready = true;
	else if (m->message_case == MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_ACCEPTED)
		a->accepted = m->accepted->sequence;
}

static void on_close(struct rpc_call *call, int status, const char *text)
{
	if (status && status != RPC_UNAVAILABLE)
		fprintf(stderr, "a stream ended: %d %s\n", status, text);
}

static void turn(struct rpc *rpc, struct controller *c)
{
	rpc_poll(rpc, controller_turn(c, controller_now_ms()));
}

static void send_part(struct agent *a, Mcmesh__V1__AgentMessage__MessageCase kind, void *part)
{
	Mcmesh__V1__AgentMessage m = MCMESH__V1__AGENT_MESSAGE__INIT;

	m.message_case = kind;
	m.hello = part;
	rpc_call_send(a->call, &m.base);
}

static void open_agent(struct rpc_channel *channel, struct agent *a, uint8_t i)
{
	static const struct rpc_call_ops ops = { on_message, NULL, on_close };
	Mcmesh__V1__Hello h = MCMESH__V1__HELLO__INIT;
	Mcmesh__V1__Subscription sub = MCMESH__V1__SUBSCRIPTION__INIT, *subs = &sub;
	uint8_t vtep[4] = { 203, 0, 113, i }, instance[16] = { i };
	char name[8];

	snprintf(name, sizeof(name), "n%u", i);
	if (rpc_channel_call(channel, "/mcmesh.v1.NodeService/Sync",
			     &mcmesh__v1__controller_message__descriptor, &ops, 0, a, &a->call) < 0)
		abort();
	h.protocol_min = h.protocol_max = 1;
	h.node = name;
	h.vtep = (ProtobufCBinaryData){ 4, vtep };
	h.instance = (ProtobufCBinaryData){ 16, instance };
	h.start_count = 1;
	sub.segment = 1;
	h.n_segments = 1;
	h.segments = &subs;
	send_part(a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_HELLO, &h);
}

static void join(struct agent *a, uint64_t sequence)
{
	Mcmesh__V1__Report r = MCMESH__V1__REPORT__INIT;
	Mcmesh__V1__MemberChange m = MCMESH__V1__MEMBER_CHANGE__INIT, *members = &m;
	uint8_t group[4] = { 239, 1, (uint8_t)(sequence >> 8), (uint8_t)sequence };

	m.segment = 1;
	m.group = (ProtobufCBinaryData){ 4, group };
	m.mode = MCMESH__V1__FILTER__MODE__EXCLUDE;
	r.sequence = sequence;
	r.kind = sequence == 1 ? MCMESH__V1__REPORT__KIND__FULL_END
			       : MCMESH__V1__REPORT__KIND__DELTA;
	r.n_members = 1;
	r.members = &members;
	send_part(a, MCMESH__V1__AGENT_MESSAGE__MESSAGE_REPORT, &r);
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void measure(struct rpc *rpc, struct controller *c, struct agent *a, struct agent *b)
{
	static uint64_t took[JOINS];
	uint64_t idle_ms, start;

	for (uint64_t i = 0; i < JOINS; i++) {
		b->delta_ns = 0;
		start = now_ns();
		join(a, i + 2);
		while (!b->delta_ns && now_ns() < start + 1000000000)
			turn(rpc, c);
		took[i] = b->delta_ns - start;
		/* Past the window, so that each is a first change after idle. */
		idle_ms = controller_now_ms() + c->config->coalesce_ms + 1;
		while (a->accepted != i + 2 || controller_now_ms() < idle_ms) {
			uint64_t next = controller_turn(c, controller_now_ms());

			rpc_poll(rpc, next < idle_ms ? next : idle_ms);
		}
	}
	qsort(took, JOINS, sizeof(took[0]), by_value);
	printf("report to delta, %d joins after idle: p50 %.0f us, p99 %.0f us, worst %.0f us\n",
	       JOINS, (double)took[JOINS / 2] / 1e3, (double)took[JOINS * 99 / 100] / 1e3,
	       (double)took[JOINS - 1] / 1e3);
}

static void loopback(const char *store)
{
	struct rpc_channel_options options = { 0 };
	struct controller_config *config;
	char why[CONTROLLER_WHY_MAX], address[32];
	struct agent a = { 0 }, b = { 0 };
	struct rpc_channel *channel;
	struct controller *c;
	struct rpc *rpc;
	int port;

	if (controller_config_load(NULL, &config, why) < 0 ||
	    controller_config_set_store(config, store) < 0 ||
	    controller_config_set_listen(config, "127.0.0.1:0") < 0 || rpc_new(&rpc) < 0 ||
	    controller_new(config, rpc, &port, &c, why) < 0) {
		fprintf(stderr, "mcmesh-bench-plan: %s\n", why);
		exit(EXIT_FAILURE);
	}
	snprintf(address, sizeof(address), "127.0.0.1:%d", port);
	options.target = address;
	if (rpc_channel_new(rpc, &options, &channel) < 0)
		abort();
	open_agent(channel, &a, 1);
	open_agent(channel, &b, 2);
	while (!a.ready || !b.ready)
		turn(rpc, c);
	join(&a, 1);
	join(&b, 1);
	while (!a.accepted || !b.accepted)
		turn(rpc, c);
	measure(rpc, c, &a, &b);
	controller_drain(c, "the measurement is over");
	while (!c->stopped)
		turn(rpc, c);
	rpc_channel_free(channel);
	controller_free(c);
	rpc_free(rpc);
	controller_config_free(config);
}

int main(int argc, char **argv)
{
	long members = argc > 1 ? atol(argv[1]) : 100000, nodes = argc > 2 ? atol(argv[2]) : 1000;

	if (members < 100 || members > 10000000 || nodes < 1 || nodes > members) {
		fprintf(stderr, "usage: mcmesh-bench-plan [MEMBERS [NODES [STORE]]]\n");
		return 2;
	}
	plan((uint32_t)members, (uint32_t)nodes);
	loopback(argc > 3 ? argv[3] : "memory");
	return EXIT_SUCCESS;
}
