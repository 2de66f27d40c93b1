"""The proof at the beginning of TCP connections that threads use: the twin of ``wire/guard.py``.

A connection that is for threads has no event loop.  Each that a `GuardedListener` accepts is
proved in a thread of its own, which ends with the proof; what the connection is for begins in
whatever `on_connection` makes of it.

Strangers, which have not proved anything yet, are few: where there are too many, the one that has
been there longest makes room.  So who knows the secret gets in however many others knock: he
needs to prove himself before so many more have come.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable

from raydask.wire.authentication import (
    NONCE_SIZE,
    AuthenticationError,
    ClientProver,
    Prover,
    ServerProver,
)
from raydask.wire.endpoint import Endpoint, notice_silence
from raydask.wire.guard import PROOF_SECONDS, STRANGERS

_log = logging.getLogger("raydask.wire")

_PAUSE = 0.1
"""Seconds after which accepting is tried again where the system had no descriptor left."""

_JOIN_SECONDS = 2.0
"""How long `close` waits for a thread, whose socket it has shut down."""

_CLOSES = "the listener closes"

OnConnection = Callable[[socket.socket], None]


def connect_blocking(
    endpoint: Endpoint,
    secret: str,
    tls: ssl.SSLContext | None = None,
    timeout: float = PROOF_SECONDS,
) -> socket.socket:
    """Connect, prove, and return the socket, blocking and without a timeout.

    Not a byte that follows the proof has been read.

    Parameters
    ----------
    endpoint : Endpoint
    secret : str
    tls : ssl.SSLContext, optional
    timeout : float
        Seconds for all of it, but for looking up the host's name.

    Raises
    ------
    AuthenticationError
        The ends do not belong together; ``NotRaydaskError`` if the other seems to be none.
    OSError
        Nobody answers there.
    """
    deadline = time.monotonic() + timeout
    sock = socket.create_connection(endpoint, timeout)
    prover = ClientProver(secret, os.urandom(NONCE_SIZE))
    try:
        notice_silence(sock)
        if tls is not None:
            sock.settimeout(_left(deadline))
            sock = tls.wrap_socket(sock)
        _prove(sock, prover, deadline)
        sock.settimeout(None)
    except AuthenticationError as error:
        sock.close()
        raise type(error)(f"{endpoint}: {error}") from error
    except TimeoutError as error:
        sock.close()
        silent = prover.if_silent()
        if silent is not None:
            raise type(silent)(f"{endpoint}: {silent}") from error
        raise TimeoutError(f"{endpoint}: it proved nothing in time") from error
    except BaseException:
        sock.close()
        raise
    return sock


class _Stranger:
    """A connection that has not proved anything yet."""

    __slots__ = ("peer", "reason", "sock", "thread")

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.sock = sock
        self.peer = peer
        self.reason = ""
        """Why the listener ended it."""
        self.thread: threading.Thread | None = None


class GuardedListener:
    """Accepts connections, and hands over those that have proved to know the secret.

    Parameters
    ----------
    listener : socket.socket
        It listens already, and is this object's from here on.
    secret : str
    tls : ssl.SSLContext, optional
    on_connection : callable
        Called with each proved socket, blocking and without a timeout, in a short-lived thread.
        The socket is the callee's.  It must not block for long.
    most : int
        How many strangers may be there at once.
    proof_seconds : float
        How long each of them has.
    """

    def __init__(
        self,
        listener: socket.socket,
        secret: str,
        tls: ssl.SSLContext | None,
        on_connection: OnConnection,
        *,
        most: int = STRANGERS,
        proof_seconds: float = PROOF_SECONDS,
    ) -> None:
        self._listener = listener
        self._secret = secret
        self._tls = tls
        self._on_connection = on_connection
        self._most = most
        self._proof_seconds = proof_seconds
        self._lock = threading.Lock()
        self._strangers: dict[_Stranger, None] = {}
        """In the order in which they came."""
        self._provers: set[threading.Thread] = set()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.refused = 0
        """How many have been closed without a proof."""

    def start(self) -> None:
        """Begin to accept."""
        self._listener.setblocking(True)
        thread = threading.Thread(target=self._accept_all, name="raydask-accept", daemon=True)
        thread.start()
        self._thread = thread

    def close(self) -> None:
        """Accept no more, and close what has not proved itself.  A second call does nothing."""
        with self._lock:
            self._closing.set()
            for stranger in self._strangers:
                self._dismiss(stranger, _CLOSES)
            provers = list(self._provers)
        shut_down(self._listener)  # wakes the thread, which closing alone would not
        for thread in (self._thread, *provers):
            if thread is not None and thread is not threading.current_thread():
                thread.join(_JOIN_SECONDS)
        self._listener.close()

    def _accept_all(self) -> None:
        while not self._closing.is_set():
            try:
                sock, address = self._listener.accept()
            except OSError as error:
                if not self._closing.wait(_PAUSE):
                    self._count(f"a connection is not accepted: {error}")
                continue
            try:
                self._admit(sock, str(address))
            except (OSError, RuntimeError) as error:  # RuntimeError: no more threads
                sock.close()
                self._refuse(str(address), str(error))

    def _admit(self, sock: socket.socket, peer: str) -> None:
        if self._tls is not None:
            # Its handshake is made in the stranger's thread.
            sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        stranger = _Stranger(sock, peer)
        thread = threading.Thread(
            target=self._try, args=(stranger,), name="raydask-prove", daemon=True
        )
        with self._lock:
            if self._closing.is_set():
                sock.close()
                return
            if len(self._strangers) >= self._most:
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                self._dismiss(oldest, "too many others have come that proved nothing either")
            self._strangers[stranger] = None
            self._provers.add(thread)
        try:
            thread.start()
        except BaseException:
            with self._lock:
                self._strangers.pop(stranger, None)
                self._provers.discard(thread)
            sock.close()
            raise

    def _try(self, stranger: _Stranger) -> None:
        try:
            reason = self._reason_to_refuse(stranger)
            with self._lock:
                self._strangers.pop(stranger, None)
                reason = stranger.reason or reason
            if reason:
                self._refuse(stranger.peer, reason)
                stranger.sock.close()
            else:
                self._hand_over(stranger.sock)
        finally:
            with self._lock:
                self._provers.discard(threading.current_thread())

    def _reason_to_refuse(self, stranger: _Stranger) -> str:
        """Let it prove itself; return why it is to be closed, empty if it is not."""
        sock, deadline = stranger.sock, time.monotonic() + self._proof_seconds
        try:
            if isinstance(sock, ssl.SSLSocket):
                sock.settimeout(_left(deadline))
                sock.do_handshake()
            _prove(sock, ServerProver(self._secret, os.urandom(NONCE_SIZE)), deadline)
            sock.settimeout(None)
        except TimeoutError:
            return "it proved nothing in time"
        except (OSError, ValueError) as error:  # ValueError: TLS on a socket that was shut down
            return str(error)
        return ""

    def _hand_over(self, sock: socket.socket) -> None:
        try:
            self._on_connection(sock)
        except Exception:
            sock.close()
            _log.exception("a connection that proved itself could not be served")

    def _dismiss(self, stranger: _Stranger, reason: str) -> None:
        """End a stranger, whose thread closes it; the caller holds the lock."""
        stranger.reason = reason
        shut_down(stranger.sock)

    def _refuse(self, peer: str, reason: str) -> None:
        if reason != _CLOSES:
            self._count(f"a connection from {peer} is closed: {reason}")

    def _count(self, what: str) -> None:
        with self._lock:
            self.refused += 1
            refused = self.refused
        if refused & (refused - 1) == 0:  # the 1st, 2nd, 4th, 8th, ...
            _log.warning("%s (%d so far)", what, refused)


def shut_down(sock: socket.socket) -> None:
    """End a connection under the thread that is blocked in it, and that is to close it.

    For one with TLS this is not its own ``shutdown``, after which it would go on as a plain
    socket and give out what it still receives as if it had been decrypted.
    """
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass  # it is not connected any more


def _prove(sock: socket.socket, prover: Prover, deadline: float) -> None:
    """Carry out the exchange, and read nothing that comes after it.

    Raises
    ------
    AuthenticationError
        The other end is no part of this cluster, or has gone.
    TimeoutError
        At the deadline.
    """
    try:
        _send(sock, prover.begin(), deadline)
        while not prover.done:
            sock.settimeout(_left(deadline))
            data = sock.recv(prover.wanted)
            if not data:
                raise AuthenticationError(prover.if_lost())
            _send(sock, prover.feed(data), deadline)
    except AuthenticationError:
        raise
    except ConnectionError as error:
        raise AuthenticationError(prover.if_lost()) from error


def _send(sock: socket.socket, data: bytes, deadline: float) -> None:
    if data:
        sock.settimeout(_left(deadline))
        sock.sendall(data)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("it proved nothing in time")
    return left
