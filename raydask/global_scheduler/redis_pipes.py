"""The way to Redis for machines that cannot reach it: through the global scheduler.

A connection whose first message is ``Hello(role="control", process=<shard>)`` is joined to a
new connection to that shard's server, once that has been logged in to.  What follows is between
those two: nothing is parsed here, and who is at the other end needs no password of Redis.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from typing import cast

import hiredis

from raydask.control.redis_connection import RedisAddress, login_commands, pack
from raydask.wire.loop_connection import FrameProtocol
from raydask.wire.pipe import Pipe, PipeEnd

_log = logging.getLogger("raydask.global_scheduler")

CONNECT_SECONDS = 5.0


class RedisPipes:
    """The connections that are joined to Redis.

    Parameters
    ----------
    servers : sequence of RedisAddress
        In the order of their shards.
    """

    def __init__(self, servers: Sequence[RedisAddress]) -> None:
        self._servers = list(servers)
        self._tls: dict[RedisAddress, ssl.SSLContext | None] = {}
        self._pipes: set[Pipe] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    @property
    def shards(self) -> int:
        """How many servers there are."""
        return len(self._servers)

    def __len__(self) -> int:
        return len(self._pipes)

    def join(self, connection: FrameProtocol, shard: int) -> bool:
        """Join a connection to a shard's server; say whether there is such a shard."""
        if not 0 <= shard < len(self._servers):
            return False
        pipe = Pipe(self._pipes.discard)
        self._pipes.add(pipe)
        connection.give_way(pipe.near)
        task = asyncio.get_running_loop().create_task(self._connect(pipe, self._servers[shard]))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return True

    def close(self) -> None:
        """End all."""
        for task in self._connecting:
            task.cancel()
        for pipe in list(self._pipes):
            pipe.close()

    async def _connect(self, pipe: Pipe, server: RedisAddress) -> None:
        try:
            await asyncio.wait_for(self._open(pipe.far, server), CONNECT_SECONDS)
        except (OSError, asyncio.TimeoutError) as error:
            _log.info("a node gets no connection to Redis at %s: %s", server, error)
            pipe.close()
        except hiredis.HiredisError as error:
            _log.error("Redis at %s lets no node in: %s", server, error)
            pipe.close()

    async def _open(self, far: PipeEnd, server: RedisAddress) -> None:
        loop = asyncio.get_running_loop()
        login = _Login(server, far)
        try:
            if server.path:
                await loop.create_unix_connection(lambda: login, server.path)
            else:
                if server not in self._tls:
                    self._tls[server] = server.tls_context()
                tls = self._tls[server]
                await loop.create_connection(lambda: login, server.host, server.port, ssl=tls)
            await login.done
        except BaseException:
            login.abort()
            raise


class _Login(asyncio.Protocol):
    """Logs in to a server, and leaves the connection to a pipe then.

    Attributes
    ----------
    done : asyncio.Future
        Of that.
    """

    def __init__(self, server: RedisAddress, far: PipeEnd) -> None:
        commands = login_commands(server)
        self._commands = pack(commands)
        self._left = len(commands)
        self._far = far
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who this is."""
        self._transport = cast(asyncio.Transport, transport)
        if self._left:
            self._transport.write(self._commands)
        else:
            self._give_way()

    def data_received(self, data: bytes) -> None:
        """Take in the answers; nothing comes after them that nobody has asked for."""
        try:
            self._reader.feed(data)
            while self._left and (reply := self._reader.gets()) is not False:
                self._left -= 1
                if isinstance(reply, hiredis.ReplyError):
                    raise reply
        except hiredis.HiredisError as error:
            self._fail(error)
            return
        if not self._left:
            self._give_way()

    def connection_lost(self, error: Exception | None) -> None:
        """Say that it came to nothing."""
        self._transport = None
        self._fail(error or ConnectionResetError("it closed the connection"))

    def abort(self) -> None:
        """Close the connection, if it is still this one's."""
        self.done.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _give_way(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None and not self.done.done():
            transport.set_protocol(self._far)
            self._far.connection_made(transport)
            self.done.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
