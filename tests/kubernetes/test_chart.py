# SPDX-License-Identifier: Apache-2.0
"""The chart and the manifests made of it: what Helm, the types of Kubernetes, our own
programs, and the objects among themselves say of them. No cluster is asked: there is none."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import manifests
import pytest
import yaml
from manifests import BUILD, CHART, HERE, PLAIN, PLAIN_FILES, TOP

sys.path.insert(0, str(TOP / "deploy/lab"))

import certificates  # noqa: E402
import programs  # noqa: E402

ETCD = ("controller.store=etcd", "controller.etcd.endpoints={e1:2379,[2001:db8::1]:2379}")
CASES = {
    "default": (),
    "etcd": ETCD,
    "etcd-with-a-secret": (*ETCD, "controller.etcd.secret=etcd-client"),
    "etcd-in-plaintext": (*ETCD, "tls.enabled=false"),
    "plaintext": ("tls.enabled=false",),
    "one-secret-for-agents": ("tls.agentVolume.secret.secretName=agents",
                              "tls.serverName=mesh"),
    "closed": ("networkPolicy.enabled=true", "networkPolicy.nodes={203.0.113.0/24,2001:db8::/64}",
               "networkPolicy.monitoring={198.51.100.0/24}"),
    "open-to-others": ("controller.service.type=LoadBalancer", "controller.service.port=443",
                       "agent.metrics.address=0.0.0.0"),
    "agents-only": ("controller.enabled=false", "agent.controllers={c1.example:7797}"),
    "all-that-is-optional": (
        "imagePullSecrets[0].name=pull", "agent.podLabels.a=b", "agent.podAnnotations.c=d",
        "controller.podLabels.a=b", "controller.podAnnotations.c=d", "controller.listen=[::]",
        "serviceAccount.annotations.e=f", "controller.service.annotations.g=h",
        "controller.persistence.storageClassName=fast", "agent.config.delivery=peer",
        "agent.config.gmp.fast_leave=true", "agent.config.overlay.port=4798",
        "controller.config.hold_ms=60000", "agent.metrics.address=[::1]",
        "controller.config.segments[0].segment=7", "controller.config.segments[0].querier=off",
        "controller.tolerations[0].operator=Exists", "agent.ports[0].match=tap*", "agent.ports[0].router=always",
        "agent.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
        ".nodeSelectorTerms[0].matchExpressions[0].key=x",
        "agent.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
        ".nodeSelectorTerms[0].matchExpressions[0].operator=Exists"),
}
WORKLOADS = ("DaemonSet", "Deployment", "StatefulSet")


@pytest.fixture(scope="session", autouse=True)
def tools():
    try:
        manifests.install()
        manifests.find_helm()
    except manifests.Unavailable as why:
        pytest.skip(str(why))


def objects(text):
    return [o for o in yaml.safe_load_all(text) if o]


def rendered(name):
    done = manifests.template(*CASES[name])
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


def wrong(these):
    """What the schemas and the types have against them."""
    script = BUILD / "check.mjs"
    script.write_text((HERE / "check.mjs").read_text())
    done = subprocess.run(["node", str(script)], cwd=BUILD, input=json.dumps(these), text=True,
                          capture_output=True, timeout=120)
    return (done.stdout + done.stderr).strip()


def of_kind(these, *kinds):
    return [o for o in these if o["kind"] in kinds]


def pod_of(o):
    return o["spec"]["template"]


# ---- Helm and schemas -----------------------------------------------------------


def test_lint():
    for name, settings in CASES.items():
        done = manifests.run_helm("lint", "--strict", CHART, *[f"--set={s}" for s in settings])
        assert done.returncode == 0, f"{name}: {done.stdout}"


def test_kinds():
    def kinds(name):
        return sorted(o["kind"] for o in rendered(name))
    base = ["ConfigMap", "ConfigMap", "DaemonSet", "PodDisruptionBudget", "Service",
            "ServiceAccount"]
    assert kinds("default") == sorted([*base, "StatefulSet"])
    assert kinds("etcd") == sorted([*base, "Deployment"])
    assert kinds("closed") == sorted([*base, "StatefulSet", "NetworkPolicy"])
    assert kinds("agents-only") == ["ConfigMap", "DaemonSet", "ServiceAccount"]


def test_every_object_is_one_of_kubernetes():
    everything = [o for name in CASES for o in rendered(name)]
    for name in PLAIN_FILES:
        everything += objects((PLAIN / name).read_text())
    assert not wrong(everything)


def test_the_check_has_teeth():
    ways = {
        "hostNetwrk": lambda pod: pod.update(hostNetwrk=True),
        "name": lambda pod: pod["containers"][0].pop("name"),
        "periodSeconds": lambda pod: pod["containers"][0]["livenessProbe"].update(
            periodSeconds="10"),
        "memory": lambda pod: pod["containers"][0]["resources"]["requests"].update(
            memory="1 GB"),
    }
    several = []
    for i, (says, spoil) in enumerate(ways.items()):
        [one] = of_kind(rendered("default"), "DaemonSet")
        one["metadata"]["name"] = f"spoilt-{i}"
        spoil(pod_of(one)["spec"])
        several.append(one)
    found = wrong(several).splitlines()
    for i, says in enumerate(ways):
        assert [line for line in found if f"spoilt-{i}:" in line and says in line], (says, found)


@pytest.mark.parametrize("settings,says", [
    (("agent.prots={x}",), "prots"),
    (("agent.config.vtep=203.0.113.1",), "vtep"),
    (("agent.ports[0].segment=0",), "segment"),
    (("agent.controllers={nowhere}",), "controllers"),
    (("controller.store=redis",), "store"),
    (("controller.store=etcd",), "say where etcd is"),
    (("controller.enabled=false",), "say where the controllers are"),
    (("networkPolicy.enabled=true",), "networkPolicy"),
    (("controller.config.insecure=true",), "insecure"),
])
def test_wrong_values_are_refused(settings, says):
    done = manifests.template(*settings)
    assert done.returncode != 0 and says in done.stderr, done.stderr


def test_manifests_are_the_charts():
    for name in PLAIN_FILES:
        assert (PLAIN / name).read_text() == manifests.plain(name), \
            f"deploy/kubernetes/{name} is not what the chart gives: run ./dev manifests"


def test_versions_agree():
    version = re.search(r"project\(mcmesh VERSION ([\d.]+)",
                        (TOP / "CMakeLists.txt").read_text())[1]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == version
    assert chart["version"] == version


# ---- objects among themselves ------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_labels_and_selectors(name):
    these = rendered(name)
    pods = {}
    for o in of_kind(these, *WORKLOADS):
        labels, chosen = pod_of(o)["metadata"]["labels"], o["spec"]["selector"]["matchLabels"]
        assert chosen.items() <= labels.items(), o["metadata"]["name"]
        assert chosen.items() <= o["metadata"]["labels"].items()
        assert "app.kubernetes.io/version" not in labels, "a selector is for ever"
        pods[o["metadata"]["name"]] = labels
    selectors = [o["spec"]["selector"] for o in of_kind(these, "Service")]
    selectors += [o["spec"]["selector"]["matchLabels"] for o in of_kind(these, *WORKLOADS,
                                                                        "PodDisruptionBudget")]
    selectors += [o["spec"]["podSelector"]["matchLabels"] for o in of_kind(these, "NetworkPolicy")]
    for selector in selectors:
        found = [p for p, labels in pods.items() if selector.items() <= labels.items()]
        assert len(found) == 1, f"{selector} chooses {found}"
    names = [(o["kind"], o["metadata"]["name"]) for o in these]
    assert len(names) == len(set(names))
    assert {o["metadata"]["namespace"] for o in these} == {"mcmesh"}


def config_keys(these):
    return {o["metadata"]["name"]: set(o["data"]) for o in of_kind(these, "ConfigMap")}


@pytest.mark.parametrize("name", CASES)
def test_what_pods_name_is_there(name):
    these = rendered(name)
    maps = config_keys(these)
    accounts = {o["metadata"]["name"] for o in of_kind(these, "ServiceAccount")}
    for o in of_kind(these, *WORKLOADS):
        spec = pod_of(o)["spec"]
        volumes = {v["name"]: v for v in spec["volumes"]}
        claimed = {c["metadata"]["name"] for c in o["spec"].get("volumeClaimTemplates", ())}
        mounted = {m["name"] for c in spec["containers"] for m in c["volumeMounts"]}
        assert mounted == set(volumes) | claimed and not set(volumes) & claimed
        for container in spec["containers"]:
            ports = {p["name"]: p for p in container["ports"]}
            for probe in ("livenessProbe", "readinessProbe"):
                http = container[probe].get("httpGet")
                assert (http["port"] in ports if http else
                        container[probe]["grpc"]["port"] in
                        [p["containerPort"] for p in ports.values()])
            for mount in container["volumeMounts"]:
                source = volumes.get(mount["name"], {}).get("configMap")
                if source:
                    assert mount["subPath"] in maps[source["name"]]
            for variable in re.findall(r"\$\((\w+)\)", " ".join(container.get("args", ()))):
                assert variable in [e["name"] for e in container["env"]]
        assert spec["serviceAccountName"] in accounts
        assert spec["automountServiceAccountToken"] is False
    for service in of_kind(these, "Service"):
        [owner] = of_kind(these, "Deployment", "StatefulSet")
        ports = [p["name"] for c in pod_of(owner)["spec"]["containers"] for p in c["ports"]]
        assert all(p["targetPort"] in ports for p in service["spec"]["ports"])


def test_a_change_of_settings_begins_a_rollout():
    def sums(*settings):
        these = objects(manifests.template(*settings).stdout)
        return {o["kind"]: pod_of(o)["metadata"]["annotations"]["checksum/config"]
                for o in of_kind(these, *WORKLOADS)}
    one, other = sums(), sums("agent.config.delivery=peer")
    assert one["DaemonSet"] != other["DaemonSet"] and one["StatefulSet"] == other["StatefulSet"]


def test_rights():
    """What the layer `containers` runs them with."""
    [agent] = of_kind(rendered("default"), "DaemonSet")
    [container] = pod_of(agent)["spec"]["containers"]
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"],
                                       "add": ["BPF", "NET_ADMIN", "NET_RAW", "PERFMON"]}
    assert not context["privileged"] and not context["allowPrivilegeEscalation"]
    paths = [v["hostPath"]["path"] for v in pod_of(agent)["spec"]["volumes"] if "hostPath" in v]
    assert sorted(paths) == ["/etc/mcmesh/tls", "/run/mcmesh", "/sys/fs/bpf", "/var/lib/mcmesh"]
    for name in ("default", "etcd"):
        [owner] = of_kind(rendered(name), "Deployment", "StatefulSet")
        pod = pod_of(owner)["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and "hostNetwork" not in pod
        assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not [v for v in pod["volumes"] if "hostPath" in v]


# ---- our programs --------------------------------------------------------------------


@pytest.fixture(scope="session")
def tls_folder(tmp_path_factory):
    """As the volumes have it: n1's for an agent, c1's for a controller."""
    pki = tmp_path_factory.mktemp("pki")
    certificates.pki("ca", directory=pki)
    certificates.pki("controller", "c1", "--host", "mcmesh-controller.mcmesh.svc", directory=pki)
    certificates.pki("node", "n1", "--vtep", "203.0.113.1", directory=pki)
    for name in ("n1", "c1"):
        (pki / name).mkdir()
        (pki / name / "ca.crt").symlink_to(pki / "ca.pem")
        (pki / name / "tls.crt").symlink_to(pki / f"{name}.pem")
        (pki / name / "tls.key").symlink_to(pki / f"{name}.key")
    return pki


def command_of(container, these, folder, tls):
    """The container's command line as a kubelet has it, on files of this machine."""
    env = {"NODE_NAME": "n1", "VTEP": "203.0.113.1"}
    line = [*container["command"], *container.get("args", ())]
    line = [re.sub(r"\$\((\w+)\)", lambda m: env[m[1]], word) for word in line]
    kind = pathlib.Path(line[0]).name.removeprefix("mcmesh-")
    [text] = [o["data"][f"{kind}.yaml"] for o in of_kind(these, "ConfigMap")
              if f"{kind}.yaml" in o["data"]]
    file = folder / f"{kind}.yaml"
    file.write_text(text.replace("/etc/mcmesh/tls", str(tls)).replace("/var/lib/mcmesh",
                                                                    str(folder)))
    assert line[1:3] == ["--config", f"/etc/mcmesh/{kind}.yaml"]
    return [programs.program(line[0].rsplit("/", 1)[1]), "--config", str(file), *line[3:]]


@pytest.mark.parametrize("name", CASES)
def test_programs_accept_their_settings(name, tmp_path, tls_folder):
    these = rendered(name)
    for o in of_kind(these, *WORKLOADS):
        tls = tls_folder / ("n1" if o["kind"] == "DaemonSet" else "c1")
        [container] = pod_of(o)["spec"]["containers"]
        line = [*command_of(container, these, tmp_path, tls), "--check"]
        done = subprocess.run(line, text=True, capture_output=True, timeout=30)
        assert done.returncode == 0, done.stderr + (tmp_path / "agent.yaml").read_text()


class Running:
    """A controller in a network of its own."""

    def __init__(self, line, ports, log):
        self.ports = ports
        self.process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *line],
            stdout=log, stderr=log)

    def probe(self, what, timeout_s=None):
        """As a kubelet does it. True: success."""
        asks = {"httpGet": HTTP, "grpc": GRPC, "tcpSocket": TCP}
        [kind] = set(what) & set(asks)
        target = what[kind]
        port = self.ports.get(target["port"], target["port"])
        done = subprocess.run(
            ["nsenter", f"--target={self.process.pid}", "--net", "--", sys.executable, "-c",
             asks[kind], f"127.0.0.1:{port}", target.get("path", ""),
             str(timeout_s or what.get("timeoutSeconds", 1))], capture_output=True, timeout=30)
        return done.returncode == 0

    def close(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(10)


HTTP = """
import sys, urllib.request
address, path, timeout = sys.argv[1:]
urllib.request.urlopen(f"http://{address}{path}", timeout=float(timeout)).read()
"""
TCP = """
import socket, sys
address, _, timeout = sys.argv[1:]
socket.create_connection(address.split(":"), timeout=float(timeout)).close()
"""
GRPC = """
import sys, grpc
address, _, timeout = sys.argv[1:]
check = grpc.insecure_channel(address).unary_unary("/grpc.health.v1.Health/Check")
SERVING = bytes([8, 1])
sys.exit(check(b"", timeout=float(timeout)) != SERVING)
"""


@pytest.mark.parametrize("name", ["default", "plaintext"])
def test_probes_of_a_controller(name, tmp_path, tls_folder):
    if os.geteuid():
        pytest.skip("network namespaces need root")
    these = rendered(name)
    [owner] = of_kind(these, "StatefulSet")
    [container] = pod_of(owner)["spec"]["containers"]
    probes = [container["livenessProbe"], container["readinessProbe"]]
    assert ("grpc" in probes[1]) == (name == "plaintext")
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    with open(tmp_path / "log", "w") as log:
        controller = Running(command_of(container, these, tmp_path, tls_folder / "c1"), ports, log)
    try:
        programs.wait_until("it is ready", lambda: controller.probe(probes[1]), 20)
        assert controller.probe(probes[0])
        assert all(controller.probe({"tcpSocket": {"port": name}}) for name in ports)
        controller.process.send_signal(signal.SIGSTOP)
        assert not controller.probe(probes[0], 1) and not controller.probe(probes[1], 1)
    finally:
        controller.close()
