/* SPDX-License-Identifier: Apache-2.0 */
#include "node/fib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"

/*
 * The kernel's table as a small model. `refuse` makes writes fail; `writes`
 * counts them, so that "only the differences" can be seen.
 */
#define KERNEL_MAX 64

struct kernel_entry {
	struct addr group, source;
	uint32_t ports[16];
	size_t n_ports;
	struct addr remotes[16];
	size_t n_remotes;
};

static struct kernel_entry kernel[KERNEL_MAX];
static size_t n_kernel, writes;
static bool refuse;
static struct filter member;
static size_t member_calls;

static struct addr a(const char *text)
{
	struct addr addr;

	cr_assert_eq(addr_parse(text, &addr), 0);
	return addr;
}

static struct kernel_entry *find(const struct addr *group, const struct addr *source)
{
	for (size_t i = 0; i < n_kernel; i++) {
		if (addr_equal(&kernel[i].group, group) && addr_equal(&kernel[i].source, source))
			return &kernel[i];
	}
	return NULL;
}

static int route_set(const struct datapath_route *route, void *userdata)
{
	struct kernel_entry *e = find(&route->group, &route->source);

	if (refuse)
		return -28;
	writes++;
	if (!e)
		e = &kernel[n_kernel++];
	e->group = route->group;
	e->source = route->source;
	e->n_ports = route->n_ports;
	e->n_remotes = route->n_remotes;
	memcpy(e->ports, route->ports, route->n_ports * sizeof(*e->ports));
	memcpy(e->remotes, route->remotes, route->n_remotes * sizeof(*e->remotes));
	return 0;
}

static int route_del(uint32_t segment, const struct addr *group, const struct addr *source,
		     void *userdata)
{
	struct kernel_entry *e = find(group, source);

	writes++;
	if (e)
		*e = kernel[--n_kernel];
	return 0;
}

static void on_member(uint32_t segment, const struct addr *group, const struct filter *filter,
		      void *userdata)
{
	member_calls++;
	filter_deinit(&member);
	filter_copy(&member, filter);
}

static const struct fib_ops ops = { route_set, route_del, on_member };

static struct fib *make(void)
{
	struct fib *fib;

	n_kernel = writes = member_calls = 0;
	refuse = false;
	cr_assert_eq(fib_new(&ops, NULL, &fib), 0);
	return fib;
}

#define GROUP "239.1.1.1"

static void local(struct fib *fib, uint32_t port, enum filter_mode mode, size_t n,
		  const char *const *sources)
{
	struct addr list[8], group = a(GROUP);
	struct filter f;

	for (size_t i = 0; i < n; i++)
		list[i] = a(sources[i]);
	filter_init(&f, mode, list, n);
	cr_assert_eq(fib_local_set(fib, 1, &group, port, &f), 0);
	filter_deinit(&f);
}

static void remote(struct fib *fib, const char *vtep, enum filter_mode mode, size_t n,
		   const char *const *sources)
{
	struct addr list[8], group = a(GROUP), to = a(vtep);
	struct filter f;

	for (size_t i = 0; i < n; i++)
		list[i] = a(sources[i]);
	filter_init(&f, mode, list, n);
	cr_assert_eq(fib_remote_set(fib, 1, &group, &to, &f), 0);
	filter_deinit(&f);
}

/* "5,6|203.0.113.2" of the entry of this source, "-" where there is none. */
static const char *entry(const char *source)
{
	static char text[256];
	struct addr group = a(GROUP), s = source ? a(source) : ADDR_NULL;
	struct kernel_entry *e = find(&group, &s);
	char buf[ADDR_TEXT_MAX];
	size_t len = 0;

	if (!e)
		return "-";
	text[0] = '\0';
	for (size_t i = 0; i < e->n_ports; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, i ? ",%u" : "%u",
					e->ports[i]);
	len += (size_t)snprintf(text + len, sizeof(text) - len, "|");
	for (size_t i = 0; i < e->n_remotes; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, i ? ",%s" : "%s",
					addr_format(&e->remotes[i], buf));
	return text;
}

#define S1 "192.0.2.1"
#define S2 "192.0.2.2"

Test(fib, any_source_members_share_one_entry)
{
	struct fib *fib = make();

	local(fib, 6, FILTER_EXCLUDE, 0, NULL);
	local(fib, 5, FILTER_EXCLUDE, 0, NULL);
	remote(fib, "203.0.113.2", FILTER_EXCLUDE, 0, NULL);
	cr_assert_eq(fib_flush(fib), 0);
	cr_assert_str_eq(entry(NULL), "5,6|203.0.113.2");
	cr_assert_eq(n_kernel, 1);
	fib_free(fib);
}

Test(fib, exact_entries_name_each_source_once)
{
	struct fib *fib = make();

	local(fib, 5, FILTER_INCLUDE, 1, (const char *[]){ S1 });
	local(fib, 6, FILTER_EXCLUDE, 1, (const char *[]){ S2 });
	remote(fib, "203.0.113.2", FILTER_INCLUDE, 2, (const char *[]){ S1, S2 });
	cr_assert_eq(fib_flush(fib), 0);
	cr_assert_str_eq(entry(S1), "5,6|203.0.113.2");
	cr_assert_str_eq(entry(S2), "|203.0.113.2");
	cr_assert_str_eq(entry(NULL), "6|");
	fib_free(fib);
}

Test(fib, registered_group_without_any_source_members_has_an_empty_entry)
{
	struct fib *fib = make();

	local(fib, 5, FILTER_INCLUDE, 1, (const char *[]){ S1 });
	fib_flush(fib);
	cr_assert_str_eq(entry(NULL), "|");
	fib_free(fib);
}

Test(fib, flush_writes_differences_only)
{
	struct fib *fib = make();

	local(fib, 5, FILTER_EXCLUDE, 1, (const char *[]){ S1 });
	fib_flush(fib);
	writes = 0;
	local(fib, 5, FILTER_EXCLUDE, 1, (const char *[]){ S1 });
	fib_flush(fib);
	cr_assert_eq(writes, 0, "the same filter again");
	remote(fib, "203.0.113.2", FILTER_INCLUDE, 1, (const char *[]){ S1 });
	fib_flush(fib);
	cr_assert_eq(writes, 1, "only (S1, G) changes, not (*, G)");
	fib_free(fib);
}

Test(fib, last_leave_clears_everything)
{
	struct fib *fib = make();

	local(fib, 5, FILTER_INCLUDE, 1, (const char *[]){ S1 });
	fib_flush(fib);
	local(fib, 5, FILTER_INCLUDE, 0, NULL);
	fib_flush(fib);
	cr_assert_eq(n_kernel, 0);
	cr_assert_eq(fib_count(fib), 0);
	cr_assert(filter_is_none(&member));
	fib_free(fib);
}

Test(fib, member_is_the_union_of_local_ports)
{
	struct fib *fib = make();
	struct addr s2 = a(S2), s1 = a(S1);

	local(fib, 5, FILTER_INCLUDE, 1, (const char *[]){ S1 });
	local(fib, 6, FILTER_EXCLUDE, 2, (const char *[]){ S1, S2 });
	remote(fib, "203.0.113.2", FILTER_EXCLUDE, 0, NULL);
	fib_flush(fib);
	cr_assert_eq(member.mode, FILTER_EXCLUDE);
	cr_assert_eq(member.n_sources, 1);
	cr_assert(!filter_wants(&member, &s2) && filter_wants(&member, &s1));
	cr_assert_eq(member_calls, 1);
	remote(fib, "203.0.113.2", FILTER_INCLUDE, 0, NULL);
	fib_flush(fib);
	cr_assert_eq(member_calls, 1, "remotes do not make this node a member");
	fib_free(fib);
}

Test(fib, router_port_gets_what_anybody_gets_and_is_no_member)
{
	struct fib *fib = make();

	cr_assert_eq(fib_router_set(fib, 1, 6, true), 0);
	cr_assert_eq(fib_router_set(fib, 2, 7, true), 0);
	fib_flush(fib);
	cr_assert_str_eq(entry(NULL), "-", "nobody is there: the unregistered rule decides");
	remote(fib, "203.0.113.2", FILTER_INCLUDE, 1, (const char *[]){ S1 });
	fib_flush(fib);
	cr_assert_str_eq(entry(S1), "6|203.0.113.2");
	cr_assert_str_eq(entry(NULL), "6|");
	cr_assert_eq(member_calls, 0);
	local(fib, 5, FILTER_EXCLUDE, 1, (const char *[]){ S1 });
	local(fib, 8, FILTER_EXCLUDE, 0, NULL);
	local(fib, 6, FILTER_INCLUDE, 1, (const char *[]){ S2 });
	fib_flush(fib);
	cr_assert_str_eq(entry(S1), "6,8|203.0.113.2");
	cr_assert_str_eq(entry(S2), "5,6,8|");
	cr_assert_str_eq(entry(NULL), "5,6,8|");
	cr_assert_eq(fib_router_set(fib, 1, 6, false), 0);
	fib_flush(fib);
	cr_assert_str_eq(entry(S1), "8|203.0.113.2");
	cr_assert_str_eq(entry(S2), "5,6,8|", "the member that it was, too");
	cr_assert_eq(fib_router_set(fib, 1, 9, true), 0);
	fib_port_forget(fib, 9);
	fib_flush(fib);
	cr_assert_str_eq(entry(NULL), "5,8|");
	fib_free(fib);
}

Test(fib, refused_write_stays_due_and_is_tried_again)
{
	struct fib *fib = make();

	refuse = true;
	local(fib, 5, FILTER_EXCLUDE, 0, NULL);
	cr_assert_eq(fib_flush(fib), 1);
	cr_assert_str_eq(entry(NULL), "-");
	cr_assert_eq(fib_flush(fib), 1);
	refuse = false;
	cr_assert_eq(fib_flush(fib), 0);
	cr_assert_str_eq(entry(NULL), "5|");
	fib_free(fib);
}

static int adopt_all(struct fib *fib)
{
	for (size_t i = 0; i < n_kernel; i++) {
		struct datapath_route route = {
			.segment = 1,
			.group = kernel[i].group,
			.source = kernel[i].source,
			.ports = kernel[i].ports,
			.n_ports = kernel[i].n_ports,
			.remotes = kernel[i].remotes,
			.n_remotes = kernel[i].n_remotes,
		};

		cr_assert_eq(fib_adopt(fib, &route), 0);
	}
	return 0;
}

static char adopted_text[8][128];
static size_t n_adopted;

static void on_adopted(const struct fib_adopted *adopted, void *userdata)
{
	char buf[ADDR_TEXT_MAX], *p = adopted_text[n_adopted++], *end = p + sizeof(adopted_text[0]);

	p += snprintf(p, (size_t)(end - p), "%s %s",
		      adopted->port ? "port" : addr_format(adopted->vtep, buf),
		      adopted->filter->mode == FILTER_EXCLUDE ? "EX" : "IN");
	for (uint32_t i = 0; i < adopted->filter->n_sources; i++)
		p += snprintf(p, (size_t)(end - p), " %s",
			      addr_format(&adopted->filter->sources[i], buf));
}

static bool was_adopted(const char *text)
{
	for (size_t i = 0; i < n_adopted; i++) {
		if (strcmp(adopted_text[i], text) == 0)
			return true;
	}
	return false;
}

Test(fib, adoption_gives_the_filters_back_and_writes_nothing)
{
	struct fib *fib = make(), *next;

	local(fib, 5, FILTER_EXCLUDE, 1, (const char *[]){ S2 });
	remote(fib, "203.0.113.2", FILTER_INCLUDE, 2, (const char *[]){ S1, S2 });
	remote(fib, "203.0.113.3", FILTER_EXCLUDE, 0, NULL);
	fib_flush(fib);
	cr_assert_eq(fib_new(&ops, NULL, &next), 0);
	adopt_all(next);
	n_adopted = 0;
	cr_assert_eq(fib_adopt_done(next, on_adopted, NULL), 0);
	cr_assert_eq(n_adopted, 3);
	cr_assert(was_adopted("port EX " S2));
	cr_assert(was_adopted("203.0.113.2 IN " S1 " " S2));
	cr_assert(was_adopted("203.0.113.3 EX"));
	writes = 0;
	cr_assert_eq(fib_flush(next), 0);
	cr_assert_eq(writes, 0, "nothing flickers at a restart");
	fib_port_forget(next, 5);
	fib_flush(next);
	cr_assert_str_eq(entry(NULL), "|203.0.113.3");
	fib_free(fib);
	fib_free(next);
}

Test(fib, has_compares_sets_not_orders)
{
	struct fib *fib = make();
	struct datapath_route route = {
		.segment = 1,
		.group = a(GROUP),
		.ports = (const uint32_t[]){ 6, 5 },
		.n_ports = 2,
	};

	local(fib, 5, FILTER_EXCLUDE, 0, NULL);
	local(fib, 6, FILTER_EXCLUDE, 0, NULL);
	fib_flush(fib);
	cr_assert(fib_has(fib, &route));
	route.n_ports = 1;
	cr_assert(!fib_has(fib, &route));
	fib_free(fib);
}
