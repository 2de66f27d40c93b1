"""What the global scheduler answers about tasks that were passed up. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from raydask.ids import NodeNumber, TaskID
from raydask.local_scheduler import events
from raydask.local_scheduler.actors import ActorTable
from raydask.local_scheduler.passing_up import PassedUpTasks, cannot_run
from raydask.local_scheduler.records import TaskRecord, TaskState
from raydask.local_scheduler.tasks import TaskTable
from raydask.serialization import serialize_error

if TYPE_CHECKING:
    from raydask.local_scheduler.between_nodes import BetweenNodes


class Placements:
    """Sees that tasks come to where they have been placed, or learn that they have no place.

    Parameters
    ----------
    node : NodeNumber
    work : TaskTable
    actors : ActorTable
    passed_up : PassedUpTasks
    tell_drivers : callable
        Shows a notice to a job's user.
    """

    def __init__(
        self,
        node: NodeNumber,
        work: TaskTable,
        actors: ActorTable,
        passed_up: PassedUpTasks,
        tell_drivers: Callable[[int | None, str], None],
    ) -> None:
        self._node = node
        self._work = work
        self._actors = actors
        self._passed_up = passed_up
        self._tell_drivers = tell_drivers
        self.between: BetweenNodes | None = None

    def placed(self, event: events.TasksPlaced) -> None:
        """Run tasks here, or have other nodes run them."""
        elsewhere: dict[tuple[int, int], list[TaskRecord]] = {}
        for task_id, node in event.placements:
            task = self._passed_up.take(task_id)
            if task is None or task.state != TaskState.WAITING:
                continue
            if self.between is not None and self.between.lending.lends_to(node):
                elsewhere.setdefault((node, task.job), []).append(task)
            elif node == self._node:
                self._run_here(task)
            else:
                self._passed_up.pass_up(task, self._work.now)  # the node has died meanwhile
        for (node, _), tasks in elsewhere.items():
            assert self.between is not None
            self.between.lending.lend(node, tasks)

    def _run_here(self, task: TaskRecord) -> None:
        self._passed_up.stay(task)
        if task.away:
            assert self.between is not None
            self.between.lending.bring(task)
        else:
            self._work.find_place(task)

    def found_infeasible(self, event: events.TasksFoundInfeasible) -> None:
        """Tell users of tasks that no node could run; end those that none ever will."""
        for task_id in event.task_ids:
            if event.final:
                self._end(task_id, event.detail)
                continue
            task = self._passed_up.find(task_id)
            if task is None:
                continue
            self._passed_up.doubt(task, event.detail, self._work.now)
            strategy = task.template.template.strategy
            if strategy is None or strategy.kind != "GROUP":  # of groups they are told once
                self._tell_drivers(task.job, self._passed_up.notice(task, event.detail))

    def _end(self, task_id: TaskID, detail: str) -> None:
        task = self._work.records.get(task_id)
        actor = self._actors.creation_of(task) if task is not None else None
        if actor is not None:
            self._work.creations.end_actor(actor, detail)
        elif task is not None and task.state == TaskState.WAITING:
            self._work.fail(task, serialize_error(cannot_run(task, detail)))
