"""How a node leaves: what it waits for, and when it goes. Pure.

::

    waiting --nothing is left--> parting --all have answered, nothing has come--> gone
       ^                            |
       +---something has come-------+

While it leaves, a node begins nothing for others and goes on with what it has.  When nothing is
left (`left`) it says so to every other node, on the connection on which it has said all else, and
each answers on its own: so all that was under way between the two has been taken in by both.
Had something been, a task that it was lent, say, it waits again.  Then the global scheduler lets
it go: for all others it is dead from then on, and it ends.

At the deadline it goes with what there is, after that last exchange all the same, because results
may be under way; whoever has not answered soon is not waited for.  A head's node stays for as long
as there are others, and then simply ends.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Sized
from math import inf
from typing import TYPE_CHECKING

from raydask.ids import peer_process
from raydask.local_scheduler.actions import EndSession, Send, SendGlobal
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.records import OPEN
from raydask.wire.messages import LeaveCluster, Part

if TYPE_CHECKING:
    from raydask.local_scheduler.state import LocalScheduler

_ANSWER_SECONDS = 5.0
_PAUSE_SECONDS = 0.05
"""Before all are asked again, because something had been under way."""
_LET_GO_SECONDS = 5.0
"""How long the global scheduler may take to let a node go."""


class Stage(enum.Enum):
    """How far a node is that leaves."""

    WAITING = "waiting"
    PARTING = "parting"
    GONE = "gone"


class Draining:
    """The end of one node.

    Parameters
    ----------
    outgoing : Outgoing
    left : callable
        Lets go of what can be let go of, and says what is left to wait for, for people; empty:
        nothing.
    others : callable
        Returns the other nodes.
    tell : callable
        Sends another node a message.
    is_last : bool
        Whether it stays for as long as there are others.

    Attributes
    ----------
    stage : Stage
    deadline : float
        Never, until `hasten` has been called.
    awaited : str
        What is waited for, as of the last tick.
    """

    def __init__(
        self,
        outgoing: Outgoing,
        left: Callable[[], str],
        others: Callable[[], Collection[int]],
        tell: Callable[[int, object], None],
        *,
        is_last: bool = False,
    ) -> None:
        self.stage = Stage.WAITING
        self.deadline = inf
        self.awaited = ""
        self._outgoing = outgoing
        self._left = left
        self._others = others
        self._tell = tell
        self._is_last = is_last
        self._number = 0
        self._unanswered: set[int] = set()
        self._was_settled = True
        self._since = -inf
        self.say_so()

    def say_so(self) -> None:
        """Tell the global scheduler; when another one has come, again."""
        self._tell_global(LeaveCluster(done=self.stage == Stage.GONE))

    def hasten(self, deadline: float) -> None:
        """Leave earlier, if that is earlier."""
        self.deadline = min(self.deadline, deadline)

    def parted(self, node: int, number: int, *, settled: bool) -> None:
        """Take in that a node has taken in all, and whether it awaits nothing."""
        if number == self._number:
            self._unanswered.discard(node)
            self._was_settled = self._was_settled and settled

    def tick(self, now: float) -> None:
        """Go on, if it is time to."""
        if self.stage == Stage.GONE:
            if now - self._since > _LET_GO_SECONDS:
                self._end(now)
            return
        self.awaited = self._left()
        if not self.awaited and self._is_last and self._others():
            self.awaited = f"{len(self._others())} other nodes, of which this is the head"
        is_late = now >= self.deadline
        if self.stage == Stage.WAITING:
            if is_late or (not self.awaited and now >= self._since):
                self._part(now)
            return
        self._unanswered &= set(self._others())
        if self._unanswered and now - self._since < _ANSWER_SECONDS:
            return
        if is_late or (not self.awaited and self._was_settled and not self._unanswered):
            self._go(now)
        else:
            self.stage = Stage.WAITING
            self._since = now + _PAUSE_SECONDS

    def _part(self, now: float) -> None:
        """Ask all others whether anything is under way."""
        self.stage = Stage.PARTING
        self._since = now
        self._number += 1
        self._was_settled = True
        self._unanswered = set(self._others())
        for node in sorted(self._unanswered):
            self._tell(node, Part(self._number))

    def _go(self, now: float) -> None:
        self.stage = Stage.GONE
        self._since = now
        if self._is_last:
            self._end(now)
        else:
            self.say_so()

    def _end(self, now: float) -> None:
        self._since = now
        self._outgoing.actions.append(EndSession())

    def _tell_global(self, message: LeaveCluster) -> None:
        self._outgoing.actions.append(SendGlobal(message))


def begin_to_leave(
    core: LocalScheduler, outgoing: Outgoing, drivers: Sized, is_last: bool
) -> Draining:
    """Have a node leave: give back guests that stand behind others, tell the global scheduler.

    Parameters
    ----------
    core : LocalScheduler
        Of the node.
    outgoing : Outgoing
    drivers : Sized
        Those that are connected.
    is_last : bool
        Whether it stays for as long as there are others.
    """

    def left() -> str:
        if core.between is not None:
            core.between.leave()
        return what_is_left(core, len(drivers))

    def others() -> Collection[int]:
        return core.between.nodes if core.between is not None else ()

    def tell(node: int, message: object) -> None:
        outgoing.actions.append(Send(peer_process(node), message))

    draining = Draining(outgoing, left, others, tell, is_last=is_last)
    if core.between is not None:
        core.between.draining = draining
    core.pool.reclaim_guests()
    return draining


def what_is_left(core: LocalScheduler, drivers: int) -> str:
    """Say what a node waits for that leaves, for people; empty: nothing."""
    if drivers:
        return _count(drivers, "program that is", "programs that are") + " connected to it"
    own = [core.actors.records[each] for each in core.actors.living]
    abroad = sum(bool(actor.host) for actor in own)
    hosted = len(core.between.hosting.hosted) if core.between is not None else 0
    here = len(own) - abroad + hosted
    if here:
        return _count(here, "actor that lives", "actors that live") + " on it"
    if abroad:
        ones = _count(abroad, "actor of its own that lives", "actors of its own that live")
        return f"{ones} on other nodes, and would end with it"
    if any(task.state in OPEN for task in core.tasks.values()):
        return "tasks that have not ended"
    return core.between.what_is_left() if core.between is not None else ""


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
