/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* MeshService (mesh_*.c, page.c) and its Watch (watch.c). */
#include "controller/controller.h"
#include "controller/wire.h"

#define MESH_PAGE_MAX	  10000		    /* rows of one answer */
#define MESH_PAGE_BYTES	  (3 * 1024 * 1024) /* below gRPC's receive limit */
#define MESH_ROUTES_MAX	  (3 * 1024 * 1024) /* bytes of a node's routes in one answer */
#define MESH_WHY_MAX	  160
#define MESH_CALLS_MAX	  4096 /* open */
#define MESH_WAITERS_MAX  256
#define WATCH_BACKLOG_MAX (1024 * 1024)
#define WATCH_STALL_MS	  10000
#define WATCH_BOOKMARK_MS 5000
#define WATCH_PER_TURN	  512 /* events for one watcher between two looks at other RPCs */

extern const struct rpc_method mesh_service_methods[];
extern const size_t mesh_service_n_methods;

int mesh_new(struct controller *c, struct mesh **ret_mesh);
void mesh_free(struct mesh *mesh);
/* There is news of a session (an acknowledgement, its end) or of a question: who
 * waits for it is looked at in this turn. */
void mesh_converge(struct mesh *mesh, const void *who);
uint64_t mesh_turn(struct mesh *mesh, uint64_t now_ms);
void mesh_drain(struct mesh *mesh, const char *reason);

Mcmesh__V1__Node *mesh_node(struct controller *c, struct arena *arena,
			    const struct registry_node *node);
char *mesh_epoch_text(struct controller *c, struct arena *arena);
/* Text that must be a group: 0, or -EINVAL and a sentence. */
int mesh_group_parse(const char *text, struct addr *ret_group, char ret_why[MESH_WHY_MAX]);

/* ---- page.c: where a list goes on ---------------------------------------------- */

struct page {
	uint64_t revision; /* of the first page */
	uint32_t size;
	bool has_position;
	/* The first row of this page comes at or after it. */
	uint32_t kind, segment;
	struct addr group;
	char node[LOG_NAME_MAX], port[LOG_PORT_MAX];
};

/* 0 or -EINVAL for a token that is not ours, of another list or epoch. */
int page_parse(const struct log *log, enum log_kind kind, uint32_t size, const char *token,
	       struct page *ret_page);
char *page_token(const struct log *log, struct arena *arena, const struct page *page,
		 const struct log_row *next);
struct log_row *page_seek(const struct log *log, const struct page *page, uint32_t kind,
			  uint32_t segment, const struct addr *group);

/* ---- watch.c --------------------------------------------------------------------- */

int watches_new(struct controller *c, struct watches **ret_watches);
void watches_free(struct watches *watches);
void watch_open(struct rpc_call *call);
void watch_message(struct rpc_call *call, const ProtobufCMessage *message);
void watch_drained(struct rpc_call *call);
void watch_close(struct rpc_call *call, int status, const char *text);
uint64_t watches_turn(struct watches *watches, uint64_t now_ms);
void watches_drain(struct watches *watches, const char *reason);
