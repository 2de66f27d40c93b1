"""`ObjectRef`: a promise of a value, which keeps the value alive as long as it exists."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from raydask import serialization
from raydask.driver.references import ReferenceTable
from raydask.errors import ObjectLostError
from raydask.ids import ObjectID

if TYPE_CHECKING:
    import concurrent.futures


class ObjectRef:
    """Refers to a value that exists or will exist somewhere in the cluster.

    Refs come from ``f.remote()``, ``actor.method.remote()`` and ``raydask.put``.  They are
    hashable, can be pickled into arguments and values, and can be awaited in asyncio code.
    The value is freed when the last ref to it, in any process, is gone.
    """

    __slots__ = ("__weakref__", "_id", "_table")

    def __init__(self, object_id: ObjectID, table: ReferenceTable) -> None:
        # The caller has counted this ref in the table.
        self._id = object_id
        self._table = table

    def __del__(self) -> None:
        self._table.dropped.append(self._id)

    def binary(self) -> bytes:
        """Return the identifier, 20 bytes."""
        return self._id

    def live_id(self) -> ObjectID:
        """Return the identifier, to be used in this process's session.

        Raises
        ------
        ObjectLostError
            The ref is of a session that has ended: the next one gives out the same
            identifiers to other objects.
        """
        if self._table.closed:
            raise ObjectLostError(
                f"{self!r} is of a session that this process has left, and its object with it"
            )
        return self._id

    def hex(self) -> str:
        """Return the identifier in hexadecimal, as the control state shows it."""
        return self._id.hex()

    def future(self) -> concurrent.futures.Future[Any]:
        """Return a future of the value; it is resolved whether or not anybody waits."""
        from raydask.driver.session import current_session

        return current_session().future_of(self)

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio  # whoever awaits has it loaded; others need not pay for it

        return asyncio.wrap_future(self.future()).__await__()

    def __hash__(self) -> int:
        return hash(self._id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectRef) and other._id == self._id

    def __repr__(self) -> str:
        return f"ObjectRef({self._id.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        table = self._table
        if self._id in table.private:
            table.on_escape(self._id)
        serialization.note_nested(self.live_id())
        return (_receive_ref, (self._id,))

    def __copy__(self) -> ObjectRef:
        return self

    def __deepcopy__(self, memo: object) -> ObjectRef:
        return self


def new_ref(object_id: ObjectID, table: ReferenceTable) -> ObjectRef:
    """Return the first ref of an object that this process has just made."""
    table.counts[object_id] = 1
    return ObjectRef(object_id, table)


def received_ref(object_id: ObjectID, table: ReferenceTable) -> ObjectRef:
    """Return a ref of an object that this process has heard of."""
    table.adopt(object_id)
    return ObjectRef(object_id, table)


def _receive_ref(object_id: ObjectID) -> ObjectRef:
    from raydask.driver.session import current_session

    return received_ref(object_id, current_session().references)
