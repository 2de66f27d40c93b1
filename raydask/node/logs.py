"""Where the session's own processes write: ``logs/<name>.log`` in its folder, rotated by size.

What they log goes through `logging`; what comes from below it, such as the traceback of a crash,
through standard error, which is the same file.  A worker's standard error goes to its node, and
with it what is logged there.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import stat
from io import TextIOWrapper
from pathlib import Path


def log_to(session: Path, name: str, size: int) -> None:
    """Write to the session's log of that name from here on, and to no other.

    Parameters
    ----------
    session : Path
        Its folder.
    name : str
    size : int
        Bytes at which the log is rotated; one older file is kept.
    """
    file = f"{session}/logs/{name}.log"
    logger = logging.getLogger("raydask")
    for inherited in logger.handlers:
        if isinstance(inherited, _Log):
            inherited.go_on_in(file)
            return
    os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
    handler = _Log(file, maxBytes=size, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a worker's other loggers write to the same place


class _Log(logging.handlers.RotatingFileHandler):
    """A log that is the process's standard error, wherever that goes."""

    def go_on_in(self, file: str) -> None:
        """Write to this file from here on; what is written to stays open.

        A fork of the process that began the log does so too: a new log would have it copy 0.9 MB of
        memory that it shares, and to leave the old one 0.3, because what opening and closing a file
        and formatting a record touch is in many places.
        """
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        self.baseFilename = file

    def _open(self) -> TextIOWrapper:
        self.go_on_in(self.baseFilename)
        return open(2, "a", encoding=self.encoding, errors=self.errors, closefd=False)

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802  (logging's name)
        """Say whether a file is full."""
        return stat.S_ISREG(os.fstat(2).st_mode) and bool(super().shouldRollover(record))


class WarningCollector(logging.Handler):
    """Collects the warnings of the start, which the driver's user is to see."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record in."""
        self._texts.append(record.getMessage())
