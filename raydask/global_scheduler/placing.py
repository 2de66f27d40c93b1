"""Where what has asked for a place goes, by its strategy. Pure.

========  ===============================================================================
default   where it would begin first; an actor beside who asks for it, if it fits there
SPREAD    where it can begin at once, in turn
NODE      that node; with ``soft`` any where that is dead or cannot run it
LABELS    any whose labels keep the hard rules; rather one that keeps the preferred too
GROUP     a node with a bundle that it may use, the one of which least is in use
========  ===============================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from raydask.global_scheduler.departures import Departures
from raydask.global_scheduler.groups import GroupTable
from raydask.global_scheduler.policy import (
    best_node,
    describe_infeasible,
    group_node,
    is_feasible,
    node_for_actor,
    spread_node,
)
from raydask.global_scheduler.records import NodeRecord
from raydask.ids import NodeNumber, PlacementGroupID, TaskID
from raydask.placement import Strategy, have


class Unplaced:
    """A task or an actor that wants a place, and the node that asked for one.

    Its `kind` is the same as that of others for which there is a place wherever there is for it.
    """

    __slots__ = ("identifier", "is_actor", "kind", "node", "strategy", "wanted")

    def __init__(
        self,
        node: NodeNumber,
        identifier: TaskID,
        wanted: dict[str, int],
        is_actor: bool,
        strategy: Strategy | None = None,
    ) -> None:
        self.node = node
        self.identifier = identifier
        self.wanted = wanted
        self.is_actor = is_actor
        self.strategy = strategy
        self.kind = (node, is_actor, strategy, tuple(sorted(wanted.items())))

    @property
    def group(self) -> PlacementGroupID | None:
        """The placement group that it shall run in."""
        return self.strategy.group if self.strategy is not None else None


class Refusal(NamedTuple):
    """Why no node can run it; `final`: none ever will."""

    detail: str
    final: bool = False


class Chooser:
    """Chooses nodes.

    Parameters
    ----------
    nodes : mapping of NodeNumber to NodeRecord
        All that live or whose return is awaited.
    buried : mapping of NodeNumber to str
        Those that are dead, and why.
    groups : GroupTable
    departures : Departures
        Which nodes leave; these are not among the ``connected`` that it is given.
    """

    def __init__(
        self,
        nodes: Mapping[NodeNumber, NodeRecord],
        buried: Mapping[NodeNumber, str],
        groups: GroupTable,
        departures: Departures,
    ) -> None:
        self._nodes = nodes
        self._buried = buried
        self._groups = groups
        self._departures = departures
        self._turn = 0

    def choose(
        self, item: Unplaced, asking: NodeRecord, connected: Iterable[NodeRecord]
    ) -> NodeRecord | Refusal | None:
        """Return where it shall go, why it can go nowhere, or None: later.

        Parameters
        ----------
        item : Unplaced
        asking : NodeRecord
            The node that asks.
        connected : iterable of NodeRecord
            The nodes that something can be placed on now.
        """
        strategy = item.strategy
        if strategy is None:
            return self._anywhere(item, asking, connected)
        if strategy.kind == "SPREAD":
            return self._spread(item, asking, connected)
        if strategy.kind == "NODE":
            return self._on_node(strategy, item, asking, connected)
        if strategy.kind == "LABELS":
            return self._by_labels(strategy, item, connected)
        return self._in_group(strategy, item, connected)

    def _anywhere(
        self, item: Unplaced, asking: NodeRecord, connected: Iterable[NodeRecord]
    ) -> NodeRecord | Refusal | None:
        if item.is_actor and asking.number not in self._departures:
            chosen = node_for_actor(connected, asking, item.wanted)
        else:
            chosen = best_node(connected, item.wanted)
        if chosen is None and is_feasible(asking, item.wanted):
            return asking  # it leaves, and its own programs go on until they have ended
        return chosen or self._unless_awaited(item, self._nodes.values())

    def _unless_awaited(self, item: Unplaced, able: Iterable[NodeRecord]) -> Refusal | None:
        """Return why none of these nodes can run it; None if one could that is awaited."""
        if any(is_feasible(node, item.wanted) for node in self._departures.staying(able)):
            return None
        staying = self._departures.staying(self._nodes.values())
        return Refusal(describe_infeasible(staying, item.wanted))

    def _spread(
        self, item: Unplaced, asking: NodeRecord, connected: Iterable[NodeRecord]
    ) -> NodeRecord | Refusal | None:
        chosen = spread_node(connected, item.wanted)
        if chosen is None:
            return self._anywhere(item, asking, connected)
        self._turn += 1
        chosen.turn = self._turn
        return chosen

    def _on_node(
        self,
        strategy: Strategy,
        item: Unplaced,
        asking: NodeRecord,
        connected: Iterable[NodeRecord],
    ) -> NodeRecord | Refusal | None:
        number = NodeNumber(strategy.node)
        node = self._nodes.get(number)
        leaves = number in self._departures and node is not asking
        if node is not None and not leaves and is_feasible(node, item.wanted):
            return node if node.lost_at is None else None
        if strategy.soft:
            return self._anywhere(item, asking, connected)
        only = f"it may run on node {number} alone"
        if node is not None and leaves:
            return Refusal(f"{only}, which is about to leave", final=True)
        if node is not None:
            return Refusal(f"{only}, and {describe_infeasible([node], item.wanted)}", final=True)
        cause = self._buried.get(number)
        if cause is not None:
            return Refusal(f"{only}, which is dead: {cause}", final=True)
        return Refusal(f"{only}, which this cluster does not have", final=True)

    def _by_labels(
        self, strategy: Strategy, item: Unplaced, connected: Iterable[NodeRecord]
    ) -> NodeRecord | Refusal | None:
        able = [node for node in connected if have(node.entry.labels, strategy.hard)]
        preferred = [node for node in able if have(node.entry.labels, strategy.preferred)]
        chosen = best_node(preferred, item.wanted) or best_node(able, item.wanted)
        if chosen is not None:
            return chosen
        able = [node for node in self._nodes.values() if have(node.entry.labels, strategy.hard)]
        if able:
            return self._unless_awaited(item, able)
        rules = "; ".join(map(str, strategy.hard))
        return Refusal(f"it wants a node with the labels ({rules}), and there is none")

    def _in_group(
        self, strategy: Strategy, item: Unplaced, connected: Iterable[NodeRecord]
    ) -> NodeRecord | Refusal | None:
        group = self._groups.find(strategy.group)
        if group is None:
            name = f"its placement group {strategy.group.hex()}"
            return Refusal(f"{name} was removed, or has ended with its job", final=True)
        chosen = group_node(connected, item.wanted)
        if chosen is not None:
            return chosen
        return Refusal(group.infeasible) if group.infeasible else None
