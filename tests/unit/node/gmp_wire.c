/* SPDX-License-Identifier: Apache-2.0 */
/* What is read from frames: A, C11, C12 and the parsing of H. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "gmp_harness.h"

/* One record TO_EX {} of G. */
static void valid(struct frame *f, bool v6)
{
	struct addr host = host_of(v6, 1);
	struct record record = { WIRE_TO_EX, group_of(v6), "" };

	frame_report(f, v6, &host, &record, 1);
}

static size_t ip_header(const struct frame *f)
{
	return f->b[12] == 0x86 ? 48 : (size_t)(f->b[14] & 15) * 4;
}

static uint8_t *payload(struct frame *f)
{
	return f->b + 14 + ip_header(f);
}

/* Nothing but the counter may change; IGMP of unknown types goes on. */
static void refused(bool v6, const struct frame *f, enum gmp_counter why)
{
	struct rig *rig = rig_new(v6, NULL);

	rig_frame(rig, P1, f);
	cr_assert_eq(gmp_port_membership_count(rig->gmp, P1), 0);
	cr_assert_eq(rig->fx.n, rig_effects(rig, P1, GMP_FX_FLOOD));
	cr_assert_eq(rig->fx.n, !v6 && why == GMP_C_unknown_type);
	for (int c = 0; c < GMP_C_COUNT; c++) {
		if (c != GMP_C_queries_sent)
			cr_assert_eq(rig_counter(rig, c), c == (int)why, "family %d: %s", v6,
				     gmp_counter_name(c));
	}
	rig_free(rig);
}

static void accepted(bool v6, const struct frame *f)
{
	struct rig *rig = rig_new(v6, NULL);

	rig_frame(rig, P1, f);
	cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
	cr_assert_eq(rig_counter(rig, GMP_C_reports_accepted), 1);
	rig_free(rig);
}

Test(conformance, A01_igmp_checksum)
{
	EACH_FAMILY(v6)
	{
		struct frame f;

		valid(&f, v6);
		accepted(v6, &f);
		for (size_t bit = 0; bit < (f.len - 14 - ip_header(&f)) * 8; bit++) {
			valid(&f, v6);
			payload(&f)[bit / 8] ^= (uint8_t)(1 << bit % 8);
			refused(v6, &f, GMP_C_bad_csum);
		}
	}
}

Test(conformance, A02_ip_checksum)
{
	struct frame f;

	valid(&f, false);
	f.b[14 + 10] ^= 1;
	refused(false, &f, GMP_C_bad_ip_csum);
}

Test(conformance, A03_length_is_the_message_s_own)
{
	EACH_FAMILY(v6)
	{
		struct addr host = host_of(v6, 1), group = group_of(v6);
		struct frame f;

		frame_simple(&f, v6 ? 131 : 0x16, &host, &group);
		f.len = f.len < 60 ? 60 : f.len + 6; /* Ethernet padding */
		accepted(v6, &f);
		/* Two records announced, the second in the padding. */
		valid(&f, v6);
		payload(&f)[7] = 2;
		frame_sums(&f);
		memcpy(f.b + f.len, payload(&f) + 8, v6 ? 20 : 8);
		f.len += 20;
		refused(v6, &f, GMP_C_truncated);
	}
}

Test(conformance, A04_octets_behind_the_records)
{
	EACH_FAMILY(v6)
	{
		struct ip ip = ip_from(v6, &(struct addr){ 0 });
		struct record record = { WIRE_TO_EX, group_of(v6), "" };
		uint8_t p[256];
		struct frame f;
		size_t n = report_build(p, v6, &record, 1);

		ip.source = host_of(v6, 1);
		memset(p + n, 4, 12);
		frame_wrap(&f, v6, &ip, p, n + 12);
		accepted(v6, &f);
		f.b[f.len - 1] ^= 0xff; /* part of the checksum */
		refused(v6, &f, GMP_C_bad_csum);
	}
}

Test(conformance, A05_auxiliary_data_is_skipped)
{
	EACH_FAMILY(v6)
	{
		struct addr second = addr_of(v6 ? "ff1e::2" : "239.2.2.2");
		struct record records[] = { { WIRE_TO_EX, group_of(v6), "" },
					    { WIRE_ALLOW, second, "7" } };
		struct addr host = host_of(v6, 1);
		struct ip ip = ip_from(v6, &host);
		size_t first = v6 ? 28 : 16, n;
		uint8_t p[256];
		struct frame f;
		struct rig *rig = rig_new(v6, NULL);

		n = report_build(p, v6, records, 2);
		memmove(p + first + 4, p + first, n - first);
		memset(p + first, 0xab, 4);
		p[9] = 1; /* a word of 32 bits */
		frame_wrap(&f, v6, &ip, p, n + 4);
		rig_frame(rig, P1, &f);
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		cr_assert_str_eq(rig_state_of(rig, P1, &second), "IN{7:270}");
		rig_free(rig);
	}
}

Test(conformance, A06_records_by_their_real_size)
{
	EACH_FAMILY(v6)
	{
		struct addr second = addr_of(v6 ? "ff1e::2" : "239.2.2.2"), host = host_of(v6, 1);
		struct record records[] = { { WIRE_IS_IN, group_of(v6), "1 2 3" },
					    { WIRE_TO_EX, second, "4" } };
		struct frame f;
		struct rig *rig = rig_new(v6, NULL);

		frame_report(&f, v6, &host, records, 2);
		rig_frame(rig, P1, &f);
		cr_assert_str_eq(rig_state(rig, P1), "IN{1:270 2:270 3:270}");
		cr_assert_str_eq(rig_state_of(rig, P1, &second), "EX:270{}{4}");
		cr_assert_eq(gmp_port_membership_count(rig->gmp, P1), 2);
		rig_free(rig);
	}
}

Test(conformance, A07_unknown_record_types)
{
	EACH_FAMILY(v6)
	{
		struct addr second = addr_of(v6 ? "ff1e::2" : "239.2.2.2"), host = host_of(v6, 1);
		struct record records[] = { { 9, second, "1" },
					    { 0, second, "" },
					    { WIRE_TO_EX, group_of(v6), "" } };
		struct frame f;
		struct rig *rig = rig_new(v6, NULL);

		frame_report(&f, v6, &host, records, 3);
		rig_frame(rig, P1, &f);
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		cr_assert_str_eq(rig_state_of(rig, P1, &second), "-");
		cr_assert_eq(rig_counter(rig, GMP_C_unknown_record), 2);
		rig_free(rig);
	}
}

Test(conformance, A08_unknown_types)
{
	static const uint8_t types[] = { 0x10, 0x13, 0x14, 0x15, 0x1f, 0x42, 0xff };

	for (size_t i = 0; i < sizeof(types); i++) {
		struct frame f;

		valid(&f, false);
		payload(&f)[0] = types[i];
		frame_sums(&f);
		refused(false, &f, GMP_C_unknown_type);
	}
}

Test(conformance, A09_truncated_as_a_whole)
{
	EACH_FAMILY(v6)
	{
		struct record records[] = { { WIRE_TO_EX, group_of(v6), "" },
					    { WIRE_ALLOW, addr_of(v6 ? "ff1e::2" : "239.2.2.2"),
					      "1 2" } };
		struct addr host = host_of(v6, 1);
		struct ip ip = ip_from(v6, &host);
		uint8_t p[256];
		size_t n = report_build(p, v6, records, 2);

		for (size_t len = 0; len < n; len++) {
			struct frame f;

			frame_wrap(&f, v6, &ip, p, len < 4 ? 4 : len);
			refused(v6, &f, GMP_C_truncated);
		}
		/* The IP packet says more than the frame holds. */
		for (size_t cut = 1; cut < 30; cut++) {
			struct frame f;

			frame_report(&f, v6, &host, records, 2);
			f.len -= cut;
			refused(v6, &f, GMP_C_truncated);
		}
	}
}

Test(conformance, A10_ttl_is_one)
{
	EACH_FAMILY(v6)
	{
		struct frame f;

		for (unsigned int ttl = 0; ttl < 256; ttl += ttl < 3 ? 1 : 63) {
			valid(&f, v6);
			f.b[14 + (v6 ? 7 : 8)] = (uint8_t)ttl;
			frame_sums(&f);
			if (ttl == 1)
				accepted(v6, &f);
			else
				refused(v6, &f, GMP_C_bad_ttl);
		}
	}
}

Test(conformance, A11_router_alert_may_be_required)
{
	EACH_FAMILY(v6)
	{
		struct addr host = host_of(v6, 1);
		struct ip ip = ip_from(v6, &host);
		struct record record = { WIRE_TO_EX, group_of(v6), "" };
		struct gmp_config config = rig_config();
		struct rig *rig;
		uint8_t p[64];
		struct frame f;

		ip.router_alert = false;
		frame_wrap(&f, v6, &ip, p, report_build(p, v6, &record, 1));
		accepted(v6, &f);
		config.require_router_alert = true;
		rig = rig_new(v6, &config);
		rig_frame(rig, P1, &f);
		cr_assert_str_eq(rig_state(rig, P1), "-");
		cr_assert_eq(rig_counter(rig, GMP_C_no_router_alert), 1);
		rig_report(rig, P1, WIRE_TO_EX, "");
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		rig_free(rig);
	}
}

Test(conformance, A12_reports_from_the_unspecified_address)
{
	EACH_FAMILY(v6)
	{
		struct addr host = addr_of(v6 ? "::" : "0.0.0.0");
		struct record record = { WIRE_TO_EX, group_of(v6), "" };
		struct rig *rig = rig_new(v6, NULL);
		struct frame f;

		frame_report(&f, v6, &host, &record, 1);
		rig_frame(rig, P1, &f);
		rig_frame(rig, P2, &f);
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		cr_assert_str_eq(rig_state(rig, P2), "EX:270{}{}");
		record.type = WIRE_TO_IN;
		frame_report(&f, v6, &host, &record, 1);
		rig_frame(rig, P1, &f);
		cr_assert_str_eq(rig_state(rig, P1), "EX:2{}{}");
		cr_assert_str_eq(rig_state(rig, P2), "EX:270{}{}");
		rig_free(rig);
	}
}

Test(conformance, A13_reports_at_any_destination)
{
	static const char *const to[2][4] = {
		{ "224.0.0.22", "224.0.0.1", "239.10.10.10", "10.0.0.7" },
		{ "ff02::16", "ff02::1", "ff1e::a0a:a0a", "fe80::7" },
	};

	EACH_FAMILY(v6)
	{
		for (int i = 0; i < 4; i++) {
			struct addr host = host_of(v6, 1), group = group_of(v6), dst;
			struct frame f;

			dst = addr_of(to[v6][i]);
			for (int old = 0; old < 2; old++) {
				if (old)
					frame_simple(&f, v6 ? 131 : 0x16, &host, &group);
				else
					valid(&f, v6);
				memcpy(f.b + 14 + (v6 ? 24 : 16), dst.b + (v6 ? 0 : 12),
				       v6 ? 16 : 4);
				frame_sums(&f);
				accepted(v6, &f);
			}
		}
	}
}

Test(conformance, A14_leave_at_all_routers_and_at_the_group)
{
	EACH_FAMILY(v6)
	{
		for (int at_group = 0; at_group < 2; at_group++) {
			struct addr host = host_of(v6, 1), group = group_of(v6);
			struct rig *rig = rig_new(v6, NULL);
			struct frame f;

			rig_old(rig, P1, v6 ? 131 : 0x16);
			frame_simple(&f, v6 ? 132 : 0x17, &host, &group);
			if (at_group)
				memcpy(f.b + 14 + (v6 ? 24 : 16), group.b + (v6 ? 0 : 12),
				       v6 ? 16 : 4);
			frame_sums(&f);
			rig_frame(rig, P1, &f);
			cr_assert_str_eq(rig_state(rig, P1), "EX:2{}{}");
			rig_free(rig);
		}
	}
}

static void no_group(bool v6, const char *text)
{
	struct addr host = host_of(v6, 1), group = addr_of(text);
	struct record record = { WIRE_TO_EX, group, "" };
	struct rig *rig = rig_new(v6, NULL);
	struct frame f;

	frame_report(&f, v6, &host, &record, 1);
	rig_frame(rig, P1, &f);
	frame_simple(&f, v6 ? 131 : 0x16, &host, &group);
	rig_frame(rig, P1, &f);
	cr_assert_eq(gmp_port_membership_count(rig->gmp, P1), 0, "%s", text);
	cr_assert_eq(rig_counter(rig, GMP_C_not_multicast_group), 2, "%s", text);
	rig_free(rig);
}

Test(conformance, A15_group_is_multicast_and_not_all_systems)
{
	no_group(false, "10.1.1.1");
	no_group(false, "0.0.0.0");
	no_group(false, "255.255.255.255");
	no_group(false, "223.255.255.255");
	no_group(false, "240.0.0.0");
	no_group(false, "224.0.0.1");
}

Test(conformance, A16_fragments_are_never_read)
{
	static const uint16_t fields[] = { 0x2000, 0x0001, 0x2001, 0x1fff, 0x3fff };

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		struct frame f;

		valid(&f, false);
		f.b[14 + 6] = (uint8_t)(fields[i] >> 8);
		f.b[14 + 7] = (uint8_t)fields[i];
		frame_sums(&f);
		refused(false, &f, GMP_C_fragment);
	}
	/* "Do not fragment" is none. */
	for (int bit = 0x40; bit <= 0x80; bit <<= 1) {
		struct frame f;

		valid(&f, false);
		f.b[14 + 6] = (uint8_t)bit;
		frame_sums(&f);
		accepted(false, &f);
	}
}

Test(conformance, A17_ip_options_of_any_length)
{
	struct addr host = host_of(false, 1);
	struct record record = { WIRE_TO_EX, group_of(false), "" };
	struct ip ip = ip_from(false, &host);
	uint8_t p[64];
	size_t n = report_build(p, false, &record, 1);
	struct frame f;

	for (ip.options = 0; ip.options <= 40; ip.options += 4) {
		frame_wrap(&f, false, &ip, p, n);
		accepted(false, &f);
	}
	for (uint8_t ihl = 0; ihl < 5; ihl++) {
		valid(&f, false);
		f.b[14] = 0x40 | ihl;
		refused(false, &f, GMP_C_malformed);
	}
	/* A broken option list is no Router Alert, and no reason to refuse. */
	ip.options = 8;
	frame_wrap(&f, false, &ip, p, n);
	memcpy(f.b + 34, "\x07\x00\x94\x04\x07\x63\x94\x01", 8);
	frame_sums(&f);
	accepted(false, &f);
}

Test(conformance, A18_tagged_frames_are_not_of_this_segment)
{
	EACH_FAMILY(v6)
	{
		for (int qinq = 0; qinq < 2; qinq++) {
			struct frame f;

			valid(&f, v6);
			memmove(f.b + 16, f.b + 12, f.len - 12);
			memcpy(f.b + 12, qinq ? "\x88\xa8\x00\x0a" : "\x81\x00\x00\x0a", 4);
			f.len += 4;
			refused(v6, &f, GMP_C_vlan_tagged);
		}
	}
}

Test(conformance, A19_damaged_frames_stay_on_their_port)
{
	unsigned int seed = 7;

	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		for (int i = 0; i < 20000; i++) {
			struct frame f;
			unsigned int hits = 1 + (unsigned int)rand_r(&seed) % 4;

			valid(&f, v6);
			if (i % 5 == 0)
				f.len = (size_t)rand_r(&seed) % (f.len + 1);
			for (unsigned int k = 0; k < hits && f.len; k++)
				f.b[12 + (size_t)rand_r(&seed) % 60] = (uint8_t)rand_r(&seed);
			if (i % 2 && f.len >= 62 && f.b[12] == (v6 ? 0x86 : 0x08) &&
			    (v6 ? f.b[20] == 0 && f.b[62] == 58 && !f.b[63] : f.b[14] == 0x46)) {
				f.b[18] = f.b[16] = 0;
				f.b[v6 ? 19 : 17] = (uint8_t)(f.len - 14 - (v6 ? 40 : 0));
				frame_sums(&f);
			}
			rig_frame(rig, P1, &f);
			rig->now += 10;
		}
		cr_assert_eq(gmp_port_membership_count(rig->gmp, P2), 0);
		cr_assert_eq(gmp_port_membership_count(rig->gmp, R), 0);
		rig_free(rig);
	}
}

static void many_groups(struct rig *rig, unsigned int first, unsigned int n)
{
	struct addr host = host_of(rig->v6, 1);
	struct record *records = calloc(n, sizeof(*records));
	struct frame f;

	cr_assert(records);
	for (unsigned int i = 0; i < n; i++) {
		struct addr g = group_of(rig->v6);

		g.b[14] = (uint8_t)((first + i) >> 8);
		g.b[15] = (uint8_t)(first + i);
		records[i] = (struct record){ WIRE_IS_EX, g, "" };
	}
	frame_report(&f, rig->v6, &host, records, n);
	free(records);
	cr_assert_leq(f.len, 1514u);
	rig_frame(rig, P1, &f);
}

Test(conformance, A20_as_many_records_as_fit)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);
		unsigned int n = v6 ? 72 : 183;

		many_groups(rig, 0, n);
		cr_assert_eq(gmp_port_membership_count(rig->gmp, P1), n);
		cr_assert_eq(rig_effects(rig, P1, GMP_FX_MEMBERSHIP), n);
		rig_free(rig);
	}
}

Test(conformance, A21_reports_in_several_messages_merge)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		for (unsigned int i = 0; i < 5; i++)
			many_groups(rig, i * 60, 60);
		cr_assert_eq(gmp_port_membership_count(rig->gmp, P1), 300);
		rig_free(rig);
	}
}

/* ---- codes ------------------------------------------------------------------- */

Test(conformance, C11_response_and_interval_codes)
{
	cr_assert_eq(wire_code8_decode(0), 0);
	cr_assert_eq(wire_code8_decode(0x7f), 127);
	cr_assert_eq(wire_code8_decode(0x80), 128);
	cr_assert_eq(wire_code8_decode(0x81), 136);
	cr_assert_eq(wire_code8_decode(0xff), 31744);
	for (uint32_t code = 0; code < 256; code++) {
		uint32_t value = wire_code8_decode((uint8_t)code);

		cr_assert_eq(wire_code8_encode(value), code);
		if (code < 255)
			cr_assert_eq(wire_code8_encode(wire_code8_decode((uint8_t)(code + 1)) - 1),
				     code, "rounded down");
	}
	cr_assert_eq(wire_code8_encode(UINT32_MAX), 0xff);
}

Test(conformance, C12_mld_response_code)
{
	cr_assert_eq(wire_code16_decode(0x7fff), 32767);
	cr_assert_eq(wire_code16_decode(0x8000), 32768);
	cr_assert_eq(wire_code16_decode(0xffff), 8387584);
	for (uint32_t code = 0; code < 65536; code++) {
		uint32_t value = wire_code16_decode((uint16_t)code);

		cr_assert_eq(wire_code16_encode(value), code);
		if (code < 65535)
			cr_assert_eq(
				wire_code16_encode(wire_code16_decode((uint16_t)(code + 1)) - 1),
				code);
	}
	cr_assert_eq(wire_code16_encode(UINT32_MAX), 0xffff);
}

Test(conformance, D15_query_version_by_length)
{
	for (size_t len = 8; len < 40; len++) {
		for (int mrc = 0; mrc < 2; mrc++) {
			struct addr querier = addr_of("10.0.0.1");
			struct ip ip = ip_from(false, &querier);
			uint8_t p[64] = { 0x11, (uint8_t)(mrc ? 100 : 0) };
			enum gmp_counter why = GMP_C_COUNT;
			struct wire_message m;
			struct frame f;
			int r;

			frame_wrap(&f, false, &ip, p, len);
			r = wire_parse(f.b, f.len, &m, &why);
			cr_assert_eq(r == 0, len == 8 || len >= 12, "%zu", len);
			if (r == 0)
				cr_assert_eq(m.version, len >= 12 ? GMP_IGMPV3
							: mrc	  ? GMP_IGMPV2
								  : GMP_IGMPV1);
			else
				cr_assert_eq(why, GMP_C_malformed);
		}
	}
	for (size_t len = 24; len < 40; len++) {
		struct addr querier = addr_of("fe80::1");
		struct ip ip = ip_from(true, &querier);
		uint8_t p[64] = { 130 };
		enum gmp_counter why;
		struct wire_message m;
		struct frame f;
		int r;

		frame_wrap(&f, true, &ip, p, len);
		r = wire_parse(f.b, f.len, &m, &why);
		cr_assert_eq(r == 0, len == 24 || len >= 28, "%zu", len);
		if (r == 0)
			cr_assert_eq(m.version, len == 24 ? GMP_MLDV1 : GMP_MLDV2);
	}
}

/* ---- MLD --------------------------------------------------------------------- */

/* The message behind these extension headers, each of 8 * (words + 1) bytes. */
static void mld_behind(struct frame *f, const uint8_t *headers, size_t n, uint8_t words)
{
	size_t each = 8 * ((size_t)words + 1);

	valid(f, true);
	memmove(f->b + 54 + n * each, f->b + 62, f->len - 62);
	memset(f->b + 54, 0, n * each);
	f->len = f->len - 8 + n * each;
	f->b[20] = n ? headers[0] : 58;
	for (size_t i = 0; i < n; i++) {
		f->b[54 + i * each] = i + 1 < n ? headers[i + 1] : 58;
		f->b[55 + i * each] = words;
	}
	f->b[18] = (uint8_t)((f->len - 54) >> 8);
	f->b[19] = (uint8_t)(f->len - 54);
}

Test(conformance, H01_through_extension_headers)
{
	static const uint8_t hops[] = { 0, 43, 60, 60 }, late[] = { 60, 0 }, udp[] = { 17 };
	static const uint8_t many[] = { 60, 60, 60, 60, 60, 60, 60, 60, 60 }, fragment[] = { 44 };
	struct frame f;

	for (size_t n = 0; n <= 4; n++) {
		for (uint8_t words = 0; words < 30; words += 7) {
			mld_behind(&f, hops, n, words);
			accepted(true, &f);
		}
	}
	mld_behind(&f, many, 8, 0);
	accepted(true, &f);
	mld_behind(&f, many, 9, 0);
	refused(true, &f, GMP_C_malformed);
	mld_behind(&f, late, 2, 0);
	refused(true, &f, GMP_C_malformed);
	mld_behind(&f, fragment, 1, 0);
	refused(true, &f, GMP_C_fragment);
	mld_behind(&f, udp, 1, 0);
	refused(true, &f, GMP_C_not_gmp);
	mld_behind(&f, hops, 1, 0);
	f.b[55] = 200; /* longer than the packet */
	refused(true, &f, GMP_C_truncated);
}

Test(conformance, H02_checksum_with_pseudo_header)
{
	struct frame f;

	valid(&f, true);
	for (size_t i = 22; i < 54; i++) { /* either address */
		valid(&f, true);
		f.b[i] ^= 0x04;
		refused(true, &f, GMP_C_bad_csum);
	}
}

Test(conformance, H03_report_sources)
{
	static const struct {
		const char *source;
		bool refused;
	} rows[] = { { "::", false },	  { "fe80::1", false },	   { "febf::1", false },
		     { "fec0::1", true }, { "2001:db8::1", true }, { "::ffff:10.0.0.1", true } };

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct record record = { WIRE_TO_EX, group_of(true), "" };
		struct addr host = addr_of(rows[i].source);
		struct gmp_config config = rig_config();
		struct rig *rig;
		struct frame f;

		frame_report(&f, true, &host, &record, 1);
		if (!rows[i].refused) {
			accepted(true, &f);
			continue;
		}
		refused(true, &f, GMP_C_bad_source);
		config.accept_global_mld_source = true;
		rig = rig_new(true, &config);
		rig_frame(rig, P1, &f);
		cr_assert_str_eq(rig_state(rig, P1), "EX:270{}{}");
		rig_free(rig);
	}
}

Test(conformance, H04_hop_limit_is_one)
{
	struct frame f;

	valid(&f, true);
	f.b[14 + 7] = 64;
	refused(true, &f, GMP_C_bad_ttl);
}

static bool alert(const char *options, size_t len)
{
	enum gmp_counter why;
	struct wire_message m;
	struct frame f;

	valid(&f, true);
	memcpy(f.b + 56, options, len);
	cr_assert_eq(wire_parse(f.b, f.len, &m, &why), 0);
	return m.router_alert;
}

Test(conformance, H05_router_alert_of_value_0)
{
	cr_assert(alert("\x05\x02\x00\x00\x01\x00", 6));
	cr_assert(alert("\x00\x00\x05\x02\x00\x00", 6));
	cr_assert(alert("\x01\x00\x05\x02\x00\x00", 6));
	cr_assert_not(alert("\x05\x02\x00\x01\x01\x00", 6));
	cr_assert_not(alert("\x01\x04\x05\x02\x00\x00", 6));
	cr_assert_not(alert("\x01\xff\x05\x02\x00\x00", 6));
	cr_assert_not(alert("\x00\x00\x00\x00\x05\x02", 6), "the value is outside");
}

Test(conformance, H07_unknown_icmpv6_types)
{
	static const uint8_t types[] = { 0, 1, 128, 129, 133, 135, 136, 142, 144, 255 };

	for (size_t i = 0; i < sizeof(types); i++) {
		struct frame f;

		valid(&f, true);
		payload(&f)[0] = types[i];
		frame_sums(&f);
		refused(true, &f, GMP_C_unknown_type);
	}
}

Test(conformance, H08_groups_that_mld_may_track)
{
	no_group(true, "2001:db8::1");
	no_group(true, "::");
	no_group(true, "ff02::1");
	no_group(true, "ff00::5");
	no_group(true, "ff01::5");
	no_group(true, "ff11::5");
	/* An IPv4 group in IPv6 clothes. */
	no_group(true, "::ffff:239.10.10.10");
}

Test(gmp_wire, neither_ip_nor_gmp)
{
	struct frame f;

	for (size_t len = 0; len < 14; len++) {
		valid(&f, false);
		f.len = len;
		refused(false, &f, GMP_C_truncated);
	}
	valid(&f, false);
	f.b[13] = 0x06; /* ARP */
	refused(false, &f, GMP_C_not_gmp);
	valid(&f, false);
	f.b[14 + 9] = 17;
	frame_sums(&f);
	refused(false, &f, GMP_C_not_gmp);
	valid(&f, false);
	f.b[14] = 0x56;
	refused(false, &f, GMP_C_malformed);
}

Test(gmp_wire, sources_that_cannot_send_are_dropped)
{
	EACH_FAMILY(v6)
	{
		static const char *const bad[2][3] = { { "0.0.0.0", "239.1.1.1", "224.0.0.5" },
						       { "::", "ff1e::1", "::ffff:10.0.0.1" } };
		struct addr host = host_of(v6, 1);
		struct record record = { WIRE_ALLOW, group_of(v6), "1 2 3 4" };
		struct rig *rig = rig_new(v6, NULL);
		struct frame f;

		frame_report(&f, v6, &host, &record, 1);
		for (size_t i = 0; i < 3; i++) {
			struct addr a = addr_of(bad[v6][i]);

			memcpy(payload(&f) + (v6 ? 28 + 16 * i : 16 + 4 * i), a.b + (v6 ? 0 : 12),
			       v6 ? 16 : 4);
		}
		frame_sums(&f);
		rig_frame(rig, P1, &f);
		cr_assert_str_eq(rig_state(rig, P1), "IN{4:270}");
		cr_assert_eq(rig_counter(rig, GMP_C_bad_source), 3);
		rig_free(rig);
	}
}

Test(gmp_wire, sources_in_any_order_and_twice)
{
	EACH_FAMILY(v6)
	{
		struct rig *rig = rig_new(v6, NULL);

		rig_report(rig, P1, WIRE_ALLOW, "3 1 2 3 1");
		cr_assert_str_eq(rig_state(rig, P1), "IN{1:270 2:270 3:270}");
		rig_free(rig);
	}
}
