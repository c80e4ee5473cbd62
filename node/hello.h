/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What an agent's first message says of its mirror, and a row of its reports. Pure. */
#include "mcmesh/v1/node.pb-c.h"
#include "node/mirror.h"

struct hello {
	Mcmesh__V1__Hello message;
	const struct mirror *mirror;
	Mcmesh__V1__Subscription *segments;
	Mcmesh__V1__Subscription **segment_pointers;
	size_t n_segments, cap_segments;
	char **nodes;
	size_t n_nodes, cap_nodes;
	bool failed;
};

/* Epoch, segments with the revisions to go on from, and known nodes; borrows from
 * the mirror. 0 or -ENOMEM. */
int hello_init(struct hello *hello, const struct mirror *mirror);
void hello_deinit(struct hello *hello);

/* A member as a report has it; borrows the addresses. NULL: out of memory. */
Mcmesh__V1__MemberChange *hello_row_new(uint32_t segment, const struct addr *group,
					const struct filter *filter);
void hello_row_free(Mcmesh__V1__MemberChange *row);
