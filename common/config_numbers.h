/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <cyaml/cyaml.h>
#include <stdbool.h>
#include <stddef.h>

struct config_number {
	unsigned int line, column;
	char name[64], text[64];
};

/* Is each number of a text that libcyaml has taken a whole one? 0, -EINVAL with the
 * first that is not, or -ENOMEM. */
int config_numbers_check(const char *text, size_t len, const cyaml_schema_value_t *schema,
			 struct config_number *ret_bad);
