// SPDX-License-Identifier: Apache-2.0
#include "tests/oracle/wire.h"

#include <assert.h>
#include <string.h>

enum {
	ETH_HEADER = 14,
	IP4_HEADER = 20,
	IP6_HEADER = 40,
	HOP_BY_HOP = 8,
};

static void put(struct wire_frame *f, const void *data, size_t len)
{
	assert(f->len + len <= sizeof(f->data));
	memcpy(f->data + f->len, data, len);
	f->len += len;
}

static void put8(struct wire_frame *f, unsigned value)
{
	put(f, &(uint8_t){ value }, 1);
}

static void put16(struct wire_frame *f, unsigned value)
{
	put8(f, value >> 8);
	put8(f, value & 0xff);
}

static void put_addr(struct wire_frame *f, const struct addr *a, bool v6)
{
	put(f, a->b + (v6 ? 0 : 12), v6 ? 16 : 4);
}

static uint32_t sum(const uint8_t *data, size_t len, uint32_t acc)
{
	for (size_t i = 0; i < len; i++)
		acc += i & 1 ? data[i] : (uint32_t)data[i] << 8;
	return acc;
}

static void sum_store(uint8_t *at, uint32_t acc)
{
	while (acc >> 16)
		acc = (acc & 0xffff) + (acc >> 16);
	at[0] = ~acc >> 8 & 0xff;
	at[1] = ~acc & 0xff;
}

static void ethernet(struct wire_frame *f, const struct wire_dress *dress, const struct addr *to,
		     bool v6)
{
	const uint8_t mac4[6] = { 0x01, 0x00, 0x5e, to->b[13] & 0x7f, to->b[14], to->b[15] };
	const uint8_t mac6[6] = { 0x33, 0x33, to->b[12], to->b[13], to->b[14], to->b[15] };
	const uint8_t from[6] = { 0x02, 0, 0, 0, 0, dress->host };

	f->len = 0;
	put(f, v6 ? mac6 : mac4, 6);
	put(f, from, 6);
	put16(f, v6 ? 0x86dd : 0x0800);
}

/* The IP header, with Router Alert, in front of a message of `len` octets. */
static void begin(struct wire_frame *f, const struct wire_dress *dress, const struct addr *to,
		  size_t len)
{
	static const uint8_t alert4[4] = { 0x94, 4, 0, 0 };
	static const uint8_t hop_by_hop[HOP_BY_HOP] = { 58, 0, 5, 2, 0, 0, 1, 0 };
	bool v6 = !addr_is_v4(to);
	size_t header = dress->no_alert ? IP4_HEADER : IP4_HEADER + sizeof(alert4);

	ethernet(f, dress, to, v6);
	if (v6) {
		put(f, (const uint8_t[]){ 0x60, 0, 0, 0 }, 4);
		put16(f, HOP_BY_HOP + len);
		put8(f, 0);
		put8(f, 1);
		put_addr(f, &dress->from, true);
		put_addr(f, to, true);
		put(f, hop_by_hop, sizeof(hop_by_hop));
		return;
	}
	put8(f, 0x40 | header / 4);
	put8(f, 0xc0);
	put16(f, header + len);
	put(f, (const uint8_t[]){ 0, 0, 0, 0, 1, 2, 0, 0 }, 8);
	put_addr(f, &dress->from, false);
	put_addr(f, to, false);
	if (!dress->no_alert)
		put(f, alert4, sizeof(alert4));
	sum_store(f->data + ETH_HEADER + 10, sum(f->data + ETH_HEADER, header, 0));
}

/* The checksum of the message that starts at `at` (RFC 9776 4.1.2, RFC 8200 8.1). */
static void end(struct wire_frame *f, const struct wire_dress *dress, size_t at)
{
	bool v6 = f->data[12] == 0x86;
	size_t len = f->len - at;
	uint32_t acc = 0;

	if (v6)
		acc = sum(f->data + ETH_HEADER + 8, 32, len + 58);
	sum_store(f->data + at + 2, sum(f->data + at, len, acc));
	for (unsigned i = 0; i < dress->padding; i++)
		put8(f, 0xa5);
}

static size_t message_at(const struct addr *to, const struct wire_dress *dress)
{
	if (!addr_is_v4(to))
		return ETH_HEADER + IP6_HEADER + HOP_BY_HOP;
	return ETH_HEADER + IP4_HEADER + (dress->no_alert ? 0 : 4);
}

static struct addr well_known(bool v6, unsigned last)
{
	if (!v6)
		return (struct addr){ { [10] = 0xff, 0xff, 224, 0, 0, last } };
	return (struct addr){ { 0xff, 2, [15] = last } };
}

void wire_report(struct wire_frame *f, const struct wire_dress *dress,
		 const struct wire_record *records, unsigned n)
{
	bool v6 = !addr_is_v4(&records[0].group);
	size_t width = v6 ? 16 : 4, len = 8 + dress->tail;
	struct addr to = well_known(v6, 22);

	for (unsigned i = 0; i < n; i++)
		len += 4 + width * (1 + records[i].n_sources) + 4 * records[i].aux_words;
	begin(f, dress, &to, len);
	put8(f, v6 ? 143 : 0x22);
	put(f, (const uint8_t[]){ 0, 0, 0, 0, 0 }, 5);
	put16(f, n);
	for (unsigned i = 0; i < n; i++) {
		const struct wire_record *r = &records[i];

		put8(f, r->type);
		put8(f, r->aux_words);
		put16(f, r->n_sources);
		put_addr(f, &r->group, v6);
		for (unsigned s = 0; s < r->n_sources; s++)
			put_addr(f, &r->sources[s], v6);
		for (unsigned a = 0; a < r->aux_words * 4u; a++)
			put8(f, 0x11);
	}
	for (unsigned i = 0; i < dress->tail; i++)
		put8(f, 0x33);
	end(f, dress, message_at(&to, dress));
}

static void old_message(struct wire_frame *f, const struct wire_dress *dress, unsigned type,
			const struct addr *to, const struct addr *group)
{
	bool v6 = !addr_is_v4(group);

	begin(f, dress, to, v6 ? 24 : 8);
	put8(f, type);
	put(f, (const uint8_t[]){ 0, 0, 0, 0, 0, 0, 0 }, v6 ? 7 : 3);
	put_addr(f, group, v6);
	end(f, dress, message_at(to, dress));
}

void wire_old_report(struct wire_frame *f, const struct wire_dress *dress, enum gmp_version version,
		     const struct addr *group)
{
	unsigned type = version == GMP_IGMPV1 ? 0x12 : version == GMP_IGMPV2 ? 0x16 : 131;

	old_message(f, dress, type, group, group);
}

void wire_old_leave(struct wire_frame *f, const struct wire_dress *dress, const struct addr *group)
{
	bool v6 = !addr_is_v4(group);
	struct addr to = well_known(v6, 2);

	old_message(f, dress, v6 ? 132 : 0x17, &to, group);
}

void wire_query(struct wire_frame *f, const struct wire_dress *dress,
		const struct wire_query *query)
{
	bool v6 = !addr_is_v4(&dress->from), general = addr_is_null(&query->group);
	struct addr to = general ? well_known(v6, 1) : query->group;
	size_t width = v6 ? 16 : 4;

	begin(f, dress, &to, (v6 ? 12 : 8) + width * (1 + query->n_sources));
	put8(f, v6 ? 130 : 0x11);
	put8(f, v6 ? 0 : query->max_resp_code);
	put16(f, 0);
	if (v6) {
		put16(f, query->max_resp_code);
		put16(f, 0);
	}
	put_addr(f, &query->group, v6);
	put8(f, (query->suppress ? 8 : 0) | (query->qrv & 7));
	put8(f, query->qqic);
	put16(f, query->n_sources);
	for (unsigned i = 0; i < query->n_sources; i++)
		put_addr(f, &query->sources[i], v6);
	end(f, dress, message_at(&to, dress));
}
