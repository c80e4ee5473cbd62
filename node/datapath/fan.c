/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: the devices that make copies
 *
 * What they do, and why a packet's copies find their way: bpf/fan.h. Here they are
 * made: halves of veth pairs that lead nowhere, named mcmfanN, N being the element
 * of the map `fans`.
 *
 *   mcmfan0, mcmfan1   where copies arrive; our program is at their ingress
 *   mcmfan2 … 65       make N copies: at the ingress a clsact with one act_mirred a
 *                      copy, the last of which takes the packet itself
 *
 * Those of a number are made when the first list of about so many ports is written, a
 * moment later, and stay: nothing of a device changes once its element names it,
 * whatever becomes of lists and ports, and whoever comes next takes them over. Until
 * there is one, and where this kernel or this process cannot make any, lists are
 * served by bpf_clone_redirect(): slower, and a burst may overflow the CPU's backlog.
 *
 * Somebody may delete or shut one down. All are given up then, and made anew.
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
#include <sys/ioctl.h>

#include "common/cleanup.h"
#include "mcmesh.skel.h"

#define FAN_ACTIONS   32 /* of a filter, at most (TCA_ACT_MAX_PRIO) */
#define FAN_MTU	      65535
#define FAN_BUILDS    4	    /* pairs a turn: other work waits so long */
#define FAN_LOOK_MS   10000 /* so often: are they all there? */
#define FAN_RETRY_MS  60000 /* after one could not be made */
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

/* Up, and without an IPv6 address of its own. */
static int half_set_up(struct datapath *dp, uint32_t ifindex)
{
	struct nlattr *spec, *inet6;
	struct ifinfomsg *ifi;
	struct nlmsghdr *nlh;
	struct message m;

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
	return message_send(dp, &m);
}

static int clsact_add(struct datapath *dp, uint32_t ifindex)
{
	struct nlmsghdr *nlh;
	struct tcmsg *tcm;
	struct message m;
	void *body;

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

/* The filter of that priority: every packet, n times, to first and then to rest.
 * Of the last filter the last copy is the packet itself. */
static int filter_add(struct datapath *dp, uint32_t fan, uint32_t priority, uint32_t first,
		      uint32_t rest, uint32_t n, bool last)
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
	for (uint32_t i = 0; i < n; i++)
		put_mirred(nlh, (uint16_t)(i + 1), i ? rest : first,
			   i + 1 < n ? TC_ACT_PIPE
			   : last    ? TC_ACT_STOLEN
				     : TC_ACT_UNSPEC);
	mnl_attr_nest_end(nlh, actions);
	mnl_attr_nest_end(nlh, options);
	return message_send(dp, &m);
}

/* Only what has our name: an ifindex may be another device's by now. */
static bool is_ours(uint32_t ifindex)
{
	char name[IF_NAMESIZE] = "";

	return ifindex && if_indextoname(ifindex, name) &&
	       strncmp(name, DATAPATH_FAN_NAME, strlen(DATAPATH_FAN_NAME)) == 0;
}

static bool is_up(const struct datapath *dp, uint32_t ifindex)
{
	struct ifreq req = { 0 };

	return if_indextoname(ifindex, req.ifr_name) &&
	       ioctl(mnl_socket_get_fd(dp->fan_socket), SIOCGIFFLAGS, &req) == 0 &&
	       req.ifr_flags & IFF_UP;
}

static void link_delete(struct datapath *dp, uint32_t ifindex)
{
	struct ifinfomsg *ifi;
	struct message m;

	if (!is_ours(ifindex))
		return;
	link_message(&m, RTM_DELLINK, 0, ifindex, &ifi);
	(void)message_send(dp, &m);
}

/* ---- the pairs -------------------------------------------------------------- */

static void fan_publish(struct datapath *dp, uint32_t n, uint32_t ifindex)
{
	dp->fans[n] = ifindex;
	(void)datapath_map_set(dp->skel->maps.fans, &n, &ifindex);
}

/* What a fan whose number is n does with a packet. */
static int fan_fill(struct datapath *dp, uint32_t ifindex, uint32_t n)
{
	uint32_t first = dp->fans[DP_FAN_FIRST], rest = dp->fans[DP_FAN_REST];
	int rc = clsact_add(dp, ifindex);

	for (uint32_t i = 0, copies; rc == 0 && i < n; i += copies) {
		copies = n - i < FAN_ACTIONS ? n - i : FAN_ACTIONS;
		rc = filter_add(dp, ifindex, 1 + i / FAN_ACTIONS, i ? rest : first, rest, copies,
				i + copies == n);
	}
	return rc;
}

static int program_of(const struct datapath *dp, uint32_t n)
{
	return bpf_program__fd(n == DP_FAN_FIRST ? dp->skel->progs.mcmesh_fan_first
						 : dp->skel->progs.mcmesh_fan_rest);
}

static int program_attach(struct datapath *dp, uint32_t ifindex, uint32_t n)
{
	char name[16], why[DATAPATH_WHY_MAX];
	bool fresh;

	snprintf(name, sizeof(name), "fan%" PRIu32, n);
	return datapath_attach_program(dp, program_of(dp, n), ifindex, name, &fresh, why);
}

static int half_finish(struct datapath *dp, uint32_t ifindex, uint32_t n)
{
	int rc = half_set_up(dp, ifindex);

	if (rc == 0)
		rc = n < DP_FAN_MIN ? program_attach(dp, ifindex, n) : fan_fill(dp, ifindex, n);
	return rc;
}

/* Fans n and n + 1. Known to packets when they are complete. */
static int pair_build(struct datapath *dp, uint32_t n)
{
	uint32_t ifindex[2] = { 0 };
	char names[2][IF_NAMESIZE];
	int rc = -EEXIST;

	/* Another agent's, in the same namespace, may have the names. */
	for (uint32_t i = n; rc == -EEXIST && i < FAN_NAMES; i += DP_FANS) {
		snprintf(names[0], sizeof(names[0]), DATAPATH_FAN_NAME "%" PRIu32, i);
		snprintf(names[1], sizeof(names[1]), DATAPATH_FAN_NAME "%" PRIu32, i + 1);
		rc = pair_make(dp, names[0], names[1]);
	}
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; rc == 0 && i < ARRAY_SIZE(names); i++) {
		ifindex[i] = if_nametoindex(names[i]);
		rc = half_finish(dp, ifindex[i], n + i);
	}
	if (rc < 0) {
		link_delete(dp, ifindex[0]);
		return rc;
	}
	fan_publish(dp, n, ifindex[0]);
	fan_publish(dp, n + 1, ifindex[1]);
	return 0;
}

static void pair_give_up(struct datapath *dp, uint32_t n)
{
	uint32_t ifindex[2] = { dp->fans[n], dp->fans[n + 1] };

	fan_publish(dp, n, 0);
	fan_publish(dp, n + 1, 0);
	link_delete(dp, ifindex[0]);
	link_delete(dp, ifindex[1]); /* where the first is another's by now */
}

/* First those that lead to the others. */
static void fans_give_up(struct datapath *dp)
{
	for (uint32_t n = DP_FAN_MIN; n < dp->n_fans; n += 2)
		pair_give_up(dp, n);
	pair_give_up(dp, DP_FAN_FIRST);
}

_Static_assert(DP_FANS <= 2 * 64, "bits of fans_wanted");

/* ---- when ------------------------------------------------------------------- */

uint32_t datapath_fan_chunks(const struct datapath *dp)
{
	return DP_FAN_MAX < dp->n_fans ? DP_FAN_CHUNKS : 1;
}

static bool is_fan(const struct datapath *dp, uint32_t copies)
{
	return copies >= DP_FAN_MIN && copies <= DP_FAN_MAX && copies < dp->n_fans;
}

static void pair_want(struct datapath *dp, uint32_t copies)
{
	if (!is_fan(dp, copies) || !dp->fans_possible || dp->fans[copies] ||
	    dp->fans_wanted & 1ULL << copies / 2)
		return;
	dp->fans_wanted |= 1ULL << copies / 2;
	if (!dp->fans_failed)
		dp->fans_due_ms = 0; /* soon */
}

/* Those beside it as well: what a list of one port more or less is sent before its fan
 * is there would overtake what still waits for the other fan. */
uint16_t datapath_fan_want(struct datapath *dp, uint32_t copies)
{
	if (!is_fan(dp, copies))
		return 0;
	pair_want(dp, copies);
	pair_want(dp, copies - 1);
	pair_want(dp, copies + 1);
	return (uint16_t)copies;
}

static bool fans_are_well(struct datapath *dp)
{
	for (uint32_t n = 0, ifindex; n < dp->n_fans; n++) {
		if (datapath_map_get(dp->skel->maps.fans, &n, &ifindex) < 0 ||
		    ifindex != dp->fans[n])
			return false;
		if (ifindex && (!is_ours(ifindex) || !is_up(dp, ifindex)))
			return false;
		if (ifindex && n < DP_FAN_MIN &&
		    !datapath_program_is_there(dp, program_of(dp, n), ifindex))
			return false;
	}
	return true;
}

static int fans_build(struct datapath *dp)
{
	int rc = 0;

	if (dp->fans_wanted && !dp->fans[DP_FAN_FIRST])
		rc = pair_build(dp, DP_FAN_FIRST);
	for (uint32_t i = 0, n = 0; rc == 0 && i < dp->n_fans / 2 && n < FAN_BUILDS; i++) {
		if (!(dp->fans_wanted & 1ULL << i))
			continue;
		if (!dp->fans[2 * i])
			rc = pair_build(dp, 2 * i);
		if (rc == 0)
			dp->fans_wanted &= ~(1ULL << i);
		n++;
	}
	return rc;
}

/* Of what there was, all is wanted again. */
static void fans_renew(struct datapath *dp)
{
	for (uint32_t i = 1; i < dp->n_fans / 2; i++) {
		if (dp->fans[2 * i])
			dp->fans_wanted |= 1ULL << i;
	}
	fans_give_up(dp);
}

void datapath_fans_tick(struct datapath *dp, uint64_t now_ms)
{
	if (!dp->fans_possible || now_ms < dp->fans_due_ms)
		return;
	if (!fans_are_well(dp))
		fans_renew(dp);
	dp->fans_failed = fans_build(dp) < 0;
	dp->fans_due_ms = now_ms + (dp->fans_failed ? FAN_RETRY_MS : FAN_LOOK_MS);
	if (dp->fans_wanted && !dp->fans_failed)
		dp->fans_due_ms = now_ms;
}

uint64_t datapath_fans_next_ms(const struct datapath *dp)
{
	return dp->fans_possible && (dp->fans_wanted || dp->fans[DP_FAN_FIRST]) ? dp->fans_due_ms
										: UINT64_MAX;
}

void datapath_link_changed(struct datapath *dp, uint32_t ifindex)
{
	for (uint32_t n = 0; n < dp->n_fans; n++) {
		if (dp->fans[n] == ifindex && (!is_ours(ifindex) || !is_up(dp, ifindex)))
			dp->fans_due_ms = 0;
	}
}

uint32_t datapath_fans_count(const struct datapath *dp)
{
	uint32_t n = 0;

	for (uint32_t i = DP_FAN_MIN; i < dp->n_fans; i++)
		n += dp->fans[i] != 0;
	return n;
}

const char *datapath_engine_name(const struct datapath *dp)
{
	return datapath_fans_count(dp) ? "fan" : "clone";
}

/* ---- life ------------------------------------------------------------------- */

/* Takes over those of an earlier agent, and what it wanted to have. */
static void fans_adopt(struct datapath *dp)
{
	for (uint32_t n = 0; n < dp->n_fans; n++) {
		if (datapath_map_get(dp->skel->maps.fans, &n, &dp->fans[n]) < 0)
			dp->fans[n] = 0;
	}
	for (uint32_t n = 0; n < DP_FAN_MIN && dp->fans_possible; n++) {
		if (is_ours(dp->fans[n]))
			(void)program_attach(dp, dp->fans[n], n); /* this program's version */
	}
	if (!dp->fans_possible)
		fans_give_up(dp);
	else if (!fans_are_well(dp))
		fans_renew(dp);
}

int datapath_fans_init(struct datapath *dp, const struct datapath_options *options)
{
	dp->fan_min_ports =
		options->fan_min_ports ? options->fan_min_ports : DATAPATH_FAN_MIN_PORTS;
	if (dp->fan_min_ports < DP_FAN_MIN || dp->fan_min_ports > DP_LIST_ENTRIES)
		return -EINVAL;
	dp->fan_socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	if (!dp->fan_socket)
		return -errno;
	if (mnl_socket_bind(dp->fan_socket, 0, MNL_SOCKET_AUTOPID) < 0)
		return -errno;
	dp->fans_possible = !options->no_fans;
	dp->n_fans = bpf_map__max_entries(dp->skel->maps.fans);
	if (dp->n_fans > DP_FANS)
		dp->n_fans = DP_FANS;
	fans_adopt(dp);
	return 0;
}

void datapath_fans_deinit(struct datapath *dp)
{
	if (dp->fan_socket)
		mnl_socket_close(dp->fan_socket);
}

void datapath_fans_destroy(int map_fd)
{
	struct datapath dp = { .fan_socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC) };
	uint32_t ifindex;

	for (uint32_t i = 0; dp.fan_socket && bpf_map_lookup_elem(map_fd, &i, &ifindex) == 0; i++)
		link_delete(&dp, ifindex);
	if (dp.fan_socket)
		mnl_socket_close(dp.fan_socket);
}
