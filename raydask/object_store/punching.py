"""Giving pages of the arena back to the system.

A file in memory gives memory back only where a hole is punched into it; what is read there
afterwards is zeros, and what is written gets new pages.  Python does not offer the call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_KEEP_SIZE = 1
_PUNCH_HOLE = 2

_fallocate = getattr(ctypes.CDLL(None), "fallocate", None)
"""Linux alone has it."""
if _fallocate is not None:
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def hole_puncher(fd: int) -> Callable[[int, int], None] | None:
    """Return what gives `size` bytes at `offset` of the file back; None where none can.

    Parameters
    ----------
    fd : int
        The arena's file; it must stay open while the result is used.
    """
    if _fallocate is None:
        return None

    def punch(offset: int, size: int) -> None:
        # Where the system refuses, the memory merely stays.
        _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, size)

    return punch
