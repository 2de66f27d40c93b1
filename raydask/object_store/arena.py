"""The arena allocator: which bytes of the shared memory are taken.

Purpose: hand out page-aligned blocks of one fixed range of bytes and take them back.  It
knows offsets only; the memory itself is mapped elsewhere.  Pure and single-threaded.

Vocabulary:

block
    An allocated run of whole pages, named by its offset.
hole
    A free run below the high-water mark.  Its pages were handed out before, so the
    operating system has most likely given them memory already: they are *warm*.
high-water mark
    The end of the highest block there ever was.  All above it is free and *fresh*: the
    first write to each of its pages is a page fault that zeroes the page.

Policy: a copy into fresh pages runs at page-fault speed, under 1 GB/s where a copy into
warm ones reaches 5 to 16, so space above the mark is taken only when no hole fits.  Among
the holes the smallest that fits wins (best fit, which keeps the large ones whole), and
among equals the one freed last, whose lines may still be in a cache.

Invariants, all verified by :meth:`Arena.check`: blocks and holes tile ``[0, high water)``
with no gap and no overlap; no two holes touch; ``used`` is the sum of the blocks.

Cost: holes are kept in one stack for each distinct size, with the sizes in a sorted list
searched by bisection, and by both of their ends, so that neighbours merge without a search.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

from raydask.errors import InternalError
from raydask.object_store.sizes import ALIGNMENT

_MASK = ALIGNMENT - 1
_JOURNAL_LENGTH = 1024
_STORY_LENGTH = 12


class Arena:
    """An allocator over ``[0, capacity)``.

    Parameters
    ----------
    capacity : int
        Bytes in the arena; what exceeds a whole number of pages is not used.

    Notes
    -----
    An illegal call raises ``InternalError`` with the recent history of the bytes it
    touched, and changes nothing.
    """

    __slots__ = (
        "_blocks",
        "_capacity",
        "_high_water",
        "_hole_ends",
        "_hole_sizes",
        "_holes",
        "_journal",
        "_stacks",
        "_used",
    )

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity & ~_MASK
        self._used = 0
        self._high_water = 0
        self._blocks: dict[int, int] = {}  # offset -> size
        self._holes: dict[int, int] = {}  # offset -> size
        self._hole_ends: dict[int, int] = {}  # end -> offset
        self._hole_sizes: list[int] = []  # distinct, ascending
        # size -> offsets of the holes of that size, in the order in which they were made
        self._stacks: dict[int, dict[int, None]] = {}
        self._journal: deque[tuple[str, int, int]] = deque(maxlen=_JOURNAL_LENGTH)

    @property
    def capacity(self) -> int:
        """Bytes that can be allocated in all."""
        return self._capacity

    @property
    def used(self) -> int:
        """Bytes in blocks."""
        return self._used

    @property
    def high_water(self) -> int:
        """Where the fresh space begins."""
        return self._high_water

    @property
    def largest_free(self) -> int:
        """Bytes of the largest block that could be allocated now."""
        tail = self._capacity - self._fresh_start()
        return max(tail, self._hole_sizes[-1]) if self._hole_sizes else tail

    def allocate(self, size: int) -> int | None:
        """Return the offset of a new block of at least `size` bytes, or None for no room."""
        if size < 0:
            raise InternalError(f"cannot allocate {size} bytes; please report this bug")
        need = (size + _MASK) & ~_MASK or ALIGNMENT
        sizes = self._hole_sizes
        index = bisect_left(sizes, need)
        if index < len(sizes):
            found = sizes[index]
            stack = self._stacks[found]
            offset = stack.popitem()[0]
            if not stack:
                del self._stacks[found], sizes[index]
            del self._holes[offset]
            if found == need:
                del self._hole_ends[offset + need]
            else:
                self._add_hole(offset + need, found - need)
        else:
            offset = self._fresh_start()
            end = offset + need
            if end > self._capacity:
                return None
            if offset != self._high_water:
                self._remove_hole(offset)
            self._high_water = end
        self._blocks[offset] = need
        self._used += need
        self._journal.append(("allocate", offset, need))
        return offset

    def free(self, offset: int) -> None:
        """Take back the block at `offset`.

        Raises
        ------
        InternalError
            When no block begins there.
        """
        size = self._blocks.pop(offset, None)
        if size is None:
            raise self._error("free", offset)
        self._journal.append(("free", offset, size))
        self._used -= size
        end = offset + size
        before = self._hole_ends.get(offset)
        if before is not None:
            self._remove_hole(before)
            offset = before
        after = self._holes.get(end)
        if after is not None:
            self._remove_hole(end)
            end += after
        self._add_hole(offset, end - offset)

    def carve(self, offset: int, size: int) -> int:
        """Split the block at `offset` so that its first `size` bytes are a block alone.

        Returns
        -------
        int
            The offset of the rest, now a block of its own, or -1 when nothing is left.

        Raises
        ------
        InternalError
            When no block begins at `offset`, or it is smaller than `size`.
        """
        whole = self._blocks.get(offset)
        need = (size + _MASK) & ~_MASK or ALIGNMENT
        if whole is None or size < 0 or need > whole:
            raise self._error(f"carve {size} bytes from", offset)
        if need == whole:
            return -1
        rest = offset + need
        self._blocks[offset] = need
        self._blocks[rest] = whole - need
        self._journal.append(("carve", offset, need))
        return rest

    def size_of(self, offset: int) -> int:
        """Return the bytes of the block at `offset`, a whole number of pages.

        Raises
        ------
        InternalError
            When no block begins there.
        """
        size = self._blocks.get(offset)
        if size is None:
            raise self._error("measure", offset)
        return size

    def blocks(self) -> dict[int, int]:
        """Return a copy of the table of blocks, offset to size; for checks and reports."""
        return dict(self._blocks)

    def check(self) -> None:
        """Verify every invariant of the module docstring.  Linear; meant for tests.

        Raises
        ------
        InternalError
            Naming the first thing found broken.
        """
        runs = sorted(
            [(offset, size, False) for offset, size in self._blocks.items()]
            + [(offset, size, True) for offset, size in self._holes.items()]
        )
        position, after_hole = 0, False
        for offset, size, is_hole in runs:
            if offset != position or size <= 0 or offset & _MASK or size & _MASK:
                raise self._error("tile the arena at", offset)
            if is_hole and after_hole:
                raise self._error("coalesce", offset)
            position, after_hole = offset + size, is_hole
        if position != self._high_water or position > self._capacity:
            raise self._error("end the tiling at", position)
        if self._used != sum(self._blocks.values()):
            raise InternalError(f"{self._used} bytes counted, not what the blocks hold")
        if self._hole_ends != {o + s: o for o, s in self._holes.items()}:
            raise InternalError("the ends of the holes are not what their offsets say")
        stacked = {o: size for size, stack in self._stacks.items() for o in stack}
        if stacked != self._holes or self._hole_sizes != sorted(self._stacks):
            raise InternalError("the stacks of holes differ from the table of holes")

    def _fresh_start(self) -> int:
        # A hole that touches the mark is part of the room above it.
        return self._hole_ends.get(self._high_water, self._high_water)

    def _add_hole(self, offset: int, size: int) -> None:
        self._holes[offset] = size
        self._hole_ends[offset + size] = offset
        stack = self._stacks.get(size)
        if stack is None:
            self._stacks[size] = {offset: None}
            insort(self._hole_sizes, size)
        else:
            stack[offset] = None

    def _remove_hole(self, offset: int) -> None:
        size = self._holes.pop(offset)
        del self._hole_ends[offset + size]
        stack = self._stacks[size]
        del stack[offset]
        if not stack:
            del self._stacks[size]
            del self._hole_sizes[bisect_left(self._hole_sizes, size)]

    def _error(self, what: str, offset: int) -> InternalError:
        story = [
            f"{operation} [{start}, {start + size})"
            for operation, start, size in self._journal
            if start <= offset < start + size
        ]
        return InternalError(
            f"cannot {what} offset {offset}: "
            f"the block there has {self._blocks.get(offset, 0)} bytes, "
            f"the hole there {self._holes.get(offset, 0)}; the arena has {self._capacity} bytes, "
            f"{self._used} used, high water {self._high_water}; recent history of these bytes: "
            + ("; ".join(story[-_STORY_LENGTH:]) or "none")
            + "; please report this bug"
        )
