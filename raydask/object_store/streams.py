"""Data connections: how bytes go between files and sockets, fast and never waiting for ever.

The files are arenas and spill files, and they are not mapped.  A plain connection sends with
``sendfile``, which copies nothing: the socket refers to the file's pages, *also after the call
has returned*.  So they must stay as they are until the other end says that it has read all.
What is received goes through a buffer and is written to the file, which beats receiving into a
mapping of it: a fault for each new page costs more than a second copy does (fresh pages of an
arena, over loopback: 1.8 GB/s against 0.9; pages that have been in use: 2.7 against 2.5).

Every call here may have to wait for the interpreter's lock once it is done, which takes
milliseconds when another thread is busy.  So each moves as many bytes as it can: the waiting is
left to the system, which has its own timeouts for sockets (``SO_RCVTIMEO``), instead of Python's,
which wake the thread whenever a few bytes have come.  OpenSSL would try again after those, so
encrypted connections have Python's.

The sizes of the sockets' buffers are left to the system: it adjusts them to the network as long
as nobody sets them, and up to more than may be set.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
import ssl
import struct
import time

from raydask.wire.blocking_guard import shut_down

BUFFER_SIZE = 4 << 20
"""Bytes that are received at once, at most."""

_SEND_SIZE = 8 << 20
"""Bytes of one ``sendfile``."""

_PLAIN_SIZE = 256 << 10
"""Bytes of one copy through Python, where the system cannot send from the file."""

_REFUSED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP}
"""What a system answers that cannot send from this file."""


class Buffer:
    """What one thread receives into: pages of its own that it takes when they are touched."""

    __slots__ = ("view",)

    def __init__(self, size: int = BUFFER_SIZE) -> None:
        self.view = memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class Stream:
    """A data connection without encryption, used by one thread.

    Parameters
    ----------
    sock : socket.socket
        Connected and proved; it belongs to the stream from here on.
    send_seconds, receive_seconds : float
        After so long without any progress a call gives up.
    hand_over_seconds : float, optional
        After so long a call that receives gives what has come so far, however little.
    """

    def __init__(
        self,
        sock: socket.socket,
        send_seconds: float,
        receive_seconds: float,
        hand_over_seconds: float | None = None,
    ) -> None:
        self._socket = sock
        self._send_seconds = send_seconds
        self._receive_seconds = receive_seconds
        self._hand_over_seconds = min(hand_over_seconds or receive_seconds, receive_seconds)
        self.peer = str(sock.getpeername() or "a process of this machine")
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._set_limits()

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it.

        Raises
        ------
        OSError
            The connection is of no more use; TimeoutError: the other end takes nothing.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError as error:
                raise self._too_slow(self._send_seconds) from error

    def send_file(self, fd: int, offset: int, size: int) -> None:
        """Send so many bytes of a file; see the module about how long they must not change.

        Raises
        ------
        OSError
            As for `send`, or the file cannot be read or ends.
        """
        while size:
            try:
                sent = os.sendfile(self._socket.fileno(), fd, offset, min(size, _SEND_SIZE))
            except BlockingIOError as error:
                raise self._too_slow(self._send_seconds) from error
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                self._send_copy(fd, offset, size)
                return
            if not sent:
                raise _file_ends()
            offset += sent
            size -= sent

    def receive(self, size: int) -> bytes:
        """Return so many bytes; fewer, also none, where the other end has closed in between.

        Raises
        ------
        OSError
            The connection is of no more use; TimeoutError: nothing comes.
        """
        data = bytearray(size)
        view, received = memoryview(data), 0
        while received < size and (more := self._receive_into(view[received:])):
            received += more
        return bytes(view[:received])

    def receive_to_file(self, fd: int, offset: int, size: int, buffer: Buffer) -> int:
        """Write what comes to a file, up to `size` bytes; return how many it was, not 0.

        Raises
        ------
        OSError
            As for `receive`, or the file cannot be written.
        """
        received = self._receive_into(buffer.view[:size])
        if not received:
            raise ConnectionError("the other end has closed the connection")
        written = 0
        while written < received:
            written += os.pwrite(fd, buffer.view[written:received], offset + written)
        return received

    def end(self) -> None:
        """End the connection under the thread that uses it, which gets an error at once."""
        shut_down(self._socket)

    def close(self) -> None:
        """Close the socket; for the thread that uses it, or when none does."""
        self._socket.close()

    def finish(self) -> None:
        """Say that no more will be sent, and wait for the other end to close.

        Closing at once would, where the other end has sent what was not read, take back what
        has been sent to it.
        """
        try:
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
            self._wait_for_the_end()
        except OSError:
            pass  # it has gone already

    def _wait_for_the_end(self) -> None:
        while self._socket.recv(_PLAIN_SIZE):
            pass

    def _set_limits(self) -> None:
        self._socket.settimeout(None)
        for option, seconds in (
            (socket.SO_SNDTIMEO, self._send_seconds),
            (socket.SO_RCVTIMEO, self._hand_over_seconds),
        ):
            whole = int(seconds)
            limit = struct.pack("@ll", whole, max(int((seconds - whole) * 1e6), 1))
            self._socket.setsockopt(socket.SOL_SOCKET, option, limit)

    def _receive_into(self, view: memoryview) -> int:
        """Receive until the view is full or it is time to hand over; 0: at the end."""
        gives_up_at = time.monotonic() + self._receive_seconds
        while True:
            try:
                return self._receive_some(view)
            except (BlockingIOError, TimeoutError) as error:
                if time.monotonic() >= gives_up_at:
                    raise self._too_slow(self._receive_seconds) from error

    def _receive_some(self, view: memoryview) -> int:
        return self._socket.recv_into(view, 0, socket.MSG_WAITALL)

    def _send_copy(self, fd: int, offset: int, size: int) -> None:
        while size:
            data = os.pread(fd, min(size, _PLAIN_SIZE), offset)
            if not data:
                raise _file_ends()
            self.send(data)
            offset += len(data)
            size -= len(data)

    @staticmethod
    def _too_slow(seconds: float) -> TimeoutError:
        return TimeoutError(f"nothing moved for {seconds:g} seconds")


class EncryptedStream(Stream):
    """A data connection with TLS: what it sends is read from the file and encrypted."""

    _socket: ssl.SSLSocket

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it; see `Stream.send`."""
        self._socket.settimeout(self._send_seconds)
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            raise self._too_slow(self._send_seconds) from error

    def send_file(self, fd: int, offset: int, size: int) -> None:
        """Send so many bytes of a file; see `Stream.send_file`."""
        self._send_copy(fd, offset, size)

    def _set_limits(self) -> None:
        pass  # before each call

    def _wait_for_the_end(self) -> None:
        self._socket.settimeout(self._receive_seconds)
        super()._wait_for_the_end()

    def _receive_some(self, view: memoryview) -> int:
        self._socket.settimeout(self._hand_over_seconds)
        hands_over_at = time.monotonic() + self._hand_over_seconds
        received, size = 0, len(view)
        while received < size and (not received or time.monotonic() < hands_over_at):
            try:
                more = self._socket.recv_into(view[received:])
            except TimeoutError:
                if not received:
                    raise
                break
            if not more:
                break
            received += more
        return received


def stream_over(
    sock: socket.socket,
    send_seconds: float,
    receive_seconds: float,
    hand_over_seconds: float | None = None,
) -> Stream:
    """Return the stream over a socket; see `Stream`."""
    kind = EncryptedStream if isinstance(sock, ssl.SSLSocket) else Stream
    return kind(sock, send_seconds, receive_seconds, hand_over_seconds)


def _file_ends() -> OSError:
    return OSError(errno.EIO, "the file ends before the object")
