# SPDX-License-Identifier: Apache-2.0
"""A multicast router on a port hears of the whole segment as of one host (RFC 4605)."""
import contextlib
import json
import socket
import subprocess
import time

import pytest
import topology as topo
import wire
from conftest import LEAVE_S, SLACK_S
from test_snooping import is_router, router_on

GROUPS6 = iter(range(1, 1000))
ROUTER6 = "fe80::3:2"


def new_group6():
    return f"ff1e::9:{next(GROUPS6):x}"


def address(name, v6):
    return topo.workload_address6(name) if v6 else topo.workload_address(name)


# ---- a router that is another implementation: a bridge of the kernel -----------------

BRIDGE = ("mcast_snooping 1 mcast_querier 1 mcast_query_use_ifaddr 1 mcast_igmp_version 3 "
          "mcast_mld_version 2 mcast_query_interval 200 mcast_query_response_interval 50 "
          "mcast_last_member_interval 20 mcast_startup_query_interval 50 "
          "mcast_membership_interval 500")


class Bridge:
    """mdb() is {group: set of sources, or the filter mode of the group}."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name

    def mdb(self):
        done = self.lab.exec(self.name, "bridge", "-d", "-j", "mdb", "show", "dev", "br0")
        found = {}
        for row in json.loads(done.stdout or "[]")[0].get("mdb", []) if done.stdout else []:
            if row["port"] == "eth0":
                found.setdefault(row["grp"], set()).add(
                    row.get("src", row.get("filter_mode", "exclude")))
        return found

    def wait(self, group, want, deadline_s=5):
        self.lab.wait(lambda: f"{group} is {want} in {self.mdb()}",
                      lambda: self.mdb().get(group, set()) == want, deadline_s)


@contextlib.contextmanager
def bridge_on(lab, name):
    topo.ip_batch(["addr flush dev eth0", f"link add br0 type bridge {BRIDGE}",
                   "link set eth0 master br0",
                   f"addr add {topo.workload_address(name)}/32 dev br0"], name)
    topo.sysctl(name, {"ipv6/conf/br0/accept_dad": 0})
    topo.ip_batch(["link set br0 up"], name)
    try:
        lab.wait("it is a router port", lambda: is_router(lab, name), 10)
        yield Bridge(lab, name)
    finally:
        topo.port_down(name)
        topo.ip_batch(["link del br0"], name)
        topo.port_up(name)
        lab.wait("the port is back", lab.ready, 10)


ANY = {"exclude"}


def test_kernel_router_knows_members_of_all_nodes(lab):
    """Local, remote and static ones, of both families; what they leave goes."""
    local, remote, static = lab.new_group(), lab.new_group(), lab.new_group()
    local6, remote6 = new_group6(), new_group6()
    with bridge_on(lab, "n3p2") as router:
        members = [lab.member("n3p1", local), lab.member("n1p1", remote),
                   lab.member("n3p1", local6), lab.member("n2p1", remote6)]
        assert lab.ctl("static", "add", "--node", "n2", "--port", "n2p2", "--group", static,
                       "--source", "192.0.2.7").returncode == 0
        try:
            for group in (local, remote, local6, remote6):
                router.wait(group, ANY)
            lab.wait("the static source", lambda: "192.0.2.7" in router.mdb().get(static, ()))
            # Answers keep them beyond the router's membership interval of 5 s.
            end = time.monotonic() + 6
            while time.monotonic() < end:
                known = router.mdb()
                assert all(known.get(g) == ANY for g in (local, remote, local6, remote6)), known
                assert "192.0.2.7" in known[static]
                time.sleep(0.2)  # poll interval
        finally:
            lab.ctl("static", "remove", "--node", "n2", "--port", "n2p2", "--group", static)
        lab.close(*members)
        for group in (local, remote, static, local6, remote6):
            router.wait(group, set(), LEAVE_S + 2)


def test_kernel_router_knows_the_merged_filter(lab, group):
    one, two = "192.0.2.1", "192.0.2.2"
    with bridge_on(lab, "n3p2") as router:
        first = lab.member("n1p1", group, source=one)
        lab.wait("one source", lambda: router.mdb().get(group, set()) - {"include"} == {one})
        second = lab.member("n3p1", group, source=two)
        lab.wait("both", lambda: router.mdb().get(group, set()) - {"include"} == {one, two})
        lab.close(first)
        lab.wait("the other", lambda: router.mdb().get(group, set()) - {"include"} == {two})
        lab.close(second)
        router.wait(group, set())


# ---- a router by hand: each query and its answer ---------------------------------------


def records_of(message):
    """{group: [(type, sources)]} of an IGMPv3 or MLDv2 report."""
    found, at = {}, 8
    family, width = (socket.AF_INET, 4) if message[0] == 0x22 else (socket.AF_INET6, 16)

    def text(offset):
        return socket.inet_ntop(family, message[offset:offset + width])

    for _ in range(int.from_bytes(message[6:8], "big")):
        kind, n = message[at], int.from_bytes(message[at + 2:at + 4], "big")
        group = text(at + 4)
        at += 4 + width
        found.setdefault(group, []).append((kind, {text(at + i * width) for i in range(n)}))
        at += n * width + 4 * message[at - width - 3]
    return found


class Listener:
    """Messages that came in at a tap since the last look."""

    def __init__(self, tap):
        self.tap, self.all, self.seen = tap, [], 0

    def messages(self):
        frames = self.tap.drain()
        for frame in frames[self.seen:]:
            message = wire.igmp_of(frame) or wire.mld_of(frame)
            if message and message[0] not in (0x11, 130):
                self.all.append((frame, message))
        self.seen = len(frames)
        return self.all

    def forget(self):
        self.messages()
        self.all = []

    def records(self, group):
        return [r for _, m in self.messages() if m[0] in (0x22, 143)
                for r in records_of(m).get(group, ())]

    def plain(self, group):
        """(type, destination MAC) of messages of older versions."""
        packed = wire.ip6(group) if ":" in group else socket.inet_aton(group)
        return [(m[0], f[:6]) for f, m in self.messages()
                if m[0] not in (0x22, 143) and m.endswith(packed)]


def general(v6, interval_s=6):
    if v6:
        return wire.query6("n3p2", ROUTER6, interval_s=interval_s)
    return wire.query("n3p2", topo.workload_address("n3p2"), interval_s=interval_s)


@contextlib.contextmanager
def listener(lab, v6):
    if not v6:
        with router_on(lab, "n3p2") as tap:
            yield tap, Listener(tap)
        return
    tap = lab.tap("n3p2")
    tap.send(general(True))
    lab.wait("it is a router port", lambda: is_router(lab, "n3p2"))
    try:
        yield tap, Listener(tap)
    finally:
        tap.send(wire.query6("n3p2", ROUTER6, interval_s=1))
        lab.wait("it is no router port", lambda: not is_router(lab, "n3p2"), 3 + SLACK_S)


def specific(v6, group, sources=()):
    """A query of the group, or of it and sources."""
    packed = [wire.ip6(s) if v6 else socket.inet_aton(s) for s in sources]
    tail = bytes((2, 6)) + len(sources).to_bytes(2, "big") + b"".join(packed)
    if v6:
        message = bytes((130, 0, 0, 0, 0, 200, 0, 0)) + wire.ip6(group) + tail
        return wire.icmpv6("n3p2", group, message, source=ROUTER6)
    message = bytes((0x11, 2, 0, 0)) + socket.inet_aton(group) + tail
    return wire.igmp("n3p2", group, message)


@pytest.fixture(params=[4, 6])
def v6(request):
    return request.param == 6


@pytest.fixture
def any_group(lab, v6):
    return new_group6() if v6 else lab.new_group()


def test_joins_and_leaves_are_told_as_changes(lab, v6, any_group):
    with listener(lab, v6) as (_, heard):
        member = lab.member("n1p1", any_group)
        lab.wait("the join, twice", lambda: heard.records(any_group).count(
            (wire.TO_EX, set())) == 2)
        heard.forget()
        lab.close(member)
        lab.wait("the leave, twice", lambda: heard.records(any_group).count(
            (wire.TO_IN, set())) == 2)
        frame = next(f for f, m in heard.messages() if (m[0] == 143) == v6)
        if v6:
            assert frame[:6] == wire.mac_of6("ff02::16") and frame[21] == 1
            assert frame[22:24] == b"\xfe\x80" and frame[54:62] == wire.ROUTER_ALERT6
        else:
            assert frame[:6] == wire.mac_of("224.0.0.22") and frame[22] == 1
            assert frame[26:30] == bytes(4) and frame[34:38] == wire.ROUTER_ALERT


def test_each_query_is_answered(lab, v6, any_group):
    source = address("n1p2", v6)
    with listener(lab, v6) as (tap, heard):
        lab.member("n1p1", any_group)
        only = new_group6() if v6 else lab.new_group()
        lab.member("n2p1", only, source=source)
        # The query that made it a router port may be answered in between.
        lab.wait("the joins, twice", lambda:
                 heard.records(only).count((wire.ALLOW, {source})) == 2 and
                 heard.records(any_group).count((wire.TO_EX, set())) == 2)
        heard.forget()
        tap.send(general(v6))
        lab.wait("all", lambda: (wire.IS_EX, set()) in heard.records(any_group) and
                 (wire.IS_IN, {source}) in heard.records(only))
        heard.forget()
        tap.send(specific(v6, only))
        lab.wait("of the group", lambda: heard.records(only) == [(wire.IS_IN, {source})])
        assert not heard.records(any_group)
        heard.forget()
        other = address("n1p1", v6)
        tap.send(specific(v6, only, [source, other]))
        lab.wait("of the source", lambda: heard.records(only) == [(wire.IS_IN, {source})])
        tap.send(specific(v6, any_group, [other]))
        lab.wait("of any source", lambda: heard.records(any_group) == [(wire.IS_IN, {other})])


def test_reports_of_hosts_stay_on_their_node(lab, group):
    """One host, and not the others beside it: an IGMPv2 one would change the version."""
    with listener(lab, False) as (tap, heard):
        host = lab.tap("n3p1")
        host.send(wire.v2_report("n3p1", group))
        lab.wait("the proxy's report", lambda: heard.records(group))
        host.send(wire.v2_leave("n3p1", group))
        lab.wait("the leave", lambda: (wire.TO_IN, set()) in heard.records(group))
        assert not [f for f in tap.drain() if f[6:12] == wire.mac_of_workload("n3p1")]
        assert not heard.plain(group)


def test_older_router_gets_its_version(lab, v6, any_group):
    with listener(lab, v6) as (tap, heard):
        def old_query():
            if not v6:
                return wire.query("n3p2", topo.workload_address("n3p2"), cut=8)
            return wire.icmpv6("n3p2", "ff02::1", bytes((130, 0, 0, 0, 1, 44, 0, 0)) + bytes(16),
                               source=ROUTER6)
        tap.send(old_query())
        report, leave = (131, 132) if v6 else (0x16, 0x17)
        mac = wire.mac_of6 if v6 else wire.mac_of
        # Its settings bring a new version's router port to end before this one's.
        member = lab.member("n1p1", any_group)
        lab.wait("reports", lambda: heard.plain(any_group).count(
            (report, mac(any_group))) >= 2)
        heard.forget()
        tap.send(old_query())
        lab.wait("the answer", lambda: (report, mac(any_group)) in heard.plain(any_group))
        lab.close(member)
        lab.wait("the leave", lambda: (leave, mac("ff02::2" if v6 else "224.0.0.2")) in
                 heard.plain(any_group))
        assert not heard.records(any_group)


def test_many_groups_in_few_packets(lab):
    groups = [lab.new_group() for _ in range(400)]
    with listener(lab, False) as (tap, heard):
        host = lab.tap("n1p1")
        for at in range(0, len(groups), 100):
            host.send(wire.v3_report("n1p1", *[wire.record(wire.IS_EX, g)
                                               for g in groups[at:at + 100]]))

        def reports(kind):
            """Those with a record of this kind, as sets of their groups."""
            parsed = (records_of(m) for _, m in heard.messages() if m[0] == 0x22)
            return [set(r) for r in parsed if any(k == kind for v in r.values() for k, _ in v)]

        lab.wait("all are told", lambda: set().union(*reports(wire.TO_EX)) >= set(groups))
        tap.send(general(False))
        lab.wait("the answer has all", lambda: set().union(*reports(wire.IS_EX)) >= set(groups))
        assert len(reports(wire.IS_EX)) == 3, "183 groups fit into one packet"
        host.send(wire.v3_report("n1p1", *[wire.record(wire.TO_IN, g) for g in groups[:150]]))


def test_agent_restart_goes_on_as_the_same_host(lab, group):
    """The router is told again what is wanted, and of no leave."""
    with listener(lab, False) as (_, heard):
        lab.member("n1p1", group)
        lab.wait("the join", lambda: heard.records(group))
        lab.command("kill", "agent", "n3")
        heard.forget()
        lab.command("start", "agent", "n3")
        lab.wait("the agent is back", lab.ready, 10)
        lab.wait("it says so again", lambda: (wire.TO_EX, set()) in heard.records(group))
        assert all(r == (wire.TO_EX, set()) or r[0] == wire.IS_EX
                   for r in heard.records(group))
