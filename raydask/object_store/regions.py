"""Who writes where in the arena: regions, and the pieces that are left of them.

Purpose: keep what clients were granted apart from what is sealed.  Pure and single-threaded,
a part of the store's state.

Vocabulary:

region
    A run of pages granted to one client to write in: either a *slab*, in which the client
    places many small objects without asking, or room for one large object.
piece
    A part of a region that nobody has sealed or abandoned yet.  A region starts as one
    piece; each cut takes a bite anywhere out of a piece and leaves up to two.

Clients have several threads, so objects of one slab may be sealed in any order, and a slab
may be replaced while objects in it are still being written.  Nothing here depends on
an order: a client hands back exact runs of bytes (the tail of a slab it will not use, a
reservation it gave up), and what it neither sealed nor handed back stays a piece, to be
sealed later or freed when the client goes.

Invariants, verified by :meth:`Regions.check`: pieces are blocks of the arena, each of one
client; ``unsealed`` is their sum.

What a malformed client sends raises ``InternalError`` and changes nothing.
"""

from __future__ import annotations

from raydask.errors import InternalError
from raydask.object_store.arena import Arena
from raydask.object_store.sizes import ALIGNMENT, rounded


class Regions:
    """What clients may write in.

    Parameters
    ----------
    arena : Arena
        Where the regions are blocks.
    """

    __slots__ = ("_arena", "_pieces", "unsealed")

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._pieces: dict[int, dict[int, int]] = {}  # client -> start -> end
        self.unsealed = 0

    def grant(self, client: int, size: int) -> int | None:
        """Reserve a region of at least `size` bytes; its offset, or None for no room."""
        offset = self._arena.allocate(size)
        if offset is None:
            return None
        occupied = rounded(size)
        self._pieces.setdefault(client, {})[offset] = offset + occupied
        self.unsealed += occupied
        return offset

    def cut(self, client: int, offset: int, size: int) -> None:
        """Turn a run of a piece into a block of its own that belongs to no piece.

        Raises
        ------
        InternalError
            When the bytes are not all in one piece of this client.
        """
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
        self.unsealed -= end - offset

    def abandon(self, client: int, offset: int, size: int) -> None:
        """Free a run of a piece; raises ``InternalError`` as `cut` does."""
        self.cut(client, offset, size)
        self._arena.free(offset)

    def client_gone(self, client: int) -> None:
        """Free all pieces of the client."""
        for start, end in self._pieces.pop(client, {}).items():
            self.unsealed -= end - start
            self._arena.free(start)

    def pieces(self) -> dict[int, int]:
        """Return all pieces, start to size in bytes; for checks."""
        tables = self._pieces.values()
        return {start: end - start for table in tables for start, end in table.items()}

    def check(self) -> None:
        """Verify the invariants.  Linear; meant for tests.

        Raises
        ------
        InternalError
            Naming what is broken.
        """
        pieces = self.pieces()
        if len(pieces) != sum(map(len, self._pieces.values())):
            raise InternalError("two clients have the same piece")
        if not pieces.items() <= self._arena.blocks().items():
            raise InternalError("a piece is not a block of the arena")
        if self.unsealed != sum(pieces.values()):
            raise InternalError(f"{self.unsealed} unsealed bytes counted, the pieces differ")
        if not all(self._pieces.values()):
            raise InternalError("a client without pieces is still in the table")


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
