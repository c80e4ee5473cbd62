/* SPDX-License-Identifier: Apache-2.0 */
#include "store_harness.h"

#include <ftw.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "common/rpc.h"

struct rpc *bed_rpc;

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void note(struct bed *bed, struct happened h)
{
	bed->history[bed->n++ % HISTORY] = h;
	bed->n_answers += h.what != 'e';
}

static void on_event(void *userdata, uint64_t revision, const struct log_change *changes, size_t n)
{
	struct bed *bed = userdata;

	cr_assert_eq(log_apply(bed->log, revision, changes, n), 0);
	note(bed, (struct happened){ 'e', 0, revision, n, 0 });
}

static void on_session(void *userdata, int result, uint64_t session, uint64_t last_sequence)
{
	note(userdata, (struct happened){ 's', result, session, 0, last_sequence });
}

static void on_commit(void *userdata, int result, uint64_t revision)
{
	note(userdata, (struct happened){ 'c', result, revision, 0, 0 });
}

static void on_presence(void *userdata, const struct store_presence *presence)
{
}

static void on_draining(void *userdata, const char *node, bool on)
{
}

static void on_lost(void *userdata, const char *why)
{
	cr_assert_fail("%s", why);
}

int bed_try(struct bed *bed, const char *spec)
{
	static const struct store_events events = { on_event, on_presence, on_draining, on_lost };
	const struct store_options options = { .spec = spec, .rpc = bed_rpc };
	int r;

	memset(bed, 0, sizeof(*bed));
	snprintf(bed->why, sizeof(bed->why), "out of memory");
	r = store_open(&options, &events, bed, &bed->store, bed->why);
	if (r < 0)
		return r;
	cr_assert_eq(log_new(bed->store->epoch, bed->store->revision, 1000000, &bed->log), 0);
	log_load_begin(bed->log, bed->store->floor);
	r = store_load(bed->store, bed->why);
	if (r == 0)
		log_load_end(bed->log, bed->store->revision);
	else
		bed_close(bed);
	return r;
}

void bed_open(struct bed *bed, const char *spec)
{
	int r = bed_try(bed, spec);

	cr_assert_eq(r, 0, "%s: %s", spec, bed->why);
}

void bed_close(struct bed *bed)
{
	store_close(bed->store);
	log_free(bed->log);
	bed->store = NULL;
	bed->log = NULL;
}

const struct happened *bed_last(const struct bed *bed, size_t i)
{
	cr_assert_lt(i, bed->n);
	return &bed->history[(bed->n - 1 - i) % HISTORY];
}

bool bed_wait(struct bed *bed, size_t n_answers)
{
	uint64_t end = now_ms() + WAIT_MS;

	while (bed->n_answers < n_answers && now_ms() < end) {
		uint64_t next = store_next_ms(bed->store), now = now_ms();

		if (bed_rpc)
			rpc_poll(bed_rpc, next < end ? next : end);
		else if (next > now)
			poll(NULL, 0, 1); /* poll interval */
		store_dispatch(bed->store, now_ms());
	}
	return bed->n_answers >= n_answers;
}

int bed_session(struct bed *bed, const char *node, uint8_t instance, uint64_t start,
		uint64_t attempt, bool alive, uint64_t *ret_session, uint64_t *ret_sequence)
{
	struct store_session q = { .node = node,
				   .instance = { instance },
				   .start_count = start,
				   .attempt = attempt,
				   .holder_alive = alive };
	size_t n = bed->n_answers;

	store_session(bed->store, &q, on_session, bed);
	cr_assert(bed_wait(bed, n + 1), "no answer to a session");
	if (ret_session)
		*ret_session = bed_last(bed, 0)->revision;
	if (ret_sequence)
		*ret_sequence = bed_last(bed, 0)->sequence;
	return bed_last(bed, 0)->result;
}

void bed_ask(struct bed *bed, const char *node, uint64_t session, uint64_t sequence,
	     const struct log_change *changes, size_t n)
{
	struct store_txn txn = { .node = node,
				 .session = session,
				 .sequence = sequence,
				 .changes = changes,
				 .n_changes = n };

	store_commit(bed->store, &txn, on_commit, bed);
}

int bed_commit(struct bed *bed, const char *node, uint64_t session, uint64_t sequence,
	       const struct log_change *changes, size_t n)
{
	size_t answers = bed->n_answers;

	bed_ask(bed, node, session, sequence, changes, n);
	cr_assert(bed_wait(bed, answers + 1), "no answer to a commit");
	return bed_last(bed, 0)->result;
}

struct log_change change_member(const char *node, uint32_t n, bool deleted)
{
	return (struct log_change){ .kind = LOG_MEMBER,
				    .segment = 1,
				    .node = node,
				    .group = addr_v4_be32(__builtin_bswap32(0xef010000 + n)),
				    .deleted = deleted,
				    .filter = { .mode = FILTER_EXCLUDE } };
}

struct log_change change_node(const char *node, uint8_t vtep, bool deleted)
{
	return (struct log_change){ .kind = LOG_NODE,
				    .node = node,
				    .deleted = deleted,
				    .vtep = addr_v4_be32(__builtin_bswap32(0xcb007100u + vtep)) };
}

static void row_text(FILE *f, const struct log_row *row)
{
	char group[ADDR_TEXT_MAX], other[ADDR_TEXT_MAX];

	fprintf(f, "%llu %s kind %u segment %u subject %u node %s port %s group %s vtep %s mode %d",
		(unsigned long long)row->revision, row->deleted ? "gone" : "live", row->key.kind,
		row->key.segment, row->key.subject, row->node->name, row->key.port,
		addr_format(&row->key.group, group),
		addr_format(row->deleted ? &ADDR_NULL : &row->vtep, other), row->filter.mode);
	for (uint32_t i = 0; i < row->filter.n_sources; i++)
		fprintf(f, " %s", addr_format(&row->filter.sources[i], other));
	if (row->config) {
		const uint32_t *value = (const uint32_t *)row->config;

		for (size_t i = 0; i < sizeof(*row->config) / sizeof(*value); i++)
			fprintf(f, " %u", value[i]);
	}
	fprintf(f, "\n");
}

char *bed_text(const struct bed *bed)
{
	struct log_row *row;
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	cr_assert_not_null(f);
	for (row = log_seek(bed->log, 0, 0, &ADDR_NULL, "", ""); row; row = row->next[0])
		row_text(f, row);
	fclose(f);
	return text;
}

char *scratch_new(void)
{
	char *path = strdup("/tmp/mcmesh-store-XXXXXX");

	cr_assert_not_null(path);
	cr_assert_not_null(mkdtemp(path));
	return path;
}

static int scratch_remove(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

void scratch_free(char *path)
{
	nftw(path, scratch_remove, 8, FTW_DEPTH | FTW_PHYS);
	free(path);
}
