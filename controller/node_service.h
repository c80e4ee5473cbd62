/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * NodeService and what the rest of the controller sees of it: sessions, the
 * feed of the log to them (feed.c), and questions to agents.
 */
#include <sys/queue.h>

#include "controller/controller.h"
#include "controller/plan/report.h"
#include "mcmesh/v1/node.pb-c.h"

#define NODE_SEGMENTS_MAX     1024 /* subscriptions of one agent */
#define NODE_KNOWN_MAX	      REGISTRY_NODES_MAX
#define NODE_REPORT_ROWS_MAX  16384 /* of one message */
#define NODE_REPORTS_QUEUED   256   /* while the store works */
#define NODE_QUERIES_MAX      64    /* open, for one agent */
#define NODE_QUERY_TIMEOUT_MS 2000
#define NODE_HELLO_MS	      10000 /* a stream without a Hello ends then */
#define NODE_PROTOCOL	      1

/* The simulation has smaller ones, to meet them with few rows. */
#ifndef FEED_BACKLOG_MAX
#define FEED_BACKLOG_MAX    (256 * 1024) /* bytes queued for an agent before it counts as slow */
#define FEED_DELTA_BYTES    (512 * 1024)
#define FEED_CHUNK_BYTES    (60 * 1024)
#define FEED_SNAPSHOTS_MAX  64		/* at the same time */
#define FEED_EDITIONS_BYTES (64u << 20) /* of snapshots that are kept for others */
#endif
#define FEED_EDITION_KEEP_MS 10000
/* What a chunk costs, in deltas: to make it, to send it. */
#define FEED_CHUNK_WORK		12
#define FEED_COPY_WORK		4
#define FEED_PER_TURN		32   /* streams served between two looks at other RPCs */
#define FEED_PER_BUSY_TURN	8    /* of snapshots, while more of what peers said waits */
#define FEED_CACHE		8    /* serialised deltas of a segment */
#define FEED_AHEAD_MS		5000 /* an agent that is ahead waits so long for this controller */
#define FEED_BOOKMARK_MS	5000
#define FEED_REST_MAX_MS	100 /* after a long round */
#define FEED_LONG_MS		40  /* a round of so long is one */
#define FEED_COMING		16  /* so many came since the last round ended: many come up */
#define FEED_COMING_RESTS	4   /* times as long as the round, then */
#define FEED_COMING_REST_MAX_MS 1000
#define FEED_FRESH_ROWS		64  /* a delta so small is made again for a single change */
#define FEED_TIMES		256 /* newest revisions of a segment whose time is known */

struct aside;
struct edition;
struct session;

/* Who is told first of a change. */
enum feed_lane {
	FEED_SENDERS,
	FEED_OTHERS,
	FEED_LANES,
};

/* One agent's place in one segment. */
struct sub {
	struct session *session;
	struct log_segment *segment;
	uint64_t sent, acked;
	uint64_t begun; /* what is newer than this was in the log after the session began */
	uint64_t least; /* no snapshot that sweeps and began before this */
	/* Acks below it speak of a state that never was in the log. */
	uint64_t comparable_from;
	bool comparable;
	bool wants_snapshot, in_snapshot, has_slot;
	bool incomplete; /* its last snapshot did not sweep */
	bool bookmark;	 /* also without changes it is told the log's revision */
	bool ready, waiting, blocked;
	enum feed_lane lane;
	bool ahead; /* of what this controller knows: another one told it */
	uint64_t ahead_ms;
	bool owed;		 /* the present round has not served it yet */
	struct edition *edition; /* in a snapshot: what it reads */
	size_t chunk;		 /* the next of it */
	uint64_t snapshot_id, acked_snapshot;
	unsigned int mismatches;
	bool verified;	       /* the last ack that was compared was equal */
	TAILQ_ENTRY(sub) link; /* ready or waiting */
	LIST_ENTRY(sub) of_segment;
};

enum session_state {
	SESSION_OPENED, /* no Hello yet */
	SESSION_ASKING, /* the store decides */
	SESSION_ACTIVE,
	SESSION_ENDED,
};

struct pending_report {
	struct report *report;
	uint64_t sequence, at_us;
	bool full;
	TAILQ_ENTRY(pending_report) link;
};

struct query;
typedef void query_done(void *userdata, int status, const char *text,
			const Mcmesh__V1__Answer *part);

struct session {
	struct controller *c;
	struct rpc_call *call; /* NULL: closed */
	struct aside *aside;   /* NULL: it says all on its call */
	enum session_state state;
	unsigned int in_flight; /* store calls that name the session */
	char name[LOG_NAME_MAX];
	char version[REGISTRY_VERSION_MAX];
	struct addr vtep;
	uint8_t instance[STORE_INSTANCE_LEN];
	uint64_t start_count, attempt;
	uint8_t hello_epoch[EPOCH_LEN];
	bool has_epoch;
	bool knows;		    /* anything of a log, when the session began */
	bool acks_snapshots;	    /* by name: one that repairs brings no newer revision */
	struct registry_node *node; /* while it is the node's session */
	uint64_t id, last_sequence, sent_ms;
	struct sub *subs;
	size_t n_subs;
	struct report *gathering;
	TAILQ_HEAD(, pending_report) reports;
	size_t n_reports;
	bool committing, running;
	uint64_t throttled_ms; /* 0: no report waits for the quota */
	TAILQ_ENTRY(session) by_throttle;
	TAILQ_HEAD(, query) queries;
	size_t n_queries;
	TAILQ_ENTRY(session) by_sent; /* or opened */
	TAILQ_ENTRY(session) all;
};

struct sessions {
	struct controller *c;
	TAILQ_HEAD(, session) all, opened, by_sent, throttled;
	TAILQ_HEAD(, aside) asides; /* not attached yet */
	size_t n, n_asides;
};

/* ---- node_reports.c -------------------------------------------------------- */

#define STORE_FAILED "the controller's store cannot write now: connect again later"

void reports_free(struct session *s);
void reports_take(struct session *s, const Mcmesh__V1__Report *message);
/* No report of the session waits for its turn any more. */
void reports_stop(struct session *s);
/* Those whose time has come; when the next one's will. */
uint64_t reports_turn(struct sessions *sessions, uint64_t now_ms);

/* ---- node_service.c ------------------------------------------------------- */

int sessions_new(struct controller *c, struct sessions **ret_sessions);
void sessions_free(struct sessions *sessions);
extern const struct rpc_method node_service_methods[];
extern const size_t node_service_n_methods;
/* Heartbeats and timeouts; the next deadline. */
uint64_t sessions_turn(struct sessions *sessions, uint64_t now_ms);
void sessions_drain(struct sessions *sessions, const char *reason);
size_t sessions_count(const struct sessions *sessions);
/* Ends the session with a status; its subs and queries go at once. */
void session_end(struct session *s, int status, const char *text);
int session_send(struct session *s, const Mcmesh__V1__ControllerMessage *message);
void session_was_sent(struct session *s);
/* A store call that named the session is done. */
void session_release(struct session *s);
void session_store_failed(struct session *s);
/* A host name (RFC 1123) of at most 63 characters. */
bool node_name_is_valid(const char *name);
struct session *sessions_first(struct sessions *sessions);

/* An acknowledgement or a heartbeat, said aside. */
void session_aside(struct session *s, const Mcmesh__V1__AgentMessage *message);

/* ---- aside.c --------------------------------------------------------------- */

void aside_open(struct rpc_call *call);
void aside_message(struct rpc_call *call, const ProtobufCMessage *message);
void aside_close(struct rpc_call *call, int status, const char *text);
/* Something was sent to the session. NULL: nothing. */
void aside_read_on(struct aside *aside);
void aside_end(struct aside *aside);
/* Ends those that did not attach; when the next one's time is over. */
uint64_t asides_turn(struct sessions *sessions, uint64_t now_ms);

/* ---- query.c --------------------------------------------------------------- */

int queries_new(struct queries **ret_queries);
void queries_free(struct queries *queries);
/*
 * done comes for each part, the last with part->more unset, or once with an
 * error; with its last coming the query is gone. -EBUSY: too many are open.
 */
int session_query(struct session *s, Mcmesh__V1__Query *message, query_done *done, void *userdata,
		  struct query **ret_query);
/* done does not come any more. NULL: nothing. */
void query_cancel(struct query *query);
void query_answered(struct session *s, const Mcmesh__V1__Answer *answer);
void query_end_all(struct session *s, int status, const char *text);
/* Ends those that time out; the deadline of the next. */
uint64_t queries_turn(struct queries *queries, uint64_t now_ms);

/* ---- feed.c ---------------------------------------------------------------- */

int feed_new(struct controller *c, struct feed **ret_feed);
void feed_free(struct feed *feed);
/* A segment has a new revision. */
void feed_changed(struct feed *feed, struct log_segment *segment);
/* The log became complete: snapshots that could not sweep are repeated. */
void feed_completed(struct feed *feed);
void feed_join(struct feed *feed, struct session *s);
void feed_leave(struct feed *feed, struct session *s);
void feed_drained(struct feed *feed, struct session *s);
/* The node's workloads send into these segments, and into no others. */
void feed_sending(struct feed *feed, struct session *s, const Mcmesh__V1__Sending *sending);
void feed_ack(struct feed *feed, struct session *s, const Mcmesh__V1__SegmentAck *ack);
uint64_t feed_turn(struct feed *feed, uint64_t now_ms);
/* Was the session sent something that it has not acknowledged? */
bool session_owes(const struct session *s);
/* Has the session acknowledged everything up to the revision, as it is? */
bool session_has_applied(const struct session *s, uint64_t revision);
uint64_t session_applied(const struct session *s);

/* How far the session's acknowledgements are behind the log: the most of its
 * segments. The time reaches back as far as FEED_TIMES revisions. */
struct feed_lag {
	uint64_t revisions, us;
};
void feed_lag(const struct feed *feed, const struct session *s, uint64_t now_us,
	      struct feed_lag *ret_lag);
/* The same from inside a callback, unless the loop is at it already. */
void feed_hurry(struct feed *feed, uint64_t now_ms);
