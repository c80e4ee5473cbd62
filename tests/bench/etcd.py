#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""./dev bench etcd [NODES GROUPS SECONDS]: three members of etcd on loopback, with
the disk's own fsync, two controllers' stores, and what they carry."""
import pathlib
import subprocess
import sys
import tempfile

import control


def main():
    program = control.TOP / "build/release/bin/mcmesh-bench-shared"
    with tempfile.TemporaryDirectory(prefix="mcmesh-bench-") as scratch:
        etcd = control.Etcd(pathlib.Path(scratch))
        try:
            return subprocess.run([program, etcd.spec, *sys.argv[1:]]).returncode
        finally:
            etcd.end()


if __name__ == "__main__":
    sys.exit(main())
