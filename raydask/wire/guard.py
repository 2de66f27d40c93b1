"""TCP connections that begin with a proof: nobody's bytes are parsed before it has been given.

A `Guard` is the protocol of a new connection.  When both ends have proved that they know the
secret, it hands its transport to the protocol that the connection is for, and is done.

A `GuardedServer` counts and times a connection from the moment when it is accepted, so also while
it agrees on an encryption: a loop's own server has a protocol made, and asked, only after that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
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

_PAUSE = 0.1
"""Seconds after which accepting is tried again where the system had no descriptor left."""


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
            self.leave(guard, "too many others have come that proved nothing either")
            return False
        self._there.add(guard)
        return True

    def leave(self, guard: Guard, reason: str) -> None:
        """Note that one has proved itself, or has been closed for a reason."""
        self._there.discard(guard)
        if reason:
            self.count(f"a connection from {guard.peer} is closed: {reason}")

    def count(self, what: str) -> None:
        """Note that there is one less."""
        self.refused += 1
        if self.refused & (self.refused - 1) == 0:  # the 1st, 2nd, 4th, 8th, ...
            _log.warning("%s (%d so far)", what, self.refused)

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
    deadline : float, optional
        On the loop's clock; by default `PROOF_SECONDS` from when the connection is made.
    """

    def __init__(
        self,
        prover: Prover,
        make_protocol: Callable[[], asyncio.Protocol],
        on_end: Callable[[Guard, str], None],
        deadline: float | None = None,
    ) -> None:
        self._prover = prover
        self._make_protocol = make_protocol
        self._on_end = on_end
        self._deadline = deadline
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.protocol: asyncio.Protocol | None = None
        self.peer = "an unknown address"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the exchange."""
        self._transport = cast(asyncio.Transport, transport)
        self.peer = str(transport.get_extra_info("peername"))
        loop = asyncio.get_running_loop()
        deadline = self._deadline if self._deadline is not None else loop.time() + PROOF_SECONDS
        self._timer = loop.call_at(deadline, self._is_late)
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


class GuardedServer:
    """Accepts connections, and lets those in that prove to know the secret.

    Parameters
    ----------
    listener : socket.socket
        It listens already, and is this object's from here on.
    secret : str
    make_protocol : callable
        Returns the protocol that follows the proof.
    tls : ssl.SSLContext, optional
    strangers : Strangers, optional
    """

    def __init__(
        self,
        listener: socket.socket,
        secret: str,
        make_protocol: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None = None,
        strangers: Strangers | None = None,
    ) -> None:
        self._listener = listener
        self._secret = secret
        self._make_protocol = make_protocol
        self._tls = tls
        self._strangers = strangers or Strangers()
        self._arriving: dict[asyncio.Task[None], socket.socket] = {}
        """Those for which there is no transport yet, and whose protocol knows nothing of them."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to accept, in the loop that runs."""
        self._loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        self._go_on()

    def close(self) -> None:
        """Accept no more, and close what has not proved itself.  A second call does nothing."""
        loop, self._loop = self._loop, None
        if loop is not None:
            if self._pause is None:
                loop.remove_reader(self._listener)
            else:
                self._pause.cancel()
        self._listener.close()
        for task in self._arriving:
            task.cancel()
        self._strangers.close()

    def _go_on(self) -> None:
        assert self._loop is not None
        self._pause = None
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        assert self._loop is not None
        try:
            sock, address = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            return  # it has gone again, or another process has it
        except OSError as error:
            self._loop.remove_reader(self._listener)
            self._pause = self._loop.call_later(_PAUSE, self._go_on)
            self._strangers.count(f"a connection is not accepted: {error}")
            return
        guard = Guard(
            ServerProver(self._secret, os.urandom(NONCE_SIZE)),
            self._make_protocol,
            self._strangers.leave,
            self._loop.time() + PROOF_SECONDS,
        )
        guard.peer = str(address)
        if not self._strangers.admit(guard):
            sock.close()
            return
        sock.setblocking(False)
        task = self._loop.create_task(self._let_in(guard, sock, self._loop))
        self._arriving[task] = sock
        task.add_done_callback(self._arrived)

    async def _let_in(
        self, guard: Guard, sock: socket.socket, loop: asyncio.AbstractEventLoop
    ) -> None:
        seconds = PROOF_SECONDS if self._tls is not None else None
        try:
            await loop.connect_accepted_socket(
                lambda: guard, sock, ssl=self._tls, ssl_handshake_timeout=seconds
            )
        except OSError as error:
            self._strangers.leave(guard, str(error) or type(error).__name__)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        sock = self._arriving.pop(task)
        if task.cancelled():
            sock.close()  # no transport has it if the task had not begun


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
    sock = transport.get_extra_info("socket")
    try:
        if sock is not None:
            notice_silence(sock)
    except OSError:
        pass  # it has ended already, as where there is no socket, and says why in a moment
    try:
        reason = await ended
    except asyncio.CancelledError:
        transport.abort()  # nobody would ever use it, nor close it
        raise
    if reason:
        raise AuthenticationError(f"{endpoint}: {reason}")
    return guard.protocol
