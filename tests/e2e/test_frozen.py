# SPDX-License-Identifier: Apache-2.0
"""Agents that stand still for 30 s and go on (law L5): the kernel forwards without them,
and they take nothing away because of what they could not hear."""
import signal

import programs
import pytest
from conftest import QUERY_MS, RESPONSE_MS, TLS, mesh_up
from test_ha import STOPPED_S, Late, for_seconds, send_signal, together

NODES = ("n1", "n2", "n3")
ARRIVES_S = 5
# Of what a report gives: hosts have answered the last query, and the next is not near.
INTERVAL_MS = 2 * QUERY_MS + 2 * RESPONSE_MS
BETWEEN_MS = range(INTERVAL_MS - QUERY_MS * 3 // 5, INTERVAL_MS - RESPONSE_MS)


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
    lab.wait("all is acknowledged", lambda: lab.verified())

    def is_between_queries():
        return int(lab.memberships("n2", group)[0]["expiresMs"]) in BETWEEN_MS

    def meanwhile():
        yield from together(*(send_signal(signal.SIGSTOP, name) for name in NODES))
        late.member.join()
        yield from for_seconds(STOPPED_S)
        yield from together(*(send_signal(signal.SIGCONT, name) for name in NODES))
        yield from late.comes(ARRIVES_S)
        yield from for_seconds(ARRIVES_S)

    sender = lab.sender("n1p1", group)
    # Else an answer that waits in the ring is read before it is missed.
    lab.wait("no answer is under way", is_between_queries, 15)
    numbers = lab.stream(sender, members, interval_s=0.002,
                         meanwhile=meanwhile())
    for member in members:
        lab.exact(member, numbers)
    for name in NODES:
        assert "The agent was stopped" in programs.log_tail(name, 100), f"{name} did not notice"
    late.receives()
    lab.wait("no drift", lambda: lab.verified(), 10)
    for name in NODES:
        assert lab.memberships(name, group) or name == "n1", f"{name} forgot its member"
