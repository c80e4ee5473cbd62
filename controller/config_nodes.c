/* SPDX-License-Identifier: Apache-2.0 */
#include "controller/config_nodes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "controller/plan/report.h"

#define VTEPS_MAX    64
#define SEGMENTS_MAX 4096

static const cyaml_schema_value_t vtep_value = {
	CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, 63),
};

static const cyaml_schema_value_t segment_value = {
	CYAML_VALUE_UINT(CYAML_FLAG_DEFAULT, uint32_t),
};

#define OPTIONAL (CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL)

static const cyaml_schema_field_t node_fields[] = {
	CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct file_node, name, 1, 63),
	CYAML_FIELD_SEQUENCE("vteps", OPTIONAL, struct file_node, vteps, &vtep_value, 0, VTEPS_MAX),
	CYAML_FIELD_SEQUENCE("segments", OPTIONAL, struct file_node, segments, &segment_value, 0,
			     SEGMENTS_MAX),
	CYAML_FIELD_ENUM_PTR("evicted", OPTIONAL | CYAML_FLAG_STRICT, struct file_node, evicted,
			     config_bool_words, CONFIG_BOOL_WORDS_N),
	CYAML_FIELD_END,
};

const cyaml_schema_value_t config_node_value = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct file_node, node_fields),
};

#define refuse(why, ...) (snprintf(why, CONFIG_WHY_MAX, __VA_ARGS__), -EINVAL)

static int vteps_take(const char *path, const struct file_node *f, struct controller_node *n,
		      char why[CONFIG_WHY_MAX])
{
	n->vteps = calloc((size_t)f->vteps_count + 1, sizeof(*n->vteps));
	if (!n->vteps)
		return -ENOMEM;
	for (unsigned int i = 0; i < f->vteps_count; i++) {
		if (addr_parse(f->vteps[i], &n->vteps[i]) < 0 || addr_is_multicast(&n->vteps[i]))
			return refuse(why,
				      "%s: nodes: %s has the VTEP \"%s\", which is no unicast "
				      "address",
				      path, f->name, f->vteps[i]);
		n->vteps_count++;
	}
	return 0;
}

static int segments_take(const char *path, const struct file_node *f, struct controller_node *n,
			 char why[CONFIG_WHY_MAX])
{
	n->segments = calloc((size_t)f->segments_count + 1, sizeof(*n->segments));
	if (!n->segments)
		return -ENOMEM;
	for (unsigned int i = 0; i < f->segments_count; i++) {
		if (f->segments[i] < 1 || f->segments[i] > REPORT_SEGMENT_MAX)
			return refuse(why, "%s: nodes: %s has the segment %u, but must be 1 to %u",
				      path, f->name, f->segments[i], REPORT_SEGMENT_MAX);
		n->segments[n->segments_count++] = f->segments[i];
	}
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct controller_node *)a)->name,
		      ((const struct controller_node *)b)->name);
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

int config_nodes_take(const char *path, const struct file_node *nodes, unsigned int n,
		      struct controller_config *config, char why[CONFIG_WHY_MAX])
{
	int r;

	config->nodes = calloc((size_t)n + 1, sizeof(*config->nodes));
	if (!config->nodes)
		return -ENOMEM;
	for (unsigned int i = 0; i < n; i++) {
		struct controller_node *node = &config->nodes[i];

		config->nodes_count++;
		node->name = strdup(nodes[i].name);
		node->evicted = nodes[i].evicted && *nodes[i].evicted;
		r = node->name ? vteps_take(path, &nodes[i], node, why) : -ENOMEM;
		if (r == 0)
			r = segments_take(path, &nodes[i], node, why);
		if (r < 0)
			return r;
		qsort(node->segments, node->segments_count, sizeof(*node->segments), by_number);
	}
	qsort(config->nodes, config->nodes_count, sizeof(*config->nodes), by_name);
	for (unsigned int i = 1; i < config->nodes_count; i++) {
		if (strcmp(config->nodes[i].name, config->nodes[i - 1].name) == 0)
			return refuse(why, "%s: nodes has %s twice", path, config->nodes[i].name);
	}
	return 0;
}

const struct controller_node *config_node_find(const struct controller_config *config,
					       const char *name)
{
	const struct controller_node wanted = { .name = (char *)name };

	if (!config->nodes_count)
		return NULL;
	return bsearch(&wanted, config->nodes, config->nodes_count, sizeof(*config->nodes),
		       by_name);
}

bool config_node_has_segment(const struct controller_node *node, uint32_t segment)
{
	return bsearch(&segment, node->segments, node->segments_count, sizeof(*node->segments),
		       by_number);
}

void config_nodes_free(struct controller_config *config)
{
	for (unsigned int i = 0; i < config->nodes_count; i++) {
		free(config->nodes[i].name);
		free(config->nodes[i].vteps);
		free(config->nodes[i].segments);
	}
	free(config->nodes);
}
