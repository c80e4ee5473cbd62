/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A frame, as it is and with right checksums: whatever is accepted lies inside
 * the frame, and a query that is encoded again is read as the same query.
 */
#include <stdlib.h>
#include <string.h>

#include "gmp_sums.h"
#include "node/gmp/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void require(bool fact)
{
	if (!fact)
		abort();
}

static void check_records(const struct wire_message *m, const uint8_t *end)
{
	const uint8_t *cursor = m->body;

	for (uint16_t i = 0; i < m->n; i++) {
		struct wire_record rec;

		wire_record_next(m, &cursor, &rec);
		require(cursor <= end);
		require(rec.sources + rec.n_sources * (m->v6 ? 16u : 4u) <= end);
		for (size_t s = 0; s < rec.n_sources; s++)
			wire_source(m->v6, rec.sources, s);
	}
}

static void check_query(const struct wire_message *m, const uint8_t *end)
{
	struct addr sources[WIRE_QUERY_SOURCES_MAX];
	uint8_t frame[WIRE_FRAME_MAX];
	struct wire_query q = {
		.version = m->version,
		.source = m->source,
		.group = m->group,
		.s_flag = m->s_flag,
		.max_response_ms = m->max_response_ms,
		.query_interval_s = m->query_interval_s,
		.robustness = m->qrv,
		.sources = sources,
		.n_sources = m->n,
	};
	struct wire_message again;
	enum gmp_counter why;

	require(!m->n || m->body + m->n * (m->v6 ? 16u : 4u) <= end);
	if (m->n > wire_query_max_sources(m->v6))
		return;
	for (uint16_t i = 0; i < m->n; i++)
		sources[i] = wire_source(m->v6, m->body, i);
	require(wire_parse(frame, wire_query_encode(&q, frame), &again, &why) == 0);
	require(again.kind == WIRE_QUERY && again.version == m->version);
	require(addr_equal(&again.source, &m->source) && addr_equal(&again.group, &m->group));
	require(again.n == m->n && again.router_alert);
	require(again.s_flag == m->s_flag && again.qrv == m->qrv);
	require(again.query_interval_s == m->query_interval_s);
	require(again.max_response_ms == m->max_response_ms || !m->max_response_ms);
}

static void check(const uint8_t *frame, size_t len)
{
	enum gmp_counter why = GMP_C_COUNT;
	struct wire_message m;

	if (wire_parse(frame, len, &m, &why) < 0) {
		require(why < GMP_C_COUNT);
		return;
	}
	require(why == GMP_C_COUNT);
	require(!addr_is_multicast(&m.source));
	if (m.kind == WIRE_REPORT_V3) {
		check_records(&m, frame + len);
		return;
	}
	require(addr_is_multicast(&m.group) ? m.v6 != addr_is_v4(&m.group)
					    : m.kind == WIRE_QUERY && addr_is_null(&m.group));
	if (m.kind == WIRE_QUERY)
		check_query(&m, frame + len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	uint8_t *frame;

	check(data, len);
	frame = malloc(len ? len : 1);
	if (!frame)
		return 0;
	if (len)
		memcpy(frame, data, len);
	gmp_sums_fix(frame, len);
	check(frame, len);
	free(frame);
	return 0;
}
