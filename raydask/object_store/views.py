"""Zero-copy views of objects: memory that tells when nobody looks at it any more.

Purpose: make a ``memoryview`` of a run of the arena and call back once when the last
buffer derived from it is gone, be it a slice, a NumPy array or an out-of-band buffer of
an unpickled value.

How: before Python 3.12 no Python class can export a buffer, but a ctypes array can, and
each buffer taken from it holds a reference to it.  So every view has its own small *exporter*,
a ctypes array laid over the memory, whose ``__del__`` is the call-back.  Its type has a length,
and making a ctypes type takes 37 µs where making an instance takes under 1: the lengths are
rounded up to few size classes, the types cached, and the view is sliced to its size.

Kinds of view:

shared
    Read-only, over the process's one shared mapping.
private
    Writable: a mapping of its own (``MAP_PRIVATE``), in which a page that is written becomes
    a copy that this view alone sees.  Neither the object nor any other view of it, in this
    process or another, ever changes.  With the view its mapping goes, and with it the
    copies, so no stale page can show when the arena's bytes are used again.
of a spill file
    Of either sort, over a mapping of its own of that part of the file.  Readers share the
    system's page cache.  The mapping outlives the file's name.

One mapping for each private view was chosen over one private mapping of the arena: it costs
10 µs more a view (of 60 for reading 512 KiB: both have page faults), and buys that two views of
one object are independent and that no count of views and no order of release can be wrong.

The call-back may run in any thread, in the middle of garbage collection, or while the
interpreter ends, so it must be short and must not take locks.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
from collections.abc import Callable
from typing import Any

from raydask.errors import ObjectLostError
from raydask.object_store.sizes import ALIGNMENT

_CLASSES_PER_DOUBLING = 8
_CACHED_TYPES = 1024
_MAP_FAILED = ctypes.c_void_p(-1).value
# Reserving swap for copies that are rarely made would only make large views fail.
_PRIVATE = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
_READ_ONLY = mmap.PROT_READ, mmap.MAP_SHARED


class _Exporter:
    """Mixed into the ctypes array types; calls back when its last buffer is gone."""

    __slots__ = ()
    on_release: Callable[[], None]

    def __del__(self) -> None:
        self.on_release()


# Here, and not for each process: they are the same for all forks of one.
_library = ctypes.CDLL(None)
_map = _library.mmap
_map.restype = ctypes.c_void_p
_map.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_ssize_t,
)
_unmap = _library.munmap
_unmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def map_file(
    fd: int, offset: int, size: int, *, writable: bool
) -> tuple[int, Callable[[], None]] | None:
    """Map `size` bytes of a file at `offset`, read-only or copy on write, through the C library.

    Python's own ``mmap`` keeps a duplicate of the descriptor open for each mapping until
    3.13, and a process may have but 1,024 of them.

    Returns
    -------
    tuple or None
        The address of the first byte, and what undoes the mapping.  None when the
        system refuses (it allows about 65,000 mappings in a process).
    """
    # The machine's pages may be larger than the arena's.
    lead = offset % mmap.ALLOCATIONGRANULARITY
    access, flags = _PRIVATE if writable else _READ_ONLY
    start = _map(None, size + lead, access, flags, fd, offset - lead)
    if start == _MAP_FAILED:
        return None
    return start + lead, functools.partial(_unmap, start, size + lead)


def shared_view(
    mapping: mmap.mmap, offset: int, size: int, on_release: Callable[[], None]
) -> memoryview:
    """Return a read-only view of the shared mapping that calls `on_release` at its end."""
    length = min(_class_length(size), len(mapping) - offset)
    exporter = _exporter_type(length).from_buffer(mapping, offset)
    exporter.on_release = on_release
    return memoryview(exporter).cast("B")[:size].toreadonly()


def private_view(
    fd: int,
    shared: memoryview,
    offset: int,
    size: int,
    on_release: Callable[[], None],
) -> memoryview:
    """Return a writable view that nobody else sees and that calls `on_release` at its end.

    `fd` is the arena's file and `shared` the whole of it: where no more mappings are to be
    had, the view is a plain copy of its bytes, and the object is released at once.
    """
    mapped = map_file(fd, offset, size or 1, writable=True)
    if mapped is None:
        copy = memoryview(bytearray(shared[offset : offset + size]))
        on_release()
        return copy
    return _view_of_mapping(mapped, size, on_release)


def file_view(
    path: str,
    position: int,
    size: int,
    writable: bool,
    on_release: Callable[[], None],
) -> memoryview:
    """Return a view of a part of a spill file that calls `on_release` at its end.

    Where no more mappings are to be had, the view is a plain copy of the bytes, and the object
    is released at once.

    Raises
    ------
    ObjectLostError
        When the file is gone, or shorter than it was written.
    OSError
        When the file can be neither mapped nor read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ObjectLostError(
            f"the object was spilled to {path}, and that file is gone: the session has ended, "
            "or something outside raydask deleted it"
        ) from error
    try:
        # Whoever touches a page beyond the end of a file is killed (SIGBUS).
        if os.fstat(fd).st_size < position + size:
            raise ObjectLostError(
                f"the object was spilled to {path}, and that file was cut short: it has no "
                f"{size} bytes at {position}; something outside raydask changed it"
            )
        mapped = map_file(fd, position, size or 1, writable=writable)
        if mapped is None:
            copy = memoryview(_read(fd, position, size))
            on_release()
            return copy if writable else copy.toreadonly()
    finally:
        os.close(fd)
    view = _view_of_mapping(mapped, size, on_release)
    return view if writable else view.toreadonly()


def _read(fd: int, position: int, size: int) -> bytearray:
    data = bytearray(size)
    done = 0
    while done < size:
        got = os.preadv(fd, [memoryview(data)[done:]], position + done)
        if not got:
            raise ObjectLostError(f"a spill file ended at {position + done} while it was read")
        done += got
    return data


def _view_of_mapping(
    mapped: tuple[int, Callable[[], None]], size: int, on_release: Callable[[], None]
) -> memoryview:
    address, unmap = mapped
    exporter = _exporter_type(_class_length(size)).from_address(address)
    exporter.on_release = functools.partial(_unmap_and_release, unmap, on_release)
    return memoryview(exporter).cast("B")[:size]


def _unmap_and_release(unmap: Callable[[], None], on_release: Callable[[], None]) -> None:
    unmap()
    on_release()


def _class_length(size: int) -> int:
    """Return `size` rounded up to pages and then by at most an eighth, to share types."""
    pages = -(-size // ALIGNMENT) or 1
    shift = max(pages.bit_length() - _CLASSES_PER_DOUBLING.bit_length(), 0)
    return (-(-pages >> shift) << shift) * ALIGNMENT


@functools.lru_cache(maxsize=_CACHED_TYPES)
def _exporter_type(length: int) -> Any:
    return type("Exporter", (_Exporter, ctypes.c_char * length), {})
