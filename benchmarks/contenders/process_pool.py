"""``concurrent.futures.ProcessPoolExecutor``: what the standard library offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.contenders.port import RunsTasks


class ProcessPool(RunsTasks):
    """A pool with the platform's default start method; one pickled message per task."""

    name = "process-pool"

    _pool: ProcessPoolExecutor

    def prepare(self) -> None:
        pass

    def start(self) -> None:
        self._pool = ProcessPoolExecutor(self.cpus)

    def stop(self) -> None:
        self._pool.shutdown()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.submit(function, *arguments).result()

    def map(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        return list(self._pool.map(function, arguments))
