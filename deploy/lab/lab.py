#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""./dev lab: a mesh on one machine, with the real kernel datapath."""
import argparse
import collections
import contextlib
import fcntl
import os
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "vmlab")]

import certificates  # noqa: E402
import machines  # noqa: E402
import programs  # noqa: E402
import topology as topo  # noqa: E402
import wireguard  # noqa: E402
from topology import LabError  # noqa: E402

# Of what waits until programs answer, which is not long unless the machine is busy; each
# node's agent has its BPF programs to be verified.
DEADLINE_S, DEADLINE_S_A_NODE = 60, 2
MACHINES_DEADLINE_S = 300  # an emulated machine is slow
LOCK = "/run/mcmesh-lab.lock"
USAGE = 2
PORTS_NAMED = 4  # of a node, by status
# What of mcmeshctl's targets the lab knows by name: the option, and whose names.
NAMED = {"--agent": ("agent", topo.NODE), "--controller": ("controller", topo.CONTROLLER)}


class UsageError(Exception):
    """Wrong command line, or something this version does not have: exit 2."""


def deadline_s(nodes=0):
    """`nodes`: how many there are to come up."""
    usual = MACHINES_DEADLINE_S if machines.nodes() else DEADLINE_S + nodes * DEADLINE_S_A_NODE
    return int(os.environ.get("MCMESH_LAB_DEADLINE_S", usual))


@contextlib.contextmanager
def locked():
    with open(LOCK, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(text):
    """That there was nothing to do: what was asked for holds, so it is no failure."""
    print(f"lab: {text}", file=sys.stderr)


def print_table(rows):
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())


def ports_text(ports):
    """Each, or how many where they are too many for a line."""
    if len(ports) <= PORTS_NAMED:
        return ", ".join(f"{p['name']} {p['state']}" for p in ports) or "-"
    states = collections.Counter(p["state"] for p in ports)
    return ", ".join(f"{number} {state}" for state, number in states.items())


def print_status(state):
    nodes = programs.ctl_json(["node", "list"]) or {"nodes": []}
    known = {n["name"]: n for n in nodes["nodes"]}
    rows = [("NAME", "NAMESPACE", "ADDRESS", "PROGRAM", "METRICS", "MESH", "PORTS")]
    for name in programs.etcds(state) + programs.controllers(state) + programs.agents(state):
        pid = programs.pid_of(programs.RUN / name)
        address, mesh, ports = topo.host_addresses(name)[0], "-", "-"
        if topo.NODE.match(name):
            address = known.get(name, {}).get("address", address)
            mesh = known.get(name, {}).get("state", "-")
            answer = programs.ctl_json(["port", "list"], agent=name) if pid else None
            ports = ports_text(answer["ports"]) if answer else "-"
        rows.append((name, topo.netns(name), address, f"pid {pid}" if pid else "stopped",
                     pid and programs.metrics(state, name) or "-", mesh, ports))
    print_table(rows)


def parse_up(args):
    parser = argparse.ArgumentParser(prog="./dev lab up", allow_abbrev=False)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--ports", type=int, default=2, help="workloads on each node")
    parser.add_argument("--controllers", type=int, default=1)
    parser.add_argument("--store", choices=["memory", "sqlite", "etcd"],
                        help="default: sqlite, or etcd when there are several controllers")
    parser.add_argument("--tls", action="store_true",
                        help="mutual TLS; certificates in /run/mcmesh-lab/pki")
    parser.add_argument("--kernel-vxlan", action="store_true",
                        help="copies to other nodes go through the kernel's VXLAN device, as by "
                        "--agent-set overlay.path=device")
    parser.add_argument("--underlay", choices=["ethernet", "wireguard"], default="ethernet",
                        help="wireguard: everything between machines is encrypted")
    parser.add_argument("--ipv6-underlay", action="store_true", help="VTEPs are IPv6")
    parser.add_argument("--underlay-mtu", type=int, help="default: room for full-size packets")
    parser.add_argument("--machines", metavar="KERNEL",
                        help="nodes are virtual machines; see ./dev vmlab help")
    parser.add_argument("--tap", action="append", default=[], metavar="nNpP",
                        help="this workload is behind a tap, as a virtual machine is")
    parser.add_argument("--agent-set", action="append", default=[], metavar="KEY=VALUE",
                        help="a setting for every agent's YAML, e.g. gmp.query_interval_ms=1000")
    parser.add_argument("--controller-set", action="append", default=[], metavar="KEY=VALUE",
                        help="the same for the controller, e.g. hold_ms=3000")
    o = parser.parse_args(args)
    for what, value, limit in (("nodes", o.nodes, topo.MAX_NODES),
                               ("ports", o.ports, topo.MAX_PORTS)):
        if not 1 <= value <= limit:
            raise UsageError(f"--{what} is 1 to {limit}, not {value}")
    if not 1 <= o.controllers <= topo.MAX_CONTROLLERS:
        raise UsageError(f"--controllers is 1 to {topo.MAX_CONTROLLERS}, not {o.controllers}")
    if o.store is None:
        o.store = "etcd" if o.controllers > 1 else "sqlite"
    if o.store != "etcd" and o.controllers > 1:
        raise UsageError(f"several controllers cannot share the {o.store} store: "
                         "use --store etcd, or leave --store out")
    if o.store == "etcd" and not os.access(programs.ETCD_PROGRAM, os.X_OK):
        raise UsageError("the etcd store needs the Debian package etcd-server: "
                         "run ./dev setup")
    if o.underlay == "wireguard":
        check_wireguard(o)
    for item in o.agent_set + o.controller_set:
        if "=" not in item:
            raise UsageError(f"a setting is KEY=VALUE, not '{item}'")
    return o


def check_wireguard(o):
    if o.nodes + o.controllers + programs.ETCD_MEMBERS > wireguard.MAX_MACHINES:
        raise UsageError(f"a lab with WireGuard has at most {wireguard.MAX_MACHINES} machines, "
                         f"controllers and {programs.ETCD_MEMBERS} members of etcd included")
    package = wireguard.missing()
    if package:
        raise UsageError(f"--underlay wireguard needs the Debian package {package}: "
                         "run ./dev setup")


def state_of(o):
    """What was asked for comes last, and wins."""
    agent_set = ["limits.ports=4096"]
    if o.kernel_vxlan:
        agent_set.append("overlay.path=device")
    return {"nodes": o.nodes, "ports": o.ports, "controllers": o.controllers, "store": o.store,
            "ipv6_underlay": o.ipv6_underlay, "tls": o.tls, "agent_set": agent_set + o.agent_set,
            "controller_set": o.controller_set, "mounted_bpffs": False,
            "machines": o.machines, "taps": o.tap}


def network_up(o, state):
    boot = None
    if o.machines:
        import kernels
        import qemu
        kernel = kernels.fetch(o.machines)

        def boot(nodes, mtu):
            qemu.up(nodes, kernel, o.tap, mtu)
    os.environ["MCMESH_LAB_TAPS"] = " ".join(o.tap)
    topo.up(o.nodes, o.ports, programs.etcds(state) + programs.controllers(state),
            wireguard.up if o.underlay == "wireguard" else None, boot,
            o.underlay_mtu)


def cmd_up(args):
    o = parse_up(args)
    for name in ("mcmesh-agent", "mcmesh-controller", "mcmeshctl"):
        programs.program(name)
    with locked():
        if programs.STATE.exists() or topo.existing():
            raise LabError("a lab is up, or a part of one: run ./dev lab down first")
        state = state_of(o)
        try:
            programs.save(state)
            if o.tls:
                certificates.make(programs.agents(state), programs.controllers(state),
                                  programs.etcds(state), o.ipv6_underlay)
            state["mounted_bpffs"] = programs.mount_bpffs()
            programs.save(state)
            network_up(o, state)
            if o.tls:
                for node in machines.nodes():
                    machines.copy(node, certificates.PKI)
            for name in programs.etcds(state):
                programs.start_etcd(state, name)
            for name in programs.etcds(state):
                wait_answers("etcd", name, o.nodes)
            for name in programs.controllers(state):
                programs.start_controller(state, name)
            for name in programs.agents(state):
                programs.start_agent(state, name)
            programs.wait_ready(state, deadline_s(o.nodes))
        except BaseException:
            programs.down()
            raise
    print_status(state)


def no_arguments(args, verb):
    if args:
        raise UsageError(f"usage: ./dev lab {verb}, and nothing after it, not '{args[0]}'")


def cmd_down(args):
    no_arguments(args, "down")
    with locked():
        programs.down()


def cmd_status(args):
    no_arguments(args, "status")
    print_status(programs.load())


def existing_name(name):
    programs.load()  # says when there is no lab at all
    if name not in topo.known() or name == "underlay":
        raise LabError(f"the lab has no '{name}'; it has {', '.join(topo.known()) or 'nothing'}")
    return name


def cmd_exec(args):
    if len(args) < 2:
        raise UsageError("usage: ./dev lab exec NAME COMMAND [ARGUMENT…]")
    name, command = existing_name(args[0]), args[1:]
    if command[0] == "--":
        command = command[1:]
    controller = name if topo.CONTROLLER.match(name) else programs.live_controller(programs.load())
    os.environ["MCMESH_CONTROLLER"] = f"{topo.controller_address(controller)}:{programs.PORT}"
    os.environ["PATH"] += os.pathsep + str(programs.binaries())
    if certificates.PKI.is_dir():
        certificates.export()
    if topo.NODE.match(name):
        os.environ["MCMESH_AGENT"] = f"unix:{programs.RUN / name / 'agent.sock'}"
    line = topo.enter(name, *command)
    os.execvp(line[0], line)


def named_target(state, option, value):
    """The one in the lab of that name; None: `value` is a target already."""
    kind, names = NAMED[option]
    if "/" in value or ":" in value:
        return None
    known = KINDS[kind][0](state)
    if not names.match(value) or value not in known:
        raise LabError(f"the lab has no {kind} '{value}'; it has {', '.join(known)}")
    return value


def split_ctl(state, args):
    """(what is left for mcmeshctl, the agent named, the controller named): the lab's names may
    stand wherever mcmeshctl takes its targets. All else is left as it is."""
    left, named, words = [], {}, iter(args)
    for word in words:
        if word == "--":
            left += [word, *words]
            break
        option, sep, value = word.partition("=")
        value = value if sep else next(words, None) if option in NAMED else None
        name = named_target(state, option, value) if option in NAMED and value is not None else None
        if name:
            named[option] = name
        else:
            left += [word] if sep or value is None else [word, value]
    return left, named.get("--agent"), named.get("--controller")


def cmd_ctl(args):
    line = programs.ctl_command(*split_ctl(programs.load(), args))
    os.execvp(line[0], line)


def target(args, verb):
    if len(args) != 2 or args[0] not in KINDS:
        raise UsageError(f"usage: ./dev lab {verb} agent nN | controller cN | etcd eN")
    kind, name = args
    state = programs.load()
    known = KINDS[kind][0](state)
    if name not in known:
        raise LabError(f"the lab has no {kind} '{name}'; it has {', '.join(known) or 'none'}")
    return state, kind, name


# How each kind of program is listed, started, and known to answer.
KINDS = {
    "agent": (programs.agents, programs.start_agent,
              lambda name: programs.ctl_json(["port", "list"], agent=name) is not None),
    "controller": (programs.controllers, programs.start_controller,
                   lambda name: programs.ctl_json(["node", "list"], controller=name) is not None),
    "etcd": (programs.etcds, programs.start_etcd, programs.etcd_is_healthy),
}


def wait_answers(kind, name, nodes=0):
    """Until it does; a program that ended is no longer waited for."""
    check = KINDS[kind][2]

    def answers():
        if not programs.pid_of(programs.RUN / name):
            raise LabError(f"{kind} {name} ended:\n{programs.log_tail(name)}")
        return check(name)

    programs.wait_until(f"{kind} {name} answers", answers, deadline_s(nodes))


def start(state, kind, name):
    if programs.pid_of(programs.RUN / name):
        say(f"{kind} {name} runs already")
    else:
        KINDS[kind][1](state, name)
    wait_answers(kind, name)


def cmd_start(args):
    start(*target(args, "start"))


def end(args, verb, sig):
    _, kind, name = target(args, verb)
    if not programs.end(name, sig):
        say(f"{kind} {name} does not run")


def cmd_stop(args):
    end(args, "stop", signal.SIGTERM)


def cmd_kill(args):
    end(args, "kill", signal.SIGKILL)


def cmd_restart(args):
    state, kind, name = target(args, "restart")
    programs.end(name)
    start(state, kind, name)


def node_arguments(args, verb, more=""):
    if not args or (len(args) > 1 and not more) or not all(topo.HOST.match(a) for a in args):
        raise UsageError(f"usage: ./dev lab {verb} nN | cN | eN{more}")
    return [existing_name(a) for a in args]


def parted_file():
    """Who cannot reach all others."""
    return programs.RUN / "parted"


def cmd_cut(args):
    name, *others = node_arguments(args, "cut", " [nN | cN | eN …]")
    if not others and topo.is_cut(name):
        say(f"{name} is cut off already")
        return
    if not others:
        topo.cut(name)
        return
    with open(parted_file(), "a", encoding="ascii") as file:
        file.write(" ".join([name, *others, ""]))
    topo.part(name, others)


def cmd_heal(args):
    name = node_arguments(args, "heal")[0]
    parted = parted_file().exists()
    if topo.is_cut(name):
        topo.heal(name)
    elif not parted:
        say(f"{name} is not cut off")
    if parted:
        topo.rejoin(set(parted_file().read_text().split()))
        parted_file().unlink()


COMMANDS = {
    "up": (cmd_up, "raise a mesh; --nodes 3 --ports 2 --agent-set K=V … (up --help)"),
    "down": (cmd_down, "end and remove everything, also after a crash"),
    "status": (cmd_status, "what runs, and what the mesh says of it"),
    "exec": (cmd_exec, "exec n1p1 CMD…: a command in a workload (n1: node, c1: controller)"),
    "ctl": (cmd_ctl, "ctl [--agent n1] ARGS…: mcmeshctl against the lab; --agent anywhere"),
    "start": (cmd_start, "start agent n1 | controller c1 | etcd e1"),
    "stop": (cmd_stop, "end it with SIGTERM"),
    "kill": (cmd_kill, "end it with SIGKILL"),
    "restart": (cmd_restart, "stop and start"),
    "cut": (cmd_cut, "cut n1 (c1, e1): its underlay loses every packet; cut c1 e1 e2: those "
            "between c1 and these"),
    "heal": (cmd_heal, "heal n1: and carries them again; those between two, too"),
}


OWN_HELP = ("up", "ctl")


def main(argv):
    if not argv or argv[0] in ("help", "-h", "--help"):
        print("usage: ./dev lab COMMAND …")
        for name, (_, text) in COMMANDS.items():
            print(f"  {name:8} {text}")
        return 0 if argv else USAGE
    if argv[0] not in COMMANDS:
        raise UsageError(f"no lab command '{argv[0]}': run ./dev lab help")
    if argv[0] not in OWN_HELP and argv[1:2] in (["--help"], ["-h"]):
        print(f"./dev lab {argv[0]}: {COMMANDS[argv[0]][1]}")
        return 0
    if os.geteuid():
        raise LabError("the lab makes network namespaces: run it as root")
    # A signal takes the same way out as an error: up removes what it made.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    COMMANDS[argv[0]][0](argv[1:])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UsageError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
