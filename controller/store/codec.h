/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The value of a row (what is not in its key) as bytes, the same in every
 * backend. Canonical: one value has one encoding. The first byte is the version
 * of the format, 1; then, by kind:
 *
 *   LOG_NODE                VTEP (16)
 *   LOG_MEMBER, LOG_STATIC  mode (1), sources (16 each), sorted, each once
 *   LOG_CONFIG              tag (1), value (be32): settings that say something,
 *                           in the order of their tags
 *
 * A newer version, or a tag that is not known, is refused: settings that this
 * program cannot carry on must not be lost by it.
 */
#include "controller/plan/log.h"

struct store_setting {
	uint8_t tag; /* for ever; the field's number in mcmesh.v1.SegmentConfig */
	const char *name;
	size_t offset; /* of an uint32_t in struct log_config */
};

extern const struct store_setting store_settings[];
extern const size_t store_n_settings;

uint32_t *store_setting_of(struct log_config *config, const struct store_setting *setting);

size_t store_encoded_size(const struct log_change *change);
/* A deletion has no bytes. */
void store_encode(const struct log_change *change, uint8_t *ret_data);

/*
 * Sets what the kind of *change has besides its key; its filter is the caller's
 * to deinit, its config is *config. 0; -ENOTSUP: of a newer version; -EBADMSG:
 * damaged; -ENOMEM.
 */
int store_decode(const uint8_t *data, size_t len, struct log_change *change,
		 struct log_config *config);
