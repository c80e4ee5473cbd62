/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole numbers that are whole: libcyaml takes "120s" for 120 and "1e9" for 1, so
 * the text is read once more beside its schema.
 */
#include "common/config_numbers.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

struct reader {
	yaml_parser_t parser;
	struct config_number *bad;
	bool found;
};

static bool is_number(const char *text)
{
	char *end;

	strtoull(text, &end, 0);
	return end != text && !*end;
}

static const cyaml_schema_value_t *field_of(const cyaml_schema_value_t *schema, const char *key)
{
	const cyaml_schema_field_t *f =
		schema && schema->type == CYAML_MAPPING ? schema->mapping.fields : NULL;

	for (; f && f->key; f++) {
		if (strcmp(f->key, key) == 0)
			return &f->value;
	}
	return NULL;
}

static bool next(struct reader *r, yaml_event_t *ret_event)
{
	return !r->found && yaml_parser_parse(&r->parser, ret_event);
}

static void scalar(struct reader *r, const yaml_event_t *e, const cyaml_schema_value_t *schema,
		   const char *name)
{
	const char *text = (const char *)e->data.scalar.value;

	if (!schema || (schema->type != CYAML_UINT && schema->type != CYAML_INT) || is_number(text))
		return;
	r->found = true;
	r->bad->line = (unsigned int)e->start_mark.line + 1;
	r->bad->column = (unsigned int)e->start_mark.column + 1;
	strncpy(r->bad->name, name, sizeof(r->bad->name) - 1);
	strncpy(r->bad->text, text, sizeof(r->bad->text) - 1);
}

static void value(struct reader *r, const yaml_event_t *e, const cyaml_schema_value_t *schema,
		  const char *name);

static void mapping(struct reader *r, const cyaml_schema_value_t *schema)
{
	yaml_event_t key, e;

	while (next(r, &key)) {
		bool is_key = key.type == YAML_SCALAR_EVENT;
		const char *name = is_key ? (const char *)key.data.scalar.value : "";

		if (is_key && next(r, &e)) {
			value(r, &e, field_of(schema, name), name);
			yaml_event_delete(&e);
		}
		yaml_event_delete(&key);
		if (!is_key)
			return;
	}
}

static void sequence(struct reader *r, const cyaml_schema_value_t *schema, const char *name)
{
	const cyaml_schema_value_t *entry =
		schema && schema->type == CYAML_SEQUENCE ? schema->sequence.entry : NULL;
	bool ends = false;
	yaml_event_t e;

	while (!ends && next(r, &e)) {
		ends = e.type == YAML_SEQUENCE_END_EVENT;
		if (!ends)
			value(r, &e, entry, name);
		yaml_event_delete(&e);
	}
}

static void value(struct reader *r, const yaml_event_t *e, const cyaml_schema_value_t *schema,
		  const char *name)
{
	if (e->type == YAML_SCALAR_EVENT)
		scalar(r, e, schema, name);
	else if (e->type == YAML_MAPPING_START_EVENT)
		mapping(r, schema);
	else if (e->type == YAML_SEQUENCE_START_EVENT)
		sequence(r, schema, name);
}

int config_numbers_check(const char *text, size_t len, const cyaml_schema_value_t *schema,
			 struct config_number *ret_bad)
{
	struct reader r = { .bad = ret_bad };
	bool ends = false;
	yaml_event_t e;

	memset(ret_bad, 0, sizeof(*ret_bad));
	if (!yaml_parser_initialize(&r.parser))
		return -ENOMEM;
	yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
	while (!ends && next(&r, &e)) {
		ends = e.type == YAML_STREAM_END_EVENT;
		value(&r, &e, schema, "");
		yaml_event_delete(&e);
	}
	yaml_parser_delete(&r.parser);
	return r.found ? -EINVAL : 0;
}
