"""Is raydask's peak of memory the lower one?  ``python -m benchmarks.out_of_core``.

Runs the out-of-core cases (`benchmarks.cases.out_of_core` says what the same limit means) on
raydask and on distributed in alternating rounds, each in a new process, and judges their peaks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from benchmarks.cases.out_of_core import OutOfCoreArray, OutOfCoreShuffle
from benchmarks.contenders import CONTENDERS, REFERENCE
from benchmarks.contenders.distributed_cluster import DistributedCluster
from benchmarks.measurement import CaseReport
from benchmarks.report import as_json, print_reports
from benchmarks.runner import Runner, Settings

CASES = {"array": OutOfCoreArray, "shuffle": OutOfCoreShuffle}

_METRIC = "peak memory"
_BUDGET_SECONDS = 120.0
_LIMIT_SECONDS = 180.0


def verdicts(reports: Sequence[CaseReport]) -> tuple[list[str], bool]:
    """Say for each case how the peaks relate, and whether all is as it should be.

    That is: raydask's peak is the lower one, everybody has finished, and the answers agree.
    """
    lines = []
    good = True
    other = DistributedCluster.name
    for report in reports:
        ratio = report.ratio(_METRIC, other, REFERENCE)
        if ratio is None:
            lines.append(f"{report.name}: no peaks to compare")
            good = False
            continue
        lines.append(f"{report.name}: peak({REFERENCE}) / peak({other}) = {1 / ratio:.2f}")
        failed = any(recording.failed for recording in report.recordings.values())
        if ratio <= 1 or failed or report.disagreements:
            good = False
    return lines, good


@click.command()
@click.option(
    "--cases",
    default=",".join(CASES),
    show_default=True,
    help="Comma-separated.",
)
@click.option("--rounds", default=3, show_default=True, help="Rounds per case and contender.")
@click.option("--quick", is_flag=True, help="Data that fit into memory: for trying out.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Also write everything measured to this file.",
)
def main(cases: str, rounds: int, quick: bool, json_file: Path | None) -> None:
    """Compare peaks of memory on data of four times the object store.

    Exit 1 when raydask's peak is not the lower one, someone failed, or an answer is wrong.
    """
    names = [name.strip() for name in cases.split(",")]
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise click.BadParameter(
            f"unknown: {', '.join(unknown)}; known: {', '.join(CASES)}", param_hint="--cases"
        )
    contenders = {name: CONTENDERS[name] for name in (REFERENCE, DistributedCluster.name)}
    settings = Settings(
        rounds=rounds, cpus=2, budget=_BUDGET_SECONDS, limit=_LIMIT_SECONDS, quick=quick
    )
    with Runner(contenders, settings, lambda line: click.echo(line, err=True)) as runner:
        reports = [runner.run(CASES[name]) for name in names]
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(reports, REFERENCE), indent=1) + "\n")
    console = Console(width=None if sys.stdout.isatty() else 120)
    print_reports(console, reports, REFERENCE)
    lines, good = verdicts(reports)
    for line in lines:
        console.print(line, highlight=False)
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
