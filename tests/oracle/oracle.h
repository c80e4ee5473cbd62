/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A second opinion on node/gmp: the router side of RFC 9776 sections 6 and 7 and
 * of RFC 9777, written from the text of the RFCs and from node/gmp/gmp.h alone,
 * as plainly as it can be said. A handful of ports, groups and sources by index;
 * a set of sources is a bit mask; each timer is the time at which it has run out.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/addr.h"
#include "node/gmp/gmp.h"

enum {
	ORACLE_PORTS = 5,
	ORACLE_GROUPS = 8,
	ORACLE_SOURCES = 6,
	ORACLE_HISTORY = 4096,	  /* events that are remembered */
	ORACLE_HISTORY_SHOW = 20, /* events of the group that a difference prints */
};

/* RFC 9776 4.2.12. */
enum oracle_record_type {
	ORACLE_IS_IN = 1,
	ORACLE_IS_EX = 2,
	ORACLE_TO_IN = 3,
	ORACLE_TO_EX = 4,
	ORACLE_ALLOW = 5,
	ORACLE_BLOCK = 6,
};

enum oracle_source_state {
	ORACLE_ABSENT = 0,
	ORACLE_WANTED, /* its timer runs */
	ORACLE_BLOCKED /* listed, with no timer: EXCLUDE only */
};

struct oracle_source {
	enum oracle_source_state state;
	uint64_t expires;
};

/* All zero: INCLUDE {}, which is what an unseen group is in (RFC 9776 6.2.1). */
struct oracle_group {
	bool exclude;
	uint64_t timer; /* EXCLUDE only */
	uint64_t v1_until, v2_until;
	struct oracle_source sources[ORACLE_SOURCES];
};

struct oracle_port {
	bool present;
	struct gmp_config config;
	uint64_t other_querier_until;
	uint64_t robustness, query_interval; /* of the elected querier; 0: our own */
	struct oracle_group groups[ORACLE_GROUPS];
};

/* What (port, group) forwards. */
struct oracle_view {
	bool exclude;
	unsigned sources;
};

struct oracle {
	bool v6;
	struct addr groups[ORACLE_GROUPS];
	struct addr sources[ORACLE_SOURCES];
	struct oracle_port ports[ORACLE_PORTS];
	/* The view was another for a moment since oracle_forget_changes(). */
	bool changed[ORACLE_PORTS][ORACLE_GROUPS];
};

/* A query of another router. */
struct oracle_query {
	struct addr from;
	int group; /* -1: general */
	unsigned sources;
	bool suppress;
	uint8_t qrv, qqic; /* as on the wire */
};

void oracle_init(struct oracle *o, bool v6);
void oracle_forget_changes(struct oracle *o);

void oracle_port_add(struct oracle *o, int port, const struct gmp_config *config);
void oracle_port_remove(struct oracle *o, int port);

/* Everything that has run out at now. */
void oracle_advance(struct oracle *o, uint64_t now);

void oracle_record(struct oracle *o, int port, int group, unsigned type, unsigned sources,
		   uint64_t now);
void oracle_old_report(struct oracle *o, int port, int group, enum gmp_version version,
		       uint64_t now);
void oracle_old_leave(struct oracle *o, int port, int group, uint64_t now);
void oracle_query(struct oracle *o, int port, const struct oracle_query *query, uint64_t now);

bool oracle_exists(const struct oracle *o, int port, int group);
struct oracle_view oracle_view(const struct oracle *o, int port, int group);
enum gmp_version oracle_version(const struct oracle *o, int port, int group, uint64_t now);

/* The n-th time at which something runs out, of those after now; 0: no such. */
uint64_t oracle_deadline(const struct oracle *o, uint64_t now, unsigned n);

/* ---- the check --------------------------------------------------------------- */

struct oracle_run {
	uint64_t seed;
	uint64_t events;
	bool v6;
	FILE *out; /* where a difference is told */
};

/* 0: no difference; 1: there was one, told; -ENOMEM. */
int oracle_run(const struct oracle_run *run);
