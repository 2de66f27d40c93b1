"""Copies into shared memory, and out of it, at the speed of the memory, beside running threads.

A ``memoryview`` assignment holds the interpreter's lock all through the copy.  From
``RELEASE_FROM`` bytes on the copy goes through C's ``memmove``, called so that the lock is
released; from ``SPLIT_FROM`` on two threads take half each, because one core cannot
saturate the memory (5 GB/s with one, 9.6 with two, on the 2-core machine this was
measured on).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading

from raydask.errors import InternalError

RELEASE_FROM = 1 << 20
SPLIT_FROM = 16 << 20

_CACHE_LINE = 64


class _PyBuffer(ctypes.Structure):
    """CPython's ``Py_buffer``, a layout that is part of its stable ABI."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def copy_bytes(target: memoryview, source: memoryview) -> None:
    """Copy all of `source` into `target`.

    Parameters
    ----------
    target : memoryview
        Writable, C-contiguous, of the same number of bytes.
    source : memoryview
        C-contiguous, of any format and shape.

    Raises
    ------
    InternalError
        When the two differ in size.
    TypeError
        When one of them is not contiguous.
    """
    size = source.nbytes
    if target.nbytes != size:
        raise InternalError(
            f"cannot copy {size} bytes into {target.nbytes}; please report this bug"
        )
    if not size:
        return
    target, source = target.cast("B"), source.cast("B")
    if size < RELEASE_FROM:
        target[:] = source
    elif size < SPLIT_FROM or (os.cpu_count() or 1) == 1:
        _copy_released(target, source)
    else:
        _copy_split(target, source)


def private_copy(source: memoryview) -> memoryview:
    """Return a copy of `source` in memory of its own, writable, which starts at a page.

    The memory goes when the last buffer derived from the copy does.
    """
    own = mmap.mmap(-1, source.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        own.madvise(mmap.MADV_HUGEPAGE)  # twice as fast: the pages are all touched at once
    except (AttributeError, OSError):
        pass  # not on this system
    target = memoryview(own)
    copy_bytes(target, source)
    return target


def _copy_split(target: memoryview, source: memoryview) -> None:
    middle = len(source) // 2 // _CACHE_LINE * _CACHE_LINE
    second = threading.Thread(
        target=_copy_released,
        args=(target[middle:], source[middle:]),
        name="raydask-copy",
        daemon=True,
    )
    try:
        second.start()
    except RuntimeError:  # no more threads: limit reached, or the interpreter is ending
        _copy_released(target, source)
        return
    try:
        _copy_released(target[:middle], source[:middle])
    finally:
        second.join()


def _copy_released(target: memoryview, source: memoryview) -> None:
    get_buffer, release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
    # `source` may be read-only, and ctypes' own from_buffer takes writable buffers alone.
    held = _PyBuffer()
    get_buffer(ctypes.py_object(source), ctypes.byref(held), 0)
    try:
        start = ctypes.addressof(ctypes.c_char.from_buffer(target))
        ctypes.memmove(start, held.buf, len(source))
    finally:
        release(ctypes.byref(held))
