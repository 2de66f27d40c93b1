"""What forked processes are to share."""

from __future__ import annotations

import gc
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
