/* SPDX-License-Identifier: Apache-2.0 */
#include "controller/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/http.h"
#include "controller/node_service.h"

#define STATUS_NODES_MAX 1000 /* rows of the page */

struct view {
	size_t connected, stale, draining, segments;
	uint64_t members, lag_revisions, lag_us;
};

static struct view view_of(struct controller *c)
{
	struct view v = { .segments = log_segment_count(c->log) };
	struct registry_node *node;
	struct session *s;

	for (node = registry_changed_after(c->registry, 0); node;
	     node = TAILQ_NEXT(node, by_serial)) {
		const struct log_node *log_node = log_node_find(c->log, node->name);

		v.members += log_node ? log_node->n_members : 0;
		if (node->draining)
			v.draining++;
		else if (registry_is_alive(node))
			v.connected++;
		else
			v.stale++;
	}
	for (s = sessions_first(c->sessions); s; s = TAILQ_NEXT(s, all)) {
		struct feed_lag lag = { 0 };

		if (s->state == SESSION_ACTIVE)
			feed_lag(c->feed, s, controller_now_us(), &lag);
		v.lag_revisions = lag.revisions > v.lag_revisions ? lag.revisions : v.lag_revisions;
		v.lag_us = lag.us > v.lag_us ? lag.us : v.lag_us;
	}
	return v;
}

static bool render_metrics(struct controller *c, struct metrics *m)
{
	struct view v = view_of(c);

	metrics_process(m);
	metrics_family(m, "mcmesh_controller_info", "gauge",
		       "Always 1; name and store are labels.");
	metrics_sample(m, 1, "name", c->config->name, "store", c->store->ops->scheme, NULL);
#define ONE(value, name, type, help)	   metrics_one(m, name, type, help, (double)(value));
#define FAMILY(name, type, help)	   metrics_family(m, name, type, help);
#define SAMPLE(value, label, is)	   metrics_sample(m, (double)(value), label, is, NULL);
#define HISTOGRAM(value, name, type, help) metrics_histogram(m, name, help, value);
#include "controller/metrics.def"
#undef ONE
#undef FAMILY
#undef SAMPLE
#undef HISTOGRAM
	return true;
}

static bool render_health(struct controller *c, struct metrics *m)
{
	if (c->draining)
		metrics_printf(m, "draining\n");
	else if (!c->serving)
		metrics_printf(m, "the store makes no progress\n");
	else if (c->stuck)
		metrics_printf(m, "%s\n", c->store->trouble ?: "the store does not commit");
	else
		metrics_printf(m, "ok\n");
	return controller_is_serving(c);
}

static void status_node(struct controller *c, struct metrics *m, const struct registry_node *node)
{
	const struct log_node *log_node = log_node_find(c->log, node->name);
	char address[ADDR_TEXT_MAX];

	metrics_printf(m, "<tr><td>");
	metrics_html(m, node->name);
	metrics_printf(m, "<td>%s<td>%s<td>%u<td>%" PRIu64 "<td>",
		       addr_format(&node->vtep, address),
		       node->draining		 ? "draining"
		       : registry_is_alive(node) ? "connected"
						 : "stale",
		       log_node ? log_node->n_members : 0,
		       node->session ? session_applied(node->session) : 0);
	metrics_html(m, node->version);
	metrics_printf(m, "\n");
}

static bool render_status(struct controller *c, struct metrics *m)
{
	struct view v = view_of(c);
	struct log_row *row;
	size_t n = 0;

	metrics_printf(m,
		       "<!doctype html><html lang=en><meta charset=utf-8><title>mcmesh-controller "
		       "</title><style>body{font-family:sans-serif}td,th{padding:0 1em 0 0;"
		       "text-align:left}</style><h1>mcmesh-controller ");
	metrics_html(m, c->config->name);
	metrics_printf(m,
		       "</h1><p>version " MCMESH_VERSION ", store %s, %s, revision %" PRIu64
		       "<p>%zu nodes connected, %zu stale, %zu draining; %" PRIu64
		       " members; the slowest agent is %.3f s behind"
		       "<p><a href=/metrics>metrics</a> <a href=/healthz>health</a><table>"
		       "<tr><th>node<th>address<th>state<th>members<th>revision<th>version\n",
		       c->store->ops->scheme, controller_is_serving(c) ? "serving" : "not serving",
		       log_revision(c->log), v.connected, v.stale, v.draining, v.members,
		       (double)v.lag_us / 1e6);
	for (row = log_seek(c->log, LOG_NODE, 0, &ADDR_NULL, "", "");
	     row && row->key.kind == LOG_NODE && n < STATUS_NODES_MAX; row = row->next[0]) {
		struct registry_node *node = registry_find(c->registry, row->node->name);

		if (!row->deleted && node) {
			status_node(c, m, node);
			n++;
		}
	}
	metrics_printf(m, "</table>%s</html>\n",
		       n == STATUS_NODES_MAX ? "<p>More: mcmeshctl node list" : "");
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

static void wake(void *userdata)
{
	rpc_wake(((struct controller *)userdata)->rpc);
}

int controller_metrics_start(struct controller *c, char why[CONTROLLER_WHY_MAX])
{
	const struct http_options options = {
		.listen = c->config->metrics, .render = render, .wake = wake, .userdata = c
	};
	int r = c->config->metrics ? http_new(&options, &c->http) : 0;

	if (r == -EINVAL)
		snprintf(why, CONTROLLER_WHY_MAX,
			 "metrics: \"%s\" is not HOST:PORT, [IPV6]:PORT or unix:/PATH with a "
			 "numeric address",
			 options.listen);
	else if (r < 0)
		snprintf(why, CONTROLLER_WHY_MAX, "metrics: cannot listen on %s: %s",
			 options.listen, strerror(-r));
	return r;
}
