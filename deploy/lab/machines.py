# SPDX-License-Identifier: Apache-2.0
"""Nodes of the lab that are virtual machines: how the rest of the lab reaches them.

Whatever names a node that is a machine, or a workload on it, is done there, by the
same functions: `there()` makes a function of the lab do so, `run()` runs a command,
`new()` makes a socket of sockets.py. vmlab/guest.py is the other side. In a machine
itself, and in a lab of namespaces, `node_of()` finds nothing and all is local.

A connection carries frames: one byte of kind, four of length, the data. The first is
JSON and says what is wanted.
"""
import functools
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

DIRECTORY = pathlib.Path("/run/mcmesh-lab/machines")
MANAGEMENT = "mgmt0"
BRIDGE = "brm"
NETWORK = "198.51.100"
HOST_ADDRESS = f"{NETWORK}.254"
MAC_MANAGEMENT = "02:00:c0:00:02"
MAC_UPLINK = "02:00:cb:00:71"
PORT = 7
AGENT_PORT = 8  # there: the agent's socket
CONNECT_S = 20
CALL_S = 120
STOP_S = 10
HEAD = struct.Struct("!BI")
REQUEST, OUTPUT, ERROR, INPUT, SIGNAL, EXIT = range(6)
NODE = re.compile(r"^(n\d+)(p\d+)?$")


def address(node):
    return f"{NETWORK}.{node[1:]}"


def nodes():
    try:
        return sorted(os.listdir(DIRECTORY), key=lambda n: int(n[1:]))
    except FileNotFoundError:
        return []


def node_of(name):
    """The machine that `name` (a node or a workload) is on, or None."""
    match = NODE.match(str(name))
    return match[1] if match and (DIRECTORY / match[1]).exists() else None


# ---- processes --------------------------------------------------------------


def start_time(pid):
    """Ticks of the process's start; None when it is gone or a zombie."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def remember(directory, pid):
    (directory / "qemu.pid").write_text(f"{pid} {start_time(pid)}\n")


def pid_of(node):
    try:
        pid, started = (DIRECTORY / node / "qemu.pid").read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if start_time(pid) == started else None


def stop(node):
    """A machine has nothing to save: its end is that of a power cut."""
    pid = pid_of(node)
    if pid:
        os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + STOP_S
    while pid_of(node) and time.monotonic() < end:
        time.sleep(0.02)  # poll interval


def down():
    for node in nodes():
        stop(node)
    shutil.rmtree(DIRECTORY, ignore_errors=True)


# ---- frames -----------------------------------------------------------------


def encode(value):
    return json.dumps(value).encode()


def decode(data):
    return json.loads(data)


def send(connection, kind, data):
    connection.sendall(HEAD.pack(kind, len(data)) + data)


def _exactly(connection, n):
    data = b""
    while len(data) < n:
        more = connection.recv(n - len(data))
        if not more:
            raise EOFError("the other side is gone")
        data += more
    return data


def receive(connection):
    kind, length = HEAD.unpack(_exactly(connection, HEAD.size))
    return kind, _exactly(connection, length)


def connect(node, timeout=CONNECT_S):
    import sockets  # it imports topology, which imports this
    with sockets.namespace("underlay"):
        connection = socket.socket()
    try:
        connection.settimeout(timeout)
        connection.connect((address(node), PORT))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        connection.close()
        raise
    return connection


# ---- commands ---------------------------------------------------------------


def run(node, command, stdin=None, timeout=None, env=None):
    """As subprocess.run(text=True, capture_output=True)."""
    output = {OUTPUT: b"", ERROR: b""}
    with connect(node) as connection:
        connection.settimeout(timeout or CALL_S)
        send(connection, REQUEST, encode({"run": list(map(str, command)), "env": env or {}}))
        send(connection, INPUT, (stdin or "").encode()) if stdin else None
        send(connection, INPUT, b"")
        while True:
            try:
                kind, data = receive(connection)
            except TimeoutError:
                raise subprocess.TimeoutExpired(command, timeout or CALL_S) from None
            if kind == EXIT:
                break
            output[kind] += data
    return subprocess.CompletedProcess(command, int(data), output[OUTPUT].decode(errors="replace"),
                                       output[ERROR].decode(errors="replace"))


def copy(node, directory):
    """Its text files, to the same place there."""
    for file in pathlib.Path(directory).iterdir():
        if file.is_file():
            done = run(node, ["sh", "-c", f"umask 077; mkdir -p {directory}; cat > {file}"],
                       file.read_text())
            if done.returncode:
                raise OSError(f"{file} cannot be written on {node}: {done.stderr.strip()}")


def attach(node, command):
    """The command there, with this process's input and output; its exit code."""
    connection = connect(node)
    connection.settimeout(None)
    send(connection, REQUEST, encode({"run": command, "env": {
        k: v for k, v in os.environ.items() if k.startswith("MCMESH_")}}))
    watched = [connection, sys.stdin.fileno()]
    while True:
        for ready in select.select(watched, [], [])[0]:
            if ready is not connection:
                data = os.read(ready, 65536)
                send(connection, INPUT, data)
                if not data:
                    watched.remove(ready)
                continue
            kind, data = receive(connection)
            if kind == EXIT:
                return int(data)
            os.write(kind, data)


def line(node, command):
    """The command line, here, of a command there."""
    return [sys.executable, os.path.abspath(__file__), node, *command]


# ---- functions --------------------------------------------------------------


def _value(connection):
    answer = decode(receive(connection)[1])
    if "error" not in answer:
        return answer["value"]
    from topology import LabError
    if answer["errno"]:
        raise OSError(answer["errno"], answer["error"])
    raise (LabError if answer["kind"] == "LabError" else RuntimeError)(answer["error"])


def call(node, function, *args, **more):
    """`function` is module.name; more: state, which is saved there first."""
    with connect(node) as connection:
        connection.settimeout(CALL_S)
        send(connection, REQUEST, encode({"call": function, "args": args, **more}))
        return _value(connection)


def there(position, with_state=False):
    """Of a function whose argument `position` names a node, a workload, or a path that ends
    in one: done on its machine, if it is on one. with_state: the first is the lab's state."""
    def decorate(function):
        name = f"{function.__module__}.{function.__name__}"

        @functools.wraps(function)
        def wrapper(*args):
            node = node_of(pathlib.PurePath(args[position]).name) if len(args) > position else None
            if not node:
                return function(*args)
            plain = [str(a) if isinstance(a, pathlib.PurePath) else a for a in args]
            return call(node, name, *plain, **({"state": args[0]} if with_state else {}))
        return wrapper
    return decorate


# ---- sockets ----------------------------------------------------------------


class Remote:
    """A socket of a workload on a machine, with the attributes that tests look at."""

    def __init__(self, kind, name, *args, **options):
        self.kind, self.name = kind, name
        self.sock = connect(node_of(name))
        self.sock.settimeout(CALL_S)
        self.numbers, self.frames, self.last_number, self.sent = {}, [], -1, 0
        send(self.sock, REQUEST, encode({"new": kind, "args": [name, *args], "options": options}))
        try:
            _value(self.sock)
        except BaseException:
            self.sock.close()
            raise

    def _do(self, method, *args):
        plain = [{"hex": bytes(a).hex()} if not isinstance(a, (str, int, bool)) else a
                 for a in args]
        send(self.sock, REQUEST, encode({"do": method, "args": plain}))
        facts = _value(self.sock)
        for number, times in facts.get("numbers", ()):
            self.numbers[number] = self.numbers.get(number, 0) + times
        self.last_number = facts.get("last_number", self.last_number)
        self.frames += [bytes.fromhex(f) for f in facts.get("frames", ())]
        return facts["value"]

    def join(self):
        self._do("join")
        return self

    def leave(self):
        self._do("leave")

    def drain(self, outgoing=False):
        if self.kind == "Tap":
            self._do("drain", outgoing)
            return self.frames
        self._do("drain")
        return self

    def send(self, data=b""):
        self._do("send", bytes(data))
        self.sent += 1

    def reset(self):
        self._do("reset")
        self.numbers = {}

    @property
    def received(self):
        return len(self.numbers)

    @property
    def duplicates(self):
        return sum(n - 1 for n in self.numbers.values())

    def missing(self, last):
        if not self.numbers:
            return []
        return [n for n in range(min(self.numbers), last + 1) if n not in self.numbers]

    def close(self):
        self.sock.close()


def new(kind, name, *args, **options):
    """A socket, where its workload is."""
    import sockets
    if node_of(name):
        return Remote(kind, name, *args, **options)
    return getattr(sockets, kind)(name, *args, **options)


if __name__ == "__main__":
    sys.exit(attach(sys.argv[1], sys.argv[2:]))
