"""Two connections joined to one: what comes over either goes out over the other, unread.

::

    client == near end |  Pipe  | far end == server

A side that writes faster than the other side reads is not read from meanwhile, so a pipe holds
no more than the transports' buffers.  The end of one connection is the end of both, after what
came before it has been passed on, or a while later at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

FLUSH_SECONDS = 5.0
"""How long what came before the end may take to be passed on."""


class PipeEnd(asyncio.Protocol):
    """One of the two connections; made by `Pipe`."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the other connection, or begin to pass on."""
        self._transport = cast(asyncio.Transport, transport)
        if self._closing:
            self._transport.abort()
            return
        other = self._other
        if other._transport is None:
            self._transport.pause_reading()
            return
        # First, for what is written may be too much at once, and pause it again.
        other._transport.resume_reading()
        early, other._early = other._early, []
        for data in early:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Pass on what has come."""
        transport = self._other._transport
        if transport is not None:
            transport.write(data)
        elif not self._other._closing:
            self._early.append(data)

    def pause_writing(self) -> None:
        """Read no more from the other side until it can be passed on."""
        transport = self._other._transport
        if transport is not None and not transport.is_closing():
            transport.pause_reading()

    def resume_writing(self) -> None:
        """Read from the other side again."""
        transport = self._other._transport
        if transport is not None and not transport.is_closing():
            transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """End the other connection too."""
        self._transport = None
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._other.end()
        self._pipe.end_if_over()

    def end(self) -> None:
        """Close this connection once what has been passed on is sent."""
        self._closing = True
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.close()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(FLUSH_SECONDS, transport.abort)

    def abort(self) -> None:
        """Close this connection at once."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_over(self) -> bool:
        """Whether there is no connection, and none to come."""
        return self._closing and self._transport is None

    @property
    def _other(self) -> PipeEnd:
        return self._pipe.far if self is self._pipe.near else self._pipe.near


class Pipe:
    """A pair of protocols, for one connection each; which is made first does not matter.

    Parameters
    ----------
    on_end : callable
        Called once with this pipe, when both connections have ended.

    Attributes
    ----------
    near, far : PipeEnd
    """

    def __init__(self, on_end: Callable[[Pipe], None]) -> None:
        self._on_end: Callable[[Pipe], None] | None = on_end
        self.near = PipeEnd(self)
        self.far = PipeEnd(self)

    def close(self) -> None:
        """End both connections, or what there is of them, at once."""
        self.near.abort()
        self.far.abort()
        self.end_if_over()

    def end_if_over(self) -> None:
        """Say that it is over, if it is."""
        on_end = self._on_end
        if on_end is not None and self.near.is_over and self.far.is_over:
            self._on_end = None
            on_end(self)
