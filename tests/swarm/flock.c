/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/swarm/flock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <uthash.h>

#include "common/cleanup.h"

#define NAME_MAX_LEN   63
#define PLACES_MAX     16
#define MOVES_MAX      4096
#define TOTALS_MAX     64
#define VERSIONS_PRUNE 8
#define KNOWN_MAX      256
#define KNOWN_BYTES    1024 /* smaller messages are decoded each time */

struct name {
	char text[NAME_MAX_LEN + 1];
	struct addr vtep;
	bool known; /* by its last row: also in a log that is no more */
	UT_hash_handle hh;
};

struct version {
	uint64_t revision;
	unsigned __int128 hash; /* 0: deleted */
};

struct row_key {
	uint32_t segment, is_node;
	struct addr group;
	struct name *name;
};

struct row {
	struct row_key key;
	struct version *versions; /* by revision */
	uint32_t n, cap;
	uint64_t named; /* by the newest snapshot with its row */
	TAILQ_ENTRY(row) of_segment;
	UT_hash_handle hh;
};

struct move_key {
	uint64_t segment, previous, revision, sum;
};

/* What one delta does to the digest of who applies it. */
struct move {
	struct move_key key;
	struct digest by;
	uint64_t withdrawals;
	UT_hash_handle hh;
};

struct total {
	uint32_t segment;
	uint64_t revision, n_puts;
	struct digest digest;
};

struct seg {
	uint32_t id;
	TAILQ_HEAD(, row) rows;
	uint64_t n_puts;
	UT_hash_handle hh;
};

struct known {
	uint8_t *data;
	size_t len;
	Mcmesh__V1__ControllerMessage *message;
	bool put; /* its rows are in */
};

struct flock {
	struct known known[KNOWN_MAX];
	unsigned int next_known;
	uint8_t epoch[EPOCH_LEN];
	struct name *names;
	struct row *rows;
	struct seg *segments;
	struct move *moves; /* oldest first */
	struct total totals[TOTALS_MAX];
	unsigned int next_total;
	uint64_t floor;
	struct flock_counters counters;
};

struct place {
	uint32_t segment;
	uint64_t revision, snapshot_ended;
	bool incomplete; /* since its log began, no snapshot swept */
	struct digest digest;
};

struct real_mirror;

struct mirror {
	struct flock *flock;
	struct real_mirror *full;
	struct name *self;
	bool told; /* anything, ever */
	uint8_t epoch[EPOCH_LEN];
	struct place places[PLACES_MAX];
	size_t n_places;
};

size_t real_mirror_uncertain(const struct real_mirror *mirror);
bool real_mirror_is_certain(const struct real_mirror *mirror, uint32_t segment);
void real_mirror_own_begin(struct real_mirror *mirror, uint32_t segment);
int real_mirror_own_row(struct real_mirror *mirror, uint32_t segment, const struct addr *group,
			const struct filter *filter);
void real_mirror_own_end(struct real_mirror *mirror, uint32_t segment);
bool real_mirror_is_told(const struct real_mirror *mirror);
uint64_t real_mirror_resumable(const struct real_mirror *mirror, uint32_t segment);
uint64_t real_mirror_snapshot_ended(const struct real_mirror *mirror, uint32_t segment);
void real_mirror_session_begin(struct real_mirror *mirror);
int real_mirror_new(const char *self, const struct mirror_ops *ops, void *userdata,
		    struct real_mirror **ret_mirror);
void real_mirror_free(struct real_mirror *mirror);
int real_mirror_segment_add(struct real_mirror *mirror, uint32_t segment);
void real_mirror_epoch_set(struct real_mirror *mirror, const uint8_t epoch[EPOCH_LEN]);
const uint8_t *real_mirror_epoch(const struct real_mirror *mirror);
int real_mirror_delta(struct real_mirror *mirror, const Mcmesh__V1__Delta *delta);
int real_mirror_snapshot(struct real_mirror *mirror, const Mcmesh__V1__Snapshot *snapshot);
void real_mirror_resync(struct real_mirror *mirror, uint32_t segment);
uint64_t real_mirror_revision(const struct real_mirror *mirror, uint32_t segment);
struct digest real_mirror_digest(const struct real_mirror *mirror, uint32_t segment);
void real_mirror_segments_walk(const struct real_mirror *mirror,
			       void (*fn)(uint32_t segment, uint64_t revision, void *userdata),
			       void *userdata);
void real_mirror_nodes_walk(const struct real_mirror *mirror,
			    void (*fn)(const char *node, const struct addr *vtep, void *userdata),
			    void *userdata);

/* ---- the rows ------------------------------------------------------------------ */

int flock_new(struct flock **ret_flock)
{
	struct flock *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	*ret_flock = f;
	return 0;
}

const struct flock_counters *flock_counters(const struct flock *f)
{
	return &f->counters;
}

static void moves_clear(struct flock *f, size_t keep)
{
	struct move *m, *tmp;

	HASH_ITER (hh, f->moves, m, tmp) {
		if (HASH_COUNT(f->moves) <= keep)
			return;
		HASH_DEL(f->moves, m);
		free(m);
	}
}

static void rows_clear(struct flock *f)
{
	struct row *row, *tmp;
	struct seg *s, *s_tmp;

	HASH_ITER (hh, f->rows, row, tmp) {
		HASH_DEL(f->rows, row);
		free(row->versions);
		free(row);
	}
	HASH_ITER (hh, f->segments, s, s_tmp) {
		HASH_DEL(f->segments, s);
		free(s);
	}
	moves_clear(f, 0);
	memset(f->totals, 0, sizeof(f->totals));
	for (size_t i = 0; i < KNOWN_MAX; i++)
		f->known[i].put = false;
	f->floor = 0;
}

static void known_clear(struct known *k)
{
	if (k->message)
		mcmesh__v1__controller_message__free_unpacked(k->message, NULL);
	free(k->data);
	*k = (struct known){ 0 };
}

const ProtobufCMessage *flock_message(const ProtobufCMessageDescriptor *descriptor,
				      const uint8_t *data, size_t len, void *flock)
{
	struct flock *f = flock;
	struct known *k;

	if (len < KNOWN_BYTES || descriptor != &mcmesh__v1__controller_message__descriptor)
		return NULL;
	for (size_t i = 0; i < KNOWN_MAX; i++) {
		k = &f->known[i];
		if (k->len == len && memcmp(k->data, data, len) == 0)
			return &k->message->base;
	}
	k = &f->known[f->next_known++ % KNOWN_MAX];
	known_clear(k);
	k->message = mcmesh__v1__controller_message__unpack(NULL, len, data);
	k->data = malloc(len);
	if (!k->message || !k->data) {
		known_clear(k);
		return NULL;
	}
	memcpy(k->data, data, len);
	k->len = len;
	f->counters.decoded++;
	return &k->message->base;
}

void flock_free(struct flock *f)
{
	struct name *name, *tmp;

	if (!f)
		return;
	rows_clear(f);
	for (size_t i = 0; i < KNOWN_MAX; i++)
		known_clear(&f->known[i]);
	HASH_ITER (hh, f->names, name, tmp) {
		HASH_DEL(f->names, name);
		free(name);
	}
	free(f);
}

static struct name *name_get(struct flock *f, const char *text)
{
	struct name *name;

	HASH_FIND_STR(f->names, text, name);
	if (name)
		return name;
	name = calloc(1, sizeof(*name));
	if (!name)
		abort();
	strncpy(name->text, text, NAME_MAX_LEN);
	HASH_ADD_STR(f->names, text, name);
	return name;
}

static struct seg *seg_get(struct flock *f, uint32_t id)
{
	struct seg *s;

	HASH_FIND(hh, f->segments, &id, sizeof(id), s);
	if (s)
		return s;
	s = calloc(1, sizeof(*s));
	if (!s)
		abort();
	s->id = id;
	TAILQ_INIT(&s->rows);
	HASH_ADD(hh, f->segments, id, sizeof(s->id), s);
	return s;
}

static struct row *row_get(struct flock *f, struct seg *s, const struct row_key *key)
{
	struct row *row;

	HASH_FIND(hh, f->rows, key, sizeof(*key), row);
	if (row)
		return row;
	row = calloc(1, sizeof(*row));
	if (!row)
		abort();
	row->key = *key;
	HASH_ADD(hh, f->rows, key, sizeof(row->key), row);
	TAILQ_INSERT_TAIL(&s->rows, row, of_segment);
	return row;
}

static unsigned __int128 row_at(const struct row *row, uint64_t revision)
{
	for (uint32_t i = row->n; i-- > 0;) {
		if (row->versions[i].revision <= revision)
			return row->versions[i].hash;
	}
	return 0;
}

/* All but the newest of those that nobody is before. */
static void row_prune(struct row *row, uint64_t floor)
{
	uint32_t drop = 0;

	while (drop + 1 < row->n && row->versions[drop + 1].revision <= floor)
		drop++;
	if (!drop)
		return;
	row->n -= drop;
	memmove(row->versions, row->versions + drop, row->n * sizeof(*row->versions));
}

static bool row_has(const struct row *row, uint64_t revision)
{
	for (uint32_t i = row->n; i-- > 0;) {
		if (row->versions[i].revision <= revision)
			return row->versions[i].revision == revision;
	}
	return false;
}

static void row_put(struct flock *f, struct seg *s, struct row *row, uint64_t revision,
		    unsigned __int128 hash)
{
	uint32_t at = row->n;

	while (at && row->versions[at - 1].revision > revision)
		at--;
	if (at && row->versions[at - 1].revision == revision) {
		f->counters.inconsistent += row->versions[at - 1].hash != hash;
		return;
	}
	if (row->n >= VERSIONS_PRUNE) {
		row_prune(row, f->floor);
		at = row->n;
		while (at && row->versions[at - 1].revision > revision)
			at--;
	}
	if (row->n == row->cap) {
		row->cap = row->cap ? row->cap * 2 : 1;
		row->versions = reallocarray(row->versions, row->cap, sizeof(*row->versions));
		if (!row->versions)
			abort();
	}
	memmove(row->versions + at + 1, row->versions + at, (row->n - at) * sizeof(*row->versions));
	row->versions[at] = (struct version){ revision, hash };
	row->n++;
	s->n_puts++;
}

void flock_forget(struct flock *f, uint64_t revision)
{
	f->floor = revision;
}

/* ---- changes ---------------------------------------------------------------------- */

static unsigned __int128 member_hash(const struct flock *f, uint32_t segment,
				     const Mcmesh__V1__MemberChange *m, const struct addr *group)
{
	_cleanup_free_ struct addr *sources = calloc(m->n_sources + 1, sizeof(*sources));
	struct filter filter = FILTER_NULL;
	struct digest d = { 0 };

	if (!sources)
		abort();
	for (size_t i = 0; i < m->n_sources; i++)
		addr_from_wire(m->sources[i].data, m->sources[i].len, &sources[i]);
	if (filter_init(&filter,
			m->mode == MCMESH__V1__FILTER__MODE__EXCLUDE ? FILTER_EXCLUDE
								     : FILTER_INCLUDE,
			sources, m->n_sources) < 0)
		abort();
	digest_add_member(&d, f->epoch, segment, m->node, group, &filter);
	filter_deinit(&filter);
	return d.sum;
}

static struct row *member_row(struct flock *f, struct seg *s, const Mcmesh__V1__MemberChange *m)
{
	struct row_key key = { .segment = s->id };
	struct row *row;

	addr_from_wire(m->group.data, m->group.len, &key.group);
	key.name = name_get(f, m->node);
	row = row_get(f, s, &key);
	/* What is known already is not hashed again, unless somebody checks. */
	if (!row_has(row, m->revision))
		row_put(f, s, row, m->revision,
			m->deleted ? 0 : member_hash(f, s->id, m, &key.group));
	return row;
}

static struct row *node_row(struct flock *f, struct seg *s, const Mcmesh__V1__NodeChange *n)
{
	struct row_key key = { .segment = s->id, .is_node = 1 };
	struct digest d = { 0 };
	struct row *row;

	key.name = name_get(f, n->node);
	row = row_get(f, s, &key);
	if (!n->deleted) {
		addr_from_wire(n->vtep.data, n->vtep.len, &key.name->vtep);
		digest_add_node(&d, f->epoch, n->node, &key.name->vtep);
	}
	key.name->known = !n->deleted;
	row_put(f, s, row, n->revision, d.sum);
	return row;
}

static struct row *change_put(struct flock *f, struct seg *s, const Mcmesh__V1__Change *c)
{
	if (c->change_case == MCMESH__V1__CHANGE__CHANGE_MEMBER)
		return member_row(f, s, c->member);
	if (c->change_case == MCMESH__V1__CHANGE__CHANGE_NODE)
		return node_row(f, s, c->node);
	return NULL;
}

static uint64_t mix(uint64_t sum, uint64_t v)
{
	return (sum ^ v) * 0x9e3779b97f4a7c15u + (sum >> 29);
}

/* Tells deltas of the same span but other contents apart. */
static uint64_t contents_sum(const Mcmesh__V1__Delta *delta)
{
	uint64_t sum = delta->n_changes;

	for (size_t i = 0; i < delta->n_changes; i++) {
		const Mcmesh__V1__Change *c = delta->changes[i];
		uint32_t word = 0;

		if (c->change_case != MCMESH__V1__CHANGE__CHANGE_MEMBER)
			continue;
		if (c->member->group.len >= sizeof(word))
			memcpy(&word, c->member->group.data + c->member->group.len - sizeof(word),
			       sizeof(word));
		sum = mix(sum, c->member->revision << 1 | (uint64_t)c->member->deleted);
		sum = mix(sum, word);
	}
	return sum;
}

static void move_add(struct flock *f, struct seg *s, struct move *m, const Mcmesh__V1__Change *c)
{
	struct row *row = change_put(f, s, c);
	unsigned __int128 before, after;

	if (!row)
		return;
	before = row_at(row, m->key.previous);
	after = row_at(row, m->key.revision);
	m->by.sum += after - before;
	m->by.rows += (uint64_t)(after != 0) - (uint64_t)(before != 0);
	m->withdrawals += !after && c->change_case == MCMESH__V1__CHANGE__CHANGE_MEMBER;
}

static const struct move *flock_move(struct flock *f, const Mcmesh__V1__Delta *delta)
{
	struct seg *s = seg_get(f, delta->segment);
	struct move_key key = { delta->segment, delta->previous, delta->revision,
				contents_sum(delta) };
	struct move *m;

	HASH_FIND(hh, f->moves, &key, sizeof(key), m);
	if (m)
		return m;
	moves_clear(f, MOVES_MAX);
	m = calloc(1, sizeof(*m));
	if (!m)
		abort();
	m->key = key;
	for (size_t i = 0; i < delta->n_changes; i++)
		move_add(f, s, m, delta->changes[i]);
	HASH_ADD(hh, f->moves, key, sizeof(m->key), m);
	f->counters.deltas_worked_out++;
	return m;
}

/* The whole segment at a revision, once for all who arrive at it. */
static struct digest flock_total(struct flock *f, uint32_t segment, uint64_t revision)
{
	struct seg *s = seg_get(f, segment);
	struct total *t;
	struct row *row;

	for (size_t i = 0; i < TOTALS_MAX; i++) {
		t = &f->totals[i];
		if (t->segment == segment && t->revision == revision && t->n_puts == s->n_puts)
			return t->digest;
	}
	t = &f->totals[f->next_total++ % TOTALS_MAX];
	*t = (struct total){ .segment = segment, .revision = revision, .n_puts = s->n_puts };
	TAILQ_FOREACH(row, &s->rows, of_segment)
	{
		unsigned __int128 hash = row_at(row, revision);

		t->digest.sum += hash;
		t->digest.rows += hash != 0;
	}
	return t->digest;
}

/* ---- node/mirror.h ------------------------------------------------------------------- */

static void ignore_remote(const struct addr *vtep, const char *node, void *userdata)
{
}

static void ignore_remote_del(const struct addr *vtep, void *userdata)
{
}

static void ignore_member(uint32_t segment, const struct addr *group, const struct addr *vtep,
			  const struct filter *filter, void *userdata)
{
}

int flock_agent_new(struct flock *flock, const char *node, bool full, struct mirror **ret_mirror)
{
	static const struct mirror_ops ops = {
		.remote_add = ignore_remote,
		.remote_del = ignore_remote_del,
		.member = ignore_member,
	};
	struct mirror *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->flock = flock;
	m->self = name_get(flock, node);
	m->n_places = 1; /* segment 0 */
	if (full && real_mirror_new(node, &ops, NULL, &m->full) < 0) {
		free(m);
		return -ENOMEM;
	}
	*ret_mirror = m;
	return 0;
}

void mirror_free(struct mirror *m)
{
	if (!m)
		return;
	real_mirror_free(m->full);
	free(m);
}

static struct place *place_find(const struct mirror *m, uint32_t segment)
{
	for (size_t i = 0; i < m->n_places; i++) {
		if (m->places[i].segment == segment)
			return (struct place *)&m->places[i];
	}
	return NULL;
}

int mirror_segment_add(struct mirror *m, uint32_t segment)
{
	if (m->full)
		return real_mirror_segment_add(m->full, segment);
	if (place_find(m, segment))
		return 0;
	if (m->n_places == PLACES_MAX)
		return -ENOSPC;
	m->places[m->n_places++] = (struct place){ .segment = segment };
	return 0;
}

void mirror_epoch_set(struct mirror *m, const uint8_t epoch[EPOCH_LEN])
{
	if (m->full) {
		real_mirror_epoch_set(m->full, epoch);
		return;
	}
	if (memcmp(m->flock->epoch, epoch, EPOCH_LEN) != 0) {
		rows_clear(m->flock);
		memcpy(m->flock->epoch, epoch, EPOCH_LEN);
	}
	memcpy(m->epoch, epoch, EPOCH_LEN);
	for (size_t i = 0; i < m->n_places; i++)
		m->places[i] =
			(struct place){ .segment = m->places[i].segment, .incomplete = true };
}

const uint8_t *mirror_epoch(const struct mirror *m)
{
	return m->full ? real_mirror_epoch(m->full) : m->epoch;
}

int mirror_delta(struct mirror *m, const Mcmesh__V1__Delta *delta)
{
	struct place *p = place_find(m, delta->segment);
	const struct move *move;

	m->flock->counters.rows_told += delta->n_changes;
	if (m->full)
		return real_mirror_delta(m->full, delta);
	if (!p)
		return 0;
	if (delta->revision < delta->previous)
		return -EINVAL;
	if (p->revision != delta->previous)
		return MIRROR_E_GAP;
	p->revision = delta->revision;
	/* The others are in another log already: what this one is told is void. */
	if (!delta->n_changes || memcmp(m->epoch, m->flock->epoch, EPOCH_LEN) != 0)
		return 0;
	move = flock_move(m->flock, delta);
	p->digest.sum += move->by.sum;
	p->digest.rows += move->by.rows;
	m->flock->counters.withdrawals += move->withdrawals;
	return 0;
}

/* Were the rows of these very bytes put before? From now on they were. */
static bool known_is_put(struct flock *f, const Mcmesh__V1__Snapshot *snapshot)
{
	for (size_t i = 0; i < KNOWN_MAX; i++) {
		struct known *k = &f->known[i];
		bool put = k->put;

		if (!k->message || k->message->snapshot != snapshot)
			continue;
		k->put = true;
		return put;
	}
	return false;
}

/* What is not named is gone: of deletions before it a snapshot that is complete says
 * nothing, and no agent may have been told of them. */
static void snapshot_sweep(struct flock *f, struct seg *s, const Mcmesh__V1__Snapshot *snapshot)
{
	struct row *row;

	TAILQ_FOREACH(row, &s->rows, of_segment)
	{
		if (row->named < snapshot->id && row_at(row, snapshot->revision))
			row_put(f, s, row, snapshot->revision, 0);
	}
}

static void snapshot_put(struct flock *f, struct seg *s, const Mcmesh__V1__Snapshot *snapshot)
{
	for (size_t i = 0; i < snapshot->n_rows; i++) {
		struct row *row = change_put(f, s, snapshot->rows[i]);

		if (row && row->named < snapshot->id)
			row->named = snapshot->id;
	}
	if (snapshot->end && snapshot->complete)
		snapshot_sweep(f, s, snapshot);
}

int mirror_snapshot(struct mirror *m, const Mcmesh__V1__Snapshot *snapshot)
{
	struct place *p = place_find(m, snapshot->segment);
	struct seg *s;

	m->flock->counters.rows_told += snapshot->n_rows;
	if (m->full)
		return real_mirror_snapshot(m->full, snapshot);
	if (!p || memcmp(m->epoch, m->flock->epoch, EPOCH_LEN) != 0)
		return 0;
	s = seg_get(m->flock, snapshot->segment);
	if (!known_is_put(m->flock, snapshot))
		snapshot_put(m->flock, s, snapshot);
	if (!snapshot->end)
		return 0;
	m->told = true;
	p->revision = snapshot->revision;
	p->snapshot_ended = snapshot->id;
	p->incomplete &= !snapshot->complete;
	p->digest = flock_total(m->flock, p->segment, p->revision);
	return 0;
}

void mirror_resync(struct mirror *m, uint32_t segment)
{
	struct place *p = place_find(m, segment);

	if (m->full)
		real_mirror_resync(m->full, segment);
	else if (p)
		p->revision = 0;
}

uint64_t mirror_revision(const struct mirror *m, uint32_t segment)
{
	const struct place *p = place_find(m, segment);

	if (m->full)
		return real_mirror_revision(m->full, segment);
	return p ? p->revision : 0;
}

struct digest mirror_digest(const struct mirror *m, uint32_t segment)
{
	const struct place *p = place_find(m, segment);

	if (m->full)
		return real_mirror_digest(m->full, segment);
	return p ? p->digest : (struct digest){ 0 };
}

void mirror_segments_walk(const struct mirror *m,
			  void (*fn)(uint32_t segment, uint64_t revision, void *userdata),
			  void *userdata)
{
	if (m->full) {
		real_mirror_segments_walk(m->full, fn, userdata);
		return;
	}
	for (size_t i = 0; i < m->n_places; i++)
		fn(m->places[i].segment, m->places[i].revision, userdata);
}

void mirror_nodes_walk(const struct mirror *m,
		       void (*fn)(const char *node, const struct addr *vtep, void *userdata),
		       void *userdata)
{
	struct name *name, *tmp;

	if (m->full) {
		real_mirror_nodes_walk(m->full, fn, userdata);
		return;
	}
	if (!m->told)
		return;
	HASH_ITER (hh, m->flock->names, name, tmp) {
		if (name->known && name != m->self)
			fn(name->text, &name->vtep, userdata);
	}
}

/* Nothing is seeded here, so nothing is in doubt. */
size_t mirror_uncertain(const struct mirror *m)
{
	return m->full ? real_mirror_uncertain(m->full) : 0;
}

bool mirror_is_certain(const struct mirror *m, uint32_t segment)
{
	return m->full ? real_mirror_is_certain(m->full, segment) : true;
}

void mirror_own_begin(struct mirror *m, uint32_t segment)
{
	if (m->full)
		real_mirror_own_begin(m->full, segment);
}

int mirror_own_row(struct mirror *m, uint32_t segment, const struct addr *group,
		   const struct filter *filter)
{
	return m->full ? real_mirror_own_row(m->full, segment, group, filter) : 0;
}

void mirror_own_end(struct mirror *m, uint32_t segment)
{
	if (m->full)
		real_mirror_own_end(m->full, segment);
}

bool mirror_is_told(const struct mirror *m)
{
	return m->full ? real_mirror_is_told(m->full) : true;
}

uint64_t mirror_resumable(const struct mirror *m, uint32_t segment)
{
	const struct place *p = place_find(m, segment);

	if (m->full)
		return real_mirror_resumable(m->full, segment);
	return p && !p->incomplete ? p->revision : 0;
}

uint64_t mirror_snapshot_ended(const struct mirror *m, uint32_t segment)
{
	const struct place *p = place_find(m, segment);

	if (m->full)
		return real_mirror_snapshot_ended(m->full, segment);
	return p ? p->snapshot_ended : 0;
}

void mirror_session_begin(struct mirror *m)
{
	if (m->full) {
		real_mirror_session_begin(m->full);
		return;
	}
	for (size_t i = 0; i < m->n_places; i++)
		m->places[i].snapshot_ended = 0;
}
