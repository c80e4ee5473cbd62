/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#define SLICE_NS 200000

/*
 * Asks the kernel's scheduler for short slices, of this thread and of those that it
 * starts. EEVDF lets a task that wakes up with a shorter slice than the running one's
 * go first (Linux 6.12); it gets no more of the processor than it had. An older kernel
 * and another policy than SCHED_OTHER are left as they are.
 */
void slice_ask_short(void);
