/* SPDX-License-Identifier: Apache-2.0 */
/* Questions to agents through their Sync stream, each with a deadline. */
#include <errno.h>
#include <stdlib.h>

#include "controller/node_service.h"

struct query {
	uint64_t id, deadline_ms;
	query_done *done;
	void *userdata;
	TAILQ_ENTRY(query) link;
};

int session_query(struct session *s, Mcmesh__V1__Query *message, query_done *done, void *userdata)
{
	static uint64_t last_id;
	Mcmesh__V1__ControllerMessage m = MCMESH__V1__CONTROLLER_MESSAGE__INIT;
	struct query *q;

	if (s->n_queries >= NODE_QUERIES_MAX)
		return -EBUSY;
	q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	q->id = message->id = ++last_id;
	q->deadline_ms = controller_now_ms() + NODE_QUERY_TIMEOUT_MS;
	if (q->deadline_ms < s->c->query_ms)
		s->c->query_ms = q->deadline_ms;
	q->done = done;
	q->userdata = userdata;
	TAILQ_INSERT_TAIL(&s->queries, q, link);
	s->n_queries++;
	s->c->counters.queries++;
	m.message_case = MCMESH__V1__CONTROLLER_MESSAGE__MESSAGE_QUERY;
	m.query = message;
	session_send(s, &m);
	return 0;
}

static void query_end(struct session *s, struct query *q, int status, const char *text,
		      const Mcmesh__V1__Answer *part)
{
	query_done *done = q->done;
	void *userdata = q->userdata;

	TAILQ_REMOVE(&s->queries, q, link);
	s->n_queries--;
	free(q);
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
		query_end(s, q, (int)answer->code, answer->error, NULL);
	else if (answer->more)
		q->done(q->userdata, RPC_OK, "", answer);
	else
		query_end(s, q, RPC_OK, "", answer);
}

void query_end_all(struct session *s, int status, const char *text)
{
	struct query *q;

	while ((q = TAILQ_FIRST(&s->queries)))
		query_end(s, q, status, text, NULL);
}

void session_query_forget(struct session *s, void *userdata)
{
	struct query *q, *next;

	for (q = TAILQ_FIRST(&s->queries); q; q = next) {
		next = TAILQ_NEXT(q, link);
		if (q->userdata != userdata)
			continue;
		TAILQ_REMOVE(&s->queries, q, link);
		s->n_queries--;
		free(q);
	}
}

uint64_t query_turn(struct session *s, uint64_t now_ms)
{
	struct query *q;

	/* One timeout for all, so the first is the next. */
	while ((q = TAILQ_FIRST(&s->queries)) && now_ms >= q->deadline_ms) {
		s->c->counters.queries_timed_out++;
		query_end(s, q, RPC_DEADLINE_EXCEEDED, "the node's agent did not answer in time",
			  NULL);
	}
	return q ? q->deadline_ms : CONTROLLER_NEVER;
}
