# SPDX-License-Identifier: Apache-2.0
"""A box: a machine that runs containers, made of namespaces.

It has processes, mounts, a network, a bpffs, cgroups and container storage of its own, so
that podman, CNI plugins and the agent use their usual paths in it. Two of them are joined
by a veth. All of it ends with the box's first process (init.py), which ends with the test.
"""
import collections
import json
import os
import pathlib
import subprocess
import sys

import programs
import topology as topo

TOP = pathlib.Path(__file__).resolve().parents[2]
UPLINK = "uplink0"
CNI_PLUGINS = "/usr/lib/cni"
CONTROLLER_PORT = 7797
WORKLOAD_MTU = 1450
AGENT_HEALTH = ["/usr/bin/mcmeshctl", "--agent", "unix:/run/mcmesh/agent.sock", "status"]
SHORT = {"query_interval_ms": 1500, "query_response_interval_ms": 300,
         "last_member_query_interval_ms": 150}
# cgroups are the machine's affair: there may be none that can be written.
ENGINE = """
[containers]
cgroups = "disabled"
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "crun"
[network]
network_backend = "cni"
network_config_dir = "/run/cni/net.d"
cni_plugin_dirs = ["/usr/lib/cni"]
"""


class NoBox(Exception):
    """Why this machine cannot have one."""


class Box:
    def __init__(self, number, folder):
        self.number, self.name = number, f"n{number}"
        self.address = f"203.0.113.{number}"
        self.subnet = f"198.18.{number}.0/24"
        self.folder = pathlib.Path(folder)
        self.unshare = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--fork",
             "--kill-child", "--mount-proc", "--propagation", "private", "--", sys.executable,
             str(pathlib.Path(__file__).with_name("init.py")), self.name, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = self.unshare.stdout.readline().strip()
        if said != "ready":
            self.close()
            raise NoBox(f"namespaces of a box: {said}")
        children = pathlib.Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children")
        self.pid = int(children.read_text().split()[0])
        self.write("/run/containers.conf", ENGINE)

    def close(self):
        self.unshare.stdin.close()
        try:
            self.unshare.wait(10)
        except subprocess.TimeoutExpired:
            self.unshare.kill()
            self.unshare.wait()
        self.unshare.stdout.close()

    # ---- commands ----

    def line(self, *command):
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--uts", "--ipc",
                "--cgroup", "--", *map(str, command)]

    def run(self, *command, check=True, stdin=None, env=None, timeout=60):
        base = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/run/home", "TMPDIR": "/tmp",
                "CONTAINERS_CONF": "/run/containers.conf"}
        done = subprocess.run(self.line(*command), input=stdin, text=True, capture_output=True,
                              env={**base, **(env or {})}, timeout=timeout, cwd="/")
        if check:
            assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
        return done

    def write(self, path, text):
        self.run("sh", "-c", f"mkdir -p {os.path.dirname(path)} && cat > {path}", stdin=text)

    def podman(self, *args, **options):
        return self.run("podman", "--storage-driver", "overlay", *args, **options)

    def inspect(self, container, what):
        return self.podman("inspect", "--format", "{{" + what + "}}", container).stdout.strip()

    def links(self, pattern="veth"):
        rows = json.loads(self.run("ip", "-json", "link").stdout)
        return {row["ifname"] for row in rows if row["ifname"].startswith(pattern)}

    def logs(self, container):
        done = self.podman("logs", container)
        return done.stdout + done.stderr

    # ---- what the agent says ----

    def ctl(self, *args):
        # From outside: the program's place may not be seen in the box.
        socket = f"unix:/proc/{self.pid}/root/run/mcmesh/agent.sock"
        return subprocess.run([programs.program("mcmeshctl"), "--agent", socket, "-o", "json",
                               *args], text=True, capture_output=True, timeout=30)

    def json(self, *args):
        done = self.ctl(*args)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def ports(self):
        answer = self.json("port", "list")
        return {p["name"]: p["state"] for p in answer["ports"]} if answer else {}

    def members(self, group):
        """Ports with a membership of the group."""
        answer = self.json("membership", "list", "--group", group)
        return {m["port"] for m in answer["memberships"]} if answer else set()

    def route(self, group):
        for row in (self.json("fib", "list", "--group", group) or {"routes": []})["routes"]:
            if row["source"] == "*":
                return set(row["ports"]), set(row["remotes"])
        return set(), set()


def join(one, other):
    """A cable between two boxes. The command enters only the network, so it names the
    other by its number outside."""
    topo.run(["nsenter", f"--target={one.pid}", "--net", "ip", "link", "add", UPLINK, "type",
              "veth", "peer", "name", UPLINK, "netns", str(other.pid)])
    for box, peer in ((one, other), (other, one)):
        box.run("sh", "-ec", f"""
            ip link set lo up
            ip addr add {box.address}/24 dev {UPLINK}
            ip link set {UPLINK} up
            echo 1 > /proc/sys/net/ipv4/ip_forward
            ip route add {peer.subnet} via {peer.address}""")


# ---- networks of containers ---------------------------------------------------


def network(box, name, plugin):
    """A CNI configuration, as both podman and a kubelet would read it."""
    half = {"bridge": 0, "ptp": 128}[plugin["type"]]
    return {"cniVersion": "0.4.0", "name": name, "plugins": [{
        **plugin, "mtu": WORKLOAD_MTU,
        "ipam": {"type": "host-local", "dataDir": "/run/cni/networks",
                 "ranges": [[{"subnet": f"198.18.{box.number}.{half}/25"}]],
                 "routes": [{"dst": "0.0.0.0/0"}]}}]}


class Pod:
    """What a kubelet makes: a network namespace that a CNI plugin wires, and outlives the
    containers in it."""

    def __init__(self, box, name, conf):
        self.box, self.name = box, name
        self.path = f"/run/netns/{name}"
        self.conf = dict(conf["plugins"][0], name=conf["name"], cniVersion=conf["cniVersion"])
        box.run("ip", "netns", "add", name)
        box.run("ip", "-n", name, "link", "set", "lo", "up")
        self.result = json.loads(self.cni("ADD"))

    def cni(self, command):
        return self.box.run(
            f"{CNI_PLUGINS}/{self.conf['type']}", stdin=json.dumps(self.conf),
            env={"CNI_COMMAND": command, "CNI_CONTAINERID": self.name, "CNI_NETNS": self.path,
                 "CNI_IFNAME": "eth0", "CNI_PATH": CNI_PLUGINS}).stdout

    @property
    def port(self):
        return next(i["name"] for i in self.result["interfaces"] if i["name"].startswith("veth"))

    def remove(self):
        self.cni("DEL")
        self.box.run("ip", "netns", "del", self.name)


# ---- programs in containers ---------------------------------------------------


class Receiver:
    """socat in a container, which appends what the group sends to a file."""

    def __init__(self, box, name, group, network_name):
        self.box, self.name, self.group = box, name, group
        self.file = box.folder / name
        self.file.write_text("")
        box.podman("run", "--detach", "--name", name, "--network", network_name,
                   "--volume", f"{box.folder}:/io", "localhost/workload", "/usr/bin/socat", "-u",
                   f"UDP4-RECV:5000,reuseaddr,ip-add-membership={group}:eth0",
                   f"OPEN:/io/{name},append")

    def numbers(self):
        """Number -> how often it came."""
        lines = self.file.read_text().split("\n")[:-1]
        return collections.Counter(int(line) for line in lines)

    def last(self):
        return max(self.numbers(), default=-1)

    def restart(self):
        self.box.podman("restart", "--time", "0", self.name)

    def remove(self):
        self.box.podman("rm", "--force", "--time", "0", self.name)


class Sender:
    """socat in a container; each number that it is given becomes a packet."""

    def __init__(self, box, name, group, network_name):
        self.box, self.name = box, name
        self.fifo = box.folder / name
        os.mkfifo(self.fifo)
        self.pipe = os.open(self.fifo, os.O_RDWR)
        self.sent = 0
        box.podman("run", "--detach", "--name", name, "--network", network_name,
                   "--volume", f"{box.folder}:/io", "localhost/workload", "/usr/bin/socat", "-u",
                   f"OPEN:/io/{name},rdonly", f"UDP4-DATAGRAM:{group}:5000,ip-multicast-ttl=8")

    def send(self):
        os.write(self.pipe, b"%d\n" % self.sent)
        self.sent += 1

    def remove(self):
        self.box.podman("rm", "--force", "--time", "0", self.name)
        os.close(self.pipe)
        self.fifo.unlink()
