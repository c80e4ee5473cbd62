/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: how long the mesh takes to follow a change of membership.
 *
 * One process is a sender in one workload and a member in another, both by raw
 * frames, so that no host's own IGMP timer is measured. Arrival is the
 * kernel's timestamp of the frame, on the clock that the report was sent by.
 *
 *   converge one  SENDER-NS RECEIVER-NS ROUNDS INTERVAL-US PAUSE-MS
 *   converge bulk SENDER-NS RECEIVER-NS GROUPS INTERVAL-US 0
 *
 * one: a fresh group a round. The sender sends to it each interval; the member
 * reports it at a random phase, and leaves it once packets came. A line a
 * round: join → first packet, leave → last packet, in ns. Before each round the mesh
 * has the pause to come to rest; without one the rounds follow each other.
 * bulk: all groups are reported at once while the sender goes round them each
 * interval. A line a group: report → first packet, in ns.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S	1000000000LL
#define GROUP_BASE	0xef140000u /* 239.20.0.0 */
#define GROUPS_MAX	60000
#define ROUND_DEADLINE	(5 * NS_PER_S)
#define QUIET_NS	(30 * 1000000LL) /* no packet for so long: the leave is done */
#define WARM_UP_PACKETS 5
#define RECORDS_A_FRAME 180
#define RECEIVE_BUFFER	(8 << 20)
#define UDP_PORT	5000
#define IP_OFF		14
#define IP_DST		(IP_OFF + 16)

struct side {
	int fd;
	uint8_t mac[6];
	uint32_t address; /* network order */
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * NS_PER_S + t.tv_nsec;
}

/* A raw socket on eth0 of a namespace, with that interface's addresses. */
static struct side side_open(const char *namespace)
{
	char path[128];
	struct ifreq mac = { .ifr_name = "eth0" }, address = { .ifr_name = "eth0" };
	struct sockaddr_ll ll = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP) };
	int on = 1, size = RECEIVE_BUFFER, ns, inet;
	struct side s;

	snprintf(path, sizeof(path), "/run/netns/%s", namespace);
	ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
		die(path);
	close(ns);
	s.fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_IP));
	inet = socket(AF_INET, SOCK_DGRAM, 0);
	if (s.fd < 0 || inet < 0)
		die("socket");
	if (ioctl(inet, SIOCGIFHWADDR, &mac) < 0 || ioctl(inet, SIOCGIFADDR, &address) < 0)
		die("eth0");
	close(inet);
	memcpy(s.mac, mac.ifr_hwaddr.sa_data, 6);
	s.address = ((struct sockaddr_in *)(void *)&address.ifr_addr)->sin_addr.s_addr;
	setsockopt(s.fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on));
	setsockopt(s.fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	if (ioctl(s.fd, SIOCGIFINDEX, &mac) < 0)
		die("SIOCGIFINDEX");
	ll.sll_ifindex = mac.ifr_ifindex;
	if (bind(s.fd, (struct sockaddr *)&ll, sizeof(ll)) < 0)
		die("bind");
	return s;
}

static uint16_t checksum(const uint8_t *data, size_t len)
{
	uint32_t sum = 0;

	for (size_t i = 0; i + 1 < len; i += 2)
		sum += (uint32_t)(data[i] << 8 | data[i + 1]);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

static void put16(uint8_t *at, uint16_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static void put_group(uint8_t *at, uint32_t group)
{
	uint32_t be = htonl(group);

	memcpy(at, &be, 4);
}

/* Ethernet and IPv4 headers; returns their length. */
static size_t put_headers(uint8_t *frame, const struct side *s, uint32_t group, uint8_t protocol,
			  uint8_t ttl, bool alert, size_t payload)
{
	size_t head = alert ? 24 : 20;
	uint8_t *ip = frame + IP_OFF;
	uint16_t sum;

	frame[0] = 0x01, frame[1] = 0x00, frame[2] = 0x5e;
	frame[3] = (group >> 16) & 0x7f, frame[4] = (uint8_t)(group >> 8),
	frame[5] = (uint8_t)group;
	memcpy(frame + 6, s->mac, 6);
	put16(frame + 12, ETH_P_IP);
	memset(ip, 0, head);
	ip[0] = (uint8_t)(0x40 | head / 4);
	put16(ip + 2, (uint16_t)(head + payload));
	ip[8] = ttl;
	ip[9] = protocol;
	memcpy(ip + 12, &s->address, 4);
	put_group(ip + 16, group);
	if (alert)
		ip[20] = 0x94, ip[21] = 4;
	sum = checksum(ip, head);
	memcpy(ip + 10, &sum, 2);
	return IP_OFF + head;
}

static void send_data(const struct side *s, uint32_t group)
{
	uint8_t frame[14 + 20 + 8 + 64] = { 0 };
	size_t n = put_headers(frame, s, group, IPPROTO_UDP, 8, false, 8 + 64);

	put16(frame + n, UDP_PORT);
	put16(frame + n + 2, UDP_PORT);
	put16(frame + n + 4, 8 + 64);
	/* A full queue loses a probe, the next one comes an interval later. */
	if (send(s->fd, frame, sizeof(frame), 0) < 0 && errno != EAGAIN && errno != ENOBUFS)
		die("send");
}

/* One IGMPv3 report with a record for each of n consecutive groups. */
static void send_report(const struct side *s, uint32_t group, uint32_t n, uint8_t type)
{
	uint8_t frame[14 + 24 + 8 + 8 * RECORDS_A_FRAME] = { 0 };
	size_t len = 8 + 8 * (size_t)n, off;
	uint8_t *igmp;
	uint16_t sum;

	off = put_headers(frame, s, 0xe0000016u, IPPROTO_IGMP, 1, true, len);
	igmp = frame + off;
	igmp[0] = 0x22;
	put16(igmp + 6, (uint16_t)n);
	for (uint32_t i = 0; i < n; i++) {
		igmp[8 + 8 * i] = type;
		put_group(igmp + 12 + 8 * i, group + i);
	}
	sum = checksum(igmp, len);
	memcpy(igmp + 2, &sum, 2);
	if (send(s->fd, frame, off + len, 0) < 0)
		die("send");
}

/* The next data frame that came in: its group and time, or false when none waits. */
static bool receive(const struct side *s, uint32_t *ret_group, int64_t *ret_at)
{
	uint8_t frame[256], control[128];
	struct sockaddr_ll from;
	struct iovec iov = { frame, sizeof(frame) };

	for (;;) {
		struct msghdr msg = { .msg_name = &from,
				      .msg_namelen = sizeof(from),
				      .msg_iov = &iov,
				      .msg_iovlen = 1,
				      .msg_control = control,
				      .msg_controllen = sizeof(control) };
		ssize_t n = recvmsg(s->fd, &msg, 0);
		struct timespec at;
		uint32_t be;

		if (n < 0) {
			if (errno != EAGAIN && errno != EINTR)
				die("recvmsg");
			return false;
		}
		if (from.sll_pkttype == PACKET_OUTGOING || n < 42 ||
		    frame[IP_OFF + 9] != IPPROTO_UDP)
			continue;
		memcpy(&be, frame + IP_DST, 4);
		*ret_group = ntohl(be);
		*ret_at = now_ns();
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
			if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SO_TIMESTAMPNS)
				continue;
			memcpy(&at, CMSG_DATA(c), sizeof(at));
			*ret_at = at.tv_sec * NS_PER_S + at.tv_nsec;
		}
		return true;
	}
}

static void wait_for(const struct side *s, int64_t until)
{
	struct pollfd p = { .fd = s->fd, .events = POLLIN };
	int64_t left = until - now_ns();
	struct timespec t;

	if (left <= 0)
		return;
	t = (struct timespec){ left / NS_PER_S, left % NS_PER_S };
	ppoll(&p, 1, &t, NULL);
}

/* Sends each interval until `until`; until the group's first packet when `stop`
 * says so, else until none came for QUIET_NS. Returns the time of the last
 * packet of the group, or 0. */
static int64_t run(const struct side *tx, const struct side *rx, uint32_t group, int64_t *next,
		   int64_t interval, int64_t until, bool stop)
{
	int64_t last = 0, began = now_ns(), at;
	uint32_t got;

	while (now_ns() < until) {
		while (receive(rx, &got, &at)) {
			if (got != group)
				continue;
			last = at;
			if (stop)
				return last;
		}
		if (!stop && now_ns() - (last ? last : began) > QUIET_NS)
			break;
		if (now_ns() >= *next) {
			send_data(tx, group);
			*next += interval;
		}
		wait_for(rx, *next < until ? *next : until);
	}
	return last;
}

static int bench_one(const struct side *tx, const struct side *rx, uint32_t rounds,
		     int64_t interval, int64_t pause)
{
	for (uint32_t i = 0; i < rounds; i++) {
		uint32_t group = GROUP_BASE + (uint32_t)(getpid() & 0x7f) * 256 + i + 1;
		int64_t next, phase, joined, first, left, last, rest = now_ns() + pause, at;
		uint32_t got;

		while (now_ns() < rest) {
			wait_for(rx, rest);
			receive(rx, &got, &at);
		}
		next = now_ns();
		phase = (int64_t)(drand48() * (double)interval);
		if (run(tx, rx, group, &next, interval, next + WARM_UP_PACKETS * interval + phase,
			true)) {
			fprintf(stderr, "converge: a packet came before the join\n");
			return 1;
		}
		joined = now_ns();
		send_report(rx, group, 1, 4); /* TO_EX {} */
		first = run(tx, rx, group, &next, interval, joined + ROUND_DEADLINE, true);
		if (!first) {
			fprintf(stderr, "converge: no packet %lld s after the join\n",
				(long long)(ROUND_DEADLINE / NS_PER_S));
			return 1;
		}
		left = now_ns();
		send_report(rx, group, 1, 3); /* TO_IN {} */
		last = run(tx, rx, group, &next, interval, left + ROUND_DEADLINE, false);
		printf("%lld %lld\n", (long long)(first - joined),
		       (long long)(last > left ? last - left : 0));
	}
	return 0;
}

static int bench_bulk(const struct side *tx, const struct side *rx, uint32_t n, int64_t interval)
{
	int64_t *first = calloc(n, sizeof(*first)), joined, next, at;
	uint32_t base = GROUP_BASE + 0x8000, missing = n, got;

	if (!first)
		die("calloc");
	joined = next = now_ns();
	for (uint32_t i = 0; i < n; i += RECORDS_A_FRAME)
		send_report(rx, base + i, n - i < RECORDS_A_FRAME ? n - i : RECORDS_A_FRAME, 4);
	while (missing && now_ns() < joined + ROUND_DEADLINE) {
		if (now_ns() >= next) {
			/* What receives already needs no probe. */
			for (uint32_t i = 0; i < n; i++)
				if (!first[i])
					send_data(tx, base + i);
			next = now_ns() + interval;
		}
		while (receive(rx, &got, &at))
			if (got - base < n && !first[got - base]) {
				first[got - base] = at;
				missing--;
			}
		wait_for(rx, next);
	}
	for (uint32_t i = 0; i < n; i += RECORDS_A_FRAME)
		send_report(rx, base + i, n - i < RECORDS_A_FRAME ? n - i : RECORDS_A_FRAME, 3);
	for (uint32_t i = 0; i < n; i++)
		if (first[i])
			printf("%lld\n", (long long)(first[i] - joined));
	free(first);
	if (missing)
		fprintf(stderr, "converge: %u of %u groups got nothing\n", missing, n);
	return missing ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct side tx, rx;
	long count, interval_us, pause_ms;

	if (argc != 7) {
		fprintf(stderr,
			"usage: converge one|bulk SENDER-NS RECEIVER-NS N INTERVAL-US PAUSE-MS\n");
		return 2;
	}
	count = strtol(argv[4], NULL, 10);
	interval_us = strtol(argv[5], NULL, 10);
	pause_ms = strtol(argv[6], NULL, 10);
	if (count < 1 || count > GROUPS_MAX || interval_us < 1 || interval_us > 1000000 ||
	    pause_ms < 0 || pause_ms > 10000) {
		fprintf(stderr,
			"converge: N is 1 to %d, INTERVAL-US 1 to 1000000, PAUSE-MS 0 to 10000\n",
			GROUPS_MAX);
		return 2;
	}
	srand48(1);
	prctl(PR_SET_TIMERSLACK, 1UL);
	tx = side_open(argv[2]);
	rx = side_open(argv[3]);
	if (strcmp(argv[1], "one") == 0)
		return bench_one(&tx, &rx, (uint32_t)count, interval_us * 1000, pause_ms * 1000000);
	return bench_bulk(&tx, &rx, (uint32_t)count, interval_us * 1000);
}
