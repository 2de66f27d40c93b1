"""Processes that are forked and not started: how a child leaves its parent, and its end.

Whoever calls this has one thread of Python, and has imported what the child needs.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_prctl = getattr(ctypes.CDLL(None), "prctl", None)
"""Looked up once: to load the C library anew has a child copy 0.2 MB.  Linux alone has it."""
_CHANGED_SIGNALS = (signal.SIGCHLD, signal.SIGTERM)
_POOL_BYTES = 1 << 14
_POOL_HEADER_BYTES = 48
_BLOCK_BYTES = range(48, 513, 16)
_NEW_IN_ORDER = 4
"""CPython's allocator keeps small objects in pools, each with blocks of one of these sizes.

A pool is begun when all others of its size are full; its blocks are then given out in order.
"""
_MOST_GAPS = 4_000
"""Of one size, after which this is taken for another allocator (``PYTHONMALLOC``)."""
_EMPTY_BYTES = sys.getsizeof(b"")
_fillers: list[bytes] = []


class Ended(NamedTuple):
    """A child that has ended.

    Attributes
    ----------
    pid : int
    status : int
        As ``os.waitpid`` gives it.
    peak_memory : int
        Its largest resident set, in bytes.
    """

    pid: int
    status: int
    peak_memory: int


@contextmanager
def shared_imports() -> Iterator[None]:
    """Import what children are to share: the collector of cyclic garbage stays out of it for good.

    Neither does it look for garbage meanwhile, of which imports make next to none, nor afterwards
    at what is there now, which would have each child copy it.

    What a child makes goes into pages of its own, and not into gaps between what is shared, where
    each object would have it copy a page: that is 50 to 80 KB for each process.
    """
    gc.disable()
    try:
        yield
    finally:
        _fill_gaps()
        gc.freeze()
        gc.enable()


def _fill_gaps() -> None:
    for size in _BLOCK_BYTES:
        blocks: list[bytes] = []
        in_order = before = 0
        while in_order < _NEW_IN_ORDER and len(blocks) < _MOST_GAPS:
            block = bytes(size - _EMPTY_BYTES)
            blocks.append(block)
            if id(block) % _POOL_BYTES == _POOL_HEADER_BYTES:
                in_order = 1
            elif in_order:
                in_order = in_order + 1 if id(block) == before + size else 0
            before = id(block)
        if in_order == _NEW_IN_ORDER:
            _fillers.extend(blocks[:-in_order])


def fork_child(leave: Callable[[], None], run: Callable[[], None], *, dies_with_us: bool) -> int:
    """Fork a process that does `run` and ends; return its process identifier.

    Parameters
    ----------
    leave : callable
        Called in the child first, to part with what is its parent's alone.
    run : callable
    dies_with_us : bool
        Have the kernel end the child when this process ends, where it can (Linux).
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in _CHANGED_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if dies_with_us:
            _die_with(parent)
        leave()
        run()
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def ended_children() -> Iterator[Ended]:
    """Reap the children that have ended."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        peak = usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss * 1024
        yield Ended(pid, status, peak)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, where that can be (Linux)."""
    if _prctl is not None:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def make_group(pid: int) -> None:
    """Put a child, which has just been forked, and its children to come into a group of their own.

    The group bears the child's number.  What a process starts in a session of its own leaves it.
    """
    try:
        os.setpgid(pid, pid)
    except ProcessLookupError:
        pass  # it has ended


def kill_group(group: int) -> None:
    """Send SIGKILL to every process of a group; harmless when there is none."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def has_ended(pid: int) -> bool:
    """Say whether a child has ended and has not been reaped."""
    try:
        return _look_at(os.P_PID, pid) is not None
    except ChildProcessError:
        return False


def has_members(group: int) -> bool:
    """Say whether there is any child, born or adopted, of a group, ended or not."""
    try:
        _look_at(os.P_PGID, group)
    except ChildProcessError:
        return False
    return True


def _look_at(kind: int, number: int) -> object:
    return os.waitid(kind, number, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def wait_for(pid: int) -> None:
    """Reap a child that has been told to end; harmless when it has been reaped."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def wait_for_group(group: int) -> None:
    """Reap all children, born or adopted, of a group that has been killed."""
    while True:
        try:
            os.waitpid(-group, 0)
        except ChildProcessError:
            return


def _die_with(parent: int) -> None:
    if _prctl is None:
        return
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it ended before the call
