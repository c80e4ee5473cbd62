# SPDX-License-Identifier: Apache-2.0
"""Workloads are containers, on podman's networks and on CNI plugins as a kubelet calls them."""
import pytest


@pytest.mark.parametrize("kind", ["mesh-bridge", "mesh-ptp"])
def test_each_member_once(mesh, group, kind):
    here = mesh.receiver(mesh.n1, "here", group, kind)
    there = mesh.receiver(mesh.n2, "there", group, kind)
    other = mesh.receiver(mesh.n2, "other", mesh.new_group(), kind)
    sender = mesh.sender(mesh.n1, "sender", group, kind)
    mesh.wait_members(group, here, there)
    numbers = mesh.stream(sender, [here, there])
    mesh.exact(here, numbers)
    mesh.exact(there, numbers)
    assert not other.numbers()


def test_link_local_once_on_a_bridge(mesh):
    """The CNI's bridge floods these itself: the agent must not do it a second time."""
    group = "224.0.0.251"
    here = mesh.receiver(mesh.n1, "here", group, "mesh-bridge")
    routed = mesh.receiver(mesh.n1, "routed", group, "mesh-ptp")
    there = mesh.receiver(mesh.n2, "there", group, "mesh-bridge")
    sender = mesh.sender(mesh.n1, "sender", group, "mesh-bridge")
    numbers = mesh.stream(sender, [here, routed], packets=20)
    mesh.exact(here, numbers)
    mesh.exact(routed, numbers)
    assert not there.numbers()


def restart(mesh, group, receiver):
    box, before = receiver.box, receiver.box.links()
    receiver.restart()
    gone = before - box.links()
    assert len(gone) == 1, "the container has another veth now"
    mesh.wait(f"{gone} is no port", lambda: not gone & set(box.ports()))
    mesh.wait("the group was joined again", lambda: len(box.route(group)[0]) == 1)


@pytest.mark.parametrize("kind", ["mesh-bridge", "mesh-ptp"])
def test_container_restarts(mesh, group, kind):
    """Its veth goes, another comes; who else listens notices nothing of it."""
    kept = mesh.receiver(mesh.n1, "kept", group, kind)
    fickle = mesh.receiver(mesh.n2, "fickle", group, kind)
    sender = mesh.sender(mesh.n1, "sender", group, kind)
    mesh.wait_members(group, kept, fickle)
    numbers = mesh.stream(sender, [kept, fickle],
                          meanwhile=lambda: restart(mesh, group, fickle))
    mesh.exact(kept, numbers)
    mesh.wait_members(group, kept, fickle)
    numbers = mesh.stream(sender, [kept, fickle])
    mesh.exact(kept, numbers)
    mesh.exact(fickle, numbers)


@pytest.mark.parametrize("kind", ["mesh-bridge", "mesh-ptp"])
def test_pod(mesh, group, kind):
    """As a kubelet does it: the network namespace outlives a container, and not its pod."""
    pod = mesh.pod(mesh.n2, "pod1", kind)
    receiver = mesh.receiver(mesh.n2, "app", group, f"ns:{pod.path}")
    sender = mesh.sender(mesh.n1, "sender", group, kind)
    mesh.wait_members(group, receiver)
    assert mesh.n2.members(group) == {pod.port}

    mesh.remove(receiver)
    mesh.wait("the membership ends with the container", lambda: not mesh.n2.members(group))
    assert pod.port in mesh.n2.ports()
    again = mesh.receiver(mesh.n2, "app", group, f"ns:{pod.path}")
    mesh.wait_members(group, again)
    mesh.exact(again, mesh.stream(sender, [again], packets=20))

    old = pod.port
    mesh.remove(again)
    mesh.remove(pod)
    mesh.wait("the port ends with the pod", lambda: old not in mesh.n2.ports())
    pod = mesh.pod(mesh.n2, "pod2", kind)
    last = mesh.receiver(mesh.n2, "app", group, f"ns:{pod.path}")
    mesh.wait_members(group, last)
    assert mesh.n2.members(group) == {pod.port}
    mesh.exact(last, mesh.stream(sender, [last], packets=20))


def test_pod_dies_without_a_word(mesh, group):
    """Its namespace goes and takes the veth along; no plugin is asked."""
    pod = mesh.pod(mesh.n2, "victim")
    receiver = mesh.receiver(mesh.n2, "app", group, f"ns:{pod.path}")
    mesh.wait_members(group, receiver)
    mesh.remove(receiver)
    mesh.remove_namespace(pod)
    mesh.wait("the port is gone", lambda: pod.port not in mesh.n2.ports())
    mesh.wait("n1 sends nothing there", lambda: mesh.n1.route(group) == (set(), set()))
