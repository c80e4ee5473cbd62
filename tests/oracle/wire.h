/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Whole Ethernet frames of IGMPv1/2/3 and MLDv1/2, built from the RFCs' pictures. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/addr.h"
#include "node/gmp/gmp.h"

enum {
	WIRE_FRAME_MAX = 1514,
	WIRE_SOURCES_MAX = 16,
};

struct wire_frame {
	uint8_t data[WIRE_FRAME_MAX];
	size_t len;
};

struct wire_record {
	uint8_t type;
	uint8_t aux_words;
	struct addr group;
	unsigned n_sources;
	struct addr sources[WIRE_SOURCES_MAX];
};

/* How the frame is dressed; the answer may not depend on it. */
struct wire_dress {
	struct addr from;
	uint8_t host;	 /* the last octet of the Ethernet source */
	bool no_alert;	 /* IPv4: no Router Alert option */
	uint8_t tail;	 /* octets after the last record, in the checksum */
	uint8_t padding; /* octets after the IP packet */
};

struct wire_query {
	struct addr group; /* null: general */
	const struct addr *sources;
	unsigned n_sources;
	bool suppress;
	uint8_t qrv, qqic;
	uint16_t max_resp_code; /* IGMP: tenths of seconds; MLD: milliseconds */
};

void wire_report(struct wire_frame *f, const struct wire_dress *dress,
		 const struct wire_record *records, unsigned n);
void wire_old_report(struct wire_frame *f, const struct wire_dress *dress, enum gmp_version version,
		     const struct addr *group);
void wire_old_leave(struct wire_frame *f, const struct wire_dress *dress, const struct addr *group);
void wire_query(struct wire_frame *f, const struct wire_dress *dress,
		const struct wire_query *query);
