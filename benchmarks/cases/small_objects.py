"""Many small values put one by one, and fetched all at once."""

from __future__ import annotations

from benchmarks.cases.port import Case, Stopwatch
from benchmarks.contenders.port import HoldsObjects
from benchmarks.measurement import Metric, Round


class SmallPuts(Case[HoldsObjects]):
    """10,000 integers."""

    name = "small-puts"
    title = "10,000 small puts"
    metrics = (Metric("put", "µs"), Metric("get", "µs"))
    requires = HoldsObjects

    def measure(self, contender: HoldsObjects) -> Round:
        count = self.scaled(10_000, 100)
        with Stopwatch() as putting:
            handles = [contender.put(number) for number in range(count)]
        with Stopwatch() as getting:
            values = contender.gather(handles)
        return Round(
            {"put": putting.seconds / count * 1e6, "get": getting.seconds / count * 1e6},
            sum(values),
        )
