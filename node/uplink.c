/* SPDX-License-Identifier: Apache-2.0 */
#include "node/uplink.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "node/hello.h"
#include "node/uplink_internal.h"

const char *uplink_counter_name(enum uplink_counter c)
{
	static const char *const names[UPLINK_C_COUNT] = {
		[UPLINK_C_SESSIONS] = "sync_sessions",
		[UPLINK_C_REPORTS] = "sync_reports",
		[UPLINK_C_REFUSED] = "sync_refused",
		[UPLINK_C_DELTAS] = "sync_deltas",
		[UPLINK_C_SNAPSHOTS] = "sync_snapshots",
		[UPLINK_C_GAPS] = "sync_gaps",
		[UPLINK_C_RESYNCS] = "sync_resyncs",
		[UPLINK_C_BAD_MESSAGES] = "sync_bad_messages",
	};

	return names[c];
}

uint64_t uplink_counter(const struct uplink *u, enum uplink_counter c)
{
	return u->counters[c];
}

int uplink_new(const struct uplink_options *options, const struct uplink_ops *ops, void *userdata,
	       struct mirror *mirror, uint64_t now_ms, struct uplink **ret_uplink)
{
	struct uplink *u = calloc(1, sizeof(*u));

	if (!u)
		return -ENOMEM;
	u->options = *options;
	u->ops = *ops;
	u->userdata = userdata;
	u->mirror = mirror;
	rota_init(&u->rota, options->node, options->controllers, options->seed);
	u->full_due = true;
	u->retry_ms = now_ms;
	if (!rota_target(&u->rota))
		snprintf(u->detail, sizeof(u->detail), "no controller is configured");
	*ret_uplink = u;
	return 0;
}

void uplink_free(struct uplink *u)
{
	struct member *m, *next;

	if (!u)
		return;
	HASH_ITER (hh, u->members, m, next) {
		HASH_DEL(u->members, m);
		filter_deinit(&m->filter);
		free(m->refusal);
		free(m);
	}
	free(u);
}

void uplink_send_part(struct uplink *u, Mcmesh__V1__AgentMessage__MessageCase kind, void *part,
		      uint64_t now_ms)
{
	Mcmesh__V1__AgentMessage message = MCMESH__V1__AGENT_MESSAGE__INIT;

	message.message_case = kind;
	message.hello = part; /* of the union; the case says which */
	u->sent_ms = now_ms;
	u->ops.send(&message, u->userdata);
}

/* ---- members ---------------------------------------------------------------- */

static void member_mark(struct uplink *u, struct member *m)
{
	if (m->due)
		return;
	m->due = true;
	DL_APPEND(u->due, m);
}

static void member_unmark(struct uplink *u, struct member *m)
{
	if (!m->due)
		return;
	m->due = false;
	DL_DELETE(u->due, m);
}

static void member_take_off(struct uplink *u, struct member *m)
{
	if (m->in_flight)
		return;
	m->in_flight = true;
	DL_APPEND2(u->flight, m, flight_prev, flight_next);
}

static void member_land(struct uplink *u, struct member *m)
{
	if (!m->in_flight)
		return;
	m->in_flight = false;
	DL_DELETE2(u->flight, m, flight_prev, flight_next);
}

static void member_free(struct uplink *u, struct member *m)
{
	member_unmark(u, m);
	member_land(u, m);
	HASH_DEL(u->members, m);
	filter_deinit(&m->filter);
	free(m->refusal);
	free(m);
}

static struct member *member_find(const struct uplink *u, uint32_t segment,
				  const struct addr *group)
{
	struct member_key key;
	struct member *m;

	memset(&key, 0, sizeof(key));
	key.segment = segment;
	key.group = *group;
	HASH_FIND(hh, u->members, &key, sizeof(key), m);
	return m;
}

int uplink_member_set(struct uplink *u, uint32_t segment, const struct addr *group,
		      const struct filter *filter)
{
	struct member *m = member_find(u, segment, group);
	struct filter copy;
	int r;

	if (m && filter_equal(&m->filter, filter))
		return 0;
	r = filter_copy(&copy, filter);
	if (r < 0)
		return r;
	if (!m) {
		m = calloc(1, sizeof(*m));
		if (!m) {
			filter_deinit(&copy);
			return -ENOMEM;
		}
		m->key.segment = segment;
		m->key.group = *group;
		HASH_ADD(hh, u->members, key, sizeof(m->key), m);
	}
	filter_deinit(&m->filter);
	m->filter = copy;
	member_mark(u, m);
	return 0;
}

/* What was in flight is not known to have arrived: it is due again. */
static void members_requeue(struct uplink *u)
{
	while (u->flight) {
		struct member *m = u->flight;

		member_land(u, m);
		member_mark(u, m);
	}
	u->in_flight = false;
}

static void members_accepted(struct uplink *u)
{
	while (u->flight) {
		struct member *m = u->flight;

		member_land(u, m);
		if (!m->due && filter_is_none(&m->filter))
			member_free(u, m);
	}
	u->in_flight = false;
}

/* ---- reports ---------------------------------------------------------------- */

struct report {
	Mcmesh__V1__Report message;
	Mcmesh__V1__MemberChange **rows;
	size_t cap;
	size_t bytes;
};

static void report_deinit(struct report *r)
{
	for (size_t i = 0; i < r->message.n_members; i++)
		hello_row_free(r->rows[i]);
	free(r->rows);
}

static int report_add(struct uplink *u, struct report *r, struct member *m)
{
	Mcmesh__V1__MemberChange *row;

	if (r->message.n_members == r->cap) {
		size_t cap = r->cap ? r->cap * 2 : 16;
		Mcmesh__V1__MemberChange **grown = reallocarray(r->rows, cap, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		r->rows = grown;
		r->cap = cap;
	}
	row = hello_row_new(m->key.segment, &m->key.group, &m->filter);
	if (!row)
		return -ENOMEM;
	r->rows[r->message.n_members++] = row;
	r->bytes += 32 + row->n_sources * 20;
	member_take_off(u, m);
	return 0;
}

static void report_send(struct uplink *u, struct report *report, uint64_t now_ms)
{
	report->message.members = report->rows;
	report->message.sequence = ++u->sequence;
	u->in_flight = true;
	u->counters[UPLINK_C_REPORTS]++;
	uplink_send_part(u, MCMESH__V1__AGENT_MESSAGE__MESSAGE_REPORT, &report->message, now_ms);
}

/* All parts at once: they are answered by one Accepted, to the last. */
static void report_full(struct uplink *u, uint64_t now_ms)
{
	struct member *m = u->members;

	do {
		struct report report = { .message = MCMESH__V1__REPORT__INIT };

		for (; m && report.bytes < UPLINK_REPORT_BYTES; m = m->hh.next) {
			bool none = filter_is_none(&m->filter);

			if (!none && report_add(u, &report, m) < 0)
				continue; /* stays due */
			/* Named, or absent: END says both. */
			member_unmark(u, m);
			if (none)
				member_take_off(u, m);
		}
		report.message.kind =
			m ? MCMESH__V1__REPORT__KIND__FULL : MCMESH__V1__REPORT__KIND__FULL_END;
		report_send(u, &report, now_ms);
		report_deinit(&report);
	} while (m);
}

static void report_delta(struct uplink *u, uint64_t now_ms)
{
	struct report report = { .message = MCMESH__V1__REPORT__INIT };

	while (u->due && report.bytes < UPLINK_REPORT_BYTES) {
		struct member *m = u->due;

		if (report_add(u, &report, m) < 0)
			break;
		member_unmark(u, m);
	}
	if (report.message.n_members) {
		report.message.kind = MCMESH__V1__REPORT__KIND__DELTA;
		report_send(u, &report, now_ms);
	}
	report_deinit(&report);
}

/* There may be room by now. */
static void refusals_retry(struct uplink *u, uint64_t now_ms)
{
	struct member *m, *next;

	if (!u->refused_retry_ms || now_ms < u->refused_retry_ms)
		return;
	u->refused_retry_ms = 0;
	HASH_ITER (hh, u->members, m, next) {
		if (m->refusal)
			member_mark(u, m);
	}
}

void uplink_flush(struct uplink *u, uint64_t now_ms)
{
	if (u->state != UP || u->in_flight)
		return;
	refusals_retry(u, now_ms);
	if (u->full_due && now_ms >= u->options.whole_at_ms) {
		u->full_due = false;
		report_full(u, now_ms);
	} else if (u->due) {
		report_delta(u, now_ms);
	}
}

/* ---- what is sent into ------------------------------------------------------ */

static void sending_send(struct uplink *u, uint64_t now_ms)
{
	Mcmesh__V1__Sending sending = MCMESH__V1__SENDING__INIT;

	sending.segments = u->sending.segments;
	sending.n_segments = u->sending.n;
	uplink_send_part(u, MCMESH__V1__AGENT_MESSAGE__MESSAGE_SENDING, &sending, now_ms);
}

void uplink_sending_set(struct uplink *u, const struct sending_list *list, uint64_t now_ms)
{
	if (sending_list_equal(&u->sending, list))
		return;
	u->sending = *list;
	if (u->state == UP)
		sending_send(u, now_ms);
}

/* ---- session ---------------------------------------------------------------- */

static void hello_send(struct uplink *u, uint64_t now_ms)
{
	struct hello hello;
	size_t len;

	if (hello_init(&hello, u->mirror) < 0)
		return; /* the attempt ends by its timeout */
	hello.message.protocol_min = UPLINK_PROTOCOL_MIN;
	hello.message.protocol_max = UPLINK_PROTOCOL_MAX;
	hello.message.node = (char *)u->options.node;
	hello.message.vtep.data = (uint8_t *)addr_to_wire(&u->options.vtep, &len);
	hello.message.vtep.len = len;
	hello.message.instance.data = u->options.instance;
	hello.message.instance.len = sizeof(u->options.instance);
	hello.message.start_count = u->options.start_count;
	hello.message.attempt = ++u->attempt;
	hello.message.version = (char *)MCMESH_VERSION;
	uplink_send_part(u, MCMESH__V1__AGENT_MESSAGE__MESSAGE_HELLO, &hello.message, now_ms);
	hello_deinit(&hello);
}

void uplink_opened(struct uplink *u, uint64_t now_ms)
{
	if (u->state != CONNECTING)
		return;
	u->state = GREETING;
	hello_send(u, now_ms);
}

static void go_idle(struct uplink *u, uint64_t now_ms, uint64_t wait_ms, const char *why)
{
	bool was_up = u->state == UP;

	u->state = IDLE;
	u->retry_ms = now_ms + wait_ms;
	snprintf(u->detail, sizeof(u->detail), "%s", why);
	members_requeue(u);
	u->controller_name[0] = '\0';
	if (was_up || !u->outage_told) {
		u->outage_told = true;
		u->ops.session(NULL, u->detail, u->userdata);
	}
}

/* The stream is over: on to the next controller. */
static void leave(struct uplink *u, uint64_t now_ms, enum rota_failure failure, const char *why)
{
	char named[sizeof(u->detail)];

	snprintf(named, sizeof(named), "%s: %s", rota_target(&u->rota), why);
	if (u->state == UP && now_ms >= u->up_ms + ROTA_PROVEN_MS)
		rota_proven(&u->rota);
	go_idle(u, now_ms, rota_failed(&u->rota, failure), named);
}

/* We end it: the stream is told, the next attempt follows. */
static void drop_session(struct uplink *u, uint64_t now_ms, const char *why)
{
	u->ops.disconnect(u->userdata);
	leave(u, now_ms, ROTA_UNREACHABLE, why);
}

void uplink_closed(struct uplink *u, int status, const char *text, uint64_t now_ms)
{
	char why[256];

	if (u->state == IDLE)
		return;
	snprintf(why, sizeof(why), "%s: %s", rota_target(&u->rota),
		 text && text[0] ? text : "the stream ended");
	leave(u, now_ms, rota_failure_of(status), why);
}

static void on_welcome(struct uplink *u, const Mcmesh__V1__Welcome *w, uint64_t now_ms)
{
	if (u->state == GREETING &&
	    (w->protocol < UPLINK_PROTOCOL_MIN || w->protocol > UPLINK_PROTOCOL_MAX)) {
		drop_session(u, now_ms, "the controller speaks another version of the protocol");
		return;
	}
	if (u->state != GREETING || w->epoch.len != EPOCH_LEN) {
		u->counters[UPLINK_C_BAD_MESSAGES]++;
		drop_session(u, now_ms, "the controller's Welcome is not one: is it mcmesh?");
		return;
	}
	u->state = UP;
	u->accepted = 0;
	u->up_ms = u->looked_ms = now_ms;
	u->outage_told = false;
	u->detail[0] = '\0';
	u->heartbeat_ms = w->heartbeat_ms ? w->heartbeat_ms : 1000;
	snprintf(u->controller_name, sizeof(u->controller_name), "%s", rota_target(&u->rota));
	u->counters[UPLINK_C_SESSIONS]++;
	mirror_session_begin(u->mirror);
	if (memcmp(mirror_epoch(u->mirror), w->epoch.data, EPOCH_LEN) != 0) {
		mirror_epoch_set(u->mirror, w->epoch.data);
		u->ops.epoch(w->epoch.data, u->userdata);
	}
	/* This log may never have known our rows, or have dropped them after the
	 * hold time: a session begins with all of them. */
	u->full_due = true;
	u->ack_due = true;
	u->ack_ready = false;
	u->ops.session(u->controller_name, "", u->userdata);
	if (u->sending.n)
		sending_send(u, now_ms);
	uplink_flush(u, now_ms);
}

/* What was reported now and is not refused again is in. */
static void refusals_forget(struct uplink *u)
{
	struct member *m;

	DL_FOREACH2(u->flight, m, flight_next)
	{
		m->was_refused = m->refusal != NULL;
		m->widened = false;
		free(m->refusal);
		m->refusal = NULL;
	}
}

static void on_refusal(struct uplink *u, const Mcmesh__V1__Refusal *refusal, uint64_t now_ms)
{
	struct member *m;
	struct addr group;

	u->counters[UPLINK_C_REFUSED]++;
	if (addr_from_wire(refusal->group.data, refusal->group.len, &group) < 0)
		return;
	m = member_find(u, refusal->segment, &group);
	if (!m)
		return;
	free(m->refusal);
	m->refusal = strdup(refusal->reason);
	u->refused_retry_ms = now_ms + UPLINK_REFUSED_RETRY_MS;
	/* Said once, not at each retry. */
	if (!m->was_refused)
		u->ops.refused(refusal->segment, &group, refusal->reason, u->userdata);
}

static void on_widening(struct uplink *u, const Mcmesh__V1__Widening *widening)
{
	struct member *m;
	struct addr group;

	if (addr_from_wire(widening->group.data, widening->group.len, &group) < 0)
		return;
	m = member_find(u, widening->segment, &group);
	if (m)
		m->widened = true;
}

const char *uplink_refusal(const struct uplink *u, uint32_t segment, const struct addr *group)
{
	struct member *m = member_find(u, segment, group);

	return m ? m->refusal : NULL;
}

static void on_accepted(struct uplink *u, const Mcmesh__V1__Accepted *a, uint64_t now_ms)
{
	if (!u->in_flight || a->sequence != u->sequence)
		return;
	refusals_forget(u);
	for (size_t i = 0; i < a->n_refused; i++)
		on_refusal(u, a->refused[i], now_ms);
	for (size_t i = 0; i < a->n_widened; i++)
		on_widening(u, a->widened[i]);
	u->accepted = a->revision;
	members_accepted(u);
	uplink_flush(u, now_ms);
}

static void on_applied(struct uplink *u, int r, enum uplink_counter counter, uint32_t segment,
		       uint64_t now_ms)
{
	if (r == 0) {
		u->counters[counter]++;
		u->ack_due = true;
		u->ack_ready = false;
		u->moved = true;
		return;
	}
	if (r == MIRROR_E_GAP) {
		u->counters[UPLINK_C_GAPS]++;
		drop_session(u, now_ms, "a change of the log is missing: asking again");
		return;
	}
	u->counters[UPLINK_C_BAD_MESSAGES]++;
	mirror_resync(u->mirror, segment);
	drop_session(u, now_ms,
		     r == -EINVAL ? "the controller sent a change that cannot be"
				  : "a change of the log could not be taken: out of memory");
}

void uplink_message(struct uplink *u, const Mcmesh__V1__ControllerMessage *m, uint64_t now_ms)
{
	u->heard_ms = now_ms;
	if (m->message_case == MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_WELCOME) {
		on_welcome(u, m->welcome, now_ms);
		return;
	}
	if (u->state != UP)
		return;
	switch (m->message_case) {
	case MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_ACCEPTED:
		on_accepted(u, m->accepted, now_ms);
		break;
	case MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_SNAPSHOT:
		on_applied(u, mirror_snapshot(u->mirror, m->snapshot), UPLINK_C_SNAPSHOTS,
			   m->snapshot->segment, now_ms);
		break;
	case MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_DELTA:
		on_applied(u, mirror_delta(u->mirror, m->delta), UPLINK_C_DELTAS, m->delta->segment,
			   now_ms);
		break;
	case MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_RESYNC:
		u->counters[UPLINK_C_RESYNCS]++;
		mirror_resync(u->mirror, m->resync->segment);
		break;
	case MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_QUERY:
		u->ops.query(m->query, u->userdata);
		break;
	case MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_DRAIN:
		drop_session(u, now_ms, "the controller is about to stop");
		break;
	default:
		break; /* heartbeats, and kinds of a later version */
	}
}

void uplink_answer(struct uplink *u, Mcmesh__V1__Answer *answer, uint64_t now_ms)
{
	if (u->state != UP)
		return;
	uplink_send_part(u, MCMESH__V1__AGENT_MESSAGE__MESSAGE_ANSWER, answer, now_ms);
}

/* ---- time ------------------------------------------------------------------- */

static void connect_now(struct uplink *u, uint64_t now_ms)
{
	u->state = CONNECTING;
	u->begun_ms = now_ms;
	u->ops.connect(rota_target(&u->rota), u->userdata);
}

static void expire_up(struct uplink *u, uint64_t now_ms)
{
	Mcmesh__V1__Heartbeat heartbeat = MCMESH__V1__HEARTBEAT__INIT;
	uint64_t looked_ms = u->looked_ms;

	/* Who did not look for so long did not listen either: what came meanwhile is
	 * still to be read. */
	u->looked_ms = now_ms;
	if (now_ms > looked_ms + 2 * u->heartbeat_ms && now_ms > u->heard_ms + 2 * u->heartbeat_ms)
		u->heard_ms = now_ms - 2 * u->heartbeat_ms;
	if (now_ms >= u->heard_ms + 3 * u->heartbeat_ms) {
		drop_session(u, now_ms, "the controller has gone silent");
		return;
	}
	uplink_flush(u, now_ms);
	uplink_ack_if_due(u, now_ms);
	if (now_ms >= u->sent_ms + u->heartbeat_ms) {
		uplink_send_part(u, MCMESH__V1__AGENT_MESSAGE__MESSAGE_HEARTBEAT, &heartbeat,
				 now_ms);
	}
}

void uplink_expire(struct uplink *u, uint64_t now_ms)
{
	switch (u->state) {
	case IDLE:
		if (rota_target(&u->rota) && now_ms >= u->retry_ms)
			connect_now(u, now_ms);
		break;
	case CONNECTING:
	case GREETING:
		if (now_ms >= u->begun_ms + rota_timeout_ms(&u->rota))
			drop_session(u, now_ms, "the controller does not answer");
		break;
	case UP:
		expire_up(u, now_ms);
		break;
	}
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

uint64_t uplink_next_ms(const struct uplink *u)
{
	uint64_t next;

	switch (u->state) {
	case IDLE:
		return rota_target(&u->rota) ? u->retry_ms : UINT64_MAX;
	case CONNECTING:
	case GREETING:
		return u->begun_ms + rota_timeout_ms(&u->rota);
	case UP:
		break;
	}
	next = min_u64(u->heard_ms + 3 * u->heartbeat_ms, u->sent_ms + u->heartbeat_ms);
	if (u->ack_ready)
		next = min_u64(next, u->acked_ms + UPLINK_ACK_INTERVAL_MS);
	if (u->refused_retry_ms && !u->in_flight)
		next = min_u64(next, u->refused_retry_ms);
	if (u->full_due && !u->in_flight)
		next = min_u64(next, u->options.whole_at_ms);
	return next;
}

const char *uplink_controller(const struct uplink *u)
{
	return u->controller_name;
}

const char *uplink_detail(const struct uplink *u)
{
	return u->detail;
}
