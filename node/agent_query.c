/* SPDX-License-Identifier: Apache-2.0 */
#include "node/agent_internal.h"

/*
 * Forwarding entries read back from the kernel's maps, and the controller's
 * questions about them (docs/sync-rules.md, S23): the maps answer, not our belief.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "node/page.h"

/* Of a message; the rest follows with `more`. */
#define ANSWER_ROUTES_MAX 2000
#define ANSWER_BYTES_MAX  (1024 * 1024)

struct read {
	struct agent *a;
	uint32_t segment;
	const struct addr *group;
	Mcmesh__V1__Route **rows;
	size_t n, cap;
};

static void route_free(Mcmesh__V1__Route *row)
{
	for (size_t i = 0; i < row->n_ports; i++)
		free(row->ports[i]);
	for (size_t i = 0; i < row->n_remotes; i++)
		free(row->remotes[i]);
	free(row->ports);
	free(row->remotes);
	free(row->group);
	free(row->source);
	free(row);
}

void agent_routes_free(Mcmesh__V1__Route **rows, size_t n)
{
	for (size_t i = 0; i < n; i++)
		route_free(rows[i]);
	free(rows);
}

static int text_cmp(const void *x, const void *y)
{
	return strverscmp(*(char *const *)x, *(char *const *)y);
}

static char *port_text(const struct agent *a, uint32_t ifindex)
{
	const char *name = agent_port_name(a, ifindex);
	char *text;

	if (name[0])
		return strdup(name);
	return asprintf(&text, "if%u", ifindex) < 0 ? NULL : text;
}

static Mcmesh__V1__Route *route_new(const struct agent *a, const struct datapath_route *route)
{
	Mcmesh__V1__Route *row = malloc(sizeof(*row));
	char text[ADDR_TEXT_MAX];

	if (!row)
		return NULL;
	mcmesh__v1__route__init(row);
	row->segment = route->segment;
	row->group = strdup(addr_is_null(&route->group) ? "*" : addr_format(&route->group, text));
	row->source =
		strdup(addr_is_null(&route->source) ? "*" : addr_format(&route->source, text));
	row->ports = calloc(route->n_ports + 1, sizeof(*row->ports));
	row->remotes = calloc(route->n_remotes + 1, sizeof(*row->remotes));
	if (!row->group || !row->source || !row->ports || !row->remotes)
		goto fail;
	for (; row->n_ports < route->n_ports; row->n_ports++) {
		row->ports[row->n_ports] = port_text(a, route->ports[row->n_ports]);
		if (!row->ports[row->n_ports])
			goto fail;
	}
	for (; row->n_remotes < route->n_remotes; row->n_remotes++) {
		row->remotes[row->n_remotes] =
			strdup(addr_format(&route->remotes[row->n_remotes], text));
		if (!row->remotes[row->n_remotes])
			goto fail;
	}
	qsort(row->ports, row->n_ports, sizeof(*row->ports), text_cmp);
	qsort(row->remotes, row->n_remotes, sizeof(*row->remotes), text_cmp);
	return row;
fail:
	route_free(row);
	return NULL;
}

static int read_route(const struct datapath_route *route, void *userdata)
{
	struct read *r = userdata;

	bool routers = route->kind == DATAPATH_ROUTE_ROUTERS && route->n_ports + route->n_remotes;

	/* Who gets every group: shown as the group "*", where there is somebody. */
	if (!(route->kind == DATAPATH_ROUTE_GROUP || routers) ||
	    (r->segment && route->segment != r->segment) ||
	    (r->group && !addr_equal(r->group, &route->group)))
		return 0;
	if (r->n == r->cap) {
		size_t cap = r->cap ? r->cap * 2 : 64;
		Mcmesh__V1__Route **grown = reallocarray(r->rows, cap, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		r->rows = grown;
		r->cap = cap;
	}
	r->rows[r->n] = route_new(r->a, route);
	if (!r->rows[r->n])
		return -ENOMEM;
	r->n++;
	return 0;
}

int agent_route_cmp(const void *x, const void *y)
{
	const Mcmesh__V1__Route *a = *(Mcmesh__V1__Route *const *)x;
	const Mcmesh__V1__Route *b = *(Mcmesh__V1__Route *const *)y;
	int c;

	if (a->segment != b->segment)
		return a->segment < b->segment ? -1 : 1;
	c = strverscmp(a->group, b->group);
	return c ? c : strverscmp(a->source, b->source);
}

int agent_routes_read(struct agent *a, uint32_t segment, const struct addr *group,
		      Mcmesh__V1__Route ***ret_routes, size_t *ret_n)
{
	struct read read = { .a = a, .segment = segment, .group = group };
	int r = datapath_routes_walk(a->datapath, read_route, &read);

	if (r < 0) {
		agent_routes_free(read.rows, read.n);
		return r;
	}
	if (read.n)
		qsort(read.rows, read.n, sizeof(*read.rows), agent_route_cmp);
	*ret_routes = read.rows;
	*ret_n = read.n;
	return 0;
}

/* ---- verification ----------------------------------------------------------- */

struct verify {
	struct agent *a;
	uint64_t entries, lists, differences;
	char first[160];
};

static void verify_differs(struct verify *v, uint64_t n, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static void verify_differs(struct verify *v, uint64_t n, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (n && !v->differences)
		vsnprintf(v->first, sizeof(v->first), format, args);
	va_end(args);
	v->differences += n;
}

static int verify_route(const struct datapath_route *route, void *userdata)
{
	struct verify *v = userdata;
	char group[ADDR_TEXT_MAX];

	if (route->kind == DATAPATH_ROUTE_ALL) {
		if (agent_list_matches(v->a, route))
			v->lists++;
		return 0;
	}
	v->entries++;
	if (!fib_has(v->a->fib, route)) {
		v->entries--;
		verify_differs(v, 1, "segment %u group %s", route->segment,
			       addr_is_null(&route->group) ? "*"
							   : addr_format(&route->group, group));
	}
	return 0;
}

/* What a limit leaves out is missing in entries that are as right as they can be. */
static const char *verify_limit(const struct agent *a)
{
	struct agent_remote *remote, *next;

	HASH_ITER (hh, a->remotes, remote, next) {
		if (remote->refused)
			return remote->node;
	}
	return NULL;
}

static void verify_mend(struct agent *a, const struct verify *v, char detail[256])
{
	const char *refused = verify_limit(a);

	log_warning("The kernel's maps are not as written; they are written again. "
		    "differences=%" PRIu64 " first=\"%s\"",
		    v->differences, v->first);
	fib_rewrite(a->fib);
	a->lists_due = true;
	if (refused)
		snprintf(detail, 256,
			 "%" PRIu64 " entries differ, first: %s; node %s has no place in "
			 "limits.remotes: raise it in the agent's file",
			 v->differences, v->first, refused);
	else
		snprintf(detail, 256, "%" PRIu64 " entries differ, first: %s", v->differences,
			 v->first);
}

/* Every entry of the maps is one that we want, and there are as many; what the
 * entries refer to is as it was written; the programs are where they were put. What was found is told, and is mended in
 * the next turn. */
static void verify(struct agent *a, Mcmesh__V1__Answer *answer, char detail[256])
{
	struct datapath_damage damage, programs = agent_programs_check(a);
	struct verify v = { .a = a };
	uint64_t want, lists;

	if (datapath_check(a->datapath, &damage) < 0 ||
	    datapath_routes_walk(a->datapath, verify_route, &v) < 0) {
		answer->code = RPC_INTERNAL;
		answer->error = (char *)"the kernel's maps could not be read";
		return;
	}
	want = fib_count(a->fib);
	lists = agent_lists_count(a);
	if (want > v.entries)
		verify_differs(&v, want - v.entries, "%" PRIu64 " entries are missing",
			       want - v.entries);
	if (lists > v.lists)
		verify_differs(&v, lists - v.lists, "the list of all ports of a segment");
	verify_differs(&v, damage.n, "%.120s", damage.first);
	verify_differs(&v, programs.n, "%.120s", programs.first);
	answer->differences = v.differences;
	if (v.differences)
		verify_mend(a, &v, detail);
	else
		snprintf(detail, 256, "%" PRIu64 " forwarding entries match", v.entries);
	answer->detail = detail;
}

/* ---- answers ---------------------------------------------------------------- */

struct applied {
	Mcmesh__V1__SegmentAck *rows[64];
	Mcmesh__V1__SegmentAck storage[64];
	size_t n;
};

static void applied_segment(uint32_t segment, uint64_t revision, void *userdata)
{
	struct applied *applied = userdata;

	if (applied->n == ARRAY_SIZE(applied->rows))
		return;
	mcmesh__v1__segment_ack__init(&applied->storage[applied->n]);
	applied->storage[applied->n].segment = segment;
	applied->storage[applied->n].revision = revision;
	applied->rows[applied->n] = &applied->storage[applied->n];
	applied->n++;
}

static void answer_routes(struct agent *a, const Mcmesh__V1__RoutesQuery *query,
			  Mcmesh__V1__Answer *answer)
{
	Mcmesh__V1__Route **routes;
	struct addr group;
	bool any = query->group.len == 0;
	size_t n, sent = 0;

	if (!any && addr_from_wire(query->group.data, query->group.len, &group) < 0) {
		answer->code = RPC_INVALID_ARGUMENT;
		answer->error = (char *)"the group is not an address";
		uplink_answer(a->uplink, answer, agent_now_ms());
		return;
	}
	if (agent_routes_read(a, query->segment, any ? NULL : &group, &routes, &n) < 0) {
		answer->code = RPC_INTERNAL;
		answer->error = (char *)"the kernel's maps could not be read";
		uplink_answer(a->uplink, answer, agent_now_ms());
		return;
	}
	do {
		size_t part = page_fit((const ProtobufCMessage *const *)routes + sent, n - sent,
				       ANSWER_ROUTES_MAX, ANSWER_BYTES_MAX);

		answer->routes = routes + sent;
		answer->n_routes = part;
		sent += part;
		answer->more = sent < n;
		uplink_answer(a->uplink, answer, agent_now_ms());
	} while (sent < n);
	agent_routes_free(routes, n);
}

void agent_query_answer(struct agent *a, const Mcmesh__V1__Query *query)
{
	Mcmesh__V1__Answer answer = MCMESH__V1__ANSWER__INIT;
	struct applied applied = { .n = 0 };
	char detail[256] = "";

	/* What this turn has taken in shall be in the maps that are read. */
	agent_settle(a);
	answer.id = query->id;
	mirror_segments_walk(a->mirror, applied_segment, &applied);
	answer.applied = applied.rows;
	answer.n_applied = applied.n;
	switch (query->query_case) {
	case MCMESH__V1__QUERY__QUERY_ROUTES:
		answer_routes(a, query->routes, &answer);
		return;
	case MCMESH__V1__QUERY__QUERY_VERIFY:
		verify(a, &answer, detail);
		break;
	default:
		answer.code = RPC_UNIMPLEMENTED;
		answer.error = (char *)"this agent does not know the question: upgrade it";
		break;
	}
	uplink_answer(a->uplink, &answer, agent_now_ms());
}
