# SPDX-License-Identifier: Apache-2.0
"""Copies to other nodes on a network that changes, over IPv4 and over IPv6.

The underlay has an MTU of 1,500, and so have the workloads. Most packets are
written right onto the link; what a copy's way is, and why, says `path list`.
"""
import contextlib
import json
import select
import socket
import struct
import subprocess
import time

import change
import pytest
import programs
import sockets
import topology as topo
from conftest import TLS, mesh_up
from sockets import Pace
from wire import mac_of

OVERLAY_PORT = 4797
INTERVAL_S = 0.002
ROUTERS = {"r1": 201, "r2": 202}
ESP = 50


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def underlay(request, mesh):
    """For the tests of this file the lab is one whose underlay has no room to spare."""
    v6 = request.param == "ipv6"
    mesh_up(False, "--underlay-mtu", "1500", *(["--ipv6-underlay"] if v6 else []),
            "--agent-set=overlay.path=auto")
    yield request.param
    mesh_up(TLS)


@pytest.fixture
def net(underlay, lab):
    net = Net(lab, underlay == "ipv6")
    net.wait_direct()
    yield net
    net.wait_direct()


class Net:
    """What the tests of this file do to the underlay, and see of it."""

    def __init__(self, lab, v6):
        self.lab, self.v6 = lab, v6
        self.family = "-6" if v6 else "-4"

    def vtep(self, node):
        return topo.vtep6(node) if self.v6 else topo.vtep(node)

    def run(self, name, *line, check=True):
        done = self.lab.exec(name, *line)
        assert not check or done.returncode == 0, f"{line}: {done.stderr}"
        return done

    def paths(self, node="n1"):
        return {row["node"]: row for row in self.lab.json("path", "list", agent=node)["paths"]}

    def wait_path(self, what, check, node="n1", to="n2", deadline_s=8):
        row = None

        def right():
            nonlocal row
            row = self.paths(node).get(to)
            return row and check(row)

        self.lab.wait(lambda: f"{node} to {to} {what}: {row}", right, deadline_s)
        return row

    def wait_direct(self):
        nodes = programs.agents(programs.load())
        for node in nodes:
            for to in nodes:
                if to != node:
                    self.wait_path("is direct", lambda row: row["way"] == "DIRECT", node, to, 15)

    def member(self, name, group):
        """And the sender's node knows of it."""
        member = self.lab.member(name, group)
        node = "n" + topo.WORKLOAD.match(name)[1]
        want = self.vtep(node)
        self.lab.wait(f"n1 sends {group} to {node}",
                      lambda: want in self.lab.json("fib", "list", agent="n1")["routes"].__str__())
        return member

    def counter(self, node, name):
        return sum(int(row["packets"]) for row in
                   self.lab.json("counter", "list", "--prefix", name, agent=node)["counters"]
                   if row["name"] == name)

    def stream(self, sender, members, steps):
        """Sends while `steps` goes on, then until every member has one that was sent
        after it. Returns how many were sent."""
        pace, end = Pace(INTERVAL_S), None
        while True:
            select.select([m.sock for m in members], [], [], pace.remaining())
            for member in members:
                member.drain()
            if pace.due():
                sender.send()
            if end is None and next(steps, StopIteration) is StopIteration:
                end = sender.sent
            if end is not None:
                if all(m.last_number >= end for m in members):
                    return sender.sent
                assert sender.sent < end + 10 / INTERVAL_S, \
                    f"the stream is dead: {[m.last_number for m in members]} of {sender.sent}"


def until(check, least_s=0.1, deadline_s=20):
    """A step that lasts until the check holds, and some time."""
    start = time.monotonic()
    while True:
        now = time.monotonic()
        assert now < start + deadline_s, "never"
        if now >= start + least_s and check():
            return
        yield


def lost(member, sent):
    assert not [n for n, c in member.numbers.items() if c > 1], "duplicates"
    return [n for n in range(sent) if n not in member.numbers and n <= member.last_number]


def seconds(numbers):
    return len(numbers) * INTERVAL_S


# ---- neighbours ----


def notify(name, on):
    topo.sysctl(name, {f"ipv4/conf/{topo.UPLINK}/arp_notify": on,
                       f"ipv6/conf/{topo.UPLINK}/ndisc_notify": on})


@contextlib.contextmanager
def other_mac(net, name):
    def mac():
        return json.loads(net.run(name, "ip", "-j", "link", "show", "uplink0").stdout)[0]["address"]

    was = mac()

    def change_it(address="02:00:00:00:77:77"):
        net.run(name, "ip", "link", "set", "uplink0", "address", address)

    try:
        yield change_it
    finally:
        notify(name, 1)
        change_it(was)
        notify(name, 0)


def test_neighbour_gets_another_mac_and_says_so(net, group):
    member = net.member("n2p1", group)
    sender = net.lab.sender("n1p1", group)
    with other_mac(net, "n2") as change_it:
        notify("n2", 1)

        def steps():
            yield from until(lambda: member.received > 50)
            change_it()
            yield from until(lambda: True, 1)

        sent = net.stream(sender, [member], steps())
        assert seconds(lost(member, sent)) < 0.5
        net.wait_path("is direct", lambda row: row["way"] == "DIRECT")


def test_neighbour_gets_another_mac_in_silence(net, group):
    """Found by the kernel's probes, which the agent asks for: the datapath's own
    packets pass the neighbour by."""
    member = net.member("n2p1", group)
    sender = net.lab.sender("n1p1", group)
    family = "ipv6" if net.v6 else "ipv4"
    timers = f"{family}/neigh/{topo.UPLINK}"
    topo.sysctl("n1", {f"{timers}/base_reachable_time_ms": 1000,
                       f"{timers}/delay_first_probe_time": 1,
                       f"{timers}/retrans_time_ms": 200})
    # The entry that is there keeps the timer that it was made with. (ip gives up when
    # the agent asks for it again faster than it looks; it was deleted all the same.)
    net.run("n1", "ip", net.family, "neigh", "flush", "dev", topo.UPLINK, check=False)
    net.wait_direct()
    try:
        with other_mac(net, "n2") as change_it:
            def steps():
                yield from until(lambda: member.received > 50)
                change_it()
                yield from until(lambda: True, 1)

            sent = net.stream(sender, [member], steps())
            assert seconds(lost(member, sent)) < 12
            net.wait_path("is direct", lambda row: row["way"] == "DIRECT")
    finally:
        topo.sysctl("n1", {f"{timers}/base_reachable_time_ms": 30000,
                           f"{timers}/delay_first_probe_time": 5,
                           f"{timers}/retrans_time_ms": 1000})


# ---- next hops ----


@pytest.fixture
def routers(net):
    """Two routers on the underlay: name → address."""
    addresses = {}
    for name, number in ROUTERS.items():
        v4, v6 = f"203.0.113.{number}", f"fd00:203:0:113::{number}"
        addresses[name] = v6 if net.v6 else v4
        topo.ip_batch([f"netns add {topo.netns(name)}"])
        topo.ip_batch([f"link add u-{name} mtu 1500 type veth peer name {topo.UPLINK} "
                       f"netns {topo.netns(name)}",
                       f"link set u-{name} master {topo.BRIDGE} up"], "underlay")
        topo.sysctl(name, {**topo.QUIET_IPV6, **topo.ANY_PATH, **topo.ROUTER,
                           f"ipv4/conf/{topo.UPLINK}/send_redirects": 0})
        topo.ip_batch(["link set lo up", f"addr add {v4}/24 dev {topo.UPLINK}",
                       f"addr add {v6}/64 dev {topo.UPLINK} nodad",
                       f"link set {topo.UPLINK} up"], name)
    for name in ROUTERS:
        for node in ("n1", "n2"):
            net.lab.wait(f"{name} reaches {node}", lambda: net.run(
                name, "ping", "-c", "1", "-W", "1", net.vtep(node), check=False).returncode == 0)
    yield addresses
    subprocess.run(topo.enter("n1", "ip", net.family, "route", "flush", net.vtep("n2")),
                   capture_output=True)
    for name in ROUTERS:
        topo.run(["ip", "netns", "delete", topo.netns(name)])


def route_by(net, verb, address=None):
    length = 128 if net.v6 else 32
    via = ["via", address] if address else []
    net.run("n1", "ip", net.family, "route", verb, f"{net.vtep('n2')}/{length}", *via, "dev",
            topo.UPLINK)


def test_next_hop_changes(net, group, routers):
    member = net.member("n2p1", group)
    sender = net.lab.sender("n1p1", group)

    def hop_is(address):
        row = net.paths()["n2"]
        return row["way"] == "DIRECT" and row["nextHop"] == address

    def steps():
        yield from until(lambda: member.received > 50)
        route_by(net, "add", routers["r1"])
        yield from until(lambda: hop_is(routers["r1"]))
        route_by(net, "replace", routers["r2"])
        yield from until(lambda: hop_is(routers["r2"]))
        # The first one may go, now that it is not used.
        topo.ip_batch(["link set u-r1 down"], "underlay")
        yield from until(lambda: True, 0.3)
        route_by(net, "del")
        yield from until(lambda: hop_is(net.vtep("n2")))

    sent = net.stream(sender, [member], steps())
    assert seconds(lost(member, sent)) < 0.5


def test_smaller_mtu_behind_a_router(net, group, routers):
    """What the router says is followed: then the longer ones go by the overlay device,
    which fragments."""
    member = net.member("n2p1", group)
    net.run("r1", "ip", net.family, "route", "add", f"{net.vtep('n2')}/{128 if net.v6 else 32}",
            "dev", topo.UPLINK, "mtu", "lock", "1400")
    route_by(net, "add", routers["r1"])
    net.wait_path("by r1", lambda row: row["nextHop"] == routers["r1"])
    sender, pace = net.lab.sender("n1p1", group), Pace(0.05)
    deadline = time.monotonic() + 15
    while not member.drain().received:
        assert time.monotonic() < deadline, (net.paths()["n2"], net.run(
            "n1", "ip", net.family, "route", "get", net.vtep("n2"), "from", net.vtep("n1")).stdout)
        select.select([member.sock], [], [], pace.remaining())
        if pace.due():
            sender.send(b"x" * 1360)
    assert net.paths()["n2"]["mtu"] == 1400


# ---- links and addresses ----


def test_link_loses_its_carrier_and_is_back(net, group):
    near, far = net.lab.member("n1p2", group), net.member("n2p1", group)
    sender = net.lab.sender("n1p1", group)
    losses = ("copy_remote_failed", "overlay_lost_tx", "underlay_lost_tx")
    before = sum(net.counter("n1", name) for name in losses)

    def steps():
        yield from until(lambda: far.received > 50)
        topo.ip_batch(["link set u-n1 down"], "underlay")
        yield from until(lambda: net.paths()["n2"]["way"] == "DEVICE")
        assert "down" in net.paths()["n2"]["detail"]
        yield from until(lambda: True, 0.3)
        topo.ip_batch(["link set u-n1 up"], "underlay")
        yield from until(lambda: net.paths()["n2"]["way"] == "DIRECT")

    try:
        sent = net.stream(sender, [near, far], steps())
    finally:
        topo.ip_batch(["link set u-n1 up"], "underlay")
    assert not lost(near, sent), "who is local loses nothing"
    assert sum(net.counter("n1", name) for name in losses) > before, "the loss is counted"


def test_address_goes_and_comes_back(net, group):
    """As with a lease that ran out: nothing leaves without it, and then it goes on."""
    near, far = net.lab.member("n1p2", group), net.member("n2p1", group)
    sender = net.lab.sender("n1p1", group)
    address = f"{net.vtep('n1')}/{64 if net.v6 else 24}"
    others = [f"route replace {prefix} via {to(node)}" for node in ("n2", "n3")
              for prefix, to in ((f"198.18.{node[1:]}.0/24", topo.vtep),
                                 (f"fd00:198:18:{node[1:]}::/64", topo.vtep6))]

    def steps():
        yield from until(lambda: far.received > 50)
        net.run("n1", "ip", "addr", "del", address, "dev", topo.UPLINK)
        yield from until(lambda: net.paths()["n2"]["way"] == "DEVICE")
        net.run("n1", "ip", "addr", "add", address, "dev", topo.UPLINK,
                *(["nodad"] if net.v6 else []))
        topo.ip_batch(others, "n1")
        yield from until(lambda: net.paths()["n2"]["way"] == "DIRECT")

    sent = net.stream(sender, [near, far], steps())
    assert not lost(near, sent)
    net.lab.wait("the lab is whole again", net.lab.ready, 10)


def test_another_address(net, group):
    """A VTEP that is new: the agent comes back with it, the others follow."""
    second = "fd00:203:0:113::77" if net.v6 else "203.0.113.77"
    net.run("n2", "ip", "addr", "add", f"{second}/{64 if net.v6 else 24}", "dev", topo.UPLINK,
            *(["nodad"] if net.v6 else []))
    try:
        with change.agent_settings(net.lab, "n2", f"vtep={second}"):
            net.wait_path("has the new address", lambda row: row["remote"] == second and
                          row["way"] == "DIRECT")
            member = net.lab.member("n2p1", group)
            net.lab.wait("the route names it", lambda: second in str(
                [r for r in net.lab.json("fib", "list", agent="n1")["routes"]
                 if r["group"] == group]))
            net.lab.exact(member, net.lab.stream(net.lab.sender("n1p1", group), [member]))
    finally:
        net.run("n2", "ip", "addr", "del", f"{second}/{64 if net.v6 else 24}", "dev", topo.UPLINK)


# ---- sizes ----


@pytest.mark.parametrize("size", [1380, 1400, 1430, 1456, 4000, 9000, 30000])
def test_what_exceeds_the_underlay(net, group, size):
    """Whole, and once: 1,456 and the number are a workload's largest packet."""
    members = [net.lab.member("n1p2", group), net.member("n2p1", group), net.member("n3p1", group)]
    numbers = net.lab.stream(net.lab.sender("n1p1", group), members, packets=20,
                             payload=b"x" * size)
    for member in members:
        net.lab.exact(member, numbers)


def test_ipv6_packets_that_exceed_the_underlay(net):
    group = "ff15::10:77"
    members = [net.lab.member("n1p2", group), net.member("n2p1", group)]
    for size in (1400, 1436, 9000):
        numbers = net.lab.stream(net.lab.sender("n1p1", group), members, packets=20,
                                 payload=b"x" * size)
        for member in members:
            net.lab.exact(member, numbers)
            member.reset()
            member.last_number = -1


# ---- what the kernel has for packets of its own ----


def test_link_without_a_mac(net):
    """WireGuard, ipip, tun: the kernel has to do it."""
    net.run("n1", "ip", "tuntap", "add", "dev", "l3only", "mode", "tun")
    length = 128 if net.v6 else 32
    try:
        net.run("n1", "ip", "link", "set", "l3only", "up")
        net.run("n1", "ip", net.family, "route", "add", f"{net.vtep('n2')}/{length}", "dev",
                "l3only", "src", net.vtep("n1"))
        row = net.wait_path("by the device", lambda row: row["way"] == "DEVICE")
        assert row["link"] == "l3only" and "not Ethernet" in row["detail"]
        assert net.paths()["n3"]["way"] == "DIRECT", "the others' ways are as they were"
    finally:
        net.run("n1", "ip", "link", "del", "l3only")


def test_route_with_an_encapsulation(net):
    """lwtunnel: an Ethernet header is not all that there is to it."""
    length = 128 if net.v6 else 32
    encapsulation = ["encap", "seg6", "mode", "encap", "segs", "fd00::1"] if net.v6 else \
        ["encap", "ip", "id", "5", "dst", "192.0.2.1"]
    done = net.run("n1", "ip", net.family, "route", "add", f"{net.vtep('n2')}/{length}",
                   *encapsulation, "dev", topo.UPLINK, check=False)
    if done.returncode:
        pytest.skip(f"no such route here: {done.stderr.strip()}")
    try:
        row = net.wait_path("by the device", lambda row: row["way"] == "DEVICE")
        assert "not a plain one" in row["detail"]
    finally:
        net.run("n1", "ip", net.family, "route", "del", f"{net.vtep('n2')}/{length}",
                "dev", topo.UPLINK)


def overlay_frames(frames):
    """Plain VXLAN of ours."""
    found = []
    for frame in frames:
        at = 14 + (20 if frame[12:14] == b"\x08\x00" else 40)
        proto = frame[23] if frame[12:14] == b"\x08\x00" else frame[20]
        if frame[12:14] in (b"\x08\x00", b"\x86\xdd") and proto == 17 and \
                struct.unpack("!H", frame[at + 2:at + 4])[0] == OVERLAY_PORT:
            found.append(frame)
    return found


@contextlib.contextmanager
def policies(net, nodes=("n1", "n2")):
    """IPsec is asked for between the two, whoever has the keys."""
    try:
        for node in nodes:
            other = nodes[1] if node == nodes[0] else nodes[0]
            for direction, src, dst in (("out", node, other), ("in", other, node)):
                net.run(node, "ip", "xfrm", "policy", "add", "dir", direction, "src",
                        net.vtep(src), "dst", net.vtep(dst), "proto", "udp", "tmpl", "proto",
                        "esp", "mode", "transport")
        yield
    finally:
        for node in nodes:
            net.run(node, "ip", "xfrm", "policy", "flush")
            net.run(node, "ip", "xfrm", "state", "flush", check=False)


def xfrm_lost(net):
    rows = net.run("n1", "cat", "/proc/net/xfrm_stat").stdout.splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("XfrmOut"))


def test_ipsec_policies_are_the_kernels(net, group):
    """Without keys nothing leaves, and surely nothing plain; the loss is counted."""
    near, far = net.lab.member("n1p2", group), net.member("n2p1", group)
    sender = net.lab.sender("n1p1", group)
    with policies(net):
        row = net.wait_path("by the device", lambda row: row["way"] == "DEVICE")
        assert "IPsec" in row["detail"]
        net.wait_path("by the device", lambda row: row["way"] == "DEVICE", "n2", "n1")
        before = xfrm_lost(net)
        wire, far_before = net.lab.tap("n1", topo.UPLINK), far.drain().received
        net.lab.exact(near, net.lab.stream(sender, [near]))
        assert not overlay_frames(wire.drain(outgoing=True))
        assert far.drain().received == far_before
        assert xfrm_lost(net) > before
        # What comes in plain is not taken at the link, where no policy would be asked.
        assert not list((programs.pins("n2") / "links").glob("underlay-*"))
    net.wait_direct()
    far.reset()
    net.lab.exact(far, net.lab.stream(sender, [far]))


def test_ipsec_encrypts_every_copy(net, group):
    """ESP in transport mode, keys set by hand."""
    keys = {"n1": "0x" + "11" * 20, "n2": "0x" + "22" * 20}
    far, sender = net.member("n2p1", group), net.lab.sender("n1p1", group)
    with policies(net):
        for node in ("n1", "n2"):
            for spi, (src, dst) in ((0x1001, ("n1", "n2")), (0x1002, ("n2", "n1"))):
                done = net.run(node, "ip", "xfrm", "state", "add", "src", net.vtep(src), "dst",
                               net.vtep(dst), "proto", "esp", "spi", hex(spi), "mode",
                               "transport", "enc", "cbc(aes)", keys[src][:34], "auth-trunc",
                               "hmac(sha256)", "0x" + "33" * 32, "128", check=False)
                if done.returncode:
                    pytest.skip(f"this kernel has no ESP: {done.stderr.strip()}")
        net.wait_path("by the device", lambda row: row["way"] == "DEVICE")
        net.wait_path("by the device", lambda row: row["way"] == "DEVICE", "n2", "n1")
        wire = net.lab.tap("n1", topo.UPLINK)
        net.lab.exact(far, net.lab.stream(sender, [far]))
        frames = wire.drain(outgoing=True)
        assert not overlay_frames(frames)
        assert [f for f in frames if (f[20] if net.v6 else f[23]) == ESP]
        assert not [f for f in frames if mac_of(group) in f], "an inner packet is readable"


@contextlib.contextmanager
def netfilter(net, node, hook):
    """Counts copies there: a function that says how many."""
    table = "mcmesh_test"
    rules = (f"table inet {table} {{ counter c {{ }}\n"
             f"chain x {{ type filter hook {hook} priority 0;\n"
             f"udp dport {OVERLAY_PORT} counter name c\n}}\n}}")
    done = subprocess.run(topo.enter(node, "nft", "-f", "-"), input=rules, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr

    def count():
        listed = json.loads(net.run(node, "nft", "-j", "list", "counters").stdout)
        return next(row["counter"]["packets"] for row in listed["nftables"] if "counter" in row)

    try:
        yield count
    finally:
        net.run(node, "nft", "delete", "table", "inet", table)


def test_netfilter_sees_the_way_through_the_device(net, group):
    """`overlay.path: device` on both; with `auto` the direct way passes it by, as the
    manual says."""
    member = net.member("n2p1", group)
    sender = net.lab.sender("n1p1", group)
    with netfilter(net, "n1", "postrouting") as out, netfilter(net, "n2", "input") as into:
        net.lab.exact(member, net.lab.stream(sender, [member]))
        assert (out(), into()) == (0, 0)
        with change.agents_settings(net.lab, ("n1", "n2"), "overlay.path=device"):
            for node, to in (("n1", "n2"), ("n2", "n1")):
                row = net.wait_path("by the device", lambda row: row["way"] == "DEVICE", node, to)
                assert "overlay.path" in row["detail"]
            member = net.member("n2p1", group)
            was = out(), into()
            numbers = net.lab.stream(sender, [member])
            net.lab.exact(member, numbers)
            assert out() - was[0] >= len(numbers) and into() - was[1] >= len(numbers)


# ---- who may send ----


def vxlan(net, frm, source, to, vni, frame):
    """By a socket of that namespace."""
    with sockets.namespace(frm):
        sock = socket.socket(socket.AF_INET6 if net.v6 else socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.closing(sock):
        if net.v6:
            sock.setsockopt(socket.IPPROTO_UDP, 101, 1)  # UDP_NO_CHECK6_TX
        else:
            sock.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
        sock.bind((source, 0))
        sock.sendto(struct.pack("!II", 0x08000000, vni << 8) + frame, (to, OVERLAY_PORT))


@pytest.mark.parametrize("path", ["auto", "device"])
def test_only_known_nodes_and_known_segments(net, group, path):
    member = net.member("n2p1", group)
    sent, sender = net.lab.tap("n1p1"), net.lab.sender("n1p1", group)
    sender.send()
    net.lab.wait("it arrives", lambda: member.drain().received == 1)
    frame = bytearray(next(f for f in sent.drain(outgoing=True) if f[:6] == mac_of(group)))
    frame[40:42] = bytes(2)  # the link was to fill in the UDP checksum
    stranger = "fd00:203:0:113::99" if net.v6 else "203.0.113.99"
    net.run("underlay", "ip", "addr", "add", f"{stranger}/{64 if net.v6 else 24}", "dev",
            topo.BRIDGE, *(["nodad"] if net.v6 else []))
    try:
        with change.agent_settings(net.lab, "n2", f"overlay.path={path}"):
            member.drain().reset()
            stripped = net.counter("n2", "overlay_stripped")
            before = net.lab.counters("n2", "drop_")
            vxlan(net, "underlay", stranger, net.vtep("n2"), 1, frame)
            vxlan(net, "n3", net.vtep("n3"), net.vtep("n2"), 7, frame)
            want = {name: before.get(name, 0) + 1
                    for name in ("drop_overlay_vtep", "drop_overlay_segment")}
            net.lab.wait("both are counted",
                         lambda: net.lab.counters("n2", "drop_") == {**before, **want})
            vxlan(net, "n3", net.vtep("n3"), net.vtep("n2"), 1, frame)
            net.lab.wait("a node's is taken", lambda: member.drain().received)
            assert member.received == 1 and not member.duplicates
            assert (net.counter("n2", "overlay_stripped") > stripped) == (path == "auto")
    finally:
        net.run("underlay", "ip", "addr", "del", f"{stranger}/{64 if net.v6 else 24}", "dev",
                topo.BRIDGE)


# ---- programs ----


def test_program_taken_off_a_port(net, group):
    """Found within seconds, said by `verify` as well, and put back."""
    member = net.member("n2p1", group)
    with sockets.namespace("n2"):
        index = socket.if_nametoindex("n2p1")
    pin = programs.pins("n2") / "links" / str(index)
    before = net.counter("n2", "programs_lost")
    pin.unlink()
    net.lab.wait("it is counted", lambda: net.counter("n2", "programs_lost") > before, 8)
    assert pin.exists()
    assert net.lab.verified()
    pin.unlink()
    found = net.lab.ctl("verify")
    assert found.returncode == 0 or "program" in found.stdout, found.stdout
    assert pin.exists() and net.lab.verified()
    net.lab.exact(member, net.lab.stream(net.lab.sender("n1p1", group), [member]))
