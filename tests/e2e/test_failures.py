# SPDX-License-Identifier: Apache-2.0
"""What survives the end of what (laws L4, L5, L6)."""
import subprocess
import sys

import programs
import topology as topo
from conftest import MEMBERSHIP_S, SLACK_S, TOP


def background(*args):
    """A lab command that runs while the stream goes on; a generator to wait for it."""
    process = subprocess.Popen([sys.executable, TOP / "deploy/lab/lab.py", *args],
                               stdout=subprocess.DEVNULL)

    def steps():
        while process.poll() is None:
            yield
        assert process.returncode == 0, f"lab {' '.join(args)} failed"

    return steps()


def after(*generators):
    for generator in generators:
        yield from generator


def test_agent_killed(lab, group):
    """Both ends' agents die and return: the flow loses nothing, a join made
    meanwhile is learnt from the pinned ring or the next query."""
    new = lab.new_group()
    member, late = lab.member("n2p1", group), lab.member("n2p2", new, join=False)
    lab.wait_route("n1", group, remotes=["n2"])

    def trouble():
        yield from background("kill", "agent", "n2")
        late.join()
        yield from background("start", "agent", "n2")
        yield from background("kill", "agent", "n1")
        yield from background("start", "agent", "n1")

    numbers = lab.stream(lab.sender("n1p1", group), [member], meanwhile=trouble())
    lab.exact(member, numbers)
    lab.wait_route("n1", new, remotes=["n2"])
    numbers = lab.stream(lab.sender("n1p1", new), [late])
    lab.exact(late, numbers)
    assert lab.memberships("n2", group), "the old membership was forgotten"


def test_agent_stopped_and_started(lab, group):
    member = lab.member("n2p1", group)
    lab.wait_route("n1", group, remotes=["n2"])
    numbers = lab.stream(lab.sender("n1p1", group), [member],
                         meanwhile=background("restart", "agent", "n2"))
    lab.exact(member, numbers)


def every_controller(verb):
    return after(*(background(verb, "controller", name)
                   for name in programs.controllers(programs.load())))


def test_controller_killed(lab, group):
    local, remote = lab.new_group(), lab.new_group()
    member = lab.member("n2p1", group)
    near, far = lab.member("n1p2", local, join=False), lab.member("n3p1", remote, join=False)
    lab.wait_route("n1", group, remotes=["n2"])
    sender = lab.sender("n1p1", group)
    try:
        numbers = lab.stream(sender, [member], meanwhile=every_controller("kill"))
        lab.exact(member, numbers)
        near.join()
        lab.wait_route("n1", local, ports=["n1p2"])
        lab.exact(near, lab.stream(lab.sender("n1p1", local), [near]))
        far.join()
        lab.wait("n3 has it itself", lambda: lab.memberships("n3", remote))
        assert lab.route("n1", remote) == (set(), set())
    finally:
        numbers = lab.stream(sender, [member], meanwhile=every_controller("start"))
    lab.exact(member, numbers)
    lab.wait_route("n1", remote, remotes=["n3"], deadline_s=10)
    lab.exact(far, lab.stream(lab.sender("n1p1", remote), [far]))
    lab.wait("the mesh is whole", lab.ready, 10)
    numbers = lab.stream(sender, [member])
    lab.exact(member, numbers)
    assert lab.verified()


def test_controller_restarted(lab, group):
    member = lab.member("n2p1", group)
    lab.wait_route("n1", group, remotes=["n2"])
    sender = lab.sender("n1p1", group)
    numbers = lab.stream(sender, [member], meanwhile=every_controller("restart"))
    lab.exact(member, numbers)
    lab.wait("the mesh is whole", lab.ready, 10)
    lab.exact(member, lab.stream(sender, [member]))


def test_port_removed(lab, group):
    stays, goes = lab.member("n2p1", group), lab.member("n2p2", group)
    lab.wait_route("n2", group, ports=["n2p1", "n2p2"])
    only = lab.new_group()
    lab.member("n2p2", only)
    lab.wait_route("n1", only, remotes=["n2"])
    try:
        topo.port_down("n2p2")
        lab.wait_route("n2", group, ports=["n2p1"], deadline_s=1.5)
        lab.wait_route("n1", only, deadline_s=1.5)
        lab.exact(stays, lab.stream(lab.sender("n1p1", group), [stays]))
        assert "n2p2" not in {p["name"] for p in lab.json("port", "list", agent="n2")["ports"]}
    finally:
        topo.port_up("n2p2")
    lab.close(goes)
    again = lab.member("n2p2", group)
    lab.wait_route("n2", group, ports=["n2p1", "n2p2"])
    lab.exact(again, lab.stream(lab.sender("n1p1", group), [again]))


def test_cut_and_healed(lab, group):
    member, far = lab.member("n2p1", group), lab.member("n3p1", group)
    lab.wait_route("n1", group, remotes=["n2", "n3"])
    during = lab.new_group()
    lab.command("cut", "n3")
    try:
        lab.wait("the controller sees it", lambda: any(
            n["name"] == "n3" and n["state"] == "STALE"
            for n in lab.json("node", "list")["nodes"]), 10)
        lab.exact(member, lab.stream(lab.sender("n1p1", group), [member]))
        # Local life goes on behind the cut.
        near = lab.member("n3p2", during)
        lab.wait_route("n3", during, ports=["n3p2"])
        lab.exact(near, lab.stream(lab.sender("n3p1", during), [near]))
    finally:
        lab.command("heal", "n3")
    lab.wait("the mesh is whole", lab.ready, 20)
    lab.wait_route("n1", group, remotes=["n2", "n3"], deadline_s=10)
    lab.wait_route("n1", during, remotes=["n3"], deadline_s=10)
    far.reset()
    lab.exact(far, lab.stream(lab.sender("n2p2", group), [far]))


def test_dead_node_goes_after_its_hold(lab, group):
    """Not before: its members outlive the agent's silence."""
    lab.member("n3p1", group)
    lab.wait_route("n1", group, remotes=["n3"])
    lab.command("cut", "n3")
    try:
        lab.wait("STALE", lambda: any(n["name"] == "n3" and n["state"] == "STALE"
                                      for n in lab.json("node", "list")["nodes"]), 10)
        assert lab.route("n1", group)[1] == {topo.vtep("n3")}
        lab.wait_route("n1", group, deadline_s=15)
    finally:
        lab.command("heal", "n3")
    lab.wait_route("n1", group, remotes=["n3"], deadline_s=20)


def test_silent_host(lab, group):
    """One report and nothing more: no answer to any query (B22)."""
    from wire import IS_EX, record, v3_report
    wire = lab.tap("n2p1")
    wire.send(v3_report("n2p1", record(IS_EX, group)))
    lab.wait_route("n1", group, remotes=["n2"])
    lab.wait_route("n1", group, deadline_s=MEMBERSHIP_S + SLACK_S)
    assert not lab.memberships("n2", group)


def test_programs_run(lab):
    """Nothing crashed on the way here."""
    assert programs.died(programs.load()) is None
