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
#define ANSWER_MAX    2048
#define POLL_NS	      5000000
#define COMMAND_MAX   1536
#define ARGUMENTS_MAX 48

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

/* Separated by blanks; none is in a value. */
const char *etcd_arguments = "";

static void command_make(const struct etcd_cluster *c, int i, char line[COMMAND_MAX])
{
	const struct etcd_member *m = &c->members[i];
	const char *s = c->pki[0] ? "s" : "";
	int n;

	n = snprintf(line, COMMAND_MAX,
		     PROGRAM
		     " --name m%d --data-dir %s/m%d --listen-client-urls http%s://127.0.0.1:%d"
		     " --advertise-client-urls http%s://127.0.0.1:%d"
		     " --listen-peer-urls http://127.0.0.1:%d"
		     " --initial-advertise-peer-urls http://127.0.0.1:%d --initial-cluster %s"
		     " --listen-metrics-urls http://127.0.0.1:%d --heartbeat-interval 20"
		     " --election-timeout 100 --unsafe-no-fsync --logger zap"
		     " --log-outputs /dev/null",
		     i, c->folder, i, s, m->client_port, s, m->client_port, m->peer_port,
		     m->peer_port, c->initial, m->health_port);
	if (c->pki[0])
		n += snprintf(
			line + n, COMMAND_MAX - (size_t)n,
			" --client-cert-auth --trusted-ca-file %s/ca.pem --cert-file %s/c1.pem"
			" --key-file %s/c1.key",
			c->pki, c->pki, c->pki);
	n += snprintf(line + n, COMMAND_MAX - (size_t)n, "%s", etcd_arguments);
	cr_assert_lt(n, COMMAND_MAX);
}

void etcd_member_start(struct etcd_cluster *c, int i)
{
	char line[COMMAND_MAX], *arguments[ARGUMENTS_MAX + 1] = { 0 }, *rest = line;
	struct etcd_member *m = &c->members[i];
	pid_t parent = getpid();

	command_make(c, i, line);
	for (size_t n = 0; rest && n < ARGUMENTS_MAX; n++)
		arguments[n] = strsep(&rest, " ");
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
	execv(PROGRAM, arguments);
	_exit(127);
}

/* One HTTP exchange; false: nobody is there. */
static bool http(int port, const char *request, char answer[ANSWER_MAX])
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_port = htons((uint16_t)port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t at = 0;
	ssize_t n;

	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 &&
	    write(fd, request, strlen(request)) > 0) {
		while (at < ANSWER_MAX - 1 && (n = read(fd, answer + at, ANSWER_MAX - 1 - at)) > 0)
			at += (size_t)n;
	}
	close(fd);
	answer[at] = 0;
	return at;
}

/* /health says true once the member is in a cluster that has a leader. */
static bool is_healthy(int port)
{
	char answer[ANSWER_MAX];

	return http(port, "GET /health HTTP/1.0\r\n\r\n", answer) &&
	       strstr(answer, "\"health\":\"true\"");
}

void etcd_post(const struct etcd_cluster *c, const char *path, const char *body)
{
	char request[ANSWER_MAX], answer[ANSWER_MAX];

	snprintf(request, sizeof(request),
		 "POST %s HTTP/1.0\r\nContent-Type: application/json\r\n"
		 "Content-Length: %zu\r\n\r\n%s",
		 path, strlen(body), body);
	cr_assert(http(c->members[0].client_port, request, answer));
	cr_assert_not_null(strstr(answer, " 200 "), "%s: %s", path, answer);
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

static void cluster_begin(struct etcd_cluster *c, int n)
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
		m->health_port = etcd_free_port();
		at += (size_t)snprintf(c->initial + at, sizeof(c->initial) - at,
				       "%sm%d=http://127.0.0.1:%d", i ? "," : "", i, m->peer_port);
		end += (size_t)snprintf(c->endpoints + end, sizeof(c->endpoints) - end,
					"%s127.0.0.1:%d", i ? "," : "", m->client_port);
	}
}

static void cluster_wait(struct etcd_cluster *c)
{
	for (int i = 0; i < c->n; i++)
		etcd_member_start(c, i);
	for (int i = 0; i < c->n; i++)
		wait_healthy(c->members[i].health_port);
}

void etcd_cluster_start(struct etcd_cluster *c, int n)
{
	cluster_begin(c, n);
	cluster_wait(c);
}

void etcd_cluster_start_tls(struct etcd_cluster *c, const char *source_dir)
{
	char line[512];

	cluster_begin(c, 1);
	snprintf(c->pki, sizeof(c->pki), "%s/pki", c->folder);
	snprintf(line, sizeof(line), "/usr/bin/python3 %s/deploy/pki/mcmesh-pki %s ca", source_dir,
		 c->pki);
	cr_assert_eq(system(line), 0);
	snprintf(line, sizeof(line),
		 "/usr/bin/python3 %s/deploy/pki/mcmesh-pki %s controller c1 --host 127.0.0.1",
		 source_dir, c->pki);
	cr_assert_eq(system(line), 0);
	cluster_wait(c);
}

void etcd_member_freeze(struct etcd_cluster *c, int i)
{
	kill(c->members[i].pid, SIGSTOP);
	waitpid(c->members[i].pid, NULL, WUNTRACED); /* its last thread stands, too */
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
