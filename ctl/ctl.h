/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Parse → request → output; see main.c. */
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

#define CTL_CONTROLLER_DEFAULT "127.0.0.1:7797"
#define CTL_AGENT_DEFAULT      "unix:/run/mcmesh/agent.sock"
#define CTL_DEADLINE_MS	       5000
/* Of a question that the controller asks agents and other controllers before it answers:
 * it gives those up to 5 s, and is to say itself who did not answer. */
#define CTL_ASKS_DEADLINE_MS 15000
/* Values of one repeated option. */
#define CTL_LIST_MAX 256

enum ctl_exit {
	CTL_DONE = 0,
	CTL_FAILED = 1,
	CTL_USAGE = 2,
	CTL_DRIFT = 3,
};

/* What an option or argument sets: a field of the request, by its proto name. */
struct ctl_argument {
	const char *name; /* "--node", or "NODE" for one without dashes */
	const char *field;
	bool required;
	const char *help;
};

#define CTL_ARGUMENTS_MAX 6

struct ctl_command {
	const char *noun, *verb; /* verb NULL: the noun is all */
	const char *help;
	const char *path; /* the gRPC method */
	bool agent;	  /* asked of the agent, not of a controller */
	bool watch;	  /* a server stream without a deadline */
	bool asks;	  /* the controller asks others first */
	bool verify;
	const ProtobufCMessageDescriptor *request, *response;
	/* The request's sub-message that the arguments are fields of; or NULL. */
	const char *inner;
	const char *rows; /* the response's list; NULL: the response is one object */
	struct ctl_argument arguments[CTL_ARGUMENTS_MAX];
};

extern const struct ctl_command ctl_commands[];
extern const size_t ctl_n_commands;

struct ctl_options {
	const struct ctl_command *command;
	bool json, help;
	const char *controller, *agent;
	const char *cacert, *cert, *key, *server_name; /* NULL: not given */
	ProtobufCMessage *request;
};

/* grammar.c: 0, or CTL_USAGE after one sentence on stderr. */
int ctl_parse(int argc, char **argv, struct ctl_options *ret_options);
void ctl_options_deinit(struct ctl_options *options);
void ctl_help(const struct ctl_options *options);

/* request.c: runs the command; an exit status. */
int ctl_run(const struct ctl_options *options);

/* Fields by name; NULL when there is none. */
const ProtobufCFieldDescriptor *ctl_field(const ProtobufCMessage *m, const char *name);
void *ctl_value(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f);

/* output.c: false when stdout has failed. */
bool ctl_print(const struct ctl_options *options, const ProtobufCMessage *answer);
bool ctl_print_event(const struct ctl_options *options, const ProtobufCMessage *event);
/* After a failed print: CTL_DONE when the reader went away, else CTL_FAILED. */
int ctl_print_failed(void);
