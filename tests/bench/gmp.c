/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many group records a second one core parses and applies: new groups, the
 * same again (a refresh), and how much memory a membership takes. One JSON line.
 *
 *   mcmesh-bench-gmp [groups a port] [ports]
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "node/gmp/gmp.h"
#include "node/gmp/wire.h"

#define RECORDS 180 /* a frame */
#define ROUNDS	20

struct bench {
	struct gmp *gmp;
	struct gmp_fx fx;
	uint32_t ports, groups;
	uint8_t *frames; /* of one port: groups / RECORDS */
	size_t n_frames, frame_len;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/* IS_EX {}, or IS_IN of one source: 4 bytes more a record. */
static void frame_build(uint8_t *f, uint32_t first, uint32_t n, uint32_t sources)
{
	uint32_t size = 8 + 4 * sources, len = 8 + n * size;
	uint8_t *ip = f + 14, *igmp = ip + 24, *p = igmp + 8;

	memcpy(f, "\1\0\x5e\0\0\x16\2\0\0\0\0\1\x08\0", 14);
	memcpy(ip, "\x46\xc0\0\0\0\0\0\0\1\2\0\0\x0a\0\0\5\xe0\0\0\x16\x94\4\0\0", 24);
	put16(ip + 2, 24 + len);
	put16(ip + 10, wire_sum_fold(wire_sum(0, ip, 24)));
	igmp[0] = 0x22;
	put16(igmp + 6, n);
	for (uint32_t i = 0; i < n; i++, p += size) {
		p[0] = sources ? WIRE_IS_IN : WIRE_IS_EX;
		p[3] = (uint8_t)sources;
		memcpy(p + 4, "\xef", 1);
		p[5] = (uint8_t)((first + i) >> 16);
		put16(p + 6, first + i);
		if (sources)
			memcpy(p + 8, "\xc0\0\2\1", 4);
	}
	put16(igmp + 2, wire_sum_fold(wire_sum(0, igmp, len)));
}

static void setup(struct bench *b, uint32_t sources)
{
	uint32_t records = sources ? RECORDS * 8 / 12 : RECORDS;
	struct gmp_config config;

	gmp_config_default(&config);
	config.querier = false;
	config.max_groups = b->groups;
	config.max_reports_per_second = 1u << 30;
	if (gmp_new(&b->gmp) < 0)
		exit(1);
	for (uint32_t p = 1; p <= b->ports; p++) {
		if (gmp_port_add(b->gmp, p, 1, &config, 1, &b->fx) < 0)
			exit(1);
	}
	b->n_frames = b->groups / records;
	b->frame_len = 14 + 24 + 8 + records * (8 + 4 * sources);
	b->frames = calloc(b->n_frames, b->frame_len);
	if (!b->frames)
		exit(1);
	for (size_t i = 0; i < b->n_frames; i++)
		frame_build(b->frames + i * b->frame_len, (uint32_t)i * records, records, sources);
	b->groups = (uint32_t)b->n_frames * records;
}

static double feed(struct bench *b, uint64_t now_ms)
{
	double start = now();

	for (uint32_t p = 1; p <= b->ports; p++) {
		for (size_t i = 0; i < b->n_frames; i++) {
			gmp_input(b->gmp, p, b->frames + i * b->frame_len, b->frame_len, now_ms,
				  &b->fx);
			gmp_fx_clear(&b->fx);
		}
	}
	return now() - start;
}

static void run(const char *name, uint32_t groups, uint32_t ports, uint32_t sources)
{
	struct bench b = { .groups = groups, .ports = ports };
	double fresh, refresh = 0, expire;
	size_t before, after, n;

	setup(&b, sources);
	before = mallinfo2().uordblks + mallinfo2().hblkhd;
	fresh = feed(&b, 1000);
	after = mallinfo2().uordblks + mallinfo2().hblkhd;
	n = (size_t)b.groups * ports;
	for (int i = 0; i < ROUNDS; i++)
		refresh += feed(&b, 2000 + (uint64_t)i * 1000);
	expire = now();
	for (uint64_t end = 1000000; gmp_next_ms(b.gmp) <= end;) {
		gmp_expire(b.gmp, end, &b.fx);
		gmp_fx_clear(&b.fx);
	}
	expire = now() - expire;
	printf("\"%s\":{\"memberships\":%zu,\"newPerSecond\":%.0f,\"refreshPerSecond\":%.0f,"
	       "\"expirePerSecond\":%.0f,\"bytesPerMembership\":%.0f}",
	       name, n, (double)n / fresh, (double)n * ROUNDS / refresh, (double)n / expire,
	       (double)(after - before) / (double)n);
	gmp_free(b.gmp);
	gmp_fx_deinit(&b.fx);
	free(b.frames);
}

int main(int argc, char **argv)
{
	uint32_t groups = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 3600;
	uint32_t ports = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 50;

	if (groups < RECORDS || groups > 1u << 20 || !ports || ports > 10000) {
		fprintf(stderr, "mcmesh-bench-gmp [180 to 1048576 groups] [1 to 10000 ports]\n");
		return 2;
	}
	printf("{");
	run("exclude", groups, ports, 0);
	printf(",");
	run("include", groups, ports, 1);
	printf("}\n");
	return 0;
}
