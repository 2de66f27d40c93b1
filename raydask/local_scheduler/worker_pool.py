"""Workers: which are free, what each has been given, when to start more. Pure.

A worker serves one job from its first task on, because it takes over that driver's search
path and modules.  A worker that blocks in ``get`` gives its CPUs back and another takes its
place, so the number of processes follows the depth of recursion and not the number of CPUs;
those beyond the CPUs end when they have been idle for a while.

Calls of functions with ``max_calls`` are counted here, when they have ended, and not in the
worker: such a call is alone in its worker, so the node knows of every one that has been run
and of none that was only sent; nothing has to be given back, no retry can be charged, and a
worker that is to go is never given more.  What it occupies is free when its process has gone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from raydask.control.write_behind_state import Journal
from raydask.ids import FunctionID, ObjectID, ProcessNumber, TaskID
from raydask.local_scheduler.actions import (
    KillWorker,
    MeasureWorker,
    RetireWorker,
    Send,
    SendControl,
)
from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.policy import Pipeline, ReadyQueue, Resources, cpus_of, gpus_of
from raydask.local_scheduler.records import FunctionRecord, TaskRecord, TaskState, WorkerRecord
from raydask.local_scheduler.worker_starts import ANY_JOB, WorkerStarts
from raydask.task import TaskTemplate
from raydask.wire.messages import (
    Assignment,
    Execute,
    JobSettings,
    NewTemplate,
    Progress,
    Reclaim,
    ValueKind,
)

_STORED = int(ValueKind.STORED)
_FREE_TASKS_PER_WORKER = 8
"""How many tasks that ask for no resources run at once for each worker that is kept."""
_TIDY_SECONDS = 1.0
"""How often queues are looked for that nothing uses."""


class PoolSettings(NamedTuple):
    """How many workers stay idle, and when to interfere with one.

    Attributes
    ----------
    idle : int
        Workers that are kept although they have nothing to do.
    idle_seconds : float
        After which the others end.
    reclaim_after : float
        Seconds after which the tasks behind a long one are taken back.
    start_seconds : float
        How long a job's fork server may take for anything.
    locality : bool
        Whether tasks go to the nodes that have their large inputs; if not, to any in turn.
    """

    idle: int
    idle_seconds: float
    reclaim_after: float
    start_seconds: float = 30.0
    locality: bool = True


class WorkerPool:
    """The node's workers and the tasks that are ready for them.

    Parameters
    ----------
    settings : PoolSettings
    resources : Resources
    pipeline : Pipeline
    objects : ObjectTable
        Where the values of dependencies are.
    outgoing : Outgoing
    journal : Journal
        For tasks.
    """

    def __init__(
        self,
        settings: PoolSettings,
        resources: Resources,
        pipeline: Pipeline,
        objects: ObjectTable,
        outgoing: Outgoing,
        journal: Journal,
    ) -> None:
        self._settings = settings
        self.locality = settings.locality
        self.resources = resources
        self._pipeline = pipeline
        self._objects = objects
        self._outgoing = outgoing
        self._journal = journal
        self.workers: dict[ProcessNumber, WorkerRecord] = {}
        self.functions: dict[FunctionID, FunctionRecord] = {}
        self.job_settings: dict[int, JobSettings] = {}
        self._idle: dict[int, dict[ProcessNumber, WorkerRecord]] = {}
        self._queues: dict[tuple[Any, ...], ReadyQueue] = {}
        self._limits_roots = False
        self.starts = WorkerStarts(settings.start_seconds, outgoing)
        self._now = 0.0
        self._tidied_at = float("-inf")
        self._timed: dict[TaskID, TaskRecord] = {}

    # --- workers come and go --------------------------------------------------------------

    def prestart(self) -> None:
        """Start the workers that are kept idle."""
        self.starts.start(self._settings.idle, ANY_JOB, self._now)

    def join(self, process: ProcessNumber, pid: int, now: float, job: int = ANY_JOB) -> None:
        """Note a worker that is up; `job` is the only one that it is for."""
        self.starts.joined(job, now)
        worker = self.workers[process] = WorkerRecord(process, pid, now, job)
        self._idle.setdefault(job, {})[process] = worker
        if job:
            if job in self.job_settings:
                self._outgoing.actions.append(Send(process, self.job_settings[job]))
            else:
                self.retire(worker, "its job has ended")

    def prepared(self, job: int) -> None:
        """Note that a job's workers can be had with its modules imported."""
        if self.starts.prepared(job):
            for worker in list(self._idle.get(job, {}).values()):
                if self.starts.is_outdated(worker):
                    self._replace(worker)

    def leave(self, worker: WorkerRecord) -> list[TaskRecord]:
        """Forget a worker that has ended; return what it had been given, in order."""
        del self.workers[worker.process]
        self._idle.get(worker.job, {}).pop(worker.process, None)
        self._idle.get(ANY_JOB, {}).pop(worker.process, None)
        tasks = list(worker.queue.values())
        for task in tasks:
            self._timed.pop(task.spec.task_id, None)
            self._objects.unpin_inputs(task)
        worker.queue = {}
        self._free(worker)
        return tasks

    def refill(self, job: int) -> None:
        """Start workers, best for this job, where fewer can take tasks than are to be kept."""
        missing = self._settings.idle - self._usable - self.starts.starting
        self.starts.start(missing, job, self._now)

    @property
    def _usable(self) -> int:
        """How many workers can take tasks, now or when they have ended what they have."""
        return sum(
            worker.actor_id is None and worker.blocked_on is None and not worker.dying
            for worker in self.workers.values()
        )

    def forget_job(self, job: int) -> None:
        """Drop a job's queues and settings."""
        self.job_settings.pop(job, None)
        self.starts.forget_job(job)
        if not self._idle.get(job, True):
            del self._idle[job]
        for shape in [shape for shape in self._queues if shape[0] == job]:
            del self._queues[shape]

    def kill(self, worker: WorkerRecord, why: str) -> None:
        """End a worker."""
        if not worker.dying:
            self._give_up(worker, why)
            self._outgoing.actions.append(KillWorker(worker.process))

    def retire(self, worker: WorkerRecord, why: str) -> None:
        """Let a worker end by itself that has nothing to do, and start another if one is missed."""
        if not worker.dying:
            self._give_up(worker, why)
            self._outgoing.actions.append(RetireWorker(worker.process, why))
            self.refill(worker.job)

    def _replace(self, worker: WorkerRecord) -> None:
        """Put a worker that shares the job's modules in the place of one that does not."""
        self._give_up(worker, "another shares what it would import")
        self._outgoing.actions.append(RetireWorker(worker.process, worker.dying))
        self.starts.start(1, worker.job, self._now)

    def _give_up(self, worker: WorkerRecord, why: str) -> None:
        worker.dying = why
        self._idle.get(worker.job, {}).pop(worker.process, None)
        self._withhold(worker)

    def drain(self, worker: WorkerRecord) -> None:
        """Give the worker nothing more; when it has nothing left, have it measured."""
        worker.draining = True
        self._withhold(worker)

    def keep(self, worker: WorkerRecord) -> None:
        """Go on with a worker that was drained."""
        worker.draining = False
        self._idle.setdefault(worker.job, {})[worker.process] = worker

    # --- ready tasks ----------------------------------------------------------------------

    def ready(self, task: TaskRecord) -> None:
        """Add a task that can run."""
        task.state = TaskState.READY
        shape = task.template.shape
        queue = self._queues.get(shape)
        if queue is None:
            resources = task.template.template.resources
            queue = self._queues[shape] = ReadyQueue(task.job, resources)
            if self._limits_roots:
                queue.hold_roots()
        queue.push(task)

    def withdraw(self, tasks: set[TaskRecord]) -> None:
        """Take tasks out that shall not run."""
        for shape in {task.template.shape for task in tasks}:
            queue = self._queues.get(shape)
            if queue is not None:
                queue.remove(tasks)

    @property
    def queues(self) -> dict[tuple[Any, ...], ReadyQueue]:
        """The queues of ready tasks, by shape."""
        return self._queues

    @property
    def queued(self) -> int:
        """How many tasks are ready and have no worker."""
        return sum(len(queue) + queue.held_back for queue in self._queues.values())

    def queued_tasks(self) -> list[TaskRecord]:
        """Return the tasks that are ready and have no worker."""
        return [task for queue in self._queues.values() for task in queue]

    def is_idle(self, worker: WorkerRecord) -> bool:
        """Say whether the worker can be given anything."""
        return worker.process in self._idle.get(worker.job, ())

    @property
    def queued_seconds(self) -> float:
        """Estimated work of the ready tasks; unknown ones count for nothing."""
        seconds = 0.0
        for queue in self._queues.values():
            head = queue.head()
            if head is not None and head.template.cost is not None:
                seconds += len(queue) * head.template.cost
        return seconds

    def schedule(self, now: float, is_short: bool = False) -> None:
        """Give ready tasks to workers, as far as there are any free.

        `is_short` says that the object store is short of room: root tasks are held back.
        """
        self._now = now
        if is_short or self._limits_roots:
            self._limit_roots(is_short)
        queues = [queue for queue in self._queues.values() if queue]
        if not queues:
            return
        if len(queues) > 1:
            queues.sort(key=_head_key)
        for queue in queues:
            self._serve(queue, now)

    def _limit_roots(self, is_short: bool) -> None:
        queues = self._queues.values()
        if is_short != self._limits_roots:
            self._limits_roots = is_short
            for queue in queues:
                if is_short:
                    queue.hold_roots()
                else:
                    queue.release_roots(None)
        if is_short and any(queue.held_back for queue in queues) and not self._anything_else():
            for queue in queues:
                queue.release_roots(self._settings.idle)

    def _anything_else(self) -> bool:
        """Say whether anything but what is held back is ready or under way."""
        return any(self._queues.values()) or any(
            worker.queue and worker.blocked_on is None for worker in self.workers.values()
        )

    def _serve(self, queue: ReadyQueue, now: float) -> None:
        head = queue.head()
        assert head is not None
        shape = head.template.shape
        room = self.resources.how_often(queue.resources, len(queue))
        for_actors = shape[1]
        if not for_actors and queue.is_weightless:
            # Nothing else bounds how many of these run at once.
            limit = _FREE_TASKS_PER_WORKER * self._settings.idle
            room = min(room, max(0, limit - len(queue.workers)))
        while room:
            worker = self._take_idle(queue.job)
            if worker is None:
                break
            room -= 1
            self._allocate(worker, queue)
            if for_actors:
                self._assign(worker, [queue.pop()], now)
                continue
            worker.shape = shape
            queue.workers[worker.process] = worker
        if room and queue.job in self.job_settings:
            if not self.starts.is_importing(queue.job):
                missing = room - self.starts.starting_for(queue.job)
                self.starts.start(missing, queue.job, now)
        if not for_actors and queue.workers and queue:
            self._share_out(queue, now)

    def _share_out(self, queue: ReadyQueue, now: float) -> None:
        workers = list(queue.workers.values())
        if len(workers) > 1:
            workers.sort(key=_load)
        left = len(workers)
        for worker in workers:
            share = -(-len(queue) // left)
            left -= 1
            if not share:
                break
            tasks = self._pipeline.take(queue, worker, share)
            if tasks:
                self._assign(worker, tasks, now)

    def _take_idle(self, job: int) -> WorkerRecord | None:
        own = self._idle.get(job)
        if own:
            return own.popitem()[1]
        fresh = self._idle.get(ANY_JOB)
        settings = self.job_settings.get(job)
        if not fresh or settings is None or not self.starts.takes_any(job):
            return None
        worker = fresh.popitem()[1]
        worker.job = job
        self._outgoing.actions.append(Send(worker.process, settings))
        return worker

    def _allocate(self, worker: WorkerRecord, queue: ReadyQueue) -> None:
        self.resources.allocate(queue.resources)
        worker.allocation = queue.resources
        if queue.gpus:
            worker.gpus = self.resources.take_gpus(queue.resources[queue.gpus], queue.gpus)

    def _assign(self, worker: WorkerRecord, tasks: list[TaskRecord], now: float) -> None:
        templates: list[NewTemplate] = []
        assignments: list[Assignment] = []
        known = worker.templates
        if not worker.queue:
            worker.progress = now
        records = self._objects.records
        put = self._journal.put
        for task in tasks:
            template = task.template
            spec = task.spec
            if template not in known:
                known.add(template)
                templates.append(self._introduce(worker, task))
            task.state = TaskState.ASSIGNED
            task.worker = worker
            task.worker_pid = worker.pid
            worker.queue[spec.task_id] = task
            values = [records[object_id].value for object_id in spec.dependencies]
            for value in values:
                if value.kind == _STORED:  # type: ignore[union-attr]  # as below
                    self._objects.pin_inputs(task)
                    break
            assignments.append(
                Assignment(
                    spec.task_id,
                    template.number,
                    spec.args,
                    values,  # type: ignore[arg-type]  # a ready task's inputs have values
                    spec.borrowed,
                    spec.depth,
                    task.attempts,
                )
            )
            task.attempts += 1
            if not task.is_guest:
                put(spec.task_id, task)
            if template.alone:
                self._watch_closely(worker, task, now)
        self._outgoing.actions.append(
            Send(worker.process, Execute(templates, assignments, worker.gpus))
        )

    def _introduce(self, worker: WorkerRecord, task: TaskRecord) -> NewTemplate:
        template = task.template
        function_id = template.template.function_id
        code = b""
        if function_id not in worker.functions:
            worker.functions.add(function_id)
            function = self.functions.get(function_id)
            if function is not None:
                code = function.code
        return NewTemplate(template.number, template.template, code)

    def _watch_closely(self, worker: WorkerRecord, task: TaskRecord, now: float) -> None:
        template = task.template.template
        if template.enforced_memory:
            self._outgoing.actions.append(MeasureWorker(worker.process))
        if template.observed:
            progress = Progress([(task.spec.task_id, 0)])
            self._outgoing.actions.append(Send(task.submitter, progress))
        if template.timeout is not None:
            task.deadline = now + template.timeout
            self._timed[task.spec.task_id] = task

    # --- tasks end ------------------------------------------------------------------------

    def ended(self, worker: WorkerRecord, task: TaskRecord, now: float) -> None:
        """Take a task from its worker, which has ended it."""
        del worker.queue[task.spec.task_id]
        worker.load -= task.cost
        worker.progress = now
        worker.reclaiming = False
        if task.deadline:
            self._timed.pop(task.spec.task_id, None)
        if task.pinned:
            self._objects.unpin_inputs(task)
        if task.template.alone:
            self._count_call(worker, task.template.template)
        if not worker.queue and worker.actor_id is None:
            if worker.spent:
                self.retire(worker, worker.spent)
            else:
                self.make_idle(worker, now)

    def _count_call(self, worker: WorkerRecord, template: TaskTemplate) -> None:
        if template.max_calls:
            calls = worker.calls.get(template.function_id, 0) + 1
            worker.calls[template.function_id] = calls
            if calls >= template.max_calls:
                worker.spent = f"it has run {template.name!r} as often as its max_calls says"

    def make_idle(self, worker: WorkerRecord, now: float) -> None:
        """Free what the worker occupies; it can be given anything of its job."""
        self._free(worker)
        worker.load = 0.0
        worker.idle_since = now
        if worker.draining:
            self._outgoing.actions.append(MeasureWorker(worker.process))
        elif self.starts.is_outdated(worker) and not worker.dying:
            self._replace(worker)
        elif not worker.dying:
            self._idle.setdefault(worker.job, {})[worker.process] = worker

    def _free(self, worker: WorkerRecord) -> None:
        self._withhold(worker)
        worker.shape = None
        allocation = worker.allocation
        if allocation is not None:
            if worker.gpus:
                name = gpus_of(allocation)
                self.resources.return_gpus(worker.gpus, allocation[name], name)
                worker.gpus = []
            if worker.blocked_on is None:
                self.resources.free(allocation)
            else:
                cpus = cpus_of(allocation)
                self.resources.free({k: v for k, v in allocation.items() if k not in cpus})
            worker.allocation = None
        worker.blocked_on = None

    def _withhold(self, worker: WorkerRecord) -> None:
        """Give the worker nothing more of the queue that it serves."""
        if worker.shape is not None:
            queue = self._queues.get(worker.shape)
            if queue is not None:
                queue.workers.pop(worker.process, None)

    def take_back(
        self, worker: WorkerRecord, task_ids: list[TaskID], now: float
    ) -> list[TaskRecord]:
        """Take tasks from a worker that gives them back, not begun; return them."""
        taken = []
        for task_id in task_ids:
            task = worker.queue.pop(task_id, None)
            if task is None:
                continue
            worker.load -= task.cost
            if task.deadline:
                self._timed.pop(task_id, None)
            self._objects.unpin_inputs(task)
            if task.state == TaskState.ASSIGNED:
                task.attempts -= 1
                task.worker = None
                taken.append(task)
        if taken and not worker.queue and worker.actor_id is None:
            # What it ran has been reported on the other socket meanwhile.
            self.make_idle(worker, now)
        return taken

    def lent_resources(self) -> dict[str, int]:
        """Return what tasks of other nodes use that came under a lease, not placed otherwise."""
        lent: dict[str, int] = {}
        for worker in self.workers.values():
            shape = worker.shape
            if shape is not None and shape[2] and not shape[4] and worker.blocked_on is None:
                for name, amount in (worker.allocation or {}).items():
                    lent[name] = lent.get(name, 0) + amount
        return lent

    def reclaim_guests(self) -> None:
        """Have workers give back the tasks of other nodes that stand behind what they run."""
        for worker in self.workers.values():
            if len(worker.queue) > 1 and worker.shape is not None and worker.shape[2]:
                worker.reclaiming = True
                self._outgoing.actions.append(SendControl(worker.process, Reclaim()))

    # --- blocking -------------------------------------------------------------------------

    def block(self, worker: WorkerRecord, object_ids: set[ObjectID]) -> None:
        """Note that the worker's main thread waits for these; its CPUs are free meanwhile."""
        if worker.blocked_on is None:
            self._give_cpus(worker, worker.allocation)
            self._withhold(worker)
        worker.blocked_on = object_ids

    def unblock(self, worker: WorkerRecord, now: float) -> None:
        """Note that the worker's main thread goes on."""
        if worker.blocked_on is None:
            return
        worker.blocked_on = None
        worker.progress = now
        if worker.allocation is not None:
            self.resources.allocate(cpus_of(worker.allocation))
        if worker.shape in self._queues and not worker.dying and not worker.draining:
            self._queues[worker.shape].workers[worker.process] = worker

    def _give_cpus(self, worker: WorkerRecord, allocation: dict[str, int] | None) -> None:
        if allocation is not None:
            self.resources.free(cpus_of(allocation))

    # --- time -----------------------------------------------------------------------------

    def tick(self, now: float) -> list[TaskRecord]:
        """Reclaim and retire; return the tasks that run longer than they may."""
        settings = self._settings
        for worker in self.workers.values():
            if len(worker.queue) > 1 and worker.blocked_on is None and not worker.reclaiming:
                if now - worker.progress > settings.reclaim_after:
                    worker.reclaiming = True
                    self._outgoing.actions.append(SendControl(worker.process, Reclaim()))
        self._retire_surplus(now)
        self._forget_unused_queues(now)
        self.starts.tick(now)
        return [task for task in self._timed.values() if now > task.deadline]

    def _retire_surplus(self, now: float) -> None:
        idle = [worker for workers in self._idle.values() for worker in workers.values()]
        surplus = min(len(idle), self._usable - self._settings.idle)
        if surplus <= 0:
            return
        idle.sort(key=lambda worker: worker.idle_since)
        for worker in idle[:surplus]:
            if now - worker.idle_since > self._settings.idle_seconds:
                self.retire(worker, "it was idle")

    def _forget_unused_queues(self, now: float) -> None:
        # Each placement group has queues of its own, and every event looks at all there are.
        if 0 <= now - self._tidied_at < _TIDY_SECONDS:
            return
        self._tidied_at = now
        served = {worker.shape for worker in self.workers.values()}
        for shape, queue in list(self._queues.items()):
            if not (queue or queue.held_back or shape in served):
                del self._queues[shape]

    def others_work(self, process: ProcessNumber) -> bool:
        """Say whether any worker but this one has something to do."""
        return any(
            worker.queue or worker.actor_id is not None
            for worker in self.workers.values()
            if worker.process != process
        )

    @property
    def is_busy(self) -> bool:
        """Whether anything may need attention in a few hundredths of a second."""
        return bool(self._timed) or any(len(worker.queue) > 1 for worker in self.workers.values())


def _head_key(queue: ReadyQueue) -> int:
    head = queue.head()
    return head.key if head is not None else 0


def _load(worker: WorkerRecord) -> float:
    return worker.load
