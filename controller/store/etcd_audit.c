/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every few minutes all rows are read as of one revision, page by page, and
 * compared with the log that the watch made. What changed since that revision
 * is not judged. A difference is a defect of this program or of the machine; the
 * controller says so and begins anew from what etcd has.
 */
#include <errno.h>
#include <inttypes.h>
#include <sodium/randombytes.h>
#include <stdio.h>
#include <string.h>

#include "controller/store/etcd_internal.h"

#define RANGE_PATH "/etcdserverpb.KV/Range"

static void page_ask(struct etcd *e);

static void audit_fail(struct etcd *e, const char *key, size_t len)
{
	char why[ETCD_WHY_MAX];

	e->audit_revision = 0;
	snprintf(why, sizeof(why), "what it knows differs from etcd, first at %.*s", (int)len, key);
	etcd_lost(e, why);
}

static bool row_is_right(struct etcd *e, const Etcdserverpb__KeyValue *kv)
{
	char name[LOG_NAME_MAX];
	struct etcd_row row;

	if (etcd_key_parse(e, &kv->key, &row, name) != ETCD_KEY_ROW)
		return true;
	row.change.node = row.node;
	row.change.port = row.port;
	return log_audit_row(e->store.log, e->audit_revision, (uint64_t)kv->mod_revision,
			     &row.change);
}

static void audit_end(struct etcd *e)
{
	static const char more[] = "a row that etcd does not have";

	if (log_audit_end(e->store.log, e->audit_revision) > 0)
		audit_fail(e, more, strlen(more));
	e->audit_revision = 0;
	e->audits++;
}

static void page_answered(void *userdata, int status, const char *text,
			  const ProtobufCMessage *answer)
{
	const Etcdserverpb__RangeResponse *a = (const Etcdserverpb__RangeResponse *)answer;
	struct etcd *e = userdata;
	const ProtobufCBinaryData *last;

	/* Another time: the member went, or the revision was compacted. */
	if (!a || e->lost) {
		e->audit_revision = 0;
		return;
	}
	for (size_t i = 0; i < a->n_kvs; i++) {
		if (row_is_right(e, a->kvs[i]))
			continue;
		audit_fail(e, (const char *)a->kvs[i]->key.data, a->kvs[i]->key.len);
		return;
	}
	last = a->n_kvs ? &a->kvs[a->n_kvs - 1]->key : NULL;
	if (!a->more || !last || last->len >= sizeof(e->audit_from) - 1) {
		audit_end(e);
		return;
	}
	/* The next key there can be. */
	memcpy(e->audit_from, last->data, last->len);
	e->audit_from[last->len] = 0;
	e->audit_from_len = last->len + 1;
	page_ask(e);
}

static void page_ask(struct etcd *e)
{
	Etcdserverpb__RangeRequest q = ETCDSERVERPB__RANGE_REQUEST__INIT;
	char end[ETCD_PREFIX_MAX];

	memcpy(end, e->prefix, e->prefix_len + 1);
	end[e->prefix_len - 1]++;
	q.key = (ProtobufCBinaryData){ e->audit_from_len, (uint8_t *)e->audit_from };
	q.range_end = etcd_bytes(end);
	q.limit = ETCD_AUDIT_PAGE;
	q.revision = (int64_t)e->audit_revision;
	q.serializable = true;
	if (etcd_client_call(e->client, RANGE_PATH, &q.base,
			     &etcdserverpb__range_response__descriptor, page_answered, e) < 0)
		e->audit_revision = 0;
}

void etcd_audit_turn(struct etcd *e, uint64_t now_ms)
{
	if (now_ms < e->audit_at_ms || e->audit_revision || !e->store.log)
		return;
	/* Not all controllers at once, and not at the start. */
	if (e->audit_at_ms) {
		e->audit_revision = e->store.revision;
		memcpy(e->audit_from, e->prefix, e->prefix_len);
		e->audit_from_len = e->prefix_len;
		page_ask(e);
	}
	e->audit_at_ms = now_ms + ETCD_AUDIT_MS + randombytes_uniform(ETCD_AUDIT_MS / 4);
}
