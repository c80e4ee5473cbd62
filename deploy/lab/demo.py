#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""./dev demo: one sender, members on all nodes that join while it sends.

It shows the members, the copies that each node made, what was lost, and convergence: from a
member's IGMP report to its first packet, both by the kernel's clock at the member's eth0.
"""
import collections
import os
import select
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import programs  # noqa: E402
import topology as topo  # noqa: E402
from lab import print_table  # noqa: E402
from sockets import Member, Pace, Sender, Tap  # noqa: E402
from topology import LabError  # noqa: E402

GROUP = "239.1.2.3"
GROUP_MAC = bytes.fromhex("01005e010203")
IGMP = 2
SENDER = "n1p1"
MEMBERS = ("n1p2", "n2p1", "n2p2", "n3p1")
OUTSIDER = "n3p2"
PACKETS = 4000
INTERVAL_S = 0.001
JOIN_EVERY_S = 0.4
REPORT_EVERY_S = 0.5
TAIL_S = 2


def lab(*args):
    return subprocess.run([sys.executable, os.path.join(HERE, "lab.py"), *args]).returncode


def heading(text):
    print(f"\n== {text}", flush=True)


def show(*args, agent=None):
    where = f"--agent {agent} " if agent else ""
    print(f"$ ./dev lab ctl {where}{' '.join(args)}", flush=True)
    subprocess.run(programs.ctl_command(list(args), agent))


def live_line(sender, members):
    cells = [f"{m.name} {m.received if m.joined_ns else '-':>5}" for m in members]
    print(f"  {SENDER} sent {sender.sent:>5} | received: " + "   ".join(cells), flush=True)


def stream(sender, members):
    """The whole stream; the members join one by one while it runs."""
    pace, report, joins = Pace(INTERVAL_S), Pace(REPORT_EVERY_S), Pace(JOIN_EVERY_S)
    joins.at += JOIN_EVERY_S
    waiting = list(members)
    end = None
    while end is None or time.monotonic() < end:
        socks = [m.sock for m in members]
        select.select(socks, [], [], pace.remaining() if end is None else 0.05)
        for member in members:
            member.drain()
        if end is None and pace.due():
            sender.send(b"\0" * 84)
        if waiting and joins.due():
            waiting.pop(0).join()
        if report.due():
            live_line(sender, members)
        if end is None and sender.sent == PACKETS:
            end = time.monotonic() + TAIL_S
        if end and all(m.last_number == PACKETS - 1 for m in members):
            break
    live_line(sender, members)


def is_report(frame):
    return frame.outgoing and frame[12:14] == b"\x08\x00" and frame[23] == IGMP and \
        socket.inet_aton(GROUP) in frame


def convergence(wire):
    """From a member's report to its first packet."""
    frames = wire.drain(outgoing=None)
    report = next((f.at for f in frames if is_report(f)), None)
    first = next((f.at for f in frames if f[:6] == GROUP_MAC and not f.outgoing), None)
    return (first - report) * 1e3 if report and first else None


def copies():
    """What each node's counters say of copies; they were 0 when the lab came up. Returns how
    many were made."""
    rows, total = [("NODE", "COPIES TO PORTS", "COPIES TO NODES", "COPIES FAILED")], 0
    for node in programs.agents(programs.load()):
        answer = programs.ctl_json(["counter", "list", "--prefix", "copy"], agent=node)
        made = collections.Counter()
        for counter in (answer or {"counters": []})["counters"]:
            made[counter["name"]] += int(counter["packets"])
        # A part of copy_remote, which way they went.
        made.pop("copy_remote_by_device", None)
        to_ports, to_nodes = made.pop("copy_port", 0), made.pop("copy_remote", 0)
        rows.append((node, to_ports, to_nodes, sum(made.values())))
        total += to_ports + to_nodes
    print_table(rows)
    return total


def judge(sender, members, wires, outsider):
    rows = [("MEMBER", "NODE", "CONVERGENCE", "RECEIVED", "LOST", "LOSS", "DUPLICATES", "")]
    good, all_lost, all_due = True, 0, 0
    times = [convergence(wire) for wire in wires]
    for m, ms in zip(members, times):
        lost = len(m.missing(sender.sent - 1)) if m.numbers else sender.sent
        due = m.received + lost
        ok = bool(m.numbers) and not lost and not m.duplicates
        good, all_lost, all_due = good and ok, all_lost + lost, all_due + due
        rows.append((m.name, m.name[:2], f"{ms:.1f} ms" if ms else "never", m.received, lost,
                     f"{100 * lost / due:.2f} %", m.duplicates, "ok" if ok else "WRONG"))
    strays = sum(1 for f in outsider.drain() if f[:6] == GROUP_MAC)
    rows.append((OUTSIDER, OUTSIDER[:2], "no member", strays, "-", "-", "-",
                 "WRONG" if strays else "ok"))
    print_table(rows)
    seen = [ms for ms in times if ms]
    span = f"{min(seen):.1f} to {max(seen):.1f} ms" if seen else "never"
    print(f"{len(members)} members, loss {100 * all_lost / all_due:.2f} %, convergence {span}")
    return good and not strays


def session():
    heading(f"{SENDER} sends {PACKETS} packets to {GROUP}, one each ms; members join meanwhile")
    sender = Sender(SENDER, GROUP)
    members = [Member(name, GROUP, join=False) for name in MEMBERS]
    wires, outsider = [Tap(name) for name in MEMBERS], Tap(OUTSIDER)
    try:
        stream(sender, members)
        heading("The mesh, while the members are there")
        show("node", "list")
        show("member", "list", "--group", GROUP)
        show("route", "list", "--node", "n1")
        show("explain", "--group", GROUP, "--port", OUTSIDER, agent="n3")
        heading("Copies: one for each port, and one for each other node, whatever members it has")
        print(f"{copies()} copies of {sender.sent} packets")
        heading("Convergence (from IGMP report to first packet, of one each ms), and loss since")
        return judge(sender, members, wires, outsider)
    finally:
        for sock in [sender, outsider, *wires, *members]:
            sock.close()


def main():
    heading("A mesh of 3 nodes with 2 workloads each")
    started = time.monotonic()
    if lab("up"):
        return 1
    print(f"up in {time.monotonic() - started:.1f} s")
    try:
        good = session()
    finally:
        lab("down")
    heading("Every member got every packet once; the lab is gone" if good else
            "FAILED: a member missed or doubled a packet")
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
