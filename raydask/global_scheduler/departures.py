"""Which nodes leave, and who is to know. Pure.

A node that leaves is given nothing new: its leases end, and nothing is placed on it, unless it asks
for itself and no other could do it, for its own programs go on until they have ended.  It says
when it has nothing left; whoever has left is dead as far as all others are concerned.

All that is known of this is known to the nodes themselves: to a global scheduler that has just
come they say it again.
"""

from __future__ import annotations

from collections.abc import Iterable

from raydask.global_scheduler.actions import Action, Send
from raydask.global_scheduler.records import NodeRecord
from raydask.ids import NodeNumber
from raydask.wire.messages import NodesLeave


class Departures:
    """The nodes of one cluster that leave."""

    def __init__(self) -> None:
        self._leaving: set[NodeNumber] = set()

    def __contains__(self, node: NodeNumber) -> bool:
        return node in self._leaving

    def begin(self, node: NodeNumber, connected: Iterable[NodeRecord]) -> list[Action]:
        """Note a node that leaves; return what is to be said about it."""
        if node in self._leaving:
            return []
        self._leaving.add(node)
        news = NodesLeave([int(node)])
        return [Send(other.number, news) for other in connected if other.number != node]

    def forget(self, node: NodeNumber) -> None:
        """Note that a node has gone."""
        self._leaving.discard(node)

    def introduce(self, newcomer: NodeNumber) -> list[Action]:
        """Return what is to be said to a node that has just come."""
        leaving = sorted(int(node) for node in self._leaving if node != newcomer)
        return [Send(newcomer, NodesLeave(leaving))] if leaving else []

    def staying(self, nodes: Iterable[NodeRecord]) -> list[NodeRecord]:
        """Return those of the nodes that stay."""
        return [node for node in nodes if node.number not in self._leaving]
