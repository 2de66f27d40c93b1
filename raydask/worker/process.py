"""A worker process from its fork to its end.

::

    node  <==tasks, results==>  main thread: reads, runs user code, writes
    node  ---control-------->   raydask-io thread: reclaim, cancel, dump stacks, exit
    node  <--stdout, stderr--   whatever user code prints, as it is
    callers <==calls==>         main thread, once the worker is an actor

The supervisor, or the fork server of a job, calls `run_worker` in the child.  The worker ends when
its node closes the connection, and the kernel ends it when its parent dies.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import sys
from typing import TextIO

from raydask.driver.session import Session, install_session
from raydask.errors import ClusterUnavailableError
from raydask.session_folder import NODE_SOCKET
from raydask.version import VERSION
from raydask.wire.connection import connect_unix
from raydask.wire.framing import encode
from raydask.wire.handshake import await_welcome
from raydask.wire.messages import Hello
from raydask.worker.allocator import keep_freed_memory
from raydask.worker.executor import Executor


def run_worker(folder: str, arena: int, kept_heap: int, job: int = 0) -> None:
    """Be a worker of the node whose session folder this is, until the node is gone.

    Parameters
    ----------
    folder : str
    arena : int
        Descriptor of the node's arena, inherited.
    kept_heap : int
        Bytes of freed heap that the process keeps.
    job : int
        The only one that it will work for; 0: any.
    """
    try:
        connection = connect_unix(os.path.join(folder, NODE_SOCKET))
        connection.send_message(Hello("worker", os.getpid(), VERSION, job=job))
        welcome = await_welcome(connection)
    except (OSError, ClusterUnavailableError):
        return  # the node has ended meanwhile
    _redirect_output(folder, welcome.process)
    control = connect_unix(os.path.join(folder, NODE_SOCKET))
    control.send_message(Hello("control", os.getpid(), process=welcome.process))
    faulthandler.enable()
    keep_freed_memory(kept_heap)
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    session = Session(connection, welcome, arena, "default")
    executor = Executor(session, control)
    install_session(session)
    executor.run()


def _redirect_output(folder: str, process: int) -> None:
    """Send what is printed, by Python or below it, to the node."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(os.path.join(folder, NODE_SOCKET))
        sock.sendall(encode(Hello(name, os.getpid(), process=process)))
        os.dup2(sock.fileno(), descriptor)
        sock.close()
    sys.stdout = _text_stream(1)
    sys.stderr = _text_stream(2)


def _text_stream(descriptor: int) -> TextIO:
    return os.fdopen(
        descriptor, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False
    )
