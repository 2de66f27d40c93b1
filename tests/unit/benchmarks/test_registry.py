"""Cases and contenders fit together, and the command line knows them."""

from __future__ import annotations

import subprocess
import sys

from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.cases import CASES
from benchmarks.contenders import CONTENDERS, REFERENCE
from benchmarks.runner import rotated


def test_the_reference_takes_part_in_every_case() -> None:
    assert all(issubclass(CONTENDERS[REFERENCE], case.requires) for case in CASES.values())


def test_every_contender_takes_part_in_some_case() -> None:
    for contender in CONTENDERS.values():
        assert any(issubclass(contender, case.requires) for case in CASES.values())


def test_metrics_of_a_case_have_different_names() -> None:
    for case in CASES.values():
        names = [metric.name for metric in case.metrics]
        assert len(set(names)) == len(names)


def test_registries_import_none_of_the_systems() -> None:
    code = (
        "import sys, benchmarks.cases, benchmarks.contenders;"
        "sys.exit(sorted({'ray', 'dask', 'distributed', 'numpy', 'pandas'} & set(sys.modules))"
        " or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rounds_begin_with_another_contender_each_time() -> None:
    assert [rotated(["a", "b", "c"], by) for by in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]
    assert rotated([], 1) == []


def test_an_unknown_case_is_refused_with_the_known_ones() -> None:
    result = CliRunner().invoke(main, ["--cases", "noop-sync,nope"])
    assert result.exit_code == 2
    assert "unknown: nope" in result.output
    assert "noop-async" in result.output
