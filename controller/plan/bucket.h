/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A rate with a burst of one period. Whoever has anything left may spend more than
 * that: what is too much is owed, at most one period of it, so that one large
 * change goes through whole and the next ones wait.
 */
#include <stdbool.h>
#include <stdint.h>

struct bucket {
	int64_t tokens; /* times the period */
	uint64_t at_ms; /* as of; 0: full */
};

static inline void bucket_fill(struct bucket *b, uint32_t rate, uint32_t period_ms, uint64_t now_ms)
{
	int64_t full = (int64_t)rate * period_ms;

	if (!b->at_ms || now_ms - b->at_ms >= 2 * (uint64_t)period_ms)
		b->tokens = full;
	else
		b->tokens += (int64_t)(now_ms - b->at_ms) * rate;
	if (b->tokens > full)
		b->tokens = full;
	b->at_ms = now_ms;
}

/* When there is something left; now_ms: there is. Fill it before. */
static inline uint64_t bucket_ready_ms(const struct bucket *b, uint32_t rate, uint64_t now_ms)
{
	return b->tokens > 0 ? now_ms : now_ms + (uint64_t)(-b->tokens) / rate + 1;
}

static inline void bucket_spend(struct bucket *b, uint32_t rate, uint32_t period_ms, uint64_t n)
{
	int64_t debt = -(int64_t)rate * period_ms;

	n = n > 2 * (uint64_t)rate ? 2 * (uint64_t)rate : n;
	b->tokens -= (int64_t)n * period_ms;
	if (b->tokens < debt)
		b->tokens = debt;
}
