/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A node's report on its way to the store: parts are gathered, the last state
 * of each (segment, group) wins, and what differs from the log comes out. What
 * differs in nothing (a timer refresh) comes out as nothing. Pure.
 */
#include "controller/plan/log.h"

#define REPORT_SOURCES_MAX 1024
#define REPORT_GROUPS_MAX  65536
#define REPORT_ROWS_MAX	   131072   /* rows gathered, over all parts */
#define REPORT_SEGMENT_MAX 16777215 /* a VNI */

struct report_limits {
	uint32_t groups_per_node;
	uint32_t sources_per_member;
	uint32_t members_per_segment; /* of all nodes */
};

struct report_refusal {
	uint32_t segment;
	struct addr group;
	const char *reason; /* static */
};

struct report;

int report_new(const struct report_limits *limits, struct report **ret_report);
void report_free(struct report *report);

/* Takes the filter. Not more than REPORT_ROWS_MAX (-ENOSPC); widened: too many sources. */
int report_put(struct report *report, uint32_t segment, const struct addr *group,
	       struct filter *filter, bool *ret_widened);
int report_delete(struct report *report, uint32_t segment, const struct addr *group);
/* A row that cannot be: it is answered, not stored. */
int report_refuse(struct report *report, uint32_t segment, const struct addr *group,
		  const char *reason);

/*
 * What to commit so that the log says what the report says; full: rows of the
 * node that no part named go. Withdrawals come first. The changes borrow from
 * the report, the log and `node`; rows above the quota become refusals.
 */
int report_diff(struct report *report, const struct log *log, const char *node, bool full,
		const struct log_change **ret_changes, size_t *ret_n);

/* Rows that had too many sources, one after the other; false: no more. */
bool report_widened(const struct report *report, const void **cursor, uint32_t *ret_segment,
		    const struct addr **ret_group);
size_t report_refusals(const struct report *report, const struct report_refusal **ret_refusals);
