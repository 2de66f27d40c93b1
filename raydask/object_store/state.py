"""The object store's state on one node: which object lives where, who writes where.

Purpose: the one truth about the arena's contents.  Pure and single-threaded: the node
calls these methods from its event loop and does all the talking.

Vocabulary:

region
    A run of pages granted to one client to write in: either a *slab*, in which the client
    places many small objects without asking, or room for one large object.
piece
    A part of a region that nobody has sealed or abandoned yet.  A region starts as one
    piece; each seal takes a bite anywhere out of a piece and leaves up to two.
seal
    The moment an object becomes readable by others and immutable for ever.

Life of the bytes::

    free --grant--> piece of a client --seal--> object --free--> free
                         |    (abandon, client_gone)                ^
                         +------------------------------------------+

Clients have several threads, so objects of one slab may be sealed in any order, and a slab
may be replaced while objects in it are still being written.  Nothing here depends on
an order: a client hands back exact runs of bytes (the tail of a slab it will not use, a
reservation it gave up), and what it neither sealed nor handed back stays a piece, to be
sealed later or freed when the client goes.

Invariants, verified by :meth:`StoreState.check`: every block of the arena is either one
piece of one client or one object, and every piece and object is exactly one block.

What a malformed client sends raises ``InternalError`` and changes nothing.

Eviction and spilling are to enter here and are not part of this module yet.  The places:
``grant`` returns None when there is no room, and its caller decides what follows; an object
that may be written to disk first is a third state between *object* and *free*, so it belongs
in the table of objects, as does the time of last use.  Pins (who is reading) are the node's
knowledge: it calls ``free`` only when no process holds the object.
"""

from __future__ import annotations

import heapq
from operator import itemgetter

from raydask.errors import InternalError
from raydask.ids import ObjectID
from raydask.object_store.arena import ALIGNMENT, Arena, rounded

DEFAULT_SLAB_SIZE = 8 << 20
"""Bytes of a slab, where the arena is large enough for many of them."""

_MOST_OF_THE_ARENA = 32


def fitting_slab_size(slab_size: int, capacity: int) -> int:
    """Return `slab_size` limited so that slabs cannot fill an arena of `capacity` bytes.

    A slab is room that one process keeps from all others, so each takes at most 1/32 of
    the arena.  The result is a whole number of pages, at least one.
    """
    limit = min(slab_size, capacity // _MOST_OF_THE_ARENA)
    return max(limit // ALIGNMENT, 1) * ALIGNMENT


class StoreState:
    """What the arena holds.

    Parameters
    ----------
    capacity : int
        Bytes in the arena.
    slab_size : int
        Bytes that a client should ask for when it wants room for small objects; limited
        by `fitting_slab_size`.
    """

    __slots__ = ("_arena", "_objects", "_pieces", "_slab_size", "_unsealed")

    def __init__(self, capacity: int, slab_size: int = DEFAULT_SLAB_SIZE) -> None:
        self._arena = Arena(capacity)
        self._slab_size = fitting_slab_size(slab_size, capacity)
        self._objects: dict[ObjectID, tuple[int, int]] = {}  # -> offset, exact size
        self._pieces: dict[int, dict[int, int]] = {}  # client -> start -> end
        self._unsealed = 0

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
        return self._unsealed

    @property
    def largest_free(self) -> int:
        """Bytes of the largest region that could be granted now."""
        return self._arena.largest_free

    def __len__(self) -> int:
        """Return the number of sealed objects."""
        return len(self._objects)

    def __contains__(self, object_id: object) -> bool:
        return object_id in self._objects

    def grant(self, client: int, size: int) -> int | None:
        """Reserve a region of at least `size` bytes for `client` to write in.

        Returns
        -------
        int or None
            Its offset, or None when no free run is that long.
        """
        offset = self._arena.allocate(size)
        if offset is None:
            return None
        occupied = rounded(size)
        self._pieces.setdefault(client, {})[offset] = offset + occupied
        self._unsealed += occupied
        return offset

    def seal(self, client: int, object_id: ObjectID, offset: int, size: int) -> None:
        """Make the `size` bytes at `offset`, in a region of `client`, an object.

        Raises
        ------
        InternalError
            When the bytes are not all in one unsealed piece of this client, or the object
            is here already.
        """
        if object_id in self._objects:
            raise InternalError(
                f"client {client} sealed object {object_id.hex()} at {offset}, which is sealed "
                f"at {self._objects[object_id][0]} already; please report this bug"
            )
        self._cut(client, offset, size)
        self._objects[object_id] = (offset, size)

    def abandon(self, client: int, offset: int, size: int) -> None:
        """Free `size` bytes at `offset` that `client` was granted and will not seal.

        Raises
        ------
        InternalError
            When the bytes are not all in one unsealed piece of this client.
        """
        self._cut(client, offset, size)
        self._arena.free(offset)

    def client_gone(self, client: int) -> None:
        """Free all that `client` was granted and did not seal; its objects stay."""
        for start, end in self._pieces.pop(client, {}).items():
            self._unsealed -= end - start
            self._arena.free(start)

    def free(self, object_id: ObjectID) -> None:
        """Forget the object and reuse its bytes; the caller knows that nobody reads them.

        Raises
        ------
        InternalError
            When the object is not here.
        """
        self._arena.free(self.locate(object_id)[0])
        del self._objects[object_id]

    def locate(self, object_id: ObjectID) -> tuple[int, int]:
        """Return the object's offset and its exact size in bytes.

        Raises
        ------
        InternalError
            When the object is not here.
        """
        place = self._objects.get(object_id)
        if place is None:
            raise InternalError(
                f"object {object_id.hex()} is not in the store; please report this bug"
            )
        return place

    def biggest(self, count: int) -> list[tuple[ObjectID, int]]:
        """Return the `count` largest objects with their sizes, largest first."""
        sizes = ((object_id, size) for object_id, (_, size) in self._objects.items())
        return heapq.nlargest(count, sizes, key=itemgetter(1))

    def check(self) -> None:
        """Verify every invariant of the module docstring.  Linear; meant for tests.

        Raises
        ------
        InternalError
            Naming what is broken.
        """
        self._arena.check()
        pieces = [item for table in self._pieces.values() for item in table.items()]
        known = {start: end - start for start, end in pieces}
        known.update({offset: rounded(size) for offset, size in self._objects.values()})
        if len(known) != len(pieces) + len(self._objects) or known != self._arena.blocks():
            raise InternalError("pieces and objects are not exactly the blocks of the arena")
        if self._unsealed != sum(end - start for start, end in pieces):
            raise InternalError(f"{self._unsealed} unsealed bytes counted, the pieces differ")
        if not all(self._pieces.values()):
            raise InternalError("a client without pieces is still in the table")

    def _cut(self, client: int, offset: int, size: int) -> None:
        """Turn the run into a block of its own that belongs to no piece."""
        pieces = self._pieces.get(client, {})
        end = offset + rounded(size)
        start = offset if offset in pieces else _piece_around(pieces, offset)
        if start < 0 or size < 0 or offset % ALIGNMENT or end > pieces[start]:
            raise InternalError(
                f"client {client} named {size} bytes at {offset}, which are not in one piece of "
                f"its regions; its {len(pieces)} pieces are {sorted(pieces.items())[:8]}; "
                "please report this bug"
            )
        piece_end = pieces[start]
        if start < offset:
            self._arena.carve(start, offset - start)
            pieces[start] = offset
        else:
            del pieces[start]
        if end < piece_end:
            self._arena.carve(offset, end - offset)
            pieces[end] = piece_end
        elif not pieces:
            del self._pieces[client]
        self._unsealed -= end - offset


def _piece_around(pieces: dict[int, int], offset: int) -> int:
    """Return the start of the piece that holds `offset`, or -1.

    A scan: a client has one slab and a piece for each thread that is writing, and most
    seals name the start of a piece and never come here.  The newest first, for a slab's
    tail becomes a new piece with each seal.
    """
    for start, end in reversed(pieces.items()):
        if start <= offset < end:
            return start
    return -1
