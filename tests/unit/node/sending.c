/* SPDX-License-Identifier: Apache-2.0 */
#include "node/sending.h"

#include <criterion/criterion.h>

static struct sending s;
static struct sending_port a, b;

/* One look at counters of both ports, and of the node's link-local packets. */
static void look(uint64_t of_a, uint64_t of_b, uint64_t link_local, uint64_t now_ms)
{
	bool any;

	sending_count(&s, &a, 1, of_a);
	sending_count(&s, &b, 1, of_b);
	any = sending_counted(&s, link_local);
	sending_is_on(&a, any, now_ms);
	sending_is_on(&b, any, now_ms);
}

static bool is_on(struct sending_port *port, uint64_t now_ms)
{
	return sending_is_on(port, false, now_ms);
}

Test(sending, a_port_sends_from_its_packet_until_the_hold_is_over)
{
	look(100, 50, 0, 1000); /* what an earlier agent counted is no news */
	cr_assert_not(is_on(&a, 1000));
	look(101, 50, 0, 2000);
	cr_assert(is_on(&a, 2000));
	cr_assert_not(is_on(&b, 2000));
	look(101, 50, 0, 3000);
	cr_assert(is_on(&a, 2000 + SENDING_HOLD_MS - 1));
	cr_assert_not(is_on(&a, 2000 + SENDING_HOLD_MS));
}

Test(sending, link_local_packets_make_no_sender)
{
	look(0, 0, 0, 1000);
	look(10, 5, 15, 2000);
	cr_assert_not(is_on(&a, 2000) || is_on(&b, 2000));
	/* Two came between the look at the port and the look at the node. */
	look(20, 5, 27, 3000);
	look(32, 5, 37, 4000);
	cr_assert_not(is_on(&a, 4000));
	look(33, 5, 37, 5000);
	cr_assert(is_on(&a, 5000));
	cr_assert_not(is_on(&b, 5000));
}

Test(sending, counters_that_begin_anew_or_go_back_are_no_packets)
{
	look(10, 0, 0, 1000);
	look(9, 0, 0, 2000);
	look(10, 0, 0, 3000);
	cr_assert_not(is_on(&a, 3000));
	sending_count(&s, &a, 2, 40);
	cr_assert_not(a.grew);
	look(10, 0, 0, 4000);
	cr_assert_not(is_on(&a, 4000));
}
