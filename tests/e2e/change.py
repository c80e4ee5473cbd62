# SPDX-License-Identifier: Apache-2.0
"""Other settings for a while: of the controller, which pushes them, or of one agent."""
import contextlib
import json

import programs
import topology as topo

APPLIED = "Settings of the controller apply."


def _applied(node):
    return (programs.RUN / node / "agent.log").read_text(errors="replace").count(APPLIED)


def _restart(lab, kind, names, key, settings):
    state = programs.load()
    state[key] = settings
    programs.save(state)
    for name in names:
        lab.command("restart", kind, name)


@contextlib.contextmanager
def segment_settings(lab, **settings):
    """The controller comes back with these in its file; every agent has them."""
    def change(config):
        before = {node: _applied(node) for node in nodes}
        _restart(lab, "controller", ["c1"], "controller_set", config)
        lab.wait("the agents are back", lab.ready, 10)
        lab.wait("the agents have the settings",
                 lambda: all(_applied(n) > before[n] for n in nodes), 10)

    was, nodes = programs.load()["controller_set"], programs.agents(programs.load())
    segment = json.dumps([{"segment": 1, **settings}])
    try:
        change(was + [f"segments={segment}"])
        yield
    finally:
        change(was)


@contextlib.contextmanager
def agents_settings(lab, nodes, *settings):
    was = programs.load()["agent_set"]
    try:
        _restart(lab, "agent", nodes, "agent_set", was + list(settings))
        lab.wait("the agents are back", lab.ready, 10)
        yield
    finally:
        _restart(lab, "agent", nodes, "agent_set", was)
        lab.wait("the agents are back", lab.ready, 10)


def agent_settings_in_turn(lab, node, *turns):
    """Steps: the agent comes back with each of these, and as it was."""
    was = programs.load()["agent_set"]
    try:
        for settings in turns:
            _restart(lab, "agent", [node], "agent_set", was + list(settings))
            yield
    finally:
        _restart(lab, "agent", [node], "agent_set", was)
        lab.wait("the agents are back", lab.ready, 10)


def agent_settings(lab, node, *settings):
    return agents_settings(lab, [node], *settings)


@contextlib.contextmanager
def sysctls(name, **settings):
    """Of eth0 of a workload: igmp=force_igmp_version, mld=force_mld_version."""
    paths = {"igmp": "ipv4/conf/eth0/force_igmp_version",
             "mld": "ipv6/conf/eth0/force_mld_version"}
    topo.sysctl(name, {paths[k]: v for k, v in settings.items()})
    try:
        yield
    finally:
        topo.sysctl(name, {paths[k]: 0 for k in settings})
