"""The processes that belong to a host: found, paused, resumed, weighed and ended.

Engines start daemons that leave the process tree, found new sessions, or overwrite their
environment with a process title. A process therefore belongs to a host when *any* of these
holds: its environment carries the host's token, it is in the host's session, or its parent
belongs. Linux only, since it reads ``/proc``; elsewhere a host is only its own process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

TOKEN_VARIABLE = "BENCHMARK_HOST_TOKEN"

_PROC = Path("/proc")


def members(token: str, host: int) -> set[int]:
    """Return the ids of all living processes of a host, itself included."""
    if not (_PROC / "self/stat").exists():
        return {host}
    mark = f"{TOKEN_VARIABLE}={token}".encode()
    parents: dict[int, int] = {}
    found = set()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        process = int(entry.name)
        try:
            state, parent, session = _stat(entry)
            if state in "ZX":
                continue
            parents[process] = parent
            if session == host or mark in (entry / "environ").read_bytes():
                found.add(process)
        except OSError:
            continue
    if host in parents:
        found.add(host)
    grew = True
    while grew:
        children = {process for process, parent in parents.items() if parent in found} - found
        found |= children
        grew = bool(children)
    return found


def _stat(entry: Path) -> tuple[str, int, int]:
    # The command name is in parentheses and may itself hold spaces and parentheses.
    fields = (entry / "stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[3])


def pause(token: str, host: int) -> None:
    """Stop the host's processes from running, so that they take no CPU from another's round."""
    send(members(token, host), signal.SIGSTOP)


def resume(token: str, host: int) -> None:
    """Let paused processes run again."""
    send(members(token, host), signal.SIGCONT)


def end(token: str, host: int, *, grace: float = 0.0, patience: float = 5.0) -> int:
    """Kill what is left of a host after ``grace`` seconds; return how many processes that took.

    Raises
    ------
    RuntimeError
        If some are still there ``patience`` seconds later.
    """
    now = time.monotonic()
    kill_from, give_up = now + grace, now + grace + patience
    killed: set[int] = set()
    while remaining := members(token, host):
        now = time.monotonic()
        if now > give_up:
            raise RuntimeError(f"processes survive SIGKILL: {sorted(remaining)}")
        if now >= kill_from:
            send(remaining, signal.SIGKILL)
            killed |= remaining
        time.sleep(0.01)
    return len(killed)


def send(processes: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each process that still exists."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def proportional_memory(processes: Iterable[int]) -> float:
    """Sum the processes' proportional set sizes (PSS), in MB of 10^6 bytes.

    Each page counts once however many of the processes map it.
    """
    kilobytes = 0
    for process in processes:
        with contextlib.suppress(OSError):
            for line in (_PROC / str(process) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kilobytes += int(line.split()[1])
    return kilobytes * 1024 / 1e6


def own_memory() -> float:
    """Sum the PSS of the host this code runs in, in MB."""
    return proportional_memory(members(os.environ[TOKEN_VARIABLE], os.getpid()))
