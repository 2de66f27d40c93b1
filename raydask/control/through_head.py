"""Redis as a joined machine reaches it: through the global scheduler, which passes on all bytes.

The head's Redis servers listen on unix sockets, and an external one may be for the head alone.  A
connection from elsewhere goes to the global scheduler's port, proves that it knows the cluster's
secret, and says which shard it is for; from then on it is a connection to that server, to
which the global scheduler has logged in (``global_scheduler.redis_pipes``): the password of
Redis stays at the head.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable

from raydask.wire.endpoint import Endpoint, notice_silence
from raydask.wire.framing import encode
from raydask.wire.messages import Hello

Dial = Callable[[Endpoint, str, "ssl.SSLContext | None", float], socket.socket]
"""Connects and proves: endpoint, secret, TLS, seconds that it may take."""


def _dial(
    endpoint: Endpoint, secret: str, tls: ssl.SSLContext | None, timeout: float
) -> socket.socket:
    from raydask.wire.blocking_guard import connect_blocking  # only joined machines need it

    return connect_blocking(endpoint, secret, tls, timeout=timeout)


class ThroughHead:
    """The address of one shard's server, for `RedisStore`.

    Parameters
    ----------
    endpoint : Endpoint
        Where the global scheduler listens.
    secret : str
        The cluster's.
    shard : int
    tls : ssl.SSLContext, optional
        What connections are encrypted with.
    dial : Dial
    """

    user = ""
    password = ""
    database = 0

    def __init__(
        self,
        endpoint: Endpoint,
        secret: str,
        shard: int,
        tls: ssl.SSLContext | None = None,
        dial: Dial = _dial,
    ) -> None:
        self._secret = secret
        self._dial = dial
        self._endpoint = endpoint
        self._shard = shard
        self._tls = tls

    def __str__(self) -> str:
        return f"shard {self._shard} behind the head at {self._endpoint}"

    def connect(self, timeout: float) -> socket.socket:
        """See ``redis_connection.Address``."""
        sock = self._dial(self._endpoint, self._secret, self._tls, timeout)
        try:
            notice_silence(sock)
            sock.settimeout(timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(encode(Hello("control", os.getpid(), process=self._shard)))
        except BaseException:
            sock.close()
            raise
        return sock


def shards_through_head(
    endpoint: Endpoint, secret: str, shards: int, tls: ssl.SSLContext | None = None
) -> list[ThroughHead]:
    """Return the addresses of all shards' servers."""
    return [ThroughHead(endpoint, secret, shard, tls) for shard in range(shards)]
