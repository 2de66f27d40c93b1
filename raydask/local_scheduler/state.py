"""The local scheduler's core: events in, actions out. Pure.

It is the home of every task and object made on its node.  It waits for the inputs of tasks,
gives ready ones to workers (`WorkerPool`), takes in results, counts who holds what
(`ObjectTable`), and follows the lives of actors (`ActorTable`).  Time comes in with every
event; what is to be done goes out as actions; changes are noted in journals, from which
the control state is written behind.

The life of a task::

    WAITING --inputs--> READY --worker--> ASSIGNED --result--> FINISHED | FAILED
       |                  |  <--reclaimed, retried--  |
       +------------------+-------cancelled-----------+------> CANCELLED
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from raydask.control.tables import EventKind, TaskEvent
from raydask.control.write_behind_state import Source
from raydask.errors import (
    ActorDiedError,
    TaskCancelledError,
    WorkerCrashedError,
)
from raydask.ids import ObjectID, ProcessNumber, TaskID, creation_object, return_id
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import (
    Action,
    EndProcess,
    SealStored,
    Send,
)
from raydask.local_scheduler.actors import ActorTable
from raydask.local_scheduler.functions import FunctionTable
from raydask.local_scheduler.interruption import Interruptions
from raydask.local_scheduler.objects import Journal, ObjectTable
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.passing_up import PassedUpTasks
from raydask.local_scheduler.policy import Pipeline, Resources, order_key
from raydask.local_scheduler.records import (
    ActorRecord,
    TaskRecord,
    TaskState,
    TemplateRecord,
    WorkerRecord,
)
from raydask.local_scheduler.worker_pool import PoolSettings, WorkerPool
from raydask.serialization import serialize, serialize_error
from raydask.task import TaskKind, TaskSpec
from raydask.wire.messages import (
    ActorState,
    JobSettings,
    Notice,
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
_OPEN = frozenset((TaskState.WAITING, TaskState.READY, TaskState.ASSIGNED))
_NOTABLE_SECONDS = 0.001
"""Shorter tasks that succeed leave no event: they are many, and too short for a timeline."""
_EVENT_KINDS: dict[int, EventKind] = {_OK: "FINISHED", _CANCELLED: "CANCELLED"}
_NONE = serialize(None).to_bytes()


class Journals(NamedTuple):
    """Where the control state's tables learn what has changed."""

    tasks: Journal
    objects: Journal
    functions: Journal
    record: Callable[[Source], None]
    """Takes what happened to a task, for the stream of events."""


class LocalScheduler:
    """The core of one node.

    Parameters
    ----------
    node : int
    resources : Resources
    pipeline : Pipeline
    settings : PoolSettings
    journals : Journals
    address_of : callable
        Gives the path of a worker's socket for callers of its actor.
    infeasible_seconds : float
        How long a task that no node could run waits for one that can.
    """

    def __init__(
        self,
        node: int,
        resources: Resources,
        pipeline: Pipeline,
        settings: PoolSettings,
        journals: Journals,
        address_of: Callable[[ProcessNumber], str],
        infeasible_seconds: float = 30.0,
    ) -> None:
        self._node = node
        self._journal = journals.tasks
        self._record = journals.record
        self._outgoing = Outgoing()
        self.objects = ObjectTable(
            self._outgoing, journals.objects, self._forget_task, self._value_came_to
        )
        self.pool = WorkerPool(
            settings, resources, pipeline, self.objects, self._outgoing, journals.tasks
        )
        self.actors = ActorTable(node, self.pool, self._outgoing, address_of)
        self.tasks: dict[TaskID, TaskRecord] = {}
        self._templates: dict[ProcessNumber, dict[int, TemplateRecord]] = {}
        self._template_count = 0
        self._sequence = 0
        self._jobs: dict[ProcessNumber, int] = {}
        self._functions = FunctionTable(self.objects, journals.functions)
        self.pool.functions = self._functions.records
        self._passed_up = PassedUpTasks(node, self._outgoing, infeasible_seconds)
        self._interruptions = Interruptions(self.pool, self._outgoing)
        self._now = 0.0
        self._handlers: dict[type, Callable[[Any], None]] = {
            events.DriverJoined: self._on_driver_joined,
            events.DriverLeft: self._on_driver_left,
            events.WorkerJoined: self._on_worker_joined,
            events.WorkerLeft: self._on_worker_left,
            events.WorkersFailed: self._on_workers_failed,
            events.TasksSubmitted: self._on_submitted,
            events.FunctionExported: self._on_exported,
            events.ValuesRequested: self._on_requested,
            events.ObjectsWatched: self._on_watched,
            events.WorkerUnblocked: self._on_unblocked,
            events.ObjectsPut: self._on_put,
            events.ObjectsPromised: self._on_promised,
            events.ObjectsAcquired: self._on_acquired,
            events.ObjectsReleased: self._on_released,
            events.TasksEnded: self._on_ended,
            events.TasksReclaimed: self._on_reclaimed,
            events.CancelRequested: self._on_cancel,
            events.ActorFollowed: self._on_followed,
            events.KillActorRequested: self._on_kill_actor,
            events.ActorWasPlaced: self._on_actor_placed,
            events.TasksFoundInfeasible: self._on_infeasible,
            events.TasksPlaced: self._on_placed,
            events.ClockTicked: self._on_tick,
        }

    def start(self) -> list[Action]:
        """Return what is to be done first."""
        self.pool.prestart()
        return self._outgoing.take()

    def handle(self, event: events.Event, now: float) -> list[Action]:
        """Take in what has happened; return what is to be done.

        Parameters
        ----------
        event : Event
        now : float
            Seconds since the epoch.
        """
        self._now = now
        self._handlers[type(event)](event)
        self.pool.schedule(now)
        return self._outgoing.take()

    # --- processes ------------------------------------------------------------------------

    def _on_driver_joined(self, event: events.DriverJoined) -> None:
        self._jobs[event.process] = event.job
        self._templates[event.process] = {}
        self.objects.join(event.process)
        self.pool.job_settings[event.job] = JobSettings(
            event.job, event.namespace, event.search_path, event.folder
        )

    def _on_worker_joined(self, event: events.WorkerJoined) -> None:
        self._templates[event.process] = {}
        self.objects.join(event.process)
        self.pool.join(event.process, event.pid, self._now)

    def _on_workers_failed(self, event: events.WorkersFailed) -> None:
        self.pool.failed_to_start(event.number)

    def _on_driver_left(self, event: events.DriverLeft) -> None:
        job = self._jobs.pop(event.process, None)
        if job is None:
            return
        kept = [actor for actor in self.actors.records.values() if actor.detached]
        kept_tasks = {actor.creation for actor in kept}
        kept_workers = {actor.worker for actor in kept}
        for actor in list(self.actors.records.values()):
            if actor.creation.job == job and actor.creation not in kept_tasks:
                self._end_actor(actor, "its driver has ended")
        error = serialize_error(TaskCancelledError("the driver of the task has ended"))
        ours = [
            task
            for task in self.tasks.values()
            if task.job == job and task.state in _OPEN and task not in kept_tasks
        ]
        self._cancel_all(ours, error)
        for worker in self.pool.workers.values():
            if worker.job == job and worker not in kept_workers:
                self.pool.kill(worker, "its driver has ended")
        self._leave(event.process)
        if not any(actor.creation.job == job for actor in kept):
            self.pool.forget_job(job)
        if not any(actor.creation.job == job for actor in self.actors.records.values()):
            self._functions.forget_job(job)

    def _on_worker_left(self, event: events.WorkerLeft) -> None:
        worker = self.pool.workers.get(event.process)
        if worker is None:
            return
        cause = worker.dying or event.cause
        tasks = self.pool.leave(worker)
        if worker.actor_id is not None:
            actor = self.actors.records.get(worker.actor_id)
            if actor is not None and actor.worker is worker:
                if self.actors.worker_died(actor, cause, on_purpose=False):
                    self._actor_is_dead(actor)
        for position, task in enumerate(tasks):
            if task.state == TaskState.ASSIGNED:
                self._worker_died_with(task, cause, charged=position == 0)
        self._leave(event.process)
        self.pool.refill()

    def _leave(self, process: ProcessNumber) -> None:
        self._templates.pop(process, None)
        self.actors.unfollow(process)
        for object_id in self.objects.leave(process):
            self._deliver([self.objects.broken_promise(object_id)])

    def _worker_died_with(self, task: TaskRecord, cause: str, charged: bool) -> None:
        task.worker = None
        self._note(task, "RETRIED" if task.retries else "FAILED", cause)
        doom = self._interruptions.take_doom(task.spec.task_id)
        name = task.template.template.name
        if doom is not None:
            self._fail(task, doom, TaskState.CANCELLED)
        elif task.template.template.kind == TaskKind.ACTOR_CREATION:
            actor = self.actors.creation_of(task)
            if actor is not None and self.actors.worker_died(actor, cause, on_purpose=False):
                self._actor_is_dead(actor)
        elif not charged:
            task.attempts -= 1
            self.pool.ready(task)
        elif task.retries == 0:
            error = WorkerCrashedError(
                f"the worker of task {name!r} died: {cause}. It was started {task.attempts} "
                "times; options(max_retries=…) allows more"
            )
            self._fail(task, serialize_error(error))
        else:
            if task.retries > 0:
                task.retries -= 1
            self.pool.ready(task)

    # --- submission -----------------------------------------------------------------------

    def _on_submitted(self, event: events.TasksSubmitted) -> None:
        process = event.process
        templates = self._templates.get(process)
        if templates is None:
            return
        job = self._job_of(process)
        for number, template in event.templates:
            self._template_count += 1
            record = TemplateRecord(self._template_count, template, job)
            record.feasible = self.pool.resources.feasible(template.resources)
            templates[number] = record
        for spec in event.specs:
            known = templates.get(spec.template)
            if known is None:
                reason = f"a task names template {spec.template}, which was never sent"
                self._outgoing.actions.append(EndProcess(process, reason))
                return
            self._submit(spec, known, process, job)

    def _job_of(self, process: ProcessNumber) -> int:
        worker = self.pool.workers.get(process)
        return worker.job if worker is not None else self._jobs.get(process, 0)

    def _submit(
        self, spec: TaskSpec, template: TemplateRecord, process: ProcessNumber, job: int
    ) -> None:
        self._sequence += 1
        options = template.template
        key = order_key(options.priority, spec.depth, self._sequence)
        task = TaskRecord(spec, template, job, process, key, self._now)
        self.tasks[spec.task_id] = task
        objects = self.objects
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
            self.actors.create(task)
            if options.actor is not None and options.actor.detached:
                objects.hold(return_id(spec.task_id, 0))
        if failed is not None:
            self._fail(task, failed.data)
        elif not missing:
            self._inputs_are_here(task)

    def _inputs_are_here(self, task: TaskRecord) -> None:
        is_creation = task.template.template.kind == TaskKind.ACTOR_CREATION
        if is_creation:
            if not task.template.feasible:
                self._passed_up.wait_for_place(task, self._now)
            self.actors.ask_for_place(task)
        elif task.template.feasible:
            self.pool.ready(task)
        else:
            self._passed_up.pass_up(task, self._now)

    def _on_placed(self, event: events.TasksPlaced) -> None:
        for task_id, _ in event.placements:
            task = self._passed_up.take(task_id)
            if task is not None and task.state == TaskState.WAITING:
                self.pool.ready(task)

    def _on_infeasible(self, event: events.TasksFoundInfeasible) -> None:
        for task_id in event.task_ids:
            task = self._passed_up.find(task_id)
            if task is None:
                continue
            for process, job in self._jobs.items():
                if job == task.job:
                    notice = Notice(self._passed_up.notice(task, event.detail))
                    self._outgoing.actions.append(Send(process, notice))

    def _on_exported(self, event: events.FunctionExported) -> None:
        job = self._job_of(event.process)
        self._functions.export(event.function_id, event.code, event.name, event.nested, job)

    # --- values ---------------------------------------------------------------------------

    def _on_requested(self, event: events.ValuesRequested) -> None:
        pending = self.objects.request(event.process, event.object_ids)
        worker = self.pool.workers.get(event.process)
        if worker is None:
            return
        if event.reclaimed:
            self.pool.take_back(worker, event.reclaimed)
        if event.blocks and pending:
            self.pool.block(worker, set(pending))

    def _on_watched(self, event: events.ObjectsWatched) -> None:
        self.objects.watch(event.process, event.object_ids)
        worker = self.pool.workers.get(event.process)
        if worker is not None:
            self.pool.take_back(worker, event.reclaimed)
            if event.blocks:
                self.pool.block(worker, set())

    def _value_came_to(self, process: ProcessNumber, object_id: ObjectID) -> None:
        worker = self.pool.workers.get(process)
        if worker is not None and worker.blocked_on:
            worker.blocked_on.discard(object_id)
            if not worker.blocked_on:
                self.pool.unblock(worker, self._now)

    def _on_unblocked(self, event: events.WorkerUnblocked) -> None:
        worker = self.pool.workers.get(event.process)
        if worker is not None:
            self.pool.unblock(worker, self._now)

    def _on_put(self, event: events.ObjectsPut) -> None:
        tell = event.holder != event.process
        for value in event.values:
            self._seal(event.process, value)
            self._deliver([value], event.holder)
            if tell:
                self.objects.request(event.holder, [value.object_id])

    def _on_promised(self, event: events.ObjectsPromised) -> None:
        self.objects.promise(event.process, event.object_ids)

    def _on_acquired(self, event: events.ObjectsAcquired) -> None:
        self.objects.acquire(event.process, event.object_ids)

    def _on_released(self, event: events.ObjectsReleased) -> None:
        self.objects.release(event.process, event.object_ids)

    def _seal(self, process: ProcessNumber, value: ObjectValue) -> None:
        if value.kind == _STORED:
            self._outgoing.actions.append(
                SealStored(process, value.object_id, value.offset, value.size)
            )

    def _deliver(self, values: list[ObjectValue], holder: ProcessNumber | None = None) -> None:
        """Take in values, and the failures that follow from errors among them."""
        while values:
            value = values.pop()
            for task in self.objects.fulfill(value, holder):
                if task.state != TaskState.WAITING:
                    continue
                if value.kind == _ERROR:
                    values.extend(self._failed_values(task, value.data, TaskState.FAILED))
                    continue
                task.missing -= 1
                if not task.missing:
                    self._inputs_are_here(task)

    # --- the end of a task ----------------------------------------------------------------

    def _on_ended(self, event: events.TasksEnded) -> None:
        worker = self.pool.workers.get(event.process)
        if worker is None:
            return
        queue = worker.queue
        for result in event.results:
            task = queue.get(result.task_id)
            if task is not None:
                self._ended(worker, task, result)

    def _ended(self, worker: WorkerRecord, task: TaskRecord, result: TaskResult) -> None:
        task.started = result.started
        task.finished = result.started + result.duration
        template = task.template
        status = result.status
        if status != _OK or result.duration >= _NOTABLE_SECONDS:
            self._note(task, _EVENT_KINDS.get(status, "FAILED"))
        if template.template.kind == TaskKind.ACTOR_CREATION:
            self._creation_ended(worker, task, result)
            return
        self.pool.ended(worker, task, self._now)
        if status == _OK:
            template.ended(result.duration)
            task.state = TaskState.FINISHED
        elif result.retryable and task.retries:
            if task.retries > 0:
                task.retries -= 1
            task.worker = None
            self.pool.ready(task)
            return
        else:
            task.state = TaskState.CANCELLED if status == _CANCELLED else TaskState.FAILED
            task.error = "see the object's value"
        for value in result.values:
            if value.kind == _STORED:
                self._seal(worker.process, value)
            self._deliver([value])
        self._close(task)

    def _note(self, task: TaskRecord, kind: EventKind, error: str = "") -> None:
        self._record(
            TaskEvent(
                kind,
                self._now,
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
        objects = self.objects
        for object_id in spec.dependencies:
            objects.drop(object_id)
        for object_id in spec.borrowed:
            objects.drop(object_id)
        self._journal.put(spec.task_id, task)
        if task.template.template.observed:
            step = 1 if task.state == TaskState.FINISHED else 2
            progress = Progress([(spec.task_id, step)])
            self._outgoing.actions.append(Send(task.submitter, progress))
        if not task.live:
            self._forget_task(task)

    def _forget_task(self, task: TaskRecord) -> None:
        """Forget a task when its last return has gone and it has ended."""
        if task.template.template.kind == TaskKind.ACTOR_CREATION:
            actor = self.actors.creation_of(task)
            if actor is not None:
                if actor.state != ActorState.DEAD:
                    self._end_actor(actor, "nobody held a handle to it any more")
                    return
                self.actors.forget(actor)
        if task.state not in _OPEN and self.tasks.pop(task.spec.task_id, None) is not None:
            self._journal.forget(task.spec.task_id)

    def _fail(self, task: TaskRecord, error: bytes, state: TaskState = TaskState.FAILED) -> None:
        self._deliver(self._failed_values(task, error, state))

    def _failed_values(self, task: TaskRecord, error: bytes, state: TaskState) -> list[ObjectValue]:
        """Put a task into a failed state; return the errors in place of its returns."""
        template = task.template.template
        task.state = state
        task.finished = self._now
        task.error = "see the object's value"
        spec = task.spec
        if template.kind == TaskKind.ACTOR_CREATION:
            actor = self.actors.creation_of(task)
            if actor is not None and actor.state != ActorState.DEAD:
                self.actors.failed(actor, "its __init__ could not run")
        values = [
            ObjectValue(return_id(spec.task_id, index), _ERROR, error)
            for index in range(template.num_returns)
        ]
        task.live += 1  # so that it is not forgotten before it is closed
        self._close(task)
        task.live -= 1
        if not task.live:
            self._forget_task(task)
        return values

    def _on_reclaimed(self, event: events.TasksReclaimed) -> None:
        worker = self.pool.workers.get(event.process)
        if worker is not None:
            worker.reclaiming = False
            worker.progress = self._now
            self.pool.take_back(worker, event.task_ids)

    # --- cancelling -----------------------------------------------------------------------

    def _on_cancel(self, event: events.CancelRequested) -> None:
        found = [self.tasks[task_id] for task_id in event.task_ids if task_id in self.tasks]
        if event.recursive:
            found = self._with_children(found)
        error = serialize_error(TaskCancelledError("the task was cancelled"))
        self._cancel_all(found, error, force=event.force)

    def _with_children(self, tasks: list[TaskRecord]) -> list[TaskRecord]:
        found = {task.spec.task_id: task for task in tasks}
        # Children come after their parents in the table, which keeps the order of submission.
        for task_id, task in self.tasks.items():
            if task.spec.parent in found:
                found[task_id] = task
        return list(found.values())

    def _cancel_all(self, tasks: Iterable[TaskRecord], error: bytes, force: bool = False) -> None:
        self.pool.withdraw({task for task in tasks if task.state == TaskState.READY})
        for task in tasks:
            if task.state in (TaskState.READY, TaskState.WAITING):
                self._passed_up.take(task.spec.task_id)
                self._fail(task, error, TaskState.CANCELLED)
            elif task.state == TaskState.ASSIGNED:
                self._interruptions.interrupt(task, "cancelled", error if force else None)

    def _on_tick(self, event: events.ClockTicked) -> None:
        self._interruptions.act_on_overdue(self.pool.tick(self._now), self._now)
        self.actors.tick(self._now)
        for task, error in self._passed_up.take_overdue(self._now):
            self._fail(task, error)

    # --- actors ---------------------------------------------------------------------------

    def _creation_ended(self, worker: WorkerRecord, task: TaskRecord, result: TaskResult) -> None:
        actor = self.actors.creation_of(task)
        worker.actor_id = None if actor is None else actor.actor_id
        self.pool.ended(worker, task, self._now)
        if actor is None or actor.state == ActorState.DEAD:
            worker.actor_id = None
            self.pool.kill(worker, "its actor has ended")
            return
        if result.status != _OK:
            cause = "its __init__ raised; get the first call's ref, or see the log, for the error"
            actor.worker = worker
            self.actors.failed(actor, cause)
            self._fail(task, result.values[0].data)
            return
        task.state = TaskState.FINISHED
        self.actors.created(actor, worker)
        self._journal.put(task.spec.task_id, task)
        value = ObjectValue(return_id(task.spec.task_id, 0), _INLINE, _NONE)
        self._deliver([value])

    def _on_actor_placed(self, event: events.ActorWasPlaced) -> None:
        self._passed_up.take(TaskID(event.actor_id))
        self.actors.placed(event.actor_id)

    def _on_followed(self, event: events.ActorFollowed) -> None:
        self.actors.follow(event.process, event.actor_id, self._now)

    def _on_kill_actor(self, event: events.KillActorRequested) -> None:
        actor = self.actors.records.get(event.actor_id)
        if actor is None or actor.state == ActorState.DEAD:
            return
        if event.no_restart:
            self._end_actor(actor, "raydask.kill() ended it")
        else:
            self.actors.kill(actor, "raydask.kill() ended its process", no_restart=False)

    def _end_actor(self, actor: ActorRecord, cause: str) -> None:
        self.actors.failed(actor, cause)
        self._actor_is_dead(actor)

    def _actor_is_dead(self, actor: ActorRecord) -> None:
        """Let go of what an actor's creation held."""
        task = actor.creation
        if task.state == TaskState.READY:
            self.pool.withdraw({task})
        if task.state in _OPEN:
            error = ActorDiedError(f"the actor died before it was created: {actor.cause}")
            self._fail(task, serialize_error(error))
        else:
            self._close(task)
        if actor.detached:
            self.objects.drop(creation_object(actor.actor_id))

    # --- load -----------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether the clock must tick often."""
        return self.pool.is_busy
