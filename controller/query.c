/* SPDX-License-Identifier: Apache-2.0 */
/* Questions to agents through their Sync stream, each with a deadline. */
#include <errno.h>
#include <stdlib.h>

#include "controller/node_service.h"

struct query {
	uint64_t id, deadline_ms;
	struct session *session;
	query_done *done;
	void *userdata;
	TAILQ_ENTRY(query) link, by_deadline;
};

struct queries {
	TAILQ_HEAD(, query) by_deadline; /* one timeout for all: in the order they were asked */
	uint64_t last_id;
};

int queries_new(struct queries **ret_queries)
{
	struct queries *qs = calloc(1, sizeof(*qs));

	if (!qs)
		return -ENOMEM;
	TAILQ_INIT(&qs->by_deadline);
	*ret_queries = qs;
	return 0;
}

void queries_free(struct queries *qs)
{
	free(qs);
}

int session_query(struct session *s, Mcmesh__V1__Query *message, query_done *done, void *userdata,
		  struct query **ret_query)
{
	struct queries *qs = s->c->queries;
	Mcmesh__V1__ControllerMessage m = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
	struct query *q;

	if (s->n_queries >= NODE_QUERIES_MAX)
		return -EBUSY;
	q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	q->id = message->id = ++qs->last_id;
	q->deadline_ms = controller_now_ms() + NODE_QUERY_TIMEOUT_MS;
	q->session = s;
	q->done = done;
	q->userdata = userdata;
	TAILQ_INSERT_TAIL(&s->queries, q, link);
	TAILQ_INSERT_TAIL(&qs->by_deadline, q, by_deadline);
	s->n_queries++;
	s->c->counters.queries++;
	m.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_QUERY;
	m.query = message;
	session_send(s, &m);
	*ret_query = q;
	return 0;
}

void query_cancel(struct query *q)
{
	if (!q)
		return;
	TAILQ_REMOVE(&q->session->queries, q, link);
	TAILQ_REMOVE(&q->session->c->queries->by_deadline, q, by_deadline);
	q->session->n_queries--;
	free(q);
}

static void query_end(struct query *q, int status, const char *text, const Mcmesh__V1__Answer *part)
{
	query_done *done = q->done;
	void *userdata = q->userdata;

	query_cancel(q);
	done(userdata, status, text, part);
}

void query_answered(struct session *s, const Mcmesh__V1__Answer *answer)
{
	struct query *q;

	TAILQ_FOREACH(q, &s->queries, link)
	{
		if (q->id == answer->id)
			break;
	}
	if (!q)
		return; /* too late */
	if (answer->code != RPC_OK)
		query_end(q, answer->code <= RPC_UNAUTHENTICATED ? (int)answer->code : RPC_UNKNOWN,
			  answer->error, NULL);
	else if (answer->more)
		q->done(q->userdata, RPC_OK, "", answer);
	else
		query_end(q, RPC_OK, "", answer);
}

void query_end_all(struct session *s, int status, const char *text)
{
	struct query *q;

	while ((q = TAILQ_FIRST(&s->queries)))
		query_end(q, status, text, NULL);
}

uint64_t queries_turn(struct queries *qs, uint64_t now_ms)
{
	struct query *q;

	while ((q = TAILQ_FIRST(&qs->by_deadline)) && now_ms >= q->deadline_ms) {
		q->session->c->counters.queries_timed_out++;
		query_end(q, RPC_DEADLINE_EXCEEDED, "the node's agent did not answer in time",
			  NULL);
	}
	return q ? q->deadline_ms : CONTROLLER_NEVER;
}
