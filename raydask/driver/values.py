"""Between Python values and where they are: in a message, in the object store or on disk."""

from __future__ import annotations

from functools import partial
from typing import Any

from raydask.driver.references import ReferenceTable
from raydask.ids import ObjectID
from raydask.object_store.client import StoreClient
from raydask.object_store.copying import private_copy
from raydask.serialization import Serialized, deserialize, deserialize_error, has_buffers
from raydask.wire.messages import ObjectValue, ValueKind

_STORED = int(ValueKind.STORED)
_INLINE = int(ValueKind.INLINE)
_ERROR = int(ValueKind.ERROR)
_SPILLED = int(ValueKind.SPILLED)


class ValueCodec:
    """Places values and reads them, for one process.

    Parameters
    ----------
    store : StoreClient
    references : ReferenceTable
        Counts the views of stored objects.
    inline_limit : int
        Bytes up to which a value travels in messages.
    """

    __slots__ = ("_references", "_store", "inline_limit")

    def __init__(self, store: StoreClient, references: ReferenceTable, inline_limit: int) -> None:
        self._store = store
        self._references = references
        self.inline_limit = inline_limit

    def place(self, object_id: ObjectID, serialized: Serialized) -> ObjectValue:
        """Return where the value is, having copied it into the object store if it is large.

        Raises
        ------
        ObjectStoreFullError
        """
        size = serialized.size
        if size <= self.inline_limit:
            return ObjectValue(object_id, _INLINE, serialized.to_bytes(), 0, 0, serialized.nested)
        reservation = self._store.create(size)
        try:
            serialized.write_into(reservation.buffer, self._store.copy_into)
        except BaseException:  # an interrupt, for one
            self._store.abort(reservation)
            raise
        return ObjectValue(object_id, _STORED, b"", reservation.offset, size, serialized.nested)

    def read(self, value: ObjectValue, writable: bool = False, copy: bool = False) -> Any:
        """Return the Python value.

        Parameters
        ----------
        value : ObjectValue
        writable : bool
            Whether arrays can be written: they are views in which written pages are copied.
        copy : bool
            Whether arrays are copies, which can be written and do not keep the object.

        Raises
        ------
        BaseException
            The error that stands in the value's place.
        """
        kind = value.kind
        if kind == _INLINE:
            data = value.data
            if (writable or copy) and has_buffers(data):
                return deserialize(memoryview(bytearray(data)))
            return deserialize(data)
        if kind == _ERROR:
            raise deserialize_error(value.data)
        view = self._view(value, writable)
        if copy and has_buffers(view):
            view = private_copy(view)  # the object is not in use any more from here on
        return deserialize(view)

    def read_all(
        self, values: list[ObjectValue], writable: bool = False, copy: bool = False
    ) -> list[Any]:
        """Return the Python values, in order, as `read` does."""
        read = self.read
        if writable or copy:
            return [read(value, writable, copy) for value in values]
        return [
            deserialize(value.data) if value.kind == _INLINE else read(value) for value in values
        ]

    def _view(self, value: ObjectValue, writable: bool) -> memoryview:
        references = self._references
        object_id = value.object_id
        if value.kind == _SPILLED:
            references.adopt(object_id)
            return self._store.view_file(
                value.data.decode(),
                value.offset,
                value.size,
                writable=writable,
                on_release=partial(references.dropped.append, object_id),
            )
        references.use(object_id)
        return self._store.view(
            value.offset,
            value.size,
            writable=writable,
            on_release=partial(references.unused.append, object_id),
        )
