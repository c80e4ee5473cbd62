# SPDX-License-Identifier: Apache-2.0
"""The kernel's WireGuard between the machines: the tests themselves are those of the lab of
namespaces. The controller, outside, is a peer with wireguard-go. The last of the folder:
it leaves the mesh as it is."""
# ruff: noqa: F401
import pytest
import wireguard
from conftest import MACHINES
from test_wireguard import (
    test_iperf,
    test_nothing_comes_in_beside_the_tunnel,
    test_nothing_to_read,
    test_the_way_is_the_device,
    test_tunnel_down,
)


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_it_is_the_kernels(wireguard_lab, node):
    if not MACHINES:
        pytest.skip("nodes are no machines, whose kernels have WireGuard")
    link = wireguard_lab.exec(node, "ip", "-d", "link", "show", wireguard.device(node)).stdout
    assert "link/none" in link and "wireguard" in link
