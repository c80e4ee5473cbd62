/* SPDX-License-Identifier: Apache-2.0 */
/* The etcd store against a real etcd: what several controllers see of each other. */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rpc.h"
#include "common/rpc_tls.h"
#include "controller/store/etcd_internal.h"
#include "controller/store/store.h"
#include "etcd_server.h"

#define PATIENCE_MS 15000
#define ROWS_MAX    60000

/* A controller as the store sees it: a log, and what it was told. */
struct side {
	struct store *store;
	struct log *log;
	struct store_presence presence; /* the last one of "n1" */
	char controller[128];
	unsigned int presences;
	bool draining, lost;
	/* Of the last call. */
	bool done;
	int result;
	uint64_t session, sequence, revision;
	char why[STORE_WHY_MAX];
};

static struct etcd_cluster cluster;
static struct rpc *rpc;
static struct side a, b;

static void on_event(void *userdata, uint64_t revision, const struct log_change *changes, size_t n)
{
	struct side *s = userdata;

	cr_assert_eq(log_apply(s->log, revision, changes, n), 0);
}

static void on_presence(void *userdata, const struct store_presence *p)
{
	struct side *s = userdata;

	if (strcmp(p->node, "n1") != 0)
		return;
	s->presences++;
	s->presence = *p;
	snprintf(s->controller, sizeof(s->controller), "%s", p->controller);
}

static void on_draining(void *userdata, const char *node, bool on)
{
	((struct side *)userdata)->draining = on;
}

static void on_lost(void *userdata, const char *why)
{
	((struct side *)userdata)->lost = true;
}

static void turn(void)
{
	uint64_t now = etcd_now_ms(), next = now + 20;
	struct side *sides[] = { &a, &b };

	for (size_t i = 0; i < 2; i++) {
		if (!sides[i]->store)
			continue;
		store_dispatch(sides[i]->store, now);
		if (store_next_ms(sides[i]->store) < next)
			next = store_next_ms(sides[i]->store);
	}
	rpc_poll(rpc, next);
}

#define UNTIL(condition)                                     \
	do {                                                 \
		uint64_t _end = etcd_now_ms() + PATIENCE_MS; \
		while (!(condition) && etcd_now_ms() < _end) \
			turn();                              \
		cr_assert(condition);                        \
	} while (0)

/* What the next one is opened with. */
static struct store_etcd_options how;

static int side_try(struct side *s, const char *spec, const char *address)
{
	static const struct store_events events = { on_event, on_presence, on_draining, on_lost };
	const struct store_options options = {
		.spec = spec, .rpc = rpc, .advertise = address, .etcd = &how
	};
	int r;

	memset(s, 0, sizeof(*s));
	r = store_open(&options, &events, s, &s->store, s->why);
	if (r < 0)
		return r;
	cr_assert_eq(log_new(s->store->epoch, 0, 10000, &s->log), 0);
	s->store->log = s->log;
	log_load_begin(s->log, s->store->floor);
	r = store_load(s->store, s->why);
	if (r == 0)
		log_load_end(s->log, s->store->revision);
	return r;
}

static void side_open(struct side *s, const char *address)
{
	char spec[160];

	snprintf(spec, sizeof(spec), "etcd:%s", cluster.endpoints);
	cr_assert_eq(side_try(s, spec, address), 0, "%s", s->why);
}

static void side_close(struct side *s)
{
	store_close(s->store);
	log_free(s->log);
	s->store = NULL;
	s->log = NULL;
}

static void setup_n(int n)
{
	if (!etcd_is_installed())
		cr_skip_test("etcd is not installed: apt-get install etcd-server");
	etcd_cluster_start(&cluster, n);
	cr_assert_eq(rpc_new(&rpc), 0);
}

static void setup(void)
{
	setup_n(1);
	if (rpc)
		side_open(&a, "a:1");
}

static void teardown(void)
{
	if (!rpc)
		return;
	if (a.store)
		side_close(&a);
	if (b.store)
		side_close(&b);
	rpc_free(rpc);
	etcd_cluster_stop(&cluster);
}

static void on_session(void *userdata, int result, uint64_t session, uint64_t sequence)
{
	struct side *s = userdata;

	s->done = true;
	s->result = result;
	s->session = session;
	s->sequence = sequence;
}

static void on_commit(void *userdata, int result, uint64_t revision)
{
	struct side *s = userdata;

	s->done = true;
	s->result = result;
	s->revision = revision;
}

static int take(struct side *s, uint8_t instance, uint64_t start, uint64_t attempt, bool alive)
{
	struct store_session q = { .node = "n1",
				   .instance = { instance },
				   .start_count = start,
				   .attempt = attempt,
				   .holder_alive = alive };

	s->done = false;
	store_session(s->store, &q, on_session, s);
	UNTIL(s->done);
	return s->result;
}

static struct log_change member(uint32_t i, bool deleted)
{
	return (struct log_change){ .kind = LOG_MEMBER,
				    .segment = 1,
				    .node = "n1",
				    .group = addr_v4_be32(htobe32(0xef010000u + i)),
				    .deleted = deleted,
				    .filter = { .mode = FILTER_EXCLUDE } };
}

static int commit(struct side *s, const struct store_txn *txn)
{
	s->done = false;
	store_commit(s->store, txn, on_commit, s);
	UNTIL(s->done);
	return s->result;
}

static int commit_members(struct side *s, uint64_t session, uint64_t sequence, uint32_t n,
			  bool deleted)
{
	static struct log_change changes[ROWS_MAX];

	for (uint32_t i = 0; i < n; i++)
		changes[i] = member(i, deleted);
	return commit(s, &(struct store_txn){ .node = "n1",
					      .session = session,
					      .sequence = sequence,
					      .changes = changes,
					      .n_changes = n });
}

static int commit_node(struct side *s, uint64_t session)
{
	struct log_change c = { .kind = LOG_NODE, .node = "n1", .vtep = { { 1 } } };

	return commit(s, &(struct store_txn){
				 .node = "n1", .session = session, .changes = &c, .n_changes = 1 });
}

static size_t members(const struct side *s)
{
	struct log_node *node = log_node_find(s->log, "n1");

	return node ? node->n_members : 0;
}

static bool same_digest(void)
{
	struct log_segment *x = log_segment_find(a.log, 1), *y = log_segment_find(b.log, 1);

	return x && y && memcmp(&x->digest, &y->digest, sizeof(x->digest)) == 0;
}

TestSuite(etcd, .init = setup, .fini = teardown, .timeout = 120);

Test(etcd, a_commit_is_seen_by_both_and_done_after_the_watch)
{
	side_open(&b, "b:1");
	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	cr_assert_eq(commit_node(&a, a.session), 0);
	cr_assert_eq(commit_members(&a, a.session, 1, 3, false), 0);
	cr_assert_eq(members(&a), 3);
	cr_assert_geq(log_revision(a.log), a.revision);
	UNTIL(members(&b) == 3);
	cr_assert(same_digest());
	cr_assert_eq(log_revision(a.log), log_revision(b.log));
	UNTIL(b.presence.state == STORE_ALIVE);
	cr_assert_not(b.presence.ours);
	cr_assert_str_eq(b.controller, "a:1");
	cr_assert_eq(b.presence.session, a.session);
}

Test(etcd, a_newer_session_fences_the_older_at_another_controller)
{
	side_open(&b, "b:1");
	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	cr_assert_eq(commit_members(&a, a.session, 7, 1, false), 0);
	cr_assert_eq(take(&b, 1, 1, 2, true), 0);
	cr_assert_eq(b.sequence, 7);
	cr_assert_gt(b.session, a.session);
	cr_assert_eq(commit_members(&a, a.session, 8, 2, false), -ESTALE);
	UNTIL(a.presence.state == STORE_ALIVE && !a.presence.ours);
	cr_assert_eq(commit_members(&b, b.session, 8, 2, false), 0);
	/* The same start that was there before has nothing to say any more. */
	cr_assert_eq(take(&a, 1, 1, 1, true), -ESTALE);
	cr_assert_eq(take(&a, 2, 1, 1, true), -EEXIST);
	cr_assert_eq(members(&b), 2);
}

Test(etcd, two_that_take_a_node_at_once_get_one_winner)
{
	struct store_session q = { .node = "n1", .instance = { 1 }, .start_count = 1 };

	side_open(&b, "b:1");
	/* Neither watch can have shown the other's. */
	store_session(a.store, &q, on_session, &a);
	q.instance[0] = 2;
	store_session(b.store, &q, on_session, &b);
	UNTIL(a.done && b.done);
	cr_assert_eq((a.result == 0) + (b.result == 0), 1);
	cr_assert_eq(a.result == 0 ? b.result : a.result, -EEXIST);
}

Test(etcd, a_large_commit_is_several_transactions_and_all_of_it)
{
	side_open(&b, "b:1");
	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	cr_assert_eq(commit_members(&a, a.session, 1, 1000, false), 0);
	cr_assert_eq(members(&a), 1000);
	UNTIL(members(&b) == 1000 && same_digest());
	cr_assert_eq(commit_members(&a, a.session, 2, 999, true), 0);
	UNTIL(members(&b) == 1 && same_digest());
}

Test(etcd, the_dead_controller_is_noticed_and_withdraws_nothing)
{
	side_open(&b, "b:1");
	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	cr_assert_eq(commit_members(&a, a.session, 1, 2, false), 0);
	UNTIL(b.presence.state == STORE_ALIVE);
	side_close(&a); /* revokes its lease, as a clean end does */
	UNTIL(b.presence.state == STORE_LOST);
	cr_assert_eq(members(&b), 2);
	cr_assert_eq(take(&b, 1, 1, 2, false), 0);
	cr_assert_eq(b.sequence, 1);
}

Test(etcd, silence_and_drain_are_shared)
{
	side_open(&b, "b:1");
	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	store_publish(a.store, "n1", a.session, false);
	UNTIL(b.presence.state == STORE_SILENT);
	store_publish(a.store, "n1", a.session, true);
	UNTIL(b.presence.state == STORE_ALIVE);
	b.done = false;
	store_drain(b.store, "n1", true, on_commit, &b);
	UNTIL(b.done && a.draining && b.draining);
	store_drain(a.store, "n1", false, on_commit, &a);
	UNTIL(!a.draining && !b.draining);
}

static const struct log_change withdrawal[3] = {
	{ .kind = LOG_MEMBER,
	  .segment = 1,
	  .node = "n1",
	  .group = { { [10] = 0xff, 0xff, 239, 1, 0, 0 } },
	  .deleted = true },
	{ .kind = LOG_MEMBER,
	  .segment = 1,
	  .node = "n1",
	  .group = { { [10] = 0xff, 0xff, 239, 1, 0, 1 } },
	  .deleted = true },
	{ .kind = LOG_NODE, .node = "n1", .deleted = true },
};

Test(etcd, a_removal_takes_the_session_too)
{
	side_open(&b, "b:1");
	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	cr_assert_eq(commit_node(&a, a.session), 0);
	cr_assert_eq(commit_members(&a, a.session, 1, 2, false), 0);
	UNTIL(members(&b) == 2);
	cr_assert_eq(commit(&b, &(struct store_txn){ .node = "n1",
						     .removes_node = true,
						     .changes = withdrawal,
						     .n_changes = 3 }),
		     0);
	UNTIL(a.presence.state == STORE_FREE && members(&a) == 0);
	cr_assert_eq(commit_members(&a, a.session, 2, 1, false), -ESTALE);
	cr_assert_eq(take(&a, 1, 1, 2, false), 0);
	cr_assert_eq(a.sequence, 0, "what it reported before is gone");
}

Test(etcd, a_removal_is_refused_once_the_node_is_back)
{
	const struct store_txn removal = {
		.node = "n1", .removes_node = true, .changes = withdrawal, .n_changes = 3
	};

	side_open(&b, "b:1");
	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	cr_assert_eq(commit_node(&a, a.session), 0);
	cr_assert_eq(commit_members(&a, a.session, 1, 2, false), 0);
	UNTIL(members(&b) == 2);
	/* What b knows is old. */
	etcd_watch_close((struct etcd *)b.store);
	cr_assert_eq(take(&a, 1, 1, 2, false), 0);
	b.done = false;
	store_commit(b.store, &removal, on_commit, &b);
	cr_assert_eq(take(&a, 1, 1, 3, false), 0);
	cr_assert_not(b.done);
	etcd_watch_open((struct etcd *)b.store);
	UNTIL(b.done);
	cr_assert_eq(b.result, -ESTALE);
	cr_assert_eq(members(&b), 2);
	cr_assert_eq(commit_members(&a, a.session, 2, 3, false), 0);
}

Test(etcd, a_start_knows_what_was_deleted_before_it)
{
	uint64_t before;

	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	cr_assert_eq(commit_members(&a, a.session, 1, 5, false), 0);
	before = log_revision(a.log);
	cr_assert_eq(commit_members(&a, a.session, 2, 2, true), 0);
	side_open(&b, "b:1");
	cr_assert_eq(members(&b), 3);
	cr_assert_leq(log_floor(b.log), before);
	cr_assert(same_digest());
	/* An agent that was at `before` gets the two deletions. */
	cr_assert_eq(log_after(b.log, before)->deleted, true);
	cr_assert_eq(log_tombstones(b.log), 2);
}

Test(etcd, a_compacted_history_is_no_obstacle)
{
	struct etcd *e = (struct etcd *)a.store;
	Etcdserverpb__CompactionRequest q = ETCDSERVERPB__COMPACTION_REQUEST__INIT;

	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	cr_assert_eq(commit_members(&a, a.session, 1, 5, false), 0);
	cr_assert_eq(commit_members(&a, a.session, 2, 2, true), 0);
	/* Not announced: as the operator's own. */
	q.revision = (int64_t)a.store->revision;
	a.done = false;
	etcd_client_call(e->client, "/etcdserverpb.KV/Compact", &q.base,
			 &etcdserverpb__compaction_response__descriptor,
			 (etcd_done *)(void *)on_session, &a);
	UNTIL(a.done);
	side_open(&b, "b:1");
	cr_assert_eq(members(&b), 3);
	cr_assert_eq(log_tombstones(b.log), 0);
	cr_assert_geq(log_floor(b.log), (uint64_t)q.revision);
	cr_assert(same_digest());
}

Test(etcd, completeness_outlives_controllers)
{
	cr_assert(a.store->is_fresh);
	side_open(&b, "b:1");
	cr_assert(b.store->is_fresh, "another's start is no completeness");
	side_close(&b);
	store_complete(a.store);
	cr_assert_eq(take(&a, 1, 1, 1, false), 0); /* an operation later */
	side_open(&b, "b:1");
	cr_assert_not(b.store->is_fresh);
	cr_assert_arr_eq(a.store->epoch, b.store->epoch, EPOCH_LEN);
}

Test(etcd, an_agent_ahead_of_etcd_begins_a_new_epoch)
{
	uint8_t was[EPOCH_LEN];

	memcpy(was, a.store->epoch, sizeof(was));
	store_complete(a.store);
	cr_assert_eq(take(&a, 1, 1, 1, false), 0); /* an operation later */
	side_open(&b, "b:1");
	store_ahead(b.store, b.store->revision);
	cr_assert_eq(take(&a, 1, 1, 2, false), 0);
	cr_assert_not(b.lost);
	store_ahead(b.store, b.store->revision + 1000000);
	UNTIL(a.lost && b.lost);
	side_close(&b);
	side_open(&b, "b:1");
	cr_assert_arr_neq(was, b.store->epoch, EPOCH_LEN);
	cr_assert(b.store->is_fresh);
}

static void audit_now(struct side *s)
{
	struct etcd *e = (struct etcd *)s->store;
	uint64_t audits = e->audits;

	e->audit_at_ms = 1;
	UNTIL(e->audits > audits || s->lost);
}

Test(etcd, an_audit_finds_what_memory_has_wrong)
{
	struct log_change c = member(3, true);

	side_open(&b, "b:1");
	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	cr_assert_eq(commit_node(&a, a.session), 0);
	cr_assert_eq(commit_members(&a, a.session, 1, 2500, false), 0);
	UNTIL(members(&b) == 2500);
	audit_now(&a);
	cr_assert_not(a.lost, "more than one page of rows, all right");
	/* A row less than there is. */
	cr_assert_eq(log_apply(a.log, log_revision(a.log) + 1, &c, 1), 0);
	UNTIL(a.store->revision > log_revision(a.log));
	audit_now(&a);
	cr_assert(a.lost);
	/* A row more. */
	c = member(3000, false);
	cr_assert_eq(log_apply(b.log, log_revision(b.log) + 1, &c, 1), 0);
	UNTIL(b.store->revision > log_revision(b.log));
	audit_now(&b);
	cr_assert(b.lost);
}

Test(etcd, a_wiped_etcd_is_noticed)
{
	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	cr_assert_eq(commit_members(&a, a.session, 1, 500, false), 0);
	etcd_member_wipe(&cluster, 0);
	UNTIL(!store_is_serving(a.store, etcd_now_ms()));
	etcd_member_start(&cluster, 0);
	UNTIL(a.lost);
	side_close(&a);
	side_open(&a, "a:1");
	cr_assert(a.store->is_fresh);
	cr_assert_eq(members(&a), 0);
}

Test(etcd, a_commit_waits_for_etcd_to_come_back)
{
	struct log_change c = member(9, false);
	struct store_txn txn = { .node = "n1", .sequence = 1, .changes = &c, .n_changes = 1 };

	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	txn.session = a.session;
	etcd_member_kill(&cluster, 0);
	a.done = false;
	store_commit(a.store, &txn, on_commit, &a);
	UNTIL(!store_is_serving(a.store, etcd_now_ms()));
	cr_assert_not(a.done);
	etcd_member_start(&cluster, 0);
	UNTIL(a.done && store_is_serving(a.store, etcd_now_ms()));
	cr_assert_eq(a.result, 0);
	cr_assert_eq(members(&a), 1);
	cr_assert_not(a.lost);
}

#define ALL_DONE(s) ((s)[0].done && (s)[1].done && (s)[2].done && (s)[3].done)

Test(etcd, nodes_share_a_transaction_without_the_one_that_is_fenced)
{
	static const char *const names[] = { "n1", "n2", "n3", "n4" };
	struct store_txn txn = { .n_changes = 1 };
	struct side each[4] = { 0 };

	for (size_t i = 0; i < 4; i++) {
		struct store_session q = { .node = names[i], .start_count = 1 };

		store_session(a.store, &q, on_session, &each[i]);
	}
	UNTIL(ALL_DONE(each));
	/* As if another controller had just written it. */
	etcd_holder_find((struct etcd *)a.store, "n2")->mod--;
	for (size_t i = 0; i < 4; i++) {
		struct log_change c = member(1, false);

		txn.node = c.node = names[i];
		txn.session = each[i].session;
		txn.changes = &c;
		each[i].done = false;
		store_commit(a.store, &txn, on_commit, &each[i]);
	}
	UNTIL(ALL_DONE(each));
	for (size_t i = 0; i < 4; i++)
		cr_expect_eq(each[i].result, i == 1 ? -ESTALE : 0, "%s", names[i]);
	cr_expect(each[0].revision == each[2].revision && each[0].revision == each[3].revision);
	cr_expect_null(log_node_find(a.log, "n2"));
	cr_expect_eq(members(&a), 1);
}

Test(etcd, a_close_does_not_wait_for_an_etcd_that_hangs)
{
	struct log_change c = member(1, false);
	struct store_txn txn = { .node = "n1", .changes = &c, .n_changes = 1 };

	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	txn.session = a.session;
	etcd_member_freeze(&cluster, 0);
	a.done = false;
	store_commit(a.store, &txn, on_commit, &a);
	UNTIL(((struct etcd *)a.store)->n_sent > 0);
	side_close(&a);
	kill(cluster.members[0].pid, SIGCONT);
	cr_assert(a.done);
	cr_assert_eq(a.result, -ECANCELED);
}

/* Cut into pieces by etcd this would take most of a minute. */
Test(etcd, a_start_catches_up_with_a_long_history)
{
	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	cr_assert_eq(commit_members(&a, a.session, 1, ROWS_MAX, false), 0);
	side_open(&b, "b:1");
	cr_expect_eq(etcd_client_moves(((struct etcd *)b.store)->client), 0);
	cr_assert_eq(members(&b), ROWS_MAX);
	cr_assert(same_digest());
	cr_assert_leq(log_floor(b.log), a.session);
}

static void put(struct etcd *e, const char *name, const ProtobufCMessage *value)
{
	Etcdserverpb__PutRequest q = ETCDSERVERPB__PUT_REQUEST__INIT;
	char key[ETCD_KEY_MAX];
	uint8_t bytes[64];

	etcd_key(e, key, "%s", name);
	q.key = etcd_bytes(key);
	q.value.data = bytes;
	q.value.len = value ? protobuf_c_message_pack(value, bytes) : 0;
	cr_assert_eq(etcd_client_call(e->client, "/etcdserverpb.KV/Put", &q.base,
				      &etcdserverpb__put_response__descriptor,
				      (etcd_done *)(void *)on_session, &b),
		     0);
}

Test(etcd, history_is_kept_for_the_slowest_watch)
{
	Mcmesh__Store__Controller slow = MCMESH__STORE__CONTROLLER__INIT;
	struct etcd *e = (struct etcd *)a.store;
	uint64_t at;

	slow.address = "slow:1";
	slow.revision = e->store.revision + 100;
	put(e, "controller/slow", &slow.base);
	while (e->store.revision < ETCD_HISTORY_KEPT + 2 * slow.revision) {
		at = e->store.revision;
		for (int i = 0; i < 500; i++)
			put(e, "nothing", NULL);
		UNTIL(e->store.revision >= at + 500);
	}
	e->compact_next = e->store.revision;
	e->compact_at_ms = 0;
	UNTIL(e->compacted);
	cr_assert_eq(e->compacted, slow.revision);
}

Test(etcd, keys_that_are_not_ours_are_left_alone)
{
	char name[LOG_NAME_MAX];
	struct etcd_row row;
	struct etcd *e = (struct etcd *)a.store;
	static const char *const bad[] = { "/mcmesh/",
					   "/mcmesh/member/n1/1",
					   "/mcmesh/member/n1/x/239.1.1.1",
					   "/mcmesh/member//1/239.1.1.1",
					   "/mcmesh/member/n1/1/239.1.1.1/2",
					   "/mcmesh/live/",
					   "/mcmesh/live/a/b",
					   "/mcmesh/config/-1",
					   "/other/node/n1",
					   "/mcmesh/node/n1/x" };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ProtobufCBinaryData key = etcd_bytes(bad[i]);

		if (strncmp(bad[i], "/mcmesh/", 8) == 0)
			cr_assert_eq(etcd_key_parse(e, &key, &row, name), ETCD_KEY_UNKNOWN, "%s",
				     bad[i]);
	}
}

static void setup_three(void)
{
	setup_n(3);
}

TestSuite(etcd_cluster, .init = setup_three, .fini = teardown, .timeout = 120);

Test(etcd_cluster, each_member_may_die)
{
	side_open(&a, "a:1");
	side_open(&b, "b:1");
	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	for (int i = 0; i < 3; i++) {
		etcd_member_kill(&cluster, i);
		cr_assert_eq(commit_members(&a, a.session, (uint64_t)i + 1, (uint32_t)i + 1, false),
			     0);
		UNTIL(members(&b) == (size_t)i + 1 && same_digest());
		etcd_member_start(&cluster, i);
		UNTIL(store_is_serving(a.store, etcd_now_ms()) &&
		      store_is_serving(b.store, etcd_now_ms()));
	}
	cr_assert_not(a.lost || b.lost);
}

Test(etcd_cluster, what_cannot_be_reached_is_said)
{
	cr_assert_eq(side_try(&a, "etcd:127.0.0.1", "a:1"), -EINVAL);
	cr_assert(strstr(a.why, "HOST:PORT"));
	cr_assert_eq(side_try(&a, "etcd:", "a:1"), -EINVAL);
	a.store = NULL;
}

/* ---- login and TLS ------------------------------------------------------------------ */

static void setup_login(void)
{
	setup_n(1);
	if (!rpc)
		return;
	etcd_post(&cluster, "/v3/auth/user/add", "{\"name\":\"root\",\"password\":\"r\"}");
	etcd_post(&cluster, "/v3/auth/user/grant", "{\"user\":\"root\",\"role\":\"root\"}");
	etcd_post(&cluster, "/v3/auth/role/add", "{\"name\":\"mesh\"}");
	/* "/mcmesh/" to "/mcmesh0", base64. */
	etcd_post(&cluster, "/v3/auth/role/grant",
		  "{\"name\":\"mesh\",\"perm\":{\"permType\":\"READWRITE\","
		  "\"key\":\"L21jbWVzaC8=\",\"range_end\":\"L21jbWVzaDA=\"}}");
	etcd_post(&cluster, "/v3/auth/user/add", "{\"name\":\"ann\",\"password\":\"secret\"}");
	etcd_post(&cluster, "/v3/auth/user/grant", "{\"user\":\"ann\",\"role\":\"mesh\"}");
	etcd_post(&cluster, "/v3/auth/enable", "{}");
}

TestSuite(etcd_login, .init = setup_login, .fini = teardown, .timeout = 120);

static const char *password_is(const char *text)
{
	static char path[80];
	FILE *f;

	snprintf(path, sizeof(path), "%s/password", cluster.folder);
	f = fopen(path, "w");
	cr_assert_not_null(f);
	fprintf(f, "%s\n", text);
	fclose(f);
	return path;
}

Test(etcd_login, a_user_with_the_prefix_is_enough)
{
	struct etcd *e;

	how = (struct store_etcd_options){ .user = "ann", .password_file = password_is("secret") };
	side_open(&a, "a:1");
	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	cr_assert_eq(commit_members(&a, a.session, 1, 200, false), 0);
	/* Its token is forgotten with the process that gave it: it logs in again. */
	e = (struct etcd *)a.store;
	etcd_member_kill(&cluster, 0);
	etcd_member_start(&cluster, 0);
	cr_assert_eq(commit_members(&a, a.session, 2, 201, false), 0);
	cr_assert_gt(etcd_client_moves(e->client), 0);
	side_open(&b, "b:1");
	cr_assert_eq(members(&b), 201);
}

/* On a machine that is busy the last failure may be another one: ask again. */
static bool is_told(const char *spec, const char *what)
{
	for (int i = 0; i < 3; i++) {
		cr_assert_lt(side_try(&a, spec, "a:1"), 0);
		if (strstr(a.why, what))
			return true;
	}
	return false;
}

Test(etcd_login, who_may_not_is_told)
{
	char spec[160];

	snprintf(spec, sizeof(spec), "etcd:%s", cluster.endpoints);
	cr_assert(is_told(spec, "etcd.user"), "%s", a.why);
	how = (struct store_etcd_options){ .user = "ann", .password_file = password_is("wrong") };
	cr_assert(is_told(spec, "invalid user ID or password"), "%s", a.why);
	how.prefix = "/other/";
	how.password_file = password_is("secret");
	cr_assert(is_told(spec, "permission denied"), "%s", a.why);
	how.prefix = "/other";
	cr_assert_eq(side_try(&a, spec, "a:1"), -EINVAL);
	a.store = NULL;
}

static struct rpc_tls *tls;

static void setup_tls(void)
{
	char ca[128], cert[128], key[128], why[RPC_TLS_WHY_MAX];

	if (!etcd_is_installed())
		cr_skip_test("etcd is not installed: apt-get install etcd-server");
	etcd_cluster_start_tls(&cluster, SOURCE_DIR);
	cr_assert_eq(rpc_new(&rpc), 0);
	snprintf(ca, sizeof(ca), "%s/ca.pem", cluster.pki);
	snprintf(cert, sizeof(cert), "%s/c1.pem", cluster.pki);
	snprintf(key, sizeof(key), "%s/c1.key", cluster.pki);
	cr_assert_eq(
		rpc_tls_new(&(struct rpc_tls_options){ .cacert = ca, .cert = cert, .key = key },
			    &tls, why),
		0, "%s", why);
}

static void teardown_tls(void)
{
	teardown();
	rpc_tls_free(tls);
}

TestSuite(etcd_tls, .init = setup_tls, .fini = teardown_tls, .timeout = 120);

Test(etcd_tls, certificates_both_ways)
{
	char spec[160];

	how.tls = tls;
	side_open(&a, "a:1");
	cr_assert_eq(take(&a, 1, 1, 1, false), 0);
	cr_assert_eq(commit_members(&a, a.session, 1, 3, false), 0);
	how.tls = NULL;
	snprintf(spec, sizeof(spec), "etcd:%s", cluster.endpoints);
	cr_assert_lt(side_try(&b, spec, "b:1"), 0, "plaintext");
	b.store = NULL;
}
