"""Bulk submission: a whole graph of tasks at once.

A task's arguments may be `Output` objects: the return of an earlier task of the same
submission.  Only the outputs that were asked for get refs; every other return is freed as
soon as the tasks that use it have finished.  Tasks run in the order in which they are
given, as far as their inputs allow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from raydask.driver.object_ref import ObjectRef, new_ref, received_ref
from raydask.driver.options import task_template
from raydask.driver.session import Session, find_session
from raydask.errors import UsageError
from raydask.ids import ObjectID, TaskID
from raydask.task import TaskSpec

_CHUNK = 256
_STEPS = ("started", "finished", "failed")
_NO_KWARGS: Mapping[str, Any] = {}


class Output(int):
    """Stands for the return of task number ``int(self)`` of the same submission."""

    __slots__ = ()


class GraphTask:
    """One task of a graph.

    Parameters
    ----------
    function : callable
        Exported once, however many tasks share it.
    args : tuple
        `Output` and `ObjectRef` at the top level stand for their values.
    kwargs : mapping, optional
        Likewise.
    name : str
        Groups tasks in statistics, logs and tables.
    retries : int
        How often it is run again when its worker dies or, if positive and given, raises.
    priority : int
        Higher goes first.
    resources : dict of str to float, optional
        Of the names that ``num_cpus`` and so on have in ``options``, or custom ones.
    retry_exceptions : bool
        Whether exceptions of the function use up retries as well.
    """

    __slots__ = (
        "args",
        "function",
        "kwargs",
        "name",
        "priority",
        "resources",
        "retries",
        "retry_exceptions",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str = "",
        retries: int = 3,
        priority: int = 0,
        resources: Mapping[str, float] | None = None,
        retry_exceptions: bool = False,
    ) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.name = name
        self.retries = retries
        self.priority = priority
        self.resources = resources
        self.retry_exceptions = retry_exceptions


class GraphSubmission:
    """A graph that was submitted.

    Attributes
    ----------
    refs : list of ObjectRef
        One for each output that was asked for, in that order.
    """

    __slots__ = ("_session", "_task_ids", "_writable", "refs")

    def __init__(
        self,
        session: Session,
        refs: list[ObjectRef],
        task_ids: list[TaskID],
        writable: bool = False,
    ) -> None:
        self.refs = refs
        self._session = session
        self._task_ids = task_ids
        self._writable = writable

    def get(self, refs: Sequence[ObjectRef] | None = None) -> list[Any]:
        """Return the values of some of the refs, or of all, as ``raydask.get`` does.

        Arrays are private copy-on-write views if the graph was submitted as writable.
        """
        ids = [ref._id for ref in (self.refs if refs is None else refs)]
        return self._session.get(ids, None, self._writable)

    def cancel(self) -> None:
        """Cancel every task that has not finished; harmless when all have."""
        if self._session.lost is None:
            self._session.request("cancel", (self._task_ids, False, False), bool)


def submit_graph(
    tasks: Sequence[GraphTask],
    outputs: Sequence[int],
    *,
    writable: bool = False,
    observer: Callable[[int, str], None] | None = None,
) -> GraphSubmission:
    """Submit a graph.

    Parameters
    ----------
    tasks : sequence of GraphTask
        In the order in which they should run; an `Output` names an earlier one.
    outputs : sequence of int
        Numbers of the tasks whose returns are wanted.
    writable : bool
        Whether arrays among the tasks' inputs are private copy-on-write views, so that
        functions may change them in place and nobody else sees it.
    observer : callable, optional
        Called with a task's number and ``"started"``, ``"finished"`` or ``"failed"`` when that
        happens, in whichever thread reads the news.

    Raises
    ------
    UsageError
        There is no session, or an `Output` does not name an earlier task.
    """
    session = find_session()
    if session is None:
        raise UsageError("raydask is not running in this process: call raydask.init() first")
    return _Submitter(session, tasks, writable, observer).run(outputs)


class _Submitter:
    """One submission under way."""

    def __init__(
        self,
        session: Session,
        tasks: Sequence[GraphTask],
        writable: bool,
        observer: Callable[[int, str], None] | None,
    ) -> None:
        self._session = session
        self._tasks = tasks
        self._writable = writable
        self._observer = observer
        self._templates: dict[tuple[Any, ...], int] = {}
        self._functions: dict[int, Any] = {}
        next_id = session.ids.next_task_id
        self._task_ids = [next_id() for _ in tasks]
        self._object_ids = [ObjectID(task_id + b"\0\0\0\0") for task_id in self._task_ids]

    def run(self, outputs: Sequence[int]) -> GraphSubmission:
        session = self._session
        session.check_lost()
        table = session.references
        object_ids = self._object_ids
        refs = _refs_of(outputs, object_ids, table)
        wanted = {object_ids[number] for number in outputs}
        for number, task_id in enumerate(self._task_ids):
            if self._observer is not None:
                session.observers[task_id] = self._observe(number)
        tasks = self._tasks
        last_use = self._last_uses()
        to_drop: list[ObjectID] = []
        for number, task in enumerate(tasks):
            self._submit(number, task)
            for used in last_use.get(number, ()):
                if object_ids[used] not in wanted:
                    to_drop.append(object_ids[used])
            if len(to_drop) >= _CHUNK:
                self._drop(to_drop)
                to_drop = []
        self._drop(to_drop)
        session.flush()
        return GraphSubmission(session, refs, self._task_ids, self._writable)

    def _submit(self, number: int, task: GraphTask) -> None:
        session = self._session
        dependencies: list[ObjectID] = []
        args = task.args
        kwargs = task.kwargs or _NO_KWARGS
        simple = not kwargs
        if simple:
            for value in args:
                if type(value) is not Output:
                    simple = False
                    break
                dependencies.append(self._object_ids[value])
        task_id = self._task_ids[number]
        template = self._template(task)
        table = session.references
        table.counts[self._object_ids[number]] = table.counts.get(self._object_ids[number], 0) + 1
        if simple:
            spec = TaskSpec(task_id, template, b"", dependencies, [], session.depth, session.parent)
            session.outbox.add_spec(spec)
            return
        packed = session.pack(
            tuple([self._substitute(value) for value in args]),
            {name: self._substitute(value) for name, value in kwargs.items()},
        )
        session.escape_private(packed.dependencies)
        session.outbox.add_spec(
            TaskSpec(
                task_id,
                template,
                packed.data,
                packed.dependencies,
                packed.borrowed,
                session.depth,
                session.parent,
            )
        )

    def _substitute(self, value: Any) -> Any:
        if type(value) is Output:
            return received_ref(self._object_ids[value], self._session.references)
        return value

    def _template(self, task: GraphTask) -> int:
        resources = task.resources
        key = (
            id(task.function),
            task.name,
            task.retries,
            task.priority,
            task.retry_exceptions,
            tuple(sorted(resources.items())) if resources else None,
        )
        number = self._templates.get(key)
        if number is None:
            number = self._templates[key] = self._new_template(task)
        return number

    def _new_template(self, task: GraphTask) -> int:
        function = task.function
        name = task.name or getattr(function, "__qualname__", repr(function))
        function_id = self._functions.get(id(function))
        if function_id is None:
            function_id = self._functions[id(function)] = self._session.export(function, name)
        options: dict[str, Any] = {
            "name": name,
            "max_retries": task.retries,
            "priority": task.priority,
            "retry_exceptions": task.retry_exceptions,
        }
        if task.resources:
            known = ("num_cpus", "num_gpus", "memory")
            options.update({k: v for k, v in task.resources.items() if k in known})
            options["resources"] = {k: v for k, v in task.resources.items() if k not in known}
        template = task_template(
            function_id,
            name,
            options,
            writable=self._writable,
            observed=self._observer is not None,
        )
        return self._session.register_template(template)

    def _last_uses(self) -> dict[int, list[int]]:
        """Return, for each task, the tasks whose returns it is the last to use."""
        last: dict[int, int] = {}
        for number, task in enumerate(self._tasks):
            last[number] = number
            for value in _values(task):
                if type(value) is Output:
                    if value >= number or value < 0:
                        raise UsageError(
                            f"task {number} uses the output of task {int(value)}, which does "
                            "not come before it; submit tasks after their inputs"
                        )
                    last[value] = number
        uses: dict[int, list[int]] = {}
        for number, user in last.items():
            uses.setdefault(user, []).append(number)
        return uses

    def _drop(self, object_ids: list[ObjectID]) -> None:
        self._session.references.dropped.extend(object_ids)

    def _observe(self, number: int) -> Callable[[TaskID, int], None]:
        observer = self._observer
        assert observer is not None
        return lambda _, step: observer(number, _STEPS[step])


def _values(task: GraphTask) -> Iterable[Any]:
    if task.kwargs:
        return (*task.args, *task.kwargs.values())
    return task.args


def _refs_of(outputs: Sequence[int], object_ids: list[ObjectID], table: Any) -> list[ObjectRef]:
    refs = []
    for number in outputs:
        object_id = object_ids[number]
        if object_id in table.counts:
            refs.append(received_ref(object_id, table))
        else:
            refs.append(new_ref(object_id, table))
    return refs
