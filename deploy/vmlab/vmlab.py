#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""./dev vmlab: the lab, with a virtual machine for each node and a kernel of Debian's."""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "lab"), str(HERE)]

import kernels  # noqa: E402
from topology import LabError  # noqa: E402

ROOT = kernels.ROOT
LAB = str(HERE.parent / "lab/lab.py")
TESTS = ROOT / "tests/e2e/machines"
TABLE = ROOT / "docs/kernels.md"
RESULTS = kernels.CACHE / "results"
HERE_NAME = "here"
TEST_DEADLINE_S = 2400
TAP = "n3p2"
SMOKE = " or ".join((  # what needs no third node
    "test_kernel_and_engine", "test_qdiscs", "test_copies_leave", "test_delivery", "test_same_node",
    "test_igmpv2_host", "test_G02", "test_agent_killed", "test_fans"))
MARK_BEGIN, MARK_END = "<!-- table: ./dev vmlab matrix -->", "<!-- end of table -->"

USAGE = """\
usage: ./dev vmlab COMMAND …
  up [--nodes 3] [--kernel debian] [LAB OPTION…]   boots the nodes and raises the mesh
  test [--nodes 3] [--kernel debian] [--smoke] [PYTEST ARGUMENT…]
                                                   tests/e2e/machines; ends with the sum
  matrix [--smoke] [KERNEL…]   test with every kernel, and this machine's own (here), and
                               the table in docs/kernels.md
  kernels             the kernels that there are
  down, status, exec nN CMD…, ctl, start, stop, kill, restart, cut, heal   as ./dev lab
KERNEL: debian (the same as cloud), generic, rt, or any linux-image-KERNEL that apt has,
e.g. 6.12-cloud."""


def lab(*args, **options):
    return subprocess.run([sys.executable, LAB, *args], **options).returncode


def parse(name, args):
    parser = argparse.ArgumentParser(prog=f"./dev vmlab {name}", allow_abbrev=False)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--kernel", default="debian")
    if name == "test":
        parser.add_argument("--smoke", action="store_true", help="two nodes, a few tests")
    return parser.parse_known_args(args)


def lab_options(nodes, kernel):
    taps = ["--tap", TAP] if nodes >= int(TAP[1]) else []
    return ["--machines", kernel, "--nodes", str(nodes), *taps]


def cmd_up(args):
    o, more = parse("up", args)
    return lab("up", *lab_options(o.nodes, o.kernel), *more)


def count(report):
    suite = xml.parse(report).getroot().find("testsuite")
    skipped = int(suite.get("skipped"))
    bad = int(suite.get("failures")) + int(suite.get("errors"))
    return max(0, int(suite.get("tests")) - bad - skipped), bad, skipped


def run_tests(kernel, nodes, arguments, machines=True):
    """{passed, failed, skipped, seconds, …facts} with one kernel."""
    with tempfile.TemporaryDirectory() as scratch:
        return run_tests_in(pathlib.Path(scratch), kernel, nodes, arguments, machines)


def run_tests_in(scratch, kernel, nodes, arguments, machines):
    report, facts = scratch / "report.xml", scratch / "facts.json"
    env = dict(os.environ, MCMESH_VMLAB_FACTS=str(facts))
    if machines:
        env["MCMESH_E2E_LAB"] = " ".join(lab_options(nodes, kernel))
    else:
        env["MCMESH_E2E_HERE"] = "1"
    began = time.monotonic()
    try:
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                               f"--junit-xml={report}", str(TESTS), *arguments],
                              env=env, timeout=TEST_DEADLINE_S)
        code = done.returncode
    except subprocess.TimeoutExpired:
        code = 1
    finally:
        lab("down")
    result = {"kernel": kernel, "machines": machines, "seconds": round(time.monotonic() - began)}
    if facts.exists():
        result.update(json.loads(facts.read_text()))
    try:
        result["passed"], result["failed"], result["skipped"] = count(report)
    except (OSError, xml.ParseError, AttributeError):
        result["passed"], result["failed"], result["skipped"] = 0, 1, 0
    if code and not result["failed"]:
        result["failed"] = 1
    return result


def summary(results):
    total = [sum(r[k] for r in results) for k in ("passed", "failed", "skipped")]
    for r in results:
        print(f"{r['kernel']}: engine {r.get('attach', '?')}, {r['passed']} passed, "
              f"{r['failed']} failed, {r['skipped']} skipped, {r['seconds']} s")
    print("{} passed, {} failed, {} skipped".format(*total), flush=True)
    return 1 if total[1] else 0


def cmd_test(args):
    o, more = parse("test", args)
    try:
        kernels.fetch(o.kernel)
    except kernels.NoKernel as error:
        print(f"skipped: the virtual machines have no kernel: {error}")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    if o.smoke:
        o.nodes, more = 2, ["-k", SMOKE, *more]
    return summary([run_tests(o.kernel, o.nodes, more)])


# ---- the table --------------------------------------------------------------

YES = {True: "yes", False: "no"}


def row(r):
    name = r["kernel"] if r.get("machines", True) else r["kernel"].split("-")[0] + ", namespaces"
    cells = [name, r.get("attach", "-"),
             *(YES.get(r.get(k), "-") for k in ("direct", "stripped", "peer", "fans")),
             f"{r['passed']} of {r['passed'] + r['failed']}", f"{r['seconds']} s"]
    return "| " + " | ".join(cells) + " |"


def write_table():
    """Of the newest result of each kernel; rows of kernels that were not run here stay."""
    rows = [row(json.loads(f.read_text())) for f in sorted(RESULTS.glob("*.json"))]
    head = ["| kernel | programs attached by | direct copies | stripped early | into the veth | "
            "fans | tests passed | time |", "|" + "---|" * 8]
    text = TABLE.read_text()
    begin, end = text.index(MARK_BEGIN), text.index(MARK_END)
    kept = {line.split("|")[1]: line for line in text[begin:end].splitlines()[3:]}
    kept.update((line.split("|")[1], line) for line in rows)
    rows = sorted(kept.values(), key=lambda r: [int(n) for n in re.findall(r"\d+", r)[:3]])
    table = "\n".join([MARK_BEGIN, *head, *rows]) + "\n"
    TABLE.write_text(text[:begin] + table + text[end:])
    print(table)


def remember(name, result):
    """A run that was broken off before the machines were up says nothing of the kernel."""
    if "attach" in result:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def cmd_matrix(args):
    smoke = "--smoke" in args
    wanted = [a for a in args if a != "--smoke"]
    for name in wanted:
        if name.startswith("-"):
            raise LabError(f"matrix takes names of kernels and --smoke, not '{name}'")
    results = []
    for name in wanted or [*kernels.offered(), HERE_NAME]:
        print(f"==== {name}", flush=True)
        try:
            if name != HERE_NAME:
                kernels.fetch(name)
        except kernels.NoKernel as error:
            print(f"skipped: {error}")
            continue
        results.append(run_tests(name, 2 if smoke else 3, ["-k", SMOKE] if smoke else [],
                                 name != HERE_NAME))
        remember(name, results[-1])
        write_table()
    return summary(results)


def cmd_kernels(args):
    for name in kernels.offered():
        print(f"{name:20} {kernels.package_of(name)}")
    return 0


COMMANDS = {"up": cmd_up, "test": cmd_test, "matrix": cmd_matrix, "kernels": cmd_kernels}


def main(argv):
    if not argv or argv[0] in ("help", "-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    if os.geteuid():
        raise LabError("machines need taps and namespaces: run it as root")
    if argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    return lab(*argv)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        print(f"vmlab: {error}", file=sys.stderr)
        sys.exit(1)
