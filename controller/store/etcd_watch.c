/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watch: the only thing that changes memory after the load. One stream over
 * the whole prefix, from the revision after the last one that was applied, on
 * whichever member; etcd gives each revision whole, in order, and once. Rows gather
 * until their revision ends. A watch that catches up gets 1,000 revisions in one
 * message; etcd could cut it, but in a time that grows with the square of the rows
 * (many seconds for 4 MB), so it is not asked to.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/store/etcd_internal.h"

#define WATCH_PATH "/etcdserverpb.Watch/Watch"

/* ---- holders and peers -------------------------------------------------------------- */

struct etcd_holder *etcd_holder_find(struct etcd *e, const char *node)
{
	struct etcd_holder *h;

	HASH_FIND_STR(e->holders, node, h);
	return h;
}

struct etcd_holder *etcd_holder_get(struct etcd *e, const char *node)
{
	struct etcd_holder *h = etcd_holder_find(e, node);

	if (h)
		return h;
	h = calloc(1, sizeof(*h));
	if (!h)
		return NULL;
	snprintf(h->node, sizeof(h->node), "%s", node);
	TAILQ_INIT(&h->ops);
	HASH_ADD_STR(e->holders, node, h);
	return h;
}

void etcd_holder_release(struct etcd *e, struct etcd_holder *h)
{
	if (h->mod || h->vtep[0] || h->draining || h->dirty || !TAILQ_EMPTY(&h->ops))
		return;
	HASH_DEL(e->holders, h);
	free(h);
}

static struct etcd_peer *peer_find(struct etcd *e, const char *id)
{
	struct etcd_peer *peer;

	HASH_FIND_STR(e->peers, id, peer);
	return peer;
}

enum store_state etcd_holder_state(struct etcd *e, const struct etcd_holder *h)
{
	if (!h->mod)
		return STORE_FREE;
	if (!peer_find(e, h->live.controller))
		return STORE_LOST;
	return h->live.silent ? STORE_SILENT : STORE_ALIVE;
}

static void holder_dirty(struct etcd *e, struct etcd_holder *h)
{
	h->dirty = true;
	e->presence_dirty = true;
}

static void holders_of_dirty(struct etcd *e, const char *id)
{
	struct etcd_holder *h, *tmp;

	HASH_ITER (hh, e->holders, h, tmp) {
		if (h->mod && strcmp(h->live.controller, id) == 0)
			holder_dirty(e, h);
	}
}

static void holder_tell(struct etcd *e, struct etcd_holder *h)
{
	struct etcd_peer *peer = h->mod ? peer_find(e, h->live.controller) : NULL;
	const struct store_presence presence = {
		.node = h->node,
		.state = etcd_holder_state(e, h),
		.ours = h->mod && strcmp(h->live.controller, e->id) == 0,
		.controller = peer ? peer->address : "",
		.session = h->mod ? h->live.session : 0,
		.reported = h->mod && h->live.reported,
	};

	h->dirty = false;
	if (h->node[0])
		e->store.events.on_presence(e->store.userdata, &presence);
	if (h->draining != h->told_draining)
		e->store.events.on_draining(e->store.userdata, h->node, h->draining);
	h->told_draining = h->draining;
	etcd_holder_release(e, h);
}

void etcd_presence_tell(struct etcd *e)
{
	struct etcd_holder *h, *tmp;

	if (!e->presence_dirty || !e->told)
		return;
	e->presence_dirty = false;
	HASH_ITER (hh, e->holders, h, tmp) {
		if (h->dirty)
			holder_tell(e, h);
	}
}

const char *const *etcd_controllers(struct store *store)
{
	struct etcd *e = (struct etcd *)store;
	struct etcd_peer *peer, *tmp;
	size_t n = 0;

	HASH_ITER (hh, e->peers, peer, tmp) {
		if (strcmp(peer->id, e->id) != 0 && peer->address[0] && n < ETCD_PEERS_MAX)
			e->controllers[n++] = peer->address;
	}
	e->controllers[n] = NULL;
	return e->controllers;
}

/* ---- keys ----------------------------------------------------------------------------- */

static void live_take(struct etcd *e, struct etcd_holder *h, const Etcdserverpb__KeyValue *kv)
{
	Mcmesh__Store__Live *m = etcd_unpack(&mcmesh__store__live__descriptor, &kv->value);

	h->mod = (uint64_t)kv->mod_revision;
	memset(&h->live, 0, sizeof(h->live));
	if (!m)
		return; /* of nobody: whoever has the name next takes it */
	if (m->instance.len == STORE_INSTANCE_LEN)
		memcpy(h->live.instance, m->instance.data, STORE_INSTANCE_LEN);
	h->live.start_count = m->start_count;
	h->live.attempt = m->attempt;
	h->live.session = m->session;
	h->live.sequence = m->sequence;
	h->live.write = m->write;
	h->live.silent = m->silent;
	h->live.reported = m->reported.len == EPOCH_LEN &&
			   memcmp(m->reported.data, e->store.epoch, EPOCH_LEN) == 0;
	snprintf(h->live.controller, sizeof(h->live.controller), "%s", m->controller);
	mcmesh__store__live__free_unpacked(m, NULL);
}

static void live_apply(struct etcd *e, const char *node, const Etcdserverpb__KeyValue *kv,
		       bool deleted)
{
	struct etcd_holder *h = etcd_holder_get(e, node);
	struct etcd_live was;

	if (!h) {
		etcd_lost(e, "out of memory");
		return;
	}
	was = h->live;
	if (deleted) {
		h->mod = 0;
		memset(&h->live, 0, sizeof(h->live));
	} else {
		live_take(e, h, kv);
	}
	/* A report accepted is no news of who is there. */
	if (deleted || was.session != h->live.session || was.silent != h->live.silent ||
	    was.reported != h->live.reported || strcmp(was.controller, h->live.controller) != 0)
		holder_dirty(e, h);
}

static void drain_apply(struct etcd *e, const char *node, bool on)
{
	struct etcd_holder *h = etcd_holder_get(e, node);

	if (!h)
		return;
	h->draining = on;
	holder_dirty(e, h);
}

static void peer_gone(struct etcd *e, const char *id)
{
	struct etcd_peer *peer = peer_find(e, id);

	if (!peer)
		return;
	HASH_DEL(e->peers, peer);
	free(peer);
	holders_of_dirty(e, id);
}

static void peer_apply(struct etcd *e, const char *id, const Etcdserverpb__KeyValue *kv)
{
	Mcmesh__Store__Controller *m =
		etcd_unpack(&mcmesh__store__controller__descriptor, &kv->value);
	struct etcd_peer *peer = peer_find(e, id);

	if (!m || strlen(id) > ETCD_ID_LEN)
		goto out;
	if (!peer && HASH_COUNT(e->peers) < ETCD_PEERS_MAX) {
		peer = calloc(1, sizeof(*peer));
		if (!peer)
			goto out;
		snprintf(peer->id, sizeof(peer->id), "%s", id);
		HASH_ADD_STR(e->peers, id, peer);
		holders_of_dirty(e, id);
	}
	if (!peer)
		goto out;
	snprintf(peer->address, sizeof(peer->address), "%s", m->address);
	peer->revision = m->revision;
	if (strcmp(id, e->id) == 0)
		etcd_beat_seen(e, m->beat);
out:
	if (m)
		mcmesh__store__controller__free_unpacked(m, NULL);
}

static void meta_apply(struct etcd *e, const Etcdserverpb__KeyValue *kv, bool deleted)
{
	Mcmesh__Store__Meta *m = NULL;

	if (!deleted)
		m = etcd_unpack(&mcmesh__store__meta__descriptor, &kv->value);
	if (!m || m->epoch.len != EPOCH_LEN ||
	    memcmp(m->epoch.data, e->store.epoch, EPOCH_LEN) != 0)
		etcd_lost(e, "the store has begun another epoch");
	if (m)
		mcmesh__store__meta__free_unpacked(m, NULL);
}

static void compact_apply(struct etcd *e, const Etcdserverpb__KeyValue *kv)
{
	Mcmesh__Store__Compacted *m =
		etcd_unpack(&mcmesh__store__compacted__descriptor, &kv->value);

	if (!m)
		return;
	e->compacted = m->revision;
	e->compacted_ms = etcd_now_ms();
	mcmesh__store__compacted__free_unpacked(m, NULL);
}

static void row_apply(struct etcd *e, const struct etcd_row *row, const Etcdserverpb__KeyValue *kv,
		      bool deleted)
{
	int r = etcd_row_take(&e->gathered, row, kv, deleted);

	if (r == 0)
		return;
	if (r == -ENOMEM) {
		etcd_lost(e, "out of memory");
		return;
	}
	e->broken = true;
	etcd_trouble(e,
		     r == -ENOTSUP ? "the key %.*s was written by a newer version: upgrade this "
				     "controller"
				   : "the value of the key %.*s is damaged: delete it, its agent "
				     "will report it again",
		     (int)kv->key.len, (const char *)kv->key.data);
}

void etcd_apply(struct etcd *e, const Etcdserverpb__KeyValue *kv, bool deleted)
{
	char name[LOG_NAME_MAX];
	struct etcd_row row;

	switch (etcd_key_parse(e, &kv->key, &row, name)) {
	case ETCD_KEY_ROW:
		row_apply(e, &row, kv, deleted);
		break;
	case ETCD_KEY_LIVE:
		live_apply(e, name, kv, deleted);
		break;
	case ETCD_KEY_DRAIN:
		drain_apply(e, name, !deleted);
		break;
	case ETCD_KEY_VTEP:
		etcd_vtep_apply(e, name, deleted ? NULL : kv);
		break;
	case ETCD_KEY_CONTROLLER:
		if (deleted)
			peer_gone(e, name);
		else
			peer_apply(e, name, kv);
		break;
	case ETCD_KEY_META:
		meta_apply(e, kv, deleted);
		break;
	case ETCD_KEY_COMPACT:
		if (!deleted)
			compact_apply(e, kv);
		break;
	case ETCD_KEY_COMPLETE: /* the registry of each controller knows by itself */
	case ETCD_KEY_UNKNOWN:
		break;
	}
}

/* ---- the stream ------------------------------------------------------------------------- */

static void gathered_flush(struct etcd *e)
{
	struct etcd_rows *g = &e->gathered;

	if (!g->n)
		return;
	etcd_rows_tell(e, g->rows, g->n);
	etcd_rows_clear(g);
}

void etcd_reached(struct etcd *e, uint64_t revision)
{
	gathered_flush(e);
	if (revision > e->store.revision)
		e->store.revision = revision;
}

static void watch_events(struct etcd *e, const Etcdserverpb__WatchResponse *m)
{
	uint64_t at = e->store.revision;

	for (size_t i = 0; i < m->n_events && !e->lost; i++) {
		const Etcdserverpb__Event *event = m->events[i];
		uint64_t revision = event->kv ? (uint64_t)event->kv->mod_revision : 0;

		if (revision <= e->store.revision)
			continue; /* applied already */
		if (e->gathered.n && e->gathered.rows[0].revision != revision)
			gathered_flush(e);
		if (at < revision && at > e->store.revision)
			etcd_reached(e, at);
		at = revision;
		etcd_apply(e, event->kv, event->type == ETCDSERVERPB__EVENT__EVENT_TYPE__DELETE);
	}
	if (!e->lost)
		etcd_reached(e, at);
}

static void watch_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Etcdserverpb__WatchResponse *m = (const Etcdserverpb__WatchResponse *)message;
	struct etcd *e = rpc_call_userdata(call);

	if (!e || e->watch != call || !m || e->lost)
		return;
	if (m->canceled) {
		if (m->compact_revision)
			etcd_lost(e, "etcd's history was compacted while this controller was away");
		else
			etcd_client_move(e->client, m->cancel_reason[0] ? m->cancel_reason
									: "it cancelled the watch");
		return;
	}
	if (m->n_events)
		e->heard_ms = etcd_now_ms();
	watch_events(e, m);
	etcd_presence_tell(e);
}

static void watch_closed(struct rpc_call *call, int status, const char *text)
{
	struct etcd *e = rpc_call_userdata(call);

	if (!e || e->watch != call)
		return;
	e->watch = NULL;
	etcd_client_move(e->client, text[0] ? text : "it ended the watch");
}

int etcd_watch_open(struct etcd *e)
{
	static const struct rpc_call_ops ops = { watch_message, NULL, watch_closed };
	Etcdserverpb__WatchRequest q = ETCDSERVERPB__WATCH_REQUEST__INIT;
	Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
	char end[ETCD_PREFIX_MAX];
	int r;

	r = etcd_client_stream(e->client, WATCH_PATH, &etcdserverpb__watch_response__descriptor,
			       &ops, e, &e->watch);
	if (r < 0)
		return r;
	/* Half of a revision from another stream is worth nothing. */
	etcd_rows_clear(&e->gathered);
	memcpy(end, e->prefix, e->prefix_len + 1);
	end[e->prefix_len - 1]++;
	create.key = etcd_bytes(e->prefix);
	create.range_end = etcd_bytes(end);
	create.start_revision = (int64_t)e->store.revision + 1;
	q.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
	q.create_request = &create;
	return rpc_call_send(e->watch, &q.base);
}

void etcd_watch_close(struct etcd *e)
{
	struct rpc_call *call = e->watch;

	if (!call)
		return;
	e->watch = NULL;
	rpc_call_set_userdata(call, NULL);
	rpc_call_cancel(call);
}

void etcd_watch_free(struct etcd *e)
{
	struct etcd_holder *h, *h_tmp;
	struct etcd_peer *peer, *peer_tmp;

	etcd_watch_close(e);
	etcd_vteps_free(e);
	HASH_ITER (hh, e->holders, h, h_tmp) {
		HASH_DEL(e->holders, h);
		free(h);
	}
	HASH_ITER (hh, e->peers, peer, peer_tmp) {
		HASH_DEL(e->peers, peer);
		free(peer);
	}
	etcd_rows_clear(&e->gathered);
	free(e->gathered.rows);
}
