"""A clock that moves only when it is told to, and what is to happen at which time.

Things that are due at the same time happen in the order in which they were arranged, so a
run is a function of its seed.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class VirtualClock:
    """Time in seconds, starting from 1,000."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._numbers = itertools.count().__next__
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, callback: Callable[[], None]) -> None:
        """Call `callback` at a time that has not passed."""
        heapq.heappush(self._due, (max(when, self.now), self._numbers(), callback))

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` after so many seconds."""
        self.at(self.now + seconds, callback)

    def step(self) -> bool:
        """Let the next thing happen; say whether there was one."""
        if not self._due:
            return False
        self.now, _, callback = heapq.heappop(self._due)
        callback()
        return True

    def run_for(self, seconds: float) -> None:
        """Let everything happen that is due within so many seconds."""
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self.step()
        self.now = end

    def read(self) -> float:
        """Return the time."""
        return self.now
