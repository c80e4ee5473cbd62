/* SPDX-License-Identifier: Apache-2.0 */
#include "node/metrics.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/http.h"
#include "node/agent_views.h"

struct view {
	size_t up, down, refused, router, peer, memberships, remotes, direct;
};

static struct view view_of(const struct agent *a)
{
	struct view v = { .remotes = HASH_COUNT(a->remotes) };
	struct agent_port *port, *next;
	struct agent_remote *remote, *next_remote;

	HASH_ITER (hh, a->remotes, remote, next_remote)
		v.direct += remote->direct;
	HASH_ITER (hh, a->ports, port, next) {
		v.peer += port->attached && port->peer;
		v.refused += !port->attached;
		v.up += port->attached && port->carrier;
		v.down += port->attached && !port->carrier;
		if (!port->in_engine)
			continue;
		v.router += gmp_port_is_router(a->gmp, port->ifindex);
		v.memberships += gmp_port_membership_count(a->gmp, port->ifindex);
	}
	return v;
}

/* What docs/counters.md says of a counter. */
static const char *counter_help(const char *name)
{
	static const struct {
		const char *name, *help;
	} all[] = {
#define COUNTER(id, text, doc) { text, doc },
#include "bpf/counters.def"
#undef COUNTER
#define DROP_REASON(id, text, doc) { "drop_" text, doc },
#include "bpf/drop_reasons.def"
#undef DROP_REASON
#define GMP_COUNTER(id, doc) { "gmp_" #id, doc },
#include "node/gmp/counters.def"
#undef GMP_COUNTER
		{ "rx_multicast", "multicast that came from the port's workloads" },
		{ "copy_port", "copies to the port" },
		{ "copy_port_gone", "copies left out: the port's device is gone" },
		{ "copy_port_down", "copies left out: the port's link is down" },
		{ "copy_port_refused", "copies that the port's device did not take" },
		{ "punt", "IGMP and MLD frames of the port for the agent" },
		{ "punt_lost", "IGMP and MLD frames of the port that were lost" },
		{ "drop_port", "packets of the port that were dropped" },
		{ "rx_overlay", "packets that came from the node" },
		{ "copy_remote", "copies to the node" },
		{ "copy_remote_by_device",
		  "of the copies to the node: through the overlay device" },
		{ "copy_remote_failed", "copies to the node that could not be sent" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		if (strcmp(all[i].name, name) == 0)
			return all[i].help;
	}
	return "events of the agent";
}

static void counter_sample(struct metrics *m, const Mcmesh__V1__Counter *c, uint64_t value)
{
	const char *labels[8] = { NULL };
	char segment[16];
	size_t n = 0;

	snprintf(segment, sizeof(segment), "%u", c->segment);
	if (c->segment) {
		labels[n++] = "segment";
		labels[n++] = segment;
	}
	if (c->port[0]) {
		labels[n++] = "port";
		labels[n++] = c->port;
	}
	if (c->remote[0]) {
		labels[n++] = "remote";
		labels[n++] = c->remote;
	}
	metrics_sample(m, (double)value, labels[0], labels[1], labels[2], labels[3], labels[4],
		       labels[5], NULL);
}

/* Those of one name: their packets, and their bytes where they have some. */
static void counters_family(struct metrics *m, Mcmesh__V1__Counter *const *rows, size_t n,
			    bool bytes)
{
	char name[128];

	snprintf(name, sizeof(name), "mcmesh_%s%s_total", rows[0]->name, bytes ? "_bytes" : "");
	metrics_family(m, name, "counter", counter_help(rows[0]->name));
	for (size_t i = 0; i < n; i++)
		counter_sample(m, rows[i], bytes ? rows[i]->bytes : rows[i]->packets);
}

static void counters_write(struct agent *a, struct metrics *m)
{
	struct view_counters list;

	/* In the order of their names. Not of each group: that many series are for who asks. */
	view_counters_collect(a, "", false, &list);
	for (size_t i = 0, end; i < list.n; i = end) {
		bool bytes = false;

		for (end = i; end < list.n && !strcmp(list.rows[end]->name, list.rows[i]->name);
		     end++)
			bytes |= list.rows[end]->bytes != 0;
		counters_family(m, &list.rows[i], end - i, false);
		if (bytes)
			counters_family(m, &list.rows[i], end - i, true);
	}
	view_counters_deinit(&list);
}

static bool render_metrics(struct agent *a, struct metrics *m)
{
	struct view v = view_of(a);

	metrics_process(m);
	metrics_family(m, "mcmesh_agent_info", "gauge",
		       "Always 1; node and controller are labels.");
	metrics_sample(m, 1, "node", a->config->node, "controller", uplink_controller(a->uplink),
		       "attach", datapath_attach_name(a->datapath), NULL);
#define ONE(value, name, type, help) metrics_one(m, name, type, help, (double)(value));
#define FAMILY(name, type, help)     metrics_family(m, name, type, help);
#define SAMPLE(value, label, is)     metrics_sample(m, (double)(value), label, is, NULL);
#include "node/metrics.def"
#undef ONE
#undef FAMILY
#undef SAMPLE
	counters_write(a, m);
	return true;
}

/* Without a controller it forwards and joins go on: that is no fault of the agent's. */
static bool render_health(struct agent *a, struct metrics *m)
{
	metrics_printf(m, "%s\n",
		       a->flush_retry_ms ? "not everything could be written to the kernel's maps"
					 : "ok");
	return !a->flush_retry_ms;
}

static bool render_status(struct agent *a, struct metrics *m)
{
	const char *controller = uplink_controller(a->uplink);
	struct view v = view_of(a);
	struct view_ports ports;

	metrics_printf(m, "<!doctype html><html lang=en><meta charset=utf-8><title>mcmesh-agent"
			  "</title><style>body{font-family:sans-serif}td,th{padding:0 1em 0 0;"
			  "text-align:left}</style><h1>mcmesh-agent ");
	metrics_html(m, a->config->node);
	metrics_printf(m, "</h1><p>version " MCMESH_VERSION ", ");
	metrics_printf(m, controller[0] ? "session with " : "no session: ");
	metrics_html(m, controller[0] ? controller : uplink_detail(a->uplink));
	metrics_printf(m,
		       "<p>%zu memberships, %zu forwarding entries, %zu other nodes"
		       "<p><a href=/metrics>metrics</a> <a href=/healthz>health</a><table>"
		       "<tr><th>port<th>segment<th>state<th>router<th>memberships\n",
		       v.memberships, fib_count(a->fib), v.remotes);
	view_ports_collect(a, &ports);
	for (size_t i = 0; i < ports.n; i++) {
		const Mcmesh__V1__Port *p = ports.rows[i];

		metrics_printf(m, "<tr><td>");
		metrics_html(m, p->name);
		metrics_printf(m, "<td>%u<td>%s<td>%s<td>%u\n", p->segment,
			       p->state == MCMESH__V1__PORT__STATE__UP	   ? "up"
			       : p->state == MCMESH__V1__PORT__STATE__DOWN ? "down"
									   : "refused",
			       p->router ? "yes" : "no", p->membership_count);
	}
	view_ports_deinit(&ports);
	metrics_printf(m, "</table></html>\n");
	return true;
}

static bool render(enum http_page page, struct metrics *out, void *userdata)
{
	switch (page) {
	case HTTP_METRICS:
		return render_metrics(userdata, out);
	case HTTP_HEALTH:
		return render_health(userdata, out);
	default:
		return render_status(userdata, out);
	}
}

int agent_metrics_start(struct agent *a, char why[AGENT_WHY_MAX])
{
	const struct http_options options = { .listen = a->config->metrics,
					      .render = render,
					      .userdata = a };
	int r = options.listen ? http_new_on_event(&options, a->event, &a->http) : 0;

	if (r == -EINVAL)
		snprintf(why, AGENT_WHY_MAX,
			 "metrics: \"%s\" is not HOST:PORT, [IPV6]:PORT or unix:/PATH with a "
			 "numeric address",
			 options.listen);
	else if (r < 0)
		snprintf(why, AGENT_WHY_MAX, "metrics: cannot listen on %s: %s", options.listen,
			 strerror(-r));
	return r;
}
