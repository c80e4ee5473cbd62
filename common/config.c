/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: one sentence out of libcyaml
 *
 * libcyaml says what is wrong only through its log function, as a message and
 * a backtrace of "in mapping field 'x' (line: l, column: c)" lines, innermost
 * first. We keep the first message, the first place and the first named field,
 * and say them in our words. For a key that should not be there it gives the
 * place of the value before it, so we look for the key from there on.
 */
#include "common/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/config_numbers.h"

#define MESSAGE_MAX 256
#define FIELD_MAX   64

const cyaml_strval_t config_bool_words[CONFIG_BOOL_WORDS_N] = {
	{ "true", 1 }, { "false", 0 }, { "yes", 1 }, { "no", 0 }, { "on", 1 }, { "off", 0 },
};

struct report {
	char message[MESSAGE_MAX];
	char field[FIELD_MAX];
	unsigned line, column;
	bool more_documents;
};

static void cleanup_fclose_p(FILE **f)
{
	if (*f)
		fclose(*f);
}

static void on_log(cyaml_log_t level, void *userdata, const char *format, va_list args)
{
	struct report *r = userdata;
	const char *text, *place;
	char line[MESSAGE_MAX];
	unsigned l, c;

	if (level < CYAML_LOG_WARNING)
		return;
	if (vsnprintf(line, sizeof(line), format, args) < 0)
		return;
	line[strcspn(line, "\n")] = '\0';
	if (level == CYAML_LOG_WARNING) {
		if (strstr(line, "documents"))
			r->more_documents = true;
		return;
	}
	text = strncmp(line, "Load: ", 6) == 0 ? line + 6 : line;
	place = strstr(text, "(line: ");
	if (place && text[0] == ' ') {
		if (!r->line && sscanf(place, "(line: %u, column: %u)", &l, &c) == 2) {
			r->line = l;
			r->column = c;
		}
		if (!r->field[0])
			sscanf(text, " in mapping field '%63[^']'", r->field);
	} else if (!r->message[0]) {
		snprintf(r->message, sizeof(r->message), "%s", text);
	}
}

static int read_file(const char *path, char **ret_text, size_t *ret_len)
{
	_cleanup_(cleanup_fclose_p)
	FILE *f = fopen(path, "re");
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	if (!f)
		return -errno;
	text = malloc(CONFIG_FILE_MAX + 1);
	if (!text)
		return -ENOMEM;
	len = fread(text, 1, CONFIG_FILE_MAX + 1, f);
	if (ferror(f))
		return errno == EISDIR ? -EISDIR : -EIO;
	if (len > CONFIG_FILE_MAX)
		return -EFBIG;
	text[len] = '\0';
	*ret_text = TAKE_PTR(text);
	*ret_len = len;
	return 0;
}

static bool is_key_at(const char *text, const char *p, const char *key, size_t len)
{
	if (p > text && !strchr(" \t\n{,\"'-", p[-1]))
		return false;
	if (strncmp(p, key, len) != 0)
		return false;
	p += len;
	if (*p == '"' || *p == '\'')
		p++;
	while (*p == ' ')
		p++;
	return *p == ':';
}

/* Moves the place of r to the next `key:` at or after it; stays if there is none. */
static void locate_key(struct report *r, const char *text, const char *key)
{
	unsigned line = 1, column = 1;
	size_t len = strlen(key);
	bool comment = false;

	for (const char *p = text; *p; p++) {
		bool reached = line > r->line || (line == r->line && column >= r->column);

		if (*p == '#' && (p == text || isspace((unsigned char)p[-1])))
			comment = true;
		if (reached && !comment && is_key_at(text, p, key, len)) {
			r->line = line;
			r->column = column;
			return;
		}
		if (*p == '\n') {
			comment = false;
			line++;
			column = 1;
		} else {
			column++;
		}
	}
}

/* The shape that a key must have, in words. */
static const char *shape(const char *type)
{
	if (strncmp(type, "SEQUENCE", 8) == 0)
		return "a list";
	if (strncmp(type, "MAPPING", 7) == 0)
		return "a mapping of keys to values";
	return "a single value";
}

static void say(struct report *r, const char *text, char out[CONFIG_WHY_MAX])
{
	const char *field = r->field[0] ? r->field : "the file";
	char word[MESSAGE_MAX] = "";
	unsigned n;

	if (sscanf(r->message, "Unexpected key: %255[^\n]", word) == 1) {
		locate_key(r, text, word);
		snprintf(out, CONFIG_WHY_MAX, "unknown key \"%s\"", word);
	} else if (sscanf(r->message, "Mapping field already seen: %255[^\n]", word) == 1) {
		locate_key(r, text, word);
		snprintf(out, CONFIG_WHY_MAX, "key \"%s\" is given twice", word);
	} else if (sscanf(r->message, "Missing required mapping field: %255[^\n]", word) == 1) {
		snprintf(out, CONFIG_WHY_MAX, "key \"%s\" is missing here", word);
	} else if (sscanf(r->message, "Expecting %255[A-Z]", word) == 1) {
		snprintf(out, CONFIG_WHY_MAX, "%s must be %s", field, shape(word));
	} else if (sscanf(r->message, "Excessive entries (%u", &n) == 1) {
		snprintf(out, CONFIG_WHY_MAX, "%s has more than %u entries", field, n);
	} else if (strncmp(r->message, "Insufficient entries", 20) == 0) {
		snprintf(out, CONFIG_WHY_MAX, "%s has too few entries", field);
	} else if (strncmp(r->message, "STRING length <", 15) == 0) {
		snprintf(out, CONFIG_WHY_MAX, "%s must not be empty", field);
	} else if (sscanf(r->message, "STRING length > %u", &n) == 1) {
		snprintf(out, CONFIG_WHY_MAX, "%s is longer than %u characters", field, n);
	} else if (sscanf(r->message, "Invalid %*[^:]: '%255[^\n]", word) == 1) {
		word[strlen(word) - 1] = '\0';
		snprintf(out, CONFIG_WHY_MAX, "\"%s\" is not a value that %s can have", word,
			 field);
	} else if (sscanf(r->message, "Invalid ENUM value: %255[^\n]", word) == 1) {
		snprintf(out, CONFIG_WHY_MAX, "\"%s\" is not a value that %s can have", word,
			 field);
	} else {
		const char *m = r->message;

		if (strncmp(m, "libyaml: ", 9) == 0)
			m += 9;
		snprintf(out, CONFIG_WHY_MAX, "this is not YAML: %s", m[0] ? m : "cannot parse");
	}
}

static int refuse(const char *path, const char *text, struct report *r, cyaml_err_t err,
		  char why[CONFIG_WHY_MAX])
{
	char what[CONFIG_WHY_MAX];

	if (err == CYAML_ERR_OOM) {
		snprintf(why, CONFIG_WHY_MAX, "%s: out of memory", path);
		return -ENOMEM;
	}
	say(r, text, what);
	snprintf(why, CONFIG_WHY_MAX, "%.200s:%u:%u: %.250s", path, r->line ? r->line : 1,
		 r->column ? r->column : 1, what);
	return -EINVAL;
}

static int refuse_unread(const char *path, int err, char why[CONFIG_WHY_MAX])
{
	if (err == -ENOENT)
		snprintf(why, CONFIG_WHY_MAX,
			 "%.300s: no such file: create it (deploy/ has an example) or name another "
			 "with --config",
			 path);
	else if (err == -EISDIR)
		snprintf(why, CONFIG_WHY_MAX, "%.300s: this is a folder: name a file in it", path);
	else if (err == -EFBIG)
		snprintf(why, CONFIG_WHY_MAX, "%.300s: larger than %d bytes", path,
			 CONFIG_FILE_MAX);
	else
		snprintf(why, CONFIG_WHY_MAX, "%.300s: cannot read it: %s", path, strerror(-err));
	return err;
}

static cyaml_config_t cyaml_setup(struct report *r)
{
	return (cyaml_config_t){
		.log_fn = r ? on_log : NULL,
		.log_ctx = r,
		.mem_fn = cyaml_mem,
		.log_level = CYAML_LOG_WARNING,
	};
}

int config_load(const char *path, const cyaml_schema_value_t *schema, void **ret_data,
		char why[CONFIG_WHY_MAX])
{
	_cleanup_free_ char *text = NULL;
	struct report report = { 0 };
	cyaml_config_t setup = cyaml_setup(&report);
	struct config_number number;
	cyaml_data_t *data = NULL;
	size_t len = 0;
	cyaml_err_t err;
	int r;

	r = read_file(path, &text, &len);
	if (r < 0)
		return refuse_unread(path, r, why);
	err = cyaml_load_data((const uint8_t *)text, len, &setup, schema, &data, NULL);
	if (err != CYAML_OK)
		return refuse(path, text, &report, err, why);
	if (report.more_documents || !data) {
		config_free(schema, data);
		snprintf(why, CONFIG_WHY_MAX, "%.300s:1:1: %s", path,
			 data ? "the file holds more than one YAML document"
			      : "the file says nothing");
		return -EINVAL;
	}
	r = config_numbers_check(text, len, schema, &number);
	if (r == -EINVAL)
		snprintf(why, CONFIG_WHY_MAX,
			 "%.200s:%u:%u: \"%s\" is not a value that %s can have", path, number.line,
			 number.column, number.text, number.name);
	else if (r < 0)
		snprintf(why, CONFIG_WHY_MAX, "%.300s: out of memory", path);
	if (r < 0) {
		config_free(schema, data);
		return r;
	}
	*ret_data = data;
	return 0;
}

void config_free(const cyaml_schema_value_t *schema, void *data)
{
	cyaml_config_t setup = cyaml_setup(NULL);

	if (data)
		cyaml_free(&setup, schema, data, 0);
}

/* ---- tls ---------------------------------------------------------------------- */

#define TLS_PATH(member)                                                          \
	CYAML_FIELD_STRING_PTR(#member, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, \
			       struct config_tls, member, 1, 1023)

const cyaml_schema_field_t config_tls_fields[] = {
	TLS_PATH(cacert), TLS_PATH(cert), TLS_PATH(key), TLS_PATH(server_name), CYAML_FIELD_END,
};

static bool text_copy(const char *text, char **ret_copy)
{
	*ret_copy = text ? strdup(text) : NULL;
	return !text || *ret_copy;
}

struct config_tls *config_tls_copy(const struct config_tls *tls)
{
	struct config_tls *copy = tls ? calloc(1, sizeof(*copy)) : NULL;

	if (!copy)
		return NULL;
	if (text_copy(tls->cacert, &copy->cacert) && text_copy(tls->cert, &copy->cert) &&
	    text_copy(tls->key, &copy->key) && text_copy(tls->server_name, &copy->server_name))
		return copy;
	config_tls_free(copy);
	return NULL;
}

void config_tls_free(struct config_tls *tls)
{
	if (!tls)
		return;
	free(tls->cacert);
	free(tls->cert);
	free(tls->key);
	free(tls->server_name);
	free(tls);
}
