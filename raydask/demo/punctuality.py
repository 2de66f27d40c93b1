"""A native raydask program: who arrives on time?

The flights are put into the object store once. A task per carrier reads them there, without a
copy, and tells its result to an actor, whose handle it was given. The actor keeps the ranking.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import raydask

_ON_TIME_MINUTES = 15

Standing: TypeAlias = tuple[str, int, float]
"""A carrier, its flights that arrived, and the share of those that were on time."""


@raydask.remote
class Ranking:
    """The carriers in order of punctuality, as far as they have reported."""

    def __init__(self) -> None:
        self._standings: list[Standing] = []

    def report(self, standing: Standing) -> int:
        """Take a carrier's standing; return how many have reported."""
        self._standings.append(standing)
        return len(self._standings)

    def best_first(self) -> list[Standing]:
        """Return all standings; of two equal ones, the first by name."""
        return sorted(self._standings, key=lambda standing: (-standing[2], standing[0]))


@raydask.remote
def rate(flights: Any, carrier: str, ranking: Any) -> str:
    """Work out a carrier's standing and report it to the ranking."""
    raydask.get(ranking.report.remote(standing_of(flights, carrier)))
    return carrier


def standing_of(flights: Any, carrier: str) -> Standing:
    """Return a carrier's standing; a flight that never arrived has no delay and counts not."""
    delays = flights["arr_delay"][flights["carrier"] == carrier].dropna()
    return carrier, len(delays), float((delays <= _ON_TIME_MINUTES).mean())


def rank_carriers(flights: Any) -> list[Standing]:
    """Rate all carriers in parallel; return the ranking, best first."""
    stored = raydask.put(flights[["carrier", "arr_delay"]])
    # mypy does not apply decorators of classes.
    ranking = Ranking.remote()  # type: ignore[attr-defined]
    carriers = sorted(flights["carrier"].unique())
    raydask.get([rate.remote(stored, carrier, ranking) for carrier in carriers])
    standings: list[Standing] = raydask.get(ranking.best_first.remote())
    return standings


def expected_ranking(flights: Any) -> list[Standing]:
    """Return the same ranking, worked out in this process."""
    standings = [standing_of(flights, carrier) for carrier in flights["carrier"].unique()]
    return sorted(standings, key=lambda standing: (-standing[2], standing[0]))
