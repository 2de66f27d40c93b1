"""The tasks whose home is this node, from submission to the last return's end. Pure.

::

    WAITING --inputs--> READY --worker--> ASSIGNED --result--> FINISHED | FAILED
       |                  |  <--reclaimed, retried--  |
       +------------------+-------cancelled-----------+------> CANCELLED
       |                  |                                        ^
       +-inputs elsewhere-+--------> LENT --------result-----------+

A task holds its inputs until it has ended.  It is remembered after that as long as one of its
returns exists, because with it the return could be made again.  The creation of an actor is
a task too, which ends for good when the actor does (`Creations`).

A task whose inputs exist, but on other nodes, waits until it is lent to one of these or its inputs
have been brought here (`Elsewhere`).  *Guests* are tasks of other nodes that this one runs: their
results go to their homes, which alone decide what becomes of a task that has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from raydask.control.tables import EventKind
from raydask.control.write_behind_state import Journal, Source
from raydask.errors import InternalError
from raydask.ids import ObjectID, ProcessNumber, TaskID, is_peer, return_id
from raydask.local_scheduler.actions import EndProcess, Send
from raydask.local_scheduler.actors import ActorTable
from raydask.local_scheduler.creations import Creations
from raydask.local_scheduler.elsewhere import Elsewhere
from raydask.local_scheduler.interruption import Interruptions
from raydask.local_scheduler.memory_watch import MemoryWatch, Verdict, death_of
from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.passing_up import PassedUpTasks
from raydask.local_scheduler.policy import order_key
from raydask.local_scheduler.records import (
    OPEN,
    ObjectRecord,
    TaskRecord,
    TaskState,
    TemplateRecord,
    WorkerRecord,
)
from raydask.local_scheduler.worker_pool import WorkerPool
from raydask.object_store.state import StoreState
from raydask.serialization import serialize_error
from raydask.task import TaskKind, TaskSpec
from raydask.wire.messages import (
    ObjectValue,
    Progress,
    TaskResult,
    TaskStatus,
    ValueKind,
)

_ERROR = int(ValueKind.ERROR)
_STORED = int(ValueKind.STORED)
_OK = int(TaskStatus.OK)
_CANCELLED = int(TaskStatus.CANCELLED)
_FAILED = int(TaskStatus.FAILED)
_NOTABLE_SECONDS = 0.001
"""Shorter tasks that succeed leave no event: they are many, and too short for a timeline."""
_EVENT_KINDS: dict[int, EventKind] = {_OK: "FINISHED", _CANCELLED: "CANCELLED"}


class TaskTable:
    """All tasks at home here, and the guests.

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
    elsewhere : Elsewhere or None
        None as long as there is no other node.
    creations : Creations
        What is particular to the tasks that create actors.
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
        self.passed_up = passed_up
        self._interruptions = interruptions
        self._memory = memory
        self._outgoing = outgoing
        self._journal = journal
        self._record = record
        self._sequence = 0
        self.records: dict[TaskID, TaskRecord] = {}
        self.now = 0.0
        self.elsewhere: Elsewhere | None = None
        self.creations = Creations(self, pool, actors, journal)

    # --- submission -----------------------------------------------------------------------

    def submit(
        self,
        spec: TaskSpec,
        template: TemplateRecord,
        process: ProcessNumber,
        job: int,
        attempts: int = 0,
    ) -> None:
        """Take in a task that a process has submitted, or a node that had it started before."""
        self._sequence += 1
        options = template.template
        key = order_key(options.priority, spec.depth, self._sequence)
        task = TaskRecord(spec, template, job, process, key, self.now)
        self.records[spec.task_id] = task
        objects = self._objects
        hold = objects.hold
        if is_peer(process):
            task.is_guest = True
            task.attempts = attempts
            task.retries = 0  # what becomes of it is for its home to say
            hold = objects.hold_for_guest
        failed: ObjectValue | None = None
        missing = 0
        for object_id in spec.dependencies:
            record = hold(object_id)
            value = record.value
            if value is None:
                if record.remote is not None and self._is_elsewhere(task, record):
                    continue
                missing += 1
                if record.dependents is None:
                    record.dependents = [task]
                else:
                    record.dependents.append(task)
            elif value.kind == _ERROR:
                failed = value
        for object_id in spec.borrowed:
            hold(object_id)
        task.missing = missing
        if not task.is_guest:
            for index in range(options.num_returns):
                objects.create(return_id(spec.task_id, index), process, task)
            self._journal.put(spec.task_id, task)
        if options.kind == TaskKind.ACTOR_CREATION and not task.is_guest:
            self._actors.create(task)
            if options.actor is not None and options.actor.detached:
                objects.hold(return_id(spec.task_id, 0))
        if failed is not None:
            self.fail(task, failed.data, nested=failed.nested)
        elif not missing:
            self._inputs_exist(task)

    def _is_elsewhere(self, task: TaskRecord, record: ObjectRecord) -> bool:
        """Count an input that is not here as one that exists elsewhere, if it does."""
        remote = record.remote
        assert remote is not None and self.elsewhere is not None
        if not remote.exists:
            self.elsewhere.input_unknown(record)
            return False
        task.away += 1
        remote.wanting[task] = remote.wanting.get(task, 0) + 1
        return True

    def _inputs_exist(self, task: TaskRecord) -> None:
        if task.away and not self._wants_place(task):
            assert self.elsewhere is not None
            self.elsewhere.inputs_exist(task)
        else:
            self._inputs_are_here(task)

    def _wants_place(self, task: TaskRecord) -> bool:
        return task.template.template.kind == TaskKind.ACTOR_CREATION and not task.is_guest

    def _inputs_are_here(self, task: TaskRecord) -> None:
        if self._wants_place(task):
            self.creations.ask_for_place(task)
        elif task.template.feasible:
            self._pool.ready(task)
        else:
            self.find_place(task)

    def find_place(self, task: TaskRecord) -> None:
        """Ask for a place for a task, or take the one here that it has been given."""
        if not (task.is_guest or self.passed_up.stays(task)):
            self.passed_up.pass_up(task, self.now)
        elif self._pool.resources.feasible(task.template.template.resources):
            self._pool.ready(task)
        elif task.is_guest:
            assert self.elsewhere is not None
            self.elsewhere.decline(task)
        else:
            self.passed_up.pass_up(task, self.now)

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
                    self._inputs_exist(task)
        # Only now: what a failed task holds may be all that keeps the refs inside the error.
        for task in failed:
            self.close_delivered(task)

    def found_elsewhere(self, record: ObjectRecord, nested: list[ObjectID]) -> None:
        """Take in that an object is stored on another node; see `ObjectTable.exists_elsewhere`."""
        for task in self._objects.exists_elsewhere(record, nested):
            if task.state != TaskState.WAITING:
                continue
            task.missing -= 1
            self._is_elsewhere(task, record)
            if not task.missing:
                self._inputs_exist(task)

    def came(
        self, record: ObjectRecord, value: ObjectValue, nested: Sequence[ObjectID] = ()
    ) -> None:
        """Take in what was elsewhere, or an error, which contains the refs of `nested`."""
        wanting = self._objects.came(record, value)
        dependents, record.dependents = record.dependents or [], None
        for task in (*dependents, *wanting):
            if task.state != TaskState.WAITING:
                continue
            if value.kind == _ERROR:
                self.fail(task, value.data, nested=nested)
                continue
            if task in wanting:
                task.away -= wanting[task]
                if task.away or self.elsewhere is None:
                    continue  # where it runs has been decided
                self.elsewhere.inputs_came(task)
            else:
                task.missing -= 1
            if not task.missing:
                self._inputs_exist(task)
        self._objects.settle(record)

    # --- the end of a task ----------------------------------------------------------------

    def ended(self, worker: WorkerRecord, task: TaskRecord, result: TaskResult) -> None:
        """Take in how a task ended in its worker."""
        task.started = result.started
        task.finished = result.started + result.duration
        template = task.template
        status = result.status
        if status != _OK or result.duration >= _NOTABLE_SECONDS:
            self.note(task, _EVENT_KINDS.get(status, "FAILED"), result.error)
        if template.template.kind == TaskKind.ACTOR_CREATION:
            self.creations.ended(worker, task, result)
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
        if task.is_guest:
            result.values = [self.seal(worker.process, value) for value in result.values]
            self.close_guest(task, result)
            return
        task.live += 1  # so that it is not forgotten before it is closed
        for value in result.values:
            self.deliver([self.seal(worker.process, value)])
        self.close_delivered(task)

    def close_guest(self, task: TaskRecord, result: TaskResult) -> None:
        """Close a guest that has ended, and report how."""
        assert self.elsewhere is not None
        self.elsewhere.guest_ended(task, result)
        self.close(task)

    def note(self, task: TaskRecord, kind: EventKind, error: str = "") -> None:
        """Leave an event of what has happened to a task."""
        self._record(task.event(kind, self.now, self._node, error))

    def close(self, task: TaskRecord) -> None:
        """End the holds of a task that has reached its last state."""
        task.worker = None
        spec = task.spec
        objects = self._objects
        self._interruptions.forget(task)
        self.passed_up.withdraw(spec.task_id)
        if task.away and self.elsewhere is not None:
            self.elsewhere.closed(task)
        drop = objects.drop_for_guest if task.is_guest else objects.drop
        # Before the holds end: the last of them may be what keeps the entry.
        if not task.is_guest:
            self._journal.put(spec.task_id, task)
        for object_id in spec.dependencies:
            drop(object_id)
        for object_id in spec.borrowed:
            drop(object_id)
        actor = task.template.template.actor
        if actor is not None and actor.detached and not task.is_guest:
            objects.drop(return_id(spec.task_id, 0))
        if task.template.template.observed and not task.is_guest:
            step = 1 if task.state == TaskState.FINISHED else 2
            progress = Progress([(spec.task_id, step)])
            self._outgoing.actions.append(Send(task.submitter, progress))
        if not task.live:
            self.forget(task)

    def forget(self, task: TaskRecord) -> None:
        """Forget a task when its last return has gone and it has ended."""
        if task.template.template.kind == TaskKind.ACTOR_CREATION:
            if not self.creations.forget(task):
                return
        if task.state not in OPEN and self.records.pop(task.spec.task_id, None) is not None:
            if not task.is_guest:
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
        self.close_delivered(task)

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
            self.creations.failed(task)
        task.live += 1  # so that it is not forgotten before it is closed
        errors = [
            ObjectValue(return_id(spec.task_id, index), _ERROR, error, 0, 0, list(nested))
            for index in range(template.num_returns)
        ]
        if not task.is_guest:
            return errors
        status = _CANCELLED if state == TaskState.CANCELLED else _FAILED
        assert self.elsewhere is not None
        self.elsewhere.guest_ended(task, TaskResult(spec.task_id, status, errors, self.now, 0.0))
        return []

    def close_delivered(self, task: TaskRecord) -> None:
        """Close a task that has ended, now that its values have been delivered."""
        task.live -= 1
        self.close(task)

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
        self.note(task, "RETRIED" if task.retries else "FAILED", cause)
        doom = self._interruptions.doom_of(task)
        if doom is not None:
            self.fail(task, doom, TaskState.CANCELLED)
        elif task.template.template.kind == TaskKind.ACTOR_CREATION:
            self.creations.worker_died(task, cause)
        elif not charged:
            task.attempts -= 1
            self.run_again(task)
        else:
            self._died_at_work(task, cause, verdict)

    def _died_at_work(self, task: TaskRecord, cause: str, verdict: Verdict | None) -> None:
        hold_back = verdict is not None and verdict.hold_back
        if task.retries:
            self._retry(task, hold_back=hold_back)
            return
        error = serialize_error(death_of(task, cause, verdict))
        if task.is_guest:
            self._guest_died(task, error, hold_back)
        else:
            self.fail(task, error)

    def _guest_died(self, task: TaskRecord, error: bytes, hold_back: bool) -> None:
        """Report a task of another node that its worker has died with: its home may retry it."""
        task.state = TaskState.FAILED
        values = [
            ObjectValue(return_id(task.spec.task_id, index), _ERROR, error)
            for index in range(task.template.template.num_returns)
        ]
        result = TaskResult(task.spec.task_id, _FAILED, values, self.now, 0.0, True, "", hold_back)
        self.close_guest(task, result)

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
        if doom is not None:
            self.fail(task, doom, TaskState.CANCELLED)
        elif self.elsewhere is None and task.template.feasible:
            self._pool.ready(task)
        else:
            self._find_inputs(task)

    def _find_inputs(self, task: TaskRecord) -> None:
        """Let a task wait for those of its inputs that are not here, or make it ready."""
        if self.count_away(task):
            self._inputs_exist(task)

    def count_away(self, task: TaskRecord) -> bool:
        """Count the inputs of a task that are not here; say whether none is lost."""
        task.state = TaskState.WAITING
        task.away = 0
        for object_id in task.spec.dependencies:
            record = self._objects.records[object_id]
            value = record.value
            if value is None:
                self._is_elsewhere(task, record)
            elif value.kind == _ERROR:  # lost meanwhile
                self.fail(task, value.data)
                return False
        return True

    # --- tasks of this node on others -----------------------------------------------------

    def lent(self, task: TaskRecord, node: int) -> None:
        """Note that another node has a task that was ready, or that waited for its inputs."""
        if task.away and self.elsewhere is not None:
            self.elsewhere.closed(task)
            task.away = 0
        task.state = TaskState.LENT
        task.lent_to = node
        task.attempts += 1
        self.passed_up.take(task.spec.task_id)
        self._journal.put(task.spec.task_id, task)

    def lent_ended(self, task: TaskRecord, result: TaskResult) -> bool:
        """Take in how a task has ended on another node; say whether it has ended for good.

        Its values are to be delivered then, and after that it is to be closed.
        """
        node, task.lent_to = task.lent_to, 0
        task.started = result.started
        task.finished = result.started + result.duration
        status = result.status
        if status != _OK or result.duration >= _NOTABLE_SECONDS:
            self.note(task, _EVENT_KINDS.get(status, "FAILED"), result.error)
        if status == _OK:
            task.template.ended(result.duration)
            task.state = TaskState.FINISHED
        elif result.retryable and task.retries and self._interruptions.doom_of(task) is None:
            if result.hold_back:
                self._memory.was_ended_elsewhere(task, node)
            self._retry(task, hold_back=result.hold_back)
            return False
        else:
            task.state = TaskState.CANCELLED if status == _CANCELLED else TaskState.FAILED
            task.error = result.error
        task.live += 1  # so that it is not forgotten before it is closed
        return True

    def dismiss(self, task: TaskRecord) -> None:
        """Forget a guest that has not begun: its home has it again."""
        task.state = TaskState.CANCELLED
        self.close(task)

    def given_back(self, task: TaskRecord) -> None:
        """Place a task anew that another node has given back, not begun."""
        task.lent_to = 0
        task.attempts -= 1
        self.run_again(task)

    # --- cancelling -----------------------------------------------------------------------

    def with_children(self, tasks: list[TaskRecord]) -> list[TaskRecord]:
        """Return the tasks and all that they have submitted, and those in turn."""
        found = {task.spec.task_id: task for task in tasks}
        # Children come after their parents in the table, which keeps the order of submission.
        for task_id, task in self.records.items():
            if task.spec.parent in found:
                found[task_id] = task
        return list(found.values())

    def cancel_all(
        self,
        tasks: Iterable[TaskRecord],
        error: bytes,
        force: bool = False,
        *,
        recursive: bool = True,
    ) -> None:
        """Cancel tasks.

        Parameters
        ----------
        tasks : iterable of TaskRecord
            With what they have submitted here, if that is to be cancelled too.
        error : bytes
            Serialized, for their returns.
        force : bool
            Whether to end the workers of those that run.
        recursive : bool
            Whether other nodes cancel too what these have submitted there.
        """
        self._pool.withdraw({task for task in tasks if task.state == TaskState.READY})
        for task in tasks:
            if task.state in (TaskState.READY, TaskState.WAITING):
                self.fail(task, error, TaskState.CANCELLED)
            elif task.state == TaskState.ASSIGNED:
                self._interruptions.doom(task, error)
                self._interruptions.interrupt(task, "cancelled", force=force)
            elif task.state == TaskState.LENT and self.elsewhere is not None:
                self._interruptions.doom(task, error)
                self.elsewhere.cancel(task, force=force, recursive=recursive)
