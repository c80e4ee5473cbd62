/* SPDX-License-Identifier: Apache-2.0 */
#include "node/datapath/internal.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "mcmesh.skel.h"

#define GROUPS_COUNTED_MIN 4096

void datapath_path(const struct datapath *dp, char *buf, size_t len, const char *dir,
		   const char *name)
{
	snprintf(buf, len, "%s/%s%s%s%s%s", dp->root, MCMESH_LAYOUT, dir ? "/" : "", dir ? dir : "",
		 name ? "/" : "", name ? name : "");
}

static uint32_t or_default(uint32_t value, uint32_t otherwise)
{
	return value ? value : otherwise;
}

/* As many as there may be routes; in a small table of that kind CPUs evict each other's. */
static uint32_t groups_counted(const struct datapath_options *o)
{
	uint32_t routes = or_default(o->max_routes, 65536);

	return routes < GROUPS_COUNTED_MIN ? GROUPS_COUNTED_MIN : routes;
}

/* Numbers start at 1: one element more than there are. */
static void set_sizes(struct mcmesh_bpf *skel, const struct datapath_options *o)
{
	uint32_t ports = or_default(o->max_ports, DATAPATH_MAX_PORTS);
	uint32_t remotes = or_default(o->max_remotes, 4096);

	bpf_map__set_max_entries(skel->maps.routes, or_default(o->max_routes, 65536));
	bpf_map__set_max_entries(skel->maps.lists, or_default(o->max_lists, 131072) + 1);
	bpf_map__set_max_entries(skel->maps.group_counts, groups_counted(o));
	bpf_map__set_max_entries(skel->maps.segments, or_default(o->max_segments, 1024));
	bpf_map__set_max_entries(skel->maps.port_ids, ports);
	bpf_map__set_max_entries(skel->maps.ports, ports + 1);
	bpf_map__set_max_entries(skel->maps.punt_pace, ports + 1);
	bpf_map__set_max_entries(skel->maps.port_counters, ports + 1);
	bpf_map__set_max_entries(skel->maps.vteps, remotes);
	bpf_map__set_max_entries(skel->maps.remotes, remotes + 1);
	/* Each may change once while the old one's grace period lasts. */
	bpf_map__set_max_entries(skel->maps.paths, 2 * remotes + 1);
	bpf_map__set_max_entries(skel->maps.remote_counters, remotes + 1);
	bpf_map__set_max_entries(skel->maps.punt, or_default(o->punt_ring_bytes, 4 << 20));
}

/* Takes what is pinned; its sizes win over the options. *ret_found: was there. */
static int adopt_map(struct datapath *dp, struct bpf_map *map, bool *ret_found,
		     char why[DATAPATH_WHY_MAX])
{
	char path[DATAPATH_PATH_MAX];
	_cleanup_close_ int fd = -1;
	struct bpf_map_info info = { 0 };
	uint32_t len = sizeof(info);
	int rc;

	datapath_path(dp, path, sizeof(path), "maps", bpf_map__name(map));
	fd = bpf_obj_get(path);
	*ret_found = fd >= 0;
	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return datapath_fail(why, fd, "cannot open the pinned map %s: %s", path,
				     strerror(-fd));
	rc = bpf_obj_get_info_by_fd(fd, &info, &len);
	if (rc < 0)
		return datapath_fail(why, rc, "cannot read about the pinned map %s: %s", path,
				     strerror(-rc));
	if (info.type != bpf_map__type(map) || info.key_size != bpf_map__key_size(map) ||
	    info.value_size != bpf_map__value_size(map) ||
	    info.map_flags != bpf_map__map_flags(map))
		return datapath_fail(why, -EEXIST,
				     "%s is pinned with another layout: it is not this program's; "
				     "remove it or choose another bpf_root",
				     path);
	rc = bpf_map__reuse_fd(map, fd);
	if (rc < 0)
		return datapath_fail(why, rc, "cannot use the pinned map %s: %s", path,
				     strerror(-rc));
	return 0;
}

static int pin_fd(struct datapath *dp, int fd, const char *dir, const char *name, bool replace,
		  char why[DATAPATH_WHY_MAX])
{
	char path[DATAPATH_PATH_MAX];
	int rc;

	datapath_path(dp, path, sizeof(path), dir, name);
	if (replace)
		(void)unlink(path);
	rc = bpf_obj_pin(fd, path);
	if (rc < 0)
		return datapath_fail(why, rc, "cannot pin %s: %s", path, strerror(-rc));
	return 0;
}

static int make_layout_dirs(struct datapath *dp, char why[DATAPATH_WHY_MAX])
{
	static const char *const dirs[] = { NULL, "maps", "links", "progs" };

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		char path[DATAPATH_PATH_MAX];
		int rc;

		datapath_path(dp, path, sizeof(path), dirs[i], NULL);
		if (mkdir(path, 0700) < 0 && errno != EEXIST) {
			rc = -errno;
			return datapath_fail(why, rc, "cannot make %s: %s", path, strerror(-rc));
		}
	}
	return 0;
}

/* For who wants to look at them, or to run one. */
static int pin_programs(struct datapath *dp, char why[DATAPATH_WHY_MAX])
{
	struct bpf_program *prog;
	int rc = 0;

	bpf_object__for_each_program(prog, dp->skel->obj)
	{
		const char *name = bpf_program__name(prog) + strlen("mcmesh_");

		rc = pin_fd(dp, bpf_program__fd(prog), "progs", name, true, why);
		if (rc < 0)
			break;
	}
	return rc;
}

static int load_and_pin(struct datapath *dp, const bool *found, char why[DATAPATH_WHY_MAX])
{
	struct bpf_map *map;
	size_t i = 0;
	int rc;

	rc = mcmesh_bpf__load(dp->skel);
	/* Without CAP_PERFMON some verifiers trip over their own measures (EFAULT). */
	if (rc == -EPERM || rc == -EACCES || rc == -EFAULT)
		return datapath_fail(why, rc,
				     "the kernel refuses the BPF programs: root, or CAP_BPF, "
				     "CAP_NET_ADMIN and CAP_PERFMON, are needed, and Linux 5.15 "
				     "or later");
	if (rc < 0)
		return datapath_fail(why, rc,
				     "cannot load the BPF programs (Linux 5.15 or later is "
				     "needed): %s",
				     strerror(-rc));
	bpf_object__for_each_map(map, dp->skel->obj)
	{
		if (!found[i++]) {
			rc = pin_fd(dp, bpf_map__fd(map), "maps", bpf_map__name(map), false, why);
			if (rc < 0)
				return rc;
		}
	}
	return pin_programs(dp, why);
}

/* libbpf tells on stderr what is said in *why. */
static int silence(enum libbpf_print_level level, const char *format, va_list args)
{
	return 0;
}

int datapath_load(struct datapath *dp, const struct datapath_options *options,
		  char why[DATAPATH_WHY_MAX])
{
	bool found[32] = { false };
	struct bpf_map *map;
	size_t i = 0;
	int rc;

	libbpf_set_print(silence);
	libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
	rc = make_layout_dirs(dp, why);
	if (rc < 0)
		return rc;
	dp->skel = mcmesh_bpf__open();
	if (!dp->skel)
		return datapath_fail(why, -errno, "cannot open the BPF programs: %s",
				     strerror(errno));
	set_sizes(dp->skel, options);
	bpf_object__for_each_map(map, dp->skel->obj)
	{
		if (i == ARRAY_SIZE(found))
			return datapath_fail(why, -E2BIG, "the BPF programs have too many maps");
		rc = adopt_map(dp, map, &found[i], why);
		if (rc < 0)
			return rc;
		/* They are pinned in this order: one that died meanwhile left the first ones, and
		 * attached nothing. Others may be missing that an older version did not have. */
		dp->adopted = found[i++];
	}
	return load_and_pin(dp, found, why);
}
