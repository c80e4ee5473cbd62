/* SPDX-License-Identifier: Apache-2.0 */
#include "node/datapath/internal.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "common/cleanup.h"

#define TCX_INGRESS 46 /* BPF_TCX_INGRESS and _EGRESS, which older headers lack */
#define TCX_EGRESS  47
#define BPFFS_USUAL "/sys/fs/bpf"
#define LOOPBACK    1 /* its ifindex in every network namespace */

int datapath_probe_privileges(char why[DATAPATH_WHY_MAX])
{
	struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	int fd;

	/* Before 5.11 maps were charged to it; later it does not matter. */
	(void)setrlimit(RLIMIT_MEMLOCK, &all);
	fd = bpf_map_create(BPF_MAP_TYPE_HASH, "mcmesh_probe", 4, 4, 1, NULL);
	if (fd == -EPERM || fd == -EACCES)
		return datapath_fail(why, fd,
				     "BPF is not allowed here: run as root, or with the "
				     "capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON");
	if (fd == -ENOSYS)
		return datapath_fail(why, fd, "this kernel has no BPF (CONFIG_BPF_SYSCALL)");
	if (fd < 0)
		return datapath_fail(why, fd, "cannot create a BPF map: %s", strerror(-fd));
	close(fd);
	return 0;
}

/* A kernel without TCX does not know the attach type. */
bool datapath_probe_tcx(void)
{
	uint32_t flags = 0, n = 0;
	int rc = bpf_prog_query(LOOPBACK, TCX_INGRESS, 0, &flags, NULL, &n);

	return rc == 0 || rc == -ENOENT || rc == -ENOSPC;
}

bool datapath_egress_is_plain(uint32_t ifindex)
{
	uint32_t flags = 0, n = 0;
	int rc = bpf_prog_query((int)ifindex, TCX_EGRESS, 0, &flags, NULL, &n);

	/* -EINVAL: a kernel without TCX has none. */
	return (rc == 0 && n == 0) || rc == -ENOENT || rc == -EINVAL;
}

static bool is_bpffs(const char *path)
{
	struct statfs s;

	return statfs(path, &s) == 0 && (unsigned long)s.f_type == BPF_FS_MAGIC;
}

static int make_dirs(const char *path)
{
	char buf[DATAPATH_PATH_MAX];

	snprintf(buf, sizeof(buf), "%s", path);
	for (char *p = buf + 1;; p++) {
		char c = *p;

		if (c != '/' && c)
			continue;
		*p = 0;
		if (mkdir(buf, 0700) < 0 && errno != EEXIST)
			return -errno;
		*p = c;
		if (!c)
			return 0;
	}
}

static bool is_empty_dir(const char *path)
{
	DIR *dir = opendir(path);
	size_t n = 0;

	if (!dir)
		return false;
	while (n < 3 && readdir(dir))
		n++;
	closedir(dir);
	return n < 3;
}

/* The nearest folder on the way to path that exists. */
static void existing_ancestor(const char *path, char ret_ancestor[DATAPATH_PATH_MAX])
{
	struct stat st;
	char *slash;

	snprintf(ret_ancestor, DATAPATH_PATH_MAX, "%s", path);
	while (stat(ret_ancestor, &st) < 0 && (slash = strrchr(ret_ancestor, '/')) &&
	       slash != ret_ancestor)
		*slash = 0;
}

/* Where the system has its bpffs, if root is below it; else the parent of root;
 * root itself when that holds something that a mount would hide. */
int datapath_mount(const char *root, char why[DATAPATH_WHY_MAX])
{
	char parent[DATAPATH_PATH_MAX], ancestor[DATAPATH_PATH_MAX];
	const char *target = parent;
	char *slash;
	int rc;

	snprintf(parent, sizeof(parent), "%s", root);
	slash = strrchr(parent, '/');
	if (root[0] != '/' || !slash || slash == parent || !slash[1])
		return datapath_fail(why, -EINVAL,
				     "%s is not an absolute path of a directory "
				     "below a bpffs",
				     root);
	*slash = 0;
	existing_ancestor(root, ancestor);
	if (!is_bpffs(ancestor)) {
		if (strncmp(root, BPFFS_USUAL "/", strlen(BPFFS_USUAL "/")) == 0 &&
		    is_empty_dir(BPFFS_USUAL))
			snprintf(parent, sizeof(parent), "%s", BPFFS_USUAL);
		rc = make_dirs(parent);
		if (rc < 0 && rc != -EPERM)
			return datapath_fail(why, rc, "cannot make %s: %s", parent, strerror(-rc));
		if (!is_empty_dir(parent)) {
			target = root;
			rc = make_dirs(root);
			if (rc < 0)
				return datapath_fail(why, rc, "cannot make %s: %s", root,
						     strerror(-rc));
		}
		if (mount("bpf", target, "bpf", 0, "mode=0700") < 0) {
			rc = -errno;
			return datapath_fail(why, rc,
					     "cannot mount a bpffs at %s: %s: a container is given "
					     "the machine's as a volume",
					     target, strerror(-rc));
		}
	}
	rc = make_dirs(root);
	if (rc < 0)
		return datapath_fail(why, rc, "cannot make %s: %s", root, strerror(-rc));
	return 0;
}
