"""Where the bundles of a placement group go: all of them, or none. Pure.

A *bundle* is what has to be free on one node at once.  The strategies:

=============  ===========================
PACK           on as few nodes as possible
SPREAD         on as many as possible
STRICT_PACK    all on one node
STRICT_SPREAD  each on another node
=============  ===========================

Choosing the fewest nodes is bin packing.  This is its usual heuristic: the largest bundle
first, into the fullest of the nodes in use that has room for it (best fit decreasing).  It can
miss a placement where that is very tight; the group then waits until more is free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from raydask.ids import NodeNumber
from raydask.placement import GroupStrategy

Amounts = Mapping[str, int]


def place_bundles(
    nodes: Mapping[NodeNumber, Amounts], bundles: Sequence[Amounts], strategy: GroupStrategy
) -> list[NodeNumber] | None:
    """Return a node for each bundle; None if there is no room for all of them.

    Parameters
    ----------
    nodes : mapping of NodeNumber to mapping
        What is free there; or all there is, to ask whether the group is feasible at all.
    bundles : sequence of mappings
    strategy : GroupStrategy
    """
    if strategy in ("PACK", "STRICT_PACK"):
        together = _on_one_node(nodes, bundles)
        if together is not None or strategy == "STRICT_PACK":
            return together
    left = {number: dict(amounts) for number, amounts in sorted(nodes.items())}
    full = _sums([nodes[number] for number in nodes])
    places: dict[int, NodeNumber] = {}
    used: Counter[NodeNumber] = Counter()
    order = sorted(range(len(bundles)), key=lambda index: -_size(bundles[index], full))
    for index in order:
        bundle = bundles[index]
        fitting = [
            number
            for number, amounts in left.items()
            if _fits(amounts, bundle) and not (strategy == "STRICT_SPREAD" and used[number])
        ]
        if not fitting:
            return None
        room = {number: _size(left[number], full) for number in fitting}
        chosen = min(fitting, key=lambda number: _rank(strategy, used[number], room[number]))
        places[index] = chosen
        used[chosen] += 1
        for name, amount in bundle.items():
            left[chosen][name] = left[chosen].get(name, 0) - amount
    return [places[index] for index in range(len(bundles))]


def _rank(strategy: GroupStrategy, used: int, room: float) -> tuple[float, float]:
    """Return what is smallest for the best node, which has so many bundles and so much room."""
    if strategy == "PACK":
        # Of new nodes the largest, which then takes most of what is still to come.
        return (0, room) if used else (1, -room)
    if strategy == "SPREAD":
        return (used, -room)
    return (0, room)


def _on_one_node(
    nodes: Mapping[NodeNumber, Amounts], bundles: Sequence[Amounts]
) -> list[NodeNumber] | None:
    total = _sums(bundles)
    fitting = [number for number in sorted(nodes) if _fits(nodes[number], total)]
    if not fitting:
        return [] if not bundles else None
    full = _sums([nodes[number] for number in nodes])
    chosen = min(fitting, key=lambda number: _size(nodes[number], full))
    return [chosen] * len(bundles)


def _sums(many: Sequence[Amounts]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for amounts in many:
        sums.update(amounts)
    return dict(sums)


def _fits(amounts: Amounts, wanted: Amounts) -> bool:
    return all(amounts.get(name, 0) >= amount for name, amount in wanted.items() if amount)


def _size(amounts: Amounts, full: Amounts) -> float:
    """Return the largest part of all there is of any resource that these amounts are."""
    return max((amount / (full.get(name) or 1) for name, amount in amounts.items()), default=0.0)
