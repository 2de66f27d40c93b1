"""The blocking end of a connection, for drivers and workers, which have no event loop.

Writing and reading are independent: any thread may send (a lock keeps frames whole), one
thread at a time receives.  A send that an exception interrupts, such as a
``KeyboardInterrupt``, leaves its rest for the next send, so a frame is never cut.
"""

from __future__ import annotations

import mmap
import select
import socket
import threading
from typing import Any

from raydask.wire.framing import FrameDecoder, encode

_RECEIVE_SIZE = 1 << 18
_SOCKET_BUFFER = 1 << 20


class ConnectionLost(ConnectionError):  # noqa: N818  (an event, named as what happened)
    """The other end has closed or died."""


class BlockingConnection:
    """Messages over a connected stream socket.

    Parameters
    ----------
    sock : socket.socket
        Connected; it belongs to the connection from here on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER)
        self._socket = sock
        self._decoder = FrameDecoder()
        # Of its own pages, so that what is never received into takes no memory.
        self._buffer = mmap.mmap(-1, _RECEIVE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._buffer)
        self._send_lock = threading.Lock()
        self._unsent: memoryview | None = None
        self.closed = False

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        """Send whole frames.

        Raises
        ------
        ConnectionLost
        """
        with self._send_lock:
            try:
                if self._unsent is None:
                    sent = self._socket.send(data)
                    if sent == len(data):
                        return
                    self._unsent = memoryview(data)[sent:]
                else:
                    self._unsent = memoryview(bytes(self._unsent) + data)
                while self._unsent:
                    self._unsent = self._unsent[self._socket.send(self._unsent) :]
                self._unsent = None
            except OSError as error:
                raise ConnectionLost(str(error)) from error

    def post(self, data: bytes) -> bool:
        """Send what can be sent at once and keep the rest; say whether all has gone.

        Raises
        ------
        ConnectionLost
        """
        with self._send_lock:
            unsent = data if self._unsent is None else bytes(self._unsent) + data
            try:
                sent = self._socket.send(unsent, socket.MSG_DONTWAIT) if unsent else 0
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                raise ConnectionLost(str(error)) from error
            self._unsent = memoryview(unsent)[sent:] if sent < len(unsent) else None
            return self._unsent is None

    def send_message(self, message: object) -> None:
        """Send one message."""
        self.send(encode(message))

    def receive_ready(self) -> list[Any]:
        """Return the messages completed by what has arrived; never blocks.

        Raises
        ------
        ConnectionLost
        MalformedFrameError
        """
        try:
            count = self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        if not count:
            raise ConnectionLost("closed by the other end")
        return self._decoder.feed(self._view[:count])

    def receive(self, timeout: float | None) -> list[Any]:
        """Wait up to `timeout` seconds for messages; an empty list means none came."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        if not poller.poll(None if timeout is None else timeout * 1000):
            return []
        return self.receive_ready()

    def close(self) -> None:
        """Close the socket; harmless when done twice."""
        self.closed = True
        self._socket.close()


def connect_unix(path: str) -> BlockingConnection:
    """Return a connection to the socket at `path`.

    Raises
    ------
    OSError
        Nobody listens there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return BlockingConnection(sock)
