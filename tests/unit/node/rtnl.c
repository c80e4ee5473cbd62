/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Against the kernel, each test in a network namespace of its own that goes
 * with the test's process. Events are waited for by poll(2) on the library's
 * descriptor, with a deadline, never by time. Needs root: else skipped.
 */
#include "node/rtnl/rtnl.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"

#define DEADLINE_MS 10000
#define LINKS_MAX   4096

struct seen {
	unsigned news, gones;
	struct rtnl_link last;
	unsigned gone_of[LINKS_MAX]; /* by ifindex */
	unsigned news_of[LINKS_MAX];
};

static struct seen seen;
static struct rtnl *rtnl;

static void on_link(const struct rtnl_link *link, void *userdata)
{
	struct seen *s = userdata;

	s->news++;
	s->news_of[link->ifindex % LINKS_MAX]++;
	s->last = *link;
}

static void on_link_gone(uint32_t ifindex, void *userdata)
{
	struct seen *s = userdata;

	s->gones++;
	s->gone_of[ifindex % LINKS_MAX]++;
}

static const struct rtnl_ops ops = { .on_link = on_link, .on_link_gone = on_link_gone };

static void __attribute__((format(printf, 1, 2))) ip(const char *format, ...)
{
	char command[512] = "ip ";
	va_list args;

	va_start(args, format);
	vsnprintf(command + 3, sizeof(command) - 3, format, args);
	va_end(args);
	cr_assert_eq(system(command), 0, "%s", command);
}

static void setup(void)
{
	if (geteuid() != 0)
		cr_skip_test("needs root for a network namespace");
	cr_assert_eq(unshare(CLONE_NEWNET), 0);
	cr_assert_eq(rtnl_new(&ops, &seen, &rtnl), 0);
	cr_assert_eq(rtnl_dump(rtnl), 0);
}

static void teardown(void)
{
	rtnl_free(rtnl);
}

TestSuite(rtnl, .init = setup, .fini = teardown);

/* Dispatches until the condition holds or nothing comes for DEADLINE_MS. */
#define await(condition)                                                                     \
	do {                                                                                 \
		while (!(condition)) {                                                       \
			struct pollfd _p = { .fd = rtnl_fd(rtnl), .events = POLLIN };        \
			cr_assert_eq(poll(&_p, 1, DEADLINE_MS), 1, "never: %s", #condition); \
			cr_assert_eq(rtnl_dispatch(rtnl), 0);                                \
		}                                                                            \
	} while (0)

static uint32_t index_of(const char *name)
{
	return if_nametoindex(name);
}

static const struct rtnl_link *link_of(const char *name)
{
	return rtnl_link_by_index(rtnl, index_of(name));
}

/* A marker that comes after everything before it. */
static void settle(void)
{
	static unsigned n;
	char name[IFNAMSIZ];

	snprintf(name, sizeof(name), "mark%u", n++);
	ip("link add name %s type bridge", name);
	await(link_of(name));
	ip("link del dev %s", name);
	await(strcmp(seen.last.name, name) == 0 && !rtnl_link_by_index(rtnl, seen.last.ifindex));
}

Test(rtnl, loopback_is_there_at_once)
{
	const struct rtnl_link *lo = link_of("lo");

	cr_assert_not_null(lo);
	cr_expect(!lo->ethernet);
	cr_expect(!lo->up);
	cr_expect_eq(seen.news, 1);
	cr_assert_eq(rtnl_dump(rtnl), 0);
	cr_expect_eq(seen.news, 1, "a second dump repeats what is known");
	cr_expect_eq(seen.gones, 0);
}

Test(rtnl, appears_with_its_facts)
{
	const struct rtnl_link *l;

	ip("link add name n1p1 mtu 1400 address 02:00:00:00:00:07 type veth peer name peer");
	await(link_of("n1p1"));
	l = link_of("n1p1");
	cr_expect_str_eq(l->kind, "veth");
	cr_expect_eq(l->mtu, 1400);
	cr_expect_eq(l->mac[5], 7);
	cr_expect_eq(l->master, 0);
	cr_expect(l->ethernet);
	cr_expect(!l->up);
	cr_expect(!l->carrier);
}

Test(rtnl, carrier_follows_the_peer)
{
	ip("link add name a type veth peer name b");
	ip("link set dev a up");
	await(link_of("a") && link_of("a")->up);
	cr_expect(!link_of("a")->carrier);
	ip("link set dev b up");
	await(link_of("a")->carrier);
	ip("link set dev b down");
	await(!link_of("a")->carrier);
	cr_expect(link_of("a")->up);
}

Test(rtnl, rename_is_a_change_of_the_same_link)
{
	uint32_t ifindex;

	ip("link add name a type bridge");
	await(link_of("a"));
	ifindex = index_of("a");
	ip("link set dev a name z");
	await(strcmp(rtnl_link_by_index(rtnl, ifindex)->name, "z") == 0);
	cr_expect_eq(seen.last.ifindex, ifindex);
	cr_expect_eq(seen.gones, 0);
}

Test(rtnl, gone_once_also_after_a_dump)
{
	uint32_t a, b;

	ip("link add name a type veth peer name b");
	await(link_of("a") && link_of("b"));
	a = index_of("a");
	b = index_of("b");
	ip("link del dev a");
	/* The dump sees the links missing before the events are read. */
	cr_assert_eq(rtnl_dump(rtnl), 0);
	settle();
	cr_expect_eq(seen.gone_of[a], 1);
	cr_expect_eq(seen.gone_of[b], 1);
	cr_expect_null(rtnl_link_by_index(rtnl, a));
}

Test(rtnl, leaving_a_bridge_is_not_going)
{
	uint32_t a;

	ip("link add name br type bridge");
	ip("link add name a type veth peer name b");
	await(link_of("a"));
	a = index_of("a");
	ip("link set dev a master br");
	await(link_of("a")->master == index_of("br"));
	ip("link set dev a nomaster");
	settle();
	cr_expect_eq(rtnl_link_by_index(rtnl, a)->master, 0);
	cr_expect_eq(seen.gone_of[a], 0);
}

Test(rtnl, unchanged_is_not_reported)
{
	unsigned before;

	ip("link add name a type bridge");
	settle();
	before = seen.news_of[index_of("a")];
	ip("link set dev a mtu %u", link_of("a")->mtu);
	ip("link set dev a alias something"); /* an event of something that we do not keep */
	settle();
	cr_expect_eq(seen.news_of[index_of("a")], before);
}

Test(rtnl, overrun_is_repaired)
{
	enum { OLD = 50, NEW = 300 };
	uint32_t old[OLD];
	unsigned known = 0;
	int tiny = 1;

	for (unsigned i = 0; i < OLD; i++)
		ip("link add name old%u type bridge", i);
	settle();
	for (unsigned i = 0; i < OLD; i++) {
		char name[IFNAMSIZ];

		snprintf(name, sizeof(name), "old%u", i);
		old[i] = index_of(name);
		cr_assert(rtnl_link_by_index(rtnl, old[i]));
	}
	cr_assert_eq(setsockopt(rtnl_fd(rtnl), SOL_SOCKET, SO_RCVBUF, &tiny, sizeof(tiny)), 0);
	for (unsigned i = 0; i < NEW; i++)
		ip("link add name new%u type bridge", i);
	for (unsigned i = 0; i < OLD; i++)
		ip("link del dev old%u", i);
	ip("link set dev new0 name renamed");
	/* Nothing was read until here: the socket has lost most of it. */
	cr_assert_eq(rtnl_dispatch(rtnl), 0);
	for (unsigned i = 1; i < NEW; i++) {
		char name[IFNAMSIZ];

		snprintf(name, sizeof(name), "new%u", i);
		known += link_of(name) != NULL;
	}
	cr_expect_eq(known, NEW - 1);
	cr_expect_not_null(link_of("renamed"));
	for (unsigned i = 0; i < OLD; i++)
		cr_expect_eq(seen.gone_of[old[i]], 1, "old%u gone %u times", i,
			     seen.gone_of[old[i]]);
	settle();
}

Test(rtnl, has_address)
{
	static const char *const there[] = { "192.0.2.1", "198.51.100.1", "2001:db8::1" };
	static const char *const not_there[] = { "192.0.2.2", "198.51.100.2", "2001:db8::2",
						 "0.0.0.0" };
	struct addr a;

	ip("link add name a type bridge");
	ip("address add 192.0.2.1/24 dev a");
	ip("address add 198.51.100.1 peer 198.51.100.2 dev a");
	ip("-6 address add 2001:db8::1/64 dev a nodad");
	for (size_t i = 0; i < ARRAY_SIZE(there); i++) {
		cr_assert_eq(addr_parse(there[i], &a), 0);
		cr_expect(rtnl_has_address(rtnl, &a), "%s", there[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(not_there); i++) {
		cr_assert_eq(addr_parse(not_there[i], &a), 0);
		cr_expect(!rtnl_has_address(rtnl, &a), "%s", not_there[i]);
	}
}

/* ---- the overlay device ----------------------------------------------------- */

static const struct rtnl_vxlan_options overlay = { .name = "mcmesh0", .udp_port = 4797 };

Test(rtnl, vxlan_is_made_once_and_adopted)
{
	char why[RTNL_WHY_MAX] = "";
	uint32_t first = 0, second = 0;

	cr_assert_eq(rtnl_vxlan_ensure(rtnl, &overlay, &first, why), 0, "%s", why);
	cr_expect_eq(first, index_of("mcmesh0"));
	cr_assert_eq(rtnl_vxlan_ensure(rtnl, &overlay, &second, why), 0, "%s", why);
	cr_expect_eq(first, second);
	await(link_of("mcmesh0") && link_of("mcmesh0")->up);
	cr_expect_str_eq(link_of("mcmesh0")->kind, "vxlan");
	cr_expect_eq(link_of("mcmesh0")->mtu, 65465);
	cr_expect_eq(system("ip -d link show mcmesh0 | grep -q 'external.*dstport 4797.*nolearning"
			    ".*udp6zerocsumtx udp6zerocsumrx'"),
		     0);
	cr_assert_eq(rtnl_link_delete(rtnl, first), 0);
	await(seen.gone_of[first] == 1);
	cr_expect_eq(rtnl_link_delete(rtnl, first), -ENODEV);
}

Test(rtnl, vxlan_that_is_down_is_set_up)
{
	char why[RTNL_WHY_MAX] = "";
	struct rtnl_vxlan_options options = overlay;
	uint32_t ifindex = 0;

	cr_assert_eq(rtnl_vxlan_ensure(rtnl, &overlay, &ifindex, why), 0, "%s", why);
	ip("link set dev mcmesh0 down");
	options.mtu = 1450;
	cr_assert_eq(rtnl_vxlan_ensure(rtnl, &options, &ifindex, why), 0, "%s", why);
	await(link_of("mcmesh0") && link_of("mcmesh0")->up && link_of("mcmesh0")->mtu == 1450);
}

static const struct {
	const char *make;
	int err;
	const char *says;
} foreign[] = {
	{ "mcmesh0 type bridge", -EEXIST, "mcmesh0 exists and is a bridge device: delete it" },
	{ "mcmesh0 type vxlan external dstport 4789 nolearning udp6zerocsumrx", -EEXIST,
	  "mcmesh0 exists with UDP port 4789, not 4797" },
	{ "mcmesh0 type vxlan id 7 dstport 4797 nolearning udp6zerocsumrx", -EEXIST,
	  "mcmesh0 exists and is not a flow-based VXLAN device" },
	{ "mcmesh0 type vxlan external dstport 4797 nolearning", -EEXIST,
	  "mcmesh0 exists and is not a flow-based VXLAN device" },
	{ "other type vxlan external dstport 4797", -EADDRINUSE,
	  "the VXLAN device other has UDP port 4797" },
	{ "other type vxlan id 7 dstport 4797", -EADDRINUSE,
	  "the VXLAN device other has UDP port 4797" },
};

Test(rtnl, foreign_device_is_left_alone)
{
	for (size_t i = 0; i < ARRAY_SIZE(foreign); i++) {
		char why[RTNL_WHY_MAX] = "", name[IFNAMSIZ];
		uint32_t ifindex = 77, before;

		sscanf(foreign[i].make, "%15s", name);
		ip("link add name %s", foreign[i].make);
		before = index_of(name);
		cr_expect_eq(rtnl_vxlan_ensure(rtnl, &overlay, &ifindex, why), foreign[i].err,
			     "case %zu: %s", i, why);
		cr_expect(strncmp(why, foreign[i].says, strlen(foreign[i].says)) == 0,
			  "case %zu: %s", i, why);
		cr_expect_eq(ifindex, 77, "touched on failure");
		cr_expect_eq(index_of(name), before);
		ip("link del dev %s", name);
	}
}

Test(rtnl, port_of_another_socket_leaves_no_device)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in sin = { .sin_family = AF_INET, .sin_port = htons(4797) };
	char why[RTNL_WHY_MAX] = "";
	uint32_t ifindex = 0;

	cr_assert_eq(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	cr_expect_eq(rtnl_vxlan_ensure(rtnl, &overlay, &ifindex, why), -EADDRINUSE, "%s", why);
	cr_expect(strstr(why, "UDP port 4797 is taken by another socket"), "%s", why);
	cr_expect_eq(index_of("mcmesh0"), 0);
}

/* ---- what can be a port ----------------------------------------------------- */

Test(rtnl, refusal_names_the_reason)
{
	static const struct {
		const char *name, *says;
	} cases[] = {
		{ "lo", "loopback" }, { "mv", "macvlan" }, { "vx", "vxlan" }, { "br", "bridge" },
		{ "tun9", "tun" },    { "v1", NULL },	   { "tap9", NULL },
	};

	ip("link add name v1 type veth peer name v2");
	ip("link add link v2 name mv type macvlan");
	ip("link add name vx type vxlan id 3 dstport 4789");
	ip("link add name br type bridge");
	ip("tuntap add tun9 mode tun");
	ip("tuntap add tap9 mode tap");
	settle();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct rtnl_link *l = link_of(cases[i].name);
		const char *refusal;

		cr_assert_not_null(l, "%s", cases[i].name);
		refusal = rtnl_link_refusal(l);
		if (cases[i].says)
			cr_expect(refusal && strstr(refusal, cases[i].says), "%s: %s",
				  cases[i].name, refusal ? refusal : "accepted");
		else
			cr_expect_null(refusal, "%s: %s", cases[i].name, refusal);
	}
	/* Of a kind that not every kernel has. */
	cr_expect_not_null(rtnl_link_refusal(
		&(struct rtnl_link){ .name = "iv", .kind = "ipvlan", .ethernet = true }));
}
