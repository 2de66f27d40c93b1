"""What a task is: the part that all calls of a function share, and the part of one call.

A call is described in two pieces.  The *template* holds what every call of one function
with one set of options has in common; it crosses a connection once and is known by a
number from then on.  The *spec* holds what is particular to one call.  A spec is seven small
fields, which is what makes a task cost microseconds and not tens of them.

Vocabulary
----------
dependency
    An object whose value the task gets in place of a top-level argument.  The task waits
    for it, and holds it until it has finished.
borrowed
    An object whose ref is nested somewhere in the arguments.  The task does not wait for
    it, but holds it until it has finished, so that the worker may take it over.
depth
    How many tasks stand above the task: the driver's tasks have depth 0, theirs 1, and so
    on.  Deeper tasks go first, so that recursion keeps few tasks blocked.
"""

from __future__ import annotations

import enum

import msgspec

from raydask.ids import FunctionID, ObjectID, TaskID
from raydask.placement import Strategy

RESOURCE_UNIT = 10_000
"""Resources are integers in steps of 1/10,000, so that fractions add up exactly."""


def in_units(resources: dict[str, int]) -> dict[str, float]:
    """Return resources as people write them, from steps of 1 / ``RESOURCE_UNIT``."""
    return {name: steps / RESOURCE_UNIT for name, steps in resources.items()}


class TaskKind(enum.IntEnum):
    """What running the task means."""

    NORMAL = 0
    ACTOR_CREATION = 1
    ACTOR_METHOD = 2


class ActorOptions(msgspec.Struct, array_like=True, frozen=True):
    """Options of an actor, carried by the template of its creation task.

    Attributes
    ----------
    name, namespace : str
        Under which ``get_actor`` finds it; an empty name means it has none.
    max_concurrency : int
        How many calls run at once: threads, or coroutines for an asyncio actor.
    max_restarts, max_task_retries : int
        How often the process is restarted and a call retried; -1 means always.
    detached : bool
        Whether it outlives the driver that made it.
    is_async : bool
        Whether any method is a coroutine function.
    get_if_exists : bool
        Whether an actor of this name that exists already is used instead.
    """

    name: str = ""
    namespace: str = ""
    max_concurrency: int = 1
    max_restarts: int = 0
    max_task_retries: int = 0
    detached: bool = False
    is_async: bool = False
    get_if_exists: bool = False


class TaskTemplate(msgspec.Struct, array_like=True, frozen=True):
    """What all calls of one function with one set of options share.

    Attributes
    ----------
    function_id : FunctionID
        The exported function or class; empty for an actor's method.
    name : str
        For people: the function's qualified name, or the ``name`` option.  For an actor's
        method ``"Class.method"``; the method is what follows the last dot.
    kind : TaskKind
    num_returns : int
    resources : dict of str to int
        In steps of 1 / ``RESOURCE_UNIT``.
    max_retries : int
        How often it is run again when its worker dies; -1 means always.
    retry_exceptions : bytes or None
        None: exceptions of the function are final.  Empty: all are retried.  Otherwise
        the pickled tuple of exception types that are.
    timeout : float or None
        Seconds it may run.
    priority : int
        Higher goes first.
    writable : bool
        Whether arrays among its arguments are private copy-on-write views.
    observed : bool
        Whether its submitter is told when it starts and finishes.
    actor : ActorOptions or None
        For a creation task.
    in_graph : bool
        Whether the task is one of a graph that was submitted whole: if it has no inputs, it
        may be held back while the object store is short of room.
    max_calls : int
        After how many calls of the function a worker is replaced; 0 means never.
    enforced_memory : int
        Bytes of private memory that it may add to its worker's (an actor: to what its process
        began with) before it is ended; 0 means that nobody looks.
    strategy : Strategy or None
        Where it may run, if that is for the global scheduler to say.
    """

    function_id: FunctionID
    name: str
    kind: TaskKind = TaskKind.NORMAL
    num_returns: int = 1
    resources: dict[str, int] = {}
    max_retries: int = 3
    retry_exceptions: bytes | None = None
    timeout: float | None = None
    priority: int = 0
    writable: bool = False
    observed: bool = False
    actor: ActorOptions | None = None
    in_graph: bool = False
    max_calls: int = 0
    enforced_memory: int = 0
    strategy: Strategy | None = None


class TaskSpec(msgspec.Struct, array_like=True, gc=False):
    """One call.

    Attributes
    ----------
    task_id : TaskID
    template : int
        The template's number on the connection that the spec travels on.
    args : bytes
        The packed arguments; see ``raydask.driver.arguments``.
    dependencies, borrowed : list of ObjectID
    depth : int
    parent : TaskID
        The task that submitted it; empty for a driver's.
    """

    task_id: TaskID
    template: int
    args: bytes
    dependencies: list[ObjectID]
    borrowed: list[ObjectID]
    depth: int = 0
    parent: TaskID = TaskID(b"")
