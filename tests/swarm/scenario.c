/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is asked of a swarm, a command a line; each is answered by one line of
 * JSON. Times are of CLOCK_MONOTONIC, so that a script that kills controllers
 * can subtract its own.
 *
 *   sync SESSIONS SECONDS       until all agents have begun so many sessions in
 *                               all, and are in step with each other and with
 *                               the controller
 *   change COUNT INTERVAL_MS    single changes, each to the last agent told and
 *                               to the last acknowledgement
 *   churn RATE SECONDS          so many member changes a second
 *   idle MS                     nothing
 *   stats                       counters
 *   quit
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "mcmesh/v1/mesh.pb-c.h"
#include "tests/swarm/swarm.h"

#define CONVERGED_PATH	  "/mcmesh.v1.MeshService/WaitConverged"
#define CONVERGED_WAIT_MS 30000
#define CHANGE_WAIT_US	  20000000
#define CHANGE_GROUP	  0x700000 /* no agent's own */
#define CHANGES_MAX	  10000
#define LOOK_MS		  5   /* between two looks at all agents */
#define MARK_MS		  100 /* between two measured revisions of a churn */
#define MARKS_MAX	  65536
#define COMMAND_MAX	  256
#define DRAIN_SECONDS	  30

/* ---- WaitConverged ------------------------------------------------------------------ */

struct converged {
	struct swarm *s;
	struct rpc_channel *channel; /* kept between questions */
	bool waiting, ok;
	uint64_t answered_us;
};

static void converged_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	struct converged *q = rpc_call_userdata(call);

	q->answered_us = swarm_now_us();
}

static void converged_close(struct rpc_call *call, int status, const char *text)
{
	struct converged *q = rpc_call_userdata(call);

	q->waiting = false;
	q->ok = status == RPC_OK;
}

static int converged_ask(struct converged *q, uint64_t revision)
{
	static const struct rpc_call_ops ops = { .on_message = converged_message,
						 .on_close = converged_close };
	Mcmesh__V1__WaitConvergedRequest request = MCMESH__V1__WAIT_CONVERGED_REQUEST__INIT;
	struct rpc_channel_options options = { .target = q->s->options.controllers[0],
					       .tls = q->s->tls };
	struct rpc_call *call;
	int r = q->channel ? 0 : rpc_channel_new(q->s->rpc, &options, &q->channel);

	if (r == 0)
		r = rpc_channel_call(q->channel, CONVERGED_PATH,
				     &mcmesh__v1__wait_converged_response__descriptor, &ops,
				     CONVERGED_WAIT_MS, q, &call);
	if (r < 0)
		return r;
	q->waiting = true;
	request.revision = revision;
	rpc_call_send(call, &request.base);
	rpc_call_finish(call, RPC_OK, NULL);
	return 0;
}

/* Its channel must not outlive the runtime, nor a call the question. */
static void converged_end(struct converged *q)
{
	while (q->waiting)
		swarm_turn(q->s, swarm_now_ms() + LOOK_MS);
	rpc_channel_free(q->channel);
}

/* ---- answers ------------------------------------------------------------------------ */

static int u32_order(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void print_percentiles(const char *name, uint32_t *us, size_t n)
{
	static const unsigned int p[] = { 50, 90, 99, 100 };

	qsort(us, n, sizeof(*us), u32_order);
	printf("\"%s\": {\"n\": %zu", name, n);
	for (size_t i = 0; n && i < ARRAY_SIZE(p); i++) {
		size_t at = n * p[i] / 100;

		printf(", \"p%u\": %.3f", p[i], (double)us[at < n ? at : n - 1] / 1000);
	}
	printf("}");
}

static void print_stats(struct swarm *s)
{
	const struct flock_counters *f = flock_counters(s->flock);
	struct swarm_sum sum;

	swarm_sum(s, &sum);
	for (int c = 0; c < UPLINK_C_COUNT; c++)
		printf("\"%s\": %" PRIu64 ", ", uplink_counter_name(c), sum.counters[c]);
	printf("\"agents\": %u, \"up\": %u, \"lost\": %u, \"rows_reported\": %" PRIu64
	       ", \"rows_told\": %" PRIu64 ", \"withdrawals\": %" PRIu64
	       ", \"inconsistent\": %" PRIu64 ", \"revision\": %" PRIu64 ", \"behind\": %" PRIu64
	       ", \"at\": %.6f",
	       s->options.agents, s->n_up, s->n_lost, s->rows_reported, f->rows_told,
	       f->withdrawals, f->inconsistent, sum.greatest_revision,
	       sum.greatest_revision - sum.least_revision, (double)swarm_now_us() / 1e6);
}

static void answer_begin(const char *what, bool ok)
{
	printf("{\"answer\": \"%s\", \"ok\": %s, ", what, ok ? "true" : "false");
}

static void answer_end(struct swarm *s)
{
	print_stats(s);
	printf("}\n");
	fflush(stdout);
}

/* ---- sync --------------------------------------------------------------------------- */

static bool all_synced(const struct swarm *s, uint64_t sessions)
{
	uint64_t begun = 0;

	if (s->n_up < s->options.agents)
		return false;
	for (uint32_t i = 0; i < s->options.agents; i++) {
		if (!swarm_agent_is_synced(&s->agents[i]))
			return false;
		begun += uplink_counter(s->agents[i].uplink, UPLINK_C_SESSIONS);
	}
	return begun >= sessions;
}

static bool wait_synced(struct swarm *s, uint64_t sessions, uint64_t deadline_us)
{
	uint64_t look_us = 0;

	for (;;) {
		uint64_t now_us = swarm_now_us();

		if (now_us >= look_us) {
			if (all_synced(s, sessions))
				return true;
			if (now_us >= deadline_us)
				return false;
			/* A look takes its time: not more than a part of all. */
			look_us = swarm_now_us() + LOOK_MS * 1000 + (swarm_now_us() - now_us) * 10;
		}
		swarm_turn(s, swarm_now_ms() + LOOK_MS);
	}
}

static bool wait_answer(struct converged *q)
{
	while (q->waiting)
		swarm_turn(q->s, swarm_now_ms() + LOOK_MS);
	return q->ok;
}

static bool do_sync(struct swarm *s, struct converged *q, uint64_t sessions, uint64_t seconds)
{
	uint64_t start_us = swarm_now_us(), told_us;
	bool ok = wait_synced(s, sessions, start_us + seconds * 1000000);

	told_us = swarm_now_us();
	ok = ok && converged_ask(q, 0) == 0 && wait_answer(q);
	answer_begin("sync", ok);
	printf("\"told_s\": %.3f, \"acked_s\": %.3f, ", (double)(told_us - start_us) / 1e6,
	       (double)(swarm_now_us() - start_us) / 1e6);
	answer_end(s);
	return ok;
}

/* ---- single changes ------------------------------------------------------------------ */

struct change {
	uint32_t told_us, acked_us;
};

static bool all_told(const struct swarm *s, uint32_t segment, uint64_t revision,
		     uint64_t *ret_last_us)
{
	uint64_t last_us = 0;

	for (uint32_t i = 0; i < s->options.agents; i++) {
		const struct swarm_agent *a = &s->agents[i];

		if (a->segment != segment)
			continue;
		if (mirror_revision(a->mirror, segment) < revision)
			return false;
		last_us = a->applied_us > last_us ? a->applied_us : last_us;
	}
	*ret_last_us = last_us;
	return true;
}

static int change_once(struct swarm *s, struct converged *q, struct swarm_agent *a, bool on,
		       struct change *ret_change)
{
	uint64_t start_us = swarm_now_us(), deadline_us = start_us + CHANGE_WAIT_US, last_us;
	uint64_t before = a->reported;

	swarm_member_set(a, CHANGE_GROUP, on);
	swarm_turn(s, 0);
	while (a->reported == before || a->accepted != a->reported) {
		if (swarm_now_us() > deadline_us)
			return -ETIMEDOUT;
		swarm_turn(s, swarm_now_ms() + LOOK_MS);
	}
	if (converged_ask(q, a->accepted_revision) < 0)
		return -ENOMEM;
	while (q->waiting || !all_told(s, a->segment, a->accepted_revision, &last_us)) {
		if (swarm_now_us() > deadline_us)
			return -ETIMEDOUT;
		swarm_turn(s, swarm_now_ms() + LOOK_MS);
	}
	if (!q->ok)
		return -EIO;
	ret_change->told_us = (uint32_t)(last_us - start_us);
	ret_change->acked_us = (uint32_t)(q->answered_us - start_us);
	return 0;
}

static bool do_change(struct swarm *s, struct converged *q, uint64_t count, uint64_t interval_ms)
{
	_cleanup_free_ uint32_t *told = calloc(CHANGES_MAX, sizeof(*told));
	_cleanup_free_ uint32_t *acked = calloc(CHANGES_MAX, sizeof(*acked));
	struct swarm_agent *a = NULL;
	struct change change;
	bool ok = told && acked;
	size_t n = 0;

	if (count > CHANGES_MAX)
		count = CHANGES_MAX;
	count += count % 2;
	for (; ok && n < count; n++) {
		uint64_t next_ms;

		/* A join of somebody, then the leave of the same. */
		if (n % 2 == 0)
			a = &s->agents[swarm_random(s, s->options.agents)];
		if (change_once(s, q, a, n % 2 == 0, &change) < 0) {
			ok = false;
			break;
		}
		told[n] = change.told_us;
		acked[n] = change.acked_us;
		/* From its end: a controller rests after a long round. */
		next_ms = swarm_now_ms() + interval_ms;
		while (swarm_now_ms() < next_ms)
			swarm_turn(s, next_ms);
	}
	answer_begin("change", ok);
	print_percentiles("told_ms", told, n);
	printf(", ");
	print_percentiles("acked_ms", acked, n);
	printf(", ");
	answer_end(s);
	return ok;
}

/* ---- churn --------------------------------------------------------------------------- */

struct mark {
	uint64_t revision, at_us;
};

struct churn {
	struct swarm *s;
	struct mark *marks;
	uint32_t *lags;
	size_t n_marks, n_lags;
	uint64_t look_ms, mark_ms, made;
};

static uint64_t greatest_accepted(const struct swarm *s)
{
	uint64_t revision = 0;

	for (uint32_t i = 0; i < s->options.agents; i++) {
		if (s->agents[i].accepted_revision > revision)
			revision = s->agents[i].accepted_revision;
	}
	return revision;
}

/* From "in the log" to "told to all": a mark is reached when the last agent is. */
static void marks_look(struct churn *c, uint64_t now_ms)
{
	struct swarm_sum sum;

	if (now_ms < c->look_ms)
		return;
	c->look_ms = now_ms + LOOK_MS;
	swarm_sum(c->s, &sum);
	flock_forget(c->s->flock, sum.least_revision);
	while (c->n_lags < c->n_marks && c->marks[c->n_lags].revision <= sum.least_revision) {
		c->lags[c->n_lags] = (uint32_t)(swarm_now_us() - c->marks[c->n_lags].at_us);
		c->n_lags++;
	}
	if (now_ms < c->mark_ms || c->n_marks == MARKS_MAX)
		return;
	c->mark_ms = now_ms + MARK_MS;
	c->marks[c->n_marks++] = (struct mark){ greatest_accepted(c->s), swarm_now_us() };
}

static void churn_make(struct churn *c, uint64_t due)
{
	struct swarm *s = c->s;

	for (; c->made < due; c->made++) {
		struct swarm_agent *a = &s->agents[swarm_random(s, s->options.agents)];

		swarm_toggle(a, (uint32_t)swarm_random(s, s->options.groups));
	}
}

static bool do_churn(struct swarm *s, uint64_t rate, uint64_t seconds)
{
	_cleanup_free_ struct mark *marks = calloc(MARKS_MAX, sizeof(*marks));
	_cleanup_free_ uint32_t *lags = calloc(MARKS_MAX, sizeof(*lags));
	struct churn c = { .s = s, .marks = marks, .lags = lags };
	uint64_t start_us = swarm_now_us(), end_us = start_us + seconds * 1000000;
	uint64_t rows = s->rows_reported, now_us, last_us;
	bool ok;

	if (!marks || !lags || !s->options.groups)
		return false;
	s->n_accepts = 0;
	while ((now_us = swarm_now_us()) < end_us) {
		churn_make(&c, (now_us - start_us) * rate / 1000000);
		marks_look(&c, now_us / 1000);
		swarm_turn(s, swarm_now_ms() + 1);
	}
	rows = s->rows_reported - rows;
	ok = wait_synced(s, 0, end_us + DRAIN_SECONDS * 1000000);
	last_us = swarm_now_us();
	answer_begin("churn", ok);
	printf("\"seconds\": %.3f, \"changes\": %" PRIu64 ", \"changes_a_second\": %.0f, "
	       "\"rows_a_second\": %.0f, \"drained_s\": %.3f, ",
	       (double)(now_us - start_us) / 1e6, c.made,
	       (double)c.made * 1e6 / (double)(now_us - start_us),
	       (double)rows * 1e6 / (double)(now_us - start_us), (double)(last_us - now_us) / 1e6);
	print_percentiles("accept_ms", s->accept_us,
			  s->n_accepts < SWARM_SAMPLES_MAX ? s->n_accepts : SWARM_SAMPLES_MAX);
	printf(", ");
	print_percentiles("told_all_ms", lags, c.n_lags);
	printf(", \"marks_missed\": %zu, ", c.n_marks - c.n_lags);
	answer_end(s);
	return ok;
}

/* ---- commands -------------------------------------------------------------------------- */

/* False: quit. */
static bool command(struct swarm *s, struct converged *q, const char *line)
{
	uint64_t x = 0, y = 0;
	char word[16] = "";

	if (sscanf(line, "%15s %" SCNu64 " %" SCNu64, word, &x, &y) < 1)
		return true;
	if (strcmp(word, "sync") == 0) {
		do_sync(s, q, x, y);
	} else if (strcmp(word, "change") == 0) {
		do_change(s, q, x, y);
	} else if (strcmp(word, "churn") == 0) {
		do_churn(s, x, y);
	} else if (strcmp(word, "idle") == 0) {
		for (uint64_t end = swarm_now_ms() + x; swarm_now_ms() < end;)
			swarm_turn(s, end);
		answer_begin("idle", true);
		answer_end(s);
	} else if (strcmp(word, "stats") == 0) {
		answer_begin("stats", true);
		answer_end(s);
	} else if (strcmp(word, "quit") == 0) {
		return false;
	} else {
		answer_begin("unknown", false);
		answer_end(s);
	}
	return true;
}

int scenario_commands(struct swarm *s)
{
	struct converged q = { .s = s };
	char line[COMMAND_MAX];
	size_t len = 0;
	bool on = true;

	while (on) {
		struct pollfd fd = { .fd = STDIN_FILENO, .events = POLLIN };
		char *end;
		ssize_t n;

		swarm_turn(s, swarm_now_ms() + LOOK_MS);
		if (poll(&fd, 1, 0) <= 0)
			continue;
		n = read(STDIN_FILENO, line + len, sizeof(line) - 1 - len);
		if (n <= 0)
			break;
		len += (size_t)n;
		line[len] = '\0';
		while (on && (end = strchr(line, '\n'))) {
			*end = '\0';
			on = command(s, &q, line);
			len -= (size_t)(end + 1 - line);
			memmove(line, end + 1, len + 1);
		}
		if (len == sizeof(line) - 1)
			break; /* a line that long is no command */
	}
	converged_end(&q);
	return 0;
}

int scenario_run(struct swarm *s, uint32_t changes_a_second, uint32_t seconds)
{
	struct converged q = { .s = s };
	bool ok = do_sync(s, &q, 0, CONVERGED_WAIT_MS / 1000 * 4);

	if (ok)
		ok = do_churn(s, changes_a_second, seconds);
	converged_end(&q);
	return ok ? 0 : 1;
}
