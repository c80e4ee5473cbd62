# SPDX-License-Identifier: Apache-2.0
"""The server in a machine: runs what the lab outside asks for, over the network mgmt0.

A connection is one thing: a command with its input and output as frames, calls of the
lab's own functions, or a socket of a workload and calls of its methods. What belongs
to a connection (processes, the socket) ends with it, so a test that dies outside
leaves nothing here. lab/machines.py is the other side and says what a frame is.
"""
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lab"))

import machines  # noqa: E402
import programs  # noqa: E402
import sockets  # noqa: E402
import topology as topo  # noqa: E402

MODULES = {"programs": programs, "sockets": sockets, "topology": topo}
PATH = "/usr/sbin:/usr/bin:/usr/lib/busybox"


# ---- a command --------------------------------------------------------------


def pump(stream, kind, send):
    while True:
        data = os.read(stream.fileno(), 65536)
        if not data:
            return
        send(kind, data)


def feed(connection, process):
    """Input until it ends; then, or when the asker is gone, nothing more comes."""
    try:
        while True:
            kind, data = machines.receive(connection)
            if kind == machines.SIGNAL:
                os.killpg(process.pid, int(data))
            elif data:
                process.stdin.write(data)
                process.stdin.flush()
            else:
                process.stdin.close()
    except (EOFError, OSError, ValueError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def run_command(connection, request):
    lock = threading.Lock()

    def send(kind, data):
        with lock:
            machines.send(connection, kind, data)

    env = {**os.environ, **request.get("env", {})}
    try:
        process = subprocess.Popen(request["run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env=env, start_new_session=True)
    except OSError as error:
        send(machines.ERROR, f"{request['run'][0]}: {error.strerror}\n".encode())
        send(machines.EXIT, b"127")
        return
    threading.Thread(target=feed, args=(connection, process), daemon=True).start()
    pumps = [threading.Thread(target=pump, args=(process.stdout, machines.OUTPUT, send)),
             threading.Thread(target=pump, args=(process.stderr, machines.ERROR, send))]
    for thread in pumps:
        thread.start()
    code = process.wait()
    for thread in pumps:
        # A daemon that it left behind may hold its output.
        thread.join(1)
    send(machines.EXIT, str(code).encode())


# ---- functions and sockets --------------------------------------------------


def answer(connection, value):
    machines.send(connection, machines.OUTPUT, machines.encode(value))


def attempt(connection, what):
    try:
        answer(connection, {"value": what()})
    except Exception as error:  # it is the asker's
        answer(connection, {"error": str(error), "kind": type(error).__name__,
                            "errno": getattr(error, "errno", None)})


def plain(value):
    return value if isinstance(value, (str, int, float, bool, list, dict, tuple, type(None))) \
        else None


def call(request):
    module, name = request["call"].split(".")
    if "state" in request:
        programs.save(request["state"])
    return plain(getattr(MODULES[module], name)(*request["args"]))


def of_socket(thing, method, args):
    """What the outside copy of a socket has to know after a call."""
    value = plain(getattr(thing, method)(*args))
    facts = {"value": value}
    if isinstance(thing, sockets.Member):
        facts.update(numbers=list(thing.numbers.items()), last_number=thing.last_number)
        thing.numbers = {}
    elif isinstance(thing, sockets.Tap):
        facts.update(value=None, frames=[f.hex() for f in thing.frames])
        thing.frames = []
    return facts


def serve_socket(connection, request):
    thing = None

    def make():
        nonlocal thing
        thing = getattr(sockets, request["new"])(*request["args"], **request["options"])

    attempt(connection, make)
    try:
        while thing:
            wanted = machines.decode(machines.receive(connection)[1])
            args = [bytes.fromhex(a["hex"]) if isinstance(a, dict) else a for a in wanted["args"]]
            attempt(connection, lambda: of_socket(thing, wanted["do"], args))
    finally:
        if thing:
            thing.close()


def serve(connection):
    with connection:
        try:
            request = machines.decode(machines.receive(connection)[1])
            if "run" in request:
                run_command(connection, request)
            elif "new" in request:
                serve_socket(connection, request)
            else:
                attempt(connection, lambda: call(request))
        except (EOFError, OSError):
            pass


# ---- the agent's socket -----------------------------------------------------


def copy_bytes(source, to):
    try:
        while data := source.recv(65536):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def forward(connection, path):
    """mcmeshctl outside is fast; one in an emulated machine takes a second to start."""
    with connection, socket.socket(socket.AF_UNIX) as agent:
        try:
            agent.connect(path)
        except OSError:
            return
        threading.Thread(target=copy_bytes, args=(agent, connection), daemon=True).start()
        copy_bytes(connection, agent)


# ---- the machine ------------------------------------------------------------


def rename_links():
    """By the MAC addresses that QEMU was told."""
    for link in os.listdir("/sys/class/net"):
        mac = pathlib.Path(f"/sys/class/net/{link}/address").read_text().strip()
        name = {machines.MAC_MANAGEMENT: machines.MANAGEMENT,
                machines.MAC_UPLINK: topo.UPLINK}.get(mac[:-3])
        if name and link != name:
            topo.run(["ip", "link", "set", link, "down"])
            topo.run(["ip", "link", "set", link, "name", name])


def accept(address, what, *args):
    server = socket.create_server(address, backlog=64)
    while True:
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=what, args=(connection, *args), daemon=True).start()


def main():
    said = dict(re.findall(r"mcmesh\.(\w+)=(\S+)", pathlib.Path("/proc/cmdline").read_text()))
    node = said["node"]
    os.environ.update(PATH=PATH, HOME="/root", MCMESH_LAB_TAPS=said.get("taps", "").replace(",", " "))
    rename_links()
    address = machines.address(node)
    topo.ip_batch([f"addr add {address}/24 dev {machines.MANAGEMENT}",
                   f"link set {machines.MANAGEMENT} up",
                   f"netns attach {topo.netns(node)} {os.getpid()}"])
    path = str(programs.RUN / node / "agent.sock")
    threading.Thread(target=accept, daemon=True,
                     args=((address, machines.AGENT_PORT), forward, path)).start()
    print(f"machine {node} serves", flush=True)
    accept((address, machines.PORT), serve)


if __name__ == "__main__":
    main()
