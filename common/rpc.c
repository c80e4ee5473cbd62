/* SPDX-License-Identifier: Apache-2.0 */
#include "common/rpc.h"

#include <dlfcn.h>
#include <errno.h>
#include <grpc/support/log.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <systemd/sd-event.h>
#include <time.h>

#include "common/rpc_internal.h"

static _Atomic(void (*)(const char *line)) log_fn;

static _Atomic uint64_t handshakes_failed;
static atomic_bool listener_lost;

bool rpc_listener_lost(void)
{
	return atomic_load(&listener_lost);
}

uint64_t rpc_handshakes_failed(void)
{
	return atomic_load(&handshakes_failed);
}

static void core_log(gpr_log_func_args *args)
{
	void (*fn)(const char *line) = atomic_load(&log_fn);
	const char *file = strrchr(args->file, '/');
	char line[512];

	file = file ? file + 1 : args->file;
	/* The library tells nobody else, and this only as a detail. */
	if (strcmp(file, "chttp2_server.cc") == 0 &&
	    strncmp(args->message, "Handshaking failed", strlen("Handshaking failed")) == 0)
		atomic_fetch_add(&handshakes_failed, 1);
	if (strcmp(file, "tcp_server_posix.cc") == 0 &&
	    strncmp(args->message, "Failed accept4", strlen("Failed accept4")) == 0)
		atomic_store(&listener_lost, true);
	if (!fn || args->severity < GPR_LOG_SEVERITY_ERROR)
		return;
	snprintf(line, sizeof(line), "%s (%s:%d)", args->message, file, args->line);
	fn(line);
}

void rpc_set_log(void (*fn)(const char *line))
{
	atomic_store(&log_fn, fn);
}

const char *rpc_status_name(int status)
{
	static const char *const names[] = {
		"OK",
		"CANCELLED",
		"UNKNOWN",
		"INVALID_ARGUMENT",
		"DEADLINE_EXCEEDED",
		"NOT_FOUND",
		"ALREADY_EXISTS",
		"PERMISSION_DENIED",
		"RESOURCE_EXHAUSTED",
		"FAILED_PRECONDITION",
		"ABORTED",
		"OUT_OF_RANGE",
		"UNIMPLEMENTED",
		"INTERNAL",
		"UNAVAILABLE",
		"DATA_LOSS",
		"UNAUTHENTICATED",
	};

	return status >= 0 && (size_t)status < ARRAY_SIZE(names) ? names[status] : "UNKNOWN";
}

uint64_t rpc_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- the queue as the main loop --------------------------------------------- */

static uint64_t rpc_tick(struct rpc *rpc, uint64_t now_ms, uint64_t deadline_ms)
{
	struct rpc_server *next;

	for (struct rpc_server *s = rpc->servers; s; s = next) {
		next = s->next;
		rpc_server_tick(s, now_ms);
		if (rpc_server_next_ms(s) < deadline_ms)
			deadline_ms = rpc_server_next_ms(s);
	}
	return deadline_ms;
}

static void servers_arm(struct rpc *rpc)
{
	for (struct rpc_server *s = rpc->servers; s; s = s->next)
		rpc_server_arm(s);
}

int rpc_poll(struct rpc *rpc, uint64_t deadline_ms)
{
	uint64_t now_ms = rpc_now_ms();
	int n;

	if (rpc->event)
		return -EINVAL;
	deadline_ms = rpc_tick(rpc, now_ms, deadline_ms);
	if (rpc->resting && now_ms >= rpc->resting_ms + RPC_REST_MAX_MS)
		rpc_resume(rpc);
	n = rpc_queues_run(rpc, 0, deadline_ms <= now_ms ? RPC_BUSY_LOOKS : 1);
	/* The library looks at the network only when its queue is empty. So new calls
	 * are taken only then, or one client's would keep all others out. */
	rpc->has_more = n >= RPC_TURN_MAX;
	if (!rpc->has_more)
		servers_arm(rpc);
	/* Reads that are put off go on when nothing else is to be done. */
	if (n || deadline_ms <= now_ms)
		return 0;
	rpc_resume(rpc);
	rpc_queues_run(rpc, deadline_ms, 1);
	return 0;
}

bool rpc_has_more(const struct rpc *rpc)
{
	return rpc->has_more;
}

struct rpc_wakeup {
	struct rpc_tag tag;
	struct rpc *rpc;
	grpc_call *call;
};

static void rpc_woken(struct rpc_tag *tag, bool ok)
{
	struct rpc_wakeup *wakeup = container_of(tag, struct rpc_wakeup, tag);

	atomic_store(&wakeup->rpc->woken, false);
	grpc_call_unref(wakeup->call);
	free(wakeup);
}

/* The queue has no wake-up of its own; a call that can only fail is one. */
void rpc_wake(struct rpc *rpc)
{
	grpc_op op = { .op = GRPC_OP_SEND_INITIAL_METADATA };
	struct rpc_wakeup *wakeup;

	if (rpc->event || atomic_exchange(&rpc->woken, true))
		return;
	wakeup = malloc(sizeof(*wakeup));
	if (!wakeup) {
		atomic_store(&rpc->woken, false);
		return;
	}
	wakeup->tag.fn = rpc_woken;
	wakeup->rpc = rpc;
	wakeup->call =
		grpc_channel_create_call(rpc->lame, NULL, GRPC_PROPAGATE_DEFAULTS,
					 rpc->queues[0].cq, grpc_slice_from_static_string("/wake"),
					 NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
	if (grpc_call_start_batch(wakeup->call, &op, 1, &wakeup->tag, NULL) != GRPC_CALL_OK)
		abort();
}

/* ---- the queue beside an sd-event loop -------------------------------------- */

static void rpc_kick(struct rpc *rpc)
{
	uint64_t one = 1;

	/* Cannot block: the counter is far from its maximum. */
	while (write(rpc->event_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void inbox_put(struct rpc *rpc, struct rpc_tag *tag, bool ok)
{
	bool first;

	pthread_mutex_lock(&rpc->lock);
	if (rpc->n_inbox == rpc->inbox_size) {
		size_t size = rpc->inbox_size ? rpc->inbox_size * 2 : 256;
		struct rpc_done *p = reallocarray(rpc->inbox, size, sizeof(*p));

		if (!p)
			abort(); /* a lost completion would hang its call for ever */
		rpc->inbox = p;
		rpc->inbox_size = size;
	}
	first = rpc->n_inbox == 0;
	rpc->inbox[rpc->n_inbox++] = (struct rpc_done){ tag, ok };
	pthread_mutex_unlock(&rpc->lock);
	if (first)
		rpc_kick(rpc);
}

static void *queue_thread(void *arg)
{
	struct rpc *rpc = arg;
	grpc_event ev;

	for (;;) {
		ev = grpc_completion_queue_next(rpc->queues[0].cq,
						gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
		if (ev.type == GRPC_QUEUE_SHUTDOWN)
			return NULL;
		if (ev.type == GRPC_OP_COMPLETE)
			inbox_put(rpc, ev.tag, ev.success);
	}
}

/* Swaps the mailbox for the batch that was worked off. */
static void inbox_take(struct rpc *rpc)
{
	struct rpc_done *list = rpc->batch;
	size_t size = rpc->batch_size;

	pthread_mutex_lock(&rpc->lock);
	rpc->batch = rpc->inbox;
	rpc->batch_size = rpc->inbox_size;
	rpc->n_batch = rpc->n_inbox;
	rpc->inbox = list;
	rpc->inbox_size = size;
	rpc->n_inbox = 0;
	pthread_mutex_unlock(&rpc->lock);
	rpc->batch_at = 0;
}

static void inbox_run(struct rpc *rpc)
{
	uint64_t count;

	if (read(rpc->event_fd, &count, sizeof(count)) < 0 && errno != EAGAIN && errno != EINTR)
		abort();
	for (int i = 0; i < RPC_TURN_MAX; i++) {
		struct rpc_done done;

		if (rpc->batch_at == rpc->n_batch)
			inbox_take(rpc);
		if (rpc->batch_at == rpc->n_batch)
			return;
		done = rpc->batch[rpc->batch_at++];
		done.tag->fn(done.tag, done.ok);
	}
	/* There may be more: come back after the loop's other sources. */
	rpc_kick(rpc);
}

static int on_resume(sd_event_source *source, void *userdata)
{
	rpc_resume(userdata);
	return 0;
}

static int on_inbox(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	inbox_run(userdata);
	return 0;
}

void rpc_run_once(struct rpc *rpc)
{
	uint64_t next_ms;

	rpc_resume(rpc);
	if (!rpc->event) {
		rpc_poll(rpc, UINT64_MAX);
		return;
	}
	next_ms = rpc_tick(rpc, rpc_now_ms(), UINT64_MAX);
	if (rpc->batch_at == rpc->n_batch) {
		struct pollfd pfd = { .fd = rpc->event_fd, .events = POLLIN };
		uint64_t now_ms = rpc_now_ms();
		int wait_ms = -1;

		if (next_ms != UINT64_MAX)
			wait_ms = next_ms > now_ms ? (int)(next_ms - now_ms) : 0;
		poll(&pfd, 1, wait_ms);
	}
	inbox_run(rpc);
}

/* ---- life ------------------------------------------------------------------- */

/* Debian's gRPC looks for cycles of locks at every lock, a tenth of its time;
 * the switch is a C++ function of a library below it. Without it: as it was. */
static void lock_cycles_ignore(void)
{
	static const char name[] =
		"_ZN4absl7debian329SetMutexDeadlockDetectionModeENS0_15OnDeadlockCycleE";
	void (*set_mode)(int) = (void (*)(int))dlsym(RTLD_DEFAULT, name);

	if (set_mode)
		set_mode(0);
}

static struct rpc *rpc_alloc(void)
{
	struct rpc *rpc = calloc(1, sizeof(*rpc));
	sigset_t all, old;

	if (!rpc)
		return NULL;
	gpr_set_log_function(core_log);
	/* The library's threads inherit the mask: signals are the program's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	lock_cycles_ignore();
	grpc_init();
	rpc_queues_init(rpc);
	rpc->lame = grpc_lame_client_channel_create("wake", GRPC_STATUS_UNAVAILABLE, "wake-up");
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	rpc->event_fd = -1;
	pthread_mutex_init(&rpc->lock, NULL);
	return rpc;
}

/* With nothing in flight. */
static void rpc_destroy(struct rpc *rpc)
{
	if (rpc->thread) {
		grpc_completion_queue_shutdown(rpc->queues[0].cq);
		pthread_join(rpc->thread, NULL);
		do
			inbox_run(rpc);
		while (rpc->batch_at < rpc->n_batch || rpc->n_inbox);
		grpc_completion_queue_destroy(rpc->queues[0].cq);
	} else {
		rpc_queues_end(rpc);
	}
	sd_event_source_disable_unref(rpc->source);
	sd_event_source_disable_unref(rpc->resume);
	sd_event_unref(rpc->event);
	if (rpc->event_fd >= 0)
		close(rpc->event_fd);
	grpc_channel_destroy(rpc->lame);
	grpc_shutdown_blocking();
	rpc_tls_release(rpc);
	pthread_mutex_destroy(&rpc->lock);
	free(rpc->inbox);
	free(rpc->batch);
	free(rpc->spare);
	free(rpc);
}

int rpc_new(struct rpc **ret_rpc)
{
	struct rpc *rpc = rpc_alloc();

	if (!rpc)
		return -ENOMEM;
	*ret_rpc = rpc;
	return 0;
}

int rpc_new_on_event(struct sd_event *event, struct rpc **ret_rpc)
{
	struct rpc *rpc = rpc_alloc();
	sigset_t all, old;
	int r;

	if (!rpc)
		return -ENOMEM;
	rpc->event = sd_event_ref(event);
	rpc->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (rpc->event_fd < 0) {
		r = -errno;
		goto fail;
	}
	r = sd_event_add_io(event, &rpc->source, rpc->event_fd, POLLIN, on_inbox, rpc);
	if (r >= 0)
		r = sd_event_add_defer(event, &rpc->resume, on_resume, rpc);
	if (r >= 0)
		r = sd_event_source_set_enabled(rpc->resume, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_source_set_priority(rpc->resume, RPC_RESUME_PRIORITY);
	if (r < 0)
		goto fail;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = -pthread_create(&rpc->thread, NULL, queue_thread, rpc);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r < 0) {
		rpc->thread = 0;
		goto fail;
	}
	*ret_rpc = rpc;
	return 0;
fail:
	rpc_destroy(rpc);
	return r;
}

void rpc_free(struct rpc *rpc)
{
	if (!rpc)
		return;
	while (rpc->servers)
		rpc_server_free(rpc->servers);
	for (struct rpc_call *call = rpc->calls; call; call = call->next)
		rpc_call_cancel(call);
	while (rpc->calls)
		rpc_run_once(rpc);
	rpc_destroy(rpc);
}
