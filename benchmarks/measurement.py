"""What a case promises and what a round yields. Pure data.

`Metric` is a column heading, `Round` one run's numbers, `Recording` all rounds of one contender
in one case, and `CaseReport` all contenders' recordings of a case.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that every round of a case yields.

    Attributes
    ----------
    unit
        ``"s"``, ``"ms"``, ``"µs"``, ``"MB"``, ``"%"`` or a fraction such as ``"µs/task"``.
    lower_is_better
        False for speeds and shares.
    """

    name: str
    unit: str
    lower_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Round:
    """One run of a case: a value per metric name, and the answer that was computed."""

    values: dict[str, float]
    answer: Any = None


@dataclass(slots=True)
class Recording:
    """The rounds of one contender in one case, or why there are none."""

    rounds: list[Round] = field(default_factory=list)
    skipped: str | None = None
    failed: str | None = None

    def samples(self, metric: str) -> list[float]:
        """Return the metric's value in each round that yielded it."""
        return [each.values[metric] for each in self.rounds if metric in each.values]

    def median(self, metric: str) -> float | None:
        """Return the metric's median, or None where no round yielded it."""
        samples = self.samples(metric)
        return statistics.median(samples) if samples else None


@dataclass(slots=True)
class CaseReport:
    """A case's recordings by contender name, in report order."""

    name: str
    title: str
    metrics: Sequence[Metric]
    recordings: dict[str, Recording]
    disagreements: list[str] = field(default_factory=list)

    def ratio(self, metric: str, contender: str, reference: str) -> float | None:
        """Return how many times the reference's median the contender's is."""
        ours = self.recordings[reference].median(metric) if reference in self.recordings else None
        theirs = self.recordings[contender].median(metric)
        if not ours or theirs is None:
            return None
        return theirs / ours
