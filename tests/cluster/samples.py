"""Actors that several tests use."""

from __future__ import annotations

import os
from typing import Any

import raydask


@raydask.remote
class Counter:
    """Counts."""

    def __init__(self, value: int = 0, *, step: int = 1) -> None:
        self.value = value
        self.step = step

    def add(self, by: int | None = None) -> int:
        self.value += self.step if by is None else by
        return self.value

    def get(self) -> int:
        return self.value

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise KeyError("failed")

    def die(self) -> None:
        os._exit(7)


@raydask.remote
class Log:
    """Keeps what it is given, in order."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    def append(self, entry: Any) -> None:
        self.entries.append(entry)

    def read(self) -> list[Any]:
        return self.entries
