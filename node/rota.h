/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which controller next, and when. Pure: no clock, no socket.
 *
 * The order is a rendezvous hash of (node, address): every node has its own,
 * so the nodes of a controller that dies spread over all others, and a
 * controller that is added to the list moves only those that it wins.
 *
 * After a failure the next in the order is tried at once. Only a whole round of
 * failures waits, with full jitter and exponentially longer; and only then does
 * an attempt get more time, so that a controller that greets thousands of agents
 * after an outage is not left again and again before it comes to this one.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ROTA_MAX	    32
#define ROTA_BACKOFF_MIN_MS 100
#define ROTA_BACKOFF_MAX_MS 2000
#define ROTA_REFUSED_MS	    5000 /* at most; at least half of it */
#define ROTA_TIMEOUT_MIN_MS 2000 /* from the attempt to the Welcome */
#define ROTA_TIMEOUT_MAX_MS 8000
#define ROTA_PROVEN_MS	    3000 /* a session that lasted so long worked */

enum rota_failure {
	ROTA_UNREACHABLE, /* no connection, no answer, or it asks to go elsewhere */
	ROTA_REFUSED,	  /* by this controller; the others may say otherwise */
	ROTA_REFUSED_ALL, /* for what this node is: all would say the same */
};

struct rota {
	const char *targets[ROTA_MAX]; /* in the order of this node; borrowed */
	size_t n, current;
	unsigned int failures;
	bool refused; /* one of this round did */
	uint64_t random;
};

/* NULL-terminated targets; those beyond ROTA_MAX are left out. */
void rota_init(struct rota *rota, const char *node, const char *const *targets, uint64_t seed);

/* The one in use or next tried; NULL: there is none. */
const char *rota_target(const struct rota *rota);

/* How long the present attempt may take. */
uint64_t rota_timeout_ms(const struct rota *rota);

/* The attempt or session ended: moves on; returns how long to wait before. */
uint64_t rota_failed(struct rota *rota, enum rota_failure failure);

/* What failed until now was another outage. */
void rota_proven(struct rota *rota);

/* What the stream's end says, by gRPC's status. */
enum rota_failure rota_failure_of(int status);
