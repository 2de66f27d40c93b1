"""One division of the nodes' spare capacity among the homes' claims. Pure.

Vocabulary
----------
home
    The node where tasks were submitted; it claims capacity of others.
claim
    What a home wants for its ready tasks of one shape: ``wanted`` slots, each of the same
    resources.
spare
    What a node has less what its own tasks use: it is free, or lent tasks use it.
reserved
    The spare capacity of a home that its own tasks have first claim to.
idle
    What of the spare is neither reserved nor leased nor used by lent tasks.
keeping, filling
    Giving a claim slots that it has a lease for already, and giving it others.

The steps
---------
1. Each home's own claims reserve what they can use of its own capacity.
2. What is left is shared out fairly (`fair_fractions`), first in whole slots, rounded down,
   and then rounded up while there is something left.  Each time all claims keep what they
   have, as far as that goes, before any is filled: leases move only for fairness' sake.
   Where nodes run full unevenly that leaves something over, which is shared out again.
3. Claims keep what they have beyond their shares and nobody else could use, and last what
   is still there is given to whoever can use it.

Filling takes nodes where a claim's inputs are first, evenly, then idle nodes, those with most room
first and as much of each as there is: a home then talks to few nodes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from raydask.global_scheduler.fairness import fair_fractions
from raydask.ids import NodeNumber
from raydask.wire.messages import ShapeDemand

WORTHWHILE_SECONDS = 0.02
"""A slot is wanted for at least so much work, where it is known how long tasks take."""
WEIGHTLESS = ""
"""The resource that tasks use which ask for none."""
WEIGHTLESS_SLOTS = 16
"""How much of it each node has."""
_ROUNDS = 4

Amounts = tuple[tuple[str, int], ...]


class Capacity:
    """A node as those see it who would use it.

    Attributes
    ----------
    number : NodeNumber
    total : dict of str to int
    available : dict of str to int
        What is free now, as far as is known.
    lent : dict of str to int
        What tasks of other homes use.
    is_awaited : bool
        Whether it is out of touch and gets nothing new.
    is_leaving : bool
        Whether it leaves: nobody has a lease at it.
    free, idle : dict of str to int
        What the division under way has left of the spare, and of what is idle.
    """

    __slots__ = (
        "available",
        "free",
        "idle",
        "is_awaited",
        "is_leaving",
        "lent",
        "number",
        "total",
    )

    def __init__(self, number: NodeNumber, total: Mapping[str, int]) -> None:
        self.number = number
        self.total = dict(total)
        self.available = dict(total)
        self.lent: dict[str, int] = {}
        self.is_awaited = False
        self.is_leaving = False
        self.free: dict[str, int] = {}
        self.idle: dict[str, int] = {}

    def spare(self) -> dict[str, int]:
        """Return what its own tasks do not use; nothing while it leaves."""
        if self.is_leaving:
            return {}
        available, lent = self.available, self.lent
        spare = {
            name: max(0, min(total, available.get(name, 0) + lent.get(name, 0)))
            for name, total in self.total.items()
        }
        spare[WEIGHTLESS] = WEIGHTLESS_SLOTS
        return spare


class Claim:
    """What a home wants for its tasks of one shape, and what it has.

    Attributes
    ----------
    home : NodeNumber
    demand : ShapeDemand
    resources : tuple
        (name, amount) of what a slot takes; never empty.
    leases : dict of NodeNumber to int
        The slots it has.
    granted : dict of NodeNumber to int
        The slots that the division under way has given it; ``slots`` is their number.
    """

    __slots__ = ("demand", "granted", "home", "leases", "resources", "slots")

    def __init__(self, home: NodeNumber, demand: ShapeDemand) -> None:
        self.home = home
        self.leases: dict[NodeNumber, int] = {}
        self.granted: dict[NodeNumber, int] = {}
        self.slots = 0
        self.restate(demand)

    def restate(self, demand: ShapeDemand) -> None:
        """Take in what the home wants now."""
        self.demand = demand
        amounts = sorted((name, amount) for name, amount in demand.resources.items() if amount > 0)
        self.resources: Amounts = tuple(amounts) or ((WEIGHTLESS, 1),)

    @property
    def wanted(self) -> int:
        """How many slots it can make use of."""
        count, seconds = self.demand.count, self.demand.seconds
        if seconds < 0 or count <= 1:
            return max(0, count)
        return min(count, max(1, math.ceil(count * seconds / WORTHWHILE_SECONDS)))

    def preferred(self) -> list[NodeNumber]:
        """Return where it would rather have slots than elsewhere, the best first."""
        return [NodeNumber(number) for number in self.demand.nodes]


class _Target(NamedTuple):
    claim: Claim
    slots: int


class Division:
    """The division under way; `run` leaves in each claim what it is granted.

    Parameters
    ----------
    nodes : mapping of NodeNumber to Capacity
    claims : mapping of NodeNumber to iterables of Claim
        By home.
    """

    def __init__(
        self,
        nodes: Mapping[NodeNumber, Capacity],
        claims: Mapping[NodeNumber, Iterable[Claim]],
    ) -> None:
        self._nodes = nodes
        self._homes = {home: list(some) for home, some in sorted(claims.items())}
        self._claims = [claim for some in self._homes.values() for claim in some]
        self._names = {name for claim in self._claims for name, _ in claim.resources}
        self._idle: dict[Amounts, list[Capacity]] = {}
        self._free: dict[Amounts, list[Capacity]] = {}

    def run(self) -> None:
        """Divide."""
        for claim in self._claims:
            claim.granted = {}
            claim.slots = 0
        self._measure()
        for _ in range(_ROUNDS):
            if not self._share_out():
                break
        for claim in self._claims:
            self._keep(claim, claim.wanted)
        for claim in self._claims:
            self._fill(claim, claim.wanted)

    def _measure(self) -> None:
        """Note what there is to divide."""
        leased: dict[NodeNumber, dict[str, int]] = {}
        for claim in self._claims:
            for number, slots in claim.leases.items():
                sums = leased.setdefault(number, {})
                for name, amount in claim.resources:
                    sums[name] = sums.get(name, 0) + amount * slots
        nothing: dict[str, int] = {}
        for node in self._nodes.values():
            free = node.free = node.spare()
            if node.number in self._homes:
                self._reserve(node)
            taken, lent = leased.get(node.number, nothing), node.lent
            if node.is_awaited:
                for name, amount in free.items():
                    free[name] = min(amount, taken.get(name, 0))
            node.idle = {
                name: free.get(name, 0) - max(taken.get(name, 0), lent.get(name, 0))
                for name in self._names
            }

    def _reserve(self, home: Capacity) -> None:
        for claim in self._homes[home.number]:
            slots = min(claim.demand.count, _room(home.free, claim.resources))
            for name, amount in claim.resources:
                home.free[name] = home.free.get(name, 0) - amount * max(0, slots)

    # --- sharing out ------------------------------------------------------------------------

    def _share_out(self) -> bool:
        """Share out what is there; say whether that has changed anything."""
        unmet = [
            [claim for claim in some if claim.slots < claim.wanted and self._has_room_for(claim)]
            for some in self._homes.values()
        ]
        unmet = [some for some in unmet if some]
        if not unmet:
            return False
        before = sum(claim.slots for claim in self._claims)
        fractions = fair_fractions([_total_of(some) for some in unmet], self._left())
        at_least = _targets(unmet, fractions, _rounded_down)
        at_most = _targets(unmet, fractions, _rounded_up)
        self._approach(at_least)
        self._approach(at_most)
        return sum(claim.slots for claim in self._claims) > before

    def _left(self) -> dict[str, int]:
        return {
            name: sum(node.free.get(name, 0) for node in self._nodes.values())
            for name in self._names
        }

    def _approach(self, targets: list[_Target]) -> None:
        for claim, slots in targets:
            self._keep(claim, slots)
        for claim, slots in targets:
            self._fill(claim, slots)

    # --- keeping and filling ----------------------------------------------------------------

    def _keep(self, claim: Claim, target: int) -> None:
        """Give the claim slots where it has a lease, until it has as many as the target."""
        if claim.slots >= target or not claim.leases:
            return
        preferred = [number for number in claim.preferred() if number in claim.leases]
        for number in (*preferred, *claim.leases):
            node = self._nodes.get(number)
            if node is not None and number != claim.home:
                held = claim.leases[number] - claim.granted.get(number, 0)
                room = min(held, target - claim.slots, _room(node.free, claim.resources))
                _grant(claim, node, room)
            if claim.slots >= target:
                return

    def _fill(self, claim: Claim, target: int) -> None:
        """Give the claim slots anywhere, until it has as many as the target."""
        if claim.slots >= target:
            return
        preferred = [
            node
            for node in map(self._nodes.get, reversed(claim.preferred()))
            if node is not None and not node.is_awaited
        ]
        if preferred:
            self._take_evenly(claim, target, preferred)
        idle, free = self._idle_for(claim.resources), self._free_for(claim.resources)
        self._take(claim, target, preferred.copy(), _idle_room)
        self._take(claim, target, idle, _idle_room)
        self._take(claim, target, preferred, _free_room)
        self._take(claim, target, free, _free_room)

    def _take_evenly(self, claim: Claim, target: int, preferred: list[Capacity]) -> None:
        """Take at first no more of any node than all must give for the target."""
        most = -(-(target - claim.slots) // len(preferred))
        for node in reversed(preferred):
            more = min(most - claim.granted.get(node.number, 0), target - claim.slots)
            room = min(more, _idle_room(node, claim.resources))
            if room > 0 and node.number != claim.home:
                _grant(claim, node, room)
                for name, amount in claim.resources:
                    node.idle[name] -= amount * room

    def _take(
        self,
        claim: Claim,
        target: int,
        ranked: list[Capacity],
        room_in: Callable[[Capacity, Amounts], int],
    ) -> None:
        """Take from the end of the list; nodes where there is no more room leave it."""
        own = None
        while claim.slots < target and ranked:
            node = ranked[-1]
            if node.number == claim.home:
                own = ranked.pop()
                continue
            room = min(target - claim.slots, room_in(node, claim.resources))
            if room > 0:
                _grant(claim, node, room)
                for name, amount in claim.resources:
                    node.idle[name] -= amount * room
            if claim.slots < target:
                ranked.pop()
        if own is not None:
            ranked.append(own)

    def _idle_for(self, resources: Amounts) -> list[Capacity]:
        """Return the nodes with idle room for such a claim, those with most of it last."""
        ranked = self._idle.get(resources)
        if ranked is None:
            ranked = self._idle[resources] = self._ranked(resources, _idle_room)
        return ranked

    def _free_for(self, resources: Amounts) -> list[Capacity]:
        ranked = self._free.get(resources)
        if ranked is None:
            ranked = self._free[resources] = self._ranked(resources, _free_room)
        return ranked

    def _ranked(
        self, resources: Amounts, room_in: Callable[[Capacity, Amounts], int]
    ) -> list[Capacity]:
        rooms = [
            (room, -node.number, node)
            for node in self._nodes.values()
            if not node.is_awaited and (room := room_in(node, resources)) > 0
        ]
        rooms.sort(key=lambda each: each[:2])
        return [node for _, _, node in rooms]

    def _has_room_for(self, claim: Claim) -> bool:
        """Say whether there is a node with room for one slot more."""
        ranked = self._free_for(claim.resources)
        while ranked and _free_room(ranked[-1], claim.resources) <= 0:
            ranked.pop()
        if not ranked:
            return False
        if ranked[-1].number != claim.home:
            return True
        return any(
            node.number != claim.home and _free_room(node, claim.resources) > 0
            for node in reversed(ranked)
        )


def _targets(
    unmet: list[list[Claim]], fractions: list[float], rounded: Callable[[float], int]
) -> list[_Target]:
    """Return how many slots each claim shall have.

    What rounding takes from one claim of a home, the home's next claim gets.
    """
    targets = []
    for claims, fraction in zip(unmet, fractions, strict=True):
        exact, given = 0.0, 0
        for claim in claims:
            exact += (claim.wanted - claim.slots) * fraction
            more = min(claim.wanted - claim.slots, rounded(exact) - given)
            given += more
            targets.append(_Target(claim, claim.slots + more))
    return targets


def _rounded_down(slots: float) -> int:
    return math.floor(slots + 1e-6)


def _rounded_up(slots: float) -> int:
    return math.ceil(slots - 1e-6)


def _total_of(claims: list[Claim]) -> dict[str, int]:
    """Return all that the claims want beyond what they have been given."""
    total: dict[str, int] = {}
    for claim in claims:
        slots = claim.wanted - claim.slots
        for name, amount in claim.resources:
            total[name] = total.get(name, 0) + amount * slots
    return total


def _room(amounts: Mapping[str, int], resources: Amounts) -> int:
    """Return for how many slots there is room."""
    # This is most of what a division does: a loop takes half of what min and a generator do.
    room = sys.maxsize
    for name, amount in resources:
        here = amounts.get(name, 0) // amount
        if here < room:  # noqa: PLR1730  (min would be a call)
            room = here
    return room


def _free_room(node: Capacity, resources: Amounts) -> int:
    return _room(node.free, resources)


def _idle_room(node: Capacity, resources: Amounts) -> int:
    return min(_room(node.free, resources), _room(node.idle, resources))


def _grant(claim: Claim, node: Capacity, slots: int) -> None:
    if slots > 0:
        claim.granted[node.number] = claim.granted.get(node.number, 0) + slots
        claim.slots += slots
        for name, amount in claim.resources:
            node.free[name] -= amount * slots
