/* SPDX-License-Identifier: Apache-2.0 */
#include "gmp_sums.h"

static uint32_t add(uint32_t sum, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		sum += i % 2 ? p[i] : (uint32_t)p[i] << 8;
	return sum;
}

static void put(uint8_t *p, uint32_t sum)
{
	while (sum > 0xffff)
		sum = (sum & 0xffff) + (sum >> 16);
	sum = ~sum;
	p[0] = (uint8_t)(sum >> 8);
	p[1] = (uint8_t)sum;
}

static void fix_v4(uint8_t *ip, size_t len)
{
	size_t header, total;

	if (len < 20)
		return;
	header = (size_t)(ip[0] & 15) * 4;
	total = (size_t)(ip[2] << 8 | ip[3]);
	if (header < 20 || header > len)
		return;
	ip[10] = ip[11] = 0;
	put(ip + 10, add(0, ip, header));
	if (total > len || total < header + 4)
		return;
	ip[header + 2] = ip[header + 3] = 0;
	put(ip + header + 2, add(0, ip + header, total - header));
}

static void fix_v6(uint8_t *ip, size_t len)
{
	uint8_t *p = ip + 40, next;
	size_t left;

	if (len < 40)
		return;
	left = (size_t)(ip[4] << 8 | ip[5]);
	if (left > len - 40)
		return;
	next = ip[6];
	while (next == 0 || next == 43 || next == 60) {
		size_t size;

		if (left < 8)
			return;
		size = ((size_t)p[1] + 1) * 8;
		if (size > left)
			return;
		next = p[0];
		p += size;
		left -= size;
	}
	if (left < 4)
		return;
	p[2] = p[3] = 0;
	put(p + 2, add(add(0, ip + 8, 32) + (uint32_t)left + 58, p, left));
}

void gmp_sums_fix(uint8_t *frame, size_t len)
{
	if (len < 14)
		return;
	if (frame[12] == 0x08 && frame[13] == 0)
		fix_v4(frame + 14, len - 14);
	else if (frame[12] == 0x86 && frame[13] == 0xdd)
		fix_v6(frame + 14, len - 14);
}
