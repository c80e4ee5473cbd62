# SPDX-License-Identifier: Apache-2.0
"""What the controller tells agents: static members and segment settings."""


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
