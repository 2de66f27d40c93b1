"""What workers print: a rotated file for each, and the last lines for reports of deaths."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import IO

_LAST_LINES = 10


class WorkerLog:
    """The output of one worker.

    The file is opened with the first line, so a silent worker leaves none.

    Parameters
    ----------
    path : Path
    limit : int
        Bytes at which the file is rotated; one older file is kept.
    """

    __slots__ = ("_file", "_last", "_limit", "_path", "_size")

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._file: IO[str] | None = None
        self._size = 0
        self._last: deque[str] = deque(maxlen=_LAST_LINES)

    def write(self, lines: list[str]) -> None:
        """Add lines; what the disk refuses is dropped, for a full disk must not stop a node."""
        self._last.extend(lines)
        text = "\n".join(lines) + "\n"
        try:
            if self._file is None or self._size > self._limit:
                self._open()
            assert self._file is not None
            self._file.write(text)
            self._file.flush()
            self._size += len(text)
        except OSError:
            self.close()

    def _open(self) -> None:
        if self._file is not None:
            self.close()
            os.replace(self._path, self._path.with_suffix(".log.1"))
        self._file = self._path.open("a", encoding="utf-8", errors="replace")
        self._size = 0

    @property
    def last_lines(self) -> list[str]:
        """The last few lines."""
        return list(self._last)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
