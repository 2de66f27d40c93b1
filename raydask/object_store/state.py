"""The object store's state on one node: which object lives where, who writes where.

Purpose: the one truth about the arena's contents.  Pure and single-threaded: the node
calls these methods from its event loop and does all the talking.

Vocabulary:

region
    A run of pages granted to one client to write in (module ``regions``).
seal
    The moment an object becomes readable by others and immutable for ever.
pin
    A reader's hold on the place of an object in memory, counted.  A pinned object keeps it.
batch
    Objects that are being written to one spill file together.
copy
    An object's bytes in a spill file.  Objects never change, so a copy stays good.
evict
    Free the memory of an object that has a copy.

Life of the bytes::

    free --grant--> region of a client --seal--> object --free, evict--> free
                         |      (abandon, client_gone)                    ^
                         +------------------------------------------------+

Life of an object; each but the last keeps its memory::

    idle --next_batch--> being written --written--> with a copy --evict--> spilled
     ^                        |
     +--------failed----------+

``written`` evicts at once what nobody has pinned.  A spilled object never comes back: it is
read where it lies.  ``free`` ends all of these; while a batch is written the bytes of an
object that was freed may already be another's, and the file holds there what nobody reads.

Use: objects that are idle, and those with a copy, are each kept in the order in which their
last pin went (or they were sealed).  Those that are pinned are in neither order, so nothing
is ever searched past them.

Invariants, verified by :meth:`StoreState.check`: every block of the arena is either one
piece of a region or one object in memory, and every such piece and object is exactly one
block.  Each object is in memory, has a copy, or both; a pinned one is in memory.  One in memory
that is neither pinned nor being written is in exactly one of the two orders, and only such
are.  All counts of bytes are of whole pages.

What a malformed client sends raises ``InternalError`` and changes nothing.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from operator import itemgetter

from raydask.errors import InternalError
from raydask.ids import ObjectID
from raydask.object_store.arena import Arena
from raydask.object_store.regions import Regions
from raydask.object_store.sizes import ALIGNMENT, DEFAULT_SLAB_SIZE, rounded
from raydask.object_store.spilled import Evicted, SpillBatch, SpillEntry, SpillFiles

_MOST_OF_THE_ARENA = 32


def fitting_slab_size(slab_size: int, capacity: int) -> int:
    """Return `slab_size` limited so that slabs cannot fill an arena of `capacity` bytes.

    A slab is room that one process keeps from all others, so each takes at most 1/32 of
    the arena.  The result is a whole number of pages, at least one.
    """
    limit = min(slab_size, capacity // _MOST_OF_THE_ARENA)
    return max(limit // ALIGNMENT, 1) * ALIGNMENT


class StoreState:
    """What the arena and the spill files hold.

    Parameters
    ----------
    capacity : int
        Bytes in the arena.
    slab_size : int
        Bytes that a client should ask for when it wants room for small objects; limited
        by `fitting_slab_size`.
    """

    __slots__ = (
        "_arena",
        "_batches",
        "_clean",
        "_files",
        "_idle",
        "_memory",
        "_pinned",
        "_pins",
        "_regions",
        "_slab_size",
        "_spilled",
        "_vacated",
        "_writing",
    )

    def __init__(self, capacity: int, slab_size: int = DEFAULT_SLAB_SIZE) -> None:
        self._arena = Arena(capacity)
        self._slab_size = fitting_slab_size(slab_size, capacity)
        self._regions = Regions(self._arena)
        self._memory: dict[ObjectID, tuple[int, int]] = {}  # -> offset, exact size
        self._pins: dict[ObjectID, int] = {}  # never 0
        self._pinned = 0
        # The two orders of use.  A plain dict would search past all that was taken from its
        # front, and could not have anything put back there.
        self._idle: OrderedDict[ObjectID, None] = OrderedDict()
        self._clean: OrderedDict[ObjectID, None] = OrderedDict()
        self._batches: dict[ObjectID, int] = {}  # -> file
        self._writing = 0
        self._files = SpillFiles()
        self._spilled = 0
        self._vacated: list[tuple[int, int]] = []

    @property
    def capacity(self) -> int:
        """Bytes that objects can occupy in all."""
        return self._arena.capacity

    @property
    def slab_size(self) -> int:
        """Bytes of the slabs that clients are to ask for."""
        return self._slab_size

    @property
    def used(self) -> int:
        """Bytes taken by objects and by regions still being written."""
        return self._arena.used

    @property
    def unsealed(self) -> int:
        """Bytes granted to clients and not sealed yet, slabs included."""
        return self._regions.unsealed

    @property
    def largest_free(self) -> int:
        """Bytes of the largest region that could be granted now."""
        return self._arena.largest_free

    @property
    def sealed(self) -> int:
        """Bytes in memory that objects take."""
        return self._arena.used - self._regions.unsealed

    @property
    def evictable(self) -> int:
        """Bytes in memory of objects that nobody has pinned: spilling could free them."""
        return self._arena.used - self._regions.unsealed - self._pinned

    @property
    def writing(self) -> int:
        """Bytes in memory of objects that are being written to files, pinned ones included."""
        return self._writing

    @property
    def spilled(self) -> int:
        """Bytes of objects that are on disk alone."""
        return self._spilled

    def __len__(self) -> int:
        """Return the number of objects in memory."""
        return len(self._memory)

    def __contains__(self, object_id: object) -> bool:
        return object_id in self._memory or object_id in self._files

    def grant(self, client: int, size: int) -> int | None:
        """Reserve a region of at least `size` bytes for `client` to write in.

        Returns
        -------
        int or None
            Its offset, or None when no free run is that long.
        """
        return self._regions.grant(client, size)

    def seal(self, client: int, object_id: ObjectID, offset: int, size: int) -> None:
        """Make the `size` bytes at `offset`, in a region of `client`, an object.

        Raises
        ------
        InternalError
            When the bytes are not all in one unsealed piece of this client, or the object
            is here already.
        """
        if object_id in self._memory or object_id in self._files:
            raise InternalError(
                f"client {client} sealed object {object_id.hex()} at {offset}, which is sealed "
                f"at {self._memory.get(object_id, 'a place on disk')} already; "
                "please report this bug"
            )
        self._regions.cut(client, offset, size)
        self._memory[object_id] = (offset, size)
        self._idle[object_id] = None

    def abandon(self, client: int, offset: int, size: int) -> None:
        """Free `size` bytes at `offset` that `client` was granted and will not seal.

        Raises
        ------
        InternalError
            When the bytes are not all in one unsealed piece of this client.
        """
        self._regions.abandon(client, offset, size)

    def client_gone(self, client: int) -> None:
        """Free all that `client` was granted and did not seal; its objects stay."""
        self._regions.client_gone(client)

    def free(self, object_id: ObjectID) -> None:
        """Forget the object, wherever it is, and reuse its memory.

        The caller knows that nobody will read it.  Pins that are left go with it: of readers
        that were told its place, and by then no longer wanted it.  It may be in the middle of
        being written.

        Raises
        ------
        InternalError
            When the object is not here.
        """
        place = self._memory.pop(object_id, None)
        if place is None:
            self._free_from_disk(object_id)
            return
        self._arena.free(place[0])
        if self._spilled and 2 * self._arena.used > self._arena.capacity:
            self._vacated.append((place[0], rounded(place[1])))
        if self._pins.pop(object_id, 0):
            self._pinned -= rounded(place[1])
        if object_id in self._idle:
            del self._idle[object_id]
        elif object_id in self._batches:
            del self._batches[object_id]
            self._writing -= rounded(place[1])
        else:
            self._clean.pop(object_id, None)
            self._files.drop(object_id)

    def locate(self, object_id: ObjectID) -> tuple[int, int]:
        """Return the object's offset and its exact size in bytes.

        Raises
        ------
        InternalError
            When the object is not in memory.
        """
        place = self._memory.get(object_id)
        if place is None:
            raise self._not_in_memory(object_id)
        return place

    def is_spilled(self, object_id: ObjectID) -> bool:
        """Tell whether the object is on disk alone."""
        return object_id not in self._memory and object_id in self._files

    def extent(self, object_id: ObjectID) -> Evicted:
        """Return where on disk the object is, which has a copy there.

        Raises
        ------
        KeyError
            It has none.
        """
        return self._files.extent(object_id)

    def pins(self, object_id: ObjectID) -> int:
        """Return how often the object is pinned; 0 for one that is not here."""
        return self._pins.get(object_id, 0)

    def pin(self, object_id: ObjectID) -> None:
        """Keep the object in memory, at its place, until `unpin` was called as often.

        Raises
        ------
        InternalError
            When the object is not in memory.
        """
        count = self._pins.get(object_id)
        if count is not None:
            self._pins[object_id] = count + 1
            return
        place = self._memory.get(object_id)
        if place is None:
            raise self._not_in_memory(object_id)
        self._pins[object_id] = 1
        self._pinned += rounded(place[1])
        if object_id in self._idle:
            del self._idle[object_id]
        elif object_id in self._clean:
            del self._clean[object_id]

    def unpin(self, object_id: ObjectID) -> None:
        """Take one pin back; with the last, the object is the most recently used.

        Raises
        ------
        InternalError
            When the object is not pinned.
        """
        count = self._pins.get(object_id)
        if count is None:
            raise InternalError(f"object {object_id.hex()} is not pinned; please report this bug")
        if count > 1:
            self._pins[object_id] = count - 1
            return
        del self._pins[object_id]
        self._pinned -= rounded(self._memory[object_id][1])
        if object_id in self._files:
            self._clean[object_id] = None
        elif object_id not in self._batches:
            self._idle[object_id] = None

    def evict(self, wanted: int) -> list[Evicted]:
        """Free memory of unpinned objects that have a copy, least recently used first.

        Parameters
        ----------
        wanted : int
            Bytes to free at least, if there are so many.

        Returns
        -------
        list of Evicted
            What is on disk alone from now on.
        """
        evicted = []
        while wanted > 0 and self._clean:
            object_id = self._clean.popitem(last=False)[0]
            wanted -= self._evict(object_id)
            evicted.append(self._files.extent(object_id))
        return evicted

    def next_batch(self, wanted: int, limit: int) -> SpillBatch | None:
        """Choose idle objects, least recently used first, to be written to one file.

        They are being written from now on, until `written` or `failed` is called with
        the file's number.  Several batches may be under way.

        Parameters
        ----------
        wanted : int
            Bytes that the batch should have at least, if there are so many.
        limit : int
            Bytes that it may have at most; an object larger than this is a batch alone.

        Returns
        -------
        SpillBatch or None
            None when no object is idle or nothing is wanted.
        """
        chosen: list[tuple[ObjectID, int, int]] = []
        total = 0
        idle = self._idle
        while total < wanted and idle:
            object_id = next(iter(idle))
            offset, size = self._memory[object_id]
            occupied = rounded(size)
            if chosen and total + occupied > limit:
                break
            del idle[object_id]
            chosen.append((object_id, offset, size))
            total += occupied
        if not chosen:
            return None
        batch = self._files.begin(chosen)
        self._batches.update((object_id, batch.file) for object_id, _, _ in chosen)
        self._writing += total
        return batch

    def written(self, file: int) -> list[Evicted]:
        """Note that a batch is on disk, whole, and evict what nobody has pinned of it.

        Objects that are pinned keep their memory and have a copy from now on; those that were
        freed meanwhile are forgotten.

        Returns
        -------
        list of Evicted
            What is on disk alone from now on.

        Raises
        ------
        InternalError
            When the file is not being written.
        """
        extents = self._files.finish(file, self._end_writing(file))
        evicted = [extent for extent in extents if extent.object_id not in self._pins]
        for extent in evicted:
            self._evict(extent.object_id)
        return evicted

    def failed(self, file: int) -> None:
        """Note that a batch could not be written: what is unpinned of it comes first again.

        The caller knows that nothing is left of the file.

        Raises
        ------
        InternalError
            When the file is not being written.
        """
        for entry in reversed(self._end_writing(file)):
            if entry.object_id not in self._pins:
                self._idle[entry.object_id] = None
                self._idle.move_to_end(entry.object_id, last=False)
        self._files.close(file)

    def take_vacated(self) -> list[tuple[int, int]]:
        """Return, once, the runs of bytes whose memory the system should have back.

        They are those of objects that were evicted, and of objects that were freed while the
        store holds less than is wanted of it: what has been spilled wants that memory for the
        page cache.  Otherwise freed memory is kept, because pages that are there already are
        written several times faster.

        Returns
        -------
        list of tuple
            Offset and size in bytes.  A run may have been granted again meanwhile: the memory
            is to be given back before anybody is told so.
        """
        if not self._vacated:
            return self._vacated
        vacated, self._vacated = self._vacated, []
        return vacated

    def take_dead_files(self) -> list[int]:
        """Return, once, the numbers of the files in which no object is left.

        They are written and can be deleted.
        """
        return self._files.take_dead()

    def biggest(self, count: int) -> list[tuple[ObjectID, int]]:
        """Return the `count` largest objects in memory with their sizes, largest first."""
        sizes = ((object_id, size) for object_id, (_, size) in self._memory.items())
        return heapq.nlargest(count, sizes, key=itemgetter(1))

    def check(self) -> None:
        """Verify every invariant of the module docstring.  Linear; meant for tests.

        Raises
        ------
        InternalError
            Naming what is broken.
        """
        self._arena.check()
        self._files.check()
        self._regions.check()
        pieces = self._regions.pieces()
        objects = {offset: rounded(size) for offset, size in self._memory.values()}
        if len(objects) != len(self._memory) or objects.keys() & pieces.keys():
            raise InternalError("two objects, or an object and a piece, are at one place")
        if pieces | objects != self._arena.blocks():
            raise InternalError("pieces and objects are not exactly the blocks of the arena")
        self._check_objects()

    def _check_objects(self) -> None:
        extents = self._files.extents()
        memory, pins, writing = set(self._memory), set(self._pins), set(self._batches)
        idle, clean, copies = set(self._idle), set(self._clean), set(extents)
        if not pins | writing | idle | clean == memory:
            raise InternalError("an object is pinned, written or in an order and not in memory")
        if clean != (memory & copies) - pins or idle != memory - copies - pins - writing:
            raise InternalError("an object is in the wrong order of use")
        if not all(map(self._files.is_writing, self._batches, self._batches.values())):
            raise InternalError("an object is being written to a file that does not hold it")
        if writing & copies or min(self._pins.values(), default=1) < 1:
            raise InternalError("an object with a copy is written again, or pinned 0 times")

        def total(objects: set[ObjectID]) -> int:
            return sum(rounded(self._memory[each][1]) for each in objects)

        on_disk = sum(rounded(extents[each].size) for each in copies - memory)
        if (self._pinned, self._writing, self._spilled) != (total(pins), total(writing), on_disk):
            raise InternalError("the bytes pinned, being written or spilled are counted wrongly")
        if (self.sealed, self.evictable) != (total(memory), total(memory - pins)):
            raise InternalError("the sealed or evictable bytes are counted wrongly")

    def _evict(self, object_id: ObjectID) -> int:
        """Free the memory of an object that is in neither order; return its bytes."""
        offset, size = self._memory.pop(object_id)
        self._arena.free(offset)
        occupied = rounded(size)
        self._spilled += occupied
        self._vacated.append((offset, occupied))
        return occupied

    def _end_writing(self, file: int) -> list[SpillEntry]:
        """Return what is still wanted of a batch; none of it is being written any more."""
        alive = []
        for entry in self._files.batch(file).entries:
            # An object that was freed may have been made again and be in another batch.
            if self._batches.get(entry.object_id) == file:
                del self._batches[entry.object_id]
                self._writing -= rounded(entry.size)
                alive.append(entry)
        return alive

    def _free_from_disk(self, object_id: ObjectID) -> None:
        extent = self._files.drop(object_id)
        if extent is None:
            raise self._not_in_memory(object_id)
        self._spilled -= rounded(extent.size)

    def _not_in_memory(self, object_id: ObjectID) -> InternalError:
        known = "spilled" if object_id in self._files else "not in the store"
        return InternalError(f"object {object_id.hex()} is {known}; please report this bug")
