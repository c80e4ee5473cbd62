/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The proxy under a script of wishes, queries and time, and a router that hears
 * every report. A frame must be one that the codec takes; nothing may be due
 * that is not sent; and once it is quiet, what a router of our version believes
 * is what is wanted, whatever overtook what. Changes of version forget, so a
 * script has one kind of router.
 */
#include <stdlib.h>
#include <string.h>

#include "node/gmp/proxy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define GROUPS	   6
#define SOURCES	   8
#define SCRIPT_MAX 500
#define TURNS_MAX  100000

/* What is wanted, or believed: bit s of sources: in the list. */
struct belief {
	bool exclude;
	uint8_t sources;
};

struct run {
	const uint8_t *data;
	size_t len;
	bool v6, older;
	uint64_t now;
	struct proxy *p;
	struct belief wanted[GROUPS], believed[GROUPS];
};

static void require(bool fact)
{
	if (!fact)
		abort();
}

static uint8_t next(struct run *run)
{
	if (!run->len)
		return 0;
	run->len--;
	return *run->data++;
}

static struct addr make(bool v6, uint8_t first, uint8_t last)
{
	uint8_t v4[4] = { first, 1, 1, last }, b[16] = { v6 && first == 239 ? 0xff : 0x20, 0x1e };
	uint32_t be32;

	memcpy(&be32, v4, 4);
	b[15] = last;
	return v6 ? addr_v6(b) : addr_v4_be32(be32);
}

/* The last one is source-specific. */
static struct addr group_of(const struct run *run, uint8_t k)
{
	return make(run->v6, !run->v6 && k == GROUPS - 1 ? 232 : 239, k);
}

static uint8_t passes(struct belief b)
{
	return b.exclude ? (uint8_t)~b.sources : b.sources;
}

/* RFC 9776 6.4, with a router that forgets at once what it would ask about: the
 * one host is the only one. */
static void believe(struct belief *b, unsigned int type, uint8_t sources)
{
	switch (type) {
	case WIRE_IS_IN:
		require((uint8_t)(sources & ~passes(*b)) == 0);
		return;
	case WIRE_TO_IN:
		*b = (struct belief){ false, sources };
		return;
	case WIRE_IS_EX:
	case WIRE_TO_EX:
		*b = (struct belief){ true, sources };
		return;
	case WIRE_ALLOW:
		b->sources = b->exclude ? b->sources & (uint8_t)~sources : b->sources | sources;
		return;
	case WIRE_BLOCK:
		b->sources = b->exclude ? b->sources | sources : b->sources & (uint8_t)~sources;
		return;
	default:
		abort();
	}
}

static void hear_records(struct run *run, const struct wire_message *m)
{
	const uint8_t *cursor = m->body;

	for (uint16_t i = 0; i < m->n; i++) {
		struct wire_record rec;
		uint8_t sources = 0, k;

		wire_record_next(m, &cursor, &rec);
		k = rec.group.b[15];
		require(k < GROUPS);
		for (uint16_t s = 0; s < rec.n_sources; s++)
			sources |= (uint8_t)(1 << wire_source(m->v6, rec.sources, s).b[15]);
		/* Never what is not true now. */
		if (rec.type == WIRE_ALLOW || rec.type == WIRE_IS_IN)
			require((sources & ~passes(run->wanted[k])) == 0);
		else if (rec.type == WIRE_BLOCK)
			require((sources & passes(run->wanted[k])) == 0);
		else
			require((rec.type == WIRE_TO_EX || rec.type == WIRE_IS_EX) ==
					run->wanted[k].exclude &&
				sources == run->wanted[k].sources);
		if (rec.type != WIRE_IS_IN || (sources & ~passes(run->believed[k])) == 0)
			believe(&run->believed[k], rec.type, sources);
	}
}

static void on_send(const uint8_t *frame, size_t len, void *userdata)
{
	struct run *run = userdata;
	struct wire_message m;
	enum gmp_counter why;

	require(len <= 1514 && wire_parse(frame, len, &m, &why) == 0);
	require(m.v6 == run->v6 && m.router_alert);
	if (m.kind == WIRE_REPORT_V3) {
		require(!run->older);
		hear_records(run, &m);
		return;
	}
	require(run->older && m.group.b[15] < GROUPS && !addr_is_ssm_group(&m.group));
	run->believed[m.group.b[15]] = (struct belief){ .exclude = m.kind != WIRE_LEAVE };
}

static void expire(struct run *run)
{
	proxy_expire(run->p, run->now, on_send, run);
	require(proxy_next_ms(run->p) > run->now);
}

static void step_want(struct run *run)
{
	uint8_t choice = next(run), k = (choice >> 1) % GROUPS, sources = next(run);
	struct addr list[SOURCES], group = group_of(run, k);
	struct filter f;
	size_t n = 0;

	for (uint8_t s = 0; s < SOURCES; s++) {
		if (sources >> s & 1)
			list[n++] = make(run->v6, 10, s);
	}
	if (filter_init(&f, choice & 1 ? FILTER_EXCLUDE : FILTER_INCLUDE, list, n) < 0)
		return;
	require(proxy_want(run->p, &group, &f, run->now) == 0);
	run->wanted[k] = (struct belief){ choice & 1, sources };
	filter_deinit(&f);
}

static void step_query(struct run *run)
{
	uint8_t choice = next(run), body[4 * 16], n = choice >> 4 & 3;
	size_t width = run->v6 ? 16 : 4;
	struct wire_message m = {
		.kind = WIRE_QUERY,
		.v6 = run->v6,
		.version = run->v6 ? GMP_MLDV2 : GMP_IGMPV3,
		.max_response_ms = next(run) * 50u,
		.body = body,
	};

	if (run->older)
		m.version = run->v6 ? GMP_MLDV1 : choice & 128 ? GMP_IGMPV1 : GMP_IGMPV2;
	if ((choice & 7) < GROUPS)
		m.group = group_of(run, choice & 7);
	for (; m.n < n && (choice & 7) < GROUPS; m.n++) {
		struct addr s = make(run->v6, 10, next(run) % SOURCES);

		memcpy(body + m.n * width, s.b + 16 - width, width);
	}
	proxy_query(run->p, &m, run->now);
}

static void step_time(struct run *run)
{
	uint8_t choice = next(run);

	run->now += (choice >> 1) * (choice & 1 ? 1 : 40);
	if (!(choice & 2))
		expire(run);
}

/* Until nothing more is said. A change of version forgets what was to be said of
 * one group, so an old router asks once more for all. */
static void settle(struct run *run)
{
	struct wire_message all = { .kind = WIRE_QUERY, .v6 = run->v6, .max_response_ms = 1000 };
	uint64_t end = run->now + 60000;

	all.version = run->v6 ? GMP_MLDV1 : GMP_IGMPV2;
	if (run->older)
		proxy_query(run->p, &all, run->now);
	expire(run);
	for (int i = 0; i < TURNS_MAX && proxy_next_ms(run->p) < end; i++) {
		run->now = proxy_next_ms(run->p);
		expire(run);
	}
	for (uint8_t k = 0; k < GROUPS; k++) {
		struct belief w = run->wanted[k], b = run->believed[k];
		struct addr group = group_of(run, k);

		if (!run->older)
			require(w.exclude == b.exclude && w.sources == b.sources);
		else if (!addr_is_ssm_group(&group) && (w.exclude || w.sources))
			require(b.exclude);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct run run = { .data = data, .len = len, .now = 1 };
	struct proxy_config config = { .unsolicited_interval_ms = 1000,
				       .query_interval_ms = 10000000 };
	uint8_t choice = next(&run), seed = next(&run);

	run.v6 = choice & 1;
	run.older = choice & 2;
	config.robustness = 1 + (choice >> 2 & 3);
	config.source = run.v6 ? make(true, 10, 1) : addr_v4_be32(0);
	if (run.v6)
		config.source.b[0] = 0xfe, config.source.b[1] = 0x80;
	if (proxy_new(run.v6, &config, seed, &run.p) < 0)
		return 0;
	if (run.older)
		step_query(&run);
	for (int i = 0; i < SCRIPT_MAX && run.len; i++) {
		uint8_t op = next(&run);

		if ((op & 3) == 0)
			step_want(&run);
		else if ((op & 3) == 1)
			step_query(&run);
		else
			step_time(&run);
	}
	settle(&run);
	proxy_free(run.p);
	return 0;
}
