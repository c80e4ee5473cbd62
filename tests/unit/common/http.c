/* SPDX-License-Identifier: Apache-2.0 */
#include "common/http.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-event.h>
#include <unistd.h>

static atomic_int woken;
static int rendered;
static bool well = true;

static bool render(enum http_page page, struct metrics *out, void *userdata)
{
	rendered++;
	if (page == HTTP_METRICS) {
		metrics_family(out, "mcmesh_a", "gauge", "What a test shows.");
		metrics_sample(out, 1.5, "text", "a \"quoted\\\nword", NULL);
	} else {
		metrics_html(out, "<&>");
	}
	return well;
}

static void wake(void *userdata)
{
	woken++;
}

static int dial(int port)
{
	struct sockaddr_in sin = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	cr_assert(fd >= 0 && connect(fd, (struct sockaddr *)&sin, sizeof(sin)) == 0);
	return fd;
}

static void ask(int fd, const char *path)
{
	char line[256];
	int n = snprintf(line, sizeof(line),
			 "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);

	cr_assert_eq(write(fd, line, (size_t)n), n);
}

/* The whole answer, closed by the server. */
static const char *answer(int fd)
{
	static char text[65536];
	size_t len = 0;
	ssize_t n;

	while ((n = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)n;
	text[len] = '\0';
	close(fd);
	return text;
}

static bool is_ready(int fd, int timeout_ms)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, timeout_ms) == 1;
}

static struct http *threaded(void)
{
	const struct http_options options = { .listen = "127.0.0.1:0",
					      .render = render,
					      .wake = wake };
	struct http *http;

	cr_assert_eq(http_new(&options, &http), 0);
	return http;
}

Test(http, page_is_written_by_the_loop_when_it_is_asked)
{
	struct http *http = threaded();
	int fd = dial(http_port(http));
	const char *text;

	ask(fd, "/metrics");
	while (!woken)
		poll(NULL, 0, 1); /* poll interval */
	cr_assert_eq(rendered, 0, "not on another thread");
	http_turn(http);
	text = answer(fd);
	cr_assert(strncmp(text, "HTTP/1.1 200 ", 13) == 0, "%s", text);
	cr_assert(strstr(text, "\r\n\r\n# HELP mcmesh_a What a test shows.\n"
			       "# TYPE mcmesh_a gauge\n"
			       "mcmesh_a{text=\"a \\\"quoted\\\\\\nword\"} 1.5\n"));
	/* At once again: the same page. */
	fd = dial(http_port(http));
	ask(fd, "/metrics");
	cr_assert(strstr(answer(fd), "mcmesh_a{"));
	cr_assert_eq(rendered, 1);
	http_free(http);
}

Test(http, loop_that_does_not_come_is_unavailable)
{
	struct http *http = threaded();
	int fd = dial(http_port(http));

	ask(fd, "/healthz");
	cr_assert(strncmp(answer(fd), "HTTP/1.1 503 ", 13) == 0);
	cr_assert_eq(rendered, 0);
	http_free(http);
}

Test(http, fault_and_unknown_paths_are_told)
{
	struct http *http = threaded();
	int fd = dial(http_port(http));

	well = false;
	ask(fd, "/healthz");
	while (!is_ready(fd, 1))
		http_turn(http);
	cr_assert(strncmp(answer(fd), "HTTP/1.1 503 ", 13) == 0);
	fd = dial(http_port(http));
	ask(fd, "/metrics/x");
	cr_assert(strncmp(answer(fd), "HTTP/1.1 404 ", 13) == 0);
	http_free(http);
}

Test(http, end_does_not_wait_for_who_waits)
{
	struct http *http = threaded();
	int fd = dial(http_port(http));

	ask(fd, "/metrics");
	while (!woken)
		poll(NULL, 0, 1); /* poll interval */
	http_free(http);
	close(fd);
	cr_assert_eq(rendered, 0);
}

Test(http, event_loop_answers_on_a_unix_socket)
{
	const char *path = "/tmp/mcmesh-test-http.sock";
	struct http_options options = { .listen = "unix:/tmp/mcmesh-test-http.sock",
					.render = render };
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	sd_event *event;
	struct http *http, *second;
	struct stat st;
	int fd;

	strncpy(sun.sun_path, path, sizeof(sun.sun_path) - 1);
	unlink(path);
	cr_assert(sd_event_new(&event) >= 0);
	cr_assert_eq(http_new_on_event(&options, event, &http), 0);
	cr_assert_eq(http_new_on_event(&options, event, &second), -EADDRINUSE);
	cr_assert(stat(path, &st) == 0 && (st.st_mode & 0777) == 0660);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	cr_assert(connect(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0);
	ask(fd, "/");
	while (!is_ready(fd, 0))
		cr_assert(sd_event_run(event, 1000000) >= 0);
	while (sd_event_run(event, 0) > 0)
		;
	cr_assert(strstr(answer(fd), "\r\n\r\n&lt;&amp;&gt;"));
	http_free(http);
	cr_assert(access(path, F_OK) < 0);
	sd_event_unref(event);
}

Test(http, histogram_counts_up)
{
	struct metrics_histogram h = { 0 };
	struct metrics m = { 0 };

	metrics_observe_us(&h, 1000);
	metrics_observe_us(&h, 1001);
	metrics_observe_us(&h, 20000000);
	metrics_histogram(&m, "mcmesh_h", "Times.", &h);
	cr_assert(strstr(m.text, "mcmesh_h_bucket{le=\"0.001\"} 1\n"
				 "mcmesh_h_bucket{le=\"0.0025\"} 2\n"));
	cr_assert(strstr(m.text, "mcmesh_h_bucket{le=\"10\"} 2\n"
				 "mcmesh_h_bucket{le=\"+Inf\"} 3\n"
				 "mcmesh_h_sum 20.002001\nmcmesh_h_count 3\n"));
	metrics_deinit(&m);
}
