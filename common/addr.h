/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One address type for both families: 16 bytes in network order, IPv4 as
 * IPv4-mapped IPv6 (::ffff:a.b.c.d, RFC 4291 2.5.5.2). Equality is memcmp, so
 * it is usable as a hash key and as a BPF map key as it is.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct addr {
	uint8_t b[16];
};

#define ADDR_TEXT_MAX 46 /* INET6_ADDRSTRLEN */

#define ADDR_NULL ((struct addr){ 0 })

struct addr addr_v4_be32(uint32_t be32);
struct addr addr_v6(const uint8_t bytes[16]);

/* The IPv4 address in network order; only for addr_is_v4(). */
uint32_t addr_to_be32(const struct addr *a);

bool addr_is_v4(const struct addr *a);

/* All-zero: no address. 0.0.0.0 (mapped) and :: as IPv6 count as unspecified too. */
bool addr_is_null(const struct addr *a);
bool addr_is_unspecified(const struct addr *a);

/* 224/4 or ff00::/8. */
bool addr_is_multicast(const struct addr *a);

/* 224.0.0.0/24, or ff00::/8 of scope 0 to 2 (RFC 4541 2.1.2 (2), RFC 4291 2.7). */
bool addr_is_link_local_group(const struct addr *a);

/* 232/8 or ff3x::/32 (RFC 4607). */
bool addr_is_ssm_group(const struct addr *a);

/* fe80::/10. */
bool addr_is_link_local_unicast(const struct addr *a);

int addr_cmp(const struct addr *a, const struct addr *b);

static inline bool addr_equal(const struct addr *a, const struct addr *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

/* Text to address, either family. 0 or -EINVAL. */
int addr_parse(const char *text, struct addr *ret_addr);

/* Address to text (RFC 5952); returns buf. */
const char *addr_format(const struct addr *a, char buf[static ADDR_TEXT_MAX]);

/* Wire form of the Sync protocol: 4 or 16 bytes. 0 or -EINVAL; a 16-byte
 * IPv4-mapped address is refused, so that each address has one encoding. */
int addr_from_wire(const uint8_t *data, size_t len, struct addr *ret_addr);

/* Points into *a; the length is 4 or 16. */
const uint8_t *addr_to_wire(const struct addr *a, size_t *ret_len);
