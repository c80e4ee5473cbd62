/* SPDX-License-Identifier: Apache-2.0 */
#include "controller/store/store.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"

static const struct store_ops *const backends[] = { &store_memory_ops, &store_sqlite_ops,
						    &store_etcd_ops };

int store_open(const struct store_options *options, const struct store_events *events,
	       void *userdata, struct store **ret_store, char why[STORE_WHY_MAX])
{
	const char *spec = options->spec;

	for (size_t i = 0; i < ARRAY_SIZE(backends); i++) {
		size_t len = strlen(backends[i]->scheme);

		if (strncmp(spec, backends[i]->scheme, len) != 0)
			continue;
		if (spec[len] == '\0')
			return backends[i]->open(options, "", events, userdata, ret_store, why);
		if (spec[len] == ':')
			return backends[i]->open(options, spec + len + 1, events, userdata,
						 ret_store, why);
	}
	snprintf(why, STORE_WHY_MAX,
		 "store \"%.64s\" is not known: use sqlite:PATH, etcd:HOST:PORT[,HOST:PORT…] or "
		 "memory",
		 spec);
	return -EINVAL;
}

void store_close(struct store *store)
{
	if (store)
		store->ops->close(store);
}

int store_load(struct store *store, char why[STORE_WHY_MAX])
{
	return store->ops->load ? store->ops->load(store, why) : 0;
}

void store_session(struct store *store, const struct store_session *request,
		   store_session_done *done, void *userdata)
{
	store->ops->session(store, request, done, userdata);
}

void store_commit(struct store *store, const struct store_txn *txn, store_commit_done *done,
		  void *userdata)
{
	store->ops->commit(store, txn, done, userdata);
}

void store_dispatch(struct store *store, uint64_t now_ms)
{
	if (store->ops->dispatch)
		store->ops->dispatch(store, now_ms);
}

uint64_t store_next_ms(const struct store *store)
{
	return store->ops->next_ms ? store->ops->next_ms(store) : UINT64_MAX;
}

void store_forget(struct store *store, uint64_t floor)
{
	if (store->ops->forget && floor > store->floor)
		store->ops->forget(store, floor);
}

bool store_is_shared(const struct store *store)
{
	return store->ops->publish;
}

void store_publish(struct store *store, const char *node, uint64_t session, bool alive)
{
	if (store->ops->publish)
		store->ops->publish(store, node, session, alive);
}

/* A store of one controller need not keep it: the mark ends with the process. */
void store_drain(struct store *store, const char *node, bool on, store_commit_done *done,
		 void *userdata)
{
	if (store->ops->drain) {
		store->ops->drain(store, node, on, done, userdata);
		return;
	}
	store->events.on_draining(store->userdata, node, on);
	done(userdata, 0, store->revision);
}

void store_complete(struct store *store)
{
	if (store->is_fresh && store->ops->complete)
		store->ops->complete(store);
	store->is_fresh = false;
}

int store_renew(struct store *store)
{
	return store->ops->renew ? store->ops->renew(store) : -ENOTSUP;
}

int store_replace(struct store *store, const struct log_change *changes, size_t n,
		  char why[STORE_WHY_MAX])
{
	if (store->ops->replace)
		return store->ops->replace(store, changes, n, why);
	snprintf(why, STORE_WHY_MAX, "a store of the kind \"%s\" cannot be replaced as a whole",
		 store->ops->scheme);
	return -ENOTSUP;
}

bool store_is_serving(const struct store *store, uint64_t now_ms)
{
	return !store->ops->is_serving || store->ops->is_serving(store, now_ms);
}

void store_ahead(struct store *store, uint64_t revision)
{
	if (store->ops->ahead)
		store->ops->ahead(store, revision);
}

const char *const *store_controllers(struct store *store)
{
	static const char *const none[] = { NULL };

	return store->ops->controllers ? store->ops->controllers(store) : none;
}

bool store_has_vtep(struct store *store, const char *node, const struct addr *vtep)
{
	return !store->ops->has_vtep || store->ops->has_vtep(store, node, vtep);
}

size_t store_batch(const struct log_change *changes, size_t n)
{
	size_t bytes = 0, i;

	for (i = 0; i < n && i < STORE_BATCH_ROWS; i++) {
		bytes += 128 + (size_t)changes[i].filter.n_sources * 18;
		if (i && bytes > STORE_BATCH_BYTES)
			break;
	}
	return i;
}
