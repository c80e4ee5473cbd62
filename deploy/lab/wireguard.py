# SPDX-License-Identifier: Apache-2.0
"""An underlay that is encrypted: `lab up --underlay wireguard`.

    n1: uplink0 192.0.2.1 (MTU 1500) ··· mcmwg-n1 203.0.113.1 (MTU 1420)

The machines of the lab, controllers too, keep the addresses that they have without it,
but on a WireGuard device: it has no MAC addresses and no neighbours. The link beneath has
other ones, of which mcmesh knows nothing. The kernel's WireGuard is taken; where it has
none, wireguard-go, a process a machine, which is slower and the same on the wire.

When a tunnel goes down, so do its routes, and a default route would take what they took
and carry it in the clear. So there are routes to nowhere behind them. And what arrives
beside the tunnel from one of its addresses is dropped (RFC 3704 2.2).
"""
import os
import shutil

import programs
import topology as topo
from topology import LabError

PORT = 51820
MTU = 1420  # what WireGuard's own tools choose for a link of 1500
MAX_MACHINES = 24  # everyone is everyone's peer
GO = "/usr/bin/wireguard-go"
SOCKETS = "/run/wireguard"
NETWORKS = ("203.0.113.0/24", "fd00:203:0:113::/64")
LAST = 1 << 20  # a metric
STRICT = {f"ipv4/conf/{topo.UPLINK}/rp_filter": 1}
START_S = 10


def missing():
    """What to install, or None."""
    if not shutil.which("wg"):
        return "wireguard-tools"
    if not _kernel_has_it() and not shutil.which(GO):
        return "wireguard-go (this kernel has no WireGuard)"
    return None


def _kernel_has_it():
    try:
        topo.run(["unshare", "--net", "ip", "link", "add", "mcmwg-try", "type", "wireguard"])
        return True
    except LabError:
        return False


def device(name):
    return f"mcmwg-{name}"


def _make_device(name):
    try:
        topo.ip_batch([f"link add {device(name)} type wireguard"], name)
    except LabError:
        programs.spawn(name, "wireguard", [GO, "-f", device(name)], directory=device(name))
        programs.wait_until(f"wireguard-go of {name}", lambda: os.path.exists(
            f"{SOCKETS}/{device(name)}.sock"), START_S)


def _allowed(name):
    """What is behind a machine."""
    v4, v6 = topo.host_addresses(name)
    networks = [f"{v4}/32", f"{v6}/128"]
    if topo.NODE.match(name):
        networks += topo.workload_networks(name)
    return ",".join(networks)


def up(names):
    """A device on each machine, and all the others as its peers."""
    keys = {name: topo.run(["wg", "genkey"]).strip() for name in names}
    public = {name: topo.run(["wg", "pubkey"], key).strip() for name, key in keys.items()}
    for name in names:
        _make_device(name)
        peers = []
        for other in names:
            if other != name:
                peers += ["peer", public[other], "allowed-ips", _allowed(other),
                          "endpoint", f"{topo.physical_address(other)}:{PORT}"]
        topo.run_in(name, ["wg", "set", device(name), "listen-port", str(PORT),
                           "private-key", "/proc/self/fd/0", *peers], keys[name] + "\n")
        v4, v6 = topo.host_addresses(name)
        topo.ip_batch([f"addr add {v4}/24 dev {device(name)}",
                       f"link set {device(name)} mtu {MTU} up",
                       *(f"route add blackhole {network} metric {LAST}"
                         for network in NETWORKS)], name)
        topo.sysctl(name, STRICT)
        routes_up(name)


def routes_up(name):
    """What the kernel forgets when the device goes down."""
    v6 = topo.host_addresses(name)[1]
    topo.ip_batch([f"addr replace {v6}/64 dev {device(name)} nodad"], name)
