/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every store does: one suite, run over the backends. A backend that
 * outlives its process (`keeps`) is closed and opened in between.
 */
#include "store_harness.h"

#include <criterion/parameterized.h>

#include "common/rpc.h"
#include "controller/store/codec.h"
#include "etcd_server.h"

struct backend {
	char scheme[16];
	bool keeps;  /* in a file of the scratch folder, or elsewhere */
	bool shared; /* in the network; its revisions count more than the log's */
};

static struct backend backends[] = {
	{ "memory", false, false },
	{ "sqlite", true, false },
	{ "etcd", true, true },
};

static struct bed bed;
static char *scratch, spec[256];
static struct etcd_cluster cluster;

static void setup_shared(void)
{
	if (!etcd_is_installed())
		cr_skip_test("etcd is not installed: apt-get install etcd-server");
	etcd_cluster_start(&cluster, 1);
	cr_assert_eq(rpc_new(&bed_rpc), 0);
	snprintf(spec, sizeof(spec), "etcd:%s", cluster.endpoints);
	bed_open(&bed, spec);
}

static void setup(const struct backend *backend)
{
	if (backend->shared) {
		setup_shared();
		return;
	}
	scratch = scratch_new();
	snprintf(spec, sizeof(spec), "%s%s%s%s", backend->scheme, backend->keeps ? ":" : "",
		 backend->keeps ? scratch : "", backend->keeps ? "/store.db" : "");
	bed_open(&bed, spec);
}

static void teardown(void)
{
	bed_close(&bed);
	if (bed_rpc) {
		rpc_free(bed_rpc);
		etcd_cluster_stop(&cluster);
		return;
	}
	scratch_free(scratch);
}

static void reopen(void)
{
	bed_close(&bed);
	bed_open(&bed, spec);
}

/* One parameter each, so that a test's name and backend are both seen. */
#define EACH(name)                                                                        \
	static void test_##name(const struct backend *backend);                           \
	ParameterizedTestParameters(store, name)                                          \
	{                                                                                 \
		return cr_make_param_array(struct backend, backends,                      \
					   sizeof(backends) / sizeof(backends[0]), NULL); \
	}                                                                                 \
	ParameterizedTest(struct backend *backend, store, name, .timeout = 60)            \
	{                                                                                 \
		setup(backend);                                                           \
		test_##name(backend);                                                     \
		teardown();                                                               \
	}                                                                                 \
	static void test_##name(const struct backend *backend)

EACH(sessions_are_fenced)
{
	struct log_change c = change_member("n1", 1, false);
	uint64_t first, second, sequence;

	cr_assert_eq(bed_session(&bed, "n1", 1, 1, 1, false, &first, &sequence), 0);
	cr_assert_eq(sequence, 0);
	cr_assert_eq(bed_commit(&bed, "n1", first, 7, &c, 1), 0);
	cr_assert_eq(bed_session(&bed, "n1", 1, 1, 1, true, NULL, NULL), -ESTALE);
	cr_assert_eq(bed_session(&bed, "n1", 1, 0, 9, true, NULL, NULL), -ESTALE);
	cr_assert_eq(bed_session(&bed, "n1", 2, 9, 9, true, NULL, NULL), -EEXIST);
	/* None of these took the name. */
	cr_assert_eq(bed_commit(&bed, "n1", first, 8, &c, 1), 0);
	cr_assert_eq(bed_session(&bed, "n1", 1, 1, 2, true, &second, &sequence), 0);
	cr_assert_eq(sequence, 8, "the same start: what it committed last");
	cr_assert_neq(first, second);
	c.deleted = true;
	cr_assert_eq(bed_commit(&bed, "n1", first, 9, &c, 1), -ESTALE);
	cr_assert_not_null(log_find_live(bed.log, LOG_MEMBER, 1, "n1", &c.group, NULL));
	cr_assert_eq(bed_session(&bed, "n1", 1, 2, 1, true, &first, &sequence), 0);
	cr_assert_eq(sequence, 0, "another start counts anew");
	cr_assert_eq(bed_session(&bed, "n1", 3, 1, 1, false, &second, &sequence), 0);
	cr_assert_eq(sequence, 0, "another instance, once the first is not alive");
	cr_assert_eq(bed_commit(&bed, "n1", first, 1, &c, 1), -ESTALE);
	cr_assert_eq(bed_commit(&bed, "n2", second, 1, &c, 1), -ESTALE, "another node's session");
	cr_assert_eq(bed_commit(&bed, "n1", second, 1, &c, 1), 0);
}

EACH(session_ends_with_its_node)
{
	struct log_change node = change_node("n1", 1, false);
	uint64_t first, second, sequence;

	cr_assert_eq(bed_session(&bed, "n1", 1, 1, 1, false, &first, NULL), 0);
	cr_assert_eq(bed_commit(&bed, "n1", first, 5, &node, 1), 0);
	node.deleted = true;
	cr_assert_eq(bed_commit(&bed, "n1", first, 0, &node, 1), 0);
	cr_assert_eq(bed_commit(&bed, "n1", first, 6, &node, 1), -ESTALE);
	/* What sequence 5 stood for is gone: it must be taken again. */
	cr_assert_eq(bed_session(&bed, "n1", 1, 1, 2, false, &second, &sequence), 0);
	cr_assert_eq(sequence, 0);
	cr_assert_neq(first, second);
}

EACH(events_come_before_their_answer_and_in_order)
{
	struct log_change a[2] = { change_member("n1", 1, false), change_member("n1", 2, false) };
	struct log_change b = change_member("n1", 1, true);
	uint64_t session, before = bed.store->revision;

	cr_assert_eq(bed_session(&bed, "n1", 1, 1, 1, false, &session, NULL), 0);
	if (!backend->shared)
		cr_assert_eq(bed.store->revision, before, "a session is no change");
	bed_ask(&bed, "n1", session, 1, a, 2);
	bed_ask(&bed, "n1", session, 2, &b, 1);
	bed_ask(&bed, "n1", session + 999, 3, a, 2);
	bed_ask(&bed, "n1", session, 3, a, 0); /* a report that changes nothing */
	cr_assert(bed_wait(&bed, 5));
	cr_assert_eq(bed.n, 7);
	cr_assert(bed_last(&bed, 5)->what == 'e' && bed_last(&bed, 5)->rows == 2);
	cr_assert(bed_last(&bed, 4)->what == 'c' && bed_last(&bed, 4)->result == 0);
	cr_assert_geq(bed_last(&bed, 4)->revision, bed_last(&bed, 5)->revision);
	cr_assert(bed_last(&bed, 3)->what == 'e' && bed_last(&bed, 3)->rows == 1);
	cr_assert_gt(bed_last(&bed, 3)->revision, bed_last(&bed, 5)->revision);
	cr_assert(bed_last(&bed, 2)->what == 'c' && bed_last(&bed, 2)->result == 0);
	cr_assert(bed_last(&bed, 1)->what == 'c' && bed_last(&bed, 1)->result == -ESTALE);
	cr_assert(bed_last(&bed, 0)->what == 'c' && bed_last(&bed, 0)->result == 0);
	cr_assert_null(log_find_live(bed.log, LOG_MEMBER, 1, "n1", &a[0].group, NULL));
	cr_assert_not_null(log_find_live(bed.log, LOG_MEMBER, 1, "n1", &a[1].group, NULL));
}

EACH(inputs_are_borrowed_for_the_call_only)
{
	struct addr source = addr_v4_be32(1);
	struct log_config settings = { .fast_leave = 2 };
	char node[8] = "n1", port[8] = "p1";
	struct log_change c[2] = { change_member(node, 1, false),
				   { .kind = LOG_CONFIG, .node = "", .config = &settings } };

	c[0].kind = LOG_STATIC;
	c[0].segment = 0;
	c[0].port = port;
	c[0].filter = (struct filter){ FILTER_INCLUDE, 1, &source };
	bed_ask(&bed, "", 0, 0, c, 2);
	memset(node, 'x', sizeof(node) - 1);
	memset(port, 'x', sizeof(port) - 1);
	memset(&source, 0xff, sizeof(source));
	memset(&settings, 0xff, sizeof(settings));
	memset(c, 0xff, sizeof(c));
	cr_assert(bed_wait(&bed, 1));
	c[0] = change_member("n1", 1, false);
	source = addr_v4_be32(1);
	cr_assert(addr_equal(
		&log_find_live(bed.log, LOG_STATIC, 0, "n1", &c[0].group, "p1")->filter.sources[0],
		&source));
	cr_assert_eq(log_config_find(bed.log, 0)->config->fast_leave, 2);
}

EACH(big_commit_is_several_revisions_and_one_answer)
{
	enum { N = 3 * STORE_BATCH_ROWS + 1 };
	struct log_change *changes = calloc(N, sizeof(*changes));
	uint64_t session;

	for (uint32_t i = 0; i < N; i++)
		changes[i] = change_member("n1", i, false);
	cr_assert_eq(bed_session(&bed, "n1", 1, 1, 1, false, &session, NULL), 0);
	cr_assert_eq(bed_commit(&bed, "n1", session, 1, changes, N), 0);
	cr_assert_eq(log_node_find(bed.log, "n1")->n_members, N);
	cr_assert_geq(bed.n, 1 + 4 + 1);
	cr_assert_eq(bed_last(&bed, 0)->revision, log_revision(bed.log));
	for (size_t i = 1; i + 1 < bed.n; i++)
		cr_assert_leq(bed_last(&bed, i)->rows, STORE_BATCH_ROWS);
	if (backend->keeps) {
		reopen();
		cr_assert_eq(log_node_find(bed.log, "n1")->n_members, N);
	}
	free(changes);
}

EACH(sequence_survives)
{
	struct log_change c = change_member("n1", 1, false);
	uint64_t session, later, sequence;

	cr_assert_eq(bed_session(&bed, "n1", 1, 3, 1, false, &session, NULL), 0);
	cr_assert_eq(bed_commit(&bed, "n1", session, 41, &c, 1), 0);
	if (backend->keeps)
		reopen();
	cr_assert_eq(bed_session(&bed, "n1", 1, 3, 1, false, NULL, NULL), -ESTALE);
	cr_assert_eq(bed_session(&bed, "n1", 1, 3, 2, false, &later, &sequence), 0);
	cr_assert_eq(sequence, 41);
	cr_assert_gt(later, session, "numbers are not given out twice");
	cr_assert_eq(bed_commit(&bed, "n1", session, 42, &c, 1), -ESTALE);
}

/* All kinds, changed and deleted at random, and a second log beside it. */
static void random_changes(uint64_t session, int n)
{
	struct addr sources[] = { addr_v4_be32(1), addr_v4_be32(2), addr_v4_be32(3) };
	char node[8], port[8];

	for (int i = 0; i < n; i++) {
		struct log_config settings = { .robustness = (uint32_t)(i % 7) + 1 };
		struct log_change c[3] = {
			change_member("n1", (uint32_t)(rand() % 40), rand() % 3 == 0),
			change_node(node, (uint8_t)i, rand() % 3 == 0),
			{ .kind = LOG_CONFIG,
			  .node = "",
			  .subject = (uint32_t)(rand() % 5),
			  .config = &settings,
			  .deleted = rand() % 3 == 0 },
		};

		snprintf(node, sizeof(node), "m%d", rand() % 4);
		snprintf(port, sizeof(port), "p%d", rand() % 4);
		c[0].filter = (struct filter){ rand() % 2, (uint32_t)(rand() % 4), sources };
		if (rand() % 4 == 0) {
			c[0].kind = LOG_STATIC;
			c[0].segment = 0;
			c[0].port = port;
		}
		if (c[0].deleted)
			c[0].filter = FILTER_NULL;
		cr_assert_eq(bed_commit(&bed, "n1", session, (uint64_t)i + 1, c, 3), 0);
	}
}

EACH(what_was_there_comes_back)
{
	uint8_t epoch[EPOCH_LEN];
	uint64_t session, revision;
	char *before, *after;

	srand(7);
	cr_assert_eq(bed_session(&bed, "n1", 1, 1, 1, false, &session, NULL), 0);
	random_changes(session, 300);
	memcpy(epoch, bed.store->epoch, EPOCH_LEN);
	revision = log_revision(bed.log);
	cr_assert_gt(log_tombstones(bed.log), 0);
	if (!backend->keeps)
		return;
	before = bed_text(&bed);
	reopen();
	after = bed_text(&bed);
	cr_assert_str_eq(after, before);
	if (!backend->shared)
		cr_assert_eq(log_revision(bed.log), revision);
	cr_assert_geq(log_revision(bed.log), revision);
	cr_assert_arr_eq(bed.store->epoch, epoch, EPOCH_LEN);
	cr_assert_eq(bed_session(&bed, "n1", 1, 1, 2, false, &session, NULL), 0);
	random_changes(session, 20);
	cr_assert_gt(bed_last(&bed, 0)->revision, revision);
	free(before);
	free(after);
}

EACH(deletions_are_forgotten_to_a_floor_that_stays)
{
	struct log_change c;
	uint64_t session, floor = 0;

	cr_assert_eq(bed_session(&bed, "n1", 1, 1, 1, false, &session, NULL), 0);
	for (uint32_t i = 0; i < 20; i++) {
		c = change_member("n1", i, false);
		cr_assert_eq(bed_commit(&bed, "n1", session, 2 * i + 1, &c, 1), 0);
		c.deleted = true;
		cr_assert_eq(bed_commit(&bed, "n1", session, 2 * i + 2, &c, 1), 0);
		if (i == 9)
			floor = log_revision(bed.log);
	}
	if (backend->shared)
		return; /* how far back it goes is not for one controller to say */
	store_forget(bed.store, floor);
	c = change_member("n1", 99, false);
	cr_assert_eq(bed_commit(&bed, "n1", session, 50, &c, 1), 0);
	if (!backend->keeps)
		return;
	reopen();
	cr_assert_eq(bed.store->floor, floor);
	cr_assert_eq(log_floor(bed.log), floor);
	cr_assert_eq(log_tombstones(bed.log), 10);
	/* A segment that nobody spoke of yet: what it had is not known. */
	cr_assert_eq(log_segment_get(bed.log, 77)->floor, floor);
	cr_assert_eq(log_segment_find(bed.log, 1)->floor, floor);
}

EACH(epoch_is_whole_once_it_was_said)
{
	uint8_t epoch[EPOCH_LEN];

	cr_assert(bed.store->is_fresh);
	memcpy(epoch, bed.store->epoch, EPOCH_LEN);
	if (!backend->keeps)
		return;
	reopen();
	cr_assert_arr_eq(bed.store->epoch, epoch, EPOCH_LEN);
	cr_assert(bed.store->is_fresh, "nobody said that it is whole");
	store_complete(bed.store);
	cr_assert_not(bed.store->is_fresh);
	reopen();
	cr_assert_arr_eq(bed.store->epoch, epoch, EPOCH_LEN);
	cr_assert_not(bed.store->is_fresh);
	if (store_renew(bed.store) == -ENOTSUP)
		return;
	cr_assert(bed.store->is_fresh);
	cr_assert_arr_neq(bed.store->epoch, epoch, EPOCH_LEN);
	memcpy(epoch, bed.store->epoch, EPOCH_LEN);
	reopen();
	cr_assert_arr_eq(bed.store->epoch, epoch, EPOCH_LEN);
	cr_assert(bed.store->is_fresh);
}

EACH(replaced_as_a_whole)
{
	struct log_change c = change_member("n1", 1, false), node = change_node("n9", 9, false);
	uint8_t epoch[EPOCH_LEN];
	uint64_t session, revision;

	cr_assert_eq(bed_session(&bed, "n1", 1, 1, 1, false, &session, NULL), 0);
	cr_assert_eq(bed_commit(&bed, "n1", session, 1, &c, 1), 0);
	memcpy(epoch, bed.store->epoch, EPOCH_LEN);
	revision = log_revision(bed.log);
	if (!backend->keeps || backend->shared) {
		cr_assert_eq(store_replace(bed.store, &node, 1, bed.why), -ENOTSUP);
		return;
	}
	cr_assert_eq(store_replace(bed.store, &node, 1, bed.why), 0, "%s", bed.why);
	reopen();
	cr_assert_arr_neq(bed.store->epoch, epoch, EPOCH_LEN);
	cr_assert(bed.store->is_fresh);
	cr_assert_gt(log_revision(bed.log), revision, "positions never go back");
	cr_assert_not_null(log_find_live(bed.log, LOG_NODE, 0, "n9", NULL, NULL));
	cr_assert_null(log_node_find(bed.log, "n1"));
	cr_assert_eq(bed_commit(&bed, "n1", session, 2, &c, 1), -ESTALE);
}

Test(store, unknown_kind_is_a_sentence)
{
	cr_assert_eq(bed_try(&bed, "nonsense"), -EINVAL);
	cr_assert_not_null(strstr(bed.why, "sqlite:PATH"), "%s", bed.why);
	cr_assert_eq(bed_try(&bed, "sqlite"), -EINVAL);
}

/* ---- the encoding of values ---------------------------------------------------------- */

static int recode(struct log_change *c, struct log_change *ret, struct log_config *config)
{
	uint8_t data[256];
	size_t size = store_encoded_size(c);

	cr_assert_leq(size, sizeof(data));
	store_encode(c, data);
	*ret = (struct log_change){ .kind = c->kind, .deleted = c->deleted };
	return store_decode(data, size, ret, config);
}

Test(codec, values_come_back)
{
	struct addr sources[2] = { addr_v4_be32(1), addr_v4_be32(2) };
	struct log_config config, settings;
	struct log_change c, again;

	c = change_node("n1", 7, false);
	cr_assert_eq(recode(&c, &again, &config), 0);
	cr_assert(addr_equal(&c.vtep, &again.vtep));
	c = change_member("n1", 7, false);
	c.filter = (struct filter){ FILTER_INCLUDE, 2, sources };
	cr_assert_eq(recode(&c, &again, &config), 0);
	cr_assert(filter_equal(&c.filter, &again.filter));
	filter_deinit(&again.filter);
	for (size_t i = 0; i < store_n_settings; i++) {
		memset(&settings, 0, sizeof(settings));
		*store_setting_of(&settings, &store_settings[i]) = 0x01020304;
		*store_setting_of(&settings, &store_settings[0]) = 7;
		c = (struct log_change){ .kind = LOG_CONFIG, .node = "", .config = &settings };
		cr_assert_eq(recode(&c, &again, &config), 0);
		cr_assert_arr_eq(&config, &settings, sizeof(config));
	}
}

Test(codec, what_it_does_not_know_is_refused)
{
	static const struct {
		enum log_kind kind;
		uint8_t data[40];
		size_t len;
		int r;
	} bad[] = {
		{ LOG_NODE, { 0 }, 0, -EBADMSG },
		{ LOG_NODE, { 0 }, 17, -EBADMSG },
		{ LOG_NODE, { 2 }, 17, -ENOTSUP },
		{ LOG_NODE, { 1 }, 16, -EBADMSG },
		{ LOG_NODE, { 1 }, 18, -EBADMSG },
		{ LOG_MEMBER, { 1 }, 1, -EBADMSG },
		{ LOG_MEMBER, { 1, 2 }, 2, -EBADMSG },
		{ LOG_MEMBER, { 1, 0 }, 17, -EBADMSG },
		{ LOG_MEMBER, { 1, 0 }, 34, -EBADMSG }, /* the same source twice */
		{ LOG_CONFIG, { 1, 3, 0, 0, 0 }, 5, -EBADMSG },
		{ LOG_CONFIG, { 1, 3, 0, 0, 0, 0 }, 6, -EBADMSG },
		{ LOG_CONFIG, { 1, 3, 0, 0, 0, 1, 3, 0, 0, 0, 1 }, 11, -EBADMSG },
		{ LOG_CONFIG, { 1, 99, 0, 0, 0, 1 }, 6, -ENOTSUP },
		{ 9, { 1 }, 1, -EBADMSG },
	};
	struct log_config config;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct log_change c = { .kind = bad[i].kind };

		cr_assert_eq(store_decode(bad[i].data, bad[i].len, &c, &config), bad[i].r, "%zu",
			     i);
		cr_assert_null(c.filter.sources);
	}
}
