"""The command line: ``python -m benchmarks``, with options to choose and to keep the figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console

from benchmarks.cases import CASES
from benchmarks.contenders import CONTENDERS, REFERENCE
from benchmarks.report import as_json, print_reports
from benchmarks.runner import Runner, Settings

T = TypeVar("T")

_TABLE_WIDTH = 200


@click.command()
@click.option("--cases", help=f"Comma-separated, from: {', '.join(CASES)}.")
@click.option("--contenders", help=f"Comma-separated, from: {', '.join(CONTENDERS)}.")
@click.option("--rounds", default=5, show_default=True, help="Rounds per case and contender.")
@click.option("--cpus", default=2, show_default=True, help="Workers of each contender.")
@click.option(
    "--budget",
    default=20.0,
    show_default=True,
    help="Seconds after which a contender takes no further rounds of a case.",
)
@click.option(
    "--limit", default=180.0, show_default=True, help="Seconds after which a round is given up."
)
@click.option("--quick", is_flag=True, help="Small cases and one round: for trying out.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Also write everything measured to this file.",
)
def main(
    cases: str | None,
    contenders: str | None,
    rounds: int,
    cpus: int,
    budget: float,
    limit: float,
    quick: bool,
    json_file: Path | None,
) -> None:
    """Compare raydask with its neighbours; exit 1 when one fails or answers differ."""
    settings = Settings(
        rounds=1 if quick else rounds, cpus=cpus, budget=budget, limit=limit, quick=quick
    )
    chosen_cases = _choose(CASES, cases, "--cases")
    chosen_contenders = _choose(CONTENDERS, contenders, "--contenders")
    reports = []
    with Runner(chosen_contenders, settings, lambda line: click.echo(line, err=True)) as runner:
        for case in chosen_cases.values():
            reports.append(runner.run(case))
            if json_file is not None:
                # Written after each case: a long run that is broken off keeps what it has.
                json_file.write_text(json.dumps(as_json(reports, REFERENCE), indent=1) + "\n")
    console = Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH)
    print_reports(console, reports, REFERENCE)
    failed = any(recording.failed for each in reports for recording in each.recordings.values())
    if failed or any(each.disagreements for each in reports):
        sys.exit(1)


def _choose(known: dict[str, T], wanted: str | None, option: str) -> dict[str, T]:
    if wanted is None:
        return known
    names: Iterable[str] = [name.strip() for name in wanted.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.BadParameter(
            f"unknown: {', '.join(unknown)}; known: {', '.join(known)}", param_hint=option
        )
    return {name: known[name] for name in names}


if __name__ == "__main__":
    main()
