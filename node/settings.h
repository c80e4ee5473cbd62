/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Settings that the controller pushes: of segments, above the mesh's defaults,
 * above the agent's own configuration; and the static members of this node's
 * ports. Pure: configuration changes in, what they mean out.
 *
 * A setting that is 0 or UNSPECIFIED leaves what is below it. Rows are
 * confirmed and swept like the mirror's (node/mirror.h).
 */
#include <stdint.h>

#include "common/addr.h"
#include "common/filter.h"
#include "mcmesh/v1/node.pb-c.h"
#include "node/datapath/datapath.h"
#include "node/gmp/gmp.h"

struct settings;

#define SETTINGS_MAX_STATIC 16384 /* static members of one node */

struct settings_ops {
	/* Of this segment, or of all (0), something changed. */
	void (*segment)(uint32_t segment, void *userdata);
	/* A static member of the port came, changed, or went (NULL). */
	void (*member)(const char *port, const struct addr *group, const struct filter *filter,
		       void *userdata);
};

int settings_new(const char *node, const struct settings_ops *ops, void *userdata,
		 struct settings **ret_settings);
void settings_free(struct settings *settings);

/* A field that cannot be: nothing of the change applies, -EINVAL. -ENOSPC over
 * SETTINGS_MAX_STATIC, -ENOMEM. */
int settings_change(struct settings *settings, const Mcmesh__V1__ConfigChange *change);

/* What the maps say that an earlier agent was told, until the controller says
 * it anew or sweeps it. 0 or -ENOMEM. */
int settings_seed(struct settings *settings, const struct datapath_segment *segment);

/* A snapshot begins: what it does not name by its complete end is swept. */
void settings_unconfirm(struct settings *settings);
void settings_sweep(struct settings *settings);

/* config with the settings of the segment over it; settings that would make it
 * invalid (gmp_config_validate()) leave it as it was. */
void settings_gmp(const struct settings *settings, uint32_t segment, struct gmp_config *config);
void settings_datapath(const struct settings *settings, struct datapath_segment *segment);

void settings_members_walk(const struct settings *settings, const char *port,
			   void (*fn)(const struct addr *group, const struct filter *filter,
				      void *userdata),
			   void *userdata);
