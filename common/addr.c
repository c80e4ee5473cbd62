/* SPDX-License-Identifier: Apache-2.0 */
#include "common/addr.h"

#include <arpa/inet.h>
#include <errno.h>

static const uint8_t mapped_prefix[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

struct addr addr_v4_be32(uint32_t be32)
{
	struct addr a;

	memcpy(a.b, mapped_prefix, sizeof(mapped_prefix));
	memcpy(a.b + 12, &be32, sizeof(be32));
	return a;
}

struct addr addr_v6(const uint8_t bytes[16])
{
	struct addr a;

	memcpy(a.b, bytes, sizeof(a.b));
	return a;
}

uint32_t addr_to_be32(const struct addr *a)
{
	uint32_t be32;

	memcpy(&be32, a->b + 12, sizeof(be32));
	return be32;
}

bool addr_is_v4(const struct addr *a)
{
	return memcmp(a->b, mapped_prefix, sizeof(mapped_prefix)) == 0;
}

bool addr_is_null(const struct addr *a)
{
	return addr_equal(a, &ADDR_NULL);
}

bool addr_is_unspecified(const struct addr *a)
{
	return addr_is_null(a) || (addr_is_v4(a) && addr_to_be32(a) == 0);
}

bool addr_is_multicast(const struct addr *a)
{
	return addr_is_v4(a) ? (a->b[12] & 0xf0) == 0xe0 : a->b[0] == 0xff;
}

bool addr_is_link_local_group(const struct addr *a)
{
	if (addr_is_v4(a))
		return a->b[12] == 224 && a->b[13] == 0 && a->b[14] == 0;
	return a->b[0] == 0xff && (a->b[1] & 0x0f) <= 2;
}

bool addr_is_ssm_group(const struct addr *a)
{
	if (addr_is_v4(a))
		return a->b[12] == 232;
	return a->b[0] == 0xff && (a->b[1] & 0xf0) == 0x30 && a->b[2] == 0 && a->b[3] == 0;
}

bool addr_is_link_local_unicast(const struct addr *a)
{
	return !addr_is_v4(a) && a->b[0] == 0xfe && (a->b[1] & 0xc0) == 0x80;
}

int addr_cmp(const struct addr *a, const struct addr *b)
{
	return memcmp(a->b, b->b, sizeof(a->b));
}

int addr_parse(const char *text, struct addr *ret_addr)
{
	uint8_t v6[16];
	uint32_t v4;

	if (inet_pton(AF_INET, text, &v4) == 1) {
		*ret_addr = addr_v4_be32(v4);
		return 0;
	}
	if (inet_pton(AF_INET6, text, v6) == 1) {
		*ret_addr = addr_v6(v6);
		return 0;
	}
	return -EINVAL;
}

const char *addr_format(const struct addr *a, char buf[static ADDR_TEXT_MAX])
{
	if (addr_is_v4(a))
		inet_ntop(AF_INET, a->b + 12, buf, ADDR_TEXT_MAX);
	else
		inet_ntop(AF_INET6, a->b, buf, ADDR_TEXT_MAX);
	return buf;
}

int addr_from_wire(const uint8_t *data, size_t len, struct addr *ret_addr)
{
	uint32_t be32;

	if (len == 4) {
		memcpy(&be32, data, 4);
		*ret_addr = addr_v4_be32(be32);
		return 0;
	}
	if (len == 16 && memcmp(data, mapped_prefix, sizeof(mapped_prefix)) != 0) {
		*ret_addr = addr_v6(data);
		return 0;
	}
	return -EINVAL;
}

const uint8_t *addr_to_wire(const struct addr *a, size_t *ret_len)
{
	*ret_len = addr_is_v4(a) ? 4 : 16;
	return addr_is_v4(a) ? a->b + 12 : a->b;
}
