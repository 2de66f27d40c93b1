"""What a case is: a program, the capability it needs, and the numbers it promises.

A round builds whatever it needs outside the timed part, so that building a collection or an
array is not measured, and a fresh one is computed each time.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from benchmarks.contenders.port import Contender
from benchmarks.measurement import Metric, Round

C = TypeVar("C", bound=Contender)


class Case(ABC, Generic[C]):
    """A program with numbers to take from it.

    Parameters
    ----------
    quick
        Run a small variant, for trying out and for warming up.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    requires: ClassVar[type[Contender]]
    cpus: ClassVar[int | None] = None
    """Workers of the contender, where the case fixes them."""
    starts_contender: ClassVar[bool] = False
    """Every round gets a new process and starts and stops the contender itself."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick

    def scaled(self, full: int, small: int) -> int:
        """Choose a size."""
        return small if self.quick else full

    @abstractmethod
    def measure(self, contender: C) -> Round:
        """Run one round."""


class Stopwatch:
    """``with Stopwatch() as watch: …`` and then ``watch.seconds``."""

    seconds: float

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
