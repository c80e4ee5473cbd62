/* SPDX-License-Identifier: Apache-2.0 */
#include "node/datapath/numbers.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

int numbers_init(struct numbers *numbers, uint32_t n)
{
	struct numbers x = { .n = n };

	x.free = calloc(n, sizeof(*x.free));
	x.refs = calloc((size_t)n + 1, sizeof(*x.refs));
	x.used = calloc((size_t)n + 1, sizeof(*x.used));
	x.retired = calloc(n, sizeof(*x.retired));
	if (!x.free || !x.refs || !x.used || !x.retired) {
		numbers_deinit(&x);
		return -ENOMEM;
	}
	*numbers = x;
	numbers_sort(numbers, 0);
	return 0;
}

void numbers_deinit(struct numbers *numbers)
{
	free(numbers->free);
	free(numbers->refs);
	free(numbers->used);
	free(numbers->retired);
	*numbers = (struct numbers){ 0 };
}

bool numbers_claim(struct numbers *numbers, uint32_t number)
{
	if (number == 0 || number > numbers->n || numbers->used[number])
		return false;
	numbers->used[number] = 1;
	return true;
}

void numbers_sort(struct numbers *numbers, uint64_t now_ms)
{
	numbers->n_free = 0;
	for (uint32_t i = numbers->n; i > 0; i--) {
		if (numbers->used[i])
			continue;
		if (numbers->refs[i]) {
			numbers->used[i] = 1;
			numbers_retire(numbers, i, now_ms);
		} else {
			numbers->free[numbers->n_free++] = i;
		}
	}
}

uint32_t numbers_take(struct numbers *numbers)
{
	uint32_t number;

	if (numbers->n_free == 0)
		return 0;
	number = numbers->free[--numbers->n_free];
	numbers->used[number] = 1;
	return number;
}

void numbers_put(struct numbers *numbers, uint32_t number)
{
	assert(number > 0 && number <= numbers->n && numbers->used[number]);
	numbers->used[number] = 0;
	numbers->free[numbers->n_free++] = number;
}

void numbers_retire(struct numbers *numbers, uint32_t number, uint64_t now_ms)
{
	assert(numbers->n_retired < numbers->n);
	numbers->retired[(numbers->head + numbers->n_retired++) % numbers->n] =
		(struct numbers_retired){ .due_ms = now_ms + NUMBERS_GRACE_MS, .number = number };
}

void numbers_reclaim(struct numbers *numbers, uint64_t now_ms)
{
	/* Those that are still referred to go to the end: look at each once. */
	for (uint32_t left = numbers->n_retired; left > 0; left--) {
		struct numbers_retired r = numbers->retired[numbers->head];

		if (r.due_ms > now_ms)
			return;
		numbers->head = (numbers->head + 1) % numbers->n;
		numbers->n_retired--;
		if (numbers->refs[r.number])
			numbers_retire(numbers, r.number, now_ms);
		else
			numbers_put(numbers, r.number);
	}
}

uint64_t numbers_next_ms(const struct numbers *numbers)
{
	return numbers->n_retired ? numbers->retired[numbers->head].due_ms : UINT64_MAX;
}
