/* SPDX-License-Identifier: Apache-2.0 */
#include "node/datapath/datapath.h"

/*
 * DOC: the agent's hold on the kernel
 *
 * Everything that forwards is pinned under ROOT/v3/: maps/, progs/ and links/
 * (one a port, named by its ifindex, "overlay", and "underlay-IFINDEX"). The maps are the truth;
 * struct datapath is an index over them, rebuilt on each open, so an agent that
 * dies at any point leaves a state that the next one can adopt:
 *
 *   ports, remotes, lists,  arrays mapped into our memory, their elements
 *   paths                   known by number (numbers.h)
 *   routes, port_ids,       hash maps whose values are such numbers; one update
 *   vteps                   of one of them is what publishes an element
 *
 * A list is constant once published. Replacing one writes new chunks, then one
 * hash value, and retires the old chunks for a grace period. A packet that
 * holds a value of `routes` while that element becomes another key's sees it by
 * the key in the chunk, and looks again. What CPUs keep of `routes` ends with each
 * change, since that counts the group's element of `epochs` up (bpf/flow.h).
 *
 * The order of a port: program attached and verified first in the chain, then
 * known, then in lists; and back: out of lists, unknown, detached.
 *
 *   load.c    the skeleton: open, adopt or create, pin
 *   attach.c  TCX links, or clsact filters where the kernel has no TCX
 *   probe.c   privileges, bpffs, what the kernel can do
 *   fan.c     devices that clone faster than a program can
 *   ports.c, remotes.c, paths.c, routes.c, punt.c, counters.c   what their names say
 *
 * One thread; the flock(2) on ROOT keeps other agents away. No kernel type
 * information is needed: the programs use UAPI structures only.
 */
#include "node/datapath/internal.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#include "common/cleanup.h"
#include "mcmesh.skel.h"

#define DATAPATH_ROOT	    "/sys/fs/bpf/mcmesh"
#define DATAPATH_PUNT_RATE  20000
#define DATAPATH_PUNT_BURST 20000
#define NS_PER_S	    UINT64_C(1000000000)
#define DATAPATH_UDP_PORT   4797
#define LOCK_WAIT_MS	    2000
#define LOCK_PAUSE_MS	    10

DEFINE_CLEANUP(struct datapath *, datapath_close)

uint64_t datapath_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

int datapath_fail(char why[DATAPATH_WHY_MAX], int rc, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(why, DATAPATH_WHY_MAX, format, args);
	va_end(args);
	return rc;
}

/* A killed predecessor has the lock until its last thread has gone. */
static int lock_wait(int fd)
{
	const struct timespec pause = { .tv_nsec = LOCK_PAUSE_MS * 1000000L };
	int tries = LOCK_WAIT_MS / LOCK_PAUSE_MS;

	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK || tries-- == 0)
			return errno == EWOULDBLOCK ? -EBUSY : -errno;
		nanosleep(&pause, NULL);
	}
	return 0;
}

/* One agent a root. */
static int lock_root(const char *root, int *ret_fd, char why[DATAPATH_WHY_MAX])
{
	_cleanup_close_ int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc;

	if (fd < 0) {
		rc = -errno;
		return datapath_fail(why, rc, "cannot open %s: %s", root, strerror(-rc));
	}
	rc = lock_wait(fd);
	if (rc < 0)
		return datapath_fail(why, rc,
				     "another agent has %s: stop it, or choose another "
				     "bpf_root",
				     root);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int write_config(struct datapath *dp, const struct datapath_options *options)
{
	uint64_t rate = options->punt_rate ? options->punt_rate : DATAPATH_PUNT_RATE;
	uint64_t burst = options->punt_burst ? options->punt_burst : DATAPATH_PUNT_BURST;
	struct dp_config config;
	uint32_t zero = 0;
	int rc;

	/* The overlay's ifindex stays: forwarding goes on while we start. */
	rc = datapath_map_get(dp->skel->maps.config, &zero, &config);
	if (rc < 0)
		return rc;
	config.punt_interval_ns = NS_PER_S / rate ? NS_PER_S / rate : 1;
	config.punt_burst_ns = burst * config.punt_interval_ns;
	config.dscp = options->dscp;
	config.udp_port = options->udp_port ? options->udp_port : DATAPATH_UDP_PORT;
	memcpy(config.vtep, options->vtep.b, sizeof(config.vtep));
	dp->config = config;
	dp->vtep = options->vtep;
	return datapath_map_set(dp->skel->maps.config, &zero, &config);
}

static int map_arrays(struct datapath *dp)
{
	struct mcmesh_bpf *skel = dp->skel;
	int rc;

	rc = datapath_map_view(skel->maps.lists, &dp->lists_view);
	if (rc == 0)
		rc = datapath_map_view(skel->maps.ports, &dp->ports_view);
	if (rc == 0)
		rc = datapath_map_view(skel->maps.remotes, &dp->remotes_view);
	if (rc == 0)
		rc = datapath_map_view(skel->maps.paths, &dp->paths_view);
	if (rc == 0)
		rc = datapath_map_view(skel->maps.port_cache, &dp->port_cache_view);
	if (rc == 0)
		rc = datapath_map_view(skel->maps.vtep_cache, &dp->vtep_cache_view);
	if (rc == 0)
		rc = datapath_map_view(skel->maps.epochs, &dp->epochs_view);
	if (rc == 0)
		rc = numbers_init(&dp->path_numbers, bpf_map__max_entries(skel->maps.paths) - 1);
	if (rc == 0)
		rc = numbers_init(&dp->list_numbers, bpf_map__max_entries(skel->maps.lists) - 1);
	if (rc == 0)
		rc = numbers_init(&dp->port_numbers, bpf_map__max_entries(skel->maps.ports) - 1);
	if (rc == 0)
		rc = numbers_init(&dp->remote_numbers,
				  bpf_map__max_entries(skel->maps.remotes) - 1);
	dp->lists = dp->lists_view.data;
	dp->ports = dp->ports_view.data;
	dp->remotes = dp->remotes_view.data;
	dp->paths = dp->paths_view.data;
	dp->port_cache = dp->port_cache_view.data;
	dp->vtep_cache = dp->vtep_cache_view.data;
	dp->epochs = dp->epochs_view.data;
	return rc;
}

static int adopt(struct datapath *dp)
{
	int rc;

	rc = datapath_ports_adopt(dp);
	if (rc == 0)
		rc = datapath_remotes_adopt(dp);
	if (rc == 0)
		rc = datapath_routes_adopt(dp);
	if (rc == 0)
		rc = datapath_segments_adopt(dp);
	numbers_sort(&dp->port_numbers, datapath_now_ms());
	numbers_sort(&dp->remote_numbers, datapath_now_ms());
	numbers_sort(&dp->list_numbers, datapath_now_ms());
	if (rc == 0)
		datapath_paths_adopt(dp);
	return rc;
}

static int choose_attach(struct datapath *dp, enum datapath_attach wanted,
			 char why[DATAPATH_WHY_MAX])
{
	bool tcx = datapath_probe_tcx();

	if (wanted == DATAPATH_ATTACH_TCX && !tcx)
		return datapath_fail(why, -EOPNOTSUPP,
				     "this kernel has no TCX (Linux 6.6 has): use "
				     "attach: clsact or auto");
	dp->attach = wanted != DATAPATH_ATTACH_AUTO ? wanted
		     : tcx			    ? DATAPATH_ATTACH_TCX
						    : DATAPATH_ATTACH_CLSACT;
	return 0;
}

int datapath_open(const struct datapath_options *options, struct datapath **ret_dp,
		  char why[DATAPATH_WHY_MAX])
{
	_cleanup_(datapath_close_p)
	struct datapath *dp = calloc(1, sizeof(*dp));
	const char *root = options->root ? options->root : DATAPATH_ROOT;
	int rc, cpus;

	if (!dp)
		return datapath_fail(why, -ENOMEM, "out of memory");
	dp->lock_fd = -1;
	if (strlen(root) >= sizeof(dp->root))
		return datapath_fail(why, -ENAMETOOLONG, "the path %.40s... is too long", root);
	snprintf(dp->root, sizeof(dp->root), "%s", root);
	rc = datapath_probe_privileges(why);
	if (rc == 0)
		rc = datapath_mount(root, why);
	if (rc == 0)
		rc = lock_root(root, &dp->lock_fd, why);
	if (rc == 0)
		rc = choose_attach(dp, options->attach, why);
	if (rc == 0)
		rc = datapath_load(dp, options, why);
	if (rc < 0)
		return rc;
	cpus = libbpf_num_possible_cpus();
	if (cpus < 0)
		return datapath_fail(why, cpus, "cannot count the CPUs: %s", strerror(-cpus));
	dp->n_cpus = (uint32_t)cpus;
	if (getrandom(&dp->list_seq, sizeof(dp->list_seq), 0) < 0)
		return datapath_fail(why, -errno, "no random numbers: %s", strerror(errno));
	rc = map_arrays(dp);
	if (rc == 0)
		rc = datapath_fans_init(dp, options);
	if (rc == 0)
		rc = adopt(dp);
	if (rc == 0)
		rc = datapath_punt_init(dp);
	if (rc == 0)
		rc = write_config(dp, options);
	if (rc < 0)
		return datapath_fail(why, rc, "cannot take over the maps under %s: %s", root,
				     strerror(-rc));
	*ret_dp = TAKE_PTR(dp);
	return 0;
}

void datapath_close(struct datapath *dp)
{
	if (!dp)
		return;
	datapath_punt_deinit(dp);
	datapath_segments_deinit(dp);
	datapath_fans_deinit(dp);
	datapath_routes_deinit(dp);
	datapath_remotes_deinit(dp);
	datapath_ports_deinit(dp);
	numbers_deinit(&dp->list_numbers);
	numbers_deinit(&dp->port_numbers);
	numbers_deinit(&dp->remote_numbers);
	numbers_deinit(&dp->path_numbers);
	datapath_map_unview(&dp->lists_view);
	datapath_map_unview(&dp->ports_view);
	datapath_map_unview(&dp->remotes_view);
	datapath_map_unview(&dp->paths_view);
	datapath_map_unview(&dp->epochs_view);
	datapath_map_unview(&dp->vtep_cache_view);
	datapath_map_unview(&dp->port_cache_view);
	mcmesh_bpf__destroy(dp->skel);
	if (dp->lock_fd >= 0)
		close(dp->lock_fd);
	free(dp);
}

/* Filters are not pinned: take them off the ports that the maps name. */
static void destroy_filters(const char *root)
{
	char path[DATAPATH_PATH_MAX];
	_cleanup_close_ int ids = -1, config_fd = -1;
	struct dp_config config;
	uint32_t key, next, zero = 0;
	bool first = true;

	snprintf(path, sizeof(path), "%s/%s/maps/port_ids", root, MCMESH_LAYOUT);
	ids = bpf_obj_get(path);
	while (ids >= 0 && bpf_map_get_next_key(ids, first ? NULL : &key, &next) == 0) {
		datapath_detach_clsact(next);
		key = next;
		first = false;
	}
	snprintf(path, sizeof(path), "%s/%s/maps/config", root, MCMESH_LAYOUT);
	config_fd = bpf_obj_get(path);
	if (config_fd >= 0 && bpf_map_lookup_elem(config_fd, &zero, &config) == 0 &&
	    config.overlay_ifindex)
		datapath_detach_clsact(config.overlay_ifindex);
}

static void remove_dir(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *e;

	if (!dir)
		return;
	while ((e = readdir(dir))) {
		if (e->d_name[0] != '.')
			(void)unlinkat(dirfd(dir), e->d_name, 0);
	}
	closedir(dir);
	(void)rmdir(path);
}

int datapath_destroy(const char *root)
{
	static const char *const dirs[] = { "links", "progs", "maps" };
	char path[DATAPATH_PATH_MAX], why[DATAPATH_WHY_MAX];
	_cleanup_close_ int lock = -1, fans = -1;
	int rc;

	if (!root)
		root = DATAPATH_ROOT;
	if (access(root, F_OK) < 0)
		return errno == ENOENT ? 0 : -errno;
	rc = lock_root(root, &lock, why);
	if (rc < 0)
		return rc;
	destroy_filters(root);
	snprintf(path, sizeof(path), "%s/%s/maps/fans", root, MCMESH_LAYOUT);
	fans = bpf_obj_get(path);
	if (fans >= 0)
		datapath_fans_destroy(fans);
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		snprintf(path, sizeof(path), "%s/%s/%s", root, MCMESH_LAYOUT, dirs[i]);
		remove_dir(path);
	}
	snprintf(path, sizeof(path), "%s/%s", root, MCMESH_LAYOUT);
	if (rmdir(path) < 0 && errno != ENOENT)
		return -errno;
	(void)rmdir(root); /* not when it is the mount itself */
	return 0;
}

bool datapath_adopted(const struct datapath *dp)
{
	return dp->adopted;
}

const char *datapath_attach_name(const struct datapath *dp)
{
	return dp->attach == DATAPATH_ATTACH_TCX ? "tcx" : "clsact";
}

int datapath_meta_set(struct datapath *dp, const struct datapath_meta *meta)
{
	struct dp_meta value;
	uint32_t zero = 0;
	int rc;

	rc = datapath_map_get(dp->skel->maps.meta, &zero, &value);
	if (rc < 0)
		return rc;
	memcpy(value.epoch, meta->epoch, sizeof(value.epoch));
	return datapath_map_set(dp->skel->maps.meta, &zero, &value);
}

int datapath_meta_get(struct datapath *dp, struct datapath_meta *ret_meta)
{
	struct dp_meta value;
	uint32_t zero = 0;
	int rc;

	rc = datapath_map_get(dp->skel->maps.meta, &zero, &value);
	if (rc == 0)
		memcpy(ret_meta->epoch, value.epoch, sizeof(value.epoch));
	return rc;
}

int datapath_overlay_set(struct datapath *dp, uint32_t ifindex, char why[DATAPATH_WHY_MAX])
{
	int prog = bpf_program__fd(dp->skel->progs.mcmesh_overlay);
	struct dp_config config;
	uint32_t zero = 0;
	bool fresh;
	int rc;

	rc = datapath_map_get(dp->skel->maps.config, &zero, &config);
	if (rc < 0)
		return datapath_fail(why, rc, "cannot read the configuration map: %s",
				     strerror(-rc));
	if (config.overlay_ifindex && config.overlay_ifindex != ifindex)
		datapath_detach_program(dp, config.overlay_ifindex, "overlay");
	if (ifindex) {
		rc = datapath_attach_program(dp, prog, ifindex, "overlay", &fresh, why);
		if (rc < 0)
			return rc;
	}
	config.overlay_ifindex = ifindex;
	rc = datapath_map_set(dp->skel->maps.config, &zero, &config);
	if (rc < 0)
		return datapath_fail(why, rc, "cannot write the configuration map: %s",
				     strerror(-rc));
	dp->config = config;
	return 0;
}

void datapath_devices_check(struct datapath *dp, struct datapath_damage *d)
{
	int prog = bpf_program__fd(dp->skel->progs.mcmesh_overlay);
	uint32_t ifindex = dp->config.overlay_ifindex;
	char why[DATAPATH_WHY_MAX] = "";
	bool fresh;

	if (ifindex && !datapath_program_is_there(dp, prog, ifindex)) {
		datapath_differs(d, "the program of the overlay device is gone or not the first");
		(void)datapath_attach_program(dp, prog, ifindex, "overlay", &fresh, why);
	}
	datapath_underlays_check(dp, d);
}

void datapath_tick(struct datapath *dp, uint64_t now_ms)
{
	numbers_reclaim(&dp->list_numbers, now_ms);
	numbers_reclaim(&dp->port_numbers, now_ms);
	numbers_reclaim(&dp->remote_numbers, now_ms);
	numbers_reclaim(&dp->path_numbers, now_ms);
	datapath_fans_tick(dp, now_ms);
}

uint64_t datapath_next_ms(const struct datapath *dp)
{
	uint64_t a = numbers_next_ms(&dp->list_numbers);
	uint64_t b = numbers_next_ms(&dp->port_numbers);
	uint64_t c = numbers_next_ms(&dp->remote_numbers);
	uint64_t d = numbers_next_ms(&dp->path_numbers);

	a = a < b ? a : b;
	uint64_t e = datapath_fans_next_ms(dp);

	c = c < d ? c : d;
	a = a < e ? a : e;
	return a < c ? a : c;
}
