"""The programs connected to a node: which jobs they drive, and what they are told. Pure."""

from __future__ import annotations

from raydask.ids import ProcessNumber
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import Send
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.worker_pool import WorkerPool
from raydask.wire.messages import JobSettings, Notice


class Drivers:
    """The drivers of one node.

    Parameters
    ----------
    pool : WorkerPool
    outgoing : Outgoing

    Attributes
    ----------
    jobs : dict of ProcessNumber to int
        The job of each driver that is connected.
    """

    def __init__(self, pool: WorkerPool, outgoing: Outgoing) -> None:
        self._pool = pool
        self._outgoing = outgoing
        self.jobs: dict[ProcessNumber, int] = {}

    def joined(self, event: events.DriverJoined) -> None:
        """Take in a driver, whose job begins."""
        self.jobs[event.process] = event.job
        self._pool.job_settings[event.job] = JobSettings(
            event.job, event.namespace, event.search_path, event.folder
        )

    def job_of(self, process: ProcessNumber) -> int:
        """Return the job of a driver or worker; 0: none."""
        worker = self._pool.workers.get(process)
        return worker.job if worker is not None else self.jobs.get(process, 0)

    def tell(self, job: int | None, text: str) -> None:
        """Show a notice, if there is any text, to a job's user or to everybody."""
        for process, of_job in self.jobs.items():
            if text and (job is None or of_job == job):
                self._outgoing.actions.append(Send(process, Notice(text)))

    def announce(self, process: ProcessNumber, text: str) -> None:
        """Show a notice to the user whose job a driver or worker belongs to."""
        self.tell(self.job_of(process), text)
