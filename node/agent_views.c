/* SPDX-License-Identifier: Apache-2.0 */
#include "node/agent_views.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

static char *addr_text(const struct addr *a)
{
	char buf[ADDR_TEXT_MAX];

	return strdup(addr_format(a, buf));
}

/* Room for one more pointer. */
static bool grow(void *rows_p, size_t n, size_t *cap)
{
	void **rows = *(void ***)rows_p;
	size_t want = *cap ? *cap * 2 : 64;

	if (n < *cap)
		return true;
	rows = reallocarray(rows, want, sizeof(*rows));
	if (!rows)
		return false;
	*(void ***)rows_p = rows;
	*cap = want;
	return true;
}

/* ---- ports ------------------------------------------------------------------ */

Mcmesh__V1__Port *view_port(struct agent *a, const struct agent_port *port)
{
	Mcmesh__V1__Port *row = malloc(sizeof(*row));

	if (!row)
		return NULL;
	mcmesh__v1__port__init(row);
	row->name = (char *)port->name;
	row->segment = port->segment;
	row->ifindex = port->ifindex;
	row->state = !port->attached ? MCMESH__V1__PORT__STATE__REFUSED
		     : port->carrier ? MCMESH__V1__PORT__STATE__UP
				     : MCMESH__V1__PORT__STATE__DOWN;
	row->router = port->in_engine && gmp_port_is_router(a->gmp, port->ifindex);
	row->attach = port->attached ? (char *)datapath_attach_name(a->datapath) : (char *)"";
	row->detail = (char *)port->detail;
	row->delivery = !port->attached ? (char *)""
			: port->peer	? (char *)"peer"
					: (char *)"egress";
	row->engine = port->attached ? (char *)datapath_engine_name(a->datapath) : (char *)"";
	row->membership_count =
		port->in_engine ? (uint32_t)gmp_port_membership_count(a->gmp, port->ifindex) : 0;
	return row;
}

int view_port_cmp(const void *x, const void *y)
{
	const Mcmesh__V1__Port *a = *(Mcmesh__V1__Port *const *)x;
	const Mcmesh__V1__Port *b = *(Mcmesh__V1__Port *const *)y;

	return strverscmp(a->name, b->name);
}

void view_ports_collect(struct agent *a, struct view_ports *ret_ports)
{
	struct view_ports list = { 0 };
	struct agent_port *port, *next;

	list.rows = calloc(HASH_COUNT(a->ports) + 1, sizeof(*list.rows));
	HASH_ITER (hh, a->ports, port, next) {
		Mcmesh__V1__Port *row = list.rows ? view_port(a, port) : NULL;

		if (row)
			list.rows[list.n++] = row;
	}
	if (list.n)
		qsort(list.rows, list.n, sizeof(*list.rows), view_port_cmp);
	*ret_ports = list;
}

void view_ports_deinit(struct view_ports *ports)
{
	for (size_t i = 0; i < ports->n; i++)
		free(ports->rows[i]);
	free(ports->rows);
}

/* ---- paths ------------------------------------------------------------------- */

static Mcmesh__V1__Path *view_path(const struct agent_remote *remote, const struct rtnl_link *link)
{
	Mcmesh__V1__Path *row = malloc(sizeof(*row));

	if (!row)
		return NULL;
	mcmesh__v1__path__init(row);
	row->node = (char *)remote->node;
	row->way = remote->direct ? MCMESH__V1__PATH__WAY__DIRECT : MCMESH__V1__PATH__WAY__DEVICE;
	row->detail = remote->refused  ? (char *)"no place in limits.remotes: raise it"
		      : remote->direct ? (char *)""
				       : (char *)rtnl_way_text(remote->path.way);
	row->mtu = remote->path.mtu;
	row->link = link ? (char *)link->name : (char *)"";
	row->remote = addr_text(&remote->vtep);
	row->next_hop = addr_is_null(&remote->path.next_hop) ? strdup("")
							     : addr_text(&remote->path.next_hop);
	return row;
}

int view_path_cmp(const void *x, const void *y)
{
	const Mcmesh__V1__Path *a = *(Mcmesh__V1__Path *const *)x;
	const Mcmesh__V1__Path *b = *(Mcmesh__V1__Path *const *)y;

	return strverscmp(a->node, b->node);
}

void view_paths_collect(struct agent *a, struct view_paths *ret_paths)
{
	struct view_paths list = { 0 };
	struct agent_remote *remote, *next;

	list.rows = calloc(HASH_COUNT(a->remotes) + 1, sizeof(*list.rows));
	HASH_ITER (hh, a->remotes, remote, next) {
		const struct rtnl_link *link = rtnl_link_by_index(a->rtnl, remote->path.ifindex);
		Mcmesh__V1__Path *row = list.rows ? view_path(remote, link) : NULL;

		if (row)
			list.rows[list.n++] = row;
	}
	if (list.n)
		qsort(list.rows, list.n, sizeof(*list.rows), view_path_cmp);
	*ret_paths = list;
}

void view_paths_deinit(struct view_paths *paths)
{
	for (size_t i = 0; i < paths->n; i++) {
		free(paths->rows[i]->remote);
		free(paths->rows[i]->next_hop);
		free(paths->rows[i]);
	}
	free(paths->rows);
}

/* ---- memberships ------------------------------------------------------------ */

void view_membership_free(Mcmesh__V1__Membership *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->n_sources; i++) {
		free(m->sources[i]->address);
		free(m->sources[i]);
	}
	free(m->sources);
	for (size_t i = 0; i < m->n_hosts; i++)
		free(m->hosts[i]);
	free(m->hosts);
	free(m->group);
	free(m);
}

/* 0 stands for "no timer": a running one has at least a millisecond left. */
static uint64_t remaining(uint64_t expires_ms, uint64_t now_ms)
{
	if (!expires_ms || expires_ms == UINT64_MAX)
		return 0;
	return expires_ms > now_ms ? expires_ms - now_ms : 1;
}

static int fill_sources(Mcmesh__V1__Membership *m, const struct gmp_membership_view *view,
			uint64_t now_ms)
{
	m->sources = calloc(view->n_sources + 1, sizeof(*m->sources));
	if (!m->sources)
		return -ENOMEM;
	for (size_t i = 0; i < view->n_sources; i++) {
		Mcmesh__V1__Membership__Source *source = malloc(sizeof(*source));

		if (!source)
			return -ENOMEM;
		mcmesh__v1__membership__source__init(source);
		m->sources[m->n_sources++] = source;
		source->address = addr_text(&view->sources[i].addr);
		source->state = view->sources[i].forwarded
					? MCMESH__V1__MEMBERSHIP__SOURCE__STATE__FORWARDED
					: MCMESH__V1__MEMBERSHIP__SOURCE__STATE__BLOCKED;
		source->expires_ms = remaining(view->sources[i].expires_ms, now_ms);
		if (!source->address)
			return -ENOMEM;
	}
	return 0;
}

static int fill_hosts(Mcmesh__V1__Membership *m, const struct gmp_membership_view *view)
{
	m->hosts = calloc(view->n_hosts + 1, sizeof(*m->hosts));
	if (!m->hosts)
		return -ENOMEM;
	for (size_t i = 0; i < view->n_hosts; i++) {
		m->hosts[i] = addr_text(&view->hosts[i]);
		if (!m->hosts[i])
			return -ENOMEM;
		m->n_hosts++;
	}
	return 0;
}

static Mcmesh__V1__Membership *membership_new(struct agent *a,
					      const struct gmp_membership_view *view)
{
	static const Mcmesh__V1__Membership__Version versions[] = {
		[GMP_VERSION_NONE] = MCMESH__V1__MEMBERSHIP__VERSION__VERSION_UNSPECIFIED,
		[GMP_IGMPV1] = MCMESH__V1__MEMBERSHIP__VERSION__IGMPV1,
		[GMP_IGMPV2] = MCMESH__V1__MEMBERSHIP__VERSION__IGMPV2,
		[GMP_IGMPV3] = MCMESH__V1__MEMBERSHIP__VERSION__IGMPV3,
		[GMP_MLDV1] = MCMESH__V1__MEMBERSHIP__VERSION__MLDV1,
		[GMP_MLDV2] = MCMESH__V1__MEMBERSHIP__VERSION__MLDV2,
	};
	Mcmesh__V1__Membership *m = malloc(sizeof(*m));
	uint64_t now_ms = agent_engine_ms(a);

	if (!m)
		return NULL;
	mcmesh__v1__membership__init(m);
	m->segment = view->tag;
	m->port = (char *)agent_port_name(a, view->port);
	m->mode = view->mode == FILTER_EXCLUDE ? MCMESH__V1__FILTER__MODE__EXCLUDE
					       : MCMESH__V1__FILTER__MODE__INCLUDE;
	m->version = versions[view->version];
	m->expires_ms = remaining(view->expires_ms, now_ms);
	m->is_static = view->is_static;
	m->group = addr_text(&view->group);
	if (!m->group || fill_sources(m, view, now_ms) < 0 || fill_hosts(m, view) < 0) {
		view_membership_free(m);
		return NULL;
	}
	return m;
}

struct collect {
	struct agent *a;
	uint32_t segment;
	const struct addr *group;
	struct view_memberships *list;
};

static int collect_membership(const struct gmp_membership_view *view, void *userdata)
{
	struct collect *c = userdata;
	Mcmesh__V1__Membership *m;

	if ((c->segment && view->tag != c->segment) ||
	    (!addr_is_null(c->group) && !addr_equal(c->group, &view->group)))
		return 0;
	if (!grow(&c->list->rows, c->list->n, &c->list->cap))
		return -ENOMEM;
	m = membership_new(c->a, view);
	if (!m)
		return -ENOMEM;
	c->list->rows[c->list->n++] = m;
	return 0;
}

int view_membership_cmp(const void *x, const void *y)
{
	const Mcmesh__V1__Membership *a = *(Mcmesh__V1__Membership *const *)x;
	const Mcmesh__V1__Membership *b = *(Mcmesh__V1__Membership *const *)y;
	int c = strverscmp(a->port, b->port);

	return c ? c : strverscmp(a->group, b->group);
}

void view_memberships_collect(struct agent *a, uint32_t segment, const char *port,
			      const struct addr *group, struct view_memberships *ret_list)
{
	struct view_memberships list = { 0 };
	struct collect c = { .a = a, .segment = segment, .group = group, .list = &list };
	struct agent_port *p = port[0] ? agent_port_find_name(a, port) : NULL;

	if (!port[0] || p)
		gmp_memberships_walk(a->gmp, p ? p->ifindex : 0, collect_membership, &c);
	if (list.n)
		qsort(list.rows, list.n, sizeof(*list.rows), view_membership_cmp);
	*ret_list = list;
}

void view_memberships_deinit(struct view_memberships *list)
{
	for (size_t i = 0; i < list->n; i++)
		view_membership_free(list->rows[i]);
	free(list->rows);
}

Mcmesh__V1__Membership *view_membership(struct agent *a, uint32_t port, const struct addr *group)
{
	struct view_memberships list = { 0 };
	struct collect c = { .a = a, .group = group, .list = &list };
	Mcmesh__V1__Membership *m;

	gmp_membership_view(a->gmp, port, group, collect_membership, &c);
	m = list.n ? list.rows[0] : NULL;
	free(list.rows);
	return m;
}

/* ---- counters --------------------------------------------------------------- */

static void counter_add(struct view_counters *list, const char *prefix, const char *name,
			uint32_t segment, const struct addr *group, const char *port,
			const struct addr *remote, uint64_t packets, uint64_t bytes)
{
	Mcmesh__V1__Counter *row;

	if (strncmp(name, prefix, strlen(prefix)) != 0 || !grow(&list->rows, list->n, &list->cap))
		return;
	row = malloc(sizeof(*row));
	if (!row)
		return;
	mcmesh__v1__counter__init(row);
	row->name = strdup(name);
	row->segment = segment;
	row->port = strdup(port);
	row->group = addr_is_null(group) ? strdup("") : addr_text(group);
	row->remote = addr_is_null(remote) ? strdup("") : addr_text(remote);
	row->packets = packets;
	row->bytes = bytes;
	list->rows[list->n++] = row;
}

struct counters_build {
	struct agent *a;
	const char *prefix;
	struct view_counters *list;
};

static int datapath_counter(const struct datapath_counter *c, void *userdata)
{
	struct counters_build *b = userdata;

	counter_add(b->list, b->prefix, c->name, c->segment, &c->group,
		    agent_port_name(b->a, c->ifindex), &c->remote, c->packets, c->bytes);
	return 0;
}

int view_counter_cmp(const void *x, const void *y)
{
	const Mcmesh__V1__Counter *a = *(Mcmesh__V1__Counter *const *)x;
	const Mcmesh__V1__Counter *b = *(Mcmesh__V1__Counter *const *)y;
	int c = strcmp(a->name, b->name);

	if (!c)
		c = strverscmp(a->port, b->port);
	if (!c)
		c = strverscmp(a->remote, b->remote);
	if (!c)
		c = strverscmp(a->group, b->group);
	return c ? c : (a->segment > b->segment) - (a->segment < b->segment);
}

/* What the overlay device could not send or take in, and what the links below it did
 * not send, ours or not: the kernel counts it there. */
static void overlay_counters(struct agent *a, const char *prefix, struct view_counters *list)
{
	struct rtnl_lost lost = { 0 };

	if (a->overlay_ifindex)
		(void)rtnl_link_lost(a->rtnl, a->overlay_ifindex, &lost);
	counter_add(list, prefix, "overlay_lost_tx", 0, &ADDR_NULL, "", &ADDR_NULL, lost.tx, 0);
	counter_add(list, prefix, "overlay_lost_rx", 0, &ADDR_NULL, "", &ADDR_NULL, lost.rx, 0);
	for (size_t i = 0; i < a->n_links; i++) {
		const struct rtnl_link *link = rtnl_link_by_index(a->rtnl, a->links[i]);

		if (link && rtnl_link_lost(a->rtnl, link->ifindex, &lost) == 0)
			counter_add(list, prefix, "underlay_lost_tx", 0, &ADDR_NULL, link->name,
				    &ADDR_NULL, lost.tx, 0);
	}
}

void view_counters_collect(struct agent *a, const char *prefix, bool groups,
			   struct view_counters *ret_list)
{
	struct view_counters list = { 0 };
	struct counters_build b = { .a = a, .prefix = prefix, .list = &list };
	struct agent_port *port, *next;

	datapath_counters_walk(a->datapath, datapath_counter, &b);
	if (groups && strncmp(DATAPATH_GROUP_COUNTER, prefix, strlen(prefix)) == 0)
		(void)datapath_groups_walk(a->datapath, datapath_counter, &b);
	HASH_ITER (hh, a->ports, port, next) {
		for (int c = 0; c < GMP_C_COUNT && port->in_engine; c++) {
			uint64_t n = gmp_port_counter(a->gmp, port->ifindex, c);

			if (n)
				counter_add(&list, prefix, gmp_counter_name(c), port->segment,
					    &ADDR_NULL, port->name, &ADDR_NULL, n, 0);
		}
	}
	for (int c = 0; c < UPLINK_C_COUNT; c++)
		counter_add(&list, prefix, uplink_counter_name(c), 0, &ADDR_NULL, "", &ADDR_NULL,
			    uplink_counter(a->uplink, c), 0);
	counter_add(&list, prefix, "punt_stale", 0, &ADDR_NULL, "", &ADDR_NULL, a->punts_stale, 0);
	counter_add(&list, prefix, "query_send_failed", 0, &ADDR_NULL, "", &ADDR_NULL,
		    a->queries_failed, 0);
	overlay_counters(a, prefix, &list);
	if (a->oversize) {
		struct oversize_counters oversize = oversize_count(a->oversize);

		counter_add(&list, prefix, "oversize_sent", 0, &ADDR_NULL, "", &ADDR_NULL,
			    oversize.sent, 0);
		counter_add(&list, prefix, "oversize_failed", 0, &ADDR_NULL, "", &ADDR_NULL,
			    oversize.failed, 0);
	}
	counter_add(&list, prefix, "programs_lost", 0, &ADDR_NULL, "", &ADDR_NULL, a->programs_lost,
		    0);
	counter_add(&list, prefix, "routes_refused", 0, &ADDR_NULL, "", &ADDR_NULL,
		    a->routes_refused, 0);
	counter_add(&list, prefix, "remotes_refused", 0, &ADDR_NULL, "", &ADDR_NULL,
		    a->remotes_refused, 0);
	if (list.n)
		qsort(list.rows, list.n, sizeof(*list.rows), view_counter_cmp);
	*ret_list = list;
}

void view_counters_deinit(struct view_counters *list)
{
	for (size_t i = 0; i < list->n; i++) {
		free(list->rows[i]->name);
		free(list->rows[i]->port);
		free(list->rows[i]->group);
		free(list->rows[i]->remote);
		free(list->rows[i]);
	}
	free(list->rows);
}

/* ---- revision --------------------------------------------------------------- */

static void least_revision(uint32_t segment, uint64_t revision, void *userdata)
{
	uint64_t *least = userdata;

	if (revision < *least)
		*least = revision;
}

uint64_t view_revision(const struct agent *a)
{
	uint64_t least = UINT64_MAX;

	mirror_segments_walk(a->mirror, least_revision, &least);
	return least == UINT64_MAX ? 0 : least;
}
