"""Simulated fork servers: they take their time, import or end, and take their workers with them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from raydask.local_scheduler import actions, events

if TYPE_CHECKING:
    from raydask.testing.cluster import SimulatedCluster

_LONGEST_IMPORT = 0.5


class SimulatedForkServers:
    """The fork servers of a simulated node's jobs, as its supervisor has them.

    Parameters
    ----------
    cluster : SimulatedCluster
    """

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self.jobs: set[int] = set()
        self.workers = 0
        """How many workers have come from one."""

    def prepare(self, action: actions.PrepareWorkers) -> None:
        """Import for a job, after a while."""
        rng = self._cluster.rng
        self.jobs.add(action.job)
        if rng.random() < self._cluster.faults.lost_server:
            self._cluster.clock.after(rng.random(), partial(self.end, action.job))
        delay = _LONGEST_IMPORT * rng.random()
        self._cluster.clock.after(delay, partial(self._prepared, action.job))

    def _prepared(self, job: int) -> None:
        if job in self.jobs:
            self._cluster.handle(events.WorkersPrepared(job))

    def fork(self, action: actions.StartWorkers) -> None:
        """Fork workers of a job, unless its fork server ends before."""
        for _ in range(action.number):
            delay = 0.005 * (1 + self._cluster.rng.random())
            self._cluster.clock.after(delay, partial(self._forked, action.job))
        if action.job not in self.jobs:
            self._cluster.clock.after(0.0, partial(self._tell_of_end, action.job))

    def _forked(self, job: int) -> None:
        if job in self.jobs:
            self.workers += 1
            self._cluster.worker_up(job)

    def end(self, job: int) -> None:
        """End a job's fork server and its workers, in any order as the node hears of it."""
        if job not in self.jobs:
            return
        self.jobs.discard(job)
        cluster = self._cluster
        cluster.clock.after(0.001 * cluster.rng.random(), partial(self._tell_of_end, job))
        for worker in cluster.workers():
            if worker.source == job:
                cluster.crash(worker)

    def _tell_of_end(self, job: int) -> None:
        self._cluster.handle(events.ForkServerEnded(job))
