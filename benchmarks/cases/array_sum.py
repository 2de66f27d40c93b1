"""``(x + x.T).mean()`` on a chunked array: half the chunks meet a far-away partner."""

from __future__ import annotations

from benchmarks.cases.port import Case, Stopwatch
from benchmarks.contenders.port import SchedulesDask
from benchmarks.measurement import Metric, Round


class ArrayTransposedSum(Case[SchedulesDask]):
    """4000 x 4000 random doubles in 250 x 250 chunks (0.5 MB each), with a fixed seed."""

    name = "array"
    title = "dask.array (x + x.T).mean(), 4000 x 4000 in 250 x 250 chunks"
    metrics = (Metric("all", "s"),)
    requires = SchedulesDask

    def measure(self, contender: SchedulesDask) -> Round:
        import dask.array as da

        edge = self.scaled(4_000, 500)
        x = da.random.default_rng(7).random((edge, edge), chunks=(250, 250))
        mean = (x + x.T).mean()
        with Stopwatch() as watch:
            (result,) = contender.compute([mean])
        return Round({"all": watch.seconds}, float(result))
