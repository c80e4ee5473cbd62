# SPDX-License-Identifier: Apache-2.0
"""./dev lab and ./dev demo, as who has just read their help uses them."""
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time

import lab as lab_py
import programs
import pytest
import topology as topo
from conftest import TLS, TOP, lab_command, mesh_up
from topology import LabError

AT_ONCE_S = 15  # far less than `up` waits
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


def said(code, *args):
    """One sentence, with that exit code."""
    done = lab_command(*args, check=False)
    assert (done.returncode, done.stdout) == (code, ""), (args, done)
    assert len(done.stderr.splitlines()) == 1, (args, done.stderr)
    return done.stderr


def test_ctl_takes_its_targets_anywhere(default):
    for args in (["--agent", "n2", "-o", "json", "port", "list"],
                 ["-o", "json", "--agent", "n2", "port", "list"],
                 ["port", "list", "--agent=n2", "-o", "json"],
                 ["-o", "json", "port", "--agent", "n1", "list", "--agent", "n2"],
                 ["port", "list", "-o", "json", "--agent",
                  f"unix:{programs.RUN}/n2/agent.sock"]):
        ports = json.loads(lab_command("ctl", *args).stdout)["ports"]
        assert [p["name"] for p in ports] == ["n2p1"], args
    for args in (["--agent", "n1"], ["--controller", "c1"]):
        nodes = json.loads(lab_command("ctl", *args, "node", "list", "-o", "json").stdout)["nodes"]
        assert [n["name"] for n in nodes] == ["n1", "n2"], args
    assert "no agent 'c1'" in said(1, "ctl", "port", "list", "--agent", "c1")
    assert "no option --" in said(2, "ctl", "node", "list", "--", "--agent", "n1")
    assert "--agent needs a value" in said(2, "ctl", "port", "list", "--agent")


def test_what_holds_already_is_no_failure(default):
    for kind, name in (("agent", "n2"), ("controller", "c1")):
        assert "runs already" in said(0, "start", kind, name)
        lab_command("stop", kind, name)
        assert "does not run" in said(0, "stop", kind, name)
        assert "does not run" in said(0, "kill", kind, name)
        lab_command("start", kind, name)
        pid = programs.pid_of(programs.RUN / name)
        os.kill(pid, signal.SIGKILL)
        programs.wait_until("gone", lambda: not programs.pid_of(programs.RUN / name), AT_ONCE_S)
        assert "does not run" in said(0, "stop", kind, name)
        lab_command("start", kind, name)
        assert f"no {kind}" in said(1, "start", kind, name[0] + "9")
    assert "not cut" in said(0, "heal", "n2")
    assert lab_command("cut", "n2").stderr == ""
    assert "already" in said(0, "cut", "n2")
    assert topo.is_cut("n2")
    assert lab_command("heal", "n2").stderr == ""
    assert not topo.is_cut("n2")
    assert "no 'n9'" in said(1, "cut", "n9")


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


def test_exec(default):
    for name in ("n1", "n1p1", "c1"):
        done = lab_command("exec", name, "sh", "-c", "readlink /proc/self/ns/net; exit 42",
                           check=False)
        inode = os.stat(topo.netns_path(name)).st_ino
        assert (done.returncode, done.stdout.strip()) == (42, f"net:[{inode}]")
    ports = lab_command("exec", "n2", "mcmeshctl", "port", "list", "-o", "json").stdout
    assert json.loads(ports)["ports"][0]["name"] == "n2p1"
    nodes = lab_command("exec", "c1", "--", "mcmeshctl", "node", "list", "-o", "json").stdout
    assert len(json.loads(nodes)["nodes"]) == 2


def test_a_word_too_many_is_asked_about(default):
    assert "nothing after it" in said(2, "down", "n1")
    assert lab_command("down", "--help").stdout
    assert "run ./dev lab down first" in said(1, "up")
    assert lab_command("status").stdout


def test_who_ended_is_not_waited_for(default):
    lab_command("kill", "agent", "n2")
    begin = time.monotonic()
    with pytest.raises(LabError, match="agent n2 ended:\n.+"):
        lab_py.wait_answers("agent", "n2", topo.MAX_NODES)
    with pytest.raises(LabError, match="n2 ended:\n.+"):
        programs.wait_ready(programs.load(), lab_py.deadline_s(topo.MAX_NODES))
    assert time.monotonic() - begin < AT_ONCE_S
    lab_command("start", "agent", "n2")


def test_status_of_many_ports():
    ports = [{"name": f"n1p{i}", "state": "UP" if i % 3 else "DOWN"} for i in range(1, 10)]
    assert lab_py.ports_text(ports) == "6 UP, 3 DOWN"
    assert lab_py.ports_text(ports[:2]) == "n1p1 UP, n1p2 UP"
    assert lab_py.ports_text([]) == "-"


def test_time_for_many(monkeypatch):
    monkeypatch.delenv("MCMESH_LAB_DEADLINE_S", raising=False)
    assert lab_py.deadline_s(3) >= 60
    assert lab_py.deadline_s(topo.MAX_NODES) - lab_py.deadline_s(1) >= topo.MAX_NODES
    monkeypatch.setenv("MCMESH_LAB_DEADLINE_S", "7")
    assert lab_py.deadline_s(topo.MAX_NODES) == 7


def test_where_no_lab_is(nothing):
    assert lab_command("down").stderr == ""
    for args in (["status"], ["exec", "n1", "true"], ["ctl", "node", "list"], ["cut", "n1"],
                 ["stop", "agent", "n1"]):
        assert "no lab is up" in said(1, *args)


def test_a_lab_that_does_not_come_up_leaves_nothing(nothing):
    begin = time.monotonic()
    done = lab_command("up", "--nodes", "1", "--agent-set=nonsense=1", check=False)
    assert done.returncode == 1 and "n1 ended:\n" in done.stderr and "nonsense" in done.stderr
    assert time.monotonic() - begin < AT_ONCE_S
    assert not programs.STATE.exists() and not topo.existing()


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
