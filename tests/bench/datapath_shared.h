/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the benchmark's BPF programs and its process share. */
#include <linux/types.h>

#define REF_SUBSCRIBERS 1024 /* of a group, as published */
#define REF_GROUPS	64
#define REF_VNI		1
#define REMOTE_FIRST	2	   /* in the last byte of a node's address */
#define REDIRECT_FAR	0xffffffff /* in place of an ifindex: at the other node */

#define REDIRECT_TUNNEL 90 /* in place of a kind: 10.90.K.I, what is in a tunnel */

struct redirect_key {
	__u32 ifindex;
	__u32 kind; /* of the group, the destination's second byte: enum group_kind */
};

struct subscriber {
	__u32 address; /* host order */
	__u32 ifindex;
	__u32 remote;
};
