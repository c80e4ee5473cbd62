/* SPDX-License-Identifier: Apache-2.0 */
/* mcmesh-controller: options, signals, and the loop. */
#include <argp.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>

#include "common/log.h"
#include "common/rpc.h"
#include "common/rpc_tls.h"
#include "common/slice.h"
#include "controller/access.h"
#include "controller/config.h"
#include "controller/controller.h"
#include "controller/transfer.h"

#define EXIT_USAGE 2
#define AGAIN_MS   1000
/* Open files besides an old and a new connection of each agent. */
#define FILES_MIN 16384

const char *argp_program_version = "mcmesh-controller " MCMESH_VERSION;

enum { EXPORT = 1000, IMPORT, FORCE };
#define WORDS_MAX 3 /* store export FILE */

struct arguments {
	const char *config, *listen, *store, *export, *import;
	const char *words[WORDS_MAX];
	bool force;
	bool insecure;
	bool check;
};

static const struct argp_option options[] = {
	{ "config", 'c', "FILE", 0, "Configuration file (YAML)", 0 },
	{ "listen", 'l', "ADDRESS", 0, "Listen here instead of what the file says", 0 },
	{ "store", 's', "SPEC", 0,
	  "Where the mesh is kept: sqlite:PATH, etcd:HOST:PORT[,…] or memory", 0 },
	{ "insecure", 'i', NULL, 0, "Serve plaintext also where others can reach it", 0 },
	{ "check", 't', NULL, 0, "Check the configuration and the files of tls, and exit", 0 },
	{ "export", EXPORT, "FILE", 0,
	  "Write the store's settings, static members and nodes; -: to "
	  "standard output",
	  1 },
	{ "import", IMPORT, "FILE", 0, "Put these into an empty store, which begins a new epoch",
	  1 },
	{ "force", FORCE, NULL, 0, "Import over what the store has", 1 },
	{ 0 },
};

/* `store export FILE` and `store import FILE`: words for the options of these names. */
static void parse_words(struct arguments *a, struct argp_state *state)
{
	const char **to = NULL;

	if (!a->words[0])
		return;
	if (strcmp(a->words[0], "store") != 0)
		argp_failure(state, EXIT_USAGE, 0,
			     "there is no command \"%s\": use store export FILE, or store import "
			     "FILE [--force]",
			     a->words[0]);
	if (a->words[1])
		to = strcmp(a->words[1], "export") == 0	  ? &a->export
		     : strcmp(a->words[1], "import") == 0 ? &a->import
							  : NULL;
	if (!to || !a->words[2] || *to)
		argp_failure(state, EXIT_USAGE, 0,
			     "use store export FILE, or store import FILE [--force]");
	*to = a->words[2];
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case 'c':
		a->config = arg;
		return 0;
	case 'l':
		a->listen = arg;
		return 0;
	case 's':
		a->store = arg;
		return 0;
	case 't':
		a->check = true;
		return 0;
	case EXPORT:
		a->export = arg;
		return 0;
	case IMPORT:
		a->import = arg;
		return 0;
	case FORCE:
		a->force = true;
		return 0;
	case ARGP_KEY_END:
		parse_words(a, state);
		if ((a->export && a->import) || (a->force && !a->import))
			argp_failure(state, EXIT_USAGE, 0,
				     "use --export FILE, or --import FILE [--force]");
		return 0;
	case 'i':
		a->insecure = true;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num >= WORDS_MAX)
			argp_failure(state, EXIT_USAGE, 0, "\"%s\" is one word too many", arg);
		a->words[state->arg_num] = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* A thread that only waits: every other has the signals blocked. */
struct signals {
	sigset_t set;
	struct rpc *rpc;
	atomic_bool stop, reload, quit;
};

static void *signals_wait(void *arg)
{
	struct signals *s = arg;
	int number;

	while (!s->quit && !s->stop) {
		if (sigwait(&s->set, &number) != 0 || s->quit)
			continue;
		if (number == SIGHUP)
			s->reload = true;
		else
			s->stop = true;
		rpc_wake(s->rpc);
	}
	return NULL;
}

static void on_library_log(const char *line)
{
	log_debug("grpc: %s", line);
}

static int fail(const char *why)
{
	fprintf(stderr, "mcmesh-controller: %s\n", why);
	return EXIT_FAILURE;
}

/* A file that is wrong changes nothing. */
static void reload(struct controller *c, const char *path)
{
	struct controller_config *config;
	char why[CONFIG_WHY_MAX];

	if (!path || controller_config_load(path, &config, why) < 0) {
		log_error("not reloaded: %s", path ? why : "there is no --config file");
		return;
	}
	if (controller_reload(c, config) < 0)
		log_error("not reloaded: out of memory");
	else
		log_info("the settings of segments were reloaded file=%s", path);
}

/* Instead of serving. */
static int transfer(const struct controller_config *config, const struct arguments *a,
		    struct rpc *rpc)
{
	char why[CONTROLLER_WHY_MAX];
	int r = a->export ? transfer_export(config, rpc, a->export, why)
			  : transfer_import(config, rpc, a->import, a->force, why);

	return r < 0 ? fail(why) : EXIT_SUCCESS;
}

/* All that can be known without serving: the store is not touched. */
static int check(const struct controller_config *config)
{
	char why[CONTROLLER_WHY_MAX];
	struct rpc_tls *tls = NULL;

	if (access_check_listen(config, why) < 0 || access_tls_new(config, &tls, why) < 0)
		return fail(why);
	rpc_tls_free(tls);
	return EXIT_SUCCESS;
}

/* What this life did, for whoever looks for the reason of something later. */
static void summarise(const struct controller *c)
{
	const struct controller_counters *n = &c->counters;

	log_info("the controller has ended sessions=%llu reports=%llu deltas=%llu snapshots=%llu "
		 "resyncs=%llu expired=%llu store_failures=%llu",
		 (unsigned long long)n->sessions, (unsigned long long)n->reports,
		 (unsigned long long)n->deltas, (unsigned long long)n->snapshots,
		 (unsigned long long)(n->resync_digest + n->resync_behind + n->resync_ahead),
		 (unsigned long long)n->nodes_expired, (unsigned long long)c->store->failures);
}

/* A connection is a file. Not more of them than wanted: memory goes with each. */
static void raise_files(const struct controller_config *config)
{
	rlim_t wanted = 2 * (rlim_t)config->limits.agents + FILES_MIN;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
	if (limit.rlim_cur < wanted)
		log_warning("Few files may be open: strangers that connect can keep agents out. "
			    "limit=%llu wanted=%llu",
			    (unsigned long long)limit.rlim_cur, (unsigned long long)wanted);
	setrlimit(RLIMIT_NOFILE, &limit);
}

/* One life; *ret_again: another one is to follow, or went before. */
static int run(const struct controller_config *config, const char *path, struct signals *signals,
	       bool *ret_again)
{
	char why[CONTROLLER_WHY_MAX];
	struct controller *c = NULL;
	int r = controller_new(config, signals->rpc, NULL, &c, why);

	if (r < 0 && *ret_again) {
		/* It served before: whatever is wrong with the store may pass. */
		log_error("cannot begin anew, trying again: %s", why);
		rpc_poll(signals->rpc, controller_now_ms() + AGAIN_MS);
		*ret_again = !signals->stop;
		return EXIT_SUCCESS;
	}
	*ret_again = false;
	if (r < 0)
		return fail(why);
	raise_files(config);
	log_info("serving listen=%s store=%s", config->listen[0], config->store);
	sd_notify(0, "READY=1");
	while (!c->stopped && !c->failed) {
		if (signals->stop && !c->draining) {
			sd_notify(0, "STOPPING=1");
			controller_drain(c, "the controller is stopping: connect elsewhere");
		}
		if (atomic_exchange(&signals->reload, false) && !c->draining)
			reload(c, path);
		rpc_poll(signals->rpc, controller_turn(c, controller_now_ms()));
	}
	r = c->failed ? EXIT_FAILURE : EXIT_SUCCESS;
	*ret_again = c->again && !c->failed && !signals->stop;
	summarise(c);
	controller_free(c);
	return r;
}

int main(int argc, char **argv)
{
	static const struct argp argp = { options,
					  parse,
					  "\nstore export FILE\nstore import FILE [--force]",
					  "The controller of a multicast mesh.",
					  NULL,
					  NULL,
					  NULL };
	static struct signals signals;
	struct controller_config *config = NULL;
	struct arguments a = { 0 };
	char why[CONFIG_WHY_MAX];
	pthread_t thread;
	bool again = false;
	int r;

	argp_err_exit_status = EXIT_USAGE;
	argp_parse(&argp, argc, argv, 0, NULL, &a);
	if (controller_config_load(a.config, &config, why) < 0)
		return fail(why);
	if ((a.listen && controller_config_set_listen(config, a.listen) < 0) ||
	    (a.store && controller_config_set_store(config, a.store) < 0))
		return fail("out of memory");
	config->insecure |= a.insecure;
	if (a.check)
		return check(config);
	log_open("mcmesh-controller", config->log_level);
	/* Before gRPC starts its threads, so that they inherit the mask. */
	sigemptyset(&signals.set);
	sigaddset(&signals.set, SIGTERM);
	sigaddset(&signals.set, SIGINT);
	sigaddset(&signals.set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &signals.set, NULL);
	signal(SIGPIPE, SIG_IGN);
	slice_ask_short();
	rpc_set_log(on_library_log);
	if (rpc_new(&signals.rpc) < 0 || pthread_create(&thread, NULL, signals_wait, &signals))
		return fail("cannot start the RPC runtime");
	do
		r = a.export || a.import ? transfer(config, &a, signals.rpc)
					 : run(config, a.config, &signals, &again);
	while (again);
	signals.quit = true;
	pthread_kill(thread, SIGTERM);
	pthread_join(thread, NULL);
	rpc_free(signals.rpc);
	controller_config_free(config);
	return r;
}
