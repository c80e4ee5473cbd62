# SPDX-License-Identifier: Apache-2.0
"""Agent and controller as containers: what the image is, what it needs, and restarts."""
import json
import os
import subprocess

import pytest
from conftest import CONTROLLER_SECRET, IMAGE, TOP, secret
from pods import AGENT_CAPABILITIES, SQLITE

IMAGE_BYTES_MAX = 60 << 20
NUMBERS = {"NET_ADMIN": 12, "NET_RAW": 13, "PERFMON": 38, "BPF": 39}


def capabilities(box, container):
    pid = box.inspect(container, ".State.Pid")
    rows = dict(line.split(":\t") for line in box.run("cat", f"/proc/{pid}/status").stdout
                .splitlines() if ":\t" in line)
    return {k: int(rows[k], 16) for k in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")}, rows


def test_image(machines):
    box = machines[0]
    image = json.loads(box.podman("image", "inspect", IMAGE).stdout)[0]
    labels = image["Labels"]
    assert labels["org.opencontainers.image.title"] == "mcmesh"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    said = box.podman("run", "--rm", "--network", "none", IMAGE, "/usr/sbin/mcmesh-agent",
                      "--version").stdout
    assert said.split()[-1] == labels["org.opencontainers.image.version"]
    assert image["User"] == "7797:7797" and image["Size"] < IMAGE_BYTES_MAX
    shell = box.podman("run", "--rm", "--network", "none", IMAGE, "/bin/sh", "-c", ":",
                       check=False)
    assert shell.returncode, "there is a shell in the image"
    mounted = box.podman("image", "mount", IMAGE).stdout.strip()
    packages = box.run("ls", f"{mounted}/var/lib/dpkg/status.d").stdout.split()
    licences = box.run("ls", f"{mounted}/usr/share/doc").stdout.split()
    box.podman("image", "umount", IMAGE)
    assert {"libc6", "libssl3", "libbpf1"} <= set(packages)
    assert set(packages) | {"mcmesh"} == set(licences), "each has its copyright file"


def test_same_tree_gives_the_same_image(archive, tmp_path):
    if os.environ.get("MCMESH_IMAGE"):
        pytest.skip("the image in MCMESH_IMAGE may be of another tree")
    again = tmp_path / "again.oci.tar"
    subprocess.run([TOP / "dev", "image", again], check=True, capture_output=True)

    def digest(file):
        index = subprocess.run(["tar", "-xOf", file, "index.json"], check=True,
                               capture_output=True).stdout
        return json.loads(index)["manifests"][0]["digest"]
    try:
        assert digest(again) == digest(archive)
    finally:
        again.unlink()


def test_rights(mesh):
    """The agent has what its pod lists, the controller nothing, and is not root."""
    listed = sum(1 << NUMBERS[name] for name in AGENT_CAPABILITIES)
    bits, rows = capabilities(mesh.n1, "agent")
    assert bits == {"CapPrm": listed, "CapEff": listed, "CapBnd": listed, "CapInh": 0,
                    "CapAmb": 0}
    assert rows["NoNewPrivs"] == "1"
    bits, rows = capabilities(mesh.n1, "controller")
    assert not any(bits.values()) and rows["NoNewPrivs"] == "1"
    assert rows["Uid"].split() == ["7797"] * 4


@pytest.mark.parametrize("missing", AGENT_CAPABILITIES)
def test_each_capability_is_needed(mesh, missing):
    """Without one of them the agent ends, and says which it needs."""
    mesh.n2.podman("stop", "--time", "10", "agent")
    try:
        rest = [name for name in AGENT_CAPABILITIES if name != missing]
        mesh.n2.podman(*SQLITE.run(mesh.n2, "agent", IMAGE, "poor", rest))
        assert mesh.n2.podman("wait", "poor").stdout.strip() == "1"
        assert f"CAP_{missing}" in mesh.n2.logs("poor")
    finally:
        mesh.n2.podman("rm", "--force", "--time", "0", "poor", check=False)
        mesh.n2.podman("start", "agent")


def test_health(mesh):
    check = ("healthcheck", "run", "agent")
    assert mesh.n2.podman(*check, check=False).returncode == 0
    pid = mesh.n2.inspect("agent", ".State.Pid")
    mesh.n2.run("kill", "-STOP", pid)
    try:
        assert mesh.n2.podman(*check, check=False).returncode != 0
    finally:
        mesh.n2.run("kill", "-CONT", pid)


PROBE = """
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=float(sys.argv[2])).read()
"""


@pytest.mark.parametrize("name", ["agent", "controller"])
def test_probes(mesh, name):
    """As the kubelet of n1 asks: they succeed, and fail when the program hangs."""
    spec = SQLITE.container(name)
    ports = {p["name"]: p["containerPort"] for p in spec["ports"]}

    def probe(which, timeout_s=None):
        http = spec[which]["httpGet"]
        url = f"http://{http.get('host', mesh.n1.address)}:{ports[http['port']]}{http['path']}"
        return mesh.n1.run("python3", "-c", PROBE, url, timeout_s or spec[which]["timeoutSeconds"],
                           check=False).returncode == 0

    assert probe("livenessProbe") and probe("readinessProbe")
    pid = mesh.n1.inspect(name, ".State.Pid")
    mesh.n1.run("kill", "-STOP", pid)
    try:
        assert not probe("livenessProbe", 1) and not probe("readinessProbe", 1)
    finally:
        mesh.n1.run("kill", "-CONT", pid)


def replace(mesh, box):
    """An upgrade: the container is removed, and one from the image takes its place."""
    before = box.json("status")["startCount"]
    box.podman("rm", "--force", "--time", "10", "agent")
    mesh.start_agent(box)
    mesh.wait("the new agent answers",
              lambda: (box.json("status") or {}).get("startCount", before) != before)
    assert "adopted=yes" in box.logs("agent")


def kill(mesh, box):
    box.podman("kill", "--signal", "KILL", "agent")
    box.podman("start", "agent")
    mesh.wait("it answers again", lambda: box.json("status"))


@pytest.mark.parametrize("how", [replace, kill])
def test_agent_restarts_without_loss(mesh, group, how):
    here = mesh.receiver(mesh.n1, "here", group, "mesh-bridge")
    there = mesh.receiver(mesh.n2, "there", group, "mesh-ptp")
    sender = mesh.sender(mesh.n1, "sender", group, "mesh-ptp")
    mesh.wait_members(group, here, there)
    numbers = mesh.stream(sender, [here, there], meanwhile=lambda: how(mesh, mesh.n1))
    mesh.exact(here, numbers)
    mesh.exact(there, numbers)
    numbers = mesh.stream(sender, [here, there], meanwhile=lambda: how(mesh, mesh.n2))
    mesh.exact(here, numbers)
    mesh.exact(there, numbers)


def test_controller_is_replaced(mesh, group):
    """Its volume has the mesh; what was joined meanwhile comes through."""
    before = mesh.receiver(mesh.n2, "before", group, "mesh-ptp")
    sender = mesh.sender(mesh.n1, "sender", group, "mesh-ptp")
    mesh.wait_members(group, before)
    late = mesh.new_group()

    def begin_anew():
        mesh.n1.podman("rm", "--force", "--time", "10", "controller")
        mesh.receiver(mesh.n2, "late", late, "mesh-ptp")
        mesh.start_controller()
        mesh.wait("agents are back", lambda: mesh.connected() == {"n1", "n2"})
        mesh.wait("n1 knows of the late one", lambda: mesh.n1.route(late)[1])

    mesh.exact(before, mesh.stream(sender, [before], meanwhile=begin_anew))


def test_secret_is_replaced(mesh, group):
    """As a kubelet does it, by the link ..data; what connects then comes with the new one."""
    before = mesh.n1.logs("controller").count("the TLS files were read again")
    renewed = mesh.renew("c1", "--host", mesh.n1.address)
    secret(mesh.n1, CONTROLLER_SECRET, renewed)
    mesh.wait("the controller has read them", lambda: mesh.n1.logs("controller").count(
        "the TLS files were read again") > before)
    assert mesh.served_certificate() == renewed["tls.crt"].split("-----END")[0]
