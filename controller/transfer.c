/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: export and import
 *
 *	{"mcmesh": "store", "version": 1, "epoch": "…", "revision": "17"}
 *	{"config": {"segment": 0, "settings": {"robustness": 3}}}
 *	{"node": {"name": "n1", "vtep": "203.0.113.1"}}
 *	{"static": {"node": "n1", "port": "p1", "group": "239.1.1.1", "mode": "EXCLUDE",
 *	            "sources": []}}
 *	{"end": {"rows": 3}}
 *
 * The epoch and revision say where it was taken; an import begins a new epoch.
 * Members are left out on purpose: agents own them, and every agent reports all
 * that it has when it meets the new epoch. The nodes are in it so that the new
 * log is not called complete before those have reported.
 *
 * An import reads and judges the whole input first. A store that can replace all
 * it has at once (SQLite) does that; another one has to be empty.
 */
#include "controller/transfer.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/rpc_tls.h"
#include "controller/open.h"
#include "controller/plan/report.h"
#include "controller/store/codec.h"

/* A store whose rows are in a log; no feed, no sessions. */
struct transfer {
	struct rpc *rpc;
	struct rpc_tls *tls;
	struct store *store;
	struct log *log;
	bool failed;
	int result; /* of a commit; 1: not yet */
};

static void on_event(void *userdata, uint64_t revision, const struct log_change *changes, size_t n)
{
	struct transfer *t = userdata;

	if (!t->failed && log_apply(t->log, revision, changes, n) < 0)
		t->failed = true;
}

static void on_presence(void *userdata, const struct store_presence *presence)
{
}

static void on_draining(void *userdata, const char *node, bool on)
{
}

static void on_lost(void *userdata, const char *why)
{
	((struct transfer *)userdata)->failed = true;
}

static void transfer_close(struct transfer *t)
{
	store_close(t->store);
	log_free(t->log);
	rpc_tls_free(t->tls);
}

static int transfer_open(struct transfer *t, const struct controller_config *config,
			 struct rpc *rpc, bool only_load, char why[CONTROLLER_WHY_MAX])
{
	static const struct store_events events = { on_event, on_presence, on_draining, on_lost };
	char store_why[STORE_WHY_MAX] = "out of memory";
	int r;

	t->rpc = rpc;
	r = controller_store_open(config, rpc, only_load, &events, t, &t->tls, &t->store, why);
	if (r < 0)
		return r;
	snprintf(why, CONTROLLER_WHY_MAX, "out of memory");
	r = log_new(t->store->epoch, t->store->revision, config->log_tombstones, &t->log);
	if (r < 0)
		return r;
	log_load_begin(t->log, t->store->floor);
	r = store_load(t->store, store_why);
	if (r == 0 && t->failed)
		r = -ENOMEM;
	if (r < 0)
		snprintf(why, CONTROLLER_WHY_MAX, "%s", store_why);
	else
		log_load_end(t->log, t->store->revision);
	return r;
}

/* ---- export ----------------------------------------------------------------------- */

static json_t *config_json(const struct log_row *row)
{
	json_t *settings = json_object();

	for (size_t i = 0; i < store_n_settings; i++) {
		uint32_t v = *store_setting_of(row->config, &store_settings[i]);

		if (v)
			json_object_set_new(settings, store_settings[i].name, json_integer(v));
	}
	return json_pack("{s:{s:i, s:o}}", "config", "segment", (int)row->key.subject, "settings",
			 settings);
}

static json_t *static_json(const struct log_row *row)
{
	json_t *sources = json_array();
	char text[ADDR_TEXT_MAX];

	for (uint32_t i = 0; i < row->filter.n_sources; i++)
		json_array_append_new(sources,
				      json_string(addr_format(&row->filter.sources[i], text)));
	return json_pack("{s:{s:s, s:s, s:s, s:s, s:o}}", "static", "node", row->node->name, "port",
			 row->key.port, "group", addr_format(&row->key.group, text), "mode",
			 row->filter.mode == FILTER_EXCLUDE ? "EXCLUDE" : "INCLUDE", "sources",
			 sources);
}

static json_t *row_json(const struct log_row *row)
{
	char text[ADDR_TEXT_MAX];

	switch (row->key.kind) {
	case LOG_CONFIG:
		return config_json(row);
	case LOG_STATIC:
		return static_json(row);
	default:
		return json_pack("{s:{s:s, s:s}}", "node", "name", row->node->name, "vtep",
				 addr_format(&row->vtep, text));
	}
}

static int line_write(FILE *out, json_t *json)
{
	int r = json ? json_dumpf(json, out, JSON_PRESERVE_ORDER) : -1;

	json_decref(json);
	return r == 0 && fputc('\n', out) != EOF ? 0 : -EIO;
}

static int log_write(const struct transfer *t, FILE *out)
{
	char epoch[2 * EPOCH_LEN + 1], revision[24];
	struct log_row *row;
	json_int_t n = 0;
	int r;

	for (size_t i = 0; i < EPOCH_LEN; i++)
		snprintf(epoch + 2 * i, 3, "%02x", t->store->epoch[i]);
	snprintf(revision, sizeof(revision), "%" PRIu64, t->store->revision);
	r = line_write(out, json_pack("{s:s, s:i, s:s, s:s}", "mcmesh", "store", "version",
				      TRANSFER_VERSION, "epoch", epoch, "revision", revision));
	for (row = log_seek(t->log, 0, 0, &ADDR_NULL, "", ""); r == 0 && row; row = row->next[0]) {
		if (row->deleted || row->key.kind == LOG_MEMBER)
			continue;
		r = line_write(out, row_json(row));
		n++;
	}
	if (r == 0)
		r = line_write(out, json_pack("{s:{s:I}}", "end", "rows", n));
	return r == 0 && fflush(out) == 0 ? 0 : -EIO;
}

/* Whole under another name first: an older export stays until then. */
static int file_write(const struct transfer *t, const char *path, char why[CONTROLLER_WHY_MAX])
{
	_cleanup_free_ char *name = NULL;
	FILE *out;
	int r;

	if (strcmp(path, "-") == 0) {
		r = log_write(t, stdout);
		if (r < 0)
			snprintf(why, CONTROLLER_WHY_MAX, "cannot write to standard output");
		return r;
	}
	if (asprintf(&name, "%s-new", path) < 0)
		return -ENOMEM;
	out = fopen(name, "we");
	r = out ? log_write(t, out) : -errno;
	if (out && (fsync(fileno(out)) < 0 || fclose(out) < 0))
		r = -EIO;
	if (r == 0 && rename(name, path) < 0)
		r = -errno;
	if (r < 0) {
		snprintf(why, CONTROLLER_WHY_MAX, "cannot write %.200s: %s", path, strerror(-r));
		remove(name);
	}
	return r;
}

int transfer_export(const struct controller_config *config, struct rpc *rpc, const char *path,
		    char why[CONTROLLER_WHY_MAX])
{
	struct transfer t = { 0 };
	int r = transfer_open(&t, config, rpc, true, why);

	if (r == 0)
		r = file_write(&t, path, why);
	transfer_close(&t);
	return r;
}

/* ---- reading ------------------------------------------------------------------------ */

struct input {
	const char *path;
	size_t line;
	struct log *log; /* what was read: every key once */
	size_t n;
	bool ended;
};

static int bad(const struct input *in, char why[CONTROLLER_WHY_MAX], const char *text)
{
	snprintf(why, CONTROLLER_WHY_MAX, "%.200s line %zu: %s: nothing was imported", in->path,
		 in->line, text);
	return -EINVAL;
}

static int row_take(struct input *in, const struct log_change *c, char why[CONTROLLER_WHY_MAX])
{
	const struct log_row *there =
		c->kind == LOG_CONFIG
			? log_config_find(in->log, c->subject)
			: log_find_live(in->log, c->kind, 0, c->node, &c->group, c->port);

	if (there)
		return bad(in, why, "the same was there before");
	if (++in->n > TRANSFER_ROWS_MAX)
		return bad(in, why, "too many rows");
	return log_apply(in->log, log_revision(in->log) + 1, c, 1);
}

static int config_take(struct input *in, json_t *json, char why[CONTROLLER_WHY_MAX])
{
	struct log_config config = { 0 };
	struct log_change c = { .kind = LOG_CONFIG, .node = "", .config = &config };
	json_t *settings, *value;
	json_int_t segment;
	const char *name;
	size_t i;

	if (json_unpack(json, "{s:I, s:o !}", "segment", &segment, "settings", &settings) < 0 ||
	    segment < 0 || segment > REPORT_SEGMENT_MAX || !json_is_object(settings))
		return bad(in, why, "config needs a segment, 0 to 16777215, and settings");
	json_object_foreach(settings, name, value)
	{
		for (i = 0; i < store_n_settings && strcmp(store_settings[i].name, name) != 0; i++)
			;
		if (i == store_n_settings || json_integer_value(value) <= 0 ||
		    json_integer_value(value) > UINT32_MAX)
			return bad(in, why,
				   "a setting that this program does not know, or no number: use "
				   "the version that wrote it");
		*store_setting_of(&config, &store_settings[i]) =
			(uint32_t)json_integer_value(value);
	}
	c.subject = (uint32_t)segment;
	return row_take(in, &c, why);
}

static bool is_name(const char *name, size_t max)
{
	return name[0] && strlen(name) < max;
}

static int node_take(struct input *in, json_t *json, char why[CONTROLLER_WHY_MAX])
{
	struct log_change c = { .kind = LOG_NODE };
	const char *vtep;

	if (json_unpack(json, "{s:s, s:s !}", "name", &c.node, "vtep", &vtep) < 0 ||
	    !is_name(c.node, LOG_NAME_MAX) || addr_parse(vtep, &c.vtep) < 0 ||
	    addr_is_multicast(&c.vtep) || addr_is_unspecified(&c.vtep))
		return bad(in, why, "node needs a name and an address as its vtep");
	return row_take(in, &c, why);
}

static int sources_take(json_t *array, const char *mode, struct filter *ret_filter)
{
	struct addr sources[REPORT_SOURCES_MAX];
	bool exclude = strcmp(mode, "EXCLUDE") == 0;
	size_t n = json_array_size(array);

	if (!json_is_array(array) || n > REPORT_SOURCES_MAX ||
	    (!exclude && (strcmp(mode, "INCLUDE") != 0 || !n)))
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		const char *text = json_string_value(json_array_get(array, i));

		if (!text || addr_parse(text, &sources[i]) < 0 || addr_is_multicast(&sources[i]) ||
		    addr_is_unspecified(&sources[i]))
			return -EINVAL;
	}
	return filter_init(ret_filter, exclude ? FILTER_EXCLUDE : FILTER_INCLUDE, sources, n);
}

static int static_take(struct input *in, json_t *json, char why[CONTROLLER_WHY_MAX])
{
	struct log_change c = { .kind = LOG_STATIC };
	const char *group, *mode;
	json_t *sources;
	int r;

	if (json_unpack(json, "{s:s, s:s, s:s, s:s, s:o !}", "node", &c.node, "port", &c.port,
			"group", &group, "mode", &mode, "sources", &sources) < 0 ||
	    !is_name(c.node, LOG_NAME_MAX) || !is_name(c.port, LOG_PORT_MAX))
		return bad(in, why, "static needs node, port, group, mode and sources");
	if (addr_parse(group, &c.group) < 0 || !addr_is_multicast(&c.group))
		return bad(in, why, "the group of static is not a multicast address");
	r = sources_take(sources, mode, &c.filter);
	if (r == -EINVAL)
		return bad(in, why,
			   "mode is INCLUDE with sources, or EXCLUDE; sources are "
			   "unicast addresses");
	if (r == 0)
		r = row_take(in, &c, why);
	filter_deinit(&c.filter);
	return r;
}

static int header_take(struct input *in, json_t *json, char why[CONTROLLER_WHY_MAX])
{
	const char *what, *epoch, *revision;
	int version;

	if (json_unpack(json, "{s:s, s:i, s:s, s:s !}", "mcmesh", &what, "version", &version,
			"epoch", &epoch, "revision", &revision) < 0 ||
	    strcmp(what, "store") != 0)
		return bad(in, why, "this is not an export of a store");
	if (version != TRANSFER_VERSION)
		return bad(in, why, "it is of a newer version: use the program that wrote it");
	return 0;
}

static int end_take(struct input *in, json_t *json, char why[CONTROLLER_WHY_MAX])
{
	json_int_t rows;

	if (json_unpack(json, "{s:I !}", "rows", &rows) < 0 || rows != (json_int_t)in->n)
		return bad(in, why, "rows are missing before the end");
	in->ended = true;
	return 0;
}

static int line_take(struct input *in, json_t *json, char why[CONTROLLER_WHY_MAX])
{
	static const struct {
		const char *name;
		int (*take)(struct input *in, json_t *json, char why[CONTROLLER_WHY_MAX]);
	} kinds[] = {
		{ "config", config_take },
		{ "node", node_take },
		{ "static", static_take },
		{ "end", end_take },
	};

	if (in->line == 1)
		return header_take(in, json, why);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		json_t *inner = json_object_get(json, kinds[i].name);

		if (inner && json_object_size(json) == 1)
			return in->ended ? bad(in, why, "more after the end")
					 : kinds[i].take(in, inner, why);
	}
	return bad(in, why, "a line is one of config, node, static and end");
}

static int input_read(struct input *in, FILE *f, char why[CONTROLLER_WHY_MAX])
{
	_cleanup_free_ char *line = NULL;
	size_t allocated = 0;
	ssize_t len;
	int r = 0;

	while (r == 0 && (len = getline(&line, &allocated, f)) >= 0) {
		json_t *json;

		in->line++;
		json = len <= TRANSFER_LINE_MAX
			       ? json_loadb(line, (size_t)len, JSON_REJECT_DUPLICATES, NULL)
			       : NULL;
		r = json_is_object(json) ? line_take(in, json, why)
					 : bad(in, why, "not a JSON object");
		json_decref(json);
	}
	if (r == 0 && !in->ended)
		r = bad(in, why, "the end is missing: the file is not whole");
	return r;
}

static int input_open(struct input *in, const char *path, char why[CONTROLLER_WHY_MAX])
{
	static const uint8_t epoch[EPOCH_LEN];
	bool is_stdin = strcmp(path, "-") == 0;
	FILE *f = is_stdin ? stdin : fopen(path, "re");
	int r;

	if (!f) {
		r = -errno;
		snprintf(why, CONTROLLER_WHY_MAX, "cannot read %.200s: %s", path, strerror(-r));
		return r;
	}
	in->path = is_stdin ? "standard input" : path;
	snprintf(why, CONTROLLER_WHY_MAX, "out of memory");
	r = log_new(epoch, 0, 0, &in->log);
	if (r == 0)
		r = input_read(in, f, why);
	if (!is_stdin)
		fclose(f);
	return r;
}

/* ---- import -------------------------------------------------------------------------- */

static bool is_empty(const struct log *log)
{
	struct log_row *row;

	for (row = log_seek(log, 0, 0, &ADDR_NULL, "", ""); row; row = row->next[0]) {
		if (!row->deleted)
			return false;
	}
	return true;
}

/* They borrow from the log. */
static struct log_change *changes_of(const struct input *in)
{
	struct log_change *changes = calloc(in->n + 1, sizeof(*changes));
	struct log_row *row = log_seek(in->log, 0, 0, &ADDR_NULL, "", "");

	for (size_t i = 0; changes && row; row = row->next[0])
		changes[i++] = (struct log_change){ .kind = row->key.kind,
						    .node = row->node->name,
						    .port = row->key.port,
						    .group = row->key.group,
						    .filter = row->filter,
						    .vtep = row->vtep,
						    .subject = row->key.subject,
						    .config = row->config };
	return changes;
}

static void committed(void *userdata, int result, uint64_t revision)
{
	((struct transfer *)userdata)->result = result;
}

/* Into an empty store, whose epoch is as new as can be. */
static int commit(struct transfer *t, const struct log_change *changes, size_t n,
		  char why[CONTROLLER_WHY_MAX])
{
	const struct store_txn txn = { .node = "", .changes = changes, .n_changes = n };
	uint64_t end_ms = controller_now_ms() + TRANSFER_TOGETHER_MS;

	t->result = 1;
	store_commit(t->store, &txn, committed, t);
	while (t->result == 1 && !t->failed && controller_now_ms() < end_ms) {
		uint64_t next = store_next_ms(t->store), soon = controller_now_ms() + 50;

		rpc_poll(t->rpc, next < soon ? next : soon);
		store_dispatch(t->store, controller_now_ms());
	}
	if (t->result == 0)
		return 0;
	snprintf(why, CONTROLLER_WHY_MAX,
		 "the store did not take it, or only a part: empty the store and import again");
	return -EIO;
}

static int import(struct transfer *t, const struct input *in, bool force,
		  char why[CONTROLLER_WHY_MAX])
{
	_cleanup_free_ struct log_change *changes = changes_of(in);
	bool can_replace = t->store->ops->replace, empty = is_empty(t->log);
	char store_why[STORE_WHY_MAX] = "";
	int r;

	if (!changes)
		return -ENOMEM;
	if (!can_replace && !store_is_shared(t->store)) {
		snprintf(why, CONTROLLER_WHY_MAX,
			 "a store of the kind \"%s\" ends with its process: import into sqlite: or "
			 "etcd:",
			 t->store->ops->scheme);
		return -ENOTSUP;
	}
	if (!empty && !(force && can_replace)) {
		snprintf(why, CONTROLLER_WHY_MAX,
			 "the store is not empty, nothing was imported: %s",
			 can_replace ? "use --force to replace all that it has"
				     : "remove its keys first, or name another prefix");
		return -EEXIST;
	}
	if (!can_replace)
		return commit(t, changes, in->n, why);
	r = store_replace(t->store, changes, in->n, store_why);
	if (r < 0)
		snprintf(why, CONTROLLER_WHY_MAX, "%s", store_why);
	return r;
}

int transfer_import(const struct controller_config *config, struct rpc *rpc, const char *path,
		    bool force, char why[CONTROLLER_WHY_MAX])
{
	struct transfer t = { 0 };
	struct input in = { 0 };
	int r = input_open(&in, path, why);

	if (r == 0)
		r = transfer_open(&t, config, rpc, false, why);
	if (r == 0)
		r = import(&t, &in, force, why);
	transfer_close(&t);
	log_free(in.log);
	return r;
}
