"""Which of two nodes that have lost one another is declared dead. Pure.

Tasks and objects of one node are with others, so two nodes that cannot talk to one another
cannot both go on: one has to end, and all others have to know which.  A node complains about
another; a short grace later, when the other side's complaint and those of third nodes have come
too, and perhaps the end of the other's own connection, this decides:

1. never the head's node: where that ends, everything does;
2. the one that has lost its connection to the global scheduler or says nothing, if only one does;
3. the one that has lost more nodes: one goes rather than many;
4. the one that came later, which has the higher number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from raydask.ids import NodeNumber

GRACE_SECONDS = 1.0


class _Complaint(NamedTuple):
    by: NodeNumber
    cause: str
    since: float


class Partings:
    """The complaints on which nothing has been decided yet."""

    def __init__(self) -> None:
        self._complaints: dict[frozenset[NodeNumber], _Complaint] = {}

    def complain(self, by: NodeNumber, about: NodeNumber, cause: str, now: float) -> None:
        """Take in that a node cannot reach another; of one pair the first complaint counts."""
        if by != about:
            self._complaints.setdefault(frozenset((by, about)), _Complaint(by, cause, now))

    def forget(self, node: NodeNumber) -> None:
        """Drop the complaints about and of a node that is dead."""
        for pair in [pair for pair in self._complaints if node in pair]:
            del self._complaints[pair]

    def decide(
        self, now: float, *, head: NodeNumber | None, in_touch: Collection[NodeNumber]
    ) -> list[tuple[NodeNumber, str]]:
        """Return which nodes must go, and why; the complaints that this answers are dropped.

        Parameters
        ----------
        now : float
        head : NodeNumber or None
            The head's node.
        in_touch : collection of NodeNumber
            Those that are connected to the global scheduler and speak.
        """
        gone: list[tuple[NodeNumber, str]] = []
        while due := [
            pair
            for pair, complaint in self._complaints.items()
            if not 0 <= now - complaint.since < GRACE_SECONDS
        ]:
            lost = Counter(node for pair in self._complaints for node in pair)
            node, pair = max(
                ((node, pair) for pair in due for node in pair if node != head),
                key=lambda each: (
                    head in each[1],
                    each[0] not in in_touch,
                    lost[each[0]],
                    each[0],
                ),
            )
            gone.append((node, self._describe(node, pair)))
            self.forget(node)
        return gone

    def _describe(self, node: NodeNumber, pair: frozenset[NodeNumber]) -> str:
        complaint = self._complaints[pair]
        (other,) = pair - {node}
        if complaint.by == node:
            return f"it cannot reach node {other}: {complaint.cause}"
        return f"node {other} cannot reach it: {complaint.cause}"
