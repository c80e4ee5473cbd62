# SPDX-License-Identifier: Apache-2.0
"""What workloads send, each way of making copies that agents can be told to use: every
byte of it, once, with its DSCP, whatever its size, and whoever of the receivers fails.

The underlay has an MTU of 1,500, and so have the workloads. tests/bpf/test_engines.c
has more combinations, without agents; docs/testing.md has the table.
"""
import contextlib
import ctypes
import fcntl
import select
import socket
import struct
import time

import crowd
import pytest
import sockets
import topology as topo
from conftest import TLS, mesh_up
from sockets import SEQUENCE

NEAR, FAR = ["n1p2", "n1p3", "n1p4"], ["n2p1", "n2p2", "n2p3", "n3p1"]
FAILING = ["n1p3", "n2p2"]
# 1,456 and the number are a workload's largest packet.
SIZES = (0, 1384, 1436, 1456, 4000, 9000 - SEQUENCE.size, 30000)
SEGMENT, SEGMENTS = 1000, (2, 5, 60)
TOS = 0xb8 | 2
JUMBO = 9500
SIOCETHTOOL = 0x8946
ETHTOOL_OFF = (0x17, 0x24)  # ETHTOOL_STXCSUM, ETHTOOL_SGSO
EACH = 4

ENGINES = {  # the lab's options, and the agents'
    "usual": ((), ()),
    "fans": ((), ("delivery=peer", "fans.min_ports=2")),
    "fans-egress": ((), ("delivery=egress", "fans.min_ports=2")),
    "clones": ((), ("delivery=peer", "fans.enabled=no")),
    "egress": ((), ("delivery=egress", "fans.enabled=no")),
    "device": ((), ("overlay.path=device", "delivery=egress", "fans.enabled=no")),
    "device-ipv6": (("--ipv6-underlay",), ("overlay.path=device",)),
    "clsact": ((), ("attach=clsact",)),
    "taps": (tuple(f"--tap={n}" for n in ["n1p1", *NEAR, *FAR]), ()),
    "poor-links": ((), ("delivery=egress",)),  # that do nothing for the kernel
    "poor-links-ipv6": (("--ipv6-underlay",), ("delivery=egress",)),
}
USUAL = ("fans.enabled=yes", "fans.min_ports=3", "delivery=auto", "overlay.path=auto",
         "gmp.fast_leave=yes")


def leave_all_to_the_kernel(name, device):
    """Checksums, segments: the receivers then look at what the kernel made of them."""
    with sockets.namespace(name), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in ETHTOOL_OFF:
            value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
            fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("=16sQ16x", device.encode(),
                                                       ctypes.addressof(value)))


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, mesh):
    options, settings = ENGINES[request.param]
    mesh_up(TLS, "--nodes", "3", "--ports", "4", "--underlay-mtu", "1500", *options,
            *(f"--agent-set={s}" for s in USUAL + settings))
    for name in (["n1", "n2", "n3"] if request.param.startswith("poor") else []):
        for device in (topo.UPLINK, *(f"{name}p{i}" for i in range(1, 5))):
            leave_all_to_the_kernel(name, device)
    taps = pytest.MonkeyPatch()  # ports that are made again are what they were
    taps.setenv("MCMESH_LAB_TAPS", " ".join(o.split("=")[1] for o in options if "=" in o))
    yield request.param
    taps.undo()
    mesh_up(TLS)


def content(number, size):
    return bytes((number * 13 + i * 7) & 255 for i in range(256)) * (size // 256) + \
        bytes((number * 13 + i * 7) & 255 for i in range(size % 256))


class Whole(sockets.Member):
    """A member that looks at every byte, and at the DSCP."""

    def __init__(self, name, group):
        super().__init__(name, group)
        self.v6 = sockets.is_v6(group)
        self.sock.setsockopt(*(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS) if self.v6 else
                             (socket.IPPROTO_IP, socket.IP_RECVTOS), 1)

    def reset(self):
        super().reset()
        self.wrong = []

    def drain(self):
        while True:
            try:
                data, control, _, _ = self.sock.recvmsg(65535, 64)
            except BlockingIOError:
                return self
            number, size = SEQUENCE.unpack_from(data)
            self.numbers[number] = self.numbers.get(number, 0) + 1
            self.last_number = max(self.last_number, number)
            tos = struct.unpack("=i", control[0][2])[0] if self.v6 else control[0][2][0]
            if data[SEQUENCE.size:] != content(number, size) or tos != TOS:
                self.wrong.append((number, size, len(data), tos))


class Source(sockets.Sender):
    """Its packets say how long they are, and what they hold follows from their number."""

    def __init__(self, name, group):
        super().__init__(name, group)
        option = (socket.IPPROTO_IPV6, socket.IPV6_TCLASS) if sockets.is_v6(group) else \
            (socket.IPPROTO_IP, socket.IP_TOS)
        self.sock.setsockopt(*option, TOS)

    def one(self, size):
        self.sent += 1
        return SEQUENCE.pack(self.sent - 1, size) + content(self.sent - 1, size)

    def send(self, size=0):
        self.sock.sendto(self.one(size), (self.group, self.port))

    def send_segments(self, n):
        """One packet of many segments, which the kernel cuts where it must."""
        data = b"".join(self.one(SEGMENT - SEQUENCE.size) for _ in range(n))
        self.sock.sendmsg([data], [(socket.IPPROTO_UDP, crowd.UDP_SEGMENT,
                                    struct.pack("=H", SEGMENT))], 0, (self.group, self.port))


def joined(lab, kind, names, group):
    """Members, and each node that has some knows of all."""
    members = [lab._track(kind(name, group)) for name in names]
    nodes = {"n" + topo.WORKLOAD.match(name)[1] for name in names}
    for node in nodes | {"n1"}:
        want = {name for name in names if name.startswith(node + "p")}, len(nodes - {node})

        def there():
            ports, remotes = lab.route(node, group)
            return (ports, len(remotes)) == want

        lab.wait(f"{node} has {want} of {group}", there, 10)
    return members


@pytest.fixture
def fans(engine, lab):
    """They come a moment after the list that wants them: wait_fans()."""
    has = engine not in ("clones", "egress", "device")

    def wait():
        lab.wait(f"the engine of {engine}", lambda: all(
            lab.json("port", "list", agent=node)["ports"][0]["engine"] ==
            ("fan" if has else "clone") for node in ("n1", "n2")), 10)
    return wait


@pytest.mark.parametrize("ip", [4, 6])
def test_whole_and_once_whatever_its_size(fans, lab, ip):
    """Checksums left to the link, fragments, segments: as workloads send them."""
    group = lab.new_group() if ip == 4 else "ff15::10:78"
    members = joined(lab, Whole, NEAR + FAR, group)
    fans()
    source = lab._track(Source("n1p1", group))

    def sends():
        for size in SIZES:
            for _ in range(EACH):
                yield lambda size=size: source.send(size)
        for n in SEGMENTS:
            for _ in range(EACH):
                yield lambda n=n: source.send_segments(n)

    for send in sends():
        send()
        last = source.sent - 1
        lab.wait(lambda: f"number {last} at {[m.name for m in members if m.last_number < last]}",
                 lambda: all(m.drain().last_number == last for m in members))
    for member in members:
        lab.exact(member, range(source.sent))
        assert not member.wrong, f"{member.name}: {member.wrong[:5]}"


@contextlib.contextmanager
def mtu(names, value):
    def change(value):
        for name in names:
            topo.ip_batch([f"link set eth0 mtu {value}"], name)
            topo.ip_batch([f"link set {name} mtu {value}"], "n" + topo.WORKLOAD.match(name)[1])

    change(value)
    try:
        yield
    finally:
        change(1500)


def refused(lab, node):
    return lab.counters(node, ("copy_port_refused",)).get("copy_port_refused", 0)


# A tap takes what is longer than its MTU.
@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "taps"], indirect=True)
def test_longer_than_a_receiver_takes(engine, fans, lab, group):
    """9,000 bytes in one packet: who has no room misses it, which is counted, and nothing
    else."""
    members = joined(lab, Whole, NEAR + FAR, group)
    fans()
    source, large = lab._track(Source("n1p1", group)), ("n1p2", "n2p1", "n2p3")
    before = {node: refused(lab, node) for node in ("n1", "n2", "n3")}
    with mtu(("n1p1", *large), JUMBO):
        for _ in range(EACH):
            source.send(9000)
            source.send()
            lab.wait("the short one is everywhere",
                     lambda: all(m.drain().last_number == source.sent - 1 for m in members))
        lab.wait("so are the long ones", lambda: all(
            m.drain().received == source.sent for m in members if m.name in large))
    for member in members:
        wants = range(source.sent) if member.name in large else range(1, source.sent, 2)
        lab.exact(member, wants)
        assert member.received == len(wants) and not member.wrong, (member.name, member.wrong)
    for node, without in (("n1", 2), ("n2", 1), ("n3", 1)):
        assert refused(lab, node) - before[node] == without * EACH, node


@pytest.fixture
def bursts(lab, group):
    """Bursts beside the test, while the steps are done; then who has not all, and why."""
    def run(members, steps, in_order):
        beside = crowd.Beside(crowd.bursts(lab.sender("n1p1", group), 1, 0.01))
        try:
            for _ in steps:
                select.select([m.sock for m in members], [], [], 0.02)
                for member in members:
                    member.drain()
        finally:
            sent = {1: beside.end()}
            topo.run_in("n1p1", ["ip", "link", "set", "eth0", "gso_max_segs", "65535"])
        with contextlib.suppress(topo.LabError):
            lab.wait("all have the last", lambda: all(m.drain().has(sent) for m in members), 3)
        return [f for f in (m.fault(sent, in_order) for m in members) if f]

    return run


def until(check):
    deadline = time.monotonic() + 10
    while not check():
        assert time.monotonic() < deadline, "the stream is dead"
        yield


@pytest.mark.parametrize("how", ["down", "removed"])
def test_receivers_that_fail_in_a_burst(fans, engine, lab, group, bursts, how):
    """Of one the link goes down, or it is removed: the others have each packet; in order
    where the two that are left still have a fan."""
    members = joined(lab, crowd.Standing, NEAR + FAR, group)
    members = [m for m in members if m.name not in FAILING]
    fans()

    def steps():
        for name in FAILING:
            yield from until(lambda: all(m.next for m in members))
            if how == "down":
                topo.ip_batch(["link set eth0 down"], name)
            else:
                topo.port_down(name)
            at = members[0].next[1]
            yield from until(lambda: members[0].next[1] > at + 1000)

    try:
        assert not bursts(members, steps(), engine.startswith("fans"))
    finally:
        for name in FAILING:
            with contextlib.suppress(topo.LabError):
                topo.port_down(name)
            topo.port_up(name)
