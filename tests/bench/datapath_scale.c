/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: the datapath at size
 *
 * The product against itself: the same packets with one group and with many, by one
 * sender and by two at once on two CPUs, what a change of a list costs; and, beside a
 * Linux bridge of the same size, to few receivers and to many. Figures are CPU time, so
 * that other work on the machine blurs them only as far as it takes the caches.
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
#define GROUP_ROUNDS 25 /* at least */
#define GROUP_TRIES  8
#define SCALE_COPIES 65536
#define CHANGES	     1000
#define BRIDGE_MOST  940 /* receivers: a bridge takes 1,023 ports, and has others */

static const unsigned int sizes[] = { 64, 256, SCALE_WORKLOADS };

#define SIZES ARRAY_SIZE(sizes)

static struct generator *generator(enum stand stand, uint32_t group)
{
	struct flow flow = {
		.kind = GENERATE_WORKLOAD, .stand = stand, .group = group, .payload = PAYLOAD
	};

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

/* What is left when the frames' own cost is taken off: the best of some tries, as all
 * else that the CPU does only adds to it. */
static double net_ns(struct bench *b, struct generator *g, struct generator *base)
{
	double best = 1e9, best_base = 1e9;

	for (int i = 0; i < GROUP_TRIES; i++) {
		double ns = packet_ns(b, g, PACKETS, 1);
		double base_ns = packet_ns(b, base, PACKETS, 0);

		best = ns < best ? ns : best;
		best_base = base_ns < best_base ? base_ns : best_base;
	}
	return best - best_base;
}

/* One entry (S, G) alone, and among many: in each round alone, among, alone. */
static void groups_run(struct bench *b)
{
	unsigned int rounds = b->rounds > GROUP_ROUNDS ? b->rounds : GROUP_ROUNDS;
	double alone[ROUNDS_MAX], ratio[ROUNDS_MAX], among, set = 0, x, t;
	struct generator *base = frames(b, STAND_BASE, GROUP);
	struct generator *g = frames(b, STAND_PRODUCT, GROUP);
	struct addr from = source();

	product_route(GROUP, &from, 1, 1);
	for (unsigned int r = 0; r < rounds; r++) {
		alone[r] = net_ns(b, g, base);
		t = bench_cpu_ns(b);
		for (uint32_t i = 1; i < GROUPS; i++)
			product_route(GROUP + i, &from, 1 + i % WORKLOADS, 1);
		set = (bench_cpu_ns(b) - t) / (GROUPS - 1);
		among = net_ns(b, g, base);
		for (uint32_t i = 1; i < GROUPS; i++)
			product_route_del(GROUP + i, &from);
		alone[r] = (alone[r] + net_ns(b, g, base)) / 2;
		ratio[r] = among / alone[r];
		(void)product_settle();
	}
	generator_close(g);
	generator_close(base);
	x = bench_median(ratio, rounds); /* sorts them */
	printf("one (S,G) entry: %.0f ns a packet; among %u: x %.3f (%u rounds, half of them "
	       "within %.3f and %.3f); a new entry: %.1f us\n",
	       bench_median(alone, rounds), GROUPS, x, rounds, ratio[rounds / 4],
	       ratio[rounds - 1 - rounds / 4], set / 1e3);
	json_object_set_new(b->scale, "groups_ratio", json_real(x));
	json_object_set_new(b->scale, "new_entry_us", json_real(set / 1e3));
}

/* Receivers behind the first WORKLOADS. */
static void workloads_make(struct bench *b, enum stand stand, unsigned int most)
{
	int count = bpf_program__fd(b->bpf->progs.count_and_drop);
	char *text = NULL, *up = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len), *far = open_memstream(&up, &len);

	if (!out || !far)
		die("out of memory");
	for (unsigned int i = WORKLOADS + 1; i <= most; i++) {
		fprintf(out,
			"link add h%dn%u mtu 9000 type veth peer name w%dn%u mtu 9000 netns "
			"workloads\nlink set h%dn%u up\n",
			stand, i, stand, i, stand, i);
		if (stand == STAND_BRIDGE)
			fprintf(out, "link set h%dn%u master br%d\n", stand, i, stand);
		fprintf(far, "link set w%dn%u up\n", stand, i);
	}
	fclose(out);
	fclose(far);
	net_batch("ip", text);
	net_switch("workloads");
	net_batch("ip", up);
	for (unsigned int i = WORKLOADS + 1; i <= most; i++)
		peers_attach(count, net_ifindex("w%dn%u", stand, i));
	net_switch("");
	for (unsigned int i = WORKLOADS + 1; stand == STAND_PRODUCT && i <= most; i++)
		product_port(net_ifindex("h%dn%u", stand, i));
	free(text);
	free(up);
}

static unsigned int bridge_size(unsigned int size)
{
	return size < BRIDGE_MOST ? size : BRIDGE_MOST;
}

static void bridge_groups_make(void)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		die("out of memory");
	for (size_t s = 0; s < SIZES; s++) {
		struct in_addr group = { htonl(GROUP + sizes[s]) };

		for (unsigned int i = 1; i <= bridge_size(sizes[s]); i++)
			fprintf(out, "mdb add dev br%d port h%dn%u grp %s permanent\n",
				STAND_BRIDGE, STAND_BRIDGE, i, inet_ntoa(group));
	}
	fclose(out);
	net_batch("bridge", text);
	free(text);
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

struct sizes {
	struct generator *product[SIZES], *bridge[SIZES], *base;
	double product_ns[SIZES][ROUNDS_MAX], bridge_ns[SIZES][ROUNDS_MAX];
};

static double copy_ns(struct bench *b, struct generator *g, struct generator *base,
		      unsigned int copies)
{
	unsigned int packets = SCALE_COPIES / copies;
	double ns = packet_ns(b, g, packets, copies);

	return (ns - packet_ns(b, base, packets, 0)) / copies;
}

static void sizes_open(struct bench *b, struct sizes *x)
{
	workloads_make(b, STAND_PRODUCT, SCALE_WORKLOADS);
	workloads_make(b, STAND_BRIDGE, BRIDGE_MOST);
	bridge_groups_make();
	for (size_t s = 0; s < SIZES; s++) {
		product_route(GROUP + sizes[s], NULL, 1, sizes[s]);
		x->product[s] = generator(STAND_PRODUCT, GROUP + sizes[s]);
		x->bridge[s] = generator(STAND_BRIDGE, GROUP + sizes[s]);
	}
	x->base = generator(STAND_BASE, GROUP);
	(void)product_settle();
}

static void sizes_report(struct bench *b, struct sizes *x)
{
	double product[SIZES], bridge[SIZES];

	for (size_t s = 0; s < SIZES; s++) {
		product[s] = bench_median(x->product_ns[s], b->rounds);
		bridge[s] = bench_median(x->bridge_ns[s], b->rounds);
		printf("%u receivers: %.0f ns a copy; a bridge to %u: %.0f\n", sizes[s], product[s],
		       bridge_size(sizes[s]), bridge[s]);
		generator_close(x->product[s]);
		generator_close(x->bridge[s]);
	}
	generator_close(x->base);
	json_object_set_new(b->scale, "linear_ratio", json_real(product[SIZES - 1] / product[0]));
	json_object_set_new(b->scale, "bridge_linear_ratio",
			    json_real(bridge[SIZES - 1] / bridge[0]));
}

static void sizes_run(struct bench *b)
{
	struct sizes *x = calloc(1, sizeof(*x));
	double us;

	if (!x)
		die("out of memory");
	sizes_open(b, x);
	for (unsigned int r = 0; r < b->rounds; r++) {
		for (size_t s = 0; s < SIZES; s++) {
			x->product_ns[s][r] = copy_ns(b, x->product[s], x->base, sizes[s]);
			x->bridge_ns[s][r] =
				copy_ns(b, x->bridge[s], x->base, bridge_size(sizes[s]));
		}
	}
	sizes_report(b, x);
	us = change_us(b, GROUP + SCALE_WORKLOADS);
	printf("a change of a list of %u: %.1f us\n", SCALE_WORKLOADS, us);
	json_object_set_new(b->scale, "change_us", json_real(us));
	free(x);
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
	struct generator *g = generator(STAND_PRODUCT, GROUP + 16);
	struct second s = { .g = generator(STAND_PRODUCT, GROUP + 16), .cpu = !sched_getcpu() };
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
