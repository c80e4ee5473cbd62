/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/swarm/swarm.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/rpc_tls.h"

#define SYNC_PATH "/mcmesh.v1.NodeService/Sync"
#define LATE_MS	  500 /* timers wait so long for what has come */

uint64_t swarm_now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t swarm_now_ms(void)
{
	return swarm_now_us() / 1000;
}

uint64_t swarm_random(struct swarm *s, uint64_t below)
{
	s->random ^= s->random << 13;
	s->random ^= s->random >> 7;
	s->random ^= s->random << 17;
	return below ? (s->random >> 11) % below : 0;
}

/* ---- timers ---------------------------------------------------------------------- */

static void timer_set(struct swarm_agent *a, uint64_t now_ms, uint64_t at_ms)
{
	struct swarm *s = a->swarm;

	if (at_ms <= now_ms)
		at_ms = now_ms + 1;
	if (at_ms > now_ms + SWARM_WHEEL - 1)
		at_ms = now_ms + SWARM_WHEEL - 1;
	if (a->slot == at_ms)
		return;
	if (a->slot)
		TAILQ_REMOVE(&s->wheel[a->slot % SWARM_WHEEL], a, timer);
	a->slot = at_ms;
	TAILQ_INSERT_TAIL(&s->wheel[at_ms % SWARM_WHEEL], a, timer);
}

static void agent_mark(struct swarm_agent *a)
{
	if (a->dirty)
		return;
	a->dirty = true;
	TAILQ_INSERT_TAIL(&a->swarm->dirty, a, link);
}

/* As the real agent ends each callback. */
static void agent_settle(struct swarm_agent *a, uint64_t now_ms)
{
	struct swarm *s = a->swarm;

	if (a->opening) {
		a->opening = false;
		if (a->call)
			uplink_opened(a->uplink, now_ms);
		else
			uplink_closed(a->uplink, RPC_UNAVAILABLE, "the address cannot be used",
				      now_ms);
	}
	uplink_applied(a->uplink, now_ms);
	uplink_flush(a->uplink, now_ms);
	if (!a->call && !a->opening && s->n_connecting >= s->options.connecting) {
		if (!a->queued)
			TAILQ_INSERT_TAIL(&s->queue, a, link);
		a->queued = true;
		return;
	}
	uplink_expire(a->uplink, now_ms);
	timer_set(a, now_ms, a->opening ? now_ms : uplink_next_ms(a->uplink));
}

static void connecting_end(struct swarm_agent *a)
{
	struct swarm *s = a->swarm;
	struct swarm_agent *next;

	if (!a->counts_as_connecting)
		return;
	a->counts_as_connecting = false;
	s->n_connecting--;
	next = TAILQ_FIRST(&s->queue);
	if (next) {
		TAILQ_REMOVE(&s->queue, next, link);
		next->queued = false;
		agent_mark(next);
	}
}

/* ---- the stream ------------------------------------------------------------------- */

static void went_down(struct swarm_agent *a)
{
	if (a->up) {
		a->swarm->n_up--;
		a->swarm->n_lost++;
	}
	a->up = false;
	connecting_end(a);
}

static void on_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__ControllerMessage *m = (const Mcmesh__V1__ControllerMessage *)message;
	struct swarm_agent *a = rpc_call_userdata(call);
	uint64_t before;

	if (!a || !m)
		return;
	before = mirror_revision(a->mirror, a->segment);
	/* Before the uplink sees it, which reports again at once. */
	if (m->message_case == MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_ACCEPTED) {
		a->accepted = m->accepted->sequence;
		a->accepted_revision = m->accepted->revision;
		a->swarm->accept_us[a->swarm->n_accepts++ % SWARM_SAMPLES_MAX] =
			(uint32_t)(swarm_now_us() - a->reported_us);
	}
	uplink_message(a->uplink, m, swarm_now_ms());
	if (a->call && m->message_case == MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_WELCOME)
		link_aside_begin(&a->aside, a->channel, a->uplink, a->name, m->welcome);
	if (mirror_revision(a->mirror, a->segment) != before)
		a->applied_us = swarm_now_us();
	if (!a->queued)
		agent_mark(a);
}

static void on_close(struct rpc_call *call, int status, const char *text)
{
	struct swarm_agent *a = rpc_call_userdata(call);

	if (!a)
		return;
	a->call = NULL;
	link_aside_end(&a->aside);
	went_down(a);
	uplink_closed(a->uplink, status, text, swarm_now_ms());
	if (!a->queued)
		agent_mark(a);
}

static const struct rpc_call_ops call_ops = { .on_message = on_message, .on_close = on_close };

static void agent_disconnect(void *userdata)
{
	struct swarm_agent *a = userdata;

	if (a->call) {
		rpc_call_set_userdata(a->call, NULL);
		rpc_call_cancel(a->call);
		a->call = NULL;
	}
	link_aside_end(&a->aside);
	rpc_channel_free(a->channel);
	a->channel = NULL;
	a->opening = false;
	went_down(a);
}

static void agent_connect(const char *target, void *userdata)
{
	struct swarm_agent *a = userdata;
	struct rpc_channel_options options = { .target = target,
					       .tls = a->tls,
					       .keepalive_ms = RPC_KEEPALIVE_NEVER };

	agent_disconnect(a);
	a->counts_as_connecting = true;
	a->swarm->n_connecting++;
	a->opening = true;
	if (rpc_channel_new(a->swarm->rpc, &options, &a->channel) >= 0 &&
	    rpc_channel_call(a->channel, SYNC_PATH, &mcmesh__v1__controller_message__descriptor,
			     &call_ops, 0, a, &a->call) < 0)
		a->call = NULL;
}

static void agent_send(const Mcmesh__V1__AgentMessage *message, void *userdata)
{
	struct swarm_agent *a = userdata;

	if (message->message_case == MCMESH__V1__AGENT_MESSAGE__MESSAGE_REPORT) {
		a->reported = message->report->sequence;
		a->reported_us = swarm_now_us();
		a->swarm->rows_reported += message->report->n_members;
	}
	if (a->call && !link_aside_send(&a->aside, message))
		rpc_call_send(a->call, &message->base);
}

static void agent_query(const Mcmesh__V1__Query *query, void *userdata)
{
	Mcmesh__V1__Answer answer = MCMESH__V1__ANSWER__INIT;
	struct swarm_agent *a = userdata;

	answer.id = query->id;
	uplink_answer(a->uplink, &answer, swarm_now_ms());
}

static void agent_epoch(const uint8_t epoch[EPOCH_LEN], void *userdata)
{
}

static void agent_session(const char *controller, const char *reason, void *userdata)
{
	struct swarm_agent *a = userdata;

	if (!controller) {
		went_down(a);
		return;
	}
	a->up = true;
	a->swarm->n_up++;
	a->accepted = 0;
	connecting_end(a);
}

static void agent_refused(uint32_t segment, const struct addr *group, const char *reason,
			  void *userdata)
{
}

static const struct uplink_ops uplink_ops = {
	.connect = agent_connect,
	.disconnect = agent_disconnect,
	.send = agent_send,
	.query = agent_query,
	.epoch = agent_epoch,
	.session = agent_session,
	.refused = agent_refused,
};

/* ---- members ---------------------------------------------------------------------- */

void swarm_member_set(struct swarm_agent *a, uint32_t group, bool on)
{
	struct addr addr = addr_v4_be32(htonl(a->swarm->options.group_base + group));
	struct filter filter = { .mode = on ? FILTER_EXCLUDE : FILTER_INCLUDE };

	if (uplink_member_set(a->uplink, a->segment, &addr, &filter) < 0)
		abort();
	if (!a->queued)
		agent_mark(a);
}

void swarm_toggle(struct swarm_agent *a, uint32_t k)
{
	const struct swarm_options *o = &a->swarm->options;
	/* Agents of one segment come every `segments`: neighbours there overlap. */
	uint32_t rank = a->index / o->segments;
	uint64_t *members = &a->swarm->members[a->index % o->segments];

	a->wants[k] = !a->wants[k];
	*members += a->wants[k] ? 1 : (uint64_t)-1;
	swarm_member_set(a, rank / o->overlap * o->groups + k, a->wants[k]);
}

bool swarm_agent_is_synced(const struct swarm_agent *a)
{
	const struct swarm *s = a->swarm;

	/* Not by revisions: a store's own bookkeeping moves the log, not the segment. */
	return a->up && a->reported && a->accepted == a->reported &&
	       mirror_digest(a->mirror, a->segment).rows ==
		       s->members[a->index % s->options.segments];
}

void swarm_sum(const struct swarm *s, struct swarm_sum *ret_sum)
{
	struct swarm_sum sum = { .least_revision = UINT64_MAX };

	for (uint32_t i = 0; i < s->options.agents; i++) {
		const struct swarm_agent *a = &s->agents[i];
		uint64_t revision = mirror_revision(a->mirror, a->segment);

		for (int c = 0; c < UPLINK_C_COUNT; c++)
			sum.counters[c] += uplink_counter(a->uplink, c);
		sum.least_revision = revision < sum.least_revision ? revision : sum.least_revision;
		if (revision > sum.greatest_revision)
			sum.greatest_revision = revision;
	}
	*ret_sum = sum;
}

/* ---- life ------------------------------------------------------------------------- */

/* A certificate each: a controller believes nobody else's. */
static int tls_new(const char *pki, const char *name, bool may_wait, struct rpc_tls **ret_tls)
{
	char cacert[PATH_MAX], cert[PATH_MAX], key[PATH_MAX], why[RPC_TLS_WHY_MAX];
	const struct rpc_tls_options options = {
		.cacert = cacert, .cert = cert, .key = key, .may_wait = may_wait
	};
	int r;

	snprintf(cacert, sizeof(cacert), "%s/ca.pem", pki);
	snprintf(cert, sizeof(cert), "%s/%s.pem", pki, name);
	snprintf(key, sizeof(key), "%s/%s.key", pki, name);
	r = rpc_tls_new(&options, ret_tls, why);
	if (r < 0)
		fprintf(stderr, "mcmesh-swarm: %s\n", why);
	return r;
}

static int agent_init(struct swarm *s, uint32_t index)
{
	struct swarm_agent *a = &s->agents[index];
	struct uplink_options options = {
		.node = a->name,
		.vtep = addr_v4_be32(htonl(s->options.vtep_base + index)),
		/* Greater with each run: the instance is the same. */
		.start_count = (uint64_t)time(NULL),
		.controllers = s->options.controllers,
		.seed = swarm_random(s, 0) ^ s->random,
	};
	int r;

	a->swarm = s;
	a->index = index;
	a->segment = s->options.first_segment + index % s->options.segments;
	snprintf(a->name, sizeof(a->name), "%s%u", s->options.prefix, index + 1);
	memcpy(options.instance, &index, sizeof(index));
	r = s->options.pki ? tls_new(s->options.pki, a->name, false, &a->tls) : 0;
	if (r == 0)
		r = flock_agent_new(s->flock, a->name, index < s->options.full, &a->mirror);
	if (r == 0)
		r = mirror_segment_add(a->mirror, a->segment);
	if (r == 0)
		r = uplink_new(&options, &uplink_ops, a, a->mirror, swarm_now_ms(), &a->uplink);
	if (r < 0)
		return r;
	a->wants = calloc(s->options.groups + 1, sizeof(*a->wants));
	if (!a->wants)
		return -ENOMEM;
	for (uint32_t k = 0; k < s->options.groups; k++)
		swarm_toggle(a, k);
	agent_mark(a);
	return 0;
}

int swarm_new(const struct swarm_options *options, struct swarm **ret_swarm)
{
	struct swarm *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->options = *options;
	s->random = options->seed * 0x9e3779b97f4a7c15u | 1;
	s->wheel_ms = swarm_now_ms();
	TAILQ_INIT(&s->dirty);
	TAILQ_INIT(&s->queue);
	for (size_t i = 0; i < SWARM_WHEEL; i++)
		TAILQ_INIT(&s->wheel[i]);
	s->agents = calloc(options->agents, sizeof(*s->agents));
	s->members = calloc(options->segments, sizeof(*s->members));
	s->accept_us = calloc(SWARM_SAMPLES_MAX, sizeof(*s->accept_us));
	r = s->agents && s->members && s->accept_us ? rpc_new(&s->rpc) : -ENOMEM;
	if (r == 0 && options->pki)
		r = tls_new(options->pki, "read", true, &s->tls);
	if (r == 0)
		r = flock_new(&s->flock);
	if (r == 0)
		rpc_set_known(s->rpc, flock_message, s->flock);
	for (uint32_t i = 0; r == 0 && i < options->agents; i++)
		r = agent_init(s, i);
	if (r < 0) {
		swarm_free(s);
		return r;
	}
	*ret_swarm = s;
	return 0;
}

void swarm_free(struct swarm *s)
{
	if (!s)
		return;
	for (uint32_t i = 0; s->agents && i < s->options.agents; i++) {
		struct swarm_agent *a = &s->agents[i];

		agent_disconnect(a);
		rpc_tls_free(a->tls);
		uplink_free(a->uplink);
		mirror_free(a->mirror);
		free(a->wants);
	}
	rpc_tls_free(s->tls);
	rpc_free(s->rpc);
	flock_free(s->flock);
	free(s->agents);
	free(s->members);
	free(s->accept_us);
	free(s);
}

static void wheel_turn(struct swarm *s, uint64_t now_ms)
{
	struct swarm_agent *a;

	for (; s->wheel_ms <= now_ms; s->wheel_ms++) {
		struct swarm_agents *slot = &s->wheel[s->wheel_ms % SWARM_WHEEL];

		while ((a = TAILQ_FIRST(slot))) {
			TAILQ_REMOVE(slot, a, timer);
			a->slot = 0;
			if (!a->queued)
				agent_mark(a);
		}
	}
}

static bool wheel_is_due(const struct swarm *s, uint64_t at_ms)
{
	return !TAILQ_EMPTY(&s->wheel[at_ms % SWARM_WHEEL]);
}

void swarm_turn(struct swarm *s, uint64_t until_ms)
{
	uint64_t at = s->wheel_ms;
	struct swarm_agent *a;
	uint64_t now_ms;

	while (at < until_ms && !wheel_is_due(s, at))
		at++;
	rpc_poll(s->rpc, TAILQ_EMPTY(&s->dirty) ? at : 0);
	now_ms = swarm_now_ms();
	/* What has come is heard before anybody is called silent. */
	if (!rpc_has_more(s->rpc) || now_ms >= s->wheel_ms + LATE_MS)
		wheel_turn(s, now_ms);
	while ((a = TAILQ_FIRST(&s->dirty))) {
		TAILQ_REMOVE(&s->dirty, a, link);
		a->dirty = false;
		agent_settle(a, now_ms);
	}
}
