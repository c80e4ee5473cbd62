# SPDX-License-Identifier: Apache-2.0
"""MLD and IPv6 data across nodes, and neighbour discovery as if mcmesh were not there."""
import contextlib
import itertools
import socket
import struct

import change
import pytest
import topology as topo
import wire
from conftest import LEAVE_S, MEMBERSHIP_S, SLACK_S

NUMBERS = itertools.count(0x100)
SOLICITATION, ADVERTISEMENT, ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT = 135, 136, 133, 134


def new_group(prefix="ff15"):
    return f"{prefix}::{next(NUMBERS):x}"


def source_of(name):
    return topo.workload_address6(name)


def data_sources(tap, group):
    return {socket.inet_ntop(socket.AF_INET6, f[22:38]) for f in tap.drain()
            if f[12:14] == b"\x86\xdd" and f[38:54] == wire.ip6(group)}


# ---- sockets ----


@pytest.mark.parametrize("prefix", ["ff15", "ff05", "ff0e", "ff18"])
def test_H10_any_source_across_nodes(lab, prefix):
    group = new_group(prefix)
    members = [lab.member(name, group) for name in ("n1p2", "n2p1", "n2p2", "n3p1")]
    outsider = lab.tap("n3p2")
    lab.wait_route("n1", group, ports=["n1p2"], remotes=["n2", "n3"])
    lab.wait_route("n2", group, ports=["n2p1", "n2p2"], remotes=["n1", "n3"])
    numbers = lab.stream(lab.sender("n1p1", group), members)
    for member in members:
        lab.exact(member, numbers)
    assert not data_sources(outsider, group)
    members[3].leave()
    lab.wait_route("n1", group, ports=["n1p2"], remotes=["n2"], deadline_s=LEAVE_S + SLACK_S)


def test_F12_include_gets_its_source_only(lab):
    group = new_group()
    wanted, unwanted = "n1p1", "n2p1"
    member = lab.member("n3p1", group, source=source_of(wanted))
    lab.wait_route("n1", group, remotes=["n3"], source=source_of(wanted))
    lab.wait("n2 has the group", lambda: group in str(lab.json("fib", "list", agent="n2")))
    wire_tap, out = lab.tap("n3p1"), lab.tap("n2", topo.UPLINK)
    other = lab.sender(unwanted, group)
    for _ in range(20):
        other.send()
    lab.exact(member, lab.stream(lab.sender(wanted, group), [member]))
    assert data_sources(wire_tap, group) == {source_of(wanted)}
    assert not [f for f in out.drain(outgoing=True) if wire.mac_of6(group) in f[42:64]]


def test_F12_exclude_blocks_one_source(lab):
    group = new_group("ff05")
    blocked, good = "n2p1", "n1p1"
    member = lab.member("n3p1", group, exclude=source_of(blocked))
    lab.wait_route("n1", group, remotes=["n3"])
    lab.wait("the membership says so", lambda: any(
        s["address"] == source_of(blocked) and s["state"] == "BLOCKED"
        for row in lab.memberships("n3", group) for s in row["sources"]))
    lab.wait("n2 sends nothing for the blocked source", lambda: any(
        r["group"] == group and r["source"] == source_of(blocked) and not r["remotes"]
        for r in lab.json("fib", "list", agent="n2")["routes"]))
    tap = lab.tap("n3p1")
    bad = lab.sender(blocked, group)
    for _ in range(20):
        bad.send()
    lab.exact(member, lab.stream(lab.sender(good, group), [member]))
    assert data_sources(tap, group) == {source_of(good)}


def test_G02_source_specific_group(lab):
    group = new_group("ff3e")
    member = lab.member("n2p1", group, source=source_of("n1p1"))
    lab.wait_route("n1", group, remotes=["n2"], source=source_of("n1p1"))
    assert lab.memberships("n2", group)[0]["mode"] == "INCLUDE"
    lab.exact(member, lab.stream(lab.sender("n1p1", group), [member]))
    member.leave()
    lab.wait_route("n1", group, source=source_of("n1p1"), deadline_s=LEAVE_S + SLACK_S)


def test_G01_any_source_join_of_a_source_specific_group_is_refused(lab):
    group = new_group("ff3e")
    before = lab.counters("n2")
    lab.member("n2p1", group)
    lab.wait("it is counted", lambda: lab.grown("n2", before).get("gmp_ssm_refused"))
    lab.tap("n2p2").send(wire.mld1("n2p2", 131, group))
    lab.wait("the old one too", lambda: lab.grown("n2", before).get("gmp_ssm_refused", 0) >= 2)
    assert not lab.memberships("n2", group)


# ---- frames ----


def test_H01_report_with_several_records(lab):
    one, two, three = new_group(), new_group(), new_group("ff3e")
    host = lab.tap("n2p1")
    host.send(wire.mld2_report(
        "n2p1",
        wire.record6(wire.IS_IN, one, [source_of("n1p1"), "2001:db8::7", "2001:db8::8"]),
        wire.record6(wire.TO_EX, two, aux=b"\xde\xad\xbe\xef" * 2),
        wire.record6(9, "ff15::7777"),
        wire.record6(wire.ALLOW, three, ["2001:db8::9"])))
    lab.wait_route("n1", three, remotes=["n2"], source="2001:db8::9")
    lab.wait_route("n1", two, remotes=["n2"])
    lab.wait_route("n1", one, remotes=["n2"], source=source_of("n1p1"))
    assert {s["address"] for s in lab.memberships("n2", one)[0]["sources"]} == \
        {source_of("n1p1"), "2001:db8::7", "2001:db8::8"}
    assert not lab.memberships("n2", "ff15::7777")


EXTENSIONS = {
    "H01 none": b"",
    "H05 alert, PadN": bytes((58, 0, 5, 2, 0, 0, 1, 0)),
    "H05 PadN, alert": bytes((58, 0, 1, 0, 5, 2, 0, 0)),
    "H05 Pad1 twice, alert": bytes((58, 0, 0, 0, 5, 2, 0, 0)),
    "H05 alert, Pad1 twice": bytes((58, 0, 5, 2, 0, 0, 0, 0)),
    "H01 sixteen octets": bytes((58, 1, 5, 2, 0, 0, 1, 8)) + b"\0" * 8,
    "H01 unknown option to skip": bytes((58, 1, 5, 2, 0, 0, 0x1e, 2, 7, 7, 1, 4, 0, 0, 0, 0)),
    "H01 destination options behind": bytes((60, 0, 5, 2, 0, 0, 1, 0, 58, 0, 1, 4, 0, 0, 0, 0)),
}


@pytest.mark.parametrize("name", EXTENSIONS)
def test_H01_H05_extension_headers(lab, name):
    group = new_group()
    lab.tap("n2p1").send(wire.mld2_report("n2p1", wire.record6(wire.IS_EX, group),
                                          extensions=EXTENSIONS[name]))
    lab.wait_route("n1", group, remotes=["n2"])


def test_H03_report_from_the_unspecified_address(lab):
    """Of a host that checks its address; two ports, both ::."""
    group = new_group()
    for name in ("n2p1", "n2p2"):
        lab.tap(name).send(wire.mld2_report(name, wire.record6(wire.IS_EX, group), source="::"))
    lab.wait_route("n2", group, ports=["n2p1", "n2p2"])


REFUSED = {
    "H02 checksum": (lambda g: wire.mld2_report("n2p1", wire.record6(wire.IS_EX, g),
                                                bad_checksum=True), "gmp_bad_csum"),
    "H04 hop limit": (lambda g: wire.mld2_report("n2p1", wire.record6(wire.IS_EX, g),
                                                 hop_limit=2), "gmp_bad_ttl"),
    "H03 global source": (lambda g: wire.mld2_report("n2p1", wire.record6(wire.IS_EX, g),
                                                     source="fd00:198:18:2::1"), "gmp_bad_source"),
    "H08 scope 1": (lambda g: wire.mld2_report("n2p1", wire.record6(wire.IS_EX, "ff01::77")),
                    "gmp_not_multicast_group"),
    "H08 scope 0": (lambda g: wire.mld1("n2p1", 131, "ff00::77"), "gmp_not_multicast_group"),
    "H08 all nodes": (lambda g: wire.mld2_report("n2p1", wire.record6(wire.IS_EX, "ff02::1")),
                      "gmp_not_multicast_group"),
    "H08 unicast": (lambda g: wire.mld2_report("n2p1", wire.record6(wire.IS_EX, "fe80::7")),
                    "gmp_not_multicast_group"),
    "H01 record count": (lambda g: wire.mld2_report("n2p1", wire.record6(wire.IS_EX, g), count=7),
                         "gmp_truncated"),
    "H01 cut": (lambda g: wire.icmpv6("n2p1", g, struct.pack("!BBHHH", 131, 0, 0, 0, 0)),
                "gmp_truncated"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_H02_H03_H04_H08_refused_is_counted_and_changes_nothing(lab, name):
    group, fence, before = new_group(), new_group(), lab.counters("n2")
    frame, counter = REFUSED[name]
    host = lab.tap("n2p1")
    host.send(frame(group))
    host.send(wire.mld1("n2p1", 131, fence))
    lab.wait_route("n2", fence, ports=["n2p1"])
    lab.wait(lambda: f"{counter} is counted, but {lab.grown('n2', before)}",
             lambda: lab.grown("n2", before).get(counter) == 1)
    for row in lab.json("membership", "list", agent="n2")["memberships"]:
        assert row["group"] not in (group, "ff01::77", "ff00::77", "ff02::1", "fe80::7")


def test_H07_other_icmpv6_is_data(lab):
    """An unknown type is no group management: it goes where the group goes."""
    group = new_group()
    lab.member("n2p1", group)
    lab.wait_route("n1", group, remotes=["n2"])
    tap, host = lab.tap("n2p1"), lab.tap("n1p1")
    frame = wire.icmpv6("n1p1", group, bytes((200, 0, 0, 0)) + b"whatever", extensions=b"",
                        source=source_of("n1p1"), hop_limit=9)
    host.send(frame)
    lab.wait("it arrives as it was", lambda: frame in tap.drain())


def test_E08_reports_reach_no_other_host(lab):
    group = new_group()
    others = [lab.tap(name) for name in ("n2p2", "n1p1", "n3p1")]
    host = lab.tap("n2p1")
    host.send(wire.mld1("n2p1", 131, group))
    host.send(wire.mld2_report("n2p1", wire.record6(wire.IS_EX, group)))
    lab.wait_route("n1", group, remotes=["n2"])
    host.send(wire.mld1("n2p1", 132, group))
    lab.wait_route("n1", group, deadline_s=LEAVE_S + SLACK_S)
    for other in others:
        assert not [f for f in other.drain() if (wire.mld_of(f) or b"\0")[0] in (131, 132, 143) and
                    f[6:12] == wire.mac_of_workload("n2p1")]


def test_H03_global_source_is_taken_where_configured(lab):
    group = new_group()
    with change.agent_settings(lab, "n2", "gmp.accept_global_mld_source=true"):
        lab.tap("n2p1").send(wire.mld2_report("n2p1", wire.record6(wire.IS_EX, group),
                                              source="fd00:198:18:2::1"))
        lab.wait_route("n1", group, remotes=["n2"])
    lab.wait_route("n1", group, deadline_s=MEMBERSHIP_S + SLACK_S)


def is_router(lab, port):
    return next(p for p in lab.json("port", "list", agent=port[:2])["ports"]
                if p["name"] == port).get("router", False)


def test_F01_F02_F04_F05_router_learnt_by_mld(lab):
    """Gets the reports of hosts as they are, registered and unregistered groups; expires."""
    with change.segment_settings(lab, proxy="off"):
        router_learnt_by_mld(lab)


def router_learnt_by_mld(lab):
    group, unregistered = new_group(), new_group()
    router, host = lab.tap("n2p2"), lab.tap("n2p1")
    router.send(wire.query6("n2p2", "fe80::2", interval_s=2))
    lab.wait("it is a router port", lambda: is_router(lab, "n2p2"))
    report = wire.mld2_report("n2p1", wire.record6(wire.TO_EX, group))
    host.send(report)
    lab.wait("the report arrives", lambda: report in router.drain())
    lab.wait_route("n2", group, ports=["n2p1", "n2p2"])
    lab.wait_route("n1", group, remotes=["n2"])
    far, near = lab.sender("n1p1", group), lab.sender("n2p1", unregistered)
    far.send()
    near.send()
    source = {group: source_of("n1p1"), unregistered: source_of("n2p1")}
    for g in source:
        lab.wait(f"data of {g} arrives", lambda: data_sources(router, g) == {source[g]})
    assert data_sources(host, group) == {source[group]} and not data_sources(host, unregistered)
    lab.wait("it is no router port", lambda: not is_router(lab, "n2p2"), 5 + SLACK_S)
    lab.wait("the route is without it", lambda: "n2p2" not in str(
        lab.json("fib", "list", agent="n2")))


# ---- neighbour discovery ----


def discovery(frame):
    """What is the same in two workloads' frames; None: no neighbour discovery."""
    if frame[12:14] != b"\x86\xdd" or frame[20] != 58 or not 133 <= frame[54] <= 137:
        return None
    at, options = {133: 62, 134: 70}.get(frame[54], 78), []
    while at < len(frame) and frame[at + 1]:
        options.append((frame[at], frame[at + 1]))
        at += 8 * frame[at + 1]
    source = frame[22:38]
    kind = "::" if not any(source) else "link" if source[:2] == b"\xfe\x80" else "global"
    return frame[54], frame[58] & 0xe0, frame[21], kind, bool(frame[0] & 1), tuple(options)


@contextlib.contextmanager
def plain_workload():
    """Like a workload of n1, on an interface that no agent takes."""
    name, port = "n1p8", "plain0"
    topo.ip_batch([f"netns add {topo.netns(name)}"])
    try:
        topo.sysctl(name, {**topo.QUIET_IPV6, **topo.ANY_PATH})
        topo.ip_batch([
            f"link add {port} type veth peer name eth0 address 02:00:c6:12:01:08 "
            f"netns {topo.netns(name)}",
            f"addr add {topo.GATEWAY6}/64 dev {port} nodad",
            f"link set {port} up",
            f"route add {topo.workload_address6(name)}/128 dev {port}"], "n1")
        topo.ip_batch([
            f"addr add {topo.workload_address6(name)}/128 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {topo.GATEWAY6} dev eth0 "
            f"src {topo.workload_address6(name)}"], name)
        yield name, port
    finally:
        topo.run(["ip", "netns", "delete", topo.netns(name)])


def addresses(lab, name):
    return lab.exec(name, "ip", "-6", "-o", "addr", "show", "dev", "eth0").stdout


def address_flags(lab, name, address):
    lines = addresses(lab, name).splitlines()
    line = next((one for one in lines if f" {address}/" in one), "")
    return line and {f for f in ("tentative", "dadfailed") if f in line} or (line and {"good"})


def ra(mac):
    prefix = bytes((3, 4, 64, 0xc0)) + struct.pack("!III", 600, 600, 0) + wire.ip6("fd77::")
    message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 0, 0, 0) + prefix
    source, to = wire.ip6(topo.GATEWAY6), wire.ip6("ff02::1")
    pseudo = source + to + struct.pack("!IxxxB", len(message), 58)
    value = wire.checksum(pseudo + message)
    message = message[:2] + struct.pack("!H", value) + message[4:]
    return bytes.fromhex("333300000001") + mac + b"\x86\xdd" + \
        struct.pack("!IHBB", 0x60000000, len(message), 58, 255) + source + to + message


@contextlib.contextmanager
def unprobed(*devices):
    """A neighbour in use is asked once more after five seconds, which one run may last and
    the other not: not that soon, at these (name, device)."""
    def after(seconds):
        for name, device in devices:
            topo.sysctl(name, {f"ipv6/neigh/{device}/delay_first_probe_time": seconds})

    after(60)
    try:
        yield
    finally:
        after(5)


def discover(lab, name, port):
    """Everything that neighbour discovery does, and what was seen of it."""
    came, went, host = lab.tap(name), lab.tap(name), lab.tap("n1", port)
    lab.exec(name, "ip", "-6", "neigh", "flush", "dev", "eth0")
    lab.exec("n1", "ip", "-6", "neigh", "flush", "dev", port)
    # Resolution, both ways.
    ping = lab.exec(name, "ping", "-6", "-c", "1", "-W", "2", topo.GATEWAY6 + "%eth0")
    assert ping.returncode == 0, ping.stdout
    ping = lab.exec("n1", "ping", "-6", "-c", "1", "-W", "2", topo.workload_address6(name))
    assert ping.returncode == 0, ping.stdout
    # Duplicate address detection: one that is free, one that the node has.
    topo.sysctl(name, {"ipv6/conf/eth0/accept_dad": 1, "ipv6/conf/eth0/dad_transmits": 1})
    try:
        for address, verdict in (("fe80::77", {"good"}),
                                 (topo.GATEWAY6, {"dadfailed", "tentative"})):
            topo.ip_batch([f"addr add {address}/64 dev eth0"], name)
            lab.wait(lambda: f"{address} is {verdict}, is {address_flags(lab, name, address)}",
                     lambda: address_flags(lab, name, address) == verdict, 8)
            topo.ip_batch([f"addr del {address}/64 dev eth0"], name)
        # A router advertisement of the node makes an address.
        topo.sysctl(name, {"ipv6/conf/eth0/accept_ra": 2, "ipv6/conf/eth0/dad_transmits": 0})
        host.send(ra(b"\x02\x00\x00\x00\x00\x01"))
        made = lab.wait("an address of the advertised prefix", lambda: [
            word for word in addresses(lab, name).split() if word.startswith("fd77:")], 8)
        topo.ip_batch([f"addr del {made[0]} dev eth0"], name)
    finally:
        topo.sysctl(name, {"ipv6/conf/eth0/accept_dad": 0, "ipv6/conf/eth0/dad_transmits": 0,
                           "ipv6/conf/eth0/accept_ra": 0})
        lab.exec(name, "ip", "-6", "route", "flush", "proto", "ra")
    seen = {"came": came.drain(), "went": went.drain(outgoing=True), "host": host.drain()}
    return {side: {discovery(f) for f in frames} - {None} for side, frames in seen.items()}


def test_H07_neighbour_discovery_is_as_without_an_agent(lab):
    others = [lab.tap(name) for name in ("n1p2", "n2p1")]
    with plain_workload() as (name, port), unprobed((name, "eth0"), ("n1", port)):
        plain = discover(lab, name, port)
    with unprobed(("n1p1", "eth0"), ("n1", "n1p1")):
        with_agent = discover(lab, "n1p1", "n1p1")
    assert {SOLICITATION, ADVERTISEMENT, ROUTER_ADVERTISEMENT} <= {k[0] for k in plain["came"]}
    assert {SOLICITATION, ADVERTISEMENT} <= {k[0] for k in plain["went"]}
    assert with_agent == plain
    for other in others:
        assert not [f for f in other.drain() if discovery(f) and
                    f[6:12] == wire.mac_of_workload("n1p1")]


@pytest.mark.parametrize("kind", [ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, SOLICITATION,
                                  ADVERTISEMENT, 137])
def test_F14_discovery_of_a_workload_reaches_its_node_only(lab, kind):
    """A router advertisement of one workload must not configure its neighbours."""
    host = lab.tap("n1", "n1p1")
    others = [lab.tap(name) for name in ("n1p2", "n2p1", "n3p1")]
    message = struct.pack("!BBHI", kind, 0, 0, 0) + wire.ip6("fe80::77")
    frame = wire.icmpv6("n1p1", "ff02::1", message, extensions=b"", hop_limit=255)
    lab.tap("n1p1").send(frame)
    lab.wait("the node gets it as it was", lambda: frame in host.drain())
    # The next link-local packet is copied: what was before it has passed.
    fence = wire.ipv6("n1p1", "ff02::fb", 17, struct.pack("!HHHH", 5353, 5353, 8, 0))
    lab.tap("n1p1").send(fence)
    lab.wait("the fence", lambda: fence in others[0].drain())
    for other in others:
        assert frame not in other.drain()


@pytest.mark.parametrize("target", ["fd00:198:18:1::2", "fd00:198:18:2::1", "198.18.1.2",
                                    "198.18.2.1", "fe80::1%eth0", "169.254.1.1"])
def test_H07_unicast_works_after_the_neighbours_are_forgotten(lab, target):
    for name in ("n1p1", "n1p2", "n2p1"):
        lab.exec(name, "ip", "neigh", "flush", "dev", "eth0")
    done = lab.exec("n1p1", "ping", "-c", "2", "-i", "0.05", "-W", "2", target)
    assert done.returncode == 0, done.stdout
