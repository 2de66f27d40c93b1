"""The command line of the soak, and its observer: starts the session, weighs it, and judges."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

import raydask
from benchmarks.report import machine
from benchmarks.soak.growth import Trend, trend_of
from benchmarks.soak.probe import SessionProbe

_STORE = 512 << 20
_BATCH = 200
_SAMPLES = 200
_LINES = 10
_SETTLE_SECONDS = 15.0


class Observation:
    """What was seen of one soak."""

    def __init__(self) -> None:
        self.series: dict[str, list[float]] = defaultdict(list)
        self.ended: list[int] = []
        self.seconds = 0.0
        self.driver_failed = False
        self.after_the_refs: dict[str, Any] = {}
        """What the node held when the driver had dropped its last reference."""
        self.after_the_driver: dict[str, Any] = {}
        """And when the driver itself had gone, its workers and their slabs with it."""

    def trends(self, allowance: float) -> list[Trend]:
        """Return how each series went."""
        return [
            trend_of(name, samples, allowance=allowance) for name, samples in self.series.items()
        ]

    @property
    def left(self) -> bool:
        """Tell whether anything was left that nobody held."""
        return bool(
            self.after_the_refs["tasks"]
            or self.after_the_refs["objects"]
            or self.after_the_driver["bytes"]
        )


def held() -> dict[str, int]:
    """Return what the node holds: tasks, objects, and bytes of the arena."""
    (node,) = raydask.nodes()
    return {
        "tasks": node["tasks"],
        "objects": node["objects"],
        "bytes": node["object_store_used"],
    }


def settle(*names: str) -> dict[str, int]:
    """Wait until the node holds none of what is named, at most 15 s; return what it holds."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while any((last := held())[name] for name in names) and time.monotonic() < deadline:
        time.sleep(0.05)
    return last


def observe(tasks: int, window: int, say: Callable[[str], None]) -> Observation:
    """Run the soak in the session of this process, and weigh it all the time."""
    seen = Observation()
    session = raydask.nodes()[0]["session"]
    every = max(_BATCH, tasks // _SAMPLES)
    arguments = map(str, (session, tasks, window, _BATCH, every))
    driver = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.soak.driver", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    probe = SessionProbe(session, driver.pid)
    began = time.monotonic()
    with driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            seen.seconds = time.monotonic() - began
            if line.strip() == "done":
                seen.after_the_refs = settle("tasks", "objects")
                break
            _record(seen, int(line), probe.sample(), say, tasks)
    probe.close()
    seen.driver_failed = driver.returncode != 0
    seen.after_the_driver = settle("bytes")
    return seen


def _record(
    seen: Observation,
    ended: int,
    sample: dict[str, float],
    say: Callable[[str], None],
    tasks: int,
) -> None:
    before = seen.ended[-1] if seen.ended else 0
    seen.ended.append(ended)
    for name, value in sample.items():
        seen.series[name].append(value)
    if ended * _LINES // tasks != before * _LINES // tasks:
        figures = "; ".join(f"{name} {value:.1f}" for name, value in sample.items())
        say(f"{ended:,} tasks, {seen.seconds:.0f} s; MB: {figures}")


def print_trends(console: Console, trends: list[Trend]) -> None:
    """Print the table of quarters."""
    table = Table(title="medians over quarters of the time, MB", title_justify="left")
    for heading in ("", "first", "last", "growth"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for each in trends:
        growth = f"{each.growth:+.1f}"
        table.add_row(
            each.name,
            f"{each.first:.1f}",
            f"{each.last:.1f}",
            f"[red]{growth} grew[/red]" if each.grew else growth,
        )
    console.print(table)


@click.command()
@click.option("--tasks", default=1_000_000, show_default=True, help="Tasks in all.")
@click.option("--window", default=2_000, show_default=True, help="Tasks under way at once.")
@click.option("--cpus", default=2, show_default=True, help="Workers.")
@click.option(
    "--allowance", default=4.0, show_default=True, help="MB that a series may grow in any case."
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Also write every sample to this file.",
)
def main(tasks: int, window: int, cpus: int, allowance: float, json_file: Path | None) -> None:
    """Run many tasks with results of 0 to 200 KB; exit 1 when memory grew or was kept."""
    console = Console()
    with raydask.init(num_cpus=cpus, object_store_memory=_STORE):
        seen = observe(tasks, window, lambda line: click.echo(line, err=True))
    if seen.driver_failed or not seen.after_the_refs:
        sys.exit("the driver failed; what it said is above")
    trends = seen.trends(allowance)
    if json_file is not None:
        document = {
            "machine": machine(),
            "tasks": tasks,
            "seconds": seen.seconds,
            "ended": seen.ended,
            "series": seen.series,
            "after_the_refs": seen.after_the_refs,
            "after_the_driver": seen.after_the_driver,
            "grew": [each.name for each in trends if each.grew],
        }
        json_file.write_text(json.dumps(document, indent=1) + "\n")
    print_trends(console, trends)
    console.print(
        f"{tasks:,} tasks in {seen.seconds:.0f} s, {1e6 * seen.seconds / tasks:.0f} µs each",
        highlight=False,
    )
    for when, what in (
        ("its refs were gone", seen.after_the_refs),
        ("the driver was gone", seen.after_the_driver),
    ):
        console.print(
            f"when {when}: {what['tasks']} tasks, {what['objects']} objects, "
            f"{what['bytes']:,} bytes of the arena",
            highlight=False,
        )
    if seen.left or any(each.grew for each in trends):
        sys.exit(1)


if __name__ == "__main__":
    main()
