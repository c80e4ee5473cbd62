/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "node/fib_internal.h"

const struct fib_segment *fib_segment_find(const struct fib *fib, uint32_t segment)
{
	struct fib_segment *s;

	HASH_FIND(hh, fib->segments, &segment, sizeof(segment), s);
	return s;
}

static struct fib_segment *segment_get(struct fib *fib, uint32_t segment)
{
	struct fib_segment *s = (struct fib_segment *)fib_segment_find(fib, segment);

	if (s)
		return s;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->id = segment;
	HASH_ADD(hh, fib->segments, id, sizeof(s->id), s);
	return s;
}

void fib_segments_free(struct fib *fib)
{
	struct fib_segment *s, *next;

	HASH_ITER (hh, fib->segments, s, next) {
		HASH_DEL(fib->segments, s);
		entry_deinit(&s->list);
		free(s->routers);
		free(s->remotes);
		free(s);
	}
}

/* Every entry of the segment names those who want everything. */
static void segment_mark(struct fib *fib, struct fib_segment *s)
{
	struct fib_group *g, *next;

	s->dirty = true;
	HASH_ITER (hh, fib->groups, g, next) {
		if (g->key.segment == s->id)
			fib_group_mark(fib, g);
	}
}

/* ---- facts ------------------------------------------------------------------- */

static int port_sort(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* Into or out of a sorted array; 1: it changed. */
static int set_put(void **items_p, size_t *n, size_t size, const void *item, bool on,
		   int (*cmp)(const void *, const void *))
{
	char *items = *items_p;
	size_t at = 0;
	bool found;

	while (at < *n && cmp(items + at * size, item) < 0)
		at++;
	found = at < *n && cmp(items + at * size, item) == 0;
	if (found == on)
		return 0;
	if (!on) {
		--*n;
		memmove(items + at * size, items + (at + 1) * size, (*n - at) * size);
		return 1;
	}
	items = reallocarray(items, *n + 1, size);
	if (!items)
		return -ENOMEM;
	*items_p = items;
	memmove(items + (at + 1) * size, items + at * size, (*n - at) * size);
	memcpy(items + at * size, item, size);
	++*n;
	return 1;
}

static int router_put(struct fib *fib, struct fib_segment *s, uint32_t port, bool on)
{
	void *routers = s->routers;
	int r = set_put(&routers, &s->n_routers, sizeof(port), &port, on, port_sort);

	s->routers = routers;
	if (r > 0)
		segment_mark(fib, s);
	return r;
}

bool fib_segment_port_forget(struct fib *fib, uint32_t port)
{
	struct fib_segment *s, *next;
	bool was = false;

	HASH_ITER (hh, fib->segments, s, next)
		was = router_put(fib, s, port, false) > 0 || was;
	return was;
}

int fib_router_set(struct fib *fib, uint32_t segment, uint32_t port, bool on)
{
	struct fib_segment *s, *next;
	int r;

	HASH_ITER (hh, fib->segments, s, next) {
		if (s->id != segment)
			router_put(fib, s, port, false);
	}
	s = segment_get(fib, segment);
	r = s ? router_put(fib, s, port, on) : -ENOMEM;
	return r < 0 ? r : 0;
}

int fib_segment_remote_set(struct fib *fib, uint32_t segment, const struct addr *vtep, bool on)
{
	struct fib_segment *s = segment_get(fib, segment);
	void *remotes;
	int r;

	if (!s)
		return -ENOMEM;
	remotes = s->remotes;
	r = set_put(&remotes, &s->n_remotes, sizeof(*vtep), vtep, on, addr_sort);
	s->remotes = remotes;
	if (r > 0)
		segment_mark(fib, s);
	return r < 0 ? r : 0;
}

int fib_routers_across(struct fib *fib, uint32_t segment, bool across)
{
	struct fib_segment *s = segment_get(fib, segment);

	if (!s)
		return -ENOMEM;
	s->dirty = s->dirty || s->within == across;
	s->within = !across;
	return 0;
}

/* ---- derivation ---------------------------------------------------------------- */

/* Both are sorted: one pass finds what the entry has already. */
static size_t append(void *to, size_t n, const void *from, size_t n_from, size_t size,
		     int (*cmp)(const void *, const void *))
{
	size_t at = 0, added = 0;

	for (size_t i = 0; i < n_from; i++) {
		const char *item = (const char *)from + i * size;

		while (at < n && cmp((char *)to + at * size, item) < 0)
			at++;
		if (at < n && cmp((char *)to + at * size, item) == 0)
			continue;
		memcpy((char *)to + (n + added++) * size, item, size);
	}
	return added;
}

void fib_segment_append(const struct fib_segment *s, struct entry *e)
{
	e->n_router_ports = append(e->ports, e->n_ports, s->routers, s->n_routers,
				   sizeof(*e->ports), port_sort);
	e->n_ports += e->n_router_ports;
	e->n_router_remotes = append(e->remotes, e->n_remotes, s->remotes, s->n_remotes,
				     sizeof(*e->remotes), addr_sort);
	e->n_remotes += e->n_router_remotes;
}

struct datapath_route fib_segment_route(const struct fib_segment *s)
{
	return (struct datapath_route){
		.kind = DATAPATH_ROUTE_ROUTERS,
		.segment = s->id,
		.ports = s->list.ports,
		.n_ports = s->list.n_ports,
		.n_router_ports = s->list.n_router_ports,
		.remotes = s->list.remotes,
		.n_remotes = s->list.n_remotes,
		.n_router_remotes = s->list.n_router_remotes,
	};
}

static int list_write(struct fib *fib, struct fib_segment *s)
{
	struct datapath_route route;
	struct entry e = { 0 };
	int r = -ENOMEM;

	e.ports = malloc((s->n_routers + 1) * sizeof(*e.ports));
	e.remotes = malloc((s->n_remotes + 1) * sizeof(*e.remotes));
	if (!e.ports || !e.remotes) {
		entry_deinit(&e);
		return r;
	}
	fib_segment_append(s, &e);
	if (s->installed && entry_equal(&s->list, &e)) {
		entry_deinit(&e);
		return 0;
	}
	entry_deinit(&s->list);
	s->list = e;
	route = fib_segment_route(s);
	r = fib->ops.route_set(&route, fib->userdata);
	s->installed = r >= 0;
	return r;
}

int fib_segment_flush(struct fib *fib, struct fib_segment *s)
{
	const struct filter all = { .mode = FILTER_EXCLUDE };
	bool tell = s->n_routers && !s->within;
	int r = list_write(fib, s);

	s->dirty = r < 0;
	if (tell != s->told)
		fib->ops.member(s->id, &ADDR_NULL, tell ? &all : &FILTER_NULL, fib->userdata);
	s->told = tell;
	return r;
}

/* ---- adoption ------------------------------------------------------------------ */

/* Who is a router the caller finds in the list, and says so. */
int fib_segment_adopt(struct fib *fib, const struct datapath_route *route)
{
	struct fib_segment *s = segment_get(fib, route->segment);
	struct entry e = {
		.n_ports = route->n_ports,
		.n_router_ports = route->n_router_ports,
		.n_remotes = route->n_remotes,
		.n_router_remotes = route->n_router_remotes,
	};

	if (!s)
		return -ENOMEM;
	e.ports = malloc((e.n_ports + 1) * sizeof(*e.ports));
	e.remotes = malloc((e.n_remotes + 1) * sizeof(*e.remotes));
	if (!e.ports || !e.remotes) {
		entry_deinit(&e);
		return -ENOMEM;
	}
	if (e.n_ports)
		memcpy(e.ports, route->ports, e.n_ports * sizeof(*e.ports));
	if (e.n_remotes)
		memcpy(e.remotes, route->remotes, e.n_remotes * sizeof(*e.remotes));
	entry_deinit(&s->list);
	s->list = e;
	s->installed = s->dirty = true;
	return 0;
}
