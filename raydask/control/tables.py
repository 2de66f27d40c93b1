"""The documents under the keys of the control state, and their JSON form.

Documents are for two readers: the process that takes over after a crash, and a person
with ``redis-cli``.  Hence names instead of positions, identifiers in hexadecimal as in the
keys, times in seconds since 1970, resources in whole units (``0.5`` is half a CPU).  Only
pickles stay opaque: ``bytes`` fields are base64.  Fields that hold their default are left
out of the document.

A task's document is its lineage: `spec_of` and `template_of` give back what was submitted.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from raydask.ids import FunctionID, ObjectID, PlacementGroupID, TaskID
from raydask.placement import GroupStrategy, LabelOperator, LabelRule, Strategy, StrategyKind
from raydask.task import (
    RESOURCE_UNIT,
    ActorOptions,
    TaskKind,
    TaskSpec,
    TaskTemplate,
    in_units,
)

JobState = Literal["RUNNING", "FINISHED", "DEAD"]
NodeState = Literal["ALIVE", "DEAD"]
TaskState = Literal["WAITING", "READY", "RUNNING", "FINISHED", "FAILED", "CANCELLED"]
ActorState = Literal["PENDING", "ALIVE", "RESTARTING", "DEAD"]
ObjectState = Literal["pending", "inline", "shared_memory", "spilled", "error", "lost"]
PlacementGroupState = Literal["PENDING", "CREATED", "RESCHEDULING", "REMOVED"]
EventKind = Literal["STARTED", "FINISHED", "FAILED", "RETRIED", "CANCELLED"]


class JobEntry(msgspec.Struct, omit_defaults=True):
    """One driver.

    Attributes
    ----------
    number, node : int
        The job's, and that of the node its driver is connected to.
    state : JobState
        FINISHED when the driver said goodbye, DEAD when it vanished.
    driver : int
        The driver's process id on its node.
    entry_point : str
        What was started, for people.
    namespace : str
        Where its named actors are.
    started, finished : float
        Seconds since 1970; 0 for not yet.
    """

    number: int
    state: JobState
    node: int
    driver: int
    entry_point: str = ""
    namespace: str = ""
    started: float = 0.0
    finished: float = 0.0


class NodeEntry(msgspec.Struct, omit_defaults=True):
    """One machine of the cluster.

    Attributes
    ----------
    number : int
    state : NodeState
    hostname, address : str
        Where it runs and where its node process listens.
    pid : int
        The node process.
    resources : dict of str to float
        All it has, in whole units.
    labels : dict of str to str
    object_store_bytes : int
        The capacity of its object store.
    started, died : float
        Seconds since 1970; 0 for not yet.
    death_cause : str
    head : bool
        Whether it is the node of the global scheduler's own machine.
    """

    number: int
    state: NodeState
    hostname: str
    address: str
    pid: int
    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    object_store_bytes: int = 0
    started: float = 0.0
    died: float = 0.0
    death_cause: str = ""
    head: bool = False


class ActorOptionsEntry(msgspec.Struct, omit_defaults=True):
    """``ActorOptions`` with the names of its fields."""

    name: str = ""
    namespace: str = ""
    max_concurrency: int = 1
    max_restarts: int = 0
    max_task_retries: int = 0
    detached: bool = False
    is_async: bool = False
    get_if_exists: bool = False


class LabelRuleEntry(msgspec.Struct, omit_defaults=True):
    """``LabelRule`` with the names of its fields."""

    label: str
    operator: LabelOperator
    values: list[str] = []


class StrategyEntry(msgspec.Struct, omit_defaults=True):
    """``Strategy`` with the names of its fields; `group` is in hexadecimal."""

    kind: StrategyKind
    node: int = 0
    soft: bool = False
    hard: list[LabelRuleEntry] = []
    preferred: list[LabelRuleEntry] = []
    group: str = ""


class TemplateEntry(msgspec.Struct, omit_defaults=True):
    """What the tasks of one function with one set of options share.

    A writer makes one with `template_entry` and puts it into all their documents.

    Attributes
    ----------
    function : str
        The function's id; empty for an actor's method.
    kind : str
        The name of the ``TaskKind``.
    resources : dict of str to float
        In whole units.
    retry_exceptions : bytes or None
        As in ``TaskTemplate``.
    num_returns, max_retries, timeout, priority, writable, observed, actor, in_graph, max_calls, \
    enforced_memory, strategy
        As in ``TaskTemplate``.
    """

    function: str
    kind: str = "NORMAL"
    num_returns: int = 1
    resources: dict[str, float] = {}
    max_retries: int = 3
    retry_exceptions: bytes | None = None
    timeout: float | None = None
    priority: int = 0
    writable: bool = False
    observed: bool = False
    actor: ActorOptionsEntry | None = None
    in_graph: bool = False
    max_calls: int = 0
    enforced_memory: int = 0
    strategy: StrategyEntry | None = None


class TaskEntry(msgspec.Struct, omit_defaults=True):
    """One task: how it stands, and how to run it again.

    Attributes
    ----------
    id, name : str
    state : TaskState
    job, node : int
        The job it belongs to, and its home.
    template : TemplateEntry
    args : bytes
        As in ``TaskSpec``.
    dependencies, borrowed : list of str
        Object ids.
    worker : int
        The process id of the worker it was last sent to; 0 for none.
    attempts : int
        How often it was started.
    submitted, started, finished : float
        Seconds since 1970; 0 for not yet.
    error : str
        Why it failed.
    depth : int
        As in ``TaskSpec``.
    parent : str
        The id of the task that submitted it; empty for a driver's.
    """

    id: str
    name: str
    state: TaskState
    job: int
    node: int
    template: TemplateEntry
    args: bytes = b""
    dependencies: list[str] = []
    borrowed: list[str] = []
    worker: int = 0
    attempts: int = 0
    submitted: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    error: str = ""
    depth: int = 0
    parent: str = ""


class ObjectEntry(msgspec.Struct, omit_defaults=True):
    """One object.

    Attributes
    ----------
    id : str
    state : ObjectState
        pending before there is a value, inline in the home's memory, shared_memory in an
        object store, spilled to disk, error when the task failed, lost with no copy left.
    size : int
        Bytes of the serialized value; 0 while pending.
    home : int
        The node that knows all about it.
    locations : list of int
        The nodes whose object store has a copy.
    task : str
        The task that returns it, or the root task of the process that put it.
    """

    id: str
    state: ObjectState
    home: int
    size: int = 0
    locations: list[int] = []
    task: str = ""


class ActorEntry(msgspec.Struct, omit_defaults=True):
    """One actor; its creation task has the same id, and its document is the lineage.

    Attributes
    ----------
    id, class_name : str
    state : ActorState
    job, node, pid : int
        0 while it has none.
    name, namespace : str
        Empty when it has no name.
    detached : bool
        Whether it outlives its job.
    restarts, max_restarts : int
        So far, and allowed; -1 allows any number.
    started, died : float
        Seconds since 1970; 0 for not yet.
    death_cause : str
    """

    id: str
    class_name: str
    state: ActorState
    job: int
    node: int = 0
    pid: int = 0
    name: str = ""
    namespace: str = ""
    detached: bool = False
    restarts: int = 0
    max_restarts: int = 0
    started: float = 0.0
    died: float = 0.0
    death_cause: str = ""


class NamedActorEntry(msgspec.Struct, omit_defaults=True):
    """Which actor has a name.

    Attributes
    ----------
    namespace, name, actor : str
        The last is the actor's id.
    job : int
        The job that named it.
    handle : bytes
        What ``get_actor`` makes a handle of: its pickled methods.
    """

    namespace: str
    name: str
    actor: str
    job: int
    handle: bytes = b""


class PlacementGroupEntry(msgspec.Struct, omit_defaults=True):
    """Resources that are reserved together, on one node or on several.

    Attributes
    ----------
    id, name, namespace : str
    state : PlacementGroupState
        PENDING until all bundles are reserved; RESCHEDULING while some are that were lost with a
        node.
    strategy : GroupStrategy
    job : int
        The job that made it.
    bundles : list of dict of str to float
        Of each what it reserves, in whole units.
    nodes : list of int
        Of each where it is reserved; 0 while it is not.
    detached : bool
        Whether it outlives its job.
    created : float
        When it was asked for, in seconds since 1970.
    """

    id: str
    state: PlacementGroupState
    strategy: GroupStrategy
    job: int
    bundles: list[dict[str, float]]
    nodes: list[int]
    name: str = ""
    namespace: str = ""
    detached: bool = False
    created: float = 0.0


class TaskEvent(msgspec.Struct, omit_defaults=True):
    """Something that happened to a task, for the timeline and for reports of deaths.

    Attributes
    ----------
    kind : EventKind
    time : float
        When it happened, in seconds since 1970.
    task, name : str
        The task's id and name.
    job, node, worker : int
        The last is a process id.
    attempt : int
        Which start of the task this is about, counted from 1.
    started : float
        When this attempt started, so that one event makes one bar; 0 if it never did.
    error : str
    """

    kind: EventKind
    time: float
    task: str
    name: str
    job: int
    node: int
    worker: int = 0
    attempt: int = 1
    started: float = 0.0
    error: str = ""

    def document(self) -> bytes:
        """Return the event's JSON; an event is its own source of a document."""
        return encode(self)


Entry = (
    JobEntry
    | NodeEntry
    | TaskEntry
    | ObjectEntry
    | ActorEntry
    | NamedActorEntry
    | PlacementGroupEntry
    | TaskEvent
)
EntryType = TypeVar("EntryType", bound=Entry)

_encoder = msgspec.json.Encoder()


def encode(entry: Entry) -> bytes:
    """Return the JSON document of `entry`.

    Text that is not valid Unicode (a file name inside an error, for example) gets a
    question mark in the place of each offending character.
    """
    try:
        return _encoder.encode(entry)
    except UnicodeEncodeError:
        return _encoder.encode(_valid_text(msgspec.to_builtins(entry)))


def _valid_text(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_valid_text(key): _valid_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_valid_text(item) for item in value]
    return value


def decode(document: bytes, entry_type: type[EntryType]) -> EntryType:
    """Return the entry whose JSON document is given.

    Fields that are unknown are passed over.

    Raises
    ------
    msgspec.DecodeError
        When the document is not one of an `entry_type`.
    """
    return msgspec.json.decode(document, type=entry_type)


def template_entry(template: TaskTemplate) -> TemplateEntry:
    """Return the part of a task's document that all tasks of `template` share."""
    actor = template.actor
    return TemplateEntry(
        function=template.function_id.hex(),
        kind=template.kind.name,
        num_returns=template.num_returns,
        resources=in_units(template.resources),
        max_retries=template.max_retries,
        retry_exceptions=template.retry_exceptions,
        timeout=template.timeout,
        priority=template.priority,
        writable=template.writable,
        observed=template.observed,
        in_graph=template.in_graph,
        max_calls=template.max_calls,
        enforced_memory=template.enforced_memory,
        actor=None if actor is None else ActorOptionsEntry(**msgspec.structs.asdict(actor)),
        strategy=None if template.strategy is None else _strategy_entry(template.strategy),
    )


def _strategy_entry(strategy: Strategy) -> StrategyEntry:
    return StrategyEntry(
        strategy.kind,
        strategy.node,
        strategy.soft,
        [LabelRuleEntry(rule.label, rule.operator, list(rule.values)) for rule in strategy.hard],
        [
            LabelRuleEntry(rule.label, rule.operator, list(rule.values))
            for rule in strategy.preferred
        ],
        strategy.group.hex(),
    )


def _strategy_of(entry: StrategyEntry) -> Strategy:
    return Strategy(
        entry.kind,
        entry.node,
        entry.soft,
        tuple(LabelRule(rule.label, rule.operator, tuple(rule.values)) for rule in entry.hard),
        tuple(LabelRule(rule.label, rule.operator, tuple(rule.values)) for rule in entry.preferred),
        PlacementGroupID(bytes.fromhex(entry.group)),
    )


def template_of(task: TaskEntry) -> TaskTemplate:
    """Return the template that the task was submitted with."""
    entry = task.template
    return TaskTemplate(
        function_id=FunctionID(bytes.fromhex(entry.function)),
        name=task.name,
        kind=TaskKind[entry.kind],
        num_returns=entry.num_returns,
        resources={name: round(amount * RESOURCE_UNIT) for name, amount in entry.resources.items()},
        max_retries=entry.max_retries,
        retry_exceptions=entry.retry_exceptions,
        timeout=entry.timeout,
        priority=entry.priority,
        writable=entry.writable,
        observed=entry.observed,
        in_graph=entry.in_graph,
        max_calls=entry.max_calls,
        enforced_memory=entry.enforced_memory,
        actor=None if entry.actor is None else ActorOptions(**msgspec.structs.asdict(entry.actor)),
        strategy=None if entry.strategy is None else _strategy_of(entry.strategy),
    )


def spec_of(task: TaskEntry, template: int) -> TaskSpec:
    """Return the spec that the task was submitted with.

    Parameters
    ----------
    task : TaskEntry
    template : int
        The number of its template on the connection that the spec is to travel on.
    """
    return TaskSpec(
        task_id=TaskID(bytes.fromhex(task.id)),
        template=template,
        args=task.args,
        dependencies=[ObjectID(bytes.fromhex(text)) for text in task.dependencies],
        borrowed=[ObjectID(bytes.fromhex(text)) for text in task.borrowed],
        depth=task.depth,
        parent=TaskID(bytes.fromhex(task.parent)),
    )
