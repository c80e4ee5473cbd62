# SPDX-License-Identifier: Apache-2.0
"""Lists that change under traffic, in each way that copies are made: who stays has
every packet once and in order, whoever comes and goes (laws L1 and L7)."""
import contextlib
import itertools
import re
import select
import time
import urllib.request

import change
import crowd
import pytest
import sockets
import topology as topo
from conftest import TLS, mesh_up

# Ports of each node: two that send, then those that stay, then those that come and go.
PORTS = {"n1": 74, "n2": 9, "n3": 9, "n4": 4}
STANDING = [f"n1p{i}" for i in range(3, 15)] + \
    [f"{n}p{i}" for n in ("n2", "n3") for i in range(3, 6)]
FLEETING = [f"n1p{i}" for i in range(43, 75)] + \
    [f"{n}p{i}" for n in ("n2", "n3") for i in range(6, 10)] + \
    [f"n4p{i}" for i in range(1, 5)]
CROWD = [f"n1p{i}" for i in range(3, 43)] + STANDING[12:]
INTERVAL_S, BURST_INTERVAL_S, BURST = 0.001, 0.06, 64
LASTS_S, STEPS_S = 3, 90
TRIES = 3
CHANGES_MIN, SENT_MIN = 500, 500
SOFTNET = "/proc/net/softnet_stat"

USUAL = ("fans.enabled=yes", "fans.min_ports=3", "delivery=auto", "overlay.path=auto")
ENGINES = {
    "usual": (),
    "clones": ("fans.enabled=no",),
    "egress": ("delivery=egress",),
    "device": ("overlay.path=device", "delivery=egress", "fans.enabled=no"),
    "clsact": ("attach=clsact",),
    "taps": (),
}
CLONES = ("clones", "device")
DIRECTLY = ("usual", "clsact")  # into the workload, past any queue
TAPS = [f"n1p{i}" for i in range(3, 9)]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, mesh):
    mesh_up(TLS, "--nodes", str(len(PORTS)), "--ports", "2", "--agent-set=gmp.fast_leave=yes",
            "--controller-set=hold_ms=30000",  # agents come back late on a busy machine
            *(f"--agent-set={s}" for s in USUAL + ENGINES[request.param]))
    taps = pytest.MonkeyPatch()
    taps.setenv("MCMESH_LAB_TAPS", " ".join(TAPS if request.param == "taps" else ()))
    names = [f"{node}p{i}" for node, n in PORTS.items() for i in range(3, n + 1)]
    for name in names:
        topo.workload_up(name)
    for node, n in PORTS.items():
        mesh.wait(f"{node} has its ports", lambda: len(
            [p for p in mesh.json("port", "list", agent=node)["ports"] if p["state"] == "UP"])
            == n, 15)
    yield request.param
    taps.undo()
    mesh_up(TLS)


@pytest.fixture
def beside():
    started = []

    def start(*args, **options):
        started.append(crowd.Beside(*args, **options))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.fixture
def net(engine, lab, beside):
    net = Net(lab, engine, beside)
    yield net
    for voice in net.voices:
        voice.say(False)
        voice.close()


class Net:
    def __init__(self, lab, engine, beside):
        self.lab, self.engine, self.beside = lab, engine, beside
        self.voices, self.sizes = [], set()

    def standing(self, names, group):
        members = [self.lab._track(crowd.Standing(name, group)) for name in names]
        for node in {n.split("p")[0] for n in names}:
            here = [n for n in names if n.startswith(node + "p")]
            others = {n.split("p")[0] for n in names} - {node}
            self.lab.wait_route(node, group, ports=here, remotes=others, deadline_s=10)
        if self.engine not in CLONES:
            self.lab.wait("n1 has fans", lambda: self.lab.json(
                "port", "list", agent="n1")["ports"][0]["engine"] == "fan", 10)
        return members

    def speakers(self, names, group):
        voices = [crowd.Voice(name, group) for name in names]
        self.voices += voices
        return voices

    def steady(self, group, *names):
        return {i: crowd.steady(self.lab.sender(name, group), i, INTERVAL_S)
                for i, name in enumerate(names, 1)}

    def changes(self):
        return sum(self.lab.counters(n, ("gmp_reports",)).get("gmp_reports_accepted", 0)
                   for n in PORTS)

    def run(self, group, members, senders, churn, meanwhile=()):
        """All at once for a while: how much each stream had (`senders`: stream -> work), and
        how many reports were heard."""
        before, steps = self.changes(), iter(meanwhile)
        streams = {stream: self.beside(work, cpu=stream % 2)
                   for stream, work in senders.items()}
        flips = [self.beside(work, nice=5) for work in churn]
        end, looks, more = time.monotonic() + LASTS_S, 0.0, True
        while more or time.monotonic() < end:
            assert time.monotonic() < end + STEPS_S, \
                f"the steps meanwhile have no end; ports of the group: {self.sizes}"
            select.select([m.sock for m in members], [], [], 0.02)
            for member in members:
                member.drain()
            if time.monotonic() > looks:
                self.sizes.add(len(self.lab.route("n1", group)[0]))
                looks = time.monotonic() + 0.1
            more = more and next(steps, StopIteration) is not StopIteration
        rounds = [one.end() for one in flips]
        sent = {stream: one.end() for stream, one in streams.items()}
        assert None not in rounds and None not in sent.values(), "a process ended badly"
        return sent, self.changes() - before

    def seen(self, enough):
        """Steps: until a busy machine, too, has shown such sizes of the list."""
        while not enough(self.sizes):
            yield

    def all_have(self, members, sent):
        """The last packets may be on their way; those that were lost never come."""
        with contextlib.suppress(topo.LabError):
            self.lab.wait("every member has the last packets",
                          lambda: all(m.drain().has(sent) for m in members), 5)
        return [f for f in (m.drain().fault(sent) for m in members) if f]


def one_by_one(voices):
    """Each joins, then each leaves, the first one first."""
    return [([v], join) for join in (True, False) for v in voices]


def at_once(voices):
    return [(voices, True), (voices, False)]


def ports_go(net, group, names):
    """Steps: each is deleted while it is in the list, and made again."""
    for name in itertools.islice(itertools.cycle(names), 2 * len(names)):
        voice = crowd.Voice(name, group)
        while name not in net.lab.route("n1", group)[0]:
            voice.say(True)
            yield
        voice.close()
        topo.port_down(name)
        yield
        topo.port_up(name)


def test_standing_receivers_have_all(net, group):
    """Senders on two nodes and two CPUs; members come and go on the senders' nodes, one by
    one and all at once, and on a node where nobody stays; some ports go altogether."""
    members = net.standing(STANDING, group)
    here, there = net.speakers(FLEETING[:28], group), net.speakers(FLEETING[32:], group)
    senders = net.steady(group, "n1p1", "n2p1")
    churn = [crowd.flips(one_by_one(here[:12]) + at_once(here[12:])),
             crowd.flips(one_by_one(there[:6]) + at_once(there), 0.001)]
    sent, changes = net.run(group, members, senders, churn, ports_go(net, group, FLEETING[28:32]))
    assert not net.all_have(members, sent)
    assert changes > CHANGES_MIN and min(sent.values()) > SENT_MIN
    assert len(net.sizes) > 3, net.sizes


def test_across_the_numbers_of_ports_where_the_engine_changes(net, group):
    """2 ports: clones; 3: a fan; 33: a chunk more. Both senders on the node."""
    members = net.standing(["n1p3", "n1p4", "n2p3"], group)
    voices = net.speakers(FLEETING[:32], group)
    third, more = voices[:1], voices[1:]
    plan = at_once(third) * 10 + at_once(voices[:31]) * 3 + at_once(voices) * 3 + \
        [(third, True), *at_once(more) * 3, (third, False)]
    senders = net.steady(group, "n1p1", "n1p2")
    sent, changes = net.run(group, members, senders, [crowd.flips(plan, 0.005)], net.seen(
        lambda sizes: {2, 3} <= sizes and max(sizes) >= 33))
    assert not net.all_have(members, sent)
    assert changes > CHANGES_MIN


def peers():
    """Ports of n1 whose copies go right into the workload."""
    with sockets.namespace("n1"), urllib.request.urlopen("http://127.0.0.1:9798/metrics",
                                                         timeout=5) as page:
        return int(re.search(r"^mcmesh_ports_peer (\d+)", page.read().decode(), re.M)[1])


def other_engines(net, port):
    """Steps: the agent comes back with others, and somebody else's filter at the egress of
    a port ends the short way into it."""
    yield from change.agent_settings_in_turn(
        net.lab, "n1", ("fans.enabled=no",), ("delivery=egress",), ("attach=clsact",),
        ("overlay.path=device", "fans.enabled=no"))
    while peers() < PORTS["n1"]:
        yield
    for verb, left in (("add", 1), ("del", 0)):
        topo.run_in("n1", ["tc", "filter", verb, "dev", port, "egress", "pref", "7", "protocol",
                           "all", "u32", *(["match", "u32", "0", "0", "flowid", "1:1"]
                                           if verb == "add" else [])])
        while peers() != PORTS["n1"] - left:
            yield


@pytest.mark.parametrize("engine", ["usual"], indirect=True)
def test_the_engine_changes_under_traffic(net, group):
    """Nothing is lost, nothing comes twice (L5)."""
    # A qdisc that is new stops the device's queue for a moment: the kernel's doing.
    topo.run_in("n1", ["tc", "-batch", "-"], "".join(f"qdisc add dev n1p{i} clsact\n"
                                                     for i in range(1, PORTS["n1"] + 1)))
    members = net.standing(STANDING, group)
    senders = net.steady(group, "n1p1", "n2p1")
    churn = [crowd.flips(one_by_one(net.speakers(FLEETING[:8], group)), 0.01)]
    sent, _ = net.run(group, members, senders, churn, other_engines(net, STANDING[0]))
    assert not net.all_have(members, sent)


def backlog_lost():
    """Of all CPUs; of all who use the machine."""
    with open(SOFTNET, encoding="ascii") as file:
        return sum(int(row.split()[1], 16) for row in file)


# A tap has a queue of its own, which a burst may fill.
@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "taps"], indirect=True)
def test_bursts_into_a_crowd_that_changes(net, group):
    """64 packets at once to 46 who stay. Copies that a fan puts right into workloads are
    never lost; others, no more than do not fit into a CPU's backlog. None comes twice."""
    members = net.standing(CROWD, group)
    churn = [crowd.flips(at_once(net.speakers(FLEETING[:32], group)), 0.002),
             crowd.flips(at_once(net.speakers(FLEETING[40:], group)), 0.003)]
    names = ("n1p1", "n2p1")
    # Others who are busy on this machine fill the same backlogs, if seldom.
    for stream in range(1, 2 * TRIES, 2):
        senders = {stream + i: crowd.bursts(net.lab.sender(name, group), stream + i,
                                            BURST_INTERVAL_S, BURST)
                   for i, name in enumerate(names)}
        before = backlog_lost()
        sent, changes = net.run(group, members, senders, churn)
        faults, full = net.all_have(members, sent), backlog_lost() - before
        assert not [m.name for m in members if m.twice]
        # By clones the last of a list is served first, and who that is changes.
        assert net.engine in CLONES or not [m.name for m in members if m.late]
        # One that is lost before it is copied is missed by all.
        assert sum(m.lost_of(sent) for m in members) <= full * len(members)
        assert changes > CHANGES_MIN and min(sent.values()) > SENT_MIN
        if not faults or net.engine not in DIRECTLY:
            return
        for member in members:
            member.reset()
    assert not faults
