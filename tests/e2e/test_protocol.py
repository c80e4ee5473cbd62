# SPDX-License-Identifier: Apache-2.0
"""Raw frames of a workload: what is believed, and what is counted instead."""
import time

import pytest
import wire
from conftest import LEAVE_S, SLACK_S


def test_report_with_several_records(lab):
    """Auxiliary data and sources in front do not shift what follows (A05, A06)."""
    one, two, three = lab.new_group(), lab.new_group(), lab.new_group()
    host = lab.tap("n2p1")
    host.send(wire.v3_report("n2p1",
                             wire.record(wire.IS_IN, one, ["198.18.1.1", "192.0.2.7", "192.0.2.8"]),
                             wire.record(wire.TO_EX, two, aux=b"\xde\xad\xbe\xef" * 2),
                             wire.record(9, "239.77.77.77"),
                             wire.record(wire.IS_EX, three)))
    lab.wait_route("n1", three, remotes=["n2"])
    lab.wait_route("n1", two, remotes=["n2"])
    lab.wait_route("n1", one, remotes=["n2"], source="198.18.1.1")
    rows = lab.memberships("n2", one)
    assert rows[0]["mode"] == "INCLUDE"
    assert {s["address"] for s in rows[0]["sources"]} == {"198.18.1.1", "192.0.2.7", "192.0.2.8"}
    assert not lab.memberships("n2", "239.77.77.77")


def test_report_from_no_address(lab, group):
    """Two hosts on two ports, both 0.0.0.0 (A12)."""
    for name in ("n2p1", "n2p2"):
        report = wire.v3_report(name, wire.record(wire.IS_EX, group))
        ip = bytearray(report[14:38])
        ip[10:12], ip[12:16] = b"\0\0", b"\0" * 4
        ip[10:12] = wire.checksum(bytes(ip)).to_bytes(2, "big")
        lab.tap(name).send(report[:14] + bytes(ip) + report[38:])
    lab.wait_route("n2", group, ports=["n2p1", "n2p2"])


MALFORMED = {
    "checksum": ("gmp_bad_csum", lambda g: wire.v3_report(
        "n2p1", wire.record(wire.IS_EX, g), bad_checksum=True)),
    "record count": ("gmp_truncated", lambda g: wire.v3_report(
        "n2p1", wire.record(wire.IS_EX, g), count=9)),
    "cut record": ("gmp_truncated", lambda g: wire.v3_report(
        "n2p1", wire.record(wire.IS_EX, g)[:6])),
    "sources beyond the end": ("gmp_truncated", lambda g: wire.v3_report(
        "n2p1", wire.record(wire.IS_EX, g)[:2] + b"\x00\xff" + wire.record(wire.IS_EX, g)[4:])),
    "ttl": ("gmp_bad_ttl", lambda g: wire.v3_report(
        "n2p1", wire.record(wire.IS_EX, g), ttl=2)),
    "group is unicast": ("gmp_not_multicast_group", lambda g: wire.v3_report(
        "n2p1", wire.record(wire.IS_EX, "10.1.1.1"))),
    "v2 cut": ("gmp_truncated", lambda g: wire.igmp(
        "n2p1", g, wire.struct.pack("!BBH", 0x16, 0, 0))),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_is_counted_and_changes_nothing(lab, group, name):
    counter, make = MALFORMED[name]
    before = lab.counters("n2")
    host, fence = lab.tap("n2p1"), lab.new_group()
    host.send(make(group))
    # The ring keeps the order: what came before the fence has been read.
    host.send(wire.v2_report("n2p1", fence))
    lab.wait_route("n2", fence, ports=["n2p1"])
    assert not lab.memberships("n2", group) and not lab.memberships("n2", "10.1.1.1")
    assert lab.grown("n2", before).get(counter) == 1


def test_v2_leave_with_another_host_behind_the_port(lab, group):
    """A leave of one of two hosts: the other answers, nothing stops (D06, E06)."""
    real = lab.member("n2p1", group)
    lab.wait_route("n1", group, remotes=["n2"])
    other = lab.tap("n2p1")
    sender = lab.sender("n1p1", group)
    left = time.monotonic()

    def second_host():
        other.send(wire.v3_report("n2p1", wire.record(wire.TO_IN, group)))
        while time.monotonic() < left + LEAVE_S * 2:
            yield

    lab.exact(real, lab.stream(sender, [real], meanwhile=second_host()))
    assert lab.memberships("n2", group)


def test_report_goes_to_no_other_workload(lab, group):
    """Suppression in old hosts: a report seen elsewhere silences them (E07)."""
    others = [lab.tap("n2p2"), lab.tap("n1p1")]
    lab.tap("n2p1").send(wire.v2_report("n2p1", group))
    lab.wait_route("n1", group, remotes=["n2"])
    for other in others:
        assert not [f for f in other.drain() if f[:6] == wire.mac_of(group)]


def test_queries_keep_a_member(lab, group):
    """A kernel host answers: it stays beyond the membership interval (B21)."""
    host = lab.member("n2p1", group)
    lab.wait_route("n1", group, remotes=["n2"])
    tap = lab.tap("n2p1")
    queries = lambda: [f for f in tap.drain() if f[23:24] == b"\x02" and f[38:39] == b"\x11"]
    lab.wait("four queries came", lambda: len(queries()) >= 4, 4 * 1.5 + SLACK_S)
    assert lab.memberships("n2", group)
    for query in tap.frames:
        if query[23:24] == b"\x02" and query[38:39] == b"\x11":
            assert query[:6] == bytes.fromhex("01005e000001") and query[22] == 1
            assert len(query) >= 14 + 24 + 12 and query[14] == 0x46, "IGMPv3 with Router Alert"
    lab.exact(host, lab.stream(lab.sender("n1p1", group), [host]))
