/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: fans
 *
 * A fan makes the copies of one list by the kernel's own mirroring: a device of
 * ours whose clsact ingress has act_mirred, one action a port, each to the
 * port's ingress, where our program is first and takes the copy as one for its
 * workload (bpf/fan.h). That is faster than bpf_clone_redirect() from about
 * eight ports on, and a burst does not overflow the CPU's backlog.
 *
 * An accelerator, never the truth. Lists work without; one gets a fan when it
 * has rested for a while and packets come, and a change of the list is a new
 * list without one. So a fan is like a chunk of a list: filled while nobody
 * uses it, published by one store, constant from then on, and taken apart and
 * used again only after a grace period. No filter is changed while packets pass.
 *
 * The devices are halves of veth pairs that lead nowhere, named mcmfanN. Their
 * ifindexes are in the map `fans`, so that who comes next finds them: it uses
 * none of them and removes them after the grace period.
 *
 * A port that leaves keeps its program for that time, too: what is on its way
 * from a fan would otherwise enter the host as if the workload had sent it.
 */
#include "node/datapath/internal.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <libmnl/libmnl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>
#include <linux/veth.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "mcmesh.skel.h"

#define FAN_ACTIONS   32 /* of a filter, at most (TCA_ACT_MAX_PRIO) */
#define FAN_MTU	      65535
#define FAN_PERIOD_MS 500
#define FAN_BUILDS    4 /* a period: other work waits so long */
#define FAN_COLDER    4 /* so many times slower is the list that loses its fan */
#define FAN_NAMES     4096
#define MESSAGE_BYTES 8192

/* ---- netlink ---------------------------------------------------------------- */

struct message {
	alignas(struct nlmsghdr) char buf[MESSAGE_BYTES];
};

static struct nlmsghdr *message_begin(struct message *m, uint16_t type, uint16_t flags, size_t size,
				      void **ret_body)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(m->buf);

	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	*ret_body = mnl_nlmsg_put_extra_header(nlh, size);
	return nlh;
}

/* The kernel works and answers within the call. */
static int message_send(struct datapath *dp, struct message *m)
{
	const struct nlmsghdr *nlh = (const void *)m->buf;
	ssize_t n;

	if (mnl_socket_sendto(dp->fan_socket, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	n = mnl_socket_recvfrom(dp->fan_socket, m->buf, sizeof(m->buf));
	if (n < 0 || mnl_cb_run(m->buf, (size_t)n, 0, 0, NULL, NULL) < 0)
		return -errno;
	return 0;
}

static struct nlmsghdr *link_message(struct message *m, uint16_t type, uint16_t flags,
				     uint32_t ifindex, struct ifinfomsg **ret_ifi)
{
	void *body;
	struct nlmsghdr *nlh = message_begin(m, type, flags, sizeof(struct ifinfomsg), &body);

	*ret_ifi = body;
	(*ret_ifi)->ifi_index = (int)ifindex;
	return nlh;
}

static int pair_make(struct datapath *dp, const char *name, const char *peer_name)
{
	struct nlattr *info, *data, *peer;
	struct ifinfomsg *ifi;
	struct nlmsghdr *nlh;
	struct message m;

	nlh = link_message(&m, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, &ifi);
	mnl_attr_put_strz(nlh, IFLA_IFNAME, name);
	mnl_attr_put_u32(nlh, IFLA_MTU, FAN_MTU);
	info = mnl_attr_nest_start(nlh, IFLA_LINKINFO);
	mnl_attr_put_strz(nlh, IFLA_INFO_KIND, "veth");
	data = mnl_attr_nest_start(nlh, IFLA_INFO_DATA);
	peer = mnl_attr_nest_start(nlh, VETH_INFO_PEER);
	memset(mnl_nlmsg_get_payload_tail(nlh), 0, sizeof(*ifi));
	nlh->nlmsg_len += MNL_ALIGN(sizeof(*ifi));
	mnl_attr_put_strz(nlh, IFLA_IFNAME, peer_name);
	mnl_attr_put_u32(nlh, IFLA_MTU, FAN_MTU);
	mnl_attr_nest_end(nlh, peer);
	mnl_attr_nest_end(nlh, data);
	mnl_attr_nest_end(nlh, info);
	return message_send(dp, &m);
}

/* Up, without an IPv6 address of its own, and with a hook. */
static int half_set_up(struct datapath *dp, uint32_t ifindex)
{
	struct nlattr *spec, *inet6;
	struct ifinfomsg *ifi;
	struct nlmsghdr *nlh;
	struct tcmsg *tcm;
	struct message m;
	void *body;
	int rc;

	nlh = link_message(&m, RTM_SETLINK, 0, ifindex, &ifi);
	spec = mnl_attr_nest_start(nlh, IFLA_AF_SPEC);
	inet6 = mnl_attr_nest_start(nlh, AF_INET6);
	mnl_attr_put_u8(nlh, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
	mnl_attr_nest_end(nlh, inet6);
	mnl_attr_nest_end(nlh, spec);
	(void)message_send(dp, &m); /* a kernel without IPv6 does not know it */

	link_message(&m, RTM_SETLINK, 0, ifindex, &ifi);
	ifi->ifi_flags = IFF_UP;
	ifi->ifi_change = IFF_UP;
	rc = message_send(dp, &m);
	if (rc < 0)
		return rc;
	nlh = message_begin(&m, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, sizeof(*tcm), &body);
	tcm = body;
	tcm->tcm_ifindex = (int)ifindex;
	tcm->tcm_parent = TC_H_CLSACT;
	tcm->tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0);
	mnl_attr_put_strz(nlh, TCA_KIND, "clsact");
	return message_send(dp, &m);
}

/* what: TC_ACT_PIPE, on to the next action; TC_ACT_UNSPEC, to the next filter;
 * TC_ACT_STOLEN: the last one, which takes the packet itself. */
static void put_mirred(struct nlmsghdr *nlh, uint16_t order, uint32_t to, int what)
{
	struct tc_mirred parms = {
		.action = what,
		.eaction = what == TC_ACT_STOLEN ? TCA_INGRESS_REDIR : TCA_INGRESS_MIRROR,
		.ifindex = to,
	};
	struct nlattr *action = mnl_attr_nest_start(nlh, order), *options;

	mnl_attr_put_strz(nlh, TCA_ACT_KIND, "mirred");
	options = mnl_attr_nest_start(nlh, TCA_ACT_OPTIONS);
	mnl_attr_put(nlh, TCA_MIRRED_PARMS, sizeof(parms), &parms);
	mnl_attr_nest_end(nlh, options);
	mnl_attr_nest_end(nlh, action);
}

/* The filter of that priority: every packet, to these, which are the last or not. */
static int filter_add(struct datapath *dp, uint32_t fan, uint32_t priority, const uint32_t *to,
		      size_t n, bool last)
{
	struct {
		struct tc_u32_sel sel;
		struct tc_u32_key key;
	} match = { .sel = { .flags = TC_U32_TERMINAL, .nkeys = 1 } };
	struct nlattr *options, *actions;
	struct nlmsghdr *nlh;
	struct tcmsg *tcm;
	struct message m;
	void *body;

	nlh = message_begin(&m, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, sizeof(*tcm), &body);
	tcm = body;
	tcm->tcm_ifindex = (int)fan;
	tcm->tcm_parent = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS);
	tcm->tcm_info = TC_H_MAKE(priority << 16, htons(ETH_P_ALL));
	mnl_attr_put_strz(nlh, TCA_KIND, "u32");
	options = mnl_attr_nest_start(nlh, TCA_OPTIONS);
	mnl_attr_put(nlh, TCA_U32_SEL, sizeof(match), &match);
	actions = mnl_attr_nest_start(nlh, TCA_U32_ACT);
	for (size_t i = 0; i < n; i++)
		put_mirred(nlh, (uint16_t)(i + 1), to[i],
			   i + 1 < n ? TC_ACT_PIPE
			   : last    ? TC_ACT_STOLEN
				     : TC_ACT_UNSPEC);
	mnl_attr_nest_end(nlh, actions);
	mnl_attr_nest_end(nlh, options);
	return message_send(dp, &m);
}

static int filters_clear(struct datapath *dp, uint32_t fan)
{
	struct tcmsg *tcm;
	struct message m;
	void *body;

	message_begin(&m, RTM_DELTFILTER, 0, sizeof(*tcm), &body);
	tcm = body;
	tcm->tcm_ifindex = (int)fan;
	tcm->tcm_parent = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS);
	return message_send(dp, &m);
}

/* Only what has our name: an ifindex may be another device's by now. */
static void link_delete(struct datapath *dp, uint32_t ifindex)
{
	char name[IF_NAMESIZE] = "";
	struct ifinfomsg *ifi;
	struct message m;

	if (!if_indextoname(ifindex, name) ||
	    strncmp(name, DATAPATH_FAN_NAME, strlen(DATAPATH_FAN_NAME)) != 0)
		return;
	link_message(&m, RTM_DELLINK, 0, ifindex, &ifi);
	(void)message_send(dp, &m);
}

/* ---- devices ---------------------------------------------------------------- */

static void fan_record(struct datapath *dp, uint32_t slot, uint32_t ifindex)
{
	(void)datapath_map_set(dp->skel->maps.fans, &slot, &ifindex);
}

/* The two halves of a pair are two fans. */
static int fans_make(struct datapath *dp)
{
	char names[2][IF_NAMESIZE];
	int rc = -EEXIST;

	if (dp->n_fans + 2 > dp->max_fans)
		return -ENOSPC;
	for (uint32_t n = dp->n_fans; rc == -EEXIST && n < FAN_NAMES; n += 2) {
		snprintf(names[0], sizeof(names[0]), DATAPATH_FAN_NAME "%" PRIu32, n);
		snprintf(names[1], sizeof(names[1]), DATAPATH_FAN_NAME "%" PRIu32, n + 1);
		rc = pair_make(dp, names[0], names[1]);
	}
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(names); i++) {
		struct fan *fan = &dp->fans[dp->n_fans];

		*fan = (struct fan){ .ifindex = if_nametoindex(names[i]) };
		fan_record(dp, dp->n_fans, fan->ifindex);
		dp->n_fans++;
		rc = half_set_up(dp, fan->ifindex);
	}
	return rc;
}

static struct fan *fan_free_one(struct datapath *dp)
{
	for (uint32_t i = 0; i < dp->n_fans; i++) {
		if (dp->fans[i].state == FAN_FREE)
			return &dp->fans[i];
	}
	return NULL;
}

/* Fails for a list with a port that is down: act_mirred would drop its copies,
 * and nobody count them. */
static int fan_ports(const struct datapath *dp, struct fan *fan, const struct route *r)
{
	size_t max = 0;

	if (!datapath_list_is_sound(dp, &r->key, &r->value))
		return -EBADMSG;
	for (uint32_t c = r->value.first; c; c = dp->lists[c].next)
		max += dp->lists[c].n_ports;
	fan->ports = calloc(max ? max : 1, sizeof(*fan->ports));
	if (!fan->ports)
		return -ENOMEM;
	for (uint32_t c = r->value.first; c; c = dp->lists[c].next) {
		const struct dp_list *chunk = &dp->lists[c];

		for (uint32_t i = 0; i < chunk->n_ports; i++) {
			const struct dp_port *port = &dp->ports[chunk->entry[i]];

			if (port->ifindex && !port->mtu)
				return -ENETDOWN;
			if (port->ifindex)
				fan->ports[fan->n_ports++] = port->ifindex;
		}
	}
	return fan->n_ports ? 0 : -ENOENT;
}

static void fan_empty(struct fan *fan)
{
	free(fan->ports);
	fan->ports = NULL;
	fan->n_ports = 0;
}

static int fan_fill(struct datapath *dp, struct fan *fan, const struct route *r)
{
	uint32_t priority = 0;
	int rc = fan_ports(dp, fan, r);

	for (size_t begin = 0; rc == 0 && begin < fan->n_ports; begin += FAN_ACTIONS) {
		size_t left = fan->n_ports - begin;

		rc = filter_add(dp, fan->ifindex, ++priority, fan->ports + begin,
				left < FAN_ACTIONS ? left : FAN_ACTIONS, left <= FAN_ACTIONS);
	}
	return rc;
}

/* ---- choice ----------------------------------------------------------------- */

static void fan_retire(struct datapath *dp, struct fan *fan)
{
	__atomic_store_n(&dp->lists[fan->route->value.first].fan, 0, __ATOMIC_RELEASE);
	fan->route->fan = NULL;
	fan->route = NULL;
	fan->state = FAN_RETIRED;
	fan->due_ms = datapath_now_ms() + NUMBERS_GRACE_MS;
}

void datapath_fan_leave(struct datapath *dp, struct route *r)
{
	if (r->fan)
		fan_retire(dp, r->fan);
	r->rested_ms = datapath_now_ms() + dp->fan_settle_ms;
}

void datapath_fan_consider(struct datapath *dp, struct route *r)
{
	bool big = r->key.kind == DP_ROUTE_GROUP &&
		   dp->lists[r->value.first].n_ports >= dp->fan_min_ports;

	if (big && !r->big)
		DL_APPEND(dp->big_routes, r);
	else if (!big && r->big)
		DL_DELETE(dp->big_routes, r);
	r->big = big;
}

static bool has_port(const struct fan *fan, uint32_t ifindex)
{
	for (size_t i = 0; i < fan->n_ports; i++) {
		if (fan->ports[i] == ifindex)
			return true;
	}
	return false;
}

bool datapath_fan_has_port(const struct datapath *dp, uint32_t ifindex)
{
	for (uint32_t i = 0; i < dp->n_fans; i++) {
		if (has_port(&dp->fans[i], ifindex))
			return true;
	}
	return false;
}

void datapath_fans_without(struct datapath *dp, uint32_t ifindex)
{
	for (uint32_t i = 0; i < dp->n_fans; i++) {
		struct fan *fan = &dp->fans[i];

		if (fan->state == FAN_USED && has_port(fan, ifindex))
			datapath_fan_leave(dp, fan->route);
	}
}

/* A free one; else one that the coldest list gives up, in time. */
static struct fan *fan_take(struct datapath *dp, uint32_t rate)
{
	struct fan *fan = fan_free_one(dp), *coldest = NULL;

	if (fan || !dp->max_fans)
		return dp->max_fans ? fan : NULL;
	if (dp->n_fans < dp->max_fans) {
		if (fans_make(dp) < 0)
			dp->max_fans = dp->n_fans; /* this kernel, or we, cannot */
		return fan_free_one(dp);
	}
	for (uint32_t i = 0; i < dp->n_fans; i++) {
		fan = &dp->fans[i];
		if (fan->state == FAN_USED && (!coldest || fan->route->rate < coldest->route->rate))
			coldest = fan;
	}
	if (coldest && coldest->route->rate < rate / FAN_COLDER)
		fan_retire(dp, coldest);
	return NULL;
}

static bool fan_give(struct datapath *dp, struct route *r)
{
	struct fan *fan = fan_take(dp, r->rate);
	int rc;

	if (!fan)
		return false;
	rc = fan_fill(dp, fan, r);
	if (rc < 0) {
		/* A port may have gone this moment; what cannot be cleared is left. */
		fan->state = filters_clear(dp, fan->ifindex) < 0 ? FAN_BROKEN : FAN_FREE;
		fan_empty(fan);
		r->rested_ms = datapath_now_ms() + dp->fan_settle_ms;
		if (!dp->fans_proved && rc != -ENETDOWN && rc != -ENOENT)
			dp->max_fans = 0; /* no u32 or mirred here: without */
		return false;
	}
	dp->fans_proved = true;
	fan->state = FAN_USED;
	fan->route = r;
	r->fan = fan;
	__atomic_store_n(&dp->lists[r->value.first].fan, fan->ifindex, __ATOMIC_RELEASE);
	return true;
}

static void fans_reclaim(struct datapath *dp, uint64_t now_ms)
{
	for (uint32_t i = 0; i < dp->n_fans; i++) {
		struct fan *fan = &dp->fans[i];

		if (fan->state != FAN_RETIRED || fan->due_ms > now_ms)
			continue;
		fan->state = filters_clear(dp, fan->ifindex) < 0 ? FAN_BROKEN : FAN_FREE;
		fan_empty(fan);
	}
	/* Those that an earlier agent left, once nothing is on its way to them. */
	if (!dp->fans_left_ms || now_ms < dp->fans_left_ms)
		return;
	dp->fans_left_ms = 0;
	for (size_t i = 0; i < dp->n_fans_left; i++)
		link_delete(dp, dp->fans_left[i]);
	dp->n_fans_left = 0;
}

void datapath_fans_tick(struct datapath *dp, uint64_t now_ms)
{
	unsigned int builds = 0;
	struct route *r;

	if (!dp->fan_socket || now_ms < dp->fans_due_ms)
		return;
	dp->fans_due_ms = now_ms + FAN_PERIOD_MS;
	fans_reclaim(dp, now_ms);
	DL_FOREACH (dp->big_routes, r) {
		uint32_t hits = __atomic_load_n(&dp->lists[r->value.first].hits, __ATOMIC_RELAXED);

		r->rate = (hits - r->hits_seen) * (1000 / FAN_PERIOD_MS);
		r->hits_seen = hits;
		/* Somebody else's hands, or memory that failed. */
		__atomic_store_n(&dp->lists[r->value.first].fan, r->fan ? r->fan->ifindex : 0,
				 __ATOMIC_RELEASE);
		if (!r->fan && now_ms >= r->rested_ms && r->rate >= dp->fan_min_rate &&
		    builds < FAN_BUILDS)
			builds += fan_give(dp, r);
	}
}

uint64_t datapath_fans_next_ms(const struct datapath *dp)
{
	if (!dp->fan_socket || (!dp->big_routes && !dp->n_fans && !dp->fans_left_ms))
		return UINT64_MAX;
	return dp->fans_due_ms;
}

uint32_t datapath_fans_used(const struct datapath *dp)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < dp->n_fans; i++)
		n += dp->fans[i].state == FAN_USED;
	return n;
}

/* ---- life ------------------------------------------------------------------- */

int datapath_fans_init(struct datapath *dp, const struct datapath_options *options)
{
	uint32_t max = bpf_map__max_entries(dp->skel->maps.fans);

	dp->max_fans = options->no_fans ? 0 : max;
	dp->fan_min_ports =
		options->fan_min_ports ? options->fan_min_ports : DATAPATH_FAN_MIN_PORTS;
	if (dp->fan_min_ports < DP_FAN_PORTS || dp->fan_min_ports > DP_LIST_ENTRIES)
		return -EINVAL;
	dp->fan_min_rate = options->fan_min_rate ? options->fan_min_rate : DATAPATH_FAN_MIN_RATE;
	dp->fan_settle_ms =
		options->fan_settle_ms ? options->fan_settle_ms : DATAPATH_FAN_SETTLE_MS;
	dp->fans = calloc(max, sizeof(*dp->fans));
	dp->fans_left = calloc(max, sizeof(*dp->fans_left));
	if (!dp->fans || !dp->fans_left)
		return -ENOMEM;
	for (uint32_t i = 0, ifindex, zero = 0; i < max; i++) {
		if (datapath_map_get(dp->skel->maps.fans, &i, &ifindex) < 0 || !ifindex)
			continue;
		dp->fans_left[dp->n_fans_left++] = ifindex;
		dp->fans_left_ms = datapath_now_ms() + NUMBERS_GRACE_MS;
		(void)datapath_map_set(dp->skel->maps.fans, &i, &zero);
	}
	dp->fan_socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	if (!dp->fan_socket)
		return -errno;
	return mnl_socket_bind(dp->fan_socket, 0, MNL_SOCKET_AUTOPID) < 0 ? -errno : 0;
}

void datapath_fans_deinit(struct datapath *dp)
{
	if (dp->fan_socket)
		mnl_socket_close(dp->fan_socket);
	for (uint32_t i = 0; i < dp->n_fans; i++)
		fan_empty(&dp->fans[i]);
	free(dp->fans);
	free(dp->fans_left);
}

void datapath_fans_destroy(int map_fd)
{
	struct datapath dp = { .fan_socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC) };
	uint32_t ifindex;

	for (uint32_t i = 0; dp.fan_socket && bpf_map_lookup_elem(map_fd, &i, &ifindex) == 0; i++) {
		if (ifindex)
			link_delete(&dp, ifindex);
	}
	if (dp.fan_socket)
		mnl_socket_close(dp.fan_socket);
}
