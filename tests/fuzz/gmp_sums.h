/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Makes the checksums of a frame right as far as its headers make sense: a
 * fuzzer would hardly guess them. */
void gmp_sums_fix(uint8_t *frame, size_t len);
