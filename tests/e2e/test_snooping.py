# SPDX-License-Identifier: Apache-2.0
"""What a snooping switch forwards and what it does not (RFC 4541)."""
import contextlib
import json
import socket
import struct
import time

import change
import pytest
import sockets
import topology as topo
import wire
from conftest import LEAVE_S, MEMBERSHIP_S, SLACK_S

SLOW_LEAVE = {"last_member_query_interval_ms": 2000}


def is_router(lab, port):
    return next(p for p in lab.json("port", "list", agent=port[:2])["ports"]
                if p["name"] == port).get("router", False)


@contextlib.contextmanager
def router_on(lab, port, interval_s=6):
    """A query with an address came from the port; it ends by one of a short interval."""
    tap = lab.tap(port)
    source = topo.workload_address(port)
    tap.send(wire.query(port, source, interval_s=interval_s))
    lab.wait("it is a router port", lambda: is_router(lab, port))
    try:
        yield tap
    finally:
        with contextlib.suppress(OSError):
            tap.send(wire.query(port, source, interval_s=1, robustness=1))
            lab.wait("it is no router port", lambda: not is_router(lab, port), 3 + SLACK_S)


def got(tap, group, marker=None):
    """Payloads of UDP packets to the group."""
    found = []
    for f in tap.drain():
        if f[12:14] == b"\x08\x00" and f[30:34] == socket.inet_aton(group) and f[23] == 17:
            found.append(f[42:int.from_bytes(f[16:18], "big") + 14])
    return found if marker is None else marker in found


def all_once(lab, tap, group, sender):
    lab.wait("all arrive", lambda: len(got(tap, group)) >= sender.sent)
    assert len(got(tap, group)) == sender.sent


def send_until(lab, tap, name, group, target, **options):
    """One packet that must arrive at `target`: all before it have been handled."""
    marker = b"fence-%d" % time.monotonic_ns()
    tap.send(wire.udp(name, group, marker, ttl=8, **options))
    lab.wait("the fence arrives", lambda: got(target, group, marker))


def old_report(kind, group):
    return struct.pack("!BBH4s", kind, 0, 0, socket.inet_aton(group))


# ---- reports ----


def test_F01_E07_reports_and_leaves_reach_no_other_host(lab, group):
    others = [lab.tap(n) for n in ("n2p2", "n1p1", "n3p1")]
    host = lab.tap("n2p1")
    host.send(wire.igmp("n2p1", group, old_report(0x12, group)))
    host.send(wire.v2_report("n2p1", group))
    host.send(wire.v3_report("n2p1", wire.record(wire.IS_EX, group)))
    host.send(wire.v2_leave("n2p1", group))
    lab.wait_route("n1", group, remotes=["n2"])
    for other in others:
        assert not [f for f in other.drain() if f[6:12] == wire.mac_of_workload("n2p1")]


def test_F01_router_port_gets_the_reports_of_hosts_as_they_are(lab, group):
    with change.segment_settings(lab, proxy="off"), router_on(lab, "n2p2") as router:
        host, elsewhere = lab.tap("n2p1"), lab.tap("n1p1")
        frames = [wire.v2_report("n2p1", group),
                  wire.v3_report("n2p1", wire.record(wire.TO_EX, group)),
                  wire.v2_leave("n2p1", group)]
        for frame in frames:
            host.send(frame)
        lab.wait("all arrive", lambda: all(f in router.drain() for f in frames))
        assert not [f for f in elsewhere.drain() if f in frames]


def test_A08_unknown_igmp_type_is_flooded_and_counted(lab):
    before = lab.counters("n2")
    other, elsewhere, host = lab.tap("n2p2"), lab.tap("n1p1"), lab.tap("n2p1")
    frame = wire.igmp("n2p1", "224.0.0.4", struct.pack("!BBHI", 0x13, 1, 0, 0x000aff03))
    host.send(frame)
    lab.wait("it arrives as it was", lambda: frame in other.drain())
    lab.wait("it is counted", lambda: lab.grown("n2", before).get("gmp_unknown_type") == 1)
    assert frame not in host.drain() and frame not in elsewhere.drain()


def test_A18_tagged_frames_are_untouched(lab, group):
    """A report makes no state, data is not copied; the node gets both."""
    member, node, host = lab.tap("n1p2"), lab.tap("n1", "n1p1"), lab.tap("n1p1")
    member.send(wire.v3_report("n1p2", wire.record(wire.IS_EX, group)))
    lab.wait_route("n1", group, ports=["n1p2"])

    def tagged(frame):
        return frame[:12] + b"\x81\x00\x00\x0a" + frame[12:]

    other = lab.new_group()
    report, data = wire.v2_report("n1p1", other), wire.udp("n1p1", group, b"tagged", ttl=4)
    node.drain()
    host.send(tagged(report))
    host.send(tagged(data))
    send_until(lab, host, "n1p1", group, member)
    # The tag itself is not in what a packet socket reads.
    lab.wait("the node gets them", lambda: {report, data} <= {
        f if f[12:14] != b"\x81\x00" else f[:12] + f[16:] for f in node.drain()})
    assert b"tagged" not in got(member, group)
    assert not lab.memberships("n1", other)


# ---- link-local groups ----

LINK_LOCAL = {"224.0.0.42": lambda n, g, m: wire.udp(n, g, m, ttl=1),
              "224.0.0.251": lambda n, g, m: wire.udp(n, g, m, ttl=255, port=5353),
              "ff02::fb": lambda n, g, m: wire.ipv6(
                  n, g, 17, struct.pack("!HHHH", 5353, 5353, 8 + len(m), 0) + m, 255)}


@pytest.mark.parametrize("group", LINK_LOCAL)
def test_F03_link_local_to_all_ports(lab, group):
    """Whoever joined; not back, and not to other nodes."""
    frame = LINK_LOCAL[group]("n1p1", group, b"local")
    host, local, node = lab.tap("n1p1"), lab.tap("n1p2"), lab.tap("n1", "n1p1")
    far, out = lab.tap("n2p1"), lab.tap("n1", topo.UPLINK)
    local.send(wire.v3_report("n1p2", wire.record(wire.TO_EX, "224.0.0.42")))
    host.send(frame)
    lab.wait("the other port gets it", lambda: frame in local.drain())
    lab.wait("and the node itself", lambda: frame in node.drain())
    assert local.drain().count(frame) == 1
    assert frame not in host.drain() and frame not in far.drain()
    assert not [f for f in out.drain(outgoing=True) if frame[:40] in f]


def test_F03_link_local_across_nodes_when_the_segment_wants_it(lab):
    with change.segment_settings(lab, link_local_across_nodes="on"):
        host = lab.tap("n1p1")
        taps = {n: lab.tap(n) for n in ("n1p2", "n2p1", "n2p2", "n3p1", "n3p2")}
        for group, make in LINK_LOCAL.items():
            frame = make("n1p1", group, b"everywhere")
            host.send(frame)
            for name, tap in taps.items():
                lab.wait(f"{name} gets {group}", lambda: frame in tap.drain())
                assert tap.drain().count(frame) == 1
            assert frame not in host.drain()
    frame = LINK_LOCAL["224.0.0.251"]("n1p1", "224.0.0.251", b"not any more")
    host.send(frame)
    lab.wait("the other port gets it", lambda: frame in taps["n1p2"].drain())
    assert frame not in taps["n2p1"].drain()


# ---- unregistered groups, router ports ----


def unregistered(lab, wanted, across=False):
    """Data of a group that nobody joined, n1p1 sends: n1p2 has it, n2p1 if across."""
    group, marker = lab.new_group(), b"unregistered"
    host, tap, far = lab.tap("n1p1"), lab.tap("n1p2"), lab.tap("n2p1")
    before = lab.counters("n1")
    host.send(wire.udp("n1p1", group, marker, ttl=8))
    if wanted:
        lab.wait("it arrives", lambda: got(tap, group, marker))
        assert len(got(tap, group)) == 1
    else:
        lab.wait("it is counted", lambda: lab.grown("n1", before).get("drop_unregistered"))
        assert not got(tap, group)
    assert not got(host, group)
    if across:
        lab.wait("it arrives on the other node", lambda: got(far, group, marker))
    assert len(got(far, group)) == across


def test_F05_unregistered_goes_to_router_ports(lab):
    unregistered(lab, False)
    with router_on(lab, "n1p2"):
        unregistered(lab, True)
    unregistered(lab, False)


def test_F05_unregistered_dropped_or_flooded_as_the_segment_says(lab):
    with change.segment_settings(lab, unregistered="flood"):
        unregistered(lab, True, across=True)
        delivered, why = explained(lab, "n1p2", lab.new_group())
        assert delivered and "floods" in why, why
        link_local = LINK_LOCAL["224.0.0.251"]("n1p1", "224.0.0.251", b"has its own switch")
        local, far = lab.tap("n1p2"), lab.tap("n2p1")
        lab.tap("n1p1").send(link_local)
        lab.wait("the other port gets it", lambda: link_local in local.drain())
        assert link_local not in far.drain()
        lab.command("kill", "agent", "n1")
        lab.command("start", "agent", "n1")
        lab.wait("the agent is back", lab.ready, 10)
        unregistered(lab, True, across=True)
    with change.segment_settings(lab, unregistered="drop"):
        with router_on(lab, "n1p2"):
            unregistered(lab, False)
    unregistered(lab, False)


def test_F04_router_port_gets_registered_groups(lab, group):
    """Beside the members; never what it sends itself; and it is no member."""
    with router_on(lab, "n2p2") as router:
        member = lab.member("n2p1", group)
        lab.wait_route("n2", group, ports=["n2p1", "n2p2"])
        lab.wait_route("n1", group, remotes=["n2"])
        sender = lab.sender("n1p1", group)
        lab.exact(member, lab.stream(sender, [member]))
        all_once(lab, router, group, sender)
        router.frames.clear()
        fence = lab.tap("n2p1")
        send_until(lab, router, "n2p2", group, fence)
        assert not got(router, group)
        assert {r["port"] for r in lab.memberships("n2", group)} == {"n2p1"}
    lab.wait_route("n2", group, ports=["n2p1"])


def test_F04_router_port_gets_a_source_that_no_member_wants(lab, group):
    with router_on(lab, "n1p2") as router:
        lab.member("n2p1", group, source="192.0.2.9")
        lab.wait_route("n1", group, ports=["n1p2"], remotes=["n2"], source="192.0.2.9")
        outsider = lab.tap("n2p1")
        send_until(lab, lab.tap("n1p1"), "n1p1", group, router)
        assert not got(outsider, group)


EVERY = "*"


def explained(lab, port, group, *options):
    answer = lab.json("explain", "--port", port, "--group", group, *options, agent=port[:2])
    return answer["delivered"], " ".join(answer["reasons"])


def everything_once(lab, router, name, group):
    """n1p1 sends a group that nobody joined, the router on another node has it once."""
    lab.wait_route("n1", EVERY, remotes=[name[:2]])
    lab.wait_route(name[:2], EVERY, ports=[name])
    other, local = lab.tap("n3p1"), lab.tap("n1p2")
    send_until(lab, lab.tap("n1p1"), "n1p1", group, router)
    assert len(got(router, group)) == 1
    assert not got(other, group) and not got(local, group)
    delivered, why = explained(lab, name, group)
    assert delivered and "router port" in why, why


def test_F04_router_port_gets_what_nobody_joined_from_other_nodes(lab, group):
    with router_on(lab, "n2p2") as router:
        everything_once(lab, router, "n2p2", group)
        rows = lab.json("member", "list", "--node", "n2")["members"]
        assert [(r["group"], r["mode"]) for r in rows] == [("*", "EXCLUDE")]
        assert lab.json("group", "list")["groups"] == [
            {"segment": 1, "group": "*", "nodes": ["n2"]}]
        assert not lab.memberships("n2", group)
    lab.wait_route("n1", EVERY)
    before = lab.counters("n1")
    lab.tap("n1p1").send(wire.udp("n1p1", group, b"x", ttl=8))
    lab.wait("it is dropped where it is sent",
             lambda: lab.grown("n1", before).get("drop_unregistered"))


def test_F04_router_port_outlives_the_controller(lab, group):
    """Every group is a row of its store as any other."""
    with router_on(lab, "n2p2", interval_s=10) as router:
        lab.wait_route("n1", EVERY, remotes=["n2"])
        lab.command("kill", "controller", "c1")
        lab.command("start", "controller", "c1")
        lab.wait("the agents are back", lab.ready, 10)
        lab.command("restart", "agent", "n1")
        lab.wait("the agent is back", lab.ready, 10)
        everything_once(lab, router, "n2p2", group)
        assert lab.verified()


def test_F04_router_port_gets_ipv6_too(lab):
    group = "ff1e::7777"
    frame = wire.ipv6("n1p1", group, 17, struct.pack("!HHHH", 4000, 5000, 12, 0) + b"six.", 8)
    with router_on(lab, "n2p2") as router:
        lab.wait_route("n1", EVERY, remotes=["n2"])
        lab.tap("n1p1").send(frame)
        lab.wait("it arrives", lambda: router.drain().count(frame) == 1)


def test_F04_router_port_and_members_of_its_node_get_each_packet_once(lab, group):
    """Whether its node is a member or not, and whatever the filters say."""
    with router_on(lab, "n2p2") as router:
        far = lab.member("n3p1", group, source=topo.workload_address("n1p2"))
        lab.wait_route("n1", group, remotes=["n2"])
        lab.wait_route("n1", group, remotes=["n2", "n3"], source=topo.workload_address("n1p2"))
        send_until(lab, lab.tap("n1p1"), "n1p1", group, router)
        assert len(got(router, group)) == 1
        member = lab.member("n2p1", group)
        lab.wait("its node is a member", lambda: any(
            r["group"] == group for r in lab.json("member", "list", "--node", "n2")["members"]))
        lab.wait_route("n1", group, remotes=["n2"])
        router.frames.clear()
        sender = lab.sender("n1p1", group)
        lab.exact(member, lab.stream(sender, [member]))
        all_once(lab, router, group, sender)
        assert not far.drain().numbers
    lab.wait_route("n1", group, remotes=["n2"])
    assert lab.verified()


def test_F04_router_ports_across_nodes_off(lab, group):
    with change.segment_settings(lab, router_ports_across_nodes="off"):
        with router_on(lab, "n3p2", interval_s=8) as router:
            lab.member("n2p1", group)
            lab.wait_route("n1", group, remotes=["n2"])
            lab.wait_route("n3", group, ports=["n3p2"], remotes=["n2"])
            # The node's own senders reach the router, as other nodes' members.
            send_until(lab, lab.tap("n3p1"), "n3p1", group, router)
            lab.command("kill", "agent", "n3")
            lab.command("start", "agent", "n3")
            # For as long as one that asks at the agent's own interval; it asks again by then.
            assert is_router(lab, "n3p2")
            router.send(wire.query("n3p2", topo.workload_address("n3p2"), interval_s=8))
            lab.wait("the agent is back", lab.ready, 10)
            assert lab.route("n1", group) == (set(), {topo.vtep("n2")})
            assert lab.route("n1", EVERY) == (set(), set())
            send_until(lab, lab.tap("n3p1"), "n3p1", group, router)


def ports_of(node, name, router):
    return "ports=" + json.dumps([{"match": name, "router": router}, {"match": f"{node}p*"}])


def test_F02_router_port_by_configuration(lab, group):
    """Nobody asks there, and it is one; where it is never one, queries make none."""
    with change.agent_settings(lab, "n2", ports_of("n2", "n2p2", "always")):
        assert is_router(lab, "n2p2") and not is_router(lab, "n2p1")
        everything_once(lab, lab.tap("n2p2"), "n2p2", group)
    lab.wait_route("n1", EVERY)
    with change.agent_settings(lab, "n2", ports_of("n2", "n2p2", "never")):
        before = lab.counters("n2")
        lab.tap("n2p2").send(wire.query("n2p2", topo.workload_address("n2p2"), interval_s=6))
        lab.wait("the query is heard", lambda: lab.grown("n2", before).get(
            "gmp_queries_received"))
        assert not is_router(lab, "n2p2")


def test_F02_router_is_heard_by_all_ports_of_its_node_without_a_querier(lab, group):
    """A host on another port hears it as it is, and its membership lasts by that alone."""
    query = wire.query("n2p2", topo.workload_address("n2p2"), interval_s=1)
    with change.segment_settings(lab, querier="off"):
        host, far, out = lab.tap("n2p1"), lab.tap("n1p1"), lab.tap("n2", topo.UPLINK)
        with router_on(lab, "n2p2") as router:
            member = lab.member("n2p1", group)
            lab.wait_route("n1", group, remotes=["n2"])

            def asking():
                start, sent = time.monotonic(), 0
                while time.monotonic() < start + 2 * MEMBERSHIP_S:
                    if time.monotonic() >= start + sent:
                        router.send(query)
                        sent += 1
                    yield

            lab.exact(member, lab.stream(lab.sender("n1p1", group), [member], meanwhile=asking(),
                                         deadline_s=2 * MEMBERSHIP_S + 10))
            assert host.drain().count(query) >= 2 * MEMBERSHIP_S
            assert query not in router.drain() and query not in far.drain()
            assert not [f for f in out.drain(outgoing=True) if query[14:] in f]
            asked = wire.query("n2p2", topo.workload_address("n2p2"), group=group, response=1)
            router.send(asked)
            lab.wait("a host is asked for its group, too", lambda: asked in host.drain())

            def lowered():
                start = time.monotonic()
                while time.monotonic() < start + 2 * LEAVE_S:
                    yield

            member.reset()
            lab.exact(member, lab.stream(lab.sender("n1p1", group), [member], meanwhile=lowered()))
            left = time.monotonic()
            member.leave()
            router.send(asked)
            lab.wait_route("n1", group, deadline_s=MEMBERSHIP_S + SLACK_S)
            assert time.monotonic() - left < LEAVE_S + 1, "what the router asks ends nothing"


def test_F02_router_is_not_heard_where_the_querier_asks(lab):
    """The hosts have its questions; the router has the proxy's answers."""
    query = wire.query("n2p2", topo.workload_address("n2p2"), interval_s=6)
    host = lab.tap("n2p1")
    with router_on(lab, "n2p2"):
        lab.wait("both queriers have asked", lambda: [
            f for f in host.drain() if (wire.igmp_of(f) or b"\0")[0] == 0x11])
        assert query not in host.drain()
        with change.segment_settings(lab, proxy="off"):
            lab.tap("n2p2").send(query)
            lab.wait("hosts answer it themselves", lambda: query in host.drain())


def test_F02_router_port_outlives_the_agent(lab, group):
    """The stream from another node goes on, and it becomes no member by it."""
    with router_on(lab, "n3p2", interval_s=8) as router:
        member, joined = lab.member("n2p1", group), lab.new_group()
        lab.wait_route("n3", group, ports=["n3p2"], remotes=["n2"])
        lab.wait_route("n1", group, remotes=["n2", "n3"])
        # A host beside the router has joined something: that is restored as well.
        report = wire.v3_report("n3p2", wire.record(wire.IS_EX, joined), source="198.18.3.102")
        router.send(report)
        lab.wait("it is a member of that", lambda: lab.memberships("n3", joined))
        drift = lab.counters("n3", ("sync_resyncs",))

        def restart():
            lab.command("kill", "agent", "n3")
            yield
            lab.command("start", "agent", "n3")
            # What is restored lasts as long as without an answer to the first query: both answer.
            # The host first: after a query it would stay for two of those intervals.
            assert is_router(lab, "n3p2") and lab.memberships("n3", joined)
            router.send(report)
            router.send(wire.query("n3p2", topo.workload_address("n3p2"), interval_s=8))
            while not lab.ready():
                yield

        sender = lab.sender("n1p1", group)
        lab.exact(member, lab.stream(sender, [member], interval_s=0.005, meanwhile=restart()))
        all_once(lab, router, group, sender)
        assert is_router(lab, "n3p2")
        assert not lab.memberships("n3", group) and lab.memberships("n3", joined)
        assert lab.counters("n3", ("sync_resyncs",)) == drift
        rows = lab.json("member", "list", "--node", "n3")["members"]
        assert {r["group"] for r in rows} == {"*", joined}


def test_F02_F09_router_port_that_is_removed_is_none(lab):
    tap = lab.tap("n3p2")
    tap.send(wire.query("n3p2", topo.workload_address("n3p2"), interval_s=60))
    lab.wait("it is a router port", lambda: is_router(lab, "n3p2"))
    topo.port_down("n3p2")
    try:
        lab.wait("the port is gone", lambda: "n3p2" not in str(
            lab.json("port", "list", agent="n3")))
        before = lab.counters("n3")
        lab.tap("n3p1").send(wire.udp("n3p1", lab.new_group(), b"x", ttl=8))
        lab.wait("nobody is there for it",
                 lambda: lab.grown("n3", before).get("drop_unregistered"))
        assert not lab.grown("n3", before).get("copy_stale")
    finally:
        topo.port_up("n3p2")
        lab.wait("the port is back", lab.ready, 10)
    assert not is_router(lab, "n3p2")


# ---- hosts behind one port ----


def host_report(name, host, *records):
    return wire.v3_report(name, *records, source=host)


def test_E06_fast_leave_acts_when_the_last_host_goes(lab):
    with change.segment_settings(lab, fast_leave="on", **SLOW_LEAVE):
        tap, one, two = lab.tap("n2p1"), "198.18.2.101", "198.18.2.102"
        alone, shared = lab.new_group(), lab.new_group()
        tap.send(host_report("n2p1", one, wire.record(wire.TO_EX, alone),
                             wire.record(wire.TO_EX, shared)))
        tap.send(host_report("n2p1", two, wire.record(wire.TO_EX, shared)))
        for group in (alone, shared):
            lab.wait_route("n1", group, remotes=["n2"])
        lab.wait("two hosts are tracked", lambda: len(
            lab.memberships("n2", shared)[0].get("hosts", ())) == 2)
        left = time.monotonic()
        tap.send(host_report("n2p1", one, wire.record(wire.TO_IN, shared),
                             wire.record(wire.TO_IN, alone)))
        lab.wait_route("n1", alone, deadline_s=2)
        assert time.monotonic() - left < 2, "as slow as without"
        assert lab.route("n1", shared) == (set(), {topo.vtep("n2")}), "host two still wants it"
        # Whether host two is there was asked when the first left; it answers.
        tap.send(host_report("n2p1", two, wire.record(wire.IS_EX, shared)))
        tap.send(host_report("n2p1", two, wire.record(wire.TO_IN, shared)))
        lab.wait_route("n1", shared, deadline_s=2)


def test_E06_fast_leave_is_off_unless_set(lab, group):
    with change.segment_settings(lab, **SLOW_LEAVE):
        tap = lab.tap("n2p1")
        joined = time.monotonic()
        tap.send(wire.v3_report("n2p1", wire.record(wire.TO_EX, group)))
        lab.wait_route("n1", group, remotes=["n2"])
        tap.send(wire.v3_report("n2p1", wire.record(wire.TO_IN, group)))
        lab.wait_route("n1", group, deadline_s=4 + SLACK_S)
        # It ages before the last member's time is over.
        assert time.monotonic() - joined > MEMBERSHIP_S * 0.9


def test_F13_hosts_of_one_port_get_a_superset(lab, group):
    a, b = topo.workload_address("n1p1"), topo.workload_address("n1p2")
    tap = lab.tap("n2p1")
    tap.send(host_report("n2p1", "198.18.2.101", wire.record(wire.IS_EX, group, [a])))
    lab.wait_route("n1", group, remotes=["n2"])
    lab.wait("a is blocked", lambda: lab.route("n1", group, a) == (set(), set()) and
             lab.route("n1", group)[1])
    tap.send(host_report("n2p1", "198.18.2.102", wire.record(wire.ALLOW, group, [a])))
    lab.wait("the other host wants it", lambda: {
        s["address"]: s["state"] for s in lab.memberships("n2", group)[0]["sources"]}.get(a) !=
        "BLOCKED")
    for name in ("n1p1", "n1p2"):
        send_until(lab, lab.tap(name), name, group, tap)
    assert {socket.inet_ntoa(f[26:30]) for f in tap.drain() if f[23] == 17 and
            f[30:34] == socket.inet_aton(group)} == {a, b}


def test_F13_two_kernels_behind_one_port(lab, group):
    """A second host by macvlan, with its own address and sockets."""
    lab.exec("n2p1", "ip", "link", "add", "second", "link", "eth0", "type", "macvlan",
             "mode", "bridge")
    try:
        topo.ip_batch(["addr add 198.18.2.101/32 dev second", "link set second up"], "n2p1")
        first = lab.member("n2p1", group)
        lab.wait_route("n1", group, remotes=["n2"])
        with sockets.namespace("n2p1"):
            second = socket.if_nametoindex("second")
        first.sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack(
            "=4s4si", socket.inet_aton(group), b"\0" * 4, second))
        lab.wait("two hosts are tracked", lambda: len(
            lab.memberships("n2", group)[0].get("hosts", ())) == 2)
        first.leave()
        # The second answers the query: longer than the leave takes, it stays.
        left = time.monotonic()
        tap, sender = lab.tap("n2p1"), lab.tap("n1p1")
        while time.monotonic() < left + 2 * LEAVE_S:
            send_until(lab, sender, "n1p1", group, tap)
        assert lab.memberships("n2", group)
    finally:
        lab.exec("n2p1", "ip", "link", "del", "second")


# ---- data as it was ----


def test_F06_F11_packet_is_copied_byte_for_byte(lab, group):
    """TTL, identification, TOS, options, a wrong header checksum: none of it is ours."""
    near, far = lab.tap("n1p2"), lab.tap("n2p1")
    for tap, name in ((near, "n1p2"), (far, "n2p1")):
        tap.send(wire.v3_report(name, wire.record(wire.IS_EX, group)))
    lab.wait_route("n1", group, ports=["n1p2"], remotes=["n2"])
    host = lab.tap("n1p1")
    frames = []
    for ttl, ident, good in ((1, 0x1234, True), (255, 0xffff, True), (7, 1, False)):
        frame = bytearray(wire.udp("n1p1", group, b"as it was", ttl=ttl,
                                   options=b"\x83\x07\x04\xc0\x00\x02\x01\x00"))
        frame[15], frame[18:20], frame[24:26] = 0x28, struct.pack("!H", ident), b"\0\0"
        value = wire.checksum(bytes(frame[14:42])) ^ (0 if good else 0x5555)
        frame[24:26] = struct.pack("!H", value)
        frames.append(bytes(frame))
        host.send(frames[-1])
    for tap in (near, far):
        lab.wait("all arrive as they were",
                 lambda: [f for f in tap.drain() if f in frames] == frames)


def test_F16_fragments_are_copied_whole(lab, group):
    far, host = lab.tap("n2p1"), lab.tap("n1p1")
    far.send(wire.v3_report("n2p1", wire.record(wire.IS_EX, group)))
    lab.wait_route("n1", group, remotes=["n2"])
    payload = struct.pack("!HHHH", 40000, 5000, 8 + 72, 0) + bytes(range(72))
    frames = []
    # The last part first: nothing waits for the beginning.
    for at, more in ((40, 0), (0, 0x2000)):
        frame = bytearray(wire.ipv4("n1p1", group, 17, payload[at:at + 40], 8))
        frame[18:20], frame[20:22], frame[24:26] = b"\x77\x77", \
            struct.pack("!H", more | at // 8), b"\0\0"
        frame[24:26] = struct.pack("!H", wire.checksum(bytes(frame[14:34])))
        frames.append(bytes(frame))
        host.send(frames[-1])
    lab.wait("both arrive", lambda: [f for f in far.drain() if f in frames] == frames)
