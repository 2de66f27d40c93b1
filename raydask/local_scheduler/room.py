"""Room in the object store: who waits for it, and what is moved to disk to make it. Pure.

::

    request --fits--------------------------------------> granted
       |                                                    ^
       +--does not fit--> waiting --an object left or went--+
       |                     |
       |                     +--patience at its end, or nothing can change--> refused
       +--larger than the store---------------------------------------------> refused

Two things set spilling going: a request that waits, and the *high watermark*.  Above it the
least recently used objects that nobody reads are written to disk, a batch at a time, until
the store is below the *low watermark*, so that requests find room without waiting.  What has
been written and is still unread leaves the arena at once; what is being read stays, and can
leave later without being written again.

What the node has of small values in its own memory is bounded by moving the oldest of them
into the store, as far as it has room (module ``inline_values``).

What is being read can go nowhere.  So while the store is short of room, no more is read in it than
it holds at the low watermark: readers of other objects are given them when they have been written
(`ObjectTable.told_later`).  So a process can get more than the store holds.

Requests are served in the order in which they came, so that a large one is not starved by
small ones behind it.

Nothing waits without an end: a request that has waited for long is announced to the user and
in the end refused, with the biggest holders of memory in the error; one that only its own
process could make room for is refused early.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from raydask.errors import ObjectStoreFullError, OutOfDiskError, RaydaskError
from raydask.ids import ObjectID, ProcessNumber
from raydask.local_scheduler.actions import (
    AnswerRegion,
    DeleteSpillFile,
    GiveBackMemory,
    WriteSpillFile,
)
from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.outgoing import Outgoing
from raydask.object_store.state import StoreState
from raydask.serialization import serialize_error

_NOTICE_SECONDS = 1.0
"""How long a request waits before the user is told, or before it is found to be hopeless."""
_DISK_PAUSE_SECONDS = 1.0
"""After a file could not be written, before the next is tried."""
_BATCH_BYTES = 64 << 20
_SHOWN = 5
"""How many of the biggest objects an error lists."""


class RoomSettings(NamedTuple):
    """When to spill, and how long to wait.

    Attributes
    ----------
    high, low : float
        The watermarks, as parts of the store's capacity.
    patience : float
        Seconds that a request waits at most.
    inline : float
        What inline values may be together in the node's own memory, as a part of the store's
        capacity.
    """

    high: float = 0.7
    low: float = 0.5
    patience: float = 30.0
    inline: float = 0.1


class _Request:
    """A process that waits for room."""

    __slots__ = ("announced", "number", "process", "since", "size")

    def __init__(self, process: ProcessNumber, number: int, size: int, since: float) -> None:
        self.process = process
        self.number = number
        self.size = size
        self.since = since
        self.announced = False


class Room:
    """The room in one node's object store.

    Parameters
    ----------
    settings : RoomSettings
    store : StoreState
    objects : ObjectTable
    outgoing : Outgoing
    spill_path : callable
        Gives the path of a spill file by its number.
    announce : callable
        Tells the user of a process something.
    others_work : callable
        Says whether any process but this one runs a task, and so may let go of something.
    """

    def __init__(
        self,
        settings: RoomSettings,
        store: StoreState,
        objects: ObjectTable,
        outgoing: Outgoing,
        spill_path: Callable[[int], str],
        announce: Callable[[ProcessNumber, str], None],
        others_work: Callable[[ProcessNumber], bool],
    ) -> None:
        self._settings = settings
        self._high = int(settings.high * store.capacity)
        self._low = int(settings.low * store.capacity)
        self._inline = int(settings.inline * store.capacity)
        self._store = store
        self._objects = objects
        self._outgoing = outgoing
        self._spill_path = spill_path
        self._announce = announce
        self._others_work = others_work
        self._waiting: deque[_Request] = deque()
        self._writing = 0
        """The file that is being written; 0 if none is."""
        self._above = False
        """Whether the high watermark was passed and the low one has not been reached since."""
        self._disk_error = ""
        self._write_again_at = 0.0
        objects.may_be_read = self._may_be_read

    @property
    def is_short(self) -> bool:
        """Whether the store is under pressure: requests wait, or it is being emptied."""
        return self._above or bool(self._waiting)

    @property
    def wanted(self) -> int:
        """Bytes that would have to leave the store for the pressure to end."""
        asked = sum(request.size for request in self._waiting)
        return max(0, self._store.used - self._low, asked)

    @property
    def is_waited_for(self) -> bool:
        """Whether any request waits, so that the clock must tick."""
        return bool(self._waiting)

    # --- events ---------------------------------------------------------------------------

    def request(self, process: ProcessNumber, number: int, size: int, now: float) -> None:
        """Take in a process's request for a region of `size` bytes."""
        request = _Request(process, number, size, now)
        if size > self._store.capacity:
            self._refuse(request)
        elif self._waiting or not self._grant(request):
            self._waiting.append(request)

    def leave(self, process: ProcessNumber) -> None:
        """Forget a process that has gone."""
        if self._waiting:
            self._waiting = deque(each for each in self._waiting if each.process != process)
        self._store.client_gone(process)

    def spill_ended(self, file: int, error: str, now: float) -> None:
        """Take in how the writing of a file has ended; `error` is empty or says why not."""
        self._writing = 0
        self._disk_error = error
        if error:
            self._store.failed(file)
            self._write_again_at = now + _DISK_PAUSE_SECONDS
        else:
            self._objects.spilled(self._store.written(file), self._spill_path)

    def balance(self, now: float) -> None:
        """Grant what can be granted now, and begin to write what must be.

        Called after every event: it is cheap as long as there is room.
        """
        store = self._store
        if self._waiting:
            self._serve()
        inline = self._objects.inline
        while inline.size > self._inline and not self._waiting:
            if not self._objects.store_oldest_inline():
                break
        used = store.used
        if used > self._high:
            self._above = True
        elif used <= self._low:
            self._above = False
        if (self._above or self._waiting) and not self._writing and store.evictable:
            if now >= self._write_again_at:
                self._spill(max(used - self._low, self._waiting[0].size if self._waiting else 0))
        if self._objects.told_later and self._may_be_read(0):
            self._objects.tell_those_waiting()
        vacated = store.take_vacated()
        if vacated:
            # Before those are told who were granted the same memory in this event.
            self._outgoing.actions.insert(0, GiveBackMemory(vacated))
        for file in store.take_dead_files():
            self._outgoing.actions.append(DeleteSpillFile(file))

    def tick(self, now: float) -> None:
        """Announce those who wait, and refuse those who have waited for too long."""
        for request in list(self._waiting):
            waited = now - request.since
            if waited > self._settings.patience or (
                waited > _NOTICE_SECONDS and self._is_hopeless(request)
            ):
                self._waiting.remove(request)
                self._refuse(request)
            elif waited > _NOTICE_SECONDS and not request.announced:
                request.announced = True
                self._announce(request.process, self._notice(request))

    # --- making room ----------------------------------------------------------------------

    def _serve(self) -> None:
        while self._waiting and self._grant(self._waiting[0]):
            self._waiting.popleft()

    def _grant(self, request: _Request) -> bool:
        offset = self._store.grant(request.process, request.size)
        while offset is None:
            # What is freed need not be in one piece.
            if not self._evict(request.size):
                return False
            offset = self._store.grant(request.process, request.size)
        self._outgoing.actions.append(AnswerRegion(request.process, request.number, offset))
        return True

    def _evict(self, wanted: int) -> bool:
        """Drop unread objects that are on disk already; say whether there were any."""
        evicted = self._store.evict(wanted)
        self._objects.spilled(evicted, self._spill_path)
        return bool(evicted)

    def _may_be_read(self, size: int) -> bool:
        """Say whether so many bytes more may be read in the store, and so not leave it."""
        store = self._store
        if self._disk_error or not self.is_short:
            return True
        pinned = store.sealed - store.evictable
        return not pinned or pinned + size <= self._low

    def _spill(self, wanted: int) -> None:
        if self._evict(wanted) and self._waiting:
            self._serve()
            return
        batch = self._store.next_batch(wanted, _BATCH_BYTES)
        if batch is not None:
            self._writing = batch.file
            self._outgoing.actions.append(WriteSpillFile(batch))

    def _is_hopeless(self, request: _Request) -> bool:
        """Say whether only the process that asks could still make room."""
        if self._store.evictable or self._writing or self._others_work(request.process):
            return False
        return not any(
            pins for process, pins in self._objects.pins.items() if process != request.process
        )

    # --- what people are told -------------------------------------------------------------

    def _refuse(self, request: _Request) -> None:
        error: RaydaskError
        if self._disk_error:
            error = OutOfDiskError(
                f"the object store is full, and what it holds cannot be written to disk: "
                f"{self._disk_error}. {self._situation(request)}. Free disk space, or set "
                "RAYDASK_SPILL_FOLDER to a folder that has some"
            )
        else:
            error = ObjectStoreFullError(
                f"{self._situation(request)}. Drop refs and arrays that are no longer needed, or "
                "start with a larger object_store_memory"
            )
        self._outgoing.actions.append(
            AnswerRegion(request.process, request.number, 0, serialize_error(error))
        )

    def _notice(self, request: _Request) -> str:
        return (
            f"process {request.process} waits for room in the object store: "
            f"{self._situation(request)}. It waits for up to {self._settings.patience:g} s"
        )

    def _situation(self, request: _Request) -> str:
        store = self._store
        pinned = store.sealed - store.evictable
        return (
            f"the object store has no {request.size:,} bytes in one piece: {store.used:,} of "
            f"{store.capacity:,} bytes are in use, {pinned:,} of them being read and "
            f"{store.unsealed:,} being written. "
            f"Biggest objects: {', '.join(self._biggest()) or 'none'}"
        )

    def _biggest(self) -> Iterable[str]:
        for object_id, size in self._store.biggest(_SHOWN):
            yield f"{self._describe(object_id)} ({size:,} bytes)"

    def _describe(self, object_id: ObjectID) -> str:
        record = self._objects.records.get(object_id)
        maker = "put()"
        if record is not None and record.task is not None:
            maker = record.task.template.template.name
        readers = self._store.pins(object_id)
        return f"{maker} {object_id.hex()[:16]}… " + (
            f"read by {readers}" if readers else "read by nobody"
        )
