/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: the agent's file, in two steps
 *
 * libcyaml reads the file into a `struct raw`, in which each optional key is a
 * pointer, NULL when the file does not have it: so "querier: no" and no querier
 * key are told apart. raw_apply() then lays the raw values over the defaults,
 * checks each by its own rule and the whole by gmp_config_validate(). The
 * caller's pointer is written last.
 */
#include "node/config.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "common/cleanup.h"
#include "common/config.h"

#define SEGMENT_MAX	((1u << 24) - 1)
#define CONTROLLERS_MAX 16
#define PATTERNS_MAX	256
#define PATTERN_MAX	64
#define TEXT_MAX	255
#define LABEL_MAX	63
#define LIMIT_MAX	(1u << 24)

#define DEFAULT_SOCKET	  "/run/mcmesh/agent.sock"
#define DEFAULT_STATE_DIR "/var/lib/mcmesh"
#define DEFAULT_BPF_ROOT  "/sys/fs/bpf/mcmesh"
#define DEFAULT_DEVICE	  "mcmesh0"
#define DEFAULT_PORT	  4797
#define DSCP_MAX	  63
#define DEFAULT_SEGMENT	  1

/* Numbers and switches that have the same name in the file and in gmp_config. */
#define GMP_NUMBERS(X)                   \
	X(robustness)                    \
	X(query_interval_ms)             \
	X(query_response_interval_ms)    \
	X(startup_query_interval_ms)     \
	X(startup_query_count)           \
	X(last_member_query_interval_ms) \
	X(last_member_query_count)       \
	X(membership_interval_ms)        \
	X(max_groups)                    \
	X(max_sources)                   \
	X(max_hosts)                     \
	X(max_reports_per_second)

#define GMP_SWITCHES(X)         \
	X(querier)              \
	X(querier_guard)        \
	X(fast_leave)           \
	X(proxy)                \
	X(require_router_alert) \
	X(accept_global_mld_source)

/* Key in the file, member of datapath_options. */
#define LIMITS(X)                 \
	X(ports, max_ports)       \
	X(remotes, max_remotes)   \
	X(routes, max_routes)     \
	X(lists, max_lists)       \
	X(segments, max_segments) \
	X(punt_rate, punt_rate)

struct raw_port {
	char *match;
	uint32_t *segment;
	int *router;
};

struct raw_overlay {
	char *device, *dscp;
	uint32_t *port;
	int *path;
};

struct raw_fans {
	bool *enabled;
	uint32_t *min_ports;
};

struct raw_gmp {
#define X(name) uint32_t *name;
	GMP_NUMBERS(X)
#undef X
#define X(name) bool *name;
	GMP_SWITCHES(X)
#undef X
	uint32_t *igmp_version, *mld_version;
	char *query_source, *query_source_v6;
};

struct raw_limits {
#define X(name, member) uint32_t *name;
	LIMITS(X)
#undef X
};

struct raw {
	char *node, *vtep, *socket, *socket_group, *metrics, *state_dir, *bpf_root;
	char **controllers;
	uint32_t n_controllers;
	int *attach, *log_level, *delivery;
	struct raw_overlay *overlay;
	struct raw_fans *fans;
	struct raw_port *ports;
	uint32_t n_ports;
	struct raw_gmp *gmp;
	struct raw_limits *limits;
	struct config_tls *tls;
};

#define OPTIONAL (CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL)
#define TEXT(key, type, member) \
	CYAML_FIELD_STRING_PTR(key, OPTIONAL, struct type, member, 1, TEXT_MAX)
#define NUMBER(key, type, member) CYAML_FIELD_UINT_PTR(key, OPTIONAL, struct type, member)

static const cyaml_strval_t attach_words[] = {
	{ "auto", DATAPATH_ATTACH_AUTO },
	{ "tcx", DATAPATH_ATTACH_TCX },
	{ "clsact", DATAPATH_ATTACH_CLSACT },
};

static const cyaml_strval_t overlay_path_words[] = {
	{ "auto", NODE_OVERLAY_PATH_AUTO },
	{ "device", NODE_OVERLAY_PATH_DEVICE },
};

static const cyaml_strval_t delivery_words[] = {
	{ "auto", NODE_DELIVERY_AUTO },
	{ "peer", NODE_DELIVERY_PEER },
	{ "egress", NODE_DELIVERY_EGRESS },
};

static const cyaml_strval_t level_words[] = {
	{ "error", LOG_LEVEL_ERROR },
	{ "warning", LOG_LEVEL_WARNING },
	{ "info", LOG_LEVEL_INFO },
	{ "debug", LOG_LEVEL_DEBUG },
};

static const cyaml_strval_t router_words[] = {
	{ "auto", GMP_ROUTER_AUTO },
	{ "always", GMP_ROUTER_ALWAYS },
	{ "never", GMP_ROUTER_NEVER },
};

static const cyaml_schema_field_t port_fields[] = {
	CYAML_FIELD_STRING_PTR("match", CYAML_FLAG_POINTER, struct raw_port, match, 1, PATTERN_MAX),
	NUMBER("segment", raw_port, segment),
	CYAML_FIELD_ENUM_PTR("router", OPTIONAL | CYAML_FLAG_STRICT, struct raw_port, router,
			     router_words, ARRAY_SIZE(router_words)),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t overlay_fields[] = {
	TEXT("device", raw_overlay, device),
	NUMBER("port", raw_overlay, port),
	TEXT("dscp", raw_overlay, dscp),
	CYAML_FIELD_ENUM_PTR("path", OPTIONAL | CYAML_FLAG_STRICT, struct raw_overlay, path,
			     overlay_path_words, ARRAY_SIZE(overlay_path_words)),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t fans_fields[] = {
	CYAML_FIELD_ENUM_PTR("enabled", OPTIONAL | CYAML_FLAG_STRICT, struct raw_fans, enabled,
			     config_bool_words, CONFIG_BOOL_WORDS_N),
	NUMBER("min_ports", raw_fans, min_ports),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t gmp_fields[] = {
#define X(name) NUMBER(#name, raw_gmp, name),
	GMP_NUMBERS(X)
#undef X
#define X(name)                                                                         \
	CYAML_FIELD_ENUM_PTR(#name, OPTIONAL | CYAML_FLAG_STRICT, struct raw_gmp, name, \
			     config_bool_words, CONFIG_BOOL_WORDS_N),
		GMP_SWITCHES(X)
#undef X
			NUMBER("igmp_version", raw_gmp, igmp_version),
	NUMBER("mld_version", raw_gmp, mld_version),
	TEXT("query_source", raw_gmp, query_source),
	TEXT("query_source_v6", raw_gmp, query_source_v6),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t limits_fields[] = {
#define X(name, member) NUMBER(#name, raw_limits, name),
	LIMITS(X)
#undef X
		CYAML_FIELD_END,
};

static const cyaml_schema_value_t port_schema = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct raw_port, port_fields),
};

static const cyaml_schema_value_t text_schema = {
	CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, TEXT_MAX),
};

static const cyaml_schema_field_t raw_fields[] = {
	TEXT("node", raw, node),
	TEXT("vtep", raw, vtep),
	TEXT("socket", raw, socket),
	TEXT("socket_group", raw, socket_group),
	TEXT("metrics", raw, metrics),
	TEXT("state_dir", raw, state_dir),
	TEXT("bpf_root", raw, bpf_root),
	CYAML_FIELD_SEQUENCE_COUNT("controllers", OPTIONAL, struct raw, controllers, n_controllers,
				   &text_schema, 0, CONTROLLERS_MAX),
	CYAML_FIELD_ENUM_PTR("attach", OPTIONAL | CYAML_FLAG_STRICT, struct raw, attach,
			     attach_words, ARRAY_SIZE(attach_words)),
	CYAML_FIELD_ENUM_PTR("delivery", OPTIONAL | CYAML_FLAG_STRICT, struct raw, delivery,
			     delivery_words, ARRAY_SIZE(delivery_words)),
	CYAML_FIELD_ENUM_PTR("log_level", OPTIONAL | CYAML_FLAG_STRICT, struct raw, log_level,
			     level_words, ARRAY_SIZE(level_words)),
	CYAML_FIELD_MAPPING_PTR("overlay", OPTIONAL, struct raw, overlay, overlay_fields),
	CYAML_FIELD_MAPPING_PTR("fans", OPTIONAL, struct raw, fans, fans_fields),
	CYAML_FIELD_SEQUENCE_COUNT("ports", OPTIONAL, struct raw, ports, n_ports, &port_schema, 0,
				   PATTERNS_MAX),
	CYAML_FIELD_MAPPING_PTR("gmp", OPTIONAL, struct raw, gmp, gmp_fields),
	CYAML_FIELD_MAPPING_PTR("limits", OPTIONAL, struct raw, limits, limits_fields),
	CYAML_FIELD_MAPPING_PTR("tls", OPTIONAL, struct raw, tls, config_tls_fields),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t raw_schema = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct raw, raw_fields),
};

static void raw_free(struct raw *raw)
{
	config_free(&raw_schema, raw);
}

DEFINE_CLEANUP(struct raw *, raw_free)
DEFINE_CLEANUP(struct node_config *, node_config_free)

/* One sentence, after the file's name which node_config_load() puts before it. */
#define refuse(why, ...) (snprintf(why, NODE_CONFIG_WHY_MAX, __VA_ARGS__), -EINVAL)

static int copy_text(const char *text, const char *fallback, char **ret_copy)
{
	char *copy = strdup(text ? text : fallback);

	if (!copy)
		return -ENOMEM;
	*ret_copy = copy;
	return 0;
}

/* RFC 1123 2.1: labels of letters, digits and inner hyphens. */
static bool is_host_name(const char *name)
{
	size_t label = 0;

	for (const char *p = name;; p++) {
		if (*p == '.' || *p == '\0') {
			if (!label || label > LABEL_MAX || p[-1] == '-')
				return false;
			if (!*p)
				return true;
			label = 0;
		} else if (isalnum((unsigned char)*p) || (*p == '-' && label)) {
			label++;
		} else {
			return false;
		}
	}
}

static bool is_port_number(const char *text)
{
	unsigned long n;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return false;
	n = strtoul(text, &end, 10);
	return !*end && n >= 1 && n <= UINT16_MAX;
}

/* HOST:PORT, [IPV6]:PORT or unix:PATH. */
static bool is_endpoint(const char *text)
{
	const char *colon = strrchr(text, ':');
	char host[TEXT_MAX + 1];
	struct addr a;
	size_t len;

	if (strncmp(text, "unix:/", 6) == 0)
		return true;
	if (!colon || !is_port_number(colon + 1))
		return false;
	len = (size_t)(colon - text);
	if (text[0] == '[') {
		if (len < 3 || text[len - 1] != ']')
			return false;
		snprintf(host, sizeof(host), "%.*s", (int)len - 2, text + 1);
		return addr_parse(host, &a) == 0 && !addr_is_v4(&a);
	}
	snprintf(host, sizeof(host), "%.*s", (int)len, text);
	return is_host_name(host);
}

static int apply_node(const struct raw *raw, struct node_config *c, char *why)
{
	char host[HOST_NAME_MAX + 1] = "";

	gethostname(host, sizeof(host) - 1);
	if (copy_text(raw->node, host, &c->node) < 0)
		return -ENOMEM;
	if (!is_host_name(c->node) || strlen(c->node) >= DATAPATH_NODE_NAME_MAX)
		return refuse(why,
			      "node: \"%s\"%s cannot name a node: give at most %d letters, digits, "
			      "hyphens and dots",
			      c->node, raw->node ? "" : " (this host's name)",
			      DATAPATH_NODE_NAME_MAX - 1);
	if (!raw->vtep)
		return refuse(why, "vtep: is missing: give the address at which other nodes reach "
				   "this one");
	if (addr_parse(raw->vtep, &c->vtep) < 0 || addr_is_multicast(&c->vtep) ||
	    addr_is_unspecified(&c->vtep) || addr_is_link_local_unicast(&c->vtep))
		return refuse(why, "vtep: \"%s\" is not the unicast address of a node", raw->vtep);
	return 0;
}

static int apply_controllers(const struct raw *raw, struct node_config *c, char *why)
{
	c->controllers = calloc((size_t)raw->n_controllers + 1, sizeof(*c->controllers));
	if (!c->controllers)
		return -ENOMEM;
	for (uint32_t i = 0; i < raw->n_controllers; i++) {
		if (!is_endpoint(raw->controllers[i]))
			return refuse(why,
				      "controllers: \"%s\" is not HOST:PORT, [IPV6]:PORT or "
				      "unix:/PATH",
				      raw->controllers[i]);
		if (copy_text(raw->controllers[i], "", &c->controllers[i]) < 0)
			return -ENOMEM;
	}
	return 0;
}

int node_config_add_controllers(struct node_config *config, const char *list, bool first,
				char why[NODE_CONFIG_WHY_MAX])
{
	_cleanup_free_ char *copy = strdup(list);
	size_t n = 0;
	char *rest = copy, *one;

	if (!copy)
		return -ENOMEM;
	for (char **c = config->controllers; *c; c++, n++) {
		if (first) {
			free(*c);
			*c = NULL;
		}
	}
	n = first ? 0 : n;
	while ((one = strsep(&rest, ","))) {
		char **grown;

		if (!is_endpoint(one))
			return refuse(why,
				      "--controller: \"%s\" is not HOST:PORT, [IPV6]:PORT or "
				      "unix:/PATH",
				      one);
		if (n == CONTROLLERS_MAX)
			return refuse(why, "--controller: more than %d of them", CONTROLLERS_MAX);
		grown = reallocarray(config->controllers, n + 2, sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		config->controllers = grown;
		grown[n] = strdup(one);
		if (!grown[n])
			return -ENOMEM;
		grown[++n] = NULL;
	}
	return 0;
}

static int apply_path(const char *key, const char *text, const char *fallback, size_t max,
		      char **ret_path, char *why)
{
	if (text && text[0] != '/')
		return refuse(why, "%s: \"%s\" is not an absolute path", key, text);
	if (text && strlen(text) > max)
		return refuse(why, "%s: the path is longer than %zu characters", key, max);
	return copy_text(text, fallback, ret_path);
}

static int apply_paths(const struct raw *raw, struct node_config *c, char *why)
{
	const size_t socket_max = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
	char *root = NULL;
	int r;

	r = apply_path("socket", raw->socket, DEFAULT_SOCKET, socket_max, &c->socket, why);
	if (r < 0)
		return r;
	if (raw->socket_group && copy_text(raw->socket_group, "", &c->socket_group) < 0)
		return -ENOMEM;
	if (raw->metrics && !(c->metrics = strdup(raw->metrics)))
		return -ENOMEM;
	r = apply_path("state_dir", raw->state_dir, DEFAULT_STATE_DIR, TEXT_MAX, &c->state_dir,
		       why);
	if (r < 0)
		return r;
	r = apply_path("bpf_root", raw->bpf_root, DEFAULT_BPF_ROOT, TEXT_MAX, &root, why);
	if (r < 0)
		return r;
	c->datapath.root = root;
	return 0;
}

static bool is_device_name(const char *name)
{
	if (strlen(name) >= IFNAMSIZ || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return false;
	for (; *name; name++) {
		if (*name == '/' || *name == ':' || isspace((unsigned char)*name))
			return false;
	}
	return true;
}

/* "inherit", or 0 to 63. */
static int parse_dscp(const char *text, uint8_t *ret_dscp)
{
	unsigned long value;
	char *end;

	if (strcmp(text, "inherit") == 0) {
		*ret_dscp = DATAPATH_DSCP_INHERIT;
		return 0;
	}
	value = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || value > DSCP_MAX)
		return -EINVAL;
	*ret_dscp = (uint8_t)value;
	return 0;
}

static int apply_overlay(const struct raw *raw, struct node_config *c, char *why)
{
	const struct raw_overlay *o = raw->overlay;
	uint32_t port = o && o->port ? *o->port : DEFAULT_PORT;

	if (copy_text(o ? o->device : NULL, DEFAULT_DEVICE, &c->overlay_device) < 0)
		return -ENOMEM;
	if (!is_device_name(c->overlay_device))
		return refuse(why, "overlay.device: \"%s\" cannot name an interface",
			      c->overlay_device);
	if (port < 1 || port > UINT16_MAX)
		return refuse(why, "overlay.port: %u is not a UDP port", port);
	c->overlay_port = (uint16_t)port;
	if (o && o->dscp && parse_dscp(o->dscp, &c->datapath.dscp) < 0)
		return refuse(why, "overlay.dscp: \"%s\" is neither 0 to %d nor inherit", o->dscp,
			      DSCP_MAX);
	if (o && o->path)
		c->overlay_path = (enum node_overlay_path) * o->path;
	return 0;
}

static int apply_ports(const struct raw *raw, struct node_config *c, char *why)
{
	c->ports = calloc((size_t)raw->n_ports + 1, sizeof(*c->ports));
	if (!c->ports)
		return -ENOMEM;
	for (uint32_t i = 0; i < raw->n_ports; i++) {
		const struct raw_port *p = &raw->ports[i];
		uint32_t segment = p->segment ? *p->segment : DEFAULT_SEGMENT;

		if (segment < 1 || segment > SEGMENT_MAX)
			return refuse(why, "ports: \"%s\": segment %u is not within 1 and %u",
				      p->match, segment, SEGMENT_MAX);
		if (copy_text(p->match, "", &c->ports[i].match) < 0)
			return -ENOMEM;
		c->ports[i].segment = segment;
		c->ports[i].router = p->router ? (enum gmp_router) * p->router : GMP_ROUTER_AUTO;
		c->n_ports = i + 1;
	}
	return 0;
}

static int apply_query_source(const char *key, const char *text, bool v4, struct addr *addr,
			      char *why)
{
	struct addr a;

	if (!text)
		return 0;
	if (addr_parse(text, &a) < 0 || addr_is_v4(&a) != v4 || addr_is_multicast(&a) ||
	    (!v4 && !addr_is_link_local_unicast(&a)))
		return refuse(why, "gmp.%s: \"%s\" is not %s", key, text,
			      v4 ? "a unicast IPv4 address or 0.0.0.0"
				 : "a link-local IPv6 address (RFC 9777 5.1.14)");
	*addr = a;
	return 0;
}

static int apply_gmp(const struct raw *raw, struct node_config *c, char *why)
{
	const struct raw_gmp *g = raw->gmp;
	const char *gmp_why = "";

	gmp_config_default(&c->gmp);
	if (!g)
		return 0;
#define X(name)      \
	if (g->name) \
		c->gmp.name = *g->name;
	GMP_NUMBERS(X)
	GMP_SWITCHES(X)
#undef X
	if (g->igmp_version) {
		if (*g->igmp_version < 1 || *g->igmp_version > 3)
			return refuse(why, "gmp.igmp_version: is 1, 2 or 3");
		c->gmp.igmp_version = GMP_IGMPV1 + *g->igmp_version - 1;
	}
	if (g->mld_version) {
		if (*g->mld_version < 1 || *g->mld_version > 2)
			return refuse(why, "gmp.mld_version: is 1 or 2");
		c->gmp.mld_version = GMP_MLDV1 + *g->mld_version - 1;
	}
	if (apply_query_source("query_source", g->query_source, true, &c->gmp.query_source_v4,
			       why) < 0 ||
	    apply_query_source("query_source_v6", g->query_source_v6, false,
			       &c->gmp.query_source_v6, why) < 0)
		return -EINVAL;
	if (gmp_config_validate(&c->gmp, &gmp_why) < 0)
		return refuse(why, "gmp: %s", gmp_why);
	return 0;
}

static int apply_tls(const struct raw *raw, struct node_config *c, char *why)
{
	const struct config_tls *t = raw->tls;

	if (!t)
		return 0;
	if (!t->cacert || !t->cert || !t->key)
		return refuse(why, "tls.%s: is missing: give cacert, cert and key",
			      !t->cacert ? "cacert"
			      : !t->cert ? "cert"
					 : "key");
	c->tls = config_tls_copy(t);
	return c->tls ? 0 : -ENOMEM;
}

static int apply_fans(const struct raw *raw, struct node_config *c, char *why)
{
	const struct raw_fans *f = raw->fans;

	if (!f)
		return 0;
	c->datapath.no_fans = f->enabled && !*f->enabled;
	if (f->min_ports && (*f->min_ports < 2 || *f->min_ports > 32))
		return refuse(why, "fans.min_ports: %u is not within 2 and 32", *f->min_ports);
	c->datapath.fan_min_ports = f->min_ports ? *f->min_ports : 0;
	return 0;
}

static int apply_rest(const struct raw *raw, struct node_config *c, char *why)
{
	const struct raw_limits *l = raw->limits;

	c->log_level = raw->log_level ? (enum log_level) * raw->log_level : LOG_LEVEL_INFO;
	c->datapath.attach =
		raw->attach ? (enum datapath_attach) * raw->attach : DATAPATH_ATTACH_AUTO;
	c->delivery = raw->delivery ? (enum node_delivery) * raw->delivery : NODE_DELIVERY_AUTO;
	c->datapath.max_ports = DATAPATH_MAX_PORTS;
	if (!l)
		return 0;
#define X(name, member)                                                                   \
	if (l->name) {                                                                    \
		if (*l->name < 1 || *l->name > LIMIT_MAX)                                 \
			return refuse(why, "limits." #name ": %u is not within 1 and %u", \
				      *l->name, LIMIT_MAX);                               \
		c->datapath.member = *l->name;                                            \
	}
	LIMITS(X)
#undef X
	return 0;
}

/* The file's texts are owned, so these are too. */
static int own_take(const struct node_config_own *own, struct raw *raw)
{
	const char *const from[] = { own->node, own->vtep };
	char **const to[] = { &raw->node, &raw->vtep };

	for (size_t i = 0; i < ARRAY_SIZE(from); i++) {
		char *copy;

		if (!from[i])
			continue;
		copy = strdup(from[i]);
		if (!copy)
			return -ENOMEM;
		free(*to[i]);
		*to[i] = copy;
	}
	return 0;
}

static int raw_apply(const struct raw *raw, struct node_config *c, char *why)
{
	static int (*const steps[])(const struct raw *, struct node_config *, char *) = {
		apply_node, apply_controllers, apply_paths, apply_overlay, apply_ports,
		apply_gmp,  apply_fans,	       apply_tls,   apply_rest,
	};

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		int r = steps[i](raw, c, why);

		if (r < 0)
			return r;
	}
	return 0;
}

int node_config_load(const char *path, const struct node_config_own *own,
		     struct node_config **ret_config, char why[NODE_CONFIG_WHY_MAX])
{
	_cleanup_(node_config_free_p)
	struct node_config *config = NULL;
	_cleanup_(raw_free_p)
	struct raw *raw = NULL;
	char sentence[CONFIG_WHY_MAX], what[NODE_CONFIG_WHY_MAX] = "out of memory";
	void *data = NULL;
	int r;

	r = config_load(path, &raw_schema, &data, sentence);
	if (r < 0) {
		snprintf(why, NODE_CONFIG_WHY_MAX, "%s", sentence);
		return r;
	}
	raw = data;
	config = calloc(1, sizeof(*config));
	r = config ? own_take(own, raw) : -ENOMEM;
	if (r == 0)
		r = raw_apply(raw, config, what);
	if (r < 0) {
		snprintf(why, NODE_CONFIG_WHY_MAX, "%.200s: %.300s", path, what);
		return r;
	}
	*ret_config = TAKE_PTR(config);
	return 0;
}

void node_config_free(struct node_config *config)
{
	if (!config)
		return;
	for (char **c = config->controllers; c && *c; c++)
		free(*c);
	for (size_t i = 0; i < config->n_ports; i++)
		free(config->ports[i].match);
	free(config->controllers);
	free(config->ports);
	free(config->node);
	free(config->socket);
	free(config->socket_group);
	free(config->metrics);
	free(config->state_dir);
	free(config->overlay_device);
	config_tls_free(config->tls);
	free((char *)config->datapath.root);
	free(config);
}
