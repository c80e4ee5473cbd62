/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Router ports (RFC 4541 2.1.1): who is one, and its proxies, which tell it of
 * the members of the segment.
 */
#include "node/gmp/internal.h"

#define UNSOLICITED_INTERVAL_MS 1000 /* RFC 9776 8.11 */

bool port_is_proxied(const struct port *p)
{
	return p->proxy[0] || p->proxy[1];
}

static struct proxy_config proxy_config(const struct port *p, bool v6)
{
	struct proxy_config c = {
		.robustness = p->config.robustness,
		.unsolicited_interval_ms = UNSOLICITED_INTERVAL_MS,
		.query_interval_ms = p->config.query_interval_ms,
		.source = port_own_source(p, v6),
	};

	memcpy(c.mac, p->config.query_mac, sizeof(c.mac));
	return c;
}

/* Different ports, different delays. */
static uint64_t proxy_seed(const struct port *p, bool v6)
{
	uint64_t seed = 0;

	memcpy(&seed, p->config.query_mac, sizeof(p->config.query_mac));
	return seed ^ (uint64_t)p->id << 17 ^ (uint64_t)v6 << 63;
}

/* MLD without a link-local source has no proxy: it could not say anything. */
static bool proxy_due(const struct port *p, bool v6)
{
	return p->is_router && p->config.proxy &&
	       (!v6 || !addr_is_null(&p->config.query_source_v6));
}

static void proxies_update(struct port *p, struct gmp_fx *fx)
{
	bool began = false;

	for (int v6 = 0; v6 < 2; v6++) {
		struct proxy_config config = proxy_config(p, v6);

		if (!proxy_due(p, v6)) {
			proxy_free(p->proxy[v6]);
			p->proxy[v6] = NULL;
		} else if (!p->proxy[v6]) {
			if (proxy_new(v6, &config, proxy_seed(p, v6), &p->proxy[v6]) < 0)
				count(p, GMP_C_no_memory);
			else
				began = true;
		}
	}
	if (began)
		fx_push(fx, GMP_FX_PROXY, p->id);
}

void port_proxy_configure(struct port *p)
{
	for (int v6 = 0; v6 < 2; v6++) {
		struct proxy_config config = proxy_config(p, v6);

		if (p->proxy[v6])
			proxy_configure(p->proxy[v6], &config);
	}
}

struct sending {
	struct port *port;
	struct gmp_fx *fx;
};

static void send_report(const uint8_t *frame, size_t len, void *userdata)
{
	struct sending *s = userdata;

	fx_frame(s->fx, GMP_FX_SEND, s->port->id, frame, len);
	count(s->port, GMP_C_proxy_reports_sent);
}

void port_proxy_expire(struct port *p, uint64_t now, struct gmp_fx *fx)
{
	struct sending s = { .port = p, .fx = fx };

	for (int v6 = 0; v6 < 2; v6++) {
		if (p->proxy[v6] && proxy_next_ms(p->proxy[v6]) <= now)
			proxy_expire(p->proxy[v6], now, send_report, &s);
	}
}

int port_proxy_want(struct port *p, const struct addr *group, const struct filter *filter,
		    uint64_t now)
{
	struct proxy *proxy = p->proxy[!addr_is_v4(group)];
	int r;

	if (!proxy)
		return 0;
	r = proxy_want(proxy, group, filter, now);
	timer_lower(p->gmp, &p->timer, proxy_next_ms(proxy));
	return r;
}

void port_router_update(struct port *p, struct gmp_fx *fx)
{
	bool heard = p->family[0].router_until || p->family[1].router_until;
	bool on =
		p->config.router == GMP_ROUTER_AUTO ? heard : p->config.router == GMP_ROUTER_ALWAYS;
	struct gmp_fx_item *item;

	if (on != p->is_router) {
		p->is_router = on;
		item = fx_push(fx, GMP_FX_ROUTER, p->id);
		if (item)
			item->on = on;
	}
	proxies_update(p, fx);
	if (p->takes_reports != (on && !port_is_proxied(p))) {
		p->takes_reports = !p->takes_reports;
		p->gmp->n_takers += p->takes_reports ? 1 : (size_t)-1;
	}
}

void port_router_restore(struct port *port, uint64_t now, struct gmp_fx *fx)
{
	struct family *f = &port->family[0];

	if (f->router_until)
		return;
	f->router_until = now + port_other_querier_ms(port, false);
	timer_lower(port->gmp, &port->timer, f->router_until);
	port_router_update(port, fx);
}

void port_router_lost(struct port *port, struct gmp_fx *fx)
{
	port->config.router = GMP_ROUTER_NEVER;
	port_router_update(port, fx);
}
