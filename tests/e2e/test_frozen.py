# SPDX-License-Identifier: Apache-2.0
"""Agents that stand still for 30 s and go on (law L5): the kernel forwards without them,
and they take nothing away because of what they could not hear."""
import signal

import programs
import pytest
from conftest import TLS, mesh_up
from test_ha import STOPPED_S, Late, for_seconds, send_signal, together

NODES = ("n1", "n2", "n3")
ARRIVES_S = 5


@pytest.fixture(scope="module")
def patient_mesh(mesh):
    """Its nodes are not given up for dead meanwhile, as with the default of 120 s."""
    mesh_up(TLS, "--controllers", "1", "--store", "sqlite", "--controller-set=hold_ms=60000")
    yield mesh
    mesh_up(TLS)


def test_agents_stopped_for_long(patient_mesh, lab, group):
    """All of them at once, ten times the time after which a silent host is forgotten."""
    late = Late(lab)
    members = [lab.member("n2p1", group), lab.member("n3p1", group)]
    lab.wait_route("n1", group, remotes=["n2", "n3"])
    lab.wait("all is acknowledged", lambda: lab.ctl("verify").returncode == 0)

    def meanwhile():
        yield from together(*(send_signal(signal.SIGSTOP, name) for name in NODES))
        late.member.join()
        yield from for_seconds(STOPPED_S)
        yield from together(*(send_signal(signal.SIGCONT, name) for name in NODES))
        yield from late.comes(ARRIVES_S)
        yield from for_seconds(ARRIVES_S)

    numbers = lab.stream(lab.sender("n1p1", group), members, interval_s=0.002,
                         meanwhile=meanwhile())
    for member in members:
        lab.exact(member, numbers)
    for name in NODES:
        assert "The agent was stopped" in programs.log_tail(name, 100), f"{name} did not notice"
    late.receives()
    lab.wait("no drift", lambda: lab.ctl("verify").returncode == 0, 10)
    for name in NODES:
        assert lab.memberships(name, group) or name == "n1", f"{name} forgot its member"
