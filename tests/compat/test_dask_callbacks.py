"""Dask's callbacks watch what really happens on the workers."""

from __future__ import annotations

import io
import time
from typing import Any

import dask
import dask.array as da
import pytest
from dask import delayed
from dask.callbacks import Callback
from dask.diagnostics import CacheProfiler, Profiler, ProgressBar, ResourceProfiler

import raydask

pytestmark = pytest.mark.usefixtures("cluster")


class Recorder(Callback):  # type: ignore[misc]
    """Notes every call, and what the state said at the time."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[Any, ...]] = []

    def _start(self, dsk: Any) -> None:
        self.events.append(("start", set(dsk)))

    def _start_state(self, dsk: Any, state: Any) -> None:
        self.events.append(("start_state", set(state["ready"]), set(state["waiting"])))

    def _pretask(self, key: Any, dsk: Any, state: Any) -> None:
        assert key in state["running"]
        self.events.append(("pretask", key))

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        assert key in state["finished"]
        self.events.append(("posttask", key, result))

    def _finish(self, dsk: Any, state: Any, errored: bool) -> None:
        self.events.append(("finish", errored, len(state.get("finished", ()))))


GRAPH = {"x": 1, "y": (abs, -5), "z": (sum, ["x", "y"]), "alias": "z"}


def test_every_task_is_told_with_its_result() -> None:
    recorder = Recorder()
    with recorder:
        assert raydask.get(GRAPH, ["alias", "z"]) == (6, 6)

    assert recorder.events == [
        ("start", {"x", "y", "z", "alias"}),
        ("start_state", {"y"}, {"z", "alias"}),
        ("pretask", "y"),
        ("posttask", "y", 5),
        ("pretask", "z"),
        ("posttask", "z", 6),
        ("pretask", "alias"),
        ("posttask", "alias", 6),
        ("finish", False, 3),
    ]


def test_a_failure_is_told_at_the_end() -> None:
    recorder = Recorder()
    with recorder, pytest.raises(ZeroDivisionError):
        raydask.get({"a": (abs, -1), "b": (divmod, "a", 0)}, "b")

    assert recorder.events[-1] == ("finish", True, 1)
    assert ("pretask", "b") in recorder.events


def test_callbacks_may_be_given_or_registered() -> None:
    given, registered = Recorder(), Recorder()
    registered.register()
    try:
        raydask.get(GRAPH, "y", callbacks=[given])
        raydask.get(GRAPH, "y")
    finally:
        registered.unregister()

    assert ("posttask", "y", 5) in given.events
    assert [event[0] for event in registered.events].count("finish") == 1


def test_an_exception_of_a_callback_ends_the_run() -> None:
    def refuse(key: Any, dsk: Any, state: Any) -> None:
        raise RuntimeError(f"not {key}")

    with Callback(pretask=refuse), pytest.raises(RuntimeError, match="not y"):
        raydask.get(GRAPH, "z")
    assert raydask.get(GRAPH, "z") == 6


def test_tasks_are_told_when_they_start_and_when_they_finish() -> None:
    moments: dict[str, float] = {}
    callback = Callback(
        pretask=lambda key, *rest: moments.setdefault("started", time.monotonic()),
        posttask=lambda key, *rest: moments.setdefault("finished", time.monotonic()),
    )
    with callback:
        delayed(time.sleep)(0.2).compute(scheduler=raydask.get)

    assert moments["finished"] - moments["started"] > 0.15


def test_dasks_own_diagnostics() -> None:
    x = da.ones((100, 100), chunks=25)
    out = io.StringIO()
    with (
        Profiler() as tasks,
        CacheProfiler() as sizes,
        ResourceProfiler(dt=0.01) as resources,
        ProgressBar(out=out),
    ):
        assert (x + x.T).sum().compute(scheduler=raydask.get) == 20_000
    resources.close()

    assert len(tasks.results) == len(sizes.results) > 16
    assert all(task.end_time >= task.start_time for task in tasks.results)
    assert "100% Completed" in out.getvalue()


def test_a_callback_may_bring_results_that_it_remembers() -> None:
    """As Dask's own opportunistic cache does."""
    recorder = Recorder()
    with recorder, Callback(start=lambda dsk: dsk.update(y=7)):
        assert raydask.get(GRAPH, "z") == 8

    assert ("pretask", "y") not in recorder.events


def test_many_tasks_are_watched_in_linear_time() -> None:
    seen: list[Any] = []
    with Callback(posttask=lambda key, *rest: seen.append(key)):
        values = [delayed(abs)(-i) for i in range(1_000)]
        assert sum(dask.compute(*values, scheduler=raydask.get)) == 499_500

    assert len(seen) == 1_000
