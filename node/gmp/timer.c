/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "node/gmp/internal.h"

int timer_reserve(struct gmp *gmp)
{
	size_t need = gmp->n_groups + gmp->n_ports + 2, cap;
	struct timer **heap;

	if (need <= gmp->heap_cap)
		return 0;
	cap = need * 2;
	heap = realloc(gmp->heap, cap * sizeof(*heap));
	if (!heap)
		return -ENOMEM;
	gmp->heap = heap;
	gmp->heap_cap = cap;
	return 0;
}

static void place(struct gmp *gmp, struct timer *t, size_t i)
{
	gmp->heap[i] = t;
	t->index = (uint32_t)i;
}

static void sift(struct gmp *gmp, struct timer *t)
{
	size_t i = t->index;

	for (; i > 1 && gmp->heap[i / 2]->due > t->due; i /= 2)
		place(gmp, gmp->heap[i / 2], i);
	for (size_t c; (c = i * 2) <= gmp->heap_n; i = c) {
		if (c < gmp->heap_n && gmp->heap[c + 1]->due < gmp->heap[c]->due)
			c++;
		if (gmp->heap[c]->due >= t->due)
			break;
		place(gmp, gmp->heap[c], i);
	}
	place(gmp, t, i);
}

void timer_set(struct gmp *gmp, struct timer *t, uint64_t due)
{
	if (due == UINT64_MAX) {
		timer_remove(gmp, t);
		return;
	}
	t->due = due;
	if (!t->index)
		t->index = (uint32_t)++gmp->heap_n;
	sift(gmp, t);
}

void timer_lower(struct gmp *gmp, struct timer *t, uint64_t due)
{
	if (due != UINT64_MAX && (!t->index || due < t->due))
		timer_set(gmp, t, due);
}

void timer_remove(struct gmp *gmp, struct timer *t)
{
	struct timer *last;
	size_t i = t->index;

	if (!i)
		return;
	t->index = 0;
	last = gmp->heap[gmp->heap_n--];
	if (last == t)
		return;
	place(gmp, last, i);
	sift(gmp, last);
}
