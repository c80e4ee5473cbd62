# SPDX-License-Identifier: Apache-2.0
"""The lab's network: one namespace a node, a workload, a controller, a member of etcd.

    mcm-n1p1 eth0 --- n1p1 mcm-n1 uplink0 --- u-n1 mcm-underlay(br0) u-c1 --- uplink0 mcm-c1

Everything lies inside namespaces of the lab's own, the underlay's bridge too,
so nothing is seen in, or taken from, the machine's default namespace. Unicast
between workloads is routed as a CNI does it: a workload has a /32 and a gateway
that its node answers for, nodes route each other's 198.18.N.0/24 over the
underlay.
"""
import os
import re
import subprocess
import sys

import machines

PREFIX = "mcm-"
UNDERLAY = PREFIX + "underlay"
BRIDGE = "br0"
UPLINK = "uplink0"
GATEWAY4 = "169.254.1.1"
GATEWAY6 = "fe80::1"
MAX_NODES = 200
MAX_PORTS = 250
MAX_CONTROLLERS = 5
# Room for a workload's full-size packet with the overlay's headers around it.
UNDERLAY_MTU = 1600
TUNNEL_MTU = 1500  # of the link beneath one

OURS = re.compile(r"^mcm-(underlay|n\d+|n\d+p\d+|c\d+|e\d+)$")
NODE = re.compile(r"^n(\d+)$")
WORKLOAD = re.compile(r"^n(\d+)p(\d+)$")
CONTROLLER = re.compile(r"^c(\d+)$")
ETCD = re.compile(r"^e(\d+)$")
HOST = re.compile(r"^[nce]\d+$")  # what is on the underlay


class LabError(Exception):
    """One sentence for people."""


def netns(name):
    return PREFIX + name


def netns_path(name):
    return "/run/netns/" + netns(name)


def node_names(n):
    return [f"n{i}" for i in range(1, n + 1)]


def vtep(node):
    return f"203.0.113.{NODE.match(node)[1]}"


def vtep6(node):
    return f"fd00:203:0:113::{NODE.match(node)[1]}"


def controller_address(name):
    return f"203.0.113.{249 + int(CONTROLLER.match(name)[1])}"


def etcd_address(name):
    return f"203.0.113.{240 + int(ETCD.match(name)[1])}"


def host_addresses(name):
    """Of what is on the underlay, where the others find it: IPv4 and IPv6."""
    if NODE.match(name):
        return vtep(name), vtep6(name)
    v4 = etcd_address(name) if ETCD.match(name) else controller_address(name)
    return v4, f"fd00:203:0:113::{ord(name[0]) - 87:x}:{name[1:]}"


def physical_address(name):
    """Of the link, when the addresses above are those of a tunnel."""
    return "192.0.2." + host_addresses(name)[0].rsplit(".", 1)[1]


def workload_networks(node):
    n = NODE.match(node)[1]
    return [f"198.18.{n}.0/24", f"fd00:198:18:{n}::/64"]


def workload_address(name):
    n, p = WORKLOAD.match(name).groups()
    return f"198.18.{n}.{p}"


def workload_address6(name):
    n, p = WORKLOAD.match(name).groups()
    return f"fd00:198:18:{n}::{p}"


def enter(name, *command):
    """The command line that runs `command` in a namespace: net only, so that
    bpffs and everything else stays in sight. On a machine: one that runs it there."""
    line = ["nsenter", "--net=" + netns_path(name), "--", *command]
    return machines.line(machines.node_of(name), line) if machines.node_of(name) else line


def call(name, command, stdin=None, timeout=None):
    """Runs it there and waits: like subprocess.run with captured text."""
    node = machines.node_of(name)
    line = ["nsenter", "--net=" + netns_path(name), "--", *command]
    if node:
        return machines.run(node, line, stdin, timeout)
    return subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=timeout)


def _checked(command, done):
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()}")
    return done.stdout


def run(command, stdin=None):
    return _checked(command, subprocess.run(command, input=stdin, text=True, capture_output=True))


def run_in(name, command, stdin=None):
    return _checked(command, call(name, command, stdin))


def ip_batch(lines, name=None):
    text = "\n".join(lines) + "\n"
    if name:
        run_in(name, ["ip", "-batch", "-"], text)
    else:
        run(["ip", "-batch", "-"], text)


def sysctl(name, settings):
    script = "\n".join(f"echo {value} > /proc/sys/net/{key}" for key, value in settings.items())
    run_in(name, ["sh", "-ec", script])


def existing():
    """Names (without prefix) of the lab's namespaces that are there."""
    try:
        names = sorted(os.listdir("/run/netns"))
    except FileNotFoundError:
        return []
    return [n[len(PREFIX):] for n in names if OURS.match(n)]


def known():
    """Names that a command can be run in: namespaces here, and what is on machines."""
    names = existing()
    for node in machines.nodes():
        names += machines.call(node, "topology.existing")
    return names


QUIET_IPV6 = {
    # Addresses are usable the moment they are set.
    "ipv6/conf/all/accept_dad": 0,
    "ipv6/conf/default/accept_dad": 0,
    "ipv6/conf/default/dad_transmits": 0,
    "ipv6/conf/all/accept_ra": 0,
    "ipv6/conf/default/accept_ra": 0,
    "ipv6/conf/default/router_solicitations": 0,
}
ANY_PATH = {"ipv4/conf/all/rp_filter": 0, "ipv4/conf/default/rp_filter": 0}
ROUTER = {
    "ipv4/ip_forward": 1,
    "ipv6/conf/all/forwarding": 1,
    "ipv6/conf/default/forwarding": 1,
    # Replies and redirects would depend on who spoke first.
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/default/send_redirects": 0,
}


def _link(name, mtu):
    ip_batch([
        f"link add u-{name} mtu {mtu} type veth peer name {UPLINK} netns {netns(name)}",
        f"link set u-{name} master {BRIDGE} up",
    ], "underlay")


def _uplink(name, addresses, mtu):
    ip_batch(["link set lo up",
              *(f"addr add {address} dev {UPLINK} nodad" for address in addresses),
              f"link set {UPLINK} mtu {mtu} up"], name)


@machines.there(0)
def workload_up(name):
    """A workload's namespace and its veth; its node exists."""
    node = "n" + WORKLOAD.match(name)[1]
    ip_batch([f"netns add {netns(name)}"])
    sysctl(name, {**QUIET_IPV6, **ANY_PATH, "ipv4/conf/all/arp_notify": 0,
                  # A test may join thousands of groups from one socket's owner.
                  "ipv4/igmp_max_memberships": 10000})
    port_up(name)
    return node


def _veth(name, node, mac):
    ip_batch([f"link add {name} type veth peer name eth0 address {mac} netns {netns(name)}"], node)


def _tap(name, node, mac):
    """As a virtual machine's: what comes in is written by a process (tap.py)."""
    run([sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "tap.py"),
         node, name, mac])


@machines.there(0)
def port_up(name):
    """The device between a workload and its node (also after it was removed)."""
    node = "n" + WORKLOAD.match(name)[1]
    mac = "02:00:c6:12:%02x:%02x" % tuple(int(x) for x in WORKLOAD.match(name).groups())
    make = _tap if name in os.environ.get("MCMESH_LAB_TAPS", "").split() else _veth
    make(name, node, mac)
    ip_batch([
        f"addr add {GATEWAY4}/32 dev {name}",
        f"addr add {GATEWAY6}/64 dev {name} nodad",
        f"link set {name} up",
        f"route add {workload_address(name)}/32 dev {name}",
        f"route add {workload_address6(name)}/128 dev {name}",
    ], node)
    ip_batch([
        "link set lo up",
        f"addr add {workload_address(name)}/32 dev eth0",
        f"addr add {workload_address6(name)}/128 dev eth0 nodad",
        "link set eth0 up",
        f"route add {GATEWAY4}/32 dev eth0 scope link",
        f"route add default via {GATEWAY4} dev eth0 src {workload_address(name)}",
        f"route add default via {GATEWAY6} dev eth0 src {workload_address6(name)}",
    ], name)


@machines.there(0)
def port_down(name):
    ip_batch([f"link del {name}"], "n" + WORKLOAD.match(name)[1])


def up(nodes, ports, servers, tunnel=None, boot=None, mtu=None):
    """`servers`: names of controllers and of members of etcd. `tunnel`, given all that is
    on the underlay, makes the devices that have its addresses, in place of the link.
    `boot`, given nodes and MTU, makes machines of them, with their ends of the links."""
    hosts = node_names(nodes)
    mtu = mtu or (TUNNEL_MTU if tunnel else UNDERLAY_MTU)
    spaces = ["underlay", *([] if boot else hosts), *servers]
    ip_batch([f"netns add {netns(n)}" for n in spaces])
    sysctl("underlay", QUIET_IPV6)
    ip_batch([f"link add {BRIDGE} type bridge mcast_snooping 0 forward_delay 0",
              f"link set {BRIDGE} mtu {mtu} up"], "underlay")
    if boot:
        boot(hosts, mtu)
    for name in spaces[1:]:
        _link(name, mtu)
    for name in hosts + servers:
        sysctl(name, {**QUIET_IPV6, **ANY_PATH, **(ROUTER if name in hosts else {})})
        v4, v6 = host_addresses(name)
        _uplink(name, [f"{physical_address(name)}/24"] if tunnel else [f"{v4}/24", f"{v6}/64"],
                mtu)
    if tunnel:
        tunnel(hosts + servers)
    for name in hosts:
        ip_batch([f"route add {network} via {gateway}" for other in hosts if other != name
                  for network, gateway in zip(workload_networks(other), host_addresses(other))],
                 name)
        for p in range(1, ports + 1):
            workload_up(f"{name}p{p}")


def cut(node):
    """Packets of the node's underlay vanish silently, as behind a dead switch."""
    ip_batch([f"link set u-{node} nomaster"], "underlay")


def is_cut(node):
    return "master" not in run(["ip", "-n", netns("underlay"), "link", "show", f"u-{node}"])


PARTED = "lab_cut"  # a table of nftables


def part(name, others):
    """Packets between it and these vanish, in both directions; it reaches the rest."""
    for here, there in ((name, others), *((other, [name]) for other in others)):
        rules = "".join(f"add rule inet {PARTED} input {family} saddr {address} drop\n"
                        for one in there
                        for family, address in zip(("ip", "ip6"), host_addresses(one)))
        run_in(here, ["nft", "-f", "-"], f"add table inet {PARTED}\n"
               f"add chain inet {PARTED} input {{ type filter hook input priority -300; }}\n{rules}")


def rejoin(names):
    """What was parted reaches each other again."""
    for name in names:
        run_in(name, ["nft", "-f", "-"], f"add table inet {PARTED}\ndelete table inet {PARTED}\n")


def heal(node):
    ip_batch([f"link set u-{node} master {BRIDGE}"], "underlay")


def down():
    names = existing()
    for name in filter(WORKLOAD.match, names):
        # A tap's process would keep it, and the namespaces with it.
        subprocess.run(["ip", "-n", netns("n" + WORKLOAD.match(name)[1]), "link", "del", name],
                       capture_output=True)
    for name in names:
        run(["ip", "netns", "delete", netns(name)])
