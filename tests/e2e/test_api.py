# SPDX-License-Identifier: Apache-2.0
"""gRPC for anybody, unmodified programs, and sentences for what goes wrong."""
import grp
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

import programs
import pytest
import sockets
import topology as topo
from apps import Sequence, udp_payloads
from conftest import TOP, lab_command


NODE_JS = TOP / "build/nodejs"


def check_lists(group, answer):
    nodes, groups, members, routes, verify = answer
    assert {n["name"]: n["state"] for n in nodes["nodes"]} == \
        {n: "CONNECTED" for n in ("n1", "n2", "n3")}
    assert {"segment": 1, "group": group, "nodes": ["n2"]} in groups["groups"]
    assert [(m["node"], m["mode"]) for m in members["members"]] == [("n2", "EXCLUDE")]
    route = [r for r in routes["routes"] if r["group"] == group]
    assert [(r["source"], r["ports"], r["remotes"]) for r in route] == [("*", [], [topo.vtep("n2")])]
    assert all(n["ok"] for n in verify["nodes"]) and len(verify["nodes"]) == 3


def groups_of(events):
    return {(e["type"], e["member"]["group"]) for e in events if e.get("member")}


def check_client(lab, group, run):
    """A list, a watch, and a watch that goes on where the first ended."""
    lab.member("n2p1", group)
    lab.wait_route("n1", group, remotes=["n2"])
    check_lists(group, run("list", group)[0])
    events = run("watch")
    assert events[-1]["type"] == "SYNCED" and ("PUT", group) in groups_of(events)
    token = events[-1]["resumeToken"]
    missed = lab.new_group()
    lab.member("n3p1", missed)
    lab.wait_route("n1", missed, remotes=["n3"])
    later = groups_of(run("watch", token))
    assert ("PUT", missed) in later and ("PUT", group) not in later, later
    end = run("watch", "bm8gdG9rZW4=")[-1]
    assert end["code"] in ("OUT_OF_RANGE", "INVALID_ARGUMENT") and end["details"]


def test_mesh_service_by_python(lab, group, client):
    check_client(lab, group, client)


def node_js():
    """node and the two packages of package-lock.json; skips where they cannot be had."""
    for program in ("node", "npm"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed: run ./dev setup")
    NODE_JS.mkdir(parents=True, exist_ok=True)
    wanted = (TOP / "tests/e2e/nodejs/package-lock.json").read_bytes()
    done = NODE_JS / "installed.json"
    if not done.exists() or done.read_bytes() != wanted:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(TOP / "tests/e2e/nodejs" / name, NODE_JS / name)
        try:
            got = subprocess.run(["npm", "ci", "--ignore-scripts"], cwd=NODE_JS, text=True,
                                 capture_output=True, timeout=60)
        except subprocess.TimeoutExpired:
            pytest.skip("the npm registry does not answer within a minute")
        if got.returncode:
            last = (got.stderr.strip().splitlines() or ["npm ci failed"])[0]
            pytest.skip(f"the npm registry does not give the client's packages: {last}")
        done.write_bytes(wanted)
    shutil.copy(TOP / "tests/e2e/nodejs/client.js", NODE_JS / "client.js")
    return ["node", str(NODE_JS / "client.js"), str(TOP / "proto")]


def test_mesh_service_by_node_js(lab, group, client):
    command = node_js()
    check_client(lab, group, lambda *args: client(*args, command=command))


def test_ctl_lists(lab, group):
    lab.member("n3p2", group)
    lab.wait_route("n1", group, remotes=["n3"])
    assert lab.json("member", "list", "--group", group)["members"][0]["node"] == "n3"
    assert {"segment": 1, "group": group, "nodes": ["n3"]} in lab.json("group", "list")["groups"]
    by_controller = [r for r in lab.json("route", "list", "--node", "n1")["routes"]
                     if r["group"] == group]
    by_agent = [r for r in lab.json("fib", "list", agent="n1")["routes"] if r["group"] == group]
    assert by_controller == by_agent
    ports = lab.json("port", "list", agent="n3")["ports"]
    assert {(p["name"], p["segment"], p["state"]) for p in ports} == \
        {("n3p1", 1, "UP"), ("n3p2", 1, "UP")}


def test_explain(lab, group):
    lab.member("n3p2", group)
    lab.wait_route("n3", group, ports=["n3p2"])
    yes = lab.json("explain", "--group", group, "--port", "n3p2", agent="n3")
    no = lab.json("explain", "--group", group, "--port", "n3p1", agent="n3")
    assert yes["delivered"] is True and yes["reasons"]
    assert no["delivered"] is False and no["reasons"]


def test_exit_codes(lab):
    assert lab.verified()
    assert lab.ctl("no", "such").returncode == 2
    for word, args in (("node", ["route", "list", "--node", "nobody"]),
                       ('"10.1.1.1"', ["group", "list", "--group", "10.1.1.1"]),
                       ('"10.1.1.1"', ["watch", "--group", "10.1.1.1"])):
        wrong = lab.ctl(*args)
        assert wrong.returncode == 1 and word in wrong.stderr, args
        assert len(wrong.stderr.strip().splitlines()) == 1, args


def test_verify_while_an_agent_is_away(lab):
    """Nothing is known to be wrong with its node; who asks for that one is told."""
    lab.command("stop", "agent", "n3")
    try:
        lab.wait("it says who was not compared", lambda: lab.ctl("verify").stderr ==
                 "mcmeshctl: 1 of 3 nodes not compared: their agents are not connected\n")
        assert lab.ctl("verify").returncode == 0
        nodes = {n["name"]: n for n in lab.json("verify")["nodes"]}
        assert nodes["n1"]["ok"] and nodes["n3"]["ok"]
        assert nodes["n3"]["detail"] == "not connected: not compared" != nodes["n1"]["detail"]
        one = lab.ctl("verify", "--node", "n3")
        assert one.returncode == 1 and "not connected" in one.stderr
    finally:
        lab.command("start", "agent", "n3")
    lab.wait("all are compared", lab.verified, 10)


def test_iperf_unmodified(lab, group):
    """iperf 2 as Debian ships it, across nodes."""
    tap = lab.tap("n2p1")
    server = subprocess.Popen(topo.enter("n2p1", "iperf", "-s", "-u", "-B", group, "-p", "5002",
                                         "-i", "1"), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
    try:
        lab.wait_route("n1", group, remotes=["n2"])
        client = lab.exec("n1p1", "iperf", "-c", group, "-u", "-T", "8", "-p", "5002", "-t", "1",
                          "-b", "4M", "-l", "1000")
        assert client.returncode == 0, client.stdout
        sent = int(re.search(r"Sent (\d+) datagrams", client.stdout)[1])

        def arrived():
            """Numbers of iperf's end are negative."""
            return [n for n, in (struct.unpack_from("!i", p) for p in
                                 udp_payloads(tap.drain(), group, 5002)) if n >= 0]

        lab.wait(lambda: f"{sent} packets, but {Sequence(arrived())}",
                 lambda: len(arrived()) >= sent - 2)
        assert Sequence(arrived()).whole and sent > 100, Sequence(arrived())
    finally:
        server.send_signal(signal.SIGINT)
        try:
            output, _ = server.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            server.kill()
            output, _ = server.communicate()
    reports = [line for line in output.splitlines() if "%)" in line]
    assert reports, output
    lost, total = reports[-1].split("ms")[-1].split("(")[0].split("/")
    # It changes to another socket after the first packet, and loses what comes meanwhile.
    assert int(lost) <= int(total) // 4 and int(total) > 100, output


# ---- wrong ways to start ----------------------------------------------------


class Agent:
    """An agent beside the lab's, in node n1's namespace unless told otherwise."""

    def __init__(self, tmp_path, prefix=(), **config):
        base = {"node": "extra", "vtep": "203.0.113.99", "controllers": [],
                "socket": str(tmp_path / "agent.sock"), "state_dir": str(tmp_path),
                "bpf_root": "/sys/fs/bpf/mcmesh-lab/extra", "overlay": {"device": "extra0",
                                                                        "port": 4799},
                "ports": [{"match": "nothing*", "segment": 1}]}
        base.update(config)
        file, self.log = tmp_path / "agent.yaml", tmp_path / "agent.log"
        file.write_text("\n".join(programs.yaml_lines(base)) + "\n")
        self.socket = base["socket"]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                topo.enter("c1", *prefix, programs.program("mcmesh-agent"), "--config", str(file)),
                stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def text(self):
        return self.log.read_text(errors="replace")

    def ctl(self, *args):
        return subprocess.run([programs.program("mcmeshctl"), "--agent", f"unix:{self.socket}",
                               "-o", "json", *args], capture_output=True, text=True, timeout=10)

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        pins = pathlib.Path("/sys/fs/bpf/mcmesh-lab/extra")
        if pins.is_dir():
            for directory, _, files in os.walk(pins, topdown=False):
                for name in files:
                    os.unlink(os.path.join(directory, name))
                os.rmdir(directory)
        subprocess.run(topo.enter("c1", "ip", "link", "del", "extra0"), capture_output=True)


@pytest.fixture
def agent(lab, tmp_path):
    started = []

    def start(prefix=(), **config):
        started.append(Agent(tmp_path, prefix, **config))
        return started[-1]

    yield start
    for one in started:
        one.end()


def refused(lab, agent, *words):
    lab.wait("the agent ends", lambda: agent.process.poll() is not None, 10)
    assert agent.process.returncode not in (0, -signal.SIGSEGV, -signal.SIGABRT)
    for word in words:
        assert word in agent.text(), agent.text()
    assert len(agent.text().strip().splitlines()) <= 5


def test_wrong_configuration(lab, agent):
    refused(lab, agent(vtep="300.1.1.1"), "vtep", "300.1.1.1")


def test_unknown_key(lab, agent):
    refused(lab, agent(nodde="n1"), "nodde")


def test_socket_for_a_group(lab, agent, tmp_path):
    folder = tmp_path / "run"
    one = agent(socket=str(folder / "agent.sock"), socket_group="daemon")
    lab.wait("it answers", lambda: one.ctl("port", "list").returncode == 0, 10)
    daemon = grp.getgrnam("daemon").gr_gid
    made, sock = folder.stat(), (folder / "agent.sock").stat()
    assert (made.st_mode & 0o7777, made.st_gid) == (0o750, daemon)
    assert (sock.st_mode & 0o7777, sock.st_gid) == (0o660, daemon)
    assert (folder / "agent.sock.lock").exists()


def test_socket_for_a_group_that_is_none(lab, agent):
    refused(lab, agent(socket_group="nobody-has-this"), "socket_group", "nobody-has-this")


def test_pattern_that_matches_nothing(lab, agent):
    one = agent()
    lab.wait("it answers", lambda: one.ctl("port", "list").returncode == 0, 10)
    assert json.loads(one.ctl("port", "list").stdout)["ports"] == []
    assert "pattern" in one.text(), "it does not say that no interface matches"


def test_one_pattern_of_several_that_matches_nothing(lab, agent):
    """Told once, and of those that match nothing."""
    with sockets.namespace("c1"):
        subprocess.run(["ip", "link", "add", "extra1", "type", "veth", "peer", "name", "extra2"],
                       check=True)
    try:
        one = agent(ports=[{"match": "extra1", "segment": 1}, {"match": "typo*", "segment": 7}])
        lab.wait("it answers", lambda: one.ctl("port", "list").returncode == 0, 10)
        assert len(json.loads(one.ctl("port", "list").stdout)["ports"]) == 1
        said = [line for line in one.text().splitlines() if "pattern" in line]
        assert len(said) == 1 and 'match="typo*"' in said[0], one.text()
        one.end()
    finally:
        with sockets.namespace("c1"):
            subprocess.run(["ip", "link", "del", "extra1"])


def test_controller_not_reachable(lab, agent):
    """Keeps trying, works meanwhile, and says so once."""
    one = agent(controllers=["203.0.113.249:1"])
    lab.wait("it answers", lambda: one.ctl("port", "list").returncode == 0, 10)
    lab.wait("it says so", lambda: "203.0.113.249" in one.text(), 20)
    end = time.monotonic() + 3

    def tries_go_on():
        assert one.process.poll() is None
        return time.monotonic() > end

    lab.wait("three seconds passed", tries_go_on)
    said = [line for line in one.text().splitlines() if "203.0.113.249" in line]
    assert len(said) <= 2, one.text()


def test_no_privileges(lab, agent):
    refused(lab, agent(prefix=["setpriv", "--bounding-set=-all", "--inh-caps=-all",
                               "--no-new-privs"]))


def test_bpffs_is_not_mounted(lab, agent):
    """Mounts it, or says what is missing: in a mount namespace without one."""
    one = agent(prefix=["unshare", "--mount", "--propagation", "private", "sh", "-c",
                        'umount -l /sys/fs/bpf; exec "$0" "$@"'])
    lab.wait("it runs or says why not", lambda: one.process.poll() is not None or
             one.ctl("port", "list").returncode == 0, 10)
    if one.process.poll() is not None:
        refused(lab, one, "bpf")


def test_second_agent_on_a_node(lab, agent):
    first = programs.pid_of(programs.RUN / "n1")
    config = programs.agent_config(programs.load(), "n1")
    second = agent(**config)
    refused(lab, second)
    assert programs.pid_of(programs.RUN / "n1") == first
    assert lab.ready()


def test_sentences_of_the_lab(lab):
    for args, code in ((["exec", "n9", "true"], 1), (["stop", "agent", "n9"], 1),
                       (["up", "--nodes", "0"], 2), (["nonsense"], 2), (["up"], 1)):
        done = lab_command(*args, check=False)
        assert done.returncode == code and len(done.stderr.strip().splitlines()) == 1, args
    assert lab_command("exec", "n1p1", "sh", "-c", "exit 42", check=False).returncode == 42
    with sockets.namespace("n1p1"):
        addresses = subprocess.run(["ip", "-br", "addr", "show", "eth0"], capture_output=True,
                                   text=True).stdout
    assert "198.18.1.1/" in addresses and "fd00:198:18:1::1/" in addresses
