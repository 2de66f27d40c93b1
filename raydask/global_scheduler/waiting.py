"""What has asked for a place and has none yet. Pure.

Tasks that ask for the same on behalf of the same node are of one *kind*.  Whether there is a place
does not differ within a kind, so that it is decided once for all of it: thousands of tasks for
which there is no node cost no more than one whenever a node comes or goes.

Invariants
----------
- Who asked is told once that no node could run a thing, and again after it was told otherwise.
- A kind is looked at when its answer may have changed: a node came that could run it or that asked
  for it, one for which it may have waited came back or is dead, its group has changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from raydask.global_scheduler.departures import Departures
from raydask.global_scheduler.groups import GroupTable
from raydask.global_scheduler.placing import Chooser, Refusal, Unplaced
from raydask.global_scheduler.policy import is_feasible, note_placement
from raydask.global_scheduler.records import NodeRecord
from raydask.ids import ActorID, NodeNumber, PlacementGroupID, TaskID, home_of_job
from raydask.wire.messages import GroupJudged, Infeasible, Placed


class _Kind:
    """What asks for the same: `example` and its like; of `fresh` ones nobody was told anything."""

    __slots__ = ("example", "fresh", "items")

    def __init__(self, example: Unplaced) -> None:
        self.example = example
        self.items: dict[TaskID, Unplaced] = {}
        self.fresh: set[TaskID] = set()


class Waiting:
    """All that waits for a place.

    Parameters
    ----------
    nodes : mapping of NodeNumber to NodeRecord
        All that live or whose return is awaited.
    departures : Departures
    groups : GroupTable
    chooser : Chooser
    send : callable
        Sends a node a message.
    place_actor : callable
        Takes an actor, the node that asked and the one where it shall live.
    noted : callable
        Takes a node at which something was placed.
    """

    def __init__(
        self,
        nodes: Mapping[NodeNumber, NodeRecord],
        departures: Departures,
        groups: GroupTable,
        chooser: Chooser,
        send: Callable[[NodeNumber, object], None],
        place_actor: Callable[[ActorID, NodeNumber, NodeNumber], None],
        noted: Callable[[NodeRecord], None],
    ) -> None:
        self._nodes = nodes
        self._departures = departures
        self._groups = groups
        self._chooser = chooser
        self._send = send
        self._place_actor = place_actor
        self._noted = noted
        self._kinds: dict[object, _Kind] = {}
        self._kind_of: dict[TaskID, _Kind] = {}

    def __len__(self) -> int:
        return len(self._kind_of)

    def reported(self) -> Counter[NodeNumber]:
        """Return of how much each node has been told that no node could run it."""
        counts: Counter[NodeNumber] = Counter()
        for kind in self._kinds.values():
            counts[kind.example.node] += len(kind.items) - len(kind.fresh)
        return counts

    def add(self, items: Iterable[Unplaced]) -> None:
        """Take in what wants a place, perhaps once more, and place what can be placed."""
        added: dict[object, list[Unplaced]] = {}
        for item in items:
            self.withdraw(item.identifier)
            key = item.kind
            kind = self._kinds.get(key)
            if kind is None:
                kind = self._kinds[key] = _Kind(item)
            kind.items[item.identifier] = item
            kind.fresh.add(item.identifier)
            self._kind_of[item.identifier] = kind
            added.setdefault(key, []).append(item)
        self._place((self._kinds[key], some) for key, some in added.items())

    def withdraw(self, identifier: TaskID) -> None:
        """Forget what wants no place any more, if it is here."""
        kind = self._kind_of.pop(identifier, None)
        if kind is not None:
            kind.fresh.discard(identifier)
            del kind.items[identifier]
            if not kind.items:
                del self._kinds[kind.example.kind]

    # --- nodes and groups -------------------------------------------------------------------

    def node_came(self, node: NodeRecord, *, is_new: bool) -> None:
        """Place what could not be placed without a node that has registered."""
        self._look(
            kind
            for kind in self._kinds.values()
            if kind.example.node == node.number
            or (kind.fresh and not is_new)
            or is_feasible(node, kind.example.wanted)
        )

    def node_died(self, number: NodeNumber) -> None:
        """Forget what a dead node has asked for."""
        for kind in list(self._kinds.values()):
            if kind.example.node == number:
                for identifier in list(kind.items):
                    self.withdraw(identifier)

    def nodes_went(self) -> None:
        """Find out what was waiting for nodes that have died or left."""
        self._look(kind for kind in self._kinds.values() if kind.fresh)

    def groups_changed(self, changed: Collection[PlacementGroupID]) -> None:
        """Place what waited for these groups; take back that they were infeasible."""
        kinds = [kind for kind in self._kinds.values() if kind.example.group in changed]
        told: dict[tuple[NodeNumber, PlacementGroupID], int] = {}
        for kind in kinds:
            group_id = kind.example.group
            group = self._groups.find(group_id) if group_id is not None else None
            if group is None or group.infeasible or len(kind.fresh) == len(kind.items):
                continue
            kind.fresh.update(kind.items)
            job = group.entry.job
            # The node of the group's job is told in any case.
            if kind.example.node != home_of_job(job):
                told.setdefault((kind.example.node, group.group_id), job)
        for (node, group_id), job in told.items():
            self._send(node, GroupJudged(group_id, job, ""))
        self._look(kinds)

    # --- places -----------------------------------------------------------------------------

    def _look(self, kinds: Iterable[_Kind]) -> None:
        self._place([(kind, list(kind.items.values())) for kind in kinds])

    def _place(self, asked: Iterable[tuple[_Kind, list[Unplaced]]]) -> None:
        """Place what can be placed, and report what no node could run, once."""
        staying = self._departures.staying(self._nodes.values())
        connected = [node for node in staying if node.lost_at is None]
        placed: dict[NodeNumber, list[tuple[TaskID, int]]] = {}
        refused: dict[tuple[NodeNumber, Refusal], list[TaskID]] = {}
        for kind, items in asked:
            asking = self._nodes.get(kind.example.node)
            if asking is None or asking.lost_at is not None:
                continue  # it could not be told now
            for position, item in enumerate(items):
                target = self._chooser.choose(item, asking, connected)
                if isinstance(target, NodeRecord):
                    self._settle(item, target, placed)
                    continue
                if target is not None:
                    said = self._refuse(kind, items[position:], target)
                    if said:
                        refused.setdefault((asking.number, target), []).extend(said)
                break  # what is placed takes nothing from what a node has in all
        for node, placements in placed.items():
            self._send(node, Placed(placements))
        for (node, refusal), identifiers in refused.items():
            self._send(node, Infeasible(identifiers, *refusal))

    def _settle(
        self,
        item: Unplaced,
        target: NodeRecord,
        placed: dict[NodeNumber, list[tuple[TaskID, int]]],
    ) -> None:
        self.withdraw(item.identifier)
        note_placement(target, item.wanted)
        self._noted(target)
        if item.is_actor:
            self._place_actor(ActorID(item.identifier), item.node, target.number)
        else:
            placed.setdefault(item.node, []).append((item.identifier, target.number))

    def _refuse(self, kind: _Kind, items: list[Unplaced], refusal: Refusal) -> list[TaskID]:
        """Return of which of these items their node is to be told that they were refused."""
        said = [item.identifier for item in items if refusal.final or item.identifier in kind.fresh]
        kind.fresh.difference_update(said)
        if refusal.final:
            for identifier in said:
                self.withdraw(identifier)
        return said
