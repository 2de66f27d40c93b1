"""The tasks whose home is this node, from submission to the last return's end. Pure.

::

    WAITING --inputs--> READY --worker--> ASSIGNED --result--> FINISHED | FAILED
       |                  |  <--reclaimed, retried--  |
       +------------------+-------cancelled-----------+------> CANCELLED

A task holds its inputs until it has ended.  It is remembered after that as long as one of its
returns exists, because with it the return could be made again.  The creation of an actor is
a task too, which ends for good when the actor does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from raydask.control.tables import EventKind, TaskEvent
from raydask.control.write_behind_state import Journal, Source
from raydask.errors import ActorDiedError, InternalError, OutOfMemoryError, WorkerCrashedError
from raydask.ids import ObjectID, ProcessNumber, TaskID, return_id
from raydask.local_scheduler.actions import EndProcess, Send
from raydask.local_scheduler.actors import ActorTable
from raydask.local_scheduler.interruption import Interruptions
from raydask.local_scheduler.memory_watch import MemoryWatch, Verdict
from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.passing_up import PassedUpTasks
from raydask.local_scheduler.policy import order_key
from raydask.local_scheduler.records import (
    ActorRecord,
    TaskRecord,
    TaskState,
    TemplateRecord,
    WorkerRecord,
)
from raydask.local_scheduler.worker_pool import WorkerPool
from raydask.object_store.state import StoreState
from raydask.serialization import serialize, serialize_error
from raydask.task import TaskKind, TaskSpec
from raydask.wire.messages import (
    ActorState,
    ObjectValue,
    Progress,
    TaskResult,
    TaskStatus,
    ValueKind,
)

_ERROR = int(ValueKind.ERROR)
_STORED = int(ValueKind.STORED)
_INLINE = int(ValueKind.INLINE)
_OK = int(TaskStatus.OK)
_CANCELLED = int(TaskStatus.CANCELLED)
_NOTABLE_SECONDS = 0.001
"""Shorter tasks that succeed leave no event: they are many, and too short for a timeline."""
_EVENT_KINDS: dict[int, EventKind] = {_OK: "FINISHED", _CANCELLED: "CANCELLED"}
_NONE = serialize(None).to_bytes()

OPEN = frozenset((TaskState.WAITING, TaskState.READY, TaskState.ASSIGNED))
"""The states of a task that has not ended."""


class TaskTable:
    """All tasks at home here.

    Parameters
    ----------
    node : int
    store : StoreState
    objects : ObjectTable
    pool : WorkerPool
    actors : ActorTable
    passed_up : PassedUpTasks
    interruptions : Interruptions
    memory : MemoryWatch
    outgoing : Outgoing
    journal : Journal
    record : callable
        Takes what happened to a task, for the stream of events.

    Attributes
    ----------
    records : dict of TaskID to TaskRecord
        In the order of submission.
    now : float
        Seconds since the epoch; set by the core before each event.
    """

    def __init__(
        self,
        node: int,
        store: StoreState,
        objects: ObjectTable,
        pool: WorkerPool,
        actors: ActorTable,
        passed_up: PassedUpTasks,
        interruptions: Interruptions,
        memory: MemoryWatch,
        outgoing: Outgoing,
        journal: Journal,
        record: Callable[[Source], None],
    ) -> None:
        self._node = node
        self._store = store
        self._objects = objects
        self._pool = pool
        self._actors = actors
        self._passed_up = passed_up
        self._interruptions = interruptions
        self._memory = memory
        self._outgoing = outgoing
        self._journal = journal
        self._record = record
        self._sequence = 0
        self.records: dict[TaskID, TaskRecord] = {}
        self.now = 0.0

    # --- submission -----------------------------------------------------------------------

    def submit(
        self, spec: TaskSpec, template: TemplateRecord, process: ProcessNumber, job: int
    ) -> None:
        """Take in a task that a process has submitted."""
        self._sequence += 1
        options = template.template
        key = order_key(options.priority, spec.depth, self._sequence)
        task = TaskRecord(spec, template, job, process, key, self.now)
        self.records[spec.task_id] = task
        objects = self._objects
        failed: ObjectValue | None = None
        missing = 0
        for object_id in spec.dependencies:
            record = objects.hold(object_id)
            value = record.value
            if value is None:
                missing += 1
                if record.dependents is None:
                    record.dependents = [task]
                else:
                    record.dependents.append(task)
            elif value.kind == _ERROR:
                failed = value
        for object_id in spec.borrowed:
            objects.hold(object_id)
        for index in range(options.num_returns):
            objects.create(return_id(spec.task_id, index), process, task)
        self._journal.put(spec.task_id, task)
        task.missing = missing
        if options.kind == TaskKind.ACTOR_CREATION:
            self._actors.create(task)
            if options.actor is not None and options.actor.detached:
                objects.hold(return_id(spec.task_id, 0))
        if failed is not None:
            self.fail(task, failed.data, nested=failed.nested)
        elif not missing:
            self._inputs_are_here(task)

    def _inputs_are_here(self, task: TaskRecord) -> None:
        is_creation = task.template.template.kind == TaskKind.ACTOR_CREATION
        if is_creation:
            if not task.template.feasible:
                self._passed_up.wait_for_place(task, self.now)
            self._actors.ask_for_place(task)
        elif task.template.feasible:
            self._pool.ready(task)
        else:
            self._passed_up.pass_up(task, self.now)

    # --- values ---------------------------------------------------------------------------

    def seal(self, process: ProcessNumber, value: ObjectValue) -> ObjectValue:
        """Note that a process has written a value into the object store, if it has.

        Returns
        -------
        ObjectValue
            The value, or an error in its place where the process named memory that is not its.
        """
        if value.kind != _STORED:
            return value
        try:
            if value.object_id in self._store:
                # A call that was sent again after its actor had died has answered twice.
                self._store.abandon(process, value.offset, value.size)
            else:
                self._store.seal(process, value.object_id, value.offset, value.size)
        except InternalError as error:
            self._outgoing.actions.append(EndProcess(process, str(error)))
            return ObjectValue(value.object_id, _ERROR, serialize_error(error))
        return value

    def deliver(self, values: list[ObjectValue], holder: ProcessNumber | None = None) -> None:
        """Take in values, and the failures that follow from errors among them."""
        failed: list[TaskRecord] = []
        while values:
            value = values.pop()
            for task in self._objects.fulfill(value, holder):
                if task.state != TaskState.WAITING:
                    continue
                if value.kind == _ERROR:
                    values += self._failed_values(task, value.data, TaskState.FAILED, value.nested)
                    failed.append(task)
                    continue
                task.missing -= 1
                if not task.missing:
                    self._inputs_are_here(task)
        # Only now: what a failed task holds may be all that keeps the refs inside the error.
        for task in failed:
            self._close_failed(task)

    # --- the end of a task ----------------------------------------------------------------

    def ended(self, worker: WorkerRecord, task: TaskRecord, result: TaskResult) -> None:
        """Take in how a task ended in its worker."""
        task.started = result.started
        task.finished = result.started + result.duration
        template = task.template
        status = result.status
        if status != _OK or result.duration >= _NOTABLE_SECONDS:
            self._note(task, _EVENT_KINDS.get(status, "FAILED"), result.error)
        if template.template.kind == TaskKind.ACTOR_CREATION:
            self._creation_ended(worker, task, result)
            return
        self._pool.ended(worker, task, self.now)
        if status == _OK:
            template.ended(result.duration)
            task.state = TaskState.FINISHED
        elif result.retryable and task.retries:
            self._retry(task)
            return
        else:
            task.state = TaskState.CANCELLED if status == _CANCELLED else TaskState.FAILED
            task.error = result.error
        task.live += 1  # so that it is not forgotten before it is closed
        for value in result.values:
            self.deliver([self.seal(worker.process, value)])
        task.live -= 1
        self._close(task)

    def _note(self, task: TaskRecord, kind: EventKind, error: str = "") -> None:
        self._record(
            TaskEvent(
                kind,
                self.now,
                task.spec.task_id.hex(),
                task.template.template.name,
                task.job,
                self._node,
                task.worker_pid,
                task.attempts,
                task.started,
                error,
            )
        )

    def _close(self, task: TaskRecord) -> None:
        """End the holds of a task that has reached its last state."""
        task.worker = None
        spec = task.spec
        objects = self._objects
        self._interruptions.forget(task)
        self._passed_up.take(spec.task_id)
        # Before the holds end: the last of them may be what keeps the entry.
        self._journal.put(spec.task_id, task)
        for object_id in spec.dependencies:
            objects.drop(object_id)
        for object_id in spec.borrowed:
            objects.drop(object_id)
        actor = task.template.template.actor
        if actor is not None and actor.detached:
            objects.drop(return_id(spec.task_id, 0))
        if task.template.template.observed:
            step = 1 if task.state == TaskState.FINISHED else 2
            progress = Progress([(spec.task_id, step)])
            self._outgoing.actions.append(Send(task.submitter, progress))
        if not task.live:
            self.forget(task)

    def forget(self, task: TaskRecord) -> None:
        """Forget a task when its last return has gone and it has ended."""
        if task.template.template.kind == TaskKind.ACTOR_CREATION:
            actor = self._actors.creation_of(task)
            if actor is not None:
                if actor.state != ActorState.DEAD:
                    self.end_actor(actor, "nobody held a handle to it any more")
                    return
                self._actors.forget(actor)
        if task.state not in OPEN and self.records.pop(task.spec.task_id, None) is not None:
            self._journal.forget(task.spec.task_id)

    def fail(
        self,
        task: TaskRecord,
        error: bytes,
        state: TaskState = TaskState.FAILED,
        nested: Sequence[ObjectID] = (),
    ) -> None:
        """End a task with an error in the place of its returns.

        `nested` are the objects whose refs the error contains.
        """
        self.deliver(self._failed_values(task, error, state, nested))
        self._close_failed(task)

    def _failed_values(
        self, task: TaskRecord, error: bytes, state: TaskState, nested: Sequence[ObjectID]
    ) -> list[ObjectValue]:
        """Put a task into a failed state; return the errors in place of its returns.

        The task is to be closed when they have been delivered.
        """
        template = task.template.template
        task.state = state
        task.finished = self.now
        task.error = "see the object's value"
        spec = task.spec
        if template.kind == TaskKind.ACTOR_CREATION:
            actor = self._actors.creation_of(task)
            if actor is not None and actor.state != ActorState.DEAD:
                self._actors.failed(actor, "its __init__ could not run")
        task.live += 1  # so that it is not forgotten before it is closed
        return [
            ObjectValue(return_id(spec.task_id, index), _ERROR, error, 0, 0, list(nested))
            for index in range(template.num_returns)
        ]

    def _close_failed(self, task: TaskRecord) -> None:
        task.live -= 1
        self._close(task)

    def worker_died_with(
        self, task: TaskRecord, cause: str, charged: bool, verdict: Verdict | None = None
    ) -> None:
        """Retry or fail a task whose worker has died.

        Parameters
        ----------
        task : TaskRecord
        cause : str
            For people.
        charged : bool
            Whether it had begun, and so uses up a retry.
        verdict : Verdict, optional
            Why the worker was ended, if that was for this task's memory.
        """
        task.worker = None
        self._note(task, "RETRIED" if task.retries else "FAILED", cause)
        doom = self._interruptions.doom_of(task)
        if doom is not None:
            self.fail(task, doom, TaskState.CANCELLED)
        elif task.template.template.kind == TaskKind.ACTOR_CREATION:
            actor = self._actors.creation_of(task)
            if actor is not None and self._actors.worker_died(actor, cause):
                self.actor_is_dead(actor)
        elif not charged:
            task.attempts -= 1
            self._pool.ready(task)
        elif task.retries == 0:
            self.fail(task, serialize_error(_death_of(task, cause, verdict)))
        else:
            self._retry(task, hold_back=verdict is not None and verdict.hold_back)

    def _retry(self, task: TaskRecord, *, hold_back: bool = False) -> None:
        """Use up one of the task's retries; with `hold_back` wait for memory first."""
        if task.retries > 0:
            task.retries -= 1
        if hold_back:
            self._memory.hold_back(task, self.now)
        else:
            self.run_again(task)

    def run_again(self, task: TaskRecord) -> None:
        """Make a task ready that its worker has given back or failed in, unless it is doomed."""
        task.worker = None
        doom = self._interruptions.doom_of(task)
        if doom is None:
            self._pool.ready(task)
        else:
            self.fail(task, doom, TaskState.CANCELLED)

    # --- cancelling -----------------------------------------------------------------------

    def with_children(self, tasks: list[TaskRecord]) -> list[TaskRecord]:
        """Return the tasks and all that they have submitted, and those in turn."""
        found = {task.spec.task_id: task for task in tasks}
        # Children come after their parents in the table, which keeps the order of submission.
        for task_id, task in self.records.items():
            if task.spec.parent in found:
                found[task_id] = task
        return list(found.values())

    def cancel_all(self, tasks: Iterable[TaskRecord], error: bytes, force: bool = False) -> None:
        """Cancel tasks; with `force` end the workers of those that run."""
        self._pool.withdraw({task for task in tasks if task.state == TaskState.READY})
        for task in tasks:
            if task.state in (TaskState.READY, TaskState.WAITING):
                self.fail(task, error, TaskState.CANCELLED)
            elif task.state == TaskState.ASSIGNED:
                self._interruptions.doom(task, error)
                self._interruptions.interrupt(task, "cancelled", force=force)

    # --- creations of actors --------------------------------------------------------------

    def _creation_ended(self, worker: WorkerRecord, task: TaskRecord, result: TaskResult) -> None:
        actor = self._actors.creation_of(task)
        worker.actor_id = None if actor is None else actor.actor_id
        self._pool.ended(worker, task, self.now)
        if actor is None or actor.state == ActorState.DEAD:
            worker.actor_id = None
            self._pool.kill(worker, "its actor has ended")
            return
        if result.status != _OK:
            cause = f"its __init__ raised {result.error}"
            actor.worker = worker
            self._actors.failed(actor, cause)
            self.fail(task, result.values[0].data, nested=result.values[0].nested)
            return
        task.state = TaskState.FINISHED
        self._actors.created(actor, worker)
        self._journal.put(task.spec.task_id, task)
        value = ObjectValue(return_id(task.spec.task_id, 0), _INLINE, _NONE)
        self.deliver([value])

    def end_actor(self, actor: ActorRecord, cause: str) -> None:
        """End an actor for good."""
        if actor.state == ActorState.DEAD:
            return
        self._actors.failed(actor, cause)
        self.actor_is_dead(actor)

    def actor_is_dead(self, actor: ActorRecord) -> None:
        """Let go of what an actor's creation held."""
        task = actor.creation
        if task.state == TaskState.READY:
            self._pool.withdraw({task})
        if task.state in OPEN:
            if task.worker is not None:
                self._pool.kill(task.worker, actor.cause)
            error = ActorDiedError(f"the actor died before it was created: {actor.cause}")
            self.fail(task, serialize_error(error))
        else:
            self._close(task)


def _death_of(task: TaskRecord, cause: str, verdict: Verdict | None) -> WorkerCrashedError:
    """Return the error for a task whose worker has died and that has no retry left."""
    name = task.template.template.name
    started = f"It was started {task.attempts} times; options(max_retries=…) allows more"
    if verdict is not None:
        return OutOfMemoryError(
            f"task {name!r} was ended for its memory: {verdict.cause}; {verdict.remedy}. {started}"
        )
    return WorkerCrashedError(f"the worker of task {name!r} died: {cause}. {started}")
