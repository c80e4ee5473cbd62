/* SPDX-License-Identifier: Apache-2.0 */
#include "node/datapath/internal.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "mcmesh.skel.h"

_Static_assert((int)DATAPATH_ROUTE_ALL == (int)DP_ROUTE_ALL, "kinds");
_Static_assert((int)DATAPATH_ROUTE_ROUTERS == (int)DP_ROUTE_ROUTERS, "kinds");

static int key_make(enum datapath_route_kind kind, uint32_t segment, const struct addr *group,
		    const struct addr *source, struct dp_route_key *ret_key)
{
	struct dp_route_key key;

	memset(&key, 0, sizeof(key));
	if (segment == 0 || segment >= 1U << 24 || (unsigned int)kind > DATAPATH_ROUTE_ROUTERS)
		return -EINVAL;
	if (kind == DATAPATH_ROUTE_GROUP) {
		if (!group || !addr_is_multicast(group))
			return -EINVAL;
		memcpy(key.group, group, sizeof(key.group));
		if (source)
			memcpy(key.source, source, sizeof(key.source));
	}
	key.segment = segment;
	key.kind = (uint8_t)kind;
	*ret_key = key;
	return 0;
}

static struct route *route_find(struct datapath *dp, const struct dp_route_key *key)
{
	struct route *r;

	HASH_FIND(hh, dp->route_index, key, sizeof(*key), r);
	return r;
}

/* After each change of `routes`, and before the chunks of what was there are another's:
 * no packet goes on with what it kept of them (bpf/flow.h). */
static void routes_changed(struct datapath *dp, const struct dp_route_key *key)
{
	__atomic_fetch_add(&dp->epochs[DP_EPOCH_SLOT(key->group)], 1, __ATOMIC_SEQ_CST);
}

static void chunk_refs(struct datapath *dp, const struct dp_list *chunk, int by)
{
	uint32_t n = chunk->n_ports + chunk->n_remotes;

	for (uint32_t i = 0; i < n && i < DP_LIST_ENTRIES; i++) {
		struct numbers *of = i < chunk->n_ports ? &dp->port_numbers : &dp->remote_numbers;

		of->refs[chunk->entry[i]] += (uint32_t)by;
	}
}

static bool chunk_is_sound(const struct datapath *dp, const struct dp_list *chunk,
			   const struct dp_route_key *key, uint32_t seq)
{
	if (memcmp(&chunk->key, key, sizeof(*key)) != 0 || chunk->seq != seq ||
	    chunk->n_ports + chunk->n_remotes > DP_LIST_ENTRIES)
		return false;
	for (uint32_t i = 0; i < (uint32_t)chunk->n_ports + chunk->n_remotes; i++) {
		uint32_t max = i < chunk->n_ports ? dp->port_numbers.n : dp->remote_numbers.n;

		if (chunk->entry[i] > max)
			return false;
	}
	return true;
}

/* A list that no route names any more. Of one that was damaged the rest is lost
 * until the next start: better than to believe it. */
static void list_retire(struct datapath *dp, const struct dp_route_key *key,
			const struct dp_route *value)
{
	uint64_t now_ms = datapath_now_ms();
	uint32_t n = 0;

	for (uint32_t next, i = value->first; i && i <= dp->list_numbers.n; i = next) {
		if (n++ == DP_LIST_CHAIN || !chunk_is_sound(dp, &dp->lists[i], key, value->seq))
			return;
		next = dp->lists[i].next;
		chunk_refs(dp, &dp->lists[i], -1);
		numbers_retire(&dp->list_numbers, i, now_ms);
	}
}

/* One that was never published. */
static void list_put(struct datapath *dp, uint32_t first)
{
	for (uint32_t next, i = first; i; i = next) {
		next = dp->lists[i].next;
		chunk_refs(dp, &dp->lists[i], -1);
		numbers_put(&dp->list_numbers, i);
	}
}

/* Receivers that are known, as their numbers: ports first, those that are only
 * routers last of the ports and last of the remotes. */
struct members {
	uint32_t *entries;
	size_t n_ports, n_remotes;
	size_t n_router_ports, n_router_remotes;
};

static int members_make(struct datapath *dp, const struct datapath_route *route,
			struct members *ret_members)
{
	size_t n = route->n_ports + route->n_remotes;
	_cleanup_free_ uint32_t *entries = calloc(n ? n : 1, sizeof(*entries));
	struct members m = { 0 };
	size_t used = 0;

	if (!entries)
		return -ENOMEM;
	for (size_t i = 0; i < route->n_ports; i++) {
		struct port *p;

		HASH_FIND(hh, dp->port_index, &route->ports[i], sizeof(uint32_t), p);
		if (!p)
			continue;
		entries[used++] = p->number;
		m.n_router_ports += i >= route->n_ports - route->n_router_ports;
	}
	m.n_ports = used;
	for (size_t i = 0; i < route->n_remotes; i++) {
		struct remote *r;

		HASH_FIND(hh, dp->remote_index, &route->remotes[i], sizeof(struct addr), r);
		if (!r)
			continue;
		entries[used++] = r->number;
		m.n_router_remotes += i >= route->n_remotes - route->n_router_remotes;
	}
	m.n_remotes = used - m.n_ports;
	m.entries = TAKE_PTR(entries);
	*ret_members = m;
	return 0;
}

static uint32_t router_bits(const struct members *m, size_t begin, size_t end)
{
	uint32_t bits = 0;

	for (size_t i = begin; i < end; i++) {
		size_t last = i < m->n_ports ? m->n_ports - m->n_router_ports
					     : m->n_ports + m->n_remotes - m->n_router_remotes;

		if (i >= last)
			bits |= 1U << (i - begin);
	}
	return bits;
}

struct fan_plan {
	uint16_t copies, more; /* dp_list.fan, dp_list.fan_more */
};

/* Of the chunk that begins with that receiver. */
static struct fan_plan fan_plan(struct datapath *dp, const struct members *m, size_t begin)
{
	size_t chunks = datapath_fan_chunks(dp), most = chunks * DP_LIST_ENTRIES, ports;

	/* Those between are served by a fan that began before them. */
	if (m->n_ports < dp->fan_min_ports || begin >= m->n_ports || begin % most)
		return (struct fan_plan){ 0 };
	ports = m->n_ports - begin;
	return (struct fan_plan){
		.copies = datapath_fan_want(dp, (uint32_t)(ports > most ? most + 1 : ports)),
		.more = ports > DP_LIST_ENTRIES ? (uint16_t)(chunks - 1) : 0,
	};
}

/* Writes the list from its end to its beginning. 0 and its name, or -ENOSPC. */
static int list_make(struct datapath *dp, const struct dp_route_key *key, const struct members *m,
		     struct dp_route *ret_value)
{
	size_t n = m->n_ports + m->n_remotes;
	size_t chunks = n ? (n + DP_LIST_ENTRIES - 1) / DP_LIST_ENTRIES : 1;
	uint32_t seq = ++dp->list_seq, next = 0;

	if (chunks > DP_LIST_CHAIN || chunks > dp->list_numbers.n_free)
		return -ENOSPC;
	for (size_t c = chunks; c > 0; c--) {
		size_t begin = (c - 1) * DP_LIST_ENTRIES;
		size_t end = begin + DP_LIST_ENTRIES < n ? begin + DP_LIST_ENTRIES : n;
		size_t ports = m->n_ports <= begin ? 0
			       : m->n_ports >= end ? end - begin
						   : m->n_ports - begin;
		uint32_t number = numbers_take(&dp->list_numbers);
		struct dp_list *chunk = &dp->lists[number];
		struct fan_plan fan = fan_plan(dp, m, begin);

		chunk->key = *key;
		chunk->seq = seq;
		chunk->next = next;
		chunk->n_ports = (uint16_t)ports;
		chunk->n_remotes = (uint16_t)(end - begin - ports);
		chunk->routers = router_bits(m, begin, end);
		chunk->fan = fan.copies;
		chunk->fan_more = fan.more;
		chunk->no_remotes = !m->n_remotes;
		if (end > begin)
			memcpy(chunk->entry, m->entries + begin,
			       (end - begin) * sizeof(*m->entries));
		chunk_refs(dp, chunk, 1);
		next = number;
	}
	*ret_value = (struct dp_route){ .first = next, .seq = seq };
	return 0;
}

int datapath_route_set(struct datapath *dp, const struct datapath_route *route)
{
	_cleanup_free_ uint32_t *entries = NULL;
	struct dp_route value, old = { 0 };
	struct dp_route_key key;
	struct route *r, *fresh = NULL;
	struct members m;
	int rc;

	rc = key_make(route->kind, route->segment, &route->group, &route->source, &key);
	if (rc < 0)
		return rc;
	rc = members_make(dp, route, &m);
	if (rc < 0)
		return rc;
	entries = m.entries;
	r = route_find(dp, &key);
	if (!r) {
		r = fresh = calloc(1, sizeof(*fresh));
		if (!r)
			return -ENOMEM;
		r->key = key;
	}
	numbers_reclaim(&dp->list_numbers, datapath_now_ms());
	rc = list_make(dp, &key, &m, &value);
	if (rc < 0) {
		free(fresh);
		return rc;
	}
	/* The system call orders the stores before it; this store publishes. */
	rc = datapath_map_set(dp->skel->maps.routes, &key, &value);
	if (rc < 0) {
		list_put(dp, value.first);
		free(fresh);
		return rc;
	}
	routes_changed(dp, &key);
	old = r->value;
	r->value = value;
	if (fresh)
		HASH_ADD(hh, dp->route_index, key, sizeof(key), fresh);
	else
		list_retire(dp, &key, &old);
	return (int)(route->n_ports + route->n_remotes - m.n_ports - m.n_remotes);
}

int datapath_route_del(struct datapath *dp, enum datapath_route_kind kind, uint32_t segment,
		       const struct addr *group, const struct addr *source)
{
	struct dp_route_key key;
	struct route *r;
	int rc;

	rc = key_make(kind, segment, group, source, &key);
	if (rc < 0)
		return rc;
	r = route_find(dp, &key);
	if (!r)
		return -ENOENT;
	rc = datapath_map_del(dp->skel->maps.routes, &key);
	if (rc < 0 && rc != -ENOENT)
		return rc;
	routes_changed(dp, &key);
	list_retire(dp, &key, &r->value);
	HASH_DEL(dp->route_index, r);
	free(r);
	return 0;
}

bool datapath_list_is_sound(const struct datapath *dp, const struct dp_route_key *key,
			    const struct dp_route *value)
{
	uint32_t i = value->first;

	for (uint32_t n = 0; n < DP_LIST_CHAIN; n++) {
		if (i == 0 || i > dp->list_numbers.n ||
		    !chunk_is_sound(dp, &dp->lists[i], key, value->seq))
			return false;
		i = dp->lists[i].next;
		if (i == 0)
			return true;
	}
	return false;
}

static int route_adopt(struct datapath *dp, const struct dp_route_key *key)
{
	struct dp_route value;
	struct route *r;
	int rc;

	rc = datapath_map_get(dp->skel->maps.routes, key, &value);
	if (rc < 0)
		return rc;
	if (!datapath_list_is_sound(dp, key, &value))
		return datapath_map_del(dp->skel->maps.routes, key);
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->key = *key;
	r->value = value;
	HASH_ADD(hh, dp->route_index, key, sizeof(r->key), r);
	for (uint32_t i = value.first; i; i = dp->lists[i].next) {
		numbers_claim(&dp->list_numbers, i);
		datapath_fan_want(dp, dp->lists[i].fan);
		chunk_refs(dp, &dp->lists[i], 1);
	}
	return 0;
}

int datapath_routes_adopt(struct datapath *dp)
{
	_cleanup_free_ void *keys = NULL;
	size_t n;
	int rc;

	rc = datapath_map_keys(dp->skel->maps.routes, &keys, &n);
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = route_adopt(dp, (const struct dp_route_key *)keys + i);
	/* Those that were deleted, and what the last agent may have changed when it died. */
	for (size_t i = 0; i < DP_EPOCHS; i++)
		__atomic_fetch_add(&dp->epochs[i], 1, __ATOMIC_SEQ_CST);
	return rc;
}

void datapath_routes_deinit(struct datapath *dp)
{
	struct route *r, *next;

	HASH_ITER (hh, dp->route_index, r, next) {
		HASH_DEL(dp->route_index, r);
		free(r);
	}
}

/* What a list says now, as the contract shows it. */
struct route_receivers {
	uint32_t ports[DP_LIST_CHAIN * DP_LIST_ENTRIES];
	struct addr remotes[DP_LIST_CHAIN * DP_LIST_ENTRIES];
	size_t n_ports, n_remotes;
	size_t n_router_ports, n_router_remotes;
};

static void receivers_read(const struct datapath *dp, uint32_t first,
			   struct route_receivers *ret_receivers)
{
	struct route_receivers *x = ret_receivers;

	x->n_ports = x->n_remotes = x->n_router_ports = x->n_router_remotes = 0;
	for (uint32_t c = first; c; c = dp->lists[c].next) {
		const struct dp_list *chunk = &dp->lists[c];

		for (uint32_t i = 0; i < (uint32_t)chunk->n_ports + chunk->n_remotes; i++) {
			uint32_t number = chunk->entry[i], router = chunk->routers >> i & 1;

			if (i < chunk->n_ports) {
				if (!dp->ports[number].ifindex)
					continue;
				x->ports[x->n_ports++] = dp->ports[number].ifindex;
				x->n_router_ports += router;
			} else if (dp->remotes[number].in_use) {
				memcpy(&x->remotes[x->n_remotes++], dp->remotes[number].vtep,
				       sizeof(struct addr));
				x->n_router_remotes += router;
			}
		}
	}
}

int datapath_routes_walk(struct datapath *dp,
			 int (*fn)(const struct datapath_route *route, void *userdata),
			 void *userdata)
{
	_cleanup_free_ struct route_receivers *x = malloc(sizeof(*x));
	_cleanup_free_ void *keys = NULL;
	size_t n;
	int rc;

	if (!x)
		return -ENOMEM;
	rc = datapath_map_keys(dp->skel->maps.routes, &keys, &n);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		const struct dp_route_key *key = (const struct dp_route_key *)keys + i;
		struct datapath_route route = { .kind = key->kind, .segment = key->segment };
		struct dp_route value;

		/* fn may have deleted it meanwhile. */
		if (datapath_map_get(dp->skel->maps.routes, key, &value) < 0 ||
		    !datapath_list_is_sound(dp, key, &value))
			continue;
		receivers_read(dp, value.first, x);
		memcpy(&route.group, key->group, sizeof(route.group));
		memcpy(&route.source, key->source, sizeof(route.source));
		route.ports = x->ports;
		route.n_ports = x->n_ports;
		route.n_router_ports = x->n_router_ports;
		route.remotes = x->remotes;
		route.n_remotes = x->n_remotes;
		route.n_router_remotes = x->n_router_remotes;
		rc = fn(&route, userdata);
	}
	return rc;
}
