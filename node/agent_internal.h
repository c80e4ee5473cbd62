/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the agent's files share. One thread owns all of it; see agent.c.
 */
#include <stdbool.h>
#include <stdint.h>

#include <net/if.h>
#include <systemd/sd-event.h>
#include <uthash.h>

#include "common/rpc.h"
#include "mcmesh/v1/agent.pb-c.h"
#include "node/agent.h"
#include "node/datapath/datapath.h"
#include "node/engine_clock.h"
#include "node/fib.h"
#include "node/gmp/gmp.h"
#include "node/identity.h"
#include "node/mirror.h"
#include "node/oversize.h"
#include "node/rtnl/rtnl.h"
#include "node/sending.h"
#include "node/settings.h"
#include "node/uplink.h"
#include "node/ways.h"

#define AGENT_PUNT_BATCH      512  /* frames a loop turn, so that nothing else waits long */
#define AGENT_CARRIER_HOLD_MS 1000 /* a link that flaps keeps its memberships */
#define AGENT_RETRY_MS	      1000 /* a failed attach or map write is tried again */
#define AGENT_PUNT_CHECK_MS   1000 /* from a punt to a look at what was lost */
#define AGENT_MAX_WATCHERS    64

/* paths.c */
#define AGENT_UNDERLAYS_MAX    16
#define AGENT_OVERSIZE_MTU     65521 /* the most that a TAP device takes */
#define AGENT_OVERSIZE_QUEUE   4096
#define AGENT_PORTS_LOOK_MS    1000
#define AGENT_PORTS_LOOK_BATCH 64

struct agent_port {
	uint32_t ifindex; /* key; also the engine's port number */
	char name[IFNAMSIZ];
	uint32_t segment;
	enum gmp_router router; /* as configured */
	uint32_t bridge;
	uint32_t generation;
	uint8_t mac[6];
	bool attached;
	bool fresh; /* nothing that was known of its ifindex is of it */
	bool carrier;
	bool in_engine;
	bool peer; /* copies go right into the veth's other end */
	uint64_t attached_ms, delivery_ms;
	uint32_t looked_round;
	uint64_t carrier_lost_ms; /* 0: not waiting */
	uint64_t retry_ms;	  /* 0: not waiting; not attached, tried again then */
	uint64_t punt_lost;	  /* as counted when it was last looked at */
	struct sending_port sending;
	char detail[DATAPATH_WHY_MAX];
	UT_hash_handle hh;
};

/* A membership that the maps had when the agent started. */
struct agent_adopted {
	uint32_t port, segment;
	struct addr group;
	struct filter filter;
	struct agent_adopted *next;
};

/* Nodes can share a VTEP for a moment (a rename): the last one out counts. */
struct agent_remote {
	struct addr vtep;
	uint32_t references;
	bool going;   /* no reference: to be taken out after the next flush */
	bool refused; /* limits.remotes: tried again, as one that goes makes room */
	bool path_due;
	struct rtnl_path path; /* as the kernel said */
	bool direct;	       /* the datapath has it */
	char node[DATAPATH_NODE_NAME_MAX];
	UT_hash_handle hh;
};

struct agent {
	const struct node_config *config;
	struct identity identity;
	sd_event *event;
	sd_event_source *timer;
	sd_event_source *post;
	struct rpc *rpc;
	struct rpc_tls *tls; /* NULL: plaintext */
	struct rpc_server *server;
	struct http *http; /* NULL: no metrics */
	struct datapath *datapath;
	struct rtnl *rtnl;
	struct gmp *gmp;
	struct gmp_fx fx;
	struct fib *fib;
	struct mirror *mirror;
	struct settings *settings;
	struct uplink *uplink;
	struct agent_link *link;
	int query_fd; /* AF_PACKET: queries and proxied reports go out here */
	uint32_t overlay_ifindex;
	uint64_t overlay_retry_ms; /* 0: the device is there */

	struct agent_port *ports;
	struct agent_remote *remotes;
	struct agent_adopted *adopted;
	bool adopting;
	bool lists_due; /* the lists of all ports: ports or remotes changed */
	bool remotes_going;
	uint64_t flush_retry_ms; /* 0: everything is in the maps */

	struct rpc_call *watchers[AGENT_MAX_WATCHERS];
	uint64_t punt_lost; /* of all ports, as last seen */
	struct engine_clock engine_clock;
	uint64_t punt_check_ms; /* 0: nothing was punted since the last look */
	uint64_t punts_stale;	/* frames of ports that are gone */
	uint64_t queries_failed;
	uint64_t programs_lost; /* that somebody took off their devices */
	uint64_t routes_refused, remotes_refused;
	uint64_t remotes_retry_ms; /* 0: none is refused */
	struct sending sending;

	bool ipsec; /* as of the last round */
	struct ways_clock ways;
	struct oversize *oversize; /* NULL: IPv4, or not possible */
	uint32_t underlays[AGENT_UNDERLAYS_MAX];
	size_t n_underlays;
	bool underlays_known;
	uint32_t links[AGENT_UNDERLAYS_MAX]; /* that routes to nodes leave by */
	size_t n_links;
	uint64_t ports_look_ms;
	uint32_t ports_look_round;
};

uint64_t agent_now_ms(void);
/* What the engine is called with. */
uint64_t agent_engine_ms(struct agent *agent);

/* Ends every callback that may have changed something: executes effects,
 * writes the maps, reports, acknowledges, arms the timer. */
void agent_settle(struct agent *agent);

/* Executes the engine's effects; the maps follow with the next flush. */
void agent_effects_run(struct agent *agent);

/* ---- adopt.c: the start on what a previous agent left -------------------------------- */

/* Before the ports are known, and after. */
int agent_adopt(struct agent *agent);
void agent_adopt_finish(struct agent *agent);

/* Does a port pattern name the segment? */
bool agent_has_segment(const struct agent *agent, uint32_t segment);

/* ---- ports.c ---------------------------------------------------------------- */

extern const struct rtnl_ops agent_rtnl_ops;

struct agent_port *agent_port_find(const struct agent *agent, uint32_t ifindex);
void agent_port_older(const struct agent *agent, uint32_t ifindex, enum gmp_version version);
struct agent_port *agent_port_find_name(const struct agent *agent, const char *name);
const char *agent_port_name(const struct agent *agent, uint32_t ifindex);
void agent_ports_expire(struct agent *agent, uint64_t now_ms);
uint64_t agent_ports_next_ms(const struct agent *agent);
void agent_ports_configure(struct agent *agent, uint32_t segment);
/* Into the log: patterns that no interface matches. */
void agent_ports_tell_unmatched(const struct agent *agent);
void agent_ports_free(struct agent *agent);
int agent_overlay_ensure(struct agent *agent, char why[AGENT_WHY_MAX]);

/* ---- paths.c: the short ways ------------------------------------------------ */

int agent_paths_start(struct agent *agent);
void agent_paths_stop(struct agent *agent);
void agent_paths_expire(struct agent *agent, uint64_t now_ms);
uint64_t agent_paths_next_ms(const struct agent *agent);
void agent_paths_link(struct agent *agent, uint32_t ifindex);

/* Attaches anew what somebody took off; what that was. */
struct datapath_damage agent_programs_check(struct agent *agent);

/* What is known of the port's link, to the datapath. */
void agent_port_delivery(struct agent *agent, struct agent_port *port);

/* ---- segments.c: segments and the settings that the controller pushes ------------------ */

extern const struct settings_ops agent_settings_ops;

int agent_segments_init(struct agent *agent);

/* Saves the segment with its position in the log. */
void agent_segment_save(struct agent *agent, uint32_t segment, uint64_t revision);

/* Writes the lists of all ports, if they are due. */
void agent_lists_write(struct agent *agent);

/* How many of them there ought to be, and whether this one is as it ought to be. */
uint64_t agent_lists_count(const struct agent *agent);
bool agent_list_matches(const struct agent *agent, const struct datapath_route *route);

/* The engine's settings for a port of the segment, without its addresses. */
struct gmp_config agent_segment_gmp(const struct agent *agent, uint32_t segment);

/* The static members of the port, into the engine. */
void agent_port_statics(struct agent *agent, const struct agent_port *port);

/* ---- link.c: uplink on gRPC ------------------------------------------------- */

int agent_link_new(struct agent *agent, struct agent_link **ret_link);
void agent_link_free(struct agent_link *link);
extern const struct uplink_ops agent_link_ops;

/* ---- agent_service.c, agent_query.c ----------------------------------------- */

int agent_service_start(struct agent *agent, char why[AGENT_WHY_MAX]);
void agent_watch_membership(struct agent *agent, uint32_t port, const struct addr *group);
void agent_watch_port(struct agent *agent, const struct agent_port *port, bool gone);

void agent_query_answer(struct agent *agent, const Mcmesh__V1__Query *query);

/* Route messages from the kernel's maps; the caller frees with
 * agent_routes_free(). segment 0 and group NULL: any. */
int agent_routes_read(struct agent *agent, uint32_t segment, const struct addr *group,
		      Mcmesh__V1__Route ***ret_routes, size_t *ret_n);
void agent_routes_free(Mcmesh__V1__Route **routes, size_t n);
/* Their order (page.h). */
int agent_route_cmp(const void *a, const void *b);

/* ---- explain.c -------------------------------------------------------------- */

struct agent_explanation {
	bool delivered;
	char **reasons;
	size_t n_reasons;
};

int agent_explain(struct agent *agent, const char *port, const struct addr *group,
		  const struct addr *source, struct agent_explanation *ret_explanation);
void agent_explanation_deinit(struct agent_explanation *explanation);
