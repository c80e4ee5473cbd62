/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Being there. The key controller/ID says that this controller lives; a lease
 * removes it soon after it does not. It is written anew at every beat, and the
 * beat counts when the watch shows it: then a write has gone through the
 * cluster's agreement and come back, and everything before it is known here.
 * One measure for a lost etcd, a member without its cluster, a watch that hangs
 * and a process that was stopped.
 *
 * Compaction. History is what lets a controller start, and agents go on, without
 * snapshots, so it is kept for some minutes and for some thousand revisions, and
 * never beyond what a living controller has followed. Whoever finds it due
 * writes the key `compact` first, so that a start knows how far back it can go.
 */
#include <errno.h>
#include <inttypes.h>
#include <sodium/randombytes.h>
#include <stdlib.h>
#include <string.h>

#include "controller/store/etcd_internal.h"

#define PUT_PATH     "/etcdserverpb.KV/Put"
#define TXN_PATH     "/etcdserverpb.KV/Txn"
#define COMPACT_PATH "/etcdserverpb.KV/Compact"
#define GRANT_PATH   "/etcdserverpb.Lease/LeaseGrant"
#define REVOKE_PATH  "/etcdserverpb.Lease/LeaseRevoke"
#define RENEW_PATH   "/etcdserverpb.Lease/LeaseKeepAlive"
#define REVOKE_MS    300

/* ---- the lease -------------------------------------------------------------------- */

static void granted(void *userdata, int status, const char *text, const ProtobufCMessage *answer)
{
	const Etcdserverpb__LeaseGrantResponse *a =
		(const Etcdserverpb__LeaseGrantResponse *)answer;
	struct etcd *e = userdata;

	e->granting = false;
	if (status != RPC_OK)
		return;
	e->lease = a->id;
	e->renew_at_ms = etcd_now_ms() + ETCD_RENEW_MS;
	e->beat_at_ms = 0;
}

static void lease_grant(struct etcd *e)
{
	Etcdserverpb__LeaseGrantRequest q = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;

	q.ttl = ETCD_LEASE_S;
	e->granting =
		etcd_client_call(e->client, GRANT_PATH, &q.base,
				 &etcdserverpb__lease_grant_response__descriptor, granted, e) == 0;
}

static void renewed(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Etcdserverpb__LeaseKeepAliveResponse *m =
		(const Etcdserverpb__LeaseKeepAliveResponse *)message;
	struct etcd *e = rpc_call_userdata(call);

	if (e && e->renewals == call && m && m->id == e->lease && m->ttl <= 0)
		e->lease = 0; /* it ran out: the next turn asks for another */
}

static void renewals_closed(struct rpc_call *call, int status, const char *text)
{
	struct etcd *e = rpc_call_userdata(call);

	if (e && e->renewals == call)
		e->renewals = NULL;
}

static void lease_renew(struct etcd *e)
{
	static const struct rpc_call_ops ops = { renewed, NULL, renewals_closed };
	Etcdserverpb__LeaseKeepAliveRequest q = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;

	if (!e->renewals && etcd_client_stream(e->client, RENEW_PATH,
					       &etcdserverpb__lease_keep_alive_response__descriptor,
					       &ops, e, &e->renewals) < 0)
		return;
	q.id = e->lease;
	rpc_call_send(e->renewals, &q.base);
}

static void revoked(void *userdata, int status, const char *text, const ProtobufCMessage *answer)
{
	*(bool *)userdata = true;
}

/* At a clean end the others need not wait for the lease; bounded. */
void etcd_beat_revoke(struct etcd *e)
{
	Etcdserverpb__LeaseRevokeRequest q = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
	uint64_t end_ms = etcd_now_ms() + REVOKE_MS;
	bool done = false;

	if (!e->lease || !etcd_client_is_ready(e->client))
		return;
	q.id = e->lease;
	if (etcd_client_call(e->client, REVOKE_PATH, &q.base,
			     &etcdserverpb__lease_revoke_response__descriptor, revoked, &done) < 0)
		return;
	while (!done && etcd_now_ms() < end_ms)
		rpc_poll(e->rpc, end_ms);
}

/* ---- another epoch ------------------------------------------------------------------ */

static void epoch_begun(void *userdata, int status, const char *text,
			const ProtobufCMessage *answer)
{
	struct etcd *e = userdata;

	if (status == RPC_OK)
		etcd_lost(e, "etcd has gone back to an older state: a new epoch begins");
}

/* Only if nobody else did it already. */
static void epoch_begin(struct etcd *e)
{
	struct etcd_epoch_txn txn;

	etcd_epoch_txn_init(&txn, e, e->meta_mod);
	etcd_client_call(e->client, TXN_PATH, &txn.request.base,
			 &etcdserverpb__txn_response__descriptor, epoch_begun, e);
}

void etcd_ahead(struct store *store, uint64_t revision)
{
	struct etcd *e = (struct etcd *)store;

	/* A young epoch has lost nothing yet; and one agent that is wrong must not
	 * keep the mesh beginning anew. */
	if (!store->is_fresh && revision > e->ahead)
		e->ahead = revision;
}

/* ---- beats ------------------------------------------------------------------------- */

static void beaten(void *userdata, int status, const char *text, const ProtobufCMessage *answer)
{
	const Etcdserverpb__PutResponse *a = (const Etcdserverpb__PutResponse *)answer;
	struct etcd *e = userdata;
	uint64_t revision;

	e->beating = false;
	if (status != RPC_OK) {
		if (status == RPC_NOT_FOUND)
			e->lease = 0; /* the process was away for longer than it lasts */
		else if (status != RPC_CANCELLED)
			etcd_trouble(e, "etcd does not take a change: %s",
				     text[0] ? text : rpc_status_name(status));
		return;
	}
	if (!a->header)
		return;
	/* The answer has everything that was written before the beat was sent. */
	revision = (uint64_t)a->header->revision;
	if (e->loaded && (revision < e->asked_revision || a->header->cluster_id != e->cluster_id))
		epoch_begin(e);
	else if (e->ahead <= revision)
		e->ahead = 0;
}

static void beat(struct etcd *e, uint64_t now_ms)
{
	Mcmesh__Store__Controller m = MCMESH__STORE__CONTROLLER__INIT;
	Etcdserverpb__PutRequest q = ETCDSERVERPB__PUT_REQUEST__INIT;
	char key[ETCD_KEY_MAX];
	uint8_t value[256];

	e->beat_at_ms = now_ms + ETCD_BEAT_MS;
	m.address = e->address;
	m.beat = ++e->beat;
	m.revision = e->store.revision;
	etcd_key(e, key, "controller/%s", e->id);
	q.key = etcd_bytes(key);
	q.value = (ProtobufCBinaryData){ mcmesh__store__controller__pack(&m, value), value };
	q.lease = e->lease;
	e->asked_revision = e->ahead > e->store.revision ? e->ahead : e->store.revision;
	e->beat_sent_ms = now_ms;
	e->beating = etcd_client_call(e->client, PUT_PATH, &q.base,
				      &etcdserverpb__put_response__descriptor, beaten, e) == 0;
}

void etcd_beat_seen(struct etcd *e, uint64_t number)
{
	if (number != e->beat)
		return;
	e->progress_ms = e->beat_sent_ms;
	e->stall_ms = ETCD_STALL_MS;
}

void etcd_beat_gone(struct etcd *e)
{
	struct rpc_call *call = e->renewals;

	if (!call)
		return;
	e->renewals = NULL;
	rpc_call_set_userdata(call, NULL);
	rpc_call_cancel(call);
}

/* ---- compaction --------------------------------------------------------------------- */

static void compacted(void *userdata, int status, const char *text, const ProtobufCMessage *answer)
{
	/* Too late or too early: the next one comes. */
}

static void announced(void *userdata, int status, const char *text, const ProtobufCMessage *answer)
{
	Etcdserverpb__CompactionRequest q = ETCDSERVERPB__COMPACTION_REQUEST__INIT;
	struct etcd *e = userdata;

	if (status != RPC_OK)
		return;
	q.revision = (int64_t)e->compact_to;
	etcd_client_call(e->client, COMPACT_PATH, &q.base,
			 &etcdserverpb__compaction_response__descriptor, compacted, e);
}

static void compact(struct etcd *e, uint64_t revision)
{
	Mcmesh__Store__Compacted m = MCMESH__STORE__COMPACTED__INIT;
	Etcdserverpb__PutRequest q = ETCDSERVERPB__PUT_REQUEST__INIT;
	char key[ETCD_KEY_MAX];
	uint8_t value[16];

	m.revision = e->compact_to = revision;
	etcd_key(e, key, "compact");
	q.key = etcd_bytes(key);
	q.value = (ProtobufCBinaryData){ mcmesh__store__compacted__pack(&m, value), value };
	etcd_client_call(e->client, PUT_PATH, &q.base, &etcdserverpb__put_response__descriptor,
			 announced, e);
}

static void compact_turn(struct etcd *e, uint64_t now_ms)
{
	uint64_t to = e->compact_next, slowest = e->store.revision;
	struct etcd_peer *peer, *tmp;

	if (now_ms < e->compact_at_ms)
		return;
	/* Not all controllers at once; what one has done is done for all. */
	e->compact_at_ms = now_ms + ETCD_COMPACT_MS + randombytes_uniform(ETCD_COMPACT_MS / 4);
	HASH_ITER (hh, e->peers, peer, tmp)
		slowest = peer->revision < slowest ? peer->revision : slowest;
	/* What was new at the last look is old enough at this one. */
	e->compact_next = e->store.revision;
	to = slowest < to ? slowest : to;
	if (to + ETCD_HISTORY_KEPT > e->store.revision)
		to = e->store.revision > ETCD_HISTORY_KEPT ? e->store.revision - ETCD_HISTORY_KEPT
							   : 0;
	to = slowest < to ? slowest : to;
	if (to <= e->compacted ||
	    (e->compacted_ms && now_ms - e->compacted_ms < ETCD_COMPACT_MS / 2))
		return;
	compact(e, to);
}

/* ---- the turn ------------------------------------------------------------------------ */

static void stall_turn(struct etcd *e, uint64_t now_ms)
{
	uint64_t since_ms = e->progress_ms > e->moved_ms ? e->progress_ms : e->moved_ms;

	/* Behind, but it goes on: another member would not be faster. */
	if (e->heard_ms > since_ms)
		since_ms = e->heard_ms;
	if (now_ms < since_ms + e->stall_ms)
		return;
	/* With much to tell a member needs long for the first of it. */
	e->stall_ms = e->stall_ms < ETCD_STALL_MAX_MS ? 2 * e->stall_ms : ETCD_STALL_MAX_MS;
	e->moved_ms = now_ms;
	etcd_client_move(e->client, "a change does not come back from it");
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

uint64_t etcd_beat_turn(struct etcd *e, uint64_t now_ms)
{
	uint64_t next_ms = e->progress_ms + ETCD_PROGRESS_MS;

	/* At the moment when it begins to count, somebody has to look. */
	if (next_ms <= now_ms)
		next_ms = UINT64_MAX;
	if (!etcd_client_is_ready(e->client))
		return next_ms;
	if (!e->lease && !e->granting)
		lease_grant(e);
	if (e->lease && now_ms >= e->renew_at_ms) {
		e->renew_at_ms = now_ms + ETCD_RENEW_MS;
		lease_renew(e);
	}
	if (e->lease && !e->beating && now_ms >= e->beat_at_ms)
		beat(e, now_ms);
	if (!e->loaded)
		return now_ms + ETCD_BEAT_MS;
	compact_turn(e, now_ms);
	etcd_audit_turn(e, now_ms);
	stall_turn(e, now_ms);
	next_ms = earlier(next_ms, e->beat_at_ms > now_ms ? e->beat_at_ms : now_ms + ETCD_BEAT_MS);
	return earlier(next_ms, e->renew_at_ms > now_ms ? e->renew_at_ms : now_ms + ETCD_BEAT_MS);
}
