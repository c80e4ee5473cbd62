/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Text in aligned columns: a heading, then rows. Cells are copied. */
#include <stdarg.h>
#include <stdio.h>

struct table;

/* headings: NULL-terminated. NULL when memory ran out. */
struct table *table_new(const char *const *headings);
void table_free(struct table *table);

/* The next cell, left to right, row by row. */
void table_cell(struct table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* 0, -ENOMEM (a cell was lost), or -EIO when the stream has failed. */
int table_print(const struct table *table, FILE *out);
