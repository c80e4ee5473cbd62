# SPDX-License-Identifier: Apache-2.0
"""deploy/kubernetes for podman: what a kubelet would do with its pods, as far as it concerns
the containers' rights, files and command lines."""
import pathlib
import re

import yaml

TOP = pathlib.Path(__file__).resolve().parents[2]
# /etc is the machine's; the box has this in its place.
MOVED = {"/etc/mcmesh/tls": "/run/etc/tls"}


def rights(spec, one, capabilities):
    context = {**spec.get("securityContext", {}), **one["securityContext"]}
    line = ["--user", f"{context['runAsUser']}:{context['runAsGroup']}"]
    line += [f"--cap-drop={name.lower()}" for name in context["capabilities"]["drop"]]
    line += [f"--cap-add={name}" for name in capabilities]
    if context["readOnlyRootFilesystem"]:
        line += ["--read-only", "--read-only-tmpfs=false"]
    if not context["allowPrivilegeEscalation"]:
        line += ["--security-opt", "no-new-privileges"]
    if context["seccompProfile"]["type"] == "Unconfined":
        line += ["--security-opt", "seccomp=unconfined"]
    return line


class Manifest:
    def __init__(self, name):
        text = (TOP / "deploy/kubernetes" / name).read_text()
        self.objects = [o for o in yaml.safe_load_all(text) if o]

    def settings(self, name):
        """What the ConfigMap has for mcmesh-NAME."""
        [text] = [o["data"][f"{name}.yaml"] for o in self.objects
                  if o["kind"] == "ConfigMap" and f"{name}.yaml" in o["data"]]
        return yaml.safe_load(text)

    def pod(self, component):
        """Of the agent, or of the controller."""
        [found] = [o["spec"]["template"]["spec"] for o in self.objects if "template" in
                   o.get("spec", {}) and o["metadata"]["name"].endswith(f"-{component}")]
        return found

    def container(self, component):
        [only] = self.pod(component)["containers"]
        return only

    def capabilities(self, component):
        return tuple(self.container(component)["securityContext"]["capabilities"].get("add", ()))

    def source(self, box, component, mount):
        """Where a mount of the pod comes from on the box."""
        found = [v for v in self.pod(component)["volumes"] if v["name"] == mount["name"]]
        if not found:
            return f"{component}-{mount['name']}"  # claimed: a volume of podman's
        [volume] = found
        if "hostPath" in volume:
            path = volume["hostPath"]["path"]
            path = MOVED.get(path, path)
            if volume["hostPath"]["type"] == "DirectoryOrCreate":
                box.run("mkdir", "-p", path)
            return path
        if "configMap" in volume:
            return f"/run/config/{volume['configMap']['name']}/{mount['subPath']}"
        if "secret" in volume:
            return f"/run/secrets/{volume['secret']['secretName']}"
        return ""  # an emptyDir: one without a name

    def run(self, box, component, image, name=None, capabilities=None, extra=()):
        """podman's arguments. Controllers have the box's network, too: there are no Services."""
        spec, one = self.pod(component), self.container(component)
        fields = {"spec.nodeName": box.name, "status.hostIP": box.address}
        env = {e["name"]: fields[e["valueFrom"]["fieldRef"]["fieldPath"]]
               for e in one.get("env", ())}
        if capabilities is None:
            capabilities = self.capabilities(component)
        line = ["run", "--detach", "--name", name or component, "--network", "host",
                *rights(spec, one, capabilities), *extra, *[f"--env={k}={v}" for k, v in env.items()]]
        for mount in one["volumeMounts"]:
            source = self.source(box, component, mount)
            mode = ":ro" if mount.get("readOnly") else ""
            line.append(f"--volume={source}{':' if source else ''}{mount['mountPath']}{mode}")
        words = [*one["command"], *one.get("args", ())]
        return [*line, image, *[re.sub(r"\$\((\w+)\)", lambda m: env[m[1]], w) for w in words]]


SQLITE, ETCD = Manifest("sqlite.yaml"), Manifest("etcd.yaml")
AGENT_CAPABILITIES = SQLITE.capabilities("agent")
