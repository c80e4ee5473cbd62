/* SPDX-License-Identifier: Apache-2.0 */
/* Export and import, between stores and through files that are not as they should be. */
#include "controller/transfer.h"

#include "etcd_server.h"
#include "store_harness.h"

#define HEADER "{\"mcmesh\": \"store\", \"version\": 1, \"epoch\": \"00\", \"revision\": \"1\"}\n"
#define NODE   "{\"node\": {\"name\": \"n1\", \"vtep\": \"203.0.113.1\"}}\n"
#define STATIC(group, mode, sources)                                            \
	"{\"static\": {\"node\": \"n1\", \"port\": \"p1\", \"group\": \"" group \
	"\", \"mode\": \"" mode "\", \"sources\": [" sources "]}}\n"
#define END(n) "{\"end\": {\"rows\": " #n "}}\n"

static char *scratch, spec[256], file[256], why[CONTROLLER_WHY_MAX];
static struct controller_config *config;
static struct bed bed;

static void setup(void)
{
	scratch = scratch_new();
	snprintf(spec, sizeof(spec), "sqlite:%s/a.db", scratch);
	snprintf(file, sizeof(file), "%s/mesh.jsonl", scratch);
	cr_assert_eq(controller_config_load(NULL, &config, why), 0);
	cr_assert_eq(controller_config_set_store(config, spec), 0);
}

static void teardown(void)
{
	controller_config_free(config);
	scratch_free(scratch);
}

TestSuite(transfer, .init = setup, .fini = teardown, .timeout = 60);

static void write_text(const char *text)
{
	FILE *f = fopen(file, "w");

	cr_assert_not_null(f);
	fputs(text, f);
	fclose(f);
}

static void fill(void)
{
	struct addr source = addr_v4_be32(__builtin_bswap32(0xc6120001));
	const struct log_config settings = { .robustness = 3, .proxy = 2 };
	struct log_change c[5] = {
		change_node("n1", 1, false),
		change_node("n2", 2, false),
		change_member("n1", 1, false),
		{ .kind = LOG_CONFIG, .node = "", .subject = 7, .config = &settings },
		change_member("n1", 2, false),
	};

	c[4].kind = LOG_STATIC;
	c[4].segment = 0;
	c[4].port = "p1";
	c[4].filter = (struct filter){ FILTER_INCLUDE, 1, &source };
	bed_open(&bed, spec);
	cr_assert_eq(bed_commit(&bed, "", 0, 0, c, 5), 0);
	c[1].deleted = true;
	cr_assert_eq(bed_commit(&bed, "", 0, 0, &c[1], 1), 0);
	store_complete(bed.store);
	bed_close(&bed);
}

Test(transfer, operators_words_and_nodes_go_over_members_do_not)
{
	struct log_change c = change_member("n1", 2, false);
	uint8_t epoch[EPOCH_LEN];

	fill();
	bed_open(&bed, spec); /* as a controller that runs */
	memcpy(epoch, bed.store->epoch, EPOCH_LEN);
	cr_assert_eq(transfer_export(config, NULL, file, why), 0, "%s", why);
	cr_assert_eq(transfer_import(config, NULL, file, true, why), -EBUSY);
	bed_close(&bed);
	snprintf(spec, sizeof(spec), "sqlite:%s/b.db", scratch);
	controller_config_set_store(config, spec);
	cr_assert_eq(transfer_import(config, NULL, file, false, why), 0, "%s", why);
	bed_open(&bed, spec);
	cr_assert_arr_neq(bed.store->epoch, epoch, EPOCH_LEN);
	cr_assert(bed.store->is_fresh, "agents have to report first");
	cr_assert_not_null(log_find_live(bed.log, LOG_NODE, 0, "n1", NULL, NULL));
	cr_assert_null(log_find_live(bed.log, LOG_NODE, 0, "n2", NULL, NULL));
	cr_assert_eq(log_node_find(bed.log, "n1")->n_members, 0);
	cr_assert_eq(log_config_find(bed.log, 7)->config->robustness, 3);
	cr_assert_eq(log_config_find(bed.log, 7)->config->proxy, 2);
	cr_assert_eq(log_find_live(bed.log, LOG_STATIC, 0, "n1", &c.group, "p1")->filter.n_sources,
		     1);
	bed_close(&bed);
	cr_assert_eq(transfer_import(config, NULL, file, false, why), -EEXIST);
	cr_assert_not_null(strstr(why, "--force"), "%s", why);
	write_text(HEADER NODE END(1));
	cr_assert_eq(transfer_import(config, NULL, file, true, why), 0, "%s", why);
	bed_open(&bed, spec);
	cr_assert_null(log_config_find(bed.log, 7));
	bed_close(&bed);
	controller_config_set_store(config, "memory");
	cr_assert_eq(transfer_import(config, NULL, file, false, why), -ENOTSUP);
	cr_assert_not_null(strstr(why, "sqlite:"), "%s", why);
}

Test(transfer, damaged_input_is_refused_by_line_and_changes_nothing)
{
	static const struct {
		const char *text, *line, *word;
	} cases[] = {
		{ "", "line 0", "not whole" },
		{ "\n", "line 1", "JSON" },
		{ "{}\n", "line 1", "not an export" },
		{ "{\"mcmesh\": \"store\", \"version\": 9, \"epoch\": \"\", \"revision\": \"\"}\n",
		  "line 1", "newer" },
		{ HEADER, "line 1", "not whole" },
		{ HEADER NODE, "line 2", "not whole" },
		{ HEADER NODE END(2), "line 3", "missing" },
		{ HEADER END(0) NODE, "line 3", "after the end" },
		{ HEADER NODE NODE END(2), "line 3", "before" },
		{ HEADER NODE "{\"node\": {\"na", "line 3", "JSON" },
		{ HEADER "{\"colour\": {}}\n" END(1), "line 2", "one of" },
		{ HEADER "{\"node\": {\"name\": \"n1\"}}\n" END(1), "line 2", "vtep" },
		{ HEADER "{\"node\": {\"name\": \"n1\", \"vtep\": \"239.1.1.1\"}}\n" END(1),
		  "line 2", "vtep" },
		{ HEADER "{\"node\": {\"name\": \"n1\", \"vtep\": \"::1\", \"x\": 1}}\n" END(1),
		  "line 2", "vtep" },
		{ HEADER STATIC("10.0.0.1", "EXCLUDE", "") END(1), "line 2", "multicast" },
		{ HEADER STATIC("239.1.1.1", "INCLUDE", "") END(1), "line 2", "mode" },
		{ HEADER STATIC("239.1.1.1", "EXCLUDE", "\"239.1.1.1\"") END(1), "line 2",
		  "unicast" },
		{ HEADER "{\"config\": {\"segment\": 1, \"settings\": {\"colour\": 1}}}\n" END(1),
		  "line 2", "does not know" },
		{ HEADER "{\"config\": {\"segment\": -1, \"settings\": {}}}\n" END(1), "line 2",
		  "segment" },
	};
	char *before, *after;

	fill();
	bed_open(&bed, spec);
	before = bed_text(&bed);
	bed_close(&bed);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		write_text(cases[i].text);
		cr_assert_eq(transfer_import(config, NULL, file, true, why), -EINVAL, "%zu: %s", i,
			     why);
		cr_assert(strstr(why, cases[i].line) && strstr(why, cases[i].word), "%zu: %s", i,
			  why);
		cr_assert_not_null(strstr(why, "nothing was imported"), "%s", why);
	}
	bed_open(&bed, spec);
	after = bed_text(&bed);
	cr_assert_str_eq(after, before);
	bed_close(&bed);
	free(before);
	free(after);
}

Test(transfer, from_a_file_to_etcd)
{
	static struct etcd_cluster cluster;
	struct log_change c = change_member("n1", 2, false);
	char etcd[300];

	if (!etcd_is_installed())
		cr_skip_test("etcd is not installed");
	fill();
	cr_assert_eq(transfer_export(config, NULL, file, why), 0, "%s", why);
	etcd_cluster_start(&cluster, 1);
	snprintf(etcd, sizeof(etcd), "etcd:%s", cluster.endpoints);
	cr_assert_eq(rpc_new(&bed_rpc), 0);
	controller_config_set_store(config, etcd);
	cr_assert_eq(transfer_import(config, bed_rpc, file, false, why), 0, "%s", why);
	bed_open(&bed, etcd);
	cr_assert(bed.store->is_fresh);
	cr_assert_not_null(log_find_live(bed.log, LOG_NODE, 0, "n1", NULL, NULL));
	cr_assert_eq(log_config_find(bed.log, 7)->config->robustness, 3);
	cr_assert_eq(log_find_live(bed.log, LOG_STATIC, 0, "n1", &c.group, "p1")->filter.n_sources,
		     1);
	bed_close(&bed);
	cr_assert_eq(transfer_import(config, bed_rpc, file, true, why), -EEXIST);
	cr_assert_not_null(strstr(why, "not empty"), "%s", why);
	cr_assert_eq(transfer_export(config, bed_rpc, file, why), 0, "%s", why);
	rpc_free(bed_rpc);
	etcd_cluster_stop(&cluster);
}

Test(transfer, default_store_is_in_the_state_folder)
{
	struct controller_config *other;

	unsetenv("STATE_DIRECTORY");
	cr_assert_eq(controller_config_load(NULL, &other, why), 0);
	cr_assert_str_eq(other->store, "sqlite:/var/lib/mcmesh/controller.db");
	controller_config_free(other);
	setenv("STATE_DIRECTORY", "/var/lib/other", 1);
	cr_assert_eq(controller_config_load(NULL, &other, why), 0);
	cr_assert_str_eq(other->store, "sqlite:/var/lib/other/controller.db");
	controller_config_free(other);
}

Test(transfer, files_that_cannot_be_are_a_sentence)
{
	fill();
	cr_assert_eq(transfer_export(config, NULL, "/nowhere/at/all", why), -ENOENT);
	cr_assert_not_null(strstr(why, "/nowhere/at/all"), "%s", why);
	cr_assert_eq(transfer_import(config, NULL, "/nowhere/at/all", true, why), -ENOENT);
	snprintf(spec, sizeof(spec), "sqlite:%s/none.db", scratch);
	controller_config_set_store(config, spec);
	cr_assert_eq(transfer_export(config, NULL, file, why), -ENOENT);
}
