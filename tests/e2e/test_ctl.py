# SPDX-License-Identifier: Apache-2.0
"""mcmeshctl against a fake controller and agent: JSON keys, exit codes, sentences."""

import concurrent.futures
import glob
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import grpc
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def find_ctl():
    named = os.environ.get("MCMESHCTL") or os.path.join(os.environ.get("MCMESH_BIN", "-"), "mcmeshctl")
    if os.path.exists(named):
        return named
    built = sorted(glob.glob(str(ROOT / "build/*/bin/mcmeshctl")), key=os.path.getmtime)
    if not built:
        pytest.skip("mcmeshctl is not built")
    return built[-1]


@pytest.fixture(scope="session")
def pb(tmp_path_factory):
    out = tmp_path_factory.mktemp("pb")
    names = [f"mcmesh/v1/{n}.proto" for n in ("types", "mesh", "agent")]
    subprocess.run(["protoc", "-I", ROOT / "proto", f"--python_out={out}", *names], check=True)
    sys.path.insert(0, str(out))
    from mcmesh.v1 import agent_pb2, mesh_pb2, types_pb2

    return {"agent": agent_pb2, "mesh": mesh_pb2, "types": types_pb2}


class Fake(grpc.GenericRpcHandler):
    """Answers by method name; remembers the requests."""

    def __init__(self, pb):
        self.pb, self.answers, self.requests = pb, {}, {}

    def service(self, details):
        service, method = details.method.rsplit("/", 1)
        module = self.pb["mesh" if service.endswith("MeshService") else "agent"]
        name = next(s for s in module.DESCRIPTOR.services_by_name if service.endswith(s))
        d = module.DESCRIPTOR.services_by_name[name].methods_by_name[method]
        request = getattr(module, d.input_type.name)
        answer = self.answers.get(method)
        if answer is None:
            return None

        def unary(raw, context):
            self.requests.setdefault(method, []).append(request.FromString(raw))
            return answer(self.requests[method][-1], context).SerializeToString()

        def stream(raw, context):
            self.requests.setdefault(method, []).append(request.FromString(raw))
            for event in answer(self.requests[method][-1], context):
                yield event.SerializeToString()

        if method == "Watch":
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


@pytest.fixture
def fake(pb, tmp_path):
    handler = Fake(pb)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), handlers=[handler])
    handler.controller = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    handler.agent = str(tmp_path / "agent.sock")
    server.add_insecure_port(f"unix:{handler.agent}")
    server.start()
    yield handler
    server.stop(None).wait(10)


def command(fake, *args):
    return [find_ctl(), *args, "--controller", fake.controller, "--agent", fake.agent]


def ctl(fake, *args):
    return subprocess.run(command(fake, *args), capture_output=True, text=True, timeout=30)


def test_lists_are_whole_and_proto3_json(fake, pb):
    mesh = pb["mesh"]

    def members(request, _):
        at = int(request.page_token or 0)
        r = mesh.ListMembersResponse(epoch="e", revision=2**60)
        r.members.add(segment=1, group="239.1.1.1", node=f"n{at}", mode=1)
        r.next_page_token = str(at + 1) if at < 2 else ""
        return r

    fake.answers["ListMembers"] = members
    r = ctl(fake, "-o", "json", "member", "list", "--segment", "1", "--group=239.1.1.1")
    assert (r.returncode, r.stderr) == (0, "")
    answer = json.loads(r.stdout)
    assert [m["node"] for m in answer["members"]] == ["n0", "n1", "n2"]
    assert answer["members"][0] == {
        "segment": 1, "group": "239.1.1.1", "node": "n0", "mode": "EXCLUDE", "sources": [],
        "revision": "0",
    }
    assert answer["revision"] == str(2**60) and answer["nextPageToken"] == ""
    asked = fake.requests["ListMembers"]
    assert [q.page_token for q in asked] == ["", "1", "2"]
    assert asked[0].segment == 1 and asked[0].group == "239.1.1.1"
    table = ctl(fake, "member", "list").stdout.splitlines()
    assert table[0].split() == ["SEGMENT", "GROUP", "NODE", "MODE", "SOURCES", "REVISION"]
    assert len(table) == 4 and table[1].split()[2:5] == ["n0", "EXCLUDE", "-"]


def test_routes_of_a_node_have_pages(fake, pb):
    def routes(request, _):
        at = int(request.page_token or 0)
        r = pb["mesh"].ListRoutesResponse(next_page_token=str(at + 1) if at < 2 else "")
        r.routes.add(segment=1, group=f"239.1.1.{at}", source="*")
        return r

    fake.answers["ListRoutes"] = routes
    r = ctl(fake, "route", "list", "--node", "n1", "-o", "json")
    assert [row["group"] for row in json.loads(r.stdout)["routes"]] == [
        f"239.1.1.{i}" for i in range(3)]


def test_options_may_stand_anywhere(fake, pb):
    fake.answers["ListRoutes"] = lambda q, _: (
        pb["mesh"].ListRoutesResponse if hasattr(q, "node") else pb["agent"].ListFibResponse
    )(routes=[pb["types"].Route(segment=1, group="239.1.1.1", source="*")])
    for args in (["--node", "n1", "route", "list"], ["route", "list", "--node=n1"],
                 ["-ojson", "route", "--node=n1", "list"],
                 ["route", "--node", "n1", "list", "-o", "table"]):
        assert ctl(fake, *args, "-o", "json").returncode == 0, args
    assert {q.node for q in fake.requests["ListRoutes"]} == {"n1"}
    route = json.loads(ctl(fake, "fib", "list", "-o", "json").stdout)["routes"][0]
    assert route == {"segment": 1, "group": "239.1.1.1", "source": "*", "ports": [], "remotes": []}


def test_agent_commands(fake, pb):
    a = pb["agent"]
    m = a.Membership(segment=1, port="p1", group="232.1.1.1", version="IGMPV3", expires_ms=7)
    m.sources.add(address="192.0.2.1", state="BLOCKED")
    fake.answers["ListMemberships"] = lambda q, _: a.ListMembershipsResponse(memberships=[m])
    fake.answers["Explain"] = lambda q, _: a.ExplainResponse(delivered=False, reasons=["a", "b"])
    row = json.loads(ctl(fake, "membership", "list", "-o", "json").stdout)["memberships"][0]
    assert row["mode"] == "INCLUDE" and row["version"] == "IGMPV3" and row["expiresMs"] == "7"
    assert row["sources"] == [{"address": "192.0.2.1", "state": "BLOCKED", "expiresMs": "0"}]
    assert row["isStatic"] is False and row["hosts"] == []
    r = ctl(fake, "explain", "--group", "232.1.1.1", "--port", "p1", "-o", "json")
    assert json.loads(r.stdout) == {"delivered": False, "reasons": ["a", "b"]}
    assert fake.requests["Explain"][0].port == "p1"


def test_writes(fake, pb):
    mesh = pb["mesh"]
    fake.answers["AddStaticMember"] = lambda q, _: mesh.AddStaticMemberResponse(revision=5)
    fake.answers["DrainNode"] = lambda q, _: mesh.DrainNodeResponse(revision=6)
    add = ["static", "add", "--node", "n1", "--port", "p1", "--group", "239.1.1.1"]
    assert json.loads(ctl(fake, *add, "-o", "json").stdout) == {"revision": "5"}
    assert ctl(fake, *add, "--source", "192.0.2.1", "--source", "192.0.2.2").returncode == 0
    plain, sources = [q.member for q in fake.requests["AddStaticMember"]]
    assert plain.mode == 1 and plain.node == "n1"
    assert sources.mode == 0 and list(sources.sources) == ["192.0.2.1", "192.0.2.2"]
    assert ctl(fake, "node", "drain", "n1").returncode == 0
    assert ctl(fake, "node", "drain", "--cancel", "n1").returncode == 0
    assert [(q.node, q.cancel) for q in fake.requests["DrainNode"]] == [("n1", False), ("n1", True)]


def test_verify_drift_is_3(fake, pb):
    for ok, code in ((True, 0), (False, 3)):
        answer = pb["mesh"].VerifyResponse()
        answer.nodes.add(name="n1", ok=ok, detail="d")
        fake.answers["Verify"] = lambda q, _: answer
        r = ctl(fake, "verify", "-o", "json")
        assert r.returncode == code
        assert json.loads(r.stdout)["nodes"] == [{"name": "n1", "ok": ok, "detail": "d"}]


def test_verify_says_how_many_were_not_compared(fake, pb):
    """That a node is away is no drift."""
    answer = pb["mesh"].VerifyResponse(epoch="e", not_compared=1)
    answer.nodes.add(name="n1", ok=True)
    answer.nodes.add(name="n2", ok=True, detail="not connected: not compared")
    fake.answers["Verify"] = lambda q, _: answer
    for form in ("json", "table"):
        r = ctl(fake, "verify", "-o", form)
        assert (r.returncode, r.stderr) == (
            0, "mcmeshctl: 1 of 2 nodes not compared: their agents are not connected\n")
    answer.nodes[0].ok = False
    assert ctl(fake, "verify").returncode == 3


def test_who_asks_others_has_time_to_say_who_was_silent(fake, pb):
    """A controller gives each of the others up to 5 s."""
    left = {}

    def answers(method, response):
        def answer(request, context):
            left[method] = context.time_remaining()
            return response
        fake.answers[method] = answer

    mesh = pb["mesh"]
    answers("Verify", mesh.VerifyResponse())
    answers("ListNodes", mesh.ListNodesResponse())
    answers("ListRoutes", mesh.ListRoutesResponse())
    answers("ListGroups", mesh.ListGroupsResponse())
    for words in (["verify"], ["node", "list"], ["route", "list", "--node", "n1"],
                  ["group", "list"]):
        assert ctl(fake, *words).returncode == 0, words
    assert min(left[m] for m in ("Verify", "ListNodes", "ListRoutes")) > 8, left
    assert left["ListGroups"] <= 5, left


def test_watch_is_one_object_a_line_until_a_signal(fake, pb):
    def events(request, context):
        yield pb["mesh"].WatchResponse(type="PUT", revision=3, member={"group": "239.1.1.1"})
        yield pb["mesh"].WatchResponse(type="SYNCED", revision=3)
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(20)

    fake.answers["Watch"] = events
    p = subprocess.Popen(command(fake, "watch", "-o", "json"), stdout=subprocess.PIPE, text=True)
    first, second = json.loads(p.stdout.readline()), json.loads(p.stdout.readline())
    assert first["member"]["group"] == "239.1.1.1" and "node" not in first
    assert second == {"type": "SYNCED", "revision": "3", "resumeToken": ""}
    p.send_signal(signal.SIGTERM)
    assert p.wait(10) == 0
    p.stdout.close()


def test_watch_ends_with_the_controller_and_with_its_reader(fake, pb):
    def events(request, context):
        for _ in range(200 if request.segment == 2 else 1):
            yield pb["mesh"].WatchResponse(type="SYNCED")
        context.abort(grpc.StatusCode.UNAVAILABLE, "the controller drains: ask another")

    fake.answers["Watch"] = events
    r = ctl(fake, "watch", "-o", "json")
    assert (r.returncode, r.stderr) == (1, "mcmeshctl: the controller drains: ask another\n")
    read, write = os.pipe()
    os.close(read)
    p = subprocess.run(command(fake, "watch", "--segment", "2"), stdout=write,
                       stderr=subprocess.PIPE, timeout=20)
    os.close(write)
    assert (p.returncode, p.stderr) == (0, b"")


def test_errors_say_what_to_do(fake, pb, tmp_path):
    def refuse(request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no agent ever announced node \"n9\"")

    fake.answers["ListRoutes"] = refuse
    r = ctl(fake, "route", "list", "--node", "n9")
    assert (r.returncode, r.stderr) == (1, 'mcmeshctl: no agent ever announced node "n9"\n')
    r = subprocess.run([find_ctl(), "port", "list", "--agent", f"{tmp_path}/no.sock"],
                       capture_output=True, text=True, timeout=20)
    assert r.returncode == 1
    assert r.stderr == (f"mcmeshctl: cannot reach the agent at unix:{tmp_path}/no.sock: "
                        "is mcmesh-agent running?\n")
    assert "does not know this command" in ctl(fake, "group", "list").stderr


@pytest.mark.parametrize("args", [
    [], ["node"], ["node", "frob"], ["node", "list", "--segment", "1"], ["route", "list"],
    ["group", "list", "--segment", "-1"], ["-o", "xml", "node", "list"], ["node", "list", "x"],
    ["explain", "--group"], ["-v"], ["-oxml", "node", "list"], ["route", "list", "--node="],
    ["static", "remove", "--node", "n1", "--port", "", "--group", "239.1.1.1"], ["frob", "--help"],
    ["--controller=", "node", "list"], ["node", "list", "--local=1"], ["node", "drain", "a", "b"],
])
def test_bad_usage_is_2_and_one_sentence(args):
    r = subprocess.run([find_ctl(), *args], capture_output=True, text=True, timeout=20)
    assert r.returncode == 2 and r.stdout == ""
    assert r.stderr.startswith("mcmeshctl: ") and r.stderr.count("\n") == 1


def test_a_noun_without_its_verb_is_told_the_verbs():
    for args in (["node"], ["node", "frob"], ["-o", "json", "node"]):
        r = subprocess.run([find_ctl(), *args], capture_output=True, text=True, timeout=20)
        assert r.returncode == 2 and "list, drain" in r.stderr, args
    for args in (["help"], ["help", "node"], ["node", "--help"], ["help", "node", "list"]):
        r = subprocess.run([find_ctl(), *args], capture_output=True, text=True, timeout=20)
        assert (r.returncode, r.stderr) == (0, "") and "node list" in r.stdout, args


def test_help_for_everything():
    r = subprocess.run([find_ctl(), "--help"], capture_output=True, text=True, timeout=20)
    assert r.returncode == 0 and "membership list" in r.stdout
    r = subprocess.run([find_ctl(), "static", "add", "--help"], capture_output=True, text=True)
    assert r.returncode == 0 and "--source" in r.stdout
