"""What happened, as the global scheduler's core is told. Pure.

`node` is always the node whose connection brought the news.
"""

from __future__ import annotations

import msgspec

from raydask.control.tables import ActorEntry, NamedActorEntry, NodeEntry, PlacementGroupEntry
from raydask.ids import ActorID, NodeNumber, PlacementGroupID, TaskID
from raydask.placement import Strategy
from raydask.wire.messages import (
    ActorState,
    CreateGroup,
    Heartbeat,
    PassedUp,
    RegisterNode,
    ShapeDemand,
)


class EntriesReread(msgspec.Struct, frozen=True, gc=False):
    """A predecessor's entries have been read from the control state; comes first, or never."""

    nodes: list[NodeEntry]
    actors: list[ActorEntry]
    names: list[NamedActorEntry]
    groups: list[PlacementGroupEntry] = []


class NodeRegistered(msgspec.Struct, frozen=True, gc=False):
    """A node has joined, or has come back on a new connection.

    ``head`` says that it is the node of the global scheduler's own machine.
    """

    node: NodeNumber
    message: RegisterNode
    head: bool = False


class LoadReported(msgspec.Struct, frozen=True, gc=False):
    """A node says how busy it is; see ``messages.Heartbeat``."""

    node: NodeNumber
    message: Heartbeat


class NodeLost(msgspec.Struct, frozen=True, gc=False):
    """A node's connection has ended."""

    node: NodeNumber


class NodeComplained(msgspec.Struct, frozen=True, gc=False):
    """A node cannot reach another."""

    node: NodeNumber
    about: NodeNumber
    cause: str


class NodeLeaves(msgspec.Struct, frozen=True, gc=False):
    """A node leaves; with `done` it wants to be let go."""

    node: NodeNumber
    done: bool


class DemandsStated(msgspec.Struct, frozen=True, gc=False):
    """A node says what it would have others run; see ``messages.Demands``."""

    node: NodeNumber
    demands: list[ShapeDemand]


class TasksPassedUp(msgspec.Struct, frozen=True, gc=False):
    """A node wants to know where tasks shall run."""

    node: NodeNumber
    tasks: list[PassedUp]


class TasksWithdrawn(msgspec.Struct, frozen=True, gc=False):
    """Tasks that the node has passed up want no place any more."""

    node: NodeNumber
    task_ids: list[TaskID]


class ActorRequested(msgspec.Struct, frozen=True, gc=False):
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
    strategy: Strategy | None = None


class ActorReported(msgspec.Struct, frozen=True, gc=False):
    """An actor's home reports its new state; see ``messages.ActorChanged``.

    ``host`` is the node where it lives.
    """

    node: NodeNumber
    actor_id: ActorID
    host: NodeNumber
    state: ActorState
    pid: int
    restarts: int
    cause: str


class NameClaimed(msgspec.Struct, frozen=True, gc=False):
    """An actor wants a name; see ``messages.ClaimName``."""

    node: NodeNumber
    number: int
    name: str
    namespace: str
    actor_id: ActorID
    handle: bytes


class NameAsked(msgspec.Struct, frozen=True, gc=False):
    """A node wants to know which actor has a name."""

    node: NodeNumber
    number: int
    name: str
    namespace: str


class GroupRequested(msgspec.Struct, frozen=True, gc=False):
    """A process wants a placement group; see ``messages.CreateGroup``."""

    node: NodeNumber
    message: CreateGroup


class GroupRemovalRequested(msgspec.Struct, frozen=True, gc=False):
    """A process wants a placement group no more; `number` comes back in the answer."""

    node: NodeNumber
    number: int
    group_id: PlacementGroupID


class GroupsAsked(msgspec.Struct, frozen=True, gc=False):
    """A process wants to know which placement groups there are."""

    node: NodeNumber
    number: int


class ReservationAnswered(msgspec.Struct, frozen=True, gc=False):
    """A node has reserved bundles or has refused; see ``messages.BundlesReserved``."""

    node: NodeNumber
    group_id: PlacementGroupID
    attempt: int
    accepted: bool


class JobEnded(msgspec.Struct, frozen=True, gc=False):
    """A job of the node's has ended."""

    node: NodeNumber
    job: int


class ClockTicked(msgspec.Struct, frozen=True, gc=False):
    """Some time has passed."""


Event = (
    EntriesReread
    | NodeRegistered
    | LoadReported
    | NodeLost
    | NodeComplained
    | NodeLeaves
    | DemandsStated
    | TasksPassedUp
    | TasksWithdrawn
    | ActorRequested
    | ActorReported
    | NameClaimed
    | NameAsked
    | GroupRequested
    | GroupRemovalRequested
    | GroupsAsked
    | ReservationAnswered
    | JobEnded
    | ClockTicked
)
