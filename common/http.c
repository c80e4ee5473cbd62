/* SPDX-License-Identifier: Apache-2.0 */
#include "common/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-event.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"

#define BACKLOG	 16
#define HOST_MAX 256
#define TICK_US	 1000000 /* connections that time out are looked at */

struct page {
	struct metrics text;
	bool ok;
	uint64_t written_ms;
};

struct http {
	struct http_options options;
	struct MHD_Daemon *daemon;
	int fd, port;
	char *path; /* of a unix socket */
	sd_event_source *source, *timer;
	struct page pages[HTTP_PAGES];
	/* Between the server's thread and the loop. */
	pthread_mutex_t lock;
	pthread_cond_t written;
	atomic_bool asked;
	bool ended;
	enum http_page wanted;
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- pages -------------------------------------------------------------------------- */

static void page_write(struct http *http, enum http_page which)
{
	struct page *page = &http->pages[which];
	struct metrics text = { 0 };
	bool ok = http->options.render(which, &text, http->options.userdata);

	metrics_deinit(&page->text);
	page->text = text;
	page->ok = ok && !text.failed;
	page->written_ms = now_ms();
}

static bool page_is_fresh(const struct http *http, enum http_page which)
{
	const struct page *page = &http->pages[which];

	return page->written_ms && now_ms() < page->written_ms + HTTP_FRESH_MS;
}

void http_turn(struct http *http)
{
	if (!http || !atomic_load(&http->asked))
		return;
	pthread_mutex_lock(&http->lock);
	page_write(http, http->wanted);
	atomic_store(&http->asked, false);
	pthread_cond_signal(&http->written);
	pthread_mutex_unlock(&http->lock);
}

/* On the server's thread, with the lock: false when the loop does not come. */
static bool page_ask(struct http *http, enum http_page which)
{
	struct timespec until;

	if (http->ended)
		return false;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += HTTP_WAIT_MS / 1000;
	http->wanted = which;
	atomic_store(&http->asked, true);
	http->options.wake(http->options.userdata);
	while (atomic_load(&http->asked)) {
		if (pthread_cond_timedwait(&http->written, &http->lock, &until) == ETIMEDOUT &&
		    atomic_load(&http->asked)) {
			atomic_store(&http->asked, false);
			return false;
		}
	}
	return !http->ended;
}

static struct MHD_Response *text_response(const char *text)
{
	return MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_PERSISTENT);
}

static struct MHD_Response *page_response(struct http *http, enum http_page which, int *ret_status)
{
	const struct page *page = &http->pages[which];
	struct MHD_Response *response;
	bool come = true;

	pthread_mutex_lock(&http->lock);
	if (!page_is_fresh(http, which)) {
		if (http->options.wake)
			come = page_ask(http, which);
		else
			page_write(http, which);
	}
	if (!come) {
		*ret_status = MHD_HTTP_SERVICE_UNAVAILABLE;
		response = text_response("the program's loop does not answer\n");
	} else {
		*ret_status = page->ok ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
		response =
			page->text.failed || !page->text.text
				? text_response("out of memory\n")
				: MHD_create_response_from_buffer(page->text.len, page->text.text,
								  MHD_RESPMEM_MUST_COPY);
	}
	pthread_mutex_unlock(&http->lock);
	return response;
}

/* ---- requests ----------------------------------------------------------------------- */

static const struct {
	const char *path, *type;
} pages[HTTP_PAGES] = {
	[HTTP_METRICS] = { "/metrics", "text/plain; version=0.0.4; charset=utf-8" },
	[HTTP_HEALTH] = { "/healthz", "text/plain; charset=utf-8" },
	[HTTP_STATUS] = { "/", "text/html; charset=utf-8" },
};

static enum MHD_Result answer(struct MHD_Connection *connection, struct MHD_Response *response,
			      int status, const char *type)
{
	enum MHD_Result r;

	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	MHD_add_response_header(response, "Content-Security-Policy",
				"default-src 'none'; "
				"style-src 'unsafe-inline'");
	MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
	r = MHD_queue_response(connection, (unsigned int)status, response);
	MHD_destroy_response(response);
	return r;
}

static enum MHD_Result on_request(void *userdata, struct MHD_Connection *connection,
				  const char *url, const char *method, const char *version,
				  const char *body, size_t *body_size, void **state)
{
	static char begun;
	struct http *http = userdata;
	struct MHD_Response *response;
	int status;

	if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
		return answer(connection, text_response("only GET and HEAD\n"),
			      MHD_HTTP_METHOD_NOT_ALLOWED, pages[HTTP_HEALTH].type);
	/* First come the headers, then a body, which nobody reads here. */
	if (!*state) {
		*state = &begun;
		return MHD_YES;
	}
	if (*body_size) {
		*body_size = 0;
		return MHD_YES;
	}
	for (size_t i = 0; i < HTTP_PAGES; i++) {
		if (strcmp(url, pages[i].path) != 0)
			continue;
		response = page_response(http, (enum http_page)i, &status);
		return answer(connection, response, status, pages[i].type);
	}
	return answer(connection, text_response("there are /, /metrics and /healthz\n"),
		      MHD_HTTP_NOT_FOUND, pages[HTTP_HEALTH].type);
}

/* ---- sockets ------------------------------------------------------------------------ */

static int listen_unix(const char *path, struct http *http)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	mode_t mask;
	int r;

	if (fd < 0)
		return -errno;
	if (path[0] != '/' || strlen(path) >= sizeof(sun.sun_path))
		return -EINVAL;
	memcpy(sun.sun_path, path, strlen(path));
	/* One that nobody listens on is left over. */
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 && errno == ECONNREFUSED)
		unlink(path);
	mask = umask(0117);
	r = bind(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 ? -errno : 0;
	umask(mask);
	if (r == 0 && listen(fd, BACKLOG) < 0)
		r = -errno;
	if (r < 0)
		return r;
	http->path = strdup(path);
	http->fd = TAKE_FD(fd);
	return http->path ? 0 : -ENOMEM;
}

static int bind_tcp(const struct addrinfo *ai, struct http *http)
{
	_cleanup_close_ int fd =
		socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_storage bound;
	socklen_t len = sizeof(bound);
	int one = 1;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0 ||
	    getsockname(fd, (struct sockaddr *)&bound, &len) < 0)
		return -errno;
	http->port = ntohs(ai->ai_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
						     : ((struct sockaddr_in *)&bound)->sin_port);
	http->fd = TAKE_FD(fd);
	return 0;
}

/* Numbers only: a name would make the start wait for its resolution. */
static int listen_tcp(const char *text, struct http *http)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE };
	struct addrinfo *ai = NULL;
	const char *colon = strrchr(text, ':');
	char host[HOST_MAX], *end;
	unsigned long port;
	size_t len;
	int r;

	if (!colon || colon == text || !colon[1] || (size_t)(colon - text) >= sizeof(host))
		return -EINVAL;
	/* getaddrinfo() takes the lower half of a larger number. */
	port = strtoul(colon + 1, &end, 10);
	if (*end || port > UINT16_MAX)
		return -EINVAL;
	len = (size_t)(colon - text);
	if (text[0] == '[' && colon[-1] == ']') {
		text++;
		len -= 2;
	}
	memcpy(host, text, len);
	host[len] = '\0';
	if (getaddrinfo(host, colon + 1, &hints, &ai) != 0)
		return -EINVAL;
	r = bind_tcp(ai, http);
	freeaddrinfo(ai);
	return r;
}

/* ---- life --------------------------------------------------------------------------- */

static int server_start(struct http *http, unsigned int flags)
{
	sigset_t all, old;

	/* Its thread takes no signal of the program's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	http->daemon = MHD_start_daemon(
		flags, 0, NULL, NULL, on_request, http, MHD_OPTION_LISTEN_SOCKET, http->fd,
		MHD_OPTION_CONNECTION_LIMIT, (unsigned int)HTTP_CONNECTIONS_MAX,
		MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned int)HTTP_PER_ADDRESS_MAX,
		MHD_OPTION_CONNECTION_TIMEOUT, (unsigned int)HTTP_TIMEOUT_S,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_REQUEST_BYTES, MHD_OPTION_END);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!http->daemon)
		return -EIO;
	http->fd = -1; /* the server closes it */
	return 0;
}

static int http_alloc(const struct http_options *options, struct http **ret_http)
{
	struct http *http = calloc(1, sizeof(*http));
	pthread_condattr_t attr;
	int r;

	if (!http)
		return -ENOMEM;
	http->options = *options;
	http->fd = -1;
	pthread_mutex_init(&http->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&http->written, &attr);
	pthread_condattr_destroy(&attr);
	if (strncmp(options->listen, "unix:", 5) == 0)
		r = listen_unix(options->listen + 5, http);
	else
		r = listen_tcp(options->listen, http);
	if (r < 0) {
		http_free(http);
		return r;
	}
	*ret_http = http;
	return 0;
}

int http_new(const struct http_options *options, struct http **ret_http)
{
	struct http *http;
	int r = http_alloc(options, &http);

	if (r < 0)
		return r;
	r = server_start(http, MHD_USE_EPOLL_INTERNAL_THREAD);
	if (r < 0) {
		http_free(http);
		return r;
	}
	*ret_http = http;
	return 0;
}

static int on_ready(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	struct http *http = userdata;

	MHD_run(http->daemon);
	return 0;
}

/* Only for connections that wait too long. */
static int on_tick(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct http *http = userdata;

	MHD_run(http->daemon);
	sd_event_source_set_time(source, now_ms() * 1000 + TICK_US);
	return 0;
}

int http_new_on_event(const struct http_options *options, struct sd_event *event,
		      struct http **ret_http)
{
	const union MHD_DaemonInfo *info = NULL;
	struct http *http;
	int r = http_alloc(options, &http);

	if (r < 0)
		return r;
	http->options.wake = NULL;
	r = server_start(http, MHD_USE_EPOLL);
	if (r == 0) {
		info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD);
		r = info ? 0 : -EIO;
	}
	if (r == 0)
		r = sd_event_add_io(event, &http->source, info->epoll_fd, POLLIN, on_ready, http);
	if (r >= 0)
		r = sd_event_add_time(event, &http->timer, CLOCK_MONOTONIC,
				      now_ms() * 1000 + TICK_US, TICK_US / 2, on_tick, http);
	if (r >= 0)
		r = sd_event_source_set_enabled(http->timer, SD_EVENT_ON);
	if (r < 0) {
		http_free(http);
		return r;
	}
	*ret_http = http;
	return 0;
}

void http_free(struct http *http)
{
	if (!http)
		return;
	sd_event_source_disable_unref(http->source);
	sd_event_source_disable_unref(http->timer);
	/* Nobody is to wait for a loop that is over. */
	pthread_mutex_lock(&http->lock);
	http->ended = true;
	atomic_store(&http->asked, false);
	pthread_cond_signal(&http->written);
	pthread_mutex_unlock(&http->lock);
	if (http->daemon)
		MHD_stop_daemon(http->daemon);
	if (http->fd >= 0)
		close(http->fd);
	if (http->path)
		unlink(http->path);
	free(http->path);
	for (size_t i = 0; i < HTTP_PAGES; i++)
		metrics_deinit(&http->pages[i].text);
	pthread_cond_destroy(&http->written);
	pthread_mutex_destroy(&http->lock);
	free(http);
}

int http_port(const struct http *http)
{
	return http->port;
}
