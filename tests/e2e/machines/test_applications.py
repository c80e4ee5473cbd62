# SPDX-License-Identifier: Apache-2.0
"""Applications of others between machines: the tests themselves are those of the lab of
namespaces."""
# ruff: noqa: F401
from test_apps import (
    test_ddsperf_finds_nobody_without_multicast,
    test_ddsperf_ping,
    test_socat_talks_both_ways,
)
