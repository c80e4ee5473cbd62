/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Drives the engine of node/gmp with real frames, in words: sources are the
 * numbers 1 to 250, a state is "EX:270{1:260}{2}", the queries that were sent
 * "Q(G,1) Q(G)". The frames are built here, apart from node/gmp/encode.c.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "node/gmp/gmp.h"
#include "node/gmp/wire.h"

#define P1 11
#define P2 12
#define R  13

struct rig {
	struct gmp *gmp;
	struct gmp_fx fx;
	struct gmp_config config;
	uint64_t now;
	bool v6;
};

struct frame {
	uint8_t b[2048];
	size_t len;
};

struct record {
	unsigned int type;
	struct addr group;
	const char *sources; /* "1 2 3" */
};

/* An IPv6 packet may have hop-by-hop and other extension headers. */
struct ip {
	struct addr source, destination;
	uint8_t ttl;
	size_t options; /* IPv4: bytes; IPv6: the size of the hop-by-hop header */
	bool router_alert;
	uint16_t fragment; /* IPv4: flags and offset */
};

struct addr addr_of(const char *text);
struct addr source_of(bool v6, unsigned int number);
struct addr host_of(bool v6, unsigned int number); /* of a report */
struct addr group_of(bool v6);			   /* G */

/* config NULL: the default with sources for both families. Ports P1, P2, R;
 * what their start sent is forgotten. Port timers: startup queries are over. */
struct rig *rig_new(bool v6, const struct gmp_config *config);
void rig_free(struct rig *rig);
struct gmp_config rig_config(void);

struct ip ip_from(bool v6, const struct addr *source);
void frame_wrap(struct frame *f, bool v6, const struct ip *ip, const uint8_t *payload, size_t len);
void frame_sums(struct frame *f); /* both checksums anew */
size_t report_build(uint8_t *payload, bool v6, const struct record *records, size_t n);
void frame_report(struct frame *f, bool v6, const struct addr *host, const struct record *records,
		  size_t n);

/* type: an IGMP or ICMPv6 type with a group alone. */
void frame_simple(struct frame *f, uint8_t type, const struct addr *host, const struct addr *group);

struct query {
	struct addr source, group; /* group null: general */
	enum gmp_version version;
	bool s_flag;
	uint8_t qrv, qqic;
	const char *sources;
};
void frame_query(struct frame *f, const struct query *query);

/* Each clears the effects before. */
void rig_frame(struct rig *rig, uint32_t port, const struct frame *f);
void rig_report(struct rig *rig, uint32_t port, unsigned int type, const char *sources);
void rig_report_host(struct rig *rig, uint32_t port, unsigned int host, unsigned int type,
		     const char *sources);
void rig_old(struct rig *rig, uint32_t port, uint8_t type); /* v1, v2, MLDv1 of G */
void rig_old_host(struct rig *rig, uint32_t port, unsigned int host, uint8_t type);
void rig_query(struct rig *rig, uint32_t port, const struct query *query);

/* Advances by ms and runs what is due on the way; effects add up. */
void rig_wait(struct rig *rig, uint64_t ms);

/* Static buffers. Remaining times in seconds; "-": no membership. */
const char *rig_state(const struct rig *rig, uint32_t port);
const char *rig_state_of(const struct rig *rig, uint32_t port, const struct addr *group);
const char *rig_view(const struct rig *rig, uint32_t port); /* forwarding: "EX{2}" */
const char *rig_queries(const struct rig *rig, uint32_t port);
size_t rig_effects(const struct rig *rig, uint32_t port, enum gmp_fx_type type);
bool rig_forwards(const struct rig *rig, uint32_t port, unsigned int source);
uint64_t rig_counter(const struct rig *rig, enum gmp_counter c); /* of P1 */
enum gmp_version rig_version(const struct rig *rig, uint32_t port);

/* The last query frame, decoded by hand; NULL when there is none. */
const uint8_t *rig_query_frame(const struct rig *rig, size_t *ret_len);

/* Runs the rest of a test once for each family. */
#define EACH_FAMILY(v6) for (int v6 = 0; v6 < 2; v6++)
