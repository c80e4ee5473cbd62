# SPDX-License-Identifier: Apache-2.0
"""A swarm on one controller: all are told everything, and the digests agree."""
import json
import socket
import subprocess

import certificates
import programs
import pytest

AGENTS, FULL, GROUPS = 40, 5, 10  # with a certificate each


@pytest.fixture(params=["plaintext", "tls"])
def controller(tmp_path, request):
    """Its address, and what a swarm needs to be let in; without a lab."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    config, more = tmp_path / "controller.yaml", []
    lines = [f'listen: ["127.0.0.1:{port}"]', f"store: sqlite:{tmp_path}/controller.db"]
    if request.param == "tls":
        pki = tmp_path / "pki"
        certificates.pki("ca", directory=pki)
        certificates.pki("controller", "c1", "--host", "127.0.0.1", directory=pki)
        certificates.pki("operator", "read", "--role", "read", directory=pki)
        for i in range(AGENTS):
            certificates.pki("node", f"s{i + 1}", "--vtep", f"10.0.0.{i + 1}", directory=pki)
        lines.append(f"tls: {{ cacert: {pki}/ca.pem, cert: {pki}/c1.pem, key: {pki}/c1.key }}")
        more = ["--pki", str(pki)]
    config.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen([programs.program("mcmesh-controller"), "--config", config])
    try:
        programs.wait_until("the controller listens", lambda: reaches(port), 10)
        yield [f"127.0.0.1:{port}", *more]
    finally:
        process.terminate()
        process.wait(20)


def reaches(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def test_all_agents_of_a_swarm_are_told_everything(controller):
    commands = "sync 0 30\nidle 100\nchange 10 60\nchurn 200 2\nstats\nquit\n"
    done = subprocess.run(
        [programs.program("mcmesh-swarm"), "--commands", "--controller", *controller,
         "--agents", str(AGENTS), "--full", str(FULL), "--groups", str(GROUPS)],
        input=commands, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    sync, _, change, churn, stats = [json.loads(line) for line in done.stdout.splitlines()]
    assert sync["ok"] and change["ok"] and churn["ok"], done.stdout
    assert sync["up"] == AGENTS and change["acked_ms"]["n"] == 10
    assert churn["changes"] >= 200 and churn["rows_reported"] > sync["rows_reported"]
    # A full agent's digest is the real mirror's, a light one's the flock's.
    assert stats["inconsistent"] == stats["sync_resyncs"] == stats["sync_gaps"] == 0
    assert stats["lost"] == stats["sync_bad_messages"] == stats["behind"] == 0
