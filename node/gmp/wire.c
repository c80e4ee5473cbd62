/* SPDX-License-Identifier: Apache-2.0 */
#include "node/gmp/wire.h"

#include <errno.h>

#define ETH_LEN		 14
#define ETHERTYPE_IPV4	 0x0800
#define ETHERTYPE_IPV6	 0x86dd
#define ETHERTYPE_VLAN	 0x8100
#define ETHERTYPE_QINQ	 0x88a8
#define IPPROTO_HOPOPTS	 0
#define IPPROTO_ROUTING	 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_DSTOPTS	 60
#define IPPROTO_ICMPV6	 58
#define IPPROTO_IGMP	 2

#define IPV6_EXTENSIONS_MAX 8

#define IGMP_QUERY     0x11
#define IGMP_V1_REPORT 0x12
#define IGMP_V2_REPORT 0x16
#define IGMP_V2_LEAVE  0x17
#define IGMP_V3_REPORT 0x22
#define MLD_QUERY      130
#define MLD_V1_REPORT  131
#define MLD_V1_DONE    132
#define MLD_V2_REPORT  143

#define REFUSE(why) (1 + GMP_C_##why)

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

/* RFC 1071, as a running sum. */
uint32_t wire_sum(uint32_t sum, const uint8_t *p, size_t len)
{
	for (; len > 1; p += 2, len -= 2)
		sum += get16(p);
	if (len)
		sum += (uint32_t)p[0] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

uint16_t wire_sum_fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

uint32_t wire_pseudo_v6(const uint8_t *addresses, uint32_t len)
{
	return wire_sum(0, addresses, 32) + (len >> 16) + (len & 0xffff) + IPPROTO_ICMPV6;
}

static struct addr addr_at(bool v6, const uint8_t *p)
{
	uint32_t be32;

	if (v6)
		return addr_v6(p);
	memcpy(&be32, p, sizeof(be32));
	return addr_v4_be32(be32);
}

struct addr wire_source(bool v6, const uint8_t *sources, size_t i)
{
	return addr_at(v6, sources + i * (v6 ? 16 : 4));
}

/* ---- codes ------------------------------------------------------------------ */

uint32_t wire_code8_decode(uint8_t code)
{
	if (code < 128)
		return code;
	return (uint32_t)((code & 0x0f) | 0x10) << (((code >> 4) & 0x07) + 3);
}

uint32_t wire_code16_decode(uint16_t code)
{
	if (code < 32768)
		return code;
	return (uint32_t)((code & 0x0fff) | 0x1000) << (((code >> 12) & 0x07) + 3);
}

/* ---- messages --------------------------------------------------------------- */

/* Records by their real length; octets after the last are not looked at
 * (RFC 9776 4.2.11). */
static int check_records(const struct wire_message *m, const uint8_t *p, size_t len)
{
	size_t width = m->v6 ? 16 : 4;

	for (uint16_t i = 0; i < m->n; i++) {
		size_t size;

		if (len < 4 + width)
			return REFUSE(truncated);
		size = 4 + width + get16(p + 2) * width + (size_t)p[1] * 4;
		if (len < size)
			return REFUSE(truncated);
		p += size;
		len -= size;
	}
	return 0;
}

void wire_record_next(const struct wire_message *m, const uint8_t **cursor,
		      struct wire_record *ret_record)
{
	const uint8_t *p = *cursor;
	size_t width = m->v6 ? 16 : 4;

	*ret_record = (struct wire_record){
		.type = p[0],
		.group = addr_at(m->v6, p + 4),
		.n_sources = get16(p + 2),
		.sources = p + 4 + width,
	};
	*cursor = p + 4 + width + ret_record->n_sources * width + (size_t)p[1] * 4;
}

static int parse_report(struct wire_message *m, const uint8_t *p, size_t len)
{
	if (len < 8)
		return REFUSE(truncated);
	m->kind = WIRE_REPORT_V3;
	m->version = m->v6 ? GMP_MLDV2 : GMP_IGMPV3;
	m->n = get16(p + 6);
	m->body = p + 8;
	return check_records(m, p + 8, len - 8);
}

/* The part behind the group that IGMPv3 and MLDv2 queries share. */
static int parse_query_tail(struct wire_message *m, const uint8_t *p, size_t len)
{
	size_t width = m->v6 ? 16 : 4;

	m->s_flag = p[0] & 0x08;
	m->qrv = p[0] & 0x07;
	m->query_interval_s = wire_code8_decode(p[1]);
	m->n = get16(p + 2);
	m->body = p + 4;
	return len < 4 + m->n * width ? REFUSE(truncated) : 0;
}

/* An IPv4-mapped address is no IPv6 group. */
static int check_group(const struct wire_message *m)
{
	return addr_is_multicast(&m->group) && addr_is_v4(&m->group) != m->v6
		       ? 0
		       : REFUSE(not_multicast_group);
}

/* Version by length (RFC 9776 7.1): lengths between are none. */
static int parse_igmp_query(struct wire_message *m, const uint8_t *p, size_t len)
{
	m->kind = WIRE_QUERY;
	m->group = addr_at(false, p + 4);
	if (addr_is_unspecified(&m->group))
		m->group = ADDR_NULL;
	else if (check_group(m))
		return REFUSE(not_multicast_group);
	m->max_response_ms = wire_code8_decode(p[1]) * 100;
	if (len == 8) {
		m->version = p[1] ? GMP_IGMPV2 : GMP_IGMPV1;
		m->max_response_ms = p[1] ? p[1] * 100u : 10000;
		return 0;
	}
	m->version = GMP_IGMPV3;
	return len < 12 ? REFUSE(malformed) : parse_query_tail(m, p + 8, len - 8);
}

static int parse_igmp(struct wire_message *m, const uint8_t *p, size_t len)
{
	if (len < 8)
		return REFUSE(truncated);
	if (wire_sum(0, p, len) != 0xffff)
		return REFUSE(bad_csum);
	switch (p[0]) {
	case IGMP_QUERY:
		return parse_igmp_query(m, p, len);
	case IGMP_V3_REPORT:
		return parse_report(m, p, len);
	case IGMP_V1_REPORT:
	case IGMP_V2_REPORT:
		m->kind = p[0] == IGMP_V1_REPORT ? WIRE_REPORT_V1 : WIRE_REPORT_V2;
		m->version = p[0] == IGMP_V1_REPORT ? GMP_IGMPV1 : GMP_IGMPV2;
		break;
	case IGMP_V2_LEAVE:
		m->kind = WIRE_LEAVE;
		m->version = GMP_IGMPV2;
		break;
	default:
		return REFUSE(unknown_type);
	}
	m->group = addr_at(false, p + 4);
	return check_group(m);
}

static int parse_mld_query(struct wire_message *m, const uint8_t *p, size_t len)
{
	m->kind = WIRE_QUERY;
	m->group = addr_at(true, p + 8);
	if (!addr_is_null(&m->group) && check_group(m))
		return REFUSE(not_multicast_group);
	if (!addr_is_link_local_unicast(&m->source))
		return REFUSE(bad_source);
	if (len == 24) {
		m->version = GMP_MLDV1;
		m->max_response_ms = get16(p + 4);
		return 0;
	}
	m->version = GMP_MLDV2;
	m->max_response_ms = wire_code16_decode(get16(p + 4));
	return len < 28 ? REFUSE(malformed) : parse_query_tail(m, p + 24, len - 24);
}

static int parse_mld(struct wire_message *m, const uint8_t *ip6, const uint8_t *p, size_t len)
{
	if (len < 8)
		return REFUSE(truncated);
	if (wire_sum_fold(wire_sum(wire_pseudo_v6(ip6 + 8, (uint32_t)len), p, len)) != 0)
		return REFUSE(bad_csum);
	if (p[0] == MLD_V2_REPORT)
		return parse_report(m, p, len);
	if (p[0] != MLD_QUERY && p[0] != MLD_V1_REPORT && p[0] != MLD_V1_DONE)
		return REFUSE(unknown_type);
	if (len < 24)
		return REFUSE(truncated);
	if (p[0] == MLD_QUERY)
		return parse_mld_query(m, p, len);
	m->kind = p[0] == MLD_V1_REPORT ? WIRE_REPORT_V2 : WIRE_LEAVE;
	m->version = GMP_MLDV1;
	m->group = addr_at(true, p + 8);
	return check_group(m);
}

/* ---- IP --------------------------------------------------------------------- */

/* Router Alert (RFC 2113) among the IPv4 options. */
static bool ipv4_router_alert(const uint8_t *options, size_t len)
{
	while (len) {
		size_t size;

		if (options[0] == 0)
			return false;
		if (options[0] == 1) {
			options++;
			len--;
			continue;
		}
		if (len < 2 || options[1] < 2 || options[1] > len)
			return false;
		if (options[0] == 148 && options[1] == 4)
			return true;
		size = options[1];
		options += size;
		len -= size;
	}
	return false;
}

static int parse_ipv4(struct wire_message *m, const uint8_t *p, size_t len)
{
	size_t header, total;

	if (len < 20)
		return REFUSE(truncated);
	header = (size_t)(p[0] & 0x0f) * 4;
	total = get16(p + 2);
	if (p[0] >> 4 != 4 || header < 20 || total < header)
		return REFUSE(malformed);
	if (total > len)
		return REFUSE(truncated);
	if (wire_sum(0, p, header) != 0xffff)
		return REFUSE(bad_ip_csum);
	if (p[9] != IPPROTO_IGMP)
		return REFUSE(not_gmp);
	if (get16(p + 6) & 0x3fff)
		return REFUSE(fragment);
	m->source = addr_at(false, p + 12);
	m->router_alert = ipv4_router_alert(p + 20, header - 20);
	if (addr_is_multicast(&m->source))
		return REFUSE(bad_source);
	if (p[8] != 1)
		return REFUSE(bad_ttl);
	return parse_igmp(m, p + header, total - header);
}

/* Router Alert of value 0 (RFC 2711) among the hop-by-hop options. */
static bool ipv6_router_alert(const uint8_t *options, size_t len)
{
	while (len) {
		size_t size;

		if (options[0] == 0) {
			options++;
			len--;
			continue;
		}
		if (len < 2 || options[1] + 2u > len)
			return false;
		if (options[0] == 5 && options[1] == 2 && get16(options + 2) == 0)
			return true;
		size = options[1] + 2u;
		options += size;
		len -= size;
	}
	return false;
}

static int parse_ipv6(struct wire_message *m, const uint8_t *ip6, size_t len)
{
	const uint8_t *p = ip6 + 40;
	uint8_t next;
	size_t left;

	if (len < 40)
		return REFUSE(truncated);
	if (ip6[0] >> 4 != 6)
		return REFUSE(malformed);
	left = get16(ip6 + 4);
	if (left > len - 40)
		return REFUSE(truncated);
	m->source = addr_v6(ip6 + 8);
	next = ip6[6];
	for (int i = 0; next != IPPROTO_ICMPV6; i++) {
		size_t size;

		if (next == IPPROTO_FRAGMENT)
			return REFUSE(fragment);
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS)
			return REFUSE(not_gmp);
		/* Hop-by-hop options come first or not at all (RFC 8200 4.1). */
		if (i == IPV6_EXTENSIONS_MAX || (i && next == IPPROTO_HOPOPTS))
			return REFUSE(malformed);
		if (left < 8)
			return REFUSE(truncated);
		size = ((size_t)p[1] + 1) * 8;
		if (size > left)
			return REFUSE(truncated);
		if (next == IPPROTO_HOPOPTS && ipv6_router_alert(p + 2, size - 2))
			m->router_alert = true;
		next = p[0];
		p += size;
		left -= size;
	}
	if (addr_is_multicast(&m->source))
		return REFUSE(bad_source);
	if (ip6[7] != 1)
		return REFUSE(bad_ttl);
	return parse_mld(m, ip6, p, left);
}

int wire_parse(const uint8_t *frame, size_t len, struct wire_message *ret_message,
	       enum gmp_counter *ret_why)
{
	struct wire_message m = { 0 };
	int r;

	if (len < ETH_LEN) {
		*ret_why = GMP_C_truncated;
		return -EINVAL;
	}
	switch (get16(frame + 12)) {
	case ETHERTYPE_IPV4:
		r = parse_ipv4(&m, frame + ETH_LEN, len - ETH_LEN);
		break;
	case ETHERTYPE_IPV6:
		m.v6 = true;
		r = parse_ipv6(&m, frame + ETH_LEN, len - ETH_LEN);
		break;
	case ETHERTYPE_VLAN:
	case ETHERTYPE_QINQ:
		r = REFUSE(vlan_tagged);
		break;
	default:
		r = REFUSE(not_gmp);
		break;
	}
	if (r) {
		*ret_why = (enum gmp_counter)(r - 1);
		return -EINVAL;
	}
	*ret_message = m;
	return 0;
}
