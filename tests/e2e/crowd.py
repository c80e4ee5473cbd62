# SPDX-License-Identifier: Apache-2.0
"""Many receivers, senders beside the test, and ports that join and leave without a pause.

A number says its stream as well, so that a receiver knows of each packet whether it
is the next, came before, or leaves some out.
"""
import json
import os
import select
import socket
import struct
import time

import sockets
import topology as topo
import wire

STREAM_BITS = 32
SO_MEMINFO, MEMINFO_DROPS = 55, 8
UDP_SEGMENT = 103
SEGMENT_BYTES = 64
RECEIVE_BUFFER = 16 << 20
DEADLINE_S = 150  # of a process beside the test, should nobody end it


class Standing(sockets.Member):
    """A member that stays: of each stream it is to have every packet once, in order."""

    def __init__(self, name, group):
        super().__init__(name, group)
        self.sock.setsockopt(socket.SOL_SOCKET, sockets.SO_RCVBUFFORCE, RECEIVE_BUFFER)

    def reset(self):
        super().reset()
        self.next = {}  # stream -> number
        self.lost, self.late, self.twice = set(), [], []

    def drain(self):
        data = bytearray(2048)
        while True:
            try:
                self.sock.recv_into(data)
            except BlockingIOError:
                return self
            self._take(sockets.SEQUENCE.unpack_from(data)[0])

    def _take(self, number):
        stream = number >> STREAM_BITS
        want = self.next.setdefault(stream, stream << STREAM_BITS)
        if number >= want:
            self.lost.update(range(want, number))
            self.next[stream] = number + 1
        elif number in self.lost:
            self.lost.remove(number)
            self.late.append(number)
        else:
            self.twice.append(number)

    def has(self, sent):
        """`sent`: stream -> how many. Nothing more is to come."""
        return all(self.next.get(s, 0) == (s << STREAM_BITS) + n for s, n in sent.items())

    def lost_of(self, sent):
        return len(self.lost) + sum((s << STREAM_BITS) + n - self.next.get(s, s << STREAM_BITS)
                                    for s, n in sent.items())

    def fault(self, sent, in_order=True):
        """What is wrong, in words; "" if nothing is."""
        memory = self.sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * (MEMINFO_DROPS + 1))
        full = struct.unpack_from("=I", memory, 4 * MEMINFO_DROPS)[0]
        found = [f"{len(some)} {what}: " + " ".join(
            f"{n >> STREAM_BITS}/{n & (1 << STREAM_BITS) - 1}" for n in sorted(some)[:4])
            for what, some in (("lost", self.lost), ("late", self.late if in_order else ()),
                               ("twice", self.twice)) if some]
        if not self.has(sent):
            found.append(f"ends at {self.next} of {sent}")
        if full:
            found.append(f"{full} by its own full buffer")
        return f"{self.name}: {', '.join(found)}" if found else ""


class Beside:
    """work(go_on) in a process of its own until end(), which gives what it returned."""

    def __init__(self, work, cpu=None, nice=0):
        self.out, says = os.pipe()
        listens, self.stop = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                if cpu is not None:
                    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[cpu]})
                os.nice(nice)
                end = time.monotonic() + DEADLINE_S

                def go_on(pause_s=0):
                    told = select.select([listens], [], [], pause_s)[0]
                    return not told and time.monotonic() < end

                os.write(says, json.dumps(work(go_on)).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(says)
        os.close(listens)

    def end(self):
        if not self.pid:
            return None
        os.write(self.stop, b".")
        said = os.read(self.out, 4096)
        os.waitpid(self.pid, 0)
        os.close(self.out)
        os.close(self.stop)
        self.pid = 0
        return json.loads(said) if said else None


def steady(sender, stream, interval_s):
    """Work: numbered packets, one by one. How many."""
    def work(go_on):
        pace = sockets.Pace(interval_s)
        sender.sent = stream << STREAM_BITS
        while go_on(pace.remaining()):
            if pace.due():
                sender.send()
        return sender.sent - (stream << STREAM_BITS)
    return work


def bursts(sender, stream, interval_s, packets=64):
    """Work: as many packets at once as a link's queue gives. The kernel cuts a long datagram
    before the link, where it would otherwise pass it on whole."""
    topo.run_in(sender.name, ["ip", "link", "set", "eth0", "gso_max_segs", "1"])
    sender.sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SEGMENT_BYTES)

    def work(go_on):
        pace, sent = sockets.Pace(interval_s), stream << STREAM_BITS
        while go_on(pace.remaining()):
            if not pace.due():
                continue
            data = b"".join(sockets.SEQUENCE.pack(sent + i, 0).ljust(SEGMENT_BYTES, b".")
                            for i in range(packets))
            sender.sock.sendto(data, (sender.group, sender.port))
            sent += packets
        return sent - (stream << STREAM_BITS)
    return work


class Voice:
    """What a port says, in frames made beforehand; it hears nothing."""

    def __init__(self, name, group):
        with sockets.namespace(name):
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self.sock.bind(("eth0", 0))
        self.name = name
        self.joins = wire.v3_report(name, wire.record(wire.TO_EX, group))
        self.leaves = wire.v3_report(name, wire.record(wire.TO_IN, group))

    def say(self, join):
        """False: it has no device right now."""
        try:
            self.sock.send(self.joins if join else self.leaves)
        except OSError:
            return False
        return True

    def close(self):
        self.sock.close()


def flips(plan, pause_s=0):
    """Work: what `plan` says, over and over: lists of (which voices, join). How often."""
    def work(go_on):
        rounds = 0
        while True:
            for some, join in plan:
                if not go_on(pause_s):
                    return rounds
                for voice in some:
                    voice.say(join)
            rounds += 1
    return work
