# SPDX-License-Identifier: Apache-2.0
"""Certificates: who gets in, what they may do, and how they are replaced."""
import os
import pathlib
import shutil
import signal
import socket
import ssl
import time

import certificates
import programs
import pytest
import sockets
import topology as topo
from certificates import PKI, pki
from test_abuse import metric

CONTROLLER = (topo.controller_address("c1"), programs.PORT)
CONVERGED_S = 2
LIVES_S = 15  # a certificate that is to end while it is used


def log_of(name):
    return "".join(f.read_text(errors="replace") for f in (programs.RUN / name).glob("*.log"))


def replace(source, target):
    """As tools that renew certificates do: a new file, then a rename."""
    scratch = pathlib.Path(f"{target}.new")
    scratch.write_bytes(pathlib.Path(source).read_bytes())
    os.chmod(scratch, 0o600)
    scratch.rename(target)


def server_certificate(trust, name="read"):
    """What the controller shows to who connects now (DER), or the ssl error."""
    context = ssl.create_default_context(cafile=str(trust))
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(PKI / f"{name}.pem", PKI / f"{name}.key")
    with sockets.namespace("n1"):
        raw = socket.create_connection(CONTROLLER, timeout=5)
    with raw, context.wrap_socket(raw, server_hostname=CONTROLLER[0]) as tls:
        return tls.getpeercert(binary_form=True)


@pytest.fixture
def other_pki(tmp_path):
    pki("ca", "another", directory=tmp_path)
    return tmp_path


def refusals():
    """Calls and Hellos that were denied."""
    return [metric("mcmesh_refusals_total", f'"{what}"') for what in ("call_denied", "hello_denied")]


def unreachable(answer):
    assert answer[-1].get("code") == "UNAVAILABLE", answer


def denied(answer, *words):
    assert answer[-1].get("code") == "PERMISSION_DENIED", answer
    for word in words:
        assert word in answer[-1]["details"], answer


# ---- who gets in ----


def test_traffic_and_commands(tls_lab, group):
    member = tls_lab.member("n2p1", group)
    tls_lab.wait_route("n1", group, remotes=["n2"])
    tls_lab.exact(member, tls_lab.stream(tls_lab.sender("n1p1", group), [member]))
    assert tls_lab.verified()


def test_without_a_certificate(tls_lab, client):
    unreachable(client("watch", certificate={"cacert": str(PKI / "ca.pem")}))


def test_plaintext(tls_lab, client):
    unreachable(client("watch", certificate=None))
    done = tls_lab.exec("c1", programs.program("mcmeshctl"), "--controller",
                        f"{CONTROLLER[0]}:{CONTROLLER[1]}", "node", "list")
    assert done.returncode == 1 and "--cacert" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_of_a_foreign_authority(tls_lab, client, other_pki):
    pki("operator", "eve", "--role", "admin", directory=other_pki)
    unreachable(client("watch", certificate={"cacert": str(PKI / "ca.pem"),
                                             "cert": str(other_pki / "eve.pem"),
                                             "key": str(other_pki / "eve.key")}))


def test_expired(tls_lab, client):
    pki("operator", "former", "--role", "admin", "--seconds", "-5", "--since", "-100")
    unreachable(client("watch", certificate="former"))
    done = tls_lab.exec("c1", programs.program("mcmeshctl"), *certificates.arguments("former"),
                        "--controller", f"{CONTROLLER[0]}:{CONTROLLER[1]}", "node", "list")
    assert done.returncode == 1 and "has expired" in done.stderr, done.stderr


def test_roles(tls_lab, client):
    def ctl(name, *args):
        return tls_lab.exec("c1", programs.program("mcmeshctl"), *certificates.arguments(name),
                            "--controller", f"{CONTROLLER[0]}:{CONTROLLER[1]}", *args)

    calls, hellos = refusals()
    assert ctl("read", "node", "list").returncode == 0
    drain = ctl("read", "node", "drain", "n1")
    assert drain.returncode == 1 and "mcmesh://role/admin" in drain.stderr, drain.stderr
    nodes = ctl("n1", "node", "list")
    assert nodes.returncode == 1 and "mcmesh://role/read" in nodes.stderr, nodes.stderr
    denied(client("sync", "n1", "203.0.113.1", certificate="admin"), "mcmesh://node/NAME")
    tls_lab.wait("they are counted", lambda: refusals() == [calls + 3, hellos], 5)
    assert {n["state"] for n in tls_lab.json("node", "list")["nodes"]} == {"CONNECTED"}


def test_a_node_speaks_for_itself_only(tls_lab, client):
    pki("node", "n9", "--vtep", "203.0.113.9")
    calls, hellos = refusals()
    denied(client("sync", "n2", "203.0.113.9", certificate="n9"), "node n2", "mcmesh://node/n2")
    denied(client("sync", "n9", "203.0.113.2", certificate="n9"), "n9", "VTEP 203.0.113.2")
    tls_lab.wait("they are counted", lambda: refusals() == [calls, hellos + 2], 5)
    log = log_of("c1")
    assert "node n2 needs a certificate" in log and "may not use the VTEP" in log
    assert tls_lab.ready(), "the nodes themselves were disturbed"


# ---- replacing them ----


def reissue(directory):
    """Everybody's certificate by the authority of the directory, in place."""
    for name in ("n1", "n2", "n3"):
        pki("node", name, "--vtep", topo.vtep(name), directory=directory)
    pki("controller", "c1", "--host", CONTROLLER[0], directory=directory)
    for role in certificates.OPERATORS:
        pki("operator", role, "--role", role, directory=directory)


def test_rotation_of_everything(tls_lab, group, other_pki):
    """A new authority beside the old, new certificates, the old authority away:
    no restart, no packet lost, no session broken; who comes uses the new ones."""
    member = tls_lab.member("n2p1", group)
    tls_lab.wait_route("n1", group, remotes=["n2"])
    sessions = log_of("c1").count("an agent connected")
    old = server_certificate(PKI / "ca.pem")
    kept = PKI.parent / "pki-old"
    shutil.copytree(PKI, kept)

    def rotate():
        (other_pki / "both.pem").write_bytes((PKI / "ca.pem").read_bytes() +
                                             (other_pki / "ca.pem").read_bytes())
        replace(other_pki / "both.pem", PKI / "ca.pem")
        yield
        reissue(other_pki)
        yield
        for name in ("c1", "n1", "n2", "n3", "admin", "read"):
            for kind in ("pem", "key"):
                replace(other_pki / f"{name}.{kind}", PKI / f"{name}.{kind}")
            yield
        replace(other_pki / "ca.pem", PKI / "ca.pem")
        replace(other_pki / "ca.key", PKI / "ca.key")
        yield
        assert server_certificate(other_pki / "ca.pem") != old
        with pytest.raises(OSError):
            server_certificate(kept / "ca.pem")

    try:
        numbers = tls_lab.stream(tls_lab.sender("n1p1", group), [member], meanwhile=rotate())
        tls_lab.exact(member, numbers)
        assert log_of("c1").count("an agent connected") == sessions, "a session was broken"
        assert tls_lab.verified()
        # Who has to connect again comes with the new one: only the new is trusted now.
        ended = log_of("n3").count("No session with a controller")
        tls_lab.command("cut", "n3")
        tls_lab.wait("n3 has no session", lambda:
                     log_of("n3").count("No session with a controller") > ended, 10)
        tls_lab.command("heal", "n3")
        # Its old session may still stand at the controller.
        tls_lab.wait("n3 is back", lambda:
                     log_of("c1").count("an agent connected") > sessions and tls_lab.ready(), 15)
        assert log_of("c1").count("the TLS files were read again")
    finally:
        shutil.rmtree(kept)


def test_half_a_pair_changes_nothing(tls_lab):
    good = (PKI / "c1.key").read_bytes()
    before = log_of("c1").count("stays in force")
    try:
        replace(PKI / "read.key", PKI / "c1.key")
        tls_lab.wait("it is told", lambda: log_of("c1").count("stays in force") > before, 5)
        assert "does not belong to the certificate" in log_of("c1")
        assert tls_lab.ctl("node", "list").returncode == 0
        assert log_of("c1").count("stays in force") == before + 1
    finally:
        scratch = PKI / "c1.key.new"
        scratch.write_bytes(good)
        scratch.rename(PKI / "c1.key")


def test_a_stream_ends_with_its_certificate(tls_lab, group):
    """And the agent is back as soon as there is a new one."""
    member = tls_lab.member("n3p1", group)
    tls_lab.wait_route("n1", group, remotes=["n3"])
    ended = log_of("n3").count("has expired: connect with a new one")
    pki("node", "n3", "--vtep", topo.vtep("n3"), "--seconds", str(LIVES_S))
    try:
        tls_lab.command("restart", "agent", "n3")
        tls_lab.wait("n3 is back", tls_lab.ready, LIVES_S - 3)
        end = time.monotonic() + 2 * LIVES_S

        def expire():
            while log_of("n3").count("has expired: connect with a new one") == ended:
                assert time.monotonic() < end, "the session outlives its certificate"
                yield
            pki("node", "n3", "--vtep", topo.vtep("n3"))
            while not tls_lab.ready():
                assert time.monotonic() < end + LIVES_S, "the agent is not back"
                yield

        sender = tls_lab.sender("n1p1", group)
        tls_lab.exact(member, tls_lab.stream(sender, [member], interval_s=0.005,
                                             meanwhile=expire(), deadline_s=10))
    finally:
        pki("node", "n3", "--vtep", topo.vtep("n3"))
    tls_lab.wait("n3 is connected", tls_lab.ready, 10)
    assert tls_lab.verified()


def test_agent_that_has_no_good_files_works_alone(tls_lab, group):
    good = (PKI / "n2.pem").read_bytes()
    (PKI / "n2.pem").write_text("this is no certificate\n")
    try:
        tls_lab.command("restart", "agent", "n2")
        member = tls_lab.member("n2p1", group)
        tls_lab.wait_route("n2", group, ports=["n2p1"])
        tls_lab.exact(member, tls_lab.stream(tls_lab.sender("n2p2", group), [member]))
        assert "n2.pem holds no certificate" in log_of("n2")
    finally:
        (PKI / "n2.pem").write_bytes(good)
    tls_lab.wait_route("n1", group, remotes=["n2"], deadline_s=10)


# ---- the operator's records ----


def reload(records):
    """The controller's file with these records of nodes, by SIGHUP."""
    config = programs.controller_config(programs.load(), "c1")
    before = log_of("c1").count("reloaded")
    if records:
        config["nodes"] = records
    programs.write_config("c1", "controller", config)
    os.kill(programs.pid_of(programs.RUN / "c1"), signal.SIGHUP)
    programs.wait_until("the file is read", lambda: log_of("c1").count("reloaded") > before, 5)


def test_evicted_and_taken_back(tls_lab, group):
    members = [tls_lab.member("n2p1", group), tls_lab.member("n3p1", group)]
    tls_lab.wait_route("n1", group, remotes=["n2", "n3"])
    try:
        reload([{"name": "n3", "evicted": True}])
        tls_lab.wait_route("n1", group, remotes=["n2"], deadline_s=CONVERGED_S)
        tls_lab.wait("n3 knows why", lambda: "is evicted" in log_of("n3"), 5)
        numbers = tls_lab.stream(tls_lab.sender("n1p1", group), members[:1])
        tls_lab.exact(members[0], numbers)
        assert members[1].drain().received == 0, "an evicted node still gets the traffic"
    finally:
        reload([])
    tls_lab.wait("n3 is back", tls_lab.ready, 15)
    tls_lab.wait_route("n1", group, remotes=["n2", "n3"])


def test_segments_of_a_node(tls_lab, group):
    """n2 may not take part in segment 1: its own ports reach each other all the same."""
    try:
        reload([{"name": "n2", "segments": [7]}])
        member, near = tls_lab.member("n2p1", group), tls_lab.member("n3p1", group)
        tls_lab.wait_route("n1", group, remotes=["n3"])
        tls_lab.wait("it is refused", lambda: f"refused a member. segment=1 group={group}" in
                     log_of("n2"), 10)
        tls_lab.exact(member, tls_lab.stream(tls_lab.sender("n2p2", group), [member]))
        before = near.drain().received, member.received
        tls_lab.stream(tls_lab.sender("n1p1", group), [near])
        assert member.drain().received == before[1], "a refused member got another node's traffic"
    finally:
        reload([])
    tls_lab.wait("n2 is back", tls_lab.ready, 15)
    tls_lab.wait_route("n1", group, remotes=["n2", "n3"], deadline_s=10)
