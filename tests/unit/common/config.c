/* SPDX-License-Identifier: Apache-2.0 */
#include "common/config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"

struct entry {
	char *match;
	uint32_t segment;
};

struct file {
	char *node;
	bool guard;
	uint16_t port;
	struct entry *entries;
	uint32_t n_entries;
};

static const cyaml_schema_field_t entry_fields[] = {
	CYAML_FIELD_STRING_PTR("match", CYAML_FLAG_POINTER, struct entry, match, 1, 15),
	CYAML_FIELD_UINT("segment", CYAML_FLAG_OPTIONAL, struct entry, segment),
	CYAML_FIELD_END,
};
static const cyaml_schema_value_t entry_schema = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct entry, entry_fields),
};
static const cyaml_schema_field_t file_fields[] = {
	CYAML_FIELD_STRING_PTR("node", CYAML_FLAG_POINTER, struct file, node, 0, 63),
	CONFIG_FIELD_BOOL("guard", CYAML_FLAG_OPTIONAL, struct file, guard),
	CYAML_FIELD_UINT("port", CYAML_FLAG_OPTIONAL, struct file, port),
	CYAML_FIELD_SEQUENCE_COUNT("ports", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct file,
				   entries, n_entries, &entry_schema, 0, 3),
	CYAML_FIELD_END,
};
static const cyaml_schema_value_t file_schema = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct file, file_fields),
};

/* Writes text to a file and loads it; *ret_what: the sentence without the path. */
static int load(const char *text, struct file **ret_file, char why[CONFIG_WHY_MAX],
		const char **ret_what)
{
	char path[] = "/tmp/mcmesh-config-XXXXXX";
	_cleanup_close_ int fd = mkstemp(path);
	void *data = NULL;
	int r;

	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	why[0] = '\0';
	r = config_load(path, &file_schema, &data, why);
	unlink(path);
	*ret_file = data;
	*ret_what = why;
	if (r < 0) {
		cr_assert_null(data);
		cr_assert(strncmp(why, path, strlen(path)) == 0, "no path in: %s", why);
		*ret_what = why + strlen(path);
	}
	return r;
}

Test(config, loads_what_is_right)
{
	char why[CONFIG_WHY_MAX];
	const char *what;
	struct file *f;

	cr_assert_eq(load("# a comment: node: x\nnode: n1\nguard: on\nport: 4797\nports:\n"
			  "  - match: \"veth*\"\n    segment: 7\n  - { match: tap0 }\n",
			  &f, why, &what),
		     0, "%s", why);
	cr_expect_str_eq(f->node, "n1");
	cr_expect(f->guard);
	cr_expect_eq(f->port, 4797);
	cr_assert_eq(f->n_entries, 2);
	cr_expect_str_eq(f->entries[0].match, "veth*");
	cr_expect_eq(f->entries[0].segment, 7);
	cr_expect_eq(f->entries[1].segment, 0);
	config_free(&file_schema, f);
}

static const struct {
	const char *text, *what;
} wrong[] = {
	{ "node: a\nguard: on\n\n  \nprots: []\n", ":5:1: unknown key \"prots\"" },
	{ "prots: []\nnode: a\n", ":1:1: unknown key \"prots\"" },
	{ "node: a\nports:\n  - match: x\n    segmint: 1\n", ":4:5: unknown key \"segmint\"" },
	{ "node: a # port2: 1\nports: [{match: x, port2: 1}]\n", ":2:20: unknown key \"port2\"" },
	{ "node: a\nnode: b\n", ":2:1: key \"node\" is given twice" },
	{ "port: 1\n", ":1:7: key \"node\" is missing here" },
	{ "node: a\nguard: maybe\n", ":2:8: \"maybe\" is not a value that guard can have" },
	{ "node: a\nport: 70000\n", ":2:7: \"70000\" is not a value that port can have" },
	{ "node: a\nport: -1\n", ":2:7: \"-1\" is not a value that port can have" },
	{ "node: a\nports: x\n", ":2:8: ports must be a list" },
	{ "node: [a]\n", ":1:7: node must be a single value" },
	{ "node: a\nports: [x]\n", ":2:9: ports must be a mapping of keys to values" },
	{ "- a\n", ":1:1: the file must be a mapping of keys to values" },
	{ "node: a\nports: [{match: ''}]\n", ":2:17: match must not be empty" },
	{ "node: a\nports: [{match: '0123456789abcdef'}]\n",
	  ":2:17: match is longer than 15 characters" },
	{ "node: a\nports: [{match: a},{match: a},{match: a},{match: a}]\n",
	  ":2:42: ports has more than 3 entries" },
	{ "node: a\nport: 12s\n", ":2:7: \"12s\" is not a value that port can have" },
	{ "node: a\nport: 1e3 # ten\n", ":2:7: \"1e3\" is not a value that port can have" },
	{ "node: 12s\nports: [{match: a, segment: 5_000}]\n",
	  ":2:29: \"5_000\" is not a value that segment can have" },
	{ "", ":1:1: the file says nothing" },
	{ "# only a comment\n", ":1:1: the file says nothing" },
	{ "node: a\n---\nnode: b\n", ":1:1: the file holds more than one YAML document" },
};

Test(config, one_sentence_for_each_mistake)
{
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		char why[CONFIG_WHY_MAX];
		const char *what;
		struct file *f;

		cr_expect_eq(load(wrong[i].text, &f, why, &what), -EINVAL, "case %zu", i);
		cr_expect_str_eq(what, wrong[i].what, "case %zu: %s", i, why);
		config_free(&file_schema, f);
	}
}

Test(config, broken_yaml_gives_its_line)
{
	char why[CONFIG_WHY_MAX];
	const char *what;
	struct file *f;

	cr_expect_eq(load("node: \"a\nports: [\n", &f, why, &what), -EINVAL);
	cr_expect(strstr(what, "this is not YAML: "), "%s", why);
}

Test(config, unreadable_file_says_what_to_do)
{
	char why[CONFIG_WHY_MAX];
	void *data = &why;

	cr_expect_eq(config_load("/nonexistent/agent.yaml", &file_schema, &data, why), -ENOENT);
	cr_expect_str_eq(why, "/nonexistent/agent.yaml: no such file: create it (deploy/ has an "
			      "example) or name another with --config");
	cr_expect_eq(data, &why, "touched on failure");
	cr_expect_eq(config_load("/tmp", &file_schema, &data, why), -EISDIR);
	cr_expect_str_eq(why, "/tmp: this is a folder: name a file in it");
	cr_expect_eq(config_load("/dev/zero", &file_schema, &data, why), -EFBIG);
	cr_expect_str_eq(why, "/dev/zero: larger than 1048576 bytes");
}
