/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: copies that are too long for an underlay of IPv6
 *
 * Over IPv4 the overlay device sends a copy that exceeds the underlay's MTU in
 * fragments. Over IPv6 it does not: the kernel takes no packet of a tunnel for one
 * that its sender may fragment, and drops it. But it does fragment what a socket
 * sends. So the datapath hands such copies, encapsulated, to a TAP device of
 * ours, where the kernel completes checksums and cuts what was to be segmented;
 * we read them there and send what is behind the UDP header by a socket that has
 * the VTEP's address. To the other node they are like any.
 *
 * A way for what would be lost, not one for all traffic: each copy costs two
 * system calls, and one agent does it beside everything else, a bounded number a
 * turn. Behind, the device's queue is full, and the datapath counts what it
 * could not hand over (copy_remote_failed). An underlay with 70 bytes to spare
 * needs none of it. The device goes with the agent.
 */
#include "node/oversize.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <netinet/ip6.h>
#include <netinet/udp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"

#define OVERSIZE_BATCH	128 /* frames a turn */
#define OVERSIZE_FRAME	(65535 + 128)
#define OVERSIZE_BUFFER (4 << 20)
#define ETHER_BYTES	14
#define HEADER_BYTES	(ETHER_BYTES + sizeof(struct ip6_hdr) + sizeof(struct udphdr))
#define VXLAN_BYTES	8
#define HOP_LIMIT	64

struct oversize {
	struct addr vtep;
	uint16_t udp_port;
	int tap, socket;
	uint32_t ifindex;
	struct oversize_counters counters;
	uint8_t frame[OVERSIZE_FRAME];
};

DEFINE_CLEANUP(struct oversize *, oversize_free)

/* ---- rules ------------------------------------------------------------------- */

bool oversize_parse(const uint8_t *frame, size_t len, const struct addr *vtep, uint16_t udp_port,
		    struct oversize_packet *ret_packet)
{
	struct ip6_hdr ip;
	struct udphdr udp;
	size_t data;

	if (len < HEADER_BYTES + VXLAN_BYTES || frame[12] != 0x86 || frame[13] != 0xdd)
		return false;
	memcpy(&ip, frame + ETHER_BYTES, sizeof(ip));
	memcpy(&udp, frame + ETHER_BYTES + sizeof(ip), sizeof(udp));
	data = ntohs(ip.ip6_plen);
	if (ip.ip6_vfc >> 4 != 6 || ip.ip6_nxt != IPPROTO_UDP || udp.uh_dport != htons(udp_port) ||
	    memcmp(&ip.ip6_src, vtep->b, sizeof(vtep->b)) != 0 ||
	    data + ETHER_BYTES + sizeof(ip) != len)
		return false;
	memcpy(ret_packet->to.b, &ip.ip6_dst, sizeof(ret_packet->to.b));
	ret_packet->traffic_class = (uint8_t)(ntohl(ip.ip6_flow) >> 20);
	ret_packet->payload = frame + HEADER_BYTES;
	ret_packet->len = len - HEADER_BYTES;
	return true;
}

/* ---- life -------------------------------------------------------------------- */

static int fail(char why[OVERSIZE_WHY_MAX], int rc, const char *what)
{
	snprintf(why, OVERSIZE_WHY_MAX, "%s: %s", what, strerror(-rc));
	return rc;
}

static int tap_open(struct oversize *o, char why[OVERSIZE_WHY_MAX])
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI };

	o->tap = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (o->tap < 0)
		return fail(why, -errno, "/dev/net/tun cannot be opened");
	snprintf(request.ifr_name, sizeof(request.ifr_name), OVERSIZE_NAME "%%d");
	if (ioctl(o->tap, TUNSETIFF, &request) < 0)
		return fail(why, -errno, "cannot make a TAP device");
	o->ifindex = 0;
	_cleanup_close_ int any = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (any < 0 || ioctl(any, SIOCGIFINDEX, &request) < 0)
		return fail(why, -errno, "cannot find the TAP device");
	o->ifindex = (uint32_t)request.ifr_ifindex;
	return 0;
}

/* Without an address of its own, and so without a voice in the network. */
static int socket_open(struct oversize *o, char why[OVERSIZE_WHY_MAX])
{
	struct sockaddr_in6 from = { .sin6_family = AF_INET6 };
	int one = 1, buffer = OVERSIZE_BUFFER, hops = HOP_LIMIT;

	o->socket = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (o->socket < 0)
		return fail(why, -errno, "cannot make a socket");
	memcpy(&from.sin6_addr, o->vtep.b, sizeof(from.sin6_addr));
	/* Also while the VTEP is not, or not yet, an address of this node. */
	(void)setsockopt(o->socket, IPPROTO_IPV6, IPV6_FREEBIND, &one, sizeof(one));
	(void)setsockopt(o->socket, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
	(void)setsockopt(o->socket, IPPROTO_IPV6, IPV6_UNICAST_HOPS, &hops, sizeof(hops));
	if (bind(o->socket, (struct sockaddr *)&from, sizeof(from)) < 0)
		return fail(why, -errno, "cannot use the VTEP's address");
	return 0;
}

int oversize_new(const struct addr *vtep, uint16_t udp_port, struct oversize **ret_oversize,
		 char why[OVERSIZE_WHY_MAX])
{
	_cleanup_(oversize_free_p)
	struct oversize *o = calloc(1, sizeof(*o));
	int r;

	if (!o)
		return fail(why, -ENOMEM, "no oversized copies");
	o->tap = o->socket = -1;
	o->vtep = *vtep;
	o->udp_port = udp_port;
	r = tap_open(o, why);
	if (r == 0)
		r = socket_open(o, why);
	if (r == 0)
		*ret_oversize = TAKE_PTR(o);
	return r;
}

void oversize_free(struct oversize *o)
{
	if (!o)
		return;
	if (o->tap >= 0)
		close(o->tap);
	if (o->socket >= 0)
		close(o->socket);
	free(o);
}

int oversize_fd(const struct oversize *o)
{
	return o->tap;
}

uint32_t oversize_ifindex(const struct oversize *o)
{
	return o->ifindex;
}

struct oversize_counters oversize_count(const struct oversize *o)
{
	return o->counters;
}

/* ---- work -------------------------------------------------------------------- */

static void send_packet(struct oversize *o, const struct oversize_packet *packet)
{
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = htons(o->udp_port) };
	int traffic_class = packet->traffic_class;
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { (void *)packet->payload, packet->len };
	struct msghdr msg = { .msg_name = &to,
			      .msg_namelen = sizeof(to),
			      .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.buf,
			      .msg_controllen = sizeof(control.buf) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	memcpy(&to.sin6_addr, packet->to.b, sizeof(to.sin6_addr));
	c->cmsg_level = IPPROTO_IPV6;
	c->cmsg_type = IPV6_TCLASS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &traffic_class, sizeof(traffic_class));
	if (sendmsg(o->socket, &msg, MSG_DONTWAIT) < 0)
		o->counters.failed++;
	else
		o->counters.sent++;
}

void oversize_dispatch(struct oversize *o)
{
	for (unsigned int i = 0; i < OVERSIZE_BATCH; i++) {
		struct oversize_packet packet;
		ssize_t n = read(o->tap, o->frame, sizeof(o->frame));

		if (n < 0)
			return;
		if (oversize_parse(o->frame, (size_t)n, &o->vtep, o->udp_port, &packet))
			send_packet(o, &packet);
	}
}
