/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The host side of IGMP (RFC 9776 section 5) or MLD (RFC 9777 section 6) towards
 * a router: everybody else of the segment as one host (RFC 4605). Pure: what is
 * wanted, queries and the time go in, frames come out. One for a family.
 */
#include <stdbool.h>
#include <stdint.h>

#include "common/addr.h"
#include "common/filter.h"
#include "node/gmp/wire.h"

struct proxy;

struct proxy_config {
	uint32_t robustness;		  /* 8.1: how often a change is told */
	uint32_t unsolicited_interval_ms; /* 8.11: between these, at most */
	uint32_t query_interval_ms;	  /* of a querier too old to tell its own */
	struct addr source;		  /* of reports: 0.0.0.0, or link-local */
	uint8_t mac[6];
};

/* The seed makes the delays; equal seeds, equal delays. 0 or -ENOMEM. */
int proxy_new(bool v6, const struct proxy_config *config, uint64_t seed, struct proxy **ret_proxy);
void proxy_free(struct proxy *proxy);
void proxy_configure(struct proxy *proxy, const struct proxy_config *config);

/* What is wanted of the group from now on; INCLUDE {}: nothing. The first report
 * is due at now_ms, so that what changes in one turn goes together. 0 or -ENOMEM
 * with everything as it was. */
int proxy_want(struct proxy *proxy, const struct addr *group, const struct filter *filter,
	       uint64_t now_ms);

/* A query that wire_parse() took, of this family. What memory is lacking for is
 * answered in full instead of in part. */
void proxy_query(struct proxy *proxy, const struct wire_message *query, uint64_t now_ms);

/* Sends what is due. */
typedef void proxy_send(const uint8_t *frame, size_t len, void *userdata);
void proxy_expire(struct proxy *proxy, uint64_t now_ms, proxy_send *send, void *userdata);

/* UINT64_MAX: nothing is due. */
uint64_t proxy_next_ms(const struct proxy *proxy);
