/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The datapath's benchmark: what its files share. Five stands, one a design,
 * stand beside each other with the same devices:
 *
 *   sK (namespace "senders") ── hKn0        one sender
 *   wKnI (namespace "workloads") ── hKnI    receivers 1 … WORKLOADS
 *   vK (namespace "far") ── uK              the underlay; 10.90.K.2 … are nodes
 *   wfK (namespace "workloads") ── fK       the receiver of each of those nodes, which
 *                                           are one node, "far" (datapath_far.c)
 */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <stdio.h>

#include "common/addr.h"

#define WORKLOADS	64
#define SCALE_WORKLOADS 1024
#define REMOTES		64
#define BATCH		64
#define DATA_PORT	5000
#define SEGMENT		1
#define PAYLOAD_MAX	1400

/* UDP ports and networks of the tunnels. */
#define PORT_BRIDGE  4789
#define PORT_MDB     4790
#define PORT_OVERLAY 4797
#define PORT_REF     4798
#define VNI_MDB	     100
#define VNI_RECEIVE  200

enum stand {
	STAND_PRODUCT,
	STAND_BRIDGE, /* snooping; remotes by a head-end FDB */
	STAND_MDB,    /* the same with a VXLAN MDB */
	STAND_REF,
	STAND_REDIRECT,
	STAND_BASE, /* drops at once: what the generator costs */
	STANDS,
};

/* Groups are 239.KIND.VARIANT.FANOUT. */
enum group_kind { GROUP_LOCAL = 1, GROUP_REMOTE, GROUP_MIXED };
enum group_variant { GROUP_PLAIN, GROUP_SIZED };

extern const unsigned int fanouts[];
extern const size_t n_fanouts;

static inline uint32_t group_address(enum group_kind kind, enum group_variant variant,
				     unsigned int fanout)
{
	return 239U << 24 | (uint32_t)kind << 16 | (uint32_t)variant << 8 | fanout;
}

/* Receivers of a group of the kind. */
static inline unsigned int group_locals(enum group_kind kind, unsigned int fanout)
{
	return kind == GROUP_LOCAL ? fanout : kind == GROUP_MIXED ? fanout / 2 : 0;
}

static inline unsigned int group_remotes(enum group_kind kind, unsigned int fanout)
{
	return kind == GROUP_REMOTE ? fanout : kind == GROUP_MIXED ? fanout - fanout / 2 : 0;
}

/* Of the device that has the list of a kind and fan-out. */
static inline unsigned int vni_head_end(enum group_kind kind, unsigned int fanout)
{
	return (unsigned int)kind * 1000 + fanout;
}

#define ROUNDS_MAX 201

struct datapath_bpf;

struct bench {
	struct datapath_bpf *bpf;
	clockid_t ksoftirqd;
	int n_cpus;
	unsigned int rounds, copies; /* copies: of a measurement, about */
	const char *only_peer;	     /* beside the product; NULL: all */
	json_t *rows, *sending, *scale;
};

void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* ---- datapath.c ------------------------------------------------------------- */

double bench_cpu_ns(const struct bench *b);
uint64_t bench_copies(const struct bench *b);
/* Until nothing more arrives, or these. */
uint64_t bench_copies_settled(const struct bench *b, uint64_t want);
double bench_median(double *values, unsigned int n);

/* ---- datapath_scale.c ------------------------------------------------------- */

void scale_run(struct bench *b);

/* ---- datapath_net.c --------------------------------------------------------- */

/* A network and mount namespace of its own, and the three others. */
void net_enter(void);
void net_make_devices(unsigned int stands); /* bits of enum stand */
void net_run(const char *format, ...) __attribute__((format(printf, 1, 2)));
void net_batch(const char *tool, const char *text);

/* "" is the node's own namespace. */
void net_switch(const char *namespace);
uint32_t net_ifindex(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- datapath_peers.c ------------------------------------------------------- */

struct datapath;

void peers_open(struct datapath_bpf *bpf, unsigned int stands);
/* The stands' bridges, in this namespace; fn writes what each has, for `ip` and `bridge`. */
void peers_bridges(unsigned int stands, void (*fn)(FILE *ip, FILE *mdb, unsigned int k));
void peers_attach(int prog_fd, uint32_t ifindex);
void peers_attach_first(int prog_fd, uint32_t ifindex);
void product_open(const char *overlay_path, const char *delivery, const char *engine);
unsigned int product_settle(void);
void product_port(uint32_t ifindex);
/* To the receivers from the first-th on; source: null for any. */
void product_route(uint32_t group, const struct addr *source, unsigned int first, unsigned int n);
void product_route_del(uint32_t group, const struct addr *source);
void product_close(void);

extern const enum group_kind group_kinds[];
extern const size_t n_group_kinds;

struct addr remote_address(unsigned int stand, unsigned int i);
int ref_subscribers(enum group_variant variant, unsigned int n);
void redirect_set(struct datapath_bpf *bpf, uint32_t from, uint32_t kind, uint32_t to);

/* ---- datapath_far.c --------------------------------------------------------- */

void far_open(struct datapath_bpf *bpf, unsigned int stands, const char *overlay_path,
	      const char *delivery);
void far_close(void);

/* ---- datapath_send.c -------------------------------------------------------- */

enum generator_kind {
	GENERATE_WORKLOAD, /* sendmmsg() in the sender's namespace */
	GENERATE_OVERLAY,  /* the same at the far end of the underlay, in VXLAN */
	GENERATE_BURST,	   /* a NIC's: frames enter hKn0 by batches of BATCH */
};

struct flow {
	enum generator_kind kind;
	enum stand stand;
	uint32_t group;
	uint32_t vni;
	uint16_t udp_port; /* of the overlay */
	size_t payload;
};

struct generator;

struct generator *generator_open(const struct flow *flow, int xdp_prog_fd);
void generator_send(struct generator *g, unsigned int packets);
void generator_close(struct generator *g);
