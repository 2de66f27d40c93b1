"""Reads how much memory workers and the machine use; see ``memory_watch`` for what follows.

======================  ===================================================================
what                    where from
======================  ===================================================================
a worker's private      ``process_memory``: resident minus shared.  The arena's pages and files
memory                  are shared; what it took over from the fork server counts.
the machine             ``MemTotal - MemAvailable`` of ``MemTotal``
a cgroup with a limit   its usage without the page cache, which the kernel gives up before
                        it ends a process: spilled objects are read through it
``memory_limit``        the workers' private memory and the arena's pages, of that setting
the kernel's killings   ``oom_kill`` of ``/proc/vmstat``
======================  ===================================================================

Of machine, cgroups and setting the one counts of which the largest part is used.  All is read
from ``/proc``: where there is none (macOS), nothing is measured and nobody is ended.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from raydask.ids import ProcessNumber
from raydask.local_scheduler.events import MemoryMeasured
from raydask.local_scheduler.process_memory import private_memory
from raydask.object_store.backing import limited_cgroups

_LARGEST_FILE = 1 << 16
_ROUNDS_FOR_KILLS = 8
"""The kernel takes longer to sum up ``vmstat`` than for all the rest."""


class MemoryGauge:
    """Measures memory.

    Parameters
    ----------
    arena : str
        Path of the arena.
    limit : int
        Bytes that the session may use, 0 when nobody says.
    root : Path
        Where ``proc`` and ``sys`` are found.
    """

    def __init__(self, arena: str, limit: int = 0, root: Path = Path("/")) -> None:
        self._arena = arena
        self._limit = limit
        self._root = root
        self._meminfo = str(root / "proc/meminfo")
        self._vmstat = str(root / "proc/vmstat")
        self._rounds = 0
        self._cgroups: list[tuple[str, int]] = []
        self._kills = self._kills_before = 0
        self.is_available = False

    def start(self) -> None:
        """Find out what can be measured here."""
        physical = _number(_read(self._meminfo), b"MemTotal:") << 10
        self.is_available = physical > 0
        if self.is_available:
            limited = limited_cgroups(self._root)
            self._cgroups = [(str(group), limit) for group, limit in limited if limit < physical]
            self._kills = self._kills_before = self._count_kills()

    def measure(self, workers: Mapping[ProcessNumber, int]) -> MemoryMeasured:
        """Measure the workers, given by their process ids, and the machine."""
        private = {}
        for process, pid in workers.items():
            size = private_memory(pid)
            if size:
                private[process] = size
        self._rounds += 1
        if not self._rounds % _ROUNDS_FOR_KILLS:
            self._kills_before, self._kills = self._kills, self._count_kills()
        meminfo = _read(self._meminfo)
        physical = _number(meminfo, b"MemTotal:") << 10
        candidates = [(physical - (_number(meminfo, b"MemAvailable:") << 10), physical)]
        candidates += [(_used_by(group), limit) for group, limit in self._cgroups]
        if self._limit:
            candidates.append((sum(private.values()) + self._resident_arena(), self._limit))
        used, total = max(candidates, key=lambda candidate: candidate[0] / candidate[1])
        return MemoryMeasured(private, used, total)

    def recent_kernel_kills(self) -> int:
        """Return how many processes the kernel has ended for want of memory in the last seconds."""
        return self._count_kills() - self._kills_before if self.is_available else 0

    def _count_kills(self) -> int:
        return _number(_read(self._vmstat), b"oom_kill")

    def _resident_arena(self) -> int:
        try:
            return os.stat(self._arena).st_blocks * 512
        except OSError:
            return 0


def _used_by(group: str) -> int:
    """Return what a cgroup of either version uses, without its page cache."""
    usage = _read(f"{group}/memory.current") or _read(f"{group}/memory.usage_in_bytes")
    if not usage:
        return 0
    stat = _read(f"{group}/memory.stat")
    kind = b"total_" if b"\ntotal_inactive_file " in stat else b""
    cache = _number(stat, kind + b"inactive_file") + _number(stat, kind + b"active_file")
    return max(0, int(usage) - cache)


def _read(path: str) -> bytes:
    """Return what is in a small file; nothing when it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _LARGEST_FILE)
    except OSError:  # the process has just ended
        return b""
    finally:
        os.close(descriptor)


def _number(text: bytes, name: bytes) -> int:
    """Return the number behind a name at the start of a line; 0 if there is no such line."""
    # A table of all lines would cost more than reading them does.
    place = (b"\n" + text).find(b"\n" + name + b" ")
    return int(text[place + len(name) :].split(None, 1)[0]) if place >= 0 else 0
