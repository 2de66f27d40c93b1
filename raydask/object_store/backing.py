"""The shared memory behind the arena: how much, of what kind, reached by which path.

Purpose: make one sparse file that every process of the node maps.  By default it is an
anonymous file (``memfd_create``): it has no name that could be left behind, it is not
limited by the size of ``/dev/shm`` (64 MB in many containers), and it counts as memory of
the cgroup.  A file in a folder of the user's choice serves otherwise, unlinked at once
where ``/proc`` lets other processes reach it all the same.

A process is killed (SIGBUS) that touches a page of a mapped file which is beyond its end, or
which the file system has no room for.  So the file never changes its size while it
exists, and one in a folder has all its blocks from the start (``posix_fallocate``): nobody
else can fill the file system under it.  In a file system that is memory (tmpfs, as
``/dev/shm`` is) that takes the memory at once, at 1 to 2 GB/s; on a disk it takes no time.

A folder that has not the room is no reason not to start: with a warning, the arena is made
smaller while it stays of use, and anonymous when it would not.

Invariant: the descriptor is not inherited by programs that children execute, only by forks.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import logging
import os
import tempfile
from pathlib import Path

from raydask.errors import StartError, UsageError
from raydask.object_store.sizes import ALIGNMENT

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

_FOLDER_OPTION = "RAYDASK_OBJECT_STORE_FOLDER"

_NOT_RESERVED = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ENOMEM,
    errno.EINVAL,
    errno.EOPNOTSUPP,
}
"""Errors of a file system that has not the room, or cannot promise it."""


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
    is_reserved : bool
        Whether its blocks were all taken at once, so that none may be given back.
    """

    __slots__ = ("_file", "fd", "is_reserved", "path", "size")

    def __init__(
        self, fd: int, size: int, path: str, file: Path | None, *, is_reserved: bool
    ) -> None:
        self.is_reserved = is_reserved
        self.fd = fd
        self.size = size
        self.path = path
        self._file = file

    @classmethod
    def create(
        cls, size: int | None = None, directory: str | None = None, memory: int = 0
    ) -> Backing:
        """Make the shared memory.

        Parameters
        ----------
        size : int, optional
            Bytes wanted; 30 % of the memory the session may use when not given.  It is
            lowered, with a warning, to 90 % of what there is.
        directory : str, optional
            A folder to hold the file, all of whose blocks are taken at once; anonymous
            memory when not given, or when the folder has not the room, where the system
            has it, else the folder for temporary files.
        memory : int
            Bytes of memory that the session may use, if that is less than there is; 0: what
            there is.

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
        wanted = size if size is not None else int(usable_memory(memory) * SHARE_OF_MEMORY)
        if directory is None and hasattr(os, "memfd_create"):
            return cls._anonymous(_affordable(wanted, memory_limit(), "of memory"))
        folder = directory if directory is not None else tempfile.gettempdir()
        reason: Exception
        try:
            return cls._in_folder(_affordable(wanted, *_room_in(folder)), folder)
        except StartError as error:
            reason = error
        except OSError as error:
            if error.errno not in _NOT_RESERVED:
                raise StartError(
                    f"the object store's file cannot be made in {folder!r} ({error}); set "
                    f"{_FOLDER_OPTION} to a folder that exists and can be written"
                ) from error
            reason = error
        return cls._instead_of_folder(wanted, folder, reason)

    @classmethod
    def _instead_of_folder(cls, wanted: int, folder: str, reason: Exception) -> Backing:
        if not hasattr(os, "memfd_create"):
            raise StartError(
                f"the object store gets no room in {folder!r}: {reason}; set {_FOLDER_OPTION} "
                f"to a folder with more, or {_OPTION} to less"
            ) from reason
        backing = cls._anonymous(_affordable(wanted, memory_limit(), "of memory"))
        _log.warning(
            "the object store is in anonymous memory, not in %s, where it gets no room: %s; set "
            "%s to a folder with more, or to nothing for anonymous memory without this warning",
            folder,
            reason,
            _FOLDER_OPTION,
        )
        return backing

    @classmethod
    def _anonymous(cls, size: int) -> Backing:
        fd = os.memfd_create("raydask-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, size, _path_through_proc(fd), None, is_reserved=False)

    @classmethod
    def _in_folder(cls, size: int, folder: str) -> Backing:
        fd, name = tempfile.mkstemp(prefix="raydask-arena-", dir=folder)
        file = Path(name)
        try:
            os.posix_fallocate(fd, 0, size)
            path = _path_through_proc(fd)
            if not os.path.exists(path):  # no /proc here: the name is the only way in
                return cls(fd, size, name, file, is_reserved=True)
            file.unlink()
            return cls(fd, size, path, None, is_reserved=True)
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
    return min([physical, *(limit for _, limit in limited_cgroups(root))])


def usable_memory(limit: int) -> int:
    """Return the bytes of memory that a session may use: `limit`, but no more than there is.

    Parameters
    ----------
    limit : int
        The setting ``memory_limit``; 0: what there is.
    """
    return min(limit, memory_limit()) if limit else memory_limit()


def memory_of_a_worker(limit: int, arena: int, cpus: int) -> int:
    """Return each worker's equal share, in bytes, of what an arena leaves of the memory.

    Parameters
    ----------
    limit : int
        The setting ``memory_limit``.
    arena : int
        Bytes.
    cpus : int
        How many workers run at once.
    """
    return max(0, usable_memory(limit) - arena) // cpus


@functools.cache
def limited_cgroups(root: Path = Path("/")) -> tuple[tuple[Path, int], ...]:
    """Return the cgroups above this process that limit its memory, and to how many bytes.

    They are looked up once: forks of this process have the answer without another look.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are found.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ()
    mounts = root / "sys/fs/cgroup"
    limited: list[tuple[Path, int]] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            limited += _limits_above(mounts, group, "memory.max")
        elif "memory" in controllers.split(","):
            limited += _limits_above(mounts / "memory", group, "memory.limit_in_bytes")
    return tuple(limited)


def _room_in(folder: str, root: Path = Path("/")) -> tuple[int, str]:
    """Return the bytes that can be reserved in the folder, and what to call them.

    In a file system that is memory its own limit says nothing of what memory there is, and
    more than there is would end processes instead of failing.

    Raises
    ------
    OSError
        When the folder is not there.
    """
    space = os.statvfs(folder)
    room = space.f_bavail * space.f_frsize
    device = os.stat(folder).st_dev
    if not _is_memory(f"{os.major(device)}:{os.minor(device)}", root):
        return room, f"free in {folder}"
    return min(room, _available_memory(root)), f"free in {folder}, which is memory"


def _is_memory(device: str, root: Path) -> bool:
    try:
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        if before.split()[2] == device:
            return after.split()[0] in ("tmpfs", "ramfs")
    return False


def _available_memory(root: Path) -> int:
    for line in (root / "proc/meminfo").read_text().splitlines():
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return min(int(amount.split()[0]) << 10, memory_limit(root))
    return memory_limit(root)


def _limits_above(mount: Path, group: str, name: str) -> list[tuple[Path, int]]:
    """Return a cgroup and all that contain it, with their limits, as far as they have one.

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
            limits.append((mount / part, int(text)))
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
