/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: nodes and their state machine
 *
 *	           heard                      stale_ms of silence
 *	STALE ───────────────► CONNECTED ───────────────────────────► STALE
 *	STALE ── hold_ms of silence ─────────────────────────────────► removed
 *	draining, and its session has ended ─────────────────────────► removed
 *
 * Where several controllers share a store, a node whose agent another one hears
 * is CONNECTED (elsewhere), and nothing ages here; when that controller says
 * that the agent fell silent, or vanishes itself, the node is STALE from that
 * moment on this machine's clock. No time of another machine is used.
 *
 * Draining is a mark beside the state: traffic goes on, only the hold is
 * skipped when the session ends. It ends with the node, so a node that was
 * drained, upgraded and started again comes back as any other.
 *
 * Nodes of each state hang in a list in the order in which they were heard, so
 * a deadline is always at the head and hearing a node costs one move.
 *
 * Mass silence. When a removal comes due while more than one node in five (and
 * at least three) is STALE, the fault is more likely here or in the network
 * than in the nodes: removals freeze, counted as an alarm. They thaw when so
 * many have come back that the share is small again, or after one more hold
 * time, when what is due goes.
 */
#include "controller/plan/registry.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct expected {
	char name[REGISTRY_NAME_MAX];
	bool reported;
	UT_hash_handle hh;
};

/* Nodes can share a VTEP for a while, so it is no key. */
#define VTEP_BUCKETS 4096

struct registry {
	struct registry_options options;
	uint64_t start_ms;
	struct registry_node *nodes;
	LIST_HEAD(, registry_node) by_vtep[VTEP_BUCKETS];
	struct registry_nodes connected, stale; /* by heard_ms */
	struct registry_nodes elsewhere;
	struct registry_nodes changed; /* by serial */
	struct registry_nodes draining;
	size_t n_stale;
	uint64_t serial;
	bool frozen, thawed;
	uint64_t frozen_until_ms, freezes;
	struct expected *expected;
	size_t n_missing;
	bool complete;
};

int registry_new(const struct registry_options *options, uint64_t now_ms,
		 struct registry **ret_registry)
{
	struct registry *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->options = *options;
	r->start_ms = now_ms;
	TAILQ_INIT(&r->connected);
	TAILQ_INIT(&r->stale);
	TAILQ_INIT(&r->elsewhere);
	TAILQ_INIT(&r->changed);
	TAILQ_INIT(&r->draining);
	*ret_registry = r;
	return 0;
}

static void expected_clear(struct registry *r)
{
	struct expected *e, *tmp;

	HASH_ITER (hh, r->expected, e, tmp) {
		HASH_DEL(r->expected, e);
		free(e);
	}
	r->n_missing = 0;
}

void registry_free(struct registry *r)
{
	struct registry_node *node, *tmp;

	if (!r)
		return;
	HASH_ITER (hh, r->nodes, node, tmp) {
		HASH_DEL(r->nodes, node);
		free(node);
	}
	expected_clear(r);
	free(r);
}

struct registry_node *registry_find(const struct registry *r, const char *name)
{
	struct registry_node *node;

	HASH_FIND_STR(r->nodes, name, node);
	return node;
}

static size_t vtep_bucket(const struct addr *vtep)
{
	unsigned int hash;

	HASH_VALUE(vtep, sizeof(*vtep), hash);
	return hash % VTEP_BUCKETS;
}

void registry_set_vtep(struct registry *r, struct registry_node *node, const struct addr *vtep)
{
	LIST_REMOVE(node, by_vtep);
	node->vtep = *vtep;
	LIST_INSERT_HEAD(&r->by_vtep[vtep_bucket(vtep)], node, by_vtep);
}

struct registry_node *registry_find_vtep(const struct registry *r, const struct addr *vtep,
					 const char *not_name)
{
	struct registry_node *node;

	LIST_FOREACH (node, &r->by_vtep[vtep_bucket(vtep)], by_vtep) {
		if (addr_equal(&node->vtep, vtep) && strcmp(node->name, not_name) != 0 &&
		    !node->removing)
			return node;
	}
	return NULL;
}

size_t registry_count(const struct registry *r)
{
	return HASH_COUNT(r->nodes);
}

size_t registry_stale_count(const struct registry *r)
{
	return r->n_stale;
}

void registry_touch(struct registry *r, struct registry_node *node)
{
	TAILQ_REMOVE(&r->changed, node, by_serial);
	node->serial = ++r->serial;
	TAILQ_INSERT_TAIL(&r->changed, node, by_serial);
}

static struct registry_nodes *list_of(struct registry *r, const struct registry_node *node)
{
	if (node->elsewhere)
		return &r->elsewhere;
	return node->state == REGISTRY_STALE ? &r->stale : &r->connected;
}

/* The one place where the state changes. */
static void set_state(struct registry *r, struct registry_node *node, enum registry_state state,
		      bool elsewhere)
{
	TAILQ_REMOVE(list_of(r, node), node, by_heard);
	node->elsewhere = elsewhere;
	if (node->state != state) {
		if (state == REGISTRY_STALE)
			r->n_stale++;
		else
			r->n_stale--;
		node->state = state;
		registry_touch(r, node);
	}
	TAILQ_INSERT_TAIL(list_of(r, node), node, by_heard);
}

int registry_add(struct registry *r, const char *name, uint64_t now_ms,
		 struct registry_node **ret_node)
{
	struct registry_node *node;

	if (registry_find(r, name))
		return -EEXIST;
	if (HASH_COUNT(r->nodes) >= REGISTRY_NODES_MAX)
		return -ENOSPC;
	node = calloc(1, sizeof(*node));
	if (!node)
		return -ENOMEM;
	strncpy(node->name, name, sizeof(node->name) - 1);
	node->state = REGISTRY_STALE;
	node->heard_ms = now_ms;
	node->serial = ++r->serial;
	r->n_stale++;
	HASH_ADD_STR(r->nodes, name, node);
	LIST_INSERT_HEAD(&r->by_vtep[vtep_bucket(&node->vtep)], node, by_vtep);
	TAILQ_INSERT_TAIL(&r->stale, node, by_heard);
	TAILQ_INSERT_TAIL(&r->changed, node, by_serial);
	*ret_node = node;
	return 0;
}

void registry_remove(struct registry *r, struct registry_node *node)
{
	TAILQ_REMOVE(list_of(r, node), node, by_heard);
	TAILQ_REMOVE(&r->changed, node, by_serial);
	if (node->state == REGISTRY_STALE)
		r->n_stale--;
	if (node->draining)
		TAILQ_REMOVE(&r->draining, node, by_drain);
	LIST_REMOVE(node, by_vtep);
	HASH_DEL(r->nodes, node);
	free(node);
}

void registry_heard(struct registry *r, struct registry_node *node, uint64_t now_ms)
{
	node->heard_ms = now_ms;
	set_state(r, node, REGISTRY_CONNECTED, false);
}

void registry_connect(struct registry *r, struct registry_node *node, void *session,
		      uint64_t now_ms)
{
	node->session = session;
	node->removing = node->lost = node->published = false;
	node->removal_ms = 0;
	node->holder[0] = 0;
	registry_heard(r, node, now_ms);
}

void registry_elsewhere(struct registry *r, struct registry_node *node, bool alive, uint64_t now_ms)
{
	if (alive || node->elsewhere)
		node->heard_ms = now_ms;
	if (alive)
		node->removing = false;
	set_state(r, node, alive ? REGISTRY_CONNECTED : REGISTRY_STALE, alive);
}

void registry_disconnect(struct registry *r, struct registry_node *node)
{
	node->session = NULL;
	registry_touch(r, node);
}

void registry_set_draining(struct registry *r, struct registry_node *node, bool on)
{
	if (node->draining == on)
		return;
	node->draining = on;
	if (on)
		TAILQ_INSERT_TAIL(&r->draining, node, by_drain);
	else
		TAILQ_REMOVE(&r->draining, node, by_drain);
	registry_touch(r, node);
}

bool registry_is_alive(const struct registry_node *node)
{
	return node->state == REGISTRY_CONNECTED;
}

static bool is_mass_silence(const struct registry *r)
{
	return r->n_stale >= REGISTRY_FREEZE_MIN &&
	       r->n_stale * REGISTRY_FREEZE_SHARE > HASH_COUNT(r->nodes);
}

static uint64_t deadline(uint64_t heard_ms, uint64_t after_ms)
{
	return heard_ms + after_ms;
}

static struct registry_node *first_due(const struct registry *r, uint64_t now_ms)
{
	struct registry_node *node;

	TAILQ_FOREACH(node, &r->stale, by_heard)
	{
		if (now_ms < deadline(node->heard_ms, r->options.hold_ms))
			return NULL;
		if (!node->removing && now_ms >= node->removal_ms)
			return node;
	}
	return NULL;
}

bool registry_tick(struct registry *r, uint64_t now_ms)
{
	struct registry_node *node;

	while ((node = TAILQ_FIRST(&r->connected)) &&
	       now_ms >= deadline(node->heard_ms, r->options.stale_ms))
		set_state(r, node, REGISTRY_STALE, false);

	if (!is_mass_silence(r)) {
		r->frozen = false;
		r->thawed = false;
	} else if (r->frozen && now_ms >= r->frozen_until_ms) {
		r->frozen = false;
		r->thawed = true; /* one freeze for each mass silence */
	} else if (!r->frozen && !r->thawed && first_due(r, now_ms)) {
		r->frozen = true;
		r->frozen_until_ms = deadline(now_ms, r->options.hold_ms);
		r->freezes++;
	}
	if (r->complete || now_ms < deadline(r->start_ms, r->options.hold_ms))
		return false;
	registry_set_complete(r);
	return true;
}

struct registry_node *registry_expired(const struct registry *r, uint64_t now_ms)
{
	struct registry_node *node;

	TAILQ_FOREACH(node, &r->draining, by_drain)
	{
		if (!node->session && !node->removing && !node->elsewhere && !node->lost &&
		    now_ms >= node->removal_ms)
			return node;
	}
	return r->frozen ? NULL : first_due(r, now_ms);
}

uint64_t registry_next_ms(const struct registry *r)
{
	struct registry_node *node;
	uint64_t next = REGISTRY_NEVER, at;

	node = TAILQ_FIRST(&r->connected);
	if (node)
		next = deadline(node->heard_ms, r->options.stale_ms);
	if (r->frozen) {
		at = r->frozen_until_ms;
		next = at < next ? at : next;
	} else {
		TAILQ_FOREACH(node, &r->stale, by_heard)
		{
			if (node->removing)
				continue;
			at = deadline(node->heard_ms, r->options.hold_ms);
			at = at > node->removal_ms ? at : node->removal_ms;
			next = at < next ? at : next;
			break;
		}
	}
	TAILQ_FOREACH(node, &r->draining, by_drain)
	{
		if (node->removal_ms && !node->session && node->removal_ms < next)
			next = node->removal_ms;
	}
	if (!r->complete) {
		at = deadline(r->start_ms, r->options.hold_ms);
		next = at < next ? at : next;
	}
	return next;
}

uint64_t registry_serial(const struct registry *r)
{
	return r->serial;
}

uint64_t registry_freezes(const struct registry *r)
{
	return r->freezes;
}

struct registry_node *registry_changed_after(const struct registry *r, uint64_t serial)
{
	struct registry_node *node, *found = NULL;

	TAILQ_FOREACH_REVERSE(node, &r->changed, registry_nodes, by_serial)
	{
		if (node->serial <= serial)
			break;
		found = node;
	}
	return found;
}

bool registry_awaits(const struct registry *r)
{
	return !r->complete;
}

int registry_expect(struct registry *r, const char *name)
{
	struct expected *e;

	if (r->complete)
		return 0;
	HASH_FIND_STR(r->expected, name, e);
	if (e)
		return 0;
	if (HASH_COUNT(r->expected) >= REGISTRY_NODES_MAX)
		return -ENOSPC;
	e = calloc(1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	strncpy(e->name, name, sizeof(e->name) - 1);
	HASH_ADD_STR(r->expected, name, e);
	r->n_missing++;
	return 0;
}

bool registry_reported(struct registry *r, const char *name)
{
	struct expected *e;

	if (r->complete || registry_expect(r, name) < 0)
		return false;
	HASH_FIND_STR(r->expected, name, e);
	if (e->reported)
		return false;
	e->reported = true;
	r->n_missing--;
	return r->n_missing == 0;
}

bool registry_is_complete(const struct registry *r, uint64_t now_ms)
{
	return r->complete || (HASH_COUNT(r->expected) && !r->n_missing) ||
	       now_ms >= deadline(r->start_ms, r->options.hold_ms);
}

void registry_set_complete(struct registry *r)
{
	r->complete = true;
	expected_clear(r);
}

void registry_begin_again(struct registry *r, uint64_t now_ms)
{
	expected_clear(r);
	r->complete = false;
	r->start_ms = now_ms;
}

void registry_keep(struct registry *r, struct registry_node *node, uint64_t now_ms)
{
	node->removing = false;
	node->removal_ms = now_ms + REGISTRY_RETRY_MS;
}

void registry_hold_again(struct registry *r, uint64_t now_ms)
{
	struct registry_node *node;

	TAILQ_FOREACH(node, &r->stale, by_heard)
	node->heard_ms = now_ms;
	r->frozen = false;
}
