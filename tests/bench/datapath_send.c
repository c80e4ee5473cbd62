/* SPDX-License-Identifier: Apache-2.0 */
/* What sends. Each generator writes BATCH packets with one system call. */
#include "tests/bench/datapath.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ETHERNET 14
#define IPV4	 20
#define UDP	 8
#define VXLAN	 8

struct generator {
	struct flow flow;
	int fd;
	struct sockaddr_in to;
	uint8_t packet[VXLAN + ETHERNET + IPV4 + UDP + PAYLOAD_MAX];
	size_t len;
	struct iovec iov;
	struct mmsghdr messages[BATCH];
	struct xdp_md xdp;
};

static void put16(uint8_t *at, size_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, value >> 16);
	put16(at + 2, value & 0xffff);
}

/* The frame of a workload; the length. */
static size_t put_frame(uint8_t *frame, const struct flow *flow)
{
	uint8_t *ip = frame + ETHERNET;
	uint32_t sum = 0;

	put16(frame, 0x0100);
	put32(frame + 2, 0x5e000000 | (flow->group & 0x7fffff));
	put16(frame + 6, 0x0200);
	put32(frame + 8, 0x0a0a0a0a);
	put16(frame + 12, 0x0800);
	put16(ip, 0x4500);
	put16(ip + 2, IPV4 + UDP + flow->payload);
	ip[8] = 16;
	ip[9] = IPPROTO_UDP;
	put32(ip + 12, 0x0a500001);
	put32(ip + 16, flow->group);
	for (int i = 0; i < IPV4; i += 2)
		sum += (uint32_t)(ip[i] << 8 | ip[i + 1]);
	sum = (sum & 0xffff) + (sum >> 16);
	put16(ip + 10, ~(sum + (sum >> 16)) & 0xffff);
	put16(ip + IPV4, DATA_PORT);
	put16(ip + IPV4 + 2, DATA_PORT);
	put16(ip + IPV4 + 4, UDP + flow->payload);
	return ETHERNET + IPV4 + UDP + flow->payload;
}

static void open_socket(struct generator *g)
{
	bool overlay = g->flow.kind == GENERATE_OVERLAY;
	struct sockaddr_in from = { .sin_family = AF_INET };
	struct ip_mreqn interface = { .imr_address.s_addr = 0 };
	int no = 0, yes = 1, ttl = 16;

	net_switch(overlay ? "far" : "senders");
	g->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	from.sin_addr.s_addr =
		htonl((overlay ? 0x0a5a0002 : 0x0a500001) | (uint32_t)g->flow.stand << 8);
	if (g->fd < 0 || bind(g->fd, (struct sockaddr *)&from, sizeof(from)) < 0)
		die("socket: %s", strerror(errno));
	g->to = (struct sockaddr_in){ .sin_family = AF_INET };
	if (overlay) {
		/* As VXLAN over IPv4 is sent. */
		setsockopt(g->fd, SOL_SOCKET, SO_NO_CHECK, &yes, sizeof(yes));
		g->to.sin_port = htons(g->flow.udp_port);
		g->to.sin_addr.s_addr = htonl(0x0a5a0001 | (uint32_t)g->flow.stand << 8);
	} else {
		g->to.sin_port = htons(DATA_PORT);
		g->to.sin_addr.s_addr = htonl(g->flow.group);
		interface.imr_ifindex = (int)net_ifindex("s%d", g->flow.stand);
		if (setsockopt(g->fd, IPPROTO_IP, IP_MULTICAST_IF, &interface, sizeof(interface)) <
			    0 ||
		    setsockopt(g->fd, IPPROTO_IP, IP_MULTICAST_TTL, &ttl, sizeof(ttl)) < 0 ||
		    setsockopt(g->fd, IPPROTO_IP, IP_MULTICAST_LOOP, &no, sizeof(no)) < 0)
			die("multicast socket: %s", strerror(errno));
	}
	net_switch("");
}

struct generator *generator_open(const struct flow *flow, int xdp_prog_fd)
{
	struct generator *g = calloc(1, sizeof(*g));

	if (!g)
		die("out of memory");
	g->flow = *flow;
	g->fd = -1;
	switch (flow->kind) {
	case GENERATE_WORKLOAD:
		g->len = flow->payload;
		open_socket(g);
		break;
	case GENERATE_OVERLAY:
		g->packet[0] = 0x08;
		put32(g->packet + 4, flow->vni << 8);
		g->len = VXLAN + put_frame(g->packet + VXLAN, flow);
		open_socket(g);
		break;
	case GENERATE_BURST:
		g->fd = dup(xdp_prog_fd);
		g->len = put_frame(g->packet, flow);
		g->xdp.data_end = (uint32_t)g->len;
		g->xdp.ingress_ifindex = net_ifindex("h%dn0", flow->stand);
		break;
	}
	g->iov = (struct iovec){ g->packet, g->len };
	for (int i = 0; i < BATCH; i++) {
		g->messages[i].msg_hdr = (struct msghdr){
			.msg_name = &g->to,
			.msg_namelen = sizeof(g->to),
			.msg_iov = &g->iov,
			.msg_iovlen = 1,
		};
	}
	return g;
}

static void send_burst(struct generator *g, unsigned int packets)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = g->packet, .data_size_in = (uint32_t)g->len,
		    .ctx_in = &g->xdp, .ctx_size_in = sizeof(g->xdp), .repeat = (int)packets,
		    .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = BATCH);

	if (bpf_prog_test_run_opts(g->fd, &opts) < 0)
		die("live frames: %s", strerror(errno));
}

void generator_send(struct generator *g, unsigned int packets)
{
	if (g->flow.kind == GENERATE_BURST) {
		send_burst(g, packets);
		return;
	}
	while (packets) {
		unsigned int n = packets < BATCH ? packets : BATCH;
		int sent = sendmmsg(g->fd, g->messages, n, 0);

		/* A full queue on the way is the packet's loss. */
		if (sent < 0 && errno != ENOBUFS)
			die("sendmmsg: %s", strerror(errno));
		packets -= sent < 0 ? 1 : (unsigned int)sent;
	}
}

void generator_close(struct generator *g)
{
	if (g && g->fd >= 0)
		close(g->fd);
	free(g);
}
