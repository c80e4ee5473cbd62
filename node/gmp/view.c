/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "node/gmp/internal.h"

static const char *const counter_names[] = {
#define GMP_COUNTER(name, doc) "gmp_" #name,
#include "node/gmp/counters.def"
#undef GMP_COUNTER
};

const char *gmp_counter_name(enum gmp_counter c)
{
	return c < GMP_C_COUNT ? counter_names[c] : NULL;
}

int group_view(const struct group *g, struct filter *ret_filter)
{
	_cleanup_free_ struct addr *list = NULL;
	struct filter f;
	size_t n = 0;
	int r;

	if (g->n_sources) {
		list = malloc(g->n_sources * sizeof(*list));
		if (!list)
			return -ENOMEM;
	}
	for (uint32_t i = 0; i < g->n_sources; i++) {
		if (!g->sources[i].expires == (g->mode == FILTER_EXCLUDE))
			list[n++] = g->sources[i].addr;
	}
	r = filter_init(&f, g->mode, list, n);
	if (r == 0 && g->is_static) {
		r = filter_merge(&f, &g->fixed);
		if (r < 0)
			filter_deinit(&f);
	}
	if (r == 0)
		*ret_filter = f;
	return r;
}

int gmp_membership_filter(const struct gmp *gmp, uint32_t port, const struct addr *group,
			  struct filter *ret_filter)
{
	const struct group *g = group_find(gmp, port, group);

	if (g)
		return group_view(g, ret_filter);
	*ret_filter = FILTER_NULL;
	return 0;
}

static enum gmp_version group_version(const struct group *g)
{
	bool v6 = !addr_is_v4(&g->addr);

	/* The view has no clock: what a timer event has not undone yet. */
	if (g->v1_until)
		return GMP_IGMPV1;
	if (g->v2_until)
		return v6 ? GMP_MLDV1 : GMP_IGMPV2;
	return v6 ? GMP_MLDV2 : GMP_IGMPV3;
}

static int group_show(const struct group *g,
		      int (*fn)(const struct gmp_membership_view *view, void *userdata),
		      void *userdata)
{
	_cleanup_free_ struct gmp_source_view *sources = NULL;
	_cleanup_free_ struct addr *hosts = NULL;
	_cleanup_(filter_deinit)
	struct filter f = FILTER_NULL;
	uint64_t last = 0;
	size_t n = 0;

	if (group_view(g, &f) < 0)
		return -ENOMEM;
	sources = calloc((size_t)g->n_sources + f.n_sources + 1, sizeof(*sources));
	hosts = calloc((size_t)g->n_hosts + 1, sizeof(*hosts));
	if (!sources || !hosts)
		return -ENOMEM;
	for (uint32_t i = 0; i < g->n_sources; i++) {
		const struct source *s = &g->sources[i];

		sources[n++] =
			(struct gmp_source_view){ s->addr, filter_wants(&f, &s->addr), s->expires };
		if (s->expires > last)
			last = s->expires;
	}
	for (uint32_t i = 0; g->is_static && i < f.n_sources; i++) {
		if (!group_source(g, &f.sources[i]))
			sources[n++] = (struct gmp_source_view){ f.sources[i],
								 f.mode == FILTER_INCLUDE, 0 };
	}
	for (uint32_t i = 0; i < g->n_hosts; i++)
		hosts[i] = g->hosts[i].addr;
	return fn(
		&(struct gmp_membership_view){
			.port = g->port->id,
			.tag = g->port->tag,
			.group = g->addr,
			.mode = f.mode,
			.version = group_version(g),
			.expires_ms = g->is_static		  ? UINT64_MAX
				      : g->mode == FILTER_EXCLUDE ? g->expires
								  : last,
			.is_static = g->is_static,
			.sources = sources,
			.n_sources = n,
			.hosts = hosts,
			.n_hosts = g->n_hosts,
		},
		userdata);
}

int gmp_memberships_walk(const struct gmp *gmp, uint32_t port,
			 int (*fn)(const struct gmp_membership_view *view, void *userdata),
			 void *userdata)
{
	for (size_t b = 0; b < PORT_BUCKETS; b++) {
		for (const struct port *p = gmp->ports[b]; p; p = p->next) {
			if (port && p->id != port)
				continue;
			for (const struct group *g = p->groups, *next; g; g = next) {
				int r;

				next = g->next;
				r = group_show(g, fn, userdata);
				if (r)
					return r;
			}
		}
	}
	return 0;
}

int gmp_membership_view(const struct gmp *gmp, uint32_t port, const struct addr *group,
			int (*fn)(const struct gmp_membership_view *view, void *userdata),
			void *userdata)
{
	const struct group *g = group_find(gmp, port, group);

	return g ? group_show(g, fn, userdata) : -ENOENT;
}
