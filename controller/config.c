/* SPDX-License-Identifier: Apache-2.0 */
#include "controller/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "controller/config_etcd.h"
#include "controller/config_nodes.h"
#include "controller/config_segments.h"
#include "controller/plan/log.h"
#include "controller/plan/registry.h"
#include "controller/plan/report.h"

#define DEFAULT_LISTEN		"0.0.0.0:7797"
#define DEFAULT_STATE		"/var/lib/mcmesh"
#define DEFAULT_HEARTBEAT_MS	600
#define DEFAULT_STALE_MS	2000
#define DEFAULT_HOLD_MS		120000
#define DEFAULT_COALESCE_MS	2
#define DEFAULT_AGENTS		10000
#define DEFAULT_WATCHERS	256
#define DEFAULT_CHANGES		10000
#define DEFAULT_SESSIONS	120
#define DEFAULT_SEGMENT_MEMBERS 2000000

#define LISTEN_MAX     16
#define HEARTBEAT_MIN  50
#define HEARTBEAT_MAX  60000
#define STALE_MAX      3600000
#define HOLD_MAX       86400000
#define COALESCE_MAX   1000
#define TOMBSTONES_MIN 16
#define TOMBSTONES_MAX 16777216

/* What the file says: absent numbers are NULL, so that 0 can be said. */
struct file_limits {
	uint32_t *groups_per_node, *sources_per_member, *agents, *watchers;
	uint32_t *members_per_segment, *changes_per_second, *sessions_per_minute;
};

struct file {
	char **listen;
	unsigned int listen_count;
	char *store, *name, *advertise, *metrics;
	struct controller_etcd *etcd;
	uint32_t *heartbeat_ms, *stale_ms, *hold_ms, *coalesce_ms, *log_tombstones;
	struct file_limits *limits;
	struct log_config *defaults;
	struct file_segment *segments;
	unsigned int segments_count;
	struct file_node *nodes;
	unsigned int nodes_count;
	struct config_tls *tls;
	bool *insecure;
	enum log_level *log_level;
};

static const cyaml_strval_t log_levels[] = {
	{ "error", LOG_LEVEL_ERROR },
	{ "warning", LOG_LEVEL_WARNING },
	{ "info", LOG_LEVEL_INFO },
	{ "debug", LOG_LEVEL_DEBUG },
};

#define OPTIONAL_NUMBER(structure, member) \
	CYAML_FIELD_UINT_PTR(#member, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, structure, member)

static const cyaml_schema_field_t limits_fields[] = {
	OPTIONAL_NUMBER(struct file_limits, groups_per_node),
	OPTIONAL_NUMBER(struct file_limits, sources_per_member),
	OPTIONAL_NUMBER(struct file_limits, agents),
	OPTIONAL_NUMBER(struct file_limits, watchers),
	OPTIONAL_NUMBER(struct file_limits, members_per_segment),
	OPTIONAL_NUMBER(struct file_limits, changes_per_second),
	OPTIONAL_NUMBER(struct file_limits, sessions_per_minute),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t listen_value = {
	CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, 255),
};

static const cyaml_schema_field_t fields[] = {
	CYAML_FIELD_SEQUENCE("listen", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct file,
			     listen, &listen_value, 1, LISTEN_MAX),
	CYAML_FIELD_STRING_PTR("store", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct file,
			       store, 1, 1023),
	CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct file, name,
			       1, 63),
	CYAML_FIELD_STRING_PTR("metrics", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct file,
			       metrics, 1, 255),
	OPTIONAL_NUMBER(struct file, heartbeat_ms),
	OPTIONAL_NUMBER(struct file, stale_ms),
	OPTIONAL_NUMBER(struct file, hold_ms),
	OPTIONAL_NUMBER(struct file, coalesce_ms),
	OPTIONAL_NUMBER(struct file, log_tombstones),
	CYAML_FIELD_MAPPING_PTR("limits", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct file,
				limits, limits_fields),
	CYAML_FIELD_MAPPING_PTR("defaults", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct file,
				defaults, config_defaults_fields),
	CYAML_FIELD_SEQUENCE("segments", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct file,
			     segments, &config_segment_value, 0, SEGMENTS_IN_FILE_MAX),
	CYAML_FIELD_SEQUENCE("nodes", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct file, nodes,
			     &config_node_value, 0, NODES_IN_FILE_MAX),
	CYAML_FIELD_MAPPING_PTR("etcd", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct file, etcd,
				config_etcd_fields),
	CYAML_FIELD_STRING_PTR("advertise", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct file,
			       advertise, 1, 127),
	CYAML_FIELD_MAPPING_PTR("tls", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct file, tls,
				config_tls_fields),
	CYAML_FIELD_ENUM_PTR("insecure",
			     CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL | CYAML_FLAG_STRICT,
			     struct file, insecure, config_bool_words, CONFIG_BOOL_WORDS_N),
	CYAML_FIELD_ENUM_PTR("log_level",
			     CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL | CYAML_FLAG_STRICT,
			     struct file, log_level, log_levels, ARRAY_SIZE(log_levels)),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t schema = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct file, fields),
};

struct number {
	const char *name;
	const uint32_t *value;
	uint32_t standard, min, max;
	uint32_t *ret;
};

static int numbers_take(const char *path, const struct file *f, struct controller_config *c,
			char why[CONFIG_WHY_MAX])
{
	static const struct file_limits no_limits;
	const struct file_limits *l = f->limits ? f->limits : &no_limits;
	const struct number numbers[] = {
		{ "heartbeat_ms", f->heartbeat_ms, DEFAULT_HEARTBEAT_MS, HEARTBEAT_MIN,
		  HEARTBEAT_MAX, &c->heartbeat_ms },
		{ "stale_ms", f->stale_ms, DEFAULT_STALE_MS, HEARTBEAT_MIN, STALE_MAX,
		  &c->stale_ms },
		{ "hold_ms", f->hold_ms, DEFAULT_HOLD_MS, HEARTBEAT_MIN, HOLD_MAX, &c->hold_ms },
		{ "coalesce_ms", f->coalesce_ms, DEFAULT_COALESCE_MS, 0, COALESCE_MAX,
		  &c->coalesce_ms },
		{ "log_tombstones", f->log_tombstones, LOG_TOMBSTONES_MAX, TOMBSTONES_MIN,
		  TOMBSTONES_MAX, &c->log_tombstones },
		{ "limits.groups_per_node", l->groups_per_node, REPORT_GROUPS_MAX, 1,
		  REPORT_ROWS_MAX, &c->limits.groups_per_node },
		{ "limits.sources_per_member", l->sources_per_member, REPORT_SOURCES_MAX, 1,
		  REPORT_SOURCES_MAX, &c->limits.sources_per_member },
		{ "limits.agents", l->agents, DEFAULT_AGENTS, 1, REGISTRY_NODES_MAX,
		  &c->limits.agents },
		{ "limits.watchers", l->watchers, DEFAULT_WATCHERS, 1, 65536, &c->limits.watchers },
		{ "limits.members_per_segment", l->members_per_segment, DEFAULT_SEGMENT_MEMBERS, 1,
		  100000000, &c->limits.members_per_segment },
		{ "limits.changes_per_second", l->changes_per_second, DEFAULT_CHANGES, 1, 1000000,
		  &c->limits.changes_per_second },
		{ "limits.sessions_per_minute", l->sessions_per_minute, DEFAULT_SESSIONS, 1, 60000,
		  &c->limits.sessions_per_minute },
	};

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		const struct number *n = &numbers[i];
		uint32_t v = n->value ? *n->value : n->standard;

		if (v < n->min || v > n->max) {
			snprintf(why, CONFIG_WHY_MAX, "%s: %s is %u, but must be %u to %u", path,
				 n->name, v, n->min, n->max);
			return -EINVAL;
		}
		*n->ret = v;
	}
	if (c->stale_ms > c->hold_ms) {
		snprintf(why, CONFIG_WHY_MAX, "%s: stale_ms %u is more than hold_ms %u", path,
			 c->stale_ms, c->hold_ms);
		return -EINVAL;
	}
	return 0;
}

/* systemd says where a unit's state is. */
static char *default_store(void)
{
	const char *folder = getenv("STATE_DIRECTORY");
	char *spec;

	if (!folder || !folder[0])
		folder = DEFAULT_STATE;
	return asprintf(&spec, "sqlite:%s/controller.db", folder) < 0 ? NULL : spec;
}

static int strings_take(const struct file *f, struct controller_config *c)
{
	char host[64] = "controller";

	gethostname(host, sizeof(host) - 1);
	c->store = f->store ? strdup(f->store) : default_store();
	c->name = strdup(f->name ? f->name : host);
	c->listen = calloc((f->listen_count ? f->listen_count : 1) + 1, sizeof(*c->listen));
	if (!c->store || !c->name || !c->listen)
		return -ENOMEM;
	if (f->metrics && !(c->metrics = strdup(f->metrics)))
		return -ENOMEM;
	for (unsigned int i = 0; i < (f->listen_count ? f->listen_count : 1); i++) {
		c->listen[i] = strdup(f->listen_count ? f->listen[i] : DEFAULT_LISTEN);
		if (!c->listen[i])
			return -ENOMEM;
		c->listen_count++;
	}
	return 0;
}

DEFINE_CLEANUP(struct controller_config *, controller_config_free)

int controller_config_load(const char *path, struct controller_config **ret_config,
			   char why[CONFIG_WHY_MAX])
{
	_cleanup_(controller_config_free_p)
	struct controller_config *c = calloc(1, sizeof(*c));
	struct file none = { 0 }, *f = &none;
	void *data = NULL;
	int r;

	snprintf(why, CONFIG_WHY_MAX, "out of memory");
	if (!c)
		return -ENOMEM;
	if (path) {
		r = config_load(path, &schema, &data, why);
		if (r < 0)
			return r;
		f = data;
	}
	c->log_level = f->log_level ? *f->log_level : LOG_LEVEL_INFO;
	r = numbers_take(path ? path : "defaults", f, c, why);
	if (r == 0)
		r = strings_take(f, c);
	if (r == 0)
		r = config_segments_take(path, f->defaults, f->segments, f->segments_count, c, why);
	if (r == 0)
		r = config_nodes_take(path, f->nodes, f->nodes_count, c, why);
	if (r == 0)
		r = config_etcd_take(path, f->etcd, f->advertise, c, why);
	if (r == 0 && f->tls && !(c->tls = config_tls_copy(f->tls)))
		r = -ENOMEM;
	c->insecure = f->insecure && *f->insecure;
	if (data)
		config_free(&schema, data);
	if (r < 0)
		return r;
	*ret_config = TAKE_PTR(c);
	return 0;
}

void controller_config_free(struct controller_config *c)
{
	if (!c)
		return;
	for (unsigned int i = 0; i < c->listen_count; i++)
		free(c->listen[i]);
	free(c->listen);
	free(c->segments);
	config_nodes_free(c);
	config_etcd_free(c);
	config_tls_free(c->tls);
	free(c->store);
	free(c->name);
	free(c->metrics);
	free(c);
}

int controller_config_set_listen(struct controller_config *c, const char *address)
{
	char *copy = strdup(address);

	if (!copy)
		return -ENOMEM;
	for (unsigned int i = 0; i < c->listen_count; i++) {
		free(c->listen[i]);
		c->listen[i] = NULL;
	}
	c->listen[0] = copy;
	c->listen_count = 1;
	return 0;
}

int controller_config_set_store(struct controller_config *c, const char *spec)
{
	char *copy = strdup(spec);

	if (!copy)
		return -ENOMEM;
	free(c->store);
	c->store = copy;
	return 0;
}

int controller_config_add_segment(struct controller_config *c, uint32_t segment,
				  const struct log_config *settings)
{
	struct controller_segment *grown;

	for (unsigned int i = 0; i < c->segments_count; i++) {
		if (c->segments[i].segment == segment)
			return -EEXIST;
	}
	grown = reallocarray(c->segments, c->segments_count + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	c->segments = grown;
	grown[c->segments_count++] = (struct controller_segment){ segment, *settings };
	return 0;
}
