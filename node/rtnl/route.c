/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of a path: what the kernel's answers say, and what follows from them. */
#include "node/rtnl/internal.h"

#include <errno.h>
#include <linux/neighbour.h>
#include <string.h>

#include "common/cleanup.h"

#define USABLE (NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT)

static uint32_t metrics_mtu(const struct nlattr *metrics)
{
	const struct nlattr *attr;

	mnl_attr_for_each_nested(attr, metrics)
	{
		if (mnl_attr_get_type(attr) == RTAX_MTU &&
		    mnl_attr_validate(attr, MNL_TYPE_U32) >= 0)
			return mnl_attr_get_u32(attr);
	}
	return 0;
}

void rtnl_route_parse(const struct nlmsghdr *nlh, struct rtnl_route *route)
{
	const struct rtmsg *rtm = mnl_nlmsg_get_payload(nlh);
	const struct nlattr *attr;

	if (nlh->nlmsg_type != RTM_NEWROUTE)
		return;
	route->found = true;
	route->plain = rtm->rtm_type == RTN_UNICAST;
	mnl_attr_for_each(attr, nlh, sizeof(*rtm))
	{
		switch (mnl_attr_get_type(attr)) {
		case RTA_OIF:
			route->ifindex = mnl_attr_get_u32(attr);
			break;
		case RTA_GATEWAY:
			if (addr_from_wire(mnl_attr_get_payload(attr),
					   mnl_attr_get_payload_len(attr), &route->gateway) < 0)
				route->plain = false;
			break;
		case RTA_METRICS:
			route->mtu = metrics_mtu(attr);
			break;
		case RTA_VIA:
		case RTA_ENCAP:
		case RTA_ENCAP_TYPE:
		case RTA_MULTIPATH:
		case RTA_NEWDST:
			route->plain = false;
			break;
		default:
			break;
		}
	}
}

void rtnl_neighbour_parse(const struct nlmsghdr *nlh, struct rtnl_neighbour *neighbour)
{
	const struct ndmsg *ndm = mnl_nlmsg_get_payload(nlh);
	const struct nlattr *attr;

	if (nlh->nlmsg_type != RTM_NEWNEIGH || !(ndm->ndm_state & USABLE))
		return;
	mnl_attr_for_each(attr, nlh, sizeof(*ndm))
	{
		if (mnl_attr_get_type(attr) == NDA_LLADDR &&
		    mnl_attr_get_payload_len(attr) == sizeof(neighbour->mac)) {
			memcpy(neighbour->mac, mnl_attr_get_payload(attr), sizeof(neighbour->mac));
			neighbour->usable = true;
		}
	}
}

static enum rtnl_way way_of(const struct addr *to, const struct addr *from, bool ipsec,
			    const struct rtnl_route *route, const struct rtnl_link *link)
{
	if (addr_is_v4(to) != addr_is_v4(from))
		return RTNL_WAY_FAMILY;
	if (!route->found)
		return RTNL_WAY_NO_ROUTE;
	if (!route->plain || !route->ifindex)
		return RTNL_WAY_ROUTE;
	if (ipsec)
		return RTNL_WAY_IPSEC;
	if (!link || !link->ethernet)
		return RTNL_WAY_LINK;
	return link->up && link->carrier ? RTNL_WAY_DIRECT : RTNL_WAY_DOWN;
}

void rtnl_path_begin(const struct addr *to, const struct addr *from, bool ipsec,
		     const struct rtnl_route *route, const struct rtnl_link *link,
		     struct rtnl_path *ret_path)
{
	struct rtnl_path path = { .way = way_of(to, from, ipsec, route, link) };

	if (route->found && link) {
		path.ifindex = link->ifindex;
		path.mtu = route->mtu && route->mtu < link->mtu ? route->mtu : link->mtu;
		path.next_hop = addr_is_null(&route->gateway) ? *to : route->gateway;
		memcpy(path.from_mac, link->mac, sizeof(path.from_mac));
	}
	*ret_path = path;
}

void rtnl_path_end(const struct rtnl_neighbour *neighbour, struct rtnl_path *path)
{
	if (neighbour->usable)
		memcpy(path->to_mac, neighbour->mac, sizeof(path->to_mac));
	else
		path->way = RTNL_WAY_NEIGHBOUR;
}

const char *rtnl_way_text(enum rtnl_way way)
{
	static const char *const texts[] = {
		[RTNL_WAY_DIRECT] = "direct",
		[RTNL_WAY_UNKNOWN] = "the kernel was not asked yet",
		[RTNL_WAY_FAMILY] = "the node's VTEP is of the other IP family",
		[RTNL_WAY_NO_ROUTE] = "there is no route to the node's VTEP from ours",
		[RTNL_WAY_ROUTE] = "the route is not a plain one by one link",
		[RTNL_WAY_IPSEC] = "this network namespace has IPsec policies",
		[RTNL_WAY_LINK] = "the route's link is not Ethernet",
		[RTNL_WAY_DOWN] = "the route's link is down",
		[RTNL_WAY_NEIGHBOUR] = "the next hop's link-layer address is not known",
		[RTNL_WAY_SETTING] = "the configuration says overlay.path: device",
	};

	return way < ARRAY_SIZE(texts) ? texts[way] : "";
}
