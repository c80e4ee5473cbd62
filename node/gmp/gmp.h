/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Group management engine: the router side of IGMPv1/2/3 (RFC 1112, 2236,
 * 9776) and MLDv1/2 (RFC 2710, 9777) for many ports, as a snooping switch runs
 * it (RFC 4541), and towards routers their host side (RFC 4605). Pure: no socket, no clock, no allocation that the caller
 * cannot see fail. Frames and facts and the time go in; effects come out.
 *
 * Time is milliseconds of any clock that never steps back. A timer set to
 * expire at t is running at t - 1 and has run out at t.
 *
 * Effects are appended to a list that the caller owns and executes in order.
 * GMP_FX_MEMBERSHIP says only that what (port, group) forwards changed: the
 * caller reads the present filter with gmp_membership_filter(). Executing the
 * same effect twice is harmless.
 *
 * Replay: every input is idempotent in the sense that a frame seen twice leaves
 * the state that the later time would have given.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/addr.h"
#include "common/filter.h"

struct gmp;

/* Protocol version of a group on a port, or of the querier. */
enum gmp_version {
	GMP_VERSION_NONE = 0,
	GMP_IGMPV1 = 1,
	GMP_IGMPV2 = 2,
	GMP_IGMPV3 = 3,
	GMP_MLDV1 = 4,
	GMP_MLDV2 = 5,
};

/* Is the port one that a multicast router is on (RFC 4541 2.1.2)? */
enum gmp_router {
	GMP_ROUTER_AUTO, /* while queries with an address come from it */
	GMP_ROUTER_ALWAYS,
	GMP_ROUTER_NEVER,
};

/* One per segment. gmp_config_default() gives RFC 9776 section 8's values. */
struct gmp_config {
	uint32_t robustness;			/* 8.1 */
	uint32_t query_interval_ms;		/* 8.2: 125,000 */
	uint32_t query_response_interval_ms;	/* 8.3: 10,000; must be < query_interval_ms */
	uint32_t startup_query_interval_ms;	/* 8.6: 0 = query_interval_ms / 4 */
	uint32_t startup_query_count;		/* 8.7: 0 = robustness */
	uint32_t last_member_query_interval_ms; /* 8.8: 1,000 */
	uint32_t last_member_query_count;	/* 8.9: 0 = robustness */
	uint32_t membership_interval_ms;	/* 8.4: 0 = RV * QI + 2 * QRI */

	enum gmp_version igmp_version; /* that the querier speaks: IGMPV1..3 */
	enum gmp_version mld_version;  /* MLDV1..2 */
	bool querier;		       /* send queries at all */
	bool querier_guard;	       /* drop and count queries that arrive on ports */
	bool fast_leave;	       /* leave of the last tracked host acts at once */
	bool require_router_alert;     /* RFC 9776 section 9 */
	bool accept_global_mld_source; /* MLD reports from a non-link-local source (H03) */
	bool proxy;		       /* a router is told of members as of one host */
	enum gmp_router router;

	/* Source of queries. IPv4: 0.0.0.0 is the proxy form, answered by hosts but
	 * never winning an election. IPv6: a link-local address; 0: no MLD queries. */
	struct addr query_source_v4;
	struct addr query_source_v6;
	uint8_t query_mac[6]; /* Ethernet source of queries */

	/* Limits (L8); 0 takes the default. */
	uint32_t max_groups;		 /* a port: 4,096 */
	uint32_t max_sources;		 /* a group: 1,024 */
	uint32_t max_hosts;		 /* a group: 256 tracked */
	uint32_t max_reports_per_second; /* a port: token bucket: 10,000 */
};

void gmp_config_default(struct gmp_config *ret_config);

/* 0, or -EINVAL with *ret_why a sentence (a static string). */
int gmp_config_validate(const struct gmp_config *config, const char **ret_why);

/* ---- effects ---------------------------------------------------------------- */

enum gmp_fx_type {
	GMP_FX_MEMBERSHIP, /* what (port, group) forwards changed: read it */
	GMP_FX_QUERY,	   /* send `frame` (whole Ethernet frame) out of the port */
	GMP_FX_ROUTER,	   /* the port became, or is no longer, a router port: `on` */
	GMP_FX_OLDER,	   /* a querier of an older `version` than ours began: for the log */
	GMP_FX_PROXY,	   /* the port's proxy begins: tell it all by gmp_port_want() */
	GMP_FX_SEND,	   /* a report of the proxy: send `frame` out of the port */
	GMP_FX_REPORT,	   /* a host's report, for ports with gmp_port_takes_reports() */
	GMP_FX_PASS,	   /* a router's query, for ports with gmp_port_takes_queries() */
	GMP_FX_FLOOD,	   /* IGMP of an unknown type for all ports but `port`: `frame` */
	GMP_FX_TRACE,	   /* a state change, for the log and tests */
};

struct gmp_fx_item {
	enum gmp_fx_type type;
	uint32_t port;
	struct addr group;
	bool on;
	bool v6; /* GMP_FX_PASS */
	enum gmp_version version;
	uint32_t frame_off, frame_len; /* into the list's arena: gmp_fx_frame() */
	const char *trace_old, *trace_new, *trace_event;
};

/* Zero-initialise; gmp_fx_clear() between uses keeps the memory. */
struct gmp_fx {
	struct gmp_fx_item *items;
	size_t n, cap;
	uint8_t *arena;
	size_t arena_len, arena_cap;
	bool overflow; /* memory ran out: the caller re-reads every membership */
};

static inline const uint8_t *gmp_fx_frame(const struct gmp_fx *fx, const struct gmp_fx_item *item)
{
	return fx->arena + item->frame_off;
}

void gmp_fx_clear(struct gmp_fx *fx);
void gmp_fx_deinit(struct gmp_fx *fx);

/* ---- counters --------------------------------------------------------------- */

/* GMP_COUNTER(name, "what happened"): the one list of node/gmp/counters.def
 * gives the enum, the names ("gmp_" + name) and the docs. */
enum gmp_counter {
#define GMP_COUNTER(name, doc) GMP_C_##name,
#include "node/gmp/counters.def"
#undef GMP_COUNTER
	GMP_C_COUNT
};

const char *gmp_counter_name(enum gmp_counter c);

/* ---- engine ----------------------------------------------------------------- */

int gmp_new(struct gmp **ret_gmp);
void gmp_free(struct gmp *gmp);

/* Ports are named by a number of the caller's choice (an ifindex); the tag
 * travels with the port (a segment). -EEXIST, -ENOMEM, -EINVAL (config). */
int gmp_port_add(struct gmp *gmp, uint32_t port, uint32_t tag, const struct gmp_config *config,
		 uint64_t now_ms, struct gmp_fx *fx);

/* Its memberships vanish, with a GMP_FX_MEMBERSHIP each. Unknown: nothing. */
void gmp_port_remove(struct gmp *gmp, uint32_t port, struct gmp_fx *fx);

/* New settings take effect from now on; running timers keep their expiry
 * unless it lies beyond what the new settings allow. 0, -ENOENT, -EINVAL. */
int gmp_port_configure(struct gmp *gmp, uint32_t port, const struct gmp_config *config,
		       uint64_t now_ms, struct gmp_fx *fx);

/* A state that was saved: forwards at once, ages after one membership
 * interval unless a report refreshes it; no hosts are known. */
int gmp_port_restore(struct gmp *gmp, uint32_t port, const struct addr *group,
		     const struct filter *filter, uint64_t now_ms, struct gmp_fx *fx);

/* The port was a router port: it is one for an other-querier interval more. */
void gmp_port_restore_router(struct gmp *gmp, uint32_t port, uint64_t now_ms, struct gmp_fx *fx);

/* Membership by configuration; replaces an earlier static one of the group.
 * filter NULL: withdraws it. Does not age; merges with what hosts report. */
int gmp_port_static(struct gmp *gmp, uint32_t port, const struct addr *group,
		    const struct filter *filter, uint64_t now_ms, struct gmp_fx *fx);

/* What all others in the segment want of the group, which the port's proxy tells
 * its router (node/gmp/proxy.c); INCLUDE {}: nothing. Without a proxy: nothing
 * happens. 0, -ENOENT, -ENOMEM. */
int gmp_port_want(struct gmp *gmp, uint32_t port, const struct addr *group,
		  const struct filter *filter, uint64_t now_ms);

/* Asks everything on the port again (after a punt overflow, a start). */
void gmp_port_query(struct gmp *gmp, uint32_t port, uint64_t now_ms, struct gmp_fx *fx);

/*
 * One Ethernet frame as it came from the port, `len` bytes. The message is
 * validated as a whole before any of it applies: a frame that fails is counted
 * by its reason on the port and changes nothing. Unknown port: ignored.
 */
void gmp_input(struct gmp *gmp, uint32_t port, const uint8_t *frame, size_t len, uint64_t now_ms,
	       struct gmp_fx *fx);

/* Runs timers that have run out at now_ms, a bounded number a call: while
 * gmp_next_ms() <= now_ms there is more. */
void gmp_expire(struct gmp *gmp, uint64_t now_ms, struct gmp_fx *fx);

/* When gmp_expire() is due next; UINT64_MAX: never. */
uint64_t gmp_next_ms(const struct gmp *gmp);

/* ---- reading ---------------------------------------------------------------- */

/*
 * What the port wants of the group now, in forwarding terms: INCLUDE with the
 * sources whose timers run, EXCLUDE with the blocked ones (RFC 9776 6.3).
 * No state: INCLUDE {}. 0 or -ENOMEM; the caller deinits.
 */
int gmp_membership_filter(const struct gmp *gmp, uint32_t port, const struct addr *group,
			  struct filter *ret_filter);

struct gmp_source_view {
	struct addr addr;
	bool forwarded;
	uint64_t expires_ms; /* absolute; 0: no timer runs */
};

struct gmp_membership_view {
	uint32_t port, tag;
	struct addr group;
	enum filter_mode mode;
	enum gmp_version version;
	uint64_t expires_ms; /* absolute; UINT64_MAX: never (static) */
	bool is_static;
	const struct gmp_source_view *sources;
	size_t n_sources;
	const struct addr *hosts;
	size_t n_hosts;
};

/* Calls fn for each membership (port 0: of every port), in no order, until it
 * returns non-zero, which is returned. The view lives for the call. */
int gmp_memberships_walk(const struct gmp *gmp, uint32_t port,
			 int (*fn)(const struct gmp_membership_view *view, void *userdata),
			 void *userdata);

/* The same for one (port, group): for Explain. -ENOENT: it does not exist. */
int gmp_membership_view(const struct gmp *gmp, uint32_t port, const struct addr *group,
			int (*fn)(const struct gmp_membership_view *view, void *userdata),
			void *userdata);

size_t gmp_port_membership_count(const struct gmp *gmp, uint32_t port);
bool gmp_port_is_router(const struct gmp *gmp, uint32_t port);
bool gmp_port_is_proxied(const struct gmp *gmp, uint32_t port);

/* A router port without a proxy. */
bool gmp_port_takes_reports(const struct gmp *gmp, uint32_t port);

/* Its hosts are to hear the queries of a router on another port of the segment. */
bool gmp_port_takes_queries(const struct gmp *gmp, uint32_t port, bool v6, uint64_t now_ms);
uint64_t gmp_port_counter(const struct gmp *gmp, uint32_t port, enum gmp_counter c);
