# SPDX-License-Identifier: Apache-2.0
"""The lab's programs: their configuration, start, and end by recorded pid.

State is in /run/mcmesh-lab: lab.json (how it was raised) and a folder a
program (agent.yaml, agent.log, agent.pid, …). A pid file holds the process's
start time too, so that a number that was used again is never signalled.
"""
import ctypes
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import certificates
import machines
import topology as topo
from topology import LabError

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN = pathlib.Path("/run/mcmesh-lab")
STATE = RUN / "lab.json"
BPFFS = pathlib.Path("/sys/fs/bpf")
PINS = BPFFS / "mcmesh-lab"
PORT = 7797
METRICS_PORTS = {"agent": 9798, "controller": 9797}
EVERYWHERE = "0.0.0.0"  # of a namespace, which only the lab reaches
ETCD_MEMBERS = 3
ETCD_PORT = 2379
ETCD_PEER_PORT = 2380
ETCD_PROGRAM = "/usr/bin/etcd"
# Faster than etcd's defaults by far, and still calm on a busy machine.
ETCD_SPEED = ("--heartbeat-interval", "50", "--election-timeout", "400", "--unsafe-no-fsync")
POLL_S = 0.03
STOP_S = 10
MNT_DETACH = 2


def binaries():
    return pathlib.Path(os.environ.get("MCMESH_BIN", ROOT / "build/release/bin"))


def program(name):
    path = binaries() / name
    if not path.exists():
        raise LabError(f"{path} is not there: run ./dev build, or name another place in MCMESH_BIN")
    return str(path)


def wait_until(what, check, deadline_s):
    """check() until it gives something true; what() or text says what was missing."""
    end = time.monotonic() + deadline_s
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            text = what() if callable(what) else what
            raise LabError(f"after {deadline_s} s still not: {text}")
        time.sleep(POLL_S)


# ---- state ------------------------------------------------------------------


def load():
    try:
        return json.loads(STATE.read_text())
    except FileNotFoundError:
        raise LabError("no lab is up: run ./dev lab up") from None


def save(state):
    RUN.mkdir(mode=0o755, exist_ok=True)
    STATE.write_text(json.dumps(state, indent=1) + "\n")


def agents(state):
    return topo.node_names(state["nodes"])


def controllers(state):
    return [f"c{i}" for i in range(1, state["controllers"] + 1)]


def etcds(state):
    return [f"e{i}" for i in range(1, ETCD_MEMBERS + 1)] if state["store"] == "etcd" else []


def folder(name, *inner):
    """A program's, for itself and its group: its sockets are in it, what they may is by it."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    path = RUN
    for part in (name, *inner):
        path = path / part
        path.mkdir(mode=0o750, exist_ok=True)
    return path


# ---- processes --------------------------------------------------------------


@machines.there(0)
def pid_of(directory):
    for file in pathlib.Path(directory).glob("*.pid"):
        pid, started = file.read_text().split()
        if machines.start_time(pid) == started:
            return int(pid)
    return None


def spawn(name, kind, command, directory=None):
    """`name`: whose namespace, and, unless `directory` says another, whose folder."""
    directory = folder(directory or name)
    if pid_of(directory):
        raise LabError(f"{kind} {name} runs already")
    with open(directory / f"{kind}.log", "ab") as log:
        process = subprocess.Popen(topo.enter(name, *command), stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log, start_new_session=True)
    started = machines.start_time(process.pid)
    (directory / f"{kind}.pid").write_text(f"{process.pid} {started}\n")
    return process


@machines.there(0)
def end(name, sig=signal.SIGTERM):
    """Signal a program and wait until it is gone; what ignores it is killed."""
    directory = RUN / name
    pid = pid_of(directory)
    if pid:
        os.kill(pid, sig)
        try:
            wait_until("gone", lambda: not pid_of(directory), STOP_S)
        except LabError:
            os.kill(pid, signal.SIGKILL)
            wait_until(f"{name} (pid {pid}) gone after SIGKILL",
                       lambda: not pid_of(directory), STOP_S)
    for file in directory.glob("*.pid"):
        file.unlink()
    return pid


# ---- configuration ----------------------------------------------------------


def apply_settings(config, settings):
    """["gmp.query_interval_ms=500", …] into nested maps."""
    for item in settings:
        key, sep, value = item.partition("=")
        if not sep or not key:
            raise LabError(f"a setting is KEY=VALUE, not '{item}'")
        *path, last = key.split(".")
        where = config
        for part in path:
            where = where.setdefault(part, {})
        try:
            where[last] = json.loads(value)
        except json.JSONDecodeError:
            where[last] = value


def yaml_lines(value, indent=""):
    """Enough YAML for our files: maps of maps, lists of scalars or flat maps."""
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += [f"{indent}{key}:", *yaml_lines(item, indent + "  ")]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            lines.append(f"{indent}{key}:")
            for row in item:
                inner = ", ".join(f"{k}: {json.dumps(v)}" for k, v in row.items())
                lines.append(f"{indent}  - {{ {inner} }}")
        elif isinstance(item, list):
            lines.append(f"{indent}{key}: [{', '.join(json.dumps(v) for v in item)}]")
        else:
            text = item if isinstance(item, str) and item.isalnum() and not item.isdigit() else \
                json.dumps(item)
            lines.append(f"{indent}{key}: {text}")
    return lines


def agent_config(state, node):
    config = {
        "node": node,
        "vtep": topo.vtep6(node) if state.get("ipv6_underlay") else topo.vtep(node),
        "controllers": [f"{topo.controller_address(c)}:{PORT}" for c in controllers(state)],
        "socket": str(RUN / node / "agent.sock"),
        "state_dir": str(RUN / node / "state"),
        "bpf_root": str(PINS / node),
        "metrics": f"{EVERYWHERE}:{METRICS_PORTS['agent']}",
        "ports": [{"match": f"{node}p*", "segment": 1}],
    }
    if state.get("tls"):
        config["tls"] = certificates.files(node)
    apply_settings(config, state["agent_set"])
    return config


def store_file(name):
    """Outlives the controller, ends with the lab."""
    return RUN / name / "state/controller.db"


def store_spec(state, name):
    if state["store"] == "sqlite":
        return f"sqlite:{store_file(name)}"
    members = [f"{topo.etcd_address(e)}:{ETCD_PORT}" for e in etcds(state)]
    return f"etcd:{','.join(members)}" if members else state["store"]


def controller_config(state, name):
    config = {
        "name": name,
        "listen": [f"{topo.controller_address(name)}:{PORT}"],
        "store": store_spec(state, name),
        "metrics": f"{EVERYWHERE}:{METRICS_PORTS['controller']}",
    }
    if state.get("tls"):
        config["tls"] = certificates.files(name)
        if etcds(state):
            config["etcd"] = certificates.files(name)
    apply_settings(config, state["controller_set"])
    return config


def metrics(state, name):
    """Where a program of the lab shows its metrics; None: nowhere."""
    if topo.ETCD.match(name):
        return None
    make = agent_config if topo.NODE.match(name) else controller_config
    where = make(state, name)["metrics"]
    return where and where.replace(EVERYWHERE, topo.host_addresses(name)[0])


def write_config(name, kind, config):
    path = folder(name) / f"{kind}.yaml"
    path.write_text("\n".join(yaml_lines(config)) + "\n")
    return str(path)


@machines.there(1, with_state=True)
def start_agent(state, node):
    folder(node, "state")
    config = write_config(node, "agent", agent_config(state, node))
    return spawn(node, "agent", [program("mcmesh-agent"), "--config", config])


def start_controller(state, name):
    folder(name, "state")
    config = write_config(name, "controller", controller_config(state, name))
    insecure = [] if state.get("tls") else ["--insecure"]
    return spawn(name, "controller",
                 [program("mcmesh-controller"), "--config", config, *insecure])


def start_etcd(state, name):
    scheme, tls = "http", []
    if state.get("tls"):
        scheme, files = "https", certificates.files(name)
        for prefix in ("", "peer-"):
            tls += [f"--{prefix}trusted-ca-file={files['cacert']}", f"--{prefix}client-cert-auth",
                    f"--{prefix}cert-file={files['cert']}", f"--{prefix}key-file={files['key']}"]
    client = f"{scheme}://{topo.etcd_address(name)}:{ETCD_PORT}"
    peers = {e: f"{scheme}://{topo.etcd_address(e)}:{ETCD_PEER_PORT}" for e in etcds(state)}
    return spawn(name, "etcd", [
        ETCD_PROGRAM, "--name", name, "--data-dir", str(RUN / name / "data"),
        "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", peers[name], "--initial-advertise-peer-urls", peers[name],
        "--initial-cluster", ",".join(f"{e}={url}" for e, url in peers.items()),
        "--logger", "zap", "--log-level", "warn", *tls, *ETCD_SPEED])


ASK = """
import ssl, sys, urllib.request
url, *files = sys.argv[1:]
context = None
if files:
    context = ssl.create_default_context(cafile=files[0])
    context.load_cert_chain(files[1], files[2])
print(urllib.request.urlopen(url, timeout=2, context=context).read().decode())
"""


def etcd_ask(name, path):
    """The text at a path of a member, asked from its own namespace; "" when there is none."""
    files = certificates.files("c1").values() if certificates.PKI.is_dir() else []
    url = f"http{'s' if files else ''}://{topo.etcd_address(name)}:{ETCD_PORT}/{path}"
    return subprocess.run(topo.enter(name, sys.executable, "-c", ASK, url, *files), text=True,
                          capture_output=True, timeout=20).stdout


def etcd_is_healthy(name):
    """True once the member has a cluster with a leader."""
    return '"true"' in etcd_ask(name, "health")


# ---- mcmeshctl --------------------------------------------------------------


def is_stopped(pid):
    """By SIGSTOP."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "Tt"
    except (FileNotFoundError, ProcessLookupError):
        return True


def live_controller(state):
    """One that runs, is not stopped and not cut off; the first when there is none."""
    names = controllers(state)
    for name in names if len(names) > 1 else []:
        pid = pid_of(RUN / name)
        if pid and not is_stopped(pid) and not topo.is_cut(name):
            return name
    return names[0]


def _ctl_line(args, agent, controller):
    """Both targets, as a command is for either; the agent's is a file, whatever the namespace."""
    controller = controller or live_controller(load())
    target = ["--controller", f"{topo.controller_address(controller)}:{PORT}"]
    if certificates.PKI.is_dir():
        target += certificates.arguments()
    if machines.node_of(agent):
        return "underlay", [program("mcmeshctl"), *target, "--agent",
                            f"{machines.address(agent)}:{machines.AGENT_PORT}", *args]
    if agent:
        target += ["--agent", f"unix:{RUN / agent / 'agent.sock'}"]
    return controller, [program("mcmeshctl"), *target, *args]


def ctl_command(args, agent=None, controller=None):
    name, line = _ctl_line(args, agent, controller)
    return topo.enter(name, *line)


def ctl(args, agent=None, timeout=20, controller=None):
    return topo.call(*_ctl_line(args, agent, controller), timeout=timeout)


def ctl_json(args, agent=None, timeout=20, controller=None):
    """The answer as Python objects, or None when the program says no, or nothing in time."""
    try:
        done = ctl(["-o", "json", *args], agent, timeout, controller)
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout) if done.returncode == 0 else None


def not_ready(state, seen=None):
    """What `up` still waits for, or None. `seen`: nodes whose ports were, not asked again."""
    ports = state["ports"]
    if state["controllers"]:
        answer = ctl_json(["node", "list"])
        if answer is None:
            return "the controller answers"
        good = {n["name"] for n in answer["nodes"] if n["state"] == "CONNECTED"}
        missing = [n for n in agents(state) if n not in good]
        if missing:
            return f"agent {missing[0]} is connected to the controller"
    seen = set() if seen is None else seen
    for node in (n for n in agents(state) if n not in seen):
        answer = ctl_json(["port", "list"], agent=node)
        if answer is None:
            return f"agent {node} answers"
        good = sum(p["state"] == "UP" for p in answer["ports"])
        if good < ports:
            return f"{ports} ports of {node} are UP ({good} are)"
        seen.add(node)
    return None


def died(state):
    for name in etcds(state) + controllers(state) + agents(state):
        if not pid_of(RUN / name):
            return name
    return None


@machines.there(0)
def log_tail(name, lines=8):
    text = ""
    for file in (RUN / name).glob("*.log"):
        text += "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
    return text


def wait_ready(state, deadline_s):
    missing, seen = "", set()

    def ready():
        nonlocal missing
        dead = died(state)
        if dead:
            raise LabError(f"{dead} ended:\n{log_tail(dead)}")
        missing = not_ready(state, seen)
        return missing is None

    wait_until(lambda: missing, ready, deadline_s)


# ---- bpffs and everything at once -------------------------------------------


def pins(node):
    """Of that node's agent, whatever the number of the layout."""
    return next((PINS / node).glob("v*"))


def _mount(source, target, kind):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), str(target).encode(), kind.encode(), 0, None):
        raise LabError(f"mount {kind} on {target}: {os.strerror(ctypes.get_errno())}")


def mount_bpffs():
    """True when it was not there before."""
    mounted = not os.path.ismount(BPFFS)
    if mounted:
        _mount("bpf", BPFFS, "bpf")
    PINS.mkdir(mode=0o700, exist_ok=True)
    return mounted


def _umount(target):
    if ctypes.CDLL(None, use_errno=True).umount2(str(target).encode(), MNT_DETACH):
        raise LabError(f"unmount {target}: {os.strerror(ctypes.get_errno())}")


def _rmtree_pins():
    while os.path.ismount(PINS):  # an agent that found no bpffs there made one
        _umount(PINS)
    if not PINS.is_dir():
        return
    for directory, _, files in os.walk(PINS, topdown=False):
        for name in files:
            os.unlink(os.path.join(directory, name))
        os.rmdir(directory)


def _umount_bpffs():
    """Ours, unless somebody else pins in it by now; *.debug is the kernel's."""
    if os.path.ismount(BPFFS) and all(p.suffix == ".debug" for p in BPFFS.iterdir()):
        _umount(BPFFS)


def _end_strays():
    """Programs that someone left in the lab's namespaces with `exec`."""
    for name in topo.existing():
        for sig in (signal.SIGTERM, signal.SIGKILL):
            pids = subprocess.run(["ip", "netns", "pids", topo.netns(name)], capture_output=True,
                                  text=True).stdout.split()
            alive = [int(p) for p in pids if int(p) != os.getpid() and machines.start_time(p)]
            for pid in alive:
                try:
                    os.kill(pid, sig)
                except ProcessLookupError:
                    pass
            if not alive:
                break
            try:
                wait_until("", lambda: not any(machines.start_time(p) for p in alive), 2)
            except LabError:
                continue
            break


def down():
    """Ends and removes all that a lab is made of; whatever is there of it."""
    mounted = False
    try:
        mounted = load().get("mounted_bpffs", False)
    except (LabError, ValueError):
        pass
    machines.down()
    if RUN.is_dir():
        for directory in sorted(RUN.iterdir()):
            if directory.is_dir():
                end(directory.name)
    _end_strays()
    topo.down()
    _rmtree_pins()
    if mounted:
        _umount_bpffs()
    shutil.rmtree(RUN, ignore_errors=True)
