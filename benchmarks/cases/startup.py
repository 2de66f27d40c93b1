"""From nothing to a first result, the memory of doing nothing, and the way back to nothing."""

from __future__ import annotations

import time

from benchmarks.cases.noop_tasks import noop
from benchmarks.cases.port import Case, Stopwatch
from benchmarks.contenders.port import RunsTasks
from benchmarks.measurement import Metric, Round
from benchmarks.processes import own_memory

_SETTLE_SECONDS = 1.0


class Startup(Case[RunsTasks]):
    """A new process each round, on a warm file cache (the warm-up round read the files).

    The import of the package is a figure of its own and not part of init. Idle memory is the PSS
    over all processes, the driver included, a second after both workers have run something.
    """

    name = "startup"
    title = "start, idle and shutdown with 2 workers"
    metrics = (
        Metric("import", "s"),
        Metric("init to first result", "s"),
        Metric("idle memory", "MB"),
        Metric("shutdown", "s"),
    )
    requires = RunsTasks
    cpus = 2
    starts_contender = True

    def measure(self, contender: RunsTasks) -> Round:
        with Stopwatch() as importing:
            contender.prepare()
        with Stopwatch() as starting:
            contender.start()
            answer = contender.call(noop, 7)
        contender.map(noop, range(200))
        time.sleep(_SETTLE_SECONDS)
        memory = own_memory()
        with Stopwatch() as stopping:
            contender.stop()
        return Round(
            {
                "import": importing.seconds,
                "init to first result": starting.seconds,
                "idle memory": memory,
                "shutdown": stopping.seconds,
            },
            answer,
        )
