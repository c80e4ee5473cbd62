/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: paths of the underlay
 *
 * Whether packets to a node can be written right onto a link, past the kernel's
 * own output. They can when the route is one that an Ethernet header is all
 * there is to: a unicast route by an Ethernet link that is up, without an
 * encapsulation of its own (lwtunnel), to a neighbour whose address is known,
 * and when no IPsec policy is there at all, for which one would apply is the
 * kernel's to say. Everything else is left to the VXLAN device, and the reason
 * is kept for who asks. The rules are in route.c, without a socket.
 *
 * The kernel is asked, not imitated: one request for the route to this address
 * from that one, one for the neighbour. A third tells it that the neighbour is
 * in use (NTF_USE), so that it is resolved and probed as if we had sent: our
 * packets pass it by, and it could not know.
 *
 * What may change an answer is told as such, not what it changed; the owner
 * asks again.
 */
#include "node/rtnl/internal.h"

#include <errno.h>
#include <linux/neighbour.h>
#include <linux/xfrm.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

#define GROUP(number) (1U << ((number)-1))

static void put_addr(struct nlmsghdr *nlh, uint16_t type, const struct addr *addr)
{
	if (addr_is_v4(addr))
		mnl_attr_put(nlh, type, 4, addr->b + 12);
	else
		mnl_attr_put(nlh, type, 16, addr->b);
}

static uint8_t family(const struct addr *addr)
{
	return addr_is_v4(addr) ? AF_INET : AF_INET6;
}

static void on_route(const struct nlmsghdr *nlh, void *userdata)
{
	rtnl_route_parse(nlh, userdata);
}

/* 0, also when there is none. */
static int route_get(struct rtnl *rtnl, const struct addr *to, const struct addr *from,
		     struct rtnl_route *ret_route)
{
	alignas(struct nlmsghdr) uint8_t buf[RTNL_REQUEST_BYTES];
	struct nlmsghdr *nlh;
	struct rtmsg *rtm;
	void *body;
	int r;

	nlh = rtnl_message(buf, RTM_GETROUTE, NLM_F_ACK, sizeof(*rtm), &body);
	rtm = body;
	rtm->rtm_family = family(to);
	rtm->rtm_dst_len = rtm->rtm_src_len = addr_is_v4(to) ? 32 : 128;
	put_addr(nlh, RTA_DST, to);
	put_addr(nlh, RTA_SRC, from);
	*ret_route = (struct rtnl_route){ .found = false };
	r = rtnl_request(rtnl, nlh, on_route, ret_route);
	/* Its ways to say so; -EINVAL: the source is not one of ours. */
	return r == -ENETUNREACH || r == -EHOSTUNREACH || r == -EINVAL || r == -EACCES ? 0 : r;
}

static void on_neighbour(const struct nlmsghdr *nlh, void *userdata)
{
	rtnl_neighbour_parse(nlh, userdata);
}

static int neighbour_request(struct rtnl *rtnl, uint16_t type, uint16_t nl_flags, uint8_t ndm_flags,
			     uint32_t ifindex, const struct addr *addr,
			     struct rtnl_neighbour *ret_answer)
{
	alignas(struct nlmsghdr) uint8_t buf[RTNL_REQUEST_BYTES];
	struct nlmsghdr *nlh;
	struct ndmsg *ndm;
	void *body;

	nlh = rtnl_message(buf, type, NLM_F_ACK | nl_flags, sizeof(*ndm), &body);
	ndm = body;
	ndm->ndm_family = family(addr);
	ndm->ndm_ifindex = (int)ifindex;
	ndm->ndm_flags = ndm_flags;
	put_addr(nlh, NDA_DST, addr);
	return rtnl_request(rtnl, nlh, ret_answer ? on_neighbour : NULL, ret_answer);
}

int rtnl_path_find(struct rtnl *rtnl, const struct addr *to, const struct addr *from, bool ipsec,
		   struct rtnl_path *ret_path)
{
	struct rtnl_neighbour neighbour = { .usable = false };
	struct rtnl_route route = { .found = false };
	struct rtnl_path path;
	int r = 0;

	if (addr_is_v4(to) == addr_is_v4(from))
		r = route_get(rtnl, to, from, &route);
	if (r < 0)
		return r;
	rtnl_path_begin(to, from, ipsec, &route, rtnl_link_by_index(rtnl, route.ifindex), &path);
	if (path.way != RTNL_WAY_DIRECT) {
		*ret_path = path;
		return 0;
	}
	r = neighbour_request(rtnl, RTM_NEWNEIGH, NLM_F_CREATE, NTF_USE, path.ifindex,
			      &path.next_hop, NULL);
	if (r == 0)
		r = neighbour_request(rtnl, RTM_GETNEIGH, 0, 0, path.ifindex, &path.next_hop,
				      &neighbour);
	if (r < 0 && r != -ENOENT)
		return r;
	rtnl_path_end(&neighbour, &path);
	*ret_path = path;
	return 0;
}

/* ---- IPsec ------------------------------------------------------------------ */

/* Policies of this network namespace; -errno: not known. What comes in counts, too:
 * taken at the link, it would not be asked whether it was encrypted. */
static int xfrm_policies(struct rtnl *rtnl)
{
	alignas(struct nlmsghdr) uint8_t buf[RTNL_REQUEST_BYTES];
	const struct xfrmu_spdinfo *info;
	const struct nlattr *attr;
	struct nlmsghdr *nlh;
	void *body;
	ssize_t n;

	nlh = rtnl_message(buf, XFRM_MSG_GETSPDINFO, 0, sizeof(uint32_t), &body);
	if (mnl_socket_sendto(rtnl->xfrm, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	/* The kernel answers within the call. */
	n = mnl_socket_recvfrom(rtnl->xfrm, buf, sizeof(buf));
	nlh = (void *)buf;
	if (n < 0 || !mnl_nlmsg_ok(nlh, (int)n) || nlh->nlmsg_type != XFRM_MSG_NEWSPDINFO)
		return n < 0 ? -errno : -EPROTO;
	mnl_attr_for_each(attr, nlh, sizeof(uint32_t))
	{
		if (mnl_attr_get_type(attr) == XFRMA_SPD_INFO &&
		    mnl_attr_get_payload_len(attr) >= sizeof(*info)) {
			info = mnl_attr_get_payload(attr);
			return info->outcnt || info->incnt;
		}
	}
	return -EPROTO;
}

bool rtnl_has_policies(struct rtnl *rtnl)
{
	/* A kernel without IPsec does not know the socket. */
	return rtnl->xfrm && xfrm_policies(rtnl) != 0;
}

/* ---- changes ---------------------------------------------------------------- */

int rtnl_watch_start(struct rtnl *rtnl)
{
	int r;

	r = rtnl_open_socket(NETLINK_ROUTE,
			     RTMGRP_NEIGH | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE |
				     RTMGRP_IPV4_RULE | GROUP(RTNLGRP_IPV6_RULE) |
				     GROUP(RTNLGRP_NEXTHOP),
			     &rtnl->watch);
	if (r < 0)
		return r;
	r = rtnl_open_socket(NETLINK_XFRM, 0, &rtnl->xfrm);
	if (r < 0)
		return r == -EPROTONOSUPPORT ? 0 : r;
	return rtnl_open_socket(NETLINK_XFRM, GROUP(XFRMNLGRP_POLICY), &rtnl->xfrm_watch);
}

int rtnl_watch_fd(const struct rtnl *rtnl, bool xfrm)
{
	const struct mnl_socket *s = xfrm ? rtnl->xfrm_watch : rtnl->watch;

	return s ? mnl_socket_get_fd(s) : -1;
}

static void tell_neighbour(const struct nlmsghdr *nlh, const struct rtnl_watch_ops *ops,
			   void *userdata)
{
	const struct ndmsg *ndm = mnl_nlmsg_get_payload(nlh);
	const struct nlattr *attr;
	struct addr addr;

	mnl_attr_for_each(attr, nlh, sizeof(*ndm))
	{
		if (mnl_attr_get_type(attr) == NDA_DST &&
		    addr_from_wire(mnl_attr_get_payload(attr), mnl_attr_get_payload_len(attr),
				   &addr) == 0)
			ops->on_neighbour((uint32_t)ndm->ndm_ifindex, &addr, userdata);
	}
}

void rtnl_watch_dispatch(struct rtnl *rtnl, bool xfrm, const struct rtnl_watch_ops *ops,
			 void *userdata)
{
	struct mnl_socket *s = xfrm ? rtnl->xfrm_watch : rtnl->watch;

	for (unsigned i = 0; i < RTNL_WATCH_BATCH; i++) {
		const struct nlmsghdr *nlh = (const void *)rtnl->event_buffer;
		ssize_t n = mnl_socket_recvfrom(s, rtnl->event_buffer, sizeof(rtnl->event_buffer));
		int left = (int)n;

		if (n < 0 && errno == EAGAIN)
			return;
		/* ENOBUFS: some were lost, so anything may have changed. */
		if (n < 0)
			ops->on_route(userdata);
		for (; n > 0 && mnl_nlmsg_ok(nlh, left); nlh = mnl_nlmsg_next(nlh, &left)) {
			if (!xfrm &&
			    (nlh->nlmsg_type == RTM_NEWNEIGH || nlh->nlmsg_type == RTM_DELNEIGH))
				tell_neighbour(nlh, ops, userdata);
			else
				ops->on_route(userdata);
		}
	}
}
