"""Dask dataframes of 2 million rows: a groupby, a merge and a full shuffle.

Each task makes its own partition from its number (``from_map``), so that what is measured is the
engine's work on the graph and on the data between tasks, and not how rows get to the workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.cases.port import Case, Stopwatch
from benchmarks.contenders.port import SchedulesDask
from benchmarks.measurement import Metric, Round

if TYPE_CHECKING:
    import pandas

_PARTITIONS = 40
_ROWS = 50_000
_KEYS = 100_000


def make_partition(number: int, rows: int) -> pandas.DataFrame:
    """Make a partition with a wide key, a narrow group and a value per row."""
    import numpy
    import pandas

    random = numpy.random.default_rng(number)
    partition: pandas.DataFrame = pandas.DataFrame(
        {
            "key": random.integers(0, _KEYS, rows),
            "group": random.integers(0, 1_000, rows),
            "value": random.random(rows),
        }
    )
    return partition


def make_dimension(number: int, rows: int) -> pandas.DataFrame:
    """Make a partition of the table to merge with: ``rows`` successive keys and a weight each."""
    import numpy
    import pandas

    keys = numpy.arange(number * rows, (number + 1) * rows)
    partition: pandas.DataFrame = pandas.DataFrame({"key": keys, "weight": keys % 97 / 97})
    return partition


class _DataframeCase(Case[SchedulesDask]):
    metrics = (Metric("all", "s"),)
    requires = SchedulesDask

    def rows(self) -> Any:
        """Return the dataframe of 2 million rows in 40 partitions (48 MB)."""
        import dask.dataframe as dd

        return dd.from_map(
            make_partition, range(self.scaled(_PARTITIONS, 4)), rows=self.scaled(_ROWS, 1_000)
        )

    def compute(self, contender: SchedulesDask, result: Any) -> tuple[float, Any]:
        """Compute a collection; return the seconds it took, and the result."""
        with Stopwatch() as watch:
            (computed,) = contender.compute([result])
        return watch.seconds, computed


class Groupby(_DataframeCase):
    """Mean, sum and count of the values of 1,000 groups."""

    name = "dataframe-groupby"
    title = "dataframe groupby, 2 million rows"

    def measure(self, contender: SchedulesDask) -> Round:
        statistics = self.rows().groupby("group")["value"].agg(["mean", "sum", "count"])
        seconds, computed = self.compute(contender, statistics)
        answer = {name: computed.sort_index()[name].tolist()[:50] for name in computed.columns}
        return Round({"all": seconds}, answer)


class Merge(_DataframeCase):
    """A merge with a table of 100,000 keys in 20 partitions, which takes a shuffle of both."""

    name = "dataframe-merge"
    title = "dataframe merge, 2 million rows with 100,000"

    def measure(self, contender: SchedulesDask) -> Round:
        import dask.dataframe as dd

        partitions = self.scaled(20, 2)
        dimension = dd.from_map(make_dimension, range(partitions), rows=_KEYS // 20)
        merged = self.rows().merge(dimension, on="key", how="inner", broadcast=False)
        seconds, computed = self.compute(contender, (merged["value"] * merged["weight"]).sum())
        return Round({"all": seconds}, float(computed))


class Shuffle(_DataframeCase):
    """All rows of a key come together in one partition; the partitions' sizes are the result."""

    name = "dataframe-shuffle"
    title = "dataframe shuffle, 2 million rows"

    def measure(self, contender: SchedulesDask) -> Round:
        sizes = self.rows().shuffle("key").map_partitions(len)
        seconds, computed = self.compute(contender, sizes)
        return Round({"all": seconds}, sorted(map(int, computed)))
