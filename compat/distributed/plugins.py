"""What runs in Dask's scheduler and workers: the cluster's head, and a node beside each worker.

The plugins keep a node's process as long as what they are plugged into lives.  They are pickled on
their way there, with the secret in them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
import sys
from typing import Any, NamedTuple

from distributed.comm import get_address_host
from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin

from raydask.compat.distributed.node_process import NodeProcess, RunningNode

_log = logging.getLogger("raydask.distributed")

HEAD_NAME = "raydask-head"
NODE_NAME = "raydask-node"
PATIENCE = {"RAYDASK_HEAD_SECONDS": "10"}
"""How long a node does without its head, which goes with Dask's scheduler."""
_LOOK_SECONDS = 0.5


class Settings(NamedTuple):
    """What all nodes of a hosted cluster are started with.

    Attributes
    ----------
    secret : str
    object_store_memory : int or None
        Bytes.
    drain_seconds : float
    start_timeout : float
    per_host : bool
        Whether there is one node a host, rather than one for each worker.
    """

    secret: str
    object_store_memory: int | None
    drain_seconds: float
    start_timeout: float
    per_host: bool

    def options(self, *words: str) -> list[str]:
        """Return the options of ``raydask start`` for a node."""
        if self.object_store_memory is None:
            return list(words)
        return [*words, "--object-store-memory", str(self.object_store_memory)]


def host_of(address: str) -> str:
    """Return at which address others reach one of Dask's servers."""
    if address.startswith("inproc://"):
        return "127.0.0.1"
    host: str = get_address_host(address)
    return host


class HeadPlugin(SchedulerPlugin):  # type: ignore[misc]  # distributed has no types
    """Keeps the head of a raydask cluster beside Dask's scheduler.

    Parameters
    ----------
    settings : Settings
    host : str or None
        Address at which it listens; None: that of Dask's scheduler.
    """

    def __init__(self, settings: Settings, host: str | None) -> None:
        self.settings = settings
        self._host = host
        self._process: NodeProcess | None = None
        self._running: asyncio.Task[RunningNode] | None = None

    async def running(self, scheduler: Any) -> RunningNode:
        """Return the head, which is started when this is called first.

        Raises
        ------
        StartError
        """
        if self._running is None:
            self._running = asyncio.create_task(self._begin(scheduler))
        return await asyncio.shield(self._running)

    async def _begin(self, scheduler: Any) -> RunningNode:
        host = self._host or host_of(scheduler.address)
        options = self.settings.options("--head", "--host", host, "--num-cpus", "0")
        process = NodeProcess(options, self.settings.secret, drain_seconds=None)
        running = await asyncio.to_thread(process.start, self.settings.start_timeout)
        self._process = process
        return running

    async def close(self) -> None:
        """End the head; Dask's scheduler calls this at its own end."""
        if self._running is not None:
            await asyncio.wait([self._running])
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(process.close)


async def begin_head(
    settings: Settings, host: str | None, dask_scheduler: Any = None
) -> tuple[Settings, RunningNode]:
    """Start a head in Dask's scheduler, unless there is one; return what is there.

    Runs in Dask's scheduler.
    """
    plugin = dask_scheduler.plugins.get(HEAD_NAME)
    if plugin is None:
        plugin = HeadPlugin(settings, host)
        dask_scheduler.add_plugin(plugin, name=HEAD_NAME)
    try:
        return plugin.settings, await plugin.running(dask_scheduler)
    except Exception:
        await end_head(dask_scheduler)
        raise


async def address_of_head(dask_scheduler: Any = None) -> str:
    """Return the address of the head in Dask's scheduler, empty if there is none."""
    plugin = dask_scheduler.plugins.get(HEAD_NAME)
    return "" if plugin is None else (await plugin.running(dask_scheduler)).address


def hosts(dask_scheduler: Any = None) -> bool:
    """Say whether a Dask cluster hosts raydask, or part of that.  Runs in Dask's scheduler."""
    return HEAD_NAME in dask_scheduler.plugins or NODE_NAME in dask_scheduler.worker_plugins


async def end_head(dask_scheduler: Any = None) -> None:
    """End the head in Dask's scheduler, if there is one.  Runs in Dask's scheduler."""
    plugin = dask_scheduler.plugins.get(HEAD_NAME)
    if plugin is not None:
        dask_scheduler.remove_plugin(name=HEAD_NAME)
        await plugin.close()


class NodePlugin(WorkerPlugin):  # type: ignore[misc]  # as above
    """Keeps a node beside one of Dask's workers.

    Parameters
    ----------
    settings : Settings
    address : str
        HOST:PORT of the raydask cluster.
    """

    idempotent = True
    name = NODE_NAME

    def __init__(self, settings: Settings, address: str) -> None:
        self._settings = settings
        self._address = address
        self._process: NodeProcess | None = None
        self._lock: socket.socket | None = None
        self._standby: asyncio.Task[None] | None = None

    async def setup(self, worker: Any) -> None:
        """Start the node; where there is one a host, unless another worker has.

        Raises
        ------
        StartError
        """
        if not self._settings.per_host:
            await self._begin(worker)
            return
        self._lock = _lock_host(self._address)
        if self._lock is not None:
            await self._begin(worker)
        else:
            self._standby = asyncio.create_task(self._take_over(worker))

    @property
    def has_node(self) -> bool:
        """Whether it keeps a node."""
        return self._process is not None

    async def _begin(self, worker: Any) -> None:
        settings = self._settings
        words = ["--address", self._address, "--host", host_of(worker.address)]
        environment = dict(PATIENCE)
        if not settings.per_host:
            words += ["--num-cpus", str(worker.state.nthreads)]
            limit = worker.memory_manager.memory_limit
            if limit:
                environment["RAYDASK_MEMORY_LIMIT"] = str(limit)
        process = NodeProcess(
            settings.options(*words),
            settings.secret,
            drain_seconds=settings.drain_seconds,
            environment=environment,
        )
        await asyncio.to_thread(process.start, settings.start_timeout)
        self._process = process

    async def _take_over(self, worker: Any) -> None:
        """Start the host's node when the worker that had one has ended."""
        while self._lock is None:
            await asyncio.sleep(_LOOK_SECONDS)
            self._lock = _lock_host(self._address)
        try:
            await self._begin(worker)
        except Exception:
            _log.exception("there is no raydask node on this host any more")

    async def teardown(self, worker: Any) -> None:
        """Let the node leave, and wait for that; if the worker is killed meanwhile, it goes on."""
        if self._standby is not None:
            if self._lock is None:
                self._standby.cancel()
            await asyncio.wait([self._standby])
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(process.close)
        if self._lock is not None:
            self._lock.close()


def _lock_host(address: str) -> socket.socket | None:
    """Return what only one process of a host can have for a cluster; None if another has it.

    It leaves nothing behind: a socket's name that is in no file system goes with its process.
    """
    if sys.platform != "linux":
        raise OSError("one raydask node for each host can be had on Linux only")
    name = hashlib.sha256(f"{address} {os.getuid()}".encode()).hexdigest()[:32]
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0raydask-{name}")
    except OSError:
        lock.close()
        return None
    return lock
