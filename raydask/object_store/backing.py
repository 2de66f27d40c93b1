"""The shared memory behind the arena: how much, of what kind, reached by which path.

Purpose: make one sparse file that every process of the node maps.  By default it is an
anonymous file (``memfd_create``): it has no name that could be left behind, it is not
limited by the size of ``/dev/shm`` (64 MB in many containers), and it counts as memory of
the cgroup.  A file in a folder of the user's choice serves otherwise, unlinked at once
where ``/proc`` lets other processes reach it all the same.

Invariants: the file never changes its size while it exists, for a process that touches a
page beyond the end of a mapped file is killed (SIGBUS); the descriptor is not inherited by
programs that children execute, only by forks.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from pathlib import Path

from raydask.errors import StartError, UsageError
from raydask.object_store.arena import ALIGNMENT

_log = logging.getLogger(__name__)

SHARE_OF_MEMORY = 0.3
"""Part of the usable memory that the arena takes when nobody says how much."""

SHARE_OF_FREE_SPACE = 0.9
"""Part of what is free (on the file system, or of memory in all) that may be taken at most."""

MINIMUM_SIZE = 1 << 20
"""Bytes: the smallest arena anyone may ask for."""

USEFUL_SIZE = 64 << 20
"""Bytes: an arena that had to be shrunk below this, and below what was asked, is refused."""

_OPTION = "object_store_memory"


class Backing:
    """The open file behind one arena.

    Attributes
    ----------
    fd : int
        The descriptor, owned by this object.
    size : int
        Bytes, a whole number of pages.
    path : str
        What another process of the same user opens to reach the same memory; valid while
        the process that made it lives and has not closed it.
    """

    __slots__ = ("_file", "fd", "path", "size")

    def __init__(self, fd: int, size: int, path: str, file: Path | None) -> None:
        self.fd = fd
        self.size = size
        self.path = path
        self._file = file

    @classmethod
    def create(cls, size: int | None = None, directory: str | None = None) -> Backing:
        """Make the shared memory.

        Parameters
        ----------
        size : int, optional
            Bytes wanted; 30 % of the memory this process may use when not given.  It is
            lowered, with a warning, to 90 % of what there is.
        directory : str, optional
            A folder to hold the file; anonymous memory when not given, where the system
            has it, else the folder for temporary files.

        Raises
        ------
        UsageError
            When `size` is less than ``MINIMUM_SIZE``.
        StartError
            When there is too little room to be of use, or the folder cannot be written.
        """
        if size is not None and size < MINIMUM_SIZE:
            raise UsageError(
                f"{_OPTION}={size} is too small: give at least {MINIMUM_SIZE} bytes, "
                "or leave it out"
            )
        wanted = size if size is not None else int(memory_limit() * SHARE_OF_MEMORY)
        if directory is None and hasattr(os, "memfd_create"):
            size = _affordable(wanted, memory_limit(), "of memory")
            return cls._anonymous(size)
        folder = directory if directory is not None else tempfile.gettempdir()
        try:
            space = os.statvfs(folder)
            size = _affordable(wanted, space.f_bavail * space.f_frsize, f"free in {folder}")
            return cls._in_folder(size, folder)
        except OSError as error:
            raise StartError(
                f"the object store's file cannot be made in {folder!r} ({error}); "
                "name a folder that exists and can be written"
            ) from error

    @classmethod
    def _anonymous(cls, size: int) -> Backing:
        fd = os.memfd_create("raydask-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, size, _path_through_proc(fd), None)

    @classmethod
    def _in_folder(cls, size: int, folder: str) -> Backing:
        fd, name = tempfile.mkstemp(prefix="raydask-arena-", dir=folder)
        file = Path(name)
        try:
            os.ftruncate(fd, size)
            path = _path_through_proc(fd)
            if not os.path.exists(path):  # no /proc here: the name is the only way in
                return cls(fd, size, name, file)
            file.unlink()
            return cls(fd, size, path, None)
        except BaseException:
            os.close(fd)
            file.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Close the descriptor and remove the file's name if it still has one.

        The memory goes when the last process has unmapped it.  A second call does nothing.
        """
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def memory_limit(root: Path = Path("/")) -> int:
    """Return the bytes of memory this process may use: the cgroups' limit or all there is.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are found.
    """
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return physical
    mounts = root / "sys/fs/cgroup"
    limits = [physical]
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            limits += _limits_above(mounts, group, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits_above(mounts / "memory", group, "memory.limit_in_bytes")
    return min(limits)


def _limits_above(mount: Path, group: str, name: str) -> list[int]:
    """Return the limits of a cgroup and of all that contain it.

    Inside a container the group may be named as the host sees it and have no folder here;
    then the mount's own root is the container's group.
    """
    relative = Path(group.lstrip("/"))
    limits = []
    for part in (relative, *relative.parents):
        try:
            text = (mount / part / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():  # "max" means none
            limits.append(int(text))
    return limits


def _affordable(wanted: int, available: int, where: str) -> int:
    size = wanted
    most = int(available * SHARE_OF_FREE_SPACE)
    if wanted > most:
        size = most
        if size < min(wanted, USEFUL_SIZE):
            raise StartError(
                f"the object store needs {min(wanted, USEFUL_SIZE) >> 20} MiB and there are only "
                f"{available >> 20} MiB {where}; free some, name another folder, "
                f"or set {_OPTION} to less"
            )
        _log.warning(
            "the object store gets %d MiB, not %d: there are %d MiB %s; "
            "set %s to at most what it gets to silence this",
            size >> 20,
            wanted >> 20,
            available >> 20,
            where,
            _OPTION,
        )
    return size // ALIGNMENT * ALIGNMENT


def _path_through_proc(fd: int) -> str:
    return f"/proc/{os.getpid()}/fd/{fd}"
