"""Which nodes have said nothing for too long, connected or not. Pure.

A connection tells of a process that has ended, and the kernel of a machine that is gone.  A process
that is stopped, or turns in a circle, keeps its connections: it says nothing, and nothing else
tells of it.  So a node that is connected has to say something now and then, and does so about once
a second.

What counts is the time in which this process could have heard it.  Where this one was stopped
itself, or its whole machine, what the others said meanwhile is still to be read: of the time
between two looks no more than `LONGEST_LOOK` counts, of that before the first one nothing, and a
clock that jumps does no harm.  A node whose connection has ended is awaited in the same time, so
that it can have come back.
"""

from __future__ import annotations

from collections.abc import Collection

from raydask.ids import NodeNumber

LONGEST_LOOK = 1.0
"""Seconds; a few times what usually passes between two looks."""
QUIET_SECONDS = 3.0
"""After which something is the matter with a node: several of its heartbeats have not come."""


class Silences:
    """How long each connected node has said nothing.

    Parameters
    ----------
    patience : float
        Seconds after which that is too long.

    Attributes
    ----------
    listened : float
        Seconds that count, since the first look.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._looked_at: float | None = None
        self.listened = 0.0
        self._heard: dict[NodeNumber, float] = {}

    def heard(self, node: NodeNumber) -> None:
        """Note that a node has said something."""
        self._heard[node] = self.listened

    def forget(self, node: NodeNumber) -> None:
        """Listen to a node no more: it is known not to be connected."""
        self._heard.pop(node, None)

    def moment(self, now: float) -> float:
        """Return what `listened` would be after a look."""
        if self._looked_at is None:
            return 0.0
        return self.listened + min(max(now - self._looked_at, 0.0), LONGEST_LOOK)

    def is_quiet(self, node: NodeNumber) -> bool:
        """Say whether a node has said nothing for a while, which need not be too long."""
        heard = self._heard.get(node)
        return heard is not None and self.listened - heard > QUIET_SECONDS

    def look(self, now: float, spared: Collection[NodeNumber] = ()) -> list[NodeNumber]:
        """Return who has said nothing for too long.

        Parameters
        ----------
        now : float
            Seconds since some moment.
        spared : collection of NodeNumber
            Who may say nothing.
        """
        self.listened = self.moment(now)
        self._looked_at = now
        limit = self.listened - self.patience
        return [
            node for node, heard in self._heard.items() if heard <= limit and node not in spared
        ]
