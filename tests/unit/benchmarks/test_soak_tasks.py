"""The soak's tasks: sizes spread evenly, and what is wrong is noticed."""

from __future__ import annotations

import statistics

import numpy
import pytest

from benchmarks.soak.tasks import LARGEST, is_made, make, size_of, total_size

WHOLE = 2 * 997
"""A number whose value is compared byte by byte."""


def test_all_sizes_come_equally_often() -> None:
    assert sorted(map(size_of, range(LARGEST + 1))) == list(range(LARGEST + 1))
    few = [size_of(number) for number in range(2_000)]
    assert statistics.mean(few) == pytest.approx(LARGEST / 2, rel=0.05)


@pytest.mark.parametrize("number", [*range(20), WHOLE, WHOLE + 997])
def test_what_is_made_is_recognized(number: int) -> None:
    assert is_made(make(number), number)
    assert len(make(number)) == size_of(number)


def test_bytes_and_arrays_take_turns() -> None:
    assert isinstance(make(2), bytes)
    assert isinstance(make(3), numpy.ndarray)


@pytest.mark.parametrize("number", [2, 3, WHOLE])
def test_another_value_is_noticed(number: int) -> None:
    right = bytes(make(number))
    assert not is_made(right[:-1], number)
    assert not is_made(right + right[:1], number)
    assert not is_made(b"?" + right[1:], number)
    assert not is_made(right[:-1] + b"?", number)


def test_of_some_every_byte_counts() -> None:
    right = bytes(make(WHOLE))
    middle = len(right) // 2
    assert not is_made(right[:middle] + b"?" + right[middle + 1 :], WHOLE)


def test_sizes_are_added_up() -> None:
    assert total_size() == 0
    assert total_size(make(4), make(5)) == size_of(4) + size_of(5)
