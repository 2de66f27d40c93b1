"""What the tests of several nodes share: where tasks run, and what nodes have left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import raydask
from raydask.cluster_utils import Cluster
from raydask.util import memory_report
from tests.cluster.probes import eventually


def on(node: int, function: Callable[..., Any], **options: Any) -> raydask.RemoteFunction:
    """Return the function as one whose tasks can run on a node of `four_nodes` only."""
    return raydask.remote(function).options(resources={f"n{node}": 1}, **options)


def where(*_: Any) -> int:
    """Return the number of the node on which this runs."""
    return int(raydask.get_runtime_context().node_id)


def held_by(cluster: Cluster) -> dict[int, list[str]]:
    """Return what nodes know of tasks and objects, those in closures of functions excepted.

    Functions stay until their job ends, and so do those and the tasks that made them.
    """
    found = {}
    for node in cluster.list_all_nodes():
        (memory,) = memory_report(node.folder).nodes
        objects = [
            f"{each.id} {each.state} {[(holder.role, holder.name) for holder in each.holders]}"
            for each in memory.objects
            if all(holder.role != "function" for holder in each.holders)
        ]
        makers = {each.id[:32] for each in memory.objects}
        if objects or memory.tasks > len(makers):
            found[node.number] = [f"{memory.tasks} tasks", *objects]
    return found


def eventually_nothing_is_held_by(cluster: Cluster) -> None:
    """Wait until all nodes have forgotten every task and object."""
    try:
        eventually(lambda: not held_by(cluster))
    except AssertionError:
        raise AssertionError(f"held: {held_by(cluster)}") from None


def eventually_idle(cluster: Cluster) -> None:
    """Wait until all resources of all nodes are free."""

    def is_idle() -> bool:
        return all(each.available == each.resources for each in cluster.status() if each.alive)

    eventually(is_idle, "all resources are free")
