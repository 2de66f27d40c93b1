"""The loop side of connections: frames in, frames out, one write a turn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from raydask.wire.framing import FrameDecoder, MalformedFrameError, encode

_log = logging.getLogger("raydask.node")

_LONGEST_LINE = 1 << 16


class FrameProtocol(asyncio.Protocol):
    """One connection that speaks frames.

    Parameters
    ----------
    on_message : callable
        Called with this protocol and each message; may be replaced at any time.
    on_lost : callable or None
        Called once, with this protocol and the error or None.
    """

    def __init__(
        self,
        on_message: Callable[[FrameProtocol, Any], None],
        on_lost: Callable[[FrameProtocol, BaseException | None], None] | None,
    ) -> None:
        self.on_message = on_message
        self.on_lost = on_lost
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._out: list[bytes] = []
        self._raw: OutputProtocol | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        if self._out:
            self._flush()

    def data_received(self, data: bytes) -> None:
        """Hand on the messages that the data completes."""
        if self._raw is not None:
            self._raw.data_received(data)
            return
        try:
            messages = self._decoder.feed(data)
        except MalformedFrameError as error:
            _log.error("a connection is closed because of what came over it: %s", error)
            self.close()
            return
        for message in messages:
            self.on_message(self, message)
            if self._raw is not None:
                self._raw.data_received(self._decoder.take_rest())
                return

    def connection_lost(self, error: Exception | None) -> None:
        """Say that the connection has ended."""
        self._transport = None
        if self._raw is not None:
            self._raw.end()
        if self.on_lost is not None:
            self.on_lost(self, error)

    def send(self, message: object) -> None:
        """Send a message, together with the others of this turn."""
        if not self._out and self._loop is not None:
            self._loop.call_soon(self._flush)
        self._out.append(encode(message))

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def become_raw(self, output: OutputProtocol) -> None:
        """Take what comes from here on as text and not as frames."""
        self._raw = output

    def close(self) -> None:
        """Send what is to be sent, and close."""
        if self._transport is not None:
            if self._out:
                self._flush()
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
