/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reports of the agents, one after the other for each session: the difference to
 * the log is taken when a report's turn comes, and the log has the reports before
 * it by then. The parts of a full report are gathered; only its last part
 * (FULL_END) is committed and answered. A node that has used up its changes a
 * second waits for its turn.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "controller/access.h"
#include "controller/mesh_service.h"
#include "controller/node_service.h"
#include "controller/wire.h"

static void pending_free(struct pending_report *p)
{
	report_free(p->report);
	free(p);
}

void reports_free(struct session *s)
{
	struct pending_report *p;

	while ((p = TAILQ_FIRST(&s->reports))) {
		TAILQ_REMOVE(&s->reports, p, link);
		pending_free(p);
	}
	report_free(s->gathering);
}

static void accepted_widened(const struct report *report, struct arena *arena,
			     Mcmesh__V1__Accepted *a)
{
	const void *cursor = NULL;
	const struct addr *group;
	size_t n = 0;
	uint32_t segment;

	while (report_widened(report, &cursor, &segment, &group))
		n++;
	a->widened = n ? arena_alloc(arena, n * sizeof(*a->widened)) : NULL;
	for (cursor = NULL; a->n_widened < n; a->n_widened++) {
		Mcmesh__V1__Widening *w = arena_alloc(arena, sizeof(*w));

		report_widened(report, &cursor, &segment, &group);
		mcmesh__v1__widening__init(w);
		w->segment = segment;
		w->group.data = (uint8_t *)addr_to_wire(group, &w->group.len);
		a->widened[a->n_widened] = w;
	}
}

static void accepted(struct session *s, struct report *report, uint64_t sequence, uint64_t revision)
{
	Mcmesh__V1__ControllerMessage m = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
	Mcmesh__V1__Accepted a = MCMESH__V1__ACCEPTED__INIT;
	struct arena arena = ARENA_NULL;
	const struct report_refusal *refusals = NULL;

	a.sequence = sequence;
	/* The log has the report by now; what the store counted besides, no segment comes to. */
	a.revision = revision < log_revision(s->c->log) ? revision : log_revision(s->c->log);
	a.n_refused = report ? report_refusals(report, &refusals) : 0;
	a.refused = arena_alloc(&arena, (a.n_refused + 1) * sizeof(*a.refused));
	for (size_t i = 0; i < a.n_refused; i++) {
		Mcmesh__V1__Refusal *r = arena_alloc(&arena, sizeof(*r));

		mcmesh__v1__refusal__init(r);
		r->segment = refusals[i].segment;
		r->group.data = (uint8_t *)addr_to_wire(&refusals[i].group, &r->group.len);
		r->reason = (char *)refusals[i].reason;
		a.refused[i] = r;
	}
	if (report)
		accepted_widened(report, &arena, &a);
	s->c->counters.rows_refused += a.n_refused;
	if (a.n_refused)
		log_warning(
			"a node's members were refused node=%s n=%zu first_segment=%u why=\"%s\"",
			s->name, a.n_refused, refusals[0].segment, refusals[0].reason);
	m.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_ACCEPTED;
	m.accepted = &a;
	session_send(s, &m);
	arena_reset(&arena);
}

static void reports_run(struct session *s);

static void report_committed(void *userdata, int result, uint64_t revision)
{
	struct session *s = userdata;
	struct pending_report *p = TAILQ_FIRST(&s->reports);

	TAILQ_REMOVE(&s->reports, p, link);
	s->n_reports--;
	s->committing = false;
	if (result == 0) {
		s->last_sequence = p->sequence;
		metrics_observe_us(&s->c->times.report_to_commit, controller_now_us() - p->at_us);
		/* The others wait for the change, the reporter only for a receipt. */
		feed_hurry(s->c->feed, controller_now_ms());
		if (s->state == SESSION_ACTIVE)
			accepted(s, p->report, p->sequence, revision);
		if (p->full && registry_reported(s->c->registry, s->name))
			feed_completed(s->c->feed);
	} else if (result == -ESTALE) {
		session_end(s, RPC_ABORTED, "a newer session of this node took over");
	} else {
		session_store_failed(s);
	}
	pending_free(p);
	reports_run(s);
	session_release(s);
}

/* Has the node used up its changes? Then the report waits, and the agent gathers
 * what comes meanwhile for its next one: the last state wins. */
static bool changes_wait(struct session *s)
{
	struct bucket *b = &s->node->changes;
	uint32_t rate = s->c->limits.changes_per_second;
	uint64_t now_ms = controller_now_ms(), ready_ms;

	bucket_fill(b, rate, 1000, now_ms);
	ready_ms = bucket_ready_ms(b, rate, now_ms);
	if (ready_ms <= now_ms)
		return false;
	if (!s->throttled_ms) {
		s->c->counters.reports_throttled++;
		TAILQ_INSERT_TAIL(&s->c->sessions->throttled, s, by_throttle);
	}
	s->throttled_ms = ready_ms;
	return true;
}

/* The first in the queue; the next when it is done. */
static void reports_run(struct session *s)
{
	struct pending_report *p;
	struct store_txn txn;

	if (s->running)
		return; /* from a store that answers at once */
	s->running = true;
	while (!s->committing && s->state == SESSION_ACTIVE && (p = TAILQ_FIRST(&s->reports)) &&
	       !changes_wait(s)) {
		txn = (struct store_txn){ .node = s->name,
					  .session = s->id,
					  .sequence = p->sequence,
					  .reported = p->full };
		if (report_diff(p->report, s->c->log, s->name, p->full, &txn.changes,
				&txn.n_changes) < 0) {
			session_end(s, RPC_RESOURCE_EXHAUSTED, "the controller is out of memory");
			break;
		}
		/* What a new session says once more costs nothing: it is no change. */
		bucket_spend(&s->node->changes, s->c->limits.changes_per_second, 1000,
			     txn.n_changes);
		s->committing = true;
		s->in_flight++;
		store_commit(s->c->store, &txn, report_committed, s);
	}
	s->running = false;
}

static bool session_has_segment(const struct session *s, uint32_t segment)
{
	size_t low = 0, high = s->n_subs;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (s->subs[middle].segment->id == segment)
			return true;
		if (s->subs[middle].segment->id < segment)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

static int row_take(struct session *s, struct report *report, const Mcmesh__V1__MemberChange *m)
{
	struct filter filter = FILTER_NULL;
	struct addr group = ADDR_NULL;
	bool widened = false;
	int r;

	/* The null group stands for every group. */
	if (addr_from_wire(m->group.data, m->group.len, &group) < 0 ||
	    !(addr_is_multicast(&group) || addr_is_null(&group)))
		return report_refuse(report, m->segment, &group, "not a multicast group");
	if (!access_segment(s->c, s->name, m->segment))
		return report_refuse(
			report, m->segment, &group,
			"the segment is not one of this node's (nodes: segments: of the "
			"controller's configuration)");
	/* Segments are counted where they are subscribed to. */
	if (m->segment == 0 || !session_has_segment(s, m->segment))
		return report_refuse(report, m->segment, &group,
				     "the segment is not one that the node's Hello named");
	if (m->deleted)
		return report_delete(report, m->segment, &group);
	r = wire_filter(m->mode, m->sources, m->n_sources, &filter);
	if (r == -EINVAL)
		return report_refuse(report, m->segment, &group,
				     "a source is not a unicast address, or the mode is unknown");
	if (r == 0)
		r = report_put(report, m->segment, &group, &filter, &widened);
	filter_deinit(&filter);
	s->c->counters.rows_widened += widened;
	return r;
}

static int report_gather(struct session *s, const Mcmesh__V1__Report *m)
{
	const struct report_limits limits = {
		.groups_per_node = s->c->limits.groups_per_node,
		.sources_per_member = s->c->limits.sources_per_member,
		.members_per_segment = s->c->limits.members_per_segment,
	};
	int r = 0;

	if (m->n_members > NODE_REPORT_ROWS_MAX)
		return -E2BIG;
	if (!s->gathering)
		r = report_new(&limits, &s->gathering);
	for (size_t i = 0; r == 0 && i < m->n_members; i++)
		r = row_take(s, s->gathering, m->members[i]);
	return r;
}

void reports_take(struct session *s, const Mcmesh__V1__Report *m)
{
	bool full = m->kind == MCMESH__V1__REPORT__KIND__FULL_END;
	struct pending_report *p;
	int r;

	s->c->counters.reports++;
	if (m->sequence == 0) {
		session_end(s, RPC_INVALID_ARGUMENT, "a report's sequence starts at 1");
		return;
	}
	/* A delta between the parts of a full report belongs to what is gathered. */
	r = report_gather(s, m);
	if (r < 0) {
		session_end(s, RPC_RESOURCE_EXHAUSTED,
			    r == -ENOSPC || r == -E2BIG ? "a report has too many rows: split it"
							: "the controller is out of memory");
		return;
	}
	if (m->kind == MCMESH__V1__REPORT__KIND__FULL)
		return;
	if (m->sequence <= s->last_sequence) {
		s->c->counters.reports_repeated++;
		accepted(s, NULL, m->sequence, log_revision(s->c->log));
		report_free(TAKE_PTR(s->gathering));
		/* The rows are in the log already, so the node has reported. */
		if (full && registry_reported(s->c->registry, s->name))
			feed_completed(s->c->feed);
		return;
	}
	p = s->n_reports < NODE_REPORTS_QUEUED ? calloc(1, sizeof(*p)) : NULL;
	if (!p) {
		session_end(s, RPC_RESOURCE_EXHAUSTED, "too many reports wait for the store");
		return;
	}
	p->report = TAKE_PTR(s->gathering);
	p->sequence = m->sequence;
	p->at_us = controller_now_us();
	p->full = full;
	TAILQ_INSERT_TAIL(&s->reports, p, link);
	s->n_reports++;
	reports_run(s);
}

void reports_stop(struct session *s)
{
	if (!s->throttled_ms)
		return;
	s->throttled_ms = 0;
	TAILQ_REMOVE(&s->c->sessions->throttled, s, by_throttle);
}

uint64_t reports_turn(struct sessions *ss, uint64_t now_ms)
{
	uint64_t next = CONTROLLER_NEVER;
	struct session *s, *after;

	for (s = TAILQ_FIRST(&ss->throttled); s; s = after) {
		after = TAILQ_NEXT(s, by_throttle);
		if (now_ms >= s->throttled_ms) {
			reports_stop(s);
			reports_run(s);
		}
		if (s->throttled_ms && s->throttled_ms < next)
			next = s->throttled_ms;
	}
	return next;
}
