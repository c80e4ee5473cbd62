# SPDX-License-Identifier: Apache-2.0
"""Applications of others, as they come from Debian, in the lab's workloads."""
import collections
import ipaddress
import os
import shutil
import signal
import struct
import subprocess
import sys
import time

import pytest
import topology as topo

STOP_S = 5
UDP = 17


def need(program, package):
    if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
        pytest.skip(f"{program} is not installed (Debian package {package}): run ./dev setup")


class App:
    """A program in a namespace; what it prints goes to a file."""

    def __init__(self, directory, name, line, env=None):
        # Not Popen's: the namespace may be on another machine.
        self.line = ["env", *(f"{k}={v}" for k, v in (env or {}).items()), *map(str, line)]
        self.file = directory / f"{name}-{len(list(directory.iterdir()))}"
        with open(self.file, "wb") as out:
            self.process = subprocess.Popen(
                topo.enter(name, *self.line), stdin=subprocess.PIPE, stdout=out,
                stderr=subprocess.STDOUT)

    def __str__(self):
        return f"{' '.join(self.line)} says:\n{self.text()[-2000:]}"

    def text(self):
        return self.file.read_text(errors="replace")

    def tell(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def ends(self, deadline_s, taps=()):
        """Its exit status; it is to end by itself. The taps are emptied meanwhile."""
        end = time.monotonic() + deadline_s
        while self.process.poll() is None:
            if time.monotonic() > end:
                self.end(signal.SIGKILL)
                raise AssertionError(f"no end after {deadline_s} s: {self}")
            for tap in taps:
                tap.drain()
            time.sleep(0.01)  # poll interval
        return self.process.returncode

    def end(self, sig=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdin.close()


def python(*line):
    return [sys.executable, *line]


def udp_payloads(frames, group, port):
    """Of whole UDP packets to a group; those of a fragmented one are left out."""
    found = []
    for f in frames:
        if f[12:14] == b"\x08\x00" and f[23] == UDP:
            to, start = f[30:34], 14 + (f[14] & 15) * 4
        elif f[12:14] == b"\x86\xdd" and f[20] == UDP:
            to, start = f[38:54], 54
        else:
            continue
        if to == ipaddress.ip_address(group).packed and struct.unpack_from("!H", f, start + 2)[0] == port:
            found.append(f[start + 8:])
    return found


class Sequence:
    """How whole a sequence of numbers arrived: from the first that came to the last."""

    def __init__(self, numbers):
        numbers = list(numbers)
        seen = collections.Counter(numbers)
        self.received = len(numbers)
        self.twice = self.received - len(seen)
        self.missing = (max(seen) - min(seen) + 1 - len(seen)) if seen else 0
        self.late = sum(b < a for a, b in zip(numbers, numbers[1:]))

    @property
    def whole(self):
        return self.received and not self.twice and not self.missing

    def __str__(self):
        return f"{self.received} packets, {self.missing} lost, {self.twice} twice, " \
               f"{self.late} out of order"
