"""What of the control state goes before what a node says to others. Pure.

The *lineage* of an object is the task that returns it, its function, and the lineage of that
task's inputs.  From these the object can be made again; so they have to be in the control state
before another node learns of the object, or is lent the task.  An object that was put has none:
its own entry says at least where it is.

Each home sees to that for what is at home there.  Whoever is told a value learns of the refs in it,
so those count too, each time that a value goes out: when its task was lent, or its ref, it may
not have existed yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from raydask.ids import FunctionID, ObjectID, TaskID
from raydask.local_scheduler.circles import contents_of
from raydask.local_scheduler.records import FunctionRecord, ObjectRecord, TaskRecord
from raydask.wire import messages as wire
from raydask.wire.messages import ObjectValue

_FEW = 1000


class Hurry(NamedTuple):
    """How entries are asked for: each returns a number, see ``DirtyTable.hurry``."""

    task: Callable[[TaskID], int]
    object: Callable[[ObjectID], int]
    function: Callable[[FunctionID], int]


class Lineage:
    """What messages to other nodes depend on.

    Parameters
    ----------
    tasks, objects, functions : mapping
        All that the node knows.
    hurry : Hurry
    """

    def __init__(
        self,
        tasks: Mapping[TaskID, TaskRecord],
        objects: Mapping[ObjectID, ObjectRecord],
        functions: Mapping[FunctionID, FunctionRecord],
        hurry: Hurry,
    ) -> None:
        self._tasks = tasks
        self._objects = objects
        self._functions = functions
        self._hurry = hurry
        self._asked: dict[TaskID, int] = {}
        """Tasks whose lineage has been asked for, and up to which number it goes."""
        self._of: dict[type, Callable[[Any], int]] = {
            wire.Lend: self._of_lend,
            wire.LentResults: lambda said: max(
                (self._of_values(result.values) for result in said.results), default=0
            ),
            wire.Values: lambda said: self._of_values(said.values),
            wire.ReturnValues: lambda said: self._of_values(said.values),
            wire.Located: lambda said: self._of_contents(said.objects),
        }

    def of(self, message: object) -> int:
        """Ask for all that a message depends on.

        Returns
        -------
        int
            The number up to which entries have to be written before it may be said.
        """
        find = self._of.get(type(message))
        return 0 if find is None else find(message)

    def _of_lend(self, message: wire.Lend) -> int:
        number = max(self._of_values(message.values), self._of_contents(message.located))
        for template in message.templates:
            number = max(number, self._of_refs(template.nested))
        tasks = [self._tasks[s.task_id] for s in message.specs if s.task_id in self._tasks]
        return max(number, self._of_tasks(tasks))

    def _of_values(self, values: list[ObjectValue]) -> int:
        number = 0
        for value in values:
            number = max(number, self._of_refs((value.object_id,)))
            if value.nested:
                number = max(number, self._of_refs(value.nested))
        return number

    def _of_contents(self, places: list[wire.Whereabouts]) -> int:
        number = 0
        for place in places:
            number = max(number, self._of_refs((place.object_id,)))
            record = self._objects.get(place.object_id)
            if record is not None and (inside := contents_of(record)):
                number = max(number, self._of_refs(inside))
        return number

    def _of_refs(self, object_ids: Iterable[ObjectID]) -> int:
        tasks: list[TaskRecord] = []
        number = self._makers(object_ids, tasks)
        return max(number, self._of_tasks(tasks)) if tasks else number

    def _makers(self, object_ids: Iterable[ObjectID], tasks: list[TaskRecord]) -> int:
        """Add the tasks that make these objects; ask for those objects that none makes."""
        number = 0
        for object_id in object_ids:
            record = self._objects.get(object_id)
            if record is None:
                continue
            if record.task is not None:
                tasks.append(record.task)
            elif record.remote is None or record.remote.is_ours:
                number = max(number, self._hurry.object(object_id))
        return number

    def _of_tasks(self, tasks: list[TaskRecord]) -> int:
        """Ask for tasks of this node and their lineage; `tasks` is used up."""
        asked = self._asked
        number = 0
        new = []
        while tasks:
            task = tasks.pop()
            task_id = task.spec.task_id
            before = asked.get(task_id)
            if before is not None:
                number = max(number, before)
                continue
            if task.is_guest:
                continue  # its home has seen to it
            asked[task_id] = 0
            new.append(task_id)
            function_id = task.template.template.function_id
            number = max(number, self._hurry.task(task_id), self._hurry.function(function_id))
            function = self._functions.get(function_id)
            if function is not None and function.nested:
                number = max(number, self._makers(function.nested, tasks))
            spec = task.spec
            if spec.dependencies:
                number = max(number, self._makers(spec.dependencies, tasks))
            if spec.borrowed:
                number = max(number, self._makers(spec.borrowed, tasks))
        for task_id in new:
            asked[task_id] = number
        if len(asked) > _FEW and len(asked) > 2 * len(self._tasks):
            self._asked = {each: asked[each] for each in asked if each in self._tasks}
        return number
