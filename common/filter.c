/* SPDX-License-Identifier: Apache-2.0 */
#include "common/filter.h"

#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"

static int source_cmp(const void *a, const void *b)
{
	return addr_cmp(a, b);
}

static bool has_source(const struct filter *f, const struct addr *source)
{
	return f->n_sources &&
	       bsearch(source, f->sources, f->n_sources, sizeof(*source), source_cmp) != NULL;
}

int filter_init(struct filter *f, enum filter_mode mode, const struct addr *sources, size_t n)
{
	struct addr *copy = NULL;
	size_t used = 0;

	if (n) {
		copy = malloc(n * sizeof(*copy));
		if (!copy)
			return -ENOMEM;
		memcpy(copy, sources, n * sizeof(*copy));
		qsort(copy, n, sizeof(*copy), source_cmp);
		for (size_t i = 0; i < n; i++) {
			if (!used || !addr_equal(&copy[used - 1], &copy[i]))
				copy[used++] = copy[i];
		}
	}
	*f = (struct filter){ mode, (uint32_t)used, copy };
	return 0;
}

void filter_deinit(struct filter *f)
{
	free(f->sources);
	*f = FILTER_NULL;
}

int filter_copy(struct filter *dst, const struct filter *src)
{
	return filter_init(dst, src->mode, src->sources, src->n_sources);
}

bool filter_equal(const struct filter *a, const struct filter *b)
{
	return a->mode == b->mode && a->n_sources == b->n_sources &&
	       (a->n_sources == 0 ||
		memcmp(a->sources, b->sources, a->n_sources * sizeof(*a->sources)) == 0);
}

bool filter_is_none(const struct filter *f)
{
	return f->mode == FILTER_INCLUDE && f->n_sources == 0;
}

bool filter_wants(const struct filter *f, const struct addr *source)
{
	return has_source(f, source) == (f->mode == FILTER_INCLUDE);
}

int filter_merge(struct filter *acc, const struct filter *f)
{
	bool both_include = acc->mode == FILTER_INCLUDE && f->mode == FILTER_INCLUDE;
	size_t max = (size_t)acc->n_sources + f->n_sources, n = 0;
	_cleanup_free_ struct addr *merged = NULL;
	struct filter out;
	int r;

	if (max) {
		merged = malloc(max * sizeof(*merged));
		if (!merged)
			return -ENOMEM;
	}
	/* A source stays listed where the union still has to name it: wanted by
	 * either (all INCLUDE), or let through by neither (an EXCLUDE in it). */
	for (uint32_t i = 0; i < acc->n_sources; i++) {
		bool wanted =
			filter_wants(acc, &acc->sources[i]) || filter_wants(f, &acc->sources[i]);

		if (wanted == both_include)
			merged[n++] = acc->sources[i];
	}
	for (uint32_t i = 0; i < f->n_sources; i++) {
		bool wanted = filter_wants(acc, &f->sources[i]) || filter_wants(f, &f->sources[i]);

		if (wanted == both_include)
			merged[n++] = f->sources[i];
	}
	r = filter_init(&out, both_include ? FILTER_INCLUDE : FILTER_EXCLUDE, merged, n);
	if (r < 0)
		return r;
	filter_deinit(acc);
	*acc = out;
	return 0;
}

bool filter_limit(struct filter *f, uint32_t max_sources)
{
	if (f->n_sources <= max_sources)
		return false;
	filter_deinit(f);
	f->mode = FILTER_EXCLUDE;
	return true;
}
