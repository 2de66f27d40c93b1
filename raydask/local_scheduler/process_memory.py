"""How much memory processes have for themselves."""

from __future__ import annotations

import os

_PAGE = os.sysconf("SC_PAGE_SIZE")


def private_memory(pid: int) -> int:
    """Return the bytes that a process occupies and shares with no other.

    Resident memory without what is mapped from files and shared memory, such as the object
    store.  What it has in common with the process that it was forked from counts.  0 if the
    process has ended, or where the system has no ``/proc``.
    """
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except OSError:
        return 0
    return (resident - shared) * _PAGE
