"""The loop side of connections: frames in, frames out, one write a turn."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any, cast

from raydask.wire.framing import FrameDecoder, MalformedFrameError, encode

_log = logging.getLogger("raydask.node")

_LONGEST_LINE = 1 << 16


class PendingWrites:
    """Connections that have something to write at the end of this turn of the loop.

    What is said while a message is handled is written right after it, without another turn;
    what is said at other times, in the next turn.
    """

    __slots__ = ("_dirty", "_handling", "_scheduled")

    def __init__(self) -> None:
        self._dirty: list[FrameProtocol] = []
        self._handling = False
        self._scheduled = False

    def add(self, protocol: FrameProtocol) -> None:
        """Note a connection that has something to write."""
        self._dirty.append(protocol)
        if not self._handling and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def begin(self) -> None:
        """Note that messages are being handled: `flush` follows."""
        self._handling = True

    def flush(self) -> None:
        """Write everything."""
        self._handling = False
        self._scheduled = False
        dirty, self._dirty = self._dirty, []
        for protocol in dirty:
            protocol.flush()


class FrameProtocol(asyncio.Protocol):
    """One connection that speaks frames.

    Parameters
    ----------
    on_message : callable
        Called with this protocol and each message; may be replaced at any time.
    on_lost : callable or None
        Called once, with this protocol and the error or None.
    writes : PendingWrites, optional
        Shared by the connections of one server.
    """

    def __init__(
        self,
        on_message: Callable[[FrameProtocol, Any], None],
        on_lost: Callable[[FrameProtocol, BaseException | None], None] | None,
        writes: PendingWrites | None = None,
    ) -> None:
        self._writes = writes or PendingWrites()
        self.on_message = on_message
        self.on_lost = on_lost
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._raw: OutputProtocol | None = None
        self._successor: asyncio.Protocol | None = None
        self._greeted = False
        self._on_room: Callable[[], None] | None = None
        self.is_full = False
        """Whether more waits to be read by the other end than `limit_waiting` has said."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are like these
        if self._out:
            self.flush()

    def data_received(self, data: bytes) -> None:
        """Hand on the messages that the data completes."""
        if not self._greeted:
            data = self._greet(data)
        if self._successor is not None:
            if data:
                self._successor.data_received(data)
            return
        raw = self._raw
        if raw is not None:
            raw.data_received(data)
            return
        self._writes.begin()
        try:
            for message in self._decode(data):
                self.on_message(self, message)
        finally:
            self._writes.flush()

    def _greet(self, data: bytes) -> bytes:
        """Hand on the first message alone: it may say that text follows, and not frames."""
        for message in self._decode(data, most=1):
            self._greeted = True
            self.on_message(self, message)
        return self._decoder.take_rest() if self._greeted else b""

    def _decode(self, data: bytes, most: int = sys.maxsize) -> list[Any]:
        try:
            return self._decoder.feed(data, most)
        except MalformedFrameError as error:
            _log.error("a connection is closed because of what came over it: %s", error)
            self.close()
            return []

    def connection_lost(self, error: Exception | None) -> None:
        """Say that the connection has ended."""
        self._transport = None
        if self._raw is not None:
            self._raw.end()
        if self.on_lost is not None:
            self.on_lost(self, error)

    def limit_waiting(self, most: int, on_room: Callable[[], None]) -> None:
        """Have `is_full` say whether more than `most` bytes wait; nothing is refused.

        `on_room` is called when of so much no more than a quarter is left.
        """
        self._on_room = on_room
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=most)

    def pause_writing(self) -> None:
        """Note that much waits to be read by the other end."""
        self.is_full = True

    def resume_writing(self) -> None:
        """Note that most of it has been read."""
        self.is_full = False
        if self._on_room is not None:
            self._on_room()

    def send(self, message: object) -> None:
        """Send a message, together with the others of this turn."""
        self.send_frame(encode(message))

    def send_frame(self, frame: bytes) -> None:
        """Send a message that has been encoded already, for it goes to many."""
        if not self._out and self._transport is not None:
            self._writes.add(self)
        self._out.append(frame)

    def flush(self) -> None:
        """Write what has been said, at once."""
        out, self._out = self._out, []
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def become_raw(self, output: OutputProtocol) -> None:
        """Take what comes from here on as text and not as frames."""
        self._raw = output

    def give_way(self, successor: asyncio.Protocol) -> None:
        """Let another protocol have the connection, with all that follows the first message.

        To be called while that is handled; this one learns no more of the connection.
        """
        transport, self._transport = self._transport, None
        if transport is not None:
            self._successor = successor
            transport.set_protocol(successor)
            successor.connection_made(transport)

    def close(self) -> None:
        """Send what is to be sent, and close."""
        if self._transport is not None:
            if self._out:
                self.flush()
            self._transport.close()


class OutputProtocol:
    """What a worker prints, cut into lines.

    Parameters
    ----------
    owner : object
        Handed to `on_lines`, with the stream's name and the lines.
    stream : str
        ``"stdout"`` or ``"stderr"``.
    on_lines : callable
    """

    def __init__(
        self, owner: Any, stream: str, on_lines: Callable[[Any, str, list[str]], None]
    ) -> None:
        self._owner = owner
        self._stream = stream
        self._on_lines = on_lines
        self._partial = b""

    def data_received(self, data: bytes) -> None:
        """Hand on the lines that the data completes."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _LONGEST_LINE:
            lines.append(self._partial)
            self._partial = b""
        if lines:
            self._hand_on(lines)

    def end(self) -> None:
        """Hand on a last line that has no end."""
        if self._partial:
            self._hand_on([self._partial])
            self._partial = b""

    def _hand_on(self, lines: list[bytes]) -> None:
        texts = [line.decode(errors="replace").rstrip("\r") for line in lines]
        self._on_lines(self._owner, self._stream, texts)
