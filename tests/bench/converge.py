#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""./dev bench converge [LAB OPTION…]: times of change in a 3-node lab, release programs.

Options are those of `./dev lab up`, e.g. --tls or --store sqlite."""
import json
import pathlib
import platform
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "deploy/lab"))

from lab import print_table  # noqa: E402

JOINS = 200
GROUPS = 1000
LAB = [sys.executable, str(TOP / "deploy/lab/lab.py")]
# name, mode, sender, receiver, count, interval in us
CASES = (
    ("across nodes, 1 packet/ms", "one", "n1p1", "n2p1", JOINS, 1000),
    ("across nodes, 10 packets/ms", "one", "n1p1", "n2p1", JOINS, 100),
    ("same node, 1 packet/ms", "one", "n1p1", "n1p2", JOINS, 1000),
    ("1,000 groups at once, across", "bulk", "n1p1", "n2p1", GROUPS, 5000),
)


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p / 100))]


def summary(values_ns):
    ms = [v / 1e6 for v in values_ns]
    return {"n": len(ms), **{f"p{p}_ms": round(percentile(ms, p), 3) for p in (50, 95, 99)},
            "max_ms": round(max(ms), 3)}


def measure(program, mode, sender, receiver, count, interval_us):
    done = subprocess.run([program, mode, f"mcm-{sender}", f"mcm-{receiver}", str(count),
                           str(interval_us)], capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise SystemExit(f"bench: {mode}: {done.stderr.strip()}")
    return [[int(v) for v in line.split()] for line in done.stdout.splitlines()]


def main():
    program = TOP / "build/bench-converge"
    program.parent.mkdir(exist_ok=True)
    subprocess.run(["cc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-o", program,
                    TOP / "tests/bench/converge.c"], check=True)
    # fast_leave: else the last member query time (2 s) is what a leave shows.
    if subprocess.run([*LAB, "up", "--agent-set", "gmp.fast_leave=true", *sys.argv[1:]],
                      stdout=subprocess.DEVNULL).returncode:
        return 1
    results, rows = {}, [("CASE", "WHAT", "N", "P50 ms", "P95 ms", "P99 ms", "MAX ms")]
    try:
        for name, *case in CASES:
            lines = measure(program, *case)
            results[name] = {"join_to_first": summary([line[0] for line in lines])}
            if case[0] == "one":
                results[name]["leave_to_last"] = summary([line[1] for line in lines])
            for what, s in results[name].items():
                rows.append((name, what.replace("_", " "), *s.values()))
    finally:
        subprocess.run([*LAB, "down"])
    print("IGMP report on the wire to the first packet; leave (fast_leave) to the last packet")
    print_table(rows)
    out = TOP / "build/bench-converge.json"
    out.write_text(json.dumps({"kernel": platform.release(), "results": results}, indent=1) + "\n")
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
