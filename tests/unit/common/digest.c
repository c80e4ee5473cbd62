/* SPDX-License-Identifier: Apache-2.0 */
#include "common/digest.h"

#include <criterion/criterion.h>
#include <string.h>

#include "common/cleanup.h"

static const uint8_t epoch[EPOCH_LEN] = "0123456789abcde";

struct row {
	uint32_t segment;
	const char *node;
	const char *group;
	enum filter_mode mode;
	unsigned n_sources;
};

/* Rows that differ in one field each, so that none of them is left out of the hash. */
static const struct row rows[] = {
	{ 1, "n1", "239.1.1.1", FILTER_EXCLUDE, 0 }, { 2, "n1", "239.1.1.1", FILTER_EXCLUDE, 0 },
	{ 1, "n2", "239.1.1.1", FILTER_EXCLUDE, 0 }, { 1, "n1", "239.1.1.2", FILTER_EXCLUDE, 0 },
	{ 1, "n1", "239.1.1.1", FILTER_INCLUDE, 0 }, { 1, "n1", "239.1.1.1", FILTER_INCLUDE, 1 },
	{ 1, "n1", "239.1.1.1", FILTER_EXCLUDE, 1 }, { 1, "n1", "239.1.1.1", FILTER_EXCLUDE, 100 },
};

static void change(struct digest *d, const struct row *row, bool add)
{
	struct addr group, sources[100];
	struct filter f;

	cr_assert_eq(addr_parse(row->group, &group), 0);
	for (unsigned i = 0; i < row->n_sources; i++)
		sources[i] = addr_v4_be32(__builtin_bswap32(0x0a000001 + i));
	cr_assert_eq(filter_init(&f, row->mode, sources, row->n_sources), 0);
	if (add)
		digest_add_member(d, epoch, row->segment, row->node, &group, &f);
	else
		digest_del_member(d, epoch, row->segment, row->node, &group, &f);
	filter_deinit(&f);
}

static bool equal(const struct digest *a, const struct digest *b)
{
	uint8_t wire_a[16], wire_b[16];

	digest_to_wire(a, wire_a);
	digest_to_wire(b, wire_b);
	return memcmp(wire_a, wire_b, sizeof(wire_a)) == 0 && a->rows == b->rows;
}

Test(digest, S10_order_does_not_matter)
{
	struct digest up = { 0 }, down = { 0 }, empty = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		change(&up, &rows[i], true);
		change(&down, &rows[ARRAY_SIZE(rows) - 1 - i], true);
	}
	cr_expect(equal(&up, &down));
	cr_expect_eq(up.rows, ARRAY_SIZE(rows));
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		change(&up, &rows[(i * 3) % ARRAY_SIZE(rows)], false);
	cr_expect(equal(&up, &empty), "what was added and removed leaves a trace");
}

Test(digest, each_field_counts)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		for (size_t j = 0; j < i; j++) {
			struct digest a = { 0 }, b = { 0 };

			change(&a, &rows[i], true);
			change(&b, &rows[j], true);
			cr_expect(!equal(&a, &b), "rows %zu and %zu", i, j);
		}
	}
}

Test(digest, S10_doubled_row_does_not_vanish)
{
	struct digest d = { 0 }, empty = { 0 };

	change(&d, &rows[0], true);
	change(&d, &rows[0], true);
	d.rows = 0;
	cr_expect(!equal(&d, &empty));
}

Test(digest, nodes_and_epochs_count)
{
	uint8_t other[EPOCH_LEN] = { 1 };
	struct digest a = { 0 }, b = { 0 }, c = { 0 };
	struct addr v1, v2;

	cr_assert_eq(addr_parse("203.0.113.1", &v1), 0);
	cr_assert_eq(addr_parse("203.0.113.2", &v2), 0);
	digest_add_node(&a, epoch, "n1", &v1);
	digest_add_node(&b, epoch, "n1", &v2);
	digest_add_node(&c, other, "n1", &v1);
	cr_expect(!equal(&a, &b));
	cr_expect(!equal(&a, &c));
	digest_del_node(&a, epoch, "n1", &v1);
	cr_expect(equal(&a, &(struct digest){ 0 }));
}
