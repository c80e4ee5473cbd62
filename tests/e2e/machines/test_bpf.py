# SPDX-License-Identifier: Apache-2.0
"""The layer bpf on the kernel of the machines. Every test of it loads the programs anew,
which takes an emulated verifier ten seconds: only with MCMESH_VMLAB_BPF=1."""
import os
import pathlib
import re

import pytest
from conftest import TOP
from test_kernel import note

BINARIES = ("packets", "datapath", "flows", "engines")


@pytest.mark.parametrize("name", BINARIES)
def test_bpf(lab, name):
    """The layer bpf, on this kernel: packets in, verdict, copies and counters out."""
    place = pathlib.Path(os.environ.get("MCMESH_BIN", TOP / "build/release/bin"))
    done = lab.exec("n2", "timeout", "1800", str(place / f"test_bpf_{name}"), "-j1", timeout=400)
    said = re.search(r"Tested: (\d+) \| Passing: (\d+)", done.stdout + done.stderr)
    lines = "\n".join((done.stdout + done.stderr).splitlines()[-60:])
    assert said, lines
    note(**{f"bpf_{name}": f"{said[2]}/{said[1]}"})
    assert done.returncode == 0, lines
