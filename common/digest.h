/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Order-independent digest of a set of rows: the sum mod 2^128 of a keyed hash
 * of each row's canonical encoding. Rows are added and removed one by one, so
 * both ends keep it up to date at the cost of the change, not of the table. A
 * sum, not an XOR: a row present twice does not vanish.
 *
 * Canonical encoding of a member row: segment (be32), node name and NUL, group
 * (16), mode (1), number of sources (be32), sources sorted (16 each). Of a
 * node row: NUL-terminated name, VTEP (16). The hash is SipHash-2-4 with
 * 128 bits of output (libsodium), keyed with the epoch.
 */
#include <stdbool.h>
#include <stdint.h>

#include "common/addr.h"
#include "common/filter.h"

#define EPOCH_LEN 16

struct digest {
	unsigned __int128 sum;
	uint64_t rows;
};

void digest_add_member(struct digest *d, const uint8_t epoch[EPOCH_LEN], uint32_t segment,
		       const char *node, const struct addr *group, const struct filter *f);
void digest_del_member(struct digest *d, const uint8_t epoch[EPOCH_LEN], uint32_t segment,
		       const char *node, const struct addr *group, const struct filter *f);
void digest_add_node(struct digest *d, const uint8_t epoch[EPOCH_LEN], const char *node,
		     const struct addr *vtep);
void digest_del_node(struct digest *d, const uint8_t epoch[EPOCH_LEN], const char *node,
		     const struct addr *vtep);

/* 16 bytes, most significant first: the SegmentAck.digest field. */
void digest_to_wire(const struct digest *d, uint8_t ret_wire[16]);
