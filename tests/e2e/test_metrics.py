# SPDX-License-Identifier: Apache-2.0
"""What controller and agents show over HTTP, and what a rude client can do there."""
import json
import pathlib
import re
import subprocess

import exposition
import programs
import pytest
import topology as topo

TOP = pathlib.Path(__file__).resolve().parents[2]
PORTS = {"c1": 9797, "n1": 9798, "n2": 9798, "n3": 9798}
ASK = """
import json, sys, urllib.request, urllib.error
try:
    with urllib.request.urlopen(sys.argv[1], timeout=10) as r:
        out = r.status, r.headers["Content-Type"], r.read().decode()
except urllib.error.HTTPError as e:
    out = e.code, e.headers["Content-Type"], e.read().decode()
print(json.dumps(out))
"""
# Answers: what came back of each rude request, and whether a decent one is answered then.
RUDE = """
import json, socket, sys, urllib.request
port = int(sys.argv[1])
def talk(data):
    with socket.create_connection(("127.0.0.1", port), 10) as s:
        s.settimeout(10)
        try:
            s.sendall(data)
            return s.recv(64).decode(errors="replace").split("\\r\\n")[0]
        except (ConnectionError, socket.timeout) as e:
            return type(e).__name__
out = {
    "post": talk(b"POST /metrics HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 3\\r\\n\\r\\nabc"),
    "path": talk(b"GET /../etc/passwd HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"),
    "line": talk(b"GET /" + b"a" * 100000 + b" HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"),
    "header": talk(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nX: " + b"a" * 100000 + b"\\r\\n\\r\\n"),
    "garbage": talk(bytes(range(256)) * 64 + b"\\r\\n\\r\\n"),
}
held = []
for _ in range(300):
    s = socket.socket()
    s.settimeout(0.2)
    try:
        s.connect(("127.0.0.1", port))
        s.sendall(b"GET /metrics HTTP/1.1\\r\\nHost: x\\r\\nX-")
    except OSError:
        pass
    held.append(s)
print(json.dumps(out), flush=True)
sys.stdin.readline()
"""


def ask(lab, where, path):
    """(status, content type, body)"""
    done = lab.exec(where, "/usr/bin/python3", "-c", ASK,
                    f"http://127.0.0.1:{PORTS[where]}{path}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def scrape(lab, where):
    status, kind, body = ask(lab, where, "/metrics")
    assert status == 200 and kind.startswith("text/plain; version=0.0.4")
    return exposition.parse(body)


def value(families, name, suffix="", **labels):
    return families[name].value(suffix, **labels) if name in families else 0


@pytest.mark.parametrize("where", ["c1", "n1"])
def test_metrics_are_valid_and_documented(lab, where):
    families = scrape(lab, where)
    assert len(families) > 20
    page = (TOP / "docs/metrics.md").read_text()
    counters = re.findall(r"^\| `(\w+)` \|", (TOP / "docs/counters.md").read_text(), re.M)
    for name in families:
        counter = re.sub(r"^mcmesh_|_total$", "", name)
        assert name.startswith("mcmesh_"), name
        # A counter of packets may have one of bytes beside it.
        names = {counter, re.sub("_bytes$", "", counter)}
        assert f"`{name}`" in page or names & set(counters) or \
            any(f"`{known}`" in page for known in names), f"{name} is not documented"


def test_metrics_follow_joins_and_packets(lab, group):
    before = {where: scrape(lab, where) for where in ("c1", "n1", "n2")}
    member, sender = lab.member("n2p1", group), lab.sender("n1p1", group)
    lab.wait_route("n1", group, remotes=["n2"])
    numbers = lab.stream(sender, [member])
    lab.exact(member, numbers)

    def grown(now, where, name, suffix="", **labels):
        return value(now[where], name, suffix, **labels) - \
            value(before[where], name, suffix, **labels)

    def shown():
        now = {where: scrape(lab, where) for where in before}
        return (grown(now, "c1", "mcmesh_members") > 0 and
                grown(now, "c1", "mcmesh_append_to_ack_seconds", "_count") > 0 and
                grown(now, "n2", "mcmesh_memberships") > 0 and
                grown(now, "n1", "mcmesh_rx_multicast_total", port="n1p1") >= len(numbers) and
                grown(now, "n1", "mcmesh_copy_remote_total") >= len(numbers))

    lab.wait("the metrics show the join and the packets", shown)
    now = scrape(lab, "c1")
    assert value(now, "mcmesh_nodes", state="connected") == 3
    assert value(now, "mcmesh_lag_seconds") < 5
    agent = scrape(lab, "n1")
    assert value(agent, "mcmesh_uplink_up") == 1
    assert value(agent, "mcmesh_ports", state="up") == 2
    # The same numbers as mcmeshctl has.
    rows = lab.json("counter", "list", agent="n2")["counters"]
    told = sum(int(r["packets"]) for r in rows if r["name"] == "rx_overlay")
    assert value(scrape(lab, "n2"), "mcmesh_rx_overlay_total") >= told > 0


@pytest.mark.parametrize("where", ["c1", "n1"])
def test_health_and_status_page(lab, where):
    status, _, body = ask(lab, where, "/healthz")
    assert (status, body) == (200, "ok\n")
    status, kind, body = ask(lab, where, "/")
    assert status == 200 and kind.startswith("text/html")
    assert ("n2" in body) if where == "c1" else ("n1p1" in body)
    assert ask(lab, where, "/metrics/")[0] == 404


@pytest.mark.parametrize("where", ["c1", "n1"])
def test_rude_clients_cost_nobody_else(lab, where, group):
    process = subprocess.Popen(
        topo.enter(where, "/usr/bin/python3", "-c", RUDE, str(PORTS[where])),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        answers = json.loads(process.stdout.readline())
        assert " 405 " in answers["post"]
        assert " 404 " in answers["path"]
        for name in ("line", "header", "garbage"):
            assert " 200 " not in answers[name], (name, answers[name])
        # With all connections held, the mesh goes on.
        member, sender = lab.member("n2p1", group), lab.sender("n1p1", group)
        lab.wait_route("n1", group, remotes=["n2"])
        lab.exact(member, lab.stream(sender, [member]))
        # Who is silent is let go after its time; then others are answered.
        lab.wait("metrics are shown again",
                 lambda: lab.exec(where, "/usr/bin/python3", "-c", ASK,
                                  f"http://127.0.0.1:{PORTS[where]}/healthz").returncode == 0, 20)
    finally:
        process.communicate("\n", timeout=20)


@pytest.mark.parametrize("listen", ["nowhere", "example.org:9797", "127.0.0.1:99999", ":9"])
def test_a_wrong_address_is_refused_with_a_sentence(tmp_path, listen):
    config = tmp_path / "controller.yaml"
    config.write_text(f'listen: ["127.0.0.1:0"]\ninsecure: yes\nmetrics: "{listen}"\n')
    done = subprocess.run([programs.program("mcmesh-controller"), "--config", config],
                          capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "metrics:" in done.stderr and listen in done.stderr
