"""Which parts of a node's arena are still being filled, and how far: pulls that run and wait.

A node that pulls an object is a source of it for others meanwhile: they get what is there and
wait for the rest, so a broadcast is a pipeline of nodes.  Here the thread that receives tells how
far it is, and the threads that send wait for that.

States of a region::

    queued --start--> filling --end(ok)--> gone: the bytes are there
       |                 |
       +-----------------+--end(not ok)--> failed --begin / forget--> queued / gone

Invariants: nobody waits for a pull that has not begun to arrive but for a moment.  So what pulls
wait for are only pulls that run, whose own sources run, up to a node that has the object: there
is no circle, however few pulls each node allows at once.  A region whose pull has failed is
refused until it is pulled again, or the node says that the memory is used for something else.
Nobody waits for longer than a limit in which nothing has moved.
"""

from __future__ import annotations

import bisect
import threading
import time

from raydask.errors import InternalError

PATIENCE = 30.0
"""Seconds without progress after which a waiting thread gives up."""

_START_SECONDS = 0.1
"""How long one waits for a pull that is queued."""


class NotFilledError(Exception):
    """The bytes are not there, and will not come: the pull has failed, or does not move."""


class NotBegunError(Exception):
    """The bytes are not there, and the pull that brings them is still queued."""


class _Region:
    __slots__ = ("failed", "filled", "moved_at", "offset", "size", "started")

    def __init__(self, offset: int, size: int, now: float) -> None:
        self.offset = offset
        self.size = size
        self.filled = 0
        self.started = False
        self.failed = False
        self.moved_at = now

    @property
    def end(self) -> int:
        return self.offset + max(self.size, 1)  # an empty object has a place too


class PartialObjects:
    """The regions of one arena that are being filled; for any thread.

    Parameters
    ----------
    patience : float
        Seconds without progress after which a waiting thread gives up.
    start_seconds : float
        How long one waits for a pull that is queued.
    """

    def __init__(self, patience: float = PATIENCE, start_seconds: float = _START_SECONDS) -> None:
        self._patience = patience
        self._start_seconds = start_seconds
        self._changed = threading.Condition()
        self._regions: dict[int, _Region] = {}
        self._offsets: list[int] = []
        """Of the regions, in order; no two have a byte in common."""
        self._moved_at = time.monotonic()
        """When anything has moved last, in any region."""
        self._closed = False

    def begin(self, offset: int, size: int) -> None:
        """Note that a pull will fill this region; what has failed there is forgotten."""
        with self._changed:
            for other in self._within(offset, offset + max(size, 1)):
                if not other.failed:
                    raise InternalError(
                        f"two pulls fill the arena at {offset}; please report this bug"
                    )
                self._remove(other)
            now = self._moved()
            self._regions[offset] = _Region(offset, size, now)
            bisect.insort(self._offsets, offset)

    def start(self, offset: int) -> None:
        """Note that the bytes have begun to come."""
        with self._changed:
            region = self._regions[offset]
            region.started = True
            region.moved_at = self._moved()

    def advance(self, offset: int, filled: int) -> None:
        """Note that the first `filled` bytes of the region at `offset` are there."""
        with self._changed:
            region = self._regions[offset]
            region.filled = filled
            region.moved_at = self._moved()

    def end(self, offset: int, ok: bool) -> None:
        """Note that the pull has ended: all bytes are there, or no more will come.

        One that has failed is remembered until `begin` or `forget`: others may have been told
        to fetch the object here, and must not get what else is in that memory.
        """
        with self._changed:
            region = self._regions[offset]
            if ok:
                region.filled = region.size  # for who waits
                self._remove(region)
            else:
                region.failed = True
            self._moved()

    def forget(self, offset: int) -> None:
        """Note that the node uses this memory for something else: what failed is no more."""
        with self._changed:
            region = self._regions.get(offset)
            if region is not None and region.failed:
                self._remove(region)

    def close(self) -> None:
        """Have nobody wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def filled(self, offset: int, length: int) -> int:
        """Return how many bytes from `offset` on are there, once there are any.

        Parameters
        ----------
        offset, length : int
            A range within one object; `length` is the most that is returned.

        Raises
        ------
        NotFilledError, NotBegunError
        ValueError
            The range is not within one region, nor outside of all.
        """
        with self._changed:
            region = self._region_of(offset, length)
            if region is None:
                return length
            if not region.started:
                self._changed.wait_for(
                    lambda: region.started or region.failed or self._closed, self._start_seconds
                )
            while not (there := self._there(region, offset)):
                self._changed.wait(max(region.moved_at + self._patience - time.monotonic(), 0.0))
            return min(there, length)

    def _there(self, region: _Region, offset: int) -> int:
        """Return how many bytes there are from `offset` to the watermark; 0: go on waiting."""
        if region.failed or self._closed:
            raise NotFilledError("the node that was asked could not get the object itself")
        if region.filled > offset - region.offset:
            return region.filled - (offset - region.offset)
        if region.started:
            moved_at = region.moved_at
        else:
            moved_at = self._moved_at
        if time.monotonic() >= moved_at + self._patience:
            raise NotFilledError("the node that was asked waits for the object in vain itself")
        if not region.started:
            raise NotBegunError
        return 0

    def _region_of(self, offset: int, length: int) -> _Region | None:
        touched = self._within(offset, offset + length)
        if not touched:
            return None
        region = touched[0]
        if len(touched) > 1 or offset < region.offset or offset + length > region.end:
            raise ValueError("the range is not within one object")
        return region

    def _within(self, start: int, end: int) -> list[_Region]:
        """Return the regions that have bytes between two offsets, in order."""
        first = bisect.bisect_right(self._offsets, start)
        if first and self._regions[self._offsets[first - 1]].end > start:
            first -= 1
        last = bisect.bisect_left(self._offsets, end, lo=first)
        return [self._regions[offset] for offset in self._offsets[first:last]]

    def _remove(self, region: _Region) -> None:
        del self._regions[region.offset]
        del self._offsets[bisect.bisect_left(self._offsets, region.offset)]

    def _moved(self) -> float:
        """Wake who waits, and return the time; the caller holds the lock."""
        self._moved_at = time.monotonic()
        self._changed.notify_all()
        return self._moved_at
