/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose VTEP is whose. Two nodes with one VTEP would get each other's traffic, and
 * two controllers may each be asked at the same moment, knowing nothing of the
 * other. So a node's row and `vtep/ADDRESS`, with the node's name, are written
 * together and only if that key is as it was known: the first wins, the other
 * controller sees it and refuses its agent. The key goes with the node, or when the
 * node moves to another VTEP. What a silent node has may be taken.
 */
#include "controller/store/etcd_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct etcd_vtep {
	char address[ADDR_TEXT_MAX], node[LOG_NAME_MAX];
	uint64_t mod;
	UT_hash_handle hh;
};

static struct etcd_vtep *vtep_find(struct etcd *e, const char *address)
{
	struct etcd_vtep *v;

	HASH_FIND_STR(e->vteps, address, v);
	return v;
}

/* The node has it no more. */
static void vtep_leave(struct etcd *e, const struct etcd_vtep *v)
{
	struct etcd_holder *h = etcd_holder_find(e, v->node);

	if (!h || strcmp(h->vtep, v->address) != 0)
		return;
	h->vtep[0] = 0;
	etcd_holder_release(e, h);
}

void etcd_vtep_apply(struct etcd *e, const char *address, const Etcdserverpb__KeyValue *kv)
{
	struct etcd_vtep *v = vtep_find(e, address);
	struct etcd_holder *h;

	if (v)
		vtep_leave(e, v);
	if (!kv) {
		if (v)
			HASH_DEL(e->vteps, v);
		free(v);
		return;
	}
	if (!v) {
		v = calloc(1, sizeof(*v));
		if (!v) {
			etcd_lost(e, "out of memory");
			return;
		}
		snprintf(v->address, sizeof(v->address), "%s", address);
		HASH_ADD_STR(e->vteps, address, v);
	}
	snprintf(v->node, sizeof(v->node), "%.*s", (int)kv->value.len,
		 (const char *)kv->value.data);
	v->mod = (uint64_t)kv->mod_revision;
	h = etcd_holder_get(e, v->node);
	if (h)
		snprintf(h->vtep, sizeof(h->vtep), "%s", address);
}

int etcd_vtep_claim(struct etcd *e, const char *address, const char *node, uint64_t *ret_mod)
{
	const struct etcd_vtep *v = vtep_find(e, address);
	const struct etcd_holder *h;

	if (v && strcmp(v->node, node) != 0) {
		h = etcd_holder_find(e, v->node);
		if (h && etcd_holder_state(e, h) == STORE_ALIVE)
			return -EEXIST;
	}
	*ret_mod = v ? v->mod : 0;
	return 0;
}

uint64_t etcd_vtep_mod(struct etcd *e, const char *address)
{
	const struct etcd_vtep *v = vtep_find(e, address);

	return v ? v->mod : 0;
}

bool etcd_has_vtep(struct store *store, const char *node, const struct addr *vtep)
{
	struct etcd *e = (struct etcd *)store;
	char address[ADDR_TEXT_MAX];
	const struct etcd_vtep *v = vtep_find(e, addr_format(vtep, address));

	return v && strcmp(v->node, node) == 0;
}

void etcd_vteps_free(struct etcd *e)
{
	struct etcd_vtep *v, *tmp;

	HASH_ITER (hh, e->vteps, v, tmp) {
		HASH_DEL(e->vteps, v);
		free(v);
	}
}
