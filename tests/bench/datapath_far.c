/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The other node of each stand, in the namespace "far": it takes the copies out of
 * their tunnels by the design of its stand, and has one receiver for each. All nodes
 * that a stand sends to are this one: at the end of the wire, before anybody sees a
 * copy, a program gives each its address, some 30 ns for everyone alike.
 */
#include "tests/bench/datapath.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "datapath.skel.h"
#include "node/datapath/datapath.h"
#include "tests/bench/datapath_shared.h"

#define FAR_ROOT "/sys/fs/bpf/mcmesh-far"

static struct datapath *far;

static void far_route(uint32_t group, uint32_t port)
{
	struct datapath_route route = { .segment = SEGMENT,
					.group = addr_v4_be32(htonl(group)),
					.ports = &port,
					.n_ports = 1 };

	if (datapath_route_set(far, &route) != 0)
		die("the product refuses a route");
}

/* The product's second node: what arrives has its sender known. */
static void far_product(bool direct, bool peer)
{
	struct datapath_options options = { .root = FAR_ROOT,
					    .vtep = remote_address(STAND_PRODUCT, 1) };
	struct datapath_segment segment = { .id = SEGMENT,
					    .unregistered = DATAPATH_UNREGISTERED_DROP };
	struct addr sender = remote_address(STAND_PRODUCT, 0);
	uint32_t port = net_ifindex("f%d", STAND_PRODUCT);
	uint32_t underlay = net_ifindex("v%d", STAND_PRODUCT);
	char why[DATAPATH_WHY_MAX] = "";
	struct datapath_port attached;

	net_run("ip link add mcmesh0 type vxlan external nolearning dstport %d && "
		"ip link set mcmesh0 up mtu 9000",
		PORT_OVERLAY);
	if (datapath_open(&options, &far, why) < 0)
		die("%s", why);
	if (datapath_segment_set(far, &segment) < 0 ||
	    datapath_overlay_set(far, net_ifindex("mcmesh0"), why) < 0 ||
	    datapath_port_attach(far, port, SEGMENT, 0, &attached, why) < 0 ||
	    datapath_port_delivery_set(far, port, 9000, peer) < 0 ||
	    datapath_paths_hold(far, UINT64_MAX) < 0 ||
	    (direct && datapath_underlay_set(far, &underlay, 1, why) < 0) ||
	    datapath_remote_set(far, &sender, "sender") < 0)
		die("the other node: %s", why);
	for (size_t f = 0; f < n_fanouts; f++) {
		far_route(group_address(GROUP_REMOTE, GROUP_PLAIN, fanouts[f]), port);
		far_route(group_address(GROUP_MIXED, GROUP_PLAIN, fanouts[f]), port);
	}
}

/* A VXLAN device of the stand's bridge. What comes by it goes to no other. */
static void far_vxlan(FILE *ip, unsigned int k, const char *name, unsigned int vni,
		      unsigned int udp_port)
{
	fprintf(ip,
		"link add %s type vxlan id %u dstport %u local 10.90.%u.%d nolearning\n"
		"link set %s master br%u mtu 9000 up\n"
		"link set %s type bridge_slave mcast_router 0\n",
		name, vni, udp_port, k, REMOTE_FIRST, name, k, name);
}

static void far_bridge(FILE *ip, FILE *mdb, unsigned int k)
{
	char name[16];

	fprintf(ip, "link set f%u master br%u\n", k, k);
	if (k == STAND_MDB)
		far_vxlan(ip, k, "vm0", VNI_MDB, PORT_MDB);
	for (size_t n = 0; n < n_group_kinds; n++) {
		for (size_t f = 0; f < n_fanouts; f++) {
			unsigned int vni = vni_head_end(group_kinds[n], fanouts[f]);

			if (!group_remotes(group_kinds[n], fanouts[f]))
				continue;
			fprintf(mdb, "mdb add dev br%u port f%u grp 239.%d.0.%u permanent\n", k, k,
				group_kinds[n], fanouts[f]);
			snprintf(name, sizeof(name), "vb%u", vni);
			if (k == STAND_BRIDGE)
				far_vxlan(ip, k, name, vni, PORT_BRIDGE);
		}
	}
}

static void far_ref_group(struct datapath_bpf *bpf, enum group_kind kind,
			  enum group_variant variant, unsigned int fanout)
{
	uint32_t group = htonl(group_address(kind, variant, fanout));
	struct subscriber s = { .address = 1, .ifindex = net_ifindex("f%d", STAND_REF) };
	_cleanup_close_ int inner = ref_subscribers(variant, 1);

	if (bpf_map_update_elem(inner, &s.address, &s, BPF_ANY) < 0 ||
	    bpf_map_update_elem(bpf_map__fd(bpf->maps.far_groups), &group, &inner, BPF_ANY) < 0)
		die("cannot fill a map: %s", strerror(errno));
}

static void far_ref(struct datapath_bpf *bpf)
{
	net_run("ip link add ref0 type vxlan external nolearning dstport %d && "
		"ip link set ref0 up mtu 9000",
		PORT_REF);
	for (size_t f = 0; f < n_fanouts; f++) {
		for (int variant = GROUP_PLAIN; variant <= GROUP_SIZED; variant++) {
			far_ref_group(bpf, GROUP_REMOTE, variant, fanouts[f]);
			far_ref_group(bpf, GROUP_MIXED, variant, fanouts[f]);
		}
	}
	peers_attach(bpf_program__fd(bpf->progs.ref_far), net_ifindex("ref0"));
}

void far_open(struct datapath_bpf *bpf, unsigned int stands, const char *overlay_path,
	      const char *delivery)
{
	net_switch("far");
	far_product(strcmp(overlay_path, "device") != 0, strcmp(delivery, "egress") != 0);
	peers_bridges(stands, far_bridge);
	if (stands & 1U << STAND_REF)
		far_ref(bpf);
	if (stands & 1U << STAND_REDIRECT) {
		redirect_set(bpf, REDIRECT_FAR, GROUP_REMOTE, net_ifindex("f%d", STAND_REDIRECT));
		peers_attach(bpf_program__fd(bpf->progs.redirect_far),
			     net_ifindex("v%d", STAND_REDIRECT));
	}
	for (unsigned int k = 0; k < STAND_BASE; k++) {
		if (stands & 1U << k)
			peers_attach_first(bpf_program__fd(bpf->progs.wire_end),
					   net_ifindex("v%u", k));
	}
	net_switch("");
}

void far_close(void)
{
	net_switch("far");
	datapath_close(far);
	datapath_destroy(FAR_ROOT);
	net_switch("");
}
