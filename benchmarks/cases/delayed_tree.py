"""A binary reduction tree of `dask.delayed` calls which do next to nothing."""

from __future__ import annotations

from operator import add

from benchmarks.cases.port import Case, Stopwatch
from benchmarks.contenders.port import SchedulesDask
from benchmarks.measurement import Metric, Round


def leaf(number: int) -> int:
    """Return the number."""
    return number


class DelayedTree(Case[SchedulesDask]):
    """4,096 leaves and 4,095 sums over 12 levels."""

    name = "delayed-tree"
    title = "dask.delayed tree of 8,191 tasks"
    metrics = (Metric("task", "µs"), Metric("all", "s"))
    requires = SchedulesDask

    def measure(self, contender: SchedulesDask) -> Round:
        import dask

        make, join = dask.delayed(leaf), dask.delayed(add)
        level = [make(number) for number in range(self.scaled(4_096, 64))]
        tasks = 2 * len(level) - 1
        while len(level) > 1:
            level = [join(*pair) for pair in zip(level[::2], level[1::2], strict=True)]
        with Stopwatch() as watch:
            (total,) = contender.compute(level)
        return Round({"task": watch.seconds / tasks * 1e6, "all": watch.seconds}, total)
