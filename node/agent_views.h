/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The agent's state as API messages, collected and sorted. Whatever is not
 * there for want of memory is left out of the list.
 */
#include <stddef.h>
#include <stdint.h>

#include "mcmesh/v1/agent.pb-c.h"
#include "node/agent_internal.h"

struct view_ports {
	Mcmesh__V1__Port **rows;
	size_t n;
};

void view_ports_collect(struct agent *agent, struct view_ports *ret_ports);
void view_ports_deinit(struct view_ports *ports);

/* One allocation, strings by reference to the agent: free() after use. */
Mcmesh__V1__Port *view_port(struct agent *agent, const struct agent_port *port);

struct view_paths {
	Mcmesh__V1__Path **rows;
	size_t n;
};

void view_paths_collect(struct agent *agent, struct view_paths *ret_paths);
void view_paths_deinit(struct view_paths *paths);

struct view_memberships {
	Mcmesh__V1__Membership **rows;
	size_t n, cap;
};

/* segment 0, port "", group null: any. */
void view_memberships_collect(struct agent *agent, uint32_t segment, const char *port,
			      const struct addr *group, struct view_memberships *ret_list);
void view_memberships_deinit(struct view_memberships *list);

/* NULL: there is no such membership. */
Mcmesh__V1__Membership *view_membership(struct agent *agent, uint32_t port,
					const struct addr *group);
void view_membership_free(Mcmesh__V1__Membership *membership);

struct view_counters {
	Mcmesh__V1__Counter **rows;
	size_t n, cap;
};

/* groups: those of each group as well, as many as there are groups. */
void view_counters_collect(struct agent *agent, const char *prefix, bool groups,
			   struct view_counters *ret_list);
void view_counters_deinit(struct view_counters *list);

/* The orders of the lists (page.h). */
int view_port_cmp(const void *a, const void *b);
int view_path_cmp(const void *a, const void *b);
int view_membership_cmp(const void *a, const void *b);
int view_counter_cmp(const void *a, const void *b);

/* The least revision that every segment has applied. */
uint64_t view_revision(const struct agent *agent);
