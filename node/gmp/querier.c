/* SPDX-License-Identifier: Apache-2.0 */
#include "node/gmp/internal.h"

static uint64_t robustness(const struct port *p, bool v6)
{
	return p->family[v6].robustness ? p->family[v6].robustness : p->config.robustness;
}

static uint64_t query_interval(const struct port *p, bool v6)
{
	return p->family[v6].query_interval_ms ? p->family[v6].query_interval_ms
					       : p->config.query_interval_ms;
}

uint64_t port_membership_ms(const struct port *port, bool v6)
{
	if (port->config.membership_interval_ms)
		return port->config.membership_interval_ms;
	return robustness(port, v6) * query_interval(port, v6) +
	       2ull * port->config.query_response_interval_ms;
}

uint64_t port_last_member_ms(const struct port *port)
{
	return (uint64_t)port->config.last_member_query_interval_ms *
	       port->config.last_member_query_count;
}

/* 8.13 */
uint64_t port_older_host_ms(const struct port *port, bool v6)
{
	return robustness(port, v6) * query_interval(port, v6) +
	       port->config.query_response_interval_ms;
}

uint64_t port_other_querier_ms(const struct port *p, bool v6)
{
	return robustness(p, v6) * query_interval(p, v6) + p->config.query_response_interval_ms / 2;
}

bool port_may_query(const struct port *port, bool v6)
{
	return port->config.querier && (!v6 || !addr_is_null(&port->config.query_source_v6));
}

bool port_is_querier(const struct port *port, bool v6, uint64_t now)
{
	return port_may_query(port, v6) && port->family[v6].other_until <= now;
}

struct addr port_own_source(const struct port *p, bool v6)
{
	if (v6)
		return p->config.query_source_v6;
	return addr_is_null(&p->config.query_source_v4) ? addr_v4_be32(0)
							: p->config.query_source_v4;
}

/* What the querier speaks: no newer than any querier of the link (7.3.1). */
enum gmp_version port_version(const struct port *port, bool v6, uint64_t now)
{
	const struct family *f = &port->family[v6];
	enum gmp_version ours = v6 ? port->config.mld_version : port->config.igmp_version;

	return f->older_until > now && f->older < ours ? f->older : ours;
}

/* Sources may be named only where port_version() knows them. */
void port_send_query(struct port *port, bool v6, const struct addr *group,
		     const struct addr *sources, size_t n, bool s_flag, uint64_t now,
		     struct gmp_fx *fx)
{
	const struct gmp_config *c = &port->config;
	bool general = addr_is_unspecified(group);
	uint8_t frame[WIRE_FRAME_MAX];
	struct wire_query q = {
		.version = port_version(port, v6, now),
		.source = port_own_source(port, v6),
		.group = *group,
		.max_response_ms =
			general ? c->query_response_interval_ms : c->last_member_query_interval_ms,
		.query_interval_s = c->query_interval_ms / 1000,
		.robustness = c->robustness,
		.s_flag = s_flag,
	};
	size_t off = 0;

	memcpy(q.mac, c->query_mac, 6);
	do {
		size_t part = n - off, max = wire_query_max_sources(v6);

		q.n_sources = (uint16_t)(part > max ? max : part);
		q.sources = n ? sources + off : NULL;
		off += q.n_sources;
		fx_frame(fx, GMP_FX_QUERY, port->id, frame, wire_query_encode(&q, frame));
		count(port, GMP_C_queries_sent);
	} while (off < n);
}

uint64_t port_next(const struct port *p)
{
	uint64_t next = UINT64_MAX;

	for (int v6 = 0; v6 < 2; v6++) {
		const struct family *f = &p->family[v6];

		if (f->next_general < next)
			next = f->next_general;
		if (f->other_until && f->other_until < next)
			next = f->other_until;
		if (f->router_until && f->router_until < next)
			next = f->router_until;
		if (p->proxy[v6] && proxy_next_ms(p->proxy[v6]) < next)
			next = proxy_next_ms(p->proxy[v6]);
	}
	return next;
}

void port_start(struct port *port, uint64_t now, struct gmp_fx *fx)
{
	for (int v6 = 0; v6 < 2; v6++) {
		struct family *f = &port->family[v6];

		f->startup_left = port->config.startup_query_count;
		f->next_general = port_is_querier(port, v6, now) ? now : UINT64_MAX;
	}
	port_expire(port, now, fx);
}

static void other_forget(struct family *f)
{
	f->other_until = 0;
	f->other_elsewhere = false;
	f->robustness = f->query_interval_ms = 0;
}

/* A querier that goes on asks no more often than before; a new one starts. */
void port_reconfigured(struct port *port, const bool was_querier[2], uint64_t now,
		       struct gmp_fx *fx)
{
	const struct gmp_config *c = &port->config;

	port_proxy_configure(port);
	for (int v6 = 0; v6 < 2; v6++) {
		struct family *f = &port->family[v6];
		uint64_t other = now + port_other_querier_ms(port, v6), general = now;

		if (f->other_until > other)
			f->other_until = other;
		if (f->older_until > other)
			f->older_until = other;
		if (f->router_until > other)
			f->router_until = other;
		if (f->other_elsewhere && port_may_query(port, v6))
			other_forget(f);
		if (f->startup_left > c->startup_query_count)
			f->startup_left = c->startup_query_count;
		if (!port_is_querier(port, v6, now)) {
			f->next_general = UINT64_MAX;
			continue;
		}
		if (!was_querier[v6])
			f->startup_left = c->startup_query_count;
		else
			general += f->startup_left ? c->startup_query_interval_ms
						   : c->query_interval_ms;
		if (f->next_general > general)
			f->next_general = general;
	}
	port_expire(port, now, fx);
}

void port_expire(struct port *port, uint64_t now, struct gmp_fx *fx)
{
	for (int v6 = 0; v6 < 2; v6++) {
		struct family *f = &port->family[v6];

		if (f->router_until && f->router_until <= now)
			f->router_until = 0;
		if (f->other_until && f->other_until <= now) {
			other_forget(f);
			f->next_general = port_may_query(port, v6) ? now : UINT64_MAX;
		}
		if (f->next_general > now)
			continue;
		port_send_query(port, v6, &ADDR_NULL, NULL, 0, false, now, fx);
		if (f->startup_left)
			f->startup_left--;
		f->next_general = now + (f->startup_left ? port->config.startup_query_interval_ms
							 : port->config.query_interval_ms);
	}
	port_router_update(port, fx);
	port_proxy_expire(port, now, fx);
	timer_set(port->gmp, &port->timer, port_next(port));
}

/*
 * Election (6.6.2): any query of a lower address than ours, general or specific
 * and whatever its S flag says (4.1.5), starts the timer anew, also that of a
 * second such router; ours of 0.0.0.0 never wins.
 */
static void elect(struct port *p, const struct wire_message *m, uint64_t now)
{
	struct family *f = &p->family[m->v6];
	struct addr own = port_own_source(p, m->v6);

	if (port_may_query(p, m->v6) && !addr_is_unspecified(&own) &&
	    addr_cmp(&m->source, &own) > 0)
		return;
	/* 4.1.6, 4.1.7: zero stands for our own. */
	f->robustness = m->qrv;
	f->query_interval_ms = m->query_interval_s * 1000;
	f->other_until = now + port_other_querier_ms(p, m->v6);
	f->other_elsewhere = false;
	f->next_general = UINT64_MAX;
	f->startup_left = 0;
}

/* What any query does to the port that hears it. */
static void hear(struct port *port, const struct wire_message *m, uint64_t now)
{
	struct group *g =
		addr_is_unspecified(&m->group) ? NULL : group_find(port->gmp, port->id, &m->group);

	timer_set(port->gmp, &port->timer, port_next(port));
	if (g && !m->s_flag)
		group_lower(g, m, now);
}

/*
 * The hosts of a port hear a router on another port (RFC 4541 2.1.1) where nothing
 * stands between them: where we do not ask, or where the router waits for their own
 * reports. Else our querier asks them and the proxy answers the router, and a query
 * that was passed on would only put them into the router's older version (RFC 9776
 * 7.2.1), or let any workload do so to its neighbours.
 */
bool port_takes_queries(const struct port *port, bool v6, uint64_t now)
{
	return !port->config.proxy || !port_is_querier(port, v6, now);
}

/* The router rules where we may not ask; where we may, that is between us and
 * who is on the port. */
void port_query_passed(struct port *port, const struct wire_message *m, uint64_t now)
{
	if (port_is_querier(port, m->v6, now))
		return; /* and ends groups itself */
	if (!port_may_query(port, m->v6)) {
		elect(port, m, now);
		port->family[m->v6].other_elsewhere = true;
	}
	hear(port, m, now);
}

/* 7.3.1: a warning, and not again before that querier was silent for its time. */
static void older_warn(const struct port *port, const struct wire_message *m, uint64_t now,
		       struct gmp_fx *fx)
{
	struct gmp_fx_item *item;

	if (port->family[m->v6].older_until > now ||
	    m->version >= (m->v6 ? port->config.mld_version : port->config.igmp_version))
		return;
	item = fx_push(fx, GMP_FX_OLDER, port->id);
	if (item)
		item->version = m->version;
}

/* True: it was applied. */
bool port_query_input(struct port *port, const struct wire_message *m, uint64_t now,
		      struct gmp_fx *fx)
{
	struct family *f = &port->family[m->v6];
	struct addr own = port_own_source(port, m->v6);

	/* Who configured a router there wants to hear it. */
	if (port->config.querier_guard && port->config.router != GMP_ROUTER_ALWAYS) {
		count(port, GMP_C_querier_guard);
		return false;
	}
	if (m->v6 && !addr_is_link_local_unicast(&m->source)) {
		count(port, GMP_C_bad_source); /* RFC 9777 5.1.14 */
		return false;
	}
	if (!addr_is_unspecified(&own) && addr_equal(&own, &m->source)) {
		count(port, GMP_C_own_query);
		return false;
	}
	count(port, GMP_C_queries_received);
	if (!addr_is_unspecified(&m->source)) {
		/* First, as the timers follow what the elected querier says. */
		elect(port, m, now);
		f->router_until = now + port_other_querier_ms(port, m->v6);
		older_warn(port, m, now, fx);
		/* 7.3.1: the lowest version on the link. */
		if (f->older_until <= now || m->version <= f->older) {
			f->older = m->version;
			f->older_until = f->router_until;
		}
		port_router_update(port, fx);
	}
	if (port->proxy[m->v6])
		proxy_query(port->proxy[m->v6], m, now);
	hear(port, m, now);
	return true;
}
