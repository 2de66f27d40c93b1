"""A bag word count: plain Python in the tasks, so threads cannot help and processes can."""

from __future__ import annotations

import random

from benchmarks.cases.port import Case, Stopwatch
from benchmarks.contenders.port import SchedulesDask
from benchmarks.measurement import Metric, Round

_VOCABULARY = 5_000


def make_lines(number: int, lines: int) -> list[str]:
    """Write lines of ten words each; low numbers are common words, as in real text."""
    choose = random.Random(number).random
    return [
        " ".join(f"w{int(_VOCABULARY * choose() ** 3)}" for _ in range(10)) for _ in range(lines)
    ]


class WordCount(Case[SchedulesDask]):
    """64 partitions of 1,000 lines of ten words, made inside tasks."""

    name = "bag-word-count"
    title = "dask.bag word count, 640,000 words"
    metrics = (Metric("all", "s"),)
    requires = SchedulesDask

    def measure(self, contender: SchedulesDask) -> Round:
        import dask.bag as db

        partitions, lines = self.scaled(64, 4), self.scaled(1_000, 50)
        text = db.from_sequence(range(partitions), npartitions=partitions)
        words = text.map(make_lines, lines=lines).flatten().map(str.split).flatten()
        frequencies = words.frequencies()
        with Stopwatch() as watch:
            (computed,) = contender.compute([frequencies])
        most = sorted(computed, key=lambda item: (-item[1], item[0]))[:50]
        return Round({"all": watch.seconds}, [list(item) for item in most])
