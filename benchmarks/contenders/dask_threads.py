"""Dask's own threaded scheduler, in the driver's process.

Shuffles take the task-based method: on local schedulers Dask defaults to one through files on
disk, which is slower here by a factor of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.contenders.port import SchedulesDask


class DaskThreads(SchedulesDask):
    """``dask.compute(…, scheduler="threads")`` with a thread per CPU."""

    name = "dask-threads"
    modules = ("dask",)

    def prepare(self) -> None:
        import dask
        import dask.threaded

        dask.config.set({"dataframe.shuffle.method": "tasks"})

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def compute(self, collections: Sequence[Any]) -> list[Any]:
        import dask

        return list(dask.compute(*collections, scheduler="threads", num_workers=self.cpus))
