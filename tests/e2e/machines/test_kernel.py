# SPDX-License-Identifier: Apache-2.0
"""What the kernel of the machines gives, and that the datapath uses it.

The rows of docs/kernels.md come from here: each fact is looked at while packets pass,
none is concluded from a version.
"""
import json
import os
import pathlib
import re

import change
import programs

FACTS = os.environ.get("MCMESH_VMLAB_FACTS")
NODE = "n1"


def note(**facts):
    if FACTS:
        path = pathlib.Path(FACTS)
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, **facts}, indent=1) + "\n")


def log_of(lab, node):
    return lab.exec(node, "cat", programs.RUN / node / "agent.log").stdout


def attached(lab):
    return re.findall(r"Agent runs\..* attach=(\w+)", log_of(lab, NODE))[-1]


def test_kernel_and_engine(lab):
    """TCX where bpf() knows it, else clsact: whatever the kernel's version."""
    has_tcx = lab.exec(NODE, "grep", "-qw", "tcx_prog_attach", "/proc/kallsyms").returncode == 0
    note(kernel=lab.exec(NODE, "uname", "-r").stdout.strip(), attach=attached(lab))
    assert attached(lab) == ("tcx" if has_tcx else "clsact")


def test_qdiscs_are_as_promised(lab):
    """With TCX none is added; without, clsact, and the filter goes with the agent."""
    qdiscs = lab.exec(NODE, "tc", "qdisc", "show", "dev", "n1p1").stdout
    assert ("clsact" in qdiscs) == (attached(lab) == "clsact")


def test_copies_leave_and_arrive_on_the_short_way(lab, group):
    """Encapsulated by our program, and stripped by it, where the link is plain Ethernet; this
    only with TCX, as a clsact qdisc on the underlay would be on a device of others."""
    member = lab.member("n2p1", group)
    lab.wait_route(NODE, group, remotes=["n2"])
    names = ("copy_remote", "overlay_stripped")
    sender = lab.sender("n1p1", group)
    lab.exact(member, lab.stream(sender, [member], packets=5))
    out, to = lab.counters(NODE, names), lab.counters("n2", names)
    lab.exact(member, lab.stream(sender, [member], packets=20))
    out_after, to_after = lab.counters(NODE, names), lab.counters("n2", names)
    direct = out_after["copy_remote"] - out["copy_remote"] - \
        (out_after.get("copy_remote_by_device", 0) - out.get("copy_remote_by_device", 0))
    stripped = to_after.get("overlay_stripped", 0) - to.get("overlay_stripped", 0)
    note(direct=direct >= 20, stripped=stripped >= 20)
    assert direct >= 20 and (stripped >= 20) == (attached(lab) == "tcx")


def test_delivery_into_the_workload(lab):
    ports = lab.exec(NODE, "sh", "-c",
                     f"bpftool -j map dump pinned {programs.PINS}/{NODE}/v*/maps/ports").stdout
    rows = [row["formatted"]["value"] for row in json.loads(ports)]
    note(peer=any(row["ifindex"] and row["peer"] for row in rows))
    assert any(row["ifindex"] for row in rows)


def test_fans(lab, group):
    """Copies to the ports of a busy list by mirrors of the kernel's own."""
    with change.agent_settings(lab, NODE, "fans.min_ports=2"):
        members = [lab.member(name, group) for name in ("n1p1", "n1p2")]
        lab.wait_route(NODE, group, ports=["n1p1", "n1p2"])
        sender = lab.sender("n1p1", group)

        def fans():
            sender.send()
            page = lab.exec(NODE, "wget", "-qO-", "http://127.0.0.1:9798/metrics").stdout
            return [n for n in re.findall(r"^mcmesh_fans (\d+)", page, re.M) if n != "0"]

        note(fans=False)
        lab.wait("the list has a fan", fans, 20)
        members[1].drain()
        members[1].reset()
        lab.exact(members[1], lab.stream(sender, members[1:], packets=30))
        note(fans=True)
        lab.close()
