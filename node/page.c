/* SPDX-License-Identifier: Apache-2.0 */
#include "node/page.h"

#include <errno.h>
#include <sodium/utils.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

/* Of a row in its message: the field's key and the row's length. */
#define ROW_HEAD_MAX 6

size_t page_fit(const ProtobufCMessage *const *rows, size_t n, size_t max_rows, size_t max_bytes)
{
	size_t bytes = 0;

	for (size_t i = 0; i < n && i < max_rows; i++) {
		bytes += protobuf_c_message_get_packed_size(rows[i]) + ROW_HEAD_MAX;
		if (i && bytes > max_bytes)
			return i;
	}
	return n < max_rows ? n : max_rows;
}

/* NULL: out of memory. */
static char *token_of(const ProtobufCMessage *row)
{
	const ProtobufCMessageDescriptor *d = row->descriptor;
	_cleanup_free_ ProtobufCMessage *key = malloc(d->sizeof_message);
	_cleanup_free_ uint8_t *bytes = NULL;
	char *token;
	size_t len;

	if (!key)
		return NULL;
	memcpy(key, row, d->sizeof_message);
	for (unsigned int i = 0; i < d->n_fields; i++) {
		if (d->fields[i].label == PROTOBUF_C_LABEL_REPEATED)
			*(size_t *)((char *)key + d->fields[i].quantifier_offset) = 0;
	}
	len = protobuf_c_message_get_packed_size(key);
	bytes = malloc(len + 1);
	token = malloc(2 * len + 1);
	if (!bytes || !token) {
		free(token);
		return NULL;
	}
	protobuf_c_message_pack(key, bytes);
	return sodium_bin2hex(token, 2 * len + 1, bytes, len);
}

/* The row that the token was; NULL: it is none. */
static ProtobufCMessage *row_of(const char *token, const ProtobufCMessageDescriptor *descriptor)
{
	size_t size = strlen(token) / 2, len;
	_cleanup_free_ uint8_t *bytes = malloc(size + 1);
	const char *end;

	if (!bytes || sodium_hex2bin(bytes, size, token, strlen(token), NULL, &len, &end) < 0 ||
	    *end)
		return NULL;
	return protobuf_c_message_unpack(descriptor, NULL, len, bytes);
}

/* The first row at the token's place or after it. */
static int find(const ProtobufCMessage *const *rows, size_t n, page_order *order, const char *token,
		size_t *ret_at)
{
	ProtobufCMessage *key;
	size_t low = 0, high = n;

	if (!n || !token[0]) {
		*ret_at = 0;
		return 0;
	}
	key = row_of(token, rows[0]->descriptor);
	if (!key)
		return -EINVAL;
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (order(&rows[middle], &key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	protobuf_c_message_free_unpacked(key, NULL);
	*ret_at = low;
	return 0;
}

int page_cut(const ProtobufCMessage *const *rows, size_t n, page_order *order, uint32_t size,
	     const char *token, struct page *ret_page)
{
	struct page page = { 0 };
	int r = find(rows, n, order, token, &page.from);

	if (r < 0)
		return r;
	if (!size || size > PAGE_ROWS_MAX)
		size = PAGE_ROWS_MAX;
	page.n = page_fit(rows + page.from, n - page.from, size, PAGE_BYTES_MAX);
	while (page.n && page.from + page.n < n &&
	       order(&rows[page.from + page.n - 1], &rows[page.from + page.n]) == 0)
		page.n++;
	if (page.from + page.n < n) {
		page.next = token_of(rows[page.from + page.n]);
		if (!page.next)
			return -ENOMEM;
	}
	*ret_page = page;
	return 0;
}

void page_deinit(struct page *page)
{
	free(page->next);
}
