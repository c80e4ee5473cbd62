/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A store that outlives its controllers and may be shared: "sim:" in place of a
 * disk or a cluster. Commits and events take time; an outage fails them.
 */
#include "common/rpc.h"
#include "controller/store/store.h"

void simdb_reset(void);
void simdb_end(void);

/* Commits and sessions fail until it ends. */
void simdb_outage(bool on);
/* Everything is lost: the next to open it finds a new epoch. */
void simdb_lose(void);
/* The time a commit takes, at most. */
void simdb_speed(uint64_t delay_us);

/* "sim:shared" only: this controller and the store hear nothing of each other; what
 * changes reaches it late, by up to so much. */
void simdb_cut(const struct rpc *process, bool cut);
void simdb_lag(const struct rpc *process, uint64_t lag_us);

extern const struct store_ops simdb_ops;
