/* SPDX-License-Identifier: Apache-2.0 */
#include "node/rtnl/internal.h"

#include <assert.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/pkt_sched.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

/* IFF_LOWER_UP of <linux/if.h>, which does not go with <net/if.h>. */
#define LINK_LOWER_UP (1u << 16)

const char *rtnl_link_info(const struct nlattr *linkinfo, const struct nlattr **ret_data)
{
	const struct nlattr *attr;
	const char *kind = "";

	*ret_data = NULL;
	mnl_attr_for_each_nested(attr, linkinfo)
	{
		if (mnl_attr_get_type(attr) == IFLA_INFO_KIND &&
		    mnl_attr_validate(attr, MNL_TYPE_NUL_STRING) >= 0)
			kind = mnl_attr_get_str(attr);
		else if (mnl_attr_get_type(attr) == IFLA_INFO_DATA)
			*ret_data = attr;
	}
	return kind;
}

static void parse_attr(const struct nlattr *attr, struct rtnl_link *link)
{
	const struct nlattr *data;

	switch (mnl_attr_get_type(attr)) {
	case IFLA_IFNAME:
		if (mnl_attr_validate(attr, MNL_TYPE_NUL_STRING) >= 0)
			strncpy(link->name, mnl_attr_get_str(attr), sizeof(link->name) - 1);
		break;
	case IFLA_MTU:
		if (mnl_attr_validate(attr, MNL_TYPE_U32) >= 0)
			link->mtu = mnl_attr_get_u32(attr);
		break;
	case IFLA_MASTER:
		if (mnl_attr_validate(attr, MNL_TYPE_U32) >= 0)
			link->master = mnl_attr_get_u32(attr);
		break;
	case IFLA_ADDRESS:
		if (mnl_attr_get_payload_len(attr) == sizeof(link->mac))
			memcpy(link->mac, mnl_attr_get_payload(attr), sizeof(link->mac));
		break;
	case IFLA_LINK_NETNSID:
		link->peer_away = true;
		break;
	case IFLA_QDISC:
		link->queueing = mnl_attr_validate(attr, MNL_TYPE_NUL_STRING) < 0 ||
				 strcmp(mnl_attr_get_str(attr), "noqueue") != 0;
		break;
	case IFLA_LINKINFO:
		strncpy(link->kind, rtnl_link_info(attr, &data), sizeof(link->kind) - 1);
		break;
	default:
		break;
	}
}

bool rtnl_link_parse(const struct nlmsghdr *nlh, struct rtnl_link *ret_link)
{
	const struct ifinfomsg *ifi;
	const struct nlattr *attr;
	struct rtnl_link link;

	if (mnl_nlmsg_get_payload_len(nlh) < sizeof(*ifi))
		return false;
	ifi = mnl_nlmsg_get_payload(nlh);
	/* AF_BRIDGE messages are about a bridge's port, not about a link: their
	 * RTM_DELLINK means that the port left the bridge. */
	if (ifi->ifi_family != AF_UNSPEC || ifi->ifi_index <= 0)
		return false;
	memset(&link, 0, sizeof(link)); /* compared by memcmp */
	link.ifindex = (uint32_t)ifi->ifi_index;
	link.up = ifi->ifi_flags & IFF_UP;
	link.carrier = ifi->ifi_flags & LINK_LOWER_UP;
	link.ethernet = ifi->ifi_type == ARPHRD_ETHER;
	mnl_attr_for_each(attr, nlh, sizeof(*ifi)) parse_attr(attr, &link);
	memcpy(ret_link, &link, sizeof(link));
	return true;
}

static struct cached_link *find(const struct rtnl *rtnl, uint32_t ifindex)
{
	struct cached_link *c;

	HASH_FIND(hh, rtnl->links, &ifindex, sizeof(ifindex), c);
	return c;
}

static void forget(struct rtnl *rtnl, struct cached_link *c)
{
	uint32_t ifindex = c->link.ifindex;

	HASH_DEL(rtnl->links, c);
	free(c);
	rtnl->ops->on_link_gone(ifindex, rtnl->userdata);
}

static void remember(struct rtnl *rtnl, const struct rtnl_link *link)
{
	struct cached_link *c = find(rtnl, link->ifindex);

	if (c) {
		c->round = rtnl->round;
		if (memcmp(&c->link, link, sizeof(*link)) == 0)
			return;
	} else {
		c = calloc(1, sizeof(*c));
		if (!c) {
			rtnl->overrun = true; /* as good as lost: the next dump tries again */
			return;
		}
		c->round = rtnl->round;
		c->link.ifindex = link->ifindex;
		HASH_ADD(hh, rtnl->links, link.ifindex, sizeof(c->link.ifindex), c);
	}
	memcpy(&c->link, link, sizeof(*link));
	rtnl->ops->on_link(&c->link, rtnl->userdata);
}

void rtnl_cache_input(struct rtnl *rtnl, const struct nlmsghdr *nlh)
{
	struct cached_link *c;
	struct rtnl_link link;

	if (!rtnl_link_parse(nlh, &link))
		return;
	if (nlh->nlmsg_type == RTM_NEWLINK) {
		if (link.name[0]) /* wireless events carry nothing but themselves */
			remember(rtnl, &link);
	} else if (nlh->nlmsg_type == RTM_DELLINK) {
		c = find(rtnl, link.ifindex);
		if (c)
			forget(rtnl, c);
	}
}

void rtnl_cache_sweep(struct rtnl *rtnl)
{
	struct cached_link *c, *next;

	HASH_ITER (hh, rtnl->links, c, next) {
		if (c->round != rtnl->round)
			forget(rtnl, c);
	}
}

void rtnl_cache_free(struct rtnl *rtnl)
{
	struct cached_link *c, *next;

	HASH_ITER (hh, rtnl->links, c, next) {
		HASH_DEL(rtnl->links, c);
		free(c);
	}
}

const struct rtnl_link *rtnl_link_by_index(const struct rtnl *rtnl, uint32_t ifindex)
{
	const struct cached_link *c = find(rtnl, ifindex);

	return c ? &c->link : NULL;
}

static void on_qdisc(const struct nlmsghdr *nlh, void *userdata)
{
	struct rtnl_link link;

	if (rtnl_link_parse(nlh, &link))
		*(bool *)userdata = link.queueing;
}

/* Of now: a change of qdisc is no event of the link. */
static bool is_queueing(struct rtnl *rtnl, uint32_t ifindex)
{
	alignas(struct nlmsghdr) uint8_t buf[RTNL_REQUEST_BYTES];
	struct ifinfomsg *ifi;
	struct nlmsghdr *nlh;
	bool queueing = true;
	void *body;

	nlh = rtnl_message(buf, RTM_GETLINK, NLM_F_ACK, sizeof(*ifi), &body);
	ifi = body;
	ifi->ifi_index = (int)ifindex;
	(void)rtnl_request(rtnl, nlh, on_qdisc, &queueing);
	return queueing;
}

static void on_filter(const struct nlmsghdr *nlh, void *userdata)
{
	if (nlh->nlmsg_type == RTM_NEWTFILTER)
		*(bool *)userdata = true;
}

bool rtnl_egress_is_plain(struct rtnl *rtnl, uint32_t ifindex)
{
	alignas(struct nlmsghdr) uint8_t buf[RTNL_REQUEST_BYTES];
	struct nlmsghdr *nlh;
	bool found = false;
	struct tcmsg *tcm;
	void *body;
	int r;

	if (is_queueing(rtnl, ifindex))
		return false;
	nlh = rtnl_message(buf, RTM_GETTFILTER, NLM_F_DUMP, sizeof(*tcm), &body);
	tcm = body;
	tcm->tcm_ifindex = (int)ifindex;
	tcm->tcm_parent = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS);
	r = rtnl_request(rtnl, nlh, on_filter, &found);
	/* Without clsact there is nothing to dump, and nothing is said. */
	return !found && (r == 0 || r == -EINVAL || r == -ENOENT);
}

static const struct {
	const char *kind, *sentence;
} refused_kinds[] = {
	{ "macvlan", "a macvlan shares its parent's traffic past the ingress hook: "
		     "use a veth or make the parent the port" },
	{ "macvtap", "a macvtap shares its parent's traffic past the ingress hook: "
		     "use a veth or tap" },
	{ "ipvlan", "an ipvlan shares its parent's address and traffic: use a veth" },
	{ "ipvtap", "an ipvtap shares its parent's address and traffic: use a tap" },
	{ "vxlan", "a vxlan device is a tunnel to other hosts: a port faces one workload" },
	{ "bridge", "a bridge is not a port: name the interfaces that are plugged into it" },
	{ "vrf", "a vrf is a routing table, not a port: name the interfaces in it" },
};

const char *rtnl_link_refusal(const struct rtnl_link *link)
{
	for (size_t i = 0; i < ARRAY_SIZE(refused_kinds); i++) {
		if (strcmp(link->kind, refused_kinds[i].kind) == 0)
			return refused_kinds[i].sentence;
	}
	if (!link->ethernet && strcmp(link->name, "lo") == 0)
		return "the loopback interface has no workload behind it";
	if (!link->ethernet)
		return "it is not an Ethernet device: a tun has no link layer, use a tap";
	return NULL;
}

/* ---- losses ------------------------------------------------------------------ */

static void on_stats(const struct nlmsghdr *nlh, void *userdata)
{
	struct rtnl_link_stats64 stats = { 0 };
	struct rtnl_lost *lost = userdata;
	const struct nlattr *attr;

	if (nlh->nlmsg_type != RTM_NEWLINK)
		return;
	mnl_attr_for_each(attr, nlh, sizeof(struct ifinfomsg))
	{
		size_t len = mnl_attr_get_payload_len(attr);

		if (mnl_attr_get_type(attr) == IFLA_STATS64)
			memcpy(&stats, mnl_attr_get_payload(attr),
			       len < sizeof(stats) ? len : sizeof(stats));
	}
	lost->tx = stats.tx_errors + stats.tx_dropped;
	lost->rx = stats.rx_errors + stats.rx_dropped;
}

int rtnl_link_lost(struct rtnl *rtnl, uint32_t ifindex, struct rtnl_lost *ret_lost)
{
	alignas(struct nlmsghdr) uint8_t buf[RTNL_REQUEST_BYTES];
	struct rtnl_lost lost = { 0 };
	struct ifinfomsg *ifi;
	struct nlmsghdr *nlh;
	void *body;
	int r;

	nlh = rtnl_message(buf, RTM_GETLINK, NLM_F_ACK, sizeof(*ifi), &body);
	ifi = body;
	ifi->ifi_index = (int)ifindex;
	r = rtnl_request(rtnl, nlh, on_stats, &lost);
	if (r == 0)
		*ret_lost = lost;
	return r;
}

/* ---- devices of our own -------------------------------------------------------- */

int rtnl_link_set_up(struct rtnl *rtnl, uint32_t ifindex, uint32_t mtu, uint32_t queue)
{
	alignas(struct nlmsghdr) uint8_t buf[RTNL_REQUEST_BYTES];
	struct nlattr *spec, *inet6;
	struct ifinfomsg *ifi;
	struct nlmsghdr *nlh;
	void *body;

	nlh = rtnl_message(buf, RTM_SETLINK, NLM_F_ACK, sizeof(*ifi), &body);
	ifi = body;
	ifi->ifi_index = (int)ifindex;
	spec = mnl_attr_nest_start(nlh, IFLA_AF_SPEC);
	inet6 = mnl_attr_nest_start(nlh, AF_INET6);
	mnl_attr_put_u8(nlh, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
	mnl_attr_nest_end(nlh, inet6);
	mnl_attr_nest_end(nlh, spec);
	(void)rtnl_request(rtnl, nlh, NULL, NULL); /* a kernel without IPv6 does not know it */

	nlh = rtnl_message(buf, RTM_SETLINK, NLM_F_ACK, sizeof(*ifi), &body);
	ifi = body;
	ifi->ifi_index = (int)ifindex;
	ifi->ifi_flags = IFF_UP;
	ifi->ifi_change = IFF_UP;
	mnl_attr_put_u32(nlh, IFLA_MTU, mtu);
	mnl_attr_put_u32(nlh, IFLA_TXQLEN, queue);
	return rtnl_request(rtnl, nlh, NULL, NULL);
}
