"""How a call's arguments travel.

Arguments at the top level that are refs become dependencies: the task gets their values.
The rest is serialized together as ``(args, kwargs, positions)``, where each dependency's
place is left empty and ``positions`` names it: an index into ``args`` or a keyword.  Two
short forms carry nothing to unpickle: empty bytes mean that all arguments are dependencies,
in order; one byte 0x03 means that the last dependency is the serialized rest, because it
was large.

Large arguments (arrays, frames, bytes) are put into the object store each on its own, so
that they are copied once and read without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raydask.driver.object_ref import ObjectRef
from raydask.ids import ObjectID
from raydask.serialization import Serialized, deserialize, serialize

REST_IS_LAST_DEPENDENCY = b"\x03"
_NOTHING: dict[str, Any] = {}


class PackedArguments:
    """Arguments ready to go into a spec.

    Attributes
    ----------
    data : bytes
    dependencies, borrowed : list of ObjectID
    held : list of ObjectRef
        Refs that must live until the spec has been handed over.
    """

    __slots__ = ("borrowed", "data", "dependencies", "held")

    def __init__(
        self,
        data: bytes,
        dependencies: list[ObjectID],
        borrowed: list[ObjectID],
        held: list[ObjectRef] | None = None,
    ) -> None:
        self.data = data
        self.dependencies = dependencies
        self.borrowed = borrowed
        self.held = held


def pack(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    limit: int,
    put: Callable[[Serialized], ObjectRef],
) -> PackedArguments:
    """Return the arguments packed.

    Parameters
    ----------
    args, kwargs
        As given by the caller.
    limit : int
        Bytes above which something goes to the object store.
    put : callable
        Puts a serialized value and returns its ref.
    """
    dependencies: list[ObjectID] = []
    positions: list[int | str] = []
    for index, value in enumerate(args):
        if type(value) is ObjectRef:
            dependencies.append(value.live_id())
            positions.append(index)
    if not kwargs and len(dependencies) == len(args):
        return PackedArguments(b"", dependencies, [])
    rest = list(args)
    for place in positions:
        if isinstance(place, int):
            rest[place] = None
    named = _NOTHING
    if kwargs:
        named = dict(kwargs)
        for name, value in kwargs.items():
            if type(value) is ObjectRef:
                dependencies.append(value.live_id())
                positions.append(name)
                named[name] = None
    serialized = serialize((tuple(rest), named, positions))
    if serialized.size <= limit:
        return PackedArguments(serialized.to_bytes(), dependencies, serialized.nested)
    return _pack_large(rest, named, positions, dependencies, limit, put)


def _pack_large(
    rest: list[Any],
    named: dict[str, Any],
    positions: list[int | str],
    dependencies: list[ObjectID],
    limit: int,
    put: Callable[[Serialized], ObjectRef],
) -> PackedArguments:
    held: list[ObjectRef] = []
    places: list[tuple[int | str, Any]] = [*enumerate(rest), *named.items()]
    for place, value in places:
        if value is None:
            continue
        serialized = serialize(value)
        if serialized.size <= limit:
            continue
        ref = put(serialized)
        held.append(ref)
        dependencies.append(ref._id)
        positions.append(place)
        if isinstance(place, int):
            rest[place] = None
        else:
            named[place] = None
    serialized = serialize((tuple(rest), named, positions))
    if serialized.size <= limit:
        return PackedArguments(serialized.to_bytes(), dependencies, serialized.nested, held)
    ref = put(serialized)
    held.append(ref)
    dependencies.append(ref._id)
    return PackedArguments(REST_IS_LAST_DEPENDENCY, dependencies, [], held)


def unpack(
    data: bytes, values: list[Any], writable: bool
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return ``(args, kwargs)``, the dependencies' values in their places."""
    if not data:
        return values, _NOTHING
    if data == REST_IS_LAST_DEPENDENCY:
        args, kwargs, positions = values.pop()
    else:
        source = memoryview(bytearray(data)) if writable and data[0] != 0x80 else data
        args, kwargs, positions = deserialize(source)
    if not positions:
        return args, kwargs
    filled = list(args)
    for place, value in zip(positions, values):
        if isinstance(place, int):
            filled[place] = value
        else:
            kwargs[place] = value
    return filled, kwargs
