/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Wire codec of IGMP (RFC 1112, 2236, 9776 section 4) and MLD (RFC 2710, 9777
 * section 5). wire_parse() validates a whole Ethernet frame before it gives out
 * anything: every length is the message's own (IP total length, not the
 * frame's), every record is walked by its real size, every checksum is right.
 * What it returns points into the frame.
 *
 * Numbers are in host order; addresses are struct addr.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/addr.h"
#include "node/gmp/gmp.h"

enum wire_kind {
	WIRE_QUERY,
	WIRE_REPORT_V1, /* IGMPv1: group */
	WIRE_REPORT_V2, /* IGMPv2, MLDv1: group */
	WIRE_REPORT_V3, /* IGMPv3, MLDv2: records */
	WIRE_LEAVE,	/* IGMPv2 leave, MLDv1 done: group */
};

/* RFC 9776 4.2.12, RFC 9777 5.2.12. */
enum wire_record_type {
	WIRE_IS_IN = 1,
	WIRE_IS_EX = 2,
	WIRE_TO_IN = 3,
	WIRE_TO_EX = 4,
	WIRE_ALLOW = 5,
	WIRE_BLOCK = 6,
};

struct wire_message {
	enum wire_kind kind;
	enum gmp_version version; /* of a query */
	bool v6;
	bool router_alert;
	struct addr source; /* of the IP packet */
	struct addr group;  /* unspecified: a general query */

	/* Query. */
	uint32_t max_response_ms;
	bool s_flag;
	uint8_t qrv;		   /* 0: not told */
	uint32_t query_interval_s; /* 0: not told */

	uint16_t n;	     /* sources of a query, records of a report */
	const uint8_t *body; /* where they begin */
};

struct wire_record {
	unsigned int type; /* may be none of enum wire_record_type */
	struct addr group;
	uint16_t n_sources;
	const uint8_t *sources; /* n_sources * (4 or 16) bytes: wire_source() */
};

/* 0, or -EINVAL with the counter that names why the frame is refused. */
int wire_parse(const uint8_t *frame, size_t len, struct wire_message *ret_message,
	       enum gmp_counter *ret_why);

/* The record at *cursor (first: message->body), which then is at the next one.
 * At most message->n times; the message has been validated. */
void wire_record_next(const struct wire_message *message, const uint8_t **cursor,
		      struct wire_record *ret_record);

struct addr wire_source(bool v6, const uint8_t *sources, size_t i);

/* RFC 9776 4.1.1, 4.1.7: 8-bit code, rounded down when encoding. RFC 9777
 * 5.1.3: the 16-bit code. */
uint32_t wire_code8_decode(uint8_t code);
uint8_t wire_code8_encode(uint32_t value);
uint32_t wire_code16_decode(uint16_t code);
uint16_t wire_code16_encode(uint32_t value);

/* RFC 1071: a running one's complement sum over whole 16-bit words (a last odd
 * byte is padded), and its final form. */
uint32_t wire_sum(uint32_t sum, const uint8_t *data, size_t len);
uint16_t wire_sum_fold(uint32_t sum);

/* Sum of the ICMPv6 pseudo header; addresses: source and destination, 32 bytes. */
uint32_t wire_pseudo_v6(const uint8_t *addresses, uint32_t len);

#define WIRE_FRAME_MAX 1514

struct wire_query {
	enum gmp_version version;
	struct addr source;
	uint8_t mac[6];
	struct addr group; /* unspecified: general */
	bool s_flag;
	uint32_t max_response_ms;
	uint32_t query_interval_s;
	uint32_t robustness;
	const struct addr *sources;
	uint16_t n_sources; /* at most wire_query_max_sources() */
};

#define WIRE_QUERY_SOURCES_MAX 366 /* of either family */

size_t wire_query_max_sources(bool v6);

/* The whole Ethernet frame; returns its length. */
size_t wire_query_encode(const struct wire_query *query, uint8_t ret_frame[WIRE_FRAME_MAX]);

struct wire_report {
	enum wire_kind kind; /* of a report or a leave */
	bool v6;
	struct addr source;
	uint8_t mac[6];
	struct addr group;	/* unless REPORT_V3 */
	const uint8_t *records; /* of REPORT_V3, as they are on the wire */
	size_t records_len;	/* at most wire_report_room() */
	uint16_t n_records;
};

size_t wire_report_room(bool v6);

/* The whole Ethernet frame; returns its length. */
size_t wire_report_encode(const struct wire_report *report, uint8_t ret_frame[WIRE_FRAME_MAX]);
