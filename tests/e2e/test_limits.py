# SPDX-License-Identifier: Apache-2.0
"""Many records, sources and groups, and a port that reports without an end."""
import os
import time

import programs
import sockets
import wire
from conftest import LEAVE_S, MEMBERSHIP_S, SLACK_S

MTU_RECORDS = 183        # without sources, in 1500 octets
SOURCES = 400
SOURCES_A_REPORT = 360   # (1500 - 24 - 8 - 8) / 4 = 365
GROUPS = 4000
STORM_A_SECOND = 50000
STORM_JOINS = 20
JOIN_DELAY_MS = 20
# On two cores the sender of the storm and the agents of three nodes take turns.
JOIN_DELAY_NOISE_MS = 180


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
    lab.wait(lambda: f"{GROUPS} routes, but {len(routed('n1', 31))}",
             lambda: len(routed("n1", 31)) == GROUPS, 10)
    print(f"\n{GROUPS} groups of a port, routed at another node: "
          f"{1000 * (time.monotonic() - start):.0f} ms")
    assert sorted(routed("n1", 31)) == sorted(groups)
    lab.wait("silence ends them", lambda: not routed("n1", 31), MEMBERSHIP_S + 2 * SLACK_S)


class Storm:
    """Reports of a port by another process, at STORM_A_SECOND as far as the machine goes."""

    DEADLINE_S = 30

    def __init__(self, tap, frames):
        self.rate = None
        self.started, says = os.pipe()
        listens, self.stop = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self.stop)
                os.set_blocking(listens, False)
                self._run(tap, frames, says, listens)
            finally:
                os._exit(0)
        os.close(says)
        os.close(listens)
        os.read(self.started, 1)

    @staticmethod
    def _run(tap, frames, says, listens):
        sent, start = 0, time.monotonic()
        while time.monotonic() < start + Storm.DEADLINE_S:
            for _ in range(min(int((time.monotonic() - start) * STORM_A_SECOND) - sent, 256)):
                tap.send(frames[sent % len(frames)])
                sent += 1
            if says and sent > STORM_A_SECOND / 2:
                os.write(says, b"r")
                says = None
            try:
                os.read(listens, 1)  # b"" once the other end is closed
                break
            except BlockingIOError:
                pass
        (programs.RUN / f"storm.{os.getpid()}").write_text(
            str(sent / (time.monotonic() - start)))

    def end(self):
        os.close(self.stop)
        os.waitpid(self.pid, 0)
        os.close(self.started)
        path = programs.RUN / f"storm.{self.pid}"
        self.rate = float(path.read_text())
        path.unlink()


def join_delay_ms(lab, sender_name, name):
    """From the host's join to its first packet."""
    group = lab.new_group()
    sender, member = lab.sender(sender_name, group), lab.member(name, group, join=False)
    pace, end = sockets.Pace(0.0005), time.monotonic() + 5
    while member.first_ns is None:
        assert time.monotonic() < end, "no packet came"
        if pace.due():
            sender.send()
        if sender.sent == 10 and member.joined_ns is None:
            member.join()
        member.drain()
    delay = (member.first_ns - member.joined_ns) / 1e6
    lab.close(sender, member)
    return delay


def test_I08_a_storm_of_reports_does_not_delay_another_port(lab):
    """The port's own rate ends where it is set; its neighbour's joins do not wait for it."""
    calm = sorted(join_delay_ms(lab, "n2p1", "n2p2") for _ in range(STORM_JOINS))
    frames = [wire.v2_report("n2p1", g) for g in groups_of(32, 1000)]
    storm = Storm(lab.tap("n2p1"), frames)
    try:
        wild = sorted(join_delay_ms(lab, "n2p1", "n2p2") for _ in range(STORM_JOINS))
        before = lab.counters("n2", ("gmp_", "drop_", "punt"))
    finally:
        storm.end()
    middle = STORM_JOINS // 2
    print(f"\nwith {storm.rate:.0f} reports/s of another port a join takes {wild[middle]:.1f} ms "
          f"(most: {wild[-1]:.1f}), without {calm[middle]:.1f} ms (most: {calm[-1]:.1f})")
    assert before.get("gmp_rate_limited") or before.get("drop_punt_rate"), before
    assert storm.rate > STORM_A_SECOND / 2, "the machine cannot make the storm"
    assert wild[middle] - calm[middle] <= JOIN_DELAY_MS
    assert wild[-1] - calm[middle] <= JOIN_DELAY_MS + JOIN_DELAY_NOISE_MS
    lab.wait("the storm's groups age", lambda: not routed("n2", 32), MEMBERSHIP_S + 2 * SLACK_S)
