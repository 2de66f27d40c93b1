"""What is done about the memory of workers: decided from measurements. Pure.

The shell measures the *private memory* of each worker (resident and not shared: the arena's
pages are everybody's) and how much of the machine's memory is used.  Four things follow:

==================  ===========================================================================
recycling           A worker that holds more than ``worker_limit`` between two tasks is
                    replaced.  One that does so while it runs is given nothing more and is
                    measured again when it has ended what it has.  Never an actor.
enforced memory     A task with ``enforce_memory`` whose worker has grown by more than its
                    ``memory`` since it began is ended.  An actor likewise, as long as it
                    lives.  Exactly one measurement is taken at the begin: of a worker that
                    has nothing else.
monitor             While more than ``threshold`` of the machine's memory is used, one worker
                    is ended at a time, and the next one only after a measurement that was
                    taken when that one had gone.
holding back        A task that the monitor has ended and that is tried again waits: a second,
                    then two, four, and until memory is below the threshold; but no longer
                    than ``_PATIENCE`` beyond that, so that nothing ever hangs.
==================  ===========================================================================

Which worker the monitor ends
-----------------------------
1. One that is idle, the largest: nothing is lost.
2. Of those that run, in this order of kinds: tasks with retries left, actors with restarts
   left, tasks without, actors without.  Within a kind: of those that hold at least half of what
   its largest holds, the one that began last.  The first kind is taken whose choice holds as
   much as is too much.
3. If none does, of all that hold at least half of what the largest of all holds, the one of the
   first kind that began last.

The last to begin has the least to repeat, and usually waits for nobody.  The half is what spares
the small: ending those that merely came last, as a plain last-in-first-out does, fails a dozen
that did no harm while the one that grows goes on.  Workers below a floor are never
ended: where the memory is somebody else's, ending them would not help.  The driver's memory
is not the node's to give back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from raydask.errors import OutOfMemoryError, WorkerCrashedError
from raydask.ids import ProcessNumber, TaskID
from raydask.local_scheduler.actors import ActorTable
from raydask.local_scheduler.events import MemoryMeasured
from raydask.local_scheduler.records import TaskRecord, TaskState, WorkerRecord
from raydask.local_scheduler.worker_pool import WorkerPool

_SMALLEST_FLOOR = 64 << 20
_FLOOR_SHARE = 0.01
"""Of the machine's memory: a worker that holds less is not worth ending."""
_NEAR = 0.9
"""Part of the threshold above which the shell is to measure often."""
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 30.0
_PATIENCE = 30.0
_RETRYABLE_TASK, _RESTARTABLE_ACTOR, _TASK, _ACTOR = range(4)
"""The kinds of what runs, in the order in which the monitor ends them."""


class MemorySettings(NamedTuple):
    """When to interfere.

    Attributes
    ----------
    worker_limit : int
        Bytes of private memory above which a worker is replaced between tasks; 0: never.
    threshold : float
        Part of the machine's memory above which the monitor ends workers; 0: it does not.
    """

    worker_limit: int = 0
    threshold: float = 0.0


class Verdict(NamedTuple):
    """Why a worker was ended for its memory.

    Attributes
    ----------
    task : TaskRecord or None
        The task that it was ended for; None for an actor.
    cause : str
        A clause without a subject, such as ``"it held …"``.
    remedy : str
        What the user can do, an imperative clause.
    hold_back : bool
        Whether the task, if it is tried again, waits for memory.
    """

    task: TaskRecord | None
    cause: str
    remedy: str
    hold_back: bool


class _Account:
    """A worker's memory, as far as it was measured."""

    __slots__ = ("baseline", "begun", "enforced", "head", "peak", "private")

    def __init__(self) -> None:
        self.private = 0
        self.peak = 0
        """Since `head` began."""
        self.head: TaskID | None = None
        self.begun = 0.0
        """When `head` was first seen."""
        self.enforced: TaskRecord | None = None
        """Whose memory is enforced: the head, or an actor's creation."""
        self.baseline = 0
        """What the worker held when that began."""


class MemoryWatch:
    """Decides which workers go for their memory.

    Parameters
    ----------
    settings : MemorySettings
    pool : WorkerPool
    actors : ActorTable
    notify : callable
        Takes a job (None for all) and a text for its driver's user.
    """

    def __init__(
        self,
        settings: MemorySettings,
        pool: WorkerPool,
        actors: ActorTable,
        notify: Callable[[int | None, str], None],
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._actors = actors
        self._notify = notify
        self._accounts: dict[ProcessNumber, _Account] = {}
        self._verdicts: dict[ProcessNumber, Verdict] = {}
        self._held_back: dict[TaskID, tuple[TaskRecord, float]] = {}
        self._waiting_for: set[ProcessNumber] = set()
        """Workers that were ended and whose end no measurement has seen yet."""
        self._told = False
        self._near = False

    # --- measurements ---------------------------------------------------------------------

    def measured(self, event: MemoryMeasured, now: float) -> list[TaskRecord]:
        """Act on a measurement of all workers and the machine.

        Returns
        -------
        list of TaskRecord
            Those that had been held back and are to run again.
        """
        for gone in self._accounts.keys() - event.private.keys():
            del self._accounts[gone]
        for process, private in event.private.items():
            worker = self._pool.workers.get(process)
            if worker is not None:
                self._note(worker, private, now)
                if not worker.dying:
                    self._check(worker, self._accounts[process])
        allowed = int(self._settings.threshold * event.total)
        excess = event.used - allowed if allowed else 0
        self._near = bool(allowed) and event.used > _NEAR * allowed
        if excess <= 0:
            self._told = False
        elif not self._is_waiting():
            self._relieve(event, excess)
        return self._let_go(now, below=excess <= 0)

    def worker_measured(self, process: ProcessNumber, private: int, now: float) -> None:
        """Act on a measurement that the pool asked for."""
        worker = self._pool.workers.get(process)
        if worker is None or worker.dying:
            return
        head = _head(worker)
        account = self._accounts.setdefault(process, _Account())
        account.private = private
        if worker.draining and head is None:
            if not self._recycle(worker, private):
                self._pool.keep(worker)
        elif head is not None and head.template.template.enforced_memory:
            account.enforced, account.baseline = head, private
            account.head, account.begun, account.peak = head.spec.task_id, now, private

    def _note(self, worker: WorkerRecord, private: int, now: float) -> None:
        account = self._accounts.get(worker.process)
        if account is None:
            account = self._accounts[worker.process] = _Account()
        head = _head(worker)
        account.private = private
        if worker.actor_id is None:
            task_id = None if head is None else head.spec.task_id
            if task_id != account.head:
                account.head, account.begun, account.peak = task_id, now, 0
            if account.enforced is not head:
                account.enforced = None
        account.peak = max(account.peak, private)

    def _check(self, worker: WorkerRecord, account: _Account) -> None:
        """Enforce what was declared, and recycle."""
        if account.enforced is not None:
            limit = account.enforced.template.template.enforced_memory
            if account.private - account.baseline > limit:
                self._end(worker, account, *_overrun(account, limit), hold_back=False)
            return
        if worker.actor_id is not None or worker.draining:
            return
        if self._pool.is_idle(worker):
            self._recycle(worker, account.private)
        elif self._settings.worker_limit and account.private > self._settings.worker_limit:
            self._pool.drain(worker)

    def _recycle(self, worker: WorkerRecord, private: int) -> bool:
        limit = self._settings.worker_limit
        if not limit or private <= limit:
            return False
        self._pool.retire(
            worker,
            f"it held {amount(private)} of private memory between tasks, more than the "
            f"{amount(limit)} of worker_memory_limit",
        )
        return True

    @property
    def is_urgent(self) -> bool:
        """Whether measurements are wanted often."""
        return self._near or any(account.enforced for account in self._accounts.values())

    def private_memory(self, process: ProcessNumber) -> int:
        """Return the bytes of private memory that a worker had when last measured."""
        account = self._accounts.get(process)
        return 0 if account is None else account.private

    # --- the monitor ----------------------------------------------------------------------

    def _is_waiting(self) -> bool:
        """Say whether one that was ended has not gone yet, or went after this measurement."""
        self._waiting_for &= self._pool.workers.keys()
        return bool(self._waiting_for)

    def _relieve(self, event: MemoryMeasured, excess: int) -> None:
        """End one worker, if that helps."""
        floor = max(_SMALLEST_FLOOR, int(event.total * _FLOOR_SHARE))
        worth = [
            worker
            for worker in self._pool.workers.values()
            if not worker.dying and self.private_memory(worker.process) >= floor
        ]
        state = (
            f"{event.used / event.total:.1%} of the memory was used "
            f"({amount(event.used)} of {amount(event.total)}; memory_usage_threshold is "
            f"{self._settings.threshold:.1%})"
        )
        idle = [worker for worker in worth if self._pool.is_idle(worker)]
        if idle:
            largest = max(idle, key=lambda worker: self.private_memory(worker.process))
            self._waiting_for.add(largest.process)
            self._pool.retire(largest, state)
            return
        victim = self._choose([worker for worker in worth if _is_busy(worker)], excess)
        if victim is not None:
            account = self._accounts[victim.process]
            cause = (
                f"{state}, and its worker held {amount(account.private)} of private memory "
                f"(peak {amount(account.peak)})"
            )
            remedy = (
                "have fewer such tasks run at once (options(memory=…) or num_cpus=…), make "
                "their pieces smaller, or set RAYDASK_MEMORY_USAGE_THRESHOLD"
            )
            self._end(victim, account, cause, remedy, hold_back=True)
        elif not self._told:
            self._told = True
            held = sum(account.private for account in self._accounts.values())
            self._notify(
                None,
                f"{state}, and no worker holds enough of it to be worth ending: the workers "
                f"have {amount(held)} in all. The rest is the object store's, the driver's, or "
                "other programs'",
            )

    def _choose(self, workers: list[WorkerRecord], excess: int) -> WorkerRecord | None:
        if not workers:
            return None
        kinds: dict[int, list[WorkerRecord]] = {}
        for worker in workers:
            kinds.setdefault(self._kind(worker), []).append(worker)
        for kind in sorted(kinds):
            chosen = max(self._large(kinds[kind]), key=self._youth)
            if self.private_memory(chosen.process) >= excess:
                return chosen
        return min(
            self._large(workers),
            key=lambda worker: (self._kind(worker), *(-part for part in self._youth(worker))),
        )

    def _kind(self, worker: WorkerRecord) -> int:
        head = _head(worker)
        if worker.actor_id is not None:
            actor = self._actors.records.get(worker.actor_id)
        else:
            actor = None if head is None else self._actors.creation_of(head)
        if actor is not None:
            return _RESTARTABLE_ACTOR if actor.restarts_left else _ACTOR
        return _RETRYABLE_TASK if head is not None and head.retries else _TASK

    def _large(self, workers: list[WorkerRecord]) -> list[WorkerRecord]:
        largest = max(self.private_memory(worker.process) for worker in workers)
        return [worker for worker in workers if self.private_memory(worker.process) >= largest / 2]

    def _youth(self, worker: WorkerRecord) -> tuple[float, int]:
        account = self._accounts[worker.process]
        return (account.begun, account.private)

    def _end(
        self, worker: WorkerRecord, account: _Account, cause: str, remedy: str, *, hold_back: bool
    ) -> None:
        head = None if worker.actor_id is not None else _head(worker)
        self._verdicts[worker.process] = Verdict(head, cause, remedy, hold_back)
        self._waiting_for.add(worker.process)
        self._pool.kill(worker, f"it was ended for its memory: {cause}; {remedy}")
        if head is not None and head.retries and head.template.template.actor is None:
            name = head.template.template.name
            self._notify(
                head.job,
                f"task {name!r} was ended for its memory and is tried again: {cause}; {remedy}",
            )

    def verdict_on(self, process: ProcessNumber) -> Verdict | None:
        """Return why a worker that has left was ended, if it was for its memory; forget it."""
        self._accounts.pop(process, None)
        return self._verdicts.pop(process, None)

    # --- holding back ---------------------------------------------------------------------

    def was_ended_elsewhere(self, task: TaskRecord, node: int) -> None:
        """Tell the driver of a task that another node ended for its memory and that is retried."""
        name = task.template.template.name
        self._notify(
            task.job, f"task {name!r} was ended for the memory of node {node} and is tried again"
        )

    def hold_back(self, task: TaskRecord, now: float) -> None:
        """Let a task wait that is to be tried again."""
        task.state = TaskState.WAITING
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(task.attempts - 1, 10))
        self._held_back[task.spec.task_id] = (task, now + wait)

    def _let_go(self, now: float, *, below: bool) -> list[TaskRecord]:
        free = []
        for task_id, (task, until) in list(self._held_back.items()):
            if task.state != TaskState.WAITING:
                del self._held_back[task_id]
            elif now >= (until if below else until + _PATIENCE):
                del self._held_back[task_id]
                free.append(task)
        return free


def amount(size: int) -> str:
    """Return a number of bytes for people."""
    return f"{size / 1e6:,.0f} MB"


def _head(worker: WorkerRecord) -> TaskRecord | None:
    return next(iter(worker.queue.values()), None)


def _is_busy(worker: WorkerRecord) -> bool:
    return bool(worker.queue) or worker.actor_id is not None


def _overrun(account: _Account, limit: int) -> tuple[str, str]:
    """Return cause and remedy for one that took more than it declared."""
    task = account.enforced
    assert task is not None
    cause = (
        f"it took {amount(account.private - account.baseline)} of private memory (peak "
        f"{amount(account.peak - account.baseline)}) and options(memory=…, enforce_memory=True) "
        f"limits it to {amount(limit)}"
    )
    return cause, "give it more memory or less to do at once"


def death_of(task: TaskRecord, cause: str, verdict: Verdict | None) -> WorkerCrashedError:
    """Return the error for a task whose worker has died and that has no retry left."""
    name = task.template.template.name
    started = f"It was started {task.attempts} times; options(max_retries=…) allows more"
    if verdict is not None:
        return OutOfMemoryError(
            f"task {name!r} was ended for its memory: {verdict.cause}; {verdict.remedy}. {started}"
        )
    return WorkerCrashedError(f"the worker of task {name!r} died: {cause}. {started}")
