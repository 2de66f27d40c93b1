"""The table of spill files: which bytes of which file belong to an object that is alive.

Purpose: say where the copies on disk are, and when a file has nothing left that anybody
could want.  Pure and single-threaded, a part of the store's state; the files themselves
are the spiller's.

Vocabulary:

spill file
    One file with the bytes of several objects, one behind the other, each from a whole page
    on.  It is written once, whole, and never changed.  Files are numbered from 1; a
    number is never used again.
extent
    The bytes of one living object in a file.
dead
    Said of a written file without extents: it can be deleted.

Invariants, verified by :meth:`SpillFiles.check`: extents of one file do not overlap; the
count of each file is that of its extents; only files that have been written have extents.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from raydask.errors import InternalError
from raydask.ids import ObjectID
from raydask.object_store.sizes import ALIGNMENT, rounded


class SpillEntry(NamedTuple):
    """One object of a batch.

    Attributes
    ----------
    object_id : ObjectID
    offset : int
        Where in the arena it begins.
    size : int
        Its exact size in bytes.
    position : int
        Where in the file it begins, a multiple of ``ALIGNMENT``.
    """

    object_id: ObjectID
    offset: int
    size: int
    position: int


class SpillBatch(NamedTuple):
    """What is to be written to one file.

    Attributes
    ----------
    file : int
        The number of the file, from 1 on.
    entries : list of SpillEntry
        By position, without gaps; never empty.
    """

    file: int
    entries: list[SpillEntry]

    @property
    def size(self) -> int:
        """Bytes of the file, a whole number of pages."""
        last = self.entries[-1]
        return last.position + rounded(last.size)


class Evicted(NamedTuple):
    """An object whose memory has been freed: its bytes are in a file alone.

    Attributes
    ----------
    object_id : ObjectID
    file : int
        The number of the file.
    position : int
        Where in the file it begins, a multiple of ``ALIGNMENT``.
    size : int
        Its exact size in bytes.
    """

    object_id: ObjectID
    file: int
    position: int
    size: int


class SpillFiles:
    """What the spill files hold."""

    __slots__ = ("_counts", "_dead", "_extents", "_last", "_open")

    def __init__(self) -> None:
        self._last = 0
        self._open: dict[int, SpillBatch] = {}  # being written
        self._counts: dict[int, int] = {}  # written file -> its extents
        self._extents: dict[ObjectID, Evicted] = {}
        self._dead: list[int] = []

    def __contains__(self, object_id: object) -> bool:
        return object_id in self._extents

    def begin(self, places: Iterable[tuple[ObjectID, int, int]]) -> SpillBatch:
        """Open a new file for objects, given as (id, offset, size), of which there are some."""
        self._last += 1
        entries = []
        position = 0
        for object_id, offset, size in places:
            entries.append(SpillEntry(object_id, offset, size, position))
            position += rounded(size)
        batch = self._open[self._last] = SpillBatch(self._last, entries)
        return batch

    def finish(self, file: int, alive: Iterable[SpillEntry]) -> list[Evicted]:
        """Note that the file is written and which of its entries are wanted still.

        Returns
        -------
        list of Evicted
            The extents of these entries.

        Raises
        ------
        InternalError
            When the file is not being written.
        """
        self.close(file)
        extents = [Evicted(each.object_id, file, each.position, each.size) for each in alive]
        if extents:
            self._counts[file] = len(extents)
            self._extents.update((extent.object_id, extent) for extent in extents)
        else:
            self._dead.append(file)
        return extents

    def close(self, file: int) -> None:
        """Forget a file that is being written; whoever wrote it removed what it had of it.

        Raises
        ------
        InternalError
            When the file is not being written.
        """
        self.batch(file)
        del self._open[file]

    def batch(self, file: int) -> SpillBatch:
        """Return what is being written to the file.

        Raises
        ------
        InternalError
            When the file is not being written.
        """
        batch = self._open.get(file)
        if batch is None:
            raise InternalError(f"spill file {file} is not being written; please report this bug")
        return batch

    def extent(self, object_id: ObjectID) -> Evicted:
        """Return where the object's copy is; the caller knows that there is one."""
        return self._extents[object_id]

    def drop(self, object_id: ObjectID) -> Evicted | None:
        """Forget the object's copy; return where it was, or None when there is none."""
        extent = self._extents.pop(object_id, None)
        if extent is not None:
            left = self._counts[extent.file] - 1
            if left:
                self._counts[extent.file] = left
            else:
                del self._counts[extent.file]
                self._dead.append(extent.file)
        return extent

    def take_dead(self) -> list[int]:
        """Return, once, the files that have become dead."""
        if not self._dead:
            return []
        dead, self._dead = self._dead, []
        return dead

    def is_writing(self, object_id: ObjectID, file: int) -> bool:
        """Tell whether the object is in what is being written to the file; for checks."""
        batch = self._open.get(file)
        return batch is not None and any(each.object_id == object_id for each in batch.entries)

    def extents(self) -> dict[ObjectID, Evicted]:
        """Return a copy of the table of extents; for checks."""
        return dict(self._extents)

    def check(self) -> None:
        """Verify every invariant of the module docstring.  Linear; meant for tests.

        Raises
        ------
        InternalError
            Naming what is broken.
        """
        ends: dict[int, int] = {}
        counts: dict[int, int] = {}
        runs = [(each.file, each.position, each.size) for each in self._extents.values()]
        for file, position, size in sorted(runs):
            if position % ALIGNMENT or position < ends.get(file, 0):
                raise InternalError(f"extents overlap at {position} of spill file {file}")
            ends[file] = position + rounded(size)
            counts[file] = counts.get(file, 0) + 1
        if counts != self._counts:
            raise InternalError("the counts of extents differ from the table of extents")
        dead = set(self._dead)
        if len(dead) != len(self._dead) or dead & (set(counts) | set(self._open)):
            raise InternalError(f"files {sorted(dead)} are not all dead, or not once")
        if any(file > self._last for file in (*counts, *self._open, *dead)):
            raise InternalError("a file has a number that was not given to any")
