# SPDX-License-Identifier: Apache-2.0
"""Two boxes with an agent each, in containers of the image that `./dev image` makes, as the
pods of deploy/kubernetes have it, and a controller beside one of them; TLS between."""
import concurrent.futures
import itertools
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time

import pytest
import yaml

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "deploy/lab"))
sys.path.insert(0, str(TOP / "tests/containers"))

import box as boxes_of  # noqa: E402
import certificates  # noqa: E402
import pods  # noqa: E402
import programs  # noqa: E402
import sockets  # noqa: E402

NEEDED = {"podman": "podman", "crun": "crun", "unshare": "util-linux", "socat": "socat",
          f"{boxes_of.CNI_PLUGINS}/bridge": "containernetworking-plugins"}
IMAGE = "localhost/mcmesh"
# An agent is away for seconds where the machine is busy, and its members stay.
HOLD_MS = 60000
CONTROLLER_SECRET = "/run/secrets/mcmesh-controller-tls"


def secret(box, folder, files):
    """As a kubelet lays a Secret: ..data leads to a folder, and is replaced by a rename. With
    fsGroup, 7797 may read it."""
    number = time.monotonic_ns()
    for name, text in files.items():
        box.write(f"{folder}/..{number}/{name}", text)
    box.run("sh", "-ec", f"""cd {folder}
        chgrp -R 7797 ..{number}; chmod 0440 ..{number}/*
        ln -s ..{number} ..data_tmp; mv -T ..data_tmp ..data
        for f in {' '.join(files)}; do [ -e $f ] || ln -s ..data/$f $f; done""")


def pair(directory, name):
    return {"ca.crt": (directory / "ca.pem").read_text(),
            "tls.crt": (directory / f"{name}.pem").read_text(),
            "tls.key": (directory / f"{name}.key").read_text()}


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """The image's file: MCMESH_IMAGE, or made now."""
    if os.geteuid():
        pytest.skip("namespaces and BPF need root")
    for program, package in NEEDED.items():
        if not shutil.which(program):
            pytest.skip(f"{program} is not there: install {package} (./dev setup)")
    if os.environ.get("MCMESH_IMAGE"):
        yield pathlib.Path(os.environ["MCMESH_IMAGE"])
        return
    file = tmp_path_factory.mktemp("image") / "mcmesh.oci.tar"
    done = subprocess.run([TOP / "dev", "image", file], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    yield file
    file.unlink()  # pytest keeps its folders for a while


@pytest.fixture(scope="session")
def workload(tmp_path_factory):
    """A root with socat and what it needs, packed."""
    root = tmp_path_factory.mktemp("workload")
    subprocess.run([TOP / "deploy/container/closure", root, "/usr/bin/socat"], check=True)
    shutil.copy("/usr/bin/socat", root / "usr/bin/socat")
    file = tmp_path_factory.mktemp("packed") / "workload.tar"
    subprocess.run(["tar", "-C", root, "-cf", file, "."], check=True)
    shutil.rmtree(root)
    yield file
    file.unlink()


@pytest.fixture(scope="session")
def machines(archive, workload, tmp_path_factory):
    """Two boxes with the images; no mesh yet."""
    folder = tmp_path_factory.mktemp("boxes")
    shutil.copy(archive, folder / "mcmesh.oci.tar")
    shutil.copy(workload, folder / "workload.tar")
    made = []
    try:
        for number in (1, 2):
            made.append(boxes_of.Box(number, folder))
        boxes_of.join(*made)
        for box in made:
            pack = box.podman("import", "--quiet", folder / "workload.tar", "localhost/workload",
                              check=False)
            done = pack if pack.returncode else box.podman(
                "run", "--rm", "--network", "none", "localhost/workload", "/usr/bin/socat", "-V",
                check=False)
            if done.returncode:
                pytest.skip(f"podman cannot run a container here: {done.stderr.strip()}")
            said = box.podman("load", "--quiet", "--input", folder / "mcmesh.oci.tar").stdout
            box.podman("tag", said.split()[-1], IMAGE)
            # "bridge" alone would be podman's own, with the same addresses on each machine.
            for name, plugin in (("mesh-bridge", {"type": "bridge", "bridge": "cni0",
                                                  "isGateway": True}),
                                 ("mesh-ptp", {"type": "ptp"})):
                box.write(f"/run/cni/net.d/{name}.conflist",
                          boxes_of.json.dumps(boxes_of.network(box, name, plugin)))
        yield made
    except boxes_of.NoBox as why:
        pytest.skip(str(why))
    finally:
        for box in made:
            box.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def pki(machines, tmp_path_factory):
    directory = tmp_path_factory.mktemp("pki")
    certificates.pki("ca", directory=directory)
    certificates.pki("controller", "c1", "--host", machines[0].address, directory=directory)
    certificates.pki("operator", "admin", "--role", "admin", directory=directory)
    for box in machines:
        certificates.pki("node", box.name, "--vtep", box.address, directory=directory)
    return directory


class Mesh:
    """What tests see."""

    def __init__(self, machines, pki):
        self.boxes, self.pki = machines, pki
        self.n1, self.n2 = machines
        self.numbers = itertools.count(1)
        self.things = []
        self.server_name = ""

    def new_group(self):
        return f"239.20.0.{next(self.numbers)}"

    def wait(self, what, check, deadline_s=10):
        return programs.wait_until(what, check, deadline_s)

    def _track(self, thing):
        self.things.append(thing)
        return thing

    def receiver(self, *args):
        return self._track(boxes_of.Receiver(*args))

    def sender(self, *args):
        return self._track(boxes_of.Sender(*args))

    def pod(self, box, name, kind="mesh-ptp"):
        conf = boxes_of.json.loads(box.run("cat", f"/run/cni/net.d/{kind}.conflist").stdout)
        return self._track(boxes_of.Pod(box, name, conf))

    def remove(self, thing):
        thing.remove()
        self.things.remove(thing)

    def remove_namespace(self, pod):
        pod.box.run("ip", "netns", "del", pod.name)
        self.things.remove(pod)

    def clear(self):
        for thing in reversed(self.things):
            thing.remove()
        self.things.clear()

    def start_agent(self, box):
        health = ("--health-cmd", boxes_of.json.dumps(boxes_of.AGENT_HEALTH),
                  "--health-interval", "disable")
        box.podman(*pods.SQLITE.run(box, "agent", IMAGE, extra=health))

    def start_controller(self, box=None, manifest=pods.SQLITE):
        box = box or self.n1
        box.podman(*manifest.run(box, "controller", IMAGE))

    def stop(self):
        for box in self.boxes:
            for name in ("agent", "controller"):
                box.podman("rm", "--force", "--ignore", "--time", "10", name)

    def give_settings(self, agent, controller):
        for box in self.boxes:
            box.write("/run/config/mcmesh-agent/agent.yaml", yaml.safe_dump(agent))
            box.write("/run/config/mcmesh-controller/controller.yaml", yaml.safe_dump(controller))
            secret(box, pods.MOVED["/etc/mcmesh/tls"], pair(self.pki, box.name))

    def begin(self):
        """As deploy/kubernetes/sqlite.yaml has it, but for addresses and times."""
        agent, controller = pods.SQLITE.settings("agent"), pods.SQLITE.settings("controller")
        agent.update(controllers=[f"{self.n1.address}:{boxes_of.CONTROLLER_PORT}"],
                     gmp=boxes_of.SHORT)
        controller.update(hold_ms=HOLD_MS)
        self.give_settings(agent, controller)
        secret(self.n1, CONTROLLER_SECRET, pair(self.pki, "c1"))
        self.start_controller()
        for box in self.boxes:
            self.start_agent(box)
        self.wait_ready()

    def wait_ready(self):
        try:
            self.wait("the mesh is up", self.ready, 20)
        except Exception as error:
            said = [b.logs(name) for b in self.boxes for name in ("agent", "controller")]
            raise AssertionError("\n".join([str(error), *said])) from None

    def admin(self, *args, box=None):
        """mcmeshctl asks the controller on a box, n1's by default."""
        box = box or self.n1
        files = {k: str(self.pki / f) for k, f in
                 (("cacert", "ca.pem"), ("cert", "admin.pem"), ("key", "admin.key"))}
        # The box does not see the folder of the certificates; only its network is needed.
        line = ["nsenter", f"--target={box.pid}", "--net", "--", programs.program("mcmeshctl"),
                "--controller", f"{box.address}:{boxes_of.CONTROLLER_PORT}",
                *[f"--{k}={v}" for k, v in files.items()], "-o", "json", *args]
        if self.server_name:
            line.append(f"--server-name={self.server_name}")
        return subprocess.run(line, text=True, capture_output=True, timeout=30)

    def renew(self, name, *options):
        """Another certificate of the same authority, as a Secret's entries."""
        certificates.pki("controller", name, *options, directory=self.pki)
        return pair(self.pki, name)

    def served_certificate(self):
        """The PEM of what the controller shows to who connects."""
        done = subprocess.run(
            ["nsenter", f"--target={self.n1.pid}", "--net", "--", "openssl", "s_client",
             "-connect", f"{self.n1.address}:{boxes_of.CONTROLLER_PORT}", "-alpn", "h2"],
            text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=20)
        return done.stdout[done.stdout.index("-----BEGIN"):].split("-----END")[0]

    def connected(self, *args, box=None):
        done = self.admin("node", "list", *args, box=box)
        if done.returncode:
            return set()
        return {n["name"] for n in boxes_of.json.loads(done.stdout)["nodes"]
                if n["state"] == "CONNECTED"}

    def ready(self):
        return self.connected() == {"n1", "n2"} and all(b.json("status") for b in self.boxes)

    def wait_members(self, group, *receivers):
        """Every receiver's port is a member, and every node with others knows of them."""
        def check():
            for box in self.boxes:
                here = sum(r.box is box for r in receivers)
                ports, remotes = box.route(group)
                there = any(r.box is not box for r in receivers)
                if len(ports) != here or bool(remotes) != there:
                    return False
            return True
        self.wait(lambda: f"{group} is routed: {[b.route(group) for b in self.boxes]}", check)

    def stream(self, sender, receivers, packets=100, interval_s=0.005, meanwhile=None):
        """At least so many, and as long as `meanwhile`, a function, takes; returns the
        numbers, once every receiver has the last."""
        first, pace = sender.sent, sockets.Pace(interval_s)
        with concurrent.futures.ThreadPoolExecutor(1) as other:
            work = other.submit(meanwhile or (lambda: None))
            while sender.sent < first + packets or not work.done():
                select.select([], [], [], pace.remaining())
                if pace.due():
                    sender.send()
            work.result()
        last = sender.sent - 1
        self.wait(lambda: f"all have number {last}: {[(r.name, r.last()) for r in receivers]}",
                  lambda: all(r.last() >= last for r in receivers))
        return range(first, sender.sent)

    def exact(self, receiver, numbers):
        got = receiver.numbers()
        missing = [n for n in numbers if not got[n]]
        twice = [n for n in numbers if got[n] > 1]
        assert not missing and not twice, \
            f"{receiver.name}: of {len(numbers)} missing {len(missing)}: {missing[:10]}, " \
            f"twice {twice[:10]}"


@pytest.fixture(scope="session")
def whole(machines, pki):
    mesh = Mesh(machines, pki)
    mesh.begin()
    return mesh


@pytest.fixture
def mesh(whole):
    yield whole
    whole.clear()
    whole.wait("the mesh is whole again", whole.ready, 20)
    whole.wait("no ports are left", lambda: not any(b.ports() for b in whole.boxes))


@pytest.fixture
def group(whole):
    return whole.new_group()
