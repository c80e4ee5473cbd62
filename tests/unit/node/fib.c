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
	size_t n_ports, n_router_ports;
	struct addr remotes[16];
	size_t n_remotes, n_router_remotes;
};

static struct kernel_entry kernel[KERNEL_MAX], router_lists[4];
static size_t n_kernel, writes;
static bool refuse;
static struct filter member;
static struct addr member_group;
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
	if (route->kind == DATAPATH_ROUTE_ROUTERS)
		e = &router_lists[route->segment];
	if (!e)
		e = &kernel[n_kernel++];
	e->group = route->group;
	e->source = route->source;
	e->n_ports = route->n_ports;
	e->n_remotes = route->n_remotes;
	e->n_router_ports = route->n_router_ports;
	e->n_router_remotes = route->n_router_remotes;
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
	member_group = *group;
	filter_deinit(&member);
	filter_copy(&member, filter);
}

static struct addr wanted;
static size_t wanted_calls;

static void on_wanted(uint32_t segment, const struct addr *group, void *userdata)
{
	wanted = *group;
	wanted_calls++;
}

static const struct fib_ops ops = {
	.route_set = route_set,
	.route_del = route_del,
	.member = on_member,
	.wanted = on_wanted,
};

static struct fib *make(void)
{
	struct fib *fib;

	memset(router_lists, 0, sizeof(router_lists));
	n_kernel = writes = member_calls = wanted_calls = 0;
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

static const char *receivers(const struct kernel_entry *e)
{
	static char text[256];
	char buf[ADDR_TEXT_MAX];
	size_t len = 0;

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

/* "5,6|203.0.113.2" of the entry of this source, "-" where there is none. */
static const char *entry(const char *source)
{
	struct addr group = a(GROUP), s = source ? a(source) : ADDR_NULL;
	struct kernel_entry *e = find(&group, &s);

	return e ? receivers(e) : "-";
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

static void everything(struct fib *fib, const char *vtep, bool on)
{
	const struct filter f = { .mode = on ? FILTER_EXCLUDE : FILTER_INCLUDE };
	struct addr to = a(vtep);

	cr_assert_eq(fib_remote_set(fib, 1, &ADDR_NULL, &to, &f), 0);
}

Test(fib, node_that_wants_everything_is_in_each_entry_once)
{
	struct fib *fib = make();

	remote(fib, "203.0.113.2", FILTER_EXCLUDE, 1, (const char *[]){ S1 });
	everything(fib, "203.0.113.2", true);
	everything(fib, "203.0.113.1", true);
	local(fib, 5, FILTER_INCLUDE, 1, (const char *[]){ S2 });
	fib_flush(fib);
	cr_assert_str_eq(entry(NULL), "|203.0.113.2,203.0.113.1", "the member, then the other");
	cr_assert_str_eq(entry(S1), "|203.0.113.1,203.0.113.2", "both against the filter");
	cr_assert_str_eq(entry(S2), "5|203.0.113.2,203.0.113.1");
	cr_assert_str_eq(receivers(&router_lists[1]), "|203.0.113.1,203.0.113.2");
	everything(fib, "203.0.113.2", false);
	everything(fib, "203.0.113.1", false);
	fib_flush(fib);
	cr_assert_str_eq(entry(S1), "|");
	cr_assert_str_eq(entry(NULL), "|203.0.113.2");
	cr_assert_str_eq(receivers(&router_lists[1]), "|");
	fib_free(fib);
}

Test(fib, router_port_asks_for_everything_unless_it_is_to_stay_within)
{
	struct fib *fib = make();

	cr_assert_eq(fib_router_set(fib, 1, 6, true), 0);
	fib_flush(fib);
	cr_assert_eq(member_calls, 1);
	cr_assert(addr_is_null(&member_group) && filter_wants_any(&member));
	cr_assert_str_eq(receivers(&router_lists[1]), "6|");
	cr_assert_eq(fib_router_set(fib, 1, 7, true), 0);
	fib_flush(fib);
	cr_assert_eq(member_calls, 1, "once for all");
	cr_assert_eq(fib_routers_across(fib, 1, false), 0);
	fib_flush(fib);
	cr_assert_eq(member_calls, 2);
	cr_assert(filter_is_none(&member));
	cr_assert_str_eq(receivers(&router_lists[1]), "6,7|", "its own ports as before");
	cr_assert_eq(fib_routers_across(fib, 1, true), 0);
	fib_flush(fib);
	cr_assert(filter_wants_any(&member));
	fib_port_forget(fib, 6);
	fib_port_forget(fib, 7);
	fib_flush(fib);
	cr_assert_eq(member_calls, 4);
	cr_assert(filter_is_none(&member));
	fib_free(fib);
}

Test(fib, what_the_others_want_is_the_union_without_the_router_s_own)
{
	struct addr group = a(GROUP), s1 = a(S1), s2 = a(S2);
	struct fib *fib = make();
	struct filter f;

	local(fib, 5, FILTER_EXCLUDE, 0, NULL);
	fib_flush(fib);
	cr_assert_eq(wanted_calls, 0, "nobody asks");
	cr_assert_eq(fib_router_set(fib, 1, 6, true), 0);
	local(fib, 5, FILTER_INCLUDE, 1, (const char *[]){ S1 });
	local(fib, 6, FILTER_EXCLUDE, 0, NULL);
	remote(fib, "203.0.113.2", FILTER_INCLUDE, 1, (const char *[]){ S2 });
	everything(fib, "203.0.113.3", true);
	fib_flush(fib);
	cr_assert_eq(wanted_calls, 1);
	cr_assert(addr_equal(&wanted, &group));
	cr_assert_eq(fib_wanted(fib, 1, &group, 6, &f), 0);
	cr_assert(f.mode == FILTER_INCLUDE && f.n_sources == 2);
	cr_assert(filter_wants(&f, &s1) && filter_wants(&f, &s2));
	filter_deinit(&f);
	cr_assert_eq(fib_wanted(fib, 1, &group, 5, &f), 0);
	cr_assert(filter_wants_any(&f), "what hosts beside the router want, other routers hear");
	filter_deinit(&f);
	local(fib, 5, FILTER_INCLUDE, 0, NULL);
	local(fib, 6, FILTER_INCLUDE, 0, NULL);
	remote(fib, "203.0.113.2", FILTER_INCLUDE, 0, NULL);
	fib_flush(fib);
	cr_assert_eq(wanted_calls, 2, "also of its end");
	cr_assert_eq(fib_wanted(fib, 1, &group, 6, &f), 0);
	cr_assert(filter_is_none(&f));
	fib_free(fib);
}

Test(fib, router_port_gets_what_anybody_gets_and_is_no_member)
{
	struct fib *fib = make();

	cr_assert_eq(fib_router_set(fib, 1, 6, true), 0);
	cr_assert_eq(fib_router_set(fib, 2, 7, true), 0);
	cr_assert_eq(fib_routers_across(fib, 1, false), 0);
	cr_assert_eq(fib_routers_across(fib, 2, false), 0);
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
	cr_assert_str_eq(entry(S1), "8,6|203.0.113.2", "the router last");
	cr_assert_str_eq(entry(S2), "5,6,8|");
	cr_assert_str_eq(entry(NULL), "5,8,6|");
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
			.n_router_ports = kernel[i].n_router_ports,
			.n_router_remotes = kernel[i].n_router_remotes,
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

static void on_adopted_take_out(const struct fib_adopted *adopted, void *userdata)
{
	n_adopted++;
	if (!adopted->port)
		fib_remote_set(userdata, adopted->segment, adopted->group, adopted->vtep,
			       &FILTER_NULL);
}

Test(fib, adoption_tells_of_all_while_some_are_taken_out)
{
	struct fib *fib = make(), *next;

	local(fib, 5, FILTER_EXCLUDE, 0, NULL);
	remote(fib, "203.0.113.2", FILTER_EXCLUDE, 0, NULL);
	remote(fib, "203.0.113.3", FILTER_EXCLUDE, 0, NULL);
	remote(fib, "203.0.113.4", FILTER_EXCLUDE, 0, NULL);
	fib_flush(fib);
	cr_assert_eq(fib_new(&ops, NULL, &next), 0);
	adopt_all(next);
	n_adopted = 0;
	cr_assert_eq(fib_adopt_done(next, on_adopted_take_out, next), 0);
	cr_assert_eq(n_adopted, 4);
	fib_flush(next);
	cr_assert_str_eq(entry(NULL), "5|");
	fib_free(fib);
	fib_free(next);
}

Test(fib, adoption_tells_routers_from_members)
{
	struct fib *fib = make(), *next;
	struct datapath_route list;

	local(fib, 5, FILTER_EXCLUDE, 1, (const char *[]){ S2 });
	local(fib, 6, FILTER_INCLUDE, 1, (const char *[]){ S1 });
	remote(fib, "203.0.113.2", FILTER_INCLUDE, 1, (const char *[]){ S2 });
	cr_assert_eq(fib_router_set(fib, 1, 6, true), 0);
	cr_assert_eq(fib_router_set(fib, 1, 7, true), 0);
	everything(fib, "203.0.113.2", true);
	everything(fib, "203.0.113.3", true);
	fib_flush(fib);
	cr_assert_eq(fib_new(&ops, NULL, &next), 0);
	adopt_all(next);
	list = (struct datapath_route){
		.kind = DATAPATH_ROUTE_ROUTERS,
		.segment = 1,
		.ports = router_lists[1].ports,
		.n_ports = router_lists[1].n_ports,
		.n_router_ports = router_lists[1].n_router_ports,
		.remotes = router_lists[1].remotes,
		.n_remotes = router_lists[1].n_remotes,
		.n_router_remotes = router_lists[1].n_router_remotes,
	};
	cr_assert_eq(fib_adopt(next, &list), 0);
	n_adopted = 0;
	cr_assert_eq(fib_adopt_done(next, on_adopted, NULL), 0);
	cr_assert_eq(n_adopted, 5);
	cr_assert(was_adopted("port EX " S2));
	cr_assert(was_adopted("port IN " S1), "what the router port had joined");
	cr_assert(was_adopted("203.0.113.2 IN " S2));
	cr_assert(was_adopted("203.0.113.2 EX"));
	cr_assert(was_adopted("203.0.113.3 EX"));
	cr_assert_eq(fib_router_set(next, 1, 6, true), 0);
	cr_assert_eq(fib_router_set(next, 1, 7, true), 0);
	everything(next, "203.0.113.2", true);
	everything(next, "203.0.113.3", true);
	writes = 0;
	cr_assert_eq(fib_flush(next), 0);
	cr_assert_eq(writes, 0, "nothing flickers at a restart");
	cr_assert(fib_has(next, &list));
	list.n_ports--;
	list.n_router_ports--;
	cr_assert(!fib_has(next, &list), "damage is seen");
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
