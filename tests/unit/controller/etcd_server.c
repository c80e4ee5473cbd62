/* SPDX-License-Identifier: Apache-2.0 */
#include "etcd_server.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PROGRAM	      "/usr/bin/etcd"
#define START_S	      20
#define POLL_NS	      5000000
#define ARGUMENTS_MAX 32

bool etcd_is_installed(void)
{
	return access(PROGRAM, X_OK) == 0;
}

int etcd_free_port(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port;
	socklen_t len = sizeof(a);

	cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	port = ntohs(a.sin_port);
	close(fd);
	return port;
}

void etcd_member_start(struct etcd_cluster *c, int i)
{
	struct etcd_member *m = &c->members[i];
	char name[8], data[80], client[64], peer[64];
	const char *const arguments[ARGUMENTS_MAX] = {
		PROGRAM,
		"--name",
		name,
		"--data-dir",
		data,
		"--listen-client-urls",
		client,
		"--advertise-client-urls",
		client,
		"--listen-peer-urls",
		peer,
		"--initial-advertise-peer-urls",
		peer,
		"--initial-cluster",
		c->initial,
		"--heartbeat-interval",
		"20",
		"--election-timeout",
		"100",
		"--unsafe-no-fsync",
		"--logger",
		"zap",
		"--log-outputs",
		"/dev/null",
	};
	pid_t parent = getpid();

	snprintf(name, sizeof(name), "m%d", i);
	snprintf(data, sizeof(data), "%s/m%d", c->folder, i);
	snprintf(client, sizeof(client), "http://127.0.0.1:%d", m->client_port);
	snprintf(peer, sizeof(peer), "http://127.0.0.1:%d", m->peer_port);
	m->pid = fork();
	cr_assert_geq(m->pid, 0);
	if (m->pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	close(STDOUT_FILENO);
	close(STDERR_FILENO);
	open("/dev/null", O_WRONLY);
	open("/dev/null", O_WRONLY);
	execv(PROGRAM, (char *const *)arguments);
	_exit(127);
}

/* GET /health says true once the member is in a cluster that has a leader. */
static bool is_healthy(int port)
{
	static const char request[] = "GET /health HTTP/1.0\r\n\r\n";
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_port = htons((uint16_t)port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char answer[1024] = "";
	size_t at = 0;
	ssize_t n;

	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 &&
	    write(fd, request, strlen(request)) > 0) {
		while (at < sizeof(answer) - 1 &&
		       (n = read(fd, answer + at, sizeof(answer) - 1 - at)) > 0)
			at += (size_t)n;
	}
	close(fd);
	return strstr(answer, "\"health\":\"true\"");
}

static void wait_healthy(int port)
{
	const struct timespec poll_interval = { 0, POLL_NS };
	time_t end = time(NULL) + START_S;

	while (!is_healthy(port)) {
		cr_assert_lt(time(NULL), end, "etcd does not come up");
		nanosleep(&poll_interval, NULL); /* poll interval */
	}
}

void etcd_cluster_start(struct etcd_cluster *c, int n)
{
	size_t at = 0, end = 0;

	memset(c, 0, sizeof(*c));
	snprintf(c->folder, sizeof(c->folder), "/tmp/mcmesh-etcd-XXXXXX");
	cr_assert_not_null(mkdtemp(c->folder));
	c->n = n;
	for (int i = 0; i < n; i++) {
		struct etcd_member *m = &c->members[i];

		m->client_port = etcd_free_port();
		m->peer_port = etcd_free_port();
		at += (size_t)snprintf(c->initial + at, sizeof(c->initial) - at,
				       "%sm%d=http://127.0.0.1:%d", i ? "," : "", i, m->peer_port);
		end += (size_t)snprintf(c->endpoints + end, sizeof(c->endpoints) - end,
					"%s127.0.0.1:%d", i ? "," : "", m->client_port);
	}
	for (int i = 0; i < n; i++)
		etcd_member_start(c, i);
	for (int i = 0; i < n; i++)
		wait_healthy(c->members[i].client_port);
}

void etcd_member_kill(struct etcd_cluster *c, int i)
{
	if (!c->members[i].pid)
		return;
	kill(c->members[i].pid, SIGKILL);
	waitpid(c->members[i].pid, NULL, 0);
	c->members[i].pid = 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static void remove_all(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void etcd_member_wipe(struct etcd_cluster *c, int i)
{
	char data[80];

	etcd_member_kill(c, i);
	snprintf(data, sizeof(data), "%s/m%d", c->folder, i);
	remove_all(data);
}

void etcd_cluster_stop(struct etcd_cluster *c)
{
	for (int i = 0; i < c->n; i++)
		etcd_member_kill(c, i);
	remove_all(c->folder);
}
