"""What happened, as the local scheduler's core is told. Pure.

Events about tasks and objects come in batches, because they come in thousands; the parts of
a batch are the wire's own structs, so nothing is copied on the way.
"""

from __future__ import annotations

import msgspec

from raydask.ids import ActorID, FunctionID, ObjectID, PlacementGroupID, ProcessNumber, TaskID
from raydask.task import TaskSpec, TaskTemplate
from raydask.wire.messages import Lease, ObjectValue, TaskResult


class DriverJoined(msgspec.Struct, frozen=True, gc=False):
    """A driver has connected; its job is its own."""

    process: ProcessNumber
    job: int
    namespace: str
    search_path: list[str]
    folder: str


class WorkerJoined(msgspec.Struct, frozen=True, gc=False):
    """A worker process is up, task and control socket both; `job` is the only one it is for."""

    process: ProcessNumber
    pid: int
    job: int = 0


class DriverLeft(msgspec.Struct, frozen=True, gc=False):
    """A driver has gone, in good order or not."""

    process: ProcessNumber


class WorkerLeft(msgspec.Struct, frozen=True, gc=False):
    """A worker's process has ended; `cause` describes how, for people.

    `job` is the only one that it was for, in case it has never joined.
    """

    process: ProcessNumber
    cause: str
    job: int = 0


class WorkersFailed(msgspec.Struct, frozen=True, gc=False):
    """So many of the workers that were asked for have ended before they said hello."""

    number: int
    job: int = 0


class ModulesNamed(msgspec.Struct, frozen=True, gc=False):
    """A process is about to export functions that import these."""

    process: ProcessNumber
    modules: list[str]


class WorkersPrepared(msgspec.Struct, frozen=True, gc=False):
    """A job's fork server has imported what it was told to."""

    job: int


class ForkServerEnded(msgspec.Struct, frozen=True, gc=False):
    """A job has no fork server, and what it was told to start will not come."""

    job: int


class TasksSubmitted(msgspec.Struct, frozen=True, gc=False):
    """A process wants these tasks to run."""

    process: ProcessNumber
    templates: list[tuple[int, TaskTemplate]]
    specs: list[TaskSpec]


class FunctionExported(msgspec.Struct, frozen=True, gc=False):
    """A process gives a function's code."""

    process: ProcessNumber
    function_id: FunctionID
    code: bytes
    name: str
    nested: list[ObjectID]


class ValuesRequested(msgspec.Struct, frozen=True, gc=False):
    """A process wants these values; see ``messages.Get``."""

    process: ProcessNumber
    object_ids: list[ObjectID]
    blocks: bool
    reclaimed: list[TaskID]


class ObjectsWatched(msgspec.Struct, frozen=True, gc=False):
    """A process wants to know when these exist; see ``messages.Watch``."""

    process: ProcessNumber
    object_ids: list[ObjectID]
    blocks: bool
    reclaimed: list[TaskID]


class WorkerUnblocked(msgspec.Struct, frozen=True, gc=False):
    """A worker's main thread goes on."""

    process: ProcessNumber


class ObjectsPut(msgspec.Struct, frozen=True, gc=False):
    """A process has made these objects, for `holder` (itself, or an actor's caller)."""

    process: ProcessNumber
    holder: ProcessNumber
    values: list[ObjectValue]


class ResultsReturned(msgspec.Struct, frozen=True, gc=False):
    """An actor has made these objects for a caller, `holder`, of another node."""

    process: ProcessNumber
    node: int
    holder: ProcessNumber
    values: list[ObjectValue]


class WordAsked(msgspec.Struct, frozen=True, gc=False):
    """A process waits until all it has said that it holds is known; `number` is the request's."""

    process: ProcessNumber
    number: int


class ObjectsPromised(msgspec.Struct, frozen=True, gc=False):
    """A process will put these objects."""

    process: ProcessNumber
    object_ids: list[ObjectID]


class ObjectsAcquired(msgspec.Struct, frozen=True, gc=False):
    """A process holds these objects too."""

    process: ProcessNumber
    object_ids: list[ObjectID]


class ObjectsReleased(msgspec.Struct, frozen=True, gc=False):
    """A process holds these objects no more."""

    process: ProcessNumber
    object_ids: list[ObjectID]


class ObjectsPinned(msgspec.Struct, frozen=True, gc=False):
    """A process reads these where they are; see ``messages.Pin``."""

    process: ProcessNumber
    object_ids: list[ObjectID]


class ObjectsUnpinned(msgspec.Struct, frozen=True, gc=False):
    """A process has ended a reading of each of these; see ``messages.Unpin``."""

    process: ProcessNumber
    object_ids: list[ObjectID]


class RegionRequested(msgspec.Struct, frozen=True, gc=False):
    """A process wants room in the arena; `number` comes back with the answer."""

    process: ProcessNumber
    number: int
    size: int


class RegionsRetired(msgspec.Struct, frozen=True, gc=False):
    """A process gives back parts of its regions: (offset, size) in bytes."""

    process: ProcessNumber
    runs: list[tuple[int, int]]


class SpillEnded(msgspec.Struct, frozen=True, gc=False):
    """A file of the spill folder has been written, or could not be, for this reason."""

    file: int
    error: str


class TasksEnded(msgspec.Struct, frozen=True, gc=False):
    """Tasks have ended in a worker."""

    process: ProcessNumber
    results: list[TaskResult]


class TasksReclaimed(msgspec.Struct, frozen=True, gc=False):
    """A worker gives tasks back that it has not begun."""

    process: ProcessNumber
    task_ids: list[TaskID]


class CancelRequested(msgspec.Struct, frozen=True, gc=False):
    """A process wants these tasks cancelled."""

    process: ProcessNumber
    task_ids: list[TaskID]
    force: bool
    recursive: bool


class ActorFollowed(msgspec.Struct, frozen=True, gc=False):
    """A process wants to know where an actor is."""

    process: ProcessNumber
    actor_id: ActorID


class KillActorRequested(msgspec.Struct, frozen=True, gc=False):
    """A process wants an actor ended."""

    process: ProcessNumber
    actor_id: ActorID
    no_restart: bool


class ActorWasPlaced(msgspec.Struct, frozen=True, gc=False):
    """The global scheduler has chosen a node for an actor."""

    actor_id: ActorID
    node: int


class TasksFoundInfeasible(msgspec.Struct, frozen=True, gc=False):
    """The global scheduler knows no node that could run these; `final`: none ever will."""

    task_ids: list[TaskID]
    detail: str
    final: bool = False


class TasksPlaced(msgspec.Struct, frozen=True, gc=False):
    """The global scheduler has chosen nodes for tasks that were passed up."""

    placements: list[tuple[TaskID, int]]


class BundlesWanted(msgspec.Struct, frozen=True, gc=False):
    """The global scheduler wants bundles reserved; see ``messages.ReserveBundles``."""

    group_id: PlacementGroupID
    attempt: int
    bundles: list[tuple[int, dict[str, int]]]


class BundlesUnwanted(msgspec.Struct, frozen=True, gc=False):
    """The global scheduler wants bundles no more, and nothing to go on in them: `cause`."""

    group_id: PlacementGroupID
    indexes: list[int]
    cause: str


class GroupWasJudged(msgspec.Struct, frozen=True, gc=False):
    """The cluster could not hold a placement group, or now it could; see ``GroupJudged``."""

    group_id: PlacementGroupID
    job: int
    infeasible: str


class GlobalSchedulerCame(msgspec.Struct, frozen=True, gc=False):
    """There is a global scheduler, the first or another, and it knows this node."""


class WorkerMeasured(msgspec.Struct, frozen=True, gc=False):
    """A worker was measured because the core asked for it: bytes of private memory."""

    process: ProcessNumber
    private: int


class MemoryMeasured(msgspec.Struct, frozen=True, gc=False):
    """The workers and the machine were measured, all in bytes.

    `private` is each worker's private memory; `used` of `total` is said of the machine, or of
    whatever limits memory more.
    """

    private: dict[ProcessNumber, int]
    used: int
    total: int


class NodesCame(msgspec.Struct, frozen=True, gc=False):
    """There are other nodes in the cluster, which this one can reach."""

    nodes: list[int]


class NodesLost(msgspec.Struct, frozen=True, gc=False):
    """Other nodes are dead: (number, why)."""

    nodes: list[tuple[int, str]]


class PeerSaid(msgspec.Struct, frozen=True, gc=False):
    """Another node says something; see ``messages``, "nodes to one another"."""

    node: int
    message: object


class LeasesChanged(msgspec.Struct, frozen=True, gc=False):
    """The global scheduler has changed how many tasks other nodes run for this one."""

    leases: list[Lease]


class RoomAnswered(msgspec.Struct, frozen=True, gc=False):
    """There is room for an object that is fetched, or there will be none: a serialized error."""

    number: int
    offset: int
    error: bytes


class PullEnded(msgspec.Struct, frozen=True, gc=False):
    """An object's bytes have come, or why they have not all, and how many."""

    number: int
    error: str
    arrived: int = 0


class DrainRequested(msgspec.Struct, frozen=True, gc=False):
    """This node is to leave, as soon as it can, and at the latest after so many seconds.

    `is_last` says that it has to stay for as long as there are others: it is the head's.
    """

    seconds: float
    is_last: bool = False


class OthersLeave(msgspec.Struct, frozen=True, gc=False):
    """Other nodes leave."""

    nodes: list[int]


class ClockTicked(msgspec.Struct, frozen=True, gc=False):
    """Some time has passed."""


Event = (
    DriverJoined
    | WorkerJoined
    | DriverLeft
    | WorkerLeft
    | WorkersFailed
    | ModulesNamed
    | WorkersPrepared
    | ForkServerEnded
    | TasksSubmitted
    | FunctionExported
    | ValuesRequested
    | ObjectsWatched
    | WorkerUnblocked
    | ObjectsPut
    | ResultsReturned
    | WordAsked
    | ObjectsPromised
    | ObjectsAcquired
    | ObjectsReleased
    | ObjectsPinned
    | ObjectsUnpinned
    | RegionRequested
    | RegionsRetired
    | SpillEnded
    | TasksEnded
    | TasksReclaimed
    | CancelRequested
    | ActorFollowed
    | KillActorRequested
    | ActorWasPlaced
    | TasksFoundInfeasible
    | TasksPlaced
    | BundlesWanted
    | BundlesUnwanted
    | GroupWasJudged
    | GlobalSchedulerCame
    | WorkerMeasured
    | MemoryMeasured
    | NodesCame
    | NodesLost
    | PeerSaid
    | LeasesChanged
    | RoomAnswered
    | PullEnded
    | DrainRequested
    | OthersLeave
    | ClockTicked
)
