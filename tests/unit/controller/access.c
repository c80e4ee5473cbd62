/* SPDX-License-Identifier: Apache-2.0 */

/* Who may do what, with certificates as deploy/pki makes them. */
#include "controller/access.h"

#include <errno.h>
#include <ftw.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/rpc_tls.h"
#include "controller/config_nodes.h"
#include "harness.h"

extern const uint8_t _binary_mcmesh_pb_start[], _binary_mcmesh_pb_end[];

static char dir[64];

static void pki(const char *arguments)
{
	char line[512];

	snprintf(line, sizeof(line), "/usr/bin/python3 %s/deploy/pki/mcmesh-pki %s %s", SOURCE_DIR,
		 dir, arguments);
	cr_assert_eq(system(line), 0, "%s", line);
}

static char *path(const char *name, const char *suffix)
{
	char *p;

	cr_assert(asprintf(&p, "%s/%s.%s", dir, name, suffix) > 0);
	return p;
}

static const char *file_text;

static int file_load(struct controller_config **ret_config, char why[CONFIG_WHY_MAX])
{
	_cleanup_free_ char *name = path("controller", "yaml");
	FILE *file = fopen(name, "w");

	fputs(file_text, file);
	fclose(file);
	return controller_config_load(name, ret_config, why);
}

/* The harness made a configuration of defaults: these parts come from the text. */
static void configure(struct controller_config *cfg)
{
	struct config_tls tls = { path("ca", "pem"), path("c1", "pem"), path("c1", "key"), NULL };
	struct controller_config *from;
	char why[CONFIG_WHY_MAX];

	cfg->tls = config_tls_copy(&tls);
	free(tls.cacert);
	free(tls.cert);
	free(tls.key);
	if (!file_text)
		return;
	cr_assert_eq(file_load(&from, why), 0, "%s", why);
	config_nodes_free(cfg);
	cfg->nodes = TAKE_PTR(from->nodes);
	cfg->nodes_count = from->nodes_count;
	from->nodes_count = 0;
	controller_config_free(from);
}

static void up(const char *text)
{
	snprintf(dir, sizeof(dir), "/tmp/mcmesh-access-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	pki("ca");
	pki("controller c1 --host 127.0.0.1 --host n7");
	pki("node n1 --vtep 203.0.113.1");
	pki("node n2");
	file_text = text;
	setup_with(configure);
}

static int remove_one(const char *name, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(name);
}

static void down(void)
{
	teardown();
	nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* A channel with this certificate; the caller's to free. */
static struct rpc_channel *channel_as(const char *name)
{
	_cleanup_free_ char *ca = path("ca", "pem"), *cert = path(name, "pem"),
			    *key = path(name, "key");
	const struct rpc_tls_options options = { .cacert = ca, .cert = cert, .key = key };
	struct rpc_channel_options to = { .target = target };
	char why[RPC_TLS_WHY_MAX];
	struct rpc_channel *ch;

	cr_assert_eq(rpc_tls_new(&options, &to.tls, why), 0, "%s", why);
	cr_assert_eq(rpc_channel_new(rpc, &to, &ch), 0);
	rpc_tls_free(to.tls);
	return ch;
}

/* Ends of a call of MeshService with this certificate. */
static int ask_as(const char *name, const char *method)
{
	struct rpc_channel *mine = channel_as(name), *usual = channel;
	Mcmesh__V1__ListNodesRequest list = MCMESH__V1__LIST_NODES_REQUEST__INIT;
	Mcmesh__V1__DrainNodeRequest drain = MCMESH__V1__DRAIN_NODE_REQUEST__INIT;
	int status;

	drain.node = (char *)"nobody";
	channel = mine;
	if (strcmp(method, "DrainNode") == 0)
		status = ask(method, &drain.base, &mcmesh__v1__drain_node_response__descriptor,
			     NULL);
	else
		status =
			ask(method, &list.base, &mcmesh__v1__list_nodes_response__descriptor, NULL);
	channel = usual;
	rpc_channel_free(mine);
	return status;
}

/* ---- the table -------------------------------------------------------------------- */

struct text {
	const uint8_t *p, *end;
};

static uint64_t varint(struct text *t)
{
	uint64_t v = 0;

	for (unsigned int shift = 0; t->p < t->end; shift += 7) {
		v |= (uint64_t)(*t->p & 0x7f) << shift;
		if (!(*t->p++ & 0x80))
			break;
	}
	return v;
}

/* The next field that has a length; in descriptors all others are numbers. */
static bool field(struct text *t, unsigned int *number, struct text *body)
{
	while (t->p < t->end) {
		uint64_t key = varint(t), n = varint(t);

		if ((key & 7) != 2)
			continue;
		*number = (unsigned int)(key >> 3);
		*body = (struct text){ t->p, t->p + n };
		t->p += n;
		return true;
	}
	return false;
}

static struct text find(struct text t, unsigned int wanted)
{
	struct text body;
	unsigned int n;

	while (field(&t, &n, &body)) {
		if (n == wanted)
			return body;
	}
	return (struct text){ 0 };
}

static bool has_rule(const char *method)
{
	for (size_t i = 0; i < access_n_rules; i++) {
		if (strcmp(access_rules[i].path, method) == 0)
			return access_rules[i].roles != 0;
	}
	return false;
}

#define TEXT(t) (int)((t).end - (t).p), (const char *)(t).p

/* The services of one file: how many methods the controller may serve. */
static unsigned int file_check(struct text file)
{
	struct text package = find(file, 2), service, method;
	unsigned int number, methods = 0;

	while (field(&file, &number, &service)) {
		struct text name;

		if (number != 6)
			continue;
		name = find(service, 1);
		/* Served by agents, on their unix sockets. */
		if (strncmp((const char *)name.p, "AgentService", 12) == 0)
			continue;
		while (field(&service, &number, &method)) {
			char full[256];
			struct text m;

			if (number != 2)
				continue;
			m = find(method, 1);
			snprintf(full, sizeof(full), "/%.*s.%.*s/%.*s", TEXT(package), TEXT(name),
				 TEXT(m));
			cr_assert(has_rule(full), "%s has no rule in controller/access.c", full);
			methods++;
		}
	}
	return methods;
}

Test(access, every_method_has_a_rule)
{
	struct text set = { _binary_mcmesh_pb_start, _binary_mcmesh_pb_end }, file;
	unsigned int number, methods = 0;

	while (field(&set, &number, &file))
		methods += file_check(file);
	cr_assert_geq(methods, 15, "only %u methods were found", methods);
	for (size_t i = 0; i < node_service_n_methods; i++)
		cr_assert(has_rule(node_service_methods[i].path));
}

/* ---- roles ------------------------------------------------------------------------- */

Test(access, roles_of_operators)
{
	up(NULL);
	pki("operator ann --role admin");
	pki("operator rob --role read");
	pki("etcd stranger --host 192.0.2.1");
	cr_assert_eq(ask_as("ann", "ListNodes"), RPC_OK, "%s", ask_text);
	cr_assert_eq(ask_as("ann", "DrainNode"), RPC_NOT_FOUND, "%s", ask_text);
	cr_assert_eq(ask_as("rob", "ListNodes"), RPC_OK, "%s", ask_text);
	cr_assert_eq(ask_as("c1", "ListNodes"), RPC_OK, "%s", ask_text);
	cr_assert_eq(c->counters.calls_denied, 0);

	cr_assert_eq(ask_as("rob", "DrainNode"), RPC_PERMISSION_DENIED);
	cr_assert_str_eq(ask_text, "mcmesh.v1.MeshService/DrainNode needs a certificate with "
				   "mcmesh://role/admin: this one is of rob (mcmesh://role/read)");
	cr_assert_eq(ask_as("c1", "DrainNode"), RPC_PERMISSION_DENIED);
	cr_assert_eq(ask_as("n1", "ListNodes"), RPC_PERMISSION_DENIED);
	cr_assert_eq(ask_as("stranger", "ListNodes"), RPC_PERMISSION_DENIED);
	cr_assert_eq(c->counters.calls_denied, 4);
	down();
}

/* ---- nodes ------------------------------------------------------------------------- */

/* The Hello of a node at 203.0.113.vtep with the certificate; its end, or 0. */
static int hello_as(const char *cert, const char *node, uint8_t vtep, char text[256])
{
	struct rpc_channel *mine = channel_as(cert);
	struct agent a = { 0 };

	agent_open(&a, &(struct hello){
			       .node = node, .vtep = vtep, .instance = vtep, .channel = mine });
	UNTIL(a.session || a.closed);
	snprintf(text, 256, "%s", a.text);
	if (!a.closed) {
		rpc_call_cancel(a.call);
		UNTIL(a.closed);
		a.status = RPC_OK;
	}
	rpc_channel_free(mine);
	return a.status;
}

Test(access, an_agent_is_the_node_of_its_certificate)
{
	char text[256];

	up("nodes: [{ name: n2, vteps: [203.0.113.2, 203.0.113.22] }]\n");
	pki("etcd n3 --host n3 --host 203.0.113.3");
	pki("operator ann --role admin");
	cr_assert_eq(hello_as("n1", "n1", 1, text), RPC_OK, "%s", text);
	cr_assert_eq(hello_as("n2", "n2", 22, text), RPC_OK, "by its record: %s", text);
	cr_assert_eq(hello_as("n3", "n3", 3, text), RPC_OK, "by its DNS name: %s", text);

	cr_assert_eq(hello_as("n1", "n2", 2, text), RPC_PERMISSION_DENIED);
	cr_assert_not_null(strstr(text, "node n2 needs a certificate with mcmesh://node/n2"), "%s",
			   text);
	cr_assert_eq(hello_as("n1", "n1", 2, text), RPC_PERMISSION_DENIED);
	cr_assert_not_null(strstr(text, "node n1 may not use the VTEP 203.0.113.2"), "%s", text);
	cr_assert_eq(hello_as("n2", "n2", 3, text), RPC_PERMISSION_DENIED);
	/* Another case is another node, of which the records say nothing. */
	cr_assert_eq(hello_as("n3", "N3", 3, text), RPC_PERMISSION_DENIED);
	/* Where a controller is reached makes it no node. */
	cr_assert_eq(hello_as("c1", "n7", 7, text), RPC_PERMISSION_DENIED);
	cr_assert_eq(hello_as("ann", "n1", 1, text), RPC_PERMISSION_DENIED);
	cr_assert_eq(c->counters.hellos_denied, 4);
	cr_assert_eq(c->counters.calls_denied, 2);
	down();
}

Test(access, segments_are_refused_one_by_one)
{
	struct controller_config *changed;
	char why[CONFIG_WHY_MAX];
	struct rpc_channel *mine;
	struct agent a = { 0 };

	up("nodes: [{ name: n1, segments: [9, 5] }]\n");
	mine = channel_as("n1");
	/* The harness's agents want segment 1, and report rows of it. */
	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1, .channel = mine });
	UNTIL(a.session);
	cr_assert_eq(c->counters.segments_refused, 1);
	agent_report(&a, 1, true, 7);
	cr_assert_eq(a.accepted, 1);
	cr_assert_eq(a.refused, 1);
	cr_assert_eq(c->counters.rows_refused, 1);
	cr_assert(!a.closed);
	cr_assert_eq(a.snapshots, 0);
	/* A record that says the same in another order is no change. */
	file_text = "nodes: [{ name: n1, segments: [5, 9] }]\n";
	cr_assert_eq(file_load(&changed, why), 0, "%s", why);
	cr_assert_eq(controller_reload(c, changed), 0);
	agent_report(&a, 2, false, 8);
	cr_assert_eq(a.accepted, 2);
	/* More segments: the agent has to say again what it wants of them. */
	file_text = "nodes: [{ name: n1, segments: [1, 5, 9] }]\n";
	cr_assert_eq(file_load(&changed, why), 0, "%s", why);
	cr_assert_eq(controller_reload(c, changed), 0);
	UNTIL(a.closed);
	cr_assert_eq(a.status, RPC_UNAVAILABLE, "%s", a.text);
	agent_open(&a,
		   &(struct hello){
			   .node = "n1", .vtep = 1, .instance = 1, .attempt = 1, .channel = mine });
	UNTIL(a.session && a.snapshots);
	agent_report(&a, 1, true, 7);
	cr_assert_eq(a.refused, 0);
	cr_assert(access_segment(c, "n1", 5) && access_segment(c, "n1", 9));
	cr_assert(!access_segment(c, "n1", 6) && access_segment(c, "n2", 6));
	rpc_call_cancel(a.call);
	UNTIL(a.closed);
	rpc_channel_free(mine);
	down();
}

Test(access, the_evicted_go_with_their_members)
{
	struct controller_config *changed;
	struct rpc_channel *mine;
	struct agent a = { 0 };
	char why[CONFIG_WHY_MAX], text[256];

	up(NULL);
	mine = channel_as("n1");
	agent_open(&a, &(struct hello){ .node = "n1", .vtep = 1, .instance = 1, .channel = mine });
	UNTIL(a.session && a.snapshots);
	agent_report(&a, 1, true, 7);
	cr_assert_not_null(log_node_find(c->log, "n1"));

	file_text = "nodes: [{ name: n1, evicted: yes }]\n";
	cr_assert_eq(file_load(&changed, why), 0, "%s", why);
	cr_assert_eq(controller_reload(c, changed), 0);
	UNTIL(a.closed);
	cr_assert_eq(a.status, RPC_PERMISSION_DENIED);
	cr_assert_str_eq(a.text, "node n1 is evicted by the controller's configuration");
	UNTIL(!registry_find(c->registry, "n1"));
	cr_assert(!log_node_find(c->log, "n1") || log_node_find(c->log, "n1")->n_members == 0);
	cr_assert_eq(hello_as("n1", "n1", 1, text), RPC_PERMISSION_DENIED);
	rpc_channel_free(mine);
	down();
}

/* ---- the file, and plaintext --------------------------------------------------------- */

static void wrong_file(const char *text, const char *sentence)
{
	struct controller_config *cfg;
	char why[CONFIG_WHY_MAX];

	snprintf(dir, sizeof(dir), "/tmp/mcmesh-access-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	file_text = text;
	cr_assert_lt(file_load(&cfg, why), 0, "%s", text);
	cr_assert_not_null(strstr(why, sentence), "%s", why);
	nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

Test(access, records_that_are_wrong)
{
	wrong_file("nodes: [{ name: n1 }, { name: n2 }, { name: n1 }]\n", "nodes has n1 twice");
	wrong_file("nodes: [{ name: n1, vteps: [239.1.1.1] }]\n",
		   "n1 has the VTEP \"239.1.1.1\", which is no unicast address");
	wrong_file("nodes: [{ name: n1, segments: [0] }]\n", "n1 has the segment 0");
	wrong_file("nodes: [{ vteps: [203.0.113.1] }]\n", "name");
}

Test(access, settings_of_segments_that_are_wrong)
{
	wrong_file("segments: [{ segment: 7, last_member_query_count: 256 }]\n",
		   "last_member_query_count of segment 7 is 256, but must be 1 to 255");
	wrong_file("segments: [{ segment: 7, startup_query_interval_ms: 99 }]\n",
		   "startup_query_interval_ms of segment 7 is 99, but must be 100 to");
	wrong_file("segments: [{ segment: 7, query_interval_ms: 20000, "
		   "membership_interval_ms: 30000 }]\n",
		   "give more than 30000");
	wrong_file("defaults: { query_interval_ms: 20000, membership_interval_ms: 60000 }\n"
		   "segments: [{ segment: 7, query_interval_ms: 50000 }]\n",
		   "membership_interval_ms 60000 of segment 7");
}

Test(access, timers_and_counts_of_a_segment)
{
	const struct log_config *s;
	struct controller_config *cfg;
	char why[CONFIG_WHY_MAX];

	snprintf(dir, sizeof(dir), "/tmp/mcmesh-access-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	file_text = "segments: [{ segment: 7, membership_interval_ms: 300000, "
		    "last_member_query_count: 5, startup_query_interval_ms: 700, "
		    "startup_query_count: 6, accept_global_mld_source: on }]\n";
	cr_assert_eq(file_load(&cfg, why), 0, "%s", why);
	cr_assert_eq(cfg->segments_count, 1);
	s = &cfg->segments[0].config;
	cr_assert_eq(s->membership_interval_ms, 300000);
	cr_assert_eq(s->last_member_query_count, 5);
	cr_assert_eq(s->startup_query_interval_ms, 700);
	cr_assert_eq(s->startup_query_count, 6);
	cr_assert_eq(s->accept_global_mld_source, MCMESH__V1__SEGMENT_CONFIG__SWITCH__ON);
	controller_config_free(cfg);
	nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static int listen_on(const char *address, bool tls, bool insecure)
{
	static struct config_tls none;
	struct controller_config cfg = { .insecure = insecure, .tls = tls ? &none : NULL };
	char *list[] = { (char *)"127.0.0.1:7797", (char *)address, NULL };
	char why[CONTROLLER_WHY_MAX];

	cfg.listen = list;
	cfg.listen_count = 2;
	return access_check_listen(&cfg, why);
}

Test(access, plaintext_stays_on_this_machine)
{
	cr_assert_eq(listen_on("0.0.0.0:7797", false, false), -EINVAL);
	cr_assert_eq(listen_on("[::]:7797", false, false), -EINVAL);
	cr_assert_eq(listen_on("203.0.113.1:7797", false, false), -EINVAL);
	cr_assert_eq(listen_on("127.example.com:7797", false, false), -EINVAL);
	cr_assert_eq(listen_on("localhost.example.com:7797", false, false), -EINVAL);
	cr_assert_eq(listen_on("127.0.0.2:7797", false, false), 0);
	cr_assert_eq(listen_on("[::1]:7797", false, false), 0);
	cr_assert_eq(listen_on("localhost:7797", false, false), 0);
	cr_assert_eq(listen_on("unix:/run/x.sock", false, false), 0);
	cr_assert_eq(listen_on("0.0.0.0:7797", false, true), 0);
	cr_assert_eq(listen_on("0.0.0.0:7797", true, false), 0);
	cr_assert_eq(listen_on("127.0.0.1:7797", true, true), -EINVAL);
}
