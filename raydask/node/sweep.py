"""Removing what sessions left whose every process was killed at once.

Each supervisor holds a lock on a file in its session's folder; the kernel lets go of it when
the process ends, however it ends.  A folder whose lock can be taken belongs to nobody.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from raydask.session_folder import remove_session_folder

_LOCK_NAME = "lock"
_GRACE_SECONDS = 10.0


def lock_session(folder: Path) -> int:
    """Take the lock of a session; return its descriptor, to be kept open."""
    descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def sweep(root: Path) -> None:
    """Remove the folders under `root` that no living session owns."""
    for folder in root.glob("s-*"):
        if _is_abandoned(folder):
            remove_session_folder(folder)


def _is_abandoned(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR)
    except FileNotFoundError:
        # Its supervisor may be about to make the lock.
        return _age(folder) > _GRACE_SECONDS
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _age(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0
