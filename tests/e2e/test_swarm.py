# SPDX-License-Identifier: Apache-2.0
"""A swarm on one controller: all are told everything, and the digests agree."""
import json
import socket
import subprocess

import programs
import pytest

AGENTS, FULL, GROUPS = 40, 5, 10


@pytest.fixture
def controller(tmp_path):
    """Its address; without a lab."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    config = tmp_path / "controller.yaml"
    config.write_text(f'listen: ["127.0.0.1:{port}"]\ninsecure: yes\n')
    process = subprocess.Popen([programs.program("mcmesh-controller"), "--config", config])
    try:
        programs.wait_until("the controller listens", lambda: reaches(port), 10)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def reaches(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def test_all_agents_of_a_swarm_are_told_everything(controller):
    commands = "sync 0 30\nidle 100\nchange 10 60\nchurn 200 2\nstats\nquit\n"
    done = subprocess.run(
        [programs.program("mcmesh-swarm"), "--commands", "--controller", controller,
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
