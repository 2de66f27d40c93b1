"""Workers on their way: how many are asked for, of whom, and when to stop asking. Pure.

A worker comes from the supervisor, and serves whichever job needs one first; or from its job's
own fork server, which has imported the packages that the job's functions name, so that
its workers share them.  A job's fork server goes through these states::

    (none) --modules named--> IMPORTING --prepared--> READY
                                  |                     |
                                  +--- ended, overdue --+--> LOST

While it imports, the job is given no fresh worker, which would import the same for itself; those
that it has go on.  When it is ready, they are replaced one by one, whenever one has nothing
to do.  Without it (LOST, none) the job's workers come from the supervisor.
"""

from __future__ import annotations

from enum import IntEnum

from raydask.local_scheduler.actions import EndForkServer, PrepareWorkers, StartWorkers
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.records import WorkerRecord
from raydask.wire.messages import JobSettings

ANY_JOB = 0
_FAILURES_BY_CHANCE = 2
_SHORTEST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0


class ServerState(IntEnum):
    """What a job's fork server is at."""

    IMPORTING = 1
    READY = 2
    LOST = 3


class WorkerStarts:
    """The workers that are asked for and not yet up.

    Parameters
    ----------
    patience : float
        Seconds that a job's fork server may take to import, and its workers to come.
    outgoing : Outgoing
    """

    def __init__(self, patience: float, outgoing: Outgoing) -> None:
        self._patience = patience
        self._outgoing = outgoing
        self._starting: dict[int, int] = {}
        self._servers: dict[int, ServerState] = {}
        self.modules: dict[int, list[str]] = {}
        """What each job's functions have been said to import, in that order."""
        self._since: dict[int, float] = {}
        """Since when a job's fork server owes something."""
        self._failures = 0
        self._start_again_at = 0.0

    # --- workers --------------------------------------------------------------------------

    def start(self, count: int, job: int, now: float) -> None:
        """Ask for workers for a job, or for `ANY_JOB`."""
        if count <= 0 or now < self._start_again_at:
            return
        source = job if self._servers.get(job) == ServerState.READY else ANY_JOB
        if source and not self._starting.get(source):
            self._since[source] = now
        self._starting[source] = self._starting.get(source, 0) + count
        self._outgoing.actions.append(StartWorkers(count, source))

    def starting_for(self, job: int) -> int:
        """Return how many are on their way that the job can have."""
        source = job if self._servers.get(job) == ServerState.READY else ANY_JOB
        return self._starting.get(source, 0)

    @property
    def starting(self) -> int:
        """How many are on their way."""
        return sum(self._starting.values())

    def joined(self, job: int, now: float) -> None:
        """Note one that is up; `job` is the only one that it can work for."""
        self._no_longer_starting(1, job)
        self._since[job] = now
        self._failures = 0

    def failed(self, count: int, job: int, now: float) -> None:
        """Note some that will never come; if that goes on, others start ever later."""
        self._no_longer_starting(count, job)
        self._failures += count
        if self._failures > _FAILURES_BY_CHANCE:
            pause = min(_LONGEST_PAUSE, _SHORTEST_PAUSE * 2**self._failures)
            self._start_again_at = now + pause

    def _no_longer_starting(self, count: int, job: int) -> None:
        left = self._starting.get(job, 0) - count
        if left > 0:
            self._starting[job] = left
        else:
            self._starting.pop(job, None)

    # --- fork servers ---------------------------------------------------------------------

    def prepare(self, settings: JobSettings, modules: list[str], now: float) -> None:
        """Have modules imported for the workers of a job that are still to come, once each."""
        job = settings.job
        known = self.modules.setdefault(job, [])
        modules = [module for module in modules if module not in known]
        if not modules:
            return
        known += modules
        state = self._servers.get(job)
        if state == ServerState.LOST:
            return
        if state is None:
            self._servers[job] = ServerState.IMPORTING
            self._since[job] = now
        self._outgoing.actions.append(
            PrepareWorkers(job, modules, settings.search_path, settings.folder)
        )

    def prepared(self, job: int) -> bool:
        """Note that a job's fork server has imported; say whether it is wanted."""
        if self._servers.get(job) not in (ServerState.IMPORTING, ServerState.READY):
            return False
        self._servers[job] = ServerState.READY
        return True

    def server_ended(self, job: int) -> None:
        """Note that a job's fork server is no more, and what it was to start neither."""
        if job in self._servers:
            self._servers[job] = ServerState.LOST
        self._starting.pop(job, None)

    def forget_job(self, job: int) -> None:
        """End a job's fork server, and with it what is on its way."""
        if self._servers.pop(job, None) is not None:
            self._outgoing.actions.append(EndForkServer(job))
        self._starting.pop(job, None)
        self._since.pop(job, None)
        self.modules.pop(job, None)

    def is_importing(self, job: int) -> bool:
        """Say whether the job's workers are soon to be had with its modules."""
        return self._servers.get(job) == ServerState.IMPORTING

    def takes_any(self, job: int) -> bool:
        """Say whether the job takes workers that come from the supervisor."""
        return self._servers.get(job) in (None, ServerState.LOST)

    def is_outdated(self, worker: WorkerRecord) -> bool:
        """Say whether the job's fork server has a better one to offer."""
        return worker.source == ANY_JOB and self._servers.get(worker.job) == ServerState.READY

    def tick(self, now: float) -> None:
        """Give up fork servers that owe something for too long."""
        for job, state in self._servers.items():
            if now - self._since[job] <= self._patience:
                continue
            if state == ServerState.IMPORTING:
                self._outgoing.actions.append(EndForkServer(job))
                self.server_ended(job)
            elif state == ServerState.READY and self._starting.get(job):
                # Those that it has forked live on; it is not asked again.
                self.server_ended(job)
