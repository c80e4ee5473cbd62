# SPDX-License-Identifier: Apache-2.0
"""Somebody else's hands in what is ours: pins, devices, maps."""
import json
import socket
import subprocess

import change
import pytest
import programs
import sockets
import topology as topo


def ifindex(node, device):
    with sockets.namespace(node):
        return socket.if_nametoindex(device)


def pins(node):
    return programs.PINS / node / "v1"


def test_pinned_link_lost(lab, group):
    """Attached anew, the port is in the lists that name it."""
    member = lab.member("n2p2", group)
    lab.wait_route("n1", group, remotes=["n2"])
    lab.command("kill", "agent", "n2")
    (pins("n2") / "links" / str(ifindex("n2", "n2p2"))).unlink()
    lab.command("start", "agent", "n2")
    lab.wait("n2p2 asked again", lambda: lab.memberships("n2", group))
    lab.wait_route("n2", group, ports=["n2p2"])
    lab.wait_route("n1", group, remotes=["n2"])
    lab.exact(member, lab.stream(lab.sender("n1p1", group), [member]))


@pytest.fixture
def another_device(lab):
    """While the agent of n2 is down n2p2 becomes another device of the same ifindex."""
    name, index = "n2p2", ifindex("n2", "n2p2")

    def replace():
        topo.port_down(name)
        topo.ip_batch([f"link add {name} index {index} type veth peer name eth0 address "
                       f"02:00:c6:12:02:02 netns {topo.netns(name)}",
                       f"link set {name} up"], "n2")
        topo.ip_batch([f"addr add {topo.workload_address(name)}/32 dev eth0", "link set eth0 up",
                       "route add default dev eth0"], name)

    yield replace
    lab.close()
    topo.port_down(name)
    topo.port_up(name)


def test_ifindex_used_again(lab, group, another_device):
    """The new device has nothing of what the old one had joined, and joins."""
    old = lab.new_group()
    lab.member("n2p2", old)
    lab.wait_route("n1", old, remotes=["n2"])
    lab.command("kill", "agent", "n2")
    lab.close()
    another_device()
    member = lab.member("n2p2", group)
    lab.command("start", "agent", "n2")
    lab.wait_route("n1", old, deadline_s=1)
    lab.wait_route("n1", group, remotes=["n2"])
    lab.exact(member, lab.stream(lab.sender("n1p1", group), [member]))


def test_overlay_device_taken_down(lab, group):
    member = lab.member("n2p1", group)
    lab.wait_route("n1", group, remotes=["n2"])
    device = topo.enter("n1", "ip", "-j", "link", "show", "mcmesh0")
    subprocess.run(topo.enter("n1", "ip", "link", "set", "mcmesh0", "down"), check=True)
    lab.wait("the agent takes it up again",
             lambda: "UP" in json.loads(subprocess.check_output(device))[0]["flags"], 3)
    lab.exact(member, lab.stream(lab.sender("n1p1", group), [member]))


def test_entry_deleted_from_the_map(lab, group):
    """verify says so, and has it repaired."""
    member = lab.member("n2p2", group)
    lab.wait_route("n2", group, ports=["n2p2"])
    path = str(pins("n2") / "maps/routes")
    for row in json.loads(subprocess.check_output(["bpftool", "-j", "map", "dump", "pinned",
                                                   path])):
        key = [byte[2:] for byte in row["key"]]
        if bytes.fromhex("".join(key))[20:24] == socket.inet_aton(group):
            subprocess.run(["bpftool", "map", "delete", "pinned", path, "key", "hex", *key],
                           check=True)
    lab.wait_route("n2", group, deadline_s=1)
    assert lab.ctl("verify").returncode == 3
    lab.wait_route("n2", group, ports=["n2p2"], deadline_s=2)
    assert lab.ctl("verify").returncode == 0
    lab.exact(member, lab.stream(lab.sender("n2p1", group), [member]))


def test_vtep_that_the_kernel_would_not_choose(lab, group):
    """Copies leave with the VTEP, or the other nodes would not know the sender."""
    second = "203.0.113.101"
    assert lab.exec("n1", "ip", "addr", "add", f"{second}/24", "dev", "uplink0").returncode == 0
    try:
        with change.agent_settings(lab, "n1", f"vtep={second}"):
            member = lab.member("n2p1", group)
            lab.wait_route("n1", group, remotes=["n2"])
            lab.exact(member, lab.stream(lab.sender("n1p1", group), [member]))
    finally:
        lab.exec("n1", "ip", "addr", "del", f"{second}/24", "dev", "uplink0")
