/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the files of MeshService share (mesh_*.c). */
#include <sys/queue.h>

#include "common/cleanup.h"
#include "controller/mesh_service.h"
#include "controller/node_service.h"
#include "controller/peers.h"

enum wait_kind {
	WAIT_NONE,
	WAIT_ROUTES,
	WAIT_VERIFY,
	WAIT_CONVERGED,
	WAIT_COMMIT,
	WAIT_NODES,
};

/* One node of a Verify. */
struct verified {
	struct wait *wait;
	struct query *query; /* open */
	char name[LOG_NAME_MAX];
	char holder[REGISTRY_HOLDER_MAX]; /* the controller that was asked; "": this one */
	bool answered, ok;
	bool absent; /* not connected: not compared */
	char detail[256];
};

/* A place among a node's routes. */
struct route_key {
	uint32_t segment;
	char group[ADDR_TEXT_MAX], source[ADDR_TEXT_MAX];
};

/* A page of a node's routes, filled from the parts that its agent sends. */
struct route_page {
	struct route_key from; /* the first that it may have; group "": any */
	uint32_t n, max;       /* rows */
	uint8_t *bytes;	       /* rows, serialised (parts of one message concatenate) */
	size_t len;
	char *next; /* the token of the next page: this one is full; else NULL */
};

/* A call of MeshService but Watch. */
struct wait {
	struct controller *c;
	struct rpc_call *call; /* NULL: the caller went */
	enum wait_kind kind;
	bool finished;
	unsigned int in_flight; /* store calls */
	uint64_t revision;
	/* Pending: looked at when what it waits for says so (mesh_converge()), or at
	 * the deadline. */
	bool pending, look;
	const void *holdout; /* a session or a struct verified; NULL: any news counts */
	uint64_t deadline_ms;
	/* WAIT_ROUTES: the page so far, serialised (parts of one message concatenate). */
	struct query *query;
	struct route_page routes;
	/* WAIT_VERIFY */
	struct verified *nodes;
	size_t n_nodes;
	uint32_t n_absent; /* of those that other controllers were asked about */
	/* Other controllers that were asked, and have not answered. */
	struct question *questions[PEERS_MAX];
	size_t n_questions, n_open;
	/* WAIT_NODES: their answers */
	Mcmesh__V1__ListNodesResponse *lists[PEERS_MAX];
	size_t n_lists;
	struct page page;
	uint32_t n_converged; /* WAIT_CONVERGED: their nodes */
	TAILQ_ENTRY(wait) link, by_pending;
};

struct mesh {
	struct controller *c;
	TAILQ_HEAD(, wait) waits, pending;
	size_t n_waits, n_pending;
};

/* ---- mesh_service.c ----------------------------------------------------------- */

struct wait *wait_of(struct rpc_call *call);
/* The end of a call; later ones of the same call do nothing. */
void wait_fail(struct wait *w, int status, const char *text);
void wait_reply(struct wait *w, const ProtobufCMessage *message);
void wait_free(struct wait *w);
/* It will be looked at in this turn. -EBUSY, and the call has failed: too many. */
int wait_pend(struct wait *w);
/* A NULL message is the half-close after the request. */
bool wait_is_request(struct wait *w, const ProtobufCMessage *message);
/* 0; otherwise the call has failed with a sentence. */
int wait_group(struct wait *w, const char *text, struct addr *ret_group);

/* Asks another controller for the wait; done comes with the wait unless that is
 * over before. It must call wait_answered() first. */
int wait_ask(struct wait *w, const char *address, const char *method,
	     const ProtobufCMessage *request, const ProtobufCMessageDescriptor *response,
	     uint64_t timeout_ms, question_done *done);
void wait_answered(struct wait *w);

/* ---- route_page.c ------------------------------------------------------------- */

/* size 0: as many as fit. -EINVAL: the token is none of ours. */
int route_page_begin(struct route_page *page, uint32_t size, const char *token);
/* More rows, in the agent's order. -EMSGSIZE: a single one is too large. */
int route_page_add(struct route_page *page, Mcmesh__V1__Route **rows, size_t n);
void route_page_deinit(struct route_page *page);

/* ---- methods -------------------------------------------------------------------- */

void mesh_list_nodes(struct rpc_call *call, const ProtobufCMessage *message);
void mesh_list_groups(struct rpc_call *call, const ProtobufCMessage *message);
void mesh_list_members(struct rpc_call *call, const ProtobufCMessage *message);
void mesh_list_static(struct rpc_call *call, const ProtobufCMessage *message);

void mesh_list_routes(struct rpc_call *call, const ProtobufCMessage *message);
void mesh_verify(struct rpc_call *call, const ProtobufCMessage *message);
void mesh_wait_converged(struct rpc_call *call, const ProtobufCMessage *message);
void verify_check(struct wait *w);
void converged_check(struct wait *w);

void mesh_drain_node(struct rpc_call *call, const ProtobufCMessage *message);
void mesh_add_static(struct rpc_call *call, const ProtobufCMessage *message);
void mesh_remove_static(struct rpc_call *call, const ProtobufCMessage *message);
