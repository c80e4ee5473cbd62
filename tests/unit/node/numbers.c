/* SPDX-License-Identifier: Apache-2.0 */
#include "node/datapath/numbers.h"

#include <criterion/criterion.h>

#define N 8

static struct numbers make(void)
{
	struct numbers x;

	cr_assert_eq(numbers_init(&x, N), 0);
	return x;
}

Test(numbers, each_once_from_one_on)
{
	struct numbers x = make();
	bool seen[N + 1] = { false };

	for (int i = 0; i < N; i++) {
		uint32_t number = numbers_take(&x);

		cr_assert(number >= 1 && number <= N && !seen[number], "%u", number);
		seen[number] = true;
	}
	cr_expect_eq(numbers_take(&x), 0, "none is left");
	cr_expect_eq(numbers_next_ms(&x), UINT64_MAX);
	numbers_deinit(&x);
}

Test(numbers, what_nobody_saw_is_free_at_once)
{
	struct numbers x = make();
	uint32_t number = numbers_take(&x);

	numbers_put(&x, number);
	cr_expect_eq(x.n_free, N);
	cr_expect_eq(numbers_take(&x), number);
	numbers_deinit(&x);
}

Test(numbers, given_up_it_comes_back_after_the_grace_period)
{
	struct numbers x = make();
	uint32_t number = numbers_take(&x);

	numbers_retire(&x, number, 5000);
	cr_expect_eq(numbers_next_ms(&x), 5000 + NUMBERS_GRACE_MS);
	numbers_reclaim(&x, 5000 + NUMBERS_GRACE_MS - 1);
	cr_expect_eq(x.n_free, N - 1);
	numbers_reclaim(&x, 5000 + NUMBERS_GRACE_MS);
	cr_expect_eq(x.n_free, N);
	cr_expect_eq(numbers_next_ms(&x), UINT64_MAX);
	numbers_deinit(&x);
}

/* A list may name it for as long as it likes; then it has a grace period anew. */
Test(numbers, what_is_referred_to_waits)
{
	struct numbers x = make();
	uint32_t number = numbers_take(&x);
	uint64_t now_ms = 0;

	x.refs[number] = 2;
	numbers_retire(&x, number, now_ms);
	for (int i = 0; i < 5; i++) {
		now_ms = numbers_next_ms(&x);
		numbers_reclaim(&x, now_ms);
		cr_expect_eq(x.n_free, N - 1);
		cr_expect_eq(numbers_next_ms(&x), now_ms + NUMBERS_GRACE_MS);
	}
	x.refs[number] = 0;
	numbers_reclaim(&x, now_ms + NUMBERS_GRACE_MS - 1);
	cr_expect_eq(x.n_free, N - 1);
	numbers_reclaim(&x, now_ms + NUMBERS_GRACE_MS);
	cr_expect_eq(x.n_free, N);
	numbers_deinit(&x);
}

Test(numbers, one_that_is_referred_to_does_not_keep_the_others)
{
	struct numbers x = make();
	uint32_t first = numbers_take(&x), second = numbers_take(&x);

	x.refs[first] = 1;
	numbers_retire(&x, first, 0);
	numbers_retire(&x, second, 1);
	numbers_reclaim(&x, NUMBERS_GRACE_MS + 1);
	cr_expect_eq(numbers_take(&x), second);
	cr_expect_eq(numbers_next_ms(&x), 2 * NUMBERS_GRACE_MS + 1);
	numbers_deinit(&x);
}

/* The ring of those given up, over its end many times. */
Test(numbers, around_and_around)
{
	struct numbers x = make();

	for (uint64_t now_ms = 0; now_ms < 50; now_ms++) {
		uint64_t at_ms = now_ms * NUMBERS_GRACE_MS;

		numbers_reclaim(&x, at_ms);
		cr_assert_eq(x.n_free, N);
		for (int i = 0; i < N - (int)(now_ms % 3); i++)
			numbers_retire(&x, numbers_take(&x), at_ms);
	}
	numbers_deinit(&x);
}

Test(numbers, adopted_are_those_in_use_and_those_referred_to_wait)
{
	struct numbers x = make();

	cr_expect(numbers_claim(&x, 3));
	cr_expect_not(numbers_claim(&x, 3), "twice");
	cr_expect_not(numbers_claim(&x, 0));
	cr_expect_not(numbers_claim(&x, N + 1));
	x.refs[5] = 1; /* by a list; the element itself is gone */
	numbers_sort(&x, 100);
	cr_expect_eq(x.n_free, N - 2);
	for (int i = 0; i < N - 2; i++) {
		uint32_t number = numbers_take(&x);

		cr_expect(number && number != 3 && number != 5, "%u", number);
	}
	cr_expect_eq(numbers_take(&x), 0);
	x.refs[5] = 0;
	numbers_reclaim(&x, 100 + NUMBERS_GRACE_MS);
	cr_expect_eq(numbers_take(&x), 5);
	numbers_deinit(&x);
}
