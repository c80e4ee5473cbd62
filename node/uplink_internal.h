/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the uplink's files share: uplink.c has the session and the reports,
 * uplink_acks.c what is acknowledged. */
#include <uthash.h>
#include <utlist.h>

#include "node/rota.h"
#include "node/uplink.h"

enum uplink_state {
	IDLE,	    /* waits until retry_ms */
	CONNECTING, /* the stream is being opened */
	GREETING,   /* Hello is sent */
	UP,
};

struct member_key {
	uint32_t segment;
	struct addr group;
};

struct member {
	struct member_key key;
	struct filter filter;
	bool due;	/* on the due list */
	bool in_flight; /* in the report that is not accepted yet */
	bool was_refused;
	bool widened;  /* in the log it has every source: it has too many */
	char *refusal; /* why a quota refused it; NULL: none did */
	struct member *prev, *next;
	struct member *flight_prev, *flight_next;
	UT_hash_handle hh;
};

struct uplink {
	struct uplink_options options;
	struct uplink_ops ops;
	void *userdata;
	struct mirror *mirror;

	enum uplink_state state;
	struct rota rota;
	uint64_t retry_ms; /* IDLE */
	uint64_t begun_ms; /* CONNECTING, GREETING: since when */
	uint64_t up_ms;	   /* UP: since when */
	bool outage_told;
	char detail[256];
	char controller_name[128];

	uint64_t heartbeat_ms;
	uint64_t heard_ms, sent_ms;
	uint64_t looked_ms; /* UP: the last uplink_expire() */
	uint64_t attempt;

	struct member *members;
	struct member *due;
	struct member *flight;
	uint64_t sequence;
	uint64_t refused_retry_ms; /* 0: no member is refused */
	uint64_t accepted;	   /* the log's revision that has the last accepted report */
	bool in_flight;
	bool full_due; /* a full report is to be made, from whole_at_ms on */

	bool ack_due;
	bool ack_ready; /* what is due is in the maps and waits for the interval */
	bool moved;	/* the mirror took something since the last uplink_applied() */
	uint64_t acked_ms;
	struct sending_list sending;
	uint64_t counters[UPLINK_C_COUNT];
};

void uplink_send_part(struct uplink *uplink, Mcmesh__V1__AgentMessage__MessageCase kind, void *part,
		      uint64_t now_ms);
/* If one is due, in the maps, and the last long enough ago. */
void uplink_ack_if_due(struct uplink *uplink, uint64_t now_ms);
