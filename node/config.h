/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The agent's local configuration: bootstrap only (identity, endpoints, ports,
 * paths, limits). Parsed into a new struct and validated as a whole; a wrong
 * file gives one sentence with file, line and column and changes nothing.
 *
 *   node: n1                        # default: the host name
 *   vtep: 203.0.113.1               # required, here or by --vtep
 *   controllers: [203.0.113.250:7797]   # any of them serves; none: the node works alone
 *   socket: /run/mcmesh/agent.sock
 *   socket_group: mcmesh            # may use the socket too; default: root only
 *   metrics: 127.0.0.1:9798         # /metrics, /healthz, / over HTTP; default: none
 *   state_dir: /var/lib/mcmesh      # the instance id and start count
 *   bpf_root: /sys/fs/bpf/mcmesh
 *   attach: auto                    # auto | tcx | clsact
 *   overlay: { device: mcmesh0, port: 4797, path: auto, dscp: 0 }   # auto | device; or inherit
 *   fans: { enabled: true, min_ports: 3 }
 *   delivery: auto                  # auto | peer | egress
 *   ports:                          # first match wins
 *     - { match: "veth*", segment: 1, router: auto }   # auto | always | never
 *   gmp:                            # all optional; gmp/gmp.h has the defaults
 *     { robustness: 2, query_interval_ms: 125000, query_response_interval_ms: 10000,
 *       last_member_query_interval_ms: 1000, fast_leave: false, querier: true,
 *       querier_guard: false, proxy: true, require_router_alert: false, igmp_version: 3, mld_version: 2,
 *       query_source: 0.0.0.0, query_source_v6: fe80::1,
 *       max_groups: 4096, max_sources: 1024, max_hosts: 256, max_reports_per_second: 10000,
 *       membership_interval_ms: 0 }
 *   limits: { ports: 4096, remotes: 4096, routes: 65536, lists: 131072, punt_rate: 20000 }
 *   tls:                            # none: plaintext
 *     { cacert: /etc/mcmesh/ca.pem, cert: /etc/mcmesh/n1.pem, key: /etc/mcmesh/n1.key,
 *       server_name: controller.mesh }  # default: the host in controllers
 *   log_level: info                 # error | warning | info | debug
 */
#include <stdint.h>

#include "common/addr.h"
#include "common/config.h"
#include "common/log.h"
#include "node/datapath/datapath.h"
#include "node/gmp/gmp.h"

#define NODE_CONFIG_WHY_MAX 512

struct node_port_pattern {
	char *match; /* fnmatch(3) on the interface's name */
	uint32_t segment;
	enum gmp_router router;
};

/* How copies get to other nodes. */
enum node_overlay_path {
	NODE_OVERLAY_PATH_AUTO,	  /* right onto the link where that is all there is to it */
	NODE_OVERLAY_PATH_DEVICE, /* always through the VXLAN device */
};

/* How copies get to workloads behind a veth. */
enum node_delivery {
	NODE_DELIVERY_AUTO,   /* PEER where the host has nothing at the port's egress */
	NODE_DELIVERY_PEER,   /* right into the other end */
	NODE_DELIVERY_EGRESS, /* out of the port, past what is there */
};

struct node_config {
	char *node;
	struct addr vtep;
	char **controllers; /* NULL-terminated, maybe empty */
	char *socket;
	char *socket_group; /* NULL: as the process */
	char *metrics;	    /* where HTTP shows them; NULL: nowhere */
	char *state_dir;
	char *overlay_device;
	uint16_t overlay_port;
	enum node_overlay_path overlay_path;
	enum node_delivery delivery;
	struct node_port_pattern *ports;
	size_t n_ports;
	struct gmp_config gmp;
	struct datapath_options datapath; /* root is owned */
	struct config_tls *tls;		  /* NULL: plaintext */
	enum log_level log_level;
};

/* What the command line says in place of the file, which all nodes can then share. */
struct node_config_own {
	const char *node, *vtep; /* NULL: as the file has it */
};

/* 0, or -errno with *why a sentence. *ret_config is untouched on failure. */
int node_config_load(const char *path, const struct node_config_own *own,
		     struct node_config **ret_config, char why[NODE_CONFIG_WHY_MAX]);

/* HOST:PORT[,HOST:PORT…] of the command line; first: in place of the file's. */
int node_config_add_controllers(struct node_config *config, const char *list, bool first,
				char why[NODE_CONFIG_WHY_MAX]);
void node_config_free(struct node_config *config);
