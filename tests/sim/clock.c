/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The clock, the events (a heap in the order of time, then of making), chance,
 * and what takes the place of the product's own clock, log and random bytes.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "controller/controller.h"
#include "tests/sim/sim.h"

struct event {
	uint64_t when, number;
	void (*fn)(void *arg);
	void *arg;
};

uint64_t sim_now;
bool sim_tracing, sim_failed;
static struct event *heap;
static size_t n_heap, heap_size;
static uint64_t events_made, state;

/* splitmix64 */
static uint64_t next_random(void)
{
	uint64_t z = state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

uint64_t sim_random(uint64_t n)
{
	return n ? next_random() % n : 0;
}

bool sim_chance(unsigned int percent)
{
	return sim_random(100) < percent;
}

void sim_reset(uint64_t seed)
{
	state = seed;
	sim_now = 1000 * SIM_S;
	n_heap = 0;
	events_made = 0;
	sim_failed = false;
	sim_net_reset();
}

void sim_end(void)
{
	sim_net_end();
	free(heap);
	heap = NULL;
	n_heap = heap_size = 0;
}

static bool is_before(const struct event *a, const struct event *b)
{
	return a->when != b->when ? a->when < b->when : a->number < b->number;
}

void sim_at(uint64_t when_us, void (*fn)(void *arg), void *arg)
{
	struct event e = { when_us, events_made++, fn, arg };
	size_t i = n_heap++;

	if (n_heap > heap_size) {
		heap_size = heap_size ? 2 * heap_size : 1024;
		heap = realloc(heap, heap_size * sizeof(*heap));
		if (!heap)
			abort();
	}
	for (; i && is_before(&e, &heap[(i - 1) / 2]); i = (i - 1) / 2)
		heap[i] = heap[(i - 1) / 2];
	heap[i] = e;
}

static struct event heap_pop(void)
{
	struct event first = heap[0], last = heap[--n_heap];
	size_t i = 0, child;

	for (; (child = 2 * i + 1) < n_heap; i = child) {
		if (child + 1 < n_heap && is_before(&heap[child + 1], &heap[child]))
			child++;
		if (!is_before(&heap[child], &last))
			break;
		heap[i] = heap[child];
	}
	if (n_heap)
		heap[i] = last;
	return first;
}

bool sim_step(uint64_t until_us)
{
	struct event e;

	if (!n_heap || heap[0].when > until_us) {
		sim_now = until_us;
		return false;
	}
	e = heap_pop();
	if (e.when > sim_now)
		sim_now = e.when;
	e.fn(e.arg);
	return true;
}

static void vtrace(const char *format, va_list ap)
{
	printf("%10.4f  ", (double)(sim_now - 1000 * SIM_S) / SIM_S);
	vprintf(format, ap);
	putchar('\n');
}

void sim_trace(const char *format, ...)
{
	va_list ap;

	if (!sim_tracing)
		return;
	va_start(ap, format);
	vtrace(format, ap);
	va_end(ap);
}

void sim_fail(const char *format, ...)
{
	va_list ap;

	if (sim_failed)
		return;
	sim_failed = true;
	va_start(ap, format);
	printf("BROKEN ");
	vtrace(format, ap);
	va_end(ap);
}

/* ---- in place of the product's ------------------------------------------------------- */

uint64_t controller_now_us(void)
{
	return controller_now_ms() * 1000;
}

uint64_t controller_now_ms(void)
{
	return sim_now_ms();
}

void log_open(const char *program, enum log_level max_level)
{
}

void log_line(struct log_site *site, enum log_level level, const char *format, ...)
{
	va_list ap;

	if (!sim_tracing || level == LOG_LEVEL_DEBUG)
		return;
	va_start(ap, format);
	vtrace(format, ap);
	va_end(ap);
}

/* libsodium's, so that epochs are of the seed. */
void randombytes_buf(void *buf, size_t size);

void randombytes_buf(void *buf, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((uint8_t *)buf)[i] = (uint8_t)next_random();
}
