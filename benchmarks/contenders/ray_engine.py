"""Ray, on one machine, with its dashboard off and its session folder out of the way.

Dask collections go through ``ray.util.dask.ray_dask_get``.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from benchmarks.contenders.port import (
    ActorProxy,
    Handle,
    HoldsObjects,
    HostsActors,
    NestsTasks,
    SchedulesDask,
)


@cache
def _remote(target: Any) -> Any:
    import ray

    return ray.remote(target)


def fan_out(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Submit from inside a task; `ray.get` lends the task's CPU while it waits."""
    import ray

    results: list[Any] = ray.get([_remote(function).remote(*each) for each in arguments])
    return results


class RayEngine(HoldsObjects, HostsActors, NestsTasks, SchedulesDask):
    """``ray.init(num_cpus=cpus)``."""

    name = "ray"
    modules = ("ray",)
    fan_out = staticmethod(fan_out)

    _folder: str

    def prepare(self) -> None:
        import ray  # noqa: F401

    def start(self) -> None:
        import ray

        self._folder = tempfile.mkdtemp(prefix="ray")
        ray.init(
            num_cpus=self.cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=self._folder,
        )

    def stop(self) -> None:
        import ray

        ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        import ray

        return ray.get(_remote(function).remote(*arguments))

    def map(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        remote = _remote(function)
        return self.gather([remote.remote(argument) for argument in arguments])

    def put(self, value: Any) -> Handle:
        import ray

        return ray.put(value)

    def get(self, handle: Handle) -> Any:
        import ray

        return ray.get(handle)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Handle:
        return _remote(function).remote(*arguments)

    def gather(self, handles: Sequence[Handle]) -> list[Any]:
        import ray

        results: list[Any] = ray.get(list(handles))
        return results

    def create_actor(self, actor_class: type) -> ActorProxy:
        return _RayActor(_remote(actor_class).remote())

    def collect(self, calls: Sequence[Any]) -> list[Any]:
        return self.gather(calls)

    def compute(self, collections: Sequence[Any]) -> list[Any]:
        import dask
        from ray.util.dask import ray_dask_get

        with dask.config.set({"dataframe.shuffle.method": "tasks"}):
            return list(dask.compute(*collections, scheduler=ray_dask_get))


class _RayActor(ActorProxy):
    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def send(self, method: str, *arguments: Any) -> Any:
        return getattr(self._handle, method).remote(*arguments)

    def close(self) -> None:
        import ray

        ray.kill(self._handle)
