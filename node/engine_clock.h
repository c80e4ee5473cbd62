/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The engine's time. It stands still while the agent was stopped, or had no processor:
 * nobody sent queries then, and what hosts said waits in the ring, so no membership runs
 * out because of it (law L5).
 */
#include <stdint.h>

#define ENGINE_CLOCK_LATE_MS 1000 /* later than this after a timer: it was stopped */

struct engine_clock {
	uint64_t due_ms; /* of the loop's time: the engine's next timer; 0: none yet */
	uint64_t behind_ms;
};

static inline uint64_t engine_clock_now(struct engine_clock *clock, uint64_t now_ms)
{
	if (clock->due_ms && now_ms > clock->due_ms &&
	    now_ms - clock->due_ms > ENGINE_CLOCK_LATE_MS) {
		clock->behind_ms += now_ms - clock->due_ms;
		clock->due_ms = now_ms;
	}
	return now_ms - clock->behind_ms;
}

/* When the loop has to call the engine, which waits for this time of its own. */
static inline uint64_t engine_clock_due(struct engine_clock *clock, uint64_t next_ms)
{
	clock->due_ms = next_ms == UINT64_MAX ? UINT64_MAX : next_ms + clock->behind_ms;
	return clock->due_ms;
}
