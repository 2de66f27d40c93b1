"""Which node. Pure.

A node is *feasible* if all it has would do, busy or not.  Among feasible nodes the one with
the least estimated start time is chosen: by the seconds of work that wait there, then by the
number of waiting tasks, then by how full it would be, then by its number.

Nodes report their load once a second, and a burst of tasks takes less than that.  So what is
placed is added to the node's last report, or the whole burst would go to one node.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from raydask.global_scheduler.records import NodeRecord
from raydask.task import RESOURCE_UNIT


def is_feasible(node: NodeRecord, wanted: Mapping[str, int]) -> bool:
    """Say whether the node could ever give this."""
    total = node.total
    return all(total.get(name, 0) >= amount for name, amount in wanted.items())


def fits(node: NodeRecord, wanted: Mapping[str, int]) -> bool:
    """Say whether the node can give this now, as far as is known here."""
    available = node.available
    return all(available.get(name, 0) >= amount for name, amount in wanted.items() if amount)


def best_node(nodes: Iterable[NodeRecord], wanted: Mapping[str, int]) -> NodeRecord | None:
    """Return the feasible node with the least estimated start time; None if there is none."""
    feasible = (node for node in nodes if is_feasible(node, wanted))
    return min(feasible, key=lambda node: _start_key(node, wanted), default=None)


def node_for_actor(
    nodes: Iterable[NodeRecord], asking: NodeRecord, wanted: Mapping[str, int]
) -> NodeRecord | None:
    """Return where an actor shall live: beside who asks for it, if it fits there."""
    if is_feasible(asking, wanted) and fits(asking, wanted):
        return asking
    return best_node(nodes, wanted)


def spread_node(nodes: Iterable[NodeRecord], wanted: Mapping[str, int]) -> NodeRecord | None:
    """Return a feasible node for what shall be spread: where it fits, and the longest ago."""
    feasible = (node for node in nodes if is_feasible(node, wanted))
    return min(
        feasible,
        key=lambda node: (not fits(node, wanted), node.queued, node.turn, node.number),
        default=None,
    )


def group_node(nodes: Iterable[NodeRecord], wanted: Mapping[str, int]) -> NodeRecord | None:
    """Return the feasible node with most of what is wanted left; None if there is none."""
    feasible = (node for node in nodes if is_feasible(node, wanted))
    return min(feasible, key=lambda node: (_share_with(node, wanted), node.number), default=None)


def _share_with(node: NodeRecord, wanted: Mapping[str, int]) -> float:
    """Return the largest share in use of any resource that is wanted, with this there too."""
    total, available = node.total, node.available
    shares = [
        (total[name] - available.get(name, 0) + amount) / total[name]
        for name, amount in wanted.items()
        if amount
    ]
    return max(shares, default=0.0)


def note_placement(node: NodeRecord, wanted: Mapping[str, int]) -> None:
    """Correct the node's last report by something that was placed there."""
    if not fits(node, wanted):
        if node.queued:
            node.queue_seconds += node.queue_seconds / node.queued
        node.queued += 1
    for name, amount in wanted.items():
        node.available[name] = node.available.get(name, 0) - amount


def _start_key(node: NodeRecord, wanted: Mapping[str, int]) -> tuple[float, int, float, int]:
    return (node.queue_seconds, node.queued, _load_with(node, wanted), node.number)


def _load_with(node: NodeRecord, wanted: Mapping[str, int]) -> float:
    """Return the largest share that is in use of any resource, with this placed there too."""
    shares = [
        (total - node.available.get(name, 0) + wanted.get(name, 0)) / total
        for name, total in node.total.items()
        if total
    ]
    return max(shares, default=0.0)


def describe_infeasible(
    nodes: Iterable[NodeRecord], wanted: Mapping[str, int], taken: Collection[int] = ()
) -> str:
    """Say what was asked for and the largest that any node has.

    Parameters
    ----------
    nodes : iterable of NodeRecord
        Those that it could be on.
    wanted : mapping of str to int
    taken : collection of int
        Nodes that it may not be on, because other bundles of its placement group are.
    """
    nodes = list(nodes)
    asked = ", ".join(f"{name} {_whole(amount)}" for name, amount in sorted(wanted.items()))
    other = ""
    if taken:
        numbers = ", ".join(map(str, sorted(taken)))
        other = f"other than {numbers}, where its other bundles are"
    if not nodes:
        return f"it asks for {asked or 'nothing'}, and there is no node {other}".rstrip()
    largest = {name: max(node.total.get(name, 0) for node in nodes) for name in sorted(wanted)}
    found = ", ".join(f"{name} {_whole(amount)}" for name, amount in largest.items())
    which = f"any node {other}," if other else "any node"
    detail = f"it asks for {asked}, and the largest that {which} has is {found}"
    if all(largest[name] >= amount for name, amount in wanted.items()):
        detail += ", but no node has all of it"
    return detail


def _whole(amount: int) -> str:
    return f"{amount / RESOURCE_UNIT:,.12g}"
