# SPDX-License-Identifier: Apache-2.0
"""Strangers and bad clients at the controller's port: refused, counted, and the
service unharmed meanwhile: a join reaches the other node as fast as ever."""
import contextlib
import os
import resource
import socket
import ssl
import struct
import subprocess
import threading
import time
import urllib.request

import programs
import pytest
import sockets
import topology as topo
from certificates import PKI

CONTROLLER = (topo.controller_address("c1"), programs.PORT)
# The bound for a join while the port is attacked by all that two CPUs give.
CONVERGED_S = 2
HANDSHAKE_S = 5
SLACK_S = 4
HALF_OPEN = 10000
ATTACK_S = 5  # at most, until it is ended
BAN_S = 10
RSS_MAX_KB = 1500000


def failures():
    """Failed handshakes, as the controller says in its log."""
    total = 0
    for line in (programs.RUN / "c1/controller.log").read_text(errors="replace").splitlines():
        if "Handshakes failed" in line:
            total = int(line.rsplit("total=", 1)[1])
    return total


def connect(name="n1"):
    with sockets.namespace(name):
        return socket.create_connection(CONTROLLER, timeout=10)


def half_open(name, number, socks):
    with sockets.namespace(name):
        for _ in range(number):
            sock = socket.socket()
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(CONTROLLER)
            socks.append(sock)


def is_closed(sock):
    """The other side ended it."""
    try:
        sock.setblocking(False)
        while True:
            if not sock.recv(4096):
                return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def is_busy():
    """Others use this machine, too: what takes a tenth of a second of processor time
    may take longer than agents wait for a controller."""
    return os.getloadavg()[0] > 2 * os.cpu_count()


def unharmed(lab):
    """A join on n2 is known on n1 within the bound, its leave too."""
    group = lab.new_group()
    member = lab.member("n2p1", group)
    lab.wait_route("n1", group, remotes=["n2"],
                   deadline_s=10 * CONVERGED_S if is_busy() else CONVERGED_S)
    lab.close(member)
    assert lab.ctl("node", "list").returncode == 0


@contextlib.contextmanager
def descriptors(wanted):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < wanted:
        pytest.skip(f"this machine allows a process only {hard} open files, {wanted} are needed")
    yield
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, max(hard, wanted)))


# ---- bytes that are no handshake ----


@pytest.mark.parametrize("payload", [
    os.urandom(4096),
    b"GET / HTTP/1.1\r\nHost: mesh\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),       # HTTP/2 without TLS
    b"\x16\x03\x01\xff\xff" + b"A" * 65535,               # a record that is too long
    b"\x16\x03\x01\x00\x05\x01\x00\x00\x00\x00",          # a ClientHello of nothing
], ids=["noise", "http", "plaintext", "record", "hello"])
def test_garbage(tls_lab, payload):
    before = failures()
    socks = [connect() for _ in range(20)]
    for sock in socks:
        with contextlib.suppress(OSError):
            sock.sendall(payload)
    unharmed(tls_lab)
    tls_lab.wait("all are closed", lambda: all(is_closed(s) for s in socks), HANDSHAKE_S + SLACK_S)
    tls_lab.wait("they are counted", lambda: failures() >= before + 20, SLACK_S)
    for sock in socks:
        sock.close()


def test_slow_handshakes(tls_lab):
    """A byte now and then buys no more time."""
    before, socks = failures(), [connect() for _ in range(50)]
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(500)
    started, at = time.monotonic(), 0

    def fed():
        nonlocal at
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.send(hello[at:at + 1])
        at += 1
        return all(is_closed(s) for s in socks)

    unharmed(tls_lab)
    tls_lab.wait("all are cut off", fed, HANDSHAKE_S + SLACK_S)
    assert time.monotonic() - started > 1, "cut off before anybody could be slow"
    tls_lab.wait("they are counted", lambda: failures() >= before + 50, SLACK_S)


def test_ten_thousand_half_open(tls_lab):
    before = failures()
    with descriptors(HALF_OPEN + 500):
        socks = []
        try:
            for name in ("n1", "n2", "n3", "c1"):
                half_open(name, HALF_OPEN // 4, socks)
                unharmed(tls_lab)
            tls_lab.wait("all are cut off", lambda: all(is_closed(s) for s in socks[::97]),
                         2 * HANDSHAKE_S + SLACK_S)
        finally:
            for sock in socks:
                sock.close()
    tls_lab.wait("they are counted", lambda: failures() > before + HALF_OPEN / 2, 10)
    unharmed(tls_lab)
    assert tls_lab.ready(), "an agent lost its session"


def test_nearly_no_descriptors_left(tls_lab):
    """A limit that strangers can reach: new connections wait, sessions go on, and
    the listener lives (accept(2) without a free descriptor would end it)."""
    pid = programs.pid_of(programs.RUN / "c1")
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE, (12288, resource.prlimit(
        pid, resource.RLIMIT_NOFILE)[1]))
    log = programs.RUN / "c1/controller.log"
    group, socks = tls_lab.new_group(), []
    try:
        with descriptors(8000):
            half_open("n1", 6000, socks)
            tls_lab.wait("the door is shut", lambda: "New connections wait" in log.read_text(), 10)
            member = tls_lab.member("n2p1", group)
            tls_lab.wait_route("n1", group, remotes=["n2"], deadline_s=CONVERGED_S)
            tls_lab.close(member)
    finally:
        for sock in socks:
            sock.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, old)
    tls_lab.wait("who has a right gets in", lambda: tls_lab.ctl("node", "list").returncode == 0, 15)
    assert programs.pid_of(programs.RUN / "c1") == pid
    unharmed(tls_lab)


# ---- clients with a certificate that ask for too much ----


def test_too_many_streams(tls_lab, client):
    codes = client("flood", 3000, certificate="read")[0]
    unharmed(tls_lab)
    assert sum(codes.values()) == 3000 and codes.get("RESOURCE_EXHAUSTED"), codes
    assert codes["OK"] <= 256, codes


def test_message_over_the_limit(tls_lab, client):
    answer = client("big", 5 << 20, certificate="read")[-1]
    assert answer["code"] == "RESOURCE_EXHAUSTED", answer
    unharmed(tls_lab)


def frame(kind, flags, stream, payload=b""):
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def literal(name, value):
    """A header without indexing (RFC 7541 6.2.2), names as they are."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


REQUEST = (b"\x83\x87" + literal(b":path", b"/mcmesh.v1.MeshService/ListNodes") +
           literal(b":authority", b"c1") + literal(b"te", b"trailers") +
           literal(b"content-type", b"application/grpc"))


def rss_kb(pid):
    for line in open(f"/proc/{pid}/status", encoding="ascii"):
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


def h2_connect(certificate, name="n1"):
    """HTTP/2 by hand, with a certificate of the lab's."""
    context = ssl.create_default_context(cafile=str(PKI / "ca.pem"))
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(PKI / f"{certificate}.pem", PKI / f"{certificate}.key")
    tls = context.wrap_socket(connect(name), server_hostname=CONTROLLER[0])
    tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
    return tls


def is_banned(name="n3"):
    """What it sends to begin a connection is dropped."""
    with sockets.namespace(name), socket.socket() as sock:
        sock.settimeout(0.5)
        try:
            sock.connect(CONTROLLER)
        except TimeoutError:
            return True
        return False


def metric(name, *labels):
    with sockets.namespace("c1"):
        page = urllib.request.urlopen("http://127.0.0.1:9797/metrics", timeout=10)
    for line in page.read().decode().splitlines():
        if line.startswith(name) and all(label in line for label in labels):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"{name} {labels} is not a metric")


def test_rapid_reset(tls_lab, group):
    """Streams that are begun and given up at once, as fast as one client with a
    certificate can (CVE-2023-44487): gRPC 1.51 would work them off before anything
    else. The connection is ended, its address kept out for a while, both counted;
    the agents' sessions, joins and a flow do not notice."""
    pid = programs.pid_of(programs.RUN / "c1")
    cut = metric("mcmesh_refusals_total", "flooding_connection")
    sessions = metric("mcmesh_sessions_begun_total")
    member = tls_lab.member("n2p1", group)
    tls_lab.wait_route("n1", group, remotes=["n2"])
    tls, resets, banned = h2_connect("read", "n3"), 0, []
    ended = threading.Event()

    def attack():
        nonlocal resets
        stream = 1
        with contextlib.suppress(OSError):
            while True:
                burst = b""
                for _ in range(100):
                    burst += frame(1, 4, stream, REQUEST) + frame(3, 0, stream, b"\0\0\0\x08")
                    stream += 2
                tls.sendall(burst)
                resets += 100
        ended.set()

    def meanwhile():
        deadline = time.monotonic() + ATTACK_S
        while not ended.is_set():
            assert time.monotonic() < deadline, "the attack goes on"
            yield
        # At once: a busy machine takes longer for the rest than the ban lasts.
        banned.append(is_banned())

    thread = threading.Thread(target=attack, daemon=True)
    thread.start()
    try:
        numbers = tls_lab.stream(tls_lab.sender("n1p1", group), [member], meanwhile=meanwhile())
        tls_lab.exact(member, numbers)
        unharmed(tls_lab)
        assert banned == [True] and not is_banned("n2")
    finally:
        thread.join(30)
        tls.close()
    assert resets, "there was no attack"
    assert metric("mcmesh_refusals_total", "flooding_connection") == cut + 1
    assert is_busy() or metric("mcmesh_sessions_begun_total") == sessions, \
        "an agent lost its session"
    assert programs.pid_of(programs.RUN / "c1") == pid
    assert rss_kb(pid) < RSS_MAX_KB, f"{rss_kb(pid)} kB"
    tls_lab.wait("the ban ends", lambda: not is_banned(), BAN_S + SLACK_S)
    tls_lab.wait("all agents are there", tls_lab.ready, 10)


# ---- plaintext ----


def test_tls_to_a_plaintext_port(tls_lab, client, tmp_path):
    """And: without tls only what this machine alone can reach is listened on."""
    refused = subprocess.run(topo.enter("c1", programs.program("mcmesh-controller"), "--listen",
                                        "0.0.0.0:7798"), capture_output=True, text=True, timeout=10)
    assert refused.returncode == 1 and "--insecure" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    process = subprocess.Popen(topo.enter("c1", programs.program("mcmesh-controller"), "--listen",
                                          "127.0.0.1:7798"), stderr=subprocess.DEVNULL)
    try:
        def answers():
            return client("watch", certificate=None, target="127.0.0.1:7798")[-1].get("type")
        tls_lab.wait("it serves this machine", lambda: answers() == "SYNCED", 10)
        answer = client("watch", certificate="admin", target="127.0.0.1:7798")[-1]
        assert answer["code"] == "UNAVAILABLE", answer
        assert answers() == "SYNCED"
    finally:
        process.terminate()
        process.wait(10)
