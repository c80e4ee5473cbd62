/* SPDX-License-Identifier: Apache-2.0 */
#include "common/table.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define GAP 2

struct table {
	size_t columns;
	char **cells;
	size_t n, size;
	bool lost;
};

struct table *table_new(const char *const *headings)
{
	struct table *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	for (; headings[t->columns]; t->columns++)
		table_cell(t, "%s", headings[t->columns]);
	return t;
}

void table_free(struct table *table)
{
	if (!table)
		return;
	for (size_t i = 0; i < table->n; i++)
		free(table->cells[i]);
	free(table->cells);
	free(table);
}

void table_cell(struct table *table, const char *format, ...)
{
	va_list ap;
	char *cell;
	int r;

	if (table->n == table->size) {
		size_t size = table->size ? table->size * 2 : 64;
		char **p = reallocarray(table->cells, size, sizeof(*p));

		if (!p) {
			table->lost = true;
			return;
		}
		table->cells = p;
		table->size = size;
	}
	va_start(ap, format);
	r = vasprintf(&cell, format, ap);
	va_end(ap);
	if (r < 0) {
		table->lost = true;
		return;
	}
	table->cells[table->n++] = cell;
}

/* Columns on the screen: code points, not bytes. */
static size_t cell_width(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static void cell_print(const char *cell, size_t width, bool last, FILE *out)
{
	/* What came over the wire must not steer the terminal. */
	for (const char *s = cell; *s; s++)
		putc((unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s, out);
	if (last)
		return;
	for (size_t n = cell_width(cell); n < width + GAP; n++)
		putc(' ', out);
}

int table_print(const struct table *table, FILE *out)
{
	size_t *widths = calloc(table->columns, sizeof(*widths));

	if (!widths)
		return -ENOMEM;
	for (size_t i = 0; i < table->n; i++) {
		size_t width = cell_width(table->cells[i]);

		if (width > widths[i % table->columns])
			widths[i % table->columns] = width;
	}
	for (size_t i = 0; i < table->n; i++) {
		size_t column = i % table->columns;
		bool last = column == table->columns - 1 || i == table->n - 1;

		cell_print(table->cells[i], widths[column], last, out);
		if (last)
			putc('\n', out);
	}
	free(widths);
	if (table->lost)
		return -ENOMEM;
	return ferror(out) ? -EIO : 0;
}
