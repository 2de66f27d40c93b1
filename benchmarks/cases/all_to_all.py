"""Every producer feeds every consumer: the shape of a shuffle, with values of a few bytes."""

from __future__ import annotations

from benchmarks.cases.port import Case, Stopwatch
from benchmarks.contenders.port import SchedulesDask
from benchmarks.measurement import Metric, Round


def produce(number: int, width: int) -> list[int]:
    """Make one value for each consumer."""
    return [number * width + column for column in range(width)]


def split(values: list[int], column: int) -> int:
    """Take one consumer's value."""
    return values[column]


def gather(values: list[int]) -> int:
    """Add up what all producers sent to one consumer."""
    return sum(values)


class AllToAll(Case[SchedulesDask]):
    """N producers, N x N splits, N gathers."""

    name = "all-to-all"
    title = "all-to-all graph, 64 x 64"
    metrics = (Metric("all", "s"),)
    requires = SchedulesDask

    def measure(self, contender: SchedulesDask) -> Round:
        import dask

        width = self.scaled(64, 8)
        make, take, join = dask.delayed(produce), dask.delayed(split), dask.delayed(gather)
        producers = [make(number, width) for number in range(width)]
        gathers = [
            join([take(producer, column) for producer in producers]) for column in range(width)
        ]
        with Stopwatch() as watch:
            totals = contender.compute(gathers)
        return Round({"all": watch.seconds}, totals)
