"""An object store in a small file system: it works there or elsewhere, and nobody dies.

``/dev/shm`` has 64 MB in many containers.  Where this user may, such a file system is mounted.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raydask
from tests.cluster.probes import process_named

MEGABYTE = 1 << 20


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 64 MB in memory, named as the place of the object store."""
    folder = tmp_path / "shm"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount file systems here")
    monkeypatch.setenv("RAYDASK_OBJECT_STORE_FOLDER", str(folder))
    yield folder
    raydask.shutdown()
    subprocess.run(["umount", str(folder)], check=True)


def values_travel(megabytes: int) -> None:
    """Put, get and change arrays in several processes."""
    source = np.arange(megabytes * MEGABYTE // 8)
    ref = raydask.put(source)
    assert (raydask.get(ref) == source).all()
    double = raydask.remote(lambda array: array * 2)
    assert (raydask.get(double.remote(ref)) == 2 * source).all()


def supervisor_log(context: dict[str, Any]) -> str:
    return (Path(context["session"]) / "logs" / "supervisor.log").read_text()


def taken(folder: Path) -> int:
    """Return the bytes of the file system that are in use."""
    space = os.statvfs(folder)
    return (space.f_blocks - space.f_bfree) * space.f_frsize


def test_what_fits_lies_there_and_nobody_can_take_its_room(small: Path) -> None:
    context = raydask.init(num_cpus=1, object_store_memory=50 * MEGABYTE)
    assert taken(small) >= 50 * MEGABYTE
    with pytest.raises(OSError, match="No space left"), (small / "other").open("wb") as other:
        while True:
            other.write(bytes(MEGABYTE))
    values_travel(20)
    assert process_named(context["session"], "node").is_running()
    raydask.shutdown()
    assert [each.name for each in small.iterdir()] == ["other"]


@pytest.mark.expect_log("the object store is in anonymous memory")
@pytest.mark.parametrize("size", [None, 512 * MEGABYTE])
def test_what_does_not_fit_lies_elsewhere_with_a_warning(small: Path, size: int | None) -> None:
    context = raydask.init(num_cpus=1, object_store_memory=size)
    assert taken(small) == 0
    values_travel(100)
    log = supervisor_log(context)
    assert f"the object store is in anonymous memory, not in {small}" in log
    assert "there are only 64 MiB free" in log and "set RAYDASK_OBJECT_STORE_FOLDER to" in log
