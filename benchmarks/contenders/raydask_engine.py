"""raydask through its public names only: `raydask.remote`, `get`, `put`, and the Dask door."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from benchmarks.contenders.port import (
    ActorProxy,
    BoundsMemory,
    Handle,
    HoldsObjects,
    HostsActors,
    NestsTasks,
)


@cache
def _remote(target: Any) -> Any:
    import raydask

    return raydask.remote(target)


def fan_out(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Submit from inside a task; `raydask.get` lends the task's CPU while it waits."""
    import raydask

    results: list[Any] = raydask.get([_remote(function).remote(*each) for each in arguments])
    return results


class RaydaskEngine(HoldsObjects, HostsActors, NestsTasks, BoundsMemory):
    """``raydask.init(num_cpus=cpus)``."""

    name = "raydask"
    modules = ("raydask",)
    fan_out = staticmethod(fan_out)

    def prepare(self) -> None:
        import raydask  # noqa: F401

    def start(self) -> None:
        import raydask

        raydask.init(num_cpus=self.cpus)

    def start_within(self, memory: int) -> None:
        os.environ["RAYDASK_MEMORY_LIMIT"] = str(memory)
        self.start()

    def stop(self) -> None:
        import raydask

        raydask.shutdown()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        import raydask

        return raydask.get(_remote(function).remote(*arguments))

    def map(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        remote = _remote(function)
        return self.gather([remote.remote(argument) for argument in arguments])

    def put(self, value: Any) -> Handle:
        import raydask

        return raydask.put(value)

    def get(self, handle: Handle) -> Any:
        import raydask

        return raydask.get(handle)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Handle:
        return _remote(function).remote(*arguments)

    def gather(self, handles: Sequence[Handle]) -> list[Any]:
        import raydask

        results: list[Any] = raydask.get(list(handles))
        return results

    def create_actor(self, actor_class: type) -> ActorProxy:
        return _RaydaskActor(_remote(actor_class).remote())

    def collect(self, calls: Sequence[Any]) -> list[Any]:
        return self.gather(calls)

    def compute(self, collections: Sequence[Any]) -> list[Any]:
        import dask

        import raydask

        with dask.config.set({"dataframe.shuffle.method": "tasks"}):
            return list(dask.compute(*collections, scheduler=raydask.get))


class _RaydaskActor(ActorProxy):
    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def send(self, method: str, *arguments: Any) -> Any:
        return getattr(self._handle, method).remote(*arguments)

    def close(self) -> None:
        import raydask

        raydask.kill(self._handle)
