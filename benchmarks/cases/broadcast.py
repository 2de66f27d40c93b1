"""One large array, read by many tasks: how long it takes, and how many copies there are."""

from __future__ import annotations

from benchmarks.cases.large_objects import make_array, total
from benchmarks.cases.port import Case, Stopwatch
from benchmarks.contenders.port import HoldsObjects
from benchmarks.measurement import Metric, Round
from benchmarks.processes import own_memory


class Broadcast(Case[HoldsObjects]):
    """A put array of 128 MB, summed by 16 tasks.

    The growth of memory is taken over all processes of the contender (PSS), from before the put
    until after the last task, while the array is still held. The one copy in the store is 128 MB
    of it; what goes beyond is copies made for readers.
    """

    name = "broadcast"
    title = "one array of 128 MB read by 16 tasks"
    metrics = (Metric("all reads", "s"), Metric("memory growth", "MB"))
    requires = HoldsObjects
    starts_contender = True

    def measure(self, contender: HoldsObjects) -> Round:
        array = make_array(self.scaled(16_000_000, 1_000_000))
        contender.prepare()
        contender.start()
        try:
            # The workers' first tasks import numpy; that is not the thing measured.
            contender.gather([contender.submit(total, array[:10]) for _ in range(16)])
            before = own_memory()
            handle = contender.put(array)
            with Stopwatch() as watch:
                sums = contender.gather([contender.submit(total, handle) for _ in range(16)])
            growth = own_memory() - before
        finally:
            contender.stop()
        return Round({"all reads": watch.seconds, "memory growth": growth}, sums)
