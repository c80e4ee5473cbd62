# SPDX-License-Identifier: Apache-2.0
"""Somebody else's hands in what is ours: pins, devices, maps."""
import json
import socket
import subprocess

import certificates
import change
import pytest
import programs
import sockets
import topology as topo
from conftest import TLS


def ifindex(node, device):
    with sockets.namespace(node):
        return socket.if_nametoindex(device)


def pins(node):
    return programs.pins(node)


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
    lab.wait_route("n1", old, deadline_s=2)  # well before it would age
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
    assert lab.verified()
    lab.exact(member, lab.stream(lab.sender("n2p1", group), [member]))


def test_vtep_that_the_kernel_would_not_choose(lab, group):
    """Copies leave with the VTEP, or the other nodes would not know the sender."""
    second = "203.0.113.101"
    if TLS:  # its certificate names where it may be
        certificates.pki("node", "n1", "--vtep", topo.vtep("n1"), "--vtep", second)
    assert lab.exec("n1", "ip", "addr", "add", f"{second}/24", "dev", "uplink0").returncode == 0
    try:
        with change.agent_settings(lab, "n1", f"vtep={second}"):
            member = lab.member("n2p1", group)
            lab.wait_route("n1", group, remotes=["n2"])
            lab.exact(member, lab.stream(lab.sender("n1p1", group), [member]))
    finally:
        lab.exec("n1", "ip", "addr", "del", f"{second}/24", "dev", "uplink0")


# ---- maps that entries refer to ----


def dump(node, name):
    """Elements of a map as (key, value), in bytes."""
    rows = json.loads(subprocess.check_output(
        ["bpftool", "-j", "map", "dump", "pinned", str(pins(node) / "maps" / name)]))
    return [tuple(bytes(int(b, 16) for b in row[k]) for k in ("key", "value")) for row in rows]


def hexes(data):
    return [f"{b:02x}" for b in data]


def write(node, name, key, value=None):
    """None deletes."""
    path = str(pins(node) / "maps" / name)
    change_to = ["delete", "pinned", path, "key", "hex", *hexes(key)]
    if value is not None:
        change_to = ["update", "pinned", path, "key", "hex", *hexes(key),
                     "value", "hex", *hexes(value)]
    subprocess.run(["bpftool", "map", *change_to], check=True)


def port_number(node, device):
    index = ifindex(node, device).to_bytes(4, "little")
    return next(v for k, v in dump(node, "port_ids") if k == index)


def value_of(node, name, key):
    return next(v for k, v in dump(node, name) if k == key)


def delete_port_id():
    write("n2", "port_ids", ifindex("n2", "n2p2").to_bytes(4, "little"))


def number_of_another_port():
    write("n2", "port_ids", ifindex("n2", "n2p2").to_bytes(4, "little"),
          port_number("n2", "n2p1"))


def port_of_another_segment():
    number = port_number("n2", "n2p2")
    value = bytearray(value_of("n2", "ports", number))
    value[4:8] = (99).to_bytes(4, "little")
    write("n2", "ports", number, value)


def port_that_is_none():
    number = port_number("n2", "n2p2")
    write("n2", "ports", number, bytes(len(value_of("n2", "ports", number))))


def vtep_number(node, of):
    mapped = bytes(10) + b"\xff\xff" + socket.inet_aton(topo.vtep(of))
    return mapped, next(v for k, v in dump(node, "vteps") if k == mapped)


def delete_vtep():
    write("n2", "vteps", vtep_number("n2", "n1")[0])


def remote_that_is_none():
    _, number = vtep_number("n2", "n1")
    write("n2", "remotes", number, bytes(len(value_of("n2", "remotes", number))))


def foreign_vtep():
    _, number = vtep_number("n2", "n1")
    write("n2", "vteps", bytes(10) + b"\xff\xff" + bytes((203, 0, 113, 250)), number)


def delete_segment():
    write("n2", "segments", (1).to_bytes(4, "little"))


def segment_that_floods():
    key = (1).to_bytes(4, "little")
    value = bytearray(value_of("n2", "segments", key))
    value[4] = 2
    write("n2", "segments", key, value)


def overlay_of_another_device():
    value = bytearray(value_of("n2", "config", bytes(4)))
    value[0:4] = (0).to_bytes(4, "little")
    write("n2", "config", bytes(4), value)


def broken_list():
    """The first chunk of some group's list is another's."""
    for key, value in dump("n2", "routes"):
        if any(key[8:24]):
            chunk = bytearray(value_of("n2", "lists", value[:4]))
            chunk[40:44], chunk[44:48] = bytes(4), b"\xff\xff\xff\x7f"
            write("n2", "lists", value[:4], chunk)


def delete_list_of_all_ports():
    key = next(k for k, _ in dump("n2", "routes") if k[4] == 1)
    write("n2", "routes", key)


DAMAGE = [delete_port_id, number_of_another_port, port_of_another_segment, port_that_is_none,
          delete_vtep, remote_that_is_none, foreign_vtep, delete_segment, segment_that_floods,
          overlay_of_another_device, broken_list, delete_list_of_all_ports]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_damaged_map_is_found_and_mended(lab, group, damage):
    """By verify, which says what it found; what flows through the node is whole then."""
    near, far = lab.member("n2p2", group), lab.member("n3p1", group)
    lab.wait_route("n2", group, ports=["n2p2"], remotes=["n3"])
    lab.wait_route("n1", group, remotes=["n2", "n3"])
    assert lab.verified()
    # The agent writes its configuration itself now and then.
    for _ in range(3 if damage is overlay_of_another_device else 1):
        damage()
        found = lab.ctl("verify")
        if found.returncode == 3:
            break
    assert found.returncode == 3, found.stdout
    assert "differ" in found.stdout
    lab.wait("it is mended", lambda: lab.verified())
    for sender in ("n2p1", "n1p1", "n2p2"):
        source = lab.sender(sender, group)
        members = [m for m in (near, far) if m.name != sender]
        for member in members:
            member.reset()
        numbers = lab.stream(source, members)
        for member in members:
            lab.exact(member, numbers)


def test_node_beyond_the_limit_is_named(lab, group):
    """What limits.remotes leaves out is a difference with a remedy."""
    agent = [programs.program("mcmesh-agent"), "--remove", "--config",
             str(programs.RUN / "n1/agent.yaml")]
    lab.command("stop", "agent", "n1")
    subprocess.run(topo.enter("n1", *map(str, agent)), check=True)
    lab.member("n2p1", group)
    lab.member("n3p1", group)
    try:
        with change.agent_settings(lab, "n1", "limits.remotes=1"):
            lab.wait("one of them is reached", lambda: len(lab.route("n1", group)[1]) == 1)
            found = lab.ctl("verify", "--node", "n1")
            assert found.returncode == 3 and "limits.remotes" in found.stdout, found.stdout
            lab.command("stop", "agent", "n1")
            subprocess.run(topo.enter("n1", *map(str, agent)), check=True)
    finally:
        lab.wait("the agent is back", lab.ready, 10)
    lab.wait_route("n1", group, remotes=["n2", "n3"])
    assert lab.verified()


def test_identity_that_is_damaged_or_cannot_be_written(lab):
    """The agent says so in one sentence, with what to do, and does not start."""
    file = next((programs.RUN / "n2").rglob("identity"))
    was = file.read_text()
    lab.command("stop", "agent", "n2")

    def refusal():
        done = subprocess.run(topo.enter("n2", str(programs.program("mcmesh-agent")), "--config",
                                         str(programs.RUN / "n2/agent.yaml")),
                              capture_output=True, text=True, timeout=10)
        assert done.returncode == 1
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    try:
        file.write_text("instance of nothing\n")
        assert "damaged: delete it" in refusal()
        file.write_text(was)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=3", "tmpfs",
                        str(file.parent)], check=True)
        try:
            file.write_text(was)
            (file.parent / "full").write_bytes(b"")
            why = refusal()
            assert "No space left" in why and "make room" in why, why
        finally:
            subprocess.run(["umount", str(file.parent)], check=True)
        assert file.read_text() == was
    finally:
        lab.command("start", "agent", "n2")
        lab.wait("the agent is back", lab.ready, 10)
