# SPDX-License-Identifier: Apache-2.0
"""One lab a session; every test leaves it as it found it. MCMESH_E2E_TLS=1: with TLS.

Nothing here sleeps to wait for something: it polls for the fact, with a
deadline. That nothing arrived is judged once a member got the last packet.
"""
import itertools
import json
import os
import pathlib
import select
import signal
import subprocess
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "deploy/lab"))
sys.path.insert(0, str(TOP / "tests/e2e"))

import apps  # noqa: E402
import certificates  # noqa: E402
import machines  # noqa: E402
import programs  # noqa: E402
import sockets  # noqa: E402
import topology as topo  # noqa: E402
import wireguard  # noqa: E402

# ./dev vmlab test: nodes are machines, which emulation makes slow.
MACHINES = "--machines" in os.environ.get("MCMESH_E2E_LAB", "")
# Their own tests, which ./dev vmlab matrix also runs without any.
COMPARED = MACHINES or "MCMESH_E2E_HERE" in os.environ
PATIENCE = 6 if COMPARED else 1
collect_ignore = [] if COMPARED else ["machines"]
if not os.environ.get("MCMESH_VMLAB_BPF"):
    collect_ignore.append("machines/test_bpf.py")

# Timers of a protocol that takes minutes, short enough to be waited for. The
# query interval is well above the response interval, as RFC 9776 8.3 wants.
QUERY_MS, RESPONSE_MS, LAST_MS, HOLD_MS = (6000, 2000, 800, 180000) if COMPARED else \
    (1500, 300, 150, 4000)
SETTINGS = (f"gmp.query_interval_ms={QUERY_MS}", f"gmp.query_response_interval_ms={RESPONSE_MS}",
            f"gmp.last_member_query_interval_ms={LAST_MS}")
MEMBERSHIP_S = (2 * QUERY_MS + 2 * RESPONSE_MS) / 1000
LEAVE_S = 2 * LAST_MS / 1000
# Of a lab with several controllers: agents have to come back within it when etcd was
# gone, also on a machine that is busy with other things.
HA_HOLD_MS = 2 * HOLD_MS
SLACK_S = 3 * PATIENCE
LAB_S = 120  # of a lab command: more than `up` waits, so that it is the one who says why
PACKETS = 50
ASKS, LATE = 3, "did not answer within"
TLS = os.environ.get("MCMESH_E2E_TLS", "0") not in ("", "0")


def lab_command(*args, check=True, **options):
    done = subprocess.run([sys.executable, TOP / "deploy/lab/lab.py", *args], text=True,
                          capture_output=True, timeout=LAB_S * PATIENCE, **options)
    if check:
        assert done.returncode == 0, f"lab {' '.join(args)}: {done.stderr}"
    return done


class Lab:
    """What tests see of the mesh."""

    def __init__(self):
        self.open = []
        self.numbers = itertools.count(1)

    def command(self, *args, check=True):
        return lab_command(*args, check=check)

    def exec(self, name, *line, timeout=30):
        return topo.call(name, line, timeout=timeout * PATIENCE)

    def ctl(self, *args, agent=None):
        return programs.ctl(list(args), agent, 30 * PATIENCE)

    def json(self, *args, agent=None):
        """A program that got no processor for seconds is asked again: how fast it answers
        is judged elsewhere."""
        for _ in range(ASKS):
            done = programs.ctl(["-o", "json", *args], agent, 20 * PATIENCE)
            if done.returncode == 0 or LATE not in done.stderr:
                break
        assert done.returncode == 0, f"mcmeshctl {' '.join(args)}: {done.stderr}"
        return json.loads(done.stdout)

    def wait(self, what, check, deadline_s=5):
        return programs.wait_until(what, check, deadline_s * PATIENCE)

    # ---- traffic ----

    def new_group(self):
        number = next(self.numbers)
        return f"239.10.{number // 250}.{number % 250 + 1}"

    def _track(self, sock):
        self.open.append(sock)
        return sock

    def member(self, *args, **options):
        return self._track(machines.new("Member", *args, **options))

    def sender(self, *args, **options):
        return self._track(machines.new("Sender", *args, **options))

    def tap(self, *args):
        return self._track(machines.new("Tap", *args))

    def close(self, *socks):
        for sock in socks or tuple(self.open):
            sock.close()
            self.open.remove(sock)

    def stream(self, sender, members, packets=PACKETS, interval_s=0.001, meanwhile=None,
               payload=b"", deadline_s=5):
        """Sends, and reads until every member has the last number. `meanwhile` is
        a generator that is advanced between packets; the stream lasts as long."""
        pace, first = sockets.Pace(interval_s), sender.sent
        while sender.sent < first + packets or meanwhile:
            select.select([m.sock for m in members], [], [], pace.remaining())
            for member in members:
                member.drain()
            if pace.due():
                sender.send(payload)
            if meanwhile and next(meanwhile, StopIteration) is StopIteration:
                meanwhile = None
        last = sender.sent - 1
        self.wait(lambda: f"{[m.name for m in members if m.last_number < last]} got number {last}",
                  lambda: all(m.drain().last_number >= last for m in members), deadline_s)
        return range(first, sender.sent)

    def exact(self, member, numbers):
        """Every number once."""
        got = {n: c for n, c in member.numbers.items() if n in numbers}
        missing = [n for n in numbers if n not in got]
        twice = [n for n, c in got.items() if c > 1]
        assert not missing and not twice, \
            f"{member.name}: of {len(numbers)} missing {missing[:10]}, more than once {twice[:10]}"

    # ---- state ----

    def memberships(self, node, group):
        rows = self.json("membership", "list", agent=node)["memberships"]
        return [row for row in rows if row["group"] == group]

    def route(self, node, group, source="*"):
        rows = self.json("fib", "list", agent=node)["routes"]
        for row in rows:
            if row["group"] == group and row["source"] == source:
                return set(row["ports"]), {r.split(":")[0] if "." in r else r
                                           for r in row["remotes"]}
        return set(), set()

    def wait_route(self, node, group, ports=(), remotes=(), source="*", deadline_s=5):
        """`remotes` are node names."""
        want = set(ports), {topo.vtep(r) for r in remotes}
        seen = None

        def check():
            nonlocal seen
            seen = self.route(node, group, source)
            return seen == want

        self.wait(lambda: f"route of {group} on {node} is {want}, is {seen}", check, deadline_s)

    def counters(self, node, prefixes=("gmp_", "drop_")):
        total = {}
        for row in self.json("counter", "list", agent=node)["counters"]:
            if row["name"].startswith(prefixes):
                total[row["name"]] = total.get(row["name"], 0) + int(row["packets"])
        return total

    def grown(self, node, before):
        return {k: v - before.get(k, 0) for k, v in self.counters(node).items()
                if v != before.get(k, 0)}

    def verified(self):
        """Every node was compared, and none differs."""
        done = self.ctl("verify")
        return done.returncode == 0 and not done.stderr

    def ready(self):
        return programs.not_ready(programs.load()) is None

    def routed_groups(self):
        """Groups that any node still forwards, link-local ones left out."""
        left = set()
        for node in programs.agents(programs.load()):
            for row in self.json("fib", "list", agent=node)["routes"]:
                if not row["group"].startswith(("224.0.0.", "ff02:")):
                    left.add((node, row["group"]))
        return left


ONE = (*os.environ.get("MCMESH_E2E_LAB", "").split(), "--controllers", "1", "--store", "sqlite")


def mesh_up(tls, *options):
    """`options`: of `lab up`; by default those in MCMESH_E2E_LAB, e.g. "--controllers 3"."""
    # Another way of the datapath for the whole suite: delivery=peer overlay.path=device …
    more = os.environ.get("MCMESH_E2E_AGENT_SET", "").split()
    settings = [f"--agent-set={s}" for s in (*SETTINGS, *more, "metrics=127.0.0.1:9798")] + \
        [f"--controller-set={s}" for s in (f"hold_ms={HOLD_MS}", "metrics=127.0.0.1:9797")]
    options = options or os.environ.get("MCMESH_E2E_LAB", "").split()
    lab_command("down")
    up = lab_command("up", *settings, *(["--tls"] if tls else []), *options, check=False)
    if up.returncode:
        pytest.exit(f"the lab does not come up: {up.stderr}", returncode=1)


@pytest.fixture(scope="session")
def mesh():
    mesh_up(TLS)
    yield Lab()
    lab_command("down")


@pytest.fixture(scope="module")
def tls_mesh(mesh):
    """For the tests of one file, the lab is one with TLS, and one controller."""
    mesh_up(True, *ONE)
    yield mesh
    mesh_up(TLS)


@pytest.fixture(scope="module")
def one_controller(mesh):
    """For the tests of one file: one controller and its file."""
    if programs.controllers(programs.load()) != ["c1"]:
        mesh_up(TLS, *ONE)
    yield mesh
    if os.environ.get("MCMESH_E2E_LAB"):
        mesh_up(TLS)


@pytest.fixture(scope="module")
def ha_mesh(mesh):
    """For the tests of one file: three controllers and three members of etcd."""
    if not os.access(programs.ETCD_PROGRAM, os.X_OK):
        pytest.skip("etcd is not installed: run ./dev setup")
    mesh_up(TLS, "--controllers", "3", f"--controller-set=hold_ms={HA_HOLD_MS}")
    yield mesh
    mesh_up(TLS)


@pytest.fixture(scope="module")
def wireguard_mesh(mesh):
    """For the tests of one file: all that machines say to each other is encrypted."""
    package = wireguard.missing()
    if package:
        pytest.skip(f"the Debian package {package} is not installed: run ./dev setup")
    options = os.environ.get("MCMESH_E2E_LAB", "").split()
    if "wireguard" not in options:
        mesh_up(TLS, *options, "--underlay", "wireguard")
    yield mesh
    if not MACHINES:  # there it is the last file, and starting takes minutes
        mesh_up(TLS)


@pytest.fixture
def wireguard_lab(wireguard_mesh, lab):
    return lab


def restore(lab):
    """What a test that failed halfway left stopped, cut or ended."""
    state = programs.load()
    kinds = {"etcd": programs.etcds(state), "controller": programs.controllers(state),
             "agent": programs.agents(state)}
    broken = (programs.RUN / "parted").exists()
    if broken:
        lab.command("heal", "n1")
    for name in itertools.chain(*kinds.values()):
        pid = programs.pid_of(programs.RUN / name)
        if pid and programs.is_stopped(pid):
            os.kill(pid, signal.SIGCONT)
            broken = True
        if topo.is_cut(name):
            topo.heal(name)
            broken = True
    for kind, names in kinds.items():
        gone = [name for name in names if not programs.pid_of(programs.RUN / name)]
        # At once: members of etcd answer when there are enough of them.
        for process in [subprocess.Popen([sys.executable, TOP / "deploy/lab/lab.py", "start",
                                          kind, name], stdout=subprocess.DEVNULL)
                        for name in gone]:
            assert process.wait(LAB_S) == 0, f"the lab has not all of {gone} again"
        broken = broken or gone
    if broken:
        lab.wait("the mesh comes back", lab.ready, 30)


@pytest.fixture
def ha_lab(ha_mesh, lab):
    yield lab
    restore(lab)


@pytest.fixture
def tls_lab(tls_mesh, lab):
    return lab


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    """Python's own code from our proto files, as any client would make it."""
    out = tmp_path_factory.mktemp("stubs")
    files = [str(p.relative_to(TOP / "proto")) for p in (TOP / "proto/mcmesh").rglob("*.proto")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I", TOP / "proto",
                    f"--python_out={out}", f"--grpc_python_out={out}", *files], check=True)
    return out


@pytest.fixture
def client(stubs):
    """client.py in a namespace: the JSON lines that it prints. `certificate` names one
    in the lab's pki, or is a map of cacert, cert, key; None: plaintext."""

    def run(*args, name="c1", certificate="admin" if TLS else None, command=None,
            target=f"{topo.controller_address('c1')}:{programs.PORT}"):
        files = certificates.files(certificate) if isinstance(certificate, str) else certificate
        env = {k: v for k, v in os.environ.items() if not k.startswith("MCMESH_C")}
        env.update({f"MCMESH_{k.upper()}": v for k, v in (files or {}).items()})
        env["PYTHONPATH"] = str(stubs)
        line = command or [sys.executable, str(TOP / "tests/e2e/client.py")]
        done = subprocess.run(topo.enter(name, *line, target, *map(str, args)), text=True,
                              capture_output=True, timeout=60, env=env)
        assert done.returncode == 0, done.stderr
        return [json.loads(row) for row in done.stdout.splitlines()]

    return run


MEASURED = []


@pytest.fixture
def measured(record_property):
    """measured("…"): said at the end of the run, by tests/run too."""

    def say(text):
        MEASURED.append(text)
        record_property("measured", text)

    return say


def pytest_terminal_summary(terminalreporter):
    if MEASURED:
        terminalreporter.section("measured")
    for text in MEASURED:
        terminalreporter.write_line(text)


@pytest.fixture
def app(lab, tmp_path):
    """app("n1p1", "iperf", …): a program in a workload, ended with the test."""
    directory, started = tmp_path / "apps", []
    directory.mkdir()

    def start(name, *line, env=None):
        started.append(apps.App(directory, name, line, env))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.fixture
def lab(mesh):
    yield mesh
    mesh.close()
    left = None

    def clean():
        nonlocal left
        left = mesh.routed_groups()
        return not left

    mesh.wait("the lab is whole again", mesh.ready, 10)
    mesh.wait(lambda: f"no routes are left: {left}", clean, MEMBERSHIP_S + LEAVE_S + SLACK_S)


@pytest.fixture
def group(mesh):
    return mesh.new_group()
