/* SPDX-License-Identifier: Apache-2.0 */
#include "node/datapath/internal.h"

#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "mcmesh.skel.h"

#define UNDERLAY_PREFIX "underlay-"

static bool path_equal(const struct dp_path *a, const struct datapath_path *b)
{
	return a->ifindex == b->ifindex && a->mtu == b->mtu &&
	       memcmp(a->to_mac, b->to_mac, sizeof(a->to_mac)) == 0 &&
	       memcmp(a->from_mac, b->from_mac, sizeof(a->from_mac)) == 0;
}

/* Of one writer's many, this one is published. */
static void path_store(struct datapath *dp, struct remote *r, uint32_t number)
{
	r->value.path = number;
	__atomic_store_n(&dp->remotes[r->number].path, number, __ATOMIC_RELEASE);
}

/* What a remote has is its path, or nothing. */
void datapath_paths_adopt(struct datapath *dp)
{
	struct remote *r, *next;

	datapath_oversize_set(dp, 0); /* that went with its agent */
	HASH_ITER (hh, dp->remote_index, r, next) {
		uint32_t number = r->value.path;

		if (!numbers_claim(&dp->path_numbers, number) ||
		    memcmp(dp->paths[number].vtep, r->value.vtep, sizeof(r->value.vtep)) != 0)
			path_store(dp, r, 0);
	}
	numbers_sort(&dp->path_numbers, datapath_now_ms());
}

void datapath_path_drop(struct datapath *dp, struct remote *r)
{
	uint32_t number = r->value.path;

	if (!number)
		return;
	path_store(dp, r, 0);
	numbers_retire(&dp->path_numbers, number, datapath_now_ms());
}

int datapath_remote_path_set(struct datapath *dp, const struct addr *vtep,
			     const struct datapath_path *path)
{
	struct remote *r = datapath_remote_find(dp, vtep);
	struct dp_path *fresh;
	uint32_t number;

	if (!r)
		return -ENOENT;
	if (!path) {
		datapath_path_drop(dp, r);
		return 0;
	}
	if (addr_is_null(&dp->vtep) || addr_is_v4(&dp->vtep) != addr_is_v4(vtep))
		return -EAFNOSUPPORT;
	if (r->value.path && path_equal(&dp->paths[r->value.path], path))
		return 0;
	numbers_reclaim(&dp->path_numbers, datapath_now_ms());
	number = numbers_take(&dp->path_numbers);
	if (!number) {
		/* Too many changes for the grace period: slower, not wrong. */
		datapath_path_drop(dp, r);
		return -ENOSPC;
	}
	fresh = &dp->paths[number];
	*fresh = (struct dp_path){ .ifindex = path->ifindex, .mtu = path->mtu };
	memcpy(fresh->vtep, r->value.vtep, sizeof(fresh->vtep));
	memcpy(fresh->to_mac, path->to_mac, sizeof(fresh->to_mac));
	memcpy(fresh->from_mac, path->from_mac, sizeof(fresh->from_mac));
	datapath_path_drop(dp, r);
	path_store(dp, r, number);
	return 0;
}

void datapath_oversize_set(struct datapath *dp, uint32_t ifindex)
{
	__atomic_store_n(&dp->paths[DP_PATH_OVERSIZE].ifindex, ifindex, __ATOMIC_RELEASE);
}

int datapath_paths_hold(struct datapath *dp, uint64_t until_ns)
{
	uint32_t zero = 0;

	dp->config.paths_until_ns = until_ns;
	return datapath_map_set(dp->skel->maps.config, &zero, &dp->config);
}

static bool is_listed(const char *name, const uint32_t *ifindexes, size_t n)
{
	unsigned long ifindex = strtoul(name + strlen(UNDERLAY_PREFIX), NULL, 10);

	for (size_t i = 0; i < n; i++) {
		if (ifindexes[i] == ifindex)
			return true;
	}
	return false;
}

/* Those of the pins that are not listed. */
static void underlay_detach_others(struct datapath *dp, const uint32_t *ifindexes, size_t n)
{
	char path[DATAPATH_PATH_MAX];
	struct dirent *e;
	DIR *dir;

	datapath_path(dp, path, sizeof(path), "links", NULL);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		if (strncmp(e->d_name, UNDERLAY_PREFIX, strlen(UNDERLAY_PREFIX)) == 0 &&
		    !is_listed(e->d_name, ifindexes, n))
			(void)unlinkat(dirfd(dir), e->d_name, 0);
	}
	if (dir)
		closedir(dir);
}

static int underlay_attach(struct datapath *dp, uint32_t ifindex, char why[DATAPATH_WHY_MAX])
{
	int prog = bpf_program__fd(dp->skel->progs.mcmesh_underlay);
	char name[32];
	bool fresh;

	snprintf(name, sizeof(name), UNDERLAY_PREFIX "%" PRIu32, ifindex);
	return datapath_attach_program(dp, prog, ifindex, name, &fresh, why);
}

int datapath_underlay_set(struct datapath *dp, const uint32_t *ifindexes, size_t n,
			  char why[DATAPATH_WHY_MAX])
{
	int rc = 0;

	/* clsact would be a qdisc on a device that is not ours. */
	if (dp->attach != DATAPATH_ATTACH_TCX)
		n = 0;
	if (n > DATAPATH_UNDERLAYS_MAX)
		return datapath_fail(why, -E2BIG, "more than %d underlay devices",
				     DATAPATH_UNDERLAYS_MAX);
	underlay_detach_others(dp, ifindexes, n);
	dp->n_underlays = 0;
	for (size_t i = 0; rc == 0 && i < n; i++) {
		rc = underlay_attach(dp, ifindexes[i], why);
		if (rc == 0)
			dp->underlays[dp->n_underlays++] = ifindexes[i];
	}
	return rc;
}

void datapath_underlays_check(struct datapath *dp, struct datapath_damage *d)
{
	int prog = bpf_program__fd(dp->skel->progs.mcmesh_underlay);
	char why[DATAPATH_WHY_MAX] = "";

	for (size_t i = 0; i < dp->n_underlays; i++) {
		if (datapath_program_is_there(dp, prog, dp->underlays[i]))
			continue;
		datapath_differs(d, "the program of underlay if%u is gone or not the first",
				 dp->underlays[i]);
		(void)underlay_attach(dp, dp->underlays[i], why);
	}
}
