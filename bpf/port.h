/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* From a device to the port that it is. */
#include "maps.h"

/* NULL: it is none. The cache may hold another's number; the element tells. */
static __always_inline struct dp_port *port_find(__u32 ifindex, __u32 *ret_id)
{
	__u32 slot = ifindex % DP_PORT_CACHE, id, *found;
	struct dp_port *port;

	found = bpf_map_lookup_elem(&port_cache, &slot);
	id = found ? *(volatile __u32 *)found : 0;
	port = bpf_map_lookup_elem(&ports, &id);
	if (!port || port->ifindex != ifindex) {
		found = bpf_map_lookup_elem(&port_ids, &ifindex);
		id = found ? *(volatile __u32 *)found : 0;
		port = bpf_map_lookup_elem(&ports, &id);
		if (!port || port->ifindex != ifindex)
			return NULL;
	}
	*ret_id = id;
	return port;
}
