/* SPDX-License-Identifier: Apache-2.0 */
#include "common/filter.h"

#include <criterion/criterion.h>

#include "common/cleanup.h"

/*
 * The oracle: a filter over UNIVERSE named sources and one that nobody names
 * is the set of those that pass, as bits. Union is "or"; everything else about
 * filters follows from that, so all pairs can be checked.
 */
#define UNIVERSE 4
#define SETS	 (1 << UNIVERSE)
#define UNNAMED	 (1u << UNIVERSE)

static struct addr source(unsigned i)
{
	return addr_v4_be32(__builtin_bswap32(0x0a000001 + i));
}

static struct filter make(enum filter_mode mode, unsigned set)
{
	struct addr sources[UNIVERSE * 2];
	struct filter f;
	size_t n = 0;

	/* Backwards and doubled: filter_init() has to sort and unify. */
	for (int i = UNIVERSE - 1; i >= 0; i--) {
		if (set & 1u << i) {
			sources[n++] = source((unsigned)i);
			sources[n++] = source((unsigned)i);
		}
	}
	cr_assert_eq(filter_init(&f, mode, sources, n), 0);
	return f;
}

static unsigned passes(const struct filter *f)
{
	struct addr unnamed = source(UNIVERSE);
	unsigned bits = filter_wants(f, &unnamed) ? UNNAMED : 0;

	for (unsigned i = 0; i < UNIVERSE; i++) {
		struct addr s = source(i);

		if (filter_wants(f, &s))
			bits |= 1u << i;
	}
	return bits;
}

static unsigned oracle(enum filter_mode mode, unsigned set)
{
	return mode == FILTER_INCLUDE ? set : UNNAMED | (~set & (SETS - 1));
}

static void check_pair(unsigned x, unsigned y)
{
	enum filter_mode mx = x / SETS, my = y / SETS;
	struct filter a = make(mx, x % SETS), b = make(my, y % SETS), ba;
	unsigned want = oracle(mx, x % SETS) | oracle(my, y % SETS);

	cr_expect_eq(passes(&a), oracle(mx, x % SETS), "wants %u", x);
	cr_expect_eq(filter_equal(&a, &b), x == y, "equal %u %u", x, y);
	cr_assert_eq(filter_copy(&ba, &b), 0);
	cr_expect(filter_equal(&ba, &b));
	cr_assert_eq(filter_merge(&ba, &a), 0);
	cr_assert_eq(filter_merge(&a, &b), 0);
	cr_expect_eq(passes(&a), want, "merge %u %u", x, y);
	cr_expect(filter_equal(&a, &ba), "merge %u %u depends on the order", x, y);
	cr_expect_eq(filter_is_none(&a), want == 0);
	cr_expect_eq(filter_wants_any(&a), !!(want & UNNAMED));
	for (uint32_t i = 1; i < a.n_sources; i++)
		cr_expect_lt(addr_cmp(&a.sources[i - 1], &a.sources[i]), 0, "unsorted");
	filter_deinit(&a);
	filter_deinit(&b);
	filter_deinit(&ba);
}

Test(filter, S04_merge_is_the_union_for_all_pairs)
{
	for (unsigned x = 0; x < 2 * SETS; x++) {
		for (unsigned y = 0; y < 2 * SETS; y++)
			check_pair(x, y);
	}
}

Test(filter, S04_limit_widens_and_never_narrows)
{
	for (uint32_t max = 0; max <= UNIVERSE; max++) {
		struct filter f = make(FILTER_INCLUDE, SETS - 1);
		bool widened = filter_limit(&f, max);

		cr_expect_eq(widened, max < UNIVERSE);
		cr_expect_eq(passes(&f), widened ? UNNAMED | (SETS - 1) : SETS - 1);
		filter_deinit(&f);
	}
}

Test(filter, deinit_twice_is_harmless)
{
	struct filter f = make(FILTER_EXCLUDE, 3);

	filter_deinit(&f);
	filter_deinit(&f);
	cr_expect(filter_is_none(&f));
}
