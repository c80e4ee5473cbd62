# SPDX-License-Identifier: Apache-2.0
"""What a controller finds again (law L4): its store is a file."""
import json
import re
import sqlite3
import subprocess

import programs
import pytest
from test_failures import background

pytestmark = pytest.mark.usefixtures("one_controller")

C1 = programs.RUN / "c1"


def store_file():
    return programs.store_file("c1")


def log_size():
    return (C1 / "controller.log").stat().st_size


def log_after(size):
    with open(C1 / "controller.log", "rb") as file:
        file.seek(size)
        return file.read().decode()


def last_summary(text):
    """The counters that a controller leaves in its log at its end."""
    found = re.findall(r"the controller has ended (.*)", text)
    assert found, text[-2000:]
    return {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", found[-1])}


def wait_whole(lab):
    """The store outlived the hold time: it is known to be whole."""
    lab.wait("the mesh is whole", lab.ready, 10)
    lab.wait("the store is whole", is_complete, 20)


def is_complete():
    db = sqlite3.connect(f"file:{store_file()}?mode=ro", uri=True)
    try:
        return db.execute("SELECT complete FROM mesh").fetchone()[0]
    finally:
        db.close()


def test_killed_under_a_stream(lab, group):
    """kill -9 and start: nothing is lost, nobody needs a snapshot, nothing is
    withdrawn, and what was joined meanwhile arrives after."""
    wait_whole(lab)
    late_group = lab.new_group()
    member, far = lab.member("n2p1", group), lab.member("n3p1", group)
    late = lab.member("n3p2", late_group, join=False)
    lab.wait_route("n1", group, remotes=["n2", "n3"])
    lab.wait("all is acknowledged", lambda: lab.verified())
    sender, size = lab.sender("n1p1", group), log_size()

    def trouble():
        yield from background("kill", "controller", "c1")
        late.join()
        yield from background("start", "controller", "c1")
        yield from until(lab.ready)

    numbers = lab.stream(sender, [member, far], meanwhile=trouble())
    lab.exact(member, numbers)
    lab.exact(far, numbers)
    lab.wait_route("n1", late_group, remotes=["n3"], deadline_s=10)
    lab.exact(late, lab.stream(lab.sender("n1p1", late_group), [late]))
    lab.wait("verified", lambda: lab.verified(), 10)
    lab.command("stop", "controller", "c1")
    summary = last_summary(log_after(size))
    lab.command("start", "controller", "c1")
    assert summary["snapshots"] == 0, summary
    assert summary["resyncs"] == 0, summary
    assert summary["deltas"] > 0, summary
    assert summary["sessions"] >= 3, summary
    assert "is gone" not in log_after(size)


def until(check):
    while not check():
        yield


def test_static_members_stay(lab, group):
    done = lab.ctl("static", "add", "--node", "n2", "--port", "n2p1", "--group", group)
    assert done.returncode == 0, done.stderr
    try:
        lab.command("restart", "controller", "c1")
        rows = lab.json("static", "list")["members"]
        assert [r["group"] for r in rows] == [group]
        lab.wait_route("n1", group, remotes=["n2"], deadline_s=10)
    finally:
        lab.ctl("static", "remove", "--node", "n2", "--port", "n2p1", "--group", group)


def test_deleted_file_withdraws_nothing(lab, group):
    member = lab.member("n2p1", group)
    lab.wait_route("n1", group, remotes=["n2"])

    def trouble():
        yield from background("stop", "controller", "c1")
        for file in store_file().parent.glob("controller.db*"):
            file.unlink()
        yield from background("start", "controller", "c1")
        yield from until(lab.ready)

    numbers = lab.stream(lab.sender("n1p1", group), [member], meanwhile=trouble())
    lab.exact(member, numbers)
    assert lab.route("n1", group)[1] == lab.route("n3", group)[1] != set()
    new = lab.new_group()
    late = lab.member("n3p1", new)
    lab.wait_route("n1", new, remotes=["n3"])
    lab.exact(late, lab.stream(lab.sender("n1p1", new), [late]))
    lab.wait("verified", lambda: lab.verified(), 10)


def test_damaged_file_is_refused_and_kept(lab, group):
    member = lab.member("n2p1", group)
    lab.wait_route("n1", group, remotes=["n2"])
    lab.command("stop", "controller", "c1")
    whole = store_file().read_bytes()
    damaged = whole[:4096] + b"\xa5" * 4096 + whole[8192:]
    try:
        store_file().write_bytes(damaged)
        size = log_size()
        done = lab.command("start", "controller", "c1", check=False)
        assert done.returncode == 1
        said = log_after(size).strip().splitlines()[-1]
        assert "damaged" in said and str(store_file()) in said, said
        assert store_file().read_bytes() == damaged
    finally:
        store_file().write_bytes(whole)
        lab.command("start", "controller", "c1")
    lab.wait("the mesh is whole", lab.ready, 10)
    lab.exact(member, lab.stream(lab.sender("n1p1", group), [member]))


def controller(*args):
    return subprocess.run([programs.program("mcmesh-controller"), *map(str, args)], text=True,
                          capture_output=True, timeout=20)


def test_export_and_import_by_words(lab, tmp_path):
    """As words or as options, from a store that is in use into a new one."""
    wait_whole(lab)
    file, new = tmp_path / "export", f"sqlite:{tmp_path}/new.db"
    done = controller("--store", f"sqlite:{store_file()}", "store", "export", file)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(f'"{node}"' in file.read_text() for node in ("n1", "n2", "n3"))
    assert controller("store", "import", file, "-s", new).returncode == 0
    assert controller("store", "import", file, "-s", new).returncode == 1
    assert controller("store", "import", "--force", file, "-s", new).returncode == 0
    assert controller("-s", new, "--export", "-").stdout.count("\n") == len(rows)


@pytest.mark.parametrize("args", [
    ["store"], ["store", "export"], ["store", "frob", "x"], ["frob"], ["store", "export", "x", "y"],
    ["store", "import", "x", "--export", "y"], ["store", "import", "x", "--import", "y"],
    ["store", "export", "x", "--force"],
])
def test_wrong_words_are_2_and_one_sentence(args):
    done = controller(*args)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("mcmesh-controller: ") and done.stderr.count("\n") == 1
