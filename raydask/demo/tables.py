"""The demo's results as tables for a terminal."""

from __future__ import annotations

import calendar
import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from raydask.demo.punctuality import Standing

_MONTHS = tuple(calendar.month_abbr)[1:]
_MOST = 8


def carriers_by_month(report: Any) -> Table:
    """Show mean arrival delays, a row per carrier and a column per month."""
    delays = report["arr_delay"].unstack("month")
    rows = [
        [str(carrier), *(_minutes(delays.at[carrier, month]) for month in range(1, 13))]
        for carrier in delays.index
    ]
    return _table("Mean arrival delay in minutes, by carrier and month", ["", *_MONTHS], rows)


def manufacturers(report: Any) -> Table:
    """Show the makers of planes with the most flights."""
    most = report.sort_values("count", ascending=False).head(_MOST)
    rows = [[str(name), *_mean_and_count(most.loc[name])] for name in most.index]
    return _table("Joined with planes", ["manufacturer", "arrival delay", "flights"], rows)


def visibility(report: Any) -> Table:
    """Show departure delays by how far one could see."""
    rows = [[f"{miles:.0f} miles", *_mean_and_count(report.loc[miles])] for miles in report.index]
    return _table("Joined with weather", ["visibility from", "departure delay", "flights"], rows)


def ranking(standings: Sequence[Standing]) -> Table:
    """Show the carriers, the most punctual first."""
    rows = [[carrier, f"{share:.1%}", f"{count:,}"] for carrier, count, share in standings]
    return _table(
        "Ranked by tasks and an actor", ["carrier", "at most 15 min late", "flights"], rows
    )


def timings(seconds: dict[str, tuple[float, float]]) -> Table:
    """Show for each scheduler the time of the first and of the second run."""
    rows = [[name, f"{first:.2f} s", f"{again:.2f} s"] for name, (first, again) in seconds.items()]
    return _table("All reports, by scheduler", ["", "first run", "again"], rows)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _minutes(delay: float) -> str:
    # Not every carrier flew in every month.
    return "" if math.isnan(delay) else f"{round(delay)}"


def _mean_and_count(row: Any) -> tuple[str, str]:
    return f"{row['mean']:.1f} min", f"{int(row['count']):,}"
