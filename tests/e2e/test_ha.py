# SPDX-License-Identifier: Apache-2.0
"""Several controllers on etcd: whichever of them fails, a flow loses nothing, what
is joined meanwhile arrives, and afterwards all agree (law L4)."""
import json
import os
import signal
import subprocess
import time

import pytest

import programs
import topology as topo
from conftest import HA_HOLD_MS as HOLD_MS
from test_failures import background

CONTROLLERS = ("c1", "c2", "c3")
ETCDS = ("e1", "e2", "e3")
# A join, when a controller ended, stands still or is cut off; and when etcd has to elect
# first, or a controller to find that it has none (3 s), before it sends its agents away.
ARRIVES_S, ETCD_ARRIVES_S = 5, 10
STOPPED_S = 30
AGREES_S = 20
ELECTED_S = 15
LOOK_S = 0.1


def for_seconds(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


def together(*generators):
    for generator in generators:
        yield from generator


def command(*args):
    """When its turn comes, not before."""
    yield from background(*args)


def each(verb, kind, names):
    return together(*(command(verb, kind, name) for name in names))


def send_signal(number, name):
    os.kill(programs.pid_of(programs.RUN / name), number)
    yield


def leader(lab):
    """The member of etcd that all follow. One that comes back from a cut has counted
    further than the others and makes them elect once more, a while after the heal."""
    def find():
        said = {name: programs.etcd_ask(name, "metrics") for name in ETCDS}
        leads = [name for name in ETCDS if "etcd_server_is_leader 1" in said[name]]
        follow = [name for name in ETCDS if "etcd_server_has_leader 1" in said[name]]
        return leads[0] if len(leads) == 1 and len(follow) == len(ETCDS) else None

    return lab.wait("etcd has one leader", find, ELECTED_S)


class Late:
    """A workload of n2 that joins a new group; n1 has to hear of it."""

    def __init__(self, lab):
        self.lab, self.group = lab, lab.new_group()
        self.member = lab.member("n2p2", self.group, join=False)
        self.took_s = None

    def arrives(self, deadline_s):
        self.member.join()
        yield from self.comes(deadline_s)

    def comes(self, deadline_s):
        """It has joined before. Asked beside the stream, which is not to pause for it."""
        start = look = time.monotonic()
        asked = None
        while True:
            if not asked and time.monotonic() >= look:
                asked = subprocess.Popen(programs.ctl_command(["-o", "json", "fib", "list"], "n1"),
                                         stdout=subprocess.PIPE, text=True)
            elif asked and asked.poll() is not None:
                if self.is_in(asked.communicate()[0]):
                    self.took_s = time.monotonic() - start
                    return
                asked, look = None, time.monotonic() + LOOK_S
            assert time.monotonic() < start + deadline_s, \
                f"a join did not arrive in {deadline_s} s"
            yield

    def is_in(self, text):
        """Of the group's routes one leads to n2."""
        rows = json.loads(text)["routes"] if text else []
        return any(row["group"] == self.group and
                   topo.vtep("n2") in [r.split(":")[0] for r in row["remotes"]] for row in rows)

    def receives(self):
        self.lab.exact(self.member,
                       self.lab.stream(self.lab.sender("n1p1", self.group), [self.member]))


def disturbed(lab, group, meanwhile):
    """A flow from n1 to n2 and n3 that is not to notice."""
    members = [lab.member("n2p1", group), lab.member("n3p1", group)]
    lab.wait_route("n1", group, remotes=["n2", "n3"])
    numbers = lab.stream(lab.sender("n1p1", group), members, interval_s=0.002,
                         meanwhile=meanwhile)
    for member in members:
        lab.exact(member, numbers)


def asked(name, *args):
    """What a controller says itself; {} when it cannot."""
    return programs.ctl_json(args, controller=name) or {}


def agrees(lab):
    """Each controller, asked by itself."""
    for name in CONTROLLERS:
        said = None

        def clean():
            nonlocal said
            said = asked(name, "verify")
            return len(said.get("nodes", [])) == 3 and not said["notCompared"] and \
                all(n["ok"] for n in said["nodes"])

        lab.wait(lambda: f"{name} finds no drift: {said}", clean, AGREES_S)
    lists = []

    def same():
        lists[:] = [asked(name, "member", "list").get("members") for name in CONTROLLERS]
        return lists[0] and lists[0] == lists[1] == lists[2]

    lab.wait(lambda: f"the controllers list the same members: {lists}", same, AGREES_S)


def test_each_controller_answers_for_all(ha_lab, group):
    member = ha_lab.member("n2p1", group)
    ha_lab.wait_route("n1", group, remotes=["n2"])
    for name in CONTROLLERS:
        def known():
            nodes = asked(name, "node", "list").get("nodes", [])
            return len(nodes) == 3 and all(n["state"] == "CONNECTED" and
                                           int(n["appliedRevision"]) for n in nodes)

        ha_lab.wait(f"{name} knows what every node has applied", known)
        for node in ("n1", "n2", "n3"):
            ha_lab.wait(f"{name} knows the group's route on {node}", lambda: [
                r for r in asked(name, "route", "list", "--node", node, "--group", group)
                .get("routes", []) if r["group"] == group])
    agrees(ha_lab)
    ha_lab.close(member)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_controller_killed(ha_lab, group, name):
    late = Late(ha_lab)
    disturbed(ha_lab, group, together(
        command("kill", "controller", name), late.arrives(ARRIVES_S),
        for_seconds(HOLD_MS / 1000 + 2), command("start", "controller", name)))
    late.receives()
    agrees(ha_lab)


def test_all_controllers_killed(ha_lab, group):
    late = Late(ha_lab)
    disturbed(ha_lab, group, together(
        each("kill", "controller", CONTROLLERS), for_seconds(HOLD_MS / 1000 + 1),
        each("start", "controller", CONTROLLERS), late.arrives(ARRIVES_S)))
    late.receives()
    agrees(ha_lab)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_controller_cut_off(ha_lab, group, name):
    late = Late(ha_lab)
    disturbed(ha_lab, group, together(
        command("cut", name), late.arrives(ARRIVES_S), for_seconds(2 * HOLD_MS / 1000),
        command("heal", name), for_seconds(3)))
    late.receives()
    agrees(ha_lab)


def test_controller_stopped_for_long(ha_lab, group):
    """It wakes in a mesh that went on without it, and does not fight."""
    first, late = Late(ha_lab), Late(ha_lab)
    name = holder_of(ha_lab, "n2")
    disturbed(ha_lab, group, together(
        send_signal(signal.SIGSTOP, name), first.arrives(ARRIVES_S), for_seconds(STOPPED_S),
        send_signal(signal.SIGCONT, name), late.arrives(ARRIVES_S),
        for_seconds(HOLD_MS / 1000 + 1)))
    first.receives()
    late.receives()
    agrees(ha_lab)


def test_a_frozen_controller_is_named(ha_lab, group):
    """Who is asked what only that one knows says so, before mcmeshctl gives up."""
    ha_lab.member("n2p1", group)
    ha_lab.wait_route("n1", group, remotes=["n2"])
    frozen = holder_of(ha_lab, "n2")
    other = next(name for name in CONTROLLERS if name != frozen)
    pid = programs.pid_of(programs.RUN / frozen)
    os.kill(pid, signal.SIGSTOP)
    try:
        done = programs.ctl(["-o", "json", "verify"], controller=other)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (done.returncode, done.stderr) == (3, "")
    said = {n["name"]: n["detail"] for n in json.loads(done.stdout)["nodes"]}
    assert "does not answer" in said["n2"], said
    agrees(ha_lab)


def holder_of(lab, node):
    """The controller that the agent is connected to: who says so last."""
    def find():
        for name in CONTROLLERS:
            nodes = asked(name, "node", "list", "--local").get("nodes", [])
            if node in [n["name"] for n in nodes]:
                return name
        return None

    return lab.wait(f"a controller has {node}", find)


@pytest.mark.parametrize("which", ["leader", "follower"])
def test_member_of_etcd_killed(ha_lab, group, which):
    late = Late(ha_lab)
    first = leader(ha_lab)
    name = first if which == "leader" else next(e for e in ETCDS if e != first)
    disturbed(ha_lab, group, together(
        command("kill", "etcd", name), late.arrives(ETCD_ARRIVES_S), for_seconds(3),
        command("start", "etcd", name)))
    late.receives()
    agrees(ha_lab)


def test_etcd_gone_for_long(ha_lab, group):
    """No controller can do anything: agents forward what they know, and what was
    joined arrives when etcd is back."""
    late = Late(ha_lab)
    disturbed(ha_lab, group, together(
        each("kill", "etcd", ETCDS), for_seconds(2 * HOLD_MS / 1000),
        start_together("etcd", ETCDS), late.arrives(ETCD_ARRIVES_S)))
    late.receives()
    agrees(ha_lab)


def start_together(kind, names):
    """Members of etcd answer only once there are enough of them."""
    running = [background("start", kind, name) for name in names]
    for generator in running:
        yield from generator


def test_a_node_that_returns_after_its_hold_time(ha_lab, group):
    """Nothing of its former life is left, whichever controller removed it."""
    gone, stays = ha_lab.member("n3p1", group), ha_lab.member("n2p1", group)
    ha_lab.wait_route("n1", group, remotes=["n2", "n3"])
    ha_lab.command("kill", "agent", "n3")
    gone.leave()
    ha_lab.wait_route("n1", group, remotes=["n2"], deadline_s=HOLD_MS / 1000 + 10)
    ha_lab.command("start", "agent", "n3")
    ha_lab.wait("n3 is back", ha_lab.ready, 10)
    ha_lab.wait_route("n1", group, remotes=["n2"])
    ha_lab.exact(stays, ha_lab.stream(ha_lab.sender("n1p1", group), [stays]))
    agrees(ha_lab)
