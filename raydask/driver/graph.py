"""Bulk submission: a whole graph of tasks at once.

A task's arguments may be `Output` objects: the return of an earlier task of the same
submission.  Outputs are numbered through: as long as every task has one return, an output's
number is its task's.  Only the outputs that were asked for get refs; every other return is freed as
soon as the tasks that use it have finished.  Tasks run in the order in which they are
given, as far as their inputs allow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from raydask.driver.object_ref import ObjectRef, received_ref
from raydask.driver.options import task_template
from raydask.driver.session import Session, find_session
from raydask.errors import UsageError
from raydask.ids import ObjectID, TaskID, return_id
from raydask.task import TaskSpec

_STEPS = ("started", "finished", "failed")
_NO_KWARGS: Mapping[str, Any] = {}


class Output(int):
    """Stands for output number ``int(self)`` of the same submission."""

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
        How often it is run again when its worker dies.
    priority : int
        Higher goes first.
    resources : dict of str to float, optional
        Of the names that ``num_cpus`` and so on have in ``options``, or custom ones.
    retry_exceptions : bool
        Whether exceptions of the function use up retries as well.
    num_returns : int
        How many outputs it has, at least one; with several, the function returns a sequence.
    """

    __slots__ = (
        "args",
        "function",
        "kwargs",
        "name",
        "num_returns",
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
        num_returns: int = 1,
    ) -> None:
        self.num_returns = num_returns
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
        return self._session.get(ids, None, writable=self._writable)

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
        Numbers of the outputs that are wanted.
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
        self._object_ids: list[ObjectID] = []
        self._first: list[int] = []
        """The number of each task's first output."""
        for task_id, task in zip(self._task_ids, tasks):
            self._first.append(len(self._object_ids))
            for index in range(task.num_returns):
                self._object_ids.append(return_id(task_id, index))

    def run(self, outputs: Sequence[int]) -> GraphSubmission:
        session = self._session
        session.check_lost()
        last_use = self._last_uses()
        if self._observer is not None:
            for number, task_id in enumerate(self._task_ids):
                session.observers[task_id] = self._observe(number)
        # Every output is held until its last user has been submitted.
        table = session.references
        table.counts.update(dict.fromkeys(self._object_ids, 1))
        if session.call_sites is not None:
            session.call_sites.note(self._object_ids)
        refs = [received_ref(self._object_ids[number], table) for number in outputs]
        submission = GraphSubmission(session, refs, self._task_ids, self._writable)
        try:
            for number, task in enumerate(self._tasks):
                self._submit(number, task)
                self._drop(last_use.pop(number, ()))
            session.flush()
        except BaseException:
            # An argument that cannot be pickled, or an interrupt: nothing of it shall go on.
            for unused in last_use.values():
                self._drop(unused)
            for task_id in self._task_ids:
                session.observers.pop(task_id, None)
            submission.cancel()
            raise
        return submission

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
        if simple:
            spec = TaskSpec(task_id, template, b"", dependencies, [], session.depth, session.parent)
            session.outbox.add_spec(spec)
            return
        packed = session.pack(
            tuple([self._substitute(value) for value in args]),
            {name: self._substitute(value) for name, value in kwargs.items()},
        )
        session.add_task(task_id, template, packed)

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
            task.num_returns,
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
            function_id = self._functions[id(function)] = self._session.exports.add(function, name)
        options: dict[str, Any] = {
            "name": name,
            "max_retries": task.retries,
            "priority": task.priority,
            "retry_exceptions": task.retry_exceptions,
            "num_returns": task.num_returns,
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
            in_graph=True,
        )
        return self._session.register_template(template)

    def _last_uses(self) -> dict[int, list[int]]:
        """Return, for each task, the outputs that it is the last to use, or makes for nobody."""
        last: dict[int, int] = {}
        for number, task in enumerate(self._tasks):
            first = self._first[number]
            for value in _values(task):
                if type(value) is Output:
                    if value >= first or value < 0:
                        raise UsageError(
                            f"task {number} uses output {int(value)}, which no task before it "
                            "makes; submit tasks after their inputs"
                        )
                    last[value] = number
            for output in range(first, first + task.num_returns):
                last[output] = number
        uses: dict[int, list[int]] = {}
        for number, user in last.items():
            uses.setdefault(user, []).append(number)
        return uses

    def _drop(self, outputs: Iterable[int]) -> None:
        object_ids = self._object_ids
        self._session.references.dropped.extend([object_ids[output] for output in outputs])

    def _observe(self, number: int) -> Callable[[TaskID, int], None]:
        observer = self._observer
        assert observer is not None
        return lambda _, step: observer(number, _STEPS[step])


def _values(task: GraphTask) -> Iterable[Any]:
    if task.kwargs:
        return (*task.args, *task.kwargs.values())
    return task.args
