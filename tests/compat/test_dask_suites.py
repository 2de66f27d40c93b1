"""Dask's own test suites, as installed with Dask, pass on raydask."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SUITES = {
    "dask.tests.test_delayed": "",
    "dask.tests.test_graph_manipulation": "",
    "dask.tests.test_hlgexpr": "",
    "dask.tests.test_composite_expr": "",
    "dask.bag.tests.test_bag": "not disk",
    "dask.array.tests.test_linalg": "tsqr or svd or inv",
    "dask.array.tests.test_map_blocks": "",
    "dask.array.tests.test_shuffle": "",
    "dask.dataframe.tests.test_merge_column_and_index": "inner and not disk",
}
"""Those that exercise the scheduler most for their time, and which of their tests: disk
shuffles take seconds each and hardly touch the scheduler."""

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("suite", SUITES)
def test_suite(suite: str) -> None:
    command = [sys.executable, "-m", "pytest", "--pyargs", suite, "-q", "--tb=short"]
    command += ["-p", "tests.compat.dask_suites.plugin", "-p", "no:cacheprovider"]
    command += ["-c", str(REPOSITORY / "tests/compat/dask_suites/pytest.ini"), "-W", "ignore"]
    command += ["-k", SUITES[suite]]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=170, cwd=REPOSITORY
    )

    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
