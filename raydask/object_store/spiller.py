"""The spill files of one node: written and deleted by a thread of their own.

Purpose: carry out what the store's state decided.  The node's event loop hands a batch over
and is told when it lies on disk; it never waits for a disk itself.

How: the kernel copies from the arena's file to the spill file (``sendfile``), so the bytes
pass through no mapping and no Python object; neighbours in the arena go in one call.  The
blocks are reserved first, so a full disk is known before anything is written.

Invariants: a file is under its name only when it is whole (it is written under another and
renamed); of one that could not be written nothing is left; deletions do not wait behind
writes; the folder is readable by this user alone and holds nothing else.

Nothing is flushed to the disk itself: spill files end with their node, and what the page
cache still holds is read from there.
"""

from __future__ import annotations

import errno
import functools
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator

from raydask.errors import StartError
from raydask.object_store.punching import hole_puncher
from raydask.object_store.sizes import rounded
from raydask.object_store.spilled import SpillBatch

_CHUNK = 64 << 20
"""Bytes of one copy by the kernel, after which `close` is looked for."""

_PLAIN_CHUNK = 1 << 20
"""Bytes of one copy through Python, where the kernel cannot."""

_REFUSED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP}
"""What a system answers that cannot do what it was asked for with these files."""

OnDone = Callable[[int, OSError | None], None]


class Spiller:
    """Writes batches to files in one folder.

    Parameters
    ----------
    fd : int
        The arena's file; the caller's, to be kept open until `close`.
    folder : str
        Where the files go.  It must not exist yet, and belongs to this object.
    is_reserved : bool
        Whether the arena has all its memory for good, so that none is given back.
    """

    def __init__(self, fd: int, folder: str, *, is_reserved: bool = False) -> None:
        self._fd = fd
        self._punch = None if is_reserved else hole_puncher(fd)
        self._folder = folder
        self._changed = threading.Condition()
        self._writes: deque[tuple[SpillBatch, OnDone]] = deque()
        self._deletions: deque[int] = deque()
        self._is_started = self._closing = False
        self._thread: threading.Thread | None = None
        """Begun by the first write: most nodes never spill."""

    def start(self) -> None:
        """Make the folder.

        Raises
        ------
        StartError
            When the folder cannot be made.
        """
        try:
            os.makedirs(os.path.dirname(self._folder), exist_ok=True)
            os.mkdir(self._folder, mode=0o700)
        except OSError as error:
            raise StartError(
                f"the spill folder {self._folder!r} cannot be made ({error}); "
                "name a folder for spilling that can be written"
            ) from error
        self._is_started = True

    def path_of(self, file: int) -> str:
        """Return the path of the file with this number, whether it exists or not."""
        return os.path.join(self._folder, f"{file}.spill")

    def write(self, batch: SpillBatch, on_done: OnDone) -> None:
        """Write the batch to its file, soon and in the order of these calls.

        Parameters
        ----------
        batch : SpillBatch
            Its bytes must stay as they are until `on_done` is called, but for those of
            objects that nobody will read.
        on_done : callable
            ``on_done(file, error)`` is called in the spiller's thread, with None when the file
            is whole and with the system's error (``errno.ENOSPC`` for a full disk) when
            nothing was written; where the system has no such thread to give
            (``errno.EAGAIN``), in that of the caller, before this returns.  It must not
            raise.  It is not called for what `close` found unfinished.
        """
        with self._changed:
            self._writes.append((batch, on_done))
            error = self._go_on()
            unwritten = list(self._writes) if error is not None else []
            if error is not None:
                self._writes.clear()
        for each, tell in unwritten:
            tell(each.file, error)

    def delete(self, file: int) -> None:
        """Delete a written file soon; who has it mapped keeps it."""
        with self._changed:
            self._deletions.append(file)
            self._go_on()

    def give_back(self, runs: list[tuple[int, int]]) -> None:
        """Give the system the pages of these parts of the arena, (offset, size) in bytes.

        Done when this returns.  Nobody may be writing there yet.
        """
        if self._punch is not None:
            for offset, size in runs:
                self._punch(offset, size)

    def fill(self, offset: int, data: bytes) -> None:
        """Write `data` into the arena at `offset`; done when this returns."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            offset += written
            view = view[written:]

    def close(self) -> None:
        """Stop writing and delete everything.  A second call does nothing."""
        with self._changed:
            if not self._is_started:
                return
            self._is_started = False
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _go_on(self) -> OSError | None:
        """Have the thread see what there is to do; return why there is none.

        The caller holds the lock.
        """
        if self._thread is None and self._is_started:
            thread = threading.Thread(target=self._run, name="raydask-spill", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # limit reached, or the interpreter is ending
                return OSError(errno.EAGAIN, f"no thread writes spill files: {error}")
            self._thread = thread
        self._changed.notify()
        return None

    def _run(self) -> None:
        while (job := self._next_job()) is not None:
            job()

    def _next_job(self) -> Callable[[], None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._writes or self._deletions or self._closing)
            if self._closing:
                return None
            if self._deletions:
                return functools.partial(_remove, self.path_of(self._deletions.popleft()))
            return functools.partial(self._write, *self._writes.popleft())

    def _write(self, batch: SpillBatch, on_done: OnDone) -> None:
        path = self.path_of(batch.file)
        partial = path + ".partial"
        error = None
        try:
            whole = self._write_partial(batch, partial)
            if whole:
                os.rename(partial, path)
        except OSError as raised:
            _remove(partial)
            error, whole = raised, True
        if whole:
            on_done(batch.file, error)

    def _write_partial(self, batch: SpillBatch, path: str) -> bool:
        """Write the file; False when the spiller was closed before it was whole."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _reserve(fd, batch.size)
            position = 0
            for offset, size in _runs(batch):
                end = offset + size
                while offset < end:
                    if self._closing:
                        return False
                    copied = _copy(self._fd, offset, fd, position, min(end - offset, _CHUNK))
                    offset += copied
                    position += copied
        finally:
            os.close(fd)
        return True


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # it is not there, or the folder has gone: there is nothing to free


def _runs(batch: SpillBatch) -> Iterator[tuple[int, int]]:
    """Yield offset and bytes of what can be copied at once; in the file they have no gaps."""
    start = end = -1
    for entry in batch.entries:
        if entry.offset != end:
            if end > start:
                yield start, end - start
            start = entry.offset
        end = entry.offset + rounded(entry.size)
    yield start, end - start


def _reserve(fd: int, size: int) -> None:
    """Give the file its blocks, where the system can."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise


def _copy(source: int, offset: int, target: int, position: int, size: int) -> int:
    """Copy up to `size` bytes at `offset` to `position`, the target's end; return how many."""
    try:
        copied = os.sendfile(target, source, offset, size)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        copied = os.pwrite(target, os.pread(source, min(size, _PLAIN_CHUNK), offset), position)
        os.lseek(target, position + copied, os.SEEK_SET)
    if not copied:
        raise OSError(errno.EIO, "the arena's file ends before the object")
    return copied
