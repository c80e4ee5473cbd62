/* SPDX-License-Identifier: Apache-2.0 */

/*
 * DOC: strangers at the door
 *
 * Whoever can reach a TCP port can open connections without a certificate. Each
 * is a descriptor and some memory until its handshake fails, or for
 * RPC_HANDSHAKE_TIMEOUT_MS. The library has no limit for them, and an accept(2)
 * that finds no free descriptor ends its listener for good. So before the last
 * descriptors are taken the guard shuts the door: a socket filter on the
 * listening sockets drops what would become new connections (TCP tries again)
 * until enough of the others are gone. Connections that are there do not notice.
 *
 * The kernel gives the lowest free number, so "all below a threshold are taken"
 * is one fcntl(2). The library accepts in a loop that a fast stranger can keep
 * busy, hence a thread of the guard's own; it touches nothing else. It also looks
 * for those who flood (rpc_flood.c).
 *
 * A peer that has vanished is found by TCP's own probes. Those of HTTP/2 would begin
 * anew with all that is read, at a quarter of what a message costs among 5,000.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "common/rpc_internal.h"

/* Descriptors that are left when the door is shut: for what waits for accept(2)
 * then, what came since the last look, and everything else. */
#define GUARD_RESERVE 8192
#define GUARD_BACKLOG 4096
#define GUARD_LOOK_MS 50
/* A peer that is silent for so long is asked; what it does not acknowledge for so long
 * ends its connection. */
#define GUARD_PROBE_S	 10
#define GUARD_PATIENCE_S 15

struct rpc_guard {
	int *fds; /* the library's: not ours to close */
	uint16_t *ports;
	size_t n;
	struct rpc_flood *flood;
	int reserve, shut_at, open_at;
	bool is_shut;
	atomic_uint_fast64_t shut;
	pthread_t thread;
	int stop_fd; /* readable: the thread ends; -1: there is none */
};

static bool listens_on(int fd, int port)
{
	struct sockaddr_in6 address = { 0 };
	socklen_t size = sizeof(address), int_size = sizeof(int);
	int listening = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &int_size) < 0 || !listening ||
	    getsockname(fd, (struct sockaddr *)&address, &size) < 0)
		return false;
	/* The port is at the same place in both. */
	return (address.sin6_family == AF_INET || address.sin6_family == AF_INET6) &&
	       ntohs(address.sin6_port) == port;
}

static void guard_measure(struct rpc_guard *guard)
{
	struct rlimit limit = { 0 };
	rlim_t files, reserve;

	getrlimit(RLIMIT_NOFILE, &limit);
	files = limit.rlim_cur < INT32_MAX ? limit.rlim_cur : INT32_MAX;
	reserve = files / 4 * 3 < GUARD_RESERVE ? files / 4 * 3 : GUARD_RESERVE;
	guard->reserve = (int)reserve;
	guard->shut_at = (int)(files - reserve);
	guard->open_at = guard->shut_at - guard->shut_at / 8;
}

/* Accepted sockets inherit it. */
static void guard_probe(int fd)
{
	static const struct {
		int level, name, value;
	} options[] = {
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, GUARD_PROBE_S },
		{ IPPROTO_TCP, TCP_KEEPINTVL, GUARD_PATIENCE_S - GUARD_PROBE_S },
		{ IPPROTO_TCP, TCP_USER_TIMEOUT, GUARD_PATIENCE_S * 1000 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		setsockopt(fd, options[i].level, options[i].name, &options[i].value,
			   sizeof(options[i].value));
}

static int guard_add(struct rpc_guard *guard, int fd, int port)
{
	int *fds = reallocarray(guard->fds, guard->n + 1, sizeof(*fds));
	uint16_t *ports = reallocarray(guard->ports, guard->n + 1, sizeof(*ports));
	int backlog;

	guard->fds = fds ?: guard->fds;
	guard->ports = ports ?: guard->ports;
	if (!fds || !ports)
		return -ENOMEM;
	guard->ports[guard->n] = (uint16_t)port;
	guard->fds[guard->n++] = fd;
	guard_probe(fd);
	/* What waits there counts against the reserve: not more than half of it. */
	guard_measure(guard);
	backlog = guard->reserve / 2 < GUARD_BACKLOG ? guard->reserve / 2 : GUARD_BACKLOG;
	return listen(fd, backlog) < 0 ? -errno : 0;
}

static struct rpc_guard *guard_new(void)
{
	struct rpc_guard *guard = calloc(1, sizeof(*guard));

	if (guard)
		guard->stop_fd = -1;
	return guard;
}

int rpc_guard_listen(struct rpc_guard **guard, int port)
{
	struct rpc_guard *g = *guard ?: guard_new();
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	int r = 0;

	*guard = g;
	if (!g || !dir) {
		if (dir)
			closedir(dir);
		return -ENOMEM;
	}
	while (r == 0 && (entry = readdir(dir))) {
		int fd = atoi(entry->d_name);

		if (fd > 0 && listens_on(fd, port))
			r = guard_add(g, fd, port);
	}
	closedir(dir);
	return r;
}

/* On the listening sockets: nobody, but those who are banned, or all. */
static void guard_filter(struct rpc_guard *guard)
{
	struct sock_filter code[RPC_FLOOD_FILTER_MAX] = { BPF_STMT(BPF_RET | BPF_K, 0) };
	struct sock_fprog program = { 1, code };

	if (!guard->is_shut)
		program.len = (unsigned short)rpc_flood_filter(guard->flood, code);
	for (size_t i = 0; i < guard->n; i++)
		setsockopt(guard->fds[i], SOL_SOCKET,
			   program.len ? SO_ATTACH_FILTER : SO_DETACH_FILTER, &program,
			   sizeof(program));
}

static void guard_set(struct rpc_guard *guard, bool shut)
{
	guard->is_shut = shut;
	guard_filter(guard);
	atomic_fetch_add(&guard->shut, shut);
}

static void guard_look(struct rpc_guard *guard)
{
	int lowest = fcntl(guard->fds[0], F_DUPFD_CLOEXEC, 0);

	guard_measure(guard);
	if (lowest >= 0)
		close(lowest);
	else
		lowest = guard->shut_at;
	if (!guard->is_shut && lowest >= guard->shut_at)
		guard_set(guard, true);
	else if (guard->is_shut && lowest < guard->open_at)
		guard_set(guard, false);
	if (guard->flood && rpc_flood_look(guard->flood, guard->ports, guard->n))
		guard_filter(guard);
}

static void *guard_thread(void *arg)
{
	struct rpc_guard *guard = arg;
	struct pollfd stop = { .fd = guard->stop_fd, .events = POLLIN };

	while (poll(&stop, 1, GUARD_LOOK_MS) <= 0)
		guard_look(guard);
	return NULL;
}

int rpc_guard_start(struct rpc_guard *guard, struct rpc *rpc)
{
	sigset_t all, old;
	int r;

	if (!guard || !guard->n)
		return 0;
	guard->flood = rpc_flood_new(rpc);
	guard->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (guard->stop_fd < 0)
		return -errno;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = -pthread_create(&guard->thread, NULL, guard_thread, guard);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r < 0) {
		close(guard->stop_fd);
		guard->stop_fd = -1;
	}
	return r;
}

void rpc_guard_stop(struct rpc_guard *guard)
{
	if (!guard || guard->stop_fd < 0)
		return;
	eventfd_write(guard->stop_fd, 1);
	pthread_join(guard->thread, NULL);
	close(guard->stop_fd);
	guard->stop_fd = -1;
}

uint64_t rpc_guard_shut(const struct rpc_guard *guard)
{
	return guard ? atomic_load(&((struct rpc_guard *)guard)->shut) : 0;
}

uint64_t rpc_guard_cut(const struct rpc_guard *guard)
{
	return guard ? rpc_flood_cut(guard->flood) : 0;
}

void rpc_guard_free(struct rpc_guard *guard)
{
	if (!guard)
		return;
	rpc_guard_stop(guard);
	rpc_flood_free(guard->flood);
	free(guard->fds);
	free(guard->ports);
	free(guard);
}
