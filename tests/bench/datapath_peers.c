/* SPDX-License-Identifier: Apache-2.0 */
/* The designs under test, each on the devices of its stand. */
#include "tests/bench/datapath.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if_bridge.h>
#include <linux/rtnetlink.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "datapath.skel.h"
#include "node/datapath/datapath.h"
#include "tests/bench/datapath_shared.h"

#define TCX_INGRESS    46 /* <linux/bpf.h> of 6.6 has them */
#define TCX_BEFORE     (1U << 3)
#define MDB_ATTR_DST   5 /* MDBE_ATTR_DST, of 6.4 */
#define SETTLE_TICKS   4
#define SETTLE_TICK_MS 1000

static struct datapath *product;
static bool product_peer;

/* Stays attached until the process ends. */
void peers_attach(int prog_fd, uint32_t ifindex)
{
	int fd = bpf_link_create(prog_fd, (int)ifindex, TCX_INGRESS, NULL);

	if (fd < 0)
		die("cannot attach to interface %u: %s", ifindex, strerror(-fd));
}

/* Before all that are there. */
void peers_attach_first(int prog_fd, uint32_t ifindex)
{
	LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = TCX_BEFORE);
	int fd = bpf_link_create(prog_fd, (int)ifindex, TCX_INGRESS, &opts);

	if (fd < 0)
		die("cannot attach to interface %u: %s", ifindex, strerror(-fd));
}

const enum group_kind group_kinds[] = { GROUP_LOCAL, GROUP_REMOTE, GROUP_MIXED };
const size_t n_group_kinds = ARRAY_SIZE(group_kinds);

/* ---- the product ------------------------------------------------------------ */

struct addr remote_address(unsigned int stand, unsigned int i)
{
	char text[32];
	struct addr a;

	snprintf(text, sizeof(text), "10.90.%u.%u", stand, i + 1);
	if (addr_parse(text, &a) < 0)
		die("%s is no address", text);
	return a;
}

static void product_group(enum group_kind kind, unsigned int fanout)
{
	struct datapath_route route = { .segment = SEGMENT };
	struct addr remotes[REMOTES];
	uint32_t ports[WORKLOADS];

	route.n_ports = group_locals(kind, fanout);
	route.n_remotes = group_remotes(kind, fanout);
	for (unsigned int i = 0; i < route.n_ports; i++)
		ports[i] = net_ifindex("h%dn%u", STAND_PRODUCT, i + 1);
	for (unsigned int i = 0; i < route.n_remotes; i++)
		remotes[i] = remote_address(STAND_PRODUCT, i + 1);
	route.ports = ports;
	route.remotes = remotes;
	route.group = addr_v4_be32(htonl(group_address(kind, GROUP_PLAIN, fanout)));
	if (datapath_route_set(product, &route) != 0)
		die("the product refuses a route");
}

void product_port(uint32_t ifindex)
{
	char why[DATAPATH_WHY_MAX] = "";
	struct datapath_port port;

	if (datapath_port_attach(product, ifindex, SEGMENT, 0, &port, why) < 0)
		die("port: %s", why);
	if (datapath_port_delivery_set(product, ifindex, 9000, product_peer) < 0)
		die("port: no delivery");
}

void product_route(uint32_t group, const struct addr *source, unsigned int first, unsigned int n)
{
	static uint32_t ports[SCALE_WORKLOADS];
	static unsigned int known; /* of them */
	struct datapath_route route = { .segment = SEGMENT,
					.group = addr_v4_be32(htonl(group)),
					.ports = ports + first - 1,
					.n_ports = n };

	for (; known < first + n - 1; known++)
		ports[known] = net_ifindex("h%dn%u", STAND_PRODUCT, known + 1);
	if (source)
		route.source = *source;
	if (datapath_route_set(product, &route) != 0)
		die("the product refuses a route");
}

void product_route_del(uint32_t group, const struct addr *source)
{
	struct addr a = addr_v4_be32(htonl(group));

	if (datapath_route_del(product, DATAPATH_ROUTE_GROUP, SEGMENT, &a, source) < 0)
		die("the product has no such route");
}

void product_open(const char *overlay_path, const char *delivery, const char *engine)
{
	struct datapath_options options = { .vtep = remote_address(STAND_PRODUCT, 0),
					    .no_fans = strcmp(engine, "base") == 0 };
	struct datapath_segment segment = { .id = SEGMENT,
					    .unregistered = DATAPATH_UNREGISTERED_DROP };
	struct datapath_path path = {
		.mtu = 9000,
		.to_mac = { 2, 0, 0, 0, STAND_PRODUCT, 2 },
		.from_mac = { 2, 0, 0, 0, STAND_PRODUCT, 1 },
	};
	bool direct = strcmp(overlay_path, "device") != 0;
	bool peer = strcmp(delivery, "egress") != 0;
	char why[DATAPATH_WHY_MAX] = "";

	path.ifindex = net_ifindex("u%d", STAND_PRODUCT);
	net_run("ip link add mcmesh0 type vxlan external nolearning dstport %d && "
		"ip link set mcmesh0 up mtu 9000",
		PORT_OVERLAY);
	if (datapath_open(&options, &product, why) < 0)
		die("%s", why);
	if (datapath_segment_set(product, &segment) < 0 ||
	    datapath_overlay_set(product, net_ifindex("mcmesh0"), why) < 0)
		die("overlay: %s", why);
	product_peer = peer;
	for (unsigned int i = 0; i <= WORKLOADS; i++)
		product_port(net_ifindex("h%dn%u", STAND_PRODUCT, i));
	if (datapath_paths_hold(product, UINT64_MAX) < 0 ||
	    (direct && datapath_underlay_set(product, &path.ifindex, 1, why) < 0))
		die("underlay: %s", why);
	for (unsigned int i = 1; i <= REMOTES; i++) {
		struct addr vtep = remote_address(STAND_PRODUCT, i);

		if (datapath_remote_set(product, &vtep, "far") < 0 ||
		    (direct && datapath_remote_path_set(product, &vtep, &path) < 0))
			die("the product refuses a remote");
	}
	for (size_t k = 0; k < n_group_kinds; k++) {
		for (size_t f = 0; f < n_fanouts; f++)
			product_group(group_kinds[k], fanouts[f]);
	}
}

/* Its clock goes on until it has done what it does later. */
unsigned int product_settle(void)
{
	static uint64_t clock_ms;
	struct timespec t;

	if (!clock_ms && clock_gettime(CLOCK_MONOTONIC, &t) == 0)
		clock_ms = (uint64_t)t.tv_sec * 1000;
	for (unsigned int i = 0; i < SETTLE_TICKS; i++)
		datapath_tick(product, clock_ms += SETTLE_TICK_MS);
	return datapath_fans_count(product);
}

void product_close(void)
{
	datapath_close(product);
	datapath_destroy(NULL);
}

/* ---- Linux bridge ----------------------------------------------------------- */

static void bridge_ports(FILE *ip, FILE *mdb, unsigned int k)
{
	for (unsigned int i = 0; i <= WORKLOADS; i++)
		fprintf(ip, "link set h%un%u master br%u\n", k, i, k);
	for (size_t f = 0; f < n_fanouts; f++) {
		for (size_t n = 0; n < n_group_kinds; n++) {
			for (unsigned int i = 1; i <= group_locals(group_kinds[n], fanouts[f]); i++)
				fprintf(mdb,
					"mdb add dev br%u port h%un%u grp 239.%d.0.%u permanent\n",
					k, k, i, group_kinds[n], fanouts[f]);
		}
	}
}

/* A VXLAN device a fan-out and kind, for its list is the device's. */
static void bridge_head_end(FILE *ip, FILE *mdb, enum group_kind kind, unsigned int fanout)
{
	unsigned int vni = vni_head_end(kind, fanout);

	if (!group_remotes(kind, fanout))
		return;
	fprintf(ip,
		"link add vb%u type vxlan id %u dstport %d local 10.90.%d.1 ttl 64 nolearning\n"
		"link set vb%u master br%d mtu 9000 up\n",
		vni, vni, PORT_BRIDGE, STAND_BRIDGE, vni, STAND_BRIDGE);
	for (unsigned int i = 1; i <= group_remotes(kind, fanout); i++)
		fprintf(mdb, "fdb append 00:00:00:00:00:00 dev vb%u dst 10.90.%d.%u\n", vni,
			STAND_BRIDGE, i + 1);
	fprintf(mdb, "mdb add dev br%d port vb%u grp 239.%d.0.%u permanent\n", STAND_BRIDGE, vni,
		kind, fanout);
}

/* iproute2 6.1 does not know an MDB of VXLAN. */
static void mdb_add(struct mnl_socket *nl, uint32_t ifindex, uint32_t group, struct in_addr to)
{
	alignas(struct nlmsghdr) char buf[512];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct br_mdb_entry entry = { .ifindex = ifindex, .state = MDB_PERMANENT };
	struct br_port_msg *port;
	struct nlattr *nest;
	ssize_t len;

	nlh->nlmsg_type = RTM_NEWMDB;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
	port = mnl_nlmsg_put_extra_header(nlh, sizeof(*port));
	port->family = AF_BRIDGE;
	port->ifindex = ifindex;
	entry.addr.u.ip4 = htonl(group);
	entry.addr.proto = htons(0x0800);
	mnl_attr_put(nlh, MDBA_SET_ENTRY, sizeof(entry), &entry);
	nest = mnl_attr_nest_start(nlh, MDBA_SET_ENTRY_ATTRS);
	mnl_attr_put(nlh, MDB_ATTR_DST, sizeof(to), &to);
	mnl_attr_nest_end(nlh, nest);
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		die("netlink: %s", strerror(errno));
	len = mnl_socket_recvfrom(nl, buf, sizeof(buf));
	if (len < 0 || mnl_cb_run(buf, (size_t)len, 0, 0, NULL, NULL) < 0)
		die("the kernel refuses a VXLAN MDB entry: %s", strerror(errno));
}

static void mdb_fill(void)
{
	struct mnl_socket *nl = mnl_socket_open(NETLINK_ROUTE);
	uint32_t ifindex = net_ifindex("vm0");

	if (!nl || mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0)
		die("netlink: %s", strerror(errno));
	for (size_t n = 0; n < n_group_kinds; n++) {
		for (size_t f = 0; f < n_fanouts; f++) {
			unsigned int remotes = group_remotes(group_kinds[n], fanouts[f]);

			for (unsigned int i = 1; i <= remotes; i++) {
				struct in_addr to = { htonl(0x0a5a0001U + (STAND_MDB << 8) + i) };

				mdb_add(nl, ifindex,
					group_address(group_kinds[n], GROUP_PLAIN, fanouts[f]), to);
			}
		}
	}
	mnl_socket_close(nl);
}

static void bridge_vxlans(FILE *ip, FILE *mdb, unsigned int k)
{
	for (size_t f = 0; f < n_fanouts; f++) {
		if (k == STAND_BRIDGE) {
			bridge_head_end(ip, mdb, GROUP_REMOTE, fanouts[f]);
			bridge_head_end(ip, mdb, GROUP_MIXED, fanouts[f]);
		}
		if (k == STAND_MDB)
			fprintf(mdb,
				"mdb add dev br%d port vm0 grp 239.%d.0.%u permanent\n"
				"mdb add dev br%d port vm0 grp 239.%d.0.%u permanent\n",
				STAND_MDB, GROUP_REMOTE, fanouts[f], STAND_MDB, GROUP_MIXED,
				fanouts[f]);
	}
	if (k == STAND_BRIDGE)
		fprintf(ip,
			"link add vr0 type vxlan id %d dstport %d local 10.90.%d.1 nolearning\n"
			"link set vr0 master br%d mtu 9000 up\n",
			VNI_RECEIVE, PORT_BRIDGE, STAND_BRIDGE, STAND_BRIDGE);
	if (k == STAND_MDB)
		fprintf(ip,
			"link add vm0 type vxlan id %d dstport %d local 10.90.%d.1 ttl 64 "
			"nolearning\nlink set vm0 master br%d mtu 9000 up\n",
			VNI_MDB, PORT_MDB, STAND_MDB, STAND_MDB);
}

static void bridge_near(FILE *ip, FILE *mdb, unsigned int k)
{
	bridge_ports(ip, mdb, k);
	bridge_vxlans(ip, mdb, k);
}

void peers_bridges(unsigned int stands, void (*fn)(FILE *ip, FILE *mdb, unsigned int k))
{
	char *ip_text = NULL, *mdb_text = NULL;
	size_t ip_len, mdb_len;
	FILE *ip = open_memstream(&ip_text, &ip_len), *mdb = open_memstream(&mdb_text, &mdb_len);

	if (!ip || !mdb)
		die("out of memory");
	for (unsigned int k = STAND_BRIDGE; k <= STAND_MDB; k++) {
		if (!(stands & 1U << k))
			continue;
		/* One query, and none while we measure. */
		fprintf(ip,
			"link add br%u type bridge mcast_snooping 1 "
			"mcast_query_response_interval 100 mcast_startup_query_count 1 "
			"mcast_query_interval 360000\nlink set br%u type bridge mcast_querier 1\n"
			"link set br%u mtu 9000 up\n",
			k, k, k);
		fn(ip, mdb, k);
	}
	fclose(ip);
	fclose(mdb);
	net_batch("ip", ip_text);
	/* Where br_netfilter is loaded a bridge pays for it; not here. */
	net_run("sysctl -qew net.bridge.bridge-nf-call-iptables=0 "
		"net.bridge.bridge-nf-call-ip6tables=0 net.bridge.bridge-nf-call-arptables=0");
	net_batch("bridge", mdb_text);
	free(ip_text);
	free(mdb_text);
}

/* ---- the published design --------------------------------------------------- */

/* A map for them. */
int ref_subscribers(enum group_variant variant, unsigned int n)
{
	uint32_t size = variant == GROUP_PLAIN ? REF_SUBSCRIBERS : n ? n : 1;
	int map = bpf_map_create(BPF_MAP_TYPE_HASH, "subscribers", 4, sizeof(struct subscriber),
				 size, NULL);

	if (map < 0)
		die("cannot make a map: %s", strerror(-map));
	return map;
}

static void ref_group(struct datapath_bpf *bpf, enum group_kind kind, enum group_variant variant,
		      unsigned int fanout)
{
	unsigned int locals = group_locals(kind, fanout), remotes = group_remotes(kind, fanout);
	uint32_t overlay = net_ifindex("ref0");
	uint32_t group = htonl(group_address(kind, variant, fanout));
	int inner = ref_subscribers(variant, locals + remotes);

	for (uint32_t i = 1; i <= locals + remotes; i++) {
		struct subscriber s = { .address = i };

		if (i <= locals) {
			s.ifindex = net_ifindex("h%dn%u", STAND_REF, i);
		} else {
			s.address = 0x0a5a0001 + (STAND_REF << 8) + (i - locals);
			s.ifindex = overlay;
			s.remote = 1;
		}
		if (bpf_map_update_elem(inner, &s.address, &s, BPF_ANY) < 0)
			die("cannot fill a map: %s", strerror(errno));
	}
	if (bpf_map_update_elem(bpf_map__fd(bpf->maps.groups), &group, &inner, BPF_ANY) < 0)
		die("cannot fill the outer map: %s", strerror(errno));
	close(inner);
}

static void ref_open(struct datapath_bpf *bpf)
{
	net_run("ip link add ref0 type vxlan external nolearning dstport %d && "
		"ip link set ref0 up mtu 9000",
		PORT_REF);
	for (size_t n = 0; n < n_group_kinds; n++) {
		for (size_t f = 0; f < n_fanouts; f++) {
			ref_group(bpf, group_kinds[n], GROUP_PLAIN, fanouts[f]);
			ref_group(bpf, group_kinds[n], GROUP_SIZED, fanouts[f]);
		}
	}
	peers_attach(bpf_program__fd(bpf->progs.ref_port), net_ifindex("h%dn0", STAND_REF));
	peers_attach(bpf_program__fd(bpf->progs.ref_overlay), net_ifindex("ref0"));
}

/* ---- the floor, the base, the receivers ------------------------------------- */

void redirect_set(struct datapath_bpf *bpf, uint32_t from, uint32_t kind, uint32_t to)
{
	struct redirect_key key = { from, kind };

	if (bpf_map_update_elem(bpf_map__fd(bpf->maps.redirects), &key, &to, BPF_ANY) < 0)
		die("cannot fill a map: %s", strerror(errno));
}

static void redirect_open(struct datapath_bpf *bpf)
{
	uint32_t from = net_ifindex("h%dn0", STAND_REDIRECT);
	uint32_t to = net_ifindex("h%dn1", STAND_REDIRECT);
	uint32_t underlay = net_ifindex("u%d", STAND_REDIRECT);

	redirect_set(bpf, from, GROUP_LOCAL, to);
	redirect_set(bpf, from, GROUP_REMOTE, underlay);
	redirect_set(bpf, underlay, REDIRECT_TUNNEL, to);
	peers_attach(bpf_program__fd(bpf->progs.redirect), from);
	peers_attach(bpf_program__fd(bpf->progs.redirect), underlay);
}

void peers_open(struct datapath_bpf *bpf, unsigned int stands)
{
	int count = bpf_program__fd(bpf->progs.count_and_drop);
	int drop = bpf_program__fd(bpf->progs.drop_all);

	peers_bridges(stands, bridge_near);
	if (stands & 1U << STAND_MDB)
		mdb_fill();
	if (stands & 1U << STAND_REF)
		ref_open(bpf);
	if (stands & 1U << STAND_REDIRECT)
		redirect_open(bpf);
	peers_attach(drop, net_ifindex("h%dn0", STAND_BASE));
	peers_attach(drop, net_ifindex("u%d", STAND_BASE));
	for (unsigned int k = 0; k < STAND_BASE; k++) {
		if (!(stands & 1U << k))
			continue;
		net_switch("workloads");
		for (unsigned int i = 1; i <= (k == STAND_REDIRECT ? 1 : WORKLOADS); i++)
			peers_attach(count, net_ifindex("w%un%u", k, i));
		peers_attach(count, net_ifindex("wf%u", k));
	}
	net_switch("");
}
