/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: the log
 *
 * The log is not a list of events but of rows. Each key (kind, segment, node,
 * group, port) has one current row; a change moves its row to the end of three
 * lists: its segment's, the whole log's, and, when it is a deletion, that of
 * the tombstones. Walking a list from the end back to a revision therefore
 * costs the changes since, not the table, and an agent that missed ten changes
 * of one row gets one.
 *
 * Tombstones above a bound are forgotten, oldest first; the segment's floor
 * rises to the forgotten one's revision, and who has not seen that revision
 * needs a snapshot.
 *
 * Beside the lists, all rows hang in a skip list in the order of their keys,
 * for the paged lists of MeshService, and on their node, for withdrawals.
 *
 * Ownership: the log owns everything; rows move and die only in log_apply().
 * Cursors are told. One thread.
 */
#include "controller/plan/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct log {
	uint8_t epoch[EPOCH_LEN];
	uint64_t revision, floor;
	uint64_t loaded_floor; /* what a segment that was not heard of begins with */
	bool loading;
	size_t max_tombstones, n_tombstones;
	uint32_t last_node_id;
	uint64_t random; /* heights of the skip list; need not be unguessable: keys are ours */
	struct log_row *index;	      /* by key */
	struct log_node *nodes;	      /* by name */
	struct log_segment *segments; /* by id */
	struct log_rows rows, tombstones;
	struct log_row *first[LOG_ORDER_HEIGHT];
};

int log_new(const uint8_t epoch[EPOCH_LEN], uint64_t revision, size_t max_tombstones,
	    struct log **ret_log)
{
	struct log *log = calloc(1, sizeof(*log));

	if (!log)
		return -ENOMEM;
	memcpy(log->epoch, epoch, EPOCH_LEN);
	log->revision = revision;
	log->floor = revision;
	log->max_tombstones = max_tombstones;
	log->random = 88172645463325252u;
	TAILQ_INIT(&log->rows);
	TAILQ_INIT(&log->tombstones);
	*ret_log = log;
	return 0;
}

static void row_free(struct log_row *row)
{
	filter_deinit(&row->filter);
	free(row->config);
	free(row);
}

void log_free(struct log *log)
{
	struct log_row *row, *row_tmp;
	struct log_node *node, *node_tmp;
	struct log_segment *segment, *segment_tmp;

	if (!log)
		return;
	HASH_ITER (hh, log->index, row, row_tmp) {
		HASH_DEL(log->index, row);
		row_free(row);
	}
	HASH_ITER (hh, log->nodes, node, node_tmp) {
		HASH_DEL(log->nodes, node);
		free(node);
	}
	HASH_ITER (hh, log->segments, segment, segment_tmp) {
		HASH_DEL(log->segments, segment);
		free(segment);
	}
	free(log);
}

const uint8_t *log_epoch(const struct log *log)
{
	return log->epoch;
}

uint64_t log_revision(const struct log *log)
{
	return log->revision;
}

uint64_t log_floor(const struct log *log)
{
	return log->floor;
}

size_t log_tombstones(const struct log *log)
{
	return log->n_tombstones;
}

struct log_node *log_node_find(const struct log *log, const char *name)
{
	struct log_node *node;

	HASH_FIND_STR(log->nodes, name, node);
	return node;
}

static struct log_node *node_get(struct log *log, const char *name)
{
	struct log_node *node = log_node_find(log, name);

	if (node)
		return node;
	node = calloc(1, sizeof(*node));
	if (!node)
		return NULL;
	strncpy(node->name, name, sizeof(node->name) - 1);
	node->id = ++log->last_node_id;
	TAILQ_INIT(&node->rows);
	HASH_ADD_STR(log->nodes, name, node);
	return node;
}

struct log_segment *log_segment_find(const struct log *log, uint32_t id)
{
	struct log_segment *segment;

	HASH_FIND(hh, log->segments, &id, sizeof(id), segment);
	return segment;
}

struct log_segment *log_segment_get(struct log *log, uint32_t id)
{
	struct log_segment *segment = log_segment_find(log, id);

	if (segment)
		return segment;
	if (HASH_COUNT(log->segments) >= LOG_SEGMENTS_MAX)
		return NULL;
	segment = calloc(1, sizeof(*segment));
	if (!segment)
		return NULL;
	segment->id = id;
	segment->floor = log->loaded_floor;
	TAILQ_INIT(&segment->rows);
	LIST_INIT(&segment->cursors);
	HASH_ADD(hh, log->segments, id, sizeof(id), segment);
	return segment;
}

void log_segments_trim(struct log *log, void (*going)(struct log_segment *segment, void *userdata),
		       void *userdata)
{
	struct log_segment *segment, *tmp;

	HASH_ITER (hh, log->segments, segment, tmp) {
		if (!segment->id || segment->refs || !TAILQ_EMPTY(&segment->rows) ||
		    !LIST_EMPTY(&segment->cursors))
			continue;
		going(segment, userdata);
		/* Who knew it needs a snapshot of its next one. */
		if (segment->floor > log->loaded_floor)
			log->loaded_floor = segment->floor;
		HASH_DEL(log->segments, segment);
		free(segment);
	}
}

size_t log_segment_count(const struct log *log)
{
	return HASH_COUNT(log->segments);
}

/* ---- the order of the keys --------------------------------------------------- */

struct position {
	uint32_t kind, segment;
	struct addr group;
	const char *node, *port;
	uint32_t subject;
};

static int position_cmp(const struct log_row *row, const struct position *p)
{
	int c;

	if (row->key.kind != p->kind)
		return row->key.kind < p->kind ? -1 : 1;
	if (row->key.segment != p->segment)
		return row->key.segment < p->segment ? -1 : 1;
	c = addr_cmp(&row->key.group, &p->group);
	if (!c)
		c = strcmp(row->node->name, p->node);
	if (!c)
		c = strncmp(row->key.port, p->port, LOG_PORT_MAX);
	return c ? c : (row->key.subject > p->subject) - (row->key.subject < p->subject);
}

/* Per level the link that leads to the first row not before p. */
static struct log_row *order_seek(const struct log *log, const struct position *p,
				  struct log_row ***ret_links)
{
	struct log_row *const *links = log->first;
	struct log_row *found = NULL;

	for (int level = LOG_ORDER_HEIGHT - 1; level >= 0; level--) {
		while (links[level] && position_cmp(links[level], p) < 0)
			links = links[level]->next;
		if (ret_links)
			ret_links[level] = (struct log_row **)&links[level];
		found = links[level];
	}
	return found;
}

static struct position position_of(const struct log_row *row)
{
	return (struct position){ row->key.kind,   row->key.segment, row->key.group,
				  row->node->name, row->key.port,    row->key.subject };
}

static void order_insert(struct log *log, struct log_row *row)
{
	struct log_row **links[LOG_ORDER_HEIGHT];
	struct position p = position_of(row);

	order_seek(log, &p, links);
	for (int level = 0; level < row->height; level++) {
		row->next[level] = *links[level];
		*links[level] = row;
	}
}

static void order_remove(struct log *log, struct log_row *row)
{
	struct log_row **links[LOG_ORDER_HEIGHT];
	struct position p = position_of(row);

	order_seek(log, &p, links);
	for (int level = 0; level < row->height; level++) {
		assert(*links[level] == row);
		*links[level] = row->next[level];
	}
}

static uint8_t order_height(struct log *log)
{
	uint8_t height = 1;
	uint64_t bits;

	log->random ^= log->random << 13;
	log->random ^= log->random >> 7;
	log->random ^= log->random << 17;
	for (bits = log->random; (bits & 3) == 0 && height < LOG_ORDER_HEIGHT; bits >>= 2)
		height++;
	return height;
}

struct log_row *log_seek(const struct log *log, uint32_t kind, uint32_t segment,
			 const struct addr *group, const char *node, const char *port)
{
	struct position p = { kind, segment, *group, node, port, 0 };

	return order_seek(log, &p, NULL);
}

/* ---- rows -------------------------------------------------------------------- */

static struct log_key key_of(enum log_kind kind, uint32_t segment, uint32_t node,
			     const struct addr *group, const char *port)
{
	struct log_key key;

	memset(&key, 0, sizeof(key));
	key.kind = kind;
	key.segment = segment;
	key.node = node;
	if (group && kind != LOG_NODE)
		key.group = *group;
	if (port && kind == LOG_STATIC)
		strncpy(key.port, port, sizeof(key.port) - 1);
	return key;
}

static struct log_row *find(const struct log *log, const char *node, struct log_key key)
{
	struct log_node *n = log_node_find(log, node);
	struct log_row *row;

	if (!n)
		return NULL;
	key.node = n->id;
	HASH_FIND(hh, log->index, &key, sizeof(key), row);
	return row;
}

struct log_row *log_find(const struct log *log, enum log_kind kind, uint32_t segment,
			 const char *node, const struct addr *group, const char *port)
{
	return find(log, node, key_of(kind, segment, 0, group, port));
}

struct log_row *log_config_find(const struct log *log, uint32_t subject)
{
	struct log_key key = key_of(LOG_CONFIG, 0, 0, NULL, NULL);
	struct log_row *row;

	key.subject = subject;
	row = find(log, "", key);
	return row && !row->deleted ? row : NULL;
}

struct log_row *log_find_live(const struct log *log, enum log_kind kind, uint32_t segment,
			      const char *node, const struct addr *group, const char *port)
{
	struct log_row *row = log_find(log, kind, segment, node, group, port);

	return row && !row->deleted ? row : NULL;
}

static void cursors_leave(struct log_segment *segment, const struct log_row *row)
{
	struct log_cursor *cursor;

	LIST_FOREACH (cursor, &segment->cursors, link) {
		if (cursor->next == row)
			cursor->next = TAILQ_NEXT(row, by_segment);
	}
}

static void cursors_append(struct log_segment *segment, struct log_row *row)
{
	struct log_cursor *cursor;

	LIST_FOREACH (cursor, &segment->cursors, link) {
		if (!cursor->next)
			cursor->next = row;
	}
}

static void digest_row(const struct log *log, struct log_segment *segment,
		       const struct log_row *row, bool add)
{
	if (row->deleted)
		return;
	if (row->key.kind == LOG_NODE)
		(add ? digest_add_node : digest_del_node)(&segment->digest, log->epoch,
							  row->node->name, &row->vtep);
	else if (row->key.kind == LOG_MEMBER)
		(add ? digest_add_member : digest_del_member)(&segment->digest, log->epoch,
							      segment->id, row->node->name,
							      &row->key.group, &row->filter);
}

static void count_row(struct log_segment *segment, struct log_row *row, int by)
{
	if (row->deleted)
		return;
	segment->n_live += (uint64_t)(int64_t)by;
	if (row->key.kind == LOG_MEMBER)
		row->node->n_members += (uint32_t)by;
}

static void row_unlist(struct log *log, struct log_segment *segment, struct log_row *row)
{
	cursors_leave(segment, row);
	TAILQ_REMOVE(&segment->rows, row, by_segment);
	TAILQ_REMOVE(&log->rows, row, by_log);
	if (row->deleted) {
		TAILQ_REMOVE(&log->tombstones, row, by_death);
		log->n_tombstones--;
	}
}

static void row_enlist(struct log *log, struct log_segment *segment, struct log_row *row)
{
	TAILQ_INSERT_TAIL(&segment->rows, row, by_segment);
	TAILQ_INSERT_TAIL(&log->rows, row, by_log);
	if (row->deleted) {
		TAILQ_INSERT_TAIL(&log->tombstones, row, by_death);
		log->n_tombstones++;
	}
	cursors_append(segment, row);
}

static struct log_row *row_new(struct log *log, const struct log_key *key, struct log_node *node)
{
	uint8_t height = order_height(log);
	struct log_row *row = calloc(1, sizeof(*row) + height * sizeof(row->next[0]));

	if (!row)
		return NULL;
	row->key = *key;
	row->node = node;
	row->height = height;
	HASH_ADD(hh, log->index, key, sizeof(row->key), row);
	TAILQ_INSERT_TAIL(&node->rows, row, by_node);
	order_insert(log, row);
	return row;
}

static void row_forget(struct log *log, struct log_row *row)
{
	struct log_segment *segment = log_segment_find(log, row->key.segment);
	struct log_node *node = row->node;

	if (row->revision > segment->floor)
		segment->floor = row->revision;
	if (row->revision > log->floor)
		log->floor = row->revision;
	row_unlist(log, segment, row);
	order_remove(log, row);
	HASH_DEL(log->index, row);
	TAILQ_REMOVE(&node->rows, row, by_node);
	row_free(row);
	if (TAILQ_EMPTY(&node->rows)) {
		HASH_DEL(log->nodes, node);
		free(node);
	}
}

static struct log_key key_of_change(const struct log_change *c)
{
	struct log_key key = key_of(c->kind, c->segment, 0, &c->group, c->port);

	if (c->kind == LOG_CONFIG)
		key.subject = c->subject;
	return key;
}

/* What the row will own; the row is as it was on failure. */
static int content_copy(const struct log_change *c, struct filter *ret_filter,
			struct log_config **ret_config)
{
	if (c->deleted)
		return 0;
	if (c->kind != LOG_CONFIG)
		return filter_copy(ret_filter, &c->filter);
	*ret_config = malloc(sizeof(**ret_config));
	if (!*ret_config)
		return -ENOMEM;
	**ret_config = *c->config;
	return 0;
}

static struct log_row *row_add(struct log *log, const struct log_change *c, struct log_key key)
{
	struct log_node *node = node_get(log, c->node);

	if (!node)
		return NULL;
	key.node = node->id;
	return row_new(log, &key, node);
}

static int change_apply(struct log *log, uint64_t revision, const struct log_change *c)
{
	struct log_segment *segment = log_segment_get(log, c->segment);
	struct log_key key = key_of_change(c);
	struct log_config *config = NULL;
	struct filter filter = FILTER_NULL;
	struct log_row *row;

	if (!segment)
		return -ENOSPC;
	row = find(log, c->node, key);
	if (c->deleted && !log->loading && (!row || row->deleted))
		return 0;
	if (content_copy(c, &filter, &config) < 0)
		return -ENOMEM;
	if (row) {
		digest_row(log, segment, row, false);
		count_row(segment, row, -1);
		row_unlist(log, segment, row);
	} else {
		row = row_add(log, c, key);
		if (!row) {
			filter_deinit(&filter);
			free(config);
			return -ENOMEM;
		}
	}
	filter_deinit(&row->filter);
	free(row->config);
	row->filter = filter;
	row->config = config;
	row->deleted = c->deleted;
	row->vtep = c->vtep;
	row->revision = revision;
	row_enlist(log, segment, row);
	digest_row(log, segment, row, true);
	count_row(segment, row, 1);
	segment->revision = revision;
	return 0;
}

/* After the whole revision: no agent is ever at a part of one. */
static void history_add(struct log_segment *segment, uint64_t revision)
{
	uint32_t last = (segment->n_history + LOG_HISTORY - 1) % LOG_HISTORY;

	if (segment->n_history && segment->history[last].revision == revision)
		return;
	segment->history[segment->n_history % LOG_HISTORY] =
		(struct log_digest){ revision, segment->digest };
	segment->n_history++;
	if (segment->n_history >= 2 * LOG_HISTORY)
		segment->n_history -= LOG_HISTORY;
}

int log_apply(struct log *log, uint64_t revision, const struct log_change *changes, size_t n)
{
	int r;

	assert(revision > log->revision);
	log->revision = revision;
	for (size_t i = 0; i < n; i++) {
		r = change_apply(log, revision, &changes[i]);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < n; i++) {
		struct log_segment *segment = log_segment_find(log, changes[i].segment);

		if (segment->revision == revision && !log->loading)
			history_add(segment, revision);
	}
	while (log->n_tombstones > log->max_tombstones)
		row_forget(log, TAILQ_FIRST(&log->tombstones));
	return 0;
}

bool log_audit_row(struct log *log, uint64_t at, uint64_t revision, const struct log_change *c)
{
	struct log_row *row = find(log, c->kind == LOG_CONFIG ? "" : c->node, key_of_change(c));

	if (!row)
		return false;
	row->audited = at;
	return row->revision > at || (!row->deleted && row->revision == revision);
}

size_t log_audit_end(const struct log *log, uint64_t at)
{
	const struct log_row *row;
	size_t n = 0;

	TAILQ_FOREACH(row, &log->rows, by_log)
	{
		if (row->revision > at)
			break;
		n += !row->deleted && row->audited != at;
	}
	return n;
}

void log_load_begin(struct log *log, uint64_t floor)
{
	struct log_segment *segment, *tmp;

	assert(TAILQ_EMPTY(&log->rows));
	log->loading = true;
	log->revision = 0; /* rows that live may be older than any deletion */
	log->floor = floor;
	log->loaded_floor = floor;
	HASH_ITER (hh, log->segments, segment, tmp)
		segment->floor = floor;
}

void log_load_end(struct log *log, uint64_t revision)
{
	struct log_segment *segment, *tmp;

	assert(revision >= log->revision);
	log->loading = false;
	log->revision = revision;
	HASH_ITER (hh, log->segments, segment, tmp) {
		if (segment->revision)
			history_add(segment, segment->revision);
	}
}

void log_renew(struct log *log, const uint8_t epoch[EPOCH_LEN])
{
	struct log_segment *segment, *tmp;
	struct log_row *row;

	memcpy(log->epoch, epoch, EPOCH_LEN);
	HASH_ITER (hh, log->segments, segment, tmp) {
		segment->digest = (struct digest){ 0 };
		segment->n_history = 0;
		TAILQ_FOREACH(row, &segment->rows, by_segment)
		digest_row(log, segment, row, true);
		if (segment->revision)
			history_add(segment, segment->revision);
	}
}

struct log_row *log_segment_after(const struct log_segment *segment, uint64_t revision)
{
	struct log_row *row, *found = NULL;

	TAILQ_FOREACH_REVERSE(row, &segment->rows, log_rows, by_segment)
	{
		if (row->revision <= revision)
			break;
		found = row;
	}
	return found;
}

struct log_row *log_after(const struct log *log, uint64_t revision)
{
	struct log_row *row, *found = NULL;

	TAILQ_FOREACH_REVERSE(row, &log->rows, log_rows, by_log)
	{
		if (row->revision <= revision)
			break;
		found = row;
	}
	return found;
}

void log_cursor_open(struct log_cursor *cursor, struct log_segment *segment)
{
	cursor->segment = segment;
	cursor->next = TAILQ_FIRST(&segment->rows);
	LIST_INSERT_HEAD(&segment->cursors, cursor, link);
}

struct log_row *log_cursor_next(struct log_cursor *cursor)
{
	struct log_row *row = cursor->next;

	if (row)
		cursor->next = TAILQ_NEXT(row, by_segment);
	return row;
}

void log_cursor_close(struct log_cursor *cursor)
{
	if (!cursor->segment)
		return;
	LIST_REMOVE(cursor, link);
	cursor->segment = NULL;
}

bool log_digest_at(const struct log_segment *segment, uint64_t revision, struct digest *ret_digest)
{
	uint32_t n = segment->n_history < LOG_HISTORY ? segment->n_history : LOG_HISTORY;

	if (revision >= segment->revision) {
		*ret_digest = segment->digest;
		return true;
	}
	for (uint32_t i = 1; i <= n; i++) {
		const struct log_digest *d =
			&segment->history[(segment->n_history - i) % LOG_HISTORY];

		if (d->revision <= revision) {
			*ret_digest = d->digest;
			return true;
		}
	}
	return false;
}
