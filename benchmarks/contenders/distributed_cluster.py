"""dask.distributed: a `LocalCluster` of single-threaded worker processes and its client.

The dashboard is off, as in the other contenders. Shuffles take distributed's own default (P2P).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.contenders.port import (
    ActorProxy,
    BoundsMemory,
    Handle,
    HoldsObjects,
    HostsActors,
    NestsTasks,
)


def fan_out(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Submit from inside a task; the task's thread leaves the pool while it waits."""
    from distributed import worker_client

    with worker_client() as client:
        futures = [client.submit(function, *each, pure=False) for each in arguments]
        results: list[Any] = client.gather(futures)
        return results


class DistributedCluster(HoldsObjects, HostsActors, NestsTasks, BoundsMemory):
    """``Client(LocalCluster(n_workers=cpus, threads_per_worker=1))``."""

    name = "distributed"
    modules = ("distributed",)
    fan_out = staticmethod(fan_out)

    _cluster: Any
    _client: Any

    def prepare(self) -> None:
        import dask
        import distributed  # noqa: F401

        # A paused cluster must not be taken for a dead one when its turn comes.
        dask.config.set({"distributed.scheduler.worker-ttl": None})

    def start(self) -> None:
        self._start(memory_limit="auto")

    def start_within(self, memory: int) -> None:
        self._start(memory_limit=memory // self.cpus)

    def _start(self, memory_limit: int | str) -> None:
        from distributed import Client, LocalCluster

        self._cluster = LocalCluster(
            n_workers=self.cpus,
            threads_per_worker=1,
            memory_limit=memory_limit,
            dashboard_address=None,
        )
        self._client = Client(self._cluster)

    def stop(self) -> None:
        self._client.close()
        self._cluster.close()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._client.submit(function, *arguments, pure=False).result()

    def map(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        return self.gather(self._client.map(function, list(arguments), pure=False))

    def put(self, value: Any) -> Handle:
        return self._client.scatter(value, hash=False)

    def get(self, handle: Handle) -> Any:
        return handle.result()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Handle:
        return self._client.submit(function, *arguments, pure=False)

    def gather(self, handles: Sequence[Handle]) -> list[Any]:
        results: list[Any] = self._client.gather(list(handles))
        return results

    def create_actor(self, actor_class: type) -> ActorProxy:
        return _DistributedActor(self._client.submit(actor_class, actor=True, pure=False))

    def collect(self, calls: Sequence[Any]) -> list[Any]:
        return [call.result() for call in calls]

    def compute(self, collections: Sequence[Any]) -> list[Any]:
        import dask

        return list(dask.compute(*collections, scheduler=self._client))


class _DistributedActor(ActorProxy):
    def __init__(self, creation: Any) -> None:
        self._creation = creation
        self._made: Any = None

    @property
    def _actor(self) -> Any:
        if self._made is None:
            self._made = self._creation.result()
        return self._made

    def send(self, method: str, *arguments: Any) -> Any:
        return getattr(self._actor, method)(*arguments)

    def close(self) -> None:
        self._made = self._creation = None
