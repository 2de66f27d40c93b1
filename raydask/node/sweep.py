"""Removing what sessions left whose every process was killed at once."""

from __future__ import annotations

import time
from pathlib import Path

from raydask.node.external_redis import remove_from_external_redis, retry_removals
from raydask.session_folder import is_held, remove_session_folder, session_folders

_GRACE_SECONDS = 10.0


def sweep(root: Path) -> None:
    """Remove what no living session owns: folders under `root`, and what is left in a Redis."""
    retry_removals(root)
    for folder in session_folders(root):
        if _is_abandoned(folder):
            remove_from_external_redis(folder)
            remove_session_folder(folder)


def _is_abandoned(folder: Path) -> bool:
    try:
        return not is_held(folder)
    except FileNotFoundError:
        # Its supervisor may be about to make the lock.
        return _age(folder) > _GRACE_SECONDS
    except OSError:
        return False


def _age(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0
