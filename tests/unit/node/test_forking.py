"""What forked processes are to share."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from raydask.node.forking import shared_imports


@pytest.fixture(autouse=True)
def _collector_as_before() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()


def test_the_collector_keeps_out_of_what_children_share() -> None:
    frozen = gc.get_freeze_count()
    with shared_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen


def test_the_collector_works_again_after_a_failed_import() -> None:
    with pytest.raises(ImportError), shared_imports():
        raise ImportError
    assert gc.isenabled()


def test_what_is_made_later_fills_no_gaps_in_what_is_shared() -> None:
    with shared_imports():
        blocks = [bytes(100) for _ in range(2000)]
        gaps = {id(block) for block in blocks[::2]}
        del blocks[::2]
    made = [bytes(100) for _ in range(500)]
    assert gaps.isdisjoint(map(id, made))


@pytest.mark.parametrize("allocator", ["debug", "malloc"])
def test_another_allocator_has_no_gaps_to_fill(allocator: str) -> None:
    program = (
        "from raydask.node import forking\n"
        "with forking.shared_imports(): pass\n"
        "print(len(forking._fillers))"
    )
    environment = {**os.environ, "PYTHONMALLOC": allocator}
    command = [sys.executable, "-c", program]
    assert subprocess.check_output(command, env=environment, timeout=60) == b"0\n"
