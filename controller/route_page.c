/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of a node's routes: SEGMENT/GROUP/SOURCE of the first route is the token, a
 * position in the order in which agents tell them, so that it serves also when routes
 * have come and gone. The agent tells all of them each time; what a page has no room
 * for is dropped.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/mesh_internal.h"

/* The order of agents (node/agent_query.c). */
static int route_cmp(const Mcmesh__V1__Route *a, const struct route_key *b)
{
	int c;

	if (a->segment != b->segment)
		return a->segment < b->segment ? -1 : 1;
	c = strverscmp(a->group, b->group);
	return c ? c : strverscmp(a->source, b->source);
}

int route_page_begin(struct route_page *page, uint32_t size, const char *token)
{
	struct route_key *from = &page->from;
	int end = 0;

	page->max = size ?: UINT32_MAX;
	if (!token[0])
		return 0;
	if (sscanf(token, "%" SCNu32 "/%45[0-9a-f:.*]/%45[0-9a-f:.*]%n", &from->segment,
		   from->group, from->source, &end) != 3 ||
	    token[end])
		return -EINVAL;
	return 0;
}

/* How many of the rows there is room for. */
static size_t room_for(const struct route_page *page, Mcmesh__V1__Route **rows, size_t n)
{
	Mcmesh__V1__ListRoutesResponse one = MCMESH__V1__LIST_ROUTES_RESPONSE__INIT;
	size_t len = page->len, i;

	one.n_routes = 1;
	for (i = 0; i < n && page->n + i < page->max; i++) {
		one.routes = rows + i;
		len += mcmesh__v1__list_routes_response__get_packed_size(&one);
		if (len > MESH_ROUTES_MAX)
			break;
	}
	return i;
}

int route_page_add(struct route_page *page, Mcmesh__V1__Route **rows, size_t n)
{
	Mcmesh__V1__ListRoutesResponse some = MCMESH__V1__LIST_ROUTES_RESPONSE__INIT;
	uint8_t *grown;

	if (page->next)
		return 0;
	while (n && page->from.group[0] && route_cmp(*rows, &page->from) < 0) {
		rows++;
		n--;
	}
	some.routes = rows;
	some.n_routes = room_for(page, rows, n);
	if (n && !some.n_routes && !page->n)
		return -EMSGSIZE;
	grown = realloc(page->bytes,
			page->len + mcmesh__v1__list_routes_response__get_packed_size(&some) + 1);
	if (!grown)
		return -ENOMEM;
	page->bytes = grown;
	page->len += mcmesh__v1__list_routes_response__pack(&some, page->bytes + page->len);
	page->n += (uint32_t)some.n_routes;
	rows += some.n_routes;
	if (some.n_routes < n && asprintf(&page->next, "%u/%s/%s", (*rows)->segment, (*rows)->group,
					  (*rows)->source) < 0) {
		page->next = NULL;
		return -ENOMEM;
	}
	return 0;
}

void route_page_deinit(struct route_page *page)
{
	free(page->bytes);
	free(page->next);
}
