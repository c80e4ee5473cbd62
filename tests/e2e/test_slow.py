# SPDX-License-Identifier: Apache-2.0
"""An agent that stands still while much changes: it costs the controller little and
the others nothing, and has everything once it goes on."""
import contextlib
import os
import signal
import subprocess
import time

import certificates
import programs
import pytest
import topology as topo
from conftest import HOLD_MS, TLS

AGENTS, GROUPS, RATE, CHURN_S = 10, 500, 4000, 6
# Of the controller, over what it takes with the same changes and nobody stopped. That
# the backlog itself is bounded is a unit test's (S13_slow_agent_costs_bounded_memory).
RSS_MORE_KB = 4096
VTEPS = "10.77.0"


def rss_kb(pid):
    for line in open(f"/proc/{pid}/status", encoding="ascii"):
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


@contextlib.contextmanager
def swarm():
    """Agents with members of the lab's segment, from the controller's host; what is
    written to them are commands (tests/swarm/scenario.c)."""
    more = []
    if TLS:
        for i in range(AGENTS):
            certificates.pki("node", f"s{i + 1}", "--vtep", f"{VTEPS}.{i + 1}")
        more = ["--pki", str(certificates.PKI)]
    process = subprocess.Popen(topo.enter(
        "c1", programs.program("mcmesh-swarm"), "--commands", "--controller",
        f"{topo.controller_address('c1')}:{programs.PORT}", "--agents", str(AGENTS), "--groups",
        str(GROUPS), "--overlap", "1", "--vtep", f"{VTEPS}.1", "--group", "239.200.0.0", *more),
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def say(process, command):
    process.stdin.write(command + "\n")
    process.stdin.flush()


def nodes(lab):
    return {n["name"]: n for n in lab.json("node", "list")["nodes"]}


def revision(lab):
    return int(lab.json("member", "list", "--node", "n2")["revision"])


class Churn:
    """Members change; what the controller takes at most meanwhile, and a join that is
    made then."""

    def __init__(self, lab, process):
        self.lab, self.process, self.group = lab, process, lab.new_group()
        self.controller, self.most = programs.pid_of(programs.RUN / "c1"), 0

    def goes_on(self):
        end, look, first = time.monotonic() + CHURN_S, 0, revision(self.lab)
        say(self.process, f"churn {RATE} {2 * CHURN_S}")
        self.lab.member("n2p2", self.group)
        while time.monotonic() < end:
            if time.monotonic() > look:
                self.most = max(self.most, rss_kb(self.controller))
                look = time.monotonic() + 0.1
            yield
        assert revision(self.lab) > first + 100, "there was no churn"


def disturbed(lab, group, process):
    """A flow and a join beside it."""
    member, churn = lab.member("n2p1", group), Churn(lab, process)
    lab.wait_route("n1", group, remotes=["n2"])
    numbers = lab.stream(lab.sender("n1p1", group), [member], meanwhile=churn.goes_on())
    lab.exact(member, numbers)
    lab.wait_route("n1", churn.group, remotes=["n2"])
    return churn


@pytest.fixture
def warm(lab, tmp_path):
    """A controller that has had the members and their changes; the mesh as it was, after."""
    mesh, controller = set(nodes(lab)), programs.pid_of(programs.RUN / "c1")
    with swarm() as process:
        say(process, "idle 600000")
        lab.wait("the swarm has reported", lambda: sum(
            n["memberCount"] == GROUPS for n in nodes(lab).values()) == AGENTS, 20)
    with swarm() as process:
        for _ in Churn(lab, process).goes_on():
            time.sleep(0.1)  # poll interval
        yield process, rss_kb(controller)
    lab.wait("the swarm is forgotten", lambda: set(nodes(lab)) == mesh, 3 * HOLD_MS / 1000 + 10)
    lab.wait("nothing differs", lambda: lab.verified())


def test_a_stopped_agent_costs_little(lab, group, warm):
    process, before = warm
    agent = programs.pid_of(programs.RUN / "n3")
    os.kill(agent, signal.SIGSTOP)
    try:
        churn = disturbed(lab, group, process)
    finally:
        os.kill(agent, signal.SIGCONT)
    assert churn.most - before < RSS_MORE_KB, f"{before} kB, then {churn.most} kB"
    lab.wait("n3 is back", lab.ready, 10)
    lab.wait_route("n3", churn.group, remotes=["n2"])
    assert programs.pid_of(programs.RUN / "n3") == agent
