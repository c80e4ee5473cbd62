# SPDX-License-Identifier: Apache-2.0
"""Many records, sources and groups."""
import time

import programs
import wire
from conftest import LEAVE_S, MEMBERSHIP_S, SLACK_S
from crowd import Beside

MTU_RECORDS = 183        # without sources, in 1500 octets
SOURCES = 400
SOURCES_A_REPORT = 360   # (1500 - 24 - 8 - 8) / 4 = 365
GROUPS = 4000
MESSAGE_BYTES = 4 << 20  # what gRPC takes in at once
LARGE_GROUPS = 60        # of a thousand sources each: below limits.routes
SOURCES_A_REPORT6 = 80   # (1500 - 40 - 8 - 8 - 20) / 16 = 89


def groups_of(base, n):
    return [f"239.{base}.{i // 250}.{i % 250 + 1}" for i in range(n)]


def routed(node, second):
    return [r["group"] for r in programs.ctl_json(["fib", "list"], agent=node)["routes"]
            if r["group"].startswith(f"239.{second}.") and r["source"] == "*"]


def report_all(tap, name, kind, groups):
    for at in range(0, len(groups), MTU_RECORDS):
        tap.send(wire.v3_report(name, *(wire.record(kind, g)
                                        for g in groups[at:at + MTU_RECORDS])))


def test_A20_as_many_records_as_a_packet_holds(lab):
    groups = groups_of(30, MTU_RECORDS)
    report = wire.v3_report("n2p1", *(wire.record(wire.IS_EX, g) for g in groups))
    assert len(report) - 14 > 1480 and len(report) - 14 <= 1500
    lab.tap("n2p1").send(report)
    lab.wait("every group is routed at the other node",
             lambda: sorted(routed("n1", 30)) == sorted(groups), 5)


def test_A21_D08_four_hundred_sources_in_one_group(lab, group):
    """Two reports make one list, and a leave is asked for in full messages."""
    sources = [f"192.0.{2 + i // 250}.{i % 250 + 1}" for i in range(SOURCES)]
    tap = lab.tap("n2p1")
    for at in range(0, SOURCES, SOURCES_A_REPORT):
        tap.send(wire.v3_report("n2p1", wire.record(wire.ALLOW, group,
                                                    sources[at:at + SOURCES_A_REPORT])))
    lab.wait("all sources are members", lambda: {
        s["address"] for r in lab.memberships("n2", group) for s in r["sources"]} == set(sources))

    def routes():
        return {r["source"] for r in lab.json("fib", "list", agent="n1")["routes"]
                if r["group"] == group and r["remotes"]}

    lab.wait("all are routed at the other node", lambda: routes() == set(sources))
    tap.drain()
    tap.frames.clear()
    tap.send(wire.v3_report("n2p1", wire.record(wire.TO_IN, group)))

    def asked():
        found = set()
        for message in filter(None, map(wire.igmp_of, tap.drain())):
            if message[0] == 0x11 and message[4:8] == wire.socket.inet_aton(group):
                n = int.from_bytes(message[10:12], "big")
                found |= {message[12 + 4 * i:16 + 4 * i] for i in range(n)}
        return found

    lab.wait("every source is asked for",
             lambda: asked() == {wire.socket.inet_aton(s) for s in sources})
    assert all(len(f) <= 1514 for f in tap.frames)
    lab.wait("they are gone", lambda: not routes(), LEAVE_S + SLACK_S)


def test_I08_thousands_of_groups_on_a_port(lab):
    groups = groups_of(31, GROUPS)
    tap = lab.tap("n2p1")
    start = time.monotonic()
    report_all(tap, "n2p1", wire.IS_EX, groups)
    found = []

    def all_there():
        found[:] = routed("n1", 31)
        return len(found) == GROUPS

    lab.wait(lambda: f"{GROUPS} routes, but {len(found)}", all_there, 10)
    print(f"\n{GROUPS} groups of a port, routed at another node: "
          f"{1000 * (time.monotonic() - start):.0f} ms")
    assert sorted(found) == sorted(groups)
    lab.wait("silence ends them", lambda: not routed("n1", 31), MEMBERSHIP_S + 2 * SLACK_S)


def test_lists_beyond_one_message(lab):
    """They are whole, from the agent and from the controller."""
    groups = [f"ff15:1111:2222:3333:4444:5555:6666:{i:x}" for i in range(1, LARGE_GROUPS + 1)]
    sources = [f"2001:db8:1111:2222:3333:4444:5555:{i:x}" for i in range(0x1000, 0x1000 + 1000)]
    tap = lab.tap("n2p1")
    reports = [wire.mld2_report("n2p1", wire.record6(wire.ALLOW, group,
                                                     sources[at:at + SOURCES_A_REPORT6]))
               for group in groups for at in range(0, len(sources), SOURCES_A_REPORT6)]

    def stay(go_on):
        while go_on(MEMBERSHIP_S / 4):
            for report in reports:
                tap.send(report)

    asked = {"fib": lambda: lab.json("fib", "list", agent="n1"),
             "route": lambda: lab.json("route", "list", "--node", "n1")}
    found = {}

    def whole(name):
        answer = asked[name]()
        rows = found[name] = [(r["group"], r["source"]) for r in answer["routes"] if r["remotes"]]
        return len(rows) == len(groups) * len(sources) and answer["epoch"]

    for report in reports:
        tap.send(report)
    beside = Beside(stay)
    try:
        for name in asked:
            lab.wait(lambda: f"{name} list has all: {len(found[name])}", lambda: whole(name), 20)
            assert sum(len(g) + len(s) for g, s in found[name]) > MESSAGE_BYTES
            assert sorted(found[name]) == sorted((g, s) for g in groups for s in sources)
    finally:
        beside.end()
