"""TCP connections that begin with a proof: nobody's bytes are parsed before it has been given.

A `Guard` is the protocol of a new connection.  When both ends have proved that they know the
secret, it hands its transport to the protocol that the connection is for, and is done.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from typing import Any, cast

from raydask.wire.authentication import (
    NONCE_SIZE,
    AuthenticationError,
    ClientProver,
    Prover,
    ServerProver,
)
from raydask.wire.endpoint import Endpoint, notice_silence

_log = logging.getLogger("raydask.wire")

PROOF_SECONDS = 5.0
STRANGERS = 64
"""How many connections may be without a proof at once; others are closed."""


class Strangers:
    """The connections of one listener that have not proved anything yet."""

    def __init__(self, most: int = STRANGERS) -> None:
        self._most = most
        self._there: set[Guard] = set()
        self.refused = 0
        """How many have been closed without a proof."""

    def admit(self, guard: Guard) -> bool:
        """Say whether there is room for one more, and count it."""
        if len(self._there) >= self._most:
            self.refused += 1
            return False
        self._there.add(guard)
        return True

    def leave(self, guard: Guard, reason: str) -> None:
        """Note that one has proved itself, or has been closed for a reason."""
        self._there.discard(guard)
        if reason:
            self.refused += 1
            if self.refused & (self.refused - 1) == 0:  # the 1st, 2nd, 4th, 8th, ...
                _log.warning(
                    "a connection from %s is closed: %s (%d so far)",
                    guard.peer,
                    reason,
                    self.refused,
                )

    def close(self) -> None:
        """Close all."""
        for guard in list(self._there):
            guard.close()


class Guard(asyncio.Protocol):
    """The beginning of one connection.

    Parameters
    ----------
    prover : Prover
    make_protocol : callable
        Returns the protocol that follows.
    on_end : callable
        Called once with this guard and why the connection is closed, empty if it is not.
    strangers : Strangers, optional
        Of the listener that accepted it.
    """

    def __init__(
        self,
        prover: Prover,
        make_protocol: Callable[[], asyncio.Protocol],
        on_end: Callable[[Guard, str], None],
        strangers: Strangers | None = None,
    ) -> None:
        self._prover = prover
        self._make_protocol = make_protocol
        self._on_end = on_end
        self._strangers = strangers
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.protocol: asyncio.Protocol | None = None
        self.peer = "an unknown address"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the exchange."""
        self._transport = cast(asyncio.Transport, transport)
        self.peer = str(transport.get_extra_info("peername"))
        if self._strangers is not None and not self._strangers.admit(self):
            self._transport = None
            transport.abort()  # type: ignore[attr-defined]  # a stream's has it
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(PROOF_SECONDS, self._is_late)
        begin = self._prover.begin()
        if begin:
            self._transport.write(begin)

    def _is_late(self) -> None:
        self._end(str(self._prover.if_silent() or "it proved nothing in time"))

    def data_received(self, data: bytes) -> None:
        """Go on with the exchange."""
        transport = self._transport
        if transport is None:
            return
        try:
            answer = self._prover.feed(data)
        except AuthenticationError as error:
            self._end(str(error))
            return
        if answer:
            transport.write(answer)
        if self._prover.done:
            self._hand_over(transport)

    def _hand_over(self, transport: asyncio.Transport) -> None:
        self._transport = None
        protocol = self.protocol = self._make_protocol()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self._finish("")
        rest = self._prover.take_rest()
        if rest:
            protocol.data_received(rest)

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the other end has gone before it proved anything."""
        self._end(self._prover.if_lost())

    def close(self) -> None:
        """Close the connection."""
        self._end("the listener closes")

    def _end(self, reason: str) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
            self._finish(reason)

    def _finish(self, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._on_end(self, reason)


def guarded_by(
    secret: str, make_protocol: Callable[[], asyncio.Protocol], strangers: Strangers
) -> Callable[[], Guard]:
    """Return what makes the protocol of each connection that a listener accepts."""
    return lambda: Guard(
        ServerProver(secret, os.urandom(NONCE_SIZE)), make_protocol, strangers.leave, strangers
    )


async def connect_guarded(
    endpoint: Endpoint,
    secret: str,
    make_protocol: Callable[[], Any],
    tls: ssl.SSLContext | None = None,
) -> Any:
    """Connect, prove, and return the protocol that follows.

    Raises
    ------
    AuthenticationError
        The ends do not belong together.
    OSError
        Nobody answers there.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[str] = loop.create_future()

    def on_end(guard: Guard, reason: str) -> None:
        if not ended.done():
            ended.set_result(reason)

    guard = Guard(ClientProver(secret, os.urandom(NONCE_SIZE)), make_protocol, on_end)
    connecting = loop.create_connection(lambda: guard, endpoint.host, endpoint.port, ssl=tls)
    transport, _ = await asyncio.wait_for(connecting, PROOF_SECONDS)
    try:
        notice_silence(transport.get_extra_info("socket"))
    except OSError:
        pass  # it has ended already, and says why in a moment
    try:
        reason = await ended
    except asyncio.CancelledError:
        transport.abort()  # nobody would ever use it, nor close it
        raise
    if reason:
        raise AuthenticationError(f"{endpoint}: {reason}")
    return guard.protocol
