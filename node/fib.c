/* SPDX-License-Identifier: Apache-2.0 */
#include "node/fib.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "common/cleanup.h"

struct receiver {
	uint32_t port; /* 0: a remote */
	struct addr vtep;
	struct filter filter;
};

/* An installed entry; ports and remotes are in the order of the receivers. */
struct entry {
	struct addr source; /* null: any */
	uint32_t *ports;
	size_t n_ports;
	struct addr *remotes;
	size_t n_remotes;
};

struct group_key {
	uint32_t segment;
	struct addr group;
};

struct fib_group {
	struct group_key key;
	struct receiver *receivers; /* sorted: ports by number, then remotes by address */
	size_t n_receivers, cap_receivers;
	struct entry *entries; /* sorted by source, so (*, G) is first */
	size_t n_entries;
	struct filter member; /* last told to ops->member */
	bool dirty;
	struct fib_group *dirty_next;
	UT_hash_handle hh;
};

struct router {
	uint32_t segment, port;
};

struct fib {
	struct fib_ops ops;
	void *userdata;
	struct router *routers; /* sorted by port */
	size_t n_routers;
	struct fib_group *groups;
	struct fib_group *dirty;
	size_t n_entries;
};

static void entry_deinit(struct entry *e)
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
	free(fib->routers);
	free(fib);
}

static struct group_key make_key(uint32_t segment, const struct addr *group)
{
	return (struct group_key){ .segment = segment, .group = *group };
}

static struct fib_group *group_find(const struct fib *fib, uint32_t segment,
				    const struct addr *group)
{
	struct group_key key = make_key(segment, group);
	struct fib_group *g;

	HASH_FIND(hh, fib->groups, &key, sizeof(key), g);
	return g;
}

static struct fib_group *group_get(struct fib *fib, uint32_t segment, const struct addr *group)
{
	struct fib_group *g = group_find(fib, segment, group);

	if (g)
		return g;
	g = calloc(1, sizeof(*g));
	if (!g)
		return NULL;
	g->key = make_key(segment, group);
	HASH_ADD(hh, fib->groups, key, sizeof(g->key), g);
	return g;
}

static void group_mark(struct fib *fib, struct fib_group *g)
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

static size_t receiver_position(const struct fib_group *g, uint32_t port, const struct addr *vtep,
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

static int receiver_insert(struct fib_group *g, size_t at, uint32_t port, const struct addr *vtep,
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
	struct fib_group *g = group_find(fib, segment, group);
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
		group_mark(fib, g);
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
		group_mark(fib, g);
		return 0;
	}
	if (!g) {
		g = group_get(fib, segment, group);
		if (!g)
			return -ENOMEM;
	}
	r = receiver_insert(g, at, port, vtep, filter);
	group_mark(fib, g); /* also an empty new group is cleared away by the flush */
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
	return receiver_set(fib, segment, group, 0, vtep, filter);
}

static size_t router_position(const struct fib *fib, uint32_t port)
{
	size_t at = 0;

	while (at < fib->n_routers && fib->routers[at].port < port)
		at++;
	return at;
}

static void segment_mark(struct fib *fib, uint32_t segment)
{
	struct fib_group *g, *next;

	HASH_ITER (hh, fib->groups, g, next) {
		if (g->key.segment == segment)
			group_mark(fib, g);
	}
}

static void router_remove(struct fib *fib, size_t at)
{
	uint32_t segment = fib->routers[at].segment;

	fib->n_routers--;
	memmove(&fib->routers[at], &fib->routers[at + 1],
		(fib->n_routers - at) * sizeof(*fib->routers));
	segment_mark(fib, segment);
}

int fib_router_set(struct fib *fib, uint32_t segment, uint32_t port, bool on)
{
	size_t at = router_position(fib, port);
	bool found = at < fib->n_routers && fib->routers[at].port == port;
	struct router *grown;

	if (found && (!on || fib->routers[at].segment != segment)) {
		router_remove(fib, at);
		found = false;
	}
	if (found || !on)
		return 0;
	grown = reallocarray(fib->routers, fib->n_routers + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	fib->routers = grown;
	memmove(&grown[at + 1], &grown[at], (fib->n_routers - at) * sizeof(*grown));
	grown[at] = (struct router){ .segment = segment, .port = port };
	fib->n_routers++;
	segment_mark(fib, segment);
	return 0;
}

void fib_port_forget(struct fib *fib, uint32_t port)
{
	struct fib_group *g, *next;
	bool found;
	size_t at = router_position(fib, port);

	if (at < fib->n_routers && fib->routers[at].port == port)
		router_remove(fib, at);
	HASH_ITER (hh, fib->groups, g, next) {
		at = receiver_position(g, port, &ADDR_NULL, &found);
		if (found) {
			receiver_remove(g, at);
			group_mark(fib, g);
		}
	}
}

/* ---- derivation ------------------------------------------------------------- */

static int addr_sort(const void *a, const void *b)
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

static void entry_add_port(struct entry *e, uint32_t port)
{
	if (!e->n_ports || e->ports[e->n_ports - 1] < port)
		e->ports[e->n_ports++] = port;
}

/* Those from `at` on that are below `port`; returns where to go on. */
static size_t entry_add_routers(const struct fib *fib, uint32_t segment, size_t at, uint32_t port,
				struct entry *e)
{
	for (; at < fib->n_routers && fib->routers[at].port < port; at++) {
		if (fib->routers[at].segment == segment)
			entry_add_port(e, fib->routers[at].port);
	}
	return at;
}

/* Receivers and routers are both in the order of their ports: a merge. */
static int entry_derive(const struct fib *fib, const struct fib_group *g, const struct addr *source,
			struct entry *ret_entry)
{
	struct entry e = { .source = *source };
	bool any = addr_is_null(source);
	size_t router = 0;

	e.ports = malloc((g->n_receivers + fib->n_routers + 1) * sizeof(*e.ports));
	e.remotes = malloc((g->n_receivers + 1) * sizeof(*e.remotes));
	if (!e.ports || !e.remotes) {
		entry_deinit(&e);
		return -ENOMEM;
	}
	for (size_t i = 0; i < g->n_receivers; i++) {
		const struct receiver *r = &g->receivers[i];

		if (!(any ? filter_wants_any(&r->filter) : filter_wants(&r->filter, source)))
			continue;
		if (!r->port) {
			e.remotes[e.n_remotes++] = r->vtep;
			continue;
		}
		router = entry_add_routers(fib, g->key.segment, router, r->port, &e);
		entry_add_port(&e, r->port);
	}
	entry_add_routers(fib, g->key.segment, router, UINT32_MAX, &e);
	*ret_entry = e;
	return 0;
}

static struct datapath_route entry_route(const struct fib_group *g, const struct entry *e)
{
	return (struct datapath_route){
		.kind = DATAPATH_ROUTE_GROUP,
		.segment = g->key.segment,
		.group = g->key.group,
		.source = e->source,
		.ports = e->ports,
		.n_ports = e->n_ports,
		.remotes = e->remotes,
		.n_remotes = e->n_remotes,
	};
}

static bool entry_equal(const struct entry *a, const struct entry *b)
{
	return a->n_ports == b->n_ports && a->n_remotes == b->n_remotes &&
	       (!a->n_ports || !memcmp(a->ports, b->ports, a->n_ports * sizeof(*a->ports))) &&
	       (!a->n_remotes ||
		!memcmp(a->remotes, b->remotes, a->n_remotes * sizeof(*a->remotes)));
}

static struct entry *entry_find(struct entry *entries, size_t n, const struct addr *source)
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
		/* n_ports of SIZE_MAX marks "not as wanted" until the next try. */
		want[i] = (struct entry){ .source = want[i].source, .n_ports = SIZE_MAX };
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
		r = entry_derive(fib, g, &sources[i], &entries[i]);
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
	return r < 0 ? r : r_member;
}

size_t fib_flush(struct fib *fib)
{
	struct fib_group *g = fib->dirty, *next;
	size_t due = 0;

	fib->dirty = NULL;
	for (; g; g = next) {
		next = g->dirty_next;
		g->dirty = false;
		if (group_flush(fib, g) < 0) {
			group_mark(fib, g);
			due++;
		} else if (!g->n_receivers) {
			group_free(fib, g);
		}
	}
	return due;
}

void fib_rewrite(struct fib *fib)
{
	struct fib_group *g, *next;

	HASH_ITER (hh, fib->groups, g, next) {
		/* As after a failed write: equal to nothing. */
		for (size_t i = 0; i < g->n_entries; i++)
			g->entries[i].n_ports = SIZE_MAX;
		group_mark(fib, g);
	}
}

/* ---- adoption --------------------------------------------------------------- */

int fib_adopt(struct fib *fib, const struct datapath_route *route)
{
	struct entry e = { .source = route->source }, *grown;
	struct fib_group *g;
	size_t at = 0;

	if (route->kind != DATAPATH_ROUTE_GROUP)
		return 0;
	g = group_get(fib, route->segment, &route->group);
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

static bool entry_lists(const struct entry *e, uint32_t port, const struct addr *vtep)
{
	if (port) {
		for (size_t i = 0; i < e->n_ports; i++) {
			if (e->ports[i] == port)
				return true;
		}
		return false;
	}
	for (size_t i = 0; i < e->n_remotes; i++) {
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

		for (size_t k = 0; k < e->n_ports; k++) {
			r = receiver_adopt(g, e->ports[k], &ADDR_NULL);
			if (r < 0)
				return r;
		}
		for (size_t k = 0; k < e->n_remotes; k++) {
			r = receiver_adopt(g, 0, &e->remotes[k]);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

int fib_adopt_done(struct fib *fib, void (*fn)(const struct fib_adopted *adopted, void *userdata),
		   void *userdata)
{
	struct fib_group *g, *next;
	int r;

	HASH_ITER (hh, fib->groups, g, next) {
		r = group_adopt(g);
		if (r < 0)
			return r;
		for (size_t i = 0; i < g->n_receivers; i++) {
			struct fib_adopted adopted = {
				.segment = g->key.segment,
				.group = &g->key.group,
				.port = g->receivers[i].port,
				.vtep = g->receivers[i].port ? NULL : &g->receivers[i].vtep,
				.filter = &g->receivers[i].filter,
			};

			fn(&adopted, userdata);
		}
		group_mark(fib, g); /* tells the members, clears away what is empty */
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

			if (g->entries[i].n_ports == SIZE_MAX)
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

bool fib_has(const struct fib *fib, const struct datapath_route *route)
{
	struct fib_group *g = group_find(fib, route->segment, &route->group);
	struct entry *e = g ? entry_find(g->entries, g->n_entries, &route->source) : NULL;

	return e && e->n_ports == route->n_ports && e->n_remotes == route->n_remotes &&
	       same_set(e->ports, route->ports, e->n_ports, sizeof(*e->ports), port_sort) &&
	       same_set(e->remotes, route->remotes, e->n_remotes, sizeof(*e->remotes), addr_sort);
}

size_t fib_count(const struct fib *fib)
{
	return fib->n_entries;
}
