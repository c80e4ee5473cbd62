/* SPDX-License-Identifier: Apache-2.0 */
#include "controller/plan/report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

struct row_key {
	uint32_t segment;
	struct addr group;
};

/* Members that the report itself adds. */
struct growth {
	uint32_t segment;
	uint64_t n;
	UT_hash_handle hh;
};

struct row {
	struct row_key key;
	bool deleted, widened;
	struct filter filter;
	UT_hash_handle hh;
};

struct report {
	struct report_limits limits;
	struct row *rows;
	struct growth *growth;
	struct report_refusal *refusals;
	size_t n_refusals, n_refusals_allocated;
	struct log_change *changes;
	size_t n_changes, n_changes_allocated;
};

int report_new(const struct report_limits *limits, struct report **ret_report)
{
	struct report *report = calloc(1, sizeof(*report));

	if (!report)
		return -ENOMEM;
	report->limits = *limits;
	*ret_report = report;
	return 0;
}

static void growth_clear(struct report *report)
{
	struct growth *g, *tmp;

	HASH_ITER (hh, report->growth, g, tmp) {
		HASH_DEL(report->growth, g);
		free(g);
	}
}

void report_free(struct report *report)
{
	struct row *row, *tmp;

	if (!report)
		return;
	growth_clear(report);
	HASH_ITER (hh, report->rows, row, tmp) {
		HASH_DEL(report->rows, row);
		filter_deinit(&row->filter);
		free(row);
	}
	free(report->refusals);
	free(report->changes);
	free(report);
}

static int row_get(struct report *report, uint32_t segment, const struct addr *group,
		   struct row **ret_row)
{
	struct row_key key;
	struct row *row;

	memset(&key, 0, sizeof(key));
	key.segment = segment;
	key.group = *group;
	HASH_FIND(hh, report->rows, &key, sizeof(key), row);
	if (!row) {
		if (HASH_COUNT(report->rows) >= REPORT_ROWS_MAX)
			return -ENOSPC;
		row = calloc(1, sizeof(*row));
		if (!row)
			return -ENOMEM;
		row->key = key;
		HASH_ADD(hh, report->rows, key, sizeof(row->key), row);
	}
	*ret_row = row;
	return 0;
}

int report_put(struct report *report, uint32_t segment, const struct addr *group,
	       struct filter *filter, bool *ret_widened)
{
	struct row *row;
	int r;

	if (filter_is_none(filter)) {
		*ret_widened = false;
		r = report_delete(report, segment, group);
		if (r == 0)
			filter_deinit(filter);
		return r;
	}
	r = row_get(report, segment, group, &row);
	if (r < 0)
		return r;
	filter_deinit(&row->filter);
	row->filter = *filter;
	*filter = FILTER_NULL;
	row->deleted = false;
	row->widened = filter_limit(&row->filter, report->limits.sources_per_member);
	*ret_widened = row->widened;
	return 0;
}

int report_delete(struct report *report, uint32_t segment, const struct addr *group)
{
	struct row *row;
	int r = row_get(report, segment, group, &row);

	if (r < 0)
		return r;
	filter_deinit(&row->filter);
	row->filter = FILTER_NULL;
	row->deleted = true;
	row->widened = false;
	return 0;
}

static int grow(void **array, size_t *n_allocated, size_t n, size_t size)
{
	size_t want = *n_allocated ? *n_allocated * 2 : 16;
	void *p;

	if (n < *n_allocated)
		return 0;
	p = reallocarray(*array, want, size);
	if (!p)
		return -ENOMEM;
	*array = p;
	*n_allocated = want;
	return 0;
}

int report_refuse(struct report *report, uint32_t segment, const struct addr *group,
		  const char *reason)
{
	int r = grow((void **)&report->refusals, &report->n_refusals_allocated, report->n_refusals,
		     sizeof(*report->refusals));

	if (r < 0)
		return r;
	report->refusals[report->n_refusals++] = (struct report_refusal){ segment, *group, reason };
	return 0;
}

static int change_add(struct report *report, const struct log_change *change)
{
	int r = grow((void **)&report->changes, &report->n_changes_allocated, report->n_changes,
		     sizeof(*report->changes));

	if (r < 0)
		return r;
	report->changes[report->n_changes++] = *change;
	return 0;
}

static int withdraw(struct report *report, const struct log *log, const char *name, bool full)
{
	struct log_node *node = log_node_find(log, name);
	struct log_row *have;
	struct row *row;
	struct row_key key;
	int r;

	if (!node)
		return 0;
	TAILQ_FOREACH(have, &node->rows, by_node)
	{
		if (have->deleted || have->key.kind != LOG_MEMBER)
			continue;
		memset(&key, 0, sizeof(key));
		key.segment = have->key.segment;
		key.group = have->key.group;
		HASH_FIND(hh, report->rows, &key, sizeof(key), row);
		if (row ? !row->deleted : !full)
			continue;
		r = change_add(report, &(struct log_change){ .kind = LOG_MEMBER,
							     .segment = key.segment,
							     .node = name,
							     .group = key.group,
							     .deleted = true });
		if (r < 0)
			return r;
	}
	return 0;
}

/* A small delta must not cost a walk over all that the node has. */
static int withdraw_named(struct report *report, const struct log *log, const char *name)
{
	struct row *row, *tmp;
	int r;

	HASH_ITER (hh, report->rows, row, tmp) {
		if (!row->deleted ||
		    !log_find_live(log, LOG_MEMBER, row->key.segment, name, &row->key.group, NULL))
			continue;
		r = change_add(report, &(struct log_change){ .kind = LOG_MEMBER,
							     .segment = row->key.segment,
							     .node = name,
							     .group = row->key.group,
							     .deleted = true });
		if (r < 0)
			return r;
	}
	return 0;
}

/* One member more in the segment? -EDQUOT: not by its quota. */
static int segment_grow(struct report *report, const struct log *log, uint32_t segment)
{
	const struct log_segment *log_segment = log_segment_find(log, segment);
	uint64_t live = log_segment ? log_segment->n_live : 0;
	struct growth *g;

	HASH_FIND(hh, report->growth, &segment, sizeof(segment), g);
	if (live + (g ? g->n : 0) >= report->limits.members_per_segment)
		return -EDQUOT;
	if (!g) {
		g = calloc(1, sizeof(*g));
		if (!g)
			return -ENOMEM;
		g->segment = segment;
		HASH_ADD(hh, report->growth, segment, sizeof(g->segment), g);
	}
	g->n++;
	return 0;
}

/* A member that the log does not have yet. 0; 1: refused. */
static int admit(struct report *report, const struct log *log, const struct row *row,
		 size_t n_members)
{
	const char *why = "the node has as many groups as limits.groups_per_node allows";
	int r = -EDQUOT;

	if (n_members < report->limits.groups_per_node) {
		why = "the segment has as many members as limits.members_per_segment allows";
		r = segment_grow(report, log, row->key.segment);
	}
	if (r != -EDQUOT)
		return r;
	r = report_refuse(report, row->key.segment, &row->key.group, why);
	return r < 0 ? r : 1;
}

int report_diff(struct report *report, const struct log *log, const char *name, bool full,
		const struct log_change **ret_changes, size_t *ret_n)
{
	struct log_node *node = log_node_find(log, name);
	struct row *row, *tmp;
	struct log_row *have;
	size_t n_members;
	int r;

	report->n_changes = 0;
	growth_clear(report);
	r = full ? withdraw(report, log, name, true) : withdraw_named(report, log, name);
	if (r < 0)
		return r;
	n_members = (node ? node->n_members : 0) - report->n_changes;

	HASH_ITER (hh, report->rows, row, tmp) {
		if (row->deleted)
			continue;
		have = log_find_live(log, LOG_MEMBER, row->key.segment, name, &row->key.group,
				     NULL);
		if (have && filter_equal(&have->filter, &row->filter))
			continue;
		r = have ? 0 : admit(report, log, row, n_members);
		if (r < 0)
			return r;
		if (r)
			continue;
		n_members += !have;
		r = change_add(report, &(struct log_change){ .kind = LOG_MEMBER,
							     .segment = row->key.segment,
							     .node = name,
							     .group = row->key.group,
							     .filter = row->filter });
		if (r < 0)
			return r;
	}
	*ret_changes = report->changes;
	*ret_n = report->n_changes;
	return 0;
}

bool report_widened(const struct report *report, const void **cursor, uint32_t *ret_segment,
		    const struct addr **ret_group)
{
	const struct row *row = *cursor ? ((const struct row *)*cursor)->hh.next : report->rows;

	while (row && !row->widened)
		row = row->hh.next;
	if (!row)
		return false;
	*cursor = row;
	*ret_segment = row->key.segment;
	*ret_group = &row->key.group;
	return true;
}

size_t report_refusals(const struct report *report, const struct report_refusal **ret_refusals)
{
	*ret_refusals = report->refusals;
	return report->n_refusals;
}
