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


def igmp(name, destination, message, bad_checksum=False, ttl=1, source=None):
    value = checksum(message) ^ (0x0101 if bad_checksum else 0)
    message = message[:2] + struct.pack("!H", value) + message[4:]
    return ipv4(name, destination, 2, message, ttl, ROUTER_ALERT, source)


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


# ---- MLD ----

ALL_MLD_ROUTERS = "ff02::16"
ROUTER_ALERT6 = bytes((58, 0, 5, 2, 0, 0, 1, 0))  # with PadN to eight octets
UDP, ICMPV6, HOP_BY_HOP = 17, 58, 0


def ip6(address):
    return socket.inet_pton(socket.AF_INET6, address)


def mac_of6(group):
    return b"\x33\x33" + ip6(group)[12:]


def link_local_of_workload(name):
    mac = mac_of_workload(name)
    return socket.inet_ntop(socket.AF_INET6, b"\xfe\x80" + b"\0" * 6 + bytes((mac[0] ^ 2,)) +
                            mac[1:3] + b"\xff\xfe" + mac[3:])


def ipv6(name, destination, next_header, payload, hop_limit=1, source=None):
    source = link_local_of_workload(name) if source is None else source
    return mac_of6(destination) + mac_of_workload(name) + b"\x86\xdd" + \
        struct.pack("!IHBB", 0x60000000, len(payload), next_header, hop_limit) + \
        ip6(source) + ip6(destination) + payload


def icmpv6(name, destination, message, extensions=ROUTER_ALERT6, bad_checksum=False, source=None,
           hop_limit=1):
    source = link_local_of_workload(name) if source is None else source
    pseudo = ip6(source) + ip6(destination) + struct.pack("!IxxxB", len(message), ICMPV6)
    value = checksum(pseudo + message) ^ (0x0101 if bad_checksum else 0)
    message = message[:2] + struct.pack("!H", value) + message[4:]
    following = HOP_BY_HOP if extensions else ICMPV6
    return ipv6(name, destination, following, extensions + message,
                hop_limit, source)


def record6(kind, group, sources=(), aux=b""):
    return struct.pack("!BBH", kind, len(aux) // 4, len(sources)) + ip6(group) + \
        b"".join(ip6(s) for s in sources) + aux


def mld2_report(name, *records, count=None, **options):
    message = struct.pack("!BBHHH", 143, 0, 0, 0, len(records) if count is None else count)
    return icmpv6(name, ALL_MLD_ROUTERS, message + b"".join(records), **options)


def mld1(name, kind, group, **options):
    """131: report, 132: done."""
    return icmpv6(name, group if kind == 131 else "ff02::2",
                  struct.pack("!BBHHH", kind, 0, 0, 0, 0) + ip6(group), **options)


# ---- queries and data ----


def query(name, source, group="0.0.0.0", interval_s=1, response=3, s_flag=False, robustness=2,
          cut=None):
    """IGMPv3; cut=8 is an IGMPv2 one."""
    message = struct.pack("!BBH4sBBH", 0x11, response, 0, socket.inet_aton(group),
                          8 * s_flag + robustness, interval_s, 0)[:cut]
    value = checksum(message)
    message = message[:2] + struct.pack("!H", value) + message[4:]
    return ipv4(name, "224.0.0.1" if group == "0.0.0.0" else group, 2, message, 1, ROUTER_ALERT,
                source)


def query6(name, source, interval_s=1):
    message = struct.pack("!BBHHH16sBBH", 130, 0, 0, 300, 0, b"\0" * 16, 2, interval_s, 0)
    return icmpv6(name, "ff02::1", message, source=source)


def udp(name, group, payload, port=5000, **options):
    """UDP without a checksum."""
    head = struct.pack("!HHHH", 40000, port, 8 + len(payload), 0)
    return ipv4(name, group, UDP, head + payload, **options)


def igmp_of(frame):
    """The IGMP message in a frame, or None."""
    if frame[12:14] != b"\x08\x00" or frame[23] != 2:
        return None
    head = (frame[14] & 15) * 4
    return frame[14 + head:14 + int.from_bytes(frame[16:18], "big")]


def mld_of(frame):
    """The MLD message in a frame with its extension headers, or None."""
    if frame[12:14] != b"\x86\xdd":
        return None
    following, at = frame[20], 54
    if following == HOP_BY_HOP:
        following, at = frame[at], at + 8 * (frame[at + 1] + 1)
    if following != ICMPV6 or frame[at] not in (130, 131, 132, 143):
        return None
    return frame[at:54 + int.from_bytes(frame[18:20], "big")]
