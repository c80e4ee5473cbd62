/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "node/fib_internal.h"

/* ---- adoption --------------------------------------------------------------- */

int fib_adopt(struct fib *fib, const struct datapath_route *route)
{
	struct entry e = { .source = route->source }, *grown;
	struct fib_group *g;
	size_t at = 0;

	if (route->kind == DATAPATH_ROUTE_ROUTERS)
		return fib_segment_adopt(fib, route);
	if (route->kind != DATAPATH_ROUTE_GROUP)
		return 0;
	g = fib_group_get(fib, route->segment, &route->group);
	if (!g)
		return -ENOMEM;
	grown = reallocarray(g->entries, g->n_entries + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	g->entries = grown;
	e.ports = malloc((route->n_ports + 1) * sizeof(*e.ports));
	e.remotes = malloc((route->n_remotes + 1) * sizeof(*e.remotes));
	if (!e.ports || !e.remotes) {
		entry_deinit(&e);
		return -ENOMEM;
	}
	e.n_ports = route->n_ports;
	e.n_remotes = route->n_remotes;
	e.n_router_ports = route->n_router_ports;
	e.n_router_remotes = route->n_router_remotes;
	if (e.n_ports)
		memcpy(e.ports, route->ports, e.n_ports * sizeof(*e.ports));
	if (e.n_remotes)
		memcpy(e.remotes, route->remotes, e.n_remotes * sizeof(*e.remotes));
	while (at < g->n_entries && addr_cmp(&g->entries[at].source, &e.source) < 0)
		at++;
	memmove(&g->entries[at + 1], &g->entries[at], (g->n_entries - at) * sizeof(*g->entries));
	g->entries[at] = e;
	g->n_entries++;
	fib->n_entries++;
	return 0;
}

/* By its filter: as a router it says nothing about what it joined. */
static bool entry_lists(const struct entry *e, uint32_t port, const struct addr *vtep)
{
	if (port) {
		for (size_t i = 0; i < e->n_ports - e->n_router_ports; i++) {
			if (e->ports[i] == port)
				return true;
		}
		return false;
	}
	for (size_t i = 0; i < e->n_remotes - e->n_router_remotes; i++) {
		if (addr_equal(&e->remotes[i], vtep))
			return true;
	}
	return false;
}

/* In (*, G): EXCLUDE the sources whose entry leaves it out. Not in it: INCLUDE
 * the sources whose entry has it. */
static int receiver_adopt(struct fib_group *g, uint32_t port, const struct addr *vtep)
{
	bool any = g->n_entries && addr_is_null(&g->entries[0].source) &&
		   entry_lists(&g->entries[0], port, vtep);
	_cleanup_free_ struct addr *sources = malloc((g->n_entries + 1) * sizeof(*sources));
	struct filter filter;
	size_t n = 0, at;
	bool found;
	int r;

	at = receiver_position(g, port, vtep, &found);
	if (found)
		return 0;
	if (!sources)
		return -ENOMEM;
	for (size_t i = 0; i < g->n_entries; i++) {
		if (!addr_is_null(&g->entries[i].source) &&
		    entry_lists(&g->entries[i], port, vtep) != any)
			sources[n++] = g->entries[i].source;
	}
	r = filter_init(&filter, any ? FILTER_EXCLUDE : FILTER_INCLUDE, sources, n);
	if (r < 0)
		return r;
	r = receiver_insert(g, at, port, vtep, &filter);
	filter_deinit(&filter);
	return r;
}

static int group_adopt(struct fib_group *g)
{
	int r;

	for (size_t i = 0; i < g->n_entries; i++) {
		const struct entry *e = &g->entries[i];

		for (size_t k = 0; k < e->n_ports - e->n_router_ports; k++) {
			r = receiver_adopt(g, e->ports[k], &ADDR_NULL);
			if (r < 0)
				return r;
		}
		for (size_t k = 0; k < e->n_remotes - e->n_router_remotes; k++) {
			r = receiver_adopt(g, 0, &e->remotes[k]);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

/* Nodes that want everything, as members of the group that stands for all. */
static void segment_told(const struct fib_segment *segment,
			 void (*fn)(const struct fib_adopted *adopted, void *userdata),
			 void *userdata)
{
	const struct filter all = { .mode = FILTER_EXCLUDE };
	const struct addr every = ADDR_NULL;

	for (size_t i = 0; i < segment->list.n_remotes; i++) {
		struct fib_adopted adopted = {
			.segment = segment->id,
			.group = &every,
			.vtep = &segment->list.remotes[i],
			.filter = &all,
		};

		fn(&adopted, userdata);
	}
}

int fib_adopt_done(struct fib *fib, void (*fn)(const struct fib_adopted *adopted, void *userdata),
		   void *userdata)
{
	struct fib_segment *segment, *next_segment;
	struct fib_group *g, *next;
	int r;

	HASH_ITER (hh, fib->segments, segment, next_segment)
		segment_told(segment, fn, userdata);
	HASH_ITER (hh, fib->groups, g, next) {
		r = group_adopt(g);
		if (r < 0)
			return r;
		/* From the end: fn may take out the one that it is told. */
		for (size_t i = g->n_receivers; i-- > 0;) {
			struct fib_adopted adopted = {
				.segment = g->key.segment,
				.group = &g->key.group,
				.port = g->receivers[i].port,
				.vtep = g->receivers[i].port ? NULL : &g->receivers[i].vtep,
				.filter = &g->receivers[i].filter,
			};

			fn(&adopted, userdata);
		}
		fib_group_mark(fib, g); /* tells the members, clears away what is empty */
	}
	return 0;
}

/* ---- reading ---------------------------------------------------------------- */

int fib_walk(const struct fib *fib, int (*fn)(const struct datapath_route *route, void *userdata),
	     void *userdata)
{
	struct fib_group *g, *next;
	int r;

	HASH_ITER (hh, fib->groups, g, next) {
		for (size_t i = 0; i < g->n_entries; i++) {
			struct datapath_route route = entry_route(g, &g->entries[i]);

			if (g->entries[i].n_ports == ENTRY_BROKEN)
				continue;
			r = fn(&route, userdata);
			if (r)
				return r;
		}
	}
	return 0;
}

static int port_sort(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* The kernel's lists may be in another order. */
static bool same_set(const void *a, const void *b, size_t n, size_t size,
		     int (*cmp)(const void *, const void *))
{
	_cleanup_free_ void *x = malloc(n * size + 1), *y = malloc(n * size + 1);

	if (!n)
		return true;
	if (!x || !y)
		return false;
	memcpy(x, a, n * size);
	memcpy(y, b, n * size);
	qsort(x, n, size, cmp);
	qsort(y, n, size, cmp);
	return memcmp(x, y, n * size) == 0;
}

static bool entry_is(const struct entry *e, const struct datapath_route *route)
{
	return e->n_ports == route->n_ports && e->n_remotes == route->n_remotes &&
	       e->n_router_ports == route->n_router_ports &&
	       e->n_router_remotes == route->n_router_remotes &&
	       same_set(e->ports, route->ports, e->n_ports, sizeof(*e->ports), port_sort) &&
	       same_set(e->remotes, route->remotes, e->n_remotes, sizeof(*e->remotes), addr_sort);
}

bool fib_has(const struct fib *fib, const struct datapath_route *route)
{
	const struct fib_segment *segment;
	struct fib_group *g;
	struct entry *e;

	if (route->kind == DATAPATH_ROUTE_ROUTERS) {
		segment = fib_segment_find(fib, route->segment);
		return segment && segment->installed && entry_is(&segment->list, route);
	}
	g = fib_group_find(fib, route->segment, &route->group);
	e = g ? entry_find(g->entries, g->n_entries, &route->source) : NULL;
	return e && entry_is(e, route);
}

size_t fib_count(const struct fib *fib)
{
	struct fib_segment *segment, *next;
	size_t n = fib->n_entries;

	HASH_ITER (hh, fib->segments, segment, next)
		n += segment->installed;
	return n;
}
