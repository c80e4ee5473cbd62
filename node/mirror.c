/* SPDX-License-Identifier: Apache-2.0 */
#include "node/mirror.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>
#include <utlist.h>

#include "common/cleanup.h"

#define NODE_NAME_MAX 63

struct mirror_node {
	char name[NODE_NAME_MAX + 1];
	bool known; /* has a row of its own, thus a VTEP */
	bool confirmed;
	struct addr vtep;
	uint64_t revision;
	struct mirror_row *rows;
	size_t n_rows;
	UT_hash_handle hh;
};

struct row_key {
	uint32_t segment;
	uint32_t pad;
	struct addr group;
	struct mirror_node *node;
};

struct mirror_row {
	struct row_key key;
	struct filter filter;
	uint64_t revision;
	bool confirmed;
	struct mirror_row *node_prev, *node_next; /* rows of the node */
	struct mirror_row *segment_prev, *segment_next;
	UT_hash_handle hh;
};

struct mirror_segment {
	uint32_t id;
	uint64_t revision;
	uint64_t snapshot_id, snapshot_ended;
	bool in_snapshot;
	bool uncertain; /* own rows are seeds */
	bool whole;	/* no row is of another log than the revision */
	struct digest digest;
	struct mirror_row *rows;
	UT_hash_handle hh;
};

struct mirror {
	struct mirror_ops ops;
	void *userdata;
	uint8_t epoch[EPOCH_LEN];
	struct mirror_node *nodes;
	struct mirror_node *self;
	struct mirror_row *rows;
	struct mirror_segment *segments;
	size_t n_uncertain; /* segments */
	size_t n_untold;    /* rows whose node has none of its own yet */
	bool was_moving;    /* the maps were left while a node's VTEP changed in them */
};

static struct mirror_segment *segment_find(const struct mirror *m, uint32_t id)
{
	struct mirror_segment *s;

	HASH_FIND(hh, m->segments, &id, sizeof(id), s);
	return s;
}

static struct mirror_node *node_find(const struct mirror *m, const char *name)
{
	struct mirror_node *n;

	HASH_FIND_STR(m->nodes, name, n);
	return n;
}

static struct mirror_node *node_get(struct mirror *m, const char *name)
{
	struct mirror_node *n = node_find(m, name);

	if (n)
		return n;
	n = calloc(1, sizeof(*n));
	if (!n)
		return NULL;
	memcpy(n->name, name, strnlen(name, NODE_NAME_MAX));
	HASH_ADD_STR(m->nodes, name, n);
	return n;
}

/* Nothing names it any more. */
static void node_put(struct mirror *m, struct mirror_node *n)
{
	if (n->known || n->rows || n == m->self)
		return;
	HASH_DEL(m->nodes, n);
	free(n);
}

int mirror_new(const char *self, const struct mirror_ops *ops, void *userdata,
	       struct mirror **ret_mirror)
{
	struct mirror *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->ops = *ops;
	m->userdata = userdata;
	m->self = node_get(m, self);
	if (!m->self || mirror_segment_add(m, 0) < 0) {
		mirror_free(m);
		return -ENOMEM;
	}
	*ret_mirror = m;
	return 0;
}

void mirror_free(struct mirror *m)
{
	struct mirror_row *row, *next_row;
	struct mirror_node *node, *next_node;
	struct mirror_segment *s, *next_segment;

	if (!m)
		return;
	HASH_ITER (hh, m->rows, row, next_row) {
		HASH_DEL(m->rows, row);
		filter_deinit(&row->filter);
		free(row);
	}
	HASH_ITER (hh, m->nodes, node, next_node) {
		HASH_DEL(m->nodes, node);
		free(node);
	}
	HASH_ITER (hh, m->segments, s, next_segment) {
		HASH_DEL(m->segments, s);
		free(s);
	}
	free(m);
}

int mirror_segment_add(struct mirror *m, uint32_t segment)
{
	struct mirror_segment *s = segment_find(m, segment);

	if (s)
		return 0;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->id = segment;
	HASH_ADD(hh, m->segments, id, sizeof(s->id), s);
	return 0;
}

/* ---- rows ------------------------------------------------------------------- */

static struct mirror_row *row_find(const struct mirror *m, uint32_t segment,
				   const struct addr *group, struct mirror_node *node)
{
	struct row_key key = { .segment = segment, .group = *group, .node = node };
	struct mirror_row *row;

	HASH_FIND(hh, m->rows, &key, sizeof(key), row);
	return row;
}

static void row_tell(struct mirror *m, const struct mirror_row *row, const struct filter *filter)
{
	const struct mirror_node *n = row->key.node;

	if (n->known && n != m->self)
		m->ops.member(row->key.segment, &row->key.group, &n->vtep, filter, m->userdata);
}

static bool is_untold(const struct mirror *m, const struct mirror_node *n)
{
	return !n->known && n != m->self;
}

static void row_delete(struct mirror *m, struct mirror_segment *s, struct mirror_row *row)
{
	struct mirror_node *node = row->key.node;

	digest_del_member(&s->digest, m->epoch, s->id, node->name, &row->key.group, &row->filter);
	row_tell(m, row, &FILTER_NULL);
	HASH_DEL(m->rows, row);
	m->n_untold -= is_untold(m, node);
	node->n_rows--;
	DL_DELETE2(node->rows, row, node_prev, node_next);
	DL_DELETE2(s->rows, row, segment_prev, segment_next);
	filter_deinit(&row->filter);
	free(row);
	node_put(m, node);
}

static struct mirror_row *row_new(struct mirror *m, struct mirror_segment *s,
				  const struct addr *group, struct mirror_node *node)
{
	struct mirror_row *row;

	if (HASH_COUNT(m->rows) >= MIRROR_MAX_ROWS)
		return NULL;
	row = calloc(1, sizeof(*row));
	if (!row)
		return NULL;
	row->key = (struct row_key){ .segment = s->id, .group = *group, .node = node };
	HASH_ADD(hh, m->rows, key, sizeof(row->key), row);
	DL_APPEND2(node->rows, row, node_prev, node_next);
	m->n_untold += is_untold(m, node);
	node->n_rows++;
	DL_APPEND2(s->rows, row, segment_prev, segment_next);
	digest_add_member(&s->digest, m->epoch, s->id, node->name, group, &row->filter);
	return row;
}

/* Takes the filter over on success. */
static int row_put(struct mirror *m, struct mirror_segment *s, const struct addr *group,
		   const char *node_name, struct filter *filter, uint64_t revision)
{
	struct mirror_node *node = node_get(m, node_name);
	struct mirror_row *row = node ? row_find(m, s->id, group, node) : NULL;

	if (!row) {
		row = node ? row_new(m, s, group, node) : NULL;
		if (!row) {
			if (node)
				node_put(m, node);
			return -ENOMEM;
		}
	} else if (row->revision > revision) {
		row->confirmed = true;
		filter_deinit(filter);
		return 0;
	}
	digest_del_member(&s->digest, m->epoch, s->id, node->name, group, &row->filter);
	filter_deinit(&row->filter);
	row->filter = *filter;
	*filter = FILTER_NULL;
	row->revision = revision;
	row->confirmed = true;
	digest_add_member(&s->digest, m->epoch, s->id, node->name, group, &row->filter);
	row_tell(m, row, &row->filter);
	return 0;
}

/* ---- nodes ------------------------------------------------------------------ */

static void node_unset(struct mirror *m, struct mirror_node *n)
{
	struct mirror_row *row;

	if (!n->known)
		return;
	DL_FOREACH2(n->rows, row, node_next)
	row_tell(m, row, &FILTER_NULL);
	digest_del_node(&segment_find(m, 0)->digest, m->epoch, n->name, &n->vtep);
	n->known = false;
	if (n == m->self)
		return;
	m->n_untold += n->n_rows;
	m->ops.remote_del(&n->vtep, m->userdata);
}

static void node_set(struct mirror *m, struct mirror_node *n, const struct addr *vtep)
{
	struct mirror_row *row;

	if (n->known && addr_equal(&n->vtep, vtep))
		return;
	node_unset(m, n);
	n->known = true;
	n->vtep = *vtep;
	digest_add_node(&segment_find(m, 0)->digest, m->epoch, n->name, vtep);
	if (n != m->self) {
		m->n_untold -= n->n_rows;
		m->ops.remote_add(vtep, n->name, m->userdata);
	}
	DL_FOREACH2(n->rows, row, node_next)
	row_tell(m, row, &row->filter);
}

static int node_put_row(struct mirror *m, const char *name, const struct addr *vtep,
			uint64_t revision)
{
	struct mirror_node *n = node_get(m, name);

	if (!n)
		return -ENOMEM;
	n->confirmed = true;
	if (n->known && n->revision > revision)
		return 0;
	n->revision = revision;
	node_set(m, n, vtep);
	return 0;
}

static void node_delete(struct mirror *m, struct mirror_node *n)
{
	node_unset(m, n);
	node_put(m, n);
}

/* ---- epoch ------------------------------------------------------------------ */

static void segment_unconfirm(struct mirror *m, struct mirror_segment *s)
{
	struct mirror_node *n, *next;
	struct mirror_row *row;

	DL_FOREACH2(s->rows, row, segment_next)
	row->confirmed = false;
	if (s->id != 0)
		return;
	HASH_ITER (hh, m->nodes, n, next)
		n->confirmed = false;
	if (m->ops.config_unconfirm)
		m->ops.config_unconfirm(m->userdata);
}

/* Rows of another log have no place in this one's order. */
static void segment_restart(struct mirror *m, struct mirror_segment *s)
{
	struct mirror_node *n, *next;
	struct mirror_row *row;

	segment_unconfirm(m, s);
	s->revision = 0;
	s->whole = false;
	s->in_snapshot = false;
	s->snapshot_id = 0;
	s->digest = (struct digest){ 0 };
	DL_FOREACH2(s->rows, row, segment_next)
	{
		row->revision = 0;
		digest_add_member(&s->digest, m->epoch, s->id, row->key.node->name, &row->key.group,
				  &row->filter);
	}
	if (s->id != 0)
		return;
	HASH_ITER (hh, m->nodes, n, next) {
		n->revision = 0;
		if (n->known)
			digest_add_node(&s->digest, m->epoch, n->name, &n->vtep);
	}
}

void mirror_epoch_set(struct mirror *m, const uint8_t epoch[EPOCH_LEN])
{
	struct mirror_segment *s, *next;

	if (memcmp(m->epoch, epoch, EPOCH_LEN) == 0)
		return;
	memcpy(m->epoch, epoch, EPOCH_LEN);
	HASH_ITER (hh, m->segments, s, next)
		segment_restart(m, s);
}

const uint8_t *mirror_epoch(const struct mirror *m)
{
	return m->epoch;
}

void mirror_resync(struct mirror *m, uint32_t segment)
{
	struct mirror_segment *s = segment_find(m, segment);

	if (!s)
		return;
	s->revision = 0;
	s->whole = false;
	s->in_snapshot = false;
	s->snapshot_id = 0;
	segment_unconfirm(m, s);
}

/* ---- messages --------------------------------------------------------------- */

static int decode_sources(const ProtobufCBinaryData *wire, size_t n, struct filter *filter,
			  enum filter_mode mode)
{
	_cleanup_free_ struct addr *sources = malloc((n + 1) * sizeof(*sources));

	if (!sources)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		if (addr_from_wire(wire[i].data, wire[i].len, &sources[i]) < 0)
			return -EINVAL;
	}
	return filter_init(filter, mode, sources, n);
}

static bool name_ok(const char *name)
{
	return name[0] && strlen(name) <= NODE_NAME_MAX;
}

static int change_check(const Mcmesh__V1__Change *c)
{
	struct addr a;

	switch (c->change_case) {
	case MCMESH__V1__CHANGE__CHANGE_MEMBER:
		if (!name_ok(c->member->node) ||
		    addr_from_wire(c->member->group.data, c->member->group.len, &a) < 0 ||
		    !(addr_is_multicast(&a) || addr_is_null(&a)))
			return -EINVAL;
		for (size_t i = 0; i < c->member->n_sources; i++) {
			if (addr_from_wire(c->member->sources[i].data, c->member->sources[i].len,
					   &a) < 0)
				return -EINVAL;
		}
		return 0;
	case MCMESH__V1__CHANGE__CHANGE_NODE:
		if (!name_ok(c->node->node) ||
		    (!c->node->deleted &&
		     addr_from_wire(c->node->vtep.data, c->node->vtep.len, &a) < 0))
			return -EINVAL;
		return 0;
	default:
		return 0; /* a kind of a later version */
	}
}

static int member_apply(struct mirror *m, struct mirror_segment *s,
			const Mcmesh__V1__MemberChange *c)
{
	struct filter filter = FILTER_NULL;
	struct mirror_node *node;
	struct mirror_row *row;
	struct addr group;
	int r;

	r = addr_from_wire(c->group.data, c->group.len, &group);
	if (r < 0)
		return r;
	if (c->deleted) {
		node = node_find(m, c->node);
		row = node ? row_find(m, s->id, &group, node) : NULL;
		if (row && row->revision <= c->revision)
			row_delete(m, s, row);
		return 0;
	}
	r = decode_sources(c->sources, c->n_sources, &filter,
			   c->mode == MCMESH__V1__FILTER__MODE__EXCLUDE ? FILTER_EXCLUDE
									: FILTER_INCLUDE);
	if (r < 0)
		return r;
	r = row_put(m, s, &group, c->node, &filter, c->revision);
	if (r < 0)
		filter_deinit(&filter);
	return r;
}

static int node_apply(struct mirror *m, const Mcmesh__V1__NodeChange *c)
{
	struct mirror_node *node;
	struct addr vtep;
	int r;

	if (c->deleted) {
		node = node_find(m, c->node);
		if (node && node->revision <= c->revision)
			node_delete(m, node);
		return 0;
	}
	r = addr_from_wire(c->vtep.data, c->vtep.len, &vtep);
	return r < 0 ? r : node_put_row(m, c->node, &vtep, c->revision);
}

static int changes_apply(struct mirror *m, struct mirror_segment *s, Mcmesh__V1__Change **changes,
			 size_t n)
{
	int r;

	for (size_t i = 0; i < n; i++) {
		r = change_check(changes[i]);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < n; i++) {
		const Mcmesh__V1__Change *c = changes[i];

		if (c->change_case == MCMESH__V1__CHANGE__CHANGE_MEMBER)
			r = member_apply(m, s, c->member);
		else if (c->change_case == MCMESH__V1__CHANGE__CHANGE_NODE && s->id == 0)
			r = node_apply(m, c->node);
		else if (c->change_case == MCMESH__V1__CHANGE__CHANGE_CONFIG && m->ops.config)
			r = m->ops.config(c->config, m->userdata);
		else
			r = 0;
		if (r < 0)
			return r;
	}
	return 0;
}

int mirror_delta(struct mirror *m, const Mcmesh__V1__Delta *delta)
{
	struct mirror_segment *s = segment_find(m, delta->segment);
	int r;

	if (!s)
		return 0; /* a segment that this node does not have */
	if (delta->revision < delta->previous)
		return -EINVAL;
	if (s->revision != delta->previous)
		return MIRROR_E_GAP;
	r = changes_apply(m, s, delta->changes, delta->n_changes);
	if (r < 0)
		return r;
	s->revision = delta->revision;
	return 0;
}

static void set_uncertain(struct mirror *m, struct mirror_segment *s, bool on)
{
	m->n_uncertain += on;
	m->n_uncertain -= s->uncertain;
	s->uncertain = on;
}

static void segment_sweep(struct mirror *m, struct mirror_segment *s)
{
	struct mirror_node *n, *next_node;
	struct mirror_row *row, *next;

	for (row = s->rows; row; row = next) {
		next = row->segment_next;
		if (!row->confirmed)
			row_delete(m, s, row);
	}
	if (s->id != 0)
		return;
	HASH_ITER (hh, m->nodes, n, next_node) {
		if (n->known && !n->confirmed)
			node_delete(m, n);
	}
	if (m->ops.config_sweep)
		m->ops.config_sweep(m->userdata);
}

int mirror_snapshot(struct mirror *m, const Mcmesh__V1__Snapshot *snapshot)
{
	struct mirror_segment *s = segment_find(m, snapshot->segment);
	int r;

	if (!s)
		return 0;
	if (s->snapshot_id != snapshot->id) {
		segment_unconfirm(m, s);
		s->snapshot_id = snapshot->id;
	}
	s->in_snapshot = true;
	r = changes_apply(m, s, snapshot->rows, snapshot->n_rows);
	if (r < 0)
		return r;
	if (!snapshot->end)
		return 0;
	s->in_snapshot = false;
	s->snapshot_ended = snapshot->id;
	if (snapshot->complete) {
		s->whole = true;
		segment_sweep(m, s);
		set_uncertain(m, s, false);
	}
	s->revision = snapshot->revision;
	return 0;
}

/* ---- seeding ---------------------------------------------------------------- */

int mirror_seed_node(struct mirror *m, const char *node, const struct addr *vtep)
{
	struct mirror_node *n;

	if (!name_ok(node))
		return -EINVAL;
	n = node_find(m, node);
	m->was_moving |= n && n->known && !addr_equal(&n->vtep, vtep);
	return node_put_row(m, node, vtep, 0);
}

void mirror_seed_self(struct mirror *m, const struct addr *vtep)
{
	node_set(m, m->self, vtep);
}

static int seed(struct mirror *m, uint32_t segment, const struct addr *group, const char *node,
		const struct filter *filter)
{
	struct mirror_segment *s = segment_find(m, segment);
	struct filter copy;
	int r;

	if (!s)
		return -ENOENT;
	r = filter_copy(&copy, filter);
	if (r < 0)
		return r;
	r = row_put(m, s, group, node, &copy, 0);
	if (r < 0)
		filter_deinit(&copy);
	return r;
}

int mirror_seed_own(struct mirror *m, uint32_t segment, const struct addr *group,
		    const struct filter *filter)
{
	return seed(m, segment, group, m->self->name, filter);
}

size_t mirror_uncertain(const struct mirror *m)
{
	return m->n_uncertain;
}

bool mirror_is_certain(const struct mirror *m, uint32_t segment)
{
	struct mirror_segment *s = segment_find(m, segment);

	return !s || !s->uncertain;
}

void mirror_own_begin(struct mirror *m, uint32_t segment)
{
	struct mirror_row *row;

	DL_FOREACH2(m->self->rows, row, node_next)
	{
		if (row->key.segment == segment)
			row->confirmed = row->revision != 0;
	}
}

int mirror_own_row(struct mirror *m, uint32_t segment, const struct addr *group,
		   const struct filter *filter)
{
	struct mirror_row *row = row_find(m, segment, group, m->self);

	/* What the log told is newer than any seed. */
	return row && row->revision ? 0 : seed(m, segment, group, m->self->name, filter);
}

void mirror_own_end(struct mirror *m, uint32_t segment)
{
	struct mirror_segment *s = segment_find(m, segment);
	struct mirror_row *row, *next;

	for (row = m->self->rows; row; row = next) {
		next = row->node_next;
		if (row->key.segment == segment && !row->confirmed)
			row_delete(m, s, row);
	}
	set_uncertain(m, s, false);
}

bool mirror_is_told(const struct mirror *m)
{
	return !m->n_untold;
}

int mirror_seed_member(struct mirror *m, uint32_t segment, const struct addr *group,
		       const struct addr *vtep, const struct filter *filter)
{
	struct mirror_node *n, *next;

	HASH_ITER (hh, m->nodes, n, next) {
		if (n->known && addr_equal(&n->vtep, vtep))
			return seed(m, segment, group, n->name, filter);
	}
	return -ENOENT;
}

void mirror_seed_revision(struct mirror *m, uint32_t segment, uint64_t revision)
{
	struct mirror_segment *s = segment_find(m, segment);

	if (!s)
		return;
	/* Of such a node some entries have one VTEP and some the other, so its rows
	 * are not all seeded; they have not changed, so no delta would bring them. */
	if (m->was_moving)
		revision = 0;
	s->revision = revision;
	s->whole = revision != 0;
	set_uncertain(m, s, revision != 0);
}

/* ---- reading ---------------------------------------------------------------- */

uint64_t mirror_revision(const struct mirror *m, uint32_t segment)
{
	struct mirror_segment *s = segment_find(m, segment);

	return s ? s->revision : 0;
}

uint64_t mirror_resumable(const struct mirror *m, uint32_t segment)
{
	struct mirror_segment *s = segment_find(m, segment);

	return s && s->whole ? s->revision : 0;
}

uint64_t mirror_snapshot_ended(const struct mirror *m, uint32_t segment)
{
	struct mirror_segment *s = segment_find(m, segment);

	return s ? s->snapshot_ended : 0;
}

void mirror_session_begin(struct mirror *m)
{
	struct mirror_segment *s, *next;

	HASH_ITER (hh, m->segments, s, next) {
		s->snapshot_id = s->snapshot_ended = 0;
		s->in_snapshot = false;
	}
}

struct digest mirror_digest(const struct mirror *m, uint32_t segment)
{
	struct mirror_segment *s = segment_find(m, segment);

	return s ? s->digest : (struct digest){ 0 };
}

void mirror_segments_walk(const struct mirror *m,
			  void (*fn)(uint32_t segment, uint64_t revision, void *userdata),
			  void *userdata)
{
	struct mirror_segment *s, *next;

	HASH_ITER (hh, m->segments, s, next)
		fn(s->id, s->revision, userdata);
}

void mirror_nodes_walk(const struct mirror *m,
		       void (*fn)(const char *node, const struct addr *vtep, void *userdata),
		       void *userdata)
{
	struct mirror_node *n, *next;

	HASH_ITER (hh, m->nodes, n, next) {
		if (n->known && n != m->self)
			fn(n->name, &n->vtep, userdata);
	}
}

void mirror_members_walk(const struct mirror *m, uint32_t segment, const struct addr *group,
			 void (*fn)(const char *node, const struct filter *filter, void *userdata),
			 void *userdata)
{
	struct mirror_node *n, *next;

	HASH_ITER (hh, m->nodes, n, next) {
		struct mirror_row *row = row_find(m, segment, group, n);

		if (row && n != m->self)
			fn(n->name, &row->filter, userdata);
	}
}
