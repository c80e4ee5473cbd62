/* SPDX-License-Identifier: Apache-2.0 */
#include "node/oversize.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <string.h>

#define PORT	4797
#define HEADERS (14 + 40 + 8)

static struct addr ip(const char *text)
{
	struct addr a;

	cr_assert_eq(addr_parse(text, &a), 0);
	return a;
}

/* From our VTEP to another's, with `len` bytes behind the UDP header. */
static size_t frame_make(uint8_t *frame, size_t len)
{
	const struct addr from = ip("2001:db8::1"), to = ip("2001:db8::2");
	uint16_t data = htons((uint16_t)(len + 8)), port = htons(PORT);

	memset(frame, 0, HEADERS + len);
	frame[12] = 0x86;
	frame[13] = 0xdd;
	frame[14] = 0x6b; /* traffic class 0xb9 */
	frame[15] = 0x90;
	memcpy(frame + 18, &data, 2);
	frame[20] = IPPROTO_UDP;
	memcpy(frame + 22, from.b, 16);
	memcpy(frame + 38, to.b, 16);
	memcpy(frame + 56, &port, 2);
	frame[HEADERS] = 0x08;
	return HEADERS + len;
}

static bool parse(const uint8_t *frame, size_t len, struct oversize_packet *ret)
{
	const struct addr vtep = ip("2001:db8::1");

	return oversize_parse(frame, len, &vtep, PORT, ret);
}

Test(oversize, a_copy_is_what_is_behind_the_udp_header)
{
	const struct addr to = ip("2001:db8::2");
	struct oversize_packet p;
	uint8_t frame[4096];
	size_t len = frame_make(frame, 3000);

	cr_assert(parse(frame, len, &p));
	cr_expect(addr_equal(&p.to, &to));
	cr_expect_eq(p.traffic_class, 0xb9);
	cr_expect_eq(p.payload, frame + HEADERS);
	cr_expect_eq(p.len, 3000);
}

Test(oversize, what_the_kernel_says_on_its_own_is_none)
{
	struct oversize_packet p = { .len = 1 };
	uint8_t frame[256], good[256];
	size_t len = frame_make(good, 100);
	static const struct {
		size_t at;
		uint8_t value;
	} wrong[] = {
		{ 12, 0x08 },		/* not IPv6 */
		{ 14, 0x4b },		/* not version 6 */
		{ 20, IPPROTO_ICMPV6 }, /* MLD of the device itself */
		{ 37, 9 },		/* not from our VTEP */
		{ 57, 1 },		/* not our port */
		{ 19, 1 },		/* another length */
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		memcpy(frame, good, len);
		frame[wrong[i].at] = wrong[i].value;
		cr_expect_not(parse(frame, len, &p), "%zu", i);
	}
	cr_expect_eq(p.len, 1, "untouched");
}

Test(oversize, cut_at_each_length)
{
	struct oversize_packet p;
	uint8_t good[256];
	size_t len = frame_make(good, 100);

	for (size_t n = 0; n < len; n++) {
		uint8_t *frame = malloc(n + 1);

		memcpy(frame, good, n);
		cr_expect_not(parse(frame, n, &p), "%zu", n);
		free(frame);
	}
}
