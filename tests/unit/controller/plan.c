/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/plan/log.h"
#include "controller/plan/registry.h"
#include "controller/plan/report.h"

static const uint8_t epoch[EPOCH_LEN] = { 1, 2, 3 };
static const struct report_limits limits = { 4, 2, 100 };

static struct addr group(uint32_t n)
{
	struct addr a;
	char text[32];

	snprintf(text, sizeof(text), "239.1.%u.%u", n / 256, n % 256);
	cr_assert_eq(addr_parse(text, &a), 0);
	return a;
}

static struct log_change member(const char *node, uint32_t n, bool deleted)
{
	return (struct log_change){ .kind = LOG_MEMBER,
				    .segment = 1,
				    .node = node,
				    .group = group(n),
				    .deleted = deleted,
				    .filter = { .mode = FILTER_EXCLUDE } };
}

static void apply(struct log *log, struct log_change c)
{
	cr_assert_eq(log_apply(log, log_revision(log) + 1, &c, 1), 0);
}

Test(log, S07_resume_names_each_changed_row_once)
{
	struct log *log;
	struct log_row *row;

	cr_assert_eq(log_new(epoch, 10, 100, &log), 0);
	apply(log, member("n1", 1, false)); /* 11 */
	apply(log, member("n1", 2, false)); /* 12 */
	apply(log, member("n1", 1, true));  /* 13 */
	row = log_segment_after(log_segment_find(log, 1), 11);
	cr_assert_eq(row->revision, 12);
	row = TAILQ_NEXT(row, by_segment);
	cr_assert_eq(row->revision, 13);
	cr_assert(row->deleted);
	cr_assert_null(TAILQ_NEXT(row, by_segment));
	cr_assert_null(log_segment_after(log_segment_find(log, 1), 13));
	log_free(log);
}

Test(log, S07_floor_rises_with_forgotten_tombstones)
{
	struct log *log;
	struct log_segment *s;

	cr_assert_eq(log_new(epoch, 0, 2, &log), 0);
	for (uint32_t i = 0; i < 3; i++)
		apply(log, member("n1", i, false)); /* 1..3 */
	apply(log, member("n1", 0, true));	    /* 4 */
	apply(log, member("n1", 1, true));	    /* 5 */
	s = log_segment_find(log, 1);
	cr_assert_eq(s->floor, 0);
	apply(log, member("n1", 2, true)); /* 6: 4 is forgotten */
	cr_assert_eq(s->floor, 4);
	cr_assert_eq(log_floor(log), 4);
	cr_assert_eq(log_tombstones(log), 2);
	log_free(log);
}

Test(log, digest_equals_recompute_and_history)
{
	struct digest sum = { 0 }, at;
	struct log *log;
	struct log_row *row;
	struct log_segment *s;

	cr_assert_eq(log_new(epoch, 0, 5, &log), 0);
	srand(1);
	for (int i = 0; i < 3000; i++) {
		apply(log,
		      member(rand() % 2 ? "n1" : "n2", (uint32_t)(rand() % 50), rand() % 3 == 0));
		if (i == 2990)
			sum = log_segment_find(log, 1)->digest;
	}
	s = log_segment_find(log, 1);
	cr_assert(log_digest_at(s, 2991, &at));
	cr_assert(at.sum == sum.sum && at.rows == sum.rows);
	cr_assert_not(log_digest_at(s, 1, &at));
	memset(&sum, 0, sizeof(sum));
	TAILQ_FOREACH(row, &s->rows, by_segment)
	{
		if (!row->deleted)
			digest_add_member(&sum, epoch, 1, row->node->name, &row->key.group,
					  &row->filter);
	}
	cr_assert(sum.sum == s->digest.sum && sum.rows == s->digest.rows);
	cr_assert_eq(sum.rows, s->n_live);
	log_free(log);
}

Test(log, keys_are_in_order)
{
	struct log *log;
	struct log_row *row, *before = NULL;
	size_t n = 0;

	cr_assert_eq(log_new(epoch, 0, 5, &log), 0);
	for (uint32_t i = 0; i < 1000; i++)
		apply(log, member("n1", (i * 7919) % 1000, false));
	for (row = log_seek(log, 0, 0, &ADDR_NULL, "", ""); row; row = row->next[0], n++) {
		if (before)
			cr_assert(addr_cmp(&before->key.group, &row->key.group) < 0);
		before = row;
	}
	cr_assert_eq(n, 1000);
	log_free(log);
}

Test(log, S08_cursor_survives_changes)
{
	struct log_cursor cursor = { 0 };
	struct log *log;

	cr_assert_eq(log_new(epoch, 0, 0, &log), 0);
	for (uint32_t i = 1; i <= 3; i++)
		apply(log, member("n1", i, false));
	log_cursor_open(&cursor, log_segment_find(log, 1));
	cr_assert_eq(log_cursor_next(&cursor)->revision, 1);
	apply(log, member("n1", 2, true)); /* the next row dies and is forgotten */
	cr_assert_eq(log_cursor_next(&cursor)->revision, 3);
	cr_assert_null(log_cursor_next(&cursor));
	apply(log, member("n1", 9, false)); /* after the end was seen */
	cr_assert_eq(log_cursor_next(&cursor)->revision, 5);
	log_cursor_close(&cursor);
	log_free(log);
}

static const struct registry_options options = { 2000, 120000 };

static struct registry_node *connected(struct registry *r, const char *name, uint64_t now)
{
	struct registry_node *node;

	cr_assert_eq(registry_add(r, name, now, &node), 0);
	registry_connect(r, node, &node, now);
	return node;
}

Test(registry, S11_stale_and_hold_at_their_deadlines)
{
	struct registry *r;
	struct registry_node *node;

	cr_assert_eq(registry_new(&options, 0, &r), 0);
	node = connected(r, "n1", 1000);
	cr_assert_eq(registry_next_ms(r), 3000);
	registry_tick(r, 2999);
	cr_assert_eq(node->state, REGISTRY_CONNECTED);
	registry_tick(r, 3000);
	cr_assert_eq(node->state, REGISTRY_STALE);
	cr_assert_null(registry_expired(r, 120999));
	cr_assert_eq(registry_expired(r, 121000), node);
	registry_heard(r, node, 121000);
	cr_assert_eq(node->state, REGISTRY_CONNECTED);
	cr_assert_null(registry_expired(r, 121000));
	registry_free(r);
}

Test(registry, S11_draining_skips_the_hold_when_the_session_ends)
{
	struct registry *r;
	struct registry_node *node;

	cr_assert_eq(registry_new(&options, 0, &r), 0);
	node = connected(r, "n1", 0);
	registry_set_draining(r, node, true);
	cr_assert_null(registry_expired(r, 1));
	registry_disconnect(r, node);
	cr_assert_eq(registry_expired(r, 1), node);
	registry_free(r);
}

Test(registry, S11_mass_silence_freezes_for_one_hold_time)
{
	struct registry *r;
	char name[8];

	cr_assert_eq(registry_new(&options, 0, &r), 0);
	for (int i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		connected(r, name, 0);
	}
	for (int i = 3; i < 10; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		registry_heard(r, registry_find(r, name), 119000);
	}
	registry_tick(r, 120000);
	cr_assert_eq(registry_freezes(r), 1);
	cr_assert_null(registry_expired(r, 120000));
	for (int i = 3; i < 10; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		registry_heard(r, registry_find(r, name), 239000);
	}
	registry_tick(r, 239999);
	cr_assert_null(registry_expired(r, 239999));
	registry_tick(r, 240000);
	cr_assert_not_null(registry_expired(r, 240000));
	cr_assert_eq(registry_freezes(r), 1);
	registry_free(r);
}

Test(registry, S09_complete_when_the_expected_reported_or_the_hold_passed)
{
	struct registry *r;

	cr_assert_eq(registry_new(&options, 0, &r), 0);
	cr_assert_not(registry_is_complete(r, 0));
	registry_expect(r, "n1");
	registry_expect(r, "n2");
	cr_assert_not(registry_reported(r, "n1"));
	cr_assert_not(registry_is_complete(r, 119999));
	cr_assert(registry_reported(r, "n2"));
	cr_assert(registry_is_complete(r, 1));
	registry_expect(r, "n3");
	cr_assert_not(registry_is_complete(r, 119999));
	cr_assert(registry_is_complete(r, 120000));
	registry_free(r);
}

static struct report *report_of(uint32_t first, uint32_t n)
{
	struct report *report;
	bool widened;

	cr_assert_eq(report_new(&limits, &report), 0);
	for (uint32_t i = first; i < first + n; i++) {
		struct filter f = { .mode = FILTER_EXCLUDE };
		struct addr g = group(i);

		cr_assert_eq(report_put(report, 1, &g, &f, &widened), 0);
	}
	return report;
}

Test(report, S04_full_sweeps_and_refresh_changes_nothing)
{
	const struct log_change *changes;
	struct addr one = group(1);
	struct report *report;
	struct log *log;
	size_t n;

	cr_assert_eq(log_new(epoch, 0, 10, &log), 0);
	apply(log, member("n1", 1, false));
	apply(log, member("n1", 2, false));
	apply(log, member("n2", 1, false));
	report = report_of(2, 2);
	cr_assert_eq(report_diff(report, log, "n1", false, &changes, &n), 0);
	cr_assert_eq(n, 1); /* 3 is new; 2 is a refresh; 1 was not named */
	cr_assert_eq(report_diff(report, log, "n1", true, &changes, &n), 0);
	cr_assert_eq(n, 2);
	cr_assert(changes[0].deleted);
	cr_assert(addr_equal(&changes[0].group, &one));
	report_free(report);
	log_free(log);
}

static void segment_went(struct log_segment *segment, void *userdata)
{
	(*(unsigned int *)userdata)++;
}

Test(log, S14_a_name_alone_uses_up_no_segment)
{
	struct filter f = { FILTER_EXCLUDE, 0, NULL };
	struct log_change change = { .kind = LOG_MEMBER, .segment = 2, .node = "n1" };
	struct log_segment *held;
	unsigned int went = 0;
	struct log *log;

	change.group = group(1);
	change.filter = f;
	cr_assert_eq(log_new(epoch, 0, 0, &log), 0);
	log_segment_get(log, 0);
	log_segment_get(log, 1);
	held = log_segment_get(log, 3);
	held->refs = 1;
	cr_assert_eq(log_apply(log, 1, &change, 1), 0);
	log_segments_trim(log, segment_went, &went);
	cr_assert_eq(went, 1);
	cr_assert_null(log_segment_find(log, 1));
	/* Its rows and their deletion are forgotten: an old position says nothing. */
	change.deleted = true;
	cr_assert_eq(log_apply(log, 2, &change, 1), 0);
	log_segments_trim(log, segment_went, &went);
	cr_assert_eq(went, 2);
	cr_assert_geq(log_segment_get(log, 2)->floor, 2);
	log_free(log);
}

Test(report, S14_a_segment_has_a_quota_of_its_own_and_room_is_used_again)
{
	static const struct report_limits two = { 10, 10, 2 };
	const struct report_refusal *refusals;
	const struct log_change *changes;
	struct report *report;
	struct filter f = { FILTER_EXCLUDE, 0, NULL };
	struct addr g;
	struct log *log;
	bool widened;
	size_t n;

	cr_assert_eq(log_new(epoch, 0, 10, &log), 0);
	cr_assert_eq(report_new(&two, &report), 0);
	for (uint32_t i = 1; i <= 6; i++) {
		g = group(i);
		f.mode = FILTER_EXCLUDE;
		cr_assert_eq(report_put(report, 1 + i % 2, &g, &f, &widened), 0);
	}
	cr_assert_eq(report_diff(report, log, "n1", true, &changes, &n), 0);
	cr_assert_eq(n, 4, "two in each segment");
	cr_assert_eq(report_refusals(report, &refusals), 2);
	cr_assert_eq(log_apply(log, 1, changes, n), 0);
	report_free(report);
	/* Another node has no room; a change of what is there needs none. */
	cr_assert_eq(report_new(&two, &report), 0);
	g = group(1);
	f.mode = FILTER_EXCLUDE;
	cr_assert_eq(report_put(report, 2, &g, &f, &widened), 0);
	cr_assert_eq(report_diff(report, log, "n2", false, &changes, &n), 0);
	cr_assert_eq(n, 0);
	cr_assert_eq(report_refusals(report, &refusals), 1);
	report_free(report);
	log_free(log);
}

Test(report, S14_quota_refuses_the_item_only_and_sources_widen)
{
	const struct report_refusal *refusals;
	const struct log_change *changes;
	struct addr sources[3], g = group(1);
	struct report *report;
	struct filter f;
	struct log *log;
	bool widened;
	size_t n;

	cr_assert_eq(log_new(epoch, 0, 10, &log), 0);
	report = report_of(1, 6);
	for (int i = 0; i < 3; i++)
		sources[i] = addr_v4_be32((uint32_t)i + 1);
	cr_assert_eq(filter_init(&f, FILTER_INCLUDE, sources, 3), 0);
	cr_assert_eq(report_put(report, 1, &g, &f, &widened), 0);
	cr_assert(widened);
	cr_assert_eq(report_diff(report, log, "n1", true, &changes, &n), 0);
	cr_assert_eq(n, 4);
	cr_assert_eq(report_refusals(report, &refusals), 2);
	report_free(report);
	log_free(log);
}

Test(report, S10_what_was_widened_is_told_to_its_node)
{
	struct addr sources[3], first = group(8), second = group(9);
	struct report *report = report_of(8, 10);
	const void *cursor = NULL;
	const struct addr *which;
	struct filter f;
	uint32_t segment;
	bool widened;

	for (int i = 0; i < 3; i++)
		sources[i] = addr_v4_be32((uint32_t)i + 1);
	cr_assert_not(report_widened(report, &cursor, &segment, &which));
	cr_assert_eq(filter_init(&f, FILTER_INCLUDE, sources, 3), 0);
	cr_assert_eq(report_put(report, 7, &first, &f, &widened), 0);
	cr_assert_eq(filter_init(&f, FILTER_EXCLUDE, sources, 3), 0);
	cr_assert_eq(report_put(report, 7, &second, &f, &widened), 0);
	/* The last state wins. */
	cr_assert_eq(filter_init(&f, FILTER_INCLUDE, sources, 1), 0);
	cr_assert_eq(report_put(report, 7, &second, &f, &widened), 0);
	cr_assert_not(widened);
	cr_assert(report_widened(report, &cursor, &segment, &which));
	cr_assert(addr_equal(which, &first));
	cr_assert_eq(segment, 7);
	cr_assert_not(report_widened(report, &cursor, &segment, &which), "one, once");
	cr_assert_eq(report_delete(report, 7, &first), 0);
	cursor = NULL;
	cr_assert_not(report_widened(report, &cursor, &segment, &which));
	report_free(report);
}

/* ---- what a store gives back -------------------------------------------------------- */

/* The rows of one log into another, as a store would. */
static struct log *loaded(struct log *from, uint64_t floor, uint64_t revision)
{
	struct log_row *row = log_after(from, 0);
	struct log *log;

	cr_assert_eq(log_new(epoch, revision, 100, &log), 0);
	log_load_begin(log, floor);
	for (; row; row = TAILQ_NEXT(row, by_log)) {
		struct log_change c = { .kind = row->key.kind,
					.segment = row->key.segment,
					.node = row->node->name,
					.group = row->key.group,
					.deleted = row->deleted,
					.filter = row->filter };

		cr_assert_eq(log_apply(log, row->revision, &c, 1), 0);
	}
	log_load_end(log, revision);
	return log;
}

Test(loading, older_digests_are_not_made_up)
{
	struct log *log, *again;
	struct log_segment *s;
	struct digest at;

	cr_assert_eq(log_new(epoch, 0, 100, &log), 0);
	for (uint32_t i = 0; i < 5; i++)
		apply(log, member("n1", i, false)); /* 1..5 */
	apply(log, member("n1", 0, true));	    /* 6: the row of 1 is at the end */
	again = loaded(log, 0, 9);
	s = log_segment_find(again, 1);
	cr_assert_eq(log_revision(again), 9);
	cr_assert_eq(log_tombstones(again), 1);
	cr_assert(log_digest_at(s, 6, &at) && at.sum == log_segment_find(log, 1)->digest.sum);
	cr_assert(log_digest_at(s, 9, &at) && at.sum == log_segment_find(log, 1)->digest.sum);
	/* At 5 there was a row that is not known as it was. */
	cr_assert_not(log_digest_at(s, 5, &at));
	cr_assert_eq(log_segment_after(s, 5)->revision, 6);
	apply(again, member("n1", 7, false)); /* 10 */
	cr_assert(log_digest_at(s, 9, &at) && at.sum == log_segment_find(log, 1)->digest.sum);
	cr_assert(log_digest_at(s, 10, &at) && at.sum == s->digest.sum);
	log_free(again);
	log_free(log);
}

Test(loading, who_is_before_the_floor_needs_a_snapshot)
{
	struct log *log, *again;

	cr_assert_eq(log_new(epoch, 0, 100, &log), 0);
	apply(log, member("n1", 1, false));
	again = loaded(log, 50, 60);
	cr_assert_eq(log_floor(again), 50);
	cr_assert_eq(log_segment_find(again, 1)->floor, 50);
	cr_assert_eq(log_segment_get(again, 2)->floor, 50);
	cr_assert_eq(log_segment_find(again, 1)->n_live, 1);
	log_free(again);
	log_free(log);
}

Test(loading, another_epoch_has_other_digests)
{
	static const uint8_t other[EPOCH_LEN] = { 9 };
	struct digest sum = { 0 }, at;
	struct log_segment *s;
	struct log_row *row;
	struct log *log;

	cr_assert_eq(log_new(epoch, 0, 100, &log), 0);
	for (uint32_t i = 0; i < 5; i++)
		apply(log, member("n1", i, i == 3));
	log_renew(log, other);
	s = log_segment_find(log, 1);
	TAILQ_FOREACH(row, &s->rows, by_segment)
	digest_add_member(&sum, other, 1, row->node->name, &row->key.group, &row->filter);
	cr_assert(sum.sum == s->digest.sum && sum.rows == s->digest.rows);
	cr_assert_not(log_digest_at(s, s->revision - 1, &at));
	log_free(log);
}

Test(loading, silent_nodes_have_the_hold_time_again)
{
	struct registry_node *node;
	struct registry *r;

	cr_assert_eq(registry_new(&options, 0, &r), 0);
	cr_assert_eq(registry_add(r, "n1", 0, &node), 0);
	cr_assert_eq(registry_expired(r, 120000), node);
	registry_hold_again(r, 120000);
	cr_assert_null(registry_expired(r, 239999));
	cr_assert_eq(registry_expired(r, 240000), node);
	registry_set_complete(r);
	registry_begin_again(r, 240000);
	cr_assert_not(registry_is_complete(r, 359999));
	cr_assert(registry_is_complete(r, 360000));
	registry_free(r);
}
