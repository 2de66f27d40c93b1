"""The way of one graph: from Dask's call of ``get`` to its results.

materialize -> order -> convert -> submit -> fetch.  What comes before the submission makes
many small objects of which hardly one becomes garbage; the garbage collector rests
meanwhile, because it would look through all of them several times in vain.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dask
from dask._task_spec import GraphNode, convert_legacy_graph
from dask.callbacks import Callback, normalize_callback
from dask.core import flatten
from dask.local import nested_get

import raydask
from raydask.compat.dask import register_name
from raydask.compat.dask.annotations import collect_options
from raydask.compat.dask.callbacks import ObservedRun
from raydask.compat.dask.conversion import Conversion
from raydask.compat.dask.ordering import run_order
from raydask.compat.dask.shuffles import refuse_what_cannot_work
from raydask.compat.dask.splitting import find_splits
from raydask.errors import TaskError
from raydask.graph import ensure_session, submit_graph


def compute(
    dsk: Any,
    keys: Any,
    *,
    callbacks: Iterable[Any] | None,
    rerun_locally: bool | None,
    num_workers: int | None,
    annotations: Mapping[str, Any],
) -> Any:
    """Compute `keys`; see `raydask.compat.dask.get` for the parameters."""
    register_name()
    ensure_session(num_workers)
    if rerun_locally is None:
        rerun_locally = dask.config.get("rerun_exceptions_locally", False)
    watching = Callback.active if callbacks is None else callbacks
    observers = [normalize_callback(callback) for callback in watching]
    requested = list(flatten(keys)) if isinstance(keys, list) else [keys]
    annotations = {**dask.get_annotations(), **annotations}

    def convert(graph: Mapping[Any, GraphNode]) -> Conversion:
        with _resting_collector():
            order = run_order(graph, requested)
            options = collect_options(dsk, order, annotations)
            # Who watches wants to see every task of the graph.
            watched = bool(observers) or rerun_locally
            splits = {} if watched else find_splits(graph, order, requested, options)
            return Conversion(graph, order, options, splits)

    with _resting_collector():
        graph = convert_legacy_graph(dsk if isinstance(dsk, Mapping) else dsk.__dask_graph__())
    refuse_what_cannot_work(graph, lambda: len(raydask.nodes()))
    try:
        if observers or rerun_locally:
            values = ObservedRun(observers, bool(rerun_locally)).compute(graph, requested, convert)
        else:
            values = _compute(convert(graph), requested)
    except TaskError as error:
        failure: BaseException = as_raised(error)
    else:
        return nested_get(keys, values)
    # Outside of the handler, so that the wrapper does not show as the context.
    raise failure


def _compute(conversion: Conversion, requested: list[Any]) -> dict[Any, Any]:
    wanted = conversion.outputs_of(requested)
    if not wanted:
        return conversion.values
    submission = submit_graph(conversion.tasks, wanted, writable=True)
    try:
        results = submission.get()
    except BaseException:
        submission.cancel()
        raise
    return conversion.values_of(requested, dict(zip(wanted, results, strict=True)))


def as_raised(error: TaskError) -> BaseException:
    """Return the exception that the task's function raised, its remote traceback as cause."""
    if error.cause is None:  # it could not be pickled
        return error
    error.cause.__cause__ = error.__cause__
    return error.cause


@contextmanager
def _resting_collector() -> Iterator[None]:
    if not gc.isenabled():  # also if another thread is in here: it will enable it
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
