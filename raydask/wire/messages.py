"""Every message between processes, and the number of its frame.

One frame carries one message; a message that can come in thousands carries a list.  All
are msgpack arrays without field names, decoded into structs by type, so no scheduler ever
unpickles anything that a user made: arguments, values, errors and code stay ``bytes``.

Sections: processes (drivers and workers) to their node; the node to its processes; nodes
and the global scheduler.  A request and its reply are matched by number and are for rare
operations; everything on the path of a task has a message of its own.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from raydask.ids import ActorID, FunctionID, ObjectID, PlacementGroupID, TaskID
from raydask.placement import GroupStrategy, Strategy
from raydask.task import TaskSpec, TaskTemplate
from raydask.wire.status import NodeStatus


class ValueKind(enum.IntEnum):
    """Where an object's value is."""

    INLINE = 0
    """In the message."""
    STORED = 1
    """In the node's object store, at an offset."""
    ERROR = 2
    """In the message, and it is a pickled exception to raise."""
    SPILLED = 3
    """In a file of the spill folder, at an offset; ``data`` is the file's path."""
    ELSEWHERE = 4
    """Where the sender can read it and the receiver cannot, who asks its own node for it."""


class TaskStatus(enum.IntEnum):
    """How a task ended in its worker."""

    OK = 0
    FAILED = 1
    CANCELLED = 2
    ELSEWHERE = 3
    """An actor's call returned, and its values reach the caller through the node."""


class ActorState(enum.IntEnum):
    """An actor's lifecycle; see ``raydask.actor.recovery``."""

    PENDING = 0
    ALIVE = 1
    RESTARTING = 2
    DEAD = 3


class ObjectValue(msgspec.Struct, array_like=True, gc=False):
    """An object's value, or where in the object store it is.

    Attributes
    ----------
    object_id : ObjectID
    kind : int
        A ``ValueKind``.
    data : bytes
        The serialized value or error; empty for a stored object, a path for a spilled one.
    offset, size : int
        In bytes from the start of the arena or of the file; 0 unless stored or spilled.
    nested : list of ObjectID
        Objects whose refs the value contains: they live as long as it does.
    """

    object_id: ObjectID
    kind: int
    data: bytes = b""
    offset: int = 0
    size: int = 0
    nested: list[ObjectID] = []


# --- a process to its node ----------------------------------------------------------------


class Hello(msgspec.Struct, array_like=True):
    """First message of every connection.

    Attributes
    ----------
    role : str
        ``"driver"``, ``"worker"``, ``"control"`` (a worker's control socket),
        ``"stdout"`` or ``"stderr"`` (a worker's output, raw bytes from then on),
        ``"observer"`` (it makes requests and has no job); ``"caller"`` is what a process says
        to the actor that it calls, and ``"call"`` what comes before it where the actor is on
        another node: that the connection is to be joined to one to the actor's worker.
    pid : int
    version, python : str
        Of raydask and of Python; these two stay where they are, so that whoever has others can
        be told so.
    process : int
        For a control or output socket the process number of the worker it belongs to; for
        a caller its own; for a call the worker's, on its node.
    namespace : str
    search_path : list of str
        A driver's ``sys.path``, which its workers take over.
    folder : str
        A driver's working directory, which its workers take over.
    entry_point : str
        What a driver's process was started with, for people.
    log_to_driver : bool
    job : int
        For a worker the only job that it works for, whose fork server it comes from; 0: any.
    others : dict of str to str
        Versions of what else matters, by names of ``raydask.wire.versions``.
    node : int
        For a caller its own node; for a call the one where the actor is.
    """

    role: str
    pid: int
    version: str = ""
    python: str = ""
    process: int = 0
    namespace: str = ""
    search_path: list[str] = []
    folder: str = ""
    entry_point: str = ""
    log_to_driver: bool = True
    job: int = 0
    others: dict[str, str] = {}
    node: int = 0


class Submit(msgspec.Struct, array_like=True):
    """New tasks, in the order in which they should run unless something says otherwise.

    ``templates`` are (number, template) pairs that this connection has not sent before.
    """

    templates: list[tuple[int, TaskTemplate]]
    specs: list[TaskSpec]


class Get(msgspec.Struct, array_like=True):
    """Send these values as they become available.

    ``blocks`` says that a worker's main thread waits for them: its CPU is free until it
    has them all.  ``reclaimed`` are the tasks it had not begun: they run elsewhere.
    """

    object_ids: list[ObjectID]
    blocks: bool
    reclaimed: list[TaskID]


class Watch(msgspec.Struct, array_like=True):
    """Say when these objects become available, without their values."""

    object_ids: list[ObjectID]
    blocks: bool
    reclaimed: list[TaskID]


class Unblocked(msgspec.Struct, array_like=True):
    """A worker's main thread goes on although not all it asked for has come."""


class Release(msgspec.Struct, array_like=True):
    """This process no longer holds these objects."""

    object_ids: list[ObjectID]


class Acquire(msgspec.Struct, array_like=True):
    """This process holds these objects too; something it holds already keeps them alive."""

    object_ids: list[ObjectID]


class Pin(msgspec.Struct, array_like=True):
    """This process goes on to read these stored objects when what pins them now has ended."""

    object_ids: list[ObjectID]


class Unpin(msgspec.Struct, array_like=True):
    """This process reads these stored objects no more.

    An object is listed once for each time that the process was told its place.
    """

    object_ids: list[ObjectID]


class CallSite(msgspec.Struct, array_like=True):
    """Where in a program these objects were made: ``"file:line in function"``.

    Sent only where ``Welcome`` asks for it.
    """

    site: str
    object_ids: list[ObjectID]


class Put(msgspec.Struct, array_like=True):
    """Values that this process made with ``put``; it holds them."""

    values: list[ObjectValue]


class RetireRegions(msgspec.Struct, array_like=True):
    """Runs of the arena, (offset, size) in bytes, that this process was given and gives back."""

    runs: list[tuple[int, int]]


class PutFor(msgspec.Struct, array_like=True):
    """Values that an actor made for a caller, whose node holds them for it and tells it.

    ``node`` is the caller's; 0: this one.
    """

    process: int
    values: list[ObjectValue]
    node: int = 0


class Promise(msgspec.Struct, array_like=True):
    """Objects that this process will put later: results it awaits from an actor."""

    object_ids: list[ObjectID]


class FollowActor(msgspec.Struct, array_like=True):
    """Tell this process where the actor is, now and whenever that changes."""

    actor_id: ActorID


class Export(msgspec.Struct, array_like=True):
    """The pickled code of a function or class, and the objects its closure refers to."""

    function_id: FunctionID
    code: bytes
    name: str
    nested: list[ObjectID]


class Preload(msgspec.Struct, array_like=True):
    """Modules that the functions to come will import, in the order in which that goes well."""

    modules: list[str]


class Request(msgspec.Struct, array_like=True):
    """A rare operation that wants a reply; ``payload`` is msgpack."""

    number: int
    operation: str
    payload: bytes


class TaskResult(msgspec.Struct, array_like=True, gc=False):
    """How one task ended.

    Attributes
    ----------
    task_id : TaskID
    status : int
        A ``TaskStatus``.
    values : list of ObjectValue
        One for each return.
    started : float
        Seconds since the epoch.
    duration : float
        Seconds.
    retryable : bool
        Whether the function failed with an exception that its options retry.
    error : str
        What it raised, in a line, for the control state and for actors that could not be made.
    hold_back : bool
        Whether its worker was ended because memory was short, so that a retry has to wait.
    """

    task_id: TaskID
    status: int
    values: list[ObjectValue]
    started: float
    duration: float
    retryable: bool = False
    error: str = ""
    hold_back: bool = False


class Results(msgspec.Struct, array_like=True):
    """Tasks that ended in this worker."""

    results: list[TaskResult]


class Reclaimed(msgspec.Struct, array_like=True):
    """Tasks that this worker gives back, not begun."""

    task_ids: list[TaskID]


# --- the node to a process ----------------------------------------------------------------


class Welcome(msgspec.Struct, array_like=True):
    """Answer to ``Hello``.

    Attributes
    ----------
    node, process, job : int
    arena_path : str
        Opens the node's arena; ``arena_size`` is its length in bytes.
    slab_size, inline_limit : int
        Bytes: of the regions that small stored objects share, and up to which size a
        value travels in messages.
    session : str
        The session's folder.
    refusal : str
        Not empty: the node refuses the connection, for this reason.
    record_call_sites : bool
        Whether the process shall say where in the program it makes objects.
    preload : list of str
        Packages that the workers of a job share, once the process has named their modules.
    warning : str
        Not empty: what may go wrong because the two have other versions of something.
    """

    node: int
    process: int
    job: int
    arena_path: str
    arena_size: int
    slab_size: int
    inline_limit: int
    session: str
    refusal: str = ""
    record_call_sites: bool = False
    preload: list[str] = []
    warning: str = ""


class Values(msgspec.Struct, array_like=True):
    """Values that the process asked for."""

    values: list[ObjectValue]


class Ready(msgspec.Struct, array_like=True):
    """Objects that are now available: the process watches them, or they are results of its calls
    that its node holds for it."""

    object_ids: list[ObjectID]


class Assignment(msgspec.Struct, array_like=True, gc=False):
    """A task for a worker, with the values of its dependencies.

    ``task_id``, ``args``, ``borrowed`` and ``depth`` are the spec's; ``template`` is the
    number on the connection that the assignment travels on.  A call of an actor's method
    is an assignment too, sent by its caller; ``retries`` is not 0 if the caller would send
    it again were it to fail.
    """

    task_id: TaskID
    template: int
    args: bytes
    values: list[ObjectValue]
    borrowed: list[ObjectID]
    depth: int
    attempt: int = 0
    retries: int = 0


class NewTemplate(msgspec.Struct, array_like=True):
    """A template that a worker has not seen, with its code where that is new to it too."""

    number: int
    template: TaskTemplate
    code: bytes


class Execute(msgspec.Struct, array_like=True):
    """Tasks for a worker, to run in this order; ``gpus`` are the devices they may use."""

    templates: list[NewTemplate]
    assignments: list[Assignment]
    gpus: list[int] = []


class JobSettings(msgspec.Struct, array_like=True):
    """What a worker takes over from the driver it will work for; sent once, first."""

    job: int
    namespace: str
    search_path: list[str]
    folder: str


class Reply(msgspec.Struct, array_like=True):
    """Answer to a ``Request``: ``error`` is empty, or a pickled exception to raise."""

    number: int
    error: bytes
    payload: bytes


class LogLine(msgspec.Struct, array_like=True):
    """A line that a worker printed; ``stream`` is ``"stdout"`` or ``"stderr"``."""

    pid: int
    name: str
    stream: str
    text: str


class LogLines(msgspec.Struct, array_like=True):
    """Lines that the driver's workers printed."""

    lines: list[LogLine]


class Notice(msgspec.Struct, array_like=True):
    """A warning for the driver's user, such as that a task is infeasible."""

    text: str


class Progress(msgspec.Struct, array_like=True):
    """Observed tasks that started or ended: (task, 0 started | 1 finished | 2 failed)."""

    steps: list[tuple[TaskID, int]]


class ActorLocated(msgspec.Struct, array_like=True):
    """An actor's state and where to call it, for a process that asked to follow it.

    ``address`` is the path of the socket where it is called while it is alive; ``cause`` says why
    it is dead or restarting; ``incarnation`` counts its processes from 0.  ``host`` is the node
    where it lives and ``process`` its worker there; 0: not known to be elsewhere.  Where that is
    another node, ``address`` is the receiver's own node's, which has to be told both (``Hello``).
    """

    actor_id: ActorID
    state: int
    address: str
    incarnation: int
    cause: str
    host: int = 0
    process: int = 0


# --- the node to a worker's control socket ------------------------------------------------


class Reclaim(msgspec.Struct, array_like=True):
    """Give back the tasks that have not begun."""


class CancelTask(msgspec.Struct, array_like=True):
    """Interrupt this task if it is running; ``reason`` is ``"cancelled"`` or ``"timeout"``."""

    task_id: TaskID
    reason: str


# --- the node and the global scheduler ----------------------------------------------------


class JoinCluster(msgspec.Struct, array_like=True):
    """A node that is about to start asks for its number; ``Joined`` answers.

    ``version``, ``python`` and ``others`` are as in ``Hello``.
    """

    version: str
    python: str
    others: dict[str, str] = {}


class Joined(msgspec.Struct, array_like=True):
    """Answer to ``JoinCluster``.

    Attributes
    ----------
    node : int
        The number that the new node has from now on.
    cluster : str
        The cluster's identity: a node never becomes part of another one.
    refusal : str
        Not empty: the node cannot be part of this cluster, for this reason.
    shards : int
        How many Redis servers hold the control state.
    versions : dict of str to str
        The head's, by names of ``raydask.wire.versions``.
    control_prefix : str
        What the names of its keys there begin with.
    """

    node: int
    cluster: str
    refusal: str = ""
    shards: int = 1
    versions: dict[str, str] = {}
    control_prefix: str = ""


class RegisterNode(msgspec.Struct, array_like=True):
    """A node joins, or comes back to a restarted global scheduler.

    ``link`` and ``data`` are where other nodes connect to it, as ``HOST:PORT``: for messages and
    for objects; empty where no other can.  ``cluster`` is the identity of the cluster that it
    is part of; empty: of whichever this is.  ``versions`` are by names of
    ``raydask.wire.versions``.  ``bundles`` are those that it has reserved, with their numbers in
    their groups, and ``jobs`` are its own that have not ended.
    """

    node: int
    pid: int
    address: str
    host: str
    resources: dict[str, int]
    labels: dict[str, str]
    object_store_memory: int
    actors: list[ActorID]
    link: str = ""
    data: str = ""
    cluster: str = ""
    versions: dict[str, str] = {}
    bundles: list[tuple[PlacementGroupID, int]] = []
    jobs: list[int] = []


class Heartbeat(msgspec.Struct, array_like=True):
    """A node's load, about once a second.

    ``available`` resources, ``queued`` ready tasks, ``queue_seconds`` estimated wait of a
    task that arrives now, ``store_used`` bytes; and for those who watch how many ``tasks`` and
    ``objects`` it knows, and how many ``workers`` and ``drivers`` it has.  ``lent`` is what of
    its resources the tasks of other homes use.  ``sent`` is how many bytes of objects it has sent
    to other nodes so far.
    """

    node: int
    available: dict[str, int]
    queued: int
    queue_seconds: float
    store_used: int
    tasks: int = 0
    objects: int = 0
    workers: int = 0
    drivers: int = 0
    lent: dict[str, int] = {}
    sent: int = 0


class PassedUp(msgspec.Struct, array_like=True):
    """A task that the local scheduler cannot run, or that is not for it to place.

    Resources and strategy decide its place.
    """

    task_id: TaskID
    name: str
    resources: dict[str, int]
    strategy: Strategy | None = None


class PassUp(msgspec.Struct, array_like=True):
    """Tasks passed up by a node."""

    node: int
    tasks: list[PassedUp]


class WithdrawTasks(msgspec.Struct, array_like=True):
    """Tasks that were passed up have ended: they want no place any more."""

    task_ids: list[TaskID]


class CreateActor(msgspec.Struct, array_like=True):
    """An actor wants a place."""

    node: int
    actor_id: ActorID
    class_name: str
    resources: dict[str, int]
    name: str
    namespace: str
    max_restarts: int
    detached: bool
    job: int
    strategy: Strategy | None = None


class ClaimName(msgspec.Struct, array_like=True):
    """An actor wants a name.

    ``number`` comes back in the answer; ``handle`` is what ``get_actor`` will give to whoever
    asks for the name.
    """

    number: int
    name: str
    namespace: str
    actor_id: ActorID
    handle: bytes


class ActorChanged(msgspec.Struct, array_like=True):
    """The node reports an actor's new state."""

    actor_id: ActorID
    state: int
    node: int
    pid: int
    restarts: int
    cause: str


class FindActor(msgspec.Struct, array_like=True):
    """Which actor has this name?  ``number`` comes back in ``ActorFound``."""

    number: int
    name: str
    namespace: str


class Placed(msgspec.Struct, array_like=True):
    """Where tasks that were passed up shall run."""

    placements: list[tuple[TaskID, int]]


class Infeasible(msgspec.Struct, array_like=True):
    """No node could run these tasks; ``detail`` says what they ask for and what there is.

    ``final`` says that none ever will: they fail at once.
    """

    task_ids: list[TaskID]
    detail: str
    final: bool = False


class ActorPlaced(msgspec.Struct, array_like=True):
    """Answer to ``CreateActor``: the node that shall run it."""

    actor_id: ActorID
    node: int


class ActorFound(msgspec.Struct, array_like=True):
    """Answer to ``FindActor`` and ``ClaimName``: who has the name; empty if nobody had it."""

    number: int
    actor_id: ActorID
    handle: bytes


class ClusterView(msgspec.Struct, array_like=True):
    """All nodes as the global scheduler sees them: number to (total, available, queued)."""

    nodes: dict[int, tuple[dict[str, int], dict[str, int], float]]


class NodesAppeared(msgspec.Struct, array_like=True):
    """Nodes that other nodes can connect to: number, ``link``, ``data``, as in ``RegisterNode``."""

    nodes: list[tuple[int, str, str]]


class NodesDied(msgspec.Struct, array_like=True):
    """These nodes are dead, and will never come back: (number, why).

    A node that is told so of itself ends.
    """

    nodes: list[tuple[int, str]]


class NodeUnreachable(msgspec.Struct, array_like=True):
    """A node has lost its connection to another, or cannot make one: the two must part."""

    node: int
    cause: str


HAS_LEFT = "it has left"
"""Why a node is dead that has asked to be let go; of another this is never said."""


class LeaveCluster(msgspec.Struct, array_like=True):
    """A node leaves: nothing new is for it.

    With ``done`` it wants to be let go: it has nothing left, or will wait no longer.  The answer
    is ``NodesDied``, with the cause ``HAS_LEFT``.
    """

    done: bool = False


class NodesLeave(msgspec.Struct, array_like=True):
    """These nodes leave, and will have gone soon: nothing new is for them."""

    nodes: list[int]


class ShapeDemand(msgspec.Struct, array_like=True):
    """Ready tasks of one kind that a node would have others run.

    Attributes
    ----------
    shape : int
        The node's number for the kind.
    resources : dict of str to int
        Of each task, in steps of 1 / ``RESOURCE_UNIT``.
    count : int
        How many wait; 0: none do any more.
    seconds : float
        That one takes, estimated; negative: unknown.
    nodes : list of int
        Where their large inputs are, the node that has most first; others will do too.
    """

    shape: int
    resources: dict[str, int]
    count: int
    seconds: float = -1.0
    nodes: list[int] = []


class Demands(msgspec.Struct, array_like=True):
    """What a node would have others run; shapes that are not named are as they were."""

    demands: list[ShapeDemand]


class Lease(msgspec.Struct, array_like=True):
    """So many tasks of a shape may be with a node at once; 0: the lease has ended."""

    shape: int
    node: int
    slots: int


class Leases(msgspec.Struct, array_like=True):
    """Leases that have changed, for the node whose demands they answer."""

    leases: list[Lease]


# --- placement groups: the node and the global scheduler -------------------------------------


class PlacementGroupInfo(msgspec.Struct, array_like=True):
    """A placement group, for whoever asks; the fields are those of ``PlacementGroupEntry``.

    ``infeasible`` says why the cluster could not hold it; empty if it could.
    """

    group_id: PlacementGroupID
    state: str
    strategy: str
    job: int
    bundles: list[dict[str, int]]
    nodes: list[int]
    name: str
    namespace: str
    detached: bool
    infeasible: str


class CreateGroup(msgspec.Struct, array_like=True):
    """A process wants these bundles reserved; ``GroupsAnswered`` with the number answers."""

    number: int
    group_id: PlacementGroupID
    bundles: list[dict[str, int]]
    strategy: GroupStrategy
    name: str
    namespace: str
    job: int
    detached: bool


class RemoveGroup(msgspec.Struct, array_like=True):
    """A process wants a group no more; ``GroupsAnswered`` with the number answers."""

    number: int
    group_id: PlacementGroupID


class ListGroups(msgspec.Struct, array_like=True):
    """Which placement groups are there?  ``GroupsAnswered`` with the number answers."""

    number: int


class GroupsAnswered(msgspec.Struct, array_like=True):
    """Answer to the three above; ``refusal`` is not empty if it could not be done."""

    number: int
    groups: list[PlacementGroupInfo]
    refusal: str = ""


class ListNodes(msgspec.Struct, array_like=True):
    """What is known of each node?  ``NodesListed`` with the number answers."""

    number: int


class NodesListed(msgspec.Struct, array_like=True):
    """Answer to ``ListNodes``."""

    number: int
    nodes: list[NodeStatus]


class GroupJudged(msgspec.Struct, array_like=True):
    """The cluster cannot hold a placement group of the receiver's, or, empty, now it can."""

    group_id: PlacementGroupID
    job: int
    infeasible: str


class ReserveBundles(msgspec.Struct, array_like=True):
    """Reserve these bundles of a group, all or none; ``BundlesReserved`` answers.

    They are pairs of a bundle's number in the group and its resources; ``attempt`` comes back.
    """

    group_id: PlacementGroupID
    attempt: int
    bundles: list[tuple[int, dict[str, int]]]


class BundlesReserved(msgspec.Struct, array_like=True):
    """Whether a node has reserved what it was asked to."""

    group_id: PlacementGroupID
    attempt: int
    accepted: bool


class ReturnBundles(msgspec.Struct, array_like=True):
    """These bundles of a group are wanted no more, and what runs in them ends: ``cause``."""

    group_id: PlacementGroupID
    indexes: list[int]
    cause: str


class JobEnded(msgspec.Struct, array_like=True):
    """A job of the sender's has ended."""

    job: int


# --- nodes to one another -------------------------------------------------------------------


class Whereabouts(msgspec.Struct, array_like=True, gc=False):
    """Where a stored object can be fetched.

    Attributes
    ----------
    object_id : ObjectID
    size : int
        Bytes.
    nodes : list of int
        That have it or are fetching it, in the order in which they came to it: whoever
        fetches it asks one of these, and nodes that come later may ask him.
    """

    object_id: ObjectID
    size: int
    nodes: list[int]


class Place(msgspec.Struct, array_like=True, gc=False):
    """Where a node has an object, pinned for who asked: in its arena, or in a spill file.

    ``number`` is that of the ``Fetch``.  ``file`` is 0 for the arena; ``offset`` and ``size`` are
    in bytes.
    """

    object_id: ObjectID
    number: int
    offset: int
    size: int
    file: int = 0


class LentTemplate(msgspec.Struct, array_like=True):
    """A template that this connection has not sent before, with its function's code."""

    number: int
    template: TaskTemplate
    code: bytes
    nested: list[ObjectID]


class Lend(msgspec.Struct, array_like=True):
    """Tasks that the receiver shall run for the sender, which stays their home.

    Attributes
    ----------
    settings : JobSettings
        Of the tasks' job.
    templates : list of LentTemplate
    specs : list of TaskSpec
    values : list of ObjectValue
        Inputs that travel in messages, those the sender has.
    located : list of Whereabouts
        Of the other inputs.
    modules : list of str
        What the job's functions import, as in ``Preload``.
    attempts : dict of TaskID to int
        How often the tasks have been started before, of those that have.
    """

    settings: JobSettings
    templates: list[LentTemplate]
    specs: list[TaskSpec]
    values: list[ObjectValue]
    located: list[Whereabouts]
    modules: list[str] = []
    attempts: dict[TaskID, int] = {}


class LentResults(msgspec.Struct, array_like=True):
    """Tasks that ended at a node that ran them for this one.

    A stored value stays there: it has its size, and no place.
    """

    results: list[TaskResult]


class GiveBack(msgspec.Struct, array_like=True):
    """Tasks that were lent and are given back, not begun."""

    task_ids: list[TaskID]


class RecallTasks(msgspec.Struct, array_like=True):
    """Give these tasks back if they have not begun; ``GiveBack`` answers."""

    task_ids: list[TaskID]


class CancelLent(msgspec.Struct, array_like=True):
    """Cancel tasks that were lent, and with ``recursive`` what they have submitted.

    With ``force`` the workers of those that run are ended.
    """

    task_ids: list[TaskID]
    force: bool
    recursive: bool


class EndGuestJob(msgspec.Struct, array_like=True):
    """A job has ended at its home: end what is left of it here."""

    job: int


class Borrow(msgspec.Struct, array_like=True):
    """The sender holds these objects of the receiver's; ``Borrowed`` with the number answers."""

    number: int
    object_ids: list[ObjectID]


class Borrowed(msgspec.Struct, array_like=True):
    """The receiver counts as a holder of what it borrowed under this number."""

    number: int


class Want(msgspec.Struct, array_like=True):
    """Say where these objects of the receiver's are, or what they are, as soon as they exist.

    ``again`` says that none of the nodes that were named could give them: only nodes that have
    all of an object are named then, so that nobody waits for somebody who waits for him.
    """

    object_ids: list[ObjectID]
    again: bool = False


class Located(msgspec.Struct, array_like=True):
    """Answer to ``Want`` for stored objects; others come as ``Values``."""

    objects: list[Whereabouts]


class Fetch(msgspec.Struct, array_like=True):
    """Keep an object where it is and say where; ``Unpin`` ends that.

    Who has given up and asks again can still get the answer from before: so each has a ``number``,
    of the sender's, which the answer repeats.
    """

    object_id: ObjectID
    number: int


class Places(msgspec.Struct, array_like=True):
    """Answer to ``Fetch``."""

    places: list[Place]


class NotHere(msgspec.Struct, array_like=True):
    """Answer to a ``Fetch`` of this number: the sender does not have the object to give."""

    object_id: ObjectID
    number: int


class CopiesMade(msgspec.Struct, array_like=True):
    """The sender has copies of these objects of the receiver's, which others can fetch."""

    object_ids: list[ObjectID]


class CopiesDropped(msgspec.Struct, array_like=True):
    """The sender has no copies of these any more."""

    object_ids: list[ObjectID]


class Forget(msgspec.Struct, array_like=True):
    """These objects of the sender's are no more: copies of them are of no use."""

    object_ids: list[ObjectID]


class JobLines(msgspec.Struct, array_like=True):
    """Lines that workers have printed for a driver of the receiver's."""

    job: int
    lines: list[LogLine]


class Part(msgspec.Struct, array_like=True):
    """The sender leaves, and has nothing more to say; ``Parted`` with the number answers."""

    number: int


class Parted(msgspec.Struct, array_like=True):
    """All that a leaving node has said has been taken in, and nothing new will come to it.

    ``settled`` says that the sender awaits nothing of it either.
    """

    number: int
    settled: bool


class ActorCreated(msgspec.Struct, array_like=True):
    """An actor of the receiver's lives now at the sender's, in this process of its.

    Where ``__init__`` failed, ``LentResults`` says so instead.
    """

    actor_id: ActorID
    process: int
    pid: int


class ActorProcessDied(msgspec.Struct, array_like=True):
    """The process of an actor of the receiver's has ended, before or after it was created."""

    actor_id: ActorID
    cause: str


class EndActorProcess(msgspec.Struct, array_like=True):
    """End the process of an actor of the sender's; ``cause`` is for people."""

    actor_id: ActorID
    cause: str


class KillActor(msgspec.Struct, array_like=True):
    """A process of the sender's wants an actor of the receiver's ended."""

    actor_id: ActorID
    no_restart: bool


class ReturnValues(msgspec.Struct, array_like=True):
    """What an actor here has made for a process of the receiver's; see ``PutFor``.

    A stored value stays here: it has its size, and no place.
    """

    process: int
    values: list[ObjectValue]


# --- the node and its supervisor -----------------------------------------------------------


class ForkWorkers(msgspec.Struct, array_like=True):
    """Fork so many workers; ``job`` is that whose fork server shall do it, 0: the supervisor."""

    count: int
    job: int = 0


class PrepareWorkers(msgspec.Struct, array_like=True):
    """Have a fork server for this job, and let it import these modules."""

    job: int
    modules: list[str]
    search_path: list[str]
    folder: str


class WorkersPrepared(msgspec.Struct, array_like=True):
    """The job's fork server has imported what it was told to."""

    job: int


class WorkerForked(msgspec.Struct, array_like=True):
    """What a worker from a job's fork server tells the supervisor before all else."""

    pid: int


class EndForkServer(msgspec.Struct, array_like=True):
    """End the job's fork server, and with it what it has forked."""

    job: int


class ForkServerEnded(msgspec.Struct, array_like=True):
    """The job has no fork server: what it was told last, it has not done."""

    job: int


class EndChild(msgspec.Struct, array_like=True):
    """Send SIGKILL to this worker."""

    pid: int


class ChildExited(msgspec.Struct, array_like=True):
    """A worker has ended.

    ``status`` is as ``os.waitpid`` gives it, ``peak_memory`` its largest resident set in
    bytes; ``job`` is that whose fork server it came from, 0: it came from the supervisor.
    Negative: its parent had ended before it, and it need not have been a worker.
    """

    pid: int
    status: int
    peak_memory: int
    job: int = 0


class EndSession(msgspec.Struct, array_like=True):
    """End the session: somebody who may has asked for it, or for another reason.

    The supervisor says it too, to a node that has joined a cluster: the session ends, and the
    cluster is to let the node go.  The node answers the same when it has.
    """

    reason: str = ""


class NodeReady(msgspec.Struct, array_like=True):
    """The node accepts connections, or why it cannot; and what its user is to be warned of."""

    error: str
    warnings: list[str] = []


FRAME_TYPES: tuple[type[Any], ...] = (
    Hello,
    Submit,
    Get,
    Watch,
    Unblocked,
    Release,
    Acquire,
    Put,
    PutFor,
    Promise,
    FollowActor,
    RetireRegions,
    Export,
    Request,
    Results,
    Reclaimed,
    Welcome,
    Values,
    Ready,
    Execute,
    JobSettings,
    Reply,
    LogLines,
    Notice,
    Progress,
    ActorLocated,
    Reclaim,
    CancelTask,
    RegisterNode,
    Heartbeat,
    PassUp,
    CreateActor,
    ClaimName,
    ActorChanged,
    FindActor,
    Placed,
    Infeasible,
    ActorPlaced,
    ActorFound,
    ClusterView,
    ForkWorkers,
    EndChild,
    ChildExited,
    NodeReady,
    Pin,
    Unpin,
    CallSite,
    Preload,
    PrepareWorkers,
    WorkersPrepared,
    EndForkServer,
    ForkServerEnded,
    WorkerForked,
    EndSession,
    JoinCluster,
    Joined,
    NodesAppeared,
    NodesDied,
    NodeUnreachable,
    Demands,
    Leases,
    Lend,
    LentResults,
    GiveBack,
    RecallTasks,
    CancelLent,
    EndGuestJob,
    Borrow,
    Borrowed,
    Want,
    Located,
    Fetch,
    Places,
    NotHere,
    CopiesMade,
    CopiesDropped,
    Forget,
    JobLines,
    LeaveCluster,
    NodesLeave,
    Part,
    Parted,
    ActorCreated,
    ActorProcessDied,
    EndActorProcess,
    KillActor,
    ReturnValues,
    CreateGroup,
    RemoveGroup,
    ListGroups,
    GroupsAnswered,
    GroupJudged,
    ReserveBundles,
    BundlesReserved,
    ReturnBundles,
    JobEnded,
    WithdrawTasks,
    ListNodes,
    NodesListed,
)
"""A frame's number is its type's place in this tuple: append, never reorder."""
