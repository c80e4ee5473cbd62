/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "node/gmp/internal.h"

struct gmp_fx_item *fx_push(struct gmp_fx *fx, enum gmp_fx_type type, uint32_t port)
{
	if (fx->n == fx->cap) {
		size_t cap = fx->cap ? fx->cap * 2 : 64;
		struct gmp_fx_item *items = realloc(fx->items, cap * sizeof(*items));

		if (!items) {
			fx->overflow = true;
			return NULL;
		}
		fx->items = items;
		fx->cap = cap;
	}
	fx->items[fx->n] = (struct gmp_fx_item){ .type = type, .port = port };
	return &fx->items[fx->n++];
}

struct gmp_fx_item *fx_frame(struct gmp_fx *fx, enum gmp_fx_type type, uint32_t port,
			     const uint8_t *frame, size_t len)
{
	struct gmp_fx_item *item;

	if (fx->arena_len + len > fx->arena_cap) {
		size_t cap = (fx->arena_len + len) * 2;
		uint8_t *arena = realloc(fx->arena, cap);

		if (!arena) {
			fx->overflow = true;
			return NULL;
		}
		fx->arena = arena;
		fx->arena_cap = cap;
	}
	item = fx_push(fx, type, port);
	if (!item)
		return NULL;
	memcpy(fx->arena + fx->arena_len, frame, len);
	item->frame_off = (uint32_t)fx->arena_len;
	item->frame_len = (uint32_t)len;
	fx->arena_len += len;
	return item;
}

void gmp_fx_clear(struct gmp_fx *fx)
{
	fx->n = 0;
	fx->arena_len = 0;
	fx->overflow = false;
}

void gmp_fx_deinit(struct gmp_fx *fx)
{
	free(fx->items);
	free(fx->arena);
	*fx = (struct gmp_fx){ 0 };
}
