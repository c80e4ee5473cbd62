/* SPDX-License-Identifier: Apache-2.0 */
#include "node/rota.h"

#include <string.h>

/* FNV-1a, then a finisher that spreads short differences over all bits. */
static uint64_t score(const char *node, const char *target)
{
	uint64_t h = 14695981039346656037ULL;

	for (const char *p = node; *p; p++)
		h = (h ^ (uint8_t)*p) * 1099511628211ULL;
	h *= 1099511628211ULL; /* the NUL between them */
	for (const char *p = target; *p; p++)
		h = (h ^ (uint8_t)*p) * 1099511628211ULL;
	h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9ULL;
	h = (h ^ h >> 27) * 0x94d049bb133111ebULL;
	return h ^ h >> 31;
}

void rota_init(struct rota *rota, const char *node, const char *const *targets, uint64_t seed)
{
	*rota = (struct rota){ .random = seed | 1 };
	for (size_t i = 0; targets[i] && rota->n < ROTA_MAX; i++) {
		uint64_t mine = score(node, targets[i]);
		size_t at = rota->n++;

		for (; at && score(node, rota->targets[at - 1]) < mine; at--)
			rota->targets[at] = rota->targets[at - 1];
		rota->targets[at] = targets[i];
	}
}

const char *rota_target(const struct rota *rota)
{
	return rota->n ? rota->targets[rota->current] : NULL;
}

/* xorshift64*: jitter, not secrecy. */
static uint64_t random_below(struct rota *rota, uint64_t n)
{
	rota->random ^= rota->random >> 12;
	rota->random ^= rota->random << 25;
	rota->random ^= rota->random >> 27;
	return (rota->random * 2685821657736338717ULL >> 11) % n;
}

static uint64_t doubled(uint64_t ms, unsigned int times, uint64_t max)
{
	while (times-- && ms < max)
		ms *= 2;
	return ms < max ? ms : max;
}

uint64_t rota_timeout_ms(const struct rota *rota)
{
	unsigned int rounds = rota->n ? rota->failures / (unsigned int)rota->n : 0;

	return doubled(ROTA_TIMEOUT_MIN_MS, rounds, ROTA_TIMEOUT_MAX_MS);
}

static uint64_t refused_wait(struct rota *rota)
{
	rota->refused = false;
	return ROTA_REFUSED_MS / 2 + random_below(rota, ROTA_REFUSED_MS / 2);
}

uint64_t rota_failed(struct rota *rota, enum rota_failure failure)
{
	unsigned int rounds;

	if (!rota->n)
		return 0;
	rota->current = (rota->current + 1) % rota->n;
	rota->failures++;
	rota->refused |= failure == ROTA_REFUSED;
	if (failure == ROTA_REFUSED_ALL)
		return refused_wait(rota);
	if (rota->failures % rota->n)
		return 0;
	if (rota->refused)
		return refused_wait(rota);
	rounds = rota->failures / (unsigned int)rota->n;
	return 1 +
	       random_below(rota, doubled(ROTA_BACKOFF_MIN_MS, rounds - 1, ROTA_BACKOFF_MAX_MS));
}

void rota_proven(struct rota *rota)
{
	rota->failures = 0;
	rota->refused = false;
}

enum rota_failure rota_failure_of(int status)
{
	switch (status) {
	case 3: /* INVALID_ARGUMENT */
	case 7: /* PERMISSION_DENIED */
	case 9: /* FAILED_PRECONDITION */
		return ROTA_REFUSED;
	case 6:	 /* ALREADY_EXISTS: another agent has this name, or this VTEP */
	case 10: /* ABORTED: another agent has this identity, and is newer */
		return ROTA_REFUSED_ALL;
	default:
		return ROTA_UNREACHABLE;
	}
}
