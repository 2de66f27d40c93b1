"""What a `RaydaskCluster` has in the place of Dask's scheduler: the head of its nodes.

It starts raydask's head, and answers what ``SpecCluster``, its widgets and ``Adaptive`` ask a
scheduler.  To them each node is a worker.  Nobody connects to it from another process.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable
from typing import Any

from distributed.core import Server

from raydask.compat.distributed.adaptivity import idle_nodes, nodes_wanted
from raydask.compat.distributed.node_process import NodeProcess, RunningNode
from raydask.errors import ClusterUnavailableError
from raydask.util import NodeStatus, cluster_status

_START_SECONDS = 60.0


class Head(Server):  # type: ignore[misc]  # distributed has no types
    """The head of a cluster of nodes.

    Parameters
    ----------
    options : sequence of str
        Of ``raydask start``.
    cpus_per_node : float
        How many a new node has.
    """

    def __init__(self, options: Iterable[str], cpus_per_node: float) -> None:
        self.secret = secrets.token_hex(16)
        self._cpus_per_node = cpus_per_node
        self._process = NodeProcess(list(options), self.secret, drain_seconds=None)
        self._started = time.time()
        self._metadata: Any = None
        self._workers: dict[str, dict[str, Any]] = {}
        self._numbers: dict[str, int] = {}
        """By worker's address the node's number."""
        self._subscribers: set[Any] = set()
        self.running: RunningNode | None = None
        self._closing: asyncio.Task[None] | None = None
        super().__init__(
            {
                "identity": self.identity,
                "subscribe_worker_status": self._subscribe,
                "get_metadata": self._get_metadata,
                "set_metadata": self._set_metadata,
                "adaptive_target": self._adaptive_target,
                "workers_to_close": self._workers_to_close,
                "retire_workers": self._retire_workers,
                "cluster_to_join": self._cluster_to_join,
                "node_came": self._node_came,
                "node_left": self._node_left,
                "get_logs": self._no_logs,
                "worker_logs": self._no_worker_logs,
                "terminate": self._terminate,
            },
            needs_workdir=False,
        )

    async def start_unsafe(self) -> Head:
        """Start raydask's head and listen, within this process only."""
        self.running = await asyncio.to_thread(self._process.start, _START_SECONDS)
        await self.listen("inproc://")
        return self

    async def close(self, timeout: float | None = None, reason: str = "") -> None:
        """End raydask's head."""
        await asyncio.to_thread(self._process.close)
        await super().close(timeout=timeout, reason=reason)

    # --- nodes ----------------------------------------------------------------------------

    def _cluster_to_join(self) -> tuple[str, str]:
        assert self.running is not None
        return self.running.address, self.secret

    async def _node_came(self, address: str, node: int, info: dict[str, Any]) -> None:
        self._numbers[address] = node
        self._workers[address] = info
        await self._publish("add", {"workers": {address: info}, **self._totals()})

    async def _node_left(self, address: str) -> None:
        if self._workers.pop(address, None) is not None:
            del self._numbers[address]
            await self._publish("remove", address)

    async def _publish(self, operation: str, news: object) -> None:
        for comm in list(self._subscribers):
            try:
                await comm.write([[operation, news]])
            except OSError:
                self._subscribers.discard(comm)

    async def _nodes_seen(self) -> list[NodeStatus]:
        assert self.running is not None
        try:
            return await asyncio.to_thread(cluster_status, self.running.session)
        except ClusterUnavailableError:
            return []

    # --- what Dask asks -------------------------------------------------------------------

    def identity(self, n_workers: int = -1) -> dict[str, Any]:
        """Return what Dask knows of a scheduler."""
        return {
            "type": "raydask head",
            "id": self.id,
            "address": self.address,
            "services": {},
            "started": self._started,
            "workers": dict(self._workers),
            **self._totals(),
        }

    def _totals(self) -> dict[str, Any]:
        workers = self._workers.values()
        return {
            "n_workers": len(workers),
            "total_threads": sum(info["nthreads"] for info in workers),
            "total_memory": sum(info["memory_limit"] or 0 for info in workers),
        }

    def _subscribe(self, comm: Any) -> dict[str, Any]:
        self._subscribers.add(comm)
        return self.identity()

    def _get_metadata(self, keys: list[str], default: Any = None) -> Any:
        return default if self._metadata is None else self._metadata

    def _set_metadata(self, keys: list[str], value: Any) -> None:
        self._metadata = value

    async def _adaptive_target(self, target_duration: Any = None) -> int:
        return nodes_wanted(await self._nodes_seen(), self._cpus_per_node)

    async def _workers_to_close(self, target: int, **ignored: Any) -> list[Any]:
        surplus = len(self._workers) - target
        idle = idle_nodes(await self._nodes_seen())
        found = [
            self._workers[address]["name"]
            for address, node in self._numbers.items()
            if node in idle
        ]
        return found[: max(0, surplus)]

    def _retire_workers(self, **ignored: Any) -> dict[str, Any]:
        return {}  # a node hands over what it has when it is closed

    def _no_logs(self) -> list[Any]:
        return []  # each node has its own in its session's folder

    def _no_worker_logs(self, workers: Any = None) -> dict[str, Any]:
        return {}

    async def _terminate(self) -> None:
        self._closing = asyncio.create_task(self.close())  # not before the answer
