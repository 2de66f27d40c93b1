"""Answers of contenders are compared up to the rounding of floats, and nothing more."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.agreement import agree, disagreements
from benchmarks.measurement import Recording, Round


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (None, None),
        (7, 7),
        (0.1 + 0.2, 0.3),
        (3, 3.0),
        ([1, [2.0, "a"]], [1, [2.0, "a"]]),
        ({"mean": [1.0], "count": [3]}, {"count": [3], "mean": [1.0]}),
    ],
)
def test_equal_answers_agree(one: Any, other: Any) -> None:
    assert agree(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1.0, 1.0001),
        (1.0, None),
        (1.0, "1.0"),
        ([1, 2], [1, 2, 3]),
        ([1, 2], [2, 1]),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, [1]),
    ],
)
def test_different_answers_do_not(one: Any, other: Any) -> None:
    assert not agree(one, other)
    assert not agree(other, one)


def recording(*answers: Any) -> Recording:
    return Recording([Round({}, answer) for answer in answers])


def test_nobody_disagrees_when_all_computed_the_same() -> None:
    assert disagreements({"a": recording(1, 1), "b": recording(1), "c": Recording()}) == []


def test_whoever_differs_from_the_first_is_named_once() -> None:
    lines = disagreements({"a": recording(1, 1), "b": recording(1, 2, 2), "c": recording(1)})
    assert lines == ["b computed 2, a computed 1"]


def test_a_contender_can_disagree_with_itself() -> None:
    assert disagreements({"a": recording(1, 3)}) == ["a computed 3, a computed 1"]


def test_long_answers_are_shortened() -> None:
    (line,) = disagreements({"a": recording("x" * 1000), "b": recording("y" * 1000)})
    assert len(line) < 300


def test_no_answers_are_no_disagreement() -> None:
    assert disagreements({"a": Recording(failed="broken")}) == []
