/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the files of the etcd store share; the model is in etcd.c. */
#include <sys/queue.h>
#include <uthash.h>

#include "controller/store/etcd_client.h"
#include "controller/store/store.h"
#include "mcmesh/store/keys.pb-c.h"

#define ETCD_FORMAT	1   /* of the keys and values */
#define ETCD_KEY_MAX	320 /* without the prefix less */
#define ETCD_PREFIX_MAX 128
#define ETCD_ID_LEN	16 /* characters */
/* Of one transaction. A watch that catches up gets 1,000 of them in one answer. */
#define ETCD_TXN_OPS 128 /* etcd's own default */
#define ETCD_TXN_SENTENCE                                                                 \
	"etcd takes fewer than %1$d operations in a transaction: start its members with " \
	"--max-txn-ops %1$d or more"
#define ETCD_TXN_PUTS	  120 /* rows of one node */
#define ETCD_TXN_NODES	  32
#define ETCD_TXN_MORE	  3 /* of one node besides: who speaks for it, VTEPs taken and left */
#define ETCD_TXN_BYTES	  (64 * 1024)
#define ETCD_ROW_BYTES	  64	/* of a row about, without its value */
#define ETCD_SENT_MAX	  8	/* transactions on their way */
#define ETCD_OP_MS	  10000 /* then an operation fails, unless there is progress */
#define ETCD_RETRY_MS	  200
#define ETCD_BEAT_MS	  500
#define ETCD_PROGRESS_MS  3000 /* without any: out of the game */
#define ETCD_STALL_MS	  1500 /* without any: try another member */
#define ETCD_STALL_MAX_MS 20000
#define ETCD_LEASE_S	  5
#define ETCD_RENEW_MS	  (ETCD_LEASE_S * 1000 / 3)
#define ETCD_OPEN_MS	  10000 /* to find the cluster at start */
#define ETCD_CLOSE_MS	  300	/* for what was asked last */
#define ETCD_LOAD_MS	  60000
/* Rows of one Range. Etcd counts all that follow anew for each, so few are cheap. */
#define ETCD_PAGE	  10000
#define ETCD_AUDIT_PAGE	  4000	/* between which agents are served */
#define ETCD_HISTORY_MAX  5000	/* revisions that a start goes back */
#define ETCD_HISTORY_KEPT 10000 /* that a compaction leaves at least */
#define ETCD_COMPACT_MS	  (5 * 60 * 1000)
#define ETCD_AUDIT_MS	  (3 * 60 * 1000)
#define ETCD_PEERS_MAX	  64

enum etcd_key_kind {
	ETCD_KEY_UNKNOWN,
	ETCD_KEY_ROW,
	ETCD_KEY_LIVE,
	ETCD_KEY_DRAIN,
	ETCD_KEY_VTEP,
	ETCD_KEY_CONTROLLER,
	ETCD_KEY_META,
	ETCD_KEY_COMPLETE,
	ETCD_KEY_COMPACT,
};

/* A row with all that it needs of its own. */
struct etcd_row {
	struct log_change change;
	uint64_t revision;
	char node[LOG_NAME_MAX], port[LOG_PORT_MAX];
	struct log_config config;
};

struct etcd_rows {
	struct etcd_row *rows;
	size_t n, size;
};

/* Another controller, or this one. */
struct etcd_peer {
	char id[ETCD_ID_LEN + 1];
	char address[128];
	uint64_t revision;
	UT_hash_handle hh;
};

struct etcd_live {
	uint8_t instance[STORE_INSTANCE_LEN];
	uint64_t start_count, attempt, session, sequence, write;
	char controller[ETCD_ID_LEN + 1];
	bool silent, reported;
};

TAILQ_HEAD(etcd_ops, etcd_op);

/* What `live/NODE` and `drain/NODE` say, and who waits to write for the node. */
struct etcd_holder {
	char node[LOG_NAME_MAX];
	struct etcd_live live;
	uint64_t mod;		  /* of live/NODE; 0: there is none */
	char vtep[ADDR_TEXT_MAX]; /* that is the node's; "": none */
	uint64_t refused;	  /* this session of it got no VTEP, and does nothing more */
	bool draining, told_draining, dirty;
	struct etcd_ops ops; /* the first is at work */
	bool active;	     /* it has some */
	TAILQ_ENTRY(etcd_holder) by_active;
	UT_hash_handle hh;
};

struct etcd {
	struct store store;
	struct rpc *rpc;
	struct etcd_client *client;
	char prefix[ETCD_PREFIX_MAX];
	size_t prefix_len;
	char id[ETCD_ID_LEN + 1], address[128];
	uint64_t cluster_id, meta_mod;
	bool loaded; /* the rows of the floor; from now on by the watch */
	bool told;   /* the controller knows who holds which node */
	bool lost, broken;
	uint64_t next_ms, beat_next_ms, ops_next_ms;
	char trouble[ETCD_WHY_MAX];

	/* etcd_watch.c */
	struct rpc_call *watch;
	struct etcd_rows gathered; /* of one revision */
	struct etcd_holder *holders;
	struct etcd_vtep *vteps;
	struct etcd_peer *peers;
	bool presence_dirty;
	const char *controllers[ETCD_PEERS_MAX + 1];

	/* etcd_ops.c */
	TAILQ_HEAD(, etcd_holder) active;
	TAILQ_HEAD(, etcd_batch) batches; /* on their way */
	uint64_t last_write;
	size_t n_ops, n_sent;

	/* etcd_audit.c */
	uint64_t audit_at_ms, audit_revision; /* 0: none is under way */
	char audit_from[ETCD_KEY_MAX + 1];
	size_t audit_from_len;
	uint64_t audits;

	/* etcd_beat.c */
	struct rpc_call *renewals;
	int64_t lease;
	bool granting, beating;
	uint64_t beat, beat_sent_ms, beat_at_ms, renew_at_ms, renewed_ms;
	uint64_t progress_ms, moved_ms, heard_ms, stall_ms;
	uint64_t ahead;		 /* an agent's revision that was not reached yet */
	uint64_t asked_revision; /* the beat on its way must come after it */
	uint64_t compacted, compacted_ms, compact_at_ms, compact_to, compact_next;
};

/* ---- etcd_audit.c ------------------------------------------------------------- */

void etcd_audit_turn(struct etcd *e, uint64_t now_ms);

uint64_t etcd_now_ms(void);
void etcd_trouble(struct etcd *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
void etcd_lost(struct etcd *e, const char *why);

/* A new epoch, if `meta` is still as of revision `mod` (0: not there). In one place,
 * as its parts point to each other; do not copy it. */
struct etcd_epoch_txn {
	Etcdserverpb__TxnRequest request;
	Etcdserverpb__Compare compare, *compares;
	Etcdserverpb__RequestOp op, *ops;
	Etcdserverpb__PutRequest put;
	char key[ETCD_KEY_MAX];
	uint8_t value[64];
};

/* ---- etcd_keys.c -------------------------------------------------------------- */

/* Appends to the prefix; the buffer is ETCD_KEY_MAX. */
void etcd_key(const struct etcd *e, char *ret_key, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void etcd_key_of_row(const struct etcd *e, char *ret_key, const struct log_change *change);
ProtobufCBinaryData etcd_bytes(const char *key);
void etcd_epoch_txn_init(struct etcd_epoch_txn *txn, const struct etcd *e, uint64_t mod);
/* ret_row: of ETCD_KEY_ROW the key's part; ret_name: what follows the first word. */
enum etcd_key_kind etcd_key_parse(const struct etcd *e, const ProtobufCBinaryData *key,
				  struct etcd_row *ret_row, char ret_name[LOG_NAME_MAX]);
/* 0, or what store_decode() says. */
int etcd_row_take(struct etcd_rows *rows, const struct etcd_row *row,
		  const Etcdserverpb__KeyValue *kv, bool deleted);
void etcd_rows_clear(struct etcd_rows *rows);
/* Gives rows of one revision to the log. */
void etcd_rows_tell(struct etcd *e, struct etcd_row *rows, size_t n);
void *etcd_unpack(const ProtobufCMessageDescriptor *type, const ProtobufCBinaryData *value);

/* ---- etcd_watch.c ------------------------------------------------------------- */

int etcd_watch_open(struct etcd *e);
void etcd_watch_close(struct etcd *e);
/* One key as it is now; while loading also from a Range. */
void etcd_apply(struct etcd *e, const Etcdserverpb__KeyValue *kv, bool deleted);
/* Everything at or before the revision was applied. */
void etcd_reached(struct etcd *e, uint64_t revision);
/* Tells what changed of who holds which node. */
void etcd_presence_tell(struct etcd *e);
struct etcd_holder *etcd_holder_get(struct etcd *e, const char *node);
struct etcd_holder *etcd_holder_find(struct etcd *e, const char *node);
/* Frees it when nothing is known of the node and nobody waits. */
void etcd_holder_release(struct etcd *e, struct etcd_holder *h);
enum store_state etcd_holder_state(struct etcd *e, const struct etcd_holder *h);
void etcd_watch_free(struct etcd *e);
const char *const *etcd_controllers(struct store *store);

/* ---- etcd_vtep.c -------------------------------------------------------------- */

/* vtep/ADDRESS as it is now; kv NULL: it is gone. */
void etcd_vtep_apply(struct etcd *e, const char *address, const Etcdserverpb__KeyValue *kv);
/* May the node have it? 0 with the key's revision to compare, or -EEXIST: another
 * node has it that lives. */
int etcd_vtep_claim(struct etcd *e, const char *address, const char *node, uint64_t *ret_mod);
uint64_t etcd_vtep_mod(struct etcd *e, const char *address);
bool etcd_has_vtep(struct store *store, const char *node, const struct addr *vtep);
void etcd_vteps_free(struct etcd *e);

/* ---- etcd_ops.c --------------------------------------------------------------- */

void etcd_session(struct store *store, const struct store_session *request,
		  store_session_done *done, void *userdata);
void etcd_commit(struct store *store, const struct store_txn *txn, store_commit_done *done,
		 void *userdata);
void etcd_publish(struct store *store, const char *node, uint64_t session, bool alive);
void etcd_drain(struct store *store, const char *node, bool on, store_commit_done *done,
		void *userdata);
void etcd_complete(struct store *store);
/* Sends what can be sent, ends what waited for the revision or for too long. */
uint64_t etcd_ops_turn(struct etcd *e, uint64_t now_ms);
void etcd_ops_end(struct etcd *e);
/* When no answer can come any more. */
void etcd_ops_free(struct etcd *e);

/* ---- etcd_beat.c -------------------------------------------------------------- */

uint64_t etcd_beat_turn(struct etcd *e, uint64_t now_ms);
/* The connection is gone; its streams with it. */
void etcd_beat_gone(struct etcd *e);
/* The watch has shown a beat of ours. */
void etcd_beat_seen(struct etcd *e, uint64_t beat);
void etcd_beat_revoke(struct etcd *e);
void etcd_ahead(struct store *store, uint64_t revision);
