/* SPDX-License-Identifier: Apache-2.0 */
#include "node/datapath/internal.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "mcmesh.skel.h"

static const char *const counter_names[DP_COUNTERS] = {
#define COUNTER(id, name, doc) [DP_COUNTER_##id] = name,
#include "bpf/counters.def"
#undef COUNTER
#define DROP_REASON(id, name, doc) [DP_COUNTER_DROPS + DP_DROP_##id] = "drop_" name,
#include "bpf/drop_reasons.def"
#undef DROP_REASON
};

/* In the order of struct dp_port_counters and struct dp_remote_counters. */
static const char *const port_names[] = {
	"rx_multicast",	     "copy_port", "copy_port_gone", "copy_port_down",
	"copy_port_refused", "punt",	  "punt_lost",	    "drop_port",
};
static const char *const remote_names[] = {
	"rx_overlay",
	"copy_remote",
	"copy_remote_failed",
	"copy_remote_by_device",
};

_Static_assert(sizeof(struct dp_port_counters) == ARRAY_SIZE(port_names) * sizeof(struct dp_count),
	       "port counters");
_Static_assert(sizeof(struct dp_remote_counters) ==
		       ARRAY_SIZE(remote_names) * sizeof(struct dp_count),
	       "remote counters");

#define COUNTS_MAX ARRAY_SIZE(port_names)

struct counters_walk {
	struct datapath *dp;
	struct dp_count *per_cpu; /* COUNTS_MAX a CPU */
	int (*fn)(const struct datapath_counter *counter, void *userdata);
	void *userdata;
};

/* Reads an element of n counts, sums it over the CPUs, and tells what is not
 * zero under names[]; the labels are in *counter. */
static int walk_element(struct counters_walk *w, const struct bpf_map *map, uint32_t number,
			size_t n, const char *const *names, struct datapath_counter *counter)
{
	int rc = datapath_map_get(map, &number, w->per_cpu);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < n; i++) {
		counter->packets = counter->bytes = 0;
		for (uint32_t cpu = 0; cpu < w->dp->n_cpus; cpu++) {
			counter->packets += w->per_cpu[cpu * n + i].packets;
			counter->bytes += w->per_cpu[cpu * n + i].bytes;
		}
		if (counter->packets == 0 || !names[i])
			continue;
		counter->name = names[i];
		rc = w->fn(counter, w->userdata);
		if (rc)
			return rc;
	}
	return 0;
}

/* ---- of groups: in `group_counts`, and in the flows of each CPU ---------------- */

struct group_sum {
	struct dp_group key;
	struct dp_count count;
	UT_hash_handle hh;
};

static int group_add(struct group_sum **sums, const struct dp_group *key,
		     const struct dp_count *count)
{
	struct group_sum *sum;

	HASH_FIND(hh, *sums, key, sizeof(*key), sum);
	if (!sum) {
		sum = calloc(1, sizeof(*sum));
		if (!sum)
			return -ENOMEM;
		sum->key = *key;
		HASH_ADD(hh, *sums, key, sizeof(sum->key), sum);
	}
	sum->count.packets += count->packets;
	sum->count.bytes += count->bytes;
	return 0;
}

static int groups_of_the_past(struct datapath *dp, struct group_sum **sums)
{
	_cleanup_free_ void *keys = NULL;
	size_t n;
	int rc;

	rc = datapath_map_keys(dp->skel->maps.group_counts, &keys, &n);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		const struct dp_group *key = (const struct dp_group *)keys + i;
		struct group_sum *sum;
		struct dp_count count;

		/* Where packets change the table meanwhile, a key may come twice. */
		HASH_FIND(hh, *sums, key, sizeof(*key), sum);
		if (!sum && datapath_map_get(dp->skel->maps.group_counts, key, &count) == 0)
			rc = group_add(sums, key, &count);
	}
	return rc;
}

static int groups_of_flows(struct datapath *dp, struct group_sum **sums)
{
	_cleanup_free_ struct dp_flow *per_cpu = calloc(dp->n_cpus, sizeof(*per_cpu));
	int rc = per_cpu ? 0 : -ENOMEM;

	for (uint32_t i = 0; rc == 0 && i < DP_FLOWS; i++) {
		rc = datapath_map_get(dp->skel->maps.flows, &i, per_cpu);
		for (uint32_t cpu = 0; rc == 0 && cpu < dp->n_cpus; cpu++) {
			const struct dp_flow *flow = &per_cpu[cpu];
			struct dp_group key = { .segment = flow->key.segment };

			memcpy(key.group, flow->key.group, sizeof(key.group));
			if (flow->count.packets)
				rc = group_add(sums, &key, &flow->count);
		}
	}
	return rc;
}

int datapath_groups_walk(struct datapath *dp,
			 int (*fn)(const struct datapath_counter *counter, void *userdata),
			 void *userdata)
{
	struct group_sum *sums = NULL, *sum, *next;
	int rc = groups_of_the_past(dp, &sums);

	if (rc == 0)
		rc = groups_of_flows(dp, &sums);
	HASH_ITER (hh, sums, sum, next) {
		struct datapath_counter counter = {
			.name = DATAPATH_GROUP_COUNTER,
			.segment = sum->key.segment,
			.packets = sum->count.packets,
			.bytes = sum->count.bytes,
		};

		memcpy(&counter.group, sum->key.group, sizeof(counter.group));
		if (rc == 0)
			rc = fn(&counter, userdata);
		HASH_DEL(sums, sum);
		free(sum);
	}
	return rc;
}

/* ---- all others ---------------------------------------------------------------- */

static int walk_all(struct counters_walk *w)
{
	struct mcmesh_bpf *skel = w->dp->skel;
	struct remote *remote, *next_remote;
	struct port *port, *next_port;
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < DP_COUNTERS; i++) {
		struct datapath_counter counter = { 0 };

		rc = walk_element(w, skel->maps.counters, i, 1, &counter_names[i], &counter);
	}
	HASH_ITER (hh, w->dp->port_index, port, next_port) {
		struct datapath_counter counter = {
			.ifindex = port->ifindex,
			.segment = w->dp->ports[port->number].segment,
		};

		if (rc == 0)
			rc = walk_element(w, skel->maps.port_counters, port->number,
					  ARRAY_SIZE(port_names), port_names, &counter);
	}
	HASH_ITER (hh, w->dp->remote_index, remote, next_remote) {
		struct datapath_counter counter = { .remote = remote->vtep };

		if (rc == 0)
			rc = walk_element(w, skel->maps.remote_counters, remote->number,
					  ARRAY_SIZE(remote_names), remote_names, &counter);
	}
	return rc;
}

int datapath_counters_walk(struct datapath *dp,
			   int (*fn)(const struct datapath_counter *counter, void *userdata),
			   void *userdata)
{
	_cleanup_free_ struct dp_count *per_cpu = calloc(dp->n_cpus, COUNTS_MAX * sizeof(*per_cpu));
	struct counters_walk w = { dp, per_cpu, fn, userdata };

	return per_cpu ? walk_all(&w) : -ENOMEM;
}

static uint64_t counter_sum(struct datapath *dp, struct dp_count *per_cpu, uint32_t number)
{
	uint64_t packets = 0;

	if (datapath_map_get(dp->skel->maps.counters, &number, per_cpu) < 0)
		return 0;
	for (uint32_t cpu = 0; cpu < dp->n_cpus; cpu++)
		packets += per_cpu[cpu].packets;
	return packets;
}

uint64_t datapath_punt_lost(struct datapath *dp)
{
	_cleanup_free_ struct dp_count *per_cpu = calloc(dp->n_cpus, sizeof(*per_cpu));

	if (!per_cpu)
		return 0;
	return counter_sum(dp, per_cpu, DP_COUNTER_DROPS + DP_DROP_PUNT_RATE) +
	       counter_sum(dp, per_cpu, DP_COUNTER_DROPS + DP_DROP_PUNT_RING);
}

int datapath_port_sent(struct datapath *dp, uint32_t ifindex, uint64_t *ret_packets)
{
	_cleanup_free_ struct dp_port_counters *per_cpu = calloc(dp->n_cpus, sizeof(*per_cpu));
	uint64_t rx = 0, control = 0;
	struct port *port;
	int rc;

	if (!per_cpu)
		return -ENOMEM;
	HASH_FIND(hh, dp->port_index, &ifindex, sizeof(ifindex), port);
	if (!port)
		return -ENOENT;
	rc = datapath_map_get(dp->skel->maps.port_counters, &port->number, per_cpu);
	if (rc < 0)
		return rc;
	for (uint32_t cpu = 0; cpu < dp->n_cpus; cpu++) {
		rx += per_cpu[cpu].rx.packets;
		control += per_cpu[cpu].punted.packets + per_cpu[cpu].punt_lost.packets;
	}
	*ret_packets = rx > control ? rx - control : 0;
	return 0;
}

uint64_t datapath_link_local_sent(struct datapath *dp)
{
	_cleanup_free_ struct dp_count *per_cpu = calloc(dp->n_cpus, sizeof(*per_cpu));

	return per_cpu ? counter_sum(dp, per_cpu, DP_COUNTER_PASS_LINK_LOCAL) : 0;
}
