"""How many nodes the tasks that there are want, and which nodes can be spared. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raydask.util import NodeStatus


def nodes_wanted(nodes: Sequence[NodeStatus], cpus_per_node: float) -> int:
    """Return how many nodes would run everything at once.

    Each task that waits counts for one CPU; those that run, for what they have.

    Parameters
    ----------
    nodes : sequence of NodeStatus
    cpus_per_node : float
    """
    used = sum(
        node.resources.get("CPU", 0.0) - node.available.get("CPU", 0.0)
        for node in nodes
        if node.alive
    )
    waiting = sum(node.queued + node.infeasible for node in nodes)
    return math.ceil((max(0.0, used) + waiting) / max(cpus_per_node, 1e-9))


def idle_nodes(nodes: Sequence[NodeStatus]) -> set[int]:
    """Return the numbers of the nodes that run nothing, as far as is known."""
    return {
        node.node
        for node in nodes
        if node.alive and not node.queued and node.available == node.resources
    }
