/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The mesh's one ordered log as an index: one current row for each key, each
 * with the revision that last changed it, in the order of the revisions (see
 * log.c). Pure: no clock, no socket, no gRPC.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uthash.h>

#include "common/addr.h"
#include "common/digest.h"
#include "common/filter.h"

#define LOG_NAME_MAX	   64  /* node name with NUL */
#define LOG_PORT_MAX	   16  /* IFNAMSIZ */
#define LOG_HISTORY	   128 /* digests kept of each segment's newest revisions */
#define LOG_SEGMENTS_MAX   16384
#define LOG_TOMBSTONES_MAX 65536 /* default */
#define LOG_ORDER_HEIGHT   16

enum log_kind {
	LOG_NODE = 1,	/* segment 0, key: node */
	LOG_STATIC = 2, /* segment 0, key: node, port, group */
	LOG_MEMBER = 3, /* key: segment, group, node */
	LOG_CONFIG = 4, /* segment 0, key: subject */
};

/* Settings of a segment, as mcmesh.v1.SegmentConfig has them; 0: the default. */
struct log_config {
	uint32_t link_local_across_nodes, unregistered, fast_leave, querier, querier_guard;
	uint32_t require_router_alert, router_ports_across_nodes, proxy;
	uint32_t query_interval_ms, query_response_interval_ms, robustness;
	uint32_t last_member_query_interval_ms;
	uint32_t max_groups_per_port, max_sources_per_group, max_hosts_per_group;
	uint32_t max_reports_per_second;
	uint32_t igmp_version, mld_version;
	uint32_t membership_interval_ms, last_member_query_count;
	uint32_t startup_query_interval_ms, startup_query_count, accept_global_mld_source;
};

/* What changes: strings, sources and settings are borrowed. */
struct log_change {
	enum log_kind kind;
	uint32_t segment;
	const char *node;
	const char *port; /* LOG_STATIC */
	struct addr group;
	bool deleted;
	struct filter filter;
	struct addr vtep; /* LOG_NODE */
	/* LOG_CONFIG, whose node is "": the segment that it is for, 0: the defaults. */
	uint32_t subject;
	const struct log_config *config;
};

TAILQ_HEAD(log_rows, log_row);

struct log_node {
	char name[LOG_NAME_MAX];
	uint32_t id;
	uint32_t n_members;   /* live */
	struct log_rows rows; /* tombstones included */
	UT_hash_handle hh;
};

struct log_key {
	uint32_t kind, segment, node, subject;
	struct addr group;
	char port[LOG_PORT_MAX];
};

struct log_row {
	struct log_key key;
	struct log_node *node;
	uint64_t revision;
	uint64_t audited; /* log_audit_row() */
	bool deleted;
	uint8_t height;
	struct filter filter;
	struct addr vtep;
	struct log_config *config; /* LOG_CONFIG that is live */
	TAILQ_ENTRY(log_row) by_segment, by_log, by_node, by_death;
	UT_hash_handle hh;
	struct log_row *next[]; /* in the order of the keys */
};

struct log_digest {
	uint64_t revision;
	struct digest digest;
};

struct log_cursor;

struct log_segment {
	uint32_t id;
	uint64_t revision; /* the last change; 0: none yet */
	uint64_t floor;	   /* changes at or before it may be forgotten */
	struct digest digest;
	uint64_t n_live;
	uint32_t refs; /* subscriptions: who keeps a pointer */
	struct log_rows rows;
	struct log_digest history[LOG_HISTORY];
	uint32_t n_history; /* ever written */
	LIST_HEAD(, log_cursor) cursors;
	void *userdata;
	UT_hash_handle hh;
};

/* A walk over a segment that survives changes: what changes behind it comes again. */
struct log_cursor {
	struct log_segment *segment;
	struct log_row *next;
	LIST_ENTRY(log_cursor) link;
};

struct log;

int log_new(const uint8_t epoch[EPOCH_LEN], uint64_t revision, size_t max_tombstones,
	    struct log **ret_log);
void log_free(struct log *log);

const uint8_t *log_epoch(const struct log *log);
uint64_t log_revision(const struct log *log);
/* Changes after this revision are all still known, in every segment. */
uint64_t log_floor(const struct log *log);
size_t log_tombstones(const struct log *log);

/*
 * The rows of a store that was there before come between these two, by
 * log_apply(): deletions become tombstones though nothing was there, and no
 * digest is remembered, because a row shows only its last change. Deletions
 * after the floor are all among them; the log ends at the revision.
 */
void log_load_begin(struct log *log, uint64_t floor);
void log_load_end(struct log *log, uint64_t revision);

/*
 * Is this row, as it was at the revision `at`, what the log has? A row that
 * changed since is not judged. log_audit_end(): how many live rows of that time
 * nobody named.
 */
bool log_audit_row(struct log *log, uint64_t at, uint64_t revision,
		   const struct log_change *change);
size_t log_audit_end(const struct log *log, uint64_t at);

/* The same rows under another epoch: every digest is another, old ones are unknown. */
void log_renew(struct log *log, const uint8_t epoch[EPOCH_LEN]);

/*
 * Applies one revision; it must be greater than the last. Changes that change
 * nothing (a deletion of what is not there) leave no row. 0, or -ENOMEM or
 * -ENOSPC with the log no longer usable.
 */
int log_apply(struct log *log, uint64_t revision, const struct log_change *changes, size_t n);

struct log_node *log_node_find(const struct log *log, const char *name);
struct log_segment *log_segment_find(const struct log *log, uint32_t id);
/* Creates it; NULL when there are too many. */
struct log_segment *log_segment_get(struct log *log, uint32_t id);
/* Frees those without a row and a reference, so that names alone use up nothing. */
void log_segments_trim(struct log *log, void (*going)(struct log_segment *segment, void *userdata),
		       void *userdata);
size_t log_segment_count(const struct log *log);

/* The row, tombstone or not; NULL when there is none. */
struct log_row *log_find(const struct log *log, enum log_kind kind, uint32_t segment,
			 const char *node, const struct addr *group, const char *port);
/* Only a live one. */
struct log_row *log_find_live(const struct log *log, enum log_kind kind, uint32_t segment,
			      const char *node, const struct addr *group, const char *port);

/* The live settings for a segment (0: the defaults), or NULL. */
struct log_row *log_config_find(const struct log *log, uint32_t subject);

/* The first row of the segment, or of the log, that changed after the revision. */
struct log_row *log_segment_after(const struct log_segment *segment, uint64_t revision);
struct log_row *log_after(const struct log *log, uint64_t revision);

/*
 * The first row (tombstones included) at or after a position in the order
 * (kind, segment, group, node name, port, subject); row->next[0] is the one after.
 */
struct log_row *log_seek(const struct log *log, uint32_t kind, uint32_t segment,
			 const struct addr *group, const char *node, const char *port);

void log_cursor_open(struct log_cursor *cursor, struct log_segment *segment);
struct log_row *log_cursor_next(struct log_cursor *cursor);
void log_cursor_close(struct log_cursor *cursor);

/* The segment's digest as it was at the revision. False: not known any more. */
bool log_digest_at(const struct log_segment *segment, uint64_t revision, struct digest *ret_digest);
