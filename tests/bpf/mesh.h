/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Two nodes, joined by an underlay with an MTU of 1,500, and three workloads in
 * network namespaces of their own, so that checksums are left to the link and
 * fragments do not mix. Node a is where the test is.
 *
 *   sender ── p0 ┐ node a ua ══ ub node b ┌ q0 ── far
 *   near   ── p1 ┘                        └ q1 ── spare
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "node/oversize.h"
#include "tests/bpf/harness.h"

#define PORT	 5000
#define GROUP	 "239.1.2.3"
#define GROUP_V6 "ff15::77"
#define DATAGRAM 65000

/* A way of copies. */
struct engine {
	char name[48]; /* not a pointer: it goes to another process */
	bool direct, peer, fan, v6;
	bool clsact; /* as on a kernel without TCX */
	uint8_t dscp;
};

struct mesh {
	struct engine engine;
	int node_a; /* its namespace */
	struct datapath *a, *b;
	struct oversize *oversize;
	int sender, near, far; /* UDP sockets */
	int sender6, near6, far6;
};

/* False: skipped. */
bool mesh_open(const struct engine *engine, struct mesh *ret_mesh);
void mesh_close(struct mesh *mesh);

/* Node a's agent is another one. */
void mesh_reopen_a(struct mesh *mesh);

void mesh_enter(const char *namespace);
void mesh_enter_fd(int fd);

/* What the agents do later, now. */
void mesh_settle(const struct mesh *mesh);
void mesh_route(struct datapath *dp, const char *group, const uint32_t *ports, size_t n,
		const char *remote);

/* The content tells a datagram's length and number from any other's. */
void mesh_fill(uint8_t *data, size_t len, unsigned int number);
void mesh_send(const struct mesh *mesh, int family, const uint8_t *data, size_t len);

/* The next datagram is this one. Its TOS, for IPv4. */
uint8_t mesh_expect(const struct mesh *mesh, const char *who, int fd, const uint8_t *data,
		    size_t len);
void mesh_expect_nothing(const struct mesh *mesh, const char *who, int fd);

/* A datagram of that kind gets to near and far. */
void mesh_check(const struct mesh *mesh, int family, size_t len, unsigned int number);
