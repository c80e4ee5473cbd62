/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>

#include "node/gmp/wire.h"

#define MTU 1500

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

uint8_t wire_code8_encode(uint32_t value)
{
	unsigned int exp = 0;

	if (value < 0x80)
		return (uint8_t)value;
	if (value > 31744)
		return 0xff;
	while ((value >> (exp + 3)) > 0x1f)
		exp++;
	return (uint8_t)(0x80 | exp << 4 | ((value >> (exp + 3)) & 0x0f));
}

uint16_t wire_code16_encode(uint32_t value)
{
	unsigned int exp = 0;

	if (value < 0x8000)
		return (uint16_t)value;
	if (value > 8387584)
		return 0xffff;
	while ((value >> (exp + 3)) > 0x1fff)
		exp++;
	return (uint16_t)(0x8000 | exp << 12 | ((value >> (exp + 3)) & 0x0fff));
}

size_t wire_query_max_sources(bool v6)
{
	return v6 ? (MTU - 40 - 8 - 28) / 16 : (MTU - 24 - 12) / 4;
}

/* The fields that version 3 adds (4.1.5 to 4.1.9); returns their length. */
static size_t put_v3(const struct wire_query *q, bool v6, uint8_t *p)
{
	size_t a = v6 ? 16 : 4;

	p[0] = (uint8_t)((q->s_flag ? 8 : 0) | (q->robustness > 7 ? 0 : q->robustness));
	p[1] = wire_code8_encode(q->query_interval_s);
	put16(p + 2, q->n_sources);
	for (uint16_t i = 0; i < q->n_sources; i++)
		memcpy(p + 4 + i * a, q->sources[i].b + 16 - a, a);
	return 4 + q->n_sources * a;
}

/* Ethernet and IPv4 header with Router Alert around `len` bytes at f + 38. */
static size_t wrap_v4(uint8_t *f, const struct addr *source, const uint8_t *dst, size_t len)
{
	uint8_t *ip = f + 14;

	f[0] = 0x01, f[1] = 0x00, f[2] = 0x5e; /* RFC 1112 6.4 */
	f[3] = dst[1] & 0x7f, f[4] = dst[2], f[5] = dst[3];
	put16(f + 12, 0x0800);
	put16(ip + 26, wire_sum_fold(wire_sum(0, ip + 24, len)));
	ip[0] = 0x46, ip[1] = 0xc0;
	put16(ip + 2, (uint32_t)(24 + len));
	ip[8] = 1, ip[9] = 2;
	memcpy(ip + 12, source->b + 12, 4);
	memcpy(ip + 16, dst, 4);
	ip[20] = 148, ip[21] = 4;
	put16(ip + 10, wire_sum_fold(wire_sum(0, ip, 24)));
	return 14 + 24 + len;
}

/* The same with IPv6 and its hop-by-hop header, around what is at f + 62. */
static size_t wrap_v6(uint8_t *f, const struct addr *source, const uint8_t *dst, size_t len)
{
	uint8_t *ip = f + 14, *hbh = ip + 40, *mld = hbh + 8;

	f[0] = f[1] = 0x33; /* RFC 2464 7 */
	memcpy(f + 2, dst + 12, 4);
	put16(f + 12, 0x86dd);
	hbh[0] = 58, hbh[2] = 5, hbh[3] = 2, hbh[6] = 1;
	ip[0] = 0x60;
	put16(ip + 4, (uint32_t)(8 + len));
	ip[7] = 1;
	memcpy(ip + 8, source->b, 16);
	memcpy(ip + 24, dst, 16);
	put16(mld + 2, wire_sum_fold(wire_sum(wire_pseudo_v6(ip + 8, (uint32_t)len), mld, len)));
	return 14 + 40 + 8 + len;
}

static size_t encode_v4(const struct wire_query *q, uint8_t *f)
{
	static const uint8_t all_systems[4] = { 224, 0, 0, 1 };
	bool general = addr_is_unspecified(&q->group);
	uint8_t *igmp = f + 38;
	size_t len = 8;

	igmp[0] = 0x11;
	if (q->version == GMP_IGMPV2) /* RFC 2236 2.2: linear, not 0 */
		igmp[1] = (uint8_t)(q->max_response_ms >= 25500 ? 255
				    : q->max_response_ms < 100	? 1
								: q->max_response_ms / 100);
	else if (q->version == GMP_IGMPV3)
		igmp[1] =
			wire_code8_encode(q->max_response_ms < 100 ? 1 : q->max_response_ms / 100);
	if (!general)
		memcpy(igmp + 4, q->group.b + 12, 4);
	if (q->version == GMP_IGMPV3)
		len += put_v3(q, false, igmp + 8);
	return wrap_v4(f, &q->source, general ? all_systems : q->group.b + 12, len);
}

static size_t encode_v6(const struct wire_query *q, uint8_t *f)
{
	static const uint8_t all_nodes[16] = { 0xff, 2, [15] = 1 };
	bool general = addr_is_unspecified(&q->group);
	uint8_t *mld = f + 62;
	size_t len = 24;

	mld[0] = 130;
	if (q->version == GMP_MLDV1)
		put16(mld + 4, q->max_response_ms > 0xffff ? 0xffff : q->max_response_ms);
	else
		put16(mld + 4, wire_code16_encode(q->max_response_ms));
	if (!general)
		memcpy(mld + 8, q->group.b, 16);
	if (q->version == GMP_MLDV2)
		len += put_v3(q, true, mld + 24);
	return wrap_v6(f, &q->source, general ? all_nodes : q->group.b, len);
}

size_t wire_query_encode(const struct wire_query *query, uint8_t ret_frame[WIRE_FRAME_MAX])
{
	bool v6 = query->version >= GMP_MLDV1;

	assert(query->n_sources <= wire_query_max_sources(v6));
	memset(ret_frame, 0, WIRE_FRAME_MAX);
	memcpy(ret_frame + 6, query->mac, 6);
	return v6 ? encode_v6(query, ret_frame) : encode_v4(query, ret_frame);
}

/* ---- reports ------------------------------------------------------------------- */

size_t wire_report_room(bool v6)
{
	return v6 ? MTU - 40 - 8 - 8 : MTU - 24 - 8;
}

/* Where it goes (RFC 9776 4.2.15, RFC 2236 9, RFC 9777 5.2.14, RFC 2710 5). */
static const uint8_t *report_destination(const struct wire_report *r)
{
	static const uint8_t v4[2][4] = { { 224, 0, 0, 22 }, { 224, 0, 0, 2 } };
	static const uint8_t v6[2][16] = { { 0xff, 2, [15] = 22 }, { 0xff, 2, [15] = 2 } };

	if (r->kind == WIRE_REPORT_V1 || r->kind == WIRE_REPORT_V2)
		return r->v6 ? r->group.b : r->group.b + 12;
	return r->v6 ? v6[r->kind == WIRE_LEAVE] : v4[r->kind == WIRE_LEAVE];
}

size_t wire_report_encode(const struct wire_report *report, uint8_t ret_frame[WIRE_FRAME_MAX])
{
	static const uint8_t types[2][5] = {
		{ [WIRE_REPORT_V1] = 0x12, [WIRE_REPORT_V2] = 0x16, 0x22, 0x17 },
		{ [WIRE_REPORT_V2] = 131, 143, 132 },
	};
	bool v6 = report->v6;
	uint8_t *p = ret_frame + (v6 ? 62 : 38);
	size_t len = v6 ? 24 : 8;

	assert(report->records_len <= wire_report_room(v6));
	memset(ret_frame, 0, WIRE_FRAME_MAX);
	memcpy(ret_frame + 6, report->mac, 6);
	p[0] = types[v6][report->kind];
	if (report->kind == WIRE_REPORT_V3) {
		put16(p + 6, report->n_records);
		memcpy(p + 8, report->records, report->records_len);
		len = 8 + report->records_len;
	} else {
		memcpy(p + (v6 ? 8 : 4), report->group.b + (v6 ? 0 : 12), v6 ? 16 : 4);
	}
	return v6 ? wrap_v6(ret_frame, &report->source, report_destination(report), len)
		  : wrap_v4(ret_frame, &report->source, report_destination(report), len);
}
