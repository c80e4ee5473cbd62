/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Who this installation is: a random id that persists, and how often it has
 * started, so that a controller can tell a restart from a second agent with
 * the same name. Kept in STATE_DIR/identity, replaced by rename and fsynced.
 */
#include <stdint.h>

#define IDENTITY_WHY_MAX 256

struct identity {
	uint8_t instance[16];
	uint64_t start_count; /* of this start */
};

/* Counts one start. 0, or -errno with a sentence. A file that is not one is
 * refused, never overwritten. */
int identity_start(const char *state_dir, struct identity *ret_identity,
		   char why[IDENTITY_WHY_MAX]);
