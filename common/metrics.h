/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Prometheus text exposition (format 0.0.4), written into memory. A family is
 * begun once, its samples follow at once:
 *
 *   metrics_family(m, "mcmesh_ports", "gauge", "Ports by state.");
 *   metrics_sample(m, 3, "state", "up", NULL);
 *
 * Running out of memory marks the text as failed; nothing is to be checked in
 * between.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct metrics {
	char *text;
	size_t len, cap;
	bool failed;
	char family[128];
};

void metrics_deinit(struct metrics *m);

void metrics_printf(struct metrics *m, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Text with what HTML or a label would read as its own left out or escaped. */
void metrics_html(struct metrics *m, const char *text);

/* type: "counter", "gauge" or "histogram". */
void metrics_family(struct metrics *m, const char *name, const char *type, const char *help);
/* Of the family begun last; labels are names and values in turn, then NULL. */
void metrics_sample(struct metrics *m, double value, ...) __attribute__((sentinel));

/* A family of one sample without labels. */
void metrics_one(struct metrics *m, const char *name, const char *type, const char *help,
		 double value);

/* Seconds from one millisecond to ten seconds. */
#define METRICS_BUCKETS 13

struct metrics_histogram {
	uint64_t counts[METRICS_BUCKETS + 1]; /* the last: more than the last bound */
	double sum;
};

void metrics_observe_us(struct metrics_histogram *h, uint64_t us);
void metrics_histogram(struct metrics *m, const char *name, const char *help,
		       const struct metrics_histogram *h);

/* mcmesh_build_info and mcmesh_process_*: memory, time, files, start. */
void metrics_process(struct metrics *m);
