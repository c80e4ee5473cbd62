#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""./dev bench control: the control plane at size, release programs on loopback.

  --quick        a fifth of the agents, a sixth of the time: does it work at all
  --store LIST   of memory, sqlite, etcd (three members, two controllers); all
                 that this build has
  --case LIST    of mesh, crowd, churn; all

Agents are simulated (tests/swarm), each with a connection of its own. They take
one of the machine's cores, the controller another: on a machine with other
work, run it again. Every process is ended by its id.
"""
import argparse
import json
import os
import pathlib
import platform
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "deploy/lab"))

from lab import print_table  # noqa: E402

BIN = pathlib.Path(os.environ.get("MCMESH_BIN", TOP / "build/release/bin"))
SWARM = TOP / "build/release/bin/mcmesh-swarm"
START_DEADLINE_S = 20
END_DEADLINE_S = 10
ANSWER_SLACK_S = 60
RESTART_DEADLINE_S = 60
SYNC_DEADLINE_S = 240
ETCD_MEMBERS = 3
HOLD_S = 15  # for so long a store that began empty counts as incomplete
KEPT = 0.1  # of the memory, and the MB below: how much of a growth is noise
KEPT_MB = 8


class BenchError(Exception):
    """What went wrong, in a sentence."""


class Missing(Exception):
    """This build has no such store."""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(what, check, deadline_s):
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if check():
            return
        time.sleep(0.02)  # poll interval
    raise BenchError(f"{what}: not within {deadline_s} s")


def listening(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """`cpu`: the only one that it may run on. With two cores and two programs that wake each
    other the scheduler often puts both on one, where agents would be other machines."""

    def __init__(self, line, cpu=None, **options):
        self.line = [str(word) for word in line]
        if cpu is not None:
            options["preexec_fn"] = lambda: os.sched_setaffinity(0, {cpu})
        self.process = subprocess.Popen(self.line, **options)

    def alive(self):
        return self.process.poll() is None

    def end(self, number=signal.SIGTERM):
        if self.alive():
            self.process.send_signal(number)
        try:
            self.process.wait(END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def memory_mb(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0

    def cpu_s(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Controller(Process):
    """One controller; start() again after a kill is the same one."""

    def __init__(self, scratch, name, store, settings, cpu=None):
        self.port, self.cpu = free_port(), cpu
        self.config = scratch / f"{name}.yaml"
        self.config.write_text(f'listen: ["127.0.0.1:{self.port}"]\nstore: "{store}"\n'
                               f"name: {name}\ninsecure: yes\nhold_ms: {HOLD_S * 1000}\n"
                               "log_level: warning\n" + settings)
        self.errors = scratch / f"{name}.log"
        self.start()

    def start(self):
        with self.errors.open("ab") as errors:
            super().__init__([BIN / "mcmesh-controller", "--config", self.config], self.cpu,
                             stderr=errors)
        wait_until("the controller listens", lambda: not self.alive() or listening(self.port),
                   START_DEADLINE_S)
        if not self.alive():
            why = self.errors.read_text(errors="replace").strip().splitlines()[-1:]
            raise Missing(why[0] if why else "the controller ends at once")

    def target(self):
        return f"127.0.0.1:{self.port}"


class Swarm(Process):
    def __init__(self, controllers, cpu=None, **options):
        line = [SWARM, "--commands"]
        for controller in controllers:
            line += ["--controller", controller.target()]
        for key, value in options.items():
            line += [f"--{key}", value]
        super().__init__(line, cpu, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *words, deadline_s=ANSWER_SLACK_S):
        self.process.stdin.write(" ".join(str(w) for w in words) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], deadline_s)[0]:
            raise BenchError(f"the swarm does not answer '{words[0]}' within {deadline_s} s")
        line = self.process.stdout.readline()
        if not line:
            raise BenchError(f"the swarm ended during '{words[0]}'")
        return json.loads(line)

    def sync(self, sessions=0, deadline_s=SYNC_DEADLINE_S):
        answer = self.ask("sync", sessions, deadline_s, deadline_s=deadline_s + ANSWER_SLACK_S)
        if not answer["ok"]:
            raise BenchError(f"not in step after {deadline_s} s: {answer['up']} of "
                             f"{answer['agents']} agents have a session")
        return answer


class Etcd:
    """Three members in a folder of their own."""

    def __init__(self, scratch):
        if not shutil.which("etcd"):
            raise Missing("etcd is not installed")
        ports = [(free_port(), free_port()) for _ in range(ETCD_MEMBERS)]
        cluster = ",".join(f"e{i}=http://127.0.0.1:{peer}" for i, (_, peer) in enumerate(ports))
        self.members = []
        for i, (client, peer) in enumerate(ports):
            with (scratch / f"etcd{i}.log").open("wb") as log:
                self.members.append(Process(
                    ["etcd", "--name", f"e{i}", "--data-dir", scratch / f"etcd{i}",
                     "--listen-client-urls", f"http://127.0.0.1:{client}",
                     "--advertise-client-urls", f"http://127.0.0.1:{client}",
                     "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                     "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                     "--initial-cluster", cluster, "--initial-cluster-state", "new",
                     "--quota-backend-bytes", str(4 << 30)],
                    stdout=log, stderr=log))
        self.spec = "etcd:" + ",".join(f"127.0.0.1:{client}" for client, _ in ports)
        self.client = ports[0][0]
        wait_until("etcd is healthy", self.healthy, START_DEADLINE_S)

    def healthy(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.client}/health", timeout=2) as r:
                return b'"true"' in r.read()
        except OSError:
            return False

    def end(self):
        for member in self.members:
            member.end()


class Mesh:
    """Store, controllers and swarm of one case."""

    def __init__(self, kind, settings="", **swarm):
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="mcmesh-bench-"))
        self.etcd, self.controllers, self.swarm = None, [], None
        self.began = time.monotonic()
        try:
            spec = kind if kind == "memory" else f"sqlite:{self.scratch}/mesh.db"
            if kind == "etcd":
                self.etcd = Etcd(self.scratch)
                spec = self.etcd.spec
            cpus = sorted(os.sched_getaffinity(0))
            alone = kind != "etcd" and len(cpus) > 1
            for i in range(2 if kind == "etcd" else 1):
                self.controllers.append(Controller(self.scratch, f"c{i + 1}", spec, settings,
                                                  cpus[0] if alone else None))
            self.swarm = Swarm(self.controllers, cpus[1] if alone else None, **swarm)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for part in (self.swarm, *self.controllers, self.etcd):
            if part:
                part.end()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def memory_mb(self):
        return max(c.memory_mb() for c in self.controllers)


class Results:
    def __init__(self):
        self.rows = []

    def add(self, case, figure, value, unit, most=None):
        ok = None if most is None else value <= most
        self.rows.append({"case": case, "figure": figure, "value": round(value, 3), "unit": unit,
                          "target": most, "ok": ok})
        say = "" if ok is None else "ok" if ok else "MISSED"
        print(f"  {figure}: {value:.6g} {unit} {say}", flush=True)

    def table(self):
        rows = [("CASE", "FIGURE", "VALUE", "TARGET", "")]
        for r in self.rows:
            target = "" if r["target"] is None else f"≤ {r['target']:g}"
            rows.append((r["case"], r["figure"], f"{r['value']:g} {r['unit']}", target,
                         {None: "", True: "ok", False: "MISSED"}[r["ok"]]))
        return rows


def spent(mesh, do):
    """What it answers, and the processor seconds of the first controller and of the swarm."""
    before = mesh.controllers[0].cpu_s(), mesh.swarm.cpu_s(), time.monotonic()
    answer = do()
    return (answer, mesh.controllers[0].cpu_s() - before[0], mesh.swarm.cpu_s() - before[1],
            time.monotonic() - before[2])


def changes(results, case, mesh, count, limit_ms, percentile="p99"):
    mesh.swarm.ask("idle", 1000)
    _, *idle, idle_s = spent(mesh, lambda: mesh.swarm.ask("idle", 3000))
    answer, *busy, busy_s = spent(mesh, lambda: mesh.swarm.ask(
        "change", count, 150, deadline_s=count * 2 + ANSWER_SLACK_S))
    # Robust where the machine has other work: a change's share of what was spent.
    for who, rest, all_of_it in zip(("controller", "swarm"), idle, busy):
        us = (all_of_it - rest * busy_s / idle_s) * 1e6 / count / answer["agents"]
        results.add(case, f"{who}'s processor time for each agent and change", us, "us")
    if not answer["ok"]:
        raise BenchError("a single change was not acknowledged by all")
    for which, what in (("told", "the last agent told"), ("acked", "the last acknowledgement")):
        ms = answer[f"{which}_ms"]
        results.add(case, f"one change to {what}, p50", ms["p50"], "ms")
        most = limit_ms if which == "acked" else None
        results.add(case, f"one change to {what}, {percentile}", ms[percentile], "ms", most)


def restart(results, case, mesh, resumes):
    """kill -9 of one controller, and the same again."""
    before = mesh.swarm.ask("stats")
    victim = mesh.controllers[0]
    agents, others = before["agents"], len(mesh.controllers) - 1
    left = mesh.began + HOLD_S + 2 - time.monotonic()
    mesh.swarm.ask("idle", max(1000, int(left * 1000)))
    before = mesh.swarm.sync()
    killed_at = time.monotonic()
    victim.end(signal.SIGKILL)
    victim.start()
    if others:  # agents that had the other one keep it
        wait_until("agents miss the controller that was killed",
                   lambda: mesh.swarm.ask("stats")["lost"] > before["lost"], START_DEADLINE_S)
        after = mesh.swarm.sync(0, RESTART_DEADLINE_S)
    else:
        after = mesh.swarm.sync(before["sync_sessions"] + agents, RESTART_DEADLINE_S)
    results.add(case, "kill -9 of a controller to all in step", after["at"] - killed_at, "s", 5)
    results.add(case, "snapshot chunks after it",
                after["sync_snapshots"] - before["sync_snapshots"], "", 0 if resumes else None)
    results.add(case, "withdrawals after it", after["withdrawals"] - before["withdrawals"], "", 0)


def case_mesh(results, kind, o):
    agents, groups = (200, 20) if o.quick else (1000, 100)
    case = f"{agents} agents x {groups} groups, {kind}"
    print(case, flush=True)
    with Mesh(kind, agents=agents, groups=groups) as mesh:
        answer = mesh.swarm.sync()
        results.add(case, "all at once to full sync", answer["acked_s"], "s")
        results.add(case, "controller memory", mesh.memory_mb(), "MB")
        changes(results, case, mesh, 40 if o.quick else 200, 30)
        restart(results, case, mesh, kind != "memory")
        results.add(case, "inconsistent rows", mesh.swarm.ask("stats")["inconsistent"], "", 0)


def case_crowd(results, kind, o):
    agents, groups = (1000, 2) if o.quick else (5000, 2)
    case = f"{agents} agents x {groups} groups, {kind}"
    print(case, flush=True)
    # At 600 ms, heartbeats alone would take a third of a core at each end.
    with Mesh(kind, "heartbeat_ms: 2000\nstale_ms: 7000\n", agents=agents,
              groups=groups) as mesh:
        answer = mesh.swarm.sync()
        results.add(case, "all at once to full sync", answer["acked_s"], "s")
        results.add(case, "controller memory", mesh.memory_mb(), "MB")
        changes(results, case, mesh, 20 if o.quick else 150, 250)


class Sampler(threading.Thread):
    """Memory once a second; its last answer is the whole list."""

    def __init__(self, mesh):
        super().__init__(daemon=True)
        self.mesh, self.samples, self.done = mesh, [], threading.Event()

    def run(self):
        while not self.done.wait(1):
            self.samples.append(self.mesh.memory_mb())

    def end(self):
        self.done.set()
        self.join()
        return self.samples


def case_churn(results, kind, o, segments, rate):
    agents, groups, seconds = (200, 20, 10) if o.quick else (1000, 20, 60)
    segments = min(segments, agents // 10)
    where = f"{segments} segments" if segments > 1 else "one segment"
    case = f"{rate} changes/s, {agents} agents in {where}, {kind}"
    print(case, flush=True)
    with Mesh(kind, agents=agents, groups=groups, segments=segments) as mesh:
        mesh.swarm.sync()
        cpu, sampler = [c.cpu_s() for c in mesh.controllers], Sampler(mesh)
        sampler.start()
        answer = mesh.swarm.ask("churn", rate, seconds, deadline_s=seconds + ANSWER_SLACK_S)
        samples = sampler.end()
        busy = max(c.cpu_s() - b for c, b in zip(mesh.controllers, cpu))
    if not answer["ok"]:
        raise BenchError("the agents were not in step 30 s after the churn")
    results.add(case, "changes a second", answer["changes_a_second"], "")
    results.add(case, "report to acceptance, p50", answer["accept_ms"]["p50"], "ms")
    results.add(case, "report to acceptance, p99", answer["accept_ms"]["p99"], "ms")
    results.add(case, "accepted to the last agent told, p50", answer["told_all_ms"]["p50"], "ms")
    results.add(case, "accepted to the last agent told, p99", answer["told_all_ms"]["p99"], "ms",
                1000)
    results.add(case, "in step after the end", answer["drained_s"], "s", 2)
    results.add(case, "controller processor time", 100 * busy / seconds, "%")
    quarter = max(1, len(samples) // 4)
    early = statistics.median(samples[quarter:2 * quarter] or samples)
    late = statistics.median(samples[-quarter:])
    results.add(case, "controller memory, 2nd quarter", early, "MB")
    results.add(case, "controller memory, last quarter", late, "MB", early * (1 + KEPT) + KEPT_MB)
    results.add(case, "sessions lost", answer["lost"], "", 0)


def parse(args):
    parser = argparse.ArgumentParser(prog="./dev bench control", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--store", default="memory,sqlite,etcd")
    parser.add_argument("--case", default="mesh,crowd,churn")
    o = parser.parse_args(args)
    o.store, o.case = o.store.split(","), o.case.split(",")
    for name in set(o.store) - {"memory", "sqlite", "etcd"}:
        parser.error(f"no store '{name}': memory, sqlite, etcd")
    for name in set(o.case) - {"mesh", "crowd", "churn"}:
        parser.error(f"no case '{name}': mesh, crowd, churn")
    return o


def run_store(results, kind, o):
    if "mesh" in o.case:
        case_mesh(results, kind, o)
    if "crowd" in o.case:
        case_crowd(results, kind, o)
    if "churn" in o.case:
        # What an etcd cluster on one machine's disk commits is another figure.
        case_churn(results, kind, o, 20, 10000 if kind != "etcd" else 1000)
        if kind == "memory":
            case_churn(results, kind, o, 1, 10000 if o.quick else 5000)


def main():
    o = parse(sys.argv[1:])
    # As an exception, so that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    results, failed = Results(), []
    for kind in o.store:
        try:
            run_store(results, kind, o)
        except Missing as why:
            print(f"left out: {kind}: {why}")
        except BenchError as why:
            failed.append(f"{kind}: {why}")
            print(f"FAILED {failed[-1]}")
    print()
    print_table(results.table())
    missed = [r for r in results.rows if r["ok"] is False]
    out = TOP / "build/bench-control.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"kernel": platform.release(), "cores": os.cpu_count(),
                               "quick": o.quick, "results": results.rows, "failed": failed},
                              indent=1) + "\n")
    print(f"\n{len(results.rows)} figures, {len(missed)} targets missed, {len(failed)} cases "
          f"failed; written to {out}")
    return 1 if missed or failed else 0


if __name__ == "__main__":
    sys.exit(main())
