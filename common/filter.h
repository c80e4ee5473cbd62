/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Source filter: what a port, or a node, wants of one group (RFC 9776 3.2).
 *
 *   INCLUDE {A}   packets from the sources in A
 *   EXCLUDE {X}   packets from every source but those in X
 *
 * Sources are kept sorted and unique, so equality is a memcmp. INCLUDE {} is
 * "not a member".
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/addr.h"

enum filter_mode {
	FILTER_INCLUDE = 0,
	FILTER_EXCLUDE = 1,
};

struct filter {
	enum filter_mode mode;
	uint32_t n_sources;
	struct addr *sources; /* owned */
};

#define FILTER_NULL ((struct filter){ FILTER_INCLUDE, 0, NULL })

/* Copies, sorts and removes doubles. 0 or -ENOMEM. */
int filter_init(struct filter *f, enum filter_mode mode, const struct addr *sources, size_t n);

void filter_deinit(struct filter *f);

/* *dst is initialised by this; 0 or -ENOMEM with *dst untouched. */
int filter_copy(struct filter *dst, const struct filter *src);

bool filter_equal(const struct filter *a, const struct filter *b);

/* INCLUDE {}: wants nothing. */
bool filter_is_none(const struct filter *f);

/* Does the filter let a packet of this source pass? */
bool filter_wants(const struct filter *f, const struct addr *source);

/* Does it let a source pass that nobody names? */
static inline bool filter_wants_any(const struct filter *f)
{
	return f->mode == FILTER_EXCLUDE;
}

/*
 * acc := the union of acc and f, as hosts of one link merge (RFC 9776 3.2):
 * INC u INC = union; EXC u EXC = intersection; EXC(X) u INC(A) = EXC(X - A).
 * 0 or -ENOMEM with acc untouched.
 */
int filter_merge(struct filter *acc, const struct filter *f);

/* More than max sources: widens to EXCLUDE {} and returns true. */
bool filter_limit(struct filter *f, uint32_t max_sources);
