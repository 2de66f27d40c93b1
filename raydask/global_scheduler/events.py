"""What happened, as the global scheduler's core is told. Pure.

`node` is always the node whose connection brought the news.
"""

from __future__ import annotations

from typing import NamedTuple

from raydask.control.tables import ActorEntry, NamedActorEntry, NodeEntry
from raydask.ids import ActorID, NodeNumber
from raydask.wire.messages import ActorState, PassedUp, RegisterNode


class EntriesReread(NamedTuple):
    """A predecessor's entries have been read from the control state; comes first, or never."""

    nodes: list[NodeEntry]
    actors: list[ActorEntry]
    names: list[NamedActorEntry]


class NodeRegistered(NamedTuple):
    """A node has joined, or has come back on a new connection."""

    node: NodeNumber
    message: RegisterNode


class LoadReported(NamedTuple):
    """A node says how busy it is; see ``messages.Heartbeat``."""

    node: NodeNumber
    available: dict[str, int]
    queued: int
    queue_seconds: float


class NodeLost(NamedTuple):
    """A node's connection has ended."""

    node: NodeNumber


class TasksPassedUp(NamedTuple):
    """A node wants to know where tasks shall run."""

    node: NodeNumber
    tasks: list[PassedUp]


class ActorRequested(NamedTuple):
    """A node wants to know where an actor shall live; see ``messages.CreateActor``.

    Its name is the one that it has claimed.
    """

    node: NodeNumber
    actor_id: ActorID
    class_name: str
    resources: dict[str, int]
    max_restarts: int
    detached: bool
    job: int


class ActorReported(NamedTuple):
    """A node reports an actor's new state; see ``messages.ActorChanged``."""

    node: NodeNumber
    actor_id: ActorID
    state: ActorState
    pid: int
    restarts: int
    cause: str


class NameClaimed(NamedTuple):
    """An actor wants a name; see ``messages.ClaimName``."""

    node: NodeNumber
    number: int
    name: str
    namespace: str
    actor_id: ActorID
    handle: bytes


class NameAsked(NamedTuple):
    """A node wants to know which actor has a name."""

    node: NodeNumber
    number: int
    name: str
    namespace: str


class ClockTicked(NamedTuple):
    """Some time has passed."""


Event = (
    EntriesReread
    | NodeRegistered
    | LoadReported
    | NodeLost
    | TasksPassedUp
    | ActorRequested
    | ActorReported
    | NameClaimed
    | NameAsked
    | ClockTicked
)
