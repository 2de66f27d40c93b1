"""What a local scheduler remembers of tasks, objects, workers and actors. Pure.

Each record knows its own document in the control state; see ``raydask.control.tables``.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

from raydask.control import tables
from raydask.ids import (
    ActorID,
    FunctionID,
    ObjectID,
    ProcessNumber,
    TaskID,
    home_of,
    task_of,
)
from raydask.task import TaskKind, TaskSpec, TaskTemplate
from raydask.wire.memory import ObjectState
from raydask.wire.messages import ActorState, ObjectValue, ValueKind

UNKNOWN_COST = 1000.0
"""Seconds a task counts for when its duration is unknown or it must be alone in its worker."""

_OBJECT_STATES: dict[int, ObjectState] = {
    ValueKind.INLINE: "inline",
    ValueKind.STORED: "shared_memory",
    ValueKind.ERROR: "error",
    ValueKind.SPILLED: "spilled",
}


class TaskState(enum.IntEnum):
    """A task's lifecycle."""

    WAITING = 0
    """Inputs are missing, or it is held back until there is memory."""
    READY = 1
    """It could run; no worker has it."""
    ASSIGNED = 2
    """A worker has it and runs it, or will after those before it."""
    FINISHED = 3
    FAILED = 4
    CANCELLED = 5
    LENT = 6
    """Another node has it, and runs it or gives it back."""


OPEN = frozenset((TaskState.WAITING, TaskState.READY, TaskState.ASSIGNED, TaskState.LENT))
"""The states of a task that has not ended."""


TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    TaskState.WAITING: frozenset(
        (TaskState.READY, TaskState.LENT, TaskState.FAILED, TaskState.CANCELLED)
    ),
    # Back to WAITING: its placement group has lost the place where it was to run.
    TaskState.READY: frozenset(
        (
            TaskState.ASSIGNED,
            TaskState.LENT,
            TaskState.WAITING,
            TaskState.FAILED,
            TaskState.CANCELLED,
        )
    ),
    # Given back, or its node has died: back to where its inputs let it be.
    TaskState.LENT: frozenset(
        (
            TaskState.READY,
            TaskState.WAITING,
            TaskState.FINISHED,
            TaskState.FAILED,
            TaskState.CANCELLED,
        )
    ),
    # Back to READY: reclaimed from its worker, or retried.
    # Back to WAITING: retried when there is memory again.
    TaskState.ASSIGNED: frozenset(
        (
            TaskState.READY,
            TaskState.WAITING,
            TaskState.FINISHED,
            TaskState.FAILED,
            TaskState.CANCELLED,
        )
    ),
    # A restarted actor's creation runs again, here or on another node.
    TaskState.FINISHED: frozenset((TaskState.READY, TaskState.WAITING, TaskState.LENT)),
    TaskState.FAILED: frozenset(),
    TaskState.CANCELLED: frozenset(),
}


class TemplateRecord:
    """A template as the node knows it: one for each connection that sent it."""

    __slots__ = ("_entry", "alone", "cost", "feasible", "number", "shape", "template")

    def __init__(
        self,
        number: int,
        template: TaskTemplate,
        job: int,
        home: int = 0,
        *,
        feasible: bool = True,
    ) -> None:
        self.number = number
        self.template = template
        self.shape: tuple[Any, ...] = (
            job,
            template.kind == TaskKind.ACTOR_CREATION,
            home,
            tuple(sorted(template.resources.items())),
            template.strategy is not None or not feasible,
        )
        """What its tasks are alike in; the third is the node that lends them, 0: this one, and
        the last says whether the global scheduler has placed them, so that they need no lease."""
        self.feasible = feasible
        """Whether this node could ever run its tasks, and may do so without asking."""
        self.cost: float | None = None
        """Seconds that a call takes, averaged; None before the first has ended."""
        # A task that must not be run twice may not stand behind another when its worker
        # dies: nobody could say whether it had begun.  One whose calls or memory are limited
        # has the worker for itself, so that what is counted or measured is its own.
        self.alone = (
            template.observed
            or template.max_retries == 0
            or bool(template.timeout)
            or bool(template.max_calls)
            or bool(template.enforced_memory)
        )
        self._entry: tables.TemplateEntry | None = None

    def ended(self, duration: float) -> None:
        """Take the duration of a call into the average, in seconds."""
        cost = self.cost
        if cost is None:
            self.cost = duration
        else:
            # Quick to believe that it is short: the first call often pays for imports.
            self.cost = cost + (duration - cost) * (0.5 if duration < cost else 0.2)

    @property
    def entry(self) -> tables.TemplateEntry:
        """The template's part of its tasks' documents."""
        if self._entry is None:
            self._entry = tables.template_entry(self.template)
        return self._entry


class TaskRecord:
    """A task that this node is the home of."""

    __slots__ = (
        "attempts",
        "away",
        "cost",
        "deadline",
        "error",
        "finished",
        "is_guest",
        "job",
        "key",
        "lent_to",
        "live",
        "missing",
        "pinned",
        "retries",
        "spec",
        "started",
        "state",
        "submitted",
        "submitter",
        "template",
        "worker",
        "worker_pid",
    )

    def __init__(
        self,
        spec: TaskSpec,
        template: TemplateRecord,
        job: int,
        submitter: ProcessNumber,
        key: int,
        now: float,
    ) -> None:
        self.spec = spec
        self.template = template
        self.job = job
        self.submitter = submitter
        self.key = key
        self.state = TaskState.WAITING
        self.missing = 0
        """How many of its inputs do not exist yet, as often as it names them."""
        self.away = 0
        """How many exist, and not here."""
        self.lent_to = 0
        """The node that has it; 0: none."""
        self.is_guest = False
        """Whether it is another node's, which this one runs it for."""
        self.retries = template.template.max_retries
        self.attempts = 0
        self.live = 0
        """How many of its returns exist, pending ones counted."""
        self.pinned: Sequence[ObjectID] = ()
        """Those of its inputs that are pinned for it, as often as it names them."""
        self.worker: WorkerRecord | None = None
        self.worker_pid = 0
        self.cost = 0.0
        self.deadline = 0.0
        self.submitted = now
        self.started = 0.0
        self.finished = 0.0
        self.error = ""

    def document(self) -> bytes:
        """Return the task's entry in the control state."""
        spec = self.spec
        state: tables.TaskState
        if self.state in (TaskState.ASSIGNED, TaskState.LENT):
            state = "RUNNING"
        else:
            state = self.state.name  # type: ignore[assignment]
        return tables.encode(
            tables.TaskEntry(
                id=spec.task_id.hex(),
                name=self.template.template.name,
                state=state,
                job=self.job,
                node=int(home_of(spec.task_id)),
                template=self.template.entry,
                args=spec.args,
                dependencies=[object_id.hex() for object_id in spec.dependencies],
                borrowed=[object_id.hex() for object_id in spec.borrowed],
                worker=self.worker_pid,
                attempts=self.attempts,
                submitted=self.submitted,
                started=self.started,
                finished=self.finished,
                error=self.error,
                depth=spec.depth,
                parent=spec.parent.hex(),
            )
        )

    def event(self, kind: tables.EventKind, now: float, node: int, error: str) -> tables.TaskEvent:
        """Return what has happened to the task, for the stream of events."""
        return tables.TaskEvent(
            kind,
            now,
            self.spec.task_id.hex(),
            self.template.template.name,
            self.job,
            node,
            self.worker_pid,
            self.attempts,
            self.started,
            error,
        )


class ObjectRecord:
    """An object that this node is the home of.

    Or one of another node's that this one has something to do with.  ``count`` is how many
    processes, unfinished tasks and containing objects hold it here; ``remote`` is what is known
    of it elsewhere, None if it is here alone.
    """

    __slots__ = (
        "count",
        "dependents",
        "object_id",
        "remote",
        "task",
        "value",
        "waiters",
        "watchers",
    )

    def __init__(self, object_id: ObjectID, task: TaskRecord | None) -> None:
        self.object_id = object_id
        self.task = task
        self.count = 0
        self.value: ObjectValue | None = None
        self.dependents: list[TaskRecord] | None = None
        self.waiters: dict[ProcessNumber, None] | None = None
        self.watchers: dict[ProcessNumber, None] | None = None
        self.remote: Remote | None = None

    @property
    def state(self) -> ObjectState:
        """Where its value is."""
        return "pending" if self.value is None else _OBJECT_STATES[self.value.kind]

    @property
    def size(self) -> int:
        """Bytes of its value; 0 while there is none."""
        value = self.value
        return 0 if value is None else value.size or len(value.data)

    def document(self) -> bytes:
        """Return the object's entry in the control state."""
        value = self.value
        home = int(home_of(self.object_id))
        entry = tables.ObjectEntry(
            id=self.object_id.hex(),
            state=self.state,
            home=home,
            size=self.size,
            task=task_of(self.object_id).hex(),
        )
        if value is not None and value.kind in (ValueKind.STORED, ValueKind.SPILLED):
            entry.locations = [home]
        return tables.encode(entry)


class Remote:
    """What a node knows of an object that is, or may be, on other nodes.

    Attributes
    ----------
    is_ours : bool
        Whether its home is here.
    exists : bool
        Whether it is stored somewhere.
    size : int
        Bytes of its value, once it exists.
    nodes : dict of int to bool
        Of one of ours: the nodes that have it (True) or are fetching it, in the order in which
        they came to it.  Of another's: where this node was told to fetch it.
    nested : list of ObjectID
        Of one of ours that is elsewhere alone: what its value contains, which is held.
    wanting : dict of TaskRecord to int
        Tasks that have it among their inputs, and how often, and exist while it is not here.
    fetch : Fetch or None
        How it is brought here, while it is.
    borrowed : bool
        Whether its home counts this node among its holders.
    guards : int
        Of another's: how many holds there are here that others answer for: guests, whose homes
        see to it that it lives, and its own home.
    asked : bool
        Whether its home has been asked for it and has not answered.
    forgotten : bool
        Whether its home has no use for copies of it any more.
    kept_by : int
        Of one of ours: the node that has made it and keeps it for this one; 0: none has to.
    """

    __slots__ = (
        "asked",
        "borrowed",
        "exists",
        "fetch",
        "forgotten",
        "guards",
        "is_ours",
        "kept_by",
        "nested",
        "nodes",
        "size",
        "wanting",
    )

    def __init__(self, *, is_ours: bool) -> None:
        self.is_ours = is_ours
        self.exists = False
        self.size = 0
        self.nodes: dict[int, bool] = {}
        self.nested: list[ObjectID] = []
        self.wanting: dict[TaskRecord, int] = {}
        self.fetch: Fetch | None = None
        self.borrowed = False
        self.guards = 0
        self.asked = False
        self.forgotten = False
        self.kept_by = 0


class Fetch:
    """An object that is being brought here.

    Attributes
    ----------
    number : int
        Of the pull.
    offset : int
        Where in the arena it will be; negative: there is no room for it yet.
    source : int
        The node that was asked for it; 0: none.
    arrived : int
        Bytes that others have given before they broke off.
    asked : int
        The number with which it was asked.
    asked_at : float
        When, in seconds; negative: that is to be noted.
    placed : bool
        Whether the source has said where it has it, and keeps it there.
    tried : dict of int to int
        How often nodes have failed to give it.
    followers : list of tuple of int
        Nodes that asked for it here and wait to be told where it will be, and with what number.
    rounds : int
        How often its home has been asked again.
    error : str
        Why the last source could not give it.
    """

    __slots__ = (
        "arrived",
        "asked",
        "asked_at",
        "error",
        "followers",
        "number",
        "object_id",
        "offset",
        "placed",
        "rounds",
        "source",
        "tried",
    )

    def __init__(self, number: int, object_id: ObjectID) -> None:
        self.number = number
        self.object_id = object_id
        self.offset = -1
        self.source = 0
        self.arrived = 0
        self.asked = 0
        self.asked_at = -1.0
        self.placed = False
        self.tried: dict[int, int] = {}
        self.followers: list[tuple[int, int]] = []
        self.rounds = 0
        self.error = "nobody has it"


class FunctionRecord:
    """A function's code."""

    __slots__ = ("code", "is_ours", "jobs", "name", "nested")

    def __init__(self, code: bytes, name: str, nested: list[ObjectID]) -> None:
        self.code = code
        self.name = name
        self.nested = nested
        self.jobs: set[int] = set()
        """The jobs that exported it; it goes when they have all ended."""
        self.is_ours = False
        """Whether a process here has exported it, so that its entry is this node's to write."""

    def document(self) -> bytes:
        """Return the function's entry in the control state: its pickle."""
        return self.code


class WorkerRecord:
    """A worker process and what it has been given."""

    __slots__ = (
        "actor_id",
        "allocation",
        "blocked_on",
        "calls",
        "draining",
        "dying",
        "functions",
        "gpus",
        "idle_since",
        "job",
        "load",
        "pid",
        "process",
        "progress",
        "queue",
        "reclaiming",
        "shape",
        "source",
        "spent",
        "templates",
    )

    def __init__(self, process: ProcessNumber, pid: int, now: float, source: int = 0) -> None:
        self.process = process
        self.pid = pid
        self.source = source
        """The job whose fork server it comes from; 0: the supervisor."""
        self.job = source
        self.queue: dict[TaskID, TaskRecord] = {}
        self.load = 0.0
        """Estimated seconds of the tasks in the queue."""
        self.shape: tuple[Any, ...] | None = None
        """What its tasks are alike in, as long as it has any."""
        self.allocation: dict[str, int] | None = None
        """Resources it occupies; without the CPUs while it is blocked."""
        self.gpus: list[int] = []
        self.blocked_on: set[ObjectID] | None = None
        """Objects its main thread waits for; an empty set waits until it says otherwise."""
        self.progress = now
        """When it was last seen to get on."""
        self.reclaiming = False
        self.idle_since = now
        self.templates: set[TemplateRecord] = set()
        self.functions: set[FunctionID] = set()
        self.actor_id: ActorID | None = None
        self.calls: dict[FunctionID, int] = {}
        """How often it has run functions that have a ``max_calls``."""
        self.spent = ""
        """Why it ends after what it has; empty if it does not."""
        self.draining = False
        """Whether it is given nothing more until it has nothing and has been measured."""
        self.dying = ""
        """Why it is being ended; empty if it is not."""


class ActorRecord:
    """An actor that this node is the home of, and where it lives or is to live."""

    __slots__ = (
        "actor_id",
        "address",
        "cause",
        "creation",
        "followers",
        "host",
        "incarnation",
        "pid",
        "process",
        "restarts_left",
        "state",
        "worker",
    )

    def __init__(self, actor_id: ActorID, creation: TaskRecord) -> None:
        self.actor_id = actor_id
        self.creation = creation
        self.state = ActorState.PENDING
        self.worker: WorkerRecord | None = None
        """Its process, if that is here."""
        self.host = 0
        """The other node that its creation was lent to, and where it lives; 0: none."""
        self.process = ProcessNumber(0)
        """Its worker, as its node counts them."""
        self.pid = 0
        """Of its process, if that is on another node."""
        self.incarnation = 0
        options = creation.template.template.actor
        self.restarts_left = options.max_restarts if options is not None else 0
        self.followers: set[ProcessNumber] = set()
        self.cause = ""
        self.address = ""

    @property
    def detached(self) -> bool:
        """Whether it outlives its job and its handles."""
        options = self.creation.template.template.actor
        return options is not None and options.detached
