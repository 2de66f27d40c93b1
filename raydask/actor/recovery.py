"""What becomes of an actor when its process ends. Pure.

===========  ==============================================  =======================
state        event                                           next
===========  ==============================================  =======================
PENDING      ``__init__`` returned                           ALIVE
PENDING      ``__init__`` raised, or it was killed           DEAD
PENDING      its process died, and restarts are left         RESTARTING
ALIVE        its process died, and restarts are left         RESTARTING
ALIVE        its process died, and none are left             DEAD
RESTARTING   ``__init__`` returned                           ALIVE
RESTARTING   ``__init__`` raised                             DEAD
DEAD         anything                                        DEAD
===========  ==============================================  =======================

An actor that was ended on purpose (``kill``, its last handle, its job) is dead before its process
is, and so is not restarted.
"""

from __future__ import annotations

from typing import NamedTuple

from raydask.errors import InternalError
from raydask.wire.messages import ActorState

_NEXT: dict[ActorState, frozenset[ActorState]] = {
    ActorState.PENDING: frozenset(
        (ActorState.ALIVE, ActorState.DEAD, ActorState.RESTARTING, ActorState.PENDING)
    ),
    ActorState.ALIVE: frozenset((ActorState.RESTARTING, ActorState.DEAD)),
    ActorState.RESTARTING: frozenset((ActorState.ALIVE, ActorState.DEAD, ActorState.RESTARTING)),
    ActorState.DEAD: frozenset(),
}


class Verdict(NamedTuple):
    """The state after a death, and the restarts that are left then."""

    state: ActorState
    restarts_left: int


def after_death(state: ActorState, restarts_left: int) -> Verdict:
    """Return what becomes of an actor whose process has died.

    Parameters
    ----------
    state : ActorState
    restarts_left : int
        -1 means any number.
    """
    if state == ActorState.DEAD or restarts_left == 0:
        return Verdict(ActorState.DEAD, 0)
    left = restarts_left - 1 if restarts_left > 0 else restarts_left
    return Verdict(ActorState.RESTARTING, left)


def check_transition(before: ActorState, after: ActorState, story: str) -> None:
    """Refuse a step that the lifecycle does not have.

    Raises
    ------
    InternalError
        With the actor's `story` in the message.
    """
    if after not in _NEXT[before]:
        raise InternalError(f"actor went from {before.name} to {after.name}: {story}")
