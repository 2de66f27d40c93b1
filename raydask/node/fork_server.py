"""The fork server of one job: it has imported what the job's tasks import, and forks workers.

::

    node --PrepareWorkers, ForkWorkers---> supervisor --the same--> fork server
    node <--WorkersPrepared, ChildExited-- supervisor <--the same----   | forks
                                                                     workers of the job

What it has imported, its workers share: the import takes its seconds once, and the memory is there
once.  It is forked from the supervisor, which must stay without threads, while some packages
start threads when they are imported (numpy's linear algebra does).  That is why only
packages which are known to work after a fork are imported here: ``Config.preload``.

============  ==================================================================
what ends     what happens
============  ==================================================================
a worker      it is reaped here, and the supervisor told
this process  the kernel ends its workers, the supervisor their process group; it inherits
              and reaps them
============  ==================================================================
"""

from __future__ import annotations

import importlib
import logging
import os
import selectors
import signal
import socket
from collections.abc import Callable
from typing import Any

from raydask.node.forking import ended_children, fork_child, shared_imports
from raydask.wire.framing import FrameDecoder, encode
from raydask.wire.messages import (
    ChildExited,
    ForkWorkers,
    PrepareWorkers,
    WorkerForked,
    WorkersPrepared,
)
from raydask.worker.surroundings import reseed, take_over

_log = logging.getLogger("raydask.fork_server")


class ForkServerLink:
    """A job's fork server, as the supervisor has it."""

    def __init__(self, job: int, pid: int, sock: socket.socket) -> None:
        self.job = job
        self.pid = pid
        self.socket = sock
        self.workers: set[int] = set()
        self._decoder = FrameDecoder()

    def send(self, message: object) -> None:
        """Send a message; that the fork server has ended is read, and not found out here."""
        try:
            self.socket.sendall(encode(message))
        except OSError:
            pass

    def receive(self) -> list[Any] | None:
        """Return what it has said; None: it has ended.  Keep account of its workers."""
        try:
            data = self.socket.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except ConnectionError:
            data = b""
        if not data:
            return None
        messages = self._decoder.feed(data)
        for message in messages:
            if isinstance(message, WorkerForked):
                self.workers.add(message.pid)
            elif isinstance(message, ChildExited):
                self.workers.discard(message.pid)
        return [message for message in messages if not isinstance(message, WorkerForked)]


class ForkServer:
    """One job's fork server.

    Parameters
    ----------
    job : int
    supervisor : socket.socket
    run : callable
        Does a worker's work, in its process.
    """

    def __init__(self, job: int, supervisor: socket.socket, run: Callable[[], None]) -> None:
        self._job = job
        self._supervisor = supervisor
        self._run = run
        self._decoder = FrameDecoder()
        self._selector = selectors.DefaultSelector()
        self._wakers = socket.socketpair()
        self._ended = False

    def run(self) -> None:
        """Work until the supervisor closes the connection."""
        reader, writer = self._wakers
        for end in self._wakers:
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(writer.fileno())
        self._selector.register(reader, selectors.EVENT_READ, self._on_signal)
        self._selector.register(self._supervisor, selectors.EVENT_READ, self._on_supervisor)
        while not self._ended:
            for key, _ in self._selector.select():
                key.data()

    def _on_signal(self) -> None:
        try:
            self._wakers[0].recv(4096)
        except BlockingIOError:
            pass
        for ended in ended_children():
            self._tell(ChildExited(ended.pid, ended.status, ended.peak_memory, self._job))

    def _on_supervisor(self) -> None:
        try:
            data = self._supervisor.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self._ended = True
        for message in self._decoder.feed(data):
            self._act_on(message)

    def _act_on(self, message: Any) -> None:
        if isinstance(message, PrepareWorkers):
            take_over(message.search_path, message.folder)
            with shared_imports():
                import_modules(message.modules)
            self._tell(WorkersPrepared(self._job))
        elif isinstance(message, ForkWorkers):
            for _ in range(message.count):
                fork_child(self._leave, self._run, dies_with_us=True)

    def _leave(self) -> None:
        # The child says so itself: the supervisor must know it before the node can.
        self._tell(WorkerForked(os.getpid()))
        self._selector.close()
        self._supervisor.close()
        for end in self._wakers:
            end.close()
        reseed()

    def _tell(self, message: object) -> None:
        try:
            self._supervisor.sendall(encode(message))
        except OSError:
            self._ended = True


def import_modules(names: list[str]) -> None:
    """Import modules, as far as they can be: a task that needs one of the others will say so."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            _log.warning("%s cannot be imported for the workers: %s", name, error)
