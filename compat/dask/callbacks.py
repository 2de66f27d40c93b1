"""A graph whose progress Dask's callbacks watch.

Dask's callbacks (progress bars, profilers, the user's own) are told of every task's start
and finish, with the state dictionary that Dask's own schedulers keep, and with the results.
So a watched run keeps that dictionary, with Dask's own functions for it, and keeps each
result until the callbacks have had it; what nobody watches pays nothing for this.

All callbacks run in the thread that called ``get``.  What a task does reaches it through a
queue: the engine's observer appends to it, and so does a thread that waits for the
results.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dask._task_spec import Alias, GraphNode, convert_legacy_graph
from dask.local import finish_task, start_state_from_dask

import raydask
from raydask.compat.dask.conversion import Conversion
from raydask.errors import TaskError
from raydask.graph import GraphSubmission, submit_graph

_WHERE = "raydask"
"""What callbacks are told instead of a worker's thread or process number."""


class _Outcome:
    """The results of the requested tasks, or what went wrong."""

    __slots__ = ("error", "results")

    def __init__(self, results: list[Any], error: BaseException | None = None) -> None:
        self.results = results
        self.error = error


class ObservedRun:
    """One run of a graph under observation.

    Parameters
    ----------
    callbacks : sequence of tuple
        Each with the functions for start, start_state, pretask, posttask and finish, or
        None in their places.
    rerun_locally : bool
        Whether a task that failed is run again in this process.
    """

    def __init__(
        self, callbacks: Sequence[tuple[Callable[..., Any] | None, ...]], rerun_locally: bool
    ) -> None:
        self._callbacks = callbacks
        self._before = [callback[2] for callback in callbacks if callback[2]]
        self._after = [callback[3] for callback in callbacks if callback[3]]
        self._rerun_locally = rerun_locally
        self._graph: dict[Any, GraphNode] = {}
        self._state: dict[str, Any] = {}
        self._requested: set[Any] = set()
        self._position: Callable[[Any], int] = hash
        self._events: queue.SimpleQueue[tuple[int, str] | _Outcome] = queue.SimpleQueue()

    def compute(
        self,
        graph: Mapping[Any, Any],
        requested: list[Any],
        convert: Callable[[Mapping[Any, GraphNode]], Conversion],
    ) -> dict[Any, Any]:
        """Return the values of the requested keys.

        Raises
        ------
        TaskError
            A task failed.
        """
        begun = []
        succeeded = False
        # Callbacks may put results that they remember into the graph.
        self._graph = dict(graph)
        try:
            for callback in self._callbacks:
                if callback[0]:
                    callback[0](self._graph)
                begun.append(callback)
            self._graph = convert_legacy_graph(self._graph)
            conversion = convert(self._graph)
            values = self._run(conversion, requested)
            succeeded = True
            return values
        finally:
            for callback in begun:
                if callback[4]:
                    callback[4](self._graph, self._state, not succeeded)

    def _run(self, conversion: Conversion, requested: list[Any]) -> dict[Any, Any]:
        places = {key: place for place, key in enumerate(conversion.keys)}
        self._position = lambda key: places.get(key, -1)
        self._requested = set(requested)
        needed = {key: self._graph[key] for key in (*conversion.outputs, *conversion.values)}
        self._state = start_state_from_dask(needed, sortkey=self._position)
        for callback in self._callbacks:
            if callback[1]:
                callback[1](self._graph, self._state)
        for key in [key for key in self._state["ready"] if type(self._graph[key]) is Alias]:
            self._finished(key, conversion.values[key])

        wanted = conversion.outputs_of(requested)
        if not wanted:
            return conversion.values
        keeps_all = bool(self._after) or self._rerun_locally
        outputs = list(range(len(conversion.tasks))) if keeps_all else wanted
        submission = submit_graph(
            conversion.tasks,
            outputs,
            writable=True,
            observer=lambda index, event: self._events.put((index, event)),
        )
        refs = dict(zip(outputs, submission.refs, strict=True))
        submission.refs.clear()  # so that a result goes when `refs` lets go of it
        waiter = threading.Thread(
            target=self._wait_for,
            args=(submission, [refs[index] for index in wanted]),
            daemon=True,
        )
        waiter.start()
        try:
            results = self._watch(conversion, refs)
        except BaseException:
            submission.cancel()
            raise
        waiter.join()
        return conversion.values_of(requested, dict(zip(wanted, results, strict=True)))

    def _wait_for(self, submission: GraphSubmission, refs: list[raydask.ObjectRef]) -> None:
        try:
            outcome = _Outcome(submission.get(refs))
        except BaseException as error:  # it is raised in the thread that called get
            outcome = _Outcome([], error)
        self._events.put(outcome)

    def _watch(self, conversion: Conversion, refs: dict[int, raydask.ObjectRef]) -> list[Any]:
        """Call the callbacks as tasks start and finish; return the requested tasks' results."""
        unfinished = set(range(len(conversion.tasks)))
        outcome: _Outcome | None = None
        while outcome is None or unfinished:
            happened = self._events.get()
            if isinstance(happened, _Outcome):
                outcome = happened
                if outcome.error is not None:
                    if self._rerun_locally and isinstance(outcome.error, TaskError):
                        self._rerun_failed(conversion, refs)
                    raise outcome.error
                continue
            index, event = happened
            key = conversion.keys[index]
            if event == "started":
                self._started(key)
            elif event == "finished" and index in unfinished:
                unfinished.remove(index)
                result = raydask.get(refs[index]) if self._after else None
                self._finished(key, result)
                if not self._rerun_locally:
                    refs.pop(index, None)
        return outcome.results

    def _started(self, key: Any) -> None:
        running, ready = self._state["running"], self._state["ready"]
        if key in running:  # it runs again, because its worker died
            return
        if ready[-1] == key:
            ready.pop()
        else:
            ready.remove(key)
        running.add(key)
        for function in self._before:
            function(key, self._graph, self._state)

    def _finished(self, key: Any, result: Any) -> None:
        state = self._state
        if key not in state["running"]:
            self._started(key)
        state["cache"][key] = result
        finish_task(self._graph, key, state, self._requested, self._position)
        for function in self._after:
            function(key, result, self._graph, state, _WHERE)
        # Aliases need no worker, so they are over as soon as they can start.
        for dependent in state["dependents"][key]:
            if type(self._graph[dependent]) is Alias:
                self._finished(dependent, result)

    def _rerun_failed(self, conversion: Conversion, refs: Mapping[int, raydask.ObjectRef]) -> None:
        """Run the first task that failed here, so that its exception is raised here."""
        done, _ = raydask.wait(list(refs.values()), num_returns=len(refs), timeout=0)
        for index, ref in refs.items():
            if ref not in done:
                continue
            try:
                raydask.get(ref)
            except TaskError:
                node = self._graph[conversion.keys[index]]
                used = conversion.outputs_of(node.dependencies)
                results = {other: raydask.get(refs[other]) for other in used}
                node(conversion.values_of(node.dependencies, results))
                return
