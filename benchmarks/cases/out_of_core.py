"""Data of four times the object store: an array job and a dataframe shuffle.

What the same limit means
    Both contenders are started as on a machine with 853 MiB of memory, each with its own default
    division of that. raydask's object store takes 30 % of the memory, here 256 MiB, and each
    worker may have half of the rest. distributed gives each of its workers an equal part of all,
    here 427 MiB, within which it spills, pauses and restarts them. The data are 1 GiB: four times
    the object store, and 1.2 times the memory in all. The shuffle is Dask's task-based one on
    raydask, and P2P, its own and its default, on distributed.

What is measured
    The peak of the proportional set size over all processes of the contender, the driver and the
    scheduler included, sampled every 0.1 s from before the computation to its end; and its time.
    Pages of spilled files count as long as a process has them mapped, and not when only the
    kernel's page cache has them: that is memory which anybody may have.

Each round's answer is compared with one that is known without computing it. For that, the data
are a permutation of the first numbers: ``i -> i * multiplier % count`` with both coprime.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from benchmarks.agreement import agree
from benchmarks.cases.port import Case, Stopwatch
from benchmarks.contenders.port import BoundsMemory
from benchmarks.measurement import Metric, Round
from benchmarks.peak_memory import PeakMemory

if TYPE_CHECKING:
    import numpy
    import pandas

_STORE = 256 << 20
MEMORY = int(_STORE / 0.3)
"""Bytes of the machine on which raydask's object store is one of 256 MiB."""

_DATA = 4 * _STORE
_QUICK_DATA = _STORE // 2
_CHUNK = 8 << 20
_MULTIPLIER = 2_654_435_761  # odd, hence coprime to every power of two
_FLOATS = 14
_ROW = (2 + _FLOATS) * 8
_SCALE = math.pi  # so that the values' last digits are used, and they do not compress


class WrongAnswer(Exception):  # noqa: N818 -- what it is, where it is raised
    """The contender computed something else than what is known to be right."""


def permuted(start: int, stop: int, count: int) -> numpy.ndarray[Any, Any]:
    """Return the places from `start` to `stop` of a permutation of ``range(count)``."""
    import numpy

    return numpy.arange(start, stop, dtype=numpy.int64) * _MULTIPLIER % count


def make_chunk(length: int, count: int, *, block_id: tuple[int]) -> numpy.ndarray[Any, Any]:
    """Make the chunk of `length` doubles at a place in the array of `count`."""
    start = block_id[0] * length
    chunk: numpy.ndarray[Any, Any] = permuted(start, start + length, count) * _SCALE
    return chunk


def make_rows(number: int, length: int, count: int, keys: int) -> pandas.DataFrame:
    """Make a partition: a key, the row's number and fourteen columns of doubles."""
    import numpy
    import pandas

    start = number * length
    place = permuted(start, start + length, count)
    weights = _SCALE * numpy.arange(1, _FLOATS + 1)
    rows: pandas.DataFrame = pandas.DataFrame(
        numpy.outer(place, weights), columns=[f"float-{index}" for index in range(_FLOATS)]
    )
    rows.insert(0, "row", numpy.arange(start, start + length))
    rows.insert(0, "key", place % keys)
    return rows


def summarize(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Reduce a partition to its number of rows and of keys, and the sums of its columns."""
    import pandas

    floats = [name for name in rows.columns if name.startswith("float-")]
    summary: pandas.DataFrame = pandas.DataFrame(
        {
            "rows": [len(rows)],
            "keys": [rows["key"].nunique()],
            "row-sum": [int(rows["row"].sum())],
            "float-sum": [float(rows[floats].to_numpy().sum())],
        }
    )
    return summary


class _OutOfCore(Case[BoundsMemory]):
    metrics = (Metric("all", "s"), Metric("peak memory", "MB"))
    requires = BoundsMemory
    cpus = 2
    starts_contender = True

    @property
    def data(self) -> int:
        """Return the bytes of the data; those of a quick round fit into the store."""
        return self.scaled(_DATA, _QUICK_DATA)

    def measure(self, contender: BoundsMemory) -> Round:
        contender.prepare()
        contender.start_within(MEMORY)
        try:
            with PeakMemory() as memory, Stopwatch() as watch:
                answer = self.compute(contender)
        finally:
            contender.stop()
        if not agree(answer, self.known()):
            raise WrongAnswer(f"{contender.name} computed {answer}; right is {self.known()}")
        return Round({"all": watch.seconds, "peak memory": memory.peak}, answer)

    @abstractmethod
    def compute(self, contender: BoundsMemory) -> Any:
        """Run the job; return its answer."""

    @abstractmethod
    def known(self) -> Any:
        """Return the right answer."""


class OutOfCoreArray(_OutOfCore):
    """Mean, and standard deviation about it, of 128 chunks of 8 MiB in one graph.

    No chunk can be let go before the mean of all is known, for each is used again then.
    """

    name = "out-of-core-array"
    title = "dask.array x.mean(), (x - x.mean()).std() of four times the object store"

    def compute(self, contender: BoundsMemory) -> list[float]:
        import dask.array as da

        length = _CHUNK // 8
        count = self.data // 8
        x = da.map_blocks(
            make_chunk, length, count, chunks=((length,) * (count // length),), dtype=float
        )
        mean = x.mean()
        return [float(each) for each in contender.compute([mean, (x - mean).std()])]

    def known(self) -> list[float]:
        count = self.data // 8
        return [_SCALE * (count - 1) / 2, _SCALE * math.sqrt((count**2 - 1) / 12)]


class OutOfCoreShuffle(_OutOfCore):
    """A shuffle of 128 partitions of 8 MiB, 128 bytes a row, and a summary of each new one.

    No partition is complete before the last has been split. That each key is in one partition
    alone shows in the number of keys, summed over the partitions.
    """

    name = "out-of-core-shuffle"
    title = "dataframe shuffle of four times the object store"

    @property
    def rows(self) -> int:
        """Return the number of rows, a power of two."""
        return self.data // _ROW

    @property
    def keys(self) -> int:
        """Return the number of different keys, each of which comes equally often."""
        return self.rows // 128

    def compute(self, contender: BoundsMemory) -> list[float]:
        import dask.dataframe as dd

        length = _CHUNK // _ROW
        partitions = range(self.rows // length)
        rows = dd.from_map(make_rows, partitions, length=length, count=self.rows, keys=self.keys)
        summaries = rows.shuffle("key").map_partitions(summarize)
        (computed,) = contender.compute([summaries])
        return [computed[name].sum().item() for name in computed.columns]

    def known(self) -> list[float]:
        numbers = self.rows * (self.rows - 1) // 2
        weights = _SCALE * _FLOATS * (_FLOATS + 1) / 2
        return [self.rows, self.keys, numbers, numbers * weights]
