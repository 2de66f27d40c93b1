"""How the C library's allocator behaves in a worker.

A worker runs tasks in its main thread, and glibc gives the top of that thread's heap back to
the system whenever 128 KB of it are free: a task that makes arrays of a few hundred KB pays for
the same pages again and again.  Measured on a groupby of 50,000 rows: 600 page faults and 1.2
to 2.4 ms of system time in 6 ms of work; with the limits below, none.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEEP_BYTES = 64 << 20
_MMAP_BYTES = 32 << 20


def keep_freed_memory() -> None:
    """Keep up to 64 MB of freed heap in this process, where the C library is glibc.

    Blocks of 32 MB and more still go back to the system when they are freed.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
