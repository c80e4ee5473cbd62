/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * DOC: the agent's side of the Sync protocol
 *
 * A state machine without socket or clock: messages, connection events and the
 * time go in; messages and connection requests come out by the ops. link.c puts
 * it on gRPC; a simulation can put it on anything.
 *
 *   IDLE ──connect──► CONNECTING ──opened──► GREETING ──Welcome──► UP
 *     ▲                                                            │
 *     └───────── closed, refused, silent: next controller (rota.h) ┘
 *
 * Members up. The table of own members is the truth; a row is due from its
 * change until a report with it was accepted. One report is in flight at a
 * time: the first change after idle goes out at once, what comes while it is
 * in flight goes with the next. Rows are whole states, so what was in flight
 * when a session ended is simply due again, under a new sequence number.
 *
 * Every session begins with a full report (all rows; then what is not named is
 * withdrawn), because the log may be a new one, or have dropped our rows after
 * the hold time. It waits until the members are known to be whole; changes
 * until then go as deltas.
 *
 * What is sent into is told when it changes and when a session
 * begins; nothing is told of a node that sends nothing.
 *
 * The log down goes to the mirror. A revision is acknowledged after the caller
 * has written the maps (uplink_applied()), at most every 50 ms under load.
 */
#include <stdbool.h>
#include <stdint.h>

#include "common/addr.h"
#include "common/filter.h"
#include "mcmesh/v1/node.pb-c.h"
#include "node/mirror.h"
#include "node/sending.h"

struct uplink;

#define UPLINK_PROTOCOL_MIN 1
#define UPLINK_PROTOCOL_MAX 1
#ifndef UPLINK_REPORT_BYTES
#define UPLINK_REPORT_BYTES (256 * 1024) /* a report message is cut near this size */
#endif
#define UPLINK_REFUSED_RETRY_MS 10000
#define UPLINK_ACK_INTERVAL_MS	50

struct uplink_options {
	const char *node;
	struct addr vtep;
	uint8_t instance[16];
	uint64_t start_count;
	const char *const *controllers; /* NULL-terminated; kept by reference */
	uint64_t seed;			/* of the jitter */
	/* When the members are known to be whole: 0 when they were restored. */
	uint64_t whole_at_ms;
};

struct uplink_ops {
	/* Opens the stream to this controller; the answer is uplink_opened() and
	 * later uplink_closed(), or only uplink_closed(). */
	void (*connect)(const char *target, void *userdata);
	/* Ends the stream; no uplink_closed() follows. */
	void (*disconnect)(void *userdata);
	void (*send)(const Mcmesh__V1__AgentMessage *message, void *userdata);
	/* A question of the controller; answered by uplink_answer(). */
	void (*query)(const Mcmesh__V1__Query *query, void *userdata);
	/* A new log: what was saved of the old one's positions is void. */
	void (*epoch)(const uint8_t epoch[EPOCH_LEN], void *userdata);
	/* The session began (controller), or ended or could not be had (NULL, with
	 * the reason; once until one begins). */
	void (*session)(const char *controller, const char *reason, void *userdata);
	/* A quota refused this member; told once until it is in. */
	void (*refused)(uint32_t segment, const struct addr *group, const char *reason,
			void *userdata);
};

int uplink_new(const struct uplink_options *options, const struct uplink_ops *ops, void *userdata,
	       struct mirror *mirror, uint64_t now_ms, struct uplink **ret_uplink);
void uplink_free(struct uplink *uplink);

/* What the node wants of the group; INCLUDE {}: nothing more. */
int uplink_member_set(struct uplink *uplink, uint32_t segment, const struct addr *group,
		      const struct filter *filter);

/* What the node's workloads send into; the controller hears of it when it is not
 * what it was. */
void uplink_sending_set(struct uplink *uplink, const struct sending_list *list, uint64_t now_ms);

void uplink_opened(struct uplink *uplink, uint64_t now_ms);
void uplink_message(struct uplink *uplink, const Mcmesh__V1__ControllerMessage *message,
		    uint64_t now_ms);
/* status is gRPC's; text says why. */
void uplink_closed(struct uplink *uplink, int status, const char *text, uint64_t now_ms);

/* Sends the report that is due, if none is in flight. */
void uplink_flush(struct uplink *uplink, uint64_t now_ms);

/* Everything that the mirror took so far is in the kernel's maps. Returns
 * whether that is more than at the last call: the position is to be saved. */
bool uplink_applied(struct uplink *uplink, uint64_t now_ms);

/* Some may not have arrived: what they said is said again. */
void uplink_acks_lost(struct uplink *uplink);

void uplink_answer(struct uplink *uplink, Mcmesh__V1__Answer *answer, uint64_t now_ms);

void uplink_expire(struct uplink *uplink, uint64_t now_ms);
uint64_t uplink_next_ms(const struct uplink *uplink);

/* "" while there is no session. */
const char *uplink_controller(const struct uplink *uplink);
/* Why there is none, or "". */
const char *uplink_detail(const struct uplink *uplink);
/* Why the controller refused this member, or NULL; it is asked again now and then. */
const char *uplink_refusal(const struct uplink *uplink, uint32_t segment, const struct addr *group);

enum uplink_counter {
	UPLINK_C_SESSIONS,     /* sessions begun */
	UPLINK_C_REPORTS,      /* reports sent */
	UPLINK_C_REFUSED,      /* member rows that a quota refused */
	UPLINK_C_DELTAS,       /* deltas applied */
	UPLINK_C_SNAPSHOTS,    /* snapshots completed */
	UPLINK_C_GAPS,	       /* deltas that did not follow: session begun anew */
	UPLINK_C_RESYNCS,      /* resyncs that the controller asked for */
	UPLINK_C_BAD_MESSAGES, /* messages with a field that cannot be */
	UPLINK_C_COUNT
};

const char *uplink_counter_name(enum uplink_counter c);
uint64_t uplink_counter(const struct uplink *uplink, enum uplink_counter c);
