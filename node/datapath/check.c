/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Are the maps as they were written? Somebody else's hands, or memory that failed,
 * may have changed them, and forwarding believes them. Each is compared with what
 * is noted beside its index, and written again where it differs. Entries and lists
 * are compared by who knows what they ought to be (node/fib.c), programs where they
 * are attached (datapath_port_check()).
 */
#include "node/datapath/internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "mcmesh.skel.h"

void datapath_differs(struct datapath_damage *d, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (!d->n++)
		vsnprintf(d->first, sizeof(d->first), format, args);
	va_end(args);
}

/* ---- keys ---------------------------------------------------------------------- */

/* The map has value under key, else it is written. */
static void key_check(const struct bpf_map *map, const void *key, const void *value, void *scratch,
		      size_t size, const char *what, struct datapath_damage *d)
{
	if (datapath_map_get(map, key, scratch) == 0 && memcmp(scratch, value, size) == 0)
		return;
	datapath_differs(d, "%s", what);
	datapath_map_set(map, key, value);
}

/* Keys that are not ours go. */
static int keys_sweep(struct datapath *dp, const struct bpf_map *map, size_t size,
		      bool (*is_ours)(struct datapath *dp, const void *key), const char *what,
		      struct datapath_damage *d)
{
	_cleanup_free_ void *keys = NULL;
	size_t n;
	int rc;

	rc = datapath_map_keys(map, &keys, &n);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		const char *key = (const char *)keys + i * size;

		if (is_ours(dp, key))
			continue;
		datapath_differs(d, "%s", what);
		datapath_map_del(map, key);
	}
	return rc;
}

static bool port_is_ours(struct datapath *dp, const void *key)
{
	struct port *p;

	HASH_FIND(hh, dp->port_index, key, sizeof(p->ifindex), p);
	return p;
}

static bool remote_is_ours(struct datapath *dp, const void *key)
{
	struct remote *r;

	HASH_FIND(hh, dp->remote_index, key, sizeof(r->vtep), r);
	return r;
}

static bool segment_is_ours(struct datapath *dp, const void *key)
{
	struct segment *s;

	HASH_FIND(hh, dp->segment_index, key, sizeof(s->id), s);
	return s;
}

/* ---- each kind ------------------------------------------------------------------- */

static void ports_check(struct datapath *dp, struct datapath_damage *d)
{
	struct port *p, *next;
	char what[64];
	uint32_t number;

	HASH_ITER (hh, dp->port_index, p, next) {
		snprintf(what, sizeof(what), "the number of port if%u", p->ifindex);
		key_check(dp->skel->maps.port_ids, &p->ifindex, &p->number, &number, sizeof(number),
			  what, d);
		if (memcmp(&dp->ports[p->number], &p->value, sizeof(p->value)) == 0)
			continue;
		datapath_differs(d, "port if%u", p->ifindex);
		dp->ports[p->number] = p->value;
	}
	for (uint32_t i = 0; i <= dp->port_numbers.n; i++) {
		if ((i && dp->port_numbers.used[i]) || !dp->ports[i].ifindex)
			continue;
		datapath_differs(d, "port number %u is used and nobody's", i);
		dp->ports[i].ifindex = 0;
	}
}

static void remotes_check(struct datapath *dp, struct datapath_damage *d)
{
	char what[ADDR_TEXT_MAX + 32], text[ADDR_TEXT_MAX];
	struct remote *r, *next;
	uint32_t number;

	HASH_ITER (hh, dp->remote_index, r, next) {
		snprintf(what, sizeof(what), "the number of node %s", addr_format(&r->vtep, text));
		key_check(dp->skel->maps.vteps, &r->vtep, &r->number, &number, sizeof(number), what,
			  d);
		if (memcmp(&dp->remotes[r->number], &r->value, sizeof(r->value)) == 0)
			continue;
		datapath_differs(d, "node %s", text);
		dp->remotes[r->number] = r->value;
	}
	for (uint32_t i = 0; i <= dp->remote_numbers.n; i++) {
		if ((i && dp->remote_numbers.used[i]) || !dp->remotes[i].in_use)
			continue;
		datapath_differs(d, "node number %u is used and nobody's", i);
		dp->remotes[i].in_use = 0;
	}
}

static void segments_check(struct datapath *dp, struct datapath_damage *d)
{
	struct segment *s, *next;
	struct dp_segment value;
	char what[64];

	HASH_ITER (hh, dp->segment_index, s, next) {
		snprintf(what, sizeof(what), "segment %u", s->id);
		key_check(dp->skel->maps.segments, &s->id, &s->value, &value, sizeof(value), what,
			  d);
	}
}

int datapath_check(struct datapath *dp, struct datapath_damage *ret_damage)
{
	struct datapath_damage d = { 0 };
	struct dp_config config;
	uint32_t zero = 0;
	int rc;

	ports_check(dp, &d);
	remotes_check(dp, &d);
	segments_check(dp, &d);
	key_check(dp->skel->maps.config, &zero, &dp->config, &config, sizeof(config),
		  "the configuration", &d);
	rc = keys_sweep(dp, dp->skel->maps.port_ids, sizeof(uint32_t), port_is_ours,
			"an interface that is no port has a number", &d);
	if (rc == 0)
		rc = keys_sweep(dp, dp->skel->maps.vteps, sizeof(struct addr), remote_is_ours,
				"an address that is no node's has a number", &d);
	if (rc == 0)
		rc = keys_sweep(dp, dp->skel->maps.segments, sizeof(uint32_t), segment_is_ours,
				"a segment that is not ours", &d);
	if (rc == 0)
		*ret_damage = d;
	return rc;
}
