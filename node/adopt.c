/* SPDX-License-Identifier: Apache-2.0 */
#include "node/agent_internal.h"

/*
 * The start on maps that a previous agent left: what they say becomes filters of
 * ports and nodes, and those seed the engine and the mirror. Nothing is emptied
 * first; what is no more is taken out at the end.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"

static int adopt_route(const struct datapath_route *route, void *userdata)
{
	struct agent *a = userdata;

	if (agent_has_segment(a, route->segment))
		return fib_adopt(a->fib, route);
	/* No port is in it any more: nobody would ever take that out. */
	datapath_route_del(a->datapath, route->kind, route->segment, &route->group, &route->source);
	return 0;
}

static int adopt_remote(const struct addr *vtep, const char *node, void *userdata)
{
	struct agent *a = userdata;

	return mirror_seed_node(a->mirror, node, vtep);
}

static int adopt_segment(const struct datapath_segment *segment, void *userdata)
{
	struct agent *a = userdata;

	/* Segment 0 has the settings, of which the maps keep only some: a snapshot of it. */
	if (!segment->id)
		return 0;
	if (!agent_has_segment(a, segment->id)) {
		datapath_segment_del(a->datapath, segment->id);
		return 0;
	}
	mirror_seed_revision(a->mirror, segment->id, segment->revision);
	fib_routers_across(a->fib, segment->id, !segment->routers_within);
	return settings_seed(a->settings, segment);
}

static void adopt_receiver(const struct fib_adopted *adopted, void *userdata)
{
	struct agent *a = userdata;
	struct agent_adopted *saved;

	if (!adopted->port) {
		/* A VTEP that no node has any more (it got another one just then) would
		 * stay in the maps for ever: nobody would ever withdraw it. */
		if (mirror_seed_member(a->mirror, adopted->segment, adopted->group, adopted->vtep,
				       adopted->filter) == -ENOENT)
			fib_remote_set(a->fib, adopted->segment, adopted->group, adopted->vtep,
				       &FILTER_NULL);
		return;
	}
	saved = calloc(1, sizeof(*saved));
	if (!saved || filter_copy(&saved->filter, adopted->filter) < 0) {
		free(saved);
		return;
	}
	saved->port = adopted->port;
	saved->segment = adopted->segment;
	saved->group = *adopted->group;
	saved->next = a->adopted;
	a->adopted = saved;
}

int agent_adopt(struct agent *a)
{
	struct datapath_meta meta;
	int r;

	mirror_seed_self(a->mirror, &a->config->vtep);
	if (!datapath_adopted(a->datapath))
		return 0;
	r = datapath_meta_get(a->datapath, &meta);
	if (r < 0)
		return r;
	mirror_epoch_set(a->mirror, meta.epoch);
	r = datapath_remotes_walk(a->datapath, adopt_remote, a);
	if (r >= 0)
		r = datapath_routes_walk(a->datapath, adopt_route, a);
	if (r >= 0)
		r = fib_adopt_done(a->fib, adopt_receiver, a);
	if (r >= 0)
		r = datapath_segments_walk(a->datapath, adopt_segment, a);
	return r;
}

struct stale_ports {
	struct agent *a;
	uint32_t ifindex[256];
	size_t n;
};

static int stale_port(const struct datapath_port *port, void *userdata)
{
	struct stale_ports *stale = userdata;

	if (!agent_port_find(stale->a, port->ifindex) && stale->n < ARRAY_SIZE(stale->ifindex))
		stale->ifindex[stale->n++] = port->ifindex;
	return 0;
}

/* They stay router ports for one other-querier interval, like after a query. */
static int router_restore(const struct datapath_route *route, void *userdata)
{
	struct agent *a = userdata;

	if (route->kind != DATAPATH_ROUTE_ROUTERS)
		return 0;
	for (size_t i = 0; i < route->n_ports; i++)
		gmp_port_restore_router(a->gmp, route->ports[i], agent_engine_ms(a), &a->fx);
	return 0;
}

/* Ports that the previous agent had and that are no more, or no longer ours. */
void agent_adopt_finish(struct agent *a)
{
	struct agent_adopted *saved;

	while ((saved = a->adopted)) {
		const struct agent_port *port = agent_port_find(a, saved->port);

		a->adopted = saved->next;
		if (!port || port->fresh)
			fib_port_forget(a->fib, saved->port);
		else if (port->segment != saved->segment)
			fib_local_set(a->fib, saved->segment, &saved->group, saved->port,
				      &FILTER_NULL);
		filter_deinit(&saved->filter);
		free(saved);
	}
	datapath_routes_walk(a->datapath, router_restore, a);
	agent_effects_run(a);
	fib_flush(a->fib);
	for (;;) {
		struct stale_ports stale = { .a = a };

		datapath_ports_walk(a->datapath, stale_port, &stale);
		for (size_t i = 0; i < stale.n; i++)
			datapath_port_detach(a->datapath, stale.ifindex[i]);
		if (stale.n < ARRAY_SIZE(stale.ifindex))
			break;
	}
	a->lists_due = true;
	agent_lists_write(a);
	a->adopting = false;
}
