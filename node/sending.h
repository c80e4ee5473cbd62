/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Who sends multicast: the packets of each port are counted by the datapath, and
 * one whose count grew sends from then on for SENDING_HOLD_MS. Groups without a
 * member count too, as it is before the first join that a sender is to be known.
 *
 * Link-local groups do not (mDNS would make every node a sender), but the datapath
 * counts them only for the node: when the ports' packets are no more than those,
 * nobody sends.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SENDING_LOOK_MS	     1000  /* between two looks at the counters */
#define SENDING_HOLD_MS	     10000 /* after its last packet a port still sends */
#define SENDING_SEGMENTS_MAX 256
#define SENDING_EARLY_MAX    64 /* link-local packets counted before their port's */

struct sending_port {
	bool known, grew;
	uint32_t generation; /* of the port's counters */
	uint64_t packets;
	uint64_t until_ms;
};

struct sending {
	bool known;
	uint64_t packets; /* of all ports, new at this look */
	uint64_t link_local, early;
	uint64_t look_ms; /* the next one */
};

/* Segments that are sent into: in order, each once. */
struct sending_list {
	uint32_t segments[SENDING_SEGMENTS_MAX];
	size_t n;
};

/* One that is too many is left out: its changes come later, and come. */
void sending_list_add(struct sending_list *list, uint32_t segment);
bool sending_list_equal(const struct sending_list *a, const struct sending_list *b);

/* A look: each port, then the link-local packets of all, then what came out. */
void sending_count(struct sending *s, struct sending_port *port, uint32_t generation,
		   uint64_t packets);
/* True: there were others than link-local ones. */
bool sending_counted(struct sending *s, uint64_t link_local);
bool sending_is_on(struct sending_port *port, bool any, uint64_t now_ms);
