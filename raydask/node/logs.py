"""Where the session's own processes write: ``logs/<name>.log`` in its folder, rotated by size.

What they log goes through `logging`; what comes from below it, such as the traceback of a crash,
through standard error, which is the same file.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
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
    handler.take_standard_error()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


class _Log(logging.handlers.RotatingFileHandler):
    """A log that standard error goes to as well, also when it has been rotated."""

    def go_on_in(self, file: str) -> None:
        """Write to another file, in a fork of the process that began the log.

        A new log would have the fork copy 0.9 MB of memory that it shares: what opening a file
        and formatting a record touch is in many places.
        """
        assert self.stream is not None
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(descriptor, self.stream.fileno(), inheritable=False)
        os.close(descriptor)
        self.baseFilename = file
        self.take_standard_error()

    def take_standard_error(self) -> None:
        """Send standard error to the file as it is now."""
        assert self.stream is not None
        os.dup2(self.stream.fileno(), 2)

    def doRollover(self) -> None:  # noqa: N802  (the name that logging calls)
        """Begin a new file."""
        super().doRollover()
        self.take_standard_error()


def stop_logging() -> None:
    """Leave the log of the process that this one is a fork of."""
    logger = logging.getLogger("raydask")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.NOTSET)
