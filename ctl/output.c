/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/json.h"
#include "common/table.h"
#include "ctl/ctl.h"

#define COLUMNS_MAX 24
#define HEADING_MAX 40

static int write_error;

static bool out_flush(void)
{
	errno = 0;
	if (fflush(stdout) == 0 && !ferror(stdout))
		return true;
	write_error = errno ?: EIO;
	return false;
}

int ctl_print_failed(void)
{
	if (write_error == EPIPE)
		return CTL_DONE;
	fprintf(stderr, "mcmeshctl: cannot write the answer: %s\n", strerror(write_error));
	return CTL_FAILED;
}

/* ---- values as text --------------------------------------------------------- */

static void message_write(FILE *out, const ProtobufCMessage *m);

static void value_write(FILE *out, const ProtobufCFieldDescriptor *f, const void *p)
{
	const ProtobufCEnumValue *value;

	switch (f->type) {
	case PROTOBUF_C_TYPE_UINT64:
		fprintf(out, "%" PRIu64, *(const uint64_t *)p);
		break;
	case PROTOBUF_C_TYPE_BOOL:
		fputs(*(const protobuf_c_boolean *)p ? "yes" : "no", out);
		break;
	case PROTOBUF_C_TYPE_ENUM:
		value = protobuf_c_enum_descriptor_get_value(f->descriptor, *(const int *)p);
		if (value)
			fputs(value->name, out);
		else
			fprintf(out, "%d", *(const int *)p);
		break;
	case PROTOBUF_C_TYPE_STRING:
		fputs(*(const char *const *)p, out);
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		if (*(const ProtobufCMessage *const *)p)
			message_write(out, *(const ProtobufCMessage *const *)p);
		break;
	default: /* the contract has no other types but 32-bit numbers here */
		fprintf(out, "%" PRIu32, *(const uint32_t *)p);
		break;
	}
}

static void field_write(FILE *out, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	const char *p = ctl_value(m, f);
	size_t n;

	if (f->label != PROTOBUF_C_LABEL_REPEATED) {
		value_write(out, f, p);
		return;
	}
	/* The lists of the answers are of strings and of messages: pointers. */
	n = *(const size_t *)((const char *)m + f->quantifier_offset);
	for (size_t i = 0; i < n; i++) {
		if (i)
			putc(',', out);
		value_write(out, f, *(const char *const *)p + i * sizeof(void *));
	}
}

static char *field_text(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return NULL;
	field_write(out, m, f);
	if (fclose(out) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

/* Inside a cell: "192.0.2.1/FORWARDED/0". */
static void message_write(FILE *out, const ProtobufCMessage *m)
{
	for (unsigned int i = 0; i < m->descriptor->n_fields; i++) {
		if (i)
			putc('/', out);
		field_write(out, m, &m->descriptor->fields[i]);
	}
}

/* ---- tables ----------------------------------------------------------------- */

static struct table *rows_table(const ProtobufCMessageDescriptor *d)
{
	char names[COLUMNS_MAX][HEADING_MAX];
	const char *headings[COLUMNS_MAX + 1] = { NULL };

	for (unsigned int i = 0; i < d->n_fields && i < COLUMNS_MAX; i++) {
		snprintf(names[i], HEADING_MAX, "%s", d->fields[i].name);
		for (char *s = names[i]; *s; s++)
			*s = (char)toupper((unsigned char)*s);
		headings[i] = names[i];
	}
	return table_new(headings);
}

static int rows_print(const ProtobufCMessage *answer, const char *rows)
{
	const ProtobufCFieldDescriptor *f = ctl_field(answer, rows);
	const ProtobufCMessageDescriptor *d = f->descriptor;
	size_t n = *(const size_t *)((const char *)answer + f->quantifier_offset);
	ProtobufCMessage **list = *(ProtobufCMessage ***)ctl_value(answer, f);
	struct table *t = rows_table(d);
	int r;

	if (!t)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		for (unsigned int k = 0; k < d->n_fields && k < COLUMNS_MAX; k++) {
			_cleanup_free_ char *text = field_text(list[i], &d->fields[k]);

			table_cell(t, "%s", text && *text ? text : "-");
		}
	r = table_print(t, stdout);
	table_free(t);
	return r;
}

/* One object: a field a line, and each element of a list on a line of its own. */
static int object_print(const ProtobufCMessage *m)
{
	static const char *const headings[] = { "FIELD", "VALUE", NULL };
	struct table *t = table_new(headings);
	int r;

	if (!t)
		return -ENOMEM;
	for (unsigned int i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];

		if (f->label == PROTOBUF_C_LABEL_REPEATED && f->type == PROTOBUF_C_TYPE_STRING) {
			size_t n = *(const size_t *)((const char *)m + f->quantifier_offset);
			char **list = *(char ***)ctl_value(m, f);

			for (size_t k = 0; k < n; k++) {
				table_cell(t, "%s", k ? "" : f->name);
				table_cell(t, "%s", list[k]);
			}
			continue;
		}
		_cleanup_free_ char *text = field_text(m, f);

		table_cell(t, "%s", f->name);
		table_cell(t, "%s", text && *text ? text : "-");
	}
	r = table_print(t, stdout);
	table_free(t);
	return r;
}

static bool json_print(const ProtobufCMessage *m, bool pretty)
{
	_cleanup_free_ char *text = json_from_message(m, pretty);

	if (!text) {
		write_error = ENOMEM;
		return false;
	}
	puts(text);
	return out_flush();
}

bool ctl_print(const struct ctl_options *options, const ProtobufCMessage *answer)
{
	const char *rows = options->command->rows;
	int r;

	if (options->json)
		return json_print(answer, true);
	r = rows ? rows_print(answer, rows) : object_print(answer);
	if (r == -ENOMEM) {
		write_error = ENOMEM;
		return false;
	}
	return out_flush();
}

/* "PUT member segment=1 group=239.1.1.1 …" */
static void event_line(const ProtobufCMessage *event)
{
	const ProtobufCMessageDescriptor *d = event->descriptor;
	const ProtobufCFieldDescriptor *type = ctl_field(event, "type");

	value_write(stdout, type, ctl_value(event, type));
	for (unsigned int i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];
		const ProtobufCMessage *m;

		if (f->type != PROTOBUF_C_TYPE_MESSAGE ||
		    *(const uint32_t *)((const char *)event + f->quantifier_offset) != f->id)
			continue;
		m = *(const ProtobufCMessage *const *)ctl_value(event, f);
		printf(" %s", f->name);
		for (unsigned int k = 0; m && k < m->descriptor->n_fields; k++) {
			printf(" %s=", m->descriptor->fields[k].name);
			field_write(stdout, m, &m->descriptor->fields[k]);
		}
	}
	putchar('\n');
}

bool ctl_print_event(const struct ctl_options *options, const ProtobufCMessage *event)
{
	if (options->json)
		return json_print(event, false);
	event_line(event);
	return out_flush();
}
