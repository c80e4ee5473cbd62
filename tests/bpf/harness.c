/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bpf/harness.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bpf/shared.h"
#include "common/cleanup.h"
#include "node/datapath/internal.h"

#define WAIT_MS	  2000
#define SETTLE_MS 50

void harness_run(const char *format, ...)
{
	char command[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	cr_assert_eq(system(command), 0, "%s", command);
}

bool harness_enter(unsigned int n_ports)
{
	char path[] = "/tmp/mcmesh_test_XXXXXX";
	int fd;
	FILE *batch;

	if (unshare(CLONE_NEWNET | CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		cr_skip_test("needs root: %s", strerror(errno));
		return false;
	}
	cr_assert_eq(mount("bpf", "/sys/fs/bpf", "bpf", 0, NULL), 0);
	harness_run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
	fd = mkstemp(path);
	cr_assert_geq(fd, 0);
	batch = fdopen(fd, "w");
	cr_assert(batch);
	fprintf(batch, "link set lo up\n");
	for (unsigned int i = 0; i < n_ports; i++)
		fprintf(batch,
			"link add p%u type veth peer name w%u\n"
			"link set p%u up mtu 9500\nlink set w%u up mtu 9500\n",
			i, i, i, i);
	fclose(batch);
	harness_run("ip -batch %s", path);
	unlink(path);
	return true;
}

bool harness_needs_tcx(void)
{
	if (!datapath_probe_tcx())
		cr_skip_test("this kernel has no TCX");
	return datapath_probe_tcx();
}

struct datapath *harness_open(const struct datapath_options *options)
{
	struct datapath_options small = {
		.root = HARNESS_ROOT,
		.max_ports = 64,
		.max_remotes = 64,
		.max_routes = 256,
		.max_lists = 4096,
		.max_segments = 16,
		.punt_ring_bytes = 16384,
	};
	char why[DATAPATH_WHY_MAX] = "";
	struct datapath *dp = NULL;

	cr_assert_eq(datapath_open(options ? options : &small, &dp, why), 0, "%s", why);
	return dp;
}

uint32_t harness_ifindex(const char *format, unsigned int n)
{
	char name[IF_NAMESIZE];

	snprintf(name, sizeof(name), "%.8s%u", format, n);
	return if_nametoindex(name);
}

struct sum {
	const char *name;
	uint32_t ifindex;
	uint64_t packets;
};

static int add(const struct datapath_counter *counter, void *userdata)
{
	struct sum *sum = userdata;

	if (strcmp(counter->name, sum->name) == 0 &&
	    (!sum->ifindex || sum->ifindex == counter->ifindex))
		sum->packets += counter->packets;
	return 0;
}

uint64_t harness_counter(struct datapath *dp, const char *name, uint32_t ifindex)
{
	struct sum sum = { name, ifindex, 0 };

	cr_assert_eq(datapath_counters_walk(dp, add, &sum), 0);
	return sum.packets;
}

uint64_t harness_counter_wait(struct datapath *dp, const char *name, uint64_t want)
{
	uint64_t n = 0;

	for (int i = 0; i < WAIT_MS && (n = harness_counter(dp, name, 0)) < want; i++)
		poll(NULL, 0, 1);
	return n;
}

int harness_socket(const char *format, unsigned int n)
{
	struct sockaddr_ll sll = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = (int)harness_ifindex(format, n),
	};
	int one = 1, size = 32 << 20;
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	cr_assert_geq(fd, 0);
	setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	cr_assert_eq(bind(fd, (struct sockaddr *)&sll, sizeof(sll)), 0);
	return fd;
}

void harness_send(int fd, const void *frame, size_t len)
{
	cr_assert_eq(send(fd, frame, len, 0), (ssize_t)len, "%s", strerror(errno));
}

unsigned int harness_receive(int fd, unsigned int want, uint8_t *ret_frame, size_t *ret_len)
{
	uint8_t frame[HARNESS_FRAME];
	unsigned int n = 0;

	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		ssize_t len;

		if (poll(&p, 1, n < want ? WAIT_MS : SETTLE_MS) <= 0)
			return n;
		len = recv(fd, frame, sizeof(frame), 0);
		if (len < 34)
			continue;
		n++;
		if (ret_frame)
			memcpy(ret_frame, frame, (size_t)len);
		if (ret_len)
			*ret_len = (size_t)len;
	}
}

int harness_test_run(const char *prog, uint32_t ifindex, const void *frame, size_t len)
{
	struct __sk_buff ctx = { .ifindex = ifindex };
	uint8_t out[16384];
	char path[128];
	_cleanup_close_ int fd = -1;
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = frame, .data_size_in = (uint32_t)len,
		    .data_out = out, .data_size_out = sizeof(out), .ctx_in = &ctx,
		    .ctx_size_in = sizeof(ctx), .repeat = 1);

	snprintf(path, sizeof(path), "%s/" MCMESH_LAYOUT "/progs/%s", HARNESS_ROOT, prog);
	fd = bpf_obj_get(path);
	cr_assert_geq(fd, 0);
	cr_assert_eq(bpf_prog_test_run_opts(fd, &opts), 0, "test run: %s", strerror(errno));
	return (int)opts.retval;
}

size_t frame_ipv4(uint8_t *frame, const char *source, const char *group, uint8_t proto,
		  unsigned int ihl, const void *payload, size_t len)
{
	size_t head = ihl * 4, total = head + len;
	uint32_t sum = 0;

	memset(frame, 0, 14 + head);
	memcpy(frame + 6, "\x02\0\0\0\0\x01", 6);
	frame[12] = 0x08;
	frame[14] = (uint8_t)(0x40 | ihl);
	frame[16] = (uint8_t)(total >> 8);
	frame[17] = (uint8_t)total;
	frame[22] = 16;
	frame[23] = proto;
	cr_assert_eq(inet_pton(AF_INET, source, frame + 26), 1);
	cr_assert_eq(inet_pton(AF_INET, group, frame + 30), 1);
	frame[0] = 0x01;
	frame[2] = 0x5e;
	frame[3] = frame[31] & 0x7f;
	memcpy(frame + 4, frame + 32, 2);
	for (size_t i = 0; i < head; i += 2)
		sum += (uint32_t)frame[14 + i] << 8 | frame[15 + i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~(sum + (sum >> 16));
	frame[24] = (uint8_t)(sum >> 8);
	frame[25] = (uint8_t)sum;
	if (len)
		memcpy(frame + 14 + head, payload, len);
	return 14 + total;
}

size_t frame_ipv6(uint8_t *frame, const char *source, const char *group, uint8_t next,
		  const void *payload, size_t len)
{
	memset(frame, 0, 54);
	memcpy(frame + 6, "\x02\0\0\0\0\x01", 6);
	frame[12] = 0x86;
	frame[13] = 0xdd;
	frame[14] = 0x60;
	frame[18] = (uint8_t)(len >> 8);
	frame[19] = (uint8_t)len;
	frame[20] = next;
	frame[21] = 16;
	cr_assert_eq(inet_pton(AF_INET6, source, frame + 22), 1);
	cr_assert_eq(inet_pton(AF_INET6, group, frame + 38), 1);
	frame[0] = frame[1] = 0x33;
	memcpy(frame + 2, frame + 50, 4);
	if (len)
		memcpy(frame + 54, payload, len);
	return 54 + len;
}
