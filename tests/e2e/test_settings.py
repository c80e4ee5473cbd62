# SPDX-License-Identifier: Apache-2.0
"""What the controller tells agents: static members and segment settings."""
import os
import signal

import programs


def test_static_member(lab, group):
    """Goes down as configuration, comes back as a report, gets the stream."""
    member = lab.member("n2p1", group, join=False)
    assert lab.ctl("static", "add", "--node", "n2", "--port", "n2p1",
                   "--group", group).returncode == 0
    try:
        lab.wait_route("n1", group, remotes=["n2"])
        rows = lab.memberships("n2", group)
        assert [(r["port"], r["isStatic"]) for r in rows] == [("n2p1", True)]
        # The socket asks its own host for the group, not the network.
        member.join()
        lab.exact(member, lab.stream(lab.sender("n1p1", group), [member]))
        lab.command("kill", "agent", "n2")
        lab.command("start", "agent", "n2")
        lab.wait("the agent has it again", lambda: any(
            r["isStatic"] for r in lab.memberships("n2", group)), 10)
        lab.close(member)
    finally:
        assert lab.ctl("static", "remove", "--node", "n2", "--port", "n2p1",
                       "--group", group).returncode == 0
    lab.wait_route("n1", group, deadline_s=10)


def test_static_source(lab, group):
    assert lab.ctl("static", "add", "--node", "n2", "--port", "n2p2", "--group", group,
                   "--source", "198.18.1.1").returncode == 0
    try:
        lab.wait_route("n1", group, remotes=["n2"], source="198.18.1.1")
        assert lab.route("n1", group) == (set(), set())
    finally:
        lab.ctl("static", "remove", "--node", "n2", "--port", "n2p2", "--group", group)
    lab.wait_route("n1", group, source="198.18.1.1", deadline_s=10)


def test_settings_reloaded_while_running(lab, group):
    """SIGHUP: unregistered groups are flooded on the node, and then no more."""
    file = programs.RUN / "c1/controller.yaml"
    before, pid = file.read_text(), programs.pid_of(programs.RUN / "c1")
    tap, sender, kept = lab.tap("n1p2"), lab.sender("n1p1", group), lab.new_group()
    member = lab.member("n2p1", kept)
    lab.wait_route("n1", kept, remotes=["n2"])

    def seen():
        del tap.frames[:]
        sender.send()
        lab.stream(lab.sender("n1p1", kept), [member], packets=5)
        return any(bytes(map(int, group.split("."))) in frame for frame in tap.drain())

    assert not seen()
    try:
        file.write_text(before + "\nsegments: [{segment: 1, unregistered: flood}]\n")
        os.kill(pid, signal.SIGHUP)
        lab.wait("unregistered groups are flooded", seen)
        file.write_text("no: such key\n")
        os.kill(pid, signal.SIGHUP)
        lab.wait("the wrong file is refused",
                 lambda: "not reloaded" in (programs.RUN / "c1/controller.log").read_text())
        assert seen(), "a wrong file changed something"
    finally:
        file.write_text(before)
        os.kill(pid, signal.SIGHUP)
    lab.wait("they are dropped again", lambda: not seen())
    member.reset()
    lab.exact(member, lab.stream(lab.sender("n1p1", kept), [member]))
