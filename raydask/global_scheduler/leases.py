"""Leases: whose tasks may use which node's spare capacity, and how many at once. Pure.

A home says how many ready tasks it would have others run (``messages.ShapeDemand``), every
node what it has and what of that is free.  A *lease* lets a home have so many tasks of one
shape with a node at once.  How the capacity is divided, ``division`` says.

Dividing takes milliseconds when nodes and leases are thousands, so it is not done for each
message: news makes it *due*, and between one division and the next there is a pause, longer
when there was more to divide.  A load report alone is no hurry.

Invariants
----------
- All leases at a node together are of no more than it has in total, of any resource.
- A home has no lease at itself, none beyond what it wants, and none at a dead node.
- What a home has been told adds up to what it has here, unless it has registered since:
  then both begin anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from raydask.global_scheduler.division import Capacity, Claim, Division
from raydask.ids import NodeNumber
from raydask.wire.messages import Lease, ShapeDemand

PAUSE_SECONDS = 0.005
"""Between the beginnings of two divisions, at least."""
SMALL_DIVISION = 500
"""Nodes, leases and claims; for more of them the pause is longer in proportion."""
_CLAIM_WEIGHT = 8
"""A claim takes as long as so many nodes or leases: 1,000 nodes and leases take 3 ms together."""
REPORT_SECONDS = 0.1
"""How long load reports wait for a division if there is no other reason for one."""
_EARLY_SECONDS = 0.0005
"""By so much a timer may be early, and a sum of floats too small."""


class Lessor:
    """Who has leases at which node.

    Parameters
    ----------
    pause : float
        Seconds.
    """

    def __init__(self, pause: float = PAUSE_SECONDS) -> None:
        self._pause = pause
        self._nodes: dict[NodeNumber, Capacity] = {}
        self._claims: dict[NodeNumber, dict[int, Claim]] = {}
        self._divided_at = float("-inf")
        self._urgent = False
        self._reported = False
        self._size = 0
        """Of the last division."""

    # --- nodes ------------------------------------------------------------------------------

    def add_node(self, number: NodeNumber, total: Mapping[str, int]) -> None:
        """Take in a node that has registered, for the first time or again.

        As a home it begins anew; leases of others at it stay.
        """
        before = self._nodes.get(number)
        node = self._nodes[number] = Capacity(number, total)
        if before is not None:
            node.available, node.lent = before.available, before.lent
            node.is_leaving = before.is_leaving
        self._claims.pop(number, None)
        self._urgent = True

    def report(
        self, number: NodeNumber, available: Mapping[str, int], lent: Mapping[str, int]
    ) -> None:
        """Take in what is free at a node, and what tasks of other homes use there."""
        node = self._nodes.get(number)
        if node is not None and (node.available != available or node.lent != lent):
            node.available, node.lent = dict(available), dict(lent)
            self._reported = True

    def await_node(self, number: NodeNumber) -> None:
        """Give nothing new at this node: it is out of touch."""
        node = self._nodes.get(number)
        if node is not None:
            node.is_awaited = True

    def let_leave(self, number: NodeNumber) -> None:
        """End the leases at this node: it leaves.  As a home it goes on."""
        node = self._nodes.get(number)
        if node is not None and not node.is_leaving:
            node.is_leaving = True
            self._urgent = True

    def remove_node(self, number: NodeNumber) -> None:
        """End the leases of a node that is dead, and those at it."""
        if self._nodes.pop(number, None) is not None:
            self._claims.pop(number, None)
            self._urgent = True

    # --- homes ------------------------------------------------------------------------------

    def demand(self, home: NodeNumber, demands: Iterable[ShapeDemand]) -> None:
        """Take in what a home would have others run; other shapes are as they were."""
        if home not in self._nodes:
            return
        claims = self._claims.setdefault(home, {})
        for demand in demands:
            claim = claims.get(demand.shape)
            if claim is not None:
                claim.restate(demand)
            elif demand.count > 0:
                claims[demand.shape] = Claim(home, demand)
        self._urgent = True

    # --- divisions --------------------------------------------------------------------------

    def due_in(self, now: float) -> float | None:
        """Return the seconds until `divide` shall be called; None while there is no need."""
        if not self._claims or not (self._urgent or self._reported):
            return None
        pause = self._pause * max(1.0, self._size / SMALL_DIVISION)
        if not self._urgent:
            pause = max(pause, REPORT_SECONDS)
        passed = now - self._divided_at
        # A clock that was set back must not stop everything.
        return max(0.0, pause - passed) if passed >= 0 else 0.0

    def due(self, now: float) -> bool:
        """Say whether it is time to divide."""
        wait = self.due_in(now)
        return wait is not None and wait < _EARLY_SECONDS

    def divide(self, now: float) -> dict[NodeNumber, list[Lease]]:
        """Divide, and return the leases that have changed, by home."""
        self._divided_at = now
        self._urgent = self._reported = False
        Division(self._nodes, {home: some.values() for home, some in self._claims.items()}).run()
        self._size = len(self._nodes)
        changes: dict[NodeNumber, list[Lease]] = {}
        for home, claims in list(self._claims.items()):
            changed = [lease for claim in claims.values() for lease in _settle(claim)]
            if changed:
                changes[home] = changed
            self._size += sum(_CLAIM_WEIGHT + len(claim.leases) for claim in claims.values())
            for shape, claim in list(claims.items()):
                if claim.demand.count <= 0:
                    del claims[shape]
            if not claims:
                del self._claims[home]
        return changes

    def leases_of(self, home: NodeNumber) -> list[Lease]:
        """Return all leases that a home has."""
        return [
            Lease(shape, number, slots)
            for shape, claim in self._claims.get(home, {}).items()
            for number, slots in claim.leases.items()
        ]


def _settle(claim: Claim) -> list[Lease]:
    """Make leases of what has been granted, and return those that are other than before."""
    before, after = claim.leases, claim.granted
    if before == after:
        return []
    claim.leases, claim.granted = after, {}
    shape = claim.demand.shape
    changed = [
        Lease(shape, number, slots)
        for number, slots in after.items()
        if before.get(number) != slots
    ]
    changed += [Lease(shape, number, 0) for number in before if number not in after]
    return changed
