/* SPDX-License-Identifier: Apache-2.0 */
#include "common/addr.h"

#include <criterion/criterion.h>
#include <errno.h>

#include "common/cleanup.h"

static struct addr parse(const char *text)
{
	struct addr a;

	cr_assert_eq(addr_parse(text, &a), 0, "%s", text);
	return a;
}

Test(addr, text_round_trip)
{
	static const char *const texts[] = { "0.0.0.0",	     "239.1.2.3", "255.255.255.255", "::",
					     "ff3e::8000:1", "fe80::1",	  "2001:db8::" };

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		char buf[ADDR_TEXT_MAX];
		struct addr a = parse(texts[i]);

		cr_expect_str_eq(addr_format(&a, buf), texts[i]);
	}
}

Test(addr, refuses_what_is_no_address)
{
	static const char *const texts[] = {
		"", "1.2.3", "239.1.2.256", "fe80::1%eth0", "x", " ::"
	};
	struct addr a = parse("::1"), before = a;

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		cr_expect_eq(addr_parse(texts[i], &a), -EINVAL, "\"%s\"", texts[i]);
	cr_expect(addr_equal(&a, &before), "touched on failure");
}

static const struct {
	const char *text;
	bool v4, multicast, link_local_group, ssm, unspecified, link_local_unicast;
} facts[] = {
	{ "0.0.0.0", true, false, false, false, true, false },
	{ "::", false, false, false, false, true, false },
	{ "223.255.255.255", true, false, false, false, false, false },
	{ "224.0.0.0", true, true, true, false, false, false },
	{ "224.0.0.255", true, true, true, false, false, false },
	{ "224.0.1.0", true, true, false, false, false, false },
	{ "231.255.255.255", true, true, false, false, false, false },
	{ "232.0.0.0", true, true, false, true, false, false },
	{ "232.255.255.255", true, true, false, true, false, false },
	{ "233.0.0.0", true, true, false, false, false, false },
	{ "239.255.255.255", true, true, false, false, false, false },
	{ "240.0.0.0", true, false, false, false, false, false },
	{ "ff01::1", false, true, true, false, false, false },
	{ "ff02::fb", false, true, true, false, false, false },
	{ "ff12::1", false, true, true, false, false, false },
	{ "ff03::1", false, true, false, false, false, false },
	{ "ff05::1", false, true, false, false, false, false },
	{ "ff3e::8000:1", false, true, false, true, false, false },
	{ "ff3e:1::8000:1", false, true, false, false, false, false },
	{ "ff2e::1", false, true, false, false, false, false },
	{ "fe80::1", false, false, false, false, false, true },
	{ "febf::1", false, false, false, false, false, true },
	{ "fec0::1", false, false, false, false, false, false },
};

Test(addr, facts_at_the_borders)
{
	for (size_t i = 0; i < ARRAY_SIZE(facts); i++) {
		const char *t = facts[i].text;
		struct addr a = parse(t);

		cr_expect_eq(addr_is_v4(&a), facts[i].v4, "%s", t);
		cr_expect_eq(addr_is_multicast(&a), facts[i].multicast, "%s", t);
		cr_expect_eq(addr_is_link_local_group(&a), facts[i].link_local_group, "%s", t);
		cr_expect_eq(addr_is_ssm_group(&a), facts[i].ssm, "%s", t);
		cr_expect_eq(addr_is_unspecified(&a), facts[i].unspecified, "%s", t);
		cr_expect_eq(addr_is_link_local_unicast(&a), facts[i].link_local_unicast, "%s", t);
	}
}

Test(addr, one_wire_form_each)
{
	struct addr v4 = parse("239.1.2.3"), v6 = parse("ff05::1"), back;
	const uint8_t *data;
	size_t len;

	data = addr_to_wire(&v4, &len);
	cr_assert_eq(len, 4);
	cr_expect_eq(addr_from_wire(data, len, &back), 0);
	cr_expect(addr_equal(&v4, &back));
	cr_expect_eq(addr_from_wire(v4.b, 16, &back), -EINVAL, "a second form of an address");
	data = addr_to_wire(&v6, &len);
	cr_assert_eq(len, 16);
	cr_expect_eq(addr_from_wire(data, len, &back), 0);
	cr_expect(addr_equal(&v6, &back));
	for (size_t n = 0; n < 20; n++)
		cr_expect_eq(addr_from_wire(v6.b, n, &back), n == 4 || n == 16 ? 0 : -EINVAL, "%zu",
			     n);
	back = addr_v4_be32(addr_to_be32(&v4));
	cr_expect(addr_equal(&v4, &back));
}
