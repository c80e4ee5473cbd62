# SPDX-License-Identifier: Apache-2.0
"""The first process of a box: init.py NAME FOLDER. It ends, and the box with it, when its
standard input does: a test that is killed leaves nothing.

What a container engine writes lies on file systems of the box's own; what the machine
has there is not seen and not touched.
"""
import ctypes
import os
import signal
import socket
import sys

OWN = ("/run", "/tmp", "/var/tmp", "/var/lib")
KERNEL = (("sysfs", "/sys"), ("bpf", "/sys/fs/bpf"), ("cgroup2", "/sys/fs/cgroup"))
FOLDERS = ("/run/netns", "/run/lock", "/run/mcmesh", "/run/home", "/run/cni/net.d",
           "/var/lib/mcmesh")
MS_BIND = 4096

libc = ctypes.CDLL(None, use_errno=True)


def mount(source, target, kind=None, flags=0):
    if libc.mount(source.encode(), target.encode(), kind and kind.encode(), flags, None):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), f"mount {kind or source} at {target}")


def main(name, folder):
    socket.sethostname(name)
    keep = os.open(folder, os.O_PATH)
    for path in OWN:
        mount("tmpfs", path, "tmpfs")
    # The test's folder, which may have been below one of them.
    os.makedirs(folder, exist_ok=True)
    mount(f"/proc/self/fd/{keep}", folder, flags=MS_BIND)
    os.close(keep)
    for kind, path in KERNEL:
        mount(kind, path, kind)
    for path in FOLDERS:
        os.makedirs(path, exist_ok=True)
    # Orphans of a container engine are this process's children; nobody asks how they ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    sys.stdin.read()


try:
    main(*sys.argv[1:])
except OSError as error:
    print(error, flush=True)
    sys.exit(1)
