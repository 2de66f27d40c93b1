"""``import raydask`` is light and has no effect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.architecture.source import ROOT

HEAVY = ("asyncio", "click", "dask", "numpy", "pandas", "pyarrow", "redis", "rich", "tornado")

PROGRAM = """
import json, os, sys, threading
def open_files():
    return len(os.listdir("/dev/fd"))
before = open_files()
import raydask
print(json.dumps({
    "modules": sorted(sys.modules),
    "threads": threading.active_count(),
    "files": open_files() - before,
}))
"""


def test_importing_is_light_and_leaves_nothing(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)

    assert "raydask" in seen["modules"]
    assert sorted(set(HEAVY) & set(seen["modules"])) == []
    assert seen["threads"] == 1
    assert seen["files"] == 0
    assert ran.stderr == ""
    assert not list(tmp_path.iterdir())
