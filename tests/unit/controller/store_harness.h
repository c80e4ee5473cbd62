/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A store without a controller: its events go into a log, and what happened is
 * noted in the order in which it did.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/store/store.h"

#define HISTORY 64
#define WAIT_MS 10000

struct happened {
	char what; /* 'e': an event; 's', 'c': the answer to a session, a commit */
	int result;
	uint64_t revision; /* of the event, of the answer; the session number */
	size_t rows;
	uint64_t sequence;
};

struct bed {
	struct store *store;
	struct log *log;
	struct happened history[HISTORY];
	size_t n; /* ever; the last HISTORY are kept */
	size_t n_answers;
	char why[STORE_WHY_MAX];
};

/* Of stores in the network; NULL: none is needed. */
extern struct rpc *bed_rpc;

/* Opens and loads into a log. -errno with bed->why. */
int bed_try(struct bed *bed, const char *spec);
void bed_open(struct bed *bed, const char *spec);
void bed_close(struct bed *bed);
/* The i-th newest of what happened, 0: the last. */
const struct happened *bed_last(const struct bed *bed, size_t i);
/* Lets the store work until so many answers have come; false: not in time. */
bool bed_wait(struct bed *bed, size_t n_answers);

/* Each waits for its answer; the result. */
int bed_session(struct bed *bed, const char *node, uint8_t instance, uint64_t start,
		uint64_t attempt, bool alive, uint64_t *ret_session, uint64_t *ret_sequence);
int bed_commit(struct bed *bed, const char *node, uint64_t session, uint64_t sequence,
	       const struct log_change *changes, size_t n);
/* Does not wait. */
void bed_ask(struct bed *bed, const char *node, uint64_t session, uint64_t sequence,
	     const struct log_change *changes, size_t n);

struct log_change change_member(const char *node, uint32_t n, bool deleted);
struct log_change change_node(const char *node, uint8_t vtep, bool deleted);

/* All rows of the log as text, tombstones too, in order. */
char *bed_text(const struct bed *bed);

/* A folder for this test, removed with all in it by scratch_free(). */
char *scratch_new(void);
void scratch_free(char *path);
