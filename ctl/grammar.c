/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/ctl.h"

#include <errno.h>
#include <mcmesh/v1/agent.pb-c.h>
#include <mcmesh/v1/mesh.pb-c.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

#define MESH(method, in, out)                                                                 \
	.path = "/mcmesh.v1.MeshService/" method, .request = &mcmesh__v1__##in##__descriptor, \
	.response = &mcmesh__v1__##out##__descriptor
#define AGENT(method, in, out)                                    \
	.agent = true, .path = "/mcmesh.v1.AgentService/" method, \
	.request = &mcmesh__v1__##in##__descriptor, .response = &mcmesh__v1__##out##__descriptor

#define SEGMENT                                                    \
	{                                                          \
		"--segment", "segment", false, "only this segment" \
	}
#define GROUP                                                \
	{                                                    \
		"--group", "group", false, "only this group" \
	}

const struct ctl_command ctl_commands[] = {
	{ "node", "list", "the nodes of the mesh",
	  MESH("ListNodes", list_nodes_request, list_nodes_response), .rows = "nodes", .asks = true,
	  .arguments = { { "--local", "local", false,
			   "only nodes connected to the controller asked" } } },
	{ "node", "drain", "drain a node before its agent stops for good",
	  MESH("DrainNode", drain_node_request, drain_node_response),
	  .arguments = { { "NODE", "node", true, "the node" },
			 { "--cancel", "cancel", false, "end the drain instead" } } },
	{ "group", "list", "groups and the nodes that have members",
	  MESH("ListGroups", list_groups_request, list_groups_response), .rows = "groups",
	  .arguments = { SEGMENT, GROUP } },
	{ "member", "list", "what each node wants of each group",
	  MESH("ListMembers", list_members_request, list_members_response), .rows = "members",
	  .arguments = { SEGMENT, GROUP, { "--node", "node", false, "only this node" } } },
	{ "route", "list", "what a node does with each group, asked of its agent",
	  MESH("ListRoutes", list_routes_request, list_routes_response), .rows = "routes",
	  .asks = true, .arguments = { { "--node", "node", true, "the node" }, SEGMENT, GROUP } },
	{ "watch", NULL, "the current state, then every change, a line each",
	  MESH("Watch", watch_request, watch_response), .watch = true,
	  .arguments = { SEGMENT,
			 GROUP,
			 { "--node", "node", false, "only this node" },
			 { "--members-only", "members_only", false, "no nodes" },
			 { "--resume", "resume_token", false, "go on after this resumeToken" } } },
	{ "verify", NULL, "compare every node's kernel with what the members say",
	  MESH("Verify", verify_request, verify_response), .rows = "nodes", .asks = true,
	  .verify = true, .arguments = { { "--node", "node", false, "only this node" } } },
	{ "static", "add", "add a static member",
	  MESH("AddStaticMember", add_static_member_request, add_static_member_response),
	  .inner = "member",
	  .arguments = { { "--node", "node", true, "the node" },
			 { "--port", "port", true, "its port" },
			 { "--group", "group", true, "the group" },
			 { "--mode", "mode", false,
			   "INCLUDE or EXCLUDE (default: EXCLUDE, with --source INCLUDE)" },
			 { "--source", "sources", false, "a source; may be repeated" } } },
	{ "static", "remove", "remove a static member",
	  MESH("RemoveStaticMember", remove_static_member_request, remove_static_member_response),
	  .arguments = { { "--node", "node", true, "the node" },
			 { "--port", "port", true, "its port" },
			 { "--group", "group", true, "the group" } } },
	{ "static", "list", "the static members",
	  MESH("ListStaticMembers", list_static_members_request, list_static_members_response),
	  .rows = "members", .arguments = { { "--node", "node", false, "only this node" } } },
	{ "port", "list", "the node's ports",
	  AGENT("ListPorts", list_ports_request, list_ports_response), .rows = "ports" },
	{ "path", "list", "how copies to each other node leave, and why",
	  AGENT("ListPaths", list_paths_request, list_paths_response), .rows = "paths" },
	{ "membership", "list", "what each port wants, and who behind it asked",
	  AGENT("ListMemberships", list_memberships_request, list_memberships_response),
	  .rows = "memberships",
	  .arguments = { SEGMENT, GROUP, { "--port", "port", false, "only this port" } } },
	{ "fib", "list", "forwarding entries, read back from the kernel",
	  AGENT("ListRoutes", list_fib_request, list_fib_response), .rows = "routes",
	  .arguments = { SEGMENT, GROUP } },
	{ "counter", "list", "packets and events",
	  AGENT("ListCounters", list_counters_request, list_counters_response), .rows = "counters",
	  .arguments = { { "--prefix", "prefix", false, "only names that begin with it" } } },
	{ "explain", NULL, "why a port does, or does not, get a group",
	  AGENT("Explain", explain_request, explain_response),
	  .arguments = { { "--group", "group", true, "the group" },
			 { "--port", "port", true, "the port" },
			 { "--source", "source", false, "packets of this source" } } },
	{ "status", NULL, "the agent: identity, session, datapath",
	  AGENT("GetStatus", get_status_request, get_status_response) },
};
const size_t ctl_n_commands = ARRAY_SIZE(ctl_commands);

#define VERBS_MAX 64

static int usage(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int usage(const char *format, ...)
{
	va_list ap;

	fputs("mcmeshctl: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputs("; mcmeshctl --help lists what there is\n", stderr);
	return CTL_USAGE;
}

/* ---- request fields --------------------------------------------------------- */

const ProtobufCFieldDescriptor *ctl_field(const ProtobufCMessage *m, const char *name)
{
	return protobuf_c_message_descriptor_get_field_by_name(m->descriptor, name);
}

void *ctl_value(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	return (char *)m + f->offset;
}

static ProtobufCMessage *request_new(const ProtobufCMessageDescriptor *d)
{
	ProtobufCMessage *m = calloc(1, d->sizeof_message);

	if (m)
		protobuf_c_message_init(d, m);
	return m;
}

static int list_add(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, const char *text)
{
	size_t *n = (size_t *)((char *)m + f->quantifier_offset);
	char ***list = ctl_value(m, f);
	char **p;

	if (*n == CTL_LIST_MAX)
		return usage("more than %d values of one option", CTL_LIST_MAX);
	p = reallocarray(*list, *n + 1, sizeof(*p));
	if (p)
		*list = p;
	if (!p || !(p[*n] = strdup(text)))
		return CTL_FAILED;
	(*n)++;
	return 0;
}

static int field_set(ProtobufCMessage *m, const struct ctl_argument *a, const char *text)
{
	const ProtobufCFieldDescriptor *f = ctl_field(m, a->field);
	const ProtobufCEnumValue *value;
	unsigned long number;
	char **string, *end;

	switch (f->type) {
	case PROTOBUF_C_TYPE_BOOL:
		*(protobuf_c_boolean *)ctl_value(m, f) = 1;
		return 0;
	case PROTOBUF_C_TYPE_UINT32:
		errno = 0;
		number = strtoul(text, &end, 10);
		if (errno || *end || *text < '0' || *text > '9' || number > UINT32_MAX)
			return usage("%s takes a number, not \"%s\"", a->name, text);
		*(uint32_t *)ctl_value(m, f) = (uint32_t)number;
		return 0;
	case PROTOBUF_C_TYPE_ENUM:
		value = protobuf_c_enum_descriptor_get_value_by_name(f->descriptor, text);
		if (!value)
			return usage("%s takes INCLUDE or EXCLUDE, not \"%s\"", a->name, text);
		*(int *)ctl_value(m, f) = value->value;
		return 0;
	default:
		break;
	}
	if (f->label == PROTOBUF_C_LABEL_REPEATED)
		return list_add(m, f, text);
	string = ctl_value(m, f);
	if (*string != (char *)f->default_value && *string != protobuf_c_empty_string)
		free(*string);
	*string = strdup(text);
	return *string ? 0 : CTL_FAILED;
}

/* ---- the line --------------------------------------------------------------- */

struct line {
	char **words;
	size_t n;
	/* Options that only the command knows: read once it is known. */
	struct ctl_options *options;
};

static const char *environment(const char *name, const char *otherwise)
{
	const char *value = getenv(name);

	return value && *value ? value : otherwise;
}

/* "--name=value" or "--name value"; 1: it is this option. */
static int option_is(const char *name, int argc, char **argv, int *at, const char **ret_value)
{
	size_t len = strlen(name);

	if (strncmp(argv[*at], name, len) != 0)
		return 0;
	if (argv[*at][len] == '=') {
		*ret_value = argv[*at] + len + 1;
		return 1;
	}
	if (argv[*at][len])
		return 0;
	if (*at + 1 >= argc)
		return -usage("%s needs a value", name);
	*ret_value = argv[++*at];
	return 1;
}

/* Options of the program: 1 when it took one, 0, or -CTL_USAGE. */
static int common_option(struct ctl_options *o, int argc, char **argv, int *at)
{
	const char *value;
	int r;

	r = option_is("-o", argc, argv, at, &value);
	if (!r && strncmp(argv[*at], "-o", 2) == 0) {
		value = argv[*at] + 2; /* -ojson */
		r = 1;
	}
	if (!r)
		r = option_is("--output", argc, argv, at, &value);
	if (r > 0) {
		if (strcmp(value, "json") != 0 && strcmp(value, "table") != 0)
			return -usage("-o takes table or json, not \"%s\"", value);
		o->json = strcmp(value, "json") == 0;
	}
	if (r)
		return r;
	r = option_is("--controller", argc, argv, at, &o->controller);
	if (!r)
		r = option_is("--agent", argc, argv, at, &o->agent);
	if (!r)
		r = option_is("--cacert", argc, argv, at, &o->cacert);
	if (!r)
		r = option_is("--cert", argc, argv, at, &o->cert);
	if (!r)
		r = option_is("--key", argc, argv, at, &o->key);
	if (!r)
		r = option_is("--server-name", argc, argv, at, &o->server_name);
	return r;
}

static const struct ctl_command *command_find(char **words, size_t n, size_t *ret_used)
{
	for (size_t i = 0; i < ctl_n_commands; i++) {
		const struct ctl_command *c = &ctl_commands[i];

		if (n < (c->verb ? 2u : 1u) || strcmp(words[0], c->noun) != 0)
			continue;
		if (c->verb && strcmp(words[1], c->verb) != 0)
			continue;
		*ret_used = c->verb ? 2 : 1;
		return c;
	}
	return NULL;
}

/* "list, drain"; false: no command has the noun and a verb. */
static bool verbs_of(const char *noun, char ret_verbs[VERBS_MAX])
{
	size_t len = 0;

	for (size_t i = 0; i < ctl_n_commands; i++) {
		const struct ctl_command *c = &ctl_commands[i];

		if (c->verb && strcmp(noun, c->noun) == 0)
			len += (size_t)snprintf(ret_verbs + len, VERBS_MAX - len, "%s%s",
						len ? ", " : "", c->verb);
	}
	return len;
}

/* The line has no command: which are there for what it has? With --help that is no
 * mistake of a noun alone. */
static int no_command(const struct ctl_options *o, char **words, size_t n)
{
	char verbs[VERBS_MAX];

	if (!verbs_of(words[0], verbs))
		return usage("there is no command \"%s\"", words[0]);
	if (n == 1 && o->help)
		return 0;
	if (n == 1)
		return usage("%s needs a verb: %s", words[0], verbs);
	return usage("%s has no verb \"%s\", but %s", words[0], words[1], verbs);
}

static bool is_flag(const struct ctl_command *c, const struct ctl_argument *a)
{
	for (unsigned int i = 0; i < c->request->n_fields; i++)
		if (strcmp(c->request->fields[i].name, a->field) == 0)
			return c->request->fields[i].type == PROTOBUF_C_TYPE_BOOL;
	return false;
}

/* Does any command have this option, and does it take a value? A word after an
 * option must not be taken for a noun before the command is known. */
static bool option_takes_value(const char *word)
{
	for (size_t i = 0; i < ctl_n_commands; i++)
		for (size_t k = 0; k < CTL_ARGUMENTS_MAX && ctl_commands[i].arguments[k].name; k++)
			if (strcmp(ctl_commands[i].arguments[k].name, word) == 0)
				return !is_flag(&ctl_commands[i], &ctl_commands[i].arguments[k]);
	return false;
}

static const struct ctl_argument *argument_find(const struct ctl_command *c, const char *word,
						size_t len)
{
	for (size_t i = 0; i < CTL_ARGUMENTS_MAX && c->arguments[i].name; i++)
		if (strlen(c->arguments[i].name) == len &&
		    strncmp(c->arguments[i].name, word, len) == 0)
			return &c->arguments[i];
	return NULL;
}

static int apply_option(struct ctl_options *o, ProtobufCMessage *m, char **words, size_t n,
			size_t *at, uint32_t *seen)
{
	const char *word = words[*at], *equals = strchr(word, '=');
	size_t len = equals ? (size_t)(equals - word) : strlen(word);
	const struct ctl_argument *a = argument_find(o->command, word, len);
	const char *value = equals ? equals + 1 : NULL;

	if (!a)
		return usage("%s %s has no option %.*s", o->command->noun, o->command->verb ?: "",
			     (int)len, word);
	if (is_flag(o->command, a)) {
		if (value)
			return usage("%s takes no value", a->name);
	} else if (!value) {
		if (*at + 1 >= n)
			return usage("%s needs a value", a->name);
		value = words[++*at];
	}
	*seen |= 1u << (a - o->command->arguments);
	return field_set(m, a, value);
}

static int apply_word(struct ctl_options *o, ProtobufCMessage *m, const char *word, uint32_t *seen)
{
	for (size_t i = 0; i < CTL_ARGUMENTS_MAX && o->command->arguments[i].name; i++) {
		const struct ctl_argument *a = &o->command->arguments[i];

		if (a->name[0] == '-' || (*seen & (1u << i)))
			continue;
		*seen |= 1u << i;
		return field_set(m, a, word);
	}
	return usage("\"%s\" is one word too many", word);
}

/* A static member without a mode is what a host's plain join would be. */
static void default_mode(ProtobufCMessage *m, uint32_t seen, const struct ctl_command *c)
{
	const ProtobufCFieldDescriptor *f = ctl_field(m, "mode");
	const struct ctl_argument *mode = argument_find(c, "--mode", 6);
	const struct ctl_argument *source = argument_find(c, "--source", 8);

	if (!f || !mode || !source || (seen & (1u << (mode - c->arguments))))
		return;
	*(int *)ctl_value(m, f) = seen & (1u << (source - c->arguments))
					  ? MCMESH__V1__FILTER__MODE__INCLUDE
					  : MCMESH__V1__FILTER__MODE__EXCLUDE;
}

/* The first required argument without a value; or NULL. */
static const char *missing(const struct ctl_command *c, const ProtobufCMessage *m, uint32_t seen)
{
	for (size_t i = 0; i < CTL_ARGUMENTS_MAX && c->arguments[i].name; i++) {
		const struct ctl_argument *a = &c->arguments[i];
		const ProtobufCFieldDescriptor *f = ctl_field(m, a->field);

		if (a->required && (!(seen & (1u << i)) || !**(char **)ctl_value(m, f)))
			return a->name;
	}
	return NULL;
}

static int apply(struct ctl_options *o, char **words, size_t n)
{
	const struct ctl_command *c = o->command;
	const char *name;
	ProtobufCMessage *m;
	uint32_t seen = 0;
	int r = 0;

	m = o->request = request_new(c->request);
	if (m && c->inner) {
		const ProtobufCFieldDescriptor *f = ctl_field(m, c->inner);
		ProtobufCMessage *inner = request_new(f->descriptor);

		*(ProtobufCMessage **)ctl_value(m, f) = inner;
		m = inner;
	}
	if (!m)
		return CTL_FAILED;
	for (size_t i = 0; i < n && !r; i++) {
		if (words[i][0] == '-')
			r = apply_option(o, m, words, n, &i, &seen);
		else
			r = apply_word(o, m, words[i], &seen);
	}
	if (r || o->help)
		return r;
	name = missing(c, m, seen);
	if (name)
		return usage("%s%s%s needs %s", c->noun, c->verb ? " " : "", c->verb ?: "", name);
	default_mode(m, seen, c);
	return 0;
}

static char *agent_target(const char *agent)
{
	char *target;

	if (agent[0] != '/')
		return strdup(agent);
	return asprintf(&target, "unix:%s", agent) < 0 ? NULL : target;
}

/* Sorts the line: the nouns and verbs first, then what belongs to them. */
static int split(int argc, char **argv, struct ctl_options *o, char **plain, size_t *n_plain,
		 char **rest, size_t *n_rest)
{
	for (int i = 1; i < argc; i++) {
		int r = common_option(o, argc, argv, &i);

		if (r < 0)
			return -r;
		if (r > 0)
			continue;
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			o->help = true;
		} else if (strcmp(argv[i], "--version") == 0) {
			puts("mcmeshctl " MCMESH_VERSION);
			exit(CTL_DONE);
		} else if (argv[i][0] == '-') {
			rest[(*n_rest)++] = argv[i];
			if (option_takes_value(argv[i]) && i + 1 < argc)
				rest[(*n_rest)++] = argv[++i];
		} else {
			plain[(*n_plain)++] = argv[i];
		}
	}
	return 0;
}

int ctl_parse(int argc, char **argv, struct ctl_options *ret_options)
{
	struct ctl_options *o = ret_options;
	_cleanup_free_ char **plain = calloc((size_t)argc + 1, sizeof(*plain));
	_cleanup_free_ char **rest = calloc((size_t)argc * 2 + 2, sizeof(*rest));
	size_t n_plain = 0, n_rest = 0, used;
	int r;

	*o = (struct ctl_options){
		.controller = environment("MCMESH_CONTROLLER", CTL_CONTROLLER_DEFAULT),
		.agent = environment("MCMESH_AGENT", CTL_AGENT_DEFAULT),
		.cacert = environment("MCMESH_CACERT", NULL),
		.cert = environment("MCMESH_CERT", NULL),
		.key = environment("MCMESH_KEY", NULL),
		.server_name = environment("MCMESH_SERVER_NAME", NULL),
	};
	if (!plain || !rest) {
		o->agent = NULL;
		return CTL_FAILED;
	}
	r = split(argc, argv, o, plain, &n_plain, rest, &n_rest);
	o->agent = agent_target(o->agent); /* owned from here */
	if (r || !o->agent)
		return r ?: CTL_FAILED;
	if (n_plain && strcmp(plain[0], "help") == 0) {
		o->help = true;
		memmove(plain, plain + 1, --n_plain * sizeof(*plain));
	}
	if (n_plain == 0) {
		if (o->help)
			return 0;
		return usage("%s%sno command is named", n_rest ? rest[0] : "", n_rest ? ": " : "");
	}
	o->command = command_find(plain, n_plain, &used);
	if (!o->command)
		return no_command(o, plain, n_plain);
	if (!(o->command->agent ? o->agent : o->controller)[0])
		return usage("the target is empty: --%s needs HOST:PORT or unix:/PATH",
			     o->command->agent ? "agent" : "controller");
	while (used < n_plain)
		rest[n_rest++] = plain[used++];
	return apply(o, rest, n_rest);
}

void ctl_options_deinit(struct ctl_options *options)
{
	free((char *)options->agent);
	if (options->request)
		protobuf_c_message_free_unpacked(options->request, NULL);
}

/* ---- help ------------------------------------------------------------------- */

static void help_command(const struct ctl_command *c)
{
	printf("usage: mcmeshctl %s%s%s", c->noun, c->verb ? " " : "", c->verb ?: "");
	for (size_t i = 0; i < CTL_ARGUMENTS_MAX && c->arguments[i].name; i++) {
		const struct ctl_argument *a = &c->arguments[i];
		const char *value = a->name[0] == '-' && !is_flag(c, a) ? " VALUE" : "";

		printf(a->required ? " %s%s" : " [%s%s]", a->name, value);
	}
	printf("\n\nShows or does: %s.\nAsks the %s (%s).\n", c->help,
	       c->agent ? "node's agent" : "controller", c->path + 1);
	for (size_t i = 0; i < CTL_ARGUMENTS_MAX && c->arguments[i].name; i++)
		printf("  %-15s %s\n", c->arguments[i].name, c->arguments[i].help);
}

void ctl_help(const struct ctl_options *options)
{
	if (options->command) {
		help_command(options->command);
		return;
	}
	puts("usage: mcmeshctl [OPTION...] NOUN VERB [ARGUMENT...]\n");
	for (size_t i = 0; i < ctl_n_commands; i++) {
		const struct ctl_command *c = &ctl_commands[i];
		char name[40];

		snprintf(name, sizeof(name), "%s%s%s", c->noun, c->verb ? " " : "", c->verb ?: "");
		printf("  %-17s %s\n", name, c->help);
	}
	puts("\n  -o table|json         how to print (default: table)\n"
	     "  --controller TARGET   or MCMESH_CONTROLLER (default: " CTL_CONTROLLER_DEFAULT ")\n"
	     "  --agent TARGET        or MCMESH_AGENT (default: " CTL_AGENT_DEFAULT ")\n"
	     "  --cacert FILE         or MCMESH_CACERT: TLS to the controller, and whom to trust\n"
	     "  --cert, --key FILE    or MCMESH_CERT, MCMESH_KEY: who you are\n"
	     "  --server-name NAME    or MCMESH_SERVER_NAME: in place of the target's host\n"
	     "  --help, --version\n\n"
	     "NOUN VERB --help says more. Exit status: 0 done, 1 failed, 2 bad usage,\n"
	     "3 verify found drift.");
}
