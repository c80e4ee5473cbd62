# SPDX-License-Identifier: Apache-2.0
"""./dev lab and ./dev demo, as who has just read their help uses them."""
import os
import re
import stat
import subprocess
import sys

import lab as lab_py
import programs
import pytest
import topology as topo
from conftest import TLS, TOP, lab_command, mesh_up

DEMO_S = 180
METRICS = {"c1": 9797, "n1": 9798, "n2": 9798}
SCRAPE = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).read().decode())"


@pytest.fixture(scope="module")
def place(mesh):
    """No lab is up, and the tests of this file raise their own."""
    lab_command("down")
    yield
    lab_command("down")
    mesh_up(TLS)


@pytest.fixture(scope="module")
def default(place):
    """With nothing set."""
    lab_command("up", "--nodes", "2", "--ports", "1")
    yield
    lab_command("down")


@pytest.fixture
def nothing(place):
    """No lab, before and after; who uses it comes after the tests of the default lab."""
    lab_command("down")
    yield
    lab_command("down")


def test_metrics_are_there(default):
    shown = {row.split()[0]: row for row in lab_command("status").stdout.splitlines()}
    for name, port in METRICS.items():
        underlay = f"{topo.host_addresses(name)[0]}:{port}"
        assert underlay in shown[name]
        for where in (f"127.0.0.1:{port}", underlay):
            page = topo.call(name, [sys.executable, "-c", SCRAPE, f"http://{where}/metrics"]).stdout
            families = re.findall(r"^# TYPE (\S+)", page, re.M)
            assert families and all(f.startswith("mcmesh_") for f in families), where


def test_folders_of_sockets_are_closed(default):
    """To all but the programs and their group."""
    for name in METRICS:
        assert stat.S_IMODE((programs.RUN / name).stat().st_mode) == 0o750
    assert stat.S_IMODE((programs.RUN / "n1/agent.sock").stat().st_mode) == 0o660


def test_status_of_many_ports():
    ports = [{"name": f"n1p{i}", "state": "UP" if i % 3 else "DOWN"} for i in range(1, 10)]
    assert lab_py.ports_text(ports) == "6 UP, 3 DOWN"
    assert lab_py.ports_text(ports[:2]) == "n1p1 UP, n1p2 UP"
    assert lab_py.ports_text([]) == "-"


def way_of(*options):
    state = lab_py.state_of(lab_py.parse_up([*options]))
    return programs.agent_config(state, "n1").get("overlay", {}).get("path")


def test_kernel_vxlan(nothing, mesh):
    """Copies to other nodes are by the VXLAN device, unless a setting says otherwise."""
    assert way_of("--kernel-vxlan") == "device"
    assert way_of("--kernel-vxlan", "--agent-set=overlay.path=auto") == "auto"
    assert way_of() is None
    lab_command("up", "--nodes", "2", "--ports", "1", "--kernel-vxlan")
    try:
        for node, other in (("n1", "n2"), ("n2", "n1")):
            paths = mesh.json("path", "list", agent=node)["paths"]
            assert [(p["node"], p["way"]) for p in paths] == [(other, "DEVICE")]
        group = mesh.new_group()
        member = mesh.member("n2p1", group)
        mesh.wait_route("n1", group, remotes=["n2"])
        numbers = mesh.stream(mesh.sender("n1p1", group), [member])
        mesh.exact(member, numbers)
        made = mesh.counters("n1", ("copy_remote",))
        assert made["copy_remote_by_device"] == made["copy_remote"] >= len(numbers)
    finally:
        mesh.close()


def test_demo(nothing):
    done = subprocess.run([sys.executable, TOP / "deploy/lab/demo.py"], text=True,
                          capture_output=True, timeout=DEMO_S)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-3:]
    assert re.match(r"4 members, loss 0\.00 %, convergence [\d.]+ to [\d.]+ ms$", last[0])
    assert "the lab is gone" in last[-1]
    table = done.stdout[done.stdout.index("COPIES TO PORTS"):].splitlines()
    made = [[int(n) for n in row.split()[1:]] for row in table[1:4]]
    due = dict(re.findall(r"^(n\dp\d) .* ms +(\d+) +0 +0\.00 % +0 +ok$", done.stdout, re.M))
    assert len(due) == 4
    # Each member's packets are copies to its port, and each node's members share one way there.
    ports = {node: sum(int(n) for m, n in due.items() if m.startswith(node))
             for node in ("n1", "n2", "n3")}
    assert [row[0] for row in made] == list(ports.values())
    assert made[0][1] == int(due["n2p1"]) + int(due["n3p1"]) and made[1][1] == made[2][1] == 0
    assert [row[2] for row in made] == [0, 0, 0]
    assert not topo.existing()
