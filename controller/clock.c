/* SPDX-License-Identifier: Apache-2.0 */
/* By itself, so that a simulation can put another clock in its place. */
#include <time.h>

#include "controller/controller.h"

uint64_t controller_now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t controller_now_ms(void)
{
	return controller_now_us() / 1000;
}
