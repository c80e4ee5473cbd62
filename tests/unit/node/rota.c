/* SPDX-License-Identifier: Apache-2.0 */
#include "node/rota.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static const char *const three[] = { "c1:1", "c2:1", "c3:1", NULL };

Test(rota, S17_nodes_spread_and_each_has_an_order_of_its_own)
{
	size_t first[3] = { 0 }, second_of_first[3] = { 0 };

	for (int i = 0; i < 3000; i++) {
		struct rota rota;
		char node[16];

		snprintf(node, sizeof(node), "n%d", i);
		rota_init(&rota, node, three, 1);
		first[rota.targets[0][1] - '1']++;
		if (rota.targets[0] == three[0])
			second_of_first[rota.targets[1][1] - '1']++;
	}
	for (int i = 0; i < 3; i++)
		cr_assert(first[i] > 900 && first[i] < 1100, "c%d has %zu", i + 1, first[i]);
	cr_assert_eq(second_of_first[0], 0);
	cr_assert(second_of_first[1] > 400 && second_of_first[2] > 400,
		  "the nodes of a dead controller go to both others");
}

Test(rota, S17_an_added_controller_moves_only_what_it_wins)
{
	static const char *const four[] = { "c4:1", "c3:1", "c1:1", "c2:1", NULL };

	for (int i = 0; i < 500; i++) {
		struct rota before, after;
		char node[16];

		snprintf(node, sizeof(node), "n%d", i);
		rota_init(&before, node, three, 1);
		rota_init(&after, node, four, 1);
		cr_assert(strcmp(rota_target(&after), "c4:1") == 0 ||
			  strcmp(rota_target(&after), rota_target(&before)) == 0);
	}
}

Test(rota, S13_only_a_whole_round_waits_and_longer_each_time)
{
	uint64_t longest[8] = { 0 };

	for (uint64_t seed = 1; seed < 200; seed++) {
		struct rota rota;

		rota_init(&rota, "n1", three, seed);
		for (int round = 0; round < 8; round++) {
			uint64_t wait;

			cr_assert_eq(rota_failed(&rota, ROTA_UNREACHABLE), 0);
			cr_assert_eq(rota_failed(&rota, ROTA_UNREACHABLE), 0);
			wait = rota_failed(&rota, ROTA_UNREACHABLE);
			cr_assert(wait >= 1 && wait <= ROTA_BACKOFF_MAX_MS);
			longest[round] = wait > longest[round] ? wait : longest[round];
		}
	}
	cr_assert_leq(longest[0], ROTA_BACKOFF_MIN_MS);
	cr_assert_gt(longest[2], longest[0]);
	cr_assert_gt(longest[7], ROTA_BACKOFF_MAX_MS * 3 / 4);
}

Test(rota, attempts_get_more_time_only_when_all_have_failed)
{
	struct rota rota;

	rota_init(&rota, "n1", three, 1);
	for (int i = 0; i < 3; i++) {
		cr_assert_eq(rota_timeout_ms(&rota), ROTA_TIMEOUT_MIN_MS);
		rota_failed(&rota, ROTA_UNREACHABLE);
	}
	cr_assert_eq(rota_timeout_ms(&rota), 2 * ROTA_TIMEOUT_MIN_MS);
	for (int i = 0; i < 60; i++)
		rota_failed(&rota, ROTA_UNREACHABLE);
	cr_assert_eq(rota_timeout_ms(&rota), ROTA_TIMEOUT_MAX_MS);
	rota_proven(&rota);
	cr_assert_eq(rota_timeout_ms(&rota), ROTA_TIMEOUT_MIN_MS);
}

Test(rota, a_refusal_asks_the_others_and_waits_after_the_round)
{
	struct rota rota;
	uint64_t wait;

	rota_init(&rota, "n1", three, 1);
	cr_assert_eq(rota_failed(&rota, ROTA_REFUSED), 0);
	cr_assert_eq(rota_failed(&rota, ROTA_UNREACHABLE), 0);
	wait = rota_failed(&rota, ROTA_UNREACHABLE);
	cr_assert(wait >= ROTA_REFUSED_MS / 2 && wait <= ROTA_REFUSED_MS);
	wait = rota_failed(&rota, ROTA_REFUSED_ALL);
	cr_assert(wait >= ROTA_REFUSED_MS / 2 && wait <= ROTA_REFUSED_MS);
}
