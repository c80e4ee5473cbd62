/* SPDX-License-Identifier: Apache-2.0 */
#include "node/agent.h"

/*
 * DOC: mcmesh-agent
 *
 * One thread, one sd-event loop, one owner of all state. gRPC's queue thread
 * only posts to the loop (common/rpc.h).
 *
 *   rtnl ──links──► ports.c ──► datapath (attach) and engine (port)
 *   punt ring ──frames──► engine (gmp/) ──effects──► fib ──entries──► datapath
 *                                        └─queries─► AF_PACKET
 *   fib ──member──► uplink ══Sync══► controller
 *   controller ══Sync══► uplink ──► mirror ──remote filters──► fib
 *
 * Engine, fib, mirror and uplink are pure: they know neither this file nor a
 * clock. This file moves facts between them and executes what comes out. Every
 * callback ends in agent_settle(), which does so in an order that matters:
 *
 *   1. effects of the engine become filters in the fib;
 *   2. the fib's differences are written to the kernel's maps;
 *   3. only now a VTEP that no entry names is removed, the position in the log
 *      is saved, the revision acknowledged and the members reported.
 *
 * So a crash at any point leaves maps that are at least as new as the position
 * saved with them, and changes that are applied twice are harmless.
 *
 * Start. The pinned maps are the saved state: the fib turns entries back into
 * the filters of ports and nodes, which seed the engine and the mirror. Ports
 * and nodes that are no more are taken out, then the ring is read from where
 * the last agent stopped. No entry is ever emptied first.
 */
#include "node/agent_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <sodium/randombytes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/http.h"
#include "common/log.h"
#include "node/metrics.h"
#include "common/rpc_tls.h"

uint64_t agent_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

uint64_t agent_engine_ms(struct agent *a)
{
	uint64_t behind_ms = a->engine_clock.behind_ms;
	uint64_t now_ms = engine_clock_now(&a->engine_clock, agent_now_ms());

	if (a->engine_clock.behind_ms != behind_ms)
		log_warning(
			"The agent was stopped; memberships run on from where they were. ms=%llu",
			(unsigned long long)(a->engine_clock.behind_ms - behind_ms));
	return now_ms;
}

bool agent_has_segment(const struct agent *a, uint32_t segment)
{
	for (size_t i = 0; i < a->config->n_ports; i++) {
		if (a->config->ports[i].segment == segment)
			return true;
	}
	return false;
}

/* ---- fib and mirror: changes out -------------------------------------------- */

static int on_route_set(const struct datapath_route *route, void *userdata)
{
	struct agent *a = userdata;
	int r = datapath_route_set(a->datapath, route);

	a->routes_refused += r < 0;
	if (r < 0)
		log_warning("A forwarding entry could not be written; tried again: raise "
			    "limits.routes or limits.lists if this stays. segment=%u err=%s",
			    route->segment, strerror(-r));
	return r;
}

static int on_route_del(uint32_t segment, const struct addr *group, const struct addr *source,
			void *userdata)
{
	struct agent *a = userdata;

	return datapath_route_del(a->datapath, DATAPATH_ROUTE_GROUP, segment, group, source);
}

static void on_member(uint32_t segment, const struct addr *group, const struct filter *filter,
		      void *userdata)
{
	struct agent *a = userdata;

	if (a->adopting)
		mirror_seed_own(a->mirror, segment, group, filter);
	if (uplink_member_set(a->uplink, segment, group, filter) < 0)
		log_error("A membership could not be reported: out of memory.");
}

static void on_wanted(uint32_t segment, const struct addr *group, void *userdata);

static const struct fib_ops fib_ops = {
	.route_set = on_route_set,
	.route_del = on_route_del,
	.member = on_member,
	.wanted = on_wanted,
};

static int remote_set(struct agent *a, struct agent_remote *remote)
{
	int r = datapath_remote_set(a->datapath, &remote->vtep, remote->node);

	remote->refused = r < 0;
	a->remotes_refused += remote->refused;
	if (remote->refused)
		a->remotes_retry_ms = agent_now_ms() + AGENT_RETRY_MS;
	return r;
}

/* One that is let in at last is missing in every entry that was to name it. */
static void remotes_retry(struct agent *a, uint64_t now_ms)
{
	struct agent_remote *remote, *next;

	if (!a->remotes_retry_ms || now_ms < a->remotes_retry_ms)
		return;
	a->remotes_retry_ms = 0;
	HASH_ITER (hh, a->remotes, remote, next) {
		if (remote->refused && !remote->going && remote_set(a, remote) >= 0)
			fib_rewrite(a->fib);
	}
}

static void on_remote_add(const struct addr *vtep, const char *node, void *userdata)
{
	struct agent *a = userdata;
	struct agent_remote *remote;
	char text[ADDR_TEXT_MAX];
	int r;

	HASH_FIND(hh, a->remotes, vtep, sizeof(*vtep), remote);
	if (!remote) {
		remote = calloc(1, sizeof(*remote));
		if (!remote)
			return;
		remote->vtep = *vtep;
		HASH_ADD(hh, a->remotes, vtep, sizeof(remote->vtep), remote);
	}
	remote->references++;
	remote->going = false;
	a->lists_due = true;
	remote->path.way = RTNL_WAY_UNKNOWN;
	remote->path_due = a->ways.some_due = true;
	snprintf(remote->node, sizeof(remote->node), "%s", node);
	r = remote_set(a, remote);
	if (r < 0)
		log_error("A node cannot be reached: raise limits.remotes. node=%s vtep=%s err=%s",
			  node, addr_format(vtep, text), strerror(-r));
	else if (!a->adopting)
		log_info("Node is known. node=%s vtep=%s", node, addr_format(vtep, text));
}

static void on_remote_del(const struct addr *vtep, void *userdata)
{
	struct agent *a = userdata;
	struct agent_remote *remote;

	HASH_FIND(hh, a->remotes, vtep, sizeof(*vtep), remote);
	if (!remote || --remote->references)
		return;
	remote->going = true;
	a->remotes_going = true;
	a->lists_due = true;
}

static void on_remote_member(uint32_t segment, const struct addr *group, const struct addr *vtep,
			     const struct filter *filter, void *userdata)
{
	struct agent *a = userdata;

	if (fib_remote_set(a->fib, segment, group, vtep, filter) < 0)
		log_error("A remote member could not be taken: out of memory.");
}

static int on_config(const Mcmesh__V1__ConfigChange *change, void *userdata)
{
	struct agent *a = userdata;
	int r = settings_change(a->settings, change);

	/* One bad row must not cost the others their session. */
	if (r < 0)
		log_warning("A setting of the controller is not one that this agent can take. "
			    "segment=%u err=%s",
			    change->segment, strerror(-r));
	return 0;
}

static void on_config_unconfirm(void *userdata)
{
	struct agent *a = userdata;

	settings_unconfirm(a->settings);
}

static void on_config_sweep(void *userdata)
{
	struct agent *a = userdata;

	settings_sweep(a->settings);
}

static const struct mirror_ops mirror_ops = {
	.remote_add = on_remote_add,
	.remote_del = on_remote_del,
	.member = on_remote_member,
	.config = on_config,
	.config_unconfirm = on_config_unconfirm,
	.config_sweep = on_config_sweep,
};

/* ---- engine: effects -------------------------------------------------------- */

static void send_frame(struct agent *a, uint32_t ifindex, const uint8_t *frame, size_t len)
{
	struct sockaddr_ll to = {
		.sll_family = AF_PACKET,
		.sll_ifindex = (int)ifindex,
		.sll_halen = ETH_ALEN,
	};

	memcpy(to.sll_addr, frame, ETH_ALEN);
	if (sendto(a->query_fd, frame, len, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof(to)) < 0)
		a->queries_failed++;
}

static void membership_effect(struct agent *a, const struct gmp_fx_item *item)
{
	struct agent_port *port = agent_port_find(a, item->port);
	struct filter filter = FILTER_NULL;

	agent_watch_membership(a, item->port, &item->group);
	/* Link-local groups go to every port of the segment: no entry decides. */
	if (!port || addr_is_link_local_group(&item->group))
		return;
	if (gmp_membership_filter(a->gmp, item->port, &item->group, &filter) < 0 ||
	    fib_local_set(a->fib, port->segment, &item->group, item->port, &filter) < 0)
		log_error("A membership could not be applied: out of memory. port=%s", port->name);
	filter_deinit(&filter);
}

static bool is_taken(struct agent *a, const struct gmp_fx_item *item, uint32_t ifindex)
{
	if (item->type == GMP_FX_REPORT)
		return gmp_port_takes_reports(a->gmp, ifindex);
	return item->type != GMP_FX_PASS ||
	       gmp_port_takes_queries(a->gmp, ifindex, item->v6, agent_engine_ms(a));
}

/* A frame of a port goes on to the other ports of its segment that take it. */
static void pass_effect(struct agent *a, const struct gmp_fx_item *item)
{
	struct agent_port *from = agent_port_find(a, item->port), *port, *next;

	if (!from)
		return;
	HASH_ITER (hh, a->ports, port, next) {
		if (port != from && port->in_engine && port->segment == from->segment &&
		    is_taken(a, item, port->ifindex))
			send_frame(a, port->ifindex, gmp_fx_frame(&a->fx, item), item->frame_len);
	}
}

static void router_effect(struct agent *a, const struct gmp_fx_item *item)
{
	struct agent_port *port = agent_port_find(a, item->port);

	if (!port)
		return;
	log_info("Port %s a router port. port=%s", item->on ? "is" : "is no longer", port->name);
	if (fib_router_set(a->fib, port->segment, port->ifindex, item->on) < 0)
		log_error("A router port could not be taken: out of memory. port=%s", port->name);
	agent_watch_port(a, port, false);
}

/* What the others want, to the proxy of one port, or of all in the segment (0). */
static void proxies_tell(struct agent *a, uint32_t segment, uint32_t ifindex,
			 const struct addr *group)
{
	struct agent_port *port, *next;

	HASH_ITER (hh, a->ports, port, next) {
		struct filter filter = FILTER_NULL;

		if (port->segment != segment || (ifindex && port->ifindex != ifindex) ||
		    !port->in_engine || !gmp_port_is_proxied(a->gmp, port->ifindex))
			continue;
		if (fib_wanted(a->fib, segment, group, port->ifindex, &filter) < 0 ||
		    gmp_port_want(a->gmp, port->ifindex, group, &filter, agent_engine_ms(a)) < 0)
			log_error("A router could not be told of a group: out of memory. port=%s",
				  port->name);
		filter_deinit(&filter);
	}
}

static void on_wanted(uint32_t segment, const struct addr *group, void *userdata)
{
	proxies_tell(userdata, segment, 0, group);
}

struct proxy_begin {
	struct agent *a;
	const struct agent_port *port;
};

static void proxy_begin(const struct addr *group, void *userdata)
{
	struct proxy_begin *begin = userdata;

	proxies_tell(begin->a, begin->port->segment, begin->port->ifindex, group);
}

static void proxy_tell(struct agent *a, const struct agent_port *port)
{
	struct proxy_begin begin = { .a = a, .port = port };

	if (port)
		fib_groups_walk(a->fib, port->segment, proxy_begin, &begin);
}

static int membership_reread(const struct gmp_membership_view *view, void *userdata)
{
	struct gmp_fx_item item = { .port = view->port, .group = view->group };

	membership_effect(userdata, &item);
	return 0;
}

/* Memory ran out and effects were lost: everything is read anew. Only the
 * flush that follows writes, so what is the same in the end is not touched. */
static void memberships_reread(struct agent *a)
{
	struct agent_port *port, *next;

	log_warning("Memory ran out for a moment; every membership is read again.");
	HASH_ITER (hh, a->ports, port, next) {
		fib_port_forget(a->fib, port->ifindex);
		fib_router_set(a->fib, port->segment, port->ifindex,
			       port->in_engine && gmp_port_is_router(a->gmp, port->ifindex));
	}
	gmp_memberships_walk(a->gmp, 0, membership_reread, a);
	HASH_ITER (hh, a->ports, port, next)
		proxy_tell(a, port);
}

void agent_effects_run(struct agent *a)
{
	bool lost = a->fx.overflow;

	for (size_t i = 0; i < a->fx.n; i++) {
		const struct gmp_fx_item *item = &a->fx.items[i];

		switch (item->type) {
		case GMP_FX_MEMBERSHIP:
			membership_effect(a, item);
			break;
		case GMP_FX_QUERY:
		case GMP_FX_SEND:
			send_frame(a, item->port, gmp_fx_frame(&a->fx, item), item->frame_len);
			break;
		case GMP_FX_ROUTER:
			router_effect(a, item);
			break;
		case GMP_FX_OLDER:
			agent_port_older(a, item->port, item->version);
			break;
		case GMP_FX_PROXY:
			proxy_tell(a, agent_port_find(a, item->port));
			break;
		case GMP_FX_REPORT:
		case GMP_FX_PASS:
		case GMP_FX_FLOOD:
			pass_effect(a, item);
			break;
		case GMP_FX_TRACE:
			break;
		}
	}
	gmp_fx_clear(&a->fx);
	if (lost)
		memberships_reread(a);
}

/* ---- settle ----------------------------------------------------------------- */

static void save_revision(uint32_t segment, uint64_t revision, void *userdata)
{
	struct agent *a = userdata;

	agent_segment_save(a, segment, mirror_resumable(a->mirror, segment));
}

static void remotes_sweep(struct agent *a)
{
	struct agent_remote *remote, *next;
	char text[ADDR_TEXT_MAX];

	if (!a->remotes_going)
		return;
	a->remotes_going = false;
	HASH_ITER (hh, a->remotes, remote, next) {
		if (!remote->going)
			continue;
		log_info("Node is gone. vtep=%s", addr_format(&remote->vtep, text));
		datapath_remote_del(a->datapath, &remote->vtep);
		HASH_DEL(a->remotes, remote);
		free(remote);
	}
}

static uint64_t min_u64(uint64_t x, uint64_t y)
{
	return x < y ? x : y;
}

static void timer_arm(struct agent *a)
{
	uint64_t next = min_u64(engine_clock_due(&a->engine_clock, gmp_next_ms(a->gmp)),
				uplink_next_ms(a->uplink));

	next = min_u64(next, agent_ports_next_ms(a));
	next = min_u64(next, agent_paths_next_ms(a));
	next = min_u64(next, datapath_next_ms(a->datapath));
	next = min_u64(next, a->flush_retry_ms ? a->flush_retry_ms : UINT64_MAX);
	next = min_u64(next, a->remotes_retry_ms ? a->remotes_retry_ms : UINT64_MAX);
	next = min_u64(next, a->sending.look_ms);
	if (a->punt_check_ms)
		next = min_u64(next, a->punt_check_ms);
	sd_event_source_set_time(a->timer, next * 1000);
	sd_event_source_set_enabled(a->timer, SD_EVENT_ONESHOT);
}

void agent_settle(struct agent *a)
{
	uint64_t now_ms = agent_now_ms();

	agent_effects_run(a);
	remotes_retry(a, now_ms);
	if (fib_flush(a->fib)) {
		/* Not everything is in the maps: no acknowledgement, the old position. */
		a->flush_retry_ms = now_ms + AGENT_RETRY_MS;
	} else {
		a->flush_retry_ms = 0;
		agent_lists_write(a);
		remotes_sweep(a);
		if (uplink_applied(a->uplink, now_ms))
			mirror_segments_walk(a->mirror, save_revision, a);
	}
	uplink_flush(a->uplink, now_ms);
	uplink_expire(a->uplink, now_ms);
	rpc_resume(a->rpc);
	timer_arm(a);
}

static int on_post(sd_event_source *source, void *userdata)
{
	agent_settle(userdata);
	return 0;
}

/* ---- punted frames ---------------------------------------------------------- */

static void on_punt(const struct datapath_punt *punt, void *userdata)
{
	struct agent *a = userdata;
	struct agent_port *port = agent_port_find(a, punt->ifindex);

	if (!port || port->generation != punt->generation || !port->in_engine) {
		a->punts_stale++;
		return;
	}
	gmp_input(a->gmp, punt->ifindex, punt->frame, punt->len, agent_engine_ms(a), &a->fx);
}

static int port_punt_lost(const struct datapath_counter *counter, void *userdata)
{
	struct agent *a = userdata;
	struct agent_port *port = agent_port_find(a, counter->ifindex);

	if (!port || strcmp(counter->name, "punt_lost") != 0 || counter->packets == port->punt_lost)
		return 0;
	port->punt_lost = counter->packets;
	if (port->in_engine) {
		log_warning("Reports of a port were lost; it is asked again. port=%s", port->name);
		gmp_port_query(a->gmp, port->ifindex, agent_engine_ms(a), &a->fx);
	}
	return 0;
}

/* A join that was lost would otherwise wait for the next general query. */
static void punt_check(struct agent *a, uint64_t now_ms)
{
	uint64_t lost;

	if (!a->punt_check_ms || now_ms < a->punt_check_ms)
		return;
	a->punt_check_ms = 0;
	lost = datapath_punt_lost(a->datapath);
	if (lost == a->punt_lost)
		return;
	a->punt_lost = lost;
	datapath_counters_walk(a->datapath, port_punt_lost, a);
}

/* Which segments the workloads send into, for the controller. */
static void sending_look(struct agent *a, uint64_t now_ms)
{
	struct agent_port *port, *next;
	struct sending_list list = { .n = 0 };
	uint64_t packets;
	bool any;

	if (now_ms < a->sending.look_ms)
		return;
	a->sending.look_ms = now_ms + SENDING_LOOK_MS;
	HASH_ITER (hh, a->ports, port, next) {
		if (datapath_port_sent(a->datapath, port->ifindex, &packets) == 0)
			sending_count(&a->sending, &port->sending, port->generation, packets);
	}
	any = sending_counted(&a->sending, datapath_link_local_sent(a->datapath));
	HASH_ITER (hh, a->ports, port, next) {
		if (sending_is_on(&port->sending, any, now_ms))
			sending_list_add(&list, port->segment);
	}
	uplink_sending_set(a->uplink, &list, now_ms);
}

static int on_punt_ready(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	struct agent *a = userdata;

	if (!a->punt_check_ms)
		a->punt_check_ms = agent_now_ms() + AGENT_PUNT_CHECK_MS;

	datapath_punt_consume(a->datapath, AGENT_PUNT_BATCH, on_punt, a);
	return 0;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct agent *a = userdata;
	uint64_t now_ms = agent_now_ms();

	/* Bounded by the engine; the timer comes back at once while there is more. */
	gmp_expire(a->gmp, agent_engine_ms(a), &a->fx);
	agent_ports_expire(a, now_ms);
	agent_paths_expire(a, now_ms);
	datapath_tick(a->datapath, now_ms);
	punt_check(a, now_ms);
	sending_look(a, now_ms);
	return 0;
}

static int on_rtnl_ready(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	struct agent *a = userdata;
	int r = rtnl_dispatch(a->rtnl);

	if (r < 0)
		log_warning("Interface events could not be read; tried again. err=%s",
			    strerror(-r));
	return 0;
}

/* ---- start ------------------------------------------------------------------ */

static int engines_init(struct agent *a)
{
	struct uplink_options options = {
		.node = a->config->node,
		.vtep = a->config->vtep,
		.start_count = a->identity.start_count,
		.controllers = (const char *const *)a->config->controllers,
		.whole_at_ms = 0,
	};
	int r;

	memcpy(options.instance, a->identity.instance, sizeof(options.instance));
	randombytes_buf(&options.seed, sizeof(options.seed));
	/* Nothing was restored: what hosts want is known after one query and its
	 * response interval; until then nothing is withdrawn. */
	if (!datapath_adopted(a->datapath))
		options.whole_at_ms = agent_now_ms() + a->config->gmp.query_response_interval_ms;
	r = gmp_new(&a->gmp);
	if (r >= 0)
		r = fib_new(&fib_ops, a, &a->fib);
	if (r >= 0)
		r = settings_new(a->config->node, &agent_settings_ops, a, &a->settings);
	if (r >= 0)
		r = mirror_new(a->config->node, &mirror_ops, a, &a->mirror);
	if (r >= 0)
		r = uplink_new(&options, &agent_link_ops, a, a->mirror, agent_now_ms(), &a->uplink);
	return r;
}

static int loop_init(struct agent *a)
{
	int r = sd_event_default(&a->event);

	if (r >= 0)
		r = rpc_new_on_event(a->event, &a->rpc);
	if (r >= 0)
		r = sd_event_add_signal(a->event, NULL, SIGTERM, NULL, NULL);
	if (r >= 0)
		r = sd_event_add_signal(a->event, NULL, SIGINT, NULL, NULL);
	if (r >= 0)
		r = sd_event_add_time(a->event, &a->timer, CLOCK_MONOTONIC, UINT64_MAX, 500,
				      on_timer, a);
	if (r >= 0)
		r = sd_event_add_post(a->event, &a->post, on_post, a);
	return r;
}

static int query_init(struct agent *a, char why[AGENT_WHY_MAX])
{
	a->query_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (a->query_fd >= 0)
		return 0;
	if (errno == EPERM)
		snprintf(
			why, AGENT_WHY_MAX,
			"queries may not be sent: run as root, or with the capability CAP_NET_RAW");
	return -errno;
}

static int sources_init(struct agent *a)
{
	int r = sd_event_add_io(a->event, NULL, datapath_punt_fd(a->datapath), EPOLLIN,
				on_punt_ready, a);

	if (r >= 0)
		r = sd_event_add_io(a->event, NULL, rtnl_fd(a->rtnl), EPOLLIN, on_rtnl_ready, a);
	return r;
}

static int start(struct agent *a, char why[AGENT_WHY_MAX])
{
	struct datapath_options options = a->config->datapath;
	char text[ADDR_TEXT_MAX];
	int r;

	why[0] = '\0';
	options.vtep = a->config->vtep;
	options.udp_port = a->config->overlay_port;
	r = identity_start(a->config->state_dir, &a->identity, why);
	if (r >= 0)
		r = datapath_open(&options, &a->datapath, why);
	if (r >= 0)
		r = loop_init(a);
	if (r >= 0)
		r = query_init(a, why);
	if (r >= 0)
		r = engines_init(a);
	if (r >= 0)
		r = rtnl_new(&agent_rtnl_ops, a, &a->rtnl);
	if (r >= 0)
		r = agent_segments_init(a);
	a->adopting = true;
	if (r >= 0)
		r = agent_adopt(a);
	if (r >= 0)
		r = rtnl_dump(a->rtnl);
	if (r >= 0)
		r = agent_overlay_ensure(a, why);
	if (r < 0)
		return r;
	agent_adopt_finish(a);
	r = agent_paths_start(a);
	if (r < 0)
		return r;
	if (!rtnl_has_address(a->rtnl, &a->config->vtep))
		log_warning(
			"vtep is not an address of this node: other nodes' copies cannot arrive "
			"until it is. vtep=%s",
			addr_format(&a->config->vtep, text));
	agent_ports_tell_unmatched(a);
	r = agent_link_new(a, &a->link);
	if (r >= 0)
		r = sources_init(a);
	if (r >= 0)
		r = agent_service_start(a, why);
	if (r >= 0)
		r = agent_metrics_start(a, why);
	return r;
}

int agent_new(const struct node_config *config, struct agent **ret_agent, char why[AGENT_WHY_MAX])
{
	struct agent *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return -ENOMEM;
	a->config = config;
	a->query_fd = -1;
	r = start(a, why);
	if (r < 0) {
		if (!why[0])
			snprintf(why, AGENT_WHY_MAX, "the agent could not start: %s", strerror(-r));
		agent_free(a);
		return r;
	}
	*ret_agent = a;
	return 0;
}

int agent_run(struct agent *a)
{
	agent_settle(a);
	log_info("Agent runs. node=%s ports=%u attach=%s adopted=%s", a->config->node,
		 HASH_COUNT(a->ports), datapath_attach_name(a->datapath),
		 datapath_adopted(a->datapath) ? "yes" : "no");
	sd_notify(0, "READY=1");
	return sd_event_loop(a->event);
}

static void drained(void *userdata)
{
	*(bool *)userdata = true;
}

static void server_stop(struct agent *a)
{
	bool stopped = false;

	rpc_server_shutdown(a->server, 100, drained, &stopped);
	for (int i = 0; i < 100 && !stopped; i++) {
		if (sd_event_run(a->event, 20000) < 0)
			break;
	}
	rpc_server_free(a->server);
}

void agent_free(struct agent *a)
{
	struct agent_remote *remote, *next;

	if (!a)
		return;
	/* Nothing settles any more: what is in the maps stays as it is. */
	sd_event_source_disable_unref(a->post);
	sd_event_source_disable_unref(a->timer);
	http_free(a->http);
	agent_link_free(a->link);
	if (a->server)
		server_stop(a);
	if (a->rpc)
		rpc_free(a->rpc);
	rpc_tls_free(a->tls);
	agent_ports_free(a);
	if (a->datapath)
		agent_paths_stop(a);
	HASH_ITER (hh, a->remotes, remote, next) {
		HASH_DEL(a->remotes, remote);
		free(remote);
	}
	rtnl_free(a->rtnl);
	uplink_free(a->uplink);
	mirror_free(a->mirror);
	settings_free(a->settings);
	fib_free(a->fib);
	gmp_free(a->gmp);
	gmp_fx_deinit(&a->fx);
	sd_event_unref(a->event);
	datapath_close(a->datapath);
	if (a->query_fd >= 0)
		close(a->query_fd);
	free(a);
}
