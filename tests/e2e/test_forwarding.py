# SPDX-License-Identifier: Apache-2.0
"""Who gets a packet, how often, and who does not (laws L1, L2, L7)."""
import collections
import json
import struct
import time

import change
import pytest
import sockets
import topology as topo
from conftest import LEAVE_S, SLACK_S
from wire import mac_of

OVERLAY_PORT = 4797


def test_same_node(lab, group):
    member = lab.member("n1p2", group)
    outsider = lab.tap("n2p1")
    lab.wait_route("n1", group, ports=["n1p2"])
    lab.exact(member, lab.stream(lab.sender("n1p1", group), [member]))
    assert not [f for f in outsider.drain() if f[:6] == mac_of(group)]


def test_across_nodes(lab, group):
    members = [lab.member(name, group) for name in ("n1p2", "n2p1", "n2p2", "n3p1")]
    outsider = lab.tap("n3p2")
    lab.wait_route("n1", group, ports=["n1p2"], remotes=["n2", "n3"])
    lab.wait_route("n2", group, ports=["n2p1", "n2p2"], remotes=["n1", "n3"])
    numbers = lab.stream(lab.sender("n1p1", group), members)
    for member in members:
        lab.exact(member, numbers)
    assert not [f for f in outsider.drain() if f[:6] == mac_of(group)]


@pytest.mark.parametrize("groups", [["239.66.77.88", "239.66.77.89"], ["ff15::77:88", "ff15::77:89"]])
def test_packets_are_counted_by_group(lab, groups):
    """Those that came from ports on one node, and from other nodes on the other."""
    for n, group in enumerate(groups, 1):
        member = lab.member("n2p1", group)
        lab.wait_route("n1", group, remotes=["n2"])
        lab.exact(member, lab.stream(lab.sender("n1p1", group), [member], packets=50 * n))
    for node in ("n1", "n2"):
        rows = {row["group"]: row for row in
                lab.json("counter", "list", "--prefix", "rx_group", agent=node)["counters"]}
        for n, group in enumerate(groups, 1):
            assert int(rows[group]["packets"]) == 50 * n, node
            assert int(rows[group]["bytes"]) > 50 * n * 42
            assert not rows[group]["port"] and not rows[group]["remote"]


def test_ipv6(lab):
    group = "ff15::10:1"
    members = [lab.member(name, group) for name in ("n1p2", "n3p2")]
    lab.wait_route("n1", group, ports=["n1p2"], remotes=["n3"])
    numbers = lab.stream(lab.sender("n1p1", group), members)
    for member in members:
        lab.exact(member, numbers)


def test_join_while_it_streams(lab, group):
    early, late = lab.member("n2p1", group), lab.member("n3p1", group, join=False)
    lab.wait_route("n1", group, remotes=["n2"])
    sender = lab.sender("n1p1", group)

    def join_late():
        for step in range(200):
            if step == 100:
                late.join()
            yield

    numbers = lab.stream(sender, [early, late], packets=400, meanwhile=join_late())
    lab.exact(early, numbers)
    lab.exact(late, range(min(late.numbers), sender.sent))


def test_leave(lab, group):
    stays, leaves = lab.member("n2p1", group), lab.member("n3p1", group)
    lab.wait_route("n1", group, remotes=["n2", "n3"])
    sender = lab.sender("n1p1", group)
    leaves.leave()
    left = time.monotonic()
    lab.wait_route("n1", group, remotes=["n2"])
    assert time.monotonic() - left < LEAVE_S + SLACK_S
    wire = lab.tap("n3p1")
    lab.exact(stays, lab.stream(sender, [stays]))
    assert not [f for f in wire.drain() if f[:6] == mac_of(group)]


def test_two_groups_on_one_mac(lab):
    one, other = "239.10.10.10", "225.10.10.10"
    assert mac_of(one) == mac_of(other)
    member = lab.member("n2p1", one)
    lab.wait_route("n1", one, remotes=["n2"])
    wire = lab.tap("n2p1")
    wrong, right = lab.sender("n1p1", other), lab.sender("n1p1", one)
    for _ in range(20):
        wrong.send()
    lab.exact(member, lab.stream(right, [member]))
    got = collections.Counter(f[30:34] for f in wire.drain() if f[:6] == mac_of(one))
    assert set(got) == {bytes(map(int, one.split(".")))}


def test_sender_is_a_member(lab, group):
    own, other = lab.member("n1p1", group), lab.member("n2p1", group)
    lab.wait_route("n1", group, ports=["n1p1"], remotes=["n2"])
    wire = lab.tap("n1p1")
    lab.exact(other, lab.stream(lab.sender("n1p1", group), [other]))
    assert not [f for f in wire.drain() if f[:6] == mac_of(group)], "a copy came back"
    assert own.drain().received == 0


def packets_of(lab, node):
    """(name, port or remote) → packets of one node's counters."""
    return collections.Counter({(r["name"], r["port"] or r["remote"]): int(r["packets"])
                                for r in lab.json("counter", "list", agent=node)["counters"]
                                if not r["group"]})


def test_one_receiver_down(lab, group):
    """The others get all; each copy is counted as delivered or as lost (I09)."""
    good = [lab.member(name, group) for name in ("n2p1", "n3p1", "n1p2")]
    bad = lab.member("n2p2", group)
    lab.wait_route("n1", group, ports=["n1p2"], remotes=["n2", "n3"])
    lab.wait_route("n2", group, ports=["n2p1", "n2p2"], remotes=["n1", "n3"])
    sender = lab.sender("n1p1", group)
    before = {node: packets_of(lab, node) for node in ("n1", "n2", "n3")}
    try:
        assert lab.exec("n2p2", "ip", "link", "set", "eth0", "down").returncode == 0
        numbers = lab.stream(sender, good, packets=200)
        left = "n2p2" not in lab.route("n2", group)[0]  # it was down for long: no receiver
        grown = {node: packets_of(lab, node) - before[node] for node in before}
    finally:
        lab.exec("n2p2", "ip", "link", "set", "eth0", "up")
        topo.ip_batch([
            f"route replace {topo.GATEWAY4}/32 dev eth0 scope link",
            f"route replace default via {topo.GATEWAY4} dev eth0 "
            f"src {topo.workload_address('n2p2')}",
            f"addr replace {topo.workload_address6('n2p2')}/128 dev eth0 nodad",
            f"route replace default via {topo.GATEWAY6} dev eth0 "
            f"src {topo.workload_address6('n2p2')}"], "n2p2")
    for member in good:
        lab.exact(member, numbers)
    assert bad.drain().received == 0
    sent, lost = len(numbers), grown["n2"]["copy_port_down", "n2p2"]
    for node in ("n2", "n3"):
        assert grown["n1"]["copy_remote", topo.vtep(node)] == sent
        assert grown[node]["rx_overlay", topo.vtep("n1")] == sent
    for member in good:
        assert grown[member.name[:2]]["copy_port", member.name] == sent
    assert lost == sent or (left and lost)
    assert not grown["n2"]["copy_port", "n2p2"]


def test_include_gets_its_source_only(lab, group):
    wanted, unwanted = "n1p1", "n2p1"
    member = lab.member("n3p1", group, source=topo.workload_address(wanted))
    lab.wait_route("n1", group, remotes=["n3"], source=topo.workload_address(wanted))
    other = lab.sender(unwanted, group)
    for _ in range(20):
        other.send()
    wire = lab.tap("n3p1")
    for _ in range(20):
        other.send()
    lab.exact(member, lab.stream(lab.sender(wanted, group), [member]))
    sources = {f[26:30] for f in wire.drain() if f[:6] == mac_of(group)}
    assert sources == {bytes(map(int, topo.workload_address(wanted).split(".")))}


def test_exclude_blocks_one_source(lab, group):
    blocked, good = "n2p1", "n1p1"
    member = lab.member("n3p1", group, exclude=topo.workload_address(blocked))
    lab.wait("the membership says so", lambda: any(
        s["address"] == topo.workload_address(blocked) and s["state"] == "BLOCKED"
        for row in lab.memberships("n3", group) for s in row["sources"]))
    lab.wait_route("n1", group, remotes=["n3"])
    lab.wait("n2 sends nothing for the blocked source",
             lambda: [r["remotes"] for r in lab.json("fib", "list", agent="n2")["routes"]
                      if r["group"] == group and
                      r["source"] == topo.workload_address(blocked)] == [[]])
    wire, uplink = lab.tap("n3p1"), lab.tap("n2", topo.UPLINK)
    bad = lab.sender(blocked, group)
    for _ in range(20):
        bad.send()
    lab.exact(member, lab.stream(lab.sender(good, group), [member]))
    sources = {f[26:30] for f in wire.drain() if f[:6] == mac_of(group)}
    assert sources == {bytes(map(int, topo.workload_address(good).split(".")))}
    assert not [f for f in uplink.drain(outgoing=True) if mac_of(group) in f[42:64]]


def test_ports_of_one_node_have_their_own_sources(lab, group):
    a, b = topo.workload_address("n1p1"), topo.workload_address("n1p2")
    from_a = lab.member("n2p1", group, source=a)
    from_b = lab.member("n2p2", group, source=b)
    lab.wait_route("n1", group, remotes=["n2"], source=a)
    lab.wait_route("n1", group, remotes=["n2"], source=b)
    for name, gets, not_gets in (("n1p1", from_a, "n2p2"), ("n1p2", from_b, "n2p1")):
        wire = lab.tap(not_gets)
        lab.exact(gets, lab.stream(lab.sender(name, group), [gets]))
        assert not [f for f in wire.drain() if f[:6] == mac_of(group)]
        gets.reset()
        gets.last_number = -1


def test_igmpv2_host(lab, group):
    sysctl = "/proc/sys/net/ipv4/conf/eth0/force_igmp_version"
    lab.exec("n2p1", "sh", "-c", f"echo 2 > {sysctl}")
    try:
        member = lab.member("n2p1", group)
        lab.wait_route("n1", group, remotes=["n2"])
        assert lab.memberships("n2", group)[0]["version"] == "IGMPV2"
        lab.exact(member, lab.stream(lab.sender("n1p1", group), [member]))
        member.leave()
        lab.wait_route("n1", group, deadline_s=LEAVE_S + SLACK_S)
    finally:
        lab.exec("n2p1", "sh", "-c", f"echo 0 > {sysctl}")


@pytest.mark.parametrize("size", [1200, 1472 - sockets.SEQUENCE.size, 4000])
def test_sizes_and_fragments(lab, group, size):
    members = [lab.member(name, group) for name in ("n1p2", "n2p1")]
    lab.wait_route("n1", group, ports=["n1p2"], remotes=["n2"])
    numbers = lab.stream(lab.sender("n1p1", group), members, packets=20, payload=b"x" * size)
    for member in members:
        lab.exact(member, numbers)


def overlay_packets(frames):
    """(outer destination, VNI, inner destination MAC) of VXLAN frames."""
    found = []
    for frame in frames:
        if frame[12:14] != b"\x08\x00" or frame[23] != 17:
            continue
        if struct.unpack("!H", frame[36:38])[0] == OVERLAY_PORT:
            found.append((".".join(map(str, frame[30:34])),
                          int.from_bytes(frame[46:49], "big"), frame[50:56]))
    return found


def test_one_copy_a_node_on_the_underlay(lab, group):
    """Two members on n2, one on n3's: each node once, and n1 sends no more."""
    members = [lab.member(name, group) for name in ("n2p1", "n2p2")]
    lab.wait_route("n1", group, remotes=["n2"])
    lab.wait_route("n2", group, ports=["n2p1", "n2p2"])
    out, third = lab.tap("n1", topo.UPLINK), lab.tap("n3", topo.UPLINK)
    back = lab.tap("n2", topo.UPLINK)
    numbers = lab.stream(lab.sender("n1p1", group), members)
    for member in members:
        lab.exact(member, numbers)
    sent = [p for p in overlay_packets(out.drain(outgoing=True)) if p[2] == mac_of(group)]
    assert sent == [(topo.vtep("n2"), 1, mac_of(group))] * len(numbers)
    assert not [p for p in overlay_packets(third.drain()) if p[2] == mac_of(group)]
    assert not [p for p in overlay_packets(back.drain(outgoing=True)) if p[2] == mac_of(group)], \
        "what came from the overlay went back to it"


def test_no_protocol_on_the_overlay(lab, group):
    """IGMP stays between a workload and its node (conformance D17)."""
    out = lab.tap("n2", topo.UPLINK)
    lab.member("n2p1", group)
    lab.wait_route("n1", group, remotes=["n2"])
    assert not overlay_packets(out.drain(outgoing=True))


@pytest.mark.parametrize("target", ["198.18.1.2", "198.18.3.1", "fd00:198:18:3::1"])
def test_unicast_is_left_alone(lab, target):
    done = lab.exec("n1p1", "ping", "-c", "3", "-i", "0.05", "-W", "2", target)
    assert done.returncode == 0, done.stdout


def test_isolated_from_the_sending_port_by_content(lab, group):
    """The packet is the sender's, byte for byte: TTL, id and checksums (F11)."""
    lab.member("n2p1", group)
    lab.wait_route("n1", group, remotes=["n2"])
    sent, got = lab.tap("n1p1"), lab.tap("n2p1")
    sender = lab.sender("n1p1", group, ttl=5)
    sender.send(b"payload")
    lab.wait("the packet arrives",
             lambda: [f for f in got.drain() if f[:6] == mac_of(group)])
    before = [f for f in sent.drain(outgoing=True) if f[:6] == mac_of(group)]
    after = [f for f in got.frames if f[:6] == mac_of(group)]
    # The UDP checksum may be left to the device on the way out.
    assert [f[:40] + f[42:] for f in before] == [f[:40] + f[42:] for f in after]


def test_I06_segments_never_mix(lab, group):
    """p1 and p2 of each node are of two segments with the same group, also across nodes."""
    ports = "ports=" + json.dumps([{"match": "n?p2", "segment": 100}, {"match": "n?p*"}])
    members = {"n2p2": lab.member("n2p2", group)}  # moves with its port
    lab.wait_route("n1", group, remotes=["n2"])
    with change.agents_settings(lab, ("n1", "n2", "n3"), ports):
        members.update((name, lab.member(name, group)) for name in ("n2p1", "n3p2"))

        def routes(node):
            return {r["segment"]: (r["ports"], sorted(r["remotes"])) for r in
                    lab.json("fib", "list", agent=node)["routes"] if r["group"] == group}

        for node, want in (
                ("n1", {1: ([], [topo.vtep("n2")]), 100: ([], [topo.vtep("n2"), topo.vtep("n3")])}),
                ("n2", {1: (["n2p1"], []), 100: (["n2p2"], [topo.vtep("n3")])})):
            lab.wait(lambda: f"routes of both segments on {node}, are {routes(node)}",
                     lambda: routes(node) == want)
        out = lab.tap("n1", topo.UPLINK)
        for sender, vni, to in (("n1p1", 1, ("n2p1",)), ("n1p2", 100, ("n2p2", "n3p2"))):
            taps = [lab.tap(n) for n in ("n1p1", "n1p2", "n2p1", "n2p2", "n3p1", "n3p2")
                    if n != sender and n not in to]
            for name in to:
                members[name].reset()
            out.drain()
            out.frames.clear()
            numbers = lab.stream(lab.sender(sender, group), [members[name] for name in to])
            for name in to:
                lab.exact(members[name], numbers)
            assert not [f for tap in taps for f in tap.drain() if f[:6] == mac_of(group)]
            sent = [p[:2] for p in overlay_packets(out.drain(outgoing=True))
                    if p[2] == mac_of(group)]
            assert sorted(sent) == sorted((topo.vtep(n[:2]), vni) for n in to for _ in numbers)
        rows = lab.json("member", "list", "--group", group)["members"]
        assert {(r["segment"], r["node"]) for r in rows} == {(1, "n2"), (100, "n2"), (100, "n3")}
        assert lab.verified()


def test_I06_a_segment_that_is_new_to_a_node_needs_no_controller(lab, group):
    """Its ports were in another one, whose members they are no more."""
    lab.member("n1p1", group)
    lab.wait_route("n1", group, ports=["n1p1"])
    lab.command("kill", "controller", "c1")
    turns = change.agent_settings_in_turn(lab, "n1", ('ports=[{"match":"n1p*","segment":100}]',))
    try:
        next(turns)
        member = lab.member("n1p2", group)
        lab.wait("one route, in segment 100", lambda: [
            (r["segment"], set(r["ports"])) for r in lab.json("fib", "list", agent="n1")["routes"]
            if r["group"] == group] == [(100, {"n1p1", "n1p2"})], 10)
        lab.exact(member, lab.stream(lab.sender("n1p1", group), [member]))
    finally:
        lab.command("start", "controller", "c1")
        turns.close()
