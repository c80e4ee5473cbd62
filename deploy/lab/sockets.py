# SPDX-License-Identifier: Apache-2.0
"""Sockets of a workload, held by this process.

A socket stays in the network namespace that it was made in, so one process can
be every sender and member of the lab, on one clock. Close them: an open socket
keeps its namespace alive.
"""
import contextlib
import ctypes
import os
import socket
import struct
import time

import topology as topo

CLONE_NEWNET = 0x40000000
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
TIMESTAMP = struct.Struct("=qq")
IP_MULTICAST_ALL = 49
IP_ADD_SOURCE_MEMBERSHIP = 39
IP_DROP_SOURCE_MEMBERSHIP = 40
IP_BLOCK_SOURCE = 38
IPV6_MULTICAST_ALL = 29
MCAST_BLOCK_SOURCE = 43
MCAST_JOIN_SOURCE_GROUP = 46
MCAST_LEAVE_SOURCE_GROUP = 47
SEQUENCE = struct.Struct("!QQ")  # number, CLOCK_MONOTONIC in ns when it was sent
PACKET_OUTGOING = 4
RECEIVE_BUFFER = 4 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def _setns(fd):
    if _libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def namespace(name):
    """Of this thread only, until the block ends."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(topo.netns_path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def _eth0(name):
    with namespace(name):
        return socket.if_nametoindex("eth0")


def is_v6(group):
    return ":" in group


class Member:
    """A UDP socket that joins a group and counts numbered packets."""

    def __init__(self, name, group, port=5000, source=None, exclude=None, join=True):
        self.name, self.group, self.port, self.source = name, group, port, source
        self.ifindex = _eth0(name)
        self.reset()
        self.last_number = -1
        with namespace(name):
            family = socket.AF_INET6 if is_v6(group) else socket.AF_INET
            self.sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
            if is_v6(group):
                self.sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
                self.sock.bind((group, port, 0, self.ifindex))
            else:
                self.sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
                self.sock.bind((group, port))
        if join:
            self.join()
        if exclude and is_v6(group):
            self._source_option6(MCAST_BLOCK_SOURCE, exclude)
        elif exclude:
            self._source_option(IP_BLOCK_SOURCE, exclude)

    def reset(self):
        self.numbers = {}  # number -> times received
        self.joined_ns = self.first_ns = self.last_ns = None

    def _mreqn(self):
        return struct.pack("=4s4si", socket.inet_aton(self.group), b"\0" * 4, self.ifindex)

    def _mreq6(self):
        return socket.inet_pton(socket.AF_INET6, self.group) + struct.pack("=I", self.ifindex)

    def _source_option(self, option, source):
        interface = topo.workload_address(self.name)
        self.sock.setsockopt(socket.IPPROTO_IP, option, socket.inet_aton(self.group) +
                             socket.inet_aton(interface) + socket.inet_aton(source))

    def _source_option6(self, option, source):
        def storage(address):
            return struct.pack("=HHI16sI", socket.AF_INET6, 0, 0,
                               socket.inet_pton(socket.AF_INET6, address), 0).ljust(128, b"\0")
        request = struct.pack("=I4x", self.ifindex) + storage(self.group) + storage(source)
        self.sock.setsockopt(socket.IPPROTO_IPV6, option, request)

    def join(self):
        self.joined_ns = time.monotonic_ns()
        if self.source and is_v6(self.group):
            self._source_option6(MCAST_JOIN_SOURCE_GROUP, self.source)
        elif self.source:
            self._source_option(IP_ADD_SOURCE_MEMBERSHIP, self.source)
        elif is_v6(self.group):
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, self._mreq6())
        else:
            self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, self._mreqn())
        return self

    def leave(self):
        if self.source and is_v6(self.group):
            self._source_option6(MCAST_LEAVE_SOURCE_GROUP, self.source)
        elif self.source:
            self._source_option(IP_DROP_SOURCE_MEMBERSHIP, self.source)
        elif is_v6(self.group):
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, self._mreq6())
        else:
            self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, self._mreqn())

    def drain(self):
        """Reads what has arrived."""
        while True:
            try:
                data = self.sock.recv(2048)
            except BlockingIOError:
                return self
            now = time.monotonic_ns()
            if len(data) < SEQUENCE.size:
                continue
            number, _ = SEQUENCE.unpack_from(data)
            self.first_ns = self.first_ns or now
            self.last_ns = now
            self.last_number = max(self.last_number, number)
            self.numbers[number] = self.numbers.get(number, 0) + 1

    @property
    def received(self):
        return len(self.numbers)

    @property
    def duplicates(self):
        return sum(n - 1 for n in self.numbers.values())

    def missing(self, last):
        """Numbers from the first received to `last` that did not come."""
        if not self.numbers:
            return []
        return [n for n in range(min(self.numbers), last + 1) if n not in self.numbers]

    def close(self):
        self.sock.close()


class Sender:
    """Numbered packets to one group."""

    def __init__(self, name, group, port=5000, ttl=8, source_port=0):
        self.name, self.group, self.port = name, group, port
        self.sent = 0
        ifindex = _eth0(name)
        with namespace(name):
            family = socket.AF_INET6 if is_v6(group) else socket.AF_INET
            self.sock = socket.socket(family, socket.SOCK_DGRAM)
            if is_v6(group):
                options = ((socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, ifindex),
                           (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl),
                           (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0))
            else:
                options = ((socket.IPPROTO_IP, socket.IP_MULTICAST_IF,
                            struct.pack("=4s4si", b"\0" * 4, b"\0" * 4, ifindex)),
                           (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl),
                           (socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0))
            for option in options:
                self.sock.setsockopt(*option)

    def send(self, payload=b""):
        self.sock.sendto(SEQUENCE.pack(self.sent, time.monotonic_ns()) + payload,
                         (self.group, self.port))
        self.sent += 1

    def close(self):
        self.sock.close()


class Frame(bytes):
    """`at`: on time.monotonic() when the kernel had it, however late it is read. `outgoing`:
    the interface sent it."""

    def __new__(cls, data, at, outgoing):
        self = super().__new__(cls, data)
        self.at, self.outgoing = at, outgoing
        return self


class Tap:
    """Raw frames at an interface (a workload's eth0, a node's uplink0)."""

    def __init__(self, name, interface="eth0"):
        with namespace(name):
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK,
                                      socket.htons(3))
            self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
            self.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self.sock.bind((interface, 3))
            self.frames = []

    def drain(self, outgoing=False):
        """All frames so far that came in (or went out; None: both)."""
        while True:
            try:
                data, notes, _, address = self.sock.recvmsg(65535,
                                                            socket.CMSG_SPACE(TIMESTAMP.size))
            except BlockingIOError:
                return self.frames
            went_out = address[2] == PACKET_OUTGOING
            if outgoing in (None, went_out):
                seconds, ns = TIMESTAMP.unpack(notes[0][2])
                ago = time.time() - seconds - ns / 1e9
                self.frames.append(Frame(data, time.monotonic() - ago, went_out))

    def send(self, frame):
        self.sock.send(bytes(frame))

    def close(self):
        self.sock.close()


class Pace:
    """The k-th next() returns k intervals after the first, as far as the machine allows."""

    def __init__(self, interval_s):
        self.interval_s, self.at = interval_s, time.monotonic()

    def remaining(self):
        return max(0.0, self.at - time.monotonic())

    def due(self):
        if time.monotonic() < self.at:
            return False
        self.at += self.interval_s
        return True
