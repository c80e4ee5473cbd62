/* SPDX-License-Identifier: Apache-2.0 */
#include "node/datapath/internal.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <inttypes.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "mcmesh.skel.h"

static struct port *port_find(struct datapath *dp, uint32_t ifindex)
{
	struct port *p;

	HASH_FIND(hh, dp->port_index, &ifindex, sizeof(ifindex), p);
	return p;
}

static int port_index_add(struct datapath *dp, uint32_t ifindex, uint32_t number)
{
	struct port *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->ifindex = ifindex;
	p->number = number;
	p->value = dp->ports[number];
	HASH_ADD(hh, dp->port_index, ifindex, sizeof(p->ifindex), p);
	return 0;
}

static void detach(struct datapath *dp, uint32_t ifindex)
{
	char name[16];

	snprintf(name, sizeof(name), "%" PRIu32, ifindex);
	datapath_detach_program(dp, ifindex, name);
}

/* A port is one whose element and whose key name each other; the rest is what
 * an agent that died had begun. */
int datapath_ports_adopt(struct datapath *dp)
{
	_cleanup_free_ void *keys = NULL;
	const uint32_t *ifindexes;
	size_t n;
	int rc;

	rc = datapath_map_keys(dp->skel->maps.port_ids, &keys, &n);
	if (rc < 0)
		return rc;
	ifindexes = keys;
	for (size_t i = 0; i < n; i++) {
		uint32_t number;

		rc = datapath_map_get(dp->skel->maps.port_ids, &ifindexes[i], &number);
		if (rc < 0)
			return rc;
		if (number > dp->port_numbers.n || dp->ports[number].ifindex != ifindexes[i] ||
		    !numbers_claim(&dp->port_numbers, number)) {
			datapath_map_del(dp->skel->maps.port_ids, &ifindexes[i]);
			continue;
		}
		rc = port_index_add(dp, ifindexes[i], number);
		if (rc < 0)
			return rc;
	}
	for (uint32_t i = 1; i <= dp->port_numbers.n; i++) {
		if (!dp->port_numbers.used[i])
			dp->ports[i].ifindex = 0;
	}
	return 0;
}

void datapath_ports_deinit(struct datapath *dp)
{
	struct port *p, *next;

	HASH_ITER (hh, dp->port_index, p, next) {
		HASH_DEL(dp->port_index, p);
		free(p);
	}
}

static int next_generation(struct datapath *dp, uint32_t *ret_generation)
{
	struct dp_meta meta;
	uint32_t zero = 0;
	int rc;

	rc = datapath_map_get(dp->skel->maps.meta, &zero, &meta);
	if (rc < 0)
		return rc;
	meta.generation++;
	rc = datapath_map_set(dp->skel->maps.meta, &zero, &meta);
	if (rc == 0)
		*ret_generation = meta.generation;
	return rc;
}

static int clear_port_counters(struct datapath *dp, uint32_t number)
{
	_cleanup_free_ struct dp_port_counters *zero = calloc(dp->n_cpus, sizeof(*zero));
	uint64_t pace = 0;
	int rc;

	if (!zero)
		return -ENOMEM;
	rc = datapath_map_set(dp->skel->maps.port_counters, &number, zero);
	return rc < 0 ? rc : datapath_map_set(dp->skel->maps.punt_pace, &number, &pace);
}

static void port_remove(struct datapath *dp, struct port *p)
{
	/* The element first: lists that still name it find it unused. */
	__atomic_store_n(&dp->ports[p->number].ifindex, 0, __ATOMIC_RELEASE);
	datapath_map_del(dp->skel->maps.port_ids, &p->ifindex);
	numbers_retire(&dp->port_numbers, p->number, datapath_now_ms());
	HASH_DEL(dp->port_index, p);
	free(p);
}

static int port_add(struct datapath *dp, uint32_t ifindex, uint32_t segment, uint32_t bridge)
{
	struct dp_port *port;
	uint32_t number, generation = 0;
	int rc;

	numbers_reclaim(&dp->port_numbers, datapath_now_ms());
	number = numbers_take(&dp->port_numbers);
	if (!number)
		return -ENOSPC;
	rc = clear_port_counters(dp, number);
	if (rc == 0)
		rc = next_generation(dp, &generation);
	if (rc == 0)
		rc = port_index_add(dp, ifindex, number);
	if (rc < 0) {
		numbers_put(&dp->port_numbers, number);
		return rc;
	}
	port = &dp->ports[number];
	port->segment = segment;
	port->generation = generation;
	port->bridge = bridge;
	port->mtu = 0;
	port->peer = 0;
	__atomic_store_n(&port->ifindex, ifindex, __ATOMIC_RELEASE);
	port_find(dp, ifindex)->value = *port;
	/* Elements of an array are eight bytes apart. */
	__atomic_store_n(&dp->port_cache[ifindex % DP_PORT_CACHE * 2], number, __ATOMIC_RELEASE);
	rc = datapath_map_set(dp->skel->maps.port_ids, &ifindex, &number);
	if (rc < 0)
		port_remove(dp, port_find(dp, ifindex));
	return rc;
}

static int port_renew(struct datapath *dp, struct port *p)
{
	uint32_t generation;
	int rc;

	rc = clear_port_counters(dp, p->number);
	if (rc == 0)
		rc = next_generation(dp, &generation);
	if (rc == 0) {
		__atomic_store_n(&dp->ports[p->number].generation, generation, __ATOMIC_RELEASE);
		p->value.generation = generation;
	}
	return rc;
}

static void port_describe(const struct dp_port *port, struct datapath_port *ret_port)
{
	*ret_port = (struct datapath_port){
		.ifindex = port->ifindex,
		.segment = port->segment,
		.generation = port->generation,
		.bridge = port->bridge,
	};
}

int datapath_port_attach(struct datapath *dp, uint32_t ifindex, uint32_t segment, uint32_t bridge,
			 struct datapath_port *ret_port, char why[DATAPATH_WHY_MAX])
{
	int prog = bpf_program__fd(dp->skel->progs.mcmesh_port);
	struct port *p = port_find(dp, ifindex);
	bool fresh;
	char name[16];
	int rc;

	if (segment == 0 || segment >= 1U << 24)
		return datapath_fail(why, -EINVAL, "%u is no segment: 1 to %u are", segment,
				     (1U << 24) - 1);
	snprintf(name, sizeof(name), "%" PRIu32, ifindex);
	rc = datapath_attach_program(dp, prog, ifindex, name, &fresh, why);
	if (rc < 0)
		return rc;
	if (p && dp->ports[p->number].segment != segment) {
		port_remove(dp, p);
		p = NULL;
	}
	if (p) {
		/* Another device with the ifindex of one that is gone keeps the number,
		 * which lists name, but punted frames of the two are told apart. */
		rc = fresh ? port_renew(dp, p) : 0;
		if (rc < 0)
			return datapath_fail(why, rc, "cannot note interface %u: %s", ifindex,
					     strerror(-rc));
		__atomic_store_n(&dp->ports[p->number].bridge, bridge, __ATOMIC_RELEASE);
		p->value.bridge = bridge;
	} else {
		rc = port_add(dp, ifindex, segment, bridge);
		if (rc < 0) {
			datapath_detach_program(dp, ifindex, name);
			return datapath_fail(why, rc, "cannot note interface %u%s: %s", ifindex,
					     rc == -ENOSPC ? " (limits: ports)" : "",
					     strerror(-rc));
		}
		p = port_find(dp, ifindex);
	}
	port_describe(&dp->ports[p->number], ret_port);
	ret_port->fresh = fresh;
	return 0;
}

int datapath_port_detach(struct datapath *dp, uint32_t ifindex)
{
	struct port *p = port_find(dp, ifindex);

	if (!p)
		return -ENOENT;
	port_remove(dp, p);
	detach(dp, ifindex);
	return 0;
}

void datapath_port_check(struct datapath *dp, uint32_t ifindex, struct datapath_damage *d)
{
	int prog = bpf_program__fd(dp->skel->progs.mcmesh_port);
	char name[16], why[DATAPATH_WHY_MAX] = "";
	bool fresh;

	if (!port_find(dp, ifindex) || datapath_program_is_there(dp, prog, ifindex))
		return;
	datapath_differs(d, "the program of port if%u is gone or not the first", ifindex);
	snprintf(name, sizeof(name), "%" PRIu32, ifindex);
	(void)datapath_attach_program(dp, prog, ifindex, name, &fresh, why);
}

int datapath_port_delivery_set(struct datapath *dp, uint32_t ifindex, uint32_t mtu, bool peer)
{
	struct port *p = port_find(dp, ifindex);

	if (!p)
		return -ENOENT;
	p->value.peer = peer;
	p->value.mtu = mtu;
	__atomic_store_n(&dp->ports[p->number].peer, peer, __ATOMIC_RELEASE);
	__atomic_store_n(&dp->ports[p->number].mtu, mtu, __ATOMIC_RELEASE);
	return 0;
}

int datapath_ports_walk(struct datapath *dp,
			int (*fn)(const struct datapath_port *port, void *userdata), void *userdata)
{
	struct port *p, *next;

	HASH_ITER (hh, dp->port_index, p, next) {
		struct datapath_port port;
		int rc;

		port_describe(&dp->ports[p->number], &port);
		rc = fn(&port, userdata);
		if (rc)
			return rc;
	}
	return 0;
}
