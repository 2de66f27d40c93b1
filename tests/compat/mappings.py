"""Where in a process's memory a value lies: in the object store, in a copy on write, or its own."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from raydask.pickling import plain_dumps

ARENA = "raydask-arena"
SMALL_PICKLE = 4_096


class Place(NamedTuple):
    """What a value's memory is."""

    shared: int
    """Bytes in the store's memory, which all processes see."""
    private: int
    """Bytes in mappings of the store in which written pages become copies."""
    own: int
    """Bytes in memory of the process's own, and those that a pickle of the value would have."""
    writable: bool
    """Whether all of it can be written."""
    read_only: bool
    """Whether none of it can."""


def place_of(value: Any) -> Place:
    """Return where the memory of a value is.

    What is asked is the pickler: what it leaves beside the pickle is the memory of the arrays.
    """
    pickled, buffers = plain_dumps(value)
    regions = mappings()
    sizes = {"s": 0, "p": 0, "": len(pickled) if len(pickled) > SMALL_PICKLE else 0}
    locks = []
    for buffer in buffers:
        memory = buffer.raw()
        if memory.nbytes:
            sizes[kind_of(address_of(memory), regions)] += memory.nbytes
            locks.append(memory.readonly)
    return Place(sizes["s"], sizes["p"], sizes[""], not any(locks), all(locks))


def mappings() -> list[tuple[int, int, str]]:
    """Return (start, end, kind) of this process's mappings of the store: "s"hared or "p"rivate."""
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            fields = line.split()
            if len(fields) > 5 and ARENA in fields[5]:
                start, end = (int(each, 16) for each in fields[0].split("-"))
                found.append((start, end, fields[1][3]))
    return found


def kind_of(address: int, regions: list[tuple[int, int, str]]) -> str:
    """Return the kind of the mapping at an address; empty if it is none of the store's."""
    return next((kind for start, end, kind in regions if start <= address < end), "")


def address_of(memory: memoryview) -> int:
    """Return where a buffer begins."""
    import numpy as np

    return int(np.frombuffer(memory, dtype="u1").ctypes.data)


def anonymous_memory() -> int:
    """Return the bytes of this process's memory that no file backs: its own, and written copies."""
    with open("/proc/self/smaps_rollup") as rollup:
        for line in rollup:
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not say")


def trim() -> None:
    """Give free memory back to the system, so that what is left is in use."""
    ctypes.CDLL(None).malloc_trim(0)
