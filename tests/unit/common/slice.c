/* SPDX-License-Identifier: Apache-2.0 */
#include "common/slice.h"

#include <criterion/criterion.h>
#include <linux/sched.h>
#include <linux/sched/types.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct sched_attr get(void)
{
	struct sched_attr attr = { 0 };

	cr_assert_eq(syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0), 0);
	return attr;
}

/* A kernel that has no slices of one's own says 0 of them. */
Test(slice, is_short_and_nothing_else_changes)
{
	struct sched_attr before, after;

	cr_assert_eq(setpriority(PRIO_PROCESS, 0, 7), 0);
	before = get();
	slice_ask_short();
	after = get();
	if (before.sched_runtime)
		cr_assert_eq(after.sched_runtime, SLICE_NS);
	before.sched_runtime = after.sched_runtime;
	cr_assert_arr_eq(&before, &after, sizeof(before));
}

Test(slice, another_policy_is_left)
{
	struct sched_attr before, after,
		batch = { .size = sizeof(batch), .sched_policy = SCHED_BATCH };

	cr_assert_eq(syscall(SYS_sched_setattr, 0, &batch, 0), 0);
	before = get();
	slice_ask_short();
	after = get();
	cr_assert_arr_eq(&before, &after, sizeof(before));
}
