# SPDX-License-Identifier: Apache-2.0
"""deploy/kubernetes/etcd.yaml: a controller on each box, which share an etcd and, as replicas
of a Deployment do, a certificate that has the Service's name and no address."""
import os

import certificates
import pods
import programs
import pytest
from box import CONTROLLER_PORT, SHORT
from conftest import CONTROLLER_SECRET, HOLD_MS, pair, secret

SERVICE = "mcmesh-controller.mcmesh.svc"
ETCD_SECRET = "/run/secrets/mcmesh-etcd-tls"


def start_etcd(mesh):
    box, folder = mesh.n1, "/run/etcd-tls"
    certificates.pki("etcd", "e1", "--host", box.address, directory=mesh.pki)
    secret(box, folder, pair(mesh.pki, "e1"))
    url, peer = f"https://{box.address}:2379", "http://127.0.0.1:2380"
    files = [f"--trusted-ca-file={folder}/ca.crt", f"--cert-file={folder}/tls.crt",
             f"--key-file={folder}/tls.key", "--client-cert-auth"]
    box.run("sh", "-c", 'nohup "$@" >/run/etcd.log 2>&1 & echo $! >/run/etcd.pid', "sh",
            programs.ETCD_PROGRAM, "--name", "e1", "--data-dir", "/run/etcd",
            "--listen-client-urls", url, "--advertise-client-urls", url,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"e1={peer}", "--logger", "zap", *files, *programs.ETCD_SPEED)
    # A kubelet starts a controller again until it finds its store; podman does not.
    mesh.wait(lambda: box.run("cat", "/run/etcd.log").stdout, lambda: not box.run(
        "bash", "-c", f"</dev/tcp/{box.address}/2379", check=False).returncode)


@pytest.fixture(scope="module")
def several(whole):
    if not os.access(programs.ETCD_PROGRAM, os.X_OK):
        pytest.skip("etcd is not installed: run ./dev setup")
    whole.stop()
    certificates.pki("controller", "service", "--host", SERVICE, directory=whole.pki)
    agent, controller = pods.ETCD.settings("agent"), pods.ETCD.settings("controller")
    agent.update(controllers=[f"{b.address}:{CONTROLLER_PORT}" for b in whole.boxes], gmp=SHORT)
    agent["tls"]["server_name"] = SERVICE  # the host of its controllers, in a cluster
    controller.update(hold_ms=HOLD_MS, store=f"etcd:{whole.n1.address}:2379")
    whole.give_settings(agent, controller)
    whole.server_name = SERVICE
    start_etcd(whole)
    for box in whole.boxes:
        for folder in (CONTROLLER_SECRET, ETCD_SECRET):
            secret(box, folder, pair(whole.pki, "service"))
        whole.start_controller(box, pods.ETCD)
        whole.start_agent(box)
    whole.wait_ready()
    yield whole
    whole.stop()
    whole.n1.run("sh", "-c", "kill $(cat /run/etcd.pid)")
    whole.server_name = ""
    whole.begin()


def holder(mesh, node):
    """The box whose controller has the node's agent, and the other."""
    def find():
        return [b for b in mesh.boxes if node in mesh.connected("--local", box=b)]
    [one] = mesh.wait(f"a controller has {node}", find)
    return one, mesh.n2 if one is mesh.n1 else mesh.n1


def test_controllers_ask_each_other(several, mesh, group):
    receiver = mesh.receiver(mesh.n2, "there", group, "mesh-ptp")
    mesh.wait_members(group, receiver)
    for node in ("n1", "n2"):
        _, other = holder(mesh, node)
        done = mesh.admin("route", "list", "--node", node, "--group", group, box=other)
        assert done.returncode == 0 and group in done.stdout, done.stderr


def test_one_of_them_dies(several, mesh, group):
    receiver = mesh.receiver(mesh.n2, "there", group, "mesh-bridge")
    sender = mesh.sender(mesh.n1, "sender", group, "mesh-bridge")
    mesh.wait_members(group, receiver)
    one, other = holder(mesh, "n1")
    late = mesh.new_group()

    def die():
        one.podman("kill", "--signal", "KILL", "controller")
        mesh.wait("the other has both", lambda: mesh.connected("--local", box=other) ==
                  {"n1", "n2"}, 20)
        mesh.receiver(mesh.n2, "late", late, "mesh-bridge")
        mesh.wait("n1 knows of a new member", lambda: mesh.n1.route(late)[1])
        one.podman("start", "controller")

    mesh.exact(receiver, mesh.stream(sender, [receiver], meanwhile=die))
