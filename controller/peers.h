/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Questions from one controller to another: what only the controller knows that
 * holds a node's session. Asked with `local`, so that nobody passes them on.
 */
#include "common/rpc.h"
#include "controller/controller.h"

#define PEERS_MAX	64
#define PEER_TIMEOUT_MS 2500 /* more than an agent has to answer */

struct peers;
struct question;

int peers_new(struct controller *c, struct peers **ret_peers);
void peers_free(struct peers *peers);

/* Exactly once, not from inside peers_ask(); answer is NULL unless status is
 * RPC_OK. After it the question is gone. */
typedef void question_done(void *userdata, const char *address, int status, const char *text,
			   const ProtobufCMessage *answer);

/* method of MeshService; timeout_ms 0: none. *ret_question is the asker's handle,
 * NULL again once done has come. */
int peers_ask(struct peers *peers, const char *address, const char *method,
	      const ProtobufCMessage *request, const ProtobufCMessageDescriptor *response,
	      uint64_t timeout_ms, question_done *done, void *userdata,
	      struct question **ret_question);
/* done does not come any more. NULL: nothing. */
void question_cancel(struct question *question);
