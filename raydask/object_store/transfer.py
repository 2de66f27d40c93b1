"""Objects for other nodes: the protocol of data connections, and the end that sends.

::

    puller                                            source
      ---- request: kind, file, offset, length ---------->
      <--- status; if OK, exactly `length` bytes ---------

A request names a range within one object: of the arena (file 0) or of a spill file.  Where in
which file an object is, and that it stays there, the puller's node has agreed with the source's
before, in messages (``Fetch``, ``Places``).  Requests are answered in order, and the next may be
sent before the last has been answered.

The bytes leave the file without a copy and the socket goes on to refer to its pages after they
have been "sent".  *So the object must stay pinned, its memory unchanged, until the puller has
said (``Unpin``) that it has all of it.*  The source's own end of the transfer says nothing.

A range that the source is still pulling itself is sent as far as it has come, and on as it comes;
see ``object_store/partial_objects.py``.  Any status but OK and LATER ends the connection, and so
does a pull of the source's that fails once some of the range has been sent.
"""

from __future__ import annotations

import enum
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable

from raydask.object_store.partial_objects import (
    PATIENCE,
    NotBegunError,
    NotFilledError,
    PartialObjects,
)
from raydask.object_store.streams import Stream, stream_over

_log = logging.getLogger(__name__)

_REQUEST = struct.Struct("<BQQQ")
_KIND = 0xD7
"""First byte of each request: whatever else begins otherwise."""

IDLE_SECONDS = 60.0
"""After so long without a request a connection is closed; pullers close theirs much sooner."""

_JOIN_SECONDS = 5.0
"""How long `close` waits for a thread, whose socket it has shut down."""


class TransferStatus(enum.IntEnum):
    """First byte of each answer."""

    OK = 0
    """The bytes follow."""
    LATER = 1
    """The source is about to pull the object itself: ask again."""
    NOT_HERE = 2
    """The source could not get the object itself, or its file is gone."""
    REFUSED = 3
    """No such range, or no request at all."""


def encode_request(file: int, offset: int, length: int) -> bytes:
    """Return a request for a range of a file; 0 is the arena."""
    return _REQUEST.pack(_KIND, file, offset, length)


class _RefusedError(Exception):
    """The connection ends, with this status."""

    def __init__(self, status: TransferStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class TransferServer:
    """Sends ranges of one arena, and of its spill files, to the nodes that are connected.

    Parameters
    ----------
    arena_fd : int
        The arena's file; the caller's, to be kept open until `close`.
    arena_size : int
        Bytes.
    spill_path : callable
        Returns the path of the spill file with a number, whether it exists or not.
    partial : PartialObjects
        Of the same arena; `close` closes it.
    patience : float
        Seconds after which a puller that takes nothing is given up.
    idle_seconds : float
        How long a connection may be without a request.
    """

    def __init__(
        self,
        arena_fd: int,
        arena_size: int,
        spill_path: Callable[[int], str],
        partial: PartialObjects,
        *,
        patience: float = PATIENCE,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._arena_fd = arena_fd
        self._arena_size = arena_size
        self._spill_path = spill_path
        self._partial = partial
        self._patience = patience
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._connections: dict[Stream, threading.Thread] = {}
        self._closing = False
        self.bytes_sent = 0
        """Of objects, so far."""

    def serve(self, sock: socket.socket) -> None:
        """Answer the requests of a proved connection, in a thread of its own.

        Raises
        ------
        OSError, RuntimeError
            The connection has ended already; no more threads.  The socket is closed.
        """
        try:
            stream = stream_over(sock, self._patience, self._idle_seconds)
            thread = threading.Thread(
                target=self._run, args=(stream,), name="raydask-send", daemon=True
            )
            with self._lock:
                if self._closing:
                    sock.close()
                    return
                thread.start()
                self._connections[stream] = thread
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        """End all connections and their threads.  A second call does nothing."""
        with self._lock:
            self._closing = True
            threads = list(self._connections.values())
            for stream in self._connections:
                stream.end()
        self._partial.close()
        for thread in threads:
            thread.join(_JOIN_SECONDS)

    def _run(self, stream: Stream) -> None:
        try:
            while len(request := stream.receive(_REQUEST.size)) == _REQUEST.size:
                self._answer(stream, request)
        except _RefusedError as error:
            if error.status == TransferStatus.REFUSED:
                _log.warning("a data connection from %s is closed: %s", stream.peer, error)
        except OSError as error:
            # The puller has gone, or is idle or slow; it knows what it misses.
            _log.debug("a data connection from %s ends: %s", stream.peer, error)
        finally:
            with self._lock:
                self._connections.pop(stream, None)
                stream.close()

    def _answer(self, stream: Stream, request: bytes) -> None:
        kind, file, offset, length = _REQUEST.unpack(request)
        try:
            if kind != _KIND:
                raise _RefusedError(TransferStatus.REFUSED, f"it sent {request[:8]!r}, no request")
            if file:
                self._send_from_file(stream, file, offset, length)
            else:
                self._send_from_arena(stream, offset, length)
        except _RefusedError as error:
            stream.send(bytes((error.status,)))
            stream.finish()
            raise

    def _send_from_file(self, stream: Stream, file: int, offset: int, length: int) -> None:
        try:
            fd = os.open(self._spill_path(file), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _RefusedError(TransferStatus.NOT_HERE, str(error)) from error
        try:
            self._check(offset, length, os.fstat(fd).st_size, f"spill file {file}")
            stream.send(bytes((TransferStatus.OK,)))
            self._send(stream, fd, offset, length)
        finally:
            os.close(fd)

    def _send_from_arena(self, stream: Stream, offset: int, length: int) -> None:
        self._check(offset, length, self._arena_size, "the arena")
        try:
            there = self._partial.filled(offset, length)
        except NotBegunError:
            stream.send(bytes((TransferStatus.LATER,)))
            return
        except NotFilledError as error:
            raise _RefusedError(TransferStatus.NOT_HERE, str(error)) from error
        except ValueError as error:
            reason = f"it asked for {length} bytes at {offset} of the arena: {error}"
            raise _RefusedError(TransferStatus.REFUSED, reason) from error
        stream.send(bytes((TransferStatus.OK,)))
        self._send(stream, self._arena_fd, offset, there)
        while length := length - there:
            offset += there
            try:
                there = self._partial.filled(offset, length)
            except (NotBegunError, NotFilledError, ValueError) as error:
                # A status cannot be sent any more: it would be taken for the object's bytes.
                raise ConnectionAbortedError(str(error)) from error
            self._send(stream, self._arena_fd, offset, there)

    def _send(self, stream: Stream, fd: int, offset: int, size: int) -> None:
        stream.send_file(fd, offset, size)
        with self._lock:
            self.bytes_sent += size

    @staticmethod
    def _check(offset: int, length: int, size: int, what: str) -> None:
        if offset + length > size:
            raise _RefusedError(
                TransferStatus.REFUSED,
                f"it asked for {length} bytes at {offset} of {what}, which has {size}",
            )
