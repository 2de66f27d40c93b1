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

from raydask.ids import ActorID, FunctionID, ObjectID, TaskID
from raydask.task import TaskSpec, TaskTemplate


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
        to the actor that it calls.
    pid : int
    version, python : str
        Of raydask, and ``"3.11"``-style of Python.
    process : int
        For a control or output socket the process number of the worker it belongs to; for
        a caller its own.
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
    """Values that an actor made for a caller, whose node holds them for it and tells it."""

    process: int
    values: list[ObjectValue]


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
    """

    task_id: TaskID
    status: int
    values: list[ObjectValue]
    started: float
    duration: float
    retryable: bool = False
    error: str = ""


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


class Values(msgspec.Struct, array_like=True):
    """Values that the process asked for."""

    values: list[ObjectValue]


class Ready(msgspec.Struct, array_like=True):
    """Objects the process watches that are now available."""

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

    ``address`` is the path of its worker's socket while it is alive; ``cause`` says why it
    is dead or restarting; ``incarnation`` counts its processes from 0.
    """

    actor_id: ActorID
    state: int
    address: str
    incarnation: int
    cause: str


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

    ``version`` and ``python`` are as in ``Hello``.
    """

    version: str
    python: str


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
    """

    node: int
    cluster: str
    refusal: str = ""
    shards: int = 1


class RegisterNode(msgspec.Struct, array_like=True):
    """A node joins, or comes back to a restarted global scheduler.

    ``link`` and ``data`` are where other nodes connect to it, as ``HOST:PORT``: for messages and
    for objects; empty where no other can.  ``cluster`` is the identity of the cluster that it
    is part of; empty: of whichever this is.
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
    """A task that the local scheduler cannot run: name and resources decide its place."""

    task_id: TaskID
    name: str
    resources: dict[str, int]


class PassUp(msgspec.Struct, array_like=True):
    """Tasks passed up by a node."""

    node: int
    tasks: list[PassedUp]


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
    """No node could run these tasks; ``detail`` says what they ask for and what there is."""

    task_ids: list[TaskID]
    detail: str


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

    ``file`` is 0 for the arena; ``offset`` and ``size`` are in bytes.
    """

    object_id: ObjectID
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
    """

    settings: JobSettings
    templates: list[LentTemplate]
    specs: list[TaskSpec]
    values: list[ObjectValue]
    located: list[Whereabouts]


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
    """Keep these objects where they are and say where; ``Unpin`` ends that for each."""

    object_ids: list[ObjectID]


class Places(msgspec.Struct, array_like=True):
    """Answer to ``Fetch``."""

    places: list[Place]


class NotHere(msgspec.Struct, array_like=True):
    """Answer to ``Fetch`` for objects that the sender does not have."""

    object_ids: list[ObjectID]


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
    """End the session: somebody who may has asked for it, or for another reason."""

    reason: str = ""


class NodeReady(msgspec.Struct, array_like=True):
    """The node accepts connections, or why it cannot."""

    error: str


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
)
"""A frame's number is its type's place in this tuple: append, never reorder."""
