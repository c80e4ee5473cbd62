/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The settings of segments in the controller's file: `defaults` and `segments`. */
#include "controller/config.h"

#define SEGMENTS_IN_FILE_MAX 4096

/* As the file has it; segment is 0 in `defaults`. */
struct file_segment {
	uint32_t segment;
	struct log_config config;
};

extern const cyaml_schema_field_t config_defaults_fields[];
extern const cyaml_schema_value_t config_segment_value;

/* 0; -EINVAL or -ENOMEM with a sentence. */
int config_segments_take(const char *path, const struct log_config *defaults,
			 const struct file_segment *segments, unsigned int n,
			 struct controller_config *config, char why[CONFIG_WHY_MAX]);
