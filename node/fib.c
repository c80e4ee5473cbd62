/* SPDX-License-Identifier: Apache-2.0 */
#include "node/fib.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "node/fib_internal.h"

void entry_deinit(struct entry *e)
{
	free(e->ports);
	free(e->remotes);
}

static void entries_free(struct entry *entries, size_t n)
{
	for (size_t i = 0; i < n; i++)
		entry_deinit(&entries[i]);
	free(entries);
}

static void group_free(struct fib *fib, struct fib_group *g)
{
	HASH_DEL(fib->groups, g);
	for (size_t i = 0; i < g->n_receivers; i++)
		filter_deinit(&g->receivers[i].filter);
	free(g->receivers);
	entries_free(g->entries, g->n_entries);
	filter_deinit(&g->member);
	free(g);
}

int fib_new(const struct fib_ops *ops, void *userdata, struct fib **ret_fib)
{
	struct fib *fib = calloc(1, sizeof(*fib));

	if (!fib)
		return -ENOMEM;
	fib->ops = *ops;
	fib->userdata = userdata;
	*ret_fib = fib;
	return 0;
}

void fib_free(struct fib *fib)
{
	struct fib_group *g, *next;

	if (!fib)
		return;
	HASH_ITER (hh, fib->groups, g, next)
		group_free(fib, g);
	fib_segments_free(fib);
	free(fib);
}

static struct group_key make_key(uint32_t segment, const struct addr *group)
{
	return (struct group_key){ .segment = segment, .group = *group };
}

struct fib_group *fib_group_find(const struct fib *fib, uint32_t segment, const struct addr *group)
{
	struct group_key key = make_key(segment, group);
	struct fib_group *g;

	HASH_FIND(hh, fib->groups, &key, sizeof(key), g);
	return g;
}

struct fib_group *fib_group_get(struct fib *fib, uint32_t segment, const struct addr *group)
{
	struct fib_group *g = fib_group_find(fib, segment, group);

	if (g)
		return g;
	g = calloc(1, sizeof(*g));
	if (!g)
		return NULL;
	g->key = make_key(segment, group);
	HASH_ADD(hh, fib->groups, key, sizeof(g->key), g);
	return g;
}

void fib_group_mark(struct fib *fib, struct fib_group *g)
{
	if (g->dirty)
		return;
	g->dirty = true;
	g->dirty_next = fib->dirty;
	fib->dirty = g;
}

/* ---- receivers -------------------------------------------------------------- */

static int receiver_cmp(uint32_t port_a, const struct addr *vtep_a, uint32_t port_b,
			const struct addr *vtep_b)
{
	/* Port 0 (remotes) sorts last. */
	if (port_a != port_b)
		return port_a - 1 < port_b - 1 ? -1 : 1;
	return addr_cmp(vtep_a, vtep_b);
}

size_t receiver_position(const struct fib_group *g, uint32_t port, const struct addr *vtep,
			 bool *ret_found)
{
	size_t low = 0, high = g->n_receivers;

	*ret_found = false;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		const struct receiver *r = &g->receivers[mid];
		int c = receiver_cmp(port, vtep, r->port, &r->vtep);

		if (c == 0) {
			*ret_found = true;
			return mid;
		}
		if (c < 0)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

static void receiver_remove(struct fib_group *g, size_t at)
{
	filter_deinit(&g->receivers[at].filter);
	memmove(&g->receivers[at], &g->receivers[at + 1],
		(g->n_receivers - at - 1) * sizeof(*g->receivers));
	g->n_receivers--;
}

int receiver_insert(struct fib_group *g, size_t at, uint32_t port, const struct addr *vtep,
		    const struct filter *filter)
{
	struct filter copy;
	int r;

	if (g->n_receivers == g->cap_receivers) {
		size_t cap = g->cap_receivers ? g->cap_receivers * 2 : 4;
		struct receiver *grown = reallocarray(g->receivers, cap, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		g->receivers = grown;
		g->cap_receivers = cap;
	}
	r = filter_copy(&copy, filter);
	if (r < 0)
		return r;
	memmove(&g->receivers[at + 1], &g->receivers[at],
		(g->n_receivers - at) * sizeof(*g->receivers));
	g->receivers[at] = (struct receiver){ .port = port, .vtep = *vtep, .filter = copy };
	g->n_receivers++;
	return 0;
}

static int receiver_set(struct fib *fib, uint32_t segment, const struct addr *group, uint32_t port,
			const struct addr *vtep, const struct filter *filter)
{
	struct fib_group *g = fib_group_find(fib, segment, group);
	struct filter copy;
	bool found = false;
	size_t at = 0;
	int r;

	if (g)
		at = receiver_position(g, port, vtep, &found);
	if (filter_is_none(filter)) {
		if (!found)
			return 0;
		receiver_remove(g, at);
		fib_group_mark(fib, g);
		return 0;
	}
	if (found) {
		if (filter_equal(&g->receivers[at].filter, filter))
			return 0;
		r = filter_copy(&copy, filter);
		if (r < 0)
			return r;
		filter_deinit(&g->receivers[at].filter);
		g->receivers[at].filter = copy;
		fib_group_mark(fib, g);
		return 0;
	}
	if (!g) {
		g = fib_group_get(fib, segment, group);
		if (!g)
			return -ENOMEM;
	}
	r = receiver_insert(g, at, port, vtep, filter);
	fib_group_mark(fib, g); /* also an empty new group is cleared away by the flush */
	return r;
}

int fib_local_set(struct fib *fib, uint32_t segment, const struct addr *group, uint32_t port,
		  const struct filter *filter)
{
	return port ? receiver_set(fib, segment, group, port, &ADDR_NULL, filter) : -EINVAL;
}

int fib_remote_set(struct fib *fib, uint32_t segment, const struct addr *group,
		   const struct addr *vtep, const struct filter *filter)
{
	if (addr_is_null(group))
		return fib_segment_remote_set(fib, segment, vtep, !filter_is_none(filter));
	return receiver_set(fib, segment, group, 0, vtep, filter);
}

void fib_port_forget(struct fib *fib, uint32_t port)
{
	struct fib_group *g, *next;
	bool found;

	fib_segment_port_forget(fib, port);
	HASH_ITER (hh, fib->groups, g, next) {
		size_t at = receiver_position(g, port, &ADDR_NULL, &found);
		if (found) {
			receiver_remove(g, at);
			fib_group_mark(fib, g);
		}
	}
}

/* ---- derivation ------------------------------------------------------------- */

int addr_sort(const void *a, const void *b)
{
	return addr_cmp(a, b);
}

/* Every source that some filter names, sorted, unique, after the null address
 * that stands for all others. */
static int group_sources(const struct fib_group *g, struct addr **ret_sources, size_t *ret_n)
{
	size_t max = 1, n = 0, used = 1;
	struct addr *sources;

	for (size_t i = 0; i < g->n_receivers; i++)
		max += g->receivers[i].filter.n_sources;
	sources = malloc(max * sizeof(*sources));
	if (!sources)
		return -ENOMEM;
	sources[n++] = ADDR_NULL;
	for (size_t i = 0; i < g->n_receivers; i++) {
		const struct filter *f = &g->receivers[i].filter;

		if (f->n_sources)
			memcpy(&sources[n], f->sources, f->n_sources * sizeof(*sources));
		n += f->n_sources;
	}
	qsort(sources + 1, n - 1, sizeof(*sources), addr_sort);
	for (size_t i = 1; i < n; i++) {
		if (used == 1 || !addr_equal(&sources[used - 1], &sources[i]))
			sources[used++] = sources[i];
	}
	*ret_sources = sources;
	*ret_n = used;
	return 0;
}

static int entry_derive(const struct fib_segment *segment, const struct fib_group *g,
			const struct addr *source, struct entry *ret_entry)
{
	size_t routers = segment ? segment->n_routers : 0, nodes = segment ? segment->n_remotes : 0;
	struct entry e = { .source = *source };
	bool any = addr_is_null(source);

	e.ports = malloc((g->n_receivers + routers + 1) * sizeof(*e.ports));
	e.remotes = malloc((g->n_receivers + nodes + 1) * sizeof(*e.remotes));
	if (!e.ports || !e.remotes) {
		entry_deinit(&e);
		return -ENOMEM;
	}
	for (size_t i = 0; i < g->n_receivers; i++) {
		const struct receiver *r = &g->receivers[i];

		if (!(any ? filter_wants_any(&r->filter) : filter_wants(&r->filter, source)))
			continue;
		if (r->port)
			e.ports[e.n_ports++] = r->port;
		else
			e.remotes[e.n_remotes++] = r->vtep;
	}
	if (segment)
		fib_segment_append(segment, &e);
	*ret_entry = e;
	return 0;
}

struct datapath_route entry_route(const struct fib_group *g, const struct entry *e)
{
	return (struct datapath_route){
		.kind = DATAPATH_ROUTE_GROUP,
		.segment = g->key.segment,
		.group = g->key.group,
		.source = e->source,
		.ports = e->ports,
		.n_ports = e->n_ports,
		.n_router_ports = e->n_router_ports,
		.remotes = e->remotes,
		.n_remotes = e->n_remotes,
		.n_router_remotes = e->n_router_remotes,
	};
}

bool entry_equal(const struct entry *a, const struct entry *b)
{
	return a->n_ports == b->n_ports && a->n_remotes == b->n_remotes &&
	       a->n_router_ports == b->n_router_ports &&
	       a->n_router_remotes == b->n_router_remotes &&
	       (!a->n_ports || !memcmp(a->ports, b->ports, a->n_ports * sizeof(*a->ports))) &&
	       (!a->n_remotes ||
		!memcmp(a->remotes, b->remotes, a->n_remotes * sizeof(*a->remotes)));
}

struct entry *entry_find(struct entry *entries, size_t n, const struct addr *source)
{
	/* The source is the first field. */
	return n ? bsearch(source, entries, n, sizeof(*entries), addr_sort) : NULL;
}

/* Writes what the new entries add or change, exact ones before (*, G), then
 * deletes what they no longer name: a packet in between finds either the old
 * or the new answer for its source. Failed ones keep the old entry. */
static int group_install(struct fib *fib, struct fib_group *g, struct entry *want, size_t n_want)
{
	int failed = 0;

	for (size_t i = n_want; i-- > 0;) {
		struct entry *old = entry_find(g->entries, g->n_entries, &want[i].source);
		struct datapath_route route = entry_route(g, &want[i]);
		int r;

		if (old && entry_equal(old, &want[i]))
			continue;
		r = fib->ops.route_set(&route, fib->userdata);
		if (r >= 0)
			continue;
		failed = r;
		entry_deinit(&want[i]);
		want[i] = (struct entry){ .source = want[i].source, .n_ports = ENTRY_BROKEN };
	}
	for (size_t i = g->n_entries; i-- > 0;) {
		if (entry_find(want, n_want, &g->entries[i].source))
			continue;
		/* Deletion cannot run out of space; an entry that is not there is gone. */
		fib->ops.route_del(g->key.segment, &g->key.group, &g->entries[i].source,
				   fib->userdata);
	}
	return failed;
}

static int group_entries(const struct fib *fib, const struct fib_group *g,
			 struct entry **ret_entries, size_t *ret_n)
{
	const struct fib_segment *segment = fib_segment_find(fib, g->key.segment);
	_cleanup_free_ struct addr *sources = NULL;
	struct entry *entries;
	size_t n;
	int r;

	if (!g->n_receivers) {
		*ret_entries = NULL;
		*ret_n = 0;
		return 0;
	}
	r = group_sources(g, &sources, &n);
	if (r < 0)
		return r;
	entries = calloc(n, sizeof(*entries));
	if (!entries)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		r = entry_derive(segment, g, &sources[i], &entries[i]);
		if (r < 0) {
			entries_free(entries, i);
			return r;
		}
	}
	*ret_entries = entries;
	*ret_n = n;
	return 0;
}

static int group_tell_member(struct fib *fib, struct fib_group *g)
{
	struct filter all = FILTER_NULL;
	int r;

	for (size_t i = 0; i < g->n_receivers && g->receivers[i].port; i++) {
		r = filter_merge(&all, &g->receivers[i].filter);
		if (r < 0) {
			filter_deinit(&all);
			return r;
		}
	}
	if (filter_equal(&all, &g->member)) {
		filter_deinit(&all);
		return 0;
	}
	filter_deinit(&g->member);
	g->member = all;
	fib->ops.member(g->key.segment, &g->key.group, &g->member, fib->userdata);
	return 0;
}

/* To those who report to the routers of the segment. */
static void group_tell_wanted(struct fib *fib, struct fib_group *g)
{
	const struct fib_segment *segment = fib_segment_find(fib, g->key.segment);

	if (fib->ops.wanted && segment && segment->n_routers)
		fib->ops.wanted(g->key.segment, &g->key.group, fib->userdata);
}

static int group_flush(struct fib *fib, struct fib_group *g)
{
	struct entry *want;
	size_t n_want;
	int r, r_member;

	r = group_entries(fib, g, &want, &n_want);
	if (r < 0)
		return r;
	r = group_install(fib, g, want, n_want);
	fib->n_entries += n_want;
	fib->n_entries -= g->n_entries;
	entries_free(g->entries, g->n_entries);
	g->entries = want;
	g->n_entries = n_want;
	r_member = group_tell_member(fib, g);
	group_tell_wanted(fib, g);
	return r < 0 ? r : r_member;
}

size_t fib_flush(struct fib *fib)
{
	struct fib_group *g, *next;
	struct fib_segment *segment, *next_segment;
	size_t due = 0;

	HASH_ITER (hh, fib->segments, segment, next_segment)
		due += segment->dirty && fib_segment_flush(fib, segment) < 0;
	g = fib->dirty;
	fib->dirty = NULL;
	for (; g; g = next) {
		next = g->dirty_next;
		g->dirty = false;
		if (group_flush(fib, g) < 0) {
			fib_group_mark(fib, g);
			due++;
		} else if (!g->n_receivers) {
			group_free(fib, g);
		}
	}
	return due;
}

void fib_rewrite(struct fib *fib)
{
	struct fib_segment *segment, *next_segment;
	struct fib_group *g, *next;

	HASH_ITER (hh, fib->segments, segment, next_segment) {
		segment->installed = false;
		segment->dirty = true;
	}
	HASH_ITER (hh, fib->groups, g, next) {
		/* As after a failed write: equal to nothing. */
		for (size_t i = 0; i < g->n_entries; i++)
			g->entries[i].n_ports = ENTRY_BROKEN;
		fib_group_mark(fib, g);
	}
}

/* ---- what routers are told ---------------------------------------------------- */

int fib_wanted(const struct fib *fib, uint32_t segment, const struct addr *group,
	       uint32_t except_port, struct filter *ret_filter)
{
	const struct fib_group *g = fib_group_find(fib, segment, group);
	struct filter all = FILTER_NULL;

	for (size_t i = 0; g && i < g->n_receivers; i++) {
		int r;

		if (g->receivers[i].port == except_port)
			continue;
		r = filter_merge(&all, &g->receivers[i].filter);
		if (r < 0) {
			filter_deinit(&all);
			return r;
		}
	}
	*ret_filter = all;
	return 0;
}

void fib_groups_walk(const struct fib *fib, uint32_t segment,
		     void (*fn)(const struct addr *group, void *userdata), void *userdata)
{
	struct fib_group *g, *next;

	HASH_ITER (hh, fib->groups, g, next) {
		if (g->key.segment == segment)
			fn(&g->key.group, userdata);
	}
}
