"""Dask's multiprocessing scheduler, on a process pool that lives as long as the contender.

By default Dask makes a new pool for each ``compute``; a kept one is compared, because the others
keep their workers too. Shuffles take the task-based method, as in `dask_threads`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.contenders.port import SchedulesDask


class DaskProcesses(SchedulesDask):
    """``dask.compute(…, scheduler="processes", pool=…)``."""

    name = "dask-processes"
    modules = ("dask", "cloudpickle")

    _pool: ProcessPoolExecutor

    def prepare(self) -> None:
        import dask
        import dask.multiprocessing

        dask.config.set({"dataframe.shuffle.method": "tasks"})

    def start(self) -> None:
        from dask.multiprocessing import get_context

        self._pool = ProcessPoolExecutor(self.cpus, mp_context=get_context())

    def stop(self) -> None:
        self._pool.shutdown()

    def compute(self, collections: Sequence[Any]) -> list[Any]:
        import dask

        return list(dask.compute(*collections, scheduler="processes", pool=self._pool))
