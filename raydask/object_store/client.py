"""The object store as one process uses it: room to write in, views to read.

Purpose: a driver or worker maps the node's arena once and then creates and reads
objects without the node, but for a question each time it needs more room.

Writing: ``create`` returns a :class:`Reservation`; its buffer is filled (see
``copy_into``) and the node is told to *seal* it.  Objects up to a quarter of a slab are
placed in the process's current slab, larger ones in a region of their own.  All threads
share the slab, and reservations may be filled and sealed in any order: the node takes
each sealed object out of the region wherever it lies.  What a region holds beside
objects is *retired*: the unused tail of a slab that was replaced, and reservations that
were given up.  The connection sends ``take_retired`` with its next batch.

Reading: ``view`` of what is in the arena; its memory stays valid, and its object is to
stay pinned, until ``on_release`` is called.  ``view_file`` of what was spilled; it needs
no pin, for the mapping keeps the file's bytes.

Invariants: a byte of a region is in at most one reservation; it is in a reservation, in
the current slab's tail or in what was retired, never in two of these.  No lock is held
during the round trip for room.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable

from raydask.errors import InternalError, ObjectStoreFullError, UsageError
from raydask.object_store.copying import copy_bytes
from raydask.object_store.sizes import DEFAULT_SLAB_SIZE, rounded
from raydask.object_store.views import file_view, private_view, shared_view

_SMALL_PER_SLAB = 4


class Reservation:
    """Room for one object that is being written.

    Attributes
    ----------
    offset : int
        Where in the arena it begins.
    size : int
        Bytes of the object, as asked.
    buffer : memoryview
        The bytes, writable; what they hold at first is undefined.
    """

    __slots__ = ("buffer", "offset", "size")

    def __init__(self, offset: int, size: int, buffer: memoryview) -> None:
        self.offset = offset
        self.size = size
        self.buffer = buffer


class StoreClient:
    """One process's door to the object store of its node.

    Safe to use from several threads, but not by a fork of the process: the fork would
    hand out the same bytes of the same slab, so ``create`` refuses there.

    Parameters
    ----------
    fd : int
        The arena's file, which remains the caller's and may be closed after ``start``.
    capacity : int
        Bytes in the arena.
    request_region : callable
        ``request_region(size) -> offset`` asks the node for a region and waits for it; it
        raises ``ObjectStoreFullError`` when there is none.  Called with no lock held,
        possibly by several threads at once.
    slab_size : int, keyword-only
        Bytes in a slab, as the node says (``StoreState.slab_size``).
    """

    def __init__(
        self,
        fd: int,
        capacity: int,
        request_region: Callable[[int], int],
        *,
        slab_size: int = DEFAULT_SLAB_SIZE,
    ) -> None:
        self._fd = fd
        self._capacity = capacity
        self._request_region = request_region
        self._slab_size = rounded(slab_size)
        self._small_limit = self._slab_size // _SMALL_PER_SLAB
        self._lock = threading.Lock()
        self._slab_next = 0
        self._slab_end = 0
        self._retired: list[tuple[int, int]] = []
        self._process = 0
        self._mapping: mmap.mmap | None = None
        self._memory: memoryview | None = None

    def start(self) -> None:
        """Map the arena.

        Raises
        ------
        OSError
            When the file cannot be mapped.
        """
        self._fd = os.dup(self._fd)
        try:
            self._mapping = mmap.mmap(
                self._fd, self._capacity, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
            )
        except BaseException:
            os.close(self._fd)
            raise
        self._memory = memoryview(self._mapping)
        self._process = os.getpid()

    def close(self) -> None:
        """Stop using the arena.

        Live views stay valid, and their memory stays mapped until the last of them is
        gone.  A second call does nothing.
        """
        mapping, memory = self._mapping, self._memory
        if mapping is None or memory is None:
            return
        self._mapping = self._memory = None
        os.close(self._fd)
        memory.release()
        try:
            mapping.close()
        except BufferError:
            pass  # views are left, and each of them holds the mapping

    def create(self, size: int) -> Reservation:
        """Reserve `size` bytes to write an object in.

        Raises
        ------
        ObjectStoreFullError
            When the node has no room.
        UsageError
            When the store was closed, or this process is a fork of the one it serves.
        """
        memory = self._memory
        if memory is None or os.getpid() != self._process:
            raise UsageError(
                "this process cannot write to the object store: it was shut down, or this is a "
                "fork of the process that started it; call raydask.init() first"
            )
        occupied = rounded(size)
        offset = -1
        if size <= self._small_limit:
            with self._lock:
                if self._slab_next + occupied <= self._slab_end:
                    offset = self._slab_next
                    self._slab_next = offset + occupied
            if offset < 0:
                offset = self._take_from_new_slab(occupied)
        else:
            offset = self._request_region(occupied)
        return Reservation(offset, size, memory[offset : offset + size])

    def abort(self, reservation: Reservation) -> None:
        """Give up a reservation that will not be sealed; its buffer must not be used again."""
        with self._lock:
            self._retired.append((reservation.offset, rounded(reservation.size)))

    def take_retired(self) -> list[tuple[int, int]]:
        """Return, once, the runs of bytes that the node can have back.

        Returns
        -------
        list of tuple
            Offset and size in bytes of each, for ``StoreState.abandon``.  They may be
            sent before or after the seals of their neighbours.
        """
        if not self._retired:
            return []
        with self._lock:
            retired, self._retired = self._retired, []
        return retired

    def copy_into(self, target: memoryview, source: memoryview) -> None:
        """Copy `source` into `target`, of the same size in bytes; both C-contiguous.

        Large copies let other Python threads run, and the largest use a second thread.
        """
        copy_bytes(target, source)

    def view(
        self, offset: int, size: int, *, writable: bool, on_release: Callable[[], None]
    ) -> memoryview:
        """Return the `size` bytes at `offset` without copying them.

        Parameters
        ----------
        offset, size : int
            Where the sealed object is.
        writable : bool
            False: a read-only view of the shared memory.  True: a view in which pages are
            copied as they are written; no other view and no other process sees the changes.
        on_release : callable
            Called exactly once, when no buffer derived from the view is left.  It may run in
            any thread, within garbage collection, while the interpreter ends, and in a
            fork of this process; it must be short and take no locks.

        Raises
        ------
        InternalError
            When the bytes are not in the arena.
        UsageError
            When the store was closed.
        """
        mapping, memory = self._mapping, self._memory
        if mapping is None or memory is None:
            raise UsageError("the object store was shut down; call raydask.init() first")
        if not 0 <= offset < self._capacity or not 0 <= size <= self._capacity - offset:
            raise InternalError(
                f"no {size} bytes at {offset} in an arena of {self._capacity}; "
                "please report this bug"
            )
        if writable:
            return private_view(self._fd, memory, offset, size, on_release)
        return shared_view(mapping, offset, size, on_release)

    def view_file(
        self,
        path: str,
        position: int,
        size: int,
        *,
        writable: bool,
        on_release: Callable[[], None],
    ) -> memoryview:
        """Return the `size` bytes at `position` of a spill file without copying them.

        Where the system allows no more mappings, they are read into memory of the process,
        and `on_release` is called at once.

        Parameters
        ----------
        path : str
            The file.  It may be deleted while the view lives.
        position, size : int
            Where in it the object is.
        writable : bool
            False: a read-only view of the system's page cache, which all readers share.  True:
            a view in which pages are copied as they are written; nobody else sees the changes.
        on_release : callable
            As for `view`.

        Raises
        ------
        ObjectLostError
            When the file is gone, or shorter than it was written.
        OSError
            When it can be neither mapped nor read.
        UsageError
            When the store was closed.
        """
        if self._mapping is None:
            raise UsageError("the object store was shut down; call raydask.init() first")
        return file_view(path, position, size, writable, on_release)

    def _take_from_new_slab(self, occupied: int) -> int:
        """Get room for a small object that the current slab cannot hold."""
        try:
            start = self._request_region(self._slab_size)
        except ObjectStoreFullError:
            # The object itself may still fit.
            return self._request_region(occupied)
        left = start + occupied
        end = start + self._slab_size
        with self._lock:
            # Another thread may have brought a slab meanwhile: keep the one with more room.
            if end - left > self._slab_end - self._slab_next:
                left, self._slab_next = self._slab_next, left
                end, self._slab_end = self._slab_end, end
            if left < end:
                self._retired.append((left, end - left))
        return start
