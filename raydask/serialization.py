"""How values become bytes and come back.

A value is pickled with protocol 5, its large buffers left out of the pickle, so that they
are copied exactly once, into their place in the object store, and never when read.

Layouts, told apart by the first byte:

``0x80``
    A plain pickle (0x80 is pickle's own first opcode): the value has no buffers.
``0x01``
    ``<B3xIQ``: the mark, the number of buffers, the pickle's length; then an
    offset and a length (``<QQ``) for each buffer; then the pickle; then the buffers, each at
    a multiple of 64 bytes from the start.
``0x02``
    The rest is the value, a ``bytes`` object.

Plain ``pickle`` first, because it is five to ten times faster; ``cloudpickle`` where that
cannot work in another process: for what it refuses (closures, lambdas, local classes) and
for what it would write as a mere reference to the main script (``__main__``, and ``__mp_main__``
in a process that `multiprocessing` has spawned), which is another module there.

Refs inside a value are noted while it is pickled (`note_nested`), so that whoever keeps the
value can keep what it refers to.
"""

from __future__ import annotations

import pickle
import struct
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from raydask.errors import RaydaskError, TaskError, task_error
from raydask.ids import ObjectID
from raydask.pickling import cloud_dumps, code_dumps, plain_dumps

BUFFER_ALIGNMENT = 64
"""Bytes; what vector instructions and Arrow like."""

_BUFFERS_MARK = 1
_BYTES_MARK = 2
_RAW_BYTES_LIMIT = 4096
_MAIN = b"main__"
"""The end of each name that the main script's module has."""
_HEADER = struct.Struct("<B3xIQ")
_ENTRY = struct.Struct("<QQ")
_ATOMS = frozenset((type(None), bool, int, float))

_nested: ContextVar[list[ObjectID] | None] = ContextVar("raydask_nested", default=None)


class Serialized:
    """A value on its way into a message or into the object store.

    Attributes
    ----------
    size : int
        Bytes that it takes.
    nested : list of ObjectID
        The objects whose refs it contains.
    """

    __slots__ = ("_buffers", "_mark", "_pickled", "nested", "size")

    def __init__(
        self,
        pickled: bytes,
        buffers: list[memoryview],
        nested: list[ObjectID],
        mark: int = _BUFFERS_MARK,
    ) -> None:
        self._pickled = pickled
        self._buffers = buffers
        self._mark = mark
        self.nested = nested
        if mark == _BYTES_MARK:
            self.size = len(pickled) + 1
        elif not buffers:
            self.size = len(pickled)
        else:
            position = _HEADER.size + _ENTRY.size * len(buffers) + len(pickled)
            for buffer in buffers:
                position = _aligned(position) + buffer.nbytes
            self.size = position

    def to_bytes(self) -> bytes:
        """Return the value as bytes of its own, for a message."""
        if self._mark == _BUFFERS_MARK and not self._buffers:
            return self._pickled
        target = bytearray(self.size)
        self.write_into(memoryview(target), _copy)
        return bytes(target)

    def write_into(
        self, target: memoryview, copy: Callable[[memoryview, memoryview], None]
    ) -> None:
        """Write the value into `target`, which has ``size`` bytes.

        `copy` copies the second buffer into the first, both of one length.
        """
        if self._mark == _BYTES_MARK:
            target[0] = _BYTES_MARK
            copy(target[1:], memoryview(self._pickled))
            return
        buffers = self._buffers
        if not buffers:
            copy(target, memoryview(self._pickled))
            return
        table = bytearray(_HEADER.pack(_BUFFERS_MARK, len(buffers), len(self._pickled)))
        position = _HEADER.size + _ENTRY.size * len(buffers) + len(self._pickled)
        for buffer in buffers:
            position = _aligned(position)
            table += _ENTRY.pack(position, buffer.nbytes)
            if buffer.nbytes:
                copy(target[position : position + buffer.nbytes], buffer)
            position += buffer.nbytes
        table += self._pickled
        target[: len(table)] = table


def _aligned(position: int) -> int:
    return (position + BUFFER_ALIGNMENT - 1) & -BUFFER_ALIGNMENT


def _copy(target: memoryview, source: memoryview) -> None:
    target[:] = source


def note_nested(object_id: ObjectID) -> None:
    """Note, while a value is pickled in this thread, that it contains this object's ref."""
    nested = _nested.get()
    if nested is not None:
        nested.append(object_id)


def serialize(value: object) -> Serialized:
    """Return `value` serialized.

    Raises
    ------
    Exception
        Whatever cloudpickle raises for a value that cannot be pickled.
    """
    kind = type(value)
    if kind in _ATOMS:
        return Serialized(pickle.dumps(value, 5), [], [])
    if kind is bytes and len(value) >= _RAW_BYTES_LIMIT:  # type: ignore[arg-type]
        return Serialized(value, [], [], _BYTES_MARK)  # type: ignore[arg-type]
    nested: list[ObjectID] = []
    token = _nested.set(nested)
    try:
        try:
            pickled, buffers = plain_dumps(value)
            portable = _MAIN not in pickled
        except Exception:  # a __reduce__ may raise anything; cloudpickle has the last word
            portable = False
        if not portable:
            nested.clear()
            pickled, buffers = cloud_dumps(value)
    finally:
        _nested.reset(token)
    raw = [buffer.raw() for buffer in buffers] if buffers else []
    return Serialized(pickled, raw, nested)


def dumps_code(value: object) -> tuple[bytes, list[ObjectID]]:
    """Return a function or class pickled for export, and the refs that it closes over."""
    nested: list[ObjectID] = []
    token = _nested.set(nested)
    try:
        return code_dumps(value), nested
    finally:
        _nested.reset(token)


def has_buffers(data: bytes | memoryview) -> bool:
    """Say whether the value that `data` holds may have arrays that are views of `data`."""
    return data[0] == _BUFFERS_MARK


def deserialize(data: bytes | memoryview) -> Any:
    """Return the value that `data` holds; its arrays are views of `data`."""
    mark = data[0]
    if mark == 0x80:
        return pickle.loads(data)
    if mark == _BYTES_MARK:
        return bytes(memoryview(data)[1:])
    view = memoryview(data)
    _, count, length = _HEADER.unpack_from(view)
    start = _HEADER.size + _ENTRY.size * count
    buffers = []
    for index in range(count):
        offset, size = _ENTRY.unpack_from(view, _HEADER.size + _ENTRY.size * index)
        buffers.append(view[offset : offset + size])
    return pickle.loads(view[start : start + length], buffers=buffers)


def serialize_failure(error: BaseException) -> Serialized:
    """Return what a task raised serialized, degraded to its text where it cannot be pickled."""
    try:
        serialized = serialize(error)
        deserialize(serialized.to_bytes())
    except Exception:
        text = "".join(traceback.format_exception_only(type(error), error)).strip()
        if isinstance(error, TaskError):
            degraded = task_error(
                None, error.remote_traceback, error.task_name, error.where, (text,)
            )
        else:
            degraded = TaskError(text)
        serialized = serialize(degraded)
    return serialized


def serialize_error(error: BaseException) -> bytes:
    """Return an error of the engine's own, which contains no refs, as bytes."""
    return serialize_failure(error).to_bytes()


def deserialize_error(data: bytes) -> BaseException:
    """Return the error that `data` holds, or one that shows why it cannot be read."""
    try:
        error = deserialize(data)
    except Exception as problem:
        return RaydaskError(
            f"a task failed, and its error cannot be read in this process: {problem!r}"
        )
    if isinstance(error, BaseException):
        return error
    return RaydaskError(f"a task failed with something that is no exception: {error!r}")
