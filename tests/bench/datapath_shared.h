/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the benchmark's BPF programs and its process share. */
#include <linux/types.h>

#define REF_SUBSCRIBERS 1024 /* of a group, as published */
#define REF_GROUPS	64
#define REF_VNI		1

struct subscriber {
	__u32 address; /* host order */
	__u32 ifindex;
	__u32 remote;
};
