/* SPDX-License-Identifier: Apache-2.0 */
#include "node/config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "common/cleanup.h"

DEFINE_CLEANUP(struct node_config *, node_config_free)

static char why[NODE_CONFIG_WHY_MAX];

static int load_as(const char *text, const struct node_config_own *own,
		   struct node_config **ret_config)
{
	char path[] = "/tmp/mcmesh-agent-XXXXXX";
	_cleanup_close_ int fd = mkstemp(path);
	int r;

	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	why[0] = '\0';
	r = node_config_load(path, own, ret_config, why);
	unlink(path);
	return r;
}

static int load(const char *text, struct node_config **ret_config)
{
	return load_as(text, &(struct node_config_own){ 0 }, ret_config);
}

Test(node_config, defaults)
{
	_cleanup_(node_config_free_p)
	struct node_config *c = NULL;
	char host[256] = "", vtep[ADDR_TEXT_MAX];
	struct gmp_config gmp;

	gethostname(host, sizeof(host) - 1);
	gmp_config_default(&gmp);
	cr_assert_eq(load("vtep: 203.0.113.1\n", &c), 0, "%s", why);
	cr_expect_str_eq(c->node, host);
	cr_expect_str_eq(addr_format(&c->vtep, vtep), "203.0.113.1");
	cr_assert_not_null(c->controllers);
	cr_expect_null(c->controllers[0]);
	cr_expect_str_eq(c->socket, "/run/mcmesh/agent.sock");
	cr_expect_null(c->socket_group);
	cr_expect_null(c->tls);
	cr_expect_str_eq(c->state_dir, "/var/lib/mcmesh");
	cr_expect_str_eq(c->datapath.root, "/sys/fs/bpf/mcmesh");
	cr_expect_str_eq(c->overlay_device, "mcmesh0");
	cr_expect_eq(c->overlay_port, 4797);
	cr_expect_eq(c->datapath.dscp, 0);
	cr_expect_eq(c->n_ports, 0);
	cr_expect_eq(c->log_level, LOG_LEVEL_INFO);
	cr_expect_eq(c->datapath.attach, DATAPATH_ATTACH_AUTO);
	cr_expect_eq(c->datapath.max_ports, DATAPATH_MAX_PORTS);
	cr_expect_eq(c->gmp.robustness, gmp.robustness);
	cr_expect_eq(c->gmp.querier, gmp.querier);
	cr_expect_eq(c->gmp.igmp_version, gmp.igmp_version);
}

Test(node_config, every_key)
{
	_cleanup_(node_config_free_p)
	struct node_config *c = NULL;
	char source[ADDR_TEXT_MAX];

	cr_assert_eq(
		load("node: n1\nvtep: 2001:db8::1\n"
		     "controllers: [ '203.0.113.250:7797', '[2001:db8::9]:7797', 'c.example:1' ]\n"
		     "socket: /tmp/a.sock\nstate_dir: /tmp/s\nbpf_root: /sys/fs/bpf/x\n"
		     "attach: clsact\nlog_level: debug\noverlay: { device: mc1, port: 65535, path: "
		     "device }\n"
		     "delivery: peer\nfans: { enabled: no, min_ports: 9 "
		     "}\n"
		     "ports:\n  - { match: 'veth*', segment: 16777215 }\n  - { match: tap0 }\n"
		     "gmp: { robustness: 3, query_interval_ms: 60000, fast_leave: yes, "
		     "querier: no, igmp_version: 2, mld_version: 1, query_source: 192.0.2.1, "
		     "max_groups: 7, membership_interval_ms: 5000 }\n"
		     "limits: { ports: 10, remotes: 11, routes: 12, lists: 13, punt_rate: 14 }\n"
		     "socket_group: adm\n"
		     "tls: { cacert: /c, cert: /d, key: /e, server_name: mesh }\n",
		     &c),
		0, "%s", why);
	cr_expect_str_eq(c->node, "n1");
	cr_expect_str_eq(c->controllers[1], "[2001:db8::9]:7797");
	cr_expect_str_eq(c->controllers[2], "c.example:1");
	cr_expect_null(c->controllers[3]);
	cr_expect_str_eq(c->socket, "/tmp/a.sock");
	cr_expect_str_eq(c->overlay_device, "mc1");
	cr_expect_eq(c->overlay_port, 65535);
	cr_expect_eq(c->overlay_path, NODE_OVERLAY_PATH_DEVICE);
	cr_expect_eq(c->delivery, NODE_DELIVERY_PEER);
	cr_expect(c->datapath.no_fans);
	cr_expect_eq(c->datapath.fan_min_ports, 9);
	cr_assert_eq(c->n_ports, 2);
	cr_expect_str_eq(c->ports[0].match, "veth*");
	cr_expect_eq(c->ports[0].segment, 16777215);
	cr_expect_eq(c->ports[1].segment, 1);
	cr_expect_eq(c->gmp.robustness, 3);
	cr_expect_eq(c->gmp.query_interval_ms, 60000);
	cr_expect(c->gmp.fast_leave);
	cr_expect(!c->gmp.querier);
	cr_expect_eq(c->gmp.igmp_version, GMP_IGMPV2);
	cr_expect_eq(c->gmp.mld_version, GMP_MLDV1);
	cr_expect_str_eq(addr_format(&c->gmp.query_source_v4, source), "192.0.2.1");
	cr_expect_eq(c->gmp.max_groups, 7);
	cr_expect_eq(c->datapath.attach, DATAPATH_ATTACH_CLSACT);
	cr_expect_eq(c->datapath.max_lists, 13);
	cr_expect_eq(c->datapath.punt_rate, 14);
	cr_expect_eq(c->log_level, LOG_LEVEL_DEBUG);
	cr_expect_str_eq(c->socket_group, "adm");
	cr_assert_not_null(c->tls);
	cr_expect_str_eq(c->tls->cacert, "/c");
	cr_expect_str_eq(c->tls->cert, "/d");
	cr_expect_str_eq(c->tls->key, "/e");
	cr_expect_str_eq(c->tls->server_name, "mesh");
}

/* Each file is wrong in one thing, and the sentence names it. */
static const struct {
	const char *text, *says;
} wrong[] = {
	{ "node: n1\n", "vtep: is missing" },
	{ "vtep: 239.1.1.1\n", "vtep: \"239.1.1.1\" is not" },
	{ "vtep: 0.0.0.0\n", "vtep:" },
	{ "vtep: fe80::1\n", "vtep:" },
	{ "vtep: here\n", "vtep:" },
	{ "vtep: 203.0.113.1\nprots: []\n", ":2:1: unknown key \"prots\"" },
	{ "vtep: 203.0.113.1\nnode: -n\n", "node: \"-n\"" },
	{ "vtep: 203.0.113.1\ntls: { cacert: /c, key: /k }\n", "tls.cert: is missing" },
	{ "vtep: 203.0.113.1\ntls: { ca: /c }\n", "unknown key \"ca\"" },
	{ "vtep: 203.0.113.1\nnode: n-\n", "node:" },
	{ "vtep: 203.0.113.1\nnode: n..m\n", "node:" },
	{ "vtep: 203.0.113.1\nnode: n_m\n", "node:" },
	{ "vtep: 203.0.113.1\ncontrollers: [a]\n", "controllers: \"a\"" },
	{ "vtep: 203.0.113.1\ncontrollers: ['a:0']\n", "controllers:" },
	{ "vtep: 203.0.113.1\ncontrollers: ['a:65536']\n", "controllers:" },
	{ "vtep: 203.0.113.1\ncontrollers: ['2001:db8::9:7797']\n", "controllers:" },
	{ "vtep: 203.0.113.1\ncontrollers: ['[203.0.113.9]:1']\n", "controllers:" },
	{ "vtep: 203.0.113.1\nports: [{match: a, segment: 0}]\n", "segment 0 is not" },
	{ "vtep: 203.0.113.1\nports: [{match: a, segment: 16777216}]\n", "segment 16777216" },
	{ "vtep: 203.0.113.1\nports: [{match: ''}]\n", "match must not be empty" },
	{ "vtep: 203.0.113.1\noverlay: {port: 0}\n", "overlay.port: 0" },
	{ "vtep: 203.0.113.1\nfans: {min_ports: 1}\n", "fans.min_ports: 1" },
	{ "vtep: 203.0.113.1\nfans: {min_ports: 33}\n", "fans.min_ports: 33" },
	{ "vtep: 203.0.113.1\noverlay: {port: 65536}\n", "overlay.port: 65536" },
	{ "vtep: 203.0.113.1\noverlay: {dscp: 64}\n", "overlay.dscp: \"64\"" },
	{ "vtep: 203.0.113.1\noverlay: {dscp: ef}\n", "overlay.dscp: \"ef\"" },
	{ "vtep: 203.0.113.1\noverlay: {dscp: -1}\n", "overlay.dscp: \"-1\"" },
	{ "vtep: 203.0.113.1\noverlay: {device: 0123456789abcdef}\n", "overlay.device:" },
	{ "vtep: 203.0.113.1\noverlay: {device: a/b}\n", "overlay.device:" },
	{ "vtep: 203.0.113.1\nsocket: run/x\n", "socket: \"run/x\" is not an absolute path" },
	{ "vtep: 203.0.113.1\nattach: xdp\n", "\"xdp\" is not a value that attach can have" },
	{ "vtep: 203.0.113.1\ngmp: {igmp_version: 4}\n", "gmp.igmp_version:" },
	{ "vtep: 203.0.113.1\ngmp: {mld_version: 0}\n", "gmp.mld_version:" },
	{ "vtep: 203.0.113.1\ngmp: {query_source: '::1'}\n", "gmp.query_source:" },
	{ "vtep: 203.0.113.1\ngmp: {query_source_v6: 2001:db8::1}\n", "gmp.query_source_v6:" },
	{ "vtep: 203.0.113.1\ngmp: {query_interval_ms: 1000}\n", "gmp: " },
	{ "vtep: 203.0.113.1\nlimits: {ports: 0}\n", "limits.ports: 0" },
};

Test(node_config, refusals)
{
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct node_config *c = NULL;

		cr_expect_eq(load(wrong[i].text, &c), -EINVAL, "case %zu", i);
		cr_expect_null(c);
		cr_expect(strstr(why, wrong[i].says), "case %zu: %s", i, why);
	}
}

Test(node_config, socket_fits_sun_path)
{
	struct node_config *c = NULL;
	char text[300];

	snprintf(text, sizeof(text), "vtep: 203.0.113.1\nsocket: /%0107d\n", 0);
	cr_expect_eq(load(text, &c), -EINVAL);
	cr_expect(strstr(why, "socket: the path is longer than 107"), "%s", why);
	snprintf(text, sizeof(text), "vtep: 203.0.113.1\nsocket: /%0106d\n", 0);
	cr_expect_eq(load(text, &c), 0, "%s", why);
	node_config_free(c);
}

Test(node_config, controllers_of_the_command_line_replace_the_list)
{
	struct node_config *c;

	cr_assert_eq(load("vtep: 203.0.113.1\ncontrollers: ['a:1', 'b:1', 'c:1']\n", &c), 0);
	cr_assert_eq(node_config_add_controllers(c, "d:1,[2001:db8::9]:2", true, why), 0);
	cr_assert_eq(node_config_add_controllers(c, "e:1", false, why), 0);
	cr_expect_str_eq(c->controllers[0], "d:1");
	cr_expect_str_eq(c->controllers[1], "[2001:db8::9]:2");
	cr_expect_str_eq(c->controllers[2], "e:1");
	cr_expect_null(c->controllers[3]);
	cr_expect_lt(node_config_add_controllers(c, "f:1,,g:1", false, why), 0);
	cr_expect(strstr(why, "\"\" is not HOST:PORT"), "%s", why);
	node_config_free(c);
}

Test(node_config, name_and_vtep_of_the_command_line)
{
	const struct node_config_own both = { .node = "n2", .vtep = "2001:db8::2" };
	const struct node_config_own vtep = { .vtep = "203.0.113.2" };
	const struct node_config_own group = { .vtep = "239.1.1.1" };
	_cleanup_(node_config_free_p)
	struct node_config *c = NULL, *d = NULL, *e = NULL;
	char text[ADDR_TEXT_MAX];

	cr_assert_eq(load_as("node: n1\nvtep: 203.0.113.1\n", &both, &c), 0, "%s", why);
	cr_expect_str_eq(c->node, "n2");
	cr_expect_str_eq(addr_format(&c->vtep, text), "2001:db8::2");
	/* A file that all nodes share has neither. */
	cr_assert_eq(load_as("log_level: info\n", &vtep, &d), 0, "%s", why);
	cr_expect_str_eq(addr_format(&d->vtep, text), "203.0.113.2");
	cr_expect_eq(load_as("vtep: 203.0.113.1\n", &group, &e), -EINVAL);
	cr_expect(strstr(why, "\"239.1.1.1\" is not the unicast address"), "%s", why);
	cr_expect_null(e);
}

Test(node_config, example_is_right_and_shows_the_defaults)
{
	_cleanup_(node_config_free_p)
	struct node_config *example = NULL, *plain = NULL;

	cr_assert_eq(node_config_load(SOURCE_DIR "/deploy/agent.yaml",
				      &(struct node_config_own){ 0 }, &example, why),
		     0, "%s", why);
	cr_assert_eq(load("vtep: 203.0.113.1\n", &plain), 0, "%s", why);
	cr_expect_str_eq(example->socket, plain->socket);
	cr_expect_str_eq(example->state_dir, plain->state_dir);
	cr_expect_str_eq(example->datapath.root, plain->datapath.root);
	cr_expect_str_eq(example->overlay_device, plain->overlay_device);
	cr_expect_eq(example->overlay_port, plain->overlay_port);
	cr_expect_eq(example->log_level, plain->log_level);
	cr_expect_eq(example->datapath.attach, plain->datapath.attach);
	cr_expect_eq(example->n_ports, 1);
}
