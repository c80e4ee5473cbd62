/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/datapath.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "common/cleanup.h"

static int node_fd = -1;

void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fprintf(stderr, "bench: ");
	vfprintf(stderr, format, args);
	fprintf(stderr, "\n");
	va_end(args);
	exit(1);
}

void net_run(const char *format, ...)
{
	char command[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	if (system(command) != 0)
		die("this failed: %s", command);
}

/* tool: "ip" or "bridge". */
void net_batch(const char *tool, const char *text)
{
	char command[64];
	FILE *pipe;

	snprintf(command, sizeof(command), "%s -batch -", tool);
	pipe = popen(command, "w");
	if (!pipe || fputs(text, pipe) < 0 || pclose(pipe) != 0)
		die("%s failed", command);
}

void net_enter(void)
{
	if (unshare(CLONE_NEWNET | CLONE_NEWNS) < 0)
		die("needs root: %s", strerror(errno));
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", "/run", "tmpfs", 0, NULL) < 0 ||
	    mount("sysfs", "/sys", "sysfs", 0, NULL) < 0 ||
	    mount("bpf", "/sys/fs/bpf", "bpf", 0, NULL) < 0)
		die("cannot mount: %s", strerror(errno));
	node_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	net_run("ip netns add senders && ip netns add workloads && ip netns add far");
	for (const char *const *ns =
		     (const char *const[]){ "", "senders", "workloads", "far", NULL };
	     *ns; ns++) {
		net_switch(*ns);
		net_run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1 && ip link set lo up");
	}
	net_switch("");
}

void net_switch(const char *namespace)
{
	_cleanup_close_ int fd = -1;
	char path[64];

	snprintf(path, sizeof(path), "/run/netns/%s", namespace);
	if (*namespace)
		fd = open(path, O_RDONLY | O_CLOEXEC);
	if (setns(*namespace ? fd : node_fd, CLONE_NEWNET) < 0)
		die("namespace \"%s\": %s", namespace, strerror(errno));
}

uint32_t net_ifindex(const char *format, ...)
{
	char name[IF_NAMESIZE];
	va_list args;
	uint32_t ifindex;

	va_start(args, format);
	vsnprintf(name, sizeof(name), format, args);
	va_end(args);
	ifindex = if_nametoindex(name);
	if (!ifindex)
		die("no interface %s", name);
	return ifindex;
}

static void make_workloads(FILE *out, unsigned int k)
{
	unsigned int receivers = k == STAND_BASE ? 0 : k == STAND_REDIRECT ? 1 : WORKLOADS;

	fprintf(out, "link add h%un0 mtu 9000 type veth peer name s%u mtu 9000 netns senders\n", k,
		k);
	for (unsigned int i = 1; i <= receivers; i++)
		fprintf(out,
			"link add h%un%u mtu 9000 type veth peer name w%un%u mtu 9000 "
			"netns workloads\n",
			k, i, k, i);
	for (unsigned int i = 0; i <= receivers; i++)
		fprintf(out, "link set h%un%u up\n", k, i);
}

static void make_underlay(FILE *out, unsigned int k)
{
	fprintf(out,
		"link add u%u mtu 9000 address 02:00:00:00:%02x:01 type veth peer name v%u "
		"mtu 9000 address 02:00:00:00:%02x:02 netns far\n"
		"addr add 10.90.%u.1/24 dev u%u\nlink set u%u up\n",
		k, k, k, k, k, k, k);
	for (unsigned int i = 2; i < 2 + REMOTES; i++)
		fprintf(out,
			"neigh add 10.90.%u.%u lladdr 02:00:00:00:%02x:02 dev u%u nud permanent\n",
			k, i, k, k);
}

/* Writes with fn for each stand, and hands it to `ip` in the namespace. */
static void for_stands(unsigned int stands, const char *namespace,
		       void (*fn)(FILE *out, unsigned int k))
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		die("out of memory");
	for (unsigned int k = 0; k < STANDS; k++) {
		if (stands & 1U << k)
			fn(out, k);
	}
	fclose(out);
	net_switch(namespace);
	net_batch("ip", text);
	net_switch("");
	free(text);
}

static void raise_sender(FILE *out, unsigned int k)
{
	fprintf(out, "addr add 10.80.%u.1/24 dev s%u\nlink set s%u up\n", k, k, k);
}

static void raise_workloads(FILE *out, unsigned int k)
{
	unsigned int receivers = k == STAND_BASE ? 0 : k == STAND_REDIRECT ? 1 : WORKLOADS;

	for (unsigned int i = 1; i <= receivers; i++)
		fprintf(out, "link set w%un%u up\n", k, i);
	fprintf(out, "link set wf%u up\n", k);
}

static void raise_far(FILE *out, unsigned int k)
{
	fprintf(out,
		"addr add 10.90.%u.2/24 dev v%u\nlink set v%u up\n"
		"neigh add 10.90.%u.1 lladdr 02:00:00:00:%02x:01 dev v%u nud permanent\n"
		"link add f%u mtu 9000 type veth peer name wf%u mtu 9000 netns workloads\n"
		"link set f%u up\n",
		k, k, k, k, k, k, k, k, k);
}

void net_make_devices(unsigned int stands)
{
	for_stands(stands, "", make_workloads);
	for_stands(stands, "", make_underlay);
	for_stands(stands, "senders", raise_sender);
	for_stands(stands, "far", raise_far);
	for_stands(stands, "workloads", raise_workloads);
}
