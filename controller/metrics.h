/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The controller's metrics and its status page (common/http.h). */
#include "controller/controller.h"

/* As the configuration says; nothing without its key. 0, or -errno with a sentence. */
int controller_metrics_start(struct controller *c, char why[CONTROLLER_WHY_MAX]);
