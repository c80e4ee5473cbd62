/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The operator's records of nodes in the controller's file: `nodes`. */
#include "controller/config.h"

#define NODES_IN_FILE_MAX 65536

struct file_node {
	char *name;
	char **vteps;
	unsigned int vteps_count;
	uint32_t *segments;
	unsigned int segments_count;
	bool *evicted;
};

extern const cyaml_schema_value_t config_node_value;

/* 0; -EINVAL or -ENOMEM with a sentence. */
int config_nodes_take(const char *path, const struct file_node *nodes, unsigned int n,
		      struct controller_config *config, char why[CONFIG_WHY_MAX]);
/* The record of a node, or NULL. */
const struct controller_node *config_node_find(const struct controller_config *config,
					       const char *name);
bool config_node_has_segment(const struct controller_node *node, uint32_t segment);
void config_nodes_free(struct controller_config *config);
