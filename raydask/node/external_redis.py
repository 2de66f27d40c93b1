"""The part of a session in a Redis that is not its own: how it begins, and how it is removed.

Where it is stands in the session's folder, before the first key is written.  Whoever removes the
folder removes the keys first: the supervisor at the end, the node if the supervisor has died, and
if all have died at once, the next supervisor of this user on this machine (``sweep``).  The
folder's lock says for sure that a session is over, which nothing in Redis could.

What cannot be removed, because Redis is away, is noted beside the sessions' folders, and tried
again whenever a session starts, for a day.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from raydask.config import SessionOptions
from raydask.control.control_place import (
    ControlPlace,
    check_servers,
    claim_place,
    clear_place,
    parse_place,
)
from raydask.control.store import ControlStoreError
from raydask.errors import StartError
from raydask.session_folder import EXTERNAL_REDIS

_LEFT = "left-in-redis-"
_KEPT_SECONDS = 24 * 3600.0


def begin_in_external_redis(options: SessionOptions) -> tuple[ControlPlace, list[str]]:
    """Make a place for the session's control state; return also warnings for people.

    Raises
    ------
    UsageError, StartError
        There can be none, and why.
    """
    cluster = os.urandom(8).hex()
    place = parse_place(options.redis_address, cluster, options.redis_password)
    warnings = check_servers(place)
    _write(Path(options.folder) / EXTERNAL_REDIS, place)
    try:
        claim_place(place)
    except ControlStoreError as error:
        raise StartError(str(error)) from error
    return place, warnings


def remove_from_external_redis(folder: Path) -> str:
    """Remove what a session that is over has in an external Redis, if it has anything.

    Returns
    -------
    str
        Why that could not be; empty if it could.
    """
    record = folder / EXTERNAL_REDIS
    place = _read(record)
    if place is None:
        return ""
    failure = clear_place(place)
    if not failure:
        record.unlink(missing_ok=True)
        return ""
    _write(folder.parent / f"{_LEFT}{folder.name}", place)
    return (
        f"its control state is still in Redis, and is removed when the next session starts on this "
        f"machine and reaches it, or by hand: all keys that begin with {place.prefix} ({failure})"
    )


def retry_removals(root: Path) -> None:
    """Remove what earlier sessions had to leave."""
    for record in root.glob(f"{_LEFT}*"):
        place = _read(record)
        try:
            is_old = time.time() - record.stat().st_mtime > _KEPT_SECONDS
        except FileNotFoundError:
            continue
        if place is None or is_old or not clear_place(place):
            record.unlink(missing_ok=True)


def _write(path: Path, place: ControlPlace) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, msgspec.json.encode(place))
    finally:
        os.close(descriptor)


def _read(path: Path) -> ControlPlace | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ControlPlace)
    except (OSError, msgspec.DecodeError):
        return None
