/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Inside node/gmp/ only. */
#include "node/gmp/gmp.h"
#include "node/gmp/proxy.h"
#include "node/gmp/wire.h"

/* A heap entry's due may be earlier than what it stands for: a refresh then
 * costs nothing, and the pop computes the true time. Never later. */
struct timer {
	uint64_t due;
	uint32_t index; /* 1-based; 0: not in the heap */
	bool is_port;
};

struct source {
	struct addr addr;
	uint64_t expires;	/* 0: blocked, only in EXCLUDE */
	uint32_t retransmit_at; /* low half of the time; read with retransmit_due() */
	uint8_t retransmit;	/* copies of Q(G, this source) still to send */
};

struct host {
	struct addr addr;
	uint64_t expires; /* UINT64_MAX: an older host, which may be silent (suppression) */
};

struct group {
	struct timer timer; /* first: see timer_group() */
	struct port *port;
	struct group *prev, *next;
	struct addr addr;
	enum filter_mode mode;
	bool dirty;	    /* the dynamic view changed since the last flush */
	bool hosts_unknown; /* restored, or more hosts than may be tracked */
	bool is_static;
	bool has_last;
	uint64_t expires;	     /* EXCLUDE: the group timer */
	uint64_t v1_until, v2_until; /* older host present (7.3.2); 0: none */
	uint64_t retransmit_at;
	uint32_t retransmit; /* copies of Q(G) still to send */
	uint32_t n_sources, cap_sources, n_hosts, cap_hosts;
	struct source *sources; /* sorted */
	struct host *hosts;	/* sorted */
	struct filter fixed;	/* is_static */
	struct filter last;	/* has_last: the view that was told last */
};

struct family {
	uint64_t next_general; /* UINT64_MAX: never */
	uint32_t startup_left;
	uint64_t other_until; /* another querier rules */
	bool other_elsewhere; /* it is on another port: its queries are passed on to this one */
	uint64_t older_until; /* a querier of an older version is on the link */
	enum gmp_version older;
	uint32_t robustness, query_interval_ms; /* the elected querier's; 0: ours */
	uint64_t router_until;
};

struct port {
	struct timer timer; /* first */
	struct gmp *gmp;
	struct port *next;
	struct group *groups;
	uint32_t id, tag, n_groups;
	bool is_router;
	bool takes_reports; /* a router port that gets the reports of hosts as they are */
	struct proxy *proxy[2];
	struct gmp_config config; /* with zeroes resolved */
	struct family family[2];
	uint64_t tokens_milli, tokens_at;
	uint64_t counters[GMP_C_COUNT];
};

#define PORT_BUCKETS 1024

struct gmp {
	struct port *ports[PORT_BUCKETS];
	struct group **table; /* open addressing, linear probing */
	size_t table_size, n_groups, n_ports, n_takers;
	struct timer **heap; /* heap[0] unused */
	size_t heap_n, heap_cap;
	struct addr *scratch; /* sources of one record */
	size_t scratch_cap;
};

static inline void count(struct port *port, enum gmp_counter c)
{
	port->counters[c]++;
}

/* timer.c */
int timer_reserve(struct gmp *gmp);
void timer_lower(struct gmp *gmp, struct timer *t, uint64_t due);
void timer_set(struct gmp *gmp, struct timer *t, uint64_t due);
void timer_remove(struct gmp *gmp, struct timer *t);

/* effects.c */
struct gmp_fx_item *fx_push(struct gmp_fx *fx, enum gmp_fx_type type, uint32_t port);
struct gmp_fx_item *fx_frame(struct gmp_fx *fx, enum gmp_fx_type type, uint32_t port,
			     const uint8_t *frame, size_t len);

/* querier.c */
uint64_t port_membership_ms(const struct port *port, bool v6);
uint64_t port_last_member_ms(const struct port *port);
uint64_t port_older_host_ms(const struct port *port, bool v6);
enum gmp_version port_version(const struct port *port, bool v6, uint64_t now);
bool port_is_querier(const struct port *port, bool v6, uint64_t now);
void port_send_query(struct port *port, bool v6, const struct addr *group,
		     const struct addr *sources, size_t n, bool s_flag, uint64_t now,
		     struct gmp_fx *fx);
void port_start(struct port *port, uint64_t now, struct gmp_fx *fx);
void port_reconfigured(struct port *port, const bool was_querier[2], uint64_t now,
		       struct gmp_fx *fx);
uint64_t port_other_querier_ms(const struct port *port, bool v6);
struct addr port_own_source(const struct port *port, bool v6);
uint64_t port_next(const struct port *port);
bool port_may_query(const struct port *port, bool v6);
void port_expire(struct port *port, uint64_t now, struct gmp_fx *fx);
bool port_query_input(struct port *port, const struct wire_message *m, uint64_t now,
		      struct gmp_fx *fx);
bool port_takes_queries(const struct port *port, bool v6, uint64_t now);
void port_query_passed(struct port *port, const struct wire_message *m, uint64_t now);

/* router.c */
bool port_is_proxied(const struct port *port);
void port_router_update(struct port *port, struct gmp_fx *fx);
void port_router_lost(struct port *port, struct gmp_fx *fx);
void port_router_restore(struct port *port, uint64_t now, struct gmp_fx *fx);
void port_proxy_configure(struct port *port);
void port_proxy_expire(struct port *port, uint64_t now, struct gmp_fx *fx);
int port_proxy_want(struct port *port, const struct addr *group, const struct filter *filter,
		    uint64_t now);

/* group.c */
struct group *group_find(const struct gmp *gmp, uint32_t port, const struct addr *addr);
int group_get(struct port *port, const struct addr *addr, struct group **ret_group);
void group_free(struct group *g);
void group_record(struct port *port, const struct addr *addr, unsigned int type, bool v6,
		  const uint8_t *sources, size_t n, const struct addr *host,
		  enum gmp_version version, uint64_t now, struct gmp_fx *fx);
void group_expire(struct group *g, uint64_t now, struct gmp_fx *fx);
void group_lower(struct group *g, const struct wire_message *m, uint64_t now);
void group_cut(struct group *g, uint64_t now);
void group_settle(struct group *g, struct gmp_fx *fx);
void group_remember(struct group *g);
int group_restore(struct group *g, const struct filter *filter, uint64_t now);
const struct source *group_source(const struct group *g, const struct addr *a);

/* view.c */
int group_view(const struct group *g, struct filter *ret_filter);
