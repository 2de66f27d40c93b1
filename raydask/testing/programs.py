"""What simulated processes run: generators that say what they wait for.

A program is called with a `Context` and what its task was given.  It submits, puts, cancels
and so on by calling the context, and yields where it takes time: `Compute`, `Get`, `Wait`.
What it returns is a list of `Made`, one for each return of its task.  Whatever it keeps in
its local variables it holds, by real refs and the real counting of
``raydask.driver.references``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from raydask.driver.object_ref import ObjectRef

if TYPE_CHECKING:
    from raydask.testing.processes import Context


class Compute(NamedTuple):
    """Be busy for so many seconds."""

    seconds: float


class Get(NamedTuple):
    """Wait for values; the program gets a list of `Received`, or an error is thrown into it."""

    refs: Sequence[ObjectRef]
    timeout: float | None = None


class Wait(NamedTuple):
    """Wait until so many of the objects exist; the program gets the set of those ids."""

    refs: Sequence[ObjectRef]
    number: int
    timeout: float | None = None


class Made(NamedTuple):
    """A value that a program makes: the refs it contains, whether it is stored, else its bytes."""

    refs: Sequence[ObjectRef] = ()
    stored: bool = False
    size: int = 1


class Received:
    """A value that a process has read: the refs it contains, and a view if it is stored."""

    __slots__ = ("refs", "view")

    def __init__(self, refs: list[ObjectRef], view: object) -> None:
        self.refs = refs
        self.view = view


class ProgramFailed(Exception):  # noqa: N818  (an event, named as what happened)
    """A simulated function raises this, with refs; `retryable` as its options have it."""

    def __init__(self, retryable: bool = False, refs: Sequence[ObjectRef] = ()) -> None:
        super().__init__(retryable)
        self.retryable = retryable
        self.refs = list(refs)


def refs_of(error: BaseException | None) -> list[ObjectRef]:
    """Return the refs that an error carries."""
    return list(getattr(error, "refs", ()))


class Given(NamedTuple):
    """What a task was given: the values of its dependencies, the refs in its arguments."""

    inputs: list[Received]
    refs: list[ObjectRef]
    rng: random.Random
    attempt: int


Step = Compute | Get | Wait
Run = Generator[Step, Any, Sequence[Made]]
Program = Callable[["Context", Given], Run]
