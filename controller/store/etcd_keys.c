/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and values of the etcd store. */
#include <errno.h>
#include <sodium/randombytes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/store/codec.h"
#include "controller/store/etcd_internal.h"

#define WORDS_MAX 4

void etcd_key(const struct etcd *e, char *ret_key, const char *format, ...)
{
	va_list ap;

	memcpy(ret_key, e->prefix, e->prefix_len);
	va_start(ap, format);
	vsnprintf(ret_key + e->prefix_len, ETCD_KEY_MAX - e->prefix_len, format, ap);
	va_end(ap);
}

void etcd_key_of_row(const struct etcd *e, char *ret_key, const struct log_change *c)
{
	char group[ADDR_TEXT_MAX];

	switch (c->kind) {
	case LOG_NODE:
		etcd_key(e, ret_key, "node/%s", c->node);
		break;
	case LOG_MEMBER:
		etcd_key(e, ret_key, "member/%s/%u/%s", c->node, c->segment,
			 addr_format(&c->group, group));
		break;
	case LOG_STATIC:
		etcd_key(e, ret_key, "static/%s/%s/%s", c->node, c->port,
			 addr_format(&c->group, group));
		break;
	case LOG_CONFIG:
		etcd_key(e, ret_key, "config/%u", c->subject);
		break;
	}
}

ProtobufCBinaryData etcd_bytes(const char *key)
{
	return (ProtobufCBinaryData){ strlen(key), (uint8_t *)key };
}

static bool number_parse(const char *text, uint32_t *ret)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (text[0] < '0' || text[0] > '9' || *end || v > UINT32_MAX)
		return false;
	*ret = (uint32_t)v;
	return true;
}

static bool name_take(char *to, size_t size, const char *from)
{
	size_t len = strlen(from);

	if (!len || len >= size)
		return false;
	memcpy(to, from, len + 1);
	return true;
}

static bool row_parse(char *const *words, size_t n, struct etcd_row *row)
{
	struct log_change *c = &row->change;

	if (strcmp(words[0], "config") == 0 && n == 2) {
		c->kind = LOG_CONFIG;
		return number_parse(words[1], &c->subject);
	}
	if (n < 2 || !name_take(row->node, sizeof(row->node), words[1]))
		return false;
	if (strcmp(words[0], "node") == 0 && n == 2) {
		c->kind = LOG_NODE;
		return true;
	}
	if (n != 4 || addr_parse(words[3], &c->group) < 0)
		return false;
	if (strcmp(words[0], "static") == 0) {
		c->kind = LOG_STATIC;
		return name_take(row->port, sizeof(row->port), words[2]);
	}
	c->kind = LOG_MEMBER;
	return strcmp(words[0], "member") == 0 && number_parse(words[2], &c->segment);
}

enum etcd_key_kind etcd_key_parse(const struct etcd *e, const ProtobufCBinaryData *key,
				  struct etcd_row *ret_row, char ret_name[LOG_NAME_MAX])
{
	static const struct {
		const char *word;
		enum etcd_key_kind kind;
		size_t n;
	} kinds[] = {
		{ "live", ETCD_KEY_LIVE, 2 },	    { "drain", ETCD_KEY_DRAIN, 2 },
		{ "vtep", ETCD_KEY_VTEP, 2 },	    { "controller", ETCD_KEY_CONTROLLER, 2 },
		{ "meta", ETCD_KEY_META, 1 },	    { "complete", ETCD_KEY_COMPLETE, 1 },
		{ "compact", ETCD_KEY_COMPACT, 1 },
	};
	char text[ETCD_KEY_MAX], *words[WORDS_MAX], *rest = text;
	size_t n = 0, len;

	if (key->len < e->prefix_len || key->len - e->prefix_len >= sizeof(text))
		return ETCD_KEY_UNKNOWN;
	len = key->len - e->prefix_len;
	memcpy(text, key->data + e->prefix_len, len);
	text[len] = 0;
	while (rest && n < WORDS_MAX)
		words[n++] = strsep(&rest, "/");
	if (rest)
		return ETCD_KEY_UNKNOWN;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(words[0], kinds[i].word) != 0)
			continue;
		if (n != kinds[i].n || (n == 2 && !name_take(ret_name, LOG_NAME_MAX, words[1])))
			return ETCD_KEY_UNKNOWN;
		return kinds[i].kind;
	}
	memset(ret_row, 0, sizeof(*ret_row));
	return row_parse(words, n, ret_row) ? ETCD_KEY_ROW : ETCD_KEY_UNKNOWN;
}

int etcd_row_take(struct etcd_rows *rows, const struct etcd_row *row,
		  const Etcdserverpb__KeyValue *kv, bool deleted)
{
	struct etcd_row *to;
	int r;

	if (rows->n == rows->size) {
		size_t size = rows->size ? rows->size * 2 : 64;

		to = reallocarray(rows->rows, size, sizeof(*to));
		if (!to)
			return -ENOMEM;
		rows->rows = to;
		rows->size = size;
	}
	to = &rows->rows[rows->n];
	*to = *row;
	to->revision = (uint64_t)kv->mod_revision;
	to->change.deleted = deleted;
	r = deleted ? 0 : store_decode(kv->value.data, kv->value.len, &to->change, &to->config);
	if (r == 0)
		rows->n++;
	return r;
}

void etcd_rows_clear(struct etcd_rows *rows)
{
	for (size_t i = 0; i < rows->n; i++)
		filter_deinit(&rows->rows[i].change.filter);
	rows->n = 0;
}

void etcd_rows_tell(struct etcd *e, struct etcd_row *rows, size_t n)
{
	struct log_change one = { 0 }, *changes = n > 1 ? calloc(n, sizeof(*changes)) : &one;

	if (!changes) {
		etcd_lost(e, "out of memory");
		return;
	}
	for (size_t i = 0; i < n; i++) {
		changes[i] = rows[i].change;
		/* The array may have moved since. */
		changes[i].node = rows[i].node;
		changes[i].port = rows[i].port;
		changes[i].config = changes[i].config ? &rows[i].config : NULL;
	}
	e->store.events.on_event(e->store.userdata, rows[0].revision, changes, n);
	if (changes != &one)
		free(changes);
}

void *etcd_unpack(const ProtobufCMessageDescriptor *type, const ProtobufCBinaryData *value)
{
	return protobuf_c_message_unpack(type, NULL, value->len, value->data);
}

void etcd_epoch_txn_init(struct etcd_epoch_txn *t, const struct etcd *e, uint64_t mod)
{
	Mcmesh__Store__Meta m = MCMESH__STORE__META__INIT;
	uint8_t epoch[EPOCH_LEN];

	etcdserverpb__txn_request__init(&t->request);
	etcdserverpb__compare__init(&t->compare);
	etcdserverpb__request_op__init(&t->op);
	etcdserverpb__put_request__init(&t->put);
	randombytes_buf(epoch, sizeof(epoch));
	m.format = ETCD_FORMAT;
	m.epoch = (ProtobufCBinaryData){ sizeof(epoch), epoch };
	m.cluster_id = e->cluster_id;
	etcd_key(e, t->key, "meta");
	t->put.key = t->compare.key = etcd_bytes(t->key);
	t->put.value = (ProtobufCBinaryData){ mcmesh__store__meta__pack(&m, t->value), t->value };
	t->compare.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
	t->compare.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
	t->compare.mod_revision = (int64_t)mod;
	t->op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
	t->op.request_put = &t->put;
	t->compares = &t->compare;
	t->ops = &t->op;
	t->request.n_compare = t->request.n_success = 1;
	t->request.compare = &t->compares;
	t->request.success = &t->ops;
}
