/* SPDX-License-Identifier: Apache-2.0 */
#include "node/agent_internal.h"

/*
 * Segments of this node: the settings that the controller pushes become engine
 * and datapath settings, and each segment's list of all ports is kept. It has
 * the nodes too where something goes to all of them: groups that nobody joined,
 * if these are flooded, or link-local groups, which have a switch of their own
 * in the kernel. Who has the segment is not known: a node without it drops them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"

void agent_segment_save(struct agent *a, uint32_t segment, uint64_t revision)
{
	struct datapath_segment s = { .id = segment, .revision = revision };

	settings_datapath(a->settings, &s);
	if (datapath_segment_set(a->datapath, &s) < 0)
		log_warning("A segment could not be saved. segment=%u", segment);
}

int agent_segments_init(struct agent *a)
{
	int r = 0;

	for (size_t i = 0; i < a->config->n_ports && r >= 0; i++)
		r = mirror_segment_add(a->mirror, a->config->ports[i].segment);
	/* An adopted segment keeps what it was told until the controller speaks. */
	if (r < 0 || datapath_adopted(a->datapath))
		return r;
	agent_segment_save(a, 0, 0);
	for (size_t i = 0; i < a->config->n_ports; i++)
		agent_segment_save(a, a->config->ports[i].segment, 0);
	return 0;
}

/* ---- lists ------------------------------------------------------------------ */

/* Is something of the segment for all nodes? */
static bool list_has_remotes(const struct agent *a, uint32_t segment)
{
	struct datapath_segment s = { .id = segment };

	settings_datapath(a->settings, &s);
	return s.link_local_remote || s.unregistered == DATAPATH_UNREGISTERED_FLOOD;
}

static void list_make(const struct agent *a, uint32_t segment, uint32_t *ports,
		      struct addr *remotes, struct datapath_route *ret_route)
{
	struct datapath_route route = {
		.kind = DATAPATH_ROUTE_ALL,
		.segment = segment,
		.ports = ports,
		.remotes = remotes,
	};
	bool across = list_has_remotes(a, segment);

	for (struct agent_port *port = a->ports; port; port = port->hh.next) {
		if (port->attached && port->segment == segment)
			ports[route.n_ports++] = port->ifindex;
	}
	for (struct agent_remote *remote = a->remotes; remote && across; remote = remote->hh.next) {
		if (!remote->going)
			remotes[route.n_remotes++] = remote->vtep;
	}
	*ret_route = route;
}

/* The i-th port pattern is the first of its segment. */
static bool segment_is_first(const struct agent *a, size_t i)
{
	for (size_t k = 0; k < i; k++) {
		if (a->config->ports[k].segment == a->config->ports[i].segment)
			return false;
	}
	return true;
}

void agent_lists_write(struct agent *a)
{
	_cleanup_free_ uint32_t *ports = NULL;
	_cleanup_free_ struct addr *remotes = NULL;

	if (!a->lists_due)
		return;
	ports = calloc(HASH_COUNT(a->ports) + 1, sizeof(*ports));
	remotes = calloc(HASH_COUNT(a->remotes) + 1, sizeof(*remotes));
	if (!ports || !remotes)
		return; /* stays due */
	a->lists_due = false;
	for (size_t i = 0; i < a->config->n_ports; i++) {
		struct datapath_route route;
		int r;

		if (!segment_is_first(a, i))
			continue;
		list_make(a, a->config->ports[i].segment, ports, remotes, &route);
		r = datapath_route_set(a->datapath, &route);
		if (r < 0)
			log_warning("The list of all ports could not be written. segment=%u err=%s",
				    route.segment, strerror(-r));
	}
}

uint64_t agent_lists_count(const struct agent *a)
{
	uint64_t n = 0;

	for (size_t i = 0; i < a->config->n_ports; i++)
		n += segment_is_first(a, i);
	return n;
}

static int port_cmp(const void *x, const void *y)
{
	uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;

	return a < b ? -1 : a > b;
}

static int remote_cmp(const void *x, const void *y)
{
	return addr_cmp(x, y);
}

bool agent_list_matches(const struct agent *a, const struct datapath_route *route)
{
	_cleanup_free_ uint32_t *ports = calloc(HASH_COUNT(a->ports) + 1, sizeof(*ports));
	_cleanup_free_ struct addr *remotes = calloc(HASH_COUNT(a->remotes) + 1, sizeof(*remotes));
	struct datapath_route want;

	if (!ports || !remotes)
		return false;
	list_make(a, route->segment, ports, remotes, &want);
	if (want.n_ports != route->n_ports || want.n_remotes != route->n_remotes)
		return false;
	qsort(ports, want.n_ports, sizeof(*ports), port_cmp);
	qsort(remotes, want.n_remotes, sizeof(*remotes), remote_cmp);
	for (size_t i = 0; i < route->n_ports; i++) {
		if (!bsearch(&route->ports[i], ports, want.n_ports, sizeof(*ports), port_cmp))
			return false;
	}
	for (size_t i = 0; i < route->n_remotes; i++) {
		if (!bsearch(&route->remotes[i], remotes, want.n_remotes, sizeof(*remotes),
			     remote_cmp))
			return false;
	}
	return true;
}

/* ---- settings --------------------------------------------------------------- */

struct gmp_config agent_segment_gmp(const struct agent *a, uint32_t segment)
{
	struct gmp_config config = a->config->gmp;

	settings_gmp(a->settings, segment, &config);
	return config;
}

static void across_apply(struct agent *a, uint32_t segment)
{
	struct datapath_segment s = { .id = segment };

	settings_datapath(a->settings, &s);
	if (fib_routers_across(a->fib, segment, !s.routers_within) < 0)
		log_error("A setting could not be applied: out of memory. segment=%u", segment);
}

static void on_segment(uint32_t segment, void *userdata)
{
	struct agent *a = userdata;

	agent_ports_configure(a, segment);
	for (size_t i = 0; i < a->config->n_ports; i++) {
		uint32_t id = a->config->ports[i].segment;

		if (segment && id != segment)
			continue;
		agent_segment_save(a, id, mirror_revision(a->mirror, id));
		across_apply(a, id);
	}
	a->lists_due = true;
	log_info("Settings of the controller apply. segment=%u", segment);
}

static void member_set(struct agent *a, const struct agent_port *port, const struct addr *group,
		       const struct filter *filter)
{
	int r = gmp_port_static(a->gmp, port->ifindex, group, filter, agent_engine_ms(a), &a->fx);
	char text[ADDR_TEXT_MAX];

	if (r < 0)
		log_warning("A static member could not be set. port=%s group=%s err=%s", port->name,
			    addr_format(group, text), strerror(-r));
}

static void on_member(const char *name, const struct addr *group, const struct filter *filter,
		      void *userdata)
{
	struct agent *a = userdata;
	struct agent_port *port = agent_port_find_name(a, name);

	/* A port that comes later gets it then. */
	if (port && port->in_engine)
		member_set(a, port, group, filter);
}

const struct settings_ops agent_settings_ops = {
	.segment = on_segment,
	.member = on_member,
};

struct statics {
	struct agent *a;
	const struct agent_port *port;
};

static void port_static(const struct addr *group, const struct filter *filter, void *userdata)
{
	struct statics *s = userdata;

	member_set(s->a, s->port, group, filter);
}

void agent_port_statics(struct agent *a, const struct agent_port *port)
{
	struct statics s = { .a = a, .port = port };

	settings_members_walk(a->settings, port->name, port_static, &s);
}
