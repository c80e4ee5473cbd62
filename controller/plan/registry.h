/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Who is alive: the nodes' state machine (see registry.c). Pure: time is an
 * argument, in milliseconds of a monotonic clock.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uthash.h>

#include "common/addr.h"
#include "controller/plan/bucket.h"

#define REGISTRY_NAME_MAX    64 /* with NUL; RFC 1123 label length */
#define REGISTRY_VERSION_MAX 64
#define REGISTRY_NODES_MAX   16384
#define REGISTRY_HOLDER_MAX  128
/* Mass silence: at least so many nodes, and more than one in five of all. */
#define REGISTRY_FREEZE_MIN   3
#define REGISTRY_FREEZE_SHARE 5
#define REGISTRY_RETRY_MS     1000
#define REGISTRY_NEVER	      UINT64_MAX

enum registry_state {
	REGISTRY_CONNECTED = 1,
	REGISTRY_STALE = 2,
};

struct registry_node {
	char name[REGISTRY_NAME_MAX];
	struct addr vtep; /* by registry_set_vtep() */
	uint8_t instance[16];
	uint64_t start_count, attempt;
	uint64_t session_id; /* the store's fence */
	char version[REGISTRY_VERSION_MAX];
	enum registry_state state;
	bool draining;
	/* Another controller hears its agent: silence here says nothing. */
	bool elsewhere;
	/* Its controller vanished with its session: no end of a drain. */
	bool lost;
	bool published;			  /* the store was told that it is silent */
	char holder[REGISTRY_HOLDER_MAX]; /* the other controller; "": none */
	struct bucket changes, sessions;  /* its quotas */
	bool removing;			  /* its withdrawal is on the way to the store */
	uint64_t removal_ms;		  /* not before, after one that the store refused */
	uint64_t heard_ms;
	uint64_t serial; /* grows with each visible change of any node */
	void *session;	 /* the open stream, if any */
	TAILQ_ENTRY(registry_node) by_heard, by_serial, by_drain;
	LIST_ENTRY(registry_node) by_vtep;
	UT_hash_handle hh;
};

TAILQ_HEAD(registry_nodes, registry_node);

struct registry_options {
	uint64_t stale_ms, hold_ms;
};

struct registry;

int registry_new(const struct registry_options *options, uint64_t now_ms,
		 struct registry **ret_registry);
void registry_free(struct registry *registry);

struct registry_node *registry_find(const struct registry *registry, const char *name);
void registry_set_vtep(struct registry *registry, struct registry_node *node,
		       const struct addr *vtep);
/* Another living (CONNECTED) or held node with this VTEP. */
struct registry_node *registry_find_vtep(const struct registry *registry, const struct addr *vtep,
					 const char *not_name);
size_t registry_count(const struct registry *registry);
size_t registry_stale_count(const struct registry *registry);

/* A node that the log knows and no agent has spoken for yet: STALE, with the
 * whole hold time before it. 0, -EEXIST, -ENOSPC or -ENOMEM. */
int registry_add(struct registry *registry, const char *name, uint64_t now_ms,
		 struct registry_node **ret_node);
void registry_remove(struct registry *registry, struct registry_node *node);

void registry_connect(struct registry *registry, struct registry_node *node, void *session,
		      uint64_t now_ms);
void registry_heard(struct registry *registry, struct registry_node *node, uint64_t now_ms);
/* What another controller says of it: its agent lives there, or does not any
 * more, and then its hold time begins now. */
void registry_elsewhere(struct registry *registry, struct registry_node *node, bool alive,
			uint64_t now_ms);
/* Its withdrawal failed: it is due again in a while. */
void registry_keep(struct registry *registry, struct registry_node *node, uint64_t now_ms);
void registry_disconnect(struct registry *registry, struct registry_node *node);
void registry_set_draining(struct registry *registry, struct registry_node *node, bool on);
/* Something else that watchers show has changed. */
void registry_touch(struct registry *registry, struct registry_node *node);

/* Is somebody there who would be hurt by another instance of the same name? */
bool registry_is_alive(const struct registry_node *node);

/* Silent nodes become STALE; mass silence freezes removals. True when the log
 * became complete, for good, by the hold time since the start. */
bool registry_tick(struct registry *registry, uint64_t now_ms);
/* One node that has to go now, or NULL; ask again until NULL. */
struct registry_node *registry_expired(const struct registry *registry, uint64_t now_ms);
/* When registry_tick() or registry_expired() has something to do next. */
uint64_t registry_next_ms(const struct registry *registry);
/* How often removals were frozen. */
uint64_t registry_freezes(const struct registry *registry);

/* Of the last visible change. */
uint64_t registry_serial(const struct registry *registry);
/* Nodes in the order of their last visible change, after a serial. */
struct registry_node *registry_changed_after(const struct registry *registry, uint64_t serial);

/*
 * Completeness of a log that began empty (docs/sync-rules.md, S09): a node that is
 * expected and has not reported all its members keeps it incomplete until the
 * hold time since the start has passed.
 */
int registry_expect(struct registry *registry, const char *name);
/* Does it matter who is expected? */
bool registry_awaits(const struct registry *registry);
/* True when the log became complete by this. */
bool registry_reported(struct registry *registry, const char *name);
bool registry_is_complete(const struct registry *registry, uint64_t now_ms);
/* A log that was there before: complete from the start. */
void registry_set_complete(struct registry *registry);
/* From now on as a log that began empty. */
void registry_begin_again(struct registry *registry, uint64_t now_ms);
/* Nobody could be heard until now: the silent have the whole hold time again. */
void registry_hold_again(struct registry *registry, uint64_t now_ms);
