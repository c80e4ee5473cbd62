# SPDX-License-Identifier: Apache-2.0
"""What a machine of the lab boots into: an initramfs that is also its root.

It is made of what is installed here: busybox, the commands of contents.txt with the
libraries that they need, Python, the build's programs and the lab's own files, these
at the same paths as here, so that a command line of a test is right in both places.
Two archives, one after the other, as Linux allows: the programs, and the modules of
one kernel.
"""
import glob
import hashlib
import importlib.util
import lzma
import marshal
import os
import pathlib
import re
import shutil
import stat
import subprocess

from kernels import CACHE, ROOT
from topology import LabError

HERE = pathlib.Path(__file__).resolve().parent
PROGRAMS = ("mcmesh-agent", "mcmesh-controller", "mcmeshctl")
TESTS = "test_bpf_*"
PYTHON_LIBRARY = "/usr/lib/python3.*"
PYTHON_WITHOUT = {"test", "idlelib", "tkinter", "lib2to3", "ensurepip", "distutils", "pydoc_data",
                  "dist-packages", "turtledemo", "unittest", "asyncio", "xml", "sqlite3"}
LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
BUSYBOX = "/bin/busybox"
APPLETS = "/usr/lib/busybox"  # behind the real commands in PATH

PLACE = pathlib.Path(os.environ.get("MCMESH_BIN", ROOT / "build/release/bin")).resolve()
INIT = f"""\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:{APPLETS} MCMESH_BIN={PLACE}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts && mount -t devpts pts /dev/pts
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/netns /run/lock /dev/shm && mount -t tmpfs shm /dev/shm
for m in virtio_pci virtio_net virtio_rng tun; do modprobe $m 2>/dev/null; done
ip link set lo up
python3 {HERE}/guest.py
echo "the machine's server ended: $?"
poweroff -f
"""


def lines_of(file):
    return [line for line in re.sub(r"#.*", "", (HERE / file).read_text()).split() if line]


# ---- what there is to put in ------------------------------------------------


def libraries(paths):
    """What the dynamic linker would load for any of them."""
    done = subprocess.run(["ldd", *paths], text=True, capture_output=True)
    missing = re.findall(r"^\s*(\S+) => not found", done.stdout, re.M)
    if missing:
        raise LabError(f"a library of the machine's programs is not here: {missing[0]}")
    return set(re.findall(r"=> (/\S+) \(", done.stdout))


def command_path(name):
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if not path:
        raise LabError(f"the command {name} is not installed: run ./dev setup")
    return os.path.realpath(path) if name == "python3" else path


def python_files():
    found = []
    for top in glob.glob(PYTHON_LIBRARY):
        for directory, folders, files in os.walk(top):
            folders[:] = [f for f in folders if f not in PYTHON_WITHOUT and
                          not f.startswith("config-")]
            found += [os.path.join(directory, f) for f in files if f.endswith((".py", ".so"))]
    return found


def compiled(path):
    """(path, data) of a module's bytecode that is taken unseen: the machine's clock and
    file times are others, and to compile there takes seconds (PEP 552)."""
    code = compile(pathlib.Path(path).read_bytes(), path, "exec", dont_inherit=True)
    data = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)
    return importlib.util.cache_from_source(path), data


def binaries():
    wanted = [PLACE / name for name in PROGRAMS]
    for path in wanted:
        if not path.exists():
            raise LabError(f"{path} is not there: run ./dev build")
    return [str(p) for p in [*wanted, *sorted(PLACE.glob(TESTS))]]


def lab_files():
    return [str(p) for d in ("deploy/lab", "deploy/vmlab", "tests/e2e")
            for p in (ROOT / d).rglob("*.py")]


# ---- cpio, the "newc" format ------------------------------------------------


class Archive:
    def __init__(self, file):
        self.file, self.seen, self.number = file, set(), 0

    def _entry(self, name, mode, data=b"", device=(0, 0)):
        name = name.lstrip("/").encode() + b"\0"
        self.number += 1
        fields = (self.number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + name
        self.file.write(head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4))

    def folder(self, path):
        if path in ("/", "") or path in self.seen:
            return
        self.folder(os.path.dirname(path))
        self.seen.add(path)
        self._entry(path, stat.S_IFDIR | 0o755)

    def link(self, path, target):
        if path not in self.seen:
            self.folder(os.path.dirname(path))
            self.seen.add(path)
            self._entry(path, stat.S_IFLNK | 0o777, os.fsencode(target))

    def data(self, path, data, mode=0o644):
        if path not in self.seen:
            self.folder(os.path.dirname(path))
            self.seen.add(path)
            self._entry(path, stat.S_IFREG | mode, data)

    def device(self, path, mode, major, minor):
        self.folder(os.path.dirname(path))
        self._entry(path, stat.S_IFCHR | mode, device=(major, minor))

    def take(self, path, strip=False):
        """A file from here, where it is here: /bin and /lib are links into /usr."""
        real = re.sub(r"^/(s?bin|lib\w*)/", r"/usr/\1/", path) if os.path.islink(
            "/" + path.split("/")[1]) else path
        source = pathlib.Path(os.path.realpath(path))
        if strip:
            data = subprocess.run(["objcopy", "--strip-debug", str(source), "/dev/stdout"],
                                  capture_output=True).stdout or source.read_bytes()
        else:
            data = source.read_bytes()
        self.data(real, data, stat.S_IMODE(source.stat().st_mode))

    def end(self):
        self._entry("TRAILER!!!", 0)
        self.file.write(b"\0" * (-self.file.tell() % 512))


def _write(path, fill):
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    with open(half, "wb") as file:
        archive = Archive(file)
        fill(archive)
        archive.end()
    half.rename(path)


# ---- the two archives -------------------------------------------------------


def _fill_base(archive, programs, files):
    for folder in ("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/proc", "/sys", "/dev",
                   "/run", "/tmp", "/root", "/etc", "/var"):
        archive.folder(folder)
    for name in ("bin", "sbin", "lib", "lib64"):
        archive.link(f"/{name}", f"usr/{name}")
    archive.device("/dev/console", 0o600, 5, 1)
    archive.device("/dev/null", 0o666, 1, 3)
    archive.data("/init", INIT.encode(), 0o755)
    archive.data("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    archive.data("/etc/group", b"root:x:0:\ntcpdump:x:109:\n")
    archive.data("/etc/hosts", b"127.0.0.1 localhost\n")
    archive.link("/var/run", "/run")
    archive.take(BUSYBOX)
    for applet in subprocess.run([BUSYBOX, "--list"], text=True, capture_output=True,
                                 check=True).stdout.split():
        archive.link(f"{APPLETS}/{applet}", BUSYBOX)
    archive.link("/usr/bin/sh", "dash")  # busybox's takes its own applets before the commands
    archive.link("/usr/sbin/modprobe", BUSYBOX)  # where the kernel looks
    for path in programs:
        archive.take(path, strip=path.startswith(str(ROOT)))
    archive.link("/usr/bin/python3", command_path("python3"))
    for path in files:
        archive.take(path)
        if path.endswith(".py"):
            archive.data(*compiled(path))


def base():
    """The archive of the programs, made anew when one of them is another."""
    commands = [command_path(name) for name in lines_of("contents.txt")]
    programs = commands + binaries()
    extensions = [f for f in python_files() if f.endswith(".so")]
    files = sorted(libraries(programs + extensions)) + python_files() + lab_files() + \
        [p for p in LOADERS if os.path.exists(p)]
    state = "".join(f"{p} {os.stat(p).st_mtime_ns}\n" for p in programs + files) + INIT
    path = CACHE / f"base-{hashlib.sha256(state.encode()).hexdigest()[:16]}.cpio"
    if not path.exists():
        for old in CACHE.glob("base-*.cpio"):
            old.unlink()
        _write(path, lambda archive: _fill_base(archive, programs, files))
    return path


def _module_data(path):
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _closure(folder, wanted):
    """{name: path} of the modules and of what they depend on."""
    every = {re.sub(r"\.ko(\.xz)?$", "", p.name).replace("-", "_"): p
             for p in folder.rglob("*.ko*")}
    found, queue = {}, list(wanted)
    while queue:
        name = queue.pop().replace("-", "_")
        if name in found or name not in every:
            continue
        found[name] = every[name]
        match = re.search(rb"\0depends=([^\0]*)\0", _module_data(every[name]))
        queue += [d for d in match[1].decode().split(",") if d] if match else []
    return found


def _fill_modules(archive, version, folder):
    top = CACHE / f"depmod-{version}"
    shutil.rmtree(top, ignore_errors=True)
    place = top / "lib/modules" / version
    place.mkdir(parents=True)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        if (folder / name).exists():
            shutil.copy(folder / name, place)
    for name, path in _closure(folder, lines_of("modules.txt")).items():
        (place / f"{name}.ko").write_bytes(_module_data(path))
    subprocess.run([BUSYBOX, "depmod", "-b", str(top), version], check=True, capture_output=True)
    for path in sorted(place.iterdir()):
        archive.data(f"/usr/lib/modules/{version}/{path.name}", path.read_bytes())
    shutil.rmtree(top)


def modules(version, folder):
    state = (HERE / "modules.txt").read_bytes() + pathlib.Path(__file__).read_bytes()
    path = CACHE / f"modules-{version}-{hashlib.sha256(state).hexdigest()[:16]}.cpio"
    if not path.exists():
        for old in CACHE.glob(f"modules-{version}-*.cpio"):
            old.unlink()
        _write(path, lambda archive: _fill_modules(archive, version, folder))
    return path


def initramfs(kernel):
    """`kernel`: what kernels.fetch() gave."""
    version, _, folder = kernel
    parts = [base(), modules(version, folder)]
    path = CACHE / f"initramfs-{version}.img"
    newest = max(p.stat().st_mtime_ns for p in parts)
    if not path.exists() or path.stat().st_mtime_ns < newest:
        half = path.with_suffix(".part")
        with open(half, "wb") as out:
            for part in parts:
                with open(part, "rb") as file:
                    shutil.copyfileobj(file, out)
        half.rename(path)
    return path
