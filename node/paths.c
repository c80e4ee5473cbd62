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
 * veth gets time to put that there first, and what is there is looked at again, and
 * whether our own programs are still where they were put.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

#define NS_PER_MS 1000000ULL

static void path_ask(struct agent *a, struct agent_remote *remote)
{
	struct rtnl_path found = { .way = RTNL_WAY_UNKNOWN };
	struct datapath_path path;
	int r = 0;

	remote->path_due = false;
	(void)rtnl_path_find(a->rtnl, &remote->vtep, &a->config->vtep, a->ipsec, &found);
	if (found.ifindex && found.ifindex == a->overlay_ifindex)
		found.way = RTNL_WAY_LINK;
	else if (found.way == RTNL_WAY_DIRECT &&
		 a->config->overlay_path == NODE_OVERLAY_PATH_DEVICE)
		found.way = RTNL_WAY_SETTING;
	if (found.way != remote->path.way)
		log_debug("Copies to a node go another way. node=%s way=\"%s\"", remote->node,
			  rtnl_way_text(found.way));
	if (ways_datapath_path(&found, !addr_is_v4(&remote->vtep), &path))
		r = datapath_remote_path_set(a->datapath, &remote->vtep, &path);
	else
		datapath_remote_path_set(a->datapath, &remote->vtep, NULL);
	/* Refused by a limit: by the device, and asked again with the others. */
	if (r < 0)
		found.way = RTNL_WAY_UNKNOWN;
	remote->path = found;
	remote->direct = found.way == RTNL_WAY_DIRECT;
}

static void add_link(struct agent *a, uint32_t *ifindexes, size_t *n, uint32_t ifindex)
{
	const struct rtnl_link *link = rtnl_link_by_index(a->rtnl, ifindex);

	if (link && link->ethernet)
		ways_link_add(ifindexes, AGENT_UNDERLAYS_MAX, n, ifindex);
}

/* Where plain packets of other nodes come in; nowhere, if they are to pass what
 * the kernel has for them. */
static void underlays_write(struct agent *a)
{
	uint32_t ifindexes[AGENT_UNDERLAYS_MAX] = { 0 };
	struct agent_remote *remote, *next;
	char why[DATAPATH_WHY_MAX] = "";
	size_t n = 0;

	if (!a->ipsec && a->config->overlay_path != NODE_OVERLAY_PATH_DEVICE) {
		add_link(a, ifindexes, &n, rtnl_address_link(a->rtnl, &a->config->vtep));
		HASH_ITER (hh, a->remotes, remote, next) {
			if (remote->direct)
				add_link(a, ifindexes, &n, remote->path.ifindex);
		}
	}
	/* An earlier agent may have had others. */
	if (a->underlays_known && n == a->n_underlays &&
	    memcmp(ifindexes, a->underlays, sizeof(ifindexes)) == 0)
		return;
	if (datapath_underlay_set(a->datapath, ifindexes, n, why) < 0) {
		log_warning("Packets of other nodes take the overlay device. why=\"%s\"", why);
		return; /* tried again with the next round */
	}
	memcpy(a->underlays, ifindexes, sizeof(ifindexes));
	a->n_underlays = n;
	a->underlays_known = true;
}

static void paths_ask_all(struct agent *a, uint64_t now_ms)
{
	struct agent_remote *remote, *next;

	a->ipsec = rtnl_has_policies(a->rtnl);
	a->n_links = 0;
	HASH_ITER (hh, a->remotes, remote, next) {
		path_ask(a, remote);
		add_link(a, a->links, &a->n_links, remote->path.ifindex);
	}
	underlays_write(a);
	ways_asked(&a->ways, now_ms);
}

static void on_route(void *userdata)
{
	struct agent *a = userdata;

	ways_changed(&a->ways);
}

static void on_neighbour(uint32_t ifindex, const struct addr *addr, void *userdata)
{
	struct agent *a = userdata;
	struct agent_remote *remote, *next;

	HASH_ITER (hh, a->remotes, remote, next) {
		if (ways_neighbour_matters(&remote->path, ifindex, addr))
			remote->path_due = a->ways.some_due = true;
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
	struct agent_remote *remote, *next;

	for (size_t i = 0; i < a->n_underlays; i++) {
		if (a->underlays[i] == ifindex) {
			on_route(a);
			return;
		}
	}
	HASH_ITER (hh, a->remotes, remote, next) {
		if (remote->path.ifindex == ifindex) {
			on_route(a);
			return;
		}
	}
}

static int on_oversize(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	struct agent *a = userdata;

	oversize_dispatch(a->oversize);
	return 0;
}

/* Without it copies that are too long for an underlay of IPv6 are lost, and counted. */
static int oversize_start(struct agent *a)
{
	char why[OVERSIZE_WHY_MAX];

	if (addr_is_v4(&a->config->vtep))
		return 0;
	if (oversize_new(&a->config->vtep, a->config->overlay_port, &a->oversize, why) < 0) {
		log_warning("Copies that are longer than the IPv6 underlay takes will be lost "
			    "(copy_too_long): give it 70 bytes more than the workloads have. "
			    "why=\"%s\"",
			    why);
		return 0;
	}
	rtnl_link_set_up(a->rtnl, oversize_ifindex(a->oversize), AGENT_OVERSIZE_MTU,
			 AGENT_OVERSIZE_QUEUE);
	datapath_oversize_set(a->datapath, oversize_ifindex(a->oversize));
	return sd_event_add_io(a->event, NULL, oversize_fd(a->oversize), EPOLLIN, on_oversize, a);
}

void agent_paths_stop(struct agent *a)
{
	if (a->oversize)
		datapath_oversize_set(a->datapath, 0);
	oversize_free(a->oversize);
}

int agent_paths_start(struct agent *a)
{
	int fd, r;

	r = rtnl_watch_start(a->rtnl);
	if (r < 0)
		return r;
	r = sd_event_add_io(a->event, NULL, rtnl_watch_fd(a->rtnl, false), EPOLLIN, on_watch, a);
	fd = rtnl_watch_fd(a->rtnl, true);
	if (r >= 0 && fd >= 0)
		r = sd_event_add_io(a->event, NULL, fd, EPOLLIN, on_watch, a);
	return r < 0 ? r : oversize_start(a);
}

/* ---- ports ------------------------------------------------------------------ */

void agent_port_delivery(struct agent *a, struct agent_port *port)
{
	const struct rtnl_link *link = rtnl_link_by_index(a->rtnl, port->ifindex);
	struct ways_port facts = { .attached_ms = port->attached_ms };
	uint64_t now_ms = agent_now_ms();

	if (!port->attached)
		return;
	port->delivery_ms = now_ms;
	if (link) {
		facts.up = link->up && link->carrier;
		facts.veth = strcmp(link->kind, "veth") == 0;
		facts.peer_away = link->peer_away;
	}
	/* As if, before the kernel is asked. */
	facts.egress_plain = true;
	if (a->config->delivery == NODE_DELIVERY_AUTO &&
	    ways_port_may_peer(NODE_DELIVERY_AUTO, &facts, now_ms))
		facts.egress_plain = rtnl_egress_is_plain(a->rtnl, port->ifindex) &&
				     datapath_egress_is_plain(port->ifindex);
	port->peer = ways_port_may_peer(a->config->delivery, &facts, now_ms);
	datapath_port_delivery_set(a->datapath, port->ifindex, facts.up ? link->mtu : 0,
				   port->peer);
}

/* Somebody took programs of ours away: they are back, and it is said. */
static void programs_tell(struct agent *a, const struct datapath_damage *damage)
{
	if (!damage->n)
		return;
	a->programs_lost += damage->n;
	log_warning("A program was taken off its device, or another put before it; it is "
		    "attached again. programs=%" PRIu64 " first=\"%s\"",
		    damage->n, damage->first);
}

/* All of them, now. */
struct datapath_damage agent_programs_check(struct agent *a)
{
	struct datapath_damage damage = { 0 };
	struct agent_port *port, *next;

	datapath_devices_check(a->datapath, &damage);
	HASH_ITER (hh, a->ports, port, next) {
		if (port->attached)
			datapath_port_check(a->datapath, port->ifindex, &damage);
	}
	programs_tell(a, &damage);
	return damage;
}

/* A bounded number a turn, those first that were looked at longest ago. */
static void ports_look(struct agent *a, uint64_t now_ms)
{
	struct datapath_damage damage = { 0 };
	struct agent_port *port, *next;
	unsigned int n = 0;

	if (now_ms < a->ports_look_ms)
		return;
	a->ports_look_ms = now_ms + AGENT_PORTS_LOOK_MS;
	datapath_devices_check(a->datapath, &damage);
	HASH_ITER (hh, a->ports, port, next) {
		if (n == AGENT_PORTS_LOOK_BATCH)
			break;
		if (!port->attached || port->looked_round == a->ports_look_round)
			continue;
		port->looked_round = a->ports_look_round;
		datapath_port_check(a->datapath, port->ifindex, &damage);
		if (a->config->delivery == NODE_DELIVERY_AUTO)
			agent_port_delivery(a, port);
		n++;
	}
	if (n < AGENT_PORTS_LOOK_BATCH)
		a->ports_look_round++;
	programs_tell(a, &damage);
}

/* ---- time ------------------------------------------------------------------- */

void agent_paths_expire(struct agent *a, uint64_t now_ms)
{
	struct agent_remote *remote, *next;
	enum ways_round round;

	ports_look(a, now_ms);
	round = ways_round_due(&a->ways, now_ms);
	if (round == WAYS_ROUND_ALL) {
		paths_ask_all(a, now_ms);
	} else if (round == WAYS_ROUND_SOME) {
		HASH_ITER (hh, a->remotes, remote, next) {
			if (remote->path_due)
				path_ask(a, remote);
		}
		underlays_write(a);
	}
	a->ways.some_due = false;
	if (ways_hold_due(&a->ways, now_ms)) {
		datapath_paths_hold(a->datapath, (now_ms + WAYS_HOLD_MS) * NS_PER_MS);
		ways_held(&a->ways, now_ms);
	}
}

uint64_t agent_paths_next_ms(const struct agent *a)
{
	uint64_t next = ways_next_ms(&a->ways);

	return next < a->ports_look_ms ? next : a->ports_look_ms;
}
