/* SPDX-License-Identifier: Apache-2.0 */
#include "node/agent_internal.h"

/*
 * Why a port gets a group, or does not: the facts in the order in which a
 * packet meets them. The kernel's entry decides; the engine's state says why it
 * is as it is.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

static void say(struct agent_explanation *e, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void say(struct agent_explanation *e, const char *format, ...)
{
	char **grown = reallocarray(e->reasons, e->n_reasons + 1, sizeof(*grown));
	va_list args;
	char *text;

	if (!grown)
		return;
	e->reasons = grown;
	va_start(args, format);
	if (vasprintf(&text, format, args) >= 0)
		e->reasons[e->n_reasons++] = text;
	va_end(args);
}

void agent_explanation_deinit(struct agent_explanation *e)
{
	for (size_t i = 0; i < e->n_reasons; i++)
		free(e->reasons[i]);
	free(e->reasons);
}

struct question {
	struct agent *a;
	const struct agent_port *port;
	const struct addr *group, *source;
	char group_text[ADDR_TEXT_MAX], source_text[ADDR_TEXT_MAX];
	struct agent_explanation *e;
};

/* ---- the port --------------------------------------------------------------- */

static bool port_stage(struct question *q, const char *name)
{
	if (!q->port) {
		say(q->e,
		    "%s is not a port: no interface of this name matches a pattern in the agent's "
		    "configuration (ports:).",
		    name);
		return false;
	}
	if (!q->port->attached) {
		say(q->e, "%s is not attached: %s.", name, q->port->detail);
		return false;
	}
	say(q->e, "%s is a port of segment %u.", name, q->port->segment);
	if (!q->port->carrier) {
		say(q->e, "The link of %s is down: copies to it fail. Bring the workload's end up.",
		    name);
		return false;
	}
	return true;
}

/* ---- the membership --------------------------------------------------------- */

static int membership_reason(const struct gmp_membership_view *view, void *userdata)
{
	struct question *q = userdata;
	uint64_t now_ms = agent_engine_ms(q->a);

	say(q->e, "A host behind it asked for %s: %s, %zu sources, %zu hosts known%s.",
	    q->group_text,
	    view->mode == FILTER_EXCLUDE ? "every source but those it excludes"
					 : "only the sources that it names",
	    view->n_sources, view->n_hosts, view->is_static ? ", by configuration" : "");
	if (view->expires_ms != UINT64_MAX && view->expires_ms > now_ms)
		say(q->e, "Unless a report refreshes it, this ends in %llu s.",
		    (unsigned long long)((view->expires_ms - now_ms + 999) / 1000));
	return 1;
}

static enum datapath_unregistered unregistered_of(const struct question *q)
{
	struct datapath_segment s = { .id = q->port->segment };

	settings_datapath(q->a->settings, &s);
	return s.unregistered;
}

static bool membership_stage(struct question *q)
{
	struct filter filter = FILTER_NULL;
	bool wanted;

	if (gmp_port_is_router(q->a->gmp, q->port->ifindex)) {
		say(q->e, "%s is a router port: it gets every group of the segment.",
		    q->port->name);
		return true;
	}
	if (gmp_membership_view(q->a->gmp, q->port->ifindex, q->group, membership_reason, q) <= 0) {
		say(q->e,
		    "No host behind %s has asked for %s, or its membership has run out: have the "
		    "application join on the interface behind this port.",
		    q->port->name, q->group_text);
		/* If nobody else did either, it is flooded. */
		return unregistered_of(q) == DATAPATH_UNREGISTERED_FLOOD;
	}
	if (gmp_membership_filter(q->a->gmp, q->port->ifindex, q->group, &filter) < 0)
		return false;
	wanted = addr_is_null(q->source) ? filter_wants_any(&filter)
					 : filter_wants(&filter, q->source);
	filter_deinit(&filter);
	if (wanted)
		return true;
	if (addr_is_null(q->source))
		say(q->e, "The port takes %s only from sources that it names: ask with --source.",
		    q->group_text);
	else
		say(q->e, "The port's source filter keeps %s out.", q->source_text);
	return false;
}

/* ---- the kernel's entry ----------------------------------------------------- */

struct lookup {
	struct question *q;
	bool exact, any;
	bool exact_has, any_has, routers_has;
};

static int lookup_route(const struct datapath_route *route, void *userdata)
{
	struct lookup *l = userdata;
	const struct question *q = l->q;
	bool has = false;

	if (route->segment != q->port->segment)
		return 0;
	for (size_t i = 0; i < route->n_ports; i++)
		has = has || route->ports[i] == q->port->ifindex;
	if (route->kind == DATAPATH_ROUTE_ROUTERS)
		l->routers_has = has;
	if (route->kind != DATAPATH_ROUTE_GROUP || !addr_equal(&route->group, q->group))
		return 0;
	if (addr_is_null(&route->source)) {
		l->any = true;
		l->any_has = has;
	} else if (addr_equal(&route->source, q->source)) {
		l->exact = true;
		l->exact_has = has;
	}
	return 0;
}

static void remote_reason(const char *node, const struct filter *filter, void *userdata)
{
	/* Only counts: a list of a thousand nodes explains nothing. */
	(*(size_t *)userdata)++;
}

/* Nobody joined it: the segment says who gets it. */
static bool unregistered_stage(struct question *q, bool router)
{
	enum datapath_unregistered unregistered = unregistered_of(q);

	say(q->e, "The kernel has no entry for %s in segment %u.", q->group_text, q->port->segment);
	if (unregistered == DATAPATH_UNREGISTERED_FLOOD)
		say(q->e, "The segment floods groups that nobody joined.");
	else if (unregistered == DATAPATH_UNREGISTERED_DROP)
		say(q->e, "The segment drops groups that nobody joined.");
	else if (router)
		say(q->e, "Groups that nobody joined go to router ports, and it is one.");
	return unregistered == DATAPATH_UNREGISTERED_FLOOD ||
	       (unregistered == DATAPATH_UNREGISTERED_ROUTER_PORTS && router);
}

static bool entry_stage(struct question *q)
{
	struct lookup l = { .q = q };
	size_t remote_members = 0, remote_routers = 0;
	bool has;

	if (datapath_routes_walk(q->a->datapath, lookup_route, &l) < 0) {
		say(q->e, "The kernel's maps could not be read.");
		return false;
	}
	has = l.exact ? l.exact_has : l.any_has;
	if (l.exact)
		say(q->e, "The kernel's entry (%s, %s) %s it.", q->source_text, q->group_text,
		    has ? "lists" : "does not list");
	else if (l.any)
		say(q->e, "The kernel's entry (*, %s) %s it.", q->group_text,
		    has ? "lists" : "does not list");
	else
		has = unregistered_stage(q, l.routers_has);
	mirror_members_walk(q->a->mirror, q->port->segment, q->group, remote_reason,
			    &remote_members);
	say(q->e, "%zu other nodes are members.", remote_members);
	mirror_members_walk(q->a->mirror, q->port->segment, &ADDR_NULL, remote_reason,
			    &remote_routers);
	if (remote_routers)
		say(q->e, "%zu other nodes have router ports and get every group.", remote_routers);
	if (uplink_refusal(q->a->uplink, q->port->segment, q->group))
		say(q->e,
		    "The controller refused this node's membership, so senders on other nodes "
		    "do not send here: %s.",
		    uplink_refusal(q->a->uplink, q->port->segment, q->group));
	if (uplink_controller(q->a->uplink)[0])
		say(q->e, "Senders on other nodes know of this node through the controller at %s.",
		    uplink_controller(q->a->uplink));
	else
		say(q->e,
		    "There is no session with a controller (%s): senders on other nodes learn of "
		    "a new member only when it is back.",
		    uplink_detail(q->a->uplink));
	return has;
}

int agent_explain(struct agent *a, const char *port, const struct addr *group,
		  const struct addr *source, struct agent_explanation *ret_explanation)
{
	struct agent_explanation e = { 0 };
	struct question q = {
		.a = a,
		.port = agent_port_find_name(a, port),
		.group = group,
		.source = source,
		.e = &e,
	};

	addr_format(group, q.group_text);
	addr_format(source, q.source_text);
	agent_settle(a);
	if (!port_stage(&q, port)) {
		e.delivered = false;
	} else if (addr_is_link_local_group(group)) {
		say(&e, "%s is link-local: every port of the segment gets it, joined or not.",
		    q.group_text);
		e.delivered = true;
	} else if (membership_stage(&q)) {
		e.delivered = entry_stage(&q);
	}
	*ret_explanation = e;
	return 0;
}
