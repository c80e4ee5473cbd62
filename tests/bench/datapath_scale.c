/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: the datapath at size
 *
 * The product alone, against itself: the same packets with one group and with many,
 * to few receivers and to many, by one sender and by two at once on two CPUs, and what
 * a change of a list costs. Figures are CPU time, so that other work on the machine
 * blurs them only as far as it takes the caches.
 */
#include "tests/bench/datapath.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "datapath.skel.h"

#define GROUPS	     10000
#define GROUP	     0xefc80000	 /* 239.200.0.0 */
#define SOURCE	     "10.80.0.1" /* the sender's */
#define PAYLOAD	     64
#define PACKETS	     4096
#define SCALE_COPIES 65536
#define CHANGES	     1000

static const unsigned int sizes[] = { 64, 256, SCALE_WORKLOADS };

static struct generator *generator(uint32_t group)
{
	struct flow flow = { .kind = GENERATE_WORKLOAD,
			     .stand = STAND_PRODUCT,
			     .group = group,
			     .payload = PAYLOAD };

	return generator_open(&flow, -1);
}

/* Frames as a NIC hands them up: they cost little, so that what follows shows. */
static struct generator *frames(struct bench *b, enum stand stand, uint32_t group)
{
	struct flow flow = {
		.kind = GENERATE_BURST, .stand = stand, .group = group, .payload = PAYLOAD
	};

	return generator_open(&flow, bpf_program__fd(b->bpf->progs.pass_all));
}

/* CPU time a packet; every copy is counted, and none too many. */
static double packet_ns(struct bench *b, struct generator *g, unsigned int packets,
			unsigned int copies)
{
	uint64_t before, want = (uint64_t)packets * copies;
	double cpu;

	before = bench_copies(b);
	generator_send(g, BATCH);
	before = bench_copies_settled(b, before + (uint64_t)BATCH * copies);
	cpu = bench_cpu_ns(b);
	generator_send(g, packets);
	cpu = bench_cpu_ns(b) - cpu;
	if (bench_copies_settled(b, before + want) - before != want)
		die("%u packets to %u receivers: not each copy arrived once", packets, copies);
	return cpu / packets;
}

static struct addr source(void)
{
	struct addr a;

	if (addr_parse(SOURCE, &a) < 0)
		die("%s is no address", SOURCE);
	return a;
}

/* What is left when the frames' own cost is taken off. */
static double net_ns(struct bench *b, struct generator *g, struct generator *base)
{
	double ns = packet_ns(b, g, PACKETS, 1);

	return ns - packet_ns(b, base, PACKETS, 0);
}

/* One entry (S, G) alone, and among many. */
static void groups_run(struct bench *b)
{
	double alone[2 * ROUNDS_MAX], among[2 * ROUNDS_MAX], set = 0, ratio, t;
	struct generator *base = frames(b, STAND_BASE, GROUP);
	struct generator *g = frames(b, STAND_PRODUCT, GROUP);
	struct addr from = source();

	product_route(GROUP, &from, 1, 1);
	for (unsigned int r = 0; r < b->rounds; r++) {
		alone[2 * r] = net_ns(b, g, base);
		t = bench_cpu_ns(b);
		for (uint32_t i = 1; i < GROUPS; i++)
			product_route(GROUP + i, &from, 1 + i % WORKLOADS, 1);
		set = (bench_cpu_ns(b) - t) / (GROUPS - 1);
		among[2 * r] = net_ns(b, g, base);
		among[2 * r + 1] = net_ns(b, g, base);
		for (uint32_t i = 1; i < GROUPS; i++)
			product_route_del(GROUP + i, &from);
		alone[2 * r + 1] = net_ns(b, g, base);
		(void)product_settle();
	}
	generator_close(g);
	generator_close(base);
	ratio = bench_median(among, 2 * b->rounds) / bench_median(alone, 2 * b->rounds);
	printf("one (S,G) entry: %.0f ns a packet; among %u: x %.3f; a new entry: %.1f us\n",
	       bench_median(alone, 2 * b->rounds), GROUPS, ratio, set / 1e3);
	json_object_set_new(b->scale, "groups_ratio", json_real(ratio));
	json_object_set_new(b->scale, "new_entry_us", json_real(set / 1e3));
}

static void workloads_make(struct bench *b)
{
	int count = bpf_program__fd(b->bpf->progs.count_and_drop);
	char *text = NULL, *up = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len), *far = open_memstream(&up, &len);

	if (!out || !far)
		die("out of memory");
	for (unsigned int i = WORKLOADS + 1; i <= SCALE_WORKLOADS; i++) {
		fprintf(out,
			"link add h0n%u mtu 9000 type veth peer name w0n%u mtu 9000 netns "
			"workloads\nlink set h0n%u up\n",
			i, i, i);
		fprintf(far, "link set w0n%u up\n", i);
	}
	fclose(out);
	fclose(far);
	net_batch("ip", text);
	net_switch("workloads");
	net_batch("ip", up);
	for (unsigned int i = WORKLOADS + 1; i <= SCALE_WORKLOADS; i++)
		peers_attach(count, net_ifindex("w0n%u", i));
	net_switch("");
	for (unsigned int i = WORKLOADS + 1; i <= SCALE_WORKLOADS; i++)
		product_port(net_ifindex("h0n%u", i));
	free(text);
	free(up);
}

/* One of a big list's receivers leaves and comes back. */
static double change_us(struct bench *b, uint32_t group)
{
	double t = bench_cpu_ns(b);

	for (unsigned int i = 0; i < CHANGES; i++) {
		product_route(group, NULL, 1, SCALE_WORKLOADS - (i + 1) % 2);
		if (i % 64 == 63)
			(void)product_settle(); /* the old lists' memory */
	}
	return (bench_cpu_ns(b) - t) / CHANGES / 1e3;
}

static void sizes_run(struct bench *b)
{
	double ns[ARRAY_SIZE(sizes)][ROUNDS_MAX], median[ARRAY_SIZE(sizes)], x;
	struct generator *g[ARRAY_SIZE(sizes)];

	workloads_make(b);
	for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
		product_route(GROUP + sizes[s], NULL, 1, sizes[s]);
		g[s] = generator(GROUP + sizes[s]);
	}
	(void)product_settle();
	for (unsigned int r = 0; r < b->rounds; r++) {
		for (size_t s = 0; s < ARRAY_SIZE(sizes); s++)
			ns[s][r] = packet_ns(b, g[s], SCALE_COPIES / sizes[s], sizes[s]) / sizes[s];
	}
	for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
		median[s] = bench_median(ns[s], b->rounds);
		printf("%u receivers: %.0f ns a copy\n", sizes[s], median[s]);
		generator_close(g[s]);
	}
	x = median[ARRAY_SIZE(sizes) - 1] / median[0];
	json_object_set_new(b->scale, "linear_ratio", json_real(x));
	x = change_us(b, GROUP + SCALE_WORKLOADS);
	printf("a change of a list of %u: %.1f us\n", SCALE_WORKLOADS, x);
	json_object_set_new(b->scale, "change_us", json_real(x));
}

struct second {
	struct generator *g;
	int cpu;
	_Atomic bool busy, end;
	_Atomic uint64_t sent;
};

static void *second_sender(void *userdata)
{
	struct second *s = userdata;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(s->cpu, &set);
	if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set) != 0)
		die("there is no second CPU");
	while (!s->end) {
		if (s->busy) {
			generator_send(s->g, BATCH);
			s->sent += BATCH;
		} else {
			sched_yield();
		}
	}
	return NULL;
}

static double sender_ns(struct bench *b, struct generator *g)
{
	double cpu = bench_cpu_ns(b);

	generator_send(g, PACKETS / 4);
	return (bench_cpu_ns(b) - cpu) / (PACKETS / 4);
}

/* By what a packet costs the one sender while the other is at it, too: 2 would be
 * two senders that do not know of each other. */
static void senders_run(struct bench *b)
{
	double ratio[ROUNDS_MAX], alone, both, x;
	struct generator *g = generator(GROUP + 16);
	struct second s = { .g = generator(GROUP + 16), .cpu = !sched_getcpu() };
	pthread_t thread;

	if (b->n_cpus < 2)
		return;
	product_route(GROUP + 16, NULL, 1, 16);
	(void)product_settle();
	if (pthread_create(&thread, NULL, second_sender, &s) != 0)
		die("no thread");
	for (unsigned int r = 0; r < b->rounds; r++) {
		uint64_t sent;

		alone = sender_ns(b, g);
		s.busy = true;
		for (sent = s.sent; s.sent == sent;)
			sched_yield();
		both = sender_ns(b, g);
		s.busy = false;
		alone = (alone + sender_ns(b, g)) / 2;
		ratio[r] = 2 * alone / both;
	}
	s.end = true;
	pthread_join(thread, NULL);
	generator_close(g);
	generator_close(s.g);
	x = bench_median(ratio, b->rounds);
	printf("two senders on two CPUs, 16 receivers: x %.2f of one\n", x);
	json_object_set_new(b->scale, "two_senders_ratio", json_real(x));
}

void scale_run(struct bench *b)
{
	groups_run(b);
	senders_run(b);
	sizes_run(b);
}
