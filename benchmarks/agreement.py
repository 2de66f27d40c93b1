"""Whether two contenders computed the same.

Answers cross a JSON connection, so they are trees of lists, dicts with string keys, strings,
numbers and None. Floating-point sums depend on the order of summation; a relative tolerance
covers that and nothing more.
"""

from __future__ import annotations

import math
from typing import Any

from benchmarks.measurement import Recording

_TOLERANCE = 1e-9


def agree(one: Any, other: Any) -> bool:
    """Tell whether two answers are equal, up to rounding of floats."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(agree(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(agree, one, other))
    if isinstance(one, float) or isinstance(other, float):
        return (
            isinstance(one, (int, float))
            and isinstance(other, (int, float))
            and math.isclose(one, other, rel_tol=_TOLERANCE)
        )
    return bool(one == other)


def disagreements(recordings: dict[str, Recording]) -> list[str]:
    """Compare every answer with the first contender's first; say who differs, and how."""
    answers = [
        (contender, each.answer)
        for contender, recording in recordings.items()
        for each in recording.rounds
    ]
    if not answers:
        return []
    first, expected = answers[0]
    different = {contender: answer for contender, answer in answers if not agree(expected, answer)}
    return [
        f"{contender} computed {_brief(answer)}, {first} computed {_brief(expected)}"
        for contender, answer in different.items()
    ]


def _brief(answer: Any) -> str:
    text = repr(answer)
    return text if len(text) <= 120 else text[:117] + "..."
