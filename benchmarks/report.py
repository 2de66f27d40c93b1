"""The outcome as a table for people and as JSON for programs.

In the table a cell holds the contender's median and, in parentheses, how many times the
reference contender's median that is: above 1 is slower or more, for speeds and shares faster.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measurement import CaseReport, Metric, Recording

_PACKAGES = ("raydask", "dask", "distributed", "ray", "numpy", "pandas", "pyarrow")


def machine() -> dict[str, Any]:
    """Describe where and with which versions this runs."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "versions": versions,
    }


def as_json(reports: Sequence[CaseReport], reference: str) -> dict[str, Any]:
    """Return everything that was measured, round by round, as a JSON document."""
    return {
        "machine": machine(),
        "reference": reference,
        "cases": [
            {
                "name": report.name,
                "title": report.title,
                "disagreements": report.disagreements,
                "contenders": {
                    name: _recording_as_json(report, name, reference) for name in report.recordings
                },
            }
            for report in reports
        ],
    }


def _recording_as_json(report: CaseReport, name: str, reference: str) -> dict[str, Any]:
    recording = report.recordings[name]
    if recording.skipped:
        return {"skipped": recording.skipped}
    metrics = {
        metric.name: {
            "unit": metric.unit,
            "lower_is_better": metric.lower_is_better,
            "median": recording.median(metric.name),
            "samples": recording.samples(metric.name),
            "ratio": report.ratio(metric.name, name, reference),
        }
        for metric in report.metrics
        if recording.samples(metric.name)
    }
    return {"metrics": metrics, **({"failed": recording.failed} if recording.failed else {})}


def print_reports(console: Console, reports: Sequence[CaseReport], reference: str) -> None:
    """Print one table over all cases, then what was left out, failed or disagreed."""
    names = list(dict.fromkeys(name for report in reports for name in report.recordings))
    table = Table(title=f"medians (× {reference})", title_justify="left")
    table.add_column("case", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for report in reports:
        for number, metric in enumerate(report.metrics):
            table.add_row(
                report.name if number == 0 else "",
                f"{metric.name} [dim]{metric.unit}[/dim]",
                *(_cell(report, name, metric, reference) for name in names),
                end_section=number == len(report.metrics) - 1,
            )
    console.print(table)
    for line in _remarks(reports):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _cell(report: CaseReport, name: str, metric: Metric, reference: str) -> str:
    recording = report.recordings.get(name)
    if recording is None or recording.skipped:
        return "[dim]-[/dim]"
    median = recording.median(metric.name)
    if median is None:
        return "[red]failed[/red]" if recording.failed else "[dim]-[/dim]"
    ratio = report.ratio(metric.name, name, reference)
    if name == reference or ratio is None:
        return _number(median)
    return f"{_number(median)} [dim](×{_number(ratio)})[/dim]"


def _number(value: float) -> str:
    """Write three significant digits, without an exponent."""
    if value == 0:
        return "0"
    digits = next((count for count in (3, 2, 1) if abs(value) < 10 ** (3 - count)), 0)
    return f"{value:,.{digits}f}"


def _remarks(reports: Sequence[CaseReport]) -> list[str]:
    absent: dict[str, str] = {}
    lines = []
    for report in reports:
        for name, recording in report.recordings.items():
            if recording.skipped and recording.skipped.endswith("not installed"):
                absent[name] = recording.skipped
            if recording.failed:
                lines.append(f"{report.name}: {name} failed: {_last_line(recording)}")
        lines += [f"{report.name}: ANSWERS DIFFER: {each}" for each in report.disagreements]
    return [f"{name} left out: {reason}" for name, reason in absent.items()] + lines


def _last_line(recording: Recording) -> str:
    return (recording.failed or "").strip().splitlines()[-1]
