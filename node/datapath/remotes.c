/* SPDX-License-Identifier: Apache-2.0 */
#include "node/datapath/internal.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "mcmesh.skel.h"

_Static_assert(DATAPATH_NODE_NAME_MAX == DP_NODE_NAME, "names");
_Static_assert(sizeof(struct addr) == sizeof(((struct dp_remote *)0)->vtep), "addresses");

static struct remote *remote_find(struct datapath *dp, const struct addr *vtep)
{
	struct remote *r;

	HASH_FIND(hh, dp->remote_index, vtep, sizeof(*vtep), r);
	return r;
}

/* Elements of an array are eight bytes apart. */
static void cache_add(struct datapath *dp, const struct addr *vtep, uint32_t number)
{
	__atomic_store_n(&dp->vtep_cache[DP_VTEP_SLOT(vtep->b) * 2], number, __ATOMIC_RELEASE);
}

static int remote_index_add(struct datapath *dp, const struct addr *vtep, uint32_t number)
{
	struct remote *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->vtep = *vtep;
	r->number = number;
	r->value = dp->remotes[number];
	HASH_ADD(hh, dp->remote_index, vtep, sizeof(r->vtep), r);
	return 0;
}

int datapath_remotes_adopt(struct datapath *dp)
{
	_cleanup_free_ void *keys = NULL;
	const struct addr *vteps;
	size_t n;
	int rc;

	rc = datapath_map_keys(dp->skel->maps.vteps, &keys, &n);
	if (rc < 0)
		return rc;
	vteps = keys;
	for (size_t i = 0; i < n; i++) {
		uint32_t number;

		rc = datapath_map_get(dp->skel->maps.vteps, &vteps[i], &number);
		if (rc < 0)
			return rc;
		if (number > dp->remote_numbers.n || !dp->remotes[number].in_use ||
		    memcmp(dp->remotes[number].vtep, &vteps[i], sizeof(*vteps)) != 0 ||
		    !numbers_claim(&dp->remote_numbers, number)) {
			datapath_map_del(dp->skel->maps.vteps, &vteps[i]);
			continue;
		}
		dp->remotes[number].node[DP_NODE_NAME - 1] = 0;
		rc = remote_index_add(dp, &vteps[i], number);
		if (rc < 0)
			return rc;
	}
	for (uint32_t i = 1; i <= dp->remote_numbers.n; i++) {
		if (!dp->remote_numbers.used[i])
			dp->remotes[i].in_use = 0;
	}
	return 0;
}

void datapath_remotes_deinit(struct datapath *dp)
{
	struct remote *r, *next;

	HASH_ITER (hh, dp->remote_index, r, next) {
		HASH_DEL(dp->remote_index, r);
		free(r);
	}
}

struct remote *datapath_remote_find(struct datapath *dp, const struct addr *vtep)
{
	return remote_find(dp, vtep);
}

static void remote_remove(struct datapath *dp, struct remote *r)
{
	datapath_path_drop(dp, r);
	__atomic_store_n(&dp->remotes[r->number].in_use, 0, __ATOMIC_RELEASE);
	datapath_map_del(dp->skel->maps.vteps, &r->vtep);
	numbers_retire(&dp->remote_numbers, r->number, datapath_now_ms());
	HASH_DEL(dp->remote_index, r);
	free(r);
}

static int remote_add(struct datapath *dp, const struct addr *vtep, const char *node)
{
	_cleanup_free_ struct dp_remote_counters *zero = calloc(dp->n_cpus, sizeof(*zero));
	struct dp_remote *remote;
	uint32_t number;
	int rc;

	if (!zero)
		return -ENOMEM;
	numbers_reclaim(&dp->remote_numbers, datapath_now_ms());
	number = numbers_take(&dp->remote_numbers);
	if (!number)
		return -ENOSPC;
	rc = datapath_map_set(dp->skel->maps.remote_counters, &number, zero);
	if (rc == 0)
		rc = remote_index_add(dp, vtep, number);
	if (rc < 0) {
		numbers_put(&dp->remote_numbers, number);
		return rc;
	}
	remote = &dp->remotes[number];
	memcpy(remote->vtep, vtep, sizeof(*vtep));
	remote->path = 0;
	memset(remote->node, 0, sizeof(remote->node));
	memcpy(remote->node, node, strlen(node));
	__atomic_store_n(&remote->in_use, 1, __ATOMIC_RELEASE);
	remote_find(dp, vtep)->value = *remote;
	cache_add(dp, vtep, number);
	rc = datapath_map_set(dp->skel->maps.vteps, vtep, &number);
	if (rc < 0)
		remote_remove(dp, remote_find(dp, vtep));
	return rc;
}

int datapath_remote_set(struct datapath *dp, const struct addr *vtep, const char *node)
{
	struct remote *r = remote_find(dp, vtep);
	struct dp_remote *remote;

	if (strlen(node) >= DP_NODE_NAME)
		return -ENAMETOOLONG;
	if (addr_is_unspecified(vtep) || addr_is_multicast(vtep))
		return -EINVAL;
	if (!r)
		return remote_add(dp, vtep, node);
	/* No packet looks at the name. */
	remote = &dp->remotes[r->number];
	memset(remote->node, 0, sizeof(remote->node));
	memcpy(remote->node, node, strlen(node));
	r->value = *remote;
	return 0;
}

int datapath_remote_del(struct datapath *dp, const struct addr *vtep)
{
	struct remote *r = remote_find(dp, vtep);

	if (!r)
		return -ENOENT;
	remote_remove(dp, r);
	return 0;
}

int datapath_remotes_walk(struct datapath *dp,
			  int (*fn)(const struct addr *vtep, const char *node, void *userdata),
			  void *userdata)
{
	struct remote *r, *next;

	HASH_ITER (hh, dp->remote_index, r, next) {
		struct addr vtep = r->vtep; /* fn may delete it */
		int rc = fn(&vtep, dp->remotes[r->number].node, userdata);

		if (rc)
			return rc;
	}
	return 0;
}
