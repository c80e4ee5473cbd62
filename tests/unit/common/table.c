/* SPDX-License-Identifier: Apache-2.0 */
#include "common/table.h"

#include <criterion/criterion.h>
#include <stdlib.h>

Test(table, aligns_columns_and_hides_control_characters)
{
	static const char *const headings[] = { "NAME", "N", NULL };
	struct table *t = table_new(headings);
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	table_cell(t, "%s", "längst");
	table_cell(t, "%d", 7);
	table_cell(t, "a\033b");
	table_cell(t, "%d", 12);
	cr_assert_eq(table_print(t, out), 0);
	fclose(out);
	cr_assert_str_eq(text, "NAME    N\nlängst  7\na?b     12\n");
	free(text);
	table_free(t);
}
