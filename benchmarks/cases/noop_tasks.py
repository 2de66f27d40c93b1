"""Tasks that do nothing: the whole time is the engine's own."""

from __future__ import annotations

from benchmarks.cases.port import Case, Stopwatch
from benchmarks.contenders.port import RunsTasks
from benchmarks.measurement import Metric, Round


def noop(number: int) -> int:
    """Return the number."""
    return number


class NoopAsync(Case[RunsTasks]):
    """All submitted, then all collected."""

    name = "noop-async"
    title = "10,000 no-op tasks, submitted at once"
    metrics = (Metric("task", "µs"), Metric("throughput", "tasks/s", lower_is_better=False))
    requires = RunsTasks

    def measure(self, contender: RunsTasks) -> Round:
        count = self.scaled(10_000, 500)
        with Stopwatch() as watch:
            results = contender.map(noop, range(count))
        return Round(
            {"task": watch.seconds / count * 1e6, "throughput": count / watch.seconds},
            sum(results),
        )


class NoopSync(Case[RunsTasks]):
    """Each collected before the next is submitted."""

    name = "noop-sync"
    title = "300 no-op tasks, one after the other"
    metrics = (Metric("task", "µs"),)
    requires = RunsTasks

    def measure(self, contender: RunsTasks) -> Round:
        count = self.scaled(300, 20)
        with Stopwatch() as watch:
            results = [contender.call(noop, number) for number in range(count)]
        return Round({"task": watch.seconds / count * 1e6}, sum(results))
