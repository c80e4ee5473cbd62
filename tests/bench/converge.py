#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""./dev bench converge [LAB OPTION…]: times of change in a 3-node lab, release programs.

Options are those of `./dev lab up`, e.g. --tls or --store sqlite."""
import argparse
import json
import os
import pathlib
import platform
import select
import subprocess
import sys
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "deploy/lab"))

import programs  # noqa: E402
import topology as topo  # noqa: E402
from lab import print_table  # noqa: E402

JOINS = 200
GROUPS = 1000
SWARM = TOP / "build/release/bin/mcmesh-swarm"
SWARM_DEADLINE_S = 120
CROWD_FACTOR = 2
LAB = [sys.executable, str(TOP / "deploy/lab/lab.py")]
PAUSE_MS = 200
# name, mode, sender, receiver, count, interval in us, pause before each in ms
CASES = (
    ("across nodes, 1 packet/ms", "one", "n1p1", "n2p1", JOINS, 1000, 0),
    ("across nodes, 10 packets/ms", "one", "n1p1", "n2p1", JOINS, 100, 0),
    ("same node, 1 packet/ms", "one", "n1p1", "n1p2", JOINS, 1000, 0),
    ("1,000 groups at once, across", "bulk", "n1p1", "n2p1", GROUPS, 5000, 0),
)
# What the presence of others costs. Without a pause each join comes while 1,000 nodes
# are told of the last one, and it is their load that is measured.
PAUSED = tuple((f"{name}, at rest", *case, PAUSE_MS) for name, *case, _ in CASES[:3])


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p / 100))]


def summary(values_ns):
    ms = [v / 1e6 for v in values_ns]
    return {"n": len(ms), **{f"p{p}_ms": round(percentile(ms, p), 3) for p in (50, 95, 99)},
            "max_ms": round(max(ms), 3)}


def measure(program, mode, sender, receiver, count, interval_us, pause_ms):
    done = subprocess.run([program, mode, f"mcm-{sender}", f"mcm-{receiver}", str(count),
                           str(interval_us), str(pause_ms)], capture_output=True, text=True,
                          timeout=300)
    if done.returncode:
        raise SystemExit(f"bench: {mode}: {done.stderr.strip()}")
    return [[int(v) for v in line.split()] for line in done.stdout.splitlines()]


def swarm_answer(swarm, deadline_s):
    if not select.select([swarm.stdout], [], [], deadline_s)[0]:
        raise SystemExit(f"bench: the swarm is not in step after {deadline_s} s")
    answer = json.loads(swarm.stdout.readline() or "{}")
    if not answer.get("ok"):
        raise SystemExit(f"bench: the swarm could not get in step: {answer}")
    return answer


def swarm_start(o):
    """Its nodes are at addresses that nothing answers at: nobody sends to their groups."""
    target = f"{topo.controller_address('c1')}:{programs.PORT}"
    swarm = subprocess.Popen(
        topo.enter("c1", str(SWARM), "--controller", target, "--agents", str(o.swarm),
                   "--groups", str(o.groups), "--vtep", "10.0.0.1", "--commands"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    swarm.stdin.write(f"sync 0 {SWARM_DEADLINE_S}\n")
    swarm.stdin.flush()
    swarm_answer(swarm, SWARM_DEADLINE_S + 60)
    # In a real mesh it is other machines: it must not take the agents' processors.
    os.setpriority(os.PRIO_PROCESS, swarm.pid, 19)
    autogroup = pathlib.Path(f"/proc/{swarm.pid}/autogroup")
    if autogroup.exists():
        autogroup.write_text("19")
    return swarm


def memory_mb(name):
    pid = programs.pid_of(programs.RUN / name)
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def restart_s():
    """From the start of an agent on what it had to its answer; the swarm's members are in it."""
    subprocess.run([*LAB, "stop", "agent", "n3"], check=True, stdout=subprocess.DEVNULL)
    begin = time.monotonic()
    subprocess.run([*LAB, "start", "agent", "n3"], check=True, stdout=subprocess.DEVNULL)
    programs.wait_until("the agent is back", lambda: programs.not_ready(programs.load()) is None,
                        SWARM_DEADLINE_S)
    return time.monotonic() - begin


def cases(program, cases_, results, rows, suffix=""):
    for name, *case in cases_:
        lines = measure(program, *case)
        results[name + suffix] = {"join_to_first": summary([line[0] for line in lines])}
        if case[0] == "one":
            results[name + suffix]["leave_to_last"] = summary([line[1] for line in lines])
        for what, s in results[name + suffix].items():
            rows.append((name + suffix, what.replace("_", " "), *s.values()))


def crowded(program, o, results, rows):
    """The same among many others; True when p99 is within twice the empty mesh's."""
    suffix = f", {o.swarm} other nodes, {o.swarm * o.groups} members"
    before, empty_s, ok = memory_mb("n1"), restart_s(), True
    swarm = swarm_start(o)
    try:
        cases(program, CASES[:3] + PAUSED, results, rows, suffix)
        results["agent"] = {"empty_mb": round(before, 1), "crowded_mb": round(memory_mb("n1"), 1),
                            "empty_restart_s": round(empty_s, 2),
                            "crowded_restart_s": round(restart_s(), 2)}
    finally:
        swarm.terminate()
        swarm.wait(30)
    for name, *_ in PAUSED:
        empty = results[name]["join_to_first"]["p99_ms"]
        full = results[name + suffix]["join_to_first"]["p99_ms"]
        ok &= full <= CROWD_FACTOR * empty
        print(f"{name}: p99 {full} ms among {o.swarm} nodes, {empty} ms alone: "
              f"{'ok' if full <= CROWD_FACTOR * empty else 'MISSED'}, at most {CROWD_FACTOR} times")
    agent = results["agent"]
    print(f"agent: {agent['crowded_mb']} MB, {agent['empty_mb']} alone; restart until the mesh is "
          f"ready {agent['crowded_restart_s']} s, {agent['empty_restart_s']} alone")
    return ok


def parse(args):
    parser = argparse.ArgumentParser(prog="./dev bench converge", allow_abbrev=False)
    parser.add_argument("--swarm", type=int, default=0)
    parser.add_argument("--groups", type=int, default=100)
    o, o.lab = parser.parse_known_args(args)
    return o


def main():
    o = parse(sys.argv[1:])
    program = TOP / "build/bench-converge"
    program.parent.mkdir(exist_ok=True)
    subprocess.run(["cc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-o", program,
                    TOP / "tests/bench/converge.c"], check=True)
    # fast_leave: else the last member query time (2 s) is what a leave shows.
    if subprocess.run([*LAB, "up", "--agent-set", "gmp.fast_leave=true", *o.lab],
                      stdout=subprocess.DEVNULL).returncode:
        return 1
    results, rows, ok = {}, [("CASE", "WHAT", "N", "P50 ms", "P95 ms", "P99 ms", "MAX ms")], True
    try:
        cases(program, CASES + (PAUSED if o.swarm else ()), results, rows)
        if o.swarm:
            ok = crowded(program, o, results, rows)
    finally:
        subprocess.run([*LAB, "down"])
    print("IGMP report on the wire to the first packet; leave (fast_leave) to the last packet")
    print_table(rows)
    out = TOP / "build/bench-converge.json"
    out.write_text(json.dumps({"kernel": platform.release(), "results": results}, indent=1) + "\n")
    print(f"written to {out}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
