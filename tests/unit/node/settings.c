/* SPDX-License-Identifier: Apache-2.0 */
#include "node/settings.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

static char told[32][96];
static size_t n_told;

static void on_segment(uint32_t segment, void *userdata)
{
	snprintf(told[n_told++], sizeof(told[0]), "segment %u", segment);
}

static void on_member(const char *port, const struct addr *group, const struct filter *filter,
		      void *userdata)
{
	char text[ADDR_TEXT_MAX];

	snprintf(told[n_told++], sizeof(told[0]), "%s %s %s", port, addr_format(group, text),
		 !filter			  ? "gone"
		 : filter->mode == FILTER_EXCLUDE ? "EX"
						  : "IN");
}

static struct settings *make(void)
{
	static const struct settings_ops ops = { on_segment, on_member };
	struct settings *s;

	n_told = 0;
	cr_assert_eq(settings_new("n1", &ops, NULL, &s), 0);
	return s;
}

static int change(struct settings *s, uint32_t segment, Mcmesh__V1__SegmentConfig *config,
		  bool deleted)
{
	Mcmesh__V1__ConfigChange c = MCMESH__V1__CONFIG_CHANGE__INIT;

	c.segment = segment;
	c.config = config;
	c.deleted = deleted;
	return settings_change(s, &c);
}

static int static_change(struct settings *s, const char *node, const char *port, uint8_t *group,
			 bool deleted)
{
	Mcmesh__V1__SegmentConfig config = MCMESH__V1__SEGMENT_CONFIG__INIT;
	Mcmesh__V1__StaticPort p = MCMESH__V1__STATIC_PORT__INIT, *pp = &p;

	p.node = (char *)node;
	p.port = (char *)port;
	p.group.data = group;
	p.group.len = 4;
	p.mode = MCMESH__V1__FILTER__MODE__EXCLUDE;
	config.static_ports = &pp;
	config.n_static_ports = 1;
	return change(s, 0, &config, deleted);
}

Test(settings, a_segment_stands_above_the_mesh_and_that_above_the_file)
{
	Mcmesh__V1__SegmentConfig mesh = MCMESH__V1__SEGMENT_CONFIG__INIT, own = mesh;
	struct datapath_segment dp = { .id = 7 };
	struct settings *s = make();
	struct gmp_config gmp;

	gmp_config_default(&gmp);
	gmp.max_groups = 5;
	mesh.fast_leave = MCMESH__V1__SEGMENT_CONFIG__SWITCH__ON;
	mesh.robustness = 3;
	own.robustness = 4;
	own.igmp_version = 2;
	own.mld_version = 1;
	own.membership_interval_ms = 300000;
	own.last_member_query_count = 5;
	own.startup_query_interval_ms = 700;
	own.startup_query_count = 6;
	own.accept_global_mld_source = MCMESH__V1__SEGMENT_CONFIG__SWITCH__ON;
	own.unregistered = MCMESH__V1__SEGMENT_CONFIG__UNREGISTERED__FLOOD;
	own.link_local_across_nodes = MCMESH__V1__SEGMENT_CONFIG__SWITCH__ON;
	cr_assert_eq(change(s, 0, &mesh, false), 0);
	cr_assert_eq(change(s, 7, &own, false), 0);
	cr_assert_str_eq(told[0], "segment 0");
	cr_assert_str_eq(told[1], "segment 7");
	settings_gmp(s, 7, &gmp);
	cr_assert(gmp.fast_leave);
	cr_assert_eq(gmp.robustness, 4);
	cr_assert_eq(gmp.igmp_version, GMP_IGMPV2);
	cr_assert_eq(gmp.mld_version, GMP_MLDV1);
	cr_assert_eq(gmp.membership_interval_ms, 300000);
	cr_assert_eq(gmp.last_member_query_count, 5);
	cr_assert_eq(gmp.startup_query_interval_ms, 700);
	cr_assert_eq(gmp.startup_query_count, 6);
	cr_assert(gmp.accept_global_mld_source);
	cr_assert_eq(gmp.max_groups, 5);
	settings_datapath(s, &dp);
	cr_assert(dp.link_local_remote);
	cr_assert_eq(dp.unregistered, DATAPATH_UNREGISTERED_FLOOD);
	gmp_config_default(&gmp);
	settings_gmp(s, 8, &gmp);
	cr_assert_eq(gmp.robustness, 3, "another segment has the mesh's");
	settings_free(s);
}

Test(settings, deletion_gives_back_what_is_below)
{
	Mcmesh__V1__SegmentConfig own = MCMESH__V1__SEGMENT_CONFIG__INIT;
	struct settings *s = make();
	struct gmp_config gmp;

	own.robustness = 4;
	change(s, 7, &own, false);
	cr_assert_eq(change(s, 7, NULL, true), 0);
	cr_assert_eq(n_told, 2);
	gmp_config_default(&gmp);
	settings_gmp(s, 7, &gmp);
	cr_assert_eq(gmp.robustness, 2);
	settings_free(s);
}

Test(settings, what_would_be_invalid_changes_nothing)
{
	Mcmesh__V1__SegmentConfig own = MCMESH__V1__SEGMENT_CONFIG__INIT;
	struct settings *s = make();
	struct gmp_config gmp;

	own.query_interval_ms = 5000; /* below the response interval: RFC 9776 8.3 */
	own.robustness = 4;
	change(s, 7, &own, false);
	gmp_config_default(&gmp);
	settings_gmp(s, 7, &gmp);
	cr_assert_eq(gmp.query_interval_ms, 125000);
	cr_assert_eq(gmp.robustness, 2);
	settings_free(s);
}

static void count_member(const struct addr *group, const struct filter *filter, void *userdata)
{
	(*(int *)userdata)++;
}

Test(settings, static_members_of_this_node_only)
{
	uint8_t group[4] = { 239, 1, 1, 1 }, unicast[4] = { 10, 1, 1, 1 };
	struct settings *s = make();
	int n = 0;

	cr_assert_eq(static_change(s, "n2", "p1", group, false), 0);
	cr_assert_eq(n_told, 0);
	cr_assert_eq(static_change(s, "n1", "p1", group, false), 0);
	cr_assert_str_eq(told[0], "p1 239.1.1.1 EX");
	settings_members_walk(s, "p1", count_member, &n);
	cr_assert_eq(n, 1);
	cr_assert_eq(static_change(s, "n1", "p1", unicast, false), -EINVAL);
	cr_assert_eq(static_change(s, "n1", "", group, false), -EINVAL);
	cr_assert_eq(static_change(s, "n1", "p1", group, true), 0);
	cr_assert_str_eq(told[1], "p1 239.1.1.1 gone");
	settings_free(s);
}

Test(settings, a_complete_snapshot_sweeps_what_it_did_not_name)
{
	Mcmesh__V1__SegmentConfig own = MCMESH__V1__SEGMENT_CONFIG__INIT;
	uint8_t kept[4] = { 239, 1, 1, 1 }, gone[4] = { 239, 1, 1, 2 };
	struct settings *s = make();

	own.robustness = 4;
	change(s, 7, &own, false);
	static_change(s, "n1", "p1", kept, false);
	static_change(s, "n1", "p1", gone, false);
	settings_unconfirm(s);
	static_change(s, "n1", "p1", kept, false);
	n_told = 0;
	settings_sweep(s);
	cr_assert_eq(n_told, 2);
	cr_assert_str_eq(told[0], "segment 7");
	cr_assert_str_eq(told[1], "p1 239.1.1.2 gone");
	settings_free(s);
}

Test(settings, what_the_maps_kept_holds_until_the_controller_speaks)
{
	struct datapath_segment kept = { .id = 7,
					 .unregistered = DATAPATH_UNREGISTERED_FLOOD,
					 .link_local_remote = true,
					 .routers_within = true };
	struct datapath_segment segment = { .id = 7 };
	struct settings *s = make();

	cr_assert_eq(settings_seed(s, &kept), 0);
	settings_datapath(s, &segment);
	cr_assert_eq(segment.unregistered, DATAPATH_UNREGISTERED_FLOOD);
	cr_assert(segment.link_local_remote && segment.routers_within);
	settings_unconfirm(s);
	settings_sweep(s);
	segment = (struct datapath_segment){ .id = 7 };
	settings_datapath(s, &segment);
	cr_assert_eq(segment.unregistered, DATAPATH_UNREGISTERED_ROUTER_PORTS);
	cr_assert(!segment.link_local_remote && !segment.routers_within);
	settings_free(s);
}
