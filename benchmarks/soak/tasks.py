"""The soak's tasks, and what each of them must return.

Sizes are pseudo-random and a function of the task's number: all from 0 to 200,000 bytes come
equally often, so about half of the results travel in messages and half are in the object store.
"""

from __future__ import annotations

from typing import Any

import numpy

LARGEST = 200_000
"""Bytes of the largest result."""

_MULTIPLIER = 2_654_435_761  # prime, so that all remainders come up before any comes again
_COMPARED_WHOLE = 997


def size_of(number: int) -> int:
    """Return how many bytes a task's result has."""
    return number * _MULTIPLIER % (LARGEST + 1)


def make(number: int) -> bytes | numpy.ndarray[Any, Any]:
    """Make a value of this task's size: bytes and arrays by turns."""
    size, fill = size_of(number), number % 256
    if number % 2:
        return numpy.full(size, fill, numpy.uint8)
    return bytes([fill]) * size


def total_size(*values: bytes | numpy.ndarray[Any, Any]) -> int:
    """Return the bytes of the arguments together."""
    return sum(map(len, values))


def is_made(value: Any, number: int) -> bool:
    """Tell whether `value` is what `make` makes: its size and its ends, and of some all bytes."""
    size, fill = size_of(number), number % 256
    if len(value) != size:
        return False
    if number % _COMPARED_WHOLE == 0:
        return bytes(value) == bytes([fill]) * size
    return not size or bool(value[0] == fill and value[-1] == fill)
