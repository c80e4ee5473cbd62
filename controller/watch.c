/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: Watch
 *
 * A watcher is a position, not a queue: first a walk over the order of keys
 * (the current state), then the revision up to which it was sent the log, and
 * the serial up to which it was sent changes of nodes' states. What changes
 * during the walk follows it, newer over older. A watcher that takes nothing
 * for WATCH_STALL_MS, or that the log no longer reaches, is shed. An idle
 * watcher costs a turn nothing.
 */
#include <errno.h>
#include <inttypes.h>
#include <sodium/utils.h>
#include <stdlib.h>
#include <string.h>

#include "controller/mesh_service.h"
#include "mcmesh/v1/mesh.pb-c.h"

enum watch_phase {
	WATCH_OPENED,
	WATCH_STATE,
	WATCH_CHANGES,
	WATCH_ENDED,
};

TAILQ_HEAD(watchers, watcher);

struct watcher {
	struct controller *c;
	struct rpc_call *call;
	enum watch_phase phase;
	uint32_t segment;
	bool has_group, members_only;
	struct addr group;
	char node[LOG_NAME_MAX];
	uint64_t start;	 /* the log's revision when the walk began */
	uint64_t sent;	 /* the log up to here */
	uint64_t serial; /* nodes' changes up to here */
	/* The walk goes on at or after this row. */
	uint32_t at_kind, at_segment;
	struct addr at_group;
	char at_node[LOG_NAME_MAX];
	uint64_t stalled_ms; /* 0: it reads */
	uint64_t sent_ms;
	struct watchers *list; /* where it is; NULL: nowhere, it ends */
	TAILQ_ENTRY(watcher) link;
};

struct watches {
	struct controller *c;
	/* opened: no request yet; ready: to be served; idle: have all that there is,
	 * about by sent_ms; stalled: by stalled_ms. */
	struct watchers opened, ready, idle, stalled;
	uint64_t revision, serial; /* of the log and the registry when they were served */
	size_t n;
	struct arena arena;
};

int watches_new(struct controller *c, struct watches **ret_watches)
{
	struct watches *ws = calloc(1, sizeof(*ws));

	if (!ws)
		return -ENOMEM;
	ws->c = c;
	TAILQ_INIT(&ws->opened);
	TAILQ_INIT(&ws->ready);
	TAILQ_INIT(&ws->idle);
	TAILQ_INIT(&ws->stalled);
	*ret_watches = ws;
	return 0;
}

void watches_free(struct watches *ws)
{
	free(ws);
}

/* The one place where a watcher changes its list. */
static void watch_move(struct watcher *w, struct watchers *list)
{
	if (w->list)
		TAILQ_REMOVE(w->list, w, link);
	w->list = list;
	if (list)
		TAILQ_INSERT_TAIL(list, w, link);
}

static void watch_end(struct watcher *w, int status, const char *text)
{
	if (w->phase == WATCH_ENDED)
		return;
	w->phase = WATCH_ENDED;
	watch_move(w, NULL);
	rpc_call_finish(w->call, status, "%s", text);
}

void watch_open(struct rpc_call *call)
{
	struct controller *c = rpc_call_userdata(call);
	struct watcher *w = calloc(1, sizeof(*w));

	if (!w)
		abort();
	w->c = c;
	w->call = call;
	rpc_call_set_userdata(call, w);
	watch_move(w, &c->watches->opened);
	if (++c->watches->n > c->config->limits.watchers)
		watch_end(w, RPC_RESOURCE_EXHAUSTED, "too many watchers: see limits.watchers");
}

void watch_close(struct rpc_call *call, int status, const char *text)
{
	struct watcher *w = rpc_call_userdata(call);

	watch_move(w, NULL);
	w->c->watches->n--;
	free(w);
}

void watch_drained(struct rpc_call *call)
{
	struct watcher *w = rpc_call_userdata(call);

	w->stalled_ms = 0;
	if (w->list == &w->c->watches->stalled)
		watch_move(w, &w->c->watches->ready);
}

/* "EPOCHHEX:REVISION". */
static int resume_parse(const struct log *log, const char *token, uint64_t *ret_revision)
{
	char mine[2 * EPOCH_LEN + 1], *end;
	uint64_t revision;

	sodium_bin2hex(mine, sizeof(mine), log_epoch(log), EPOCH_LEN);
	if (strlen(token) <= 2 * EPOCH_LEN || token[2 * EPOCH_LEN] != ':' ||
	    strspn(token, "0123456789abcdef") != 2 * EPOCH_LEN)
		return -EINVAL;
	errno = 0;
	revision = strtoull(token + 2 * EPOCH_LEN + 1, &end, 10);
	if (errno || *end || end == token + 2 * EPOCH_LEN + 1)
		return -EINVAL;
	if (strncmp(token, mine, 2 * EPOCH_LEN) != 0 || revision < log_floor(log) ||
	    revision > log_revision(log))
		return -ERANGE;
	*ret_revision = revision;
	return 0;
}

void watch_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Mcmesh__V1__WatchRequest *q = (const Mcmesh__V1__WatchRequest *)message;
	struct watcher *w = rpc_call_userdata(call);
	char why[MESH_WHY_MAX];
	int r;

	if (!q || w->phase != WATCH_OPENED)
		return;
	w->segment = q->segment;
	w->members_only = q->members_only;
	w->has_group = q->group[0];
	if (w->has_group && mesh_group_parse(q->group, &w->group, why) < 0) {
		watch_end(w, RPC_INVALID_ARGUMENT, why);
		return;
	}
	strncpy(w->node, q->node, sizeof(w->node) - 1);
	w->start = w->sent = log_revision(w->c->log);
	w->at_kind = LOG_NODE;
	w->phase = WATCH_STATE;
	w->sent_ms = controller_now_ms();
	watch_move(w, &w->c->watches->ready);
	if (!q->resume_token[0])
		return;
	r = resume_parse(w->c->log, q->resume_token, &w->sent);
	if (r == -EINVAL)
		watch_end(w, RPC_INVALID_ARGUMENT, "the resume token is not one of Watch's");
	else if (r < 0)
		watch_end(w, RPC_OUT_OF_RANGE,
			  "the log no longer reaches this token: watch from the start");
	else
		w->phase = WATCH_CHANGES;
}

/* ---- events ---------------------------------------------------------------------- */

static void event_send(struct watcher *w, Mcmesh__V1__WatchResponse *e, uint64_t revision)
{
	struct arena *arena = &w->c->watches->arena;

	e->revision = revision;
	/* In the middle of the state there is no place to resume from. */
	if (w->phase == WATCH_CHANGES)
		e->resume_token =
			arena_printf(arena, "%s:%" PRIu64, mesh_epoch_text(w->c, arena), w->sent);
	rpc_call_send(w->call, &e->base);
	arena_reset(arena);
	w->sent_ms = controller_now_ms();
}

static bool node_matches(const struct watcher *w, const char *name)
{
	return !w->node[0] || strcmp(w->node, name) == 0;
}

static void node_send(struct watcher *w, const struct registry_node *node, uint64_t revision)
{
	Mcmesh__V1__WatchResponse e = MCMESH__V1__WATCH_RESPONSE__INIT;

	if (w->members_only || !node_matches(w, node->name))
		return;
	e.type = MCMESH__V1__WATCH_RESPONSE__TYPE__PUT;
	e.object_case = MCMESH__V1__WATCH_RESPONSE__OBJECT_NODE;
	e.node = mesh_node(w->c, &w->c->watches->arena, node);
	event_send(w, &e, revision);
}

static void node_row_send(struct watcher *w, const struct log_row *row)
{
	struct registry_node *node = registry_find(w->c->registry, row->node->name);
	Mcmesh__V1__WatchResponse e = MCMESH__V1__WATCH_RESPONSE__INIT;
	Mcmesh__V1__Node gone = MCMESH__V1__NODE__INIT;

	if (!row->deleted) {
		if (node)
			node_send(w, node, row->revision);
		return;
	}
	if (w->members_only || !node_matches(w, row->node->name))
		return;
	gone.name = row->node->name;
	e.type = MCMESH__V1__WATCH_RESPONSE__TYPE__DELETE;
	e.object_case = MCMESH__V1__WATCH_RESPONSE__OBJECT_NODE;
	e.node = &gone;
	event_send(w, &e, row->revision);
}

static void member_send(struct watcher *w, const struct log_row *row)
{
	Mcmesh__V1__WatchResponse e = MCMESH__V1__WATCH_RESPONSE__INIT;

	if ((w->segment && row->key.segment != w->segment) ||
	    (w->has_group && !addr_equal(&row->key.group, &w->group)) ||
	    !node_matches(w, row->node->name))
		return;
	e.type = row->deleted ? MCMESH__V1__WATCH_RESPONSE__TYPE__DELETE
			      : MCMESH__V1__WATCH_RESPONSE__TYPE__PUT;
	e.object_case = MCMESH__V1__WATCH_RESPONSE__OBJECT_MEMBER;
	e.member = wire_member(&w->c->watches->arena, row);
	event_send(w, &e, row->revision);
}

static void row_send(struct watcher *w, const struct log_row *row)
{
	if (row->key.kind == LOG_NODE)
		node_row_send(w, row);
	else if (row->key.kind == LOG_MEMBER)
		member_send(w, row);
}

/* True: the state has been sent. */
static bool state_serve(struct watcher *w)
{
	Mcmesh__V1__WatchResponse e = MCMESH__V1__WATCH_RESPONSE__INIT;
	struct log_row *row;
	int n = 0;

	for (row = log_seek(w->c->log, w->at_kind, w->at_segment, &w->at_group, w->at_node, "");
	     row && row->key.kind <= LOG_MEMBER; row = row->next[0]) {
		if (row->key.kind != LOG_NODE && row->key.kind != LOG_MEMBER) {
			/* Nothing that is watched until there. */
			row = log_seek(w->c->log, LOG_MEMBER, w->segment, &ADDR_NULL, "", "");
			if (!row)
				break;
		}
		if (w->segment && row->key.kind == LOG_MEMBER && row->key.segment > w->segment)
			break;
		if (n++ >= WATCH_PER_TURN) {
			w->at_kind = row->key.kind;
			w->at_segment = row->key.segment;
			w->at_group = row->key.group;
			memcpy(w->at_node, row->node->name, sizeof(w->at_node));
			return false;
		}
		if (!row->deleted)
			row_send(w, row);
	}
	w->phase = WATCH_CHANGES;
	w->sent = w->start;
	e.type = MCMESH__V1__WATCH_RESPONSE__TYPE__SYNCED;
	event_send(w, &e, w->start);
	return true;
}

/* Whole revisions only, so that a resume token never stands inside one. */
static bool changes_serve(struct watcher *w)
{
	struct log_row *row = log_after(w->c->log, w->sent);
	int n = 0;

	while (row) {
		struct log_row *next = TAILQ_NEXT(row, by_log);
		bool last = !next || next->revision != row->revision;
		uint64_t before = w->sent;

		if (last)
			w->sent = row->revision;
		row_send(w, row);
		if (!last)
			w->sent = before;
		if (last && ++n >= WATCH_PER_TURN && next)
			return false;
		row = next;
	}
	w->sent = log_revision(w->c->log);
	return true;
}

static void nodes_serve(struct watcher *w)
{
	struct registry_node *node;

	for (node = registry_changed_after(w->c->registry, w->serial); node;
	     node = TAILQ_NEXT(node, by_serial)) {
		w->serial = node->serial;
		/* A node without its row is not announced yet. */
		if (log_find_live(w->c->log, LOG_NODE, 0, node->name, NULL, NULL))
			node_send(w, node, log_revision(w->c->log));
	}
}

static void bookmark(struct watcher *w, uint64_t now_ms)
{
	Mcmesh__V1__WatchResponse e = MCMESH__V1__WATCH_RESPONSE__INIT;

	if (now_ms < w->sent_ms + WATCH_BOOKMARK_MS)
		return;
	e.type = MCMESH__V1__WATCH_RESPONSE__TYPE__BOOKMARK;
	event_send(w, &e, w->sent);
}

static void watcher_serve(struct watcher *w, uint64_t now_ms)
{
	struct watches *ws = w->c->watches;
	bool done;

	if (rpc_call_backlog(w->call) > WATCH_BACKLOG_MAX) {
		w->stalled_ms = now_ms;
		watch_move(w, &ws->stalled);
		return;
	}
	if (w->sent < log_floor(w->c->log) && w->phase == WATCH_CHANGES) {
		w->c->counters.watchers_shed++;
		watch_end(w, RPC_RESOURCE_EXHAUSTED,
			  "the client fell behind what the log remembers: watch from the start");
		return;
	}
	done = w->phase == WATCH_STATE ? state_serve(w) : changes_serve(w);
	if (done) {
		nodes_serve(w);
		bookmark(w, now_ms);
	}
	/* What changed during the state is due after it. */
	watch_move(w, done && w->sent == log_revision(w->c->log) ? &ws->idle : &ws->ready);
}

static uint64_t stalled_turn(struct watches *ws, uint64_t now_ms)
{
	struct watcher *w;

	while ((w = TAILQ_FIRST(&ws->stalled)) && now_ms >= w->stalled_ms + WATCH_STALL_MS) {
		ws->c->counters.watchers_shed++;
		watch_end(w, RPC_RESOURCE_EXHAUSTED,
			  "the client reads too slowly: resume from the last token");
	}
	return w ? w->stalled_ms + WATCH_STALL_MS : CONTROLLER_NEVER;
}

/* To `ready`: all of the idle when something changed, else who waits for a bookmark. */
static void idle_turn(struct watches *ws, uint64_t now_ms)
{
	bool changed = ws->revision != log_revision(ws->c->log) ||
		       ws->serial != registry_serial(ws->c->registry);
	struct watcher *w;

	ws->revision = log_revision(ws->c->log);
	ws->serial = registry_serial(ws->c->registry);
	while ((w = TAILQ_FIRST(&ws->idle)) &&
	       (changed || now_ms >= w->sent_ms + WATCH_BOOKMARK_MS))
		watch_move(w, &ws->ready);
}

uint64_t watches_turn(struct watches *ws, uint64_t now_ms)
{
	struct watchers round = TAILQ_HEAD_INITIALIZER(round);
	uint64_t next = stalled_turn(ws, now_ms);
	struct watcher *w;

	idle_turn(ws, now_ms);
	/* Each once: who is not done is ready again for the next turn. */
	while ((w = TAILQ_FIRST(&ws->ready)))
		watch_move(w, &round);
	while ((w = TAILQ_FIRST(&round)))
		watcher_serve(w, now_ms);
	if (!TAILQ_EMPTY(&ws->ready))
		return now_ms;
	w = TAILQ_FIRST(&ws->idle);
	if (w && w->sent_ms + WATCH_BOOKMARK_MS < next)
		next = w->sent_ms + WATCH_BOOKMARK_MS;
	return next;
}

static void list_drain(struct watchers *list, const char *reason)
{
	struct watcher *w;

	while ((w = TAILQ_FIRST(list)))
		watch_end(w, RPC_UNAVAILABLE, reason);
}

void watches_drain(struct watches *ws, const char *reason)
{
	list_drain(&ws->opened, reason);
	list_drain(&ws->ready, reason);
	list_drain(&ws->idle, reason);
	list_drain(&ws->stalled, reason);
}
