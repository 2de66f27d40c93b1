"""Actors of other nodes that live here. Pure.

The creation of such an actor comes as a guest (`Guests`) and ends when the instance has been made:
its worker belongs to the actor from then on.  The actor's home is told that, and later that the
process has ended; whether there is to be another one, and where, is for the home to say.
"""

from __future__ import annotations

from typing import NamedTuple

from raydask.ids import ActorID, TaskID, home_of
from raydask.local_scheduler.borrowing import Borrowing
from raydask.local_scheduler.records import OPEN, TaskRecord, TaskState, WorkerRecord
from raydask.local_scheduler.tasks import TaskTable
from raydask.local_scheduler.worker_pool import WorkerPool
from raydask.task import TaskKind
from raydask.wire.messages import ActorCreated, ActorProcessDied, TaskResult, TaskStatus

_OK = int(TaskStatus.OK)


class Hosted(NamedTuple):
    """An actor of another node, and where it lives."""

    worker: WorkerRecord
    creation: TaskRecord


class Hosting:
    """The actors that one node hosts for others.

    Parameters
    ----------
    work : TaskTable
    pool : WorkerPool
    borrowing : Borrowing

    Attributes
    ----------
    hosted : dict of ActorID to Hosted
        Those that have been created.
    """

    def __init__(self, work: TaskTable, pool: WorkerPool, borrowing: Borrowing) -> None:
        self._work = work
        self._pool = pool
        self._borrowing = borrowing
        self.hosted: dict[ActorID, Hosted] = {}

    def creation_ended(
        self, worker: WorkerRecord, task: TaskRecord, result: TaskResult, now: float
    ) -> None:
        """Take in how a creation has ended in its worker, which is the actor's from now on."""
        actor_id = ActorID(task.spec.task_id)
        worker.actor_id = actor_id
        self._pool.ended(worker, task, now)
        if result.status == _OK:
            self.hosted[actor_id] = Hosted(worker, task)
            created = ActorCreated(actor_id, worker.process, worker.pid)
            self._borrowing.say(home_of(actor_id), created)
            self._work.creations.guest_ended(task, TaskState.FINISHED)
        else:
            self._pool.kill(worker, "its actor could not be created")
            self._work.creations.guest_ended(task, TaskState.FAILED, result)

    def creation_died(self, task: TaskRecord, cause: str) -> None:
        """Report that a worker has died while it created an actor."""
        self._died(ActorID(task.spec.task_id), cause)
        self._work.creations.guest_ended(task, TaskState.FAILED)

    def worker_died(self, worker: WorkerRecord, cause: str) -> None:
        """Report the death of a worker, if it was an actor of another node."""
        assert worker.actor_id is not None
        hosted = self.hosted.get(worker.actor_id)
        if hosted is not None and hosted.worker is worker:
            del self.hosted[worker.actor_id]
            self._died(worker.actor_id, cause)

    def _died(self, actor_id: ActorID, cause: str) -> None:
        self._borrowing.say(home_of(actor_id), ActorProcessDied(actor_id, cause))

    def end(self, actor_id: ActorID, cause: str) -> None:
        """End an actor's process, or the creation that has not been begun."""
        hosted = self.hosted.get(actor_id)
        if hosted is not None:
            self._pool.kill(hosted.worker, cause)
            return
        task = self._work.records.get(TaskID(actor_id))
        if task is None or not task.is_guest:
            return
        if task.worker is not None:
            self._pool.kill(task.worker, cause)
            return
        if task.state == TaskState.READY:
            self._pool.withdraw({task})
        self._work.dismiss(task)
        self._died(actor_id, cause)

    def node_lost(self, node: int) -> None:
        """End the actors of a dead node."""
        for actor_id, hosted in self.hosted.items():
            if home_of(actor_id) == node:
                self._pool.kill(hosted.worker, f"node {node}, the actor's home, is dead")

    # --- what outlives its job ------------------------------------------------------------

    @property
    def detached(self) -> list[Hosted]:
        """The detached actors among them."""
        return [hosted for hosted in self.hosted.values() if _is_detached(hosted.creation)]

    @property
    def creations(self) -> list[TaskRecord]:
        """The creations of detached actors that have not ended."""
        return [
            task
            for task in self._work.records.values()
            if task.is_guest and task.state in OPEN and _is_detached(task)
        ]

    @property
    def jobs(self) -> set[int]:
        """The jobs of which there are actors."""
        return {hosted.creation.job for hosted in self.hosted.values()}


def _is_detached(task: TaskRecord) -> bool:
    template = task.template.template
    is_creation = template.kind == TaskKind.ACTOR_CREATION
    return is_creation and template.actor is not None and template.actor.detached
