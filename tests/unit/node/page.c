/* SPDX-License-Identifier: Apache-2.0 */
#include "node/page.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mcmesh/v1/agent.pb-c.h"

#define ROWS 30000

static Mcmesh__V1__Membership rows[ROWS];
static const ProtobufCMessage *list[ROWS];
static char *host;

static int by_segment(const void *x, const void *y)
{
	const Mcmesh__V1__Membership *a = *(Mcmesh__V1__Membership *const *)x;
	const Mcmesh__V1__Membership *b = *(Mcmesh__V1__Membership *const *)y;

	return (a->segment > b->segment) - (a->segment < b->segment);
}

/* Segments 2, 4, 6 …, each row with a host whose text is so long. */
static void fill(size_t host_len)
{
	static char text[PAGE_BYTES_MAX + 2];

	memset(text, 'h', host_len);
	text[host_len] = '\0';
	host = text;
	for (uint32_t i = 0; i < ROWS; i++) {
		mcmesh__v1__membership__init(&rows[i]);
		rows[i].segment = 2 * (i + 1);
		rows[i].hosts = &host;
		rows[i].n_hosts = 1;
		list[i] = &rows[i].base;
	}
}

static int cut(size_t n, uint32_t size, const char *token, struct page *ret_page)
{
	return page_cut(list, n, by_segment, size, token, ret_page);
}

/* The size of the message that has these rows. */
static size_t answer_size(const struct page *page)
{
	Mcmesh__V1__ListMembershipsResponse answer = MCMESH__V1__LIST_MEMBERSHIPS_RESPONSE__INIT;
	static Mcmesh__V1__Membership *some[ROWS];

	for (size_t i = 0; i < page->n; i++)
		some[i] = &rows[page->from + i];
	answer.memberships = some;
	answer.n_memberships = page->n;
	return mcmesh__v1__list_memberships_response__get_packed_size(&answer);
}

/* Every row once, each page within both bounds; how many pages. */
static size_t pages_of(size_t n, uint32_t size)
{
	struct page page = { 0 };
	size_t pages = 0, seen = 0;

	do {
		char *token = page.next;

		cr_assert_eq(cut(n, size, token ?: "", &page), 0);
		free(token);
		cr_assert_eq(page.from, seen);
		cr_assert(page.n > 0 && page.n <= (size ?: PAGE_ROWS_MAX));
		cr_assert(page.n == 1 || answer_size(&page) <= PAGE_BYTES_MAX);
		seen += page.n;
		pages++;
	} while (page.next);
	cr_assert_eq(seen, n);
	return pages;
}

Test(page, rows_and_bytes_bound_a_page)
{
	fill(10);
	cr_expect_eq(pages_of(ROWS, 0), 3);
	cr_expect_eq(pages_of(PAGE_ROWS_MAX, 0), 1);
	cr_expect_eq(pages_of(100, 33), 4);
	fill(1000);
	cr_expect_eq(pages_of(3000, 0), 1);
	cr_expect_eq(pages_of(6000, 0), 2);
	cr_expect_eq(pages_of(6000, PAGE_ROWS_MAX), 2);
}

Test(page, a_row_that_is_too_large_stands_alone)
{
	fill(PAGE_BYTES_MAX + 1);
	cr_expect_eq(pages_of(3, 0), 3);
	cr_expect_eq(page_fit(list, 3, 2000, 1024), 1);
	cr_expect_eq(page_fit(list, 0, 2000, 1024), 0);
}

Test(page, a_token_is_a_place_in_the_order)
{
	struct page first, page;

	fill(1000);
	cr_assert_eq(cut(9, 4, "", &first), 0); /* 2 4 6 8, next 10 */
	cr_assert_lt(strlen(first.next), 100, "without the hosts");
	rows[0].segment = 3; /* 2 went, 3 came, and 10 became 11 */
	rows[4].segment = 11;
	cr_assert_eq(cut(9, 3, first.next, &page), 0);
	cr_expect(page.from == 4 && page.n == 3);
	page_deinit(&page);
	/* Two went before it. */
	cr_assert_eq(page_cut(list + 2, 7, by_segment, 3, first.next, &page), 0);
	cr_expect(page.from == 2 && page.n == 3);
	page_deinit(&page);
	cr_assert_eq(cut(3, 3, first.next, &page), 0);
	cr_expect(page.n == 0 && !page.next, "all that follow are gone");
	cr_assert_eq(cut(0, 3, first.next, &page), 0);
	cr_expect(page.n == 0 && !page.next);
	page_deinit(&first);
}

Test(page, rows_that_look_alike_are_on_one_page)
{
	struct page page;

	fill(1);
	rows[1].segment = rows[2].segment = rows[3].segment;
	cr_assert_eq(cut(9, 2, "", &page), 0);
	cr_expect_eq(page.n, 4);
	page_deinit(&page);
}

Test(page, what_is_no_token)
{
	static const char *const bad[] = { "x", "12", "0", " ", "0a", "08zz", "ffffffff" };
	struct page page;

	fill(1);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_expect_eq(cut(9, 0, bad[i], &page), -EINVAL, "\"%s\"", bad[i]);
}
