"""Tasks and refs leave a node when Redis could rebuild them, and not before.

What is said to another node waits until the control state has what it depends on (`Lineage`),
and with it waits all that is said to that node afterwards: messages stay in order.  Nobody else
waits.  What is asked for while one batch is being written goes with the next, so the rate of what
leaves is not bound to the round trips of Redis, only its delay is.

A control state that is away must not stop the cluster.  When something has waited for
`PATIENCE_SECONDS`, the barrier is *open*: everything leaves at once, until all that was asked for
has been written.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from raydask.control.write_behind import WriteBehind
from raydask.local_scheduler.lineage import Lineage

_log = logging.getLogger("raydask.node")

PATIENCE_SECONDS = 5.0


class _Held(NamedTuple):
    """A message that waits.

    Attributes
    ----------
    number : int
        Up to which entries have to be written for it, see ``DirtyTable.hurry``.
    message : object
    since : float
        On the loop's clock.
    """

    number: int
    message: object
    since: float


class WriteBarrier:
    """Keeps back what a node says to others.

    Parameters
    ----------
    lineage : Lineage
        Whose entries `writer` writes.
    writer : WriteBehind
        Of this thread.
    say : callable
        Sends a node a message.
    loop : asyncio.AbstractEventLoop
        Of this thread.
    patience : float
        Seconds.
    """

    def __init__(
        self,
        lineage: Lineage,
        writer: WriteBehind,
        say: Callable[[int, object], None],
        loop: asyncio.AbstractEventLoop,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._lineage = lineage
        self._writer = writer
        self._say = say
        self._loop = loop
        self._patience = patience
        self._held: dict[int, deque[_Held]] = {}
        self._handing_on = False
        self._timer: asyncio.TimerHandle | None = None
        self._open_until = 0
        """The number that has to be written for the barrier to stand again; 0: it stands."""
        writer.watch(self._on_written)

    def send(self, node: int, message: object) -> None:
        """Say something to a node as soon as it may be said."""
        number = self._lineage.of(message)
        held = self._held.get(node)
        if number:
            is_written = number <= self._writer.written
            if not is_written and not self._handing_on:
                self._handing_on = True
                self._loop.call_soon(self._hand_on)  # with what else this turn brings
            if held is None and not is_written and not self._open_until:
                held = self._held[node] = deque()
                if self._timer is None:
                    self._timer = self._loop.call_later(self._patience, self._look_at_oldest)
        if held is None:
            self._say(node, message)
        else:
            held.append(_Held(number, message, self._loop.time()))

    def forget_node(self, node: int) -> None:
        """Drop what waits for a node that is dead or out of reach."""
        self._held.pop(node, None)

    def close(self) -> None:
        """Say nothing more."""
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _hand_on(self) -> None:
        self._handing_on = False
        self._go_on()

    def _on_written(self) -> None:
        """In the writer thread: have the loop look at what has been written."""
        try:
            self._loop.call_soon_threadsafe(self._go_on)
        except RuntimeError:
            pass  # the loop has ended, and the node with it

    def _go_on(self) -> None:
        self._writer.hand_on()
        # Asked for only now: where all that was to be handed on had gone from its tables
        # meanwhile, it counts as written, and no batch will say so.
        written = self._writer.written
        if 0 < self._open_until <= written:
            self._open_until = 0
            _log.warning("the control state is being written again: tasks and refs wait for it")
        for node, held in list(self._held.items()):
            while held and held[0].number <= written:
                self._say(node, held.popleft().message)
            if not held:
                self._held.pop(node, None)

    def _look_at_oldest(self) -> None:
        """Open the barrier if something has waited for too long."""
        self._timer = None
        if not self._held:
            return
        left = self._patience - self._loop.time()
        left += min(held[0].since for held in self._held.values())
        if left > 0:
            self._timer = self._loop.call_later(left, self._look_at_oldest)
            return
        self._open_until = self._writer.asked
        _log.warning(
            "the control state has not been written for %g s (%s): tasks and refs leave this node "
            "before it has them, and could not be rebuilt if this node died now",
            self._patience,
            self._writer.failure or "it is slow",
        )
        waiting, self._held = self._held, {}
        for node, held in waiting.items():
            for each in held:
                self._say(node, each.message)
