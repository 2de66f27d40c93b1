"""Measures the workers' memory in rounds and tells the core; the shell's side of `memory_watch`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from raydask.config import Config
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import MeasureWorker
from raydask.local_scheduler.memory_gauge import MemoryGauge
from raydask.local_scheduler.memory_watch import MemorySettings
from raydask.local_scheduler.process_memory import private_memory
from raydask.local_scheduler.state import LocalScheduler
from raydask.object_store.backing import memory_of_a_worker

_URGENT_SECONDS = 0.05


def memory_settings(config: Config, arena_size: int, cpus: int) -> MemorySettings:
    """Return what the core is to know of the settings."""
    limit = config.worker_memory_limit
    if limit < 0:
        limit = memory_of_a_worker(config.memory_limit, arena_size, cpus)
    return MemorySettings(limit, config.memory_usage_threshold)


class MemoryRounds:
    """Takes the measurements that are due, and those that the core asks for.

    Parameters
    ----------
    arena : str
        Path of the arena.
    config : Config
    core : LocalScheduler
    handle : callable
        Tells the core of an event and does what it says.
    """

    def __init__(
        self,
        arena: str,
        config: Config,
        core: LocalScheduler,
        handle: Callable[[events.Event], None],
    ) -> None:
        self._gauge = MemoryGauge(arena, config.memory_limit)
        self._interval = config.memory_interval
        self._core = core
        self._handle = handle
        self._measured = 0.0

    def start(self) -> None:
        """Find out what can be measured here."""
        self._gauge.start()

    def tick(self, now: float) -> None:
        """Measure if it is time; `now` is in seconds since the epoch."""
        interval = self._interval
        if self._core.memory.is_urgent:
            interval = min(interval, _URGENT_SECONDS)
        if interval and self._gauge.is_available and now - self._measured >= interval:
            self._measured = now
            workers = self._core.pool.workers.values()
            self._handle(self._gauge.measure({worker.process: worker.pid for worker in workers}))

    def measure_worker(self, action: MeasureWorker) -> None:
        """Measure one worker now, and tell the core when its other actions have been done."""
        worker = self._core.pool.workers.get(action.process)
        private = 0 if worker is None else private_memory(worker.pid)
        if private:
            event = events.WorkerMeasured(action.process, private)
            asyncio.get_running_loop().call_soon(self._handle, event)

    def recent_kernel_kills(self) -> int:
        """Return how many processes the kernel has just ended because memory had run out."""
        return self._gauge.recent_kernel_kills()
