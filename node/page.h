/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which rows of a sorted list go into one message. A page's token is the next row
 * itself, without its lists: a place in the order, not a number of rows, so that a
 * page neither repeats nor skips a row that did not change. Opaque to clients.
 */
#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_ROWS_MAX  10000
#define PAGE_BYTES_MAX (3 * 1024 * 1024) /* below gRPC's receive limit */

struct page {
	size_t from, n;
	char *next; /* token; NULL on the last */
};

/* Of two rows, as for qsort(). Those that it does not tell apart are on one page. */
typedef int page_order(const void *a, const void *b);

/* How many of the first rows are at most max_rows and, together, max_bytes; but of one
 * row or more at least one. */
size_t page_fit(const ProtobufCMessage *const *rows, size_t n, size_t max_rows, size_t max_bytes);

/* size 0: as many as fit. -EINVAL: the token is not one of this list. */
int page_cut(const ProtobufCMessage *const *rows, size_t n, page_order *order, uint32_t size,
	     const char *token, struct page *ret_page);
void page_deinit(struct page *page);
