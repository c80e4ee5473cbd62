/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Numbers 1 .. n of the elements of an array map. A number that was given up
 * may still be read by a packet on its way or be named by a list, so it is
 * given out again only after a grace period and when nothing refers to it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NUMBERS_GRACE_MS 1000

struct numbers {
	uint32_t n;
	uint32_t *free; /* stack */
	uint32_t n_free;
	uint32_t *refs;
	uint8_t *used;
	struct numbers_retired {
		uint64_t due_ms;
		uint32_t number;
	} * retired; /* ring, oldest first */
	uint32_t head, n_retired;
};

/* 0 or -ENOMEM. Every number is free. */
int numbers_init(struct numbers *numbers, uint32_t n);
void numbers_deinit(struct numbers *numbers);

/* While adopting: takes this very number; then, with the references counted,
 * numbers_sort() once, which retires what is only referred to. False when it is
 * out of range or taken. */
bool numbers_claim(struct numbers *numbers, uint32_t number);
void numbers_sort(struct numbers *numbers, uint64_t now_ms);

/* 0: none is free. */
uint32_t numbers_take(struct numbers *numbers);

/* Was never published: free at once. */
void numbers_put(struct numbers *numbers, uint32_t number);

void numbers_retire(struct numbers *numbers, uint32_t number, uint64_t now_ms);
void numbers_reclaim(struct numbers *numbers, uint64_t now_ms);

/* When numbers_reclaim() has something to do; UINT64_MAX: never. */
uint64_t numbers_next_ms(const struct numbers *numbers);
