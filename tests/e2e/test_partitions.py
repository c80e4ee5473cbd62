# SPDX-License-Identifier: Apache-2.0
"""Several controllers on etcd, and only a part of the network fails, or whole machines
stand still: what test_ha.py says of ends and of clean cuts holds here as well (law L4)."""
import os
import signal
import time

import programs
from conftest import HA_HOLD_MS as HOLD_MS
from test_ha import (ETCDS, ETCD_ARRIVES_S, STOPPED_S, Late, agrees, command,
                     disturbed, for_seconds, holder_of, leader, send_signal, together)

import pytest


def others(name):
    return [e for e in ETCDS if e != name]


def after_moved(lab, node, name):
    """The node has a session, and not with this controller."""
    end = time.monotonic() + ETCD_ARRIVES_S
    while holder_of(lab, node) == name:
        assert time.monotonic() < end, f"{name} keeps {node}"
        yield


def test_controller_without_etcd(ha_lab, group):
    """Its agents reach it, and it reaches no member of etcd: it sends them away."""
    late, name = Late(ha_lab), holder_of(ha_lab, "n2")
    disturbed(ha_lab, group, together(
        command("cut", name, *ETCDS), late.arrives(ETCD_ARRIVES_S),
        after_moved(ha_lab, "n2", name), for_seconds(HOLD_MS / 1000 + 2), command("heal", name)))
    late.receives()
    agrees(ha_lab)


@pytest.mark.parametrize("which", ["leader", "follower"])
def test_member_of_etcd_alone(ha_lab, group, which):
    """A minority of etcd, which all controllers reach, and which answers nobody."""
    late, first = Late(ha_lab), leader(ha_lab)
    name = first if which == "leader" else others(first)[0]
    disturbed(ha_lab, group, together(
        command("cut", name, *others(name)), late.arrives(ETCD_ARRIVES_S),
        for_seconds(HOLD_MS / 1000 + 2), command("heal", name)))
    late.receives()
    agrees(ha_lab)


def test_controller_in_the_minority(ha_lab, group):
    """It and one member of etcd on the one side, all else but its agents on the other."""
    late, name = Late(ha_lab), holder_of(ha_lab, "n2")
    alone = leader(ha_lab)
    disturbed(ha_lab, group, together(
        command("cut", name, *others(alone)), command("cut", alone, *others(alone)),
        late.arrives(ETCD_ARRIVES_S), after_moved(ha_lab, "n2", name),
        for_seconds(HOLD_MS / 1000 + 2), command("heal", name)))
    late.receives()
    agrees(ha_lab)


def test_leader_of_etcd_stopped_for_long(ha_lab, group):
    first, late, name = Late(ha_lab), Late(ha_lab), leader(ha_lab)
    disturbed(ha_lab, group, together(
        send_signal(signal.SIGSTOP, name), first.arrives(ETCD_ARRIVES_S), for_seconds(STOPPED_S),
        send_signal(signal.SIGCONT, name), late.arrives(ETCD_ARRIVES_S)))
    first.receives()
    late.receives()
    agrees(ha_lab)


def test_machine_stopped_for_long(ha_lab, group):
    """A controller and the leader of etcd, as if on one machine."""
    first, late = Late(ha_lab), Late(ha_lab)
    names = [holder_of(ha_lab, "n2"), leader(ha_lab)]
    # An election and a move, one after the other.
    disturbed(ha_lab, group, together(
        *(send_signal(signal.SIGSTOP, name) for name in names), first.arrives(ETCD_ARRIVES_S),
        for_seconds(STOPPED_S), *(send_signal(signal.SIGCONT, name) for name in names),
        late.arrives(ETCD_ARRIVES_S), for_seconds(HOLD_MS / 1000 + 1)))
    first.receives()
    late.receives()
    agrees(ha_lab)


def test_agent_stopped_beyond_its_hold(ha_lab, group):
    """It is taken for dead, and comes back by itself with all that it has."""
    stays, gone = ha_lab.member("n2p1", group), ha_lab.member("n3p1", group)
    ha_lab.wait_route("n1", group, remotes=["n2", "n3"])
    pid = programs.pid_of(programs.RUN / "n3")
    os.kill(pid, signal.SIGSTOP)
    ha_lab.wait_route("n1", group, remotes=["n2"], deadline_s=HOLD_MS / 1000 + 10)
    os.kill(pid, signal.SIGCONT)
    ha_lab.wait_route("n1", group, remotes=["n2", "n3"], deadline_s=15)
    assert programs.pid_of(programs.RUN / "n3") == pid
    for member in (stays, gone):
        member.reset()
    numbers = ha_lab.stream(ha_lab.sender("n1p1", group), [stays, gone])
    for member in (stays, gone):
        ha_lab.exact(member, numbers)
    agrees(ha_lab)
