# SPDX-License-Identifier: Apache-2.0
"""deploy/kubernetes/sqlite.yaml for podman: what a kubelet would do with its pods, as far as
it concerns the containers' rights, files and command lines."""
import pathlib
import re

import yaml

TOP = pathlib.Path(__file__).resolve().parents[2]
MANIFEST = TOP / "deploy/kubernetes/sqlite.yaml"
OBJECTS = [o for o in yaml.safe_load_all(MANIFEST.read_text()) if o]
# /etc is the machine's; the box has this in its place.
MOVED = {"/etc/mcmesh/tls": "/run/etc/tls"}


def pod(kind):
    [owner] = [o for o in OBJECTS if o["kind"] == kind]
    return owner["spec"]["template"]["spec"]


def container(kind):
    [only] = pod(kind)["containers"]
    return only


def settings(name):
    """What the ConfigMap has for mcmesh-NAME."""
    [text] = [o["data"][f"{name}.yaml"] for o in OBJECTS
              if o["kind"] == "ConfigMap" and f"{name}.yaml" in o["data"]]
    return yaml.safe_load(text)


AGENT_CAPABILITIES = tuple(container("DaemonSet")["securityContext"]["capabilities"]["add"])


def volume(box, spec, mount):
    """The source of a mount on the box."""
    found = [v for v in spec["volumes"] if v["name"] == mount["name"]]
    if not found:
        return mount["name"]  # claimed: a volume of podman's
    [source] = found
    if "hostPath" in source:
        path = source["hostPath"]["path"]
        path = MOVED.get(path, path)
        if source["hostPath"]["type"] == "DirectoryOrCreate":
            box.run("mkdir", "-p", path)
        return path
    if "configMap" in source:
        return f"/run/config/{source['configMap']['name']}/{mount['subPath']}"
    return f"/run/secrets/{source['secret']['secretName']}"


def rights(spec, one, capabilities=None):
    context = {**spec.get("securityContext", {}), **one["securityContext"]}
    line = ["--user", f"{context['runAsUser']}:{context['runAsGroup']}"]
    line += [f"--cap-drop={name.lower()}" for name in context["capabilities"]["drop"]]
    add = context["capabilities"].get("add", ()) if capabilities is None else capabilities
    line += [f"--cap-add={name}" for name in add]
    if context["readOnlyRootFilesystem"]:
        line += ["--read-only", "--read-only-tmpfs=false"]
    if not context["allowPrivilegeEscalation"]:
        line += ["--security-opt", "no-new-privileges"]
    if context["seccompProfile"]["type"] == "Unconfined":
        line += ["--security-opt", "seccomp=unconfined"]
    return line


def run(box, kind, name, image, capabilities=None, extra=()):
    """podman's arguments. Controllers have the box's network, too: there are no Services."""
    spec, one = pod(kind), container(kind)
    fields = {"spec.nodeName": box.name, "status.hostIP": box.address}
    env = {e["name"]: fields[e["valueFrom"]["fieldRef"]["fieldPath"]] for e in one.get("env", ())}
    line = ["run", "--detach", "--name", name, "--network", "host",
            *rights(spec, one, capabilities), *extra]
    line += [f"--env={k}={v}" for k, v in env.items()]
    for mount in one["volumeMounts"]:
        mode = ":ro" if mount.get("readOnly") else ""
        line.append(f"--volume={volume(box, spec, mount)}:{mount['mountPath']}{mode}")
    words = [*one["command"], *one.get("args", ())]
    return [*line, image, *[re.sub(r"\$\((\w+)\)", lambda m: env[m[1]], w) for w in words]]
