/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * DOC: metrics over HTTP
 *
 * One small server for both programs: /metrics (Prometheus text), /healthz and
 * a status page at /. It only reads; there is no other path and no other method
 * than GET and HEAD.
 *
 * Pages are written by render(), always on the thread that owns the program's
 * state. Two ways to get there:
 *
 *   http_new_on_event()  the server's epoll descriptor is a source of the
 *                        sd-event loop, requests are answered from it (agent)
 *   http_new()           gRPC's queue is the loop and cannot wait for another
 *                        descriptor: a thread of the server's own takes the
 *                        requests, asks with wake() and waits until the loop
 *                        has come to http_turn() (controller). A loop that does
 *                        not come within HTTP_WAIT_MS answers 503: for
 *                        /healthz, that is the answer.
 *
 * Who asks more often than every HTTP_FRESH_MS gets the page of before: a flood
 * of requests costs five pages a second. Connections, their number from one
 * address, their time and their memory are limited.
 */
#include <stdbool.h>
#include <stdint.h>

#include "common/metrics.h"

#define HTTP_CONNECTIONS_MAX 32
#define HTTP_PER_ADDRESS_MAX 16
#define HTTP_TIMEOUT_S	     5
#define HTTP_REQUEST_BYTES   8192 /* of a connection: request line and headers */
#define HTTP_WAIT_MS	     2000
#define HTTP_FRESH_MS	     200

enum http_page {
	HTTP_METRICS,
	HTTP_HEALTH, /* render() returns whether all is well */
	HTTP_STATUS,
	HTTP_PAGES,
};

struct http;
struct sd_event;

struct http_options {
	/* HOST:PORT, [IPV6]:PORT, unix:/PATH; port 0: any. */
	const char *listen;
	/* False: the page says what is wrong (503). */
	bool (*render)(enum http_page page, struct metrics *out, void *userdata);
	/* http_new(): from the server's thread, makes the loop come to http_turn(). */
	void (*wake)(void *userdata);
	void *userdata;
};

/* 0; -EINVAL: not an address; else -errno of bind or listen. */
int http_new(const struct http_options *options, struct http **ret_http);
int http_new_on_event(const struct http_options *options, struct sd_event *event,
		      struct http **ret_http);
void http_free(struct http *http);

/* Writes the page that somebody waits for, if any. */
void http_turn(struct http *http);

/* What was bound: for port 0. */
int http_port(const struct http *http);
