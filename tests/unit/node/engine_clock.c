/* SPDX-License-Identifier: Apache-2.0 */
/* Law L5: an agent that was stopped lets no membership run out because of it. */
#include "node/engine_clock.h"

#include <criterion/criterion.h>

TestSuite(engine_clock, .timeout = 10);

Test(engine_clock, stands_still_while_nobody_looked)
{
	struct engine_clock c = { 0 };

	cr_assert_eq(engine_clock_now(&c, 500000), 500000, "no timer yet: nothing was missed");
	cr_assert_eq(engine_clock_due(&c, 501000), 501000);
	cr_assert_eq(engine_clock_now(&c, 502000), 502000, "late, as a busy machine is");
	cr_assert_eq(engine_clock_now(&c, 502001), 501000, "one more: it was stopped");
	cr_assert_eq(engine_clock_now(&c, 502001), 501000, "once");
	cr_assert_eq(engine_clock_now(&c, 502101), 501100);
	/* What the engine waits for comes by as much later. */
	cr_assert_eq(engine_clock_due(&c, 501500), 502501);
	cr_assert_eq(engine_clock_now(&c, 502501), 501500);
}

Test(engine_clock, looks_before_a_timer_change_nothing)
{
	struct engine_clock c = { 0 };

	engine_clock_due(&c, 90000);
	cr_assert_eq(engine_clock_now(&c, 20000), 20000);
	cr_assert_eq(engine_clock_now(&c, 90000), 90000);
	/* No timer: none is missed. */
	cr_assert_eq(engine_clock_due(&c, UINT64_MAX), UINT64_MAX);
	cr_assert_eq(engine_clock_now(&c, 1000000), 1000000);
}

Test(engine_clock, stopped_again_and_again)
{
	struct engine_clock c = { 0 };
	uint64_t now_ms = 1000;

	for (int i = 0; i < 5; i++) {
		engine_clock_due(&c, engine_clock_now(&c, now_ms) + 100);
		now_ms += 30000;
	}
	cr_assert_eq(engine_clock_now(&c, now_ms), 1500);
}
