"""What becomes of actors whose process has died."""

from __future__ import annotations

import pytest

from raydask.actor.recovery import after_death, check_transition
from raydask.errors import InternalError
from raydask.wire.messages import ActorState


@pytest.mark.parametrize(
    ("state", "left", "expected"),
    [
        (ActorState.ALIVE, 0, (ActorState.DEAD, 0)),
        (ActorState.ALIVE, 2, (ActorState.RESTARTING, 1)),
        (ActorState.ALIVE, -1, (ActorState.RESTARTING, -1)),
        (ActorState.RESTARTING, 1, (ActorState.RESTARTING, 0)),
        (ActorState.PENDING, 1, (ActorState.RESTARTING, 0)),
        (ActorState.DEAD, 5, (ActorState.DEAD, 0)),
    ],
)
def test_after_death(state: ActorState, left: int, expected: tuple[ActorState, int]) -> None:
    verdict = after_death(state, left)
    assert verdict == expected
    if state != ActorState.DEAD:
        check_transition(state, verdict.state, "")


def test_the_dead_stay_dead_and_the_error_tells_the_story() -> None:
    for state in ActorState:
        with pytest.raises(InternalError, match="Counter 0a: it was killed"):
            check_transition(ActorState.DEAD, state, "Counter 0a: it was killed")
