"""The end of jobs, and what outlives them. Pure.

A job ends with its driver; on nodes other than the driver's, when that one says so.  Its tasks,
workers and actors end with it, but not its detached actors.  What these need of their job is kept
while one of them lives; when none does any more, the job is ended once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raydask.errors import TaskCancelledError
from raydask.ids import NodeNumber, home_of_job
from raydask.local_scheduler.actions import SendGlobal
from raydask.local_scheduler.actors import ActorTable
from raydask.local_scheduler.bundles import BundleTable
from raydask.local_scheduler.drivers import Drivers
from raydask.local_scheduler.functions import FunctionTable
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.records import OPEN
from raydask.local_scheduler.tasks import TaskTable
from raydask.local_scheduler.worker_pool import WorkerPool
from raydask.serialization import serialize_error
from raydask.wire.messages import ActorState, JobEnded

if TYPE_CHECKING:
    from raydask.local_scheduler.between_nodes import BetweenNodes


class Jobs:
    """Ends what belongs to a job.

    Parameters
    ----------
    node : NodeNumber
    drivers : Drivers
    work : TaskTable
    pool : WorkerPool
    actors : ActorTable
    bundles : BundleTable
    functions : FunctionTable
    outgoing : Outgoing

    Attributes
    ----------
    one_has_ended : bool
        Whether one has since the last tick, or may have let go of the last that it held.
    between : BetweenNodes or None
        None as long as there is no other node.
    """

    def __init__(
        self,
        node: NodeNumber,
        drivers: Drivers,
        work: TaskTable,
        pool: WorkerPool,
        actors: ActorTable,
        bundles: BundleTable,
        functions: FunctionTable,
        outgoing: Outgoing,
    ) -> None:
        self._node = node
        self._drivers = drivers
        self._work = work
        self._pool = pool
        self._actors = actors
        self._bundles = bundles
        self._functions = functions
        self._outgoing = outgoing
        self.one_has_ended = False
        self.between: BetweenNodes | None = None

    def end(self, job: int) -> None:
        """End a job's tasks, workers and actors, but not its detached actors."""
        if home_of_job(job) == self._node:
            self._outgoing.actions.append(SendGlobal(JobEnded(job)))
        actors = list(self._actors.records.values())
        kept = [actor for actor in actors if actor.detached and actor.state != ActorState.DEAD]
        kept_tasks = {actor.creation for actor in kept}
        kept_workers = {actor.worker or actor.creation.worker for actor in kept}
        for actor in actors:
            if actor.creation.job == job and actor.creation not in kept_tasks:
                self._work.creations.end_actor(actor, "its driver has ended")
        error = serialize_error(TaskCancelledError("the driver of the task has ended"))
        if self.between is not None:
            kept_tasks.update(self.between.hosting.creations)
            kept_workers.update(task.worker for task in self.between.hosting.creations)
            kept_workers.update(hosted.worker for hosted in self.between.hosting.detached)
        kept_processes = {worker.process for worker in kept_workers if worker is not None}
        ours = [
            task
            for task in self._work.records.values()
            if task.job == job
            and task.state in OPEN
            and task not in kept_tasks
            and task.submitter not in kept_processes
        ]
        self._work.cancel_all(ours, error, force=True)
        for worker in self._pool.workers.values():
            if worker.job == job and worker not in kept_workers:
                self._pool.kill(worker, "its driver has ended")
        kept_jobs = {task.job for task in kept_tasks}
        kept_jobs.update(worker.job for worker in kept_workers if worker is not None)
        if job not in kept_jobs:
            if self.between is not None:
                self.between.job_ended(job)
            self._bundles.job_ended(job)
            self._pool.forget_job(job)
            self._functions.forget_job(job)
            self.one_has_ended = True

    def end_abandoned(self) -> None:
        """End the jobs that have neither a driver nor an actor any more."""
        if len(self._pool.job_settings) > len(self._drivers.jobs):
            # Jobs without a driver live as long as their detached actors.
            actors = self._actors.records.values()
            alive = {actor.creation.job for actor in actors if actor.state != ActorState.DEAD}
            if self.between is not None:
                # Their homes say when they end.
                alive |= self.between.guests.jobs.keys() | self.between.hosting.jobs
            for job in self._pool.job_settings.keys() - self._drivers.jobs.values() - alive:
                self.end(job)
