/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bringing the WAL into the file waits for the disk, 100 ms and more, and joins
 * must not wait with it. So a thread with a connection of its own does it, beside
 * the commits; it shares one struct of atomics with the loop and nothing else.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "controller/store/sqlite_internal.h"

struct checkpointer {
	pthread_t thread;
	sqlite3 *db;
	sem_t wake;
	atomic_bool quit, busy;
	atomic_uint failures;
};

static void *checkpointer_run(void *arg)
{
	struct checkpointer *cp = arg;
	int rc;

	for (;;) {
		while (sem_wait(&cp->wake) < 0)
			;
		if (atomic_load(&cp->quit))
			return NULL;
		rc = sqlite3_wal_checkpoint_v2(cp->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
		if (rc != SQLITE_OK)
			atomic_fetch_add(&cp->failures, 1);
		atomic_store(&cp->busy, false);
	}
}

int checkpointer_new(const char *path, struct checkpointer **ret_checkpointer)
{
	struct checkpointer *cp = calloc(1, sizeof(*cp));
	sigset_t all, old;
	int r;

	if (!cp)
		return -ENOMEM;
	if (sqlite_connect(path, 0, &cp->db) != SQLITE_OK) {
		sqlite3_close(cp->db);
		free(cp);
		return -EIO;
	}
	sem_init(&cp->wake, 0, 0);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&cp->thread, NULL, checkpointer_run, cp);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r) {
		sem_destroy(&cp->wake);
		sqlite3_close(cp->db);
		free(cp);
		return -r;
	}
	*ret_checkpointer = cp;
	return 0;
}

bool checkpointer_start(struct checkpointer *cp)
{
	if (!cp || atomic_exchange(&cp->busy, true))
		return false;
	sem_post(&cp->wake);
	return true;
}

unsigned int checkpointer_failures(struct checkpointer *cp)
{
	return cp ? atomic_exchange(&cp->failures, 0) : 0;
}

void checkpointer_free(struct checkpointer *cp)
{
	if (!cp)
		return;
	atomic_store(&cp->quit, true);
	sem_post(&cp->wake);
	pthread_join(cp->thread, NULL);
	sem_destroy(&cp->wake);
	sqlite3_close(cp->db);
	free(cp);
}
