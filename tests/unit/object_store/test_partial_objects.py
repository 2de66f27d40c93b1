"""How far the regions are that are being filled, and who waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from raydask.errors import InternalError
from raydask.object_store.partial_objects import NotBegunError, NotFilledError, PartialObjects

SECONDS = 10.0


def started(partial: PartialObjects, offset: int, size: int, filled: int = 0) -> None:
    partial.begin(offset, size)
    partial.start(offset)
    partial.advance(offset, filled)


def waiting(partial: PartialObjects, offset: int, length: int) -> Future[int]:
    """Ask in a thread, and return when it waits."""
    there = threading.Event()
    wait = partial._changed.wait

    def noticed(timeout: float | None = None) -> bool:
        there.set()
        return wait(timeout)

    partial._changed.wait = noticed  # type: ignore[method-assign]
    pool = ThreadPoolExecutor(1)
    future = pool.submit(partial.filled, offset, length)
    pool.shutdown(wait=False)
    assert there.wait(SECONDS)
    return future


def test_what_nobody_fills_is_there() -> None:
    partial = PartialObjects()
    started(partial, 8192, 4096)
    for offset, length in ((0, 8192), (12288, 4096), (0, 0), (8192, 0)):
        assert partial.filled(offset, length) == length


def test_a_range_is_there_as_far_as_the_watermark() -> None:
    partial = PartialObjects()
    started(partial, 8192, 4096, 1000)
    assert partial.filled(8192, 4096) == 1000
    assert partial.filled(8192, 500) == 500
    assert partial.filled(9000, 3288) == 192
    partial.end(8192, True)
    assert partial.filled(9000, 3288) == 3288


@pytest.mark.parametrize(("offset", "length"), [(8000, 4096), (8192, 8192), (0, 65536)])
def test_a_range_is_of_one_object(offset: int, length: int) -> None:
    partial = PartialObjects()
    started(partial, 8192, 4096, 4096)
    started(partial, 12288, 4096, 4096)
    with pytest.raises(ValueError, match="not within one object"):
        partial.filled(offset, length)


@pytest.mark.parametrize(
    ("then", "there"),
    [
        (lambda partial: partial.advance(4096, 100), 50),
        (lambda partial: partial.end(4096, True), 4046),
    ],
)
def test_who_waits_goes_on(then: Callable[[PartialObjects], None], there: int) -> None:
    partial = PartialObjects(SECONDS)
    started(partial, 4096, 4096, 50)
    future = waiting(partial, 4146, 4046)
    then(partial)
    assert future.result(SECONDS) == there


@pytest.mark.parametrize(
    "then", [lambda partial: partial.end(4096, False), lambda partial: partial.close()]
)
def test_who_waits_in_vain_learns_it(then: Callable[[PartialObjects], None]) -> None:
    partial = PartialObjects(SECONDS)
    started(partial, 4096, 4096, 50)
    future = waiting(partial, 4146, 4046)
    then(partial)
    with pytest.raises(NotFilledError, match="could not get"):
        future.result(SECONDS)


def test_nobody_waits_for_what_does_not_move() -> None:
    partial = PartialObjects(patience=0.02)
    started(partial, 4096, 4096, 50)
    assert partial.filled(4096, 4096) == 50
    with pytest.raises(NotFilledError, match="in vain"):
        partial.filled(4146, 4046)


def test_a_queued_pull_is_waited_for_a_moment() -> None:
    partial = PartialObjects(SECONDS, start_seconds=0.01)
    partial.begin(4096, 4096)
    with pytest.raises(NotBegunError):
        partial.filled(4096, 4096)


def test_a_queued_pull_that_starts_at_once_is_waited_for() -> None:
    partial = PartialObjects(SECONDS, SECONDS)
    partial.begin(4096, 4096)
    future = waiting(partial, 4096, 4096)
    partial.start(4096)
    partial.advance(4096, 7)
    assert future.result(SECONDS) == 7


def test_a_queue_in_which_nothing_moves_is_given_up() -> None:
    partial = PartialObjects(patience=0.01, start_seconds=0.02)
    partial.begin(4096, 4096)
    with pytest.raises(NotFilledError, match="in vain"):
        partial.filled(4096, 4096)


def test_what_failed_is_refused_until_it_is_pulled_again() -> None:
    partial = PartialObjects(SECONDS)
    started(partial, 4096, 4096, 50)
    partial.end(4096, False)
    with pytest.raises(NotFilledError):
        partial.filled(4096, 50)
    started(partial, 4096, 4096, 20)
    assert partial.filled(4096, 4096) == 20


def test_what_failed_is_refused_until_the_memory_is_of_other_use() -> None:
    partial = PartialObjects(SECONDS)
    started(partial, 4096, 4096)
    partial.forget(4096)  # it has not failed
    partial.end(4096, False)
    partial.forget(4096)
    partial.forget(4096)
    assert partial.filled(0, 65536) == 65536
    started(partial, 4096, 4096)
    partial.end(4096, False)
    started(partial, 0, 65536, 9000)
    assert partial.filled(4096, 4096) == 4096


def test_empty_objects_have_a_place_too() -> None:
    partial = PartialObjects(SECONDS)
    for ok in (False, False, True):
        partial.begin(4096, 0)
        with pytest.raises(InternalError, match="two pulls"):
            partial.begin(4096, 0)
        partial.end(4096, ok)
    assert partial.filled(0, 65536) == 65536


def test_two_pulls_do_not_fill_the_same_memory() -> None:
    partial = PartialObjects()
    partial.begin(4096, 8192)
    for offset, size in ((4096, 1), (8192, 4096), (0, 65536), (0, 5000)):
        with pytest.raises(InternalError, match="two pulls"):
            partial.begin(offset, size)
    partial.begin(0, 4096)
    partial.begin(12288, 4096)
