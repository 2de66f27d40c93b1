"""The folder of a session: where it is and what is in it.

A session is a folder under ``<temporary folder>/raydask-<uid>``, mode 0700; its path is its
address.

=====================  ==========================================================
in it                  what
=====================  ==========================================================
``node.sock``          where drivers and workers connect to the node
``global.sock``        where the node connects to the global scheduler
``w<process>.sock``    where callers connect to the actor in that worker
``redis-<shard>/``     a Redis server's socket, log and append-only file
``secret``             the session's secret, which is Redis' password too
``external-redis``     where the control state is, and how to log in there, if not in the session
``endpoint``           where the cluster is reached on a network, if it is
``joined``             there, and empty, in the session of a node that has joined a cluster
``logs/``              a log for each process
``spill/``             objects that did not fit into memory, or a link to where they are
``lock``               held by the supervisor as long as it lives
=====================  ==========================================================

A folder whose lock nobody holds belongs to nobody: the kernel lets go of a lock when its process
ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

from raydask.errors import StartError

NODE_SOCKET = "node.sock"
GLOBAL_SOCKET = "global.sock"
SECRET = "secret"
EXTERNAL_REDIS = "external-redis"
ENDPOINT = "endpoint"
JOINED = "joined"
SPILL = "spill"
LOCK = "lock"
LONGEST_PATH = 80
"""Bytes that leave room for a socket's name: the path of one is limited to 107."""


def sessions_root() -> Path:
    """Return the folder of this user's sessions on this machine."""
    return Path(tempfile.gettempdir()) / f"raydask-{os.getuid()}"


def new_session_folder() -> Path:
    """Make and return the folder of a new session.

    Raises
    ------
    StartError
        The folder cannot be made, or belongs to somebody else.
    """
    root = sessions_root()
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        if root.stat().st_uid != os.getuid():
            raise StartError(f"{root} belongs to another user; set TMPDIR to a folder of yours")
        folder = Path(tempfile.mkdtemp(prefix=time.strftime("s-%m%d-%H%M%S-"), dir=root))
    except OSError as error:
        raise StartError(
            f"no session folder can be made under {root}: {error}; set TMPDIR to a folder "
            "that can be written"
        ) from error
    if len(str(folder)) > LONGEST_PATH:
        folder.rmdir()
        raise StartError(
            f"{folder} is too long a path for unix sockets (107 bytes); set TMPDIR to a shorter one"
        )
    return folder


def lock_session(folder: Path) -> int:
    """Take the lock of a session; return its descriptor, to be kept open."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # Whoever looks whether it is held has it for a moment.
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def is_held(folder: Path) -> bool:
    """Say whether a process holds the lock of a session, which has one.

    Raises
    ------
    FileNotFoundError
        It has none: its supervisor may be about to make it, or it is gone.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR)
    try:
        # Shared: two who look at once do not take one another for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_running(folder: Path) -> bool:
    """Say whether this is the folder of a session that is up."""
    try:
        return is_held(folder) and (folder / NODE_SOCKET).exists()
    except OSError:
        return False  # it ends, or begins


def is_joined(folder: Path) -> bool:
    """Say whether a session is that of a node which has joined a cluster, and not of its head."""
    return (folder / JOINED).exists()


def session_folders(root: Path) -> list[Path]:
    """Return the folders of sessions under a root, whether they are up or not."""
    try:
        return list(root.glob("s-*"))
    except FileNotFoundError:
        return []  # the last session takes the root with it, at any time


def running_sessions() -> list[Path]:
    """Return the folders of this user's sessions that are up, the one started last first."""
    found = []
    for folder in session_folders(sessions_root()):
        try:
            if is_running(folder):
                found.append(((folder / LOCK).stat().st_mtime_ns, folder))
        except FileNotFoundError:
            continue  # it has just ended
    return [folder for _, folder in sorted(found, reverse=True)]


def make_spill_folder(session: Path, configured: str) -> Path:
    """Make the folder for a session's spilled objects; return its path within the session.

    Parameters
    ----------
    session : Path
    configured : str
        The folder that shall hold it, or empty for the session's own.

    Raises
    ------
    StartError
        It cannot be made.
    """
    path = session / SPILL
    try:
        if configured:
            Path(configured).mkdir(parents=True, exist_ok=True)
            target = tempfile.mkdtemp(prefix=f"raydask-{session.name}-", dir=configured)
            path.symlink_to(target)
        else:
            path.mkdir(mode=0o700)
    except OSError as error:
        raise StartError(
            f"objects cannot be spilled to {configured or path}: {error}; set "
            "RAYDASK_SPILL_FOLDER to a folder that exists and can be written"
        ) from error
    return path


def remove_session_folder(session: Path) -> None:
    """Remove a session's folder and what it has spilled elsewhere; never raises."""
    spilled = session / SPILL
    try:
        if spilled.is_symlink():
            shutil.rmtree(os.readlink(spilled), ignore_errors=True)
    except OSError:
        pass  # whoever else removes the session has been quicker
    shutil.rmtree(session, ignore_errors=True)
