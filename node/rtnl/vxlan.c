/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: the overlay device
 *
 * One VXLAN device that learns nothing and looks nothing up: the BPF program
 * sets remote and VNI of each packet (collect_md). It is made up in one
 * request, so that a port that another socket holds fails the making, and no
 * half of a device stays. It outlives the agent; the next one adopts it when
 * what makes it ours is as we would make it, and leaves any other alone.
 */
#include "node/rtnl/internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_link.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"

#define OVERLAY_TTL 64

/* Largest inner packet whose outer one, with Ethernet 14, VXLAN 8, UDP 8 and
 * IPv6 40, is still an IP packet: it then leaves in fragments, where a smaller
 * MTU would drop it here. Older kernels may want less. */
static const uint32_t mtu_candidates[] = { 65535 - 70, 65000, 32000, 9000, 1500 };

struct vxlan {
	struct rtnl_link link;
	uint16_t udp_port;
	bool collect_md, learning, zero_csum6_rx;
};

struct search {
	const struct rtnl_vxlan_options *options;
	bool named, foreign;
	struct vxlan ours;	     /* the device of our name, when named */
	char foreign_name[IFNAMSIZ]; /* a VXLAN device on our UDP port */
};

static void parse_data(const struct nlattr *data, struct vxlan *v)
{
	const struct nlattr *attr;

	mnl_attr_for_each_nested(attr, data)
	{
		uint16_t len = mnl_attr_get_payload_len(attr);

		switch (mnl_attr_get_type(attr)) {
		case IFLA_VXLAN_PORT:
			if (len == sizeof(uint16_t))
				v->udp_port = ntohs(mnl_attr_get_u16(attr));
			break;
		case IFLA_VXLAN_COLLECT_METADATA:
			v->collect_md = len == 1 && mnl_attr_get_u8(attr);
			break;
		case IFLA_VXLAN_LEARNING:
			v->learning = len == 1 && mnl_attr_get_u8(attr);
			break;
		case IFLA_VXLAN_UDP_ZERO_CSUM6_RX:
			v->zero_csum6_rx = len == 1 && mnl_attr_get_u8(attr);
			break;
		default:
			break;
		}
	}
}

static void on_link(const struct nlmsghdr *nlh, void *userdata)
{
	struct search *search = userdata;
	const struct nlattr *attr, *data = NULL;
	struct vxlan v = { .udp_port = 0 };

	if (nlh->nlmsg_type != RTM_NEWLINK || !rtnl_link_parse(nlh, &v.link))
		return;
	mnl_attr_for_each(attr, nlh, sizeof(struct ifinfomsg))
	{
		if (mnl_attr_get_type(attr) == IFLA_LINKINFO &&
		    strcmp(rtnl_link_info(attr, &data), "vxlan") == 0 && data)
			parse_data(data, &v);
	}
	if (strcmp(v.link.name, search->options->name) == 0) {
		search->named = true;
		search->ours = v;
	} else if (v.udp_port == search->options->udp_port) {
		search->foreign = true;
		memcpy(search->foreign_name, v.link.name, sizeof(search->foreign_name));
	}
}

static int find_devices(struct rtnl *rtnl, struct search *search)
{
	alignas(struct nlmsghdr) uint8_t buf[RTNL_REQUEST_BYTES];
	struct nlmsghdr *nlh;
	void *body;

	nlh = rtnl_message(buf, RTM_GETLINK, NLM_F_DUMP, sizeof(struct ifinfomsg), &body);
	return rtnl_request(rtnl, nlh, on_link, search);
}

static int make(struct rtnl *rtnl, const struct rtnl_vxlan_options *options, uint32_t mtu)
{
	alignas(struct nlmsghdr) uint8_t buf[RTNL_REQUEST_BYTES];
	struct nlattr *info, *data;
	struct ifinfomsg *ifi;
	struct nlmsghdr *nlh;
	void *body;

	nlh = rtnl_message(buf, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, sizeof(*ifi),
			   &body);
	ifi = body;
	ifi->ifi_flags = IFF_UP;
	ifi->ifi_change = IFF_UP;
	mnl_attr_put_strz(nlh, IFLA_IFNAME, options->name);
	mnl_attr_put_u32(nlh, IFLA_MTU, mtu);
	info = mnl_attr_nest_start(nlh, IFLA_LINKINFO);
	mnl_attr_put_strz(nlh, IFLA_INFO_KIND, "vxlan");
	data = mnl_attr_nest_start(nlh, IFLA_INFO_DATA);
	mnl_attr_put_u8(nlh, IFLA_VXLAN_COLLECT_METADATA, 1);
	mnl_attr_put_u16(nlh, IFLA_VXLAN_PORT, htons(options->udp_port));
	mnl_attr_put_u8(nlh, IFLA_VXLAN_LEARNING, 0);
	mnl_attr_put_u8(nlh, IFLA_VXLAN_TTL, OVERLAY_TTL);
	/* IPv6 peers send without a UDP checksum (RFC 6936): the inner packet has its own. */
	mnl_attr_put_u8(nlh, IFLA_VXLAN_UDP_ZERO_CSUM6_RX, 1);
	mnl_attr_put_u8(nlh, IFLA_VXLAN_UDP_ZERO_CSUM6_TX, 1);
	mnl_attr_nest_end(nlh, data);
	mnl_attr_nest_end(nlh, info);
	return rtnl_request(rtnl, nlh, NULL, NULL);
}

/* Up, and with the MTU (0: as it is). */
static int configure(struct rtnl *rtnl, uint32_t ifindex, uint32_t mtu)
{
	alignas(struct nlmsghdr) uint8_t buf[RTNL_REQUEST_BYTES];
	struct ifinfomsg *ifi;
	struct nlmsghdr *nlh;
	void *body;

	nlh = rtnl_message(buf, RTM_NEWLINK, NLM_F_ACK, sizeof(*ifi), &body);
	ifi = body;
	ifi->ifi_index = (int)ifindex;
	ifi->ifi_flags = IFF_UP;
	ifi->ifi_change = IFF_UP;
	if (mtu)
		mnl_attr_put_u32(nlh, IFLA_MTU, mtu);
	return rtnl_request(rtnl, nlh, NULL, NULL);
}

static int make_with_largest_mtu(struct rtnl *rtnl, const struct rtnl_vxlan_options *options)
{
	int r = -EINVAL;

	if (options->mtu)
		return make(rtnl, options, options->mtu);
	for (size_t i = 0; i < ARRAY_SIZE(mtu_candidates); i++) {
		r = make(rtnl, options, mtu_candidates[i]);
		if (r != -EINVAL && r != -ERANGE)
			break;
	}
	return r;
}

static int explain(int err, const struct rtnl_vxlan_options *options, char why[RTNL_WHY_MAX])
{
	if (err == -EADDRINUSE)
		snprintf(why, RTNL_WHY_MAX,
			 "UDP port %u is taken by another socket: free it, or set another "
			 "overlay.port on every node",
			 options->udp_port);
	else if (err == -EPERM)
		snprintf(why, RTNL_WHY_MAX,
			 "cannot make the VXLAN device %s: CAP_NET_ADMIN is missing: run as root "
			 "or by the systemd unit",
			 options->name);
	else if (err == -EOPNOTSUPP)
		snprintf(
			why, RTNL_WHY_MAX,
			"cannot make the VXLAN device %s: the kernel has no VXLAN: load the module "
			"vxlan",
			options->name);
	else
		snprintf(why, RTNL_WHY_MAX, "cannot set up the VXLAN device %s: %s", options->name,
			 strerror(-err));
	return err;
}

static int refuse(const struct search *search, char why[RTNL_WHY_MAX])
{
	const struct vxlan *v = &search->ours;
	const char *name = search->options->name;

	if (strcmp(v->link.kind, "vxlan") != 0)
		snprintf(why, RTNL_WHY_MAX,
			 "%s exists and is a %s device: delete it, or set another overlay.device",
			 name, v->link.kind[0] ? v->link.kind : "physical");
	else if (v->udp_port != search->options->udp_port)
		snprintf(why, RTNL_WHY_MAX,
			 "%s exists with UDP port %u, not %u: delete it, or set another "
			 "overlay.device",
			 name, v->udp_port, search->options->udp_port);
	else
		snprintf(why, RTNL_WHY_MAX,
			 "%s exists and is not a flow-based VXLAN device (external, nolearning, "
			 "udp6zerocsumrx): delete it, or set another overlay.device",
			 name);
	return -EEXIST;
}

static bool is_right(const struct search *search)
{
	const struct vxlan *v = &search->ours;

	return strcmp(v->link.kind, "vxlan") == 0 && v->collect_md && !v->learning &&
	       v->zero_csum6_rx && v->udp_port == search->options->udp_port;
}

int rtnl_vxlan_ensure(struct rtnl *rtnl, const struct rtnl_vxlan_options *options,
		      uint32_t *ret_ifindex, char why[RTNL_WHY_MAX])
{
	struct search search = { .options = options };
	int r;

	r = find_devices(rtnl, &search);
	if (r < 0)
		return explain(r, options, why);
	if (search.named && !is_right(&search))
		return refuse(&search, why);
	if (search.foreign) {
		snprintf(why, RTNL_WHY_MAX,
			 "the VXLAN device %s has UDP port %u: delete it, or set another "
			 "overlay.port on every node",
			 search.foreign_name, options->udp_port);
		return -EADDRINUSE;
	}
	if (search.named) {
		r = configure(rtnl, search.ours.link.ifindex, options->mtu);
	} else {
		r = make_with_largest_mtu(rtnl, options);
		if (r == 0)
			r = find_devices(rtnl, &search);
		if (r == 0 && !search.named)
			r = -ENODEV;
	}
	if (r < 0)
		return explain(r, options, why);
	*ret_ifindex = search.ours.link.ifindex;
	return 0;
}
