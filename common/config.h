/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A YAML file into a struct by a libcyaml schema, strictly: unknown keys,
 * doubled keys, a second document and values of the wrong type are refused.
 * What is wrong comes back as one sentence with the place:
 *
 *   /etc/mcmesh/agent.yaml:4:3: unknown key "prots"
 *
 * The top value must be a mapping with CYAML_FLAG_POINTER. A switch is CONFIG_FIELD_BOOL(), since libcyaml takes
 * any word for "true".
 */
#include <cyaml/cyaml.h>
#include <stddef.h>

#define CONFIG_WHY_MAX	512
#define CONFIG_FILE_MAX (1024 * 1024)

/* yes, no, on, off, true, false. */
#define CONFIG_BOOL_WORDS_N 6
extern const cyaml_strval_t config_bool_words[CONFIG_BOOL_WORDS_N];

#define CONFIG_FIELD_BOOL(key, flags, structure, member)                                         \
	CYAML_FIELD_ENUM(key, (flags) | CYAML_FLAG_STRICT, structure, member, config_bool_words, \
			 CONFIG_BOOL_WORDS_N)

/* 0; -ENOENT and friends when it cannot be read, -EINVAL when it is wrong,
 * with *why the sentence. *ret_data is untouched on failure. */
int config_load(const char *path, const cyaml_schema_value_t *schema, void **ret_data,
		char why[CONFIG_WHY_MAX]);

void config_free(const cyaml_schema_value_t *schema, void *data);

/* `tls: { cacert, cert, key, server_name }`: paths, the same in every file. */
struct config_tls {
	char *cacert, *cert, *key, *server_name;
};

extern const cyaml_schema_field_t config_tls_fields[];

/* NULL for NULL and when out of memory. */
struct config_tls *config_tls_copy(const struct config_tls *tls);
void config_tls_free(struct config_tls *tls);
