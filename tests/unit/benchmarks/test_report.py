"""Medians and ratios as table and JSON."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from benchmarks.measurement import CaseReport, Metric, Recording, Round
from benchmarks.report import as_json, print_reports

TIME = Metric("task", "µs")
SPEED = Metric("speed", "tasks/s", lower_is_better=False)


def report() -> CaseReport:
    return CaseReport(
        "noop",
        "no-op tasks",
        (TIME, SPEED),
        {
            "ours": Recording(
                [Round({"task": value, "speed": 1e6 / value}) for value in (9, 10, 50)]
            ),
            "theirs": Recording([Round({"task": 125.0})]),
            "broken": Recording(failed="Traceback …\nOSError: gone"),
            "absent": Recording(skipped="ray is not installed"),
        },
    )


def printed(*reports: CaseReport) -> str:
    console = Console(width=150, file=io.StringIO())
    print_reports(console, reports, "ours")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_ratio_relates_medians_to_the_reference() -> None:
    assert report().ratio("task", "theirs", "ours") == pytest.approx(12.5)
    assert report().ratio("task", "ours", "ours") == 1


@pytest.mark.parametrize("contender", ["broken", "absent"])
def test_there_is_no_ratio_without_rounds(contender: str) -> None:
    assert report().ratio("task", contender, "ours") is None
    assert report().ratio("task", "ours", contender) is None


def test_there_is_no_ratio_to_a_reference_that_took_no_part() -> None:
    assert report().ratio("task", "theirs", "nobody") is None


def test_the_table_has_medians_with_ratios() -> None:
    text = printed(report())
    assert "125 (×12.5)" in text
    assert "10.0" in text
    assert "100,000" in text
    assert "failed" in text


def test_remarks_follow_the_table() -> None:
    differing = report()
    differing.disagreements.append("theirs computed 2, ours computed 1")
    lines = printed(differing).splitlines()
    assert "absent left out: ray is not installed" in lines
    assert "noop: broken failed: OSError: gone" in lines
    assert "noop: ANSWERS DIFFER: theirs computed 2, ours computed 1" in lines


def test_the_json_holds_every_sample() -> None:
    document = json.loads(json.dumps(as_json([report()], "ours")))
    (case,) = document["cases"]
    task = case["contenders"]["ours"]["metrics"]["task"]
    assert task == {
        "unit": "µs",
        "lower_is_better": True,
        "median": 10,
        "samples": [9, 10, 50],
        "ratio": 1,
    }
    assert case["contenders"]["theirs"]["metrics"]["task"]["ratio"] == 12.5
    assert "speed" not in case["contenders"]["theirs"]["metrics"]
    assert case["contenders"]["broken"]["failed"].endswith("OSError: gone")
    assert case["contenders"]["absent"] == {"skipped": "ray is not installed"}
    assert document["machine"]["versions"]["python"]
