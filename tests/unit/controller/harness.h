/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A controller in the test's process, served on loopback, and what stands for
 * agents and operators: calls of the same runtime. Nothing moves but in turn().
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/controller.h"
#include "controller/node_service.h"
#include "mcmesh/v1/mesh.pb-c.h"
#include "mcmesh/v1/node.pb-c.h"

#define PATIENCE_MS 10000

extern struct rpc *rpc;
extern struct controller *c;
extern struct controller *second; /* a second one that has its turn too; or NULL */
extern struct controller_config *config;
extern struct rpc_channel *channel;
extern char target[32];	    /* of the channel */
extern int listen_ports[2]; /* of each address that the controller listens on */

/* What an agent saw; messages live only during their callback. */
struct agent {
	struct rpc_call *call;
	uint8_t epoch[EPOCH_LEN];
	uint64_t session, accepted;
	unsigned int deltas, snapshots, completes, resyncs, chunks, refused;
	uint64_t previous, revision; /* segment 1 */
	uint64_t revision0;	     /* segment 0 */
	size_t changes;		     /* of the last delta of segment 1 */
	size_t rows;		     /* of segment 1's last snapshot, as chunks */
	uint64_t snapshot_id;
	uint64_t ended[2]; /* the last snapshot of segments 0 and 1 that ended */
	void (*on_config)(const Mcmesh__V1__ConfigChange *change);
	void (*on_query)(struct agent *agent, const Mcmesh__V1__Query *query);
	bool closed;
	int status;
	char text[128];
};

struct hello {
	const char *node;
	uint8_t vtep, instance;
	uint64_t attempt, revision;
	uint32_t protocol_min, protocol_max; /* 0: this version */
	const uint8_t *epoch;
	const char *known;
	bool v6, groups;	     /* groups: of its segment it asks for some only */
	bool nameless_acks;	     /* of an agent before "ack-snapshot" */
	struct rpc_channel *channel; /* NULL: the channel of all */
};

void turn(void);

#define UNTIL(condition)                                           \
	do {                                                       \
		uint64_t _end = controller_now_ms() + PATIENCE_MS; \
		while (!(condition) && controller_now_ms() < _end) \
			turn();                                    \
		cr_assert(condition);                              \
	} while (0)

void setup_with(void (*configure)(struct controller_config *config));
void setup(void);
void teardown(void);
/* Another controller with the same configuration; the store says what it knows. */
void restart(void);

void agent_open(struct agent *a, const struct hello *q);
void agent_send(struct agent *a, Mcmesh__V1__AgentMessage__MessageCase kind, void *part);
/* One row (group 239.1.1.last), or none when last is 0; waits for its Accepted. */
void agent_report(struct agent *a, uint64_t sequence, bool full, uint8_t last);
/* n rows from 239.2.first on, each with the sources. */
void agent_report_many(struct agent *a, uint64_t sequence, bool full, uint32_t first, uint32_t n,
		       uint32_t n_sources);
void agent_ack(struct agent *a, const uint8_t digest[16]);
/* What the controller says it is, of both segments. */
void agent_ack_right(struct agent *a);
void two_agents(struct agent *a, struct agent *b);

/* One unary call: status and text of its end; *ret_answer is the caller's to free. */
int ask(const char *method, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response, ProtobufCMessage **ret_answer);
extern char ask_text[256];
