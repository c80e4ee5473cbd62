/* SPDX-License-Identifier: Apache-2.0 */
#include "node/ways.h"

#include <string.h>

void ways_changed(struct ways_clock *c)
{
	uint64_t soon_ms = c->asked_ms + WAYS_PAUSE_MS;

	if (soon_ms < c->due_ms)
		c->due_ms = soon_ms;
}

void ways_asked(struct ways_clock *c, uint64_t now_ms)
{
	c->asked_ms = now_ms;
	c->due_ms = now_ms + WAYS_REFRESH_MS;
}

/* So often that a turn that is late does not end them. */
void ways_held(struct ways_clock *c, uint64_t now_ms)
{
	c->hold_ms = now_ms + WAYS_HOLD_MS / 3;
}

uint64_t ways_next_ms(const struct ways_clock *c)
{
	if (c->some_due)
		return 0;
	return c->due_ms < c->hold_ms ? c->due_ms : c->hold_ms;
}

enum ways_round ways_round_due(const struct ways_clock *c, uint64_t now_ms)
{
	if (now_ms >= c->due_ms)
		return WAYS_ROUND_ALL;
	return c->some_due ? WAYS_ROUND_SOME : WAYS_ROUND_NONE;
}

bool ways_hold_due(const struct ways_clock *c, uint64_t now_ms)
{
	return now_ms >= c->hold_ms;
}

void ways_link_add(uint32_t *links, size_t max, size_t *n, uint32_t ifindex)
{
	for (size_t i = 0; i < *n; i++) {
		if (links[i] == ifindex)
			return;
	}
	if (*n < max)
		links[(*n)++] = ifindex;
}

bool ways_neighbour_matters(const struct rtnl_path *path, uint32_t ifindex,
			    const struct addr *neighbour)
{
	return (path->way == RTNL_WAY_DIRECT || path->way == RTNL_WAY_NEIGHBOUR) &&
	       path->ifindex == ifindex && addr_equal(&path->next_hop, neighbour);
}

bool ways_datapath_path(const struct rtnl_path *path, bool v6, struct datapath_path *ret_path)
{
	struct datapath_path to = { .mtu = path->mtu };

	if (path->way == RTNL_WAY_DIRECT) {
		to.ifindex = path->ifindex;
		memcpy(to.to_mac, path->to_mac, sizeof(to.to_mac));
		memcpy(to.from_mac, path->from_mac, sizeof(to.from_mac));
	} else if (!v6 || !path->mtu) {
		return false;
	} else if (path->way == RTNL_WAY_IPSEC) {
		to.mtu -= to.mtu < WAYS_IPSEC_BYTES ? to.mtu : WAYS_IPSEC_BYTES;
	}
	*ret_path = to;
	return true;
}

bool ways_port_may_peer(enum node_delivery delivery, const struct ways_port *port, uint64_t now_ms)
{
	if (delivery == NODE_DELIVERY_EGRESS || !port->up || !port->veth || !port->peer_away)
		return false;
	return delivery == NODE_DELIVERY_PEER ||
	       (now_ms >= port->attached_ms + WAYS_PEER_AFTER_MS && port->egress_plain);
}
