/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Rows of the log as messages: raw bytes for Sync, text for MeshService.
 * Messages are built in an arena and live until it is reset; they borrow the
 * rows, so they are sent before the log changes.
 */
#include "controller/plan/log.h"
#include "mcmesh/v1/mesh.pb-c.h"
#include "mcmesh/v1/node.pb-c.h"

struct arena_block;

struct arena {
	struct arena_block *blocks;
};

/* Zeroed; never NULL: a daemon out of memory in a few kB stops. */
void *arena_alloc(struct arena *arena, size_t size);
char *arena_printf(struct arena *arena, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void arena_reset(struct arena *arena);

#define ARENA_NULL ((struct arena){ NULL })

/* About the size of the row's change on the wire. */
size_t wire_row_size(const struct log_row *row);
Mcmesh__V1__Change *wire_change(struct arena *arena, const struct log_row *row);

Mcmesh__V1__Member *wire_member(struct arena *arena, const struct log_row *row);
char *wire_addr(struct arena *arena, const struct addr *a);

/* The null group, which stands for every group: "*". */
char *wire_group(struct arena *arena, const struct addr *group);
char **wire_sources(struct arena *arena, const struct filter *filter);

Mcmesh__V1__Filter__Mode wire_mode(const struct filter *filter);
/* 0 or -EINVAL; -E2BIG above the limit is not an error here: see report_put(). */
int wire_filter(Mcmesh__V1__Filter__Mode mode, const ProtobufCBinaryData *sources, size_t n,
		struct filter *ret_filter);
