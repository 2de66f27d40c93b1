"""What this node has reserved for placement groups. Pure.

The global scheduler says what to reserve, and what to give back.  A reserved bundle is resources of
its group's own (``raydask.placement``).  When they go, what runs in them is ended, and it is with
what waits for them as with any task that has lost its place: the global scheduler is asked for
another, which is where tasks learn that their group is no more.
"""

from __future__ import annotations

from collections.abc import Callable

from raydask.ids import PlacementGroupID
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import SendGlobal
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.tasks import TaskTable
from raydask.local_scheduler.worker_pool import WorkerPool
from raydask.placement import supplied
from raydask.wire.messages import BundlesReserved


class BundleTable:
    """The bundles that one node has reserved.

    Parameters
    ----------
    pool : WorkerPool
    work : TaskTable
    outgoing : Outgoing
    tell_drivers : callable
        Shows a notice to a job's user.

    Attributes
    ----------
    bundles : dict of tuple to dict of str to int
        Of each group and number in it what is reserved, in steps of 1 / ``RESOURCE_UNIT``.
    infeasible : dict of PlacementGroupID to int
        Groups of this node's jobs, with these, that the cluster could not hold.
    """

    def __init__(
        self,
        pool: WorkerPool,
        work: TaskTable,
        outgoing: Outgoing,
        tell_drivers: Callable[[int | None, str], None],
    ) -> None:
        self._pool = pool
        self._work = work
        self._outgoing = outgoing
        self._tell_drivers = tell_drivers
        self.bundles: dict[tuple[PlacementGroupID, int], dict[str, int]] = {}
        self.infeasible: dict[PlacementGroupID, int] = {}

    @property
    def held(self) -> list[tuple[PlacementGroupID, int]]:
        """The bundles, each with its number in its group."""
        return list(self.bundles)

    def reserve(self, event: events.BundlesWanted) -> None:
        """Reserve bundles, all or none, and say whether that was possible."""
        resources = self._pool.resources
        resources.forget_unused()
        reserved: list[int] = []
        accepted = True
        for index, bundle in event.bundles:
            if (event.group_id, index) in self.bundles:
                continue
            if not resources.reserve(bundle, supplied(bundle, event.group_id, index)):
                accepted = False
                break
            self.bundles[event.group_id, index] = bundle
            reserved.append(index)
        if not accepted:
            self._take_out(event.group_id, reserved)
        answer = BundlesReserved(event.group_id, event.attempt, accepted)
        self._outgoing.actions.append(SendGlobal(answer))

    def _take_out(self, group_id: PlacementGroupID, indexes: list[int]) -> bool:
        """Give back those of the bundles that there are; say whether there were any."""
        found = False
        for index in indexes:
            bundle = self.bundles.pop((group_id, index), None)
            if bundle is not None:
                found = True
                self._pool.resources.give_back(bundle, supplied(bundle, group_id, index))
        return found

    def give_back(self, event: events.BundlesUnwanted) -> None:
        """Give bundles back, and end what runs in them."""
        if not self._take_out(event.group_id, event.indexes):
            return
        feasible = self._pool.resources.feasible
        waiting = [
            task
            for key, queue in self._pool.queues.items()
            if key[4] and not feasible(queue.resources)
            for task in queue
        ]
        self._pool.withdraw(set(waiting))
        for task in waiting:
            self._work.run_again(task)
        for worker in list(self._pool.workers.values()):
            if worker.allocation is not None and not feasible(worker.allocation):
                self._pool.kill(worker, event.cause)

    def judged(self, event: events.GroupWasJudged) -> None:
        """Tell the users of a group when the cluster could not hold it; wait for it if it could."""
        if event.infeasible:
            if event.group_id not in self.infeasible:
                self._tell_drivers(event.job, f"{event.infeasible}. It waits for nodes that can")
            self.infeasible[event.group_id] = event.job
        else:
            self.infeasible.pop(event.group_id, None)
            self._work.passed_up.believe(event.group_id)

    def job_ended(self, job: int) -> None:
        """Forget the groups of a job."""
        for group_id in [each for each, of in self.infeasible.items() if of == job]:
            del self.infeasible[group_id]
