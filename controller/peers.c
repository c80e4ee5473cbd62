/* SPDX-License-Identifier: Apache-2.0 */
#include "controller/peers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/cleanup.h"
#include "common/rpc_tls.h"

#define ADDRESS_MAX	128
#define METHOD_PATH_MAX 64

struct peer {
	char address[ADDRESS_MAX];
	struct rpc_channel *channel;
	unsigned int n_questions;
	TAILQ_ENTRY(peer) link;
};

struct peers {
	struct controller *c;
	struct rpc_tls *tls; /* as a client; NULL: plaintext */
	TAILQ_HEAD(, peer) list;
	size_t n;
};

struct question {
	struct peer *peer;
	struct rpc_call *call;
	question_done *done; /* NULL: nobody waits */
	void *userdata;
	struct question **slot; /* where the asker keeps it */
};

int peers_new(struct controller *c, struct peers **ret_peers)
{
	const struct config_tls *t = c->config->tls;
	struct peers *peers = calloc(1, sizeof(*peers));
	char why[RPC_TLS_WHY_MAX];
	int r;

	if (!peers)
		return -ENOMEM;
	peers->c = c;
	TAILQ_INIT(&peers->list);
	if (t) {
		r = rpc_tls_new(&(struct rpc_tls_options){ .cacert = t->cacert,
							   .cert = t->cert,
							   .key = t->key,
							   .server_name = t->server_name,
							   .may_wait = true },
				&peers->tls, why);
		if (r < 0) {
			free(peers);
			return r;
		}
	}
	*ret_peers = peers;
	return 0;
}

static void peer_free(struct peers *peers, struct peer *peer)
{
	TAILQ_REMOVE(&peers->list, peer, link);
	peers->n--;
	rpc_channel_free(peer->channel);
	free(peer);
}

void peers_free(struct peers *peers)
{
	struct peer *peer;

	if (!peers)
		return;
	while ((peer = TAILQ_FIRST(&peers->list)))
		peer_free(peers, peer);
	rpc_tls_free(peers->tls);
	free(peers);
}

/* Room for one that is new: the one that was asked longest ago goes. */
static int peers_make_room(struct peers *peers)
{
	struct peer *peer;

	if (peers->n < PEERS_MAX)
		return 0;
	TAILQ_FOREACH(peer, &peers->list, link)
	{
		if (peer->n_questions)
			continue;
		peer_free(peers, peer);
		return 0;
	}
	return -EBUSY;
}

static struct peer *peer_get(struct peers *peers, const char *address)
{
	struct peer *peer;

	TAILQ_FOREACH(peer, &peers->list, link)
	{
		if (strcmp(peer->address, address) != 0)
			continue;
		TAILQ_REMOVE(&peers->list, peer, link);
		TAILQ_INSERT_TAIL(&peers->list, peer, link);
		return peer;
	}
	if (peers_make_room(peers) < 0)
		return NULL;
	peer = calloc(1, sizeof(*peer));
	if (!peer)
		return NULL;
	snprintf(peer->address, sizeof(peer->address), "%s", address);
	if (rpc_channel_new(
		    peers->c->rpc,
		    &(struct rpc_channel_options){ .target = peer->address, .tls = peers->tls },
		    &peer->channel) < 0) {
		free(peer);
		return NULL;
	}
	TAILQ_INSERT_TAIL(&peers->list, peer, link);
	peers->n++;
	return peer;
}

static void question_end(struct question *q, int status, const char *text,
			 const ProtobufCMessage *answer)
{
	question_done *done = q->done;

	q->done = NULL;
	if (!done)
		return;
	*q->slot = NULL;
	q->peer->n_questions--;
	done(q->userdata, q->peer->address, status, text, answer);
}

static void question_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	if (message)
		question_end(rpc_call_userdata(call), RPC_OK, "", message);
}

static void question_close(struct rpc_call *call, int status, const char *text)
{
	struct question *q = rpc_call_userdata(call);

	question_end(q, status ?: RPC_INTERNAL, text, NULL);
	free(q);
}

int peers_ask(struct peers *peers, const char *address, const char *method,
	      const ProtobufCMessage *request, const ProtobufCMessageDescriptor *response,
	      uint64_t timeout_ms, question_done *done, void *userdata,
	      struct question **ret_question)
{
	static const struct rpc_call_ops ops = { question_message, NULL, question_close };
	struct peer *peer = peer_get(peers, address);
	_cleanup_free_ struct question *q = calloc(1, sizeof(*q));
	char path[METHOD_PATH_MAX];
	int r;

	if (!peer || !q)
		return -ENOMEM;
	q->peer = peer;
	q->done = done;
	q->userdata = userdata;
	q->slot = ret_question;
	snprintf(path, sizeof(path), "/mcmesh.v1.MeshService/%s", method);
	r = rpc_channel_call(peer->channel, path, response, &ops, timeout_ms, q, &q->call);
	if (r < 0)
		return r;
	peer->n_questions++;
	rpc_call_send(q->call, request);
	rpc_call_finish(q->call, 0, "%s", "");
	*ret_question = TAKE_PTR(q);
	return 0;
}

void question_cancel(struct question *q)
{
	if (!q)
		return;
	q->peer->n_questions--;
	q->done = NULL;
	rpc_call_cancel(q->call);
}
