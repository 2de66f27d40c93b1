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

Most groups have many bundles of the same *kind*.  All nodes are looked at once for each kind, and
only the chosen one again for each bundle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heapreplace

from raydask.ids import NodeNumber
from raydask.placement import GroupStrategy

_LOOKS_OF_A_BUNDLE = 8
"""A bundle takes as long as so many looks at a node for one kind of bundles."""

Amounts = Mapping[str, int]
Kind = tuple[tuple[str, int], ...]


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
    left = {number: dict(amounts) for number, amounts in nodes.items()}
    full = _sums([nodes[number] for number in nodes])
    kinds = [kind_of(bundle) for bundle in bundles]
    places: dict[int, NodeNumber] = {}
    used: Counter[NodeNumber] = Counter()
    order = sorted(range(len(bundles)), key=lambda each: (-_size(bundles[each], full), kinds[each]))
    fitting: list[tuple[tuple[float, float], NodeNumber]] = []
    for position, index in enumerate(order):
        bundle = bundles[index]
        if not position or kinds[index] != kinds[order[position - 1]]:
            fitting = [
                (_rank(strategy, used[number], _size(amounts, full)), number)
                for number, amounts in left.items()
                if _fits(amounts, bundle) and not (strategy == "STRICT_SPREAD" and used[number])
            ]
            heapify(fitting)
        if not fitting:
            return None
        chosen = places[index] = fitting[0][1]
        used[chosen] += 1
        amounts = left[chosen]
        for name, amount in bundle.items():
            amounts[name] = amounts.get(name, 0) - amount
        if strategy != "STRICT_SPREAD" and _fits(amounts, bundle):
            heapreplace(fitting, (_rank(strategy, used[chosen], _size(amounts, full)), chosen))
        else:
            heappop(fitting)
    return [places[index] for index in range(len(bundles))]


def kind_of(bundle: Amounts) -> Kind:
    """Return what is the same for bundles that are the same."""
    return tuple(sorted(bundle.items()))


def effort(nodes: int, bundles: Sequence[Amounts]) -> int:
    """Return how long it takes to place bundles on so many nodes and to ask these, in looks."""
    return nodes * (1 + len(set(map(kind_of, bundles)))) + _LOOKS_OF_A_BUNDLE * len(bundles)


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
