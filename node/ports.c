/* SPDX-License-Identifier: Apache-2.0 */
#include "node/agent_internal.h"

/*
 * Ports: interfaces whose names match a pattern. A port enters the engine only
 * when its program is attached and its link has carrier, and leaves every list
 * before its program is detached.
 *
 * Loss of carrier takes the memberships away (RFC 4541 2.1.1 treats a port that
 * went down like one that was removed), but only after AGENT_CARRIER_HOLD_MS:
 * copies to a link that flaps are counted as failed, and nothing is relearnt.
 */
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"

struct agent_port *agent_port_find(const struct agent *a, uint32_t ifindex)
{
	struct agent_port *port;

	HASH_FIND(hh, a->ports, &ifindex, sizeof(ifindex), port);
	return port;
}

void agent_port_older(const struct agent *a, uint32_t ifindex, enum gmp_version version)
{
	static const char *const names[] = {
		[GMP_IGMPV1] = "IGMPv1",
		[GMP_IGMPV2] = "IGMPv2",
		[GMP_MLDV1] = "MLDv1",
	};
	const struct agent_port *port = agent_port_find(a, ifindex);

	if (port)
		log_warning("A router on the port asks in an older version, and so does the agent "
			    "there: set the same version in both. port=%s version=%s",
			    port->name, names[version]);
}

struct agent_port *agent_port_find_name(const struct agent *a, const char *name)
{
	struct agent_port *port, *next;

	HASH_ITER (hh, a->ports, port, next) {
		if (strcmp(port->name, name) == 0)
			return port;
	}
	return NULL;
}

const char *agent_port_name(const struct agent *a, uint32_t ifindex)
{
	struct agent_port *port = agent_port_find(a, ifindex);

	return port ? port->name : "";
}

static const struct node_port_pattern *pattern_match(const struct agent *a, const char *name)
{
	/* Not what we make ourselves. */
	if (strcmp(name, a->config->overlay_device) == 0 ||
	    strncmp(name, DATAPATH_FAN_NAME, strlen(DATAPATH_FAN_NAME)) == 0 ||
	    strncmp(name, OVERSIZE_NAME, strlen(OVERSIZE_NAME)) == 0)
		return NULL;
	for (size_t i = 0; i < a->config->n_ports; i++) {
		if (fnmatch(a->config->ports[i].match, name, 0) == 0)
			return &a->config->ports[i];
	}
	return NULL;
}

/* ---- engine ----------------------------------------------------------------- */

/* MLD queries need a link-local source whatever the host's IPv6 is: one made of
 * the interface's own address (RFC 4291 appendix A). */
static struct gmp_config port_config(const struct agent *a, const struct agent_port *port)
{
	struct gmp_config config = agent_segment_gmp(a, port->segment);
	uint8_t v6[16] = { 0xfe, 0x80 };

	memcpy(config.query_mac, port->mac, sizeof(config.query_mac));
	memcpy(v6 + 8, port->mac, 3);
	v6[8] ^= 0x02;
	v6[11] = 0xff;
	v6[12] = 0xfe;
	memcpy(v6 + 13, port->mac + 3, 3);
	config.query_source_v6 = addr_v6(v6);
	config.router = port->router;
	return config;
}

static void port_restore(struct agent *a, const struct agent_port *port)
{
	uint64_t now_ms = agent_engine_ms(a);

	for (struct agent_adopted *saved = a->adopted; saved; saved = saved->next) {
		if (saved->port == port->ifindex && saved->segment == port->segment)
			gmp_port_restore(a->gmp, port->ifindex, &saved->group, &saved->filter,
					 now_ms, &a->fx);
	}
}

static void port_enter(struct agent *a, struct agent_port *port)
{
	struct gmp_config config = port_config(a, port);
	int r;

	if (port->in_engine)
		return;
	r = gmp_port_add(a->gmp, port->ifindex, port->segment, &config, agent_engine_ms(a), &a->fx);
	if (r < 0) {
		log_error("Port cannot take memberships. port=%s err=%s", port->name, strerror(-r));
		return;
	}
	port->in_engine = true;
	if (a->adopting && !port->fresh)
		port_restore(a, port);
	agent_port_statics(a, port);
}

/* New settings of a segment, or of all (0). */
void agent_ports_configure(struct agent *a, uint32_t segment)
{
	struct agent_port *port, *next;

	HASH_ITER (hh, a->ports, port, next) {
		struct gmp_config config = port_config(a, port);

		if (port->in_engine && (!segment || port->segment == segment))
			gmp_port_configure(a->gmp, port->ifindex, &config, agent_engine_ms(a),
					   &a->fx);
	}
}

static void port_leave(struct agent *a, struct agent_port *port)
{
	if (!port->in_engine)
		return;
	gmp_port_remove(a->gmp, port->ifindex, &a->fx);
	port->in_engine = false;
}

static void port_carrier(struct agent *a, struct agent_port *port, bool carrier)
{
	if (!port->attached)
		return;
	if (carrier) {
		/* While it was away its hosts may have left or joined unheard. */
		if (port->in_engine && port->carrier_lost_ms)
			gmp_port_query(a->gmp, port->ifindex, agent_engine_ms(a), &a->fx);
		port->carrier_lost_ms = 0;
		port_enter(a, port);
	} else if (!port->carrier_lost_ms) {
		/* A restored port gets its memberships first, then the benefit of
		 * the doubt. */
		if (a->adopting)
			port_enter(a, port);
		port->carrier_lost_ms = agent_now_ms();
	}
}

/* ---- attach ----------------------------------------------------------------- */

static void port_attach(struct agent *a, struct agent_port *port)
{
	struct datapath_port dp = { 0 };
	int r;

	r = datapath_port_attach(a->datapath, port->ifindex, port->segment, port->bridge, &dp,
				 port->detail);
	if (r < 0) {
		log_warning("Port is not attached; tried again. port=%s why=\"%s\"", port->name,
			    port->detail);
		port->retry_ms = agent_now_ms() + AGENT_RETRY_MS;
		return;
	}
	port->detail[0] = '\0';
	port->retry_ms = 0;
	port->attached = true;
	port->attached_ms = agent_now_ms();
	port->generation = dp.generation;
	port->fresh = dp.fresh;
	log_info("Port is attached. port=%s segment=%u", port->name, port->segment);
	a->lists_due = true;
	agent_port_delivery(a, port);
}

static struct agent_port *port_new(struct agent *a, const struct rtnl_link *link,
				   const struct node_port_pattern *pattern)
{
	const char *refusal = rtnl_link_refusal(link);
	struct agent_port *port;

	if (HASH_COUNT(a->ports) >= a->config->datapath.max_ports) {
		log_warning("An interface is left out: raise limits.ports. port=%s", link->name);
		return NULL;
	}
	port = calloc(1, sizeof(*port));
	if (!port)
		return NULL;
	port->ifindex = link->ifindex;
	port->segment = pattern->segment;
	port->router = pattern->router;
	port->bridge = link->master;
	memcpy(port->name, link->name, sizeof(port->name));
	memcpy(port->mac, link->mac, sizeof(port->mac));
	HASH_ADD(hh, a->ports, ifindex, sizeof(port->ifindex), port);
	if (refusal) {
		snprintf(port->detail, sizeof(port->detail), "%s", refusal);
		log_warning("Port is refused. port=%s why=\"%s\"", port->name, port->detail);
		return port;
	}
	port_attach(a, port);
	return port;
}

/* The lists first, then the program: a list never names a port without one. */
static void port_free(struct agent *a, struct agent_port *port)
{
	uint32_t ifindex = port->ifindex;
	bool attached = port->attached;

	log_info("Port is gone. port=%s", port->name);
	agent_watch_port(a, port, true);
	port_leave(a, port);
	if (attached) {
		/* The effects find no port any more, so the fib is told here. */
		fib_port_forget(a->fib, ifindex);
		fib_flush(a->fib);
		port->attached = false;
		a->lists_due = true;
		agent_lists_write(a);
		datapath_port_detach(a->datapath, ifindex);
	}
	HASH_DEL(a->ports, port);
	free(port);
}

/* Somebody took it down, and no copy leaves or arrives until it is up. */
static void overlay_link(struct agent *a, const struct rtnl_link *link)
{
	if (link->up || a->overlay_retry_ms)
		return;
	log_warning("The overlay device was taken down; it is taken up again. device=%s",
		    link->name);
	a->overlay_retry_ms = agent_now_ms();
}

static void on_link(const struct rtnl_link *link, void *userdata)
{
	struct agent *a = userdata;
	const struct node_port_pattern *pattern = pattern_match(a, link->name);
	struct agent_port *port = agent_port_find(a, link->ifindex);
	bool carrier = link->up && link->carrier, changed;

	if (a->overlay_ifindex && link->ifindex == a->overlay_ifindex)
		overlay_link(a, link);
	agent_paths_link(a, link->ifindex);
	datapath_link_changed(a->datapath, link->ifindex);
	if (port &&
	    (!pattern || pattern->segment != port->segment || pattern->router != port->router)) {
		port_free(a, port); /* renamed away */
		port = NULL;
	}
	if (!pattern)
		return;
	changed = !port || port->carrier != carrier || strcmp(port->name, link->name) != 0;
	if (!port) {
		port = port_new(a, link, pattern);
		if (!port)
			return;
	}
	memcpy(port->name, link->name, sizeof(port->name));
	if (port->bridge != link->master) {
		port->bridge = link->master;
		if (port->attached)
			port_attach(a, port);
	}
	port->carrier = carrier;
	agent_port_delivery(a, port);
	port_carrier(a, port, carrier);
	if (changed)
		agent_watch_port(a, port, false);
}

static void on_link_gone(uint32_t ifindex, void *userdata)
{
	struct agent *a = userdata;
	struct agent_port *port = agent_port_find(a, ifindex);

	if (port)
		port_free(a, port);
	agent_paths_link(a, ifindex);
	datapath_link_changed(a->datapath, ifindex);
	if (ifindex == a->overlay_ifindex) {
		log_warning("The overlay device was deleted; it is made again. device=%s",
			    a->config->overlay_device);
		a->overlay_ifindex = 0;
		a->overlay_retry_ms = agent_now_ms();
	}
}

const struct rtnl_ops agent_rtnl_ops = {
	.on_link = on_link,
	.on_link_gone = on_link_gone,
};

/* ---- overlay device, time --------------------------------------------------- */

int agent_overlay_ensure(struct agent *a, char why[AGENT_WHY_MAX])
{
	struct rtnl_vxlan_options options = {
		.name = a->config->overlay_device,
		.udp_port = a->config->overlay_port,
	};
	uint32_t ifindex;
	int r;

	r = rtnl_vxlan_ensure(a->rtnl, &options, &ifindex, why);
	if (r < 0)
		return r;
	r = datapath_overlay_set(a->datapath, ifindex, why);
	if (r < 0)
		return r;
	a->overlay_ifindex = ifindex;
	a->overlay_retry_ms = 0;
	return 0;
}

static void overlay_retry(struct agent *a, uint64_t now_ms)
{
	char why[AGENT_WHY_MAX] = "";

	if (!a->overlay_retry_ms || now_ms < a->overlay_retry_ms)
		return;
	if (agent_overlay_ensure(a, why) < 0) {
		log_error(
			"The overlay device is not there: no copies go to other nodes. why=\"%s\"",
			why);
		a->overlay_retry_ms = now_ms + AGENT_RETRY_MS;
	}
}

void agent_ports_expire(struct agent *a, uint64_t now_ms)
{
	struct agent_port *port, *next;

	overlay_retry(a, now_ms);
	HASH_ITER (hh, a->ports, port, next) {
		if (port->retry_ms && now_ms >= port->retry_ms) {
			port_attach(a, port);
			port_carrier(a, port, port->carrier);
		}
		if (port->carrier_lost_ms && port->in_engine &&
		    now_ms >= port->carrier_lost_ms + AGENT_CARRIER_HOLD_MS) {
			log_info("Port lost its link; its memberships are withdrawn. port=%s",
				 port->name);
			port_leave(a, port);
		}
	}
}

uint64_t agent_ports_next_ms(const struct agent *a)
{
	uint64_t due = a->overlay_retry_ms ? a->overlay_retry_ms : UINT64_MAX;
	struct agent_port *port, *next;

	HASH_ITER (hh, a->ports, port, next) {
		if (port->retry_ms && port->retry_ms < due)
			due = port->retry_ms;
		if (port->carrier_lost_ms && port->in_engine &&
		    port->carrier_lost_ms + AGENT_CARRIER_HOLD_MS < due)
			due = port->carrier_lost_ms + AGENT_CARRIER_HOLD_MS;
	}
	return due;
}

static bool pattern_has_port(const struct agent *a, const struct node_port_pattern *pattern)
{
	struct agent_port *port, *next;

	HASH_ITER (hh, a->ports, port, next) {
		if (fnmatch(pattern->match, port->name, 0) == 0)
			return true;
	}
	return false;
}

/* Once: ports come and go, and a file that all nodes share may name more than one has. */
void agent_ports_tell_unmatched(const struct agent *a)
{
	if (!HASH_COUNT(a->ports)) {
		log_warning("No interface matches a port pattern yet; the agent waits for one.");
		return;
	}
	for (size_t i = 0; i < a->config->n_ports; i++) {
		const struct node_port_pattern *pattern = &a->config->ports[i];

		if (!pattern_has_port(a, pattern))
			log_info("No interface matches this port pattern yet. match=\"%s\" "
				 "segment=%u",
				 pattern->match, pattern->segment);
	}
}

void agent_ports_free(struct agent *a)
{
	struct agent_port *port, *next;
	struct agent_adopted *saved;

	HASH_ITER (hh, a->ports, port, next) {
		HASH_DEL(a->ports, port);
		free(port);
	}
	while ((saved = a->adopted)) {
		a->adopted = saved->next;
		filter_deinit(&saved->filter);
		free(saved);
	}
}
