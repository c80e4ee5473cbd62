/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Copies that are too long for an underlay of IPv6: a TAP device takes them, a
 * socket sends them in fragments. See oversize.c. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/addr.h"

#define OVERSIZE_WHY_MAX 256
#define OVERSIZE_NAME	 "mcmlong" /* and a number: the device */

struct oversize;

struct oversize_counters {
	uint64_t sent, failed;
};

/* 0, or -errno and one sentence. The device is down, and goes with this. */
int oversize_new(const struct addr *vtep, uint16_t udp_port, struct oversize **ret_oversize,
		 char why[OVERSIZE_WHY_MAX]);
void oversize_free(struct oversize *oversize);

/* Readable when something waits; then oversize_dispatch(), which does a bounded
 * amount. */
int oversize_fd(const struct oversize *oversize);
void oversize_dispatch(struct oversize *oversize);

uint32_t oversize_ifindex(const struct oversize *oversize);
struct oversize_counters oversize_count(const struct oversize *oversize);

/* What a frame of the device asks for; pure. */
struct oversize_packet {
	struct addr to;
	uint8_t traffic_class;
	const uint8_t *payload; /* from the VXLAN header on, within the frame */
	size_t len;
};

/* False: the frame is none of ours. */
bool oversize_parse(const uint8_t *frame, size_t len, const struct addr *vtep, uint16_t udp_port,
		    struct oversize_packet *ret_packet);
