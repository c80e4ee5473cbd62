/* SPDX-License-Identifier: Apache-2.0 */
#include "node/datapath/internal.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>

#include "common/cleanup.h"

/* <linux/bpf.h> of 6.6 has these. */
#define TCX_INGRESS 46
#define F_BEFORE    (1U << 3)

/* Before what a CNI adds by default, and never its handle. */
#define CLSACT_PRIORITY 1
#define CLSACT_HANDLE	0x6d63

#define TCX_PROGRAMS_MAX 64

static uint32_t program_id(int fd)
{
	struct bpf_prog_info info = { 0 };
	uint32_t len = sizeof(info);

	return bpf_obj_get_info_by_fd(fd, &info, &len) == 0 ? info.id : 0;
}

/* Is it the first of the chain? Another before it could hide packets. */
static bool is_first(int prog_fd, uint32_t ifindex)
{
	uint32_t ids[TCX_PROGRAMS_MAX] = { 0 }, n = TCX_PROGRAMS_MAX, flags = 0;
	int rc = bpf_prog_query((int)ifindex, TCX_INGRESS, 0, &flags, ids, &n);

	/* -ENOSPC: more than asked for, the first ones are there. */
	return (rc == 0 || rc == -ENOSPC) && n > 0 && ids[0] == program_id(prog_fd);
}

/* The link's device; 0 when that is gone. TCX and XDP have it at one place. */
static uint32_t link_ifindex(int link_fd)
{
	struct bpf_link_info info = { 0 };
	uint32_t len = sizeof(info);

	return bpf_obj_get_info_by_fd(link_fd, &info, &len) == 0 ? info.xdp.ifindex : 0;
}

/* 0 when the pinned link lives on this device and runs prog_fd now. */
static int adopt_link(const char *path, int prog_fd, uint32_t ifindex)
{
	_cleanup_close_ int fd = bpf_obj_get(path);
	int rc;

	if (fd < 0)
		return fd;
	if (link_ifindex(fd) != ifindex)
		return -ENOLINK;
	rc = bpf_link_update(fd, prog_fd, NULL);
	if (rc < 0)
		return rc;
	if (is_first(prog_fd, ifindex))
		return 0;
	/* A program is in a chain once: it comes out before it is put first. */
	rc = bpf_link_detach(fd);
	return rc < 0 ? rc : -EBUSY;
}

static int attach_tcx(struct datapath *dp, int prog_fd, uint32_t ifindex, const char *name,
		      bool *ret_fresh, char why[DATAPATH_WHY_MAX])
{
	LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = F_BEFORE);
	char path[DATAPATH_PATH_MAX];
	_cleanup_close_ int fd = -1;
	int rc;

	datapath_path(dp, path, sizeof(path), "links", name);
	rc = adopt_link(path, prog_fd, ifindex);
	if (rc == 0) {
		*ret_fresh = false;
		return 0;
	}
	fd = bpf_link_create(prog_fd, (int)ifindex, TCX_INGRESS, &opts);
	if (fd < 0)
		return datapath_fail(why, fd,
				     fd == -ENODEV ? "there is no interface %u"
						   : "cannot attach to interface %u",
				     ifindex);
	/* The old one, behind another's program or of a device that is gone. */
	(void)unlink(path);
	if (link_ifindex(fd) != ifindex || !is_first(prog_fd, ifindex))
		return datapath_fail(why, -EBUSY,
				     "another program insists on being the first at "
				     "interface %u",
				     ifindex);
	*ret_fresh = rc != -EBUSY;
	rc = bpf_obj_pin(fd, path);
	if (rc < 0)
		return datapath_fail(why, rc, "cannot pin %s: %s", path, strerror(-rc));
	return 0;
}

/* The program that our filter runs; 0: there is none. */
static uint32_t clsact_program(uint32_t ifindex)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, was, .handle = CLSACT_HANDLE, .priority = CLSACT_PRIORITY);

	return bpf_tc_query(&hook, &was) == 0 ? was.prog_id : 0;
}

static int attach_clsact(int prog_fd, uint32_t ifindex, bool *ret_fresh, char why[DATAPATH_WHY_MAX])
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = CLSACT_HANDLE, .priority = CLSACT_PRIORITY,
		    .prog_fd = prog_fd, .flags = BPF_TC_F_REPLACE);
	int rc;

	rc = bpf_tc_hook_create(&hook);
	if (rc < 0 && rc != -EEXIST)
		return datapath_fail(why, rc, "cannot add clsact to interface %u: %s", ifindex,
				     strerror(-rc));
	*ret_fresh = !clsact_program(ifindex);
	rc = bpf_tc_attach(&hook, &opts);
	if (rc < 0)
		return datapath_fail(why, rc, "cannot add a filter to interface %u: %s", ifindex,
				     strerror(-rc));
	return 0;
}

/* The qdisc stays: others may have filters in it by now. */
void datapath_detach_clsact(uint32_t ifindex)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = CLSACT_HANDLE, .priority = CLSACT_PRIORITY);

	(void)bpf_tc_detach(&hook, &opts);
}

int datapath_attach_program(struct datapath *dp, int prog_fd, uint32_t ifindex, const char *name,
			    bool *ret_fresh, char why[DATAPATH_WHY_MAX])
{
	char path[DATAPATH_PATH_MAX];
	_cleanup_close_ int tcx = -1;
	bool fresh = false;
	int rc;

	if (ifindex == 0 || ifindex > INT32_MAX)
		return datapath_fail(why, -EINVAL, "%u is no interface", ifindex);
	/* An earlier agent may have chosen the other way: the device is the same. */
	if (dp->attach == DATAPATH_ATTACH_TCX) {
		rc = attach_tcx(dp, prog_fd, ifindex, name, &fresh, why);
		if (rc == 0 && dp->adopted && clsact_program(ifindex)) {
			datapath_detach_clsact(ifindex);
			fresh = false;
		}
	} else {
		datapath_path(dp, path, sizeof(path), "links", name);
		tcx = bpf_obj_get(path);
		rc = attach_clsact(prog_fd, ifindex, &fresh, why);
		if (rc == 0 && tcx >= 0) {
			fresh = fresh && link_ifindex(tcx) != ifindex;
			(void)unlink(path);
		}
	}
	if (rc == 0)
		*ret_fresh = fresh;
	return rc;
}

/* TCX: ours is the first. clsact: our filter runs it. A device that is gone has
 * nothing to be attached to. */
bool datapath_program_is_there(const struct datapath *dp, int prog_fd, uint32_t ifindex)
{
	char name[IF_NAMESIZE];

	if (!if_indextoname(ifindex, name))
		return true;
	if (dp->attach == DATAPATH_ATTACH_TCX)
		return is_first(prog_fd, ifindex);
	return clsact_program(ifindex) == program_id(prog_fd);
}

void datapath_detach_program(struct datapath *dp, uint32_t ifindex, const char *name)
{
	char path[DATAPATH_PATH_MAX];

	datapath_path(dp, path, sizeof(path), "links", name);
	(void)unlink(path);
	if (dp->attach == DATAPATH_ATTACH_CLSACT)
		datapath_detach_clsact(ifindex);
}
