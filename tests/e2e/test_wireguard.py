# SPDX-License-Identifier: Apache-2.0
"""An encrypted underlay: a tunnel without MAC addresses and with a smaller MTU. What is on
the link beneath is looked at frame by frame."""
import ipaddress
import json
import re
import struct

import pytest
import sockets
import topology as topo
import wire
import wireguard
from apps import Sequence, need, udp_payloads
from scapy.all import IP, VXLAN, Ether
from scapy.all import UDP as ScapyUDP
from test_apps import IPERF, IPERF_PORT

MARK = b"what nobody on the way may read"
FULL = topo.TUNNEL_MTU - 20 - 8 - sockets.SEQUENCE.size - len(MARK)  # an IPv4 packet of 1500
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86dd
ICMP, UDP, ICMPV6 = 1, 17, 58
ICMP_UNREACHABLE = 3
BENEATH = ipaddress.ip_network("192.0.2.0/24")
HANDSHAKE_S = 10
FORGED = 1 << 40  # no sender's number


def is_wireguard(packet):
    """An IPv4 packet of WireGuard between the lab's machines."""
    return packet[9] == UDP and packet[6:8] in (b"\x40\x00", b"\x00\x00") and \
        struct.unpack_from("!HH", packet, 20) == (wireguard.PORT, wireguard.PORT) and \
        all(ipaddress.ip_address(packet[i:i + 4]) in BENEATH for i in (12, 16))


def strangers(frames):
    """Frames that are not WireGuard's, nor a neighbour's search, nor the refusal of a packet of
    WireGuard's, whose device is down."""
    found = []
    for f in frames:
        kind = struct.unpack_from("!H", f, 12)[0]
        if kind == ARP or (kind == IPV6 and f[20] in (0, ICMPV6)):  # 0: an MLD report
            continue
        refused = kind == IPV4 and f[23] == ICMP and f[34] == ICMP_UNREACHABLE
        if kind != IPV4 or not is_wireguard(f[42:] if refused else f[14:]):
            found.append(f)
    return found


def outside(lab, node):
    """What leaves a node and what arrives, on the link beneath the tunnel, at its far end."""
    taps = [lab.tap("underlay", f"u-{node}") for _ in range(2)]
    return lambda: taps[0].drain() + taps[1].drain(outgoing=True)


@pytest.mark.parametrize("group", ["239.30.1.1", "ff15::30:1"])
def test_nothing_to_read(wireguard_lab, group):
    """Packets that fit the tunnel, that do not with their outer headers, and fragments."""
    lab = wireguard_lab
    members = [lab.member(name, group) for name in ("n1p2", "n2p1", "n3p1")]
    lab.wait_route("n1", group, ports=["n1p2"], remotes=["n2", "n3"], deadline_s=HANDSHAKE_S)
    links = [outside(lab, node) for node in ("n1", "n2", "n3")]
    sender = lab.sender("n1p1", group)
    for size in (0, 1200, FULL, 4000):
        inside = lab.tap("n2", wireguard.device("n2"))
        numbers = lab.stream(sender, members, payload=MARK + bytes(size))
        for member in members:
            lab.exact(member, numbers)
        assert sum(MARK in f for f in inside.drain()) == len(numbers), "the tunnel has them"
        lab.close(inside)
    for link in links:
        frames = link()
        assert len(frames) >= sender.sent
        assert not strangers(frames) and not [f for f in frames if MARK in f]
        assert max(map(len, frames)) <= topo.TUNNEL_MTU + 14


def test_the_way_is_the_device(wireguard_lab, group):
    """By itself, and said so, with the link and its MTU."""
    lab = wireguard_lab
    paths = lab.json("path", "list", agent="n1")["paths"]
    assert {p["node"] for p in paths} == {"n2", "n3"}
    for path in paths:
        assert (path["way"], path["link"], path["mtu"]) == ("DEVICE", wireguard.device("n1"),
                                                            wireguard.MTU)
        assert "not Ethernet" in path["detail"]
    before = lab.counters("n1", ("copy_",))
    member = lab.member("n2p1", group)
    lab.wait_route("n1", group, remotes=["n2"], deadline_s=HANDSHAKE_S)
    numbers = lab.stream(lab.sender("n1p1", group), [member])
    grown = {k: v - before.get(k, 0) for k, v in lab.counters("n1", ("copy_",)).items()}
    assert grown["copy_remote"] == len(numbers)
    assert grown["copy_remote_by_device"] == len(numbers)


def test_tunnel_down(wireguard_lab, group):
    """Another way to the other nodes, in the clear, is not taken; then all is as before."""
    lab = wireguard_lab
    members = [lab.member(name, group) for name in ("n1p2", "n2p1")]
    lab.wait_route("n1", group, ports=["n1p2"], remotes=["n2"], deadline_s=HANDSHAKE_S)
    sender, device = lab.sender("n1p1", group), wireguard.device("n1")
    other_way = f"default via {topo.physical_address('n2')} dev {topo.UPLINK}"
    link = outside(lab, "n1")
    routes = [row for row in topo.run_in("n1", ["ip", "route"]).splitlines()
              if " via " in row and device in row]
    try:
        topo.ip_batch([f"route add {other_way}", f"link set {device} down"], "n1")
        lab.exact(members[0], lab.stream(sender, members[:1], payload=MARK))
        assert not [f for f in link() if MARK in f] and not strangers(link())
    finally:
        topo.ip_batch([f"route del {other_way}", f"link set {device} up",
                       *(f"route replace {row}" for row in routes)], "n1")
        wireguard.routes_up("n1")
    for member in members:
        member.reset()
    lab.wait("the mesh is whole again", lab.ready, 15)

    def arrives():
        sender.send(MARK)
        return members[1].drain().received

    lab.wait("packets arrive", arrives, HANDSHAKE_S)
    members[1].reset()
    lab.exact(members[1], lab.stream(sender, members[1:], payload=MARK))
    assert not strangers(link())


def test_nothing_comes_in_beside_the_tunnel(wireguard_lab, group):
    """A packet that says it is another node's, on the link beneath: it would be taken, and
    the lab's machines drop it as docs/encryption.md says."""
    lab = wireguard_lab
    member = lab.member("n2p1", group)
    lab.wait_route("n1", group, remotes=["n2"], deadline_s=HANDSHAKE_S)
    link = lab.tap("n3", topo.UPLINK)
    mac = json.loads(topo.run_in("n2", ["ip", "-j", "link", "show", topo.UPLINK]))[0]["address"]
    inner = Ether(src="02:00:00:00:00:01", dst=wire.mac_of(group).hex(":")) / \
        IP(src="198.18.1.1", dst=group, ttl=8) / ScapyUDP(sport=5000, dport=5000) / \
        sockets.SEQUENCE.pack(FORGED, 0)
    forged = Ether(src="02:00:00:00:00:02", dst=mac) / IP(src=topo.vtep("n1"), dst=topo.vtep("n2")) / \
        ScapyUDP(sport=50000, dport=4797, chksum=0) / VXLAN(vni=1, flags=8) / inner
    sender = lab.sender("n1p1", group)

    def forge():
        link.send(forged)
        lab.stream(sender, [member], packets=5)
        return FORGED in member.numbers

    assert not any(forge() for _ in range(3))
    try:
        topo.sysctl("n2", {key: 0 for key in wireguard.STRICT})
        assert forge(), "the packet is one that could be taken"
    finally:
        topo.sysctl("n2", wireguard.STRICT)


def test_iperf(wireguard_lab, app, measured):
    lab, group = wireguard_lab, "239.30.2.1"
    need("iperf", "iperf")
    server = app("n2p1", "iperf", "-s", "-u", "-B", f"{group}%eth0", "-e", "-t", "15")
    lab.wait_route("n1", group, remotes=["n2"], deadline_s=HANDSHAKE_S)
    wire = lab.tap("n2p1")
    client = app("n1p1", "iperf", "-c", group, "-u", "-T", "8", "-b", "5m", "-t", "2", "-e")
    assert client.ends(15, [wire]) == 0, client
    sent = int(re.search(r"Sent (\d+) datagrams", client.text())[1])
    lab.wait(f"its report: {server}", lambda: IPERF.search(server.text()), 10)
    numbers = [struct.unpack_from("!i", p)[0] for p in
               udp_payloads(wire.drain(), group, IPERF_PORT)]
    arrived = Sequence(n for n in numbers if n >= 0)
    _, rate, unit, lost, of, latency = IPERF.findall(server.text())[-1]
    measured(f"iperf over WireGuard, n2p1: {rate} {unit}bit/s, its own count {lost} of {of} "
             f"lost, latency {latency} ms; on the wire {arrived}")
    assert arrived.received + arrived.missing >= sent - 2 and arrived.missing <= sent // 100
