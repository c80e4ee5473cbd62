/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The agent's metrics and its status page (common/http.h). */
#include "node/agent_internal.h"

/* As the configuration says; nothing without its key. 0, or -errno with a sentence. */
int agent_metrics_start(struct agent *agent, char why[AGENT_WHY_MAX]);
