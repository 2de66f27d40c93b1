"""Whether a series of figures grows: medians of its first and last quarter.  Pure.

Medians, because single figures depend on the moment: a garbage collection that is due, a batch
that is under way.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

WARM_UP = 0.1
"""Part of the samples that is not looked at: pools fill, modules are imported."""

SHARE = 0.1
"""By which part of itself a series may grow."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A series from its first to its last quarter.

    Attributes
    ----------
    first, last
        Medians of these quarters, in MB.
    allowance
        By how many MB it may grow in any case.
    """

    name: str
    first: float
    last: float
    allowance: float

    @property
    def growth(self) -> float:
        """Return by how many MB the last quarter is above the first."""
        return self.last - self.first

    @property
    def grew(self) -> bool:
        """Tell whether that is more than the series' share and more than the allowance."""
        return self.growth > max(SHARE * self.first, self.allowance)


def trend_of(name: str, samples: Sequence[float], *, allowance: float) -> Trend:
    """Compare the quarters of a series.

    Raises
    ------
    ValueError
        There are fewer than four samples after the warm-up.
    """
    warm = samples[int(len(samples) * WARM_UP) :]
    quarter = len(warm) // 4
    if not quarter:
        raise ValueError(f"{len(samples)} samples of {name} are too few to compare quarters")
    return Trend(
        name, statistics.median(warm[:quarter]), statistics.median(warm[-quarter:]), allowance
    )
