"""The most memory that a host and its processes take together while something runs."""

from __future__ import annotations

import threading

from benchmarks.processes import own_memory

_PERIOD_SECONDS = 0.1


class PeakMemory:
    """``with PeakMemory() as memory: …`` and then ``memory.peak``, in MB of PSS.

    A thread of the host takes a sample every 0.1 s, which costs a few milliseconds. What rises
    and falls between two samples is not seen.
    """

    def __init__(self) -> None:
        self.peak = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        last = False
        while not last:
            last = self._over.wait(_PERIOD_SECONDS)
            self.peak = max(self.peak, own_memory())
