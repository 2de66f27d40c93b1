"""Real Dask graphs for the simulator: built by Dask, converted as for a run, not run.

Every task of a graph takes about as long as any other and makes a result of the given size,
except that tasks which make many outputs share it among these.
"""

from __future__ import annotations

from typing import Any

from dask._task_spec import convert_legacy_graph
from dask.core import flatten

from raydask.compat.dask.conversion import Conversion
from raydask.compat.dask.ordering import run_order
from raydask.graph import Output
from raydask.testing.workloads import Duration, Workload

_TASKS_OF_BLOCK = 4.33
"""Of a sum of an array and its transpose, the way to the sum included."""
_TASKS_OF_PARTITION = 100
"""Each of the three stages that thousands of partitions need splits every one into 32."""


def array_sum(tasks: int, duration: Duration, size: int) -> Workload:
    """Return ``(x + x.T).sum()`` of an array in as many blocks as make so many tasks."""
    import dask.array as da

    side = max(2, int((tasks / _TASKS_OF_BLOCK) ** 0.5))
    x = da.ones((side * 10, side * 10), chunks=(10, 10))
    return _workload((x + x.T).sum(), duration, size)


def dataframe_shuffle(tasks: int, duration: Duration, size: int) -> Workload:
    """Return a shuffle by tasks, in Dask about so many.

    All pieces of a partition are the returns of one task here, so these are a twentieth.
    """
    import dask
    import dask.dataframe as dd
    import pandas as pd

    partitions = max(2, tasks // _TASKS_OF_PARTITION)
    frame = pd.DataFrame({"key": range(4 * partitions), "value": 1.0})
    with dask.config.set({"dataframe.shuffle.method": "tasks"}):
        shuffled = dd.from_pandas(frame, npartitions=partitions).shuffle("key")
        return _workload(shuffled.optimize(), duration, size)


def _workload(collection: Any, duration: Duration, size: int) -> Workload:
    graph = convert_legacy_graph(dict(collection.__dask_graph__()))
    order = run_order(graph, list(flatten(collection.__dask_keys__())))
    conversion = Conversion(graph, order, {}, {})
    made = Workload()
    kinds: dict[str, int] = {}
    for task in conversion.tasks:
        arguments = (*task.args, *(task.kwargs or {}).values())
        inputs = dict.fromkeys(int(each) for each in arguments if type(each) is Output)
        made.add(duration(), tuple(inputs), size, kinds.setdefault(task.name, len(kinds)))
    return made
