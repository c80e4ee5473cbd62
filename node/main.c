/* SPDX-License-Identifier: Apache-2.0 */

/*
 * mcmesh-agent: command line, configuration, then agent.c.
 *
 * Exit status: 0 after SIGTERM or SIGINT (the datapath goes on), 1 when it
 * cannot run, 2 on bad usage.
 */
#include <argp.h>
#include <errno.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/rpc.h"
#include "common/rpc_tls.h"
#include "common/slice.h"
#include "node/agent.h"
#include "node/config.h"
#include "node/rtnl/rtnl.h"

const char *argp_program_version = "mcmesh-agent " MCMESH_VERSION;
error_t argp_err_exit_status = 2;

#define CONTROLLER_OPTIONS_MAX 16

struct arguments {
	const char *config;
	const char *controllers[CONTROLLER_OPTIONS_MAX];
	size_t n_controllers;
	struct node_config_own own;
	bool remove;
	bool check;
};

static const struct argp_option options[] = {
	{ "config", 'c', "FILE", 0, "configuration (default /etc/mcmesh/agent.yaml)", 0 },
	{ "controller", 'C', "HOST:PORT[,…]", 0,
	  "a controller, in place of the file's list; may be repeated", 0 },
	{ "node", 'n', "NAME", 0, "the node's name, in place of the file's", 0 },
	{ "vtep", 'v', "ADDRESS", 0, "its VTEP, in place of the file's", 0 },
	{ "check", 't', NULL, 0, "check the configuration and exit", 0 },
	{ "remove", 'R', NULL, 0,
	  "detach from every port, remove all pinned state and the overlay device, and exit", 0 },
	{ 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case 'c':
		arguments->config = arg;
		return 0;
	case 'C':
		if (arguments->n_controllers == CONTROLLER_OPTIONS_MAX)
			argp_error(state, "--controller is given more than %d times",
				   CONTROLLER_OPTIONS_MAX);
		arguments->controllers[arguments->n_controllers++] = arg;
		return 0;
	case 'n':
		arguments->own.node = arg;
		return 0;
	case 'v':
		arguments->own.vtep = arg;
		return 0;
	case 't':
		arguments->check = true;
		return 0;
	case 'R':
		arguments->remove = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "\"%s\" is not an option; the configuration is named by --config",
			   arg);
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse_option,
	.doc = "The node agent of mcmesh: IP multicast between the workloads of many nodes.",
};

DEFINE_CLEANUP(struct node_config *, node_config_free)

static void nothing(const struct rtnl_link *link, void *userdata)
{
}

static void nothing_gone(uint32_t ifindex, void *userdata)
{
}

/* --remove: the node forwards nothing after it. */
static int remove_all(const struct node_config *config)
{
	static const struct rtnl_ops ops = { .on_link = nothing, .on_link_gone = nothing_gone };
	uint32_t ifindex = if_nametoindex(config->overlay_device);
	struct rtnl *rtnl;
	int r;

	r = datapath_destroy(config->datapath.root);
	if (r < 0) {
		log_error("The pinned state could not be removed: is an agent still running? "
			  "root=%s err=%s",
			  config->datapath.root, strerror(-r));
		return r;
	}
	if (!ifindex)
		return 0;
	r = rtnl_new(&ops, NULL, &rtnl);
	if (r < 0)
		return r;
	r = rtnl_dump(rtnl);
	if (r >= 0) {
		const struct rtnl_link *link = rtnl_link_by_index(rtnl, ifindex);

		/* A device of that name that is no VXLAN device is not ours. */
		if (link && strcmp(link->kind, "vxlan") == 0)
			r = rtnl_link_delete(rtnl, ifindex);
	}
	rtnl_free(rtnl);
	return r;
}

static int check_tls(const struct node_config *config)
{
	struct rpc_tls *tls = NULL;
	char why[AGENT_WHY_MAX];

	if (!config->tls)
		return 0;
	if (agent_tls_new(config, false, &tls, why) < 0) {
		log_error("%s", why);
		return 1;
	}
	rpc_tls_free(tls);
	return 0;
}

static void block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

int main(int argc, char **argv)
{
	struct arguments arguments = { .config = "/etc/mcmesh/agent.yaml" };
	_cleanup_(node_config_free_p)
	struct node_config *config = NULL;
	char why[NODE_CONFIG_WHY_MAX] = "out of memory";
	struct agent *agent = NULL;
	int r;

	argp_parse(&argp, argc, argv, 0, NULL, &arguments);
	log_open("mcmesh-agent", LOG_LEVEL_INFO);
	if (node_config_load(arguments.config, &arguments.own, &config, why) < 0) {
		log_error("%s", why);
		return 1;
	}
	for (size_t i = 0; i < arguments.n_controllers; i++) {
		if (node_config_add_controllers(config, arguments.controllers[i], i == 0, why) <
		    0) {
			log_error("%s", why);
			return 2;
		}
	}
	if (arguments.check)
		return check_tls(config);
	log_open("mcmesh-agent", config->log_level);
	if (arguments.remove)
		return remove_all(config) < 0;
	block_signals();
	slice_ask_short();
	if (agent_new(config, &agent, why) < 0) {
		log_error("%s", why);
		return 1;
	}
	r = agent_run(agent);
	if (r < 0)
		log_error("The agent stops; the datapath goes on. err=%s", strerror(-r));
	agent_free(agent);
	return r < 0;
}
