"""What a test may leave behind: nothing.

A test run works in a temporary folder of its own, and every process that it starts
inherits the folder's name in its environment.  That name is how a run recognises what is
its own among what other runs do on the machine at the same time.

Vocabulary
----------
snapshot
    What is there at one moment: processes, session entries, shared memory, descriptors.
leftover
    What a later look finds beyond a snapshot, a grace period having passed.
adopted
    What a session-scoped fixture made: it may stay until the end of the session.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import logging
import multiprocessing.resource_tracker
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

GRACE = 10.0
"""Seconds that things may take to go away."""

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
"""Seconds between two looks; a look walks through all processes of the machine."""

STDLIB_SERVERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Processes of the standard library that stay until the interpreter ends, by design."""

Look = Callable[[], list[str]]

Process = tuple[int, float]
"""PID and creation time: a PID alone may be used again."""

Descriptor = tuple[int, str]


@dataclass(frozen=True)
class Snapshot:
    """What is there at one moment."""

    processes: frozenset[Process]
    entries: frozenset[Path]
    shared: frozenset[Path]
    descriptors: frozenset[Descriptor]


class LeakLedger:
    """Tells what a run left behind.

    Parameters
    ----------
    root : Path
        The run's temporary folder, as ``TMPDIR`` of its processes.
    shared : Path
        Where named shared memory lies.
    """

    def __init__(self, root: Path, shared: Path = Path("/dev/shm")) -> None:
        self._root = root
        self._shared = shared
        self._adopted = Snapshot(frozenset(), frozenset(), frozenset(), frozenset())

    def snapshot(self) -> Snapshot:
        """Return what is there now."""
        return Snapshot(
            frozenset(_identity(process) for process in self._processes()),
            frozenset(self._root.glob("raydask-*/*")),
            frozenset(self._shared.glob("*raydask*")),
            frozenset(_descriptors()),
        )

    @contextlib.contextmanager
    def adopting(self) -> Iterator[None]:
        """Let stay, until the end of the session, what appears inside the block."""
        before = self.snapshot()
        yield
        after, old = self.snapshot(), self._adopted
        self._adopted = Snapshot(
            old.processes | (after.processes - before.processes),
            old.entries | (after.entries - before.entries),
            old.shared | (after.shared - before.shared),
            old.descriptors | (after.descriptors - before.descriptors),
        )

    def leftovers(self, before: Snapshot, *, grace: float = GRACE) -> list[str]:
        """Return one line for each leftover, after up to `grace` seconds of waiting."""
        return self._wait(lambda: self._beyond(before), grace)

    def last_leftovers(self, before: Snapshot, *, grace: float = GRACE) -> list[str]:
        """Like `leftovers` at the end of the session: what was adopted is gone by now too.

        Descriptors do not count here: libraries that stay loaded keep some.
        """
        self._adopted = Snapshot(frozenset(), frozenset(), frozenset(), frozenset())
        return self._wait(lambda: self._beyond_but_descriptors(before), grace)

    def end_leftover_processes(self) -> None:
        """Kill what the run started and did not end, so that the machine stays clean."""
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _wait(self, look: Look, grace: float) -> list[str]:
        deadline, pause = time.monotonic() + grace, FIRST_PAUSE
        while True:
            gc.collect()
            found = look()
            if not found or time.monotonic() >= deadline:
                return found
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _beyond(self, before: Snapshot) -> list[str]:
        return self._beyond_but_descriptors(before) + self._new_descriptors(before)

    def _beyond_but_descriptors(self, before: Snapshot) -> list[str]:
        adopted = self._adopted
        found = [
            f"process {_describe(process)}"
            for process in self._processes()
            if _identity(process) not in before.processes and not self._is_adopted(process)
        ]
        now = self.snapshot()
        found += [f"entry {path}" for path in now.entries - before.entries - adopted.entries]
        found += [
            f"shared memory {path}"
            for path in now.shared - before.shared - adopted.shared
            if not self._is_anothers(path)
        ]
        return sorted(found)

    def _new_descriptors(self, before: Snapshot) -> list[str]:
        now = frozenset(_descriptors())
        new = now - before.descriptors - self._adopted.descriptors
        gone = before.descriptors - now
        if len(new) <= len(gone):
            return []
        return [f"descriptor {number} -> {target}" for number, target in sorted(new)]

    def _processes(self) -> Iterator[psutil.Process]:
        """Yield the living processes of this run, its own one apart."""
        own = psutil.Process()
        children = {child.pid for child in own.children(recursive=True)}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid in children or self._bears_our_mark(process):
                    stays = any(name in _command(process) for name in STDLIB_SERVERS)
                    if process != own and not stays:
                        yield process

    def _bears_our_mark(self, process: psutil.Process) -> bool:
        root = str(self._root)
        if process.environ().get("TMPDIR") == root:
            return True
        # A Redis server overwrites its environment with its title, which names its socket.
        return process.name().startswith(("redis", "valkey")) and root in _command(process)

    def _is_adopted(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            family = [process, *process.parents()]
            return any(_identity(each) in self._adopted.processes for each in family)
        return False

    def _is_anothers(self, path: Path) -> bool:
        """Say whether a process that is not ours maps the file: then another run made it."""
        ours = {process.pid for process in self._processes()} | {os.getpid()}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                maps = Path(f"/proc/{process.pid}/maps").read_text("utf-8", "replace")
                if process.pid not in ours and str(path) in maps:
                    return True
        return False


def _identity(process: psutil.Process) -> Process:
    with contextlib.suppress(psutil.Error):
        return process.pid, process.create_time()
    return process.pid, 0.0


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.ZombieProcess:
        return ""


def _describe(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} ({process.status()}): {_command(process)[:200]}"
    return f"{process.pid} (just gone)"


def _descriptors() -> Iterator[Descriptor]:
    """Yield this process's open descriptors and what they refer to."""
    tracker = getattr(multiprocessing.resource_tracker._resource_tracker, "_fd", None)
    for name in os.listdir("/dev/fd"):
        number = int(name)
        with contextlib.suppress(OSError):
            target = _target(number)
            if number != tracker:
                yield number, target


def _target(number: int) -> str:
    link = Path(f"/proc/self/fd/{number}")
    if link.parent.exists():
        return os.readlink(link)
    status = os.fstat(number)
    return f"device {status.st_dev} inode {status.st_ino}"


class LogAudit(logging.Handler):
    """Holds the engine's warnings until a test has answered for them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record as text; the object may hold what the test is to see freed."""
        self._records.append(f"{record.levelname} {record.name}: {record.getMessage()}")

    def settle(self, expected: Sequence[tuple[str, bool]] = ()) -> list[str]:
        """Return what is wrong with the records so far, and forget them.

        Parameters
        ----------
        expected : sequence of (regex, required)
            Records that match any of them are in order; a required one that matches none
            is not.
        """
        records, self._records = self._records, []
        wrong = [
            f"unexpected log: {record}"
            for record in records
            if not any(re.search(regex, record) for regex, _ in expected)
        ]
        return wrong + [
            f"expected log did not come: {regex}"
            for regex, required in expected
            if required and not any(re.search(regex, record) for record in records)
        ]


class PrivateFolder:
    """The run's temporary folder: short, for unix socket paths end at 107 bytes.

    It is locked while the run lives, so that the next run can tell the folder of a run
    that was killed, and sweep it.
    """

    PREFIX = "rd-"

    def __init__(self) -> None:
        self.path = Path()
        self._lock = -1
        self._outer: str | None = None

    def open(self) -> None:
        """Make the folder and make it everybody's ``TMPDIR``."""
        base = "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()
        self._sweep(Path(base))
        self.path = Path(tempfile.mkdtemp(prefix=self.PREFIX, dir=base))
        self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._outer = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.path)

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        if self._outer is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = self._outer
        tempfile.tempdir = None
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def _sweep(self, base: Path) -> None:
        for lock in base.glob(f"{self.PREFIX}*/lock"):
            with contextlib.suppress(OSError):
                descriptor = os.open(lock, os.O_RDWR)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(lock.parent, ignore_errors=True)
                finally:
                    os.close(descriptor)
