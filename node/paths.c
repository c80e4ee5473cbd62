/* SPDX-License-Identifier: Apache-2.0 */
#include "node/agent_internal.h"

/*
 * DOC: the short ways
 *
 * What the datapath may leave out on the way of a copy, and when. All of it is
 * an answer about this moment, given by asking the kernel (rtnl/path.c), and all
 * of it has a slower way that is always right.
 *
 * To other nodes: onto the link instead of through the overlay device. A path is
 * asked for when a node becomes known, when its neighbour changed, and for all
 * nodes when a route, a policy or a link of a path did, or some time has
 * passed. The datapath uses paths only as long as we hold them: when the agent
 * dies nobody follows the changes, so soon after copies take the overlay device.
 *
 * From other nodes: the tunnel's headers off at the links that paths leave by,
 * and at the one that has the VTEP.
 *
 * To workloads: into the veth's other end, where the host has nothing at the
 * port's egress (a CNI's policy, a shaper) that would be passed by. Who made the
 * veth gets time to put that there first, and what is there is looked at again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

#define NS_PER_MS 1000000ULL

static void path_clear(struct agent *a, struct agent_remote *remote)
{
	if (remote->path.ifindex)
		datapath_remote_path_set(a->datapath, &remote->vtep, NULL);
	remote->path = (struct rtnl_path){ .ifindex = 0 };
}

static void path_ask(struct agent *a, struct agent_remote *remote)
{
	struct datapath_path path;
	struct rtnl_path found;

	remote->path_due = false;
	if (!a->paths_possible ||
	    rtnl_path_find(a->rtnl, &remote->vtep, &a->config->vtep, &found) < 0 ||
	    found.ifindex == a->overlay_ifindex) {
		path_clear(a, remote);
		return;
	}
	path = (struct datapath_path){ .ifindex = found.ifindex, .mtu = found.mtu };
	memcpy(path.to_mac, found.to_mac, sizeof(path.to_mac));
	memcpy(path.from_mac, found.from_mac, sizeof(path.from_mac));
	/* Refused by a limit: by the device, and asked again with the others. */
	if (datapath_remote_path_set(a->datapath, &remote->vtep, &path) < 0)
		remote->path = (struct rtnl_path){ .ifindex = 0 };
	else
		remote->path = found;
}

static void add_link(struct agent *a, uint32_t *ifindexes, size_t *n, uint32_t ifindex)
{
	const struct rtnl_link *link = rtnl_link_by_index(a->rtnl, ifindex);

	if (!link || !link->ethernet || *n == AGENT_UNDERLAYS_MAX)
		return;
	for (size_t i = 0; i < *n; i++) {
		if (ifindexes[i] == ifindex)
			return;
	}
	ifindexes[(*n)++] = ifindex;
}

static void underlays_write(struct agent *a)
{
	uint32_t ifindexes[AGENT_UNDERLAYS_MAX] = { 0 };
	struct agent_remote *remote, *next;
	char why[DATAPATH_WHY_MAX] = "";
	size_t n = 0;

	if (a->paths_possible) {
		add_link(a, ifindexes, &n, rtnl_address_link(a->rtnl, &a->config->vtep));
		HASH_ITER (hh, a->remotes, remote, next) {
			if (remote->path.ifindex)
				add_link(a, ifindexes, &n, remote->path.ifindex);
		}
	}
	if (n == a->n_underlays && memcmp(ifindexes, a->underlays, sizeof(ifindexes)) == 0)
		return;
	if (datapath_underlay_set(a->datapath, ifindexes, n, why) < 0) {
		log_warning("Packets of other nodes take the overlay device. why=\"%s\"", why);
		return; /* tried again with the next round */
	}
	memcpy(a->underlays, ifindexes, sizeof(ifindexes));
	a->n_underlays = n;
}

static void paths_ask_all(struct agent *a, uint64_t now_ms)
{
	struct agent_remote *remote, *next;

	a->paths_possible = rtnl_paths_possible(a->rtnl);
	HASH_ITER (hh, a->remotes, remote, next)
		path_ask(a, remote);
	underlays_write(a);
	a->paths_asked_ms = now_ms;
	a->paths_due_ms = now_ms + AGENT_PATHS_REFRESH_MS;
}

static void on_route(void *userdata)
{
	struct agent *a = userdata;
	uint64_t soon_ms = a->paths_asked_ms + AGENT_PATHS_PAUSE_MS;

	/* At once, but no storm of changes keeps us from everything else. */
	if (soon_ms < a->paths_due_ms)
		a->paths_due_ms = soon_ms;
}

static void on_neighbour(uint32_t ifindex, const struct addr *addr, void *userdata)
{
	struct agent *a = userdata;
	struct agent_remote *remote, *next;

	HASH_ITER (hh, a->remotes, remote, next) {
		if (remote->path.ifindex ? remote->path.ifindex == ifindex &&
						   addr_equal(&remote->path.next_hop, addr)
					 : true)
			remote->path_due = a->paths_some_due = true;
	}
}

static const struct rtnl_watch_ops watch_ops = {
	.on_route = on_route,
	.on_neighbour = on_neighbour,
};

static int on_watch(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	struct agent *a = userdata;

	rtnl_watch_dispatch(a->rtnl, fd != rtnl_watch_fd(a->rtnl, false), &watch_ops, a);
	return 0;
}

/* A link that changed may be one that paths leave by, or could now. */
void agent_paths_link(struct agent *a, uint32_t ifindex)
{
	for (size_t i = 0; i < a->n_underlays; i++) {
		if (a->underlays[i] == ifindex)
			on_route(a);
	}
}

int agent_paths_start(struct agent *a)
{
	int fd, r;

	if (a->config->overlay_path == NODE_OVERLAY_PATH_DEVICE) {
		char why[DATAPATH_WHY_MAX];

		/* An earlier agent may have had them. */
		datapath_underlay_set(a->datapath, NULL, 0, why);
		a->paths_due_ms = UINT64_MAX;
		return datapath_paths_hold(a->datapath, 0);
	}
	r = rtnl_watch_start(a->rtnl);
	if (r < 0)
		return r;
	r = sd_event_add_io(a->event, NULL, rtnl_watch_fd(a->rtnl, false), EPOLLIN, on_watch, a);
	fd = rtnl_watch_fd(a->rtnl, true);
	if (r >= 0 && fd >= 0)
		r = sd_event_add_io(a->event, NULL, fd, EPOLLIN, on_watch, a);
	return r;
}

/* ---- ports ------------------------------------------------------------------ */

static bool port_may_peer(struct agent *a, const struct agent_port *port,
			  const struct rtnl_link *link, uint64_t now_ms)
{
	if (a->config->delivery == NODE_DELIVERY_EGRESS || !link->peer_away ||
	    strcmp(link->kind, "veth") != 0)
		return false;
	if (a->config->delivery == NODE_DELIVERY_PEER)
		return true;
	return now_ms >= port->attached_ms + AGENT_PEER_AFTER_MS &&
	       rtnl_egress_is_plain(a->rtnl, link->ifindex) &&
	       datapath_egress_is_plain(link->ifindex);
}

void agent_port_delivery(struct agent *a, struct agent_port *port)
{
	const struct rtnl_link *link = rtnl_link_by_index(a->rtnl, port->ifindex);
	uint64_t now_ms = agent_now_ms();
	bool up = link && link->up && link->carrier;

	if (!port->attached)
		return;
	port->delivery_ms = now_ms;
	port->peer = up && port_may_peer(a, port, link, now_ms);
	datapath_port_delivery_set(a->datapath, port->ifindex, up ? link->mtu : 0, port->peer);
}

/* A bounded number a turn, those first that were looked at longest ago. */
static void ports_look(struct agent *a, uint64_t now_ms)
{
	struct agent_port *port, *next;
	unsigned int n = 0;

	if (now_ms < a->ports_look_ms)
		return;
	a->ports_look_ms = now_ms + AGENT_PORTS_LOOK_MS;
	HASH_ITER (hh, a->ports, port, next) {
		if (n == AGENT_PORTS_LOOK_BATCH)
			return;
		if (!port->attached || port->looked_round == a->ports_look_round)
			continue;
		port->looked_round = a->ports_look_round;
		agent_port_delivery(a, port);
		n++;
	}
	a->ports_look_round++;
}

/* ---- time ------------------------------------------------------------------- */

void agent_paths_expire(struct agent *a, uint64_t now_ms)
{
	struct agent_remote *remote, *next;

	if (a->config->delivery == NODE_DELIVERY_AUTO)
		ports_look(a, now_ms);
	if (a->config->overlay_path == NODE_OVERLAY_PATH_DEVICE)
		return;
	if (now_ms >= a->paths_due_ms) {
		paths_ask_all(a, now_ms);
	} else if (a->paths_some_due) {
		HASH_ITER (hh, a->remotes, remote, next) {
			if (remote->path_due)
				path_ask(a, remote);
		}
		underlays_write(a);
	}
	a->paths_some_due = false;
	if (now_ms >= a->paths_hold_ms) {
		datapath_paths_hold(a->datapath, (now_ms + AGENT_PATHS_HOLD_MS) * NS_PER_MS);
		a->paths_hold_ms = now_ms + AGENT_PATHS_HOLD_MS / 3;
	}
}

uint64_t agent_paths_next_ms(const struct agent *a)
{
	uint64_t next = UINT64_MAX;

	if (a->config->delivery == NODE_DELIVERY_AUTO && a->ports)
		next = a->ports_look_ms;
	if (a->config->overlay_path == NODE_OVERLAY_PATH_DEVICE)
		return next;
	if (a->paths_some_due)
		return 0;
	next = next < a->paths_due_ms ? next : a->paths_due_ms;
	return next < a->paths_hold_ms ? next : a->paths_hold_ms;
}
