# SPDX-License-Identifier: Apache-2.0
"""Frames that no kernel would send: IGMP built by hand."""
import socket
import struct

import topology as topo

IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK = 1, 2, 3, 4, 5, 6
ROUTER_ALERT = bytes((0x94, 4, 0, 0))


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def mac_of(group):
    low = socket.inet_aton(group)
    return bytes((1, 0, 0x5e, low[1] & 0x7f, low[2], low[3]))


def mac_of_workload(name):
    n, p = topo.WORKLOAD.match(name).groups()
    return bytes((2, 0, 0xc6, 0x12, int(n), int(p)))


def ipv4(name, destination, protocol, payload, ttl=1, options=b"", source=None):
    source = source or topo.workload_address(name)
    head = struct.pack("!BBHHHBBH4s4s", 0x45 + len(options) // 4, 0xc0,
                       20 + len(options) + len(payload), 0, 0, ttl, protocol, 0,
                       socket.inet_aton(source), socket.inet_aton(destination)) + options
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return (mac_of(destination) + mac_of_workload(name) + b"\x08\x00" + head + payload).ljust(60,
                                                                                             b"\0")


def igmp(name, destination, message, bad_checksum=False, ttl=1):
    value = checksum(message) ^ (0x0101 if bad_checksum else 0)
    message = message[:2] + struct.pack("!H", value) + message[4:]
    return ipv4(name, destination, 2, message, ttl, ROUTER_ALERT)


def record(kind, group, sources=(), aux=b""):
    return struct.pack("!BBH4s", kind, len(aux) // 4, len(sources), socket.inet_aton(group)) + \
        b"".join(socket.inet_aton(s) for s in sources) + aux


def v3_report(name, *records, count=None, **options):
    message = struct.pack("!BBHHH", 0x22, 0, 0, 0, len(records) if count is None else count)
    return igmp(name, "224.0.0.22", message + b"".join(records), **options)


def v2_report(name, group, **options):
    return igmp(name, group, struct.pack("!BBH4s", 0x16, 0, 0, socket.inet_aton(group)), **options)


def v2_leave(name, group, **options):
    return igmp(name, "224.0.0.2", struct.pack("!BBH4s", 0x17, 0, 0, socket.inet_aton(group)),
                **options)
