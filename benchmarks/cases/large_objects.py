"""What it costs to put, get and pass along arrays of many megabytes."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from benchmarks.cases.noop_tasks import noop
from benchmarks.cases.port import Case, Stopwatch
from benchmarks.contenders.port import HoldsObjects
from benchmarks.measurement import Metric, Round

if TYPE_CHECKING:
    import numpy

_REPEATS = 7


def make_array(length: int) -> numpy.ndarray:
    """Make an array of ``length`` doubles."""
    import numpy

    return numpy.arange(length, dtype=numpy.float64)


def advance(array: numpy.ndarray) -> numpy.ndarray:
    """Return a new array, each element one more."""
    return array + 1.0


def total(array: numpy.ndarray) -> float:
    """Add up an array."""
    return float(array.sum())


class PutGet(Case[HoldsObjects]):
    """128 MB into the store and back, beside a plain copy of as many bytes in this process.

    The cold put is the first one after the start; warm ones (median of 7) follow when the one
    before has been let go. The plain copies, one before each put, are warm too: their target has
    been written before.
    """

    name = "put-get"
    title = "put and get of 128 MB"
    metrics = (
        Metric("put cold", "ms"),
        Metric("put warm", "ms"),
        Metric("plain copy", "ms"),
        Metric("put / copy speed", "%", lower_is_better=False),
        Metric("get", "ms"),
    )
    requires = HoldsObjects
    starts_contender = True

    def measure(self, contender: HoldsObjects) -> Round:
        array = make_array(self.scaled(16_000_000, 1_000_000))
        target = array.copy()
        contender.prepare()
        contender.start()
        try:
            contender.call(noop, 0)
            turns = [self._turn(contender, array, target) for _ in range(_REPEATS + 1)]
        finally:
            contender.stop()
        puts, gets, copies, answers = zip(*turns, strict=True)
        warm, copy = statistics.median(puts[1:]), statistics.median(copies[1:])
        return Round(
            {
                "put cold": puts[0],
                "put warm": warm,
                "plain copy": copy,
                "put / copy speed": copy / warm * 100,
                "get": statistics.median(gets[1:]),
            },
            list(answers),
        )

    @staticmethod
    def _turn(
        contender: HoldsObjects, array: numpy.ndarray, target: numpy.ndarray
    ) -> tuple[float, float, float, float]:
        """Put, get and copy once, in milliseconds; the last value is the last element got."""
        import numpy

        with Stopwatch() as copying:
            numpy.copyto(target, array)
        with Stopwatch() as putting:
            handle = contender.put(array)
        with Stopwatch() as getting:
            fetched = contender.get(handle)
        last = float(fetched[-1])
        del handle, fetched
        # A round trip behind the release, so that it has been served before the next put.
        contender.call(noop, 0)
        return putting.seconds * 1e3, getting.seconds * 1e3, copying.seconds * 1e3, last


class PassAlong(Case[HoldsObjects]):
    """Each task reads the array of the one before and returns a new one of the same size."""

    name = "pass-along"
    title = "20 tasks passing 64 MB along"
    metrics = (Metric("all", "s"),)
    requires = HoldsObjects

    def measure(self, contender: HoldsObjects) -> Round:
        with Stopwatch() as watch:
            handle = contender.submit(make_array, self.scaled(8_000_000, 100_000))
            for _ in range(self.scaled(20, 5)):
                handle = contender.submit(advance, handle)
            answer = contender.get(contender.submit(total, handle))
        return Round({"all": watch.seconds}, answer)
