/* SPDX-License-Identifier: Apache-2.0 */
/* mcmesh-swarm: options. See swarm.h. */
#include <argp.h>
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "tests/swarm/swarm.h"

#define EXIT_USAGE  2
#define SEGMENT_MAX 16777215

const char *argp_program_version = "mcmesh-swarm " MCMESH_VERSION;

enum {
	KEY_FULL = 256,
	KEY_GROUPS,
	KEY_OVERLAP,
	KEY_SEGMENTS,
	KEY_SEGMENT,
	KEY_CONNECTING,
	KEY_CHURN,
	KEY_DURATION,
	KEY_SEED,
	KEY_PREFIX,
	KEY_VTEP,
	KEY_GROUP,
	KEY_COMMANDS,
	KEY_PKI,
};

struct arguments {
	struct swarm_options swarm;
	size_t n_controllers;
	uint32_t churn, duration;
	bool commands;
};

static const struct argp_option options[] = {
	{ "controller", 'c', "TARGET", 0, "HOST:PORT; several times for several controllers", 0 },
	{ "agents", 'n', "N", 0, "How many agents (100)", 0 },
	{ "groups", KEY_GROUPS, "N", 0, "Groups of each agent (10)", 0 },
	{ "overlap", KEY_OVERLAP, "N", 0, "Agents that want the same group (10)", 0 },
	{ "segments", KEY_SEGMENTS, "N", 0, "Segments over which the agents spread (1)", 0 },
	{ "segment", KEY_SEGMENT, "N", 0, "The first segment (1)", 0 },
	{ "full", KEY_FULL, "N", 0, "So many agents keep all rows themselves (1)", 0 },
	{ "connecting", KEY_CONNECTING, "N", 0, "Connect at most so many at a time (256)", 0 },
	{ "churn", KEY_CHURN, "RATE", 0, "Member changes a second (0)", 0 },
	{ "duration", KEY_DURATION, "SECONDS", 0, "How long (10)", 0 },
	{ "seed", KEY_SEED, "N", 0, "Of everything random (1)", 0 },
	{ "prefix", KEY_PREFIX, "NAME", 0, "Nodes are NAME1, NAME2, … (s)", 0 },
	{ "vtep", KEY_VTEP, "ADDRESS", 0, "The first node's (10.0.0.1)", 0 },
	{ "group", KEY_GROUP, "ADDRESS", 0, "The first group (239.128.0.0)", 0 },
	{ "pki", KEY_PKI, "DIR", 0,
	  "TLS: DIR/ca.pem, and DIR/NAME1.pem and .key, and so on (mcmesh-pki makes them)", 0 },
	{ "commands", KEY_COMMANDS, NULL, 0, "Read commands from stdin (scenario.c)", 0 },
	{ 0 },
};

static uint32_t number(struct argp_state *state, const char *text, uint32_t least, uint32_t most)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (end == text || *end || v < least || v > most)
		argp_error(state, "\"%s\" is not a number from %u to %u", text, least, most);
	return (uint32_t)v;
}

static uint32_t address(struct argp_state *state, const char *text)
{
	struct in_addr a;

	if (inet_pton(AF_INET, text, &a) != 1)
		argp_error(state, "\"%s\" is not an IPv4 address", text);
	return ntohl(a.s_addr);
}

static error_t parse_shape(int key, char *arg, struct argp_state *state)
{
	struct swarm_options *o = &((struct arguments *)state->input)->swarm;

	switch (key) {
	case KEY_FULL:
		o->full = number(state, arg, 0, SWARM_AGENTS_MAX);
		return 0;
	case KEY_GROUPS:
		o->groups = number(state, arg, 0, 65536);
		return 0;
	case KEY_OVERLAP:
		o->overlap = number(state, arg, 1, SWARM_AGENTS_MAX);
		return 0;
	case KEY_SEGMENTS:
		o->segments = number(state, arg, 1, SWARM_AGENTS_MAX);
		return 0;
	case KEY_SEGMENT:
		o->first_segment = number(state, arg, 1, SEGMENT_MAX);
		return 0;
	case KEY_CONNECTING:
		o->connecting = number(state, arg, 1, SWARM_AGENTS_MAX);
		return 0;
	case KEY_VTEP:
		o->vtep_base = address(state, arg);
		return 0;
	case KEY_GROUP:
		o->group_base = address(state, arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case 'c':
		if (a->n_controllers == SWARM_CONTROLLERS_MAX)
			argp_error(state, "too many controllers");
		a->swarm.controllers[a->n_controllers++] = arg;
		return 0;
	case 'n':
		a->swarm.agents = number(state, arg, 1, SWARM_AGENTS_MAX);
		return 0;
	case KEY_CHURN:
		a->churn = number(state, arg, 0, 1000000);
		return 0;
	case KEY_DURATION:
		a->duration = number(state, arg, 1, 86400);
		return 0;
	case KEY_SEED:
		a->swarm.seed = number(state, arg, 0, UINT32_MAX);
		return 0;
	case KEY_PREFIX:
		a->swarm.prefix = arg;
		return 0;
	case KEY_PKI:
		a->swarm.pki = arg;
		return 0;
	case KEY_COMMANDS:
		a->commands = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "unexpected argument \"%s\"", arg);
		return 0;
	case ARGP_KEY_END:
		if (!a->n_controllers)
			argp_error(state, "--controller is missing");
		return 0;
	default:
		return parse_shape(key, arg, state);
	}
}

/* A connection an agent. */
static void files_raise(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

int main(int argc, char **argv)
{
	static const struct argp argp = { options,
					  parse,
					  NULL,
					  "Many simulated agents of a multicast mesh, each with "
					  "a connection of its own.",
					  NULL,
					  NULL,
					  NULL };
	struct arguments a = {
		.swarm = { .prefix = "s",
			   .agents = 100,
			   .full = 1,
			   .groups = 10,
			   .overlap = 10,
			   .segments = 1,
			   .first_segment = 1,
			   .connecting = 256,
			   .vtep_base = 0x0a000001,
			   .group_base = 0xef800000,
			   .seed = 1 },
		.duration = 10,
	};
	struct swarm *s;
	int r;

	argp_err_exit_status = EXIT_USAGE;
	argp_parse(&argp, argc, argv, 0, NULL, &a);
	/* Whoever started it is gone: so is the need for it. */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	signal(SIGPIPE, SIG_IGN);
	files_raise();
	r = swarm_new(&a.swarm, &s);
	if (r < 0) {
		fprintf(stderr, "mcmesh-swarm: cannot start: %s\n", strerror(-r));
		return EXIT_FAILURE;
	}
	r = a.commands ? scenario_commands(s) : scenario_run(s, a.churn, a.duration);
	swarm_free(s);
	return r;
}
