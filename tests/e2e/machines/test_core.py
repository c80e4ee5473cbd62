# SPDX-License-Identifier: Apache-2.0
"""The core of the suite, with a machine for each node: the tests themselves are those of
the lab of namespaces. One workload (n3p2) is behind a tap, as a nested machine is."""
# ruff: noqa: F401
from test_failures import (
    test_agent_killed,
    test_agent_stopped_and_started,
    test_controller_killed,
    test_cut_and_healed,
    test_port_removed,
    test_programs_run,
    test_silent_host,
)
from test_forwarding import (
    test_across_nodes,
    test_exclude_blocks_one_source,
    test_igmpv2_host,
    test_include_gets_its_source_only,
    test_ipv6,
    test_isolated_from_the_sending_port_by_content,
    test_join_while_it_streams,
    test_leave,
    test_no_protocol_on_the_overlay,
    test_one_copy_a_node_on_the_underlay,
    test_one_receiver_down,
    test_same_node,
    test_sender_is_a_member,
    test_sizes_and_fragments,
    test_unicast_is_left_alone,
)
from test_mld import (
    test_F12_exclude_blocks_one_source,
    test_G02_source_specific_group,
    test_H10_any_source_across_nodes,
)
