/* SPDX-License-Identifier: Apache-2.0 */
#include "node/mirror.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

/* What the mirror tells, as text: "add n2", "m 239.1.1.1 n2 EX", … */
static char told[64][96];
static size_t n_told;

static struct addr a(const char *text)
{
	struct addr addr;

	cr_assert_eq(addr_parse(text, &addr), 0);
	return addr;
}

static void on_add(const struct addr *vtep, const char *node, void *userdata)
{
	snprintf(told[n_told++], sizeof(told[0]), "add %s", node);
}

static void on_del(const struct addr *vtep, void *userdata)
{
	char buf[ADDR_TEXT_MAX];

	snprintf(told[n_told++], sizeof(told[0]), "del %s", addr_format(vtep, buf));
}

static void on_member(uint32_t segment, const struct addr *group, const struct addr *vtep,
		      const struct filter *filter, void *userdata)
{
	char g[ADDR_TEXT_MAX], v[ADDR_TEXT_MAX];

	snprintf(told[n_told++], sizeof(told[0]), "m %s %s %s", addr_format(group, g),
		 addr_format(vtep, v),
		 filter_is_none(filter)		  ? "-"
		 : filter->mode == FILTER_EXCLUDE ? "EX"
						  : "IN");
}

static const struct mirror_ops ops = { on_add, on_del, on_member, NULL, NULL, NULL };
static const uint8_t epoch1[EPOCH_LEN] = { 1 }, epoch2[EPOCH_LEN] = { 2 };

static struct mirror *make(void)
{
	struct mirror *m;

	n_told = 0;
	cr_assert_eq(mirror_new("n1", &ops, NULL, &m), 0);
	cr_assert_eq(mirror_segment_add(m, 1), 0);
	mirror_epoch_set(m, epoch1);
	return m;
}

/* ---- rows ------------------------------------------------------------------- */

struct row {
	Mcmesh__V1__Change change;
	Mcmesh__V1__MemberChange member;
	Mcmesh__V1__NodeChange node;
	struct addr addr;
};

static Mcmesh__V1__Change *member_row(struct row *r, const char *node, const char *group,
				      uint64_t revision, bool deleted)
{
	size_t len;

	mcmesh__v1__change__init(&r->change);
	mcmesh__v1__member_change__init(&r->member);
	r->addr = a(group);
	r->member.group.data = (uint8_t *)addr_to_wire(&r->addr, &len);
	r->member.group.len = len;
	r->member.node = (char *)node;
	r->member.mode = MCMESH__V1__FILTER__MODE__EXCLUDE;
	r->member.revision = revision;
	r->member.deleted = deleted;
	r->change.change_case = MCMESH__V1__CHANGE__CHANGE_MEMBER;
	r->change.member = &r->member;
	return &r->change;
}

static Mcmesh__V1__Change *node_row(struct row *r, const char *node, const char *vtep,
				    uint64_t revision)
{
	size_t len;

	mcmesh__v1__change__init(&r->change);
	mcmesh__v1__node_change__init(&r->node);
	r->addr = a(vtep);
	r->node.vtep.data = (uint8_t *)addr_to_wire(&r->addr, &len);
	r->node.vtep.len = len;
	r->node.node = (char *)node;
	r->node.revision = revision;
	r->change.change_case = MCMESH__V1__CHANGE__CHANGE_NODE;
	r->change.node = &r->node;
	return &r->change;
}

static int delta(struct mirror *m, uint32_t segment, uint64_t previous, uint64_t revision,
		 Mcmesh__V1__Change *change)
{
	Mcmesh__V1__Delta d = MCMESH__V1__DELTA__INIT;

	d.segment = segment;
	d.previous = previous;
	d.revision = revision;
	d.changes = &change;
	d.n_changes = change ? 1 : 0;
	return mirror_delta(m, &d);
}

static int snapshot(struct mirror *m, uint32_t segment, uint64_t id, Mcmesh__V1__Change *change,
		    bool end, bool complete, uint64_t revision)
{
	Mcmesh__V1__Snapshot s = MCMESH__V1__SNAPSHOT__INIT;

	s.segment = segment;
	s.id = id;
	s.rows = &change;
	s.n_rows = change ? 1 : 0;
	s.end = end;
	s.complete = complete;
	s.revision = revision;
	return mirror_snapshot(m, &s);
}

static void expect(const char *text)
{
	cr_assert_gt(n_told, 0, "nothing was told, expected \"%s\"", text);
	cr_assert_str_eq(told[n_told - 1], text);
}

/* ---- tests ------------------------------------------------------------------ */

Test(mirror, a_member_is_told_once_its_node_is_known)
{
	struct mirror *m = make();
	struct row r;

	cr_assert_eq(delta(m, 1, 0, 5, member_row(&r, "n2", "239.1.1.1", 5, false)), 0);
	cr_assert_eq(n_told, 0);
	cr_assert_eq(delta(m, 0, 0, 6, node_row(&r, "n2", "203.0.113.2", 6)), 0);
	cr_assert_str_eq(told[0], "add n2");
	expect("m 239.1.1.1 203.0.113.2 EX");
	mirror_free(m);
}

Test(mirror, S06_a_delta_must_name_its_predecessor)
{
	struct mirror *m = make();
	struct row r;

	cr_assert_eq(delta(m, 0, 0, 3, node_row(&r, "n2", "203.0.113.2", 3)), 0);
	cr_assert_eq(delta(m, 1, 4, 5, member_row(&r, "n2", "239.1.1.1", 5, false)), MIRROR_E_GAP);
	cr_assert_eq(mirror_revision(m, 1), 0);
	expect("add n2");
	cr_assert_eq(delta(m, 1, 0, 9, NULL), 0, "a bookmark");
	cr_assert_eq(mirror_revision(m, 1), 9);
	mirror_free(m);
}

Test(mirror, own_rows_count_for_the_digest_and_are_not_told)
{
	struct mirror *m = make();
	struct row r;

	delta(m, 0, 0, 2, node_row(&r, "n1", "203.0.113.1", 2));
	delta(m, 1, 0, 3, member_row(&r, "n1", "239.1.1.1", 3, false));
	cr_assert_eq(n_told, 0);
	cr_assert_eq(mirror_digest(m, 1).rows, 1);
	cr_assert_eq(mirror_digest(m, 0).rows, 1);
	mirror_free(m);
}

Test(mirror, a_changed_vtep_moves_the_members)
{
	struct mirror *m = make();
	struct row r;

	delta(m, 0, 0, 2, node_row(&r, "n2", "203.0.113.2", 2));
	delta(m, 1, 0, 3, member_row(&r, "n2", "239.1.1.1", 3, false));
	n_told = 0;
	delta(m, 0, 2, 4, node_row(&r, "n2", "203.0.113.22", 4));
	cr_assert_eq(n_told, 4);
	cr_assert_str_eq(told[0], "m 239.1.1.1 203.0.113.2 -");
	cr_assert_str_eq(told[1], "del 203.0.113.2");
	cr_assert_str_eq(told[2], "add n2");
	cr_assert_str_eq(told[3], "m 239.1.1.1 203.0.113.22 EX");
	mirror_free(m);
}

Test(mirror, S07_maps_that_were_left_while_a_vtep_changed_are_not_resumed)
{
	const struct addr own = a("203.0.113.1"), group = a("239.1.1.1");
	const struct addr old = a("203.0.113.2"), new = a("203.0.113.3");
	const struct filter every = { .mode = FILTER_EXCLUDE };
	struct mirror *m = make();

	/* One VTEP for each node, also when it is told twice. */
	mirror_seed_self(m, &own);
	cr_assert_eq(mirror_seed_node(m, "n2", &old), 0);
	cr_assert_eq(mirror_seed_node(m, "n2", &old), 0);
	mirror_seed_revision(m, 1, 43);
	cr_assert_eq(mirror_resumable(m, 1), 43);
	mirror_free(m);

	/* Entries that still have the old one are nobody's. */
	m = make();
	mirror_seed_self(m, &own);
	cr_assert_eq(mirror_seed_node(m, "n2", &old), 0);
	cr_assert_eq(mirror_seed_node(m, "n2", &new), 0);
	cr_assert_eq(mirror_seed_member(m, 1, &group, &old, &every), -ENOENT);
	mirror_seed_revision(m, 1, 43);
	cr_assert_eq(mirror_revision(m, 1), 0);
	cr_assert_eq(mirror_resumable(m, 1), 0);
	mirror_free(m);
}

Test(mirror, S08_an_older_row_never_replaces_a_newer)
{
	struct mirror *m = make();
	struct row r;

	delta(m, 0, 0, 2, node_row(&r, "n2", "203.0.113.2", 2));
	delta(m, 1, 0, 7, member_row(&r, "n2", "239.1.1.1", 7, false));
	n_told = 0;
	cr_assert_eq(snapshot(m, 1, 9, member_row(&r, "n2", "239.1.1.1", 5, true), true, true, 8),
		     0);
	cr_assert_eq(mirror_digest(m, 1).rows, 0, "unnamed by a complete snapshot: swept");
	mirror_free(m);

	m = make();
	delta(m, 0, 0, 2, node_row(&r, "n2", "203.0.113.2", 2));
	delta(m, 1, 0, 7, member_row(&r, "n2", "239.1.1.1", 7, false));
	n_told = 0;
	delta(m, 1, 7, 8, member_row(&r, "n2", "239.1.1.1", 6, true));
	cr_assert_eq(n_told, 0, "a deletion of an older state");
	cr_assert_eq(mirror_digest(m, 1).rows, 1);
	mirror_free(m);
}

Test(mirror, S09_an_empty_store_takes_no_route_away_until_complete)
{
	struct mirror *m = make();
	struct row r;

	delta(m, 0, 0, 2, node_row(&r, "n2", "203.0.113.2", 2));
	delta(m, 1, 0, 3, member_row(&r, "n2", "239.1.1.1", 3, false));
	n_told = 0;
	mirror_epoch_set(m, epoch2);
	cr_assert_eq(mirror_revision(m, 1), 0);
	snapshot(m, 0, 1, NULL, true, false, 1);
	snapshot(m, 1, 1, NULL, true, false, 1);
	cr_assert_eq(n_told, 0, "nothing is gone");
	snapshot(m, 1, 1, NULL, true, true, 2);
	expect("m 239.1.1.1 203.0.113.2 -");
	snapshot(m, 0, 1, NULL, true, true, 2);
	expect("del 203.0.113.2");
	mirror_free(m);
}

Test(mirror, a_new_epoch_keys_the_digest_anew)
{
	struct mirror *m = make(), *fresh = make();
	struct row r;

	delta(m, 1, 0, 3, member_row(&r, "n2", "239.1.1.1", 3, false));
	mirror_epoch_set(m, epoch2);
	mirror_epoch_set(fresh, epoch2);
	delta(fresh, 1, 0, 3, member_row(&r, "n2", "239.1.1.1", 3, false));
	cr_assert(mirror_digest(m, 1).sum == mirror_digest(fresh, 1).sum);
	cr_assert(mirror_digest(m, 1).sum != 0);
	mirror_free(m);
	mirror_free(fresh);
}

Test(mirror, bad_fields_change_nothing)
{
	struct mirror *m = make();
	struct row r;

	member_row(&r, "n2", "10.0.0.1", 3, false);
	cr_assert_eq(delta(m, 1, 0, 3, &r.change), -EINVAL, "not a group");
	member_row(&r, "", "239.1.1.1", 3, false);
	cr_assert_eq(delta(m, 1, 0, 3, &r.change), -EINVAL, "no node");
	member_row(&r, "n2", "239.1.1.1", 3, false);
	r.member.group.len = 3;
	cr_assert_eq(delta(m, 1, 0, 3, &r.change), -EINVAL, "not an address");
	cr_assert_eq(mirror_revision(m, 1), 0);
	cr_assert_eq(mirror_digest(m, 1).rows, 0);
	mirror_free(m);
}
