# SPDX-License-Identifier: Apache-2.0
"""Certificates of a lab with --tls, in /run/mcmesh-lab/pki (deploy/pki makes them)."""
import os
import pathlib
import subprocess
import sys

import topology as topo
from topology import LabError

TOOL = pathlib.Path(__file__).resolve().parents[1] / "pki/mcmesh-pki"
PKI = pathlib.Path("/run/mcmesh-lab/pki")
OPERATORS = ("admin", "read")


def pki(*args, directory=PKI):
    done = subprocess.run([sys.executable, str(TOOL), str(directory), *map(str, args)], text=True,
                          capture_output=True)
    if done.returncode:
        raise LabError(f"mcmesh-pki {' '.join(map(str, args))}: {done.stderr.strip()}")
    return done.stdout


def make(nodes, controllers, etcds=(), ipv6_underlay=False):
    pki("ca")
    for name in controllers:
        pki("controller", name, "--host", topo.controller_address(name), "--host", name)
    for name in etcds:
        pki("etcd", name, "--host", topo.etcd_address(name))
    for name in nodes:
        pki("node", name, "--vtep", topo.vtep6(name) if ipv6_underlay else topo.vtep(name))
    for role in OPERATORS:
        pki("operator", role, "--role", role)


def files(name):
    return {"cacert": str(PKI / "ca.pem"), "cert": str(PKI / f"{name}.pem"),
            "key": str(PKI / f"{name}.key")}


def environment():
    """What mcmeshctl in a namespace of the lab needs to be the administrator."""
    return {"MCMESH_" + key.upper(): path for key, path in files("admin").items()}


def arguments(name="admin"):
    return [f"--{key}={path}" for key, path in files(name).items()]


def export():
    os.environ.update(environment())
