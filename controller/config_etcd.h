/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How to reach the others through etcd, in the controller's file: `etcd`, `advertise`. */
#include "controller/config.h"

extern const cyaml_schema_field_t config_etcd_fields[];

/* 0; -EINVAL or -ENOMEM with a sentence. */
int config_etcd_take(const char *path, const struct controller_etcd *etcd, const char *advertise,
		     struct controller_config *config, char why[CONFIG_WHY_MAX]);
void config_etcd_free(struct controller_config *config);

/*
 * Where the other controllers reach this one: what the file says; else the first
 * address it listens on that has one; else the address of this machine that
 * leads to etcd, with that port. "" when there is none.
 */
#define ADVERTISE_MAX 128
void config_advertise(const struct controller_config *config, char ret_address[ADVERTISE_MAX]);
